"""Upstreams that fail, move and slow down: short forms, layers and rules of their configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.config import effective, model
from tests.config.kit import loaded, messages, refused, route

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("discoverable")

SECRET = "server: {secret: 0123456789abcdef}\n"


def upstream(keys: str, rest: str = "") -> model.Upstream:
    """The effective settings of an upstream `u` with some keys."""
    targets = "" if "targets:" in keys or "discover:" in keys else "targets: ['http://h:1'], "
    text = f"{rest}\nupstreams: {{u: {{{targets}{keys}}}}}\nroutes: [{{path: /x/{{id}}, to: u}}]"
    return loaded(text.replace("path: /x/{id}", "path: '/x/{id}'")).upstreams["u"].settings


def warnings(text: str) -> list[str]:
    return [str(warning).removeprefix("gateway.yaml:") for warning in loaded(text).warnings]


def of_upstream(keys: str, target: str = "http://h:1", rest: str = "") -> str:
    """The warnings about an upstream with some keys."""
    targets = "" if "discover" in keys else f"targets: ['{target}'], "
    found = warnings(f"{rest}\nupstreams: {{u: {{{targets}{keys}}}}}\nroutes: [{{path: /, to: u}}]")
    return "\n".join(found)


# ── forms ───────────────────────────────────────────────────────────────────────────────────────

OF_UPSTREAMS = [
    ("health: /healthz", "health: {path: /healthz}"),
    ("pool: off", "pool: {max: off}"),
    ("health: {path: /x, expect: 204}", "health: {path: /x, expect: {status: [204]}}"),
    ("health: {path: /x, expect: [204, 2xx]}", "health: {path: /x, expect: {status: [204, 2xx]}}"),
    ("health: {path: /x, expect: 2xx}", "health: {path: /x, expect: 200-299}"),
    ("health: off", "health: null"),
    ("eject: 3", "eject: {consecutive_failures: 3}"),
    ("eject: on", "eject: {}"),
    ("eject: {max_percent: 25%}", "eject: {max_percent: 25}"),
    ("eject: off", "eject: null"),
    ("panic: 20%", "panic: 0.2"),
    ("panic: off", "panic: null"),
    ("circuit: on", "circuit: {}"),
    ("circuit: 30%", "circuit: {error_ratio: 0.3}"),
    ("circuit: off", "circuit: null"),
    ("concurrency: 50", "concurrency: {per_target: 50}"),
    ("concurrency: {per_target: 5, adaptive: off}", "concurrency: {per_target: 5}"),
    ("concurrency: {adaptive: report}", "concurrency: {adaptive: report, per_target: unlimited}"),
    ("concurrency: off", "concurrency: null"),
    ("slow_start: off", "slow_start: null"),
    ("buffer: 1MiB", "buffer: {request: 1MiB, response: 1MiB}"),
    ("buffer: off", "buffer: {request: off, response: off}"),
    ("deadline: on", "deadline: {}"),
    ("deadline: X-Left", "deadline: {header: X-Left}"),
    ("deadline: off", "deadline: null"),
    ("hedge: on", "hedge: {}"),
    ("hedge: p99", "hedge: {after: p99}"),
    ("hedge: 50ms", "hedge: {after: 50ms}"),
    ("hedge: off", "hedge: null"),
    ("targets: {url: 'http://h', backup: off}", "targets: [http://h]"),
    (
        "targets: [{url: 'http://h', labels: {a: 1}}]",
        "targets: [{url: 'http://h', labels: {a: '1'}}]",
    ),
]


@pytest.mark.parametrize(("short", "full"), OF_UPSTREAMS, ids=[short for short, _ in OF_UPSTREAMS])
def test_a_short_form_of_an_upstream_is_its_full_form(short: str, full: str) -> None:
    assert upstream(short) == upstream(full)


OF_ROUTES = [
    ("mirror: u", "mirror: {upstream: u}"),
    ("mirror: {upstream: u, percent: 5%}", "mirror: {upstream: u, percent: 5}"),
    ("mirror: {upstream: u, compare: on}", "mirror: {upstream: u, compare: {ignore: []}}"),
    (
        "mirror: {upstream: u, compare: header.DATE}",
        "mirror: {upstream: u, compare: {ignore: [header.date]}}",
    ),
    ("mirror: off", "mirror: null"),
    ("fault: {delay: 2s}", "fault: {delay: {time: 2s, percent: 100}}"),
    ("fault: {abort: 503}", "fault: {abort: {status: 503}}"),
    ("fault: off", "fault: null"),
    ("buffer: {request: off}", "buffer: {}"),
]


@pytest.mark.parametrize(("short", "full"), OF_ROUTES, ids=[short for short, _ in OF_ROUTES])
def test_a_short_form_of_a_route_is_its_full_form(short: str, full: str) -> None:
    rest = "upstreams: {u: 'http://h:2'}"
    assert route(short, rest=rest).policies == route(full, rest=rest).policies


def test_what_nobody_writes_is_as_the_table_of_defaults_says() -> None:
    settings = upstream("health: /x, circuit: on, concurrency: 1, hedge: on, deadline: on")
    assert settings.health == model.Health(
        path="/x", method="GET", interval=10, interval_down=1, timeout=2, rise=2, fall=3
    )
    assert [str(one) for one in settings.health.expect.status] == ["200-399"]
    assert settings.eject == model.Eject(
        consecutive_failures=5, window=30, base=10, max=300, max_percent=50, failure_ratio=None
    )
    assert settings.panic == 0.5
    assert settings.circuit == model.Circuit(
        scope="target", error_ratio=0.5, min_requests=20, window=10, open=10, half_open_requests=3
    )
    assert settings.concurrency == model.Concurrency(
        per_target=1, queue=100, queue_timeout=1, adaptive="off"
    )
    assert settings.hedge == model.Hedge(after=model.Quantile(0.95), max=1)
    assert settings.deadline == model.Deadline(
        header="X-Request-Timeout-Ms", trust="trusted_proxies"
    )
    overload = loaded("routes: [{path: /, respond: 200}]").server.overload
    assert overload is not None
    assert (overload.loop_lag, overload.for_, overload.shed) == (0.25, 2, ("low",))


def test_a_range_of_statuses_holds_its_ends() -> None:
    health = upstream("health: {path: /x, expect: [200-299, 304]}").health
    assert health is not None
    within = [
        any(status in one for one in health.expect.status)
        for status in (199, 200, 299, 300, 304, 305)
    ]
    assert within == [False, True, True, False, True, False]


def test_one_secret_is_a_list_of_one_and_none_is_shown() -> None:
    config = loaded(SECRET + "routes: [{path: /, to: 'http://h'}]")
    assert [secret.reveal() for secret in config.server.secret] == ["0123456789abcdef"]
    assert "0123456789abcdef" not in str(config.masked) + repr(config.server)


def test_a_secret_that_is_wrong_is_not_told_to_be_missing() -> None:
    (line,) = refused("""
        server: {secret: short}
        upstreams: {u: {targets: 'http://h', sticky: gw}}
        routes: [{path: /, to: u}]
    """)
    assert "at least 16 characters are wanted" in line
    assert "short" not in line.replace("too short", "")


@pytest.mark.parametrize("written", ["consumer", "{consumer}", "claim.sub"])
def test_an_identity_is_nothing_to_stick_by_where_nobody_is_known(written: str) -> None:
    split = f"split: [{{upstream: u, weight: 1, sticky_by: '{written}'}}]"
    text = f"upstreams: {{u: 'http://h'}}\nroutes: [{{path: /, {split}}}]"
    assert "there is no `auth` here, so nobody is known" in messages(text)
    balance = "hash:{" + written.strip("{}") + "}"
    text = f"upstreams: {{u: {{targets: 'http://h', balance: '{balance}'}}}}"
    found = messages(text + "\nroutes: [{name: open, path: /, to: u}]")
    assert "on the route open, {" in found
    assert "there is no `auth` here, so nobody is known" in found


def test_braces_around_what_a_split_sticks_by_may_be_left_out() -> None:
    text = "upstreams: {u: 'http://h'}\nroutes: [{path: /, split: [{upstream: u, weight: 1, sticky_by: %s}]}]"
    for written in ("client_ip", "'{client_ip}'"):
        (made,) = loaded(text % written).routes
        assert isinstance(made.answer, effective.Forward)
        assert made.answer.branches[0].sticky_by == "client_ip"


# ── layers ──────────────────────────────────────────────────────────────────────────────────────


def test_what_defaults_say_of_upstreams_is_merged_key_by_key() -> None:
    config = loaded("""
        defaults:
          health: {interval: 5s, headers: {X-A: a, X-B: b}, expect: {status: 204, body: ok}}
          eject: {base: 1s}
          circuit: {window: 5s}
          balance: ewma
        upstreams:
          inner: {targets: 'http://a', health: {path: /x, headers: {x-a: c, x-b: null}, expect: {status: 200}},
                  circuit: 20%, balance: random, eject: {max: 1m}}
          bare: {targets: 'http://b', health: off, eject: off, circuit: off}
        routes:
          - {path: /a, to: inner}
          - {path: /b, to: bare}
          - {name: anonymous, path: /c, to: 'http://c'}
    """)
    inner = config.upstreams["inner"].settings
    assert inner.health == model.Health(
        path="/x",
        interval=5,
        headers={"x-a": "c"},
        expect=model.Expect(status=("200",), body="ok"),  # type: ignore[arg-type]
    )
    assert inner.eject == model.Eject(base=1, max=60)
    assert inner.circuit == model.Circuit(window=5, error_ratio=0.2)
    assert inner.balance == "random"
    off = config.upstreams["bare"].settings
    assert off.health is off.eject is off.circuit is None
    anonymous = config.upstreams["anonymous"].settings
    assert anonymous.balance == "ewma"
    assert anonymous.eject == model.Eject(base=1)
    assert str(config.upstreams["inner"].origins["eject.base"].layer) == "defaults"
    assert str(config.upstreams["inner"].origins["eject.max"].layer) == "upstream inner"


def test_how_to_check_without_what_to_ask_for_checks_nothing() -> None:
    text = "defaults: {health: {interval: 5s}}\nroutes: [{name: r, path: /, to: 'http://h'}]"
    assert loaded(text).upstreams["r"].settings.health is None
    assert upstream("health: {path: /x}", "defaults: {health: {interval: 5s}}").health == (
        model.Health(path="/x", interval=5)
    )
    (line,) = refused("""
        upstreams: {u: {targets: 'http://h', health: {interval: 5s}}}
        routes: [{path: /, to: u}]
    """)
    assert line.startswith("2:46: upstreams.u.health: nothing is asked for")


@pytest.mark.parametrize(
    ("default", "own", "path", "tcp"),
    [
        ("/a", "{tcp: on}", None, True),
        ("{tcp: on}", "/b", "/b", False),
        ("/a", "{rise: 5}", "/a", False),
        ("{tcp: on}", "{rise: 5}", None, True),
        ("/a", "{tcp: off}", "/a", False),
    ],
)
def test_the_inner_way_to_check_puts_the_outer_one_aside(
    default: str, own: str, path: str | None, tcp: bool
) -> None:
    health = upstream(f"health: {own}", f"defaults: {{health: {default}}}").health
    assert health is not None
    assert (health.path, health.tcp) == (path, tcp)


def test_policies_of_an_upstream_are_those_of_the_routes_to_it() -> None:
    config = loaded("""
        defaults: {deadline: X-A, buffer: {request: 1KiB}}
        upstreams:
          u: {targets: 'http://h', hedge: {after: p90}, buffer: {response: 2KiB}, deadline: {trust: all}}
        profiles:
          p: {hedge: {max: 2}, mirror: {upstream: u, percent: 5}, importance: low}
        routes:
          - {path: /a, to: u, use: p, mirror: {compare: on, upstream: u}}
          - {path: /b, to: u, hedge: off, buffer: off, deadline: off}
    """)
    first, second = (one.policies for one in config.routes)
    assert first.hedge == model.Hedge(after=model.Quantile(0.9), max=2)
    assert first.buffer == model.Buffer(request=1024, response=2048)
    assert first.deadline == model.Deadline(header="X-A", trust="all")
    assert first.mirror == model.Mirror(upstream="u", percent=5, compare=model.Compare())
    assert first.importance == "low"
    assert second.hedge is second.deadline is second.mirror is None
    assert second.buffer == model.Buffer()
    assert config.routes[0].origins["hedge.max"].layer == "profile p"
    assert config.routes[0].origins["buffer.request"].layer == "defaults"


# ── rules ───────────────────────────────────────────────────────────────────────────────────────


def test_sticky_needs_what_signs_its_cookie_wherever_it_is_written() -> None:
    text = "defaults: {sticky: gw}\nroutes: [{path: /, to: 'http://h'}]"
    (line,) = refused(text)
    assert line.startswith("1:20: defaults.sticky: sticky needs server: {secret: …}")
    assert loaded(SECRET + text).upstreams["/"].settings.sticky == model.Sticky(cookie="gw")


@pytest.mark.parametrize(
    ("hosts", "told"),
    [
        (("", ""), True),
        (("host: a.example,", ""), True),
        (("host: a.example,", "host: [b.example, a.example],"), True),
        (("host: a.example,", "host: b.example,"), False),
    ],
)
def test_upstreams_that_share_their_clients_have_cookies_of_their_own(
    hosts: tuple[str, str], told: bool
) -> None:
    text = (
        SECRET
        + f"""
