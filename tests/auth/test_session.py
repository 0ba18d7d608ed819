"""Sealed cookies: what opens, what does not, and what a browser is told of them."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.session import LARGEST, Cookie, Seal, Sessions, TooLarge
from tests.kit.clock import FakeClock

OLD, NEW = "the first secret of all", "the second secret of all"
CLAIMS = {"sub": "ann", "groups": ["ops", "dév"]}


def sessions(
    *secrets: str, policy: tuple[str, ...] = ("login", "https://idp.test", "web"), **settings: Any
) -> Sessions:
    made = {"clock": FakeClock(), "cookie": "gw", "max_age": 3600.0, **settings}
    return Sessions(secrets or (NEW,), made.pop("clock"), *policy, **made)


def value(line: bytes) -> str:
    return line.decode().partition("=")[2].partition(";")[0]


def test_what_was_sealed_opens() -> None:
    made = sessions()
    session = made.open(value(made.line(CLAIMS, secure=True)))
    assert session is not None
    assert session.claims == CLAIMS


def test_over_https_the_cookie_is_bound_to_the_host_and_secure() -> None:
    line = sessions().line(CLAIMS, secure=True).decode()
    assert line.startswith("Set-Cookie: __Host-gw=")
    assert line.endswith("; Path=/; Max-Age=3600; Secure; HttpOnly; SameSite=Lax\r\n")
    assert "Domain" not in line


def test_over_http_there_is_neither_prefix_nor_secure_which_a_browser_would_refuse() -> None:
    line = sessions(same_site="strict").line(CLAIMS, secure=False).decode()
    assert line.startswith("Set-Cookie: gw=")
    assert line.endswith("; Path=/; Max-Age=3600; HttpOnly; SameSite=Strict\r\n")


@pytest.mark.parametrize("name", ["__Host-mine", "__Secure-mine"])
def test_a_name_that_has_a_prefix_keeps_it(name: str) -> None:
    assert Cookie(name).names == {name}


def test_both_names_of_a_cookie_are_known() -> None:
    assert Cookie("gw").names == {"gw", "__Host-gw"}


def test_the_first_secret_seals_and_all_open() -> None:
    clock = FakeClock()
    before, during, after = (
        sessions(*secrets, clock=clock) for secrets in ((OLD,), (NEW, OLD), (NEW,))
    )
    old = value(before.line(CLAIMS, secure=True))
    assert during.open(old) is not None
    assert after.open(old) is None
    new = value(during.line(CLAIMS, secure=True))
    assert before.open(new) is None
    assert after.open(new) is not None


@pytest.mark.parametrize(
    "policy",
    [
        ("other", "https://idp.test", "web"),
        ("login", "https://other.test", "web"),
        ("login", "https://idp.test", "other"),
        ("login", "https://idp.testweb", ""),
    ],
)
def test_a_cookie_of_another_policy_is_none(policy: tuple[str, ...]) -> None:
    cookie = value(sessions(policy=policy).line(CLAIMS, secure=True))
    assert sessions().open(cookie) is None


def test_a_seal_for_another_purpose_is_none() -> None:
    clock = FakeClock()
    other = Seal((NEW,), clock, "state", "login", "https://idp.test", "web")
    now = int(clock.wall())
    held = {"b": now, "e": now + 99, "c": CLAIMS}
    assert sessions(clock=clock).open(other.close(held)) is None


def test_a_session_ends_though_the_browser_keeps_its_cookie() -> None:
    clock = FakeClock()
    made = sessions(clock=clock)
    cookie = value(made.line(CLAIMS, secure=True))
    clock.advance(3590)
    assert made.open(cookie) is not None
    clock.advance(11)
    assert made.open(cookie) is None


def test_a_shorter_max_age_holds_for_those_who_are_in_and_a_longer_one_prolongs_nothing() -> None:
    clock = FakeClock()
    cookie = value(sessions(clock=clock).line(CLAIMS, secure=True))
    clock.advance(600)
    assert sessions(clock=clock, max_age=300.0).open(cookie) is None
    clock.advance(3100)
    assert sessions(clock=clock, max_age=9000.0).open(cookie) is None


def test_a_cookie_from_the_future_is_none() -> None:
    late, early = FakeClock(), FakeClock()
    late.advance(3600)
    assert sessions(clock=early).open(value(sessions(clock=late).line(CLAIMS, secure=True))) is None


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_cookie_is_none(place: int, change: int) -> None:
    made = sessions()
    cookie = value(made.line(CLAIMS, secure=True))
    sealed = bytearray(base64.urlsafe_b64decode(cookie + "=" * (-len(cookie) % 4)))
    sealed[place % len(sealed)] ^= change
    assert made.open(base64.urlsafe_b64encode(bytes(sealed)).decode()) is None


@given(st.integers(0, 10_000))
def test_a_cut_cookie_is_none(length: int) -> None:
    made = sessions()
    cookie = value(made.line(CLAIMS, secure=True))
    assert made.open(cookie[: length % len(cookie)]) is None


@given(st.text(max_size=200))
def test_any_text_is_none(text: str) -> None:
    assert sessions().open(text) is None


@pytest.mark.parametrize("text", ["", "=", "A" * 10_000, "ü", "\udcff", "a b", "gAAAAA" + "A" * 90])
def test_what_looks_odd_is_none(text: str) -> None:
    assert sessions().open(text) is None


def test_a_session_that_no_browser_would_keep_is_refused_and_its_largest_claims_are_named() -> None:
    with pytest.raises(TooLarge) as refused:
        sessions().line({"sub": "ann", "groups": ["x" * 40] * 90, "name": "y" * 90}, secure=True)
    assert "browsers keep 4096" in str(refused.value)
    assert "groups 3960, name 92, sub 5" in str(refused.value)
    assert "xxx" not in str(refused.value)


@given(st.integers(0, 4000))
def test_no_cookie_is_larger_than_browsers_keep(length: int) -> None:
    try:
        line = sessions().line({"sub": "a" * length}, secure=True)
    except TooLarge:
        assert length > 2500
    else:
        assert len(line) - len(b"Set-Cookie: \r\n") <= LARGEST


def test_a_seal_needs_a_secret() -> None:
    with pytest.raises(ValueError, match="server: "):
        Seal((), FakeClock(), "session")


def test_two_seals_of_one_value_differ() -> None:
    made = sessions()
    assert made.line(CLAIMS, secure=True) != made.line(CLAIMS, secure=True)
