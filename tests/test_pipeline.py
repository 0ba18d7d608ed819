"""The stages of a route in words."""

from __future__ import annotations

import pytest

from gateway.config import load_text
from gateway.explain import pipeline
from gateway.pipeline import duration, shown, size


def stages(route: str) -> dict[str, str]:
    return dict(pipeline(load_text(f"routes:\n  - {{name: r, {route}}}\n").routes[0]))


def test_a_forwarding_route_lists_every_stage_in_its_order() -> None:
    found = stages(
        "path: /a/*, methods: GET, host: h.com, when: {header: {x: present}, scheme: https}, to: 'http://127.0.0.1:1',"
        " rewrite: {strip_prefix: /a, host: x, query: {remove: q}}, timeouts: {total: 1m},"
        " headers: {request: {set: {X-A: b}}, response: {remove: Server, rewrite_location: true}}, body: 1MiB"
    )
    assert found == {
        "limits": "head within server.limits, body of at most 1MiB",
        "client": "address, scheme and host, from trusted proxies only; request id",
        "normalise": "refuse or resolve a path that can be read two ways (server.ambiguous_paths)",
        "route": "GET h.com /a/* when header x, scheme",
        "request transform": "strip /a, host replaced, query remove q, set X-A",
        "total time-out": "60s",
        "balance": "r",
        "try": "connect 3s, first_byte 30s, idle 60s; 1 more on connect, reset_before_response",
        "response transform": "remove Server, Location made public",
        "metrics": "counted as route r",
        "access log": "one line",
    }


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("respond: 204", "respond 204"),
        ("redirect: /x", "redirect 308"),
        ("static: /srv", "files below /srv"),
    ],
)
def test_a_route_that_answers_by_itself_has_no_upstream_stages(answer: str, words: str) -> None:
    found = stages(f"path: {{regex: '^/x'}}, access_log: off, body: off, retry: off, {answer}")
    assert found["answer"] == words
    assert found["access log"] == "off"
    assert found["limits"] == "head within server.limits, body of any size"
    assert found["route"] == "any method any host regex ^/x"
    assert "balance" not in found


def test_what_is_switched_off_is_said() -> None:
    found = stages("to: 'http://127.0.0.1:1', retry: off, timeouts: {idle: off}")
    assert found["try"].endswith("idle off; no further tries")
    assert found["total time-out"] == "off"
    assert found["request transform"] == "nothing"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (1.5, "1.5s"),
        (60, "60s"),
        (300, "5m"),
        (90, "90s"),
        (43200, "12h"),
        (172800, "2d"),
    ],
)
def test_durations_read_as_they_are_written(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0B"), (1000, "1000B"), (1024, "1KiB"), (10 * 1024**2, "10MiB"), (2 * 1024**3, "2GiB")],
)
def test_sizes_read_as_they_are_written(count: int, text: str) -> None:
    assert size(count) == text


def test_other_values_read_as_they_are_written_too() -> None:
    assert shown("retry.budget", 0.2) == "20%"
    assert shown("body.min_rate", 1024.0) == "1KiB/s"
    assert shown("access_log", True) == "on"
    assert shown("timeouts.total", None) == "off"
    assert shown("methods", ["GET", "PUT"]) == "GET, PUT"
    assert shown("priority", 3) == "3"
