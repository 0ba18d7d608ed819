"""`csrf`: whose requests are refused, and which of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway import errors
from gateway.config.browser import Cors, Origin
from gateway.exchange import Reply
from gateway.identity import Identity
from gateway.middleware import csrf
from tests.middleware.test_metrics import build
from tests.observe.stand_in import exchange

LOGIN = SimpleNamespace(oidc=object())
KEYS = SimpleNamespace(oidc=None)
APP = "https://app.example.com"


def passes(
    method: str = "POST",
    *,
    written: bool | None = True,
    auth: tuple[str, ...] | None = None,
    policy: str | None = None,
    cors: Cors | None = None,
    authority: str = "api.example.com",
    **headers: str,
) -> bool:
    made = build()
    cast("Any", made).config = SimpleNamespace(auth={"login": LOGIN, "keys": KEYS})
    policies = SimpleNamespace(csrf=bool(written), auth=auth, cors=cors)
    route = SimpleNamespace(policies=policies, origins={} if written is None else {"csrf": None})
    handler = csrf.wrap(cast("Any", route), lambda _: Reply(200, []), made)
    asked = exchange(
        {name.replace("_", "-"): value for name, value in headers.items()},
        method=method,
        authority=authority,
    )
    asked.identity = None if policy is None else Identity(policy, "ann")
    try:
        assert isinstance(handler(asked), Reply)
    except errors.Forbidden:
        return False
    return True


# The cases of Go's own test of its rules, one by one.
@pytest.mark.parametrize(
    ("method", "site", "origin", "allowed"),
    [
        ("POST", "same-origin", None, True),
        ("POST", "none", None, True),
        ("POST", "cross-site", None, False),
        ("POST", "same-site", None, False),
        ("POST", None, None, True),
        ("POST", None, "https://api.example.com", True),
        ("POST", None, "https://attacker.example", False),
        ("POST", None, "null", False),
        ("GET", "cross-site", None, True),
        ("HEAD", "cross-site", None, True),
        ("OPTIONS", "cross-site", None, True),
        ("PUT", "cross-site", None, False),
        ("DELETE", "cross-site", None, False),
        ("PATCH", "cross-site", None, False),
    ],
)
def test_the_rules_are_those_of_gos_cross_origin_protection(
    method: str, site: str | None, origin: str | None, *, allowed: bool
) -> None:
    headers = {"Sec_Fetch_Site": site, "Origin": origin}
    assert passes(method, **{name: text for name, text in headers.items() if text}) is allowed


@pytest.mark.parametrize(
    ("authority", "origin", "allowed"),
    [
        ("API.example.com:8443", "https://api.example.com:8443", True),
        ("api.example.com", "http://api.example.com", True),
        ("api.example.com", "https://api.example.com:8443", False),
        ("api.example.com", "https://api.example.com.evil.example", False),
        ("api.example.com", "api.example.com", False),
        ("api.example.com", "ftp://api.example.com", False),
        ("", "null", False),
        ("", "https://", False),
    ],
)
def test_without_fetch_metadata_the_origins_host_must_be_the_one_that_is_asked(
    authority: str, origin: str, *, allowed: bool
) -> None:
    assert passes(authority=authority, Origin=origin) is allowed


def test_what_the_browser_says_counts_more_than_an_origin_that_seems_right() -> None:
    assert not passes(Sec_Fetch_Site="cross-site", Origin="https://api.example.com")


def test_a_websocket_from_another_site_is_refused_though_it_is_a_get() -> None:
    assert not passes("GET", Upgrade="websocket", Origin="https://attacker.example")
    assert passes("GET", Upgrade="websocket", Origin="https://api.example.com")
    assert passes("GET", Upgrade="websocket")


@pytest.mark.parametrize(
    ("origins", "credentials", "allowed"),
    [
        (({"text": APP},), True, True),
        (({"text": APP},), False, False),
        (({"text": "https://other.example.com"},), True, False),
        (({"text": "https://*.example.com"},), True, True),
        (({"text": "https://*.com"},), True, False),
        (({"regex": r"https://[a-z]+\.example\.com"},), True, True),
        (({"regex": r"https://[a-z]+\.example"},), True, False),
        (({"text": "null"},), True, False),
    ],
)
def test_origins_that_cors_lets_in_with_credentials_are_trusted(
    origins: tuple[dict[str, str], ...], *, credentials: bool, allowed: bool
) -> None:
    cors = Cors.model_construct(
        origins=tuple(
            Origin.model_construct(**{"text": None, "regex": None, **one}) for one in origins
        ),
        credentials=credentials,
    )
    asked = {"Sec_Fetch_Site": "same-site", "Origin": APP}
    assert passes(cors=cors, **asked) is allowed
    assert not passes(cors=cors, Sec_Fetch_Site="cross-site", Origin="null")


CROSS = {"Sec_Fetch_Site": "cross-site"}


def test_a_login_protects_its_sessions_and_nobody_else_unless_it_is_off() -> None:
    both = ("keys", "login")
    assert not passes(written=None, auth=both, policy="login", **CROSS)
    assert passes(written=None, auth=both, policy="keys", **CROSS)
    assert passes(written=False, auth=both, policy="login", **CROSS)
    assert passes(written=None, auth=("keys",), policy="keys", **CROSS)
    assert passes(written=None, **CROSS)


def test_where_it_is_written_it_holds_for_everybody() -> None:
    assert not passes(written=True, auth=("keys",), policy="keys", **CROSS)
    assert not passes(written=True, **CROSS)


def test_where_nobody_is_protected_nothing_stands_in_the_way() -> None:
    made = build()
    cast("Any", made).config = SimpleNamespace(auth={"keys": KEYS})
    policies = SimpleNamespace(csrf=False, auth=("keys",), cors=None)
    route = cast("Any", SimpleNamespace(policies=policies, origins={}))

    def forward(_: Any) -> Reply:
        return Reply(200, [])

    assert csrf.wrap(route, forward, made) is forward
