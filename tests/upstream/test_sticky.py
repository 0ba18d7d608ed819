"""Sticky cookies: nobody can make one, none tells an address, all of them outlive a change of secrets."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.config import model
from gateway.upstream.sticky import Sticky
from tests.kit.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Sequence

OLD, NEW = "an old secret of thirty-two bytes!", "a new secret of thirty-two bytes.."


@dataclass(eq=False)
class Target:
    url: str


@dataclass
class Asking:
    headers: CIMultiDict[str]
    scheme: str = "http"


def asking(*values: str, scheme: str = "http", name: str = "gw") -> Asking:
    fields = [("Cookie", f"a=b; {name}={value}; c=d") for value in values]
    return Asking(CIMultiDict(fields), scheme)


A, B = Target("http://10.20.30.40:8000"), Target("unix:/run/app.sock")
TARGETS = (A, B)


def sticky(
    *secrets: str,
    upstream: str = "up",
    clock: FakeClock | None = None,
    targets: Sequence[Target] = TARGETS,
    **words: Any,
) -> Sticky[Target]:
    wanted = model.Sticky(cookie="gw", **words)
    made: Sticky[Target] = Sticky(wanted, secrets or (NEW,), upstream, clock or FakeClock())
    made.rebuild(targets)
    return made


def fields(line: bytes) -> list[str]:
    assert line.startswith(b"Set-Cookie: gw=")
    assert line.endswith(b"\r\n")
    return line.decode()[len("Set-Cookie: gw=") : -2].split("; ")


# ── what a cookie is ──


def test_a_cookie_brings_its_client_back() -> None:
    mine = sticky()
    for target in TARGETS:
        value, *_ = fields(mine.set_cookie(asking(), target))
        assert mine.target_of(asking(value)) is target
        assert mine.set_cookie(asking(value), target) == b"", "nothing to say"
    assert mine.target_of(asking()) is None


def test_another_process_with_the_same_secret_reads_it() -> None:
    assert sticky().target_of(asking(sticky().value(B))) is B


def test_a_cookie_tells_nothing_of_its_target() -> None:
    value = sticky().value(A)
    raw = base64.urlsafe_b64decode(value)
    assert b"10.20" not in raw
    assert bytes((10, 20, 30, 40)) not in raw
    assert re.fullmatch(r"[A-Za-z0-9_-]{40}", value)
    other = base64.urlsafe_b64decode(sticky(OLD).value(A))
    assert raw[:10] != other[:10], "an id that is the same everywhere can be looked up"


@pytest.mark.parametrize(
    ("scheme", "words", "attributes"),
    [
        ("http", {}, ["Path=/", "HttpOnly", "SameSite=Lax"]),
        ("https", {}, ["Path=/", "Secure", "HttpOnly", "SameSite=Lax"]),
        ("http", {"ttl": 3600.0}, ["Path=/", "Max-Age=3600", "HttpOnly", "SameSite=Lax"]),
    ],
)
def test_a_cookie_has_the_attributes_that_keep_it_safe(
    scheme: str, words: dict[str, Any], attributes: list[str]
) -> None:
    _, *found = fields(sticky(**words).set_cookie(asking(scheme=scheme), A))
    assert found == attributes


# ── what nobody can make ──


@settings(max_examples=200)
@given(st.data())
def test_a_cookie_that_was_changed_is_none(data: st.DataObject) -> None:
    mine = sticky()
    raw = bytearray(base64.urlsafe_b64decode(mine.value(A)))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    assert mine.target_of(asking(base64.urlsafe_b64encode(bytes(raw)).decode())) is None


@given(st.binary(min_size=30, max_size=30))
def test_bytes_of_the_right_length_are_no_cookie(raw: bytes) -> None:
    assert sticky().target_of(asking(base64.urlsafe_b64encode(raw).decode())) is None


@given(st.text(st.characters(blacklist_characters=";\r\n"), max_size=60))
def test_no_text_breaks_it(value: str) -> None:
    assert sticky().target_of(asking(value)) is None


def test_the_parts_of_two_cookies_make_no_third() -> None:
    mine = sticky()
    one, other = (base64.urlsafe_b64decode(mine.value(target)) for target in TARGETS)
    mixed = one[:10] + other[10:]
    assert mine.target_of(asking(base64.urlsafe_b64encode(mixed).decode())) is None


def test_a_cookie_of_another_secret_or_another_upstream_is_none() -> None:
    assert sticky(NEW).target_of(asking(sticky(OLD).value(A))) is None
    assert sticky().target_of(asking(sticky(upstream="other").value(A))) is None


def test_a_good_cookie_is_found_behind_a_few_bad_ones_but_not_behind_a_thousand() -> None:
    mine = sticky()
    good = mine.value(A)
    assert mine.target_of(asking("x", "y", good)) is A
    assert mine.target_of(asking(*["x" * 40] * 1000, good)) is None


# ── what it outlives ──


def test_when_secrets_rotate_old_cookies_hold_and_are_renewed() -> None:
    before, rotated, after = sticky(OLD), sticky(NEW, OLD), sticky(NEW)
    old = before.value(B)
    assert rotated.target_of(asking(old)) is B
    new, *_ = fields(rotated.set_cookie(asking(old), B))
    assert after.target_of(asking(new)) is B
    assert rotated.set_cookie(asking(new), B) == b""
    assert after.target_of(asking(old)) is None


def test_a_cookie_outlives_other_targets_but_not_its_own() -> None:
    value = sticky().value(A)
    mine = sticky(targets=[Target("http://new"), A])
    assert mine.target_of(asking(value)) is A
    mine.rebuild([B])
    assert mine.target_of(asking(value)) is None


def test_a_new_target_object_at_the_same_address_is_the_same_target() -> None:
    mine = sticky()
    value = mine.value(A)
    again = Target(A.url)
    mine.rebuild([again])
    assert mine.target_of(asking(value)) is again


def test_a_cookie_ends_after_its_time_and_is_renewed_before_for_those_who_stay() -> None:
    clock = FakeClock()
    mine = sticky(clock=clock, ttl=100.0)
    value = mine.value(A)
    clock.advance(45)
    assert mine.set_cookie(asking(value), A) == b""
    clock.advance(10)
    renewed, *_ = fields(mine.set_cookie(asking(value), A))
    assert mine.target_of(asking(value)) is A
    clock.advance(50)
    assert mine.target_of(asking(value)) is None
    assert mine.target_of(asking(renewed)) is A


def test_without_a_time_to_live_a_cookie_holds_until_the_browser_is_closed() -> None:
    clock = FakeClock()
    mine = sticky(clock=clock, ttl=None)
    value = mine.value(A)
    clock.advance(1e8)
    assert mine.target_of(asking(value)) is A
    assert mine.set_cookie(asking(value), A) == b""


def test_a_client_that_was_sent_elsewhere_is_told_so() -> None:
    mine = sticky()
    value, *_ = fields(mine.set_cookie(asking(mine.value(A)), B))
    assert mine.target_of(asking(value)) is B
