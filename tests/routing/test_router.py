"""Which route wins."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import errors
from tests.routing.kit import route, router, view, winner

if TYPE_CHECKING:
    import random

    from gateway.routing.router import Router

# ── path forms ──


@pytest.mark.parametrize(
    ("pattern", "takes", "leaves"),
    [
        ("/a/b", ["/a/b"], ["/a", "/a/b/", "/a/b/c", "/A/b"]),
        ("/a/*", ["/a", "/a/", "/a/b", "/a/b/c"], ["/ab", "/", "/b/a"]),
        ("/*", ["/", "/a", "/a/b/"], []),
        (
            "/users/{id}",
            ["/users/7", "/users/a.b"],
            ["/users", "/users/", "/users/7/", "/users/7/x"],
        ),
        ("/users/{id}/posts", ["/users/7/posts"], ["/users/7", "/users//posts"]),
        ("/files/{rest...}", ["/files", "/files/", "/files/a/b"], ["/filesystem", "/"]),
        ("/t/{a}/*", ["/t/1", "/t/1/2"], ["/t", "/t/"]),
        ("/caf\u00e9", ["/caf%C3%A9", "/caf%c3%a9"], ["/cafe"]),
        ("/~ann", ["/~ann", "/%7Eann", "/%7eann"], ["/ann"]),
    ],
)
def test_a_path_form_takes_these_paths_and_leaves_those(
    pattern: str, takes: list[str], leaves: list[str]
) -> None:
    table = router(route("r", pattern))
    assert {path: winner(table, path) for path in takes} == dict.fromkeys(takes, "r")
    assert "r" not in {winner(table, path) for path in leaves}


def test_a_regex_is_anchored_as_written_and_its_named_groups_are_captures() -> None:
    table = router(route("v", regex=r"^/v(?P<major>\d+)/"))
    assert table.match(view("/v12/x")) == ("v", {"major": "12"}, "/v12/x")
    assert winner(table, "/x/v1/") == "no_route"


def test_captures_are_the_bytes_that_came() -> None:
    table = router(route("f", "/u/{id}/{rest...}"), ambiguous_paths="keep")
    assert table.match(view("/u/a%20b/c%2Fd/e?q=1")) == (
        "f",
        {"id": "a%20b", "rest": "c%2Fd/e"},
        "/u/a%20b/c%2Fd/e?q=1",
    )
    assert table.match(view("/u/%7Ex"))[1] == {"id": "%7Ex", "rest": ""}


# ── rank ──

RANKED = [
    # (the better route, the worse one, a request that both can take)
    (
        {"path": "/*", "priority": 1},
        {"path": "/a", "host": ["h.com"]},
        {"target": "/a", "host": "h.com"},
    ),
    (
        {"path": "/*", "host": ["a.h.com"]},
        {"path": "/a", "host": [".h.com"]},
        {"target": "/a", "host": "a.h.com"},
    ),
    (
        {"path": "/*", "host": [".a.h.com"]},
        {"path": "/a", "host": [".h.com"]},
        {"target": "/a", "host": "x.a.h.com"},
    ),
    ({"path": "/*", "host": [".h.com"]}, {"path": "/a"}, {"target": "/a", "host": "x.h.com"}),
    ({"path": "/a/b"}, {"path": "/a/{x}"}, {"target": "/a/b"}),
    ({"path": "/{x}/{y}"}, {"path": "/a/*"}, {"target": "/a/b"}),
    ({"path": "/*"}, {"regex": "^/a"}, {"target": "/a"}),
    ({"path": "/a/{x}"}, {"path": "/{x}/b"}, {"target": "/a/b"}),
    ({"path": "/a/b/*"}, {"path": "/a/{x}/c/*"}, {"target": "/a/b/c"}),
    ({"path": "/a/b/*"}, {"path": "/a/*"}, {"target": "/a/b/c"}),
    ({"path": "/a/{x}/*"}, {"path": "/a/*"}, {"target": "/a/b/c"}),
    ({"path": "/a/{x}/{rest...}"}, {"path": "/a/*"}, {"target": "/a/b/c"}),
    ({"path": "/a", "methods": ["GET"]}, {"path": "/a"}, {"target": "/a"}),
    (
        {"path": "/a", "when": {"header": {"x": {"present": True}}, "scheme": "http"}},
        {"path": "/a", "methods": ["GET"]},
        {"target": "/a", "headers": {"x": "1"}},
    ),
    (
        {"path": "/a", "methods": ["HEAD"]},
        {"path": "/a", "methods": ["GET"]},
        {"target": "/a", "method": "HEAD"},
    ),
]


@pytest.mark.parametrize(("better", "worse", "request_"), RANKED)
def test_rank_decides_whatever_the_order_in_the_file(
    better: dict[str, Any], worse: dict[str, Any], request_: dict[str, Any]
) -> None:
    one, two = route("zz-better", **better), route("aa-worse", **worse)
    for table in (router(one, two), router(two, one)):
        assert winner(table, **request_) == "zz-better"
    assert winner(router(two), **request_) == "aa-worse", "the example must fit both routes"


def test_a_route_that_fails_a_condition_leaves_the_request_to_the_next_best() -> None:
    table = router(
        route("v2", "/a", when={"header": {"x-version": {"equals": "2"}}}),
        route("post", "/a", methods=["POST"]),
        route("rest", "/*"),
    )
    assert winner(table, "/a", headers={"x-version": "2"}) == "v2"
    assert winner(table, "/a", "POST") == "post"
    assert winner(table, "/a") == "rest"


@pytest.mark.parametrize(
    ("pattern", "takes", "leaves"),
    [
        ("api.example.com", ["api.example.com"], ["example.com", "x.api.example.com"]),
        (
            ".example.com",
            ["a.example.com", "a.b.example.com"],
            ["example.com", "badexample.com", ""],
        ),
        ("*.example.com", ["a.example.com"], ["example.com"]),
    ],
)
def test_a_host_pattern_takes_these_hosts_and_leaves_those(
    pattern: str, takes: list[str], leaves: list[str]
) -> None:
    table = router(route("r", host=[pattern]))
    assert {winner(table, "/", host=host) for host in takes} == {"r"}
    assert {winner(table, "/", host=host) for host in leaves} == {"no_route"}


def test_a_route_may_have_several_hosts() -> None:
    table = router(route("r", host=["a.com", ".b.com"]))
    assert [winner(table, "/", host=h) for h in ("a.com", "x.b.com", "c.com")] == [
        "r",
        "r",
        "no_route",
    ]


# ── methods ──


def test_405_names_every_method_that_would_have_been_taken_and_head_where_get_is() -> None:
    table = router(
        route("get", "/a", methods=["GET"]),
        route("put", "/a", methods=["PUT"], when={"scheme": "http"}),
        route("delete", "/a", methods=["DELETE"], when={"scheme": "https"}),
    )
    with pytest.raises(errors.MethodNotAllowed) as refused:
        table.match(view("/a", "POST"))
    assert refused.value.headers == (("Allow", "GET, HEAD, PUT"),)


def test_a_route_that_fails_on_more_than_its_method_makes_no_405() -> None:
    table = router(route("r", "/a", methods=["GET"], when={"scheme": "https"}))
    assert winner(table, "/a", "POST") == "no_route"


def test_head_goes_where_get_goes() -> None:
    table = router(route("get", "/a", methods=["GET"]), route("post", "/b", methods=["POST"]))
    assert winner(table, "/a", "HEAD") == "get"
    assert winner(table, "/b", "HEAD") == "method_not_allowed"


def test_a_preflight_is_routed_by_the_method_that_it_asks_for() -> None:
    table = router(route("read", "/a", methods=["GET"]), route("write", "/a", methods=["PUT"]))
    ask = {"Origin": "https://app.test", "Access-Control-Request-Method": "PUT"}
    assert winner(table, "/a", "OPTIONS", headers=ask) == "write"
    assert (
        winner(table, "/a", "OPTIONS", headers={"Origin": "https://app.test"})
        == "method_not_allowed"
    )
    assert winner(table, "/a", "OPTIONS") == "method_not_allowed"


def test_options_asterisk_goes_to_what_answers_for_the_root_and_stays_an_asterisk() -> None:
    assert router(route("all", "/*")).match(view("*", "OPTIONS")) == ("all", {}, "*")


# ── order and size ──

SEGMENT = st.sampled_from(["a", "b", "{x}", "c"])
PATTERN = st.builds(
    lambda parts, tail: (
        "/" + "/".join(part.replace("x", f"x{i}") for i, part in enumerate(parts)) + tail
    ),
    st.lists(SEGMENT, min_size=1, max_size=3),
    st.sampled_from(["", "", "/*", "/{rest...}"]),
)
ROUTE = st.fixed_dictionaries(
    {
        "path": PATTERN,
        "host": st.sampled_from([[], ["h.com"], [".h.com"], ["a.h.com", "b.org"]]),
        "methods": st.sampled_from([[], ["GET"], ["POST", "PUT"], ["HEAD"]]),
        "priority": st.sampled_from([0, 0, 0, 1, 5]),
        "when": st.sampled_from([{}, {"scheme": "http"}, {"header": {"x": {"equals": "1"}}}]),
    }
)
REQUEST = st.fixed_dictionaries(
    {
        "target": st.lists(st.sampled_from(["a", "b", "c", "d", ""]), max_size=4).map(
            lambda p: "/" + "/".join(p)
        ),
        "method": st.sampled_from(["GET", "HEAD", "POST", "DELETE"]),
        "host": st.sampled_from(["h.com", "a.h.com", "z.h.com", "b.org", ""]),
        "headers": st.sampled_from([{}, {"X": "1"}]),
    }
)


@given(
    st.lists(ROUTE, min_size=1, max_size=8), st.lists(REQUEST, min_size=1, max_size=5), st.randoms()
)
def test_shuffling_the_file_changes_no_answer(
    wanted: list[dict[str, Any]], asked: list[dict[str, Any]], chance: random.Random
) -> None:
    routes = [route(f"r{index}", **one) for index, one in enumerate(wanted)]
    first = router(*routes)
    chance.shuffle(routes)
    second = router(*routes)
    assert [winner(first, **one) for one in asked] == [winner(second, **one) for one in asked]


@given(st.lists(ROUTE, min_size=1, max_size=8), REQUEST)
def test_the_tables_find_exactly_the_routes_whose_own_predicates_hold(
    wanted: list[dict[str, Any]], asked: dict[str, Any]
) -> None:
    table = router(*(route(f"r{index}", **one) for index, one in enumerate(wanted)))
    request = view(**asked)
    found = {entry.value for entry in table.candidates(request.host, request.path)}
    fits = {
        entry.value
        for entry in table.entries
        if (failed := entry.why_not(request, request.path)) is None
        or failed[0] not in ("host", "path")
    }
    assert found == fits


def _calls(table: Router[str], **asked: Any) -> int:
    """Python and C calls that one match makes."""
    request = view(**asked)
    table.match(request)
    count = 0

    def profile(frame: object, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        table.match(request)
    finally:
        sys.setprofile(None)
    return count


def _many(number: int) -> Router[str]:
    kinds = ("/svc{}/items", "/svc{}/items/{{id}}", "/svc{}/*")
    return router(
        *(
            route(
                f"r{index}",
                kinds[index % 3].format(index),
                host=[f"h{index % 7}.com"] if index % 2 else [],
            )
            for index in range(number)
        )
    )


def test_ten_thousand_routes_take_as_many_steps_as_ten() -> None:
    small, large = _many(10), _many(10_000)
    for target, host in (
        ("/svc6/items", "x"),
        ("/svc4/items/5", "x"),
        ("/svc8/y/z", "x"),
        ("/svc3/items", "h3.com"),
    ):
        few, many = (_calls(table, target=target, host=host) for table in (small, large))
        assert many <= few * 1.2, target


def test_a_long_path_takes_no_more_steps_than_a_short_one() -> None:
    table = _many(100)
    assert _calls(table, target="/svc8" + "/x" * 4000) == _calls(table, target="/svc8" + "/x" * 300)


@settings(max_examples=300)
@given(st.text(alphabet="/abA.%2fF5cC;\\eE~", max_size=14))
def test_rejecting_never_lets_a_path_through_that_has_a_reading_on_another_route(tail: str) -> None:
    from gateway.routing import paths

    table = router(route("open", "/*"), route("closed", "/a/*"), route("one", "/b/{x}"))
    found = winner(table, "/" + tail)
    if found != "bad_request":
        keep = router(*(entry.route for entry in table.entries), ambiguous_paths="keep")
        assert {winner(keep, form) for form in paths.readings("/" + tail)} == {found}
