"""Built in → defaults → upstream → profiles → route: what wins, and where it was written."""

from __future__ import annotations

from typing import Any

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


SPLIT = """
    defaults: {timeouts: {connect: 9s}, buffer: {request: 1KiB}}
    upstreams:
      a: {targets: [http://h:1], timeouts: {idle: 1s, first_byte: 1s, total: 1s}}
      b:
        targets: [{url: "http://h:2", labels: {v: "2"}}, http://h:3]
        timeouts: {idle: 2s, first_byte: 2s, connect: 2s}
        retry: off
        buffer: {request: 2KiB}
        deadline: {header: X-Left}
        hedge: {after: 1s}
      bare: {targets: [http://h:4]}
      bare_too: {targets: [http://h:5]}
      sixty: {targets: [http://h:6], timeouts: {idle: 60s}}
    profiles:
      p: {timeouts: {first_byte: 3s}}
    routes:
      - path: /x
        split: [{upstream: b, weight: 5}, {upstream: b, labels: {v: "2"}, weight: 1}, {upstream: a, weight: 94}]
        use: p
        timeouts: {idle: 4s}
      - {path: /alike, split: [{upstream: bare, weight: 1}, {upstream: bare_too, weight: 1}]}
      - {path: /written, split: [{upstream: bare, weight: 1}, {upstream: sixty, weight: 1}]}
      - path: /overruled
        split: [{upstream: a, weight: 1}, {upstream: bare, weight: 1}]
        timeouts: {idle: 5s, first_byte: 5s, total: 5s}
      - {path: /one, split: [{upstream: b, weight: 1}]}
      - {path: /to, to: b}
"""


def test_each_branch_of_a_split_has_the_policies_of_its_own_upstream() -> None:
    route = loaded(SPLIT).routes[0]
    assert isinstance(route.answer, effective.Forward)
    assert [(b.upstream, b.weight) for b in route.answer.branches] == [
        ("b", 5),
        ("b", 1),
        ("a", 94),
    ]
    b, labelled, a = (one.policies for one in route.per_branch)
    assert b.timeouts == model.Timeouts(connect=2, first_byte=3, idle=4, total=None)
    assert a.timeouts == model.Timeouts(connect=9, first_byte=3, idle=4, total=1)
    assert (b.retry, a.retry) == (None, model.Retry())
    assert (b.buffer.request, a.buffer.request) == (2048, 1024)
    assert b.deadline == model.Deadline(header="X-Left")
    assert b.hedge == model.Hedge(after=1.0)
    assert (a.deadline, a.hedge) == (None, None)
    assert labelled is b
    assert route.policies is b or route.policies == b
    assert [one.name for one in route.per_branch] == [route.name] * 3


def test_each_branch_knows_where_its_values_were_written() -> None:
    of_b, _, of_a = (one.origins for one in loaded(SPLIT).routes[0].per_branch)
    for name, layers in {
        "timeouts.connect": ("upstream b", "defaults"),
        "timeouts.first_byte": ("profile p", "profile p"),
        "timeouts.idle": ("route", "route"),
        "retry": ("upstream b", None),
        "timeouts.total": (None, "upstream a"),
    }.items():
        told = tuple(origins[name].layer if name in origins else None for origins in (of_b, of_a))
        assert told == layers, name


def test_branches_that_behave_alike_are_not_told_apart() -> None:
    routes = {route.match.path.text: route for route in loaded(SPLIT).routes}
    for path in ("/alike", "/overruled", "/one", "/to"):
        assert routes[path].per_branch == (), path
        assert list(routes[path].variants()) == [""]
    assert routes["/one"].policies.retry is routes["/to"].policies.retry is None


def test_a_written_idle_is_not_the_built_in_one_which_is_longer_for_event_streams() -> None:
    route = loaded(SPLIT).routes[2]
    assert [one.policies.timeouts.idle for one in route.per_branch] == [60, 60]
    assert [one.idle_written for one in route.per_branch] == [False, True]
    assert list(route.variants()) == ["bare", "sixty"]


def test_the_effective_document_has_what_differs_in_the_branches_and_the_rest_once() -> None:
    masked: Any = loaded(SPLIT).masked["routes"]
    split = masked[0]["split"]
    assert [list(branch["policies"]) for branch in split] == [
        ["timeouts", "retry", "buffer", "deadline", "hedge"]
    ] * 3
    assert [branch["policies"]["timeouts"]["connect"] for branch in split] == [2, 2, 9]
    assert not masked[0].keys() & split[0]["policies"].keys()
    assert masked[0]["body"]
    assert "policies" not in masked[1]["split"][0]
    assert masked[1]["timeouts"]["connect"] == 9


def test_what_is_wrong_with_any_branch_is_told_at_its_upstream() -> None:
    found = messages("""
        upstreams:
          a: {targets: [http://h:1]}
          b: {targets: [http://h:2], deadline: {header: Host}}
        routes: [{path: /x, split: [{upstream: a, weight: 1}, {upstream: b, weight: 1}]}]
    """)
    assert "upstreams.b.deadline.header: Host means something else" in found
    assert len(found.splitlines()) == 1


@pytest.mark.parametrize(
    ("of_a", "of_b", "warned"),
    [
        ("timeouts: {first_byte: 1s}", "timeouts: {first_byte: 2s}", True),
        ("timeouts: {first_byte: 1s}", "timeouts: {first_byte: 9s}", False),
        ("timeouts: {first_byte: 9s}", "timeouts: {first_byte: 1s}", False),
        ("timeouts: {first_byte: 9s}", "timeouts: {first_byte: 1s}, hedge: 4s", True),
    ],
)
def test_a_hedge_has_no_effect_if_it_has_none_for_any_branch(
    of_a: str, of_b: str, warned: bool
) -> None:
    hedge = "" if "hedge" in of_b else "hedge: 5s, "
    config = loaded(f"""
        upstreams:
          a: {{targets: [http://h:1], {of_a}}}
          b: {{targets: [http://h:2], {of_b}}}
        routes: [{{path: /x, {hedge}split: [{{upstream: a, weight: 1}}, {{upstream: b, weight: 1}}]}}]
    """)
    assert any("hedge has no effect" in str(one) for one in config.warnings) is warned


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
