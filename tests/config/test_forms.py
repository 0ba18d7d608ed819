"""Short forms and full forms mean the same."""

from __future__ import annotations

import pytest

from gateway.config import ConfigError, load_text, model
from gateway.config.forms import Model
from gateway.config.written import Document, Route
from tests.config.kit import ROUTE, loaded, messages, route

PAIRS = [
    ("body: 20MiB", "body: {max: 20MiB}"),
    ("body: off", "body: {max: off}"),
    ("body: unlimited", "body: {max: unlimited}"),
    ("retry: 2", "retry: {max: 2}"),
    ("retry: on", "retry: {}"),
    ("retry: {on: connect}", "retry: {on: [connect]}"),
    ("retry: {on: 503}", "retry: {on: ['503']}"),
    ("retry: {methods: GET}", "retry: {methods: [GET]}"),
    ("methods: GET", "methods: [GET]"),
    ("host: a.example", "host: [a.example]"),
    ("host: '*.example'", "host: .example"),
    ("path: /a", "path: {text: /a}"),
    ("upgrade: foo", "upgrade: [foo]"),
    ("errors: html", "errors: {format: html}"),
    ("errors: {intercept: 503}", "errors: {intercept: [503]}"),
    ("timeouts: {total: off}", "timeouts: {total: null}"),
    ("timeouts: {total: unlimited}", "timeouts: {total: false}"),
    (
        "timeouts: off",
        "timeouts: {pool_wait: off, connect: off, first_byte: off, idle: off, total: off}",
    ),
    ("headers: {request: {remove: X-A}}", "headers: {request: {remove: [X-A]}}"),
    ("headers: {request: {add: {X-A: b}}}", "headers: {request: {add: {X-A: [b]}}}"),
    ("rewrite: {query: {remove: a}}", "rewrite: {query: {remove: [a]}}"),
    ("when: {header: {x: a}}", "when: {header: {x: {equals: a}}}"),
    ("when: {header: {x: [a, b]}}", "when: {header: {x: {one_of: [a, b]}}}"),
    ("when: {query: {x: present}}", "when: {query: {x: {present: true}}}"),
    ("when: {cookie: {x: absent}}", "when: {cookie: {x: {present: false}}}"),
    ("when: {client_ip: 10.0.0.0/8}", "when: {client_ip: [10.0.0.0/8]}"),
    ("websocket: off", "websocket: null"),
    ("access_log: off", "access_log: false"),
]


@pytest.mark.parametrize(("short", "full"), PAIRS, ids=[short for short, _ in PAIRS])
def test_a_short_form_is_its_full_form(short: str, full: str) -> None:
    both = []
    for written in (short, full):
        made = route(written if "path" not in written else "", rest="")
        if "path" in written:
            made = load_text(f"routes: [{{name: r, to: 'http://h:1', {written}}}]").routes[0]
        both.append((made.match, made.policies, made.answer))
    if "add:" in short:  # one value or a list of one: both are kept
        both = [(match, repr(policies).replace("('b',)", "'b'"), a) for match, policies, a in both]  # type: ignore[misc]
    assert both[0] == both[1]


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("to: http://h:1", "to: [http://h:1]"),
        ("static: /srv", "static: {root: /srv}"),
        ("redirect: /x", "redirect: {to: /x}"),
        ("respond: 404", "respond: {status: 404}"),
        ("static: {root: /srv, precompressed: br}", "static: {root: /srv, precompressed: [br]}"),
    ],
)
def test_a_short_answer_is_its_full_form(short: str, full: str) -> None:
    assert route(answer=short).answer == route(answer=full).answer