upstreams:
  a: {{targets: 'http://a', sticky: gw}}
  b: {{targets: 'http://b', sticky: gw}}
  c: {{targets: 'http://c', sticky: other}}
routes:
  - {{path: /a, {hosts[0]} to: a}}
  - {{path: /b, {hosts[1]} to: b}}
  - {{path: /c, to: c}}
"""
    )
    found = [line for line in warnings(text) if "gw is the cookie of a too" in line]
    assert len(found) == told
    assert all(line.startswith("5:") and " upstreams.b.sticky.cookie: " in line for line in found)


@pytest.mark.parametrize(
    ("place", "mistake", "fix"),
    [
        ("sticky.cookie", "sticky: {cookie: 'a b', ttl: 10}", "'a b' is no name of a cookie"),
        ("health.path", "health: {path: up, rise: 0}", "'up' is no path: write /up"),
        ("health.path", "health: {path: tcp, rise: 0}", "'tcp' is no path: write tcp: true"),
        ("retry.methods", "retry: {methods: idempotant, max: x}", "did you mean idempotent?"),
        ("retry.methods", "retry: {methods: [safe], max: x}", "nor a method such as GET"),
        ("tls.server_name", "tls: {server_name: 'a b', verify: x}", "no name that a certificate"),
        ("discover.dns", "discover: {dns: 'http://x', port: x}", "write it without scheme"),
        ("discover.srv", "discover: {srv: 'a b', refresh: 1}", "no name such as users.svc.local"),
        ("discover.env", "discover: {env: A-B, refresh: 1}", "no name of a variable"),
        ("eject.failure_ratio", "eject: {failure_ratio: 0, base: 1}", "0 is reached without a"),
        ("circuit.error_ratio", "circuit: {error_ratio: 0%, open: 1}", "0 is reached without a"),
        ("tls", "tls: off, slow_start: 1", "write http:// there, or verify: off"),
        ("hedge.after", "hedge: {after: 95%, max: 0}", "95% of answers: write p95"),
    ],
)
def test_a_mistake_is_told_at_its_key_and_beside_others_of_the_same_mapping(
    place: str, mistake: str, fix: str
) -> None:
    targets = "" if "discover" in mistake else "targets: 'http://h', "
    found = refused(f"upstreams: {{u: {{{targets}{mistake}}}}}\nroutes: [{{path: /, to: u}}]")
    assert len(found) == 2
    assert any(f" upstreams.u.{place}: " in str(one) and fix in str(one) for one in found)


def test_one_inherited_mistake_is_told_once() -> None:
    text = "defaults: {eject: {base: 10m}}\nroutes: [{path: /a, to: 'http://h'}, {path: /b, to: 'http://g'}]"
    assert len(refused(text)) == 1


@pytest.mark.parametrize("path", ["/orders/{id}", "{regex: '^/(?P<id>.*)'}"])
def test_a_hash_by_a_capture_is_right_where_every_route_has_it(path: str) -> None:
    quoted = path if path.startswith("{regex") else f"'{path}'"
    text = f"""
        upstreams: {{u: {{targets: 'http://h', balance: 'hash:{{path.id}}'}}}}
        routes: [{{path: {quoted}, to: u}}]
    """
    settings = loaded(text).upstreams["u"].settings
    assert model.hash_key(settings.balance) == "{path.id}"
    assert "on the route other, {path.id}" in messages(
        text.rstrip().removesuffix("]") + ", {name: other, path: /other, to: u}]"
    )


def test_the_targets_of_a_split_may_be_parts_of_one_upstream() -> None:
    config = loaded("""
        upstreams:
          u: {targets: ['http://a', {url: 'http://b', labels: {v: 2, zone: x}}]}
          f: {discover: {file: /dev/null}}
        routes:
          - path: /
            split:
              - {upstream: u, weight: 9}
              - {upstream: u, weight: 1, labels: {v: 2}, sticky_by: cookie.id}
              - {upstream: f, weight: 1, labels: {v: 2}, sticky_by: cookie.id}
    """)
    answer = config.routes[0].answer
    assert isinstance(answer, effective.Forward)
    assert [branch.labels for branch in answer.branches] == [{}, {"v": "2"}, {"v": "2"}]


@pytest.mark.parametrize("layer", ["routes.0", "profiles", "defaults"])
def test_the_upstream_of_a_mirror_must_exist_and_is_used(layer: str) -> None:
    text = "upstreams: {copy: 'http://h'}\n"
    if layer == "routes.0":
        text += "routes: [{path: /, to: 'http://g', mirror: %s}]"
    elif layer == "profiles":
        text += "profiles: {p: {mirror: %s}}\nroutes: [{path: /, to: 'http://g', use: p}]"
    else:
        text += "defaults: {mirror: %s}\nroutes: [{path: /, to: 'http://g'}]"
    assert warnings(text % "copy") == []
    assert warnings(text % "{upstream: copy, percent: 1}") == []
    assert "there is no upstream 'cpoy': did you mean copy?" in messages(text % "cpoy")
    assert "the name of an upstream is wanted" in messages(text % "'http://h'")


WITHOUT_EFFECT = [
    ("health: {tcp: on, method: GET}", "method has no effect"),
    ("health: {tcp: on, expect: 200}", "expect has no effect"),
    ("eject: {min_requests: 5}", "min_requests has no effect without failure_ratio"),
    ("eject: off, panic: 50%", "panic has no effect: eject is off"),
    ("concurrency: 200", "pool.max is 100"),
    ("discover: {env: TARGETS, refresh: 1s}", "refresh has no effect"),
    ("discover: {file: /nowhere.json}", "/nowhere.json cannot be read"),
    ("discover: {dns: h.local, port: 1}, tls: {verify: off}", "no target is https"),
]


@pytest.mark.parametrize(("keys", "fix"), WITHOUT_EFFECT, ids=[keys for keys, _ in WITHOUT_EFFECT])
def test_what_does_nothing_in_an_upstream_is_warned_of(keys: str, fix: str) -> None:
    assert fix in of_upstream(keys)


@pytest.mark.parametrize(
    "keys",
    [
        "health: {tcp: on}",
        "eject: {min_requests: 5, failure_ratio: 50%}",
        "concurrency: 200, pool: 200",
        "concurrency: 200, pool: off",
        "discover: {dns: h.local, port: 1, scheme: https}, tls: {verify: off}",
        "discover: {env: TARGETS}, tls: {verify: off}",
    ],
)
def test_what_does_something_is_not_warned_of(keys: str) -> None:
    assert of_upstream(keys.replace("pool: off", "pool: {max: off}")) == ""


def test_a_port_to_check_is_none_of_a_unix_socket() -> None:
    assert "port has no effect" in of_upstream("health: {path: /x, port: 1}", "unix:/s")


def test_what_is_shared_is_not_warned_of_where_it_does_nothing() -> None:
    shared = "defaults: {panic: 30%, health: {headers: {X-A: b}}}"
    assert of_upstream("eject: off, health: {tcp: on}", rest=shared) == ""


@pytest.mark.parametrize(
    ("policies", "fix"),
    [
        ("hedge: on\nretry: off", "hedge has no effect: retry is off"),
        ("hedge: 5s\ntimeouts: {first_byte: 2s}", "hedge has no effect: timeouts.first_byte is 2s"),
        ("hedge: 5s\ntimeouts: {total: 3s}", "hedge has no effect: timeouts.total is 3s"),
        ("hedge: on\nmethods: [POST, PUT]", "hedge has no effect on POST, PUT: only GET"),
        ("deadline: on", "deadline has no effect on the route /*: its timeouts.total is off"),
        ("deadline: {trust: none}", "has no effect on the route /*: its timeouts.total is off"),
        ("mirror: r2", "r2 gets these requests already"),
        ("importance: low", "importance has no effect: server.overload is off"),
    ],
)
def test_what_does_nothing_in_a_route_is_warned_of(policies: str, fix: str) -> None:
    rest = "server: {overload: off}\nupstreams: {r2: 'http://h'}"
    text = f"{rest}\nroutes:\n  - path: /*\n    to: r2\n"
    text += "".join(f"    {line}\n" for line in policies.splitlines())
    assert fix in "\n".join(warnings(text))


@pytest.mark.parametrize(
    "policies",
    [
        "hedge: on",
        "hedge: 1s\ntimeouts: {first_byte: 2s}",
        "hedge: 1s\ntimeouts: {first_byte: off}",
        "deadline: on\ntimeouts: {total: 5s}",
        "deadline: {trust: all}",
        "importance: high",
    ],
)
def test_a_policy_that_works_is_not_warned_of(policies: str) -> None:
    text = "routes:\n  - path: /*\n    to: http://h\n"
    assert warnings(text + "".join(f"    {line}\n" for line in policies.splitlines())) == []


def test_an_inherited_hedge_goes_with_the_retries_of_a_route() -> None:
    text = "defaults: {hedge: p95}\nroutes: [{path: /, to: 'http://h', retry: off}]"
    assert warnings(text) == []


@pytest.mark.parametrize(
    "key", ["mirror: u", "hedge: on", "buffer: 1MiB", "deadline: {trust: all}"]
)
def test_what_is_for_forwarding_does_nothing_for_an_answer_of_our_own(key: str) -> None:
    text = f"upstreams: {{u: 'http://h'}}\nroutes: [{{path: /, respond: 200, {key}}}, {{path: /u, to: u}}]"
    name = key.partition(":")[0]
    assert any(
        f"{name} has no effect on a route that answers with respond" in one
        for one in warnings(text)
    )


def test_the_file_of_targets_is_relative_to_the_file_that_names_it(tmp_path: Path) -> None:
    config = loaded(
        "upstreams: {u: {discover: {file: t.json}}}\nroutes: [{path: /, to: u}]", base=tmp_path
    )
    found = config.upstreams["u"].settings.discover
    assert found is not None
    assert found.file == str(tmp_path / "t.json")


@pytest.mark.parametrize(
    ("key", "rest"), [("circuit", "error_ratio: 0.2, "), ("concurrency", "per_target: 5, ")]
)
def test_what_refuses_may_only_report(key: str, rest: str) -> None:
    for written, mode in (
        ("", "enforce"),
        ("mode: enforce", "enforce"),
        ("mode: report", "report"),
    ):
        settings = upstream(f"{key}: {{{rest}{written}}}")
        assert getattr(settings, key).mode == mode
    text = f"upstreams: {{u: {{targets: 'http://h', {key}: {{{rest}mode: off}}}}}}"
    assert "report" in messages(text + "\nroutes: [{path: /, to: u}]")


def test_a_limit_that_is_enforced_and_only_reported_is_refused() -> None:
    text = "upstreams: {u: {targets: 'http://h', concurrency: {adaptive: enforce, mode: report}}}"
    assert "write adaptive: report" in messages(text + "\nroutes: [{path: /, to: u}]")


@pytest.mark.parametrize(
    "keys", ["health: {path: /x, headers: {Content-Length: '0'}}", "deadline: TE", "deadline: Host"]
)
def test_fields_that_mean_something_else_are_refused(keys: str) -> None:
    text = f"upstreams: {{u: {{targets: 'http://h', {keys}}}}}\nroutes: [{{path: /, to: u}}]"
    assert any(
        words in messages(text) for words in ("is made by the gateway", "means something else")
    )
