"""What of a request's credentials stays with the gateway."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway import headers
from gateway.auth import Taken
from gateway.withheld import Withheld, masks

KEY = SimpleNamespace(
    taken=Taken(frozenset({b"x-api-key"}), frozenset({"api key"}), frozenset({"sid"})),
    forwarded=frozenset({b"x-user"}),
)
OTHER = SimpleNamespace(
    taken=Taken(frozenset({b"authorization"})), forwarded=frozenset({b"x-role"})
)


def withheld(auth: tuple[str, ...] | None = ("key",), *, forward: bool = False) -> Withheld:
    policies = SimpleNamespace(auth=auth, forward_credentials=forward)
    return Withheld(
        cast("Any", SimpleNamespace(policies=policies)), cast("Any", {"key": KEY, "other": OTHER})
    )


def test_credentials_of_the_routes_own_policies_go_no_further() -> None:
    assert withheld().fields == {b"x-api-key", b"x-user", b"x-role"}
    assert withheld().cookies == {b"sid"}
    assert withheld().parameters == {"api key"}


def test_no_client_writes_what_an_identity_writes_on_any_route() -> None:
    assert withheld(None).fields == {b"x-user", b"x-role"}
    assert withheld(forward=True).fields == {b"x-user", b"x-role"}
    assert not withheld(forward=True).cookies
    assert not withheld(forward=True).parameters


@pytest.mark.parametrize(
    ("target", "left"),
    [
        ("/a", "/a"),
        ("/a?", "/a?"),
        ("/a?x=1", "/a?x=1"),
        ("/a?api+key=1", "/a"),
        ("/a?x=%20&api%20key=1&y", "/a?x=%20&y"),
        ("/a?%61pi%20key=1&api+key=2&&z=", "/a?&z="),
        ("/api+key=1?x", "/api+key=1?x"),
    ],
)
def test_a_parameter_that_was_a_credential_is_taken_out_however_it_is_spelt(
    target: str, left: str
) -> None:
    assert withheld().target(target) == left


@pytest.mark.parametrize(
    ("value", "left"),
    [
        (b"sid=1", b""),
        (b"a=1; sid=2; b=3", b"a=1; b=3"),
        (b"sid=1; a=1", b"a=1"),
        (b"a=1;sid=2", b"a=1"),
        (b"xsid=1; sidx=2", b"xsid=1; sidx=2"),
        (b' sid = 1;a="sid=1"', b'a="sid=1"'),
    ],
)
def test_a_cookie_that_was_a_credential_is_taken_out_and_no_other(
    value: bytes, left: bytes
) -> None:
    assert headers.without_cookies(value, frozenset({b"sid"})) == left


def test_a_field_that_is_the_same_to_cgi_is_the_same_here() -> None:
    table = headers.FieldTable(headers.REQUEST, withheld().fields)
    assert [table[name] for name in (b"X-User", b"X_USER", b"x_user")] == [headers.DROP] * 3
    assert table[b"X-Users"] == b"X-Users: "


def test_the_access_log_hides_what_policies_read() -> None:
    assert masks(cast("Any", [KEY, OTHER])) == (
        "cookie.sid",
        "header.authorization",
        "header.x-api-key",
        "query.api key",
    )
