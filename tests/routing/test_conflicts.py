"""Routes that contradict each other."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import effective
from gateway.config.effective import Place
from gateway.routing.conflicts import find
from tests.routing.kit import route, router, winner
from tests.routing.test_router import REQUEST, ROUTE


def ties(*wanted: dict[str, Any]) -> list[str]:
    routes = [route(f"r{index}", line=index + 1, **one) for index, one in enumerate(wanted)]
    return [problem.message for problem in find(routes)[0]]


def dead(*wanted: dict[str, Any], ambiguous_paths: str = "reject") -> list[str]:
    """Paths of the routes that can never match."""
    routes = [route(f"r{index}", line=index + 1, **one) for index, one in enumerate(wanted)]
    errors, warnings = find(routes, ambiguous_paths)
    assert not errors
    return [problem.path for problem in warnings]


def header(**tests: Any) -> dict[str, Any]:
    return {"header": {name.replace("_", "-"): test for name, test in tests.items()}}


TIES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"path": "/a"}, {"path": "/a"}, "GET http://any.host/a"),
    ({"path": "/%7Ea"}, {"path": "/~a"}, "/~a"),
    ({"path": "/u/{id}"}, {"path": "/u/{name}"}, "/u/x"),
    ({"path": "/u/{id}/*"}, {"path": "/u/{x}/{rest...}"}, "/u/x"),
    ({"path": "/*"}, {"path": "/{rest...}"}, "http://any.host/"),
    (
        {"path": "/a", "host": ["h.com", "x.com"]},
        {"path": "/a", "host": ["y.com", "h.com"]},
        "http://h.com/a",
    ),
    ({"path": "/a", "host": [".h.com"]}, {"path": "/a", "host": ["*.h.com"]}, "http://any.h.com/a"),
    (
        {"path": "/a", "methods": ["GET", "PUT"]},
        {"path": "/a", "methods": ["POST", "PUT"]},
        "PUT http",
    ),
    (
        {"path": "/a", "methods": ["GET"]},
        {"path": "/a", "when": header(x={"equals": "1"})},
        "with x: 1",
    ),
    (
        {"path": "/a", "when": header(X_A={"one_of": ["1", "2"]})},
        {"path": "/a", "when": header(x_a={"one_of": ["2", "3"]})},
        "with x-a: 2",
    ),
    (
        {"path": "/a", "when": header(x={"regex": "^[a-c]+$"})},
        {"path": "/a", "when": header(x={"regex": "^c.$"})},
        "with x: ca",
    ),
    (
        {"path": "/a", "when": header(x={"present": True})},
        {"path": "/a", "when": header(x={"equals": "v"})},
        "x: v",
    ),
    (
        {"path": "/a", "when": {"query": {"q": {"equals": "a b"}}}},
        {"path": "/a", "when": {"cookie": {"c": {"equals": "v"}}}},
        "/a?q=a%20b with Cookie: c=v",
    ),
    (
        {"path": "/a", "when": {"client_ip": ["10.0.0.0/8"]}},
        {"path": "/a", "when": {"client_ip": ["192.168.0.0/16", "10.1.0.0/16"]}},
        "from 10.1.0.0",
    ),
    (
        {"path": "/a", "when": {"scheme": "https"}},
        {"path": "/a", "when": {"listener": ["x"]}},
        "https://any.host/a",
    ),
    ({"regex": r"^/v\d+/"}, {"regex": "^/v1/users"}, "/v1/users"),
    ({"regex": "/a$"}, {"regex": "^/b"}, "/b/a"),
]


@pytest.mark.parametrize(("one", "two", "shown"), TIES)
def test_a_tie_names_both_routes_and_shows_a_request_that_both_take(
    one: dict[str, Any], two: dict[str, Any], shown: str
) -> None:
    for first, second in ((one, two), (two, one)):
        (message,) = ties(first, second)
        assert "'r0' (gateway.yaml:1:3) and 'r1' (gateway.yaml:2:3)" in message
        assert shown in message
        assert "priority" in message


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"path": "/a"}, {"path": "/b"}),
        ({"path": "/a", "priority": 1}, {"path": "/a"}),
        ({"path": "/a", "host": ["a.com"]}, {"path": "/a", "host": ["b.com"]}),
        ({"path": "/a", "host": [".a.com"]}, {"path": "/a"}),
        ({"path": "/{x}/b"}, {"path": "/a/{x}"}),
        ({"path": "/a/*"}, {"path": "/{x}/*"}),
        ({"path": "/a", "methods": ["GET"]}, {"path": "/a", "methods": ["POST"]}),
        ({"path": "/a", "methods": ["GET"]}, {"path": "/a", "methods": ["HEAD"]}),
        ({"path": "/a", "methods": ["GET"]}, {"path": "/a"}),
        (
            {"path": "/a", "when": header(x={"equals": "1"})},
            {"path": "/a", "when": header(x={"equals": "2"})},
        ),
        (
            {"path": "/a", "when": header(x={"equals": "1"})},
            {"path": "/a", "when": header(x={"present": False})},
        ),
        (
            {"path": "/a", "when": header(x={"equals": "b"})},
            {"path": "/a", "when": header(x={"regex": "a"})},
        ),
        ({"path": "/a", "when": {"scheme": "http"}}, {"path": "/a", "when": {"scheme": "https"}}),
        ({"path": "/a", "when": {"listener": ["a"]}}, {"path": "/a", "when": {"listener": ["b"]}}),
        (
            {"path": "/a", "when": {"client_ip": ["10.0.0.0/8"]}},
            {"path": "/a", "when": {"client_ip": ["::/0", "unix"]}},
        ),
        ({"regex": "^/v1/"}, {"regex": "^/v2/"}),
        ({"regex": "^/a", "priority": 1}, {"regex": "^/a"}),
    ],
)
def test_routes_that_rank_differently_or_share_no_request_do_not_tie(
    one: dict[str, Any], two: dict[str, Any]
) -> None:
    assert ties(one, two) == []


def test_regexes_of_which_nobody_can_tell_need_a_priority() -> None:
    (message,) = ties({"regex": "^/(?!a)[ab]$"}, {"regex": "^/(?=a)[ab]$"})
    assert "nothing shows that no request fits both" in message


DEAD: list[tuple[dict[str, Any], dict[str, Any]]] = [
    # (a route, the route that is never reached because of it)
    ({"path": "/*"}, {"regex": "^/a"}),
    ({"path": "/api/*"}, {"regex": r"^/api/v\d+/"}),
    ({"path": "/*", "priority": 1}, {"path": "/a"}),
    ({"path": "/a/*", "priority": 1}, {"path": "/a/{x}", "methods": ["GET"]}),
    ({"path": "/{x}/*", "priority": 1}, {"path": "/{y}/b"}),
    ({"path": "/{x}", "priority": 1}, {"path": "/a"}),
    ({"path": "/*", "priority": 1}, {"path": "/*", "host": ["a.com"]}),
    (
        {"path": "/*", "host": [".a.com"], "priority": 1},
        {"path": "/*", "host": ["x.a.com", ".y.a.com"]},
    ),
    ({"path": "/*", "methods": ["GET", "PUT"], "priority": 1}, {"path": "/a", "methods": ["HEAD"]}),
    (
        {"path": "/*", "when": {"scheme": "https"}, "priority": 1},
        {"path": "/a", "when": {"scheme": "https", **header(x={"equals": "1"})}},
    ),
]


@pytest.mark.parametrize(("winner_", "loser"), DEAD)
def test_a_route_that_can_never_match_is_a_warning(
    winner_: dict[str, Any], loser: dict[str, Any]
) -> None:
    assert dead(winner_, loser) == ["routes[1]"]
    assert dead(loser, winner_) == ["routes[0]"]


@pytest.mark.parametrize(
    ("winner_", "other"),
    [
        ({"path": "/a/*"}, {"regex": "^/ab"}),
        ({"path": "/*", "methods": ["GET"], "priority": 1}, {"path": "/a"}),
        ({"path": "/*", "priority": 1, "when": {"scheme": "https"}}, {"path": "/a"}),
        ({"path": "/a/b", "priority": 1}, {"path": "/a/{x}"}),
        (
            {"path": "/*", "host": ["a.com"], "priority": 1},
            {"path": "/a", "host": ["a.com", "b.com"]},
        ),
        ({"path": "/*", "host": [".a.com"], "priority": 1}, {"path": "/a", "host": ["a.com"]}),
        ({"path": "/a/{x}", "priority": 1}, {"path": "/a/*"}),
        ({"path": "/a/{x}/*", "priority": 1}, {"path": "/a/*"}),
        ({"path": "/*"}, {"path": "/a"}),
        ({"path": "/*"}, {"path": "/*", "host": ["a.com"]}),
    ],
)
def test_a_route_that_some_request_reaches_is_none(
    winner_: dict[str, Any], other: dict[str, Any]
) -> None:
    assert dead(winner_, other) == []


def test_a_regex_that_fits_no_path_is_a_warning() -> None:
    assert dead({"regex": "^api/"}) == ["routes[0]"]


@pytest.mark.parametrize("path", ["/a;b", "/a%2Fb/*", "/a//b", "/a;b/{y}"])
def test_a_path_that_is_always_refused_is_a_warning(path: str) -> None:
    assert dead({"path": path}) == ["routes[0]"]
    assert dead({"path": path}, ambiguous_paths="keep") == []


@pytest.mark.parametrize("path", ["/café", "/a.b/.well-known", "/a/%C3%A9/*"])
def test_a_path_with_odd_characters_and_one_reading_is_none(path: str) -> None:
    assert dead({"path": path}) == []


@given(st.lists(ROUTE, min_size=2, max_size=6), st.lists(REQUEST, min_size=1, max_size=6))
def test_what_is_called_dead_never_wins(
    wanted: list[dict[str, Any]], asked: list[dict[str, Any]]
) -> None:
    routes = [route(f"r{index}", line=index + 1, **one) for index, one in enumerate(wanted)]
    errors, warnings = find(routes, "keep")
    if errors:
        return
    lost = {f"r{warning.place.line - 1}" for warning in warnings}
    table = router(*routes, ambiguous_paths="keep")
    assert not lost & {winner(table, **one) for one in asked}


@given(st.lists(ROUTE, min_size=2, max_size=6), REQUEST)
def test_two_routes_that_take_a_request_with_equal_rank_are_always_found(
    wanted: list[dict[str, Any]], asked: dict[str, Any]
) -> None:
    """The first of two names must not decide anything that `find` has let pass."""
    routes = [route(f"r{index}", line=index + 1, **one) for index, one in enumerate(wanted)]
    renamed = [route(f"r{9 - index}", line=index + 1, **one) for index, one in enumerate(wanted)]
    if find(routes, "keep")[0]:
        return
    one = winner(router(*routes, ambiguous_paths="keep"), **asked)
    two = winner(router(*renamed, ambiguous_paths="keep"), **asked)
    assert one == two if "_" in one else int(one[1:]) == 9 - int(two[1:])


def _seconds(routes: list[effective.Route]) -> float:
    began = time.perf_counter()
    find(routes)
    return time.perf_counter() - began


def test_thousands_of_routes_are_compared_within_seconds() -> None:
    base = route()
    spread = [route(f"r{i}", f"/svc{i}/{{id}}/*", line=i) for i in range(10_000)]
    tenants = [
        route(f"r{i}", "/a", line=i, when=header(tenant={"equals": str(i)})) for i in range(2_000)
    ]
    same = [
        effective.Route(f"r{i}", base.match, base.answer, base.policies, Place("f", i, 1), {})
        for i in range(2_000)
    ]
    regexes = [route(f"r{i}", line=i, regex=rf"^/svc{i}/v\d+/") for i in range(2_000)]
    assert max(map(_seconds, (spread, tenants, same, regexes))) < 6


def test_regexes_that_are_too_many_to_compare_are_a_warning() -> None:
    routes = [route(f"r{i}", line=i, regex=f"x{i:03}$") for i in range(50)]
    errors, warnings = find(routes)
    assert not errors
    assert [warning.message for warning in warnings if "too many" in warning.message]
