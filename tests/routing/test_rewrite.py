"""What `rewrite:` makes of a request target."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import errors
from gateway.routing.rewrite import compile_host, compile_rewrite
from tests.routing.kit import route, router, view


def rewritten(target: str, rewrite: dict[str, Any], path: str = "/*", **rest: Any) -> str:
    """The target that a route at `path` sends on."""
    one = route("r", path, rewrite=rewrite)
    request = view(target, **rest)
    _, request.captures, matched = router(one).match(request)
    edit = compile_rewrite(one)
    assert edit is not None
    return edit(request, matched)


@pytest.mark.parametrize(
    ("rewrite", "came", "goes"),
    [
        ({"strip_prefix": "/a"}, "/a", "/"),
        ({"strip_prefix": "/a"}, "/a/", "/"),
        ({"strip_prefix": "/a"}, "/a/b?c", "/b?c"),
        ({"strip_prefix": "/a"}, "/a?c", "/?c"),
        ({"strip_prefix": "/a/"}, "/a/b", "/b"),
        ({"strip_prefix": "a"}, "/a/b", "/b"),
        ({"strip_prefix": "/a"}, "/ab", "/ab"),
        ({"strip_prefix": "/a/b"}, "/%61/b/%7E", "/%7E"),
        ({"strip_prefix": "/café"}, "/caf%c3%a9/x", "/x"),
        ({"strip_prefix": "/"}, "/a", "/a"),
        ({"add_prefix": "/v2"}, "/a?b", "/v2/a?b"),
        ({"add_prefix": "/v2/"}, "/", "/v2/"),
        ({"strip_prefix": "/a", "add_prefix": "/b"}, "/a/c", "/b/c"),
        ({"path": "/fixed"}, "/a/b?q=1", "/fixed?q=1"),
        ({"path": "fixed"}, "/a", "/fixed"),
        ({"path": "/é?#"}, "/a", "/%C3%A9%3F%23"),
        ({"path": "/x/{query.n}"}, "/a?n=b/c", "/x/b%2Fc?n=b/c"),
        ({"regex": {"match": r"^/v(\d+)/(.*)", "replace": r"/\2"}}, "/v12/x/y?z", "/x/y?z"),
        ({"regex": {"match": r"^/v(\d+)/(.*)", "replace": r"/\2"}}, "/w/x", "/w/x"),
        ({"regex": {"match": "^/~ann", "replace": "/ann"}}, "/%7Eann/x", "/ann/x"),
        ({"regex": {"match": "^/a", "replace": ""}}, "/a", "/"),
        ({"regex": {"match": "(b)?x", "replace": r"\1y"}}, "/x/x", "/y/x"),
    ],
)
def test_a_path_is_rewritten(rewrite: dict[str, Any], came: str, goes: str) -> None:
    assert rewritten(came, rewrite) == goes


def test_a_path_is_made_of_captures_as_they_came() -> None:
    assert (
        rewritten("/users/a%20b", {"path": "/v2/profile/{path.id}"}, "/users/{id}")
        == "/v2/profile/a%20b"
    )
    assert rewritten("/f/a/b%2Fc", {"path": "/g/{path.rest}"}, "/f/{rest...}") == "/g/a/b%2Fc"


@pytest.mark.parametrize(
    ("query", "came", "goes"),
    [
        ({"set": {"source": "gw"}}, "/7", "/7?source=gw"),
        ({"set": {"source": "gw"}}, "/7?", "/7?source=gw"),
        ({"set": {"source": "gw"}}, "/7?a=%2f&source=x&&b&source", "/7?a=%2f&&b&source=gw"),
        ({"set": {"ip": "{client_ip}"}}, "/7", "/7?ip=203.0.113.9"),
        ({"set": {"a b": "c&d"}}, "/7", "/7?a%20b=c%26d"),
        ({"set": {"x": "{header.none}"}}, "/7", "/7?x="),
        ({"add": {"a": ["1", "2"]}}, "/7?a=0", "/7?a=0&a=1&a=2"),
        ({"remove": ["debug"]}, "/7?debug=1", "/7"),
        ({"remove": ["debug"]}, "/7?d%65bug=1&x=%41+", "/7?x=%41+"),
        ({"remove": ["debug"]}, "/7?", "/7?"),
        ({"remove": ["debug"]}, "/7?&&x", "/7?&&x"),
        ({"remove": ["debug"], "set": {"a": "1"}, "add": {"a": "2"}}, "/7?debug&b", "/7?b&a=1&a=2"),
    ],
)
def test_a_query_is_edited_and_the_rest_of_it_stays_byte_for_byte(
    query: dict[str, Any], came: str, goes: str
) -> None:
    assert rewritten(came, {"query": query}) == goes


@given(st.text(alphabet="abx&=%4+;?/.", max_size=20))
def test_a_query_that_has_nothing_to_remove_is_not_touched(query: str) -> None:
    assert rewritten("/p?" + query, {"query": {"remove": ["debug"]}}) == "/p?" + query


@pytest.mark.parametrize(
    "rest", ["..", "../x", "%2e%2e/x", "a/../../x", "..%2fx", "%252e%252e", "..;/x", "..%5cx", "."]
)
def test_a_dot_segment_in_a_rewritten_path_is_a_bad_request(rest: str) -> None:
    one = route("r", "/f/{rest...}", rewrite={"path": "/g/{path.rest}"})
    edit = compile_rewrite(one)
    assert edit is not None
    with pytest.raises(errors.BadRequest):
        edit(view(captures={"rest": rest}), f"/f/{rest}")


def test_a_path_that_is_not_rewritten_keeps_its_dots() -> None:
    assert rewritten("/a/../b", {"query": {"set": {"x": "1"}}}) == "/a/../b?x=1"


def test_a_value_from_a_request_can_not_climb_out() -> None:
    with pytest.raises(errors.BadRequest):
        rewritten("/a", {"path": "/g/{header.x}/h"}, headers={"x": ".."})
    assert rewritten("/a", {"path": "/g/{header.x}/h"}, headers={"x": "a?b#c"}) == "/g/a%3Fb%23c/h"


def test_options_asterisk_is_never_rewritten() -> None:
    assert rewritten("*", {"add_prefix": "/v2"}, method="OPTIONS") == "*"


def test_a_route_without_a_rewrite_costs_nothing() -> None:
    assert compile_rewrite(route()) is None
    assert compile_rewrite(route(rewrite={"host": "x"})) is None
    assert compile_host(route()) is None


def test_the_host_is_a_template() -> None:
    template = compile_host(route(rewrite={"host": "{header.x-tenant|none}.internal"}))
    assert template is not None
    assert template.render(view(headers={"X-Tenant": "a"})) == "a.internal"
    assert template.render(view()) == "none.internal"