SECTIONS = [
    ("listeners: 127.0.0.1:1", "listeners: [{bind: {host: 127.0.0.1, port: 1}}]"),
    ("listeners: ['[::1]:1']", "listeners: [{bind: {host: '::1', port: 1}}]"),
    ("listeners: ['unix:/s']", "listeners: [{bind: {unix: /s}}]"),
    (
        "listeners: [{bind: 127.0.0.1:1, redirect_to_https: true}]",
        "listeners: [{bind: 127.0.0.1:1, redirect_to_https: {port: 443}}]",
    ),
    ("admin: 127.0.0.1:1", "admin: {bind: {host: 127.0.0.1, port: 1}}"),
    ("server: {request_id: X-Id}", "server: {request_id: {header: X-Id}}"),
    ("server: {forwarded: off}", "server: {forwarded: 'off'}"),
    ("server: {forwarded: false}", "server: {forwarded: off}"),
    ("server: {trusted_proxies: unix}", "server: {trusted_proxies: [unix]}"),
    (
        "observability: {access_log: combined}",
        "observability: {access_log: {format: combined}}",
    ),
    ("errors: html", "errors: {format: html}"),
    ("upstreams: {u: 'http://h'}", "upstreams: {u: {targets: [{url: 'http://h'}]}}"),
    ("upstreams: {u: ['http://h']}", "upstreams: {u: {targets: {url: 'http://h'}}}"),
    (
        "upstreams: {u: {targets: [http://h], pool: 5}}",
        "upstreams: {u: {targets: [http://h], pool: {max: 5}}}",
    ),
    (
        "tests: [{name: t, request: {post: 'http://h/'}, expect: {status: 404}}]",
        "tests: [{name: t, request: {method: POST, url: 'http://h/'}, expect: {status: 404}}]",
    ),
]


@pytest.mark.parametrize(("short", "full"), SECTIONS, ids=[short for short, _ in SECTIONS])
def test_a_short_section_is_its_full_form(short: str, full: str) -> None:
    one, other = loaded(f"{short}\n{ROUTE}").masked, loaded(f"{full}\n{ROUTE}").masked
    assert one == other


def test_switches_are_off_in_every_section() -> None:
    config = loaded(f"""
        admin: off
        server: {{request_id: off, forwarded: off, trusted_proxies: off,
                  limits: {{connections: unlimited, body_idle: off, keepalive_idle: unlimited}}}}
        observability: {{access_log: off, server_timing: off}}
        {ROUTE.replace(chr(10), chr(10) + " " * 8)}
    """)
    assert config.admin is None
    assert config.server.request_id is None
    assert config.server.trusted_proxies == ()
    assert config.server.limits.connections is None
    assert config.server.limits.body_idle is None
    assert config.observability.access_log is None


def test_zero_is_a_value_and_no_switch() -> None:
    made = route("body: 0B\nretry: {max: 0}\ntimeouts: {idle: 0s}").policies
    assert made.body.max == 0
    assert made.retry is not None
    assert made.retry.max == 0
    assert made.timeouts.idle == 0


@pytest.mark.parametrize(
    ("policies", "fix"),
    [
        ("timeouts: 30s", "a mapping is wanted, not '30s'; its keys: pool_wait, connect"),
        ("headers: [a]", "a mapping is wanted, not a list; its keys: request, response"),
        ("body: [1B]", "a size such as 10MiB is wanted, not a list"),
        ("body: {max: {a: 1}}", "a size such as 10MiB is wanted, not a mapping"),
        ("retry: {max: off}", "a whole number is wanted; off is none"),
        ("retry: {replay_body: off}", "no size"),
        ("access_log: json", "on or off is wanted, not 'json'"),
        ("errors: {format: xml}", "'xml' is none of problem+json, html, template"),
        ("retry: {on: conect}", "did you mean connect?"),
        ("retry: {on: 200}", "only statuses from 400 to 599"),
        ("upgrade: h2c", "h2c is never let through"),
        ("upgrade: websocket", "`websocket: off` is its switch"),
        ("when: {header: {x: {}}}", "exactly one of equals, one_of, present and regex"),
        ("when: {header: {x: []}}", "this list is empty"),
        ("when: {scheme: ftp}", "none of http, https"),
        ("when: {header: {x: null}}", "present, absent or {regex: …} is wanted"),
        ("priority: high", "no whole number"),
        ("methods: get", "write GET"),
        ("methods: [G T]", "no method"),
        ("headers: {request: {set: {a b: c}}}", "no name of a header"),
        ('headers: {request: {set: {a: "b\\nc"}}}', "no line breaks"),
    ],
)
def test_a_wrong_form_is_refused_with_what_is_wanted(policies: str, fix: str) -> None:
    with pytest.raises(ConfigError) as raised:
        route(policies)
    assert fix in str(raised.value)


