"""All edits of an answer's head in one: their order, and that a route without any pays nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway import headers
from gateway.config import load_text, model
from gateway.exchange import Reply
from gateway.middleware.answer_edits import compile_edits
from gateway.middleware.cors import Cors
from gateway.middleware.edit_headers import ResponseEdits
from tests.observe.stand_in import exchange

if TYPE_CHECKING:
    from gateway.middleware.edit_headers import Edits


def edits(line: str) -> Edits | None:
    text = f"routes:\n  - {{path: /*, to: 'http://127.0.0.1:1', {line}}}\n"
    return compile_edits(load_text(text).routes[0].policies)


def test_a_route_without_any_has_none_and_one_with_its_own_has_only_those() -> None:
    assert edits("timeouts: {total: 1s}") is None
    assert type(edits("headers: {response: {remove: Server}}")) is ResponseEdits


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_answer_of_the_gateway_gets_all_of_it_once(scheme: str) -> None:
    made = edits("cors: 'https://a.test', security_headers: basic, hsts: 1d, "
                 "headers: {response: {set: {X-A: b}, remove: X-Old}}")  # fmt: skip
    assert made is not None
    reply = Reply(
        200, [b"X-Old: 1\r\n", b"x-frame-options: DENY\r\n", b"access-control-allow-origin: *\r\n"]
    )
    asked = exchange({"Origin": "https://a.test"}, scheme=scheme)
    for _ in range(2):  # the second time, what is there is replaced or left
        made.apply(asked, reply)
    found = sorted(line.decode().strip() for line in reply.lines)
    wanted = [
        "Access-Control-Allow-Origin: https://a.test", "Referrer-Policy: strict-origin-when-cross-origin",
        "Vary: Origin", "Vary: Origin", "X-A: b", "X-Content-Type-Options: nosniff",
        "X-Permitted-Cross-Domain-Policies: none", "x-frame-options: DENY",
    ]  # fmt: skip
    assert found == sorted(
        wanted + (["Strict-Transport-Security: max-age=86400"] if scheme == "https" else [])
    )


def test_what_patterns_allow_is_remembered_within_a_bound() -> None:
    cors = Cors(model.Cors(origins=(model.Origin(text="https://*.a.test"),)))
    for number in range(1500):
        page = f"https://x{number}.a.test"
        for _ in range(2):
            assert cors.lines(exchange({"Origin": page}))[0].endswith(page.encode() + b"\r\n")
    assert len(cors._known) == 1000


def test_a_null_in_the_routes_edits_leaves_the_field_to_the_preset() -> None:
    made = edits("security_headers: basic, headers: {response: {set: {X-Frame-Options: null}}}")
    assert made is not None
    assert b"x-frame-options" in dict(made.filled)


def test_fill_appends_what_is_missing_whatever_the_case() -> None:
    lines = [b"X-FRAME-options: a\r\n"]
    headers.fill(lines, ((b"x-frame-options", b"X-Frame-Options: b\r\n"), (b"x-b", b"X-B: c\r\n")))
    assert lines == [b"X-FRAME-options: a\r\n", b"X-B: c\r\n"]
