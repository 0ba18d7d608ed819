"""`oidc`: which requests may be led to a login, and where it leads back to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.oidc import back_to, navigates
from tests.observe.stand_in import exchange

HTML = {"Accept": "text/html,*/*;q=0.8"}


@pytest.mark.parametrize(
    ("method", "fields", "led"),
    [
        ("GET", HTML, True),
        ("HEAD", HTML, True),
        ("GET", {"Accept": "TEXT/HTML"}, True),
        ("GET", {**HTML, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, True),
        ("GET", {}, False),
        ("GET", {"Accept": "*/*"}, False),
        ("GET", {"Accept": "application/json"}, False),
        ("POST", HTML, False),
        ("GET", {**HTML, "Sec-Fetch-Mode": "cors"}, False),
        ("GET", {**HTML, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, False),
        ("GET", {**HTML, "Sec-Fetch-Mode": "navigate", "Sec-Purpose": "prefetch"}, False),
        ("GET", {**HTML, "Upgrade": "websocket"}, False),
    ],
)
def test_only_a_user_who_goes_somewhere_is_led_to_a_login(
    method: str, fields: dict[str, str], *, led: bool
) -> None:
    assert navigates(exchange(fields, method=method, authority="a.test")) is led


def test_where_no_host_was_asked_there_is_nowhere_to_come_back_to() -> None:
    assert not navigates(exchange(HTML, method="GET", authority=""))


@pytest.mark.parametrize(
    "target", ["/", "/a", "/a/b?c=d&e=%2F", "/.//x", "/a//b", "/a\\b", "/?x=//y"]
)
def test_a_path_of_this_host_is_kept(target: str) -> None:
    assert back_to(target) == target


@pytest.mark.parametrize(
    "target",
    ["//evil.test", "/\\evil.test", "https://evil.test", "evil", "", "*", "/a b", "/\n/evil", "/\u00e9", "/\udcff",
     "/" + "a" * 600],
)  # fmt: skip
def test_anything_else_leads_to_the_root(target: str) -> None:
    assert back_to(target) == "/"


@given(st.text(alphabet=st.sampled_from("/\\.:@?#%ab\t\n\r \x00é"), max_size=20).map("/".__add__))
def test_no_target_leads_elsewhere(target: str) -> None:
    path = back_to(target)
    assert path.startswith("/")
    assert path[1:2] not in ("/", "\\")
    assert path.isascii()
    assert path.isprintable()
    assert " " not in path