@pytest.mark.parametrize(
    ("bind", "fix"),
    [
        ("'8080'", "write 127.0.0.1:8080, or 0.0.0.0:8080 for every address"),
        ("':8080'", "write 0.0.0.0:8080 or '[::]:8080'"),
        ("localhost", "write localhost:8080"),
        ("127.0.0.1:99999", "a number up to 65535"),
        ("127.0.0.1:x", "no port"),
        ("999.0.0.1:80", "999.0.0.1 is no host"),
        ("'::1:80'", "IPv6 needs brackets"),
        ("'[::x]:80'", "no IPv6 address"),
        ("http://h:80", "is a URL: write the address alone"),
        ("'unix:'", "write unix:/run/gateway.sock"),
        ("{host: 127.0.0.1}", "bind takes host and port, or unix"),
        ("{port: 80}", "host is missing"),
        ("{unix: /s, port: 1}", "bind takes host and port, or unix"),
        ("{unix: /s, mode: 9}", "is not octal: write '0660'"),
        ("{host: h, port: 1, mode: '0660'}", "mode is for unix sockets only"),
    ],
)
def test_a_wrong_address_is_refused_with_the_fix(bind: str, fix: str) -> None:
    assert fix in messages(f"listeners: [{{bind: {bind}}}]\n{ROUTE}")


def test_a_unix_socket_may_have_a_mode() -> None:
    config = loaded(f"listeners: [{{bind: {{unix: /s, mode: '0660'}}}}]\n{ROUTE}")
    assert config.listeners[0].bind.mode == "0660"
    assert config.listeners[0].name == "unix:/s"


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("127.0.0.1:80/x", "write http://127.0.0.1:80/x"),
        ("ws://h", "write http://h"),
        ("ftp://h", "http, https and unix are"),
        ("http://h?x", "has no query"),
        ("http://h/#x", "has no fragment"),
        ("http://u:p@h", "http://***@h: the URL of a target has no user"),
        ("http://", "names no host"),
        ("http://h:0", "the port is missing"),
        ("http://h:x", "no URL"),
        ("http://h:99999", "no URL"),
        ("'http://h h'", "holds a blank"),
        ("'unix:'", "write unix:/run/app.sock"),
        ("http://h_!/", "no host name"),
    ],
)
def test_a_wrong_target_is_refused_with_the_fix(url: str, fix: str) -> None:
    assert fix in messages(f"routes: [{{path: /x, to: [{url}]}}]")
    assert fix in messages(f"upstreams: {{u: {{targets: [{{url: {url}}}]}}}}\nroutes: [{{to: u}}]")


@pytest.mark.parametrize(
    "url", ["http://h", "HTTPS://h:1/a/b", "http://[::1]:80", "http://h/@x", "http://a_b:1"]
)
def test_a_right_target_is_kept_as_written(url: str) -> None:
    config = loaded(f"routes: [{{path: /x, to: ['{url}']}}]")
    assert config.upstreams["/x"].settings.targets[0].url.lower() == url.lower()


@pytest.mark.parametrize(
    ("path", "fix"),
    [
        ("orders", "write /orders"),
        ("/a/*/b", "stands alone at the end"),
        ("/a*", "stands alone at the end"),
        ("/a/{id}.json", "a capture is a whole segment"),
        ("/a/{Id}", "write {id}"),
        ("/a/{}", "write {id}"),
        ("/{rest...}/b", "stands at the end"),
        ("/{a}/{a}", "two captures have the same name"),
        ("/a?b", "when: {query: …}"),
        ("'/a#b'", "has no #"),
        ("/a/../b", "no dot segments"),
        ("/a%zz", "written %25"),
        ("'/a b'", "such as %20"),
        ("{regex: '('}", "this regular expression is wrong"),
        ("{text: /a, regex: b}", "a path is a text such as /a/*, or"),
        ("{}", "a path is a text such as /a/*, or"),
    ],
)
def test_a_wrong_path_is_refused_with_the_fix(path: str, fix: str) -> None:
    text = f"routes:\n  - to: http://h\n    path: {path}\n"
    assert fix in messages(text)


@pytest.mark.parametrize(
    "path", ["/", "/a", "/a/", "/a/*", "/*", "/{id}", "/a/{rest...}", "/café", "/a%20b", "/a;b"]
)
def test_a_right_path_is_kept_as_written(path: str) -> None:
    assert loaded(f"routes: [{{to: 'http://h', path: '{path}'}}]").routes[0].match.path.text == path


def _kinds(kind: type[Model]) -> set[type[Model]]:
    return {kind}.union(*map(_kinds, kind.__subclasses__()))


def test_a_key_that_is_not_supported_yet_is_refused_and_has_no_field() -> None:
    assert issubclass(Document, Model)
    later = {kind: kind.later for kind in _kinds(Model) if kind.later}
    assert {Route, Document, model.Server} <= later.keys()
    for kind, keys in later.items():
        assert not keys & kind.table().keys(), kind
        assert all(kind.unknown(key) == f"{key} is not supported yet" for key in keys)
