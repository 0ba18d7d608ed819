"""Built in → defaults → upstream → profiles → route: what wins, and where it was written."""

from __future__ import annotations

import pytest

from gateway.config import effective, model
from gateway.config.merge import merge, merge_names
from tests.config.kit import loaded, messages

LAYERS = """
    defaults:
      timeouts: {total: 1s, idle: 1s, connect: 1s, first_byte: 1s}
    upstreams:
      u:
        targets: [http://h:1]
        timeouts: {idle: 2s, connect: 2s, first_byte: 2s}
    profiles:
      a: {timeouts: {connect: 3s, first_byte: 3s}}
      b: {timeouts: {first_byte: 4s}}
    routes:
      - {name: full, path: /full, to: u, use: [a, b], timeouts: {pool_wait: 5s}}
      - {name: order, path: /order, to: u, use: [b, a]}
      - {name: plain, path: /plain, to: u}
      - {name: static, path: /static, static: /srv}
"""


def test_the_inner_layer_wins_value_by_value() -> None:
    routes = {route.name: route.policies.timeouts for route in loaded(LAYERS).routes}
    assert routes["full"] == model.Timeouts(pool_wait=5, connect=3, first_byte=4, idle=2, total=1)
    assert routes["order"].first_byte == 3
    assert routes["plain"] == model.Timeouts(connect=2, first_byte=2, idle=2, total=1)
    assert routes["static"] == model.Timeouts(connect=1, first_byte=1, idle=1, total=1)


def test_every_value_knows_where_it_was_written() -> None:
    origins = loaded(LAYERS).routes[0].origins
    told = {
        name: (origins[f"timeouts.{name}"].layer, origins[f"timeouts.{name}"].place)
        for name in ("total", "idle", "connect", "first_byte", "pool_wait")
    }
    assert {name: layer for name, (layer, _) in told.items()} == {
        "total": "defaults",
        "idle": "upstream u",
        "connect": "profile a",
        "first_byte": "profile b",
        "pool_wait": "route",
    }
    assert str(told["first_byte"][1]) == "gateway.yaml:10:30"
    assert "retry.max" not in origins
    assert "timeouts.pool_wait" in set(origins)
    assert len(origins) == len(set(origins))


def test_a_short_form_is_the_origin_of_all_that_it_stands_for() -> None:
    (route,) = loaded("routes: [{path: /x, to: 'http://h', body: 1MiB, retry: off}]").routes
    assert route.origins["body.max"].layer == "route"
    assert route.origins["retry.max"].place == route.origins["retry"].place


def test_what_is_written_again_over_off_begins_with_what_is_built_in() -> None:
    (route,) = loaded("""
        defaults: {retry: off, timeouts: off}
        routes: [{path: /x, to: 'http://h', retry: {max: 2}, timeouts: {idle: 1s}}]
    """).routes
    assert "retry.budget" not in route.origins
    assert route.origins["timeouts.total"].layer == "defaults"
    assert route.policies.timeouts.total is None


def test_what_was_written_is_told_from_what_is_built_in() -> None:
    config = loaded("""
        defaults: {timeouts: {idle: 60s}}
        routes:
          - {path: /a, to: 'http://h'}
          - {path: /b, to: 'http://h', timeouts: {connect: 1s}}
    """)
    for route in config.routes:
        assert "idle" in route.policies.timeouts.model_fields_set
        assert "total" not in route.policies.timeouts.model_fields_set
    (route,) = loaded("routes: [{path: /a, to: 'http://h', timeouts: {connect: 1s}}]").routes
    assert route.policies.timeouts.model_fields_set == {"connect"}


def test_a_layer_that_is_off_is_the_end_of_those_below() -> None:
    config = loaded(
        """
        defaults:
          retry: {max: 3, on: [connect]}
          rewrite: {add_prefix: /x}
          timeouts: {total: 5s}
          headers: {request: {set: {A: b}}}
          upgrade: [foo]
        profiles:
          off: {retry: off, rewrite: off, timeouts: off, headers: off, upgrade: off}
          on: {retry: {max: 2}, rewrite: {query: {set: {a: b}}}}
        routes:
          - {path: /off, to: 'http://h', use: off-is-a-text}
          - {path: /on, to: 'http://h', use: ["off", "on"]}
    """.replace("off-is-a-text", "['off']")
    )
    off, on = (route.policies for route in config.routes)
    assert off.retry is None
    assert off.rewrite == model.Rewrite()
    assert off.headers == model.Headers()
    assert off.upgrade == ()
    assert set(off.timeouts.__dict__.values()) == {None}
    assert on.retry == model.Retry(max=2)
    assert on.rewrite == model.Rewrite(query=model.QueryEdits(set={"a": "b"}))


def test_lists_replace_and_maps_merge() -> None:
    config = loaded("""
        defaults:
          headers:
            request: {remove: [X-A], set: {X-One: a, X-Two: b, X-Three: c}}
            response: {remove: [Server]}
        routes:
          - path: /x
            to: http://h
            headers: {request: {remove: [X-B], set: {x-one: z, X-TWO: null, X-Four: d}}}
    """)
    (route,) = config.routes
    assert route.policies.headers.request.remove == ("X-B",)
    assert route.policies.headers.request.set == {"x-one": "z", "X-Three": "c", "X-Four": "d"}
    assert route.policies.headers.response.remove == ("Server",)
    assert route.origins["headers.request.set.X-One"].layer == "route"
    assert route.origins["headers.request.set.x-three"].layer == "defaults"


