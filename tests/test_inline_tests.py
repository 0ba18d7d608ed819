"""The `tests:` of a configuration."""

from __future__ import annotations

from dataclasses import replace
from textwrap import indent
from typing import TYPE_CHECKING

import pytest

from gateway import inline_tests
from gateway.config import load_text, model

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
server: {trusted_proxies: [10.0.0.0/8]}
listeners:
  - {bind: "127.0.0.1:8080", redirect_to_https: true}
upstreams:
  orders: {targets: ["http://10.9.9.9:8000/base/"]}
  next: {targets: ["http://10.9.9.8:8000"], host: target}
routes:
  - name: orders
    host: api.example.com
    path: /orders/*
    methods: [GET, POST]
    split: [{upstream: next, weight: 1}, {upstream: orders, weight: 9}]
    rewrite: {strip_prefix: /orders, query: {set: {source: gw}}}
    body: 4B
    headers:
      request: {set: {X-Tenant: "{header.x-t}", X-Path: "{query.none|n}"}, remove: [X-Debug]}
  - name: chosen
    host: api.example.com
    path: /next/*
    to: next
  - name: hello
    host: .example.com
    path: /hello/{name}
    respond: {status: 201, headers: {X-Who: "{path.name}"}, json: {hello: "{path.name}"}}
    headers: {response: {set: {X-Edge: "1"}}}
  - name: old
    host: api.example.com
    path: /old/{rest...}
    redirect: "https://www.example.com/{path.rest}"
  - name: site
    host: www.example.com
    path: /*
    static: ROOT
"""


def problems(test: str, root: Path | None = None, config: str = CONFIG) -> list[str]:
    """What one test complains about."""
    text = (
        config.replace("ROOT", str(root or "/nowhere"))
        + "tests:\n  - name: it\n"
        + indent(test, "    ")
    )
    (outcome,) = inline_tests.run(load_text(text))
    assert outcome.name == "it"
    assert outcome.place.line == text.count("\n", 0, text.index("- name: it")) + 1
    return list(outcome.problems)


GOOD = [
    """request: {get: "https://api.example.com/orders/7?a=%2f"}
expect: {route: orders, upstream: orders, upstream_path: "/base/7?a=%2f&source=gw"}
""",
    """request: {get: "https://api.example.com/orders/7", headers: {X-T: t1, X-Debug: "1"}}
expect: {upstream_headers: {x-tenant: t1, HOST: api.example.com, x-path: n, x-debug: "", x-forwarded-prefix: /orders}}
""",
    """request: {get: "https://api.example.com/next/", client_ip: 10.1.2.3, headers: {X-Forwarded-For: "1.2.3.4"}}
expect: {upstream: next, upstream_headers: {X-Forwarded-For: "1.2.3.4, 10.1.2.3", host: "10.9.9.8:8000"}}
""",
    """request: {get: "https://api.example.com/next/", client_ip: 9.9.9.9, headers: {X-Forwarded-For: "1.2.3.4"}}
expect: {upstream_headers: {X-Forwarded-For: 9.9.9.9}}
""",
    """request: {post: "https://api.example.com/orders/7", body: "12345"}
expect: {route: orders, status: 413, reason: body_too_large}
""",
    """request: {delete: "https://api.example.com/orders/7"}
expect: {status: 405, reason: method_not_allowed, headers: {allow: "GET, HEAD, POST"}}
""",
    """request: {get: "https://nowhere.test/"}
expect: {status: 404, reason: no_route, headers: {content-type: application/problem+json}}
""",
    """request: {get: "https://api.example.com/orders/../next/"}
expect: {status: 400, reason: bad_request}
""",
    """request: {get: "https://api.example.com/hello/ann"}
expect: {route: hello, status: 201, headers: {x-who: ann, X-Edge: "1", content-type: application/json}}
""",
    """request: {get: "https://api.example.com/old/a/b?q"}
expect: {route: old, status: 308, location: "https://www.example.com/a/b?q"}
""",
    """request: {get: "http://api.example.com/orders/7"}
expect: {status: 308, location: "https://api.example.com/orders/7"}
""",
    """request: {get: "https://www.example.com/page.html"}
expect: {route: site, status: 200, headers: {content-type: text/html; charset=utf-8}}
""",
    """request: {get: "https://www.example.com/missing"}
expect: {route: site, status: 404, reason: not_found}
""",
    """request: {post: "https://www.example.com/page.html"}
expect: {route: site, status: 405}
""",
    """request: {get: "https://api.example.com/next/", headers: {Host: www.example.com}}
expect: {route: site, status: 404}
""",
    """request: {method: TRACE, url: "https://api.example.com/orders/7"}
expect: {status: 405, reason: method_not_allowed, headers: {Allow: "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}}
""",
    """request: {get: "https://api.example.com/orders/7", headers: {Host: "a b"}}
expect: {status: 400, reason: bad_request}
""",
    """request: {post: "https://api.example.com/orders/7", headers: {Content-Length: "5"}}
expect: {status: 413, reason: body_too_large, route: orders}
""",
    """request: {post: "https://api.example.com/orders/7", headers: {Content-Length: "4", Transfer-Encoding: chunked}}
expect: {status: 400, reason: bad_request}
""",
    """request: {method: OPTIONS, url: "https://api.example.com/orders/7", headers: {Max-Forwards: "0"}}
expect: {status: 204}
""",
]


@pytest.mark.parametrize("test", GOOD)
def test_what_happens_is_what_is_expected(test: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<p>")
    assert problems(test, tmp_path) == []


BAD = [
    (
        """request: {get: "https://api.example.com/orders/7"}
expect: {route: old, upstream: next, upstream_path: /7, upstream_headers: {x-tenant: t}}
""",
        [
            "route is orders, expected old",
            "upstream is orders, expected next",
            "upstream_path is /base/7?source=gw, expected /7",
            "upstream header x-tenant is none, expected t",
        ],
    ),
    (
        """request: {get: "https://nowhere.test/"}
expect: {route: orders, upstream: orders, upstream_path: /, upstream_headers: {a: b}}
""",
        [
            "route is none, expected orders",
            "upstream is none, expected orders",
            "upstream_path is none, expected /",
            "upstream_headers: the answer is 404 no_route, so no upstream is asked",
        ],
    ),
    (
        """request: {get: "https://api.example.com/orders/7"}
expect: {status: 200, location: /, headers: {x: "1"}}
""",
        [
            (
                "status can not be known: upstream orders answers, and no upstream is asked;"
                " expect upstream or upstream_path instead"
            ),
            "x and location can not be known: upstream orders answers",
        ],
    ),
    (
        """request: {get: "https://api.example.com/hello/ann"}
expect: {status: 200, reason: no_route, headers: {x-who: bob}, location: /}
""",
        [
            "reason is none, expected no_route",
            "status is 201, expected 200",
            "x-who is ann, expected bob",
            "location is none, expected /",
        ],
    ),
]


@pytest.mark.parametrize(("test", "wanted"), BAD)
def test_what_differs_is_told_in_one_sentence_each(test: str, wanted: list[str]) -> None:
    assert problems(test) == wanted


FAULTY = """
routes:
  - {name: always, path: /a, to: "http://h:1", body: {max: 4B}, fault: {delay: 9s, abort: 418}}
  - {name: half, path: /h, to: "http://h:1", fault: {abort: {status: 500, percent: 50}}}
"""


def test_a_fault_that_meets_every_request_can_be_expected_and_one_by_chance_can_not() -> None:
    asked = 'request: {get: "http://x/PATH"}\nexpect: '
    always, half = asked.replace("PATH", "a"), asked.replace("PATH", "h")
    told = "{route: always, status: 418, reason: fault_injected}\n"
    assert problems(always + told, config=FAULTY) == []
    assert problems(always + "{upstream: always}\n", config=FAULTY) == [
        "upstream is none, expected always"
    ]
    assert problems(half + "{reason: fault_injected}\n", config=FAULTY) == [
        "reason is none, expected fault_injected"
    ]
    large = 'request: {post: "http://x/a", body: "12345"}\nexpect: {reason: body_too_large}\n'
    assert problems(large, config=FAULTY) == [], "what is refused before is refused before here"


def test_a_secret_that_goes_to_the_upstream_is_not_printed(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret")
    config = f"""
routes:
  - name: r
    path: /*
    to: http://127.0.0.1:1
    headers: {{request: {{set: {{X-Key: "${{file:{tmp_path}/key}}"}}}}}}
    rewrite: {{query: {{set: {{key: "${{file:{tmp_path}/key}}"}}}}}}
"""
    test = """request: {get: "http://h/"}
expect: {upstream_headers: {x-key: other}, upstream_path: /}
"""
    assert problems(test, config=config) == [
        "upstream_path is /?key=***, expected /",
        "upstream header x-key is ***, expected other",
    ]
    right = """request: {get: "http://h/"}
expect: {upstream_headers: {x-key: s3cret}}
"""
    assert problems(right, config=config) == []


async def test_they_run_inside_a_running_loop_too(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<p>")
    assert problems(GOOD[11], tmp_path) == []


def test_a_configuration_without_tests_has_no_outcomes() -> None:
    assert inline_tests.run(load_text("routes: [{path: /*, to: 'http://127.0.0.1:1'}]")) == []


def test_a_request_that_has_passed_here_before_is_a_loop() -> None:
    from gateway.client import INSTANCE

    test = f"""request: {{get: "http://h/", headers: {{Via: "1.1 gateway-{INSTANCE}"}}}}
expect: {{status: 508, reason: loop_detected}}
"""
    assert problems(test) == []


def test_a_header_that_could_not_be_sent_is_said() -> None:
    config = load_text("routes: [{path: /*, to: 'http://127.0.0.1:1'}]")
    asked = model.TestRequest.model_construct(method="GET", url="http://h/", headers={"a b": "c"})
    test = model.InlineTest(name="it", request=asked, expect=model.TestExpect(route="r"))
    (outcome,) = inline_tests.run(replace(config, tests=(test,)))
    assert outcome.problems == ("request: the header 'a b' is not valid",)
