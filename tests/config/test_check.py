"""Rules across fields, each with the place and the fix that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.config import load_text, placeholders
from gateway.routing import template
from tests.config.kit import ROUTE, loaded, messages, refused

if TYPE_CHECKING:
    from pathlib import Path

UP = "upstreams: {orders: 'http://h:1', users: 'http://h:2'}\n"


def warnings(text: str) -> list[str]:
    return [str(warning).removeprefix("gateway.yaml:") for warning in loaded(text).warnings]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            UP
            + "routes: [{path: /a, to: order}, {path: /b, split: [{upstream: users, weight: 1}]}]",
            "2:25: routes[0].to: there is no upstream 'order': did you mean orders?",
        ),
        (
            UP + "routes: [{path: /a, split: [{upstream: x, weight: 1}]}]",
            "2:40: routes[0].split[0].upstream: there is no upstream 'x'; known are orders, users",
        ),
        (
            UP + "routes: [{path: /a, to: api.internal}]",
            "2:25: routes[0].to: there is no upstream 'api.internal': for an address write http://api.internal",
        ),
        (
            "profiles: {public: {}}\nroutes: [{path: /a, to: 'http://h', use: [publik]}]",
            "2:43: routes[0].use[0]: there is no profile 'publik': did you mean public?",
        ),
        (
            "routes: [{path: /a, to: 'http://h', when: {listener: inner}}]",
            "1:54: routes[0].when.listener: there is no listener 'inner'; known are 127.0.0.1:8080",
        ),
    ],
)
def test_a_name_that_there_is_not_is_told_with_the_nearest(text: str, line: str) -> None:
    assert refused(text)[0] == line


def test_names_are_checked_in_a_route_that_has_other_mistakes() -> None:
    lines = refused(UP + "routes: [{path: a, to: nope, use: p, redirect: /x}]")
    assert len(lines) == 4
    assert "there is no upstream 'nope'" in lines[2] + lines[1]


def test_an_upstream_that_is_wrong_is_no_unknown_one() -> None:
    assert len(refused("upstreams: {u: 'ws://h'}\nroutes: [{to: u}]")) == 1


@pytest.mark.parametrize(
    ("answers", "fix"),
    [
        ("to: http://h, redirect: /x", "exactly one answer; this one has to and redirect"),
        ("static: /s, respond: 404, to: http://h", "has static and respond and to"),
        ("methods: GET", "nothing answers: write one of to, split, static, redirect, respond"),
        ("static: /s, compose: {}", "this one has static and compose"),
    ],
)
def test_a_route_has_exactly_one_answer(answers: str, fix: str) -> None:
    assert fix in messages(f"routes: [{{path: /a, {answers}}}]")


def test_more_than_one_worker_is_told_beside_other_mistakes() -> None:
    lines = refused(f"server: {{workers: 4, secret: x}}\n{ROUTE}")
    assert len(lines) == 2


def test_names_of_routes_differ() -> None:
    text = "routes: [{path: /a, name: x, to: 'http://h'}, {path: /b, name: x, to: 'http://h'}]"
    assert "two routes are called 'x', the other at gateway.yaml:1:10" in messages(text)
    text = "routes: [{path: /a, to: 'http://h', priority: 1}, {path: /a, to: 'http://h'}]"
    assert "give each a name" in messages(text)


def test_an_anonymous_upstream_cannot_have_the_name_of_another() -> None:
    text = UP + "routes: [{name: orders, path: /a, to: 'http://h'}, {path: /b, to: orders}]"
    assert "would be called 'orders', as the one at gateway.yaml:1:" in messages(text)
    assert loaded(UP + "routes: [{name: orders, to: orders}]").routes[0].name == "orders"


@pytest.mark.parametrize(
    ("listeners", "fix"),
    [
        ("['127.0.0.1:1', '127.0.0.1:1']", "127.0.0.1:1 is taken by 127.0.0.1:1"),
        ("['0.0.0.0:1', '127.0.0.1:1']", "127.0.0.1:1 is taken by 0.0.0.0:1"),
        ("['unix:/s', 'unix:/s']", "is taken by unix:/s"),
        ("['127.0.0.1:9901']", "is the address of the admin listener too"),
        ("['127.0.0.1:0', '127.0.0.1:0']", "give each a name"),
        (
            "[{bind: '127.0.0.1:1', name: a}, {bind: '127.0.0.1:2', name: a}]",
            "two listeners are called 'a'",
        ),
    ],
)
def test_a_place_is_taken_once(listeners: str, fix: str) -> None:
    assert fix in messages(f"listeners: {listeners}\n{ROUTE}")


def test_places_that_differ_are_free() -> None:
    config = loaded(
        "listeners: ['127.0.0.1:1', '127.0.0.1:2', '127.0.0.2:1', '[::1]:1', 'unix:/a', 'unix:/b',"
        f" {{bind: '127.0.0.1:0', name: a}}, {{bind: '127.0.0.1:0', name: b}}]\n{ROUTE}"
    )
    assert len(config.listeners) == 8
    assert loaded(ROUTE).listeners[0].name == "127.0.0.1:8080"
    assert str(loaded(ROUTE).admin.bind) == "127.0.0.1:9901"  # type: ignore[union-attr]


LATER = {
    "": "plugins",
    "server": "reload",
    "admin": "write",
    "observability": "tracing",
    "defaults": "compress cache validate slo plugins",
    "profiles.p": "compress",
    "routes.0": "compress cache validate slo plugins compose",
    "routes.0.websocket": "max_message",
}


@pytest.mark.parametrize(
    ("section", "key"),
    [(section, key) for section, keys in LATER.items() for key in keys.split()],
)
def test_a_key_of_a_later_version_is_refused_as_such(section: str, key: str) -> None:
    from gateway.config import ConfigError, load_dict

    document: dict[str, object] = {
        "server": {},
        "admin": {},
        "observability": {},
        "defaults": {},
        "listeners": [{"bind": "127.0.0.1:1"}],
        "profiles": {"p": {}},
        "upstreams": {"u": {"targets": [{"url": "http://h"}]}},
        "routes": [{"split": [{"upstream": "u", "weight": 1}], "body": {}, "websocket": {}}],
        "tests": [{"name": "t", "request": {"get": "http://h/"}, "expect": {"status": 404}}],
    }
    load_dict(document)
    here: object = document
    for part in section.split(".") if section else ():
        here = here[int(part)] if part.isdigit() else here[part]  # type: ignore[index]
    here[key] = {"a": 1}  # type: ignore[index]
    with pytest.raises(ConfigError) as raised:
        load_dict(document)
    found = [problem.message for problem in raised.value.problems]
    assert f"{key} is not supported yet" in found


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("server: {workers: 4}", "more than one worker is not supported yet: write 1"),
        ("upstreams: {u: {targets: ['http://h'], balance: robin}}", "no way to balance"),
        ("version: 2", "version: 1 is the only one"),
        ("profiles: {p: {use: [a]}}", "profiles hold policies only"),
        ("profiles: {p: {path: /a}}", "profiles hold policies only"),
        ("defaults: {use: [a]}", "defaults hold policies only"),
        ("defaults: {to: 'http://h'}", "defaults hold policies only"),
        ("defaults: {targets: []}", "write it in an upstream"),
        ("profiles: {p: {pool: 5}}", "write it in an upstream"),
        ("upstreams: {u: {targets: ['http://h'], headers: {}}}", "write it in the route"),
        ("routs: []", "did you mean routes?"),
        ("upstreams: {u: {target: 'http://h'}}", "did you mean targets?"),
        ("upstreams: {u: {balance: p2c}}", "targets is missing"),
        ("upstreams: {'a b': 'http://h'}", "'a b' is no name"),
        ("upstreams: {u: {targets: ['http://h', 'http://h']}}", "use weight for a larger share"),
        ("upstreams: {u: {targets: [{url: 'http://h', weight: 0}]}}", "at least 1 is wanted"),
        ("upstreams: {u: {targets: ['https://h'], tls: {cert: pyproject.toml}}}", "key is missing"),
        ("upstreams: {u: {targets: ['https://h'], tls: {ca: nowhere.pem}}}", "cannot be read"),
        ("upstreams: [a]", "upstreams: NAME: …"),
        ("tests: {}", "each of the tests begins"),
        ("errors: {format: template}", "format: template needs template: FILE"),
        ("errors: {format: template, template: nowhere}", "cannot be read"),
        ("errors: {pages: {503: nowhere}}", "nowhere cannot be read"),
        ("errors: {pages: {abc: pyproject.toml}}", "'abc' is no status of a failure"),
        ("observability: {access_log: jason}", "did you mean json?"),
        ("observability: {access_log: '{nope}'}", "there is no placeholder {nope}"),
        ("observability: {access_log: {fields: {add: {a: '{claim.x}'}}}}", "nobody is known"),
        ("observability: {access_log: {fields: {mask: [cookies]}}}", "cannot be masked"),
        ("observability: {metrics: {buckets: [5s, 1s]}}", "longer than the one before"),
        ("server: {name: a b}", "must be one word"),
        ("admin: {token: ''}", "a secret cannot be empty"),
    ],
)
def test_a_wrong_section_is_refused_with_the_fix(text: str, fix: str) -> None:
    assert fix in messages(f"{text}\n{ROUTE}").replace("begin with", "begins")


@pytest.mark.parametrize(
    ("policies", "fix"),
    [
        ("rewrite: {path: /a, strip_prefix: /b}", "strip_prefix and path exclude each other"),
        ("rewrite: {path: /a, regex: {match: a, replace: b}}", "regex and path exclude each other"),
        ("rewrite: {strip_prefix: a}", "write /a"),
        ("rewrite: {strip_prefix: '/{path}'}", "a prefix is fixed"),
        ("rewrite: {regex: {match: '(a)', replace: '\\2'}}", "does not fit the regex"),
        ("rewrite: {regex: {match: '(?P<x>a)', replace: '\\g<y>'}}", "does not fit the regex"),
        ("rewrite: {regex: {match: 'a(', replace: b}}", "this regular expression is wrong"),
        ("rewrite: {path: '/{path.idd}'}", "no capture 'idd': did you mean id?"),
        ("headers: {request: {set: {X: '{claim.sub}'}}}", "nobody is known"),
        ("headers: {request: {set: {X: '{consumer}'}}}", "nobody is known"),
        ("headers: {response: {add: {X: ['{clientip}']}}}", "did you mean client_ip?"),
        ("headers: {request: {set: {X: '{tls.der}'}}}", "there is no placeholder {tls.der}"),
        ("headers: {request: {set: {Host: x}}}", "write rewrite: {host: …}"),
        ("headers: {response: {set: {Content-Length: '1'}}}", "made by the gateway"),
        ("rewrite: {query: {set: {a: '{header}'}}}", "there is no placeholder {header}"),
    ],
)
def test_a_wrong_policy_is_refused_with_the_fix(policies: str, fix: str) -> None:
    text = f"routes:\n  - path: '/a/{{id}}'\n    to: http://h\n    {policies}\n"
    assert fix in messages(text)


@pytest.mark.parametrize(
    ("answer", "fix"),
    [
        ("redirect: '/{path.x}'", "the path has no capture 'x'; this path has no captures"),
        ("redirect: {to: /x, status: 200}", "none of 301, 302, 303, 307, 308"),
        ("respond: {json: {a: ['{nope}']}}", "there is no placeholder {nope}"),
        ("respond: {body: a, json: {}}", "body or json, not both"),
        ("respond: {status: 204, body: a}", "status 204 has no body"),
        ("respond: {status: 101}", "at least 200"),
        ("respond: {headers: {Connection: close}}", "made by the gateway"),
        ("split: []", "this list is empty"),
        ("split: [{upstream: u}]", "weight is missing"),
        ("split: [{upstream: u, weight: 1}, {upstream: u, weight: 2}]", "in this split twice"),
        ("split: [{upstream: u, weight: 1.5}]", "no whole number"),
        ("to: []", "this list is empty"),
        ("to: [http://h, http://h]", "written twice"),
        ("to: [u]", "'u' is no URL"),
        ("to: [{url: http://h}]", "weights are written in an upstream"),
        ("static: {root: /s, precompressed: [lz]}", "none of br, gzip, zstd"),
        ("static: {index: a}", "root is missing"),
    ],
)
def test_a_wrong_answer_is_refused_with_the_fix(answer: str, fix: str) -> None:
    assert fix in messages(f"upstreams: {{u: 'http://h'}}\nroutes:\n  - path: /a\n    {answer}\n")


def test_an_inherited_mistake_is_told_once_where_it_is_written() -> None:
    lines = refused("""
        defaults: {headers: {request: {set: {X: '{nope}'}}}}
        profiles: {p: {rewrite: {path: '/{path.id}'}}}
        routes:
          - {path: /a, to: 'http://h'}
          - {path: /b, to: 'http://h', use: p}
          - {path: '/c/{id}', to: 'http://h', use: p}
    """)
    assert len(lines) == 2
    assert lines[0].startswith(
        "2:41: defaults.headers.request.set.X: there is no placeholder {nope}"
    )
    assert lines[1].startswith("3:32: profiles.p.rewrite.path: {path.id}: the path has no capture")


def test_other_braces_are_text() -> None:
    body = "'{{client_ip} {Not} { } {} {a b} {header.X} {client_ip|x} {query.a|none}'"
    assert loaded(f"routes: [{{respond: {{body: {body}}}}}]")


def test_the_placeholders_are_those_that_are_rendered() -> None:
    assert placeholders.SIMPLE == template.SIMPLE
    assert placeholders.KEYED == template.KEYED
    assert placeholders.IDENTITY == template.IDENTITY
    assert placeholders.TLS == template.TLS


@pytest.mark.parametrize(
    ("policies", "warning"),
    [
        (
            "respond: 404\n    retry: off",
            "retry has no effect on a route that answers with respond",
        ),
        ("static: /s\n    websocket: off", "websocket has no effect"),
        ("redirect: /x\n    rewrite: {strip_prefix: /a}", "rewrite has no effect"),
    ],
)
def test_a_policy_without_effect_is_a_warning(policies: str, warning: str) -> None:
    assert warning in warnings(f"routes:\n  - path: /a\n    {policies}\n")[-1]


def test_a_static_root_that_is_not_there_is_a_warning(tmp_path: Path) -> None:
    text = "routes:\n  - path: /a\n    static: {}\n"
    (told,) = warnings(text.format(tmp_path / "nowhere"))
    assert told == f"3:13: routes[0].static: there is no folder {tmp_path / 'nowhere'}"
    assert warnings(text.format(tmp_path)) == []


def test_what_nobody_uses_is_a_warning() -> None:
    text = UP + "profiles: {p: {}}\nroutes: [{path: /a, to: users}]"
    assert warnings(text) == [
        "1:13: upstreams.orders: no route uses the upstream orders",
        "2:12: profiles.p: no route uses the profile p",
    ]
    assert "there are no routes" in warnings("version: 1\n")[0]
    text = f"listeners: [{{bind: '127.0.0.1:1', redirect_to_https: true}}]\n{ROUTE}"
    assert "there is none to redirect to https" in warnings(text)[0]
    text = "upstreams: {u: {targets: ['http://h'], tls: {verify: false}}}\nroutes: [{to: u}]"
    assert "tls has no effect" in warnings(text)[0]


def test_routes_that_tie_are_an_error_that_names_both() -> None:
    text = (
        "routes: [{name: a, path: '/{x}', to: 'http://h'}, {name: b, path: '/{y}', to: 'http://h'}]"
    )
    (line,) = refused(text)
    assert "a" in line
    assert "b" in line
    assert "GET" in line


def test_a_route_that_never_matches_is_a_warning() -> None:
    text = (
        "routes: [{name: a, path: '/*', priority: 1, to: 'http://h'}, "
        "{name: b, path: /x, to: 'http://h'}]"
    )
    assert len(warnings(text)) == 1


@pytest.mark.parametrize(
    ("test", "fix"),
    [
        ("request: {get: 'http://h/'}, expect: {route: s}", "there is no route 's'"),
        ("request: {get: 'http://h/'}, expect: {upstream: s}", "there is no upstream 's'"),
        ("request: {get: 'http://h/'}, expect: {reason: no_rout}", "did you mean no_route?"),
        (
            "request: {get: 'http://h/'}, expect: {status: 200, upstream: r}",
            "a forwarded request has no status here",
        ),
        ("request: {get: 'http://h/'}, expect: {}", "nothing is expected"),
        ("request: {get: /x}, expect: {route: r}", "write http://HOST/PATH"),
        ("request: {url: 'http://h/'}, expect: {route: r}", "exactly one of get head post"),
        (
            "request: {get: 'http://h/', post: 'http://h/'}, expect: {route: r}",
            "exactly one of get head post",
        ),
        ("request: {get: 'http://h/', client_ip: x}, expect: {route: r}", "'x' is no address"),
        ("request: {get: 'http://h/', header: {}}, expect: {route: r}", "did you mean headers?"),
        ("request: {get: 'http://h/'}", "expect is missing"),
        ("request: {get: 'http://h/'}, expect: {reason: overloaded}", "takes load, time or"),
        ("request: {get: 'http://h/'}, expect: {reason: connect_refused}", "takes load, time or"),
        ("request: {get: 'http://h/'}, expect: {reason: client_timeout}", "takes load, time or"),
        (
            "request: {get: 'http://h/'}, expect: {reason: invalid_request_schema}",
            "is not supported yet",
        ),
        (
            "request: {get: 'http://h/'}, expect: {reason: fault_injected}",
            "no route has a fault.abort with percent: 100",
        ),
    ],
)
def test_a_wrong_inline_test_is_refused_with_the_fix(test: str, fix: str) -> None:
    assert fix in messages(f"{ROUTE}tests: [{{name: t, {test}}}]")


def test_all_that_is_wrong_in_an_inline_test_is_told_though_a_part_of_it_is_missing() -> None:
    assert refused(
        f"{ROUTE}tests:\n"
        "  - request: {get: /x, headers: {a b: c}}\n"
        "    expect: {route: nope, reason: wrong, upstream: zz, statu: 3}\n"
        "  - expect: {route: nope, status: 200, upstream_path: /}\n"
        "  - expect: off\n"
    ) == [
        "4:5: tests[0]: name is missing",
        "4:14: tests[0].request: '/x' is no URL: write http://HOST/PATH",
        "4:34: tests[0].request.headers.a b: 'a b' is no name of a header: write one such as X-Tenant",
        "5:21: tests[0].expect.route: there is no route 'nope'; known are r",
        "5:35: tests[0].expect.reason: 'wrong' is no reason",
        "5:52: tests[0].expect.upstream: there is no upstream 'zz'; known are r",
        "5:56: tests[0].expect.statu: 'statu' is not known here: did you mean status?",
        "6:5: tests[1]: name is missing",
        "6:21: tests[1].expect.route: there is no route 'nope'; known are r",
        "6:35: tests[1].expect.status: a forwarded request has no status here: no upstream is asked",
        "7:5: tests[2]: name is missing",
        "7:13: tests[2].expect: nothing is expected: write route: NAME, or status: 404",
    ]


def test_a_fault_that_may_be_expected_is_not_missed_where_a_route_could_not_be_read() -> None:
    text = "routes: [{name: r, path: /*, to: 'http://h', fault: {abort: 5}}]\n"
    told = refused(
        text + "tests: [{name: t, request: {get: 'http://h/'}, expect: {reason: fault_injected}}]"
    )
    assert len(told) == 1
    assert "fault.abort" in told[0]


def test_inline_tests_are_read_with_their_places() -> None:
    config = loaded(
        ROUTE + "tests:\n  - name: t\n    request: {head: 'http://h/x', headers: {A: 1}, body: b}\n"
        "    expect: {route: r, upstream: r, upstream_path: /x, upstream_headers: {a: 1}}\n"
    )
    (test,) = config.tests
    assert (test.request.method, test.request.url) == ("HEAD", "http://h/x")
    assert test.request.headers == {"A": "1"}
    assert test.request.client_ip == "127.0.0.1"
    assert test.expect.upstream_headers == {"a": "1"}
    assert str(config.test_places[0]) == "gateway.yaml:4:5"


def test_pages_of_errors_are_files_with_known_placeholders(tmp_path: Path) -> None:
    (tmp_path / "page").write_text("{status} {title} {request_id} {reason} {nope}")
    text = f"errors: {{format: template, template: page}}\n{ROUTE}"
    assert "there is no placeholder {nope}" in refused(text, tmp_path)[0]
    (tmp_path / "page").write_text("{status} {title} {request_id} {reason}")
    config = load_text(text, base=tmp_path)
    assert config.errors.template == str(tmp_path / "page")
    route = "routes: [{path: /a, to: 'http://h', errors: {pages: {503: gone.html}}}]"
    assert "routes[0].errors.pages.503" in refused(route, tmp_path)[0]
