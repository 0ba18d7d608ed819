"""Paths that can be read two ways."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing import paths
from tests.routing.kit import route, router, view, winner

if TYPE_CHECKING:
    from gateway.routing.router import Router


def _table(ambiguous_paths: str = "reject") -> Router[str]:
    return router(
        route("open", "/*"),
        route("admin", "/admin/*"),
        route("user", "/users/{id}"),
        route("exact", "/exact"),
        ambiguous_paths=ambiguous_paths,
    )


SPELLINGS_OF_ADMIN = [
    "/%61dmin%2Fx",
    "/x/../admin/x",
    "/x/%2e%2e/admin",
    "/x/.%2E/admin",
    "/x/%252e%252e/admin",
    "/./admin",
    "/%2e/admin",
    "//admin",
    "/%2Fadmin",
    "/%252Fadmin",
    "/\\admin",
    "/%5Cadmin",
    "/%5cadmin",
    "/%255cadmin",
    "/x/..\\admin",
    "/x\\..\\admin",
    "/x/..%5cadmin",
    "/x/..%2fadmin",
    "/x/..%252fadmin",
    "/x/..;/admin",
    "/x/..;a=b/admin",
    "/x/%2e%2e;/admin",
    "/x/..%3b/admin",
    "/;/admin",
    "/;x=1/admin/y",
    "/admin;x/y",
    "/admin;/y",
    "/admin%3Bx/y",
    "/admin%2fx",
    "/admin%252fx",
    "/admin\\x",
    "/%61%64min%5cx",
    "/x//../../admin",
    "/../admin",
    "/x/./../admin/.",
    "/%2561dmin",
    "/%25%36%31dmin",
]


@pytest.mark.parametrize("spelling", SPELLINGS_OF_ADMIN)
def test_no_other_spelling_walks_around_a_protected_prefix(spelling: str) -> None:
    assert winner(_table(), spelling) == "bad_request"


@pytest.mark.parametrize("spelling", SPELLINGS_OF_ADMIN)
def test_keep_lets_the_raw_path_decide(spelling: str) -> None:
    assert winner(_table("keep"), spelling) == "open"


@pytest.mark.parametrize(
    "spelling",
    [
        "/admin/x/../y",
        "/admin/%2Fx",
        "/admin//x",
        "/admin/a;b",
        "/%61dmin/x",
        "/admin/caf%C3%A9",
        "/admin/.",
    ],
)
def test_spellings_that_all_lead_to_one_route_go_through_as_they_came(spelling: str) -> None:
    assert _table().match(view(f"{spelling}?q=%2F")) == ("admin", {}, f"{spelling}?q=%2F")


@pytest.mark.parametrize(
    "spelling", ["//a", "/a%2Fb", "/../a", "/a;b", "/%zz", "/a\\b", "/%00", "/%ff", '/"', "/*"]
)
def test_a_catch_all_gateway_loses_nothing(spelling: str) -> None:
    assert router(route("all", "/*")).match(view(spelling)) == ("all", {}, spelling)


@pytest.mark.parametrize(
    "spelling", ["/users/a%2Fb", "/users/..", "/users/.", "/users/;x", "/users/a%5Cb"]
)
def test_a_capture_that_may_be_read_as_two_segments_is_refused(spelling: str) -> None:
    assert winner(_table(), spelling) == "bad_request"


@pytest.mark.parametrize(
    "spelling", ["/exact/.", "/x/../exact", "/exact;v=1", "//exact", "/exact%3b"]
)
def test_another_spelling_of_an_exact_path_is_refused(spelling: str) -> None:
    assert winner(_table(), spelling) == "bad_request"


@pytest.mark.parametrize(
    ("came", "name", "goes"),
    [
        ("/x/../admin/y?q=%2E", "admin", "/admin/y?q=%2E"),
        ("/%61dmin%2Fy", "admin", "/admin/y"),
        ("/x\\..\\admin", "admin", "/admin"),
        ("//admin", "admin", "/admin"),
        ("/x/../admin/%C3%A9%20;p", "admin", "/admin/%C3%A9%20;p"),
        ("/x/../admin/50%25", "admin", "/admin/50%25"),
        ("/x/../admin/%3Fq?", "admin", "/admin/%3Fq?"),
        ("/x/%252e%252e/y", "open", "/x/%252e%252e/y"),
        ("/users/..%2fadmin", "admin", "/admin"),
    ],
)
def test_resolve_routes_by_and_forwards_the_form_decoded_once(
    came: str, name: str, goes: str
) -> None:
    assert _table("resolve").match(view(came)) == (name, {}, goes)


@pytest.mark.parametrize(
    "came",
    ["/x/%252e%252e/admin", "/%2561dmin/y", "/x/..;/admin", "/;/admin", "/admin;x", "/admin%3bx"],
)
def test_what_can_still_be_read_two_ways_when_it_is_resolved_is_refused(came: str) -> None:
    assert winner(_table("resolve"), came) == "bad_request"


def test_resolve_forwards_as_it_came_what_can_be_read_one_way_only() -> None:
    assert _table("resolve").match(view("/admin/a%2Fb//c"))[2] == "/admin/a%2Fb//c"


def test_resolve_takes_captures_from_the_form_that_is_forwarded() -> None:
    table = _table("resolve")
    assert table.match(view("/x/../users/a%20b")) == ("user", {"id": "a%20b"}, "/users/a%20b")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/%7Eann", "/~ann"),
        ("/%c3%a9", "/%C3%A9"),
        ("/%41", "/A"),
        ("/é", "/%C3%A9"),
        ("/%", "/%25"),
    ],
)
def test_two_spellings_that_rfc_3986_calls_equal_have_one_canonical_form(
    one: str, other: str
) -> None:
    assert paths.canonical(one) == paths.canonical(other)


@pytest.mark.parametrize(
    ("one", "other"), [("/a%2Fb", "/a/b"), ("/%3B", "/;"), ("/a", "/A"), ("/%25", "/%2525")]
)
def test_reserved_characters_and_case_are_not_equal(one: str, other: str) -> None:
    assert paths.canonical(one) != paths.canonical(other)


@given(st.text(alphabet="/ab%2fFeE.;\\5cC%\u00e9", max_size=20))
def test_the_canonical_form_is_its_own_canonical_form(tail: str) -> None:
    once = paths.canonical("/" + tail)
    assert paths.canonical(once) == once
    assert once.isascii()


@given(st.text(alphabet="/ab%2fFeE.;\\5cC", max_size=20))
def test_a_path_called_plain_has_one_reading(tail: str) -> None:
    path = "/" + tail
    if paths.is_plain(path):
        assert paths.readings(path) == [path]


@given(st.text(alphabet="/ab%2fFeE.\\5cC", max_size=20))
def test_a_resolved_path_is_stable_and_free_of_dots(tail: str) -> None:
    resolved = paths.resolve("/" + tail)
    assert resolved.startswith("/")
    assert paths.without_dots(resolved) == resolved
    assert "//" not in resolved
    assert not {".", ".."} & set(resolved.split("/"))


@pytest.mark.parametrize(
    "path",
    [
        "/a/..",
        "/../a",
        "/.",
        "/a/./b",
        "/a/%2e%2E/b",
        "/a/%252e%252e",
        "/a\\..\\b",
        "/a/..%5cb",
        "/a%2f..",
        "/a/..;x/b",
    ],
)
def test_a_dot_segment_is_found_however_it_is_spelt(path: str) -> None:
    assert paths.holds_dot_segment(path)


@pytest.mark.parametrize(
    "path", ["/a/...", "/.well-known/x", "/a.b/..c", "/a/%2e%2e%2e", "/a%2eb", "/"]
)
def test_dots_in_names_are_no_dot_segments(path: str) -> None:
    assert not paths.holds_dot_segment(path)


def test_the_worst_path_that_fits_a_request_line_is_judged_quickly() -> None:
    worst = "/" + "a;b/../%252e%252e//\\" * 400
    began = time.perf_counter()
    winner(router(route("all", "/*")), worst[:8000])
    assert time.perf_counter() - began < 2