def test_only_null_takes_an_entry_of_free_text_away() -> None:
    text = "routes: [{path: /x, to: 'http://h', headers: {request: {set: {X-A: off}}}}]"
    assert "write 'off'" in messages(text)
    (route,) = loaded(text.replace("off", "'off'")).routes
    assert route.policies.headers.request.set == {"X-A": "off"}


def test_names_of_headers_merge_without_regard_to_case() -> None:
    assert merge_names({"A": 1, "b": 2}, {"a": 3, "B": None, "c": 4}) == {"a": 3, "c": 4}


def test_merging_leaves_what_it_merges_as_it_was() -> None:
    base, over = model.Timeouts(idle=1), model.Timeouts(connect=2)
    made = merge(base, over, None)
    assert (made.idle, made.connect) == (1, 2)
    assert made.model_fields_set == {"idle", "connect"}
    assert (base.connect, base.model_fields_set) == (3, {"idle"})


def test_an_anonymous_upstream_bears_the_name_of_its_route_and_has_the_defaults() -> None:
    config = loaded("""
        defaults: {pool: {max: 7}, balance: round_robin, host: target, retry: off}
        upstreams: {named: {targets: [http://h:2], pool: {idle: 1s}}}
        routes:
          - {name: mine, path: /a, to: ['http://h:1', 'http://h:2']}
          - {name: other, path: /b, to: named}
    """)
    mine, named = config.upstreams["mine"], config.upstreams["named"]
    assert (mine.anonymous, named.anonymous) == (True, False)
    assert [target.url for target in mine.settings.targets] == ["http://h:1", "http://h:2"]
    for upstream in (mine, named):
        assert upstream.settings.pool.max == 7
        assert upstream.settings.balance == "round_robin"
        assert upstream.settings.host == "target"
        assert upstream.settings.retry is None
    assert named.settings.pool.idle == 1
    assert named.origins["pool.max"].layer == "defaults"
    assert named.origins["pool.idle"].layer == "upstream named"
    assert config.routes[0].answer == effective.Forward((model.Branch(upstream="mine", weight=1),))
    assert config.routes[0].policies.retry is None


def test_a_split_has_the_policies_of_its_first_upstream() -> None:
    config = loaded("""
        upstreams:
          a: {targets: [http://h:1], timeouts: {idle: 1s}}
          b: {targets: [http://h:2], timeouts: {idle: 2s}}
        routes: [{path: /x, split: [{upstream: b, weight: 5}, {upstream: a, weight: 95}]}]
    """)
    (route,) = config.routes
    assert route.policies.timeouts.idle == 2
    assert isinstance(route.answer, effective.Forward)
    assert [(b.upstream, b.weight) for b in route.answer.branches] == [("b", 5), ("a", 95)]


def test_errors_of_the_server_hold_for_routes_too() -> None:
    config = loaded("""
        errors: {format: html, docs_url: 'https://d'}
        routes:
          - {path: /a, to: 'http://h'}
          - {path: /b, to: 'http://h', errors: {intercept: [503]}}
    """)
    plain, own = (route.policies.errors for route in config.routes)
    assert plain == config.errors
    assert (own.format, own.docs_url, own.intercept) == ("html", "https://d", (503,))
    assert config.routes[1].origins["errors.format"].layer == "errors"


def test_routes_without_policies_of_their_own_share_one_value() -> None:
    config = loaded("""
        defaults: {body: 1MiB}
        upstreams: {u: 'http://h'}
        routes: [{path: /a, to: u}, {path: /b, to: u}, {path: /c, to: u, retry: off}]
    """)
    first, second, third = (route.policies for route in config.routes)
    assert first is second
    assert third.body is first.body


@pytest.mark.parametrize(
    ("route", "name"),
    [
        ("path: /orders/*", "/orders/*"),
        ("host: api.example.com, path: /orders", "api.example.com/orders"),
        ("host: [a.b, .c.d], path: /x, methods: [GET, POST]", "a.b,.c.d/x GET,POST"),
        ("methods: PUT", "/* PUT"),
        ("path: {regex: '^/v1'}", "/^/v1"),
    ],
)
def test_a_route_without_a_name_is_called_by_what_it_takes(route: str, name: str) -> None:
    assert loaded(f"routes: [{{{route}, to: 'http://h'}}]").routes[0].name == name


def test_match_keys_arrive_as_written() -> None:
    (route,) = loaded("""
        listeners: [{bind: '127.0.0.1:1', name: inner}]
        routes:
          - host: [API.example.com]
            path: /a/{id}
            methods: [GET, HEAD]
            priority: -3
            when:
              header: {X-A: '1', x-b: present, x-c: absent, x-d: {equals: absent}, x-e: {regex: ^a}}
              query: {q: [a, b]}
              client_ip: [10.0.0.0/8, unix]
              scheme: https
              listener: inner
            respond: {status: 418}
    """).routes
    match = route.match
    assert match.host == ("api.example.com",)
    assert match.path == model.PathPattern(text="/a/{id}")
    assert match.methods == ("GET", "HEAD")
    assert match.priority == -3
    assert match.when.header["x-b"].present is True
    assert match.when.header["x-c"].present is False
    assert match.when.header["x-d"].equals == "absent"
    assert match.when.header["x-e"].regex == "^a"
    assert match.when.query["q"].one_of == ("a", "b")
    assert [str(one) for one in match.when.client_ip] == ["10.0.0.0/8", "unix"]
    assert (match.when.scheme, match.when.listener) == ("https", ("inner",))
