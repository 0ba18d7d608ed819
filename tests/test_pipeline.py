"""The stages of a route in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.config import load_text
from gateway.explain import pipeline
from gateway.pipeline import duration, shown, size

if TYPE_CHECKING:
    from collections.abc import Callable


def stages(route: str) -> dict[str, str]:
    return dict(pipeline(load_text(f"routes:\n  - {{name: r, {route}}}\n").routes[0]))


def test_a_forwarding_route_lists_every_stage_in_its_order() -> None:
    found = stages(
        "path: /a/*, methods: GET, host: h.com, when: {header: {x: present}, scheme: https}, to: 'http://127.0.0.1:1',"
        " rewrite: {strip_prefix: /a, host: x, query: {remove: q}}, timeouts: {total: 1m},"
        " headers: {request: {set: {X-A: b}}, response: {remove: Server, rewrite_location: true}}, body: 1MiB"
    )
    assert found == {
        "limits": "head within server.limits, body of at most 1MiB",
        "client": "address, scheme and host, from trusted proxies only; request id",
        "normalise": "refuse or resolve a path that can be read two ways (server.ambiguous_paths)",
        "route": "GET h.com /a/* when header x, scheme",
        "request transform": "strip /a, host replaced, query remove q, set X-A",
        "total time-out": "60s",
        "balance": "r",
        "try": "connect 3s, first_byte 30s, idle 60s; 1 more on connect, reset_before_response",
        "response transform": "remove Server, Location made public",
        "metrics": "counted as route r",
        "access log": "one line",
    }


UPSTREAMS = """
server:
  secret: 0123456789abcdef0123456789abcdef
  overload: {loop_lag: 100ms, for: 1s, shed: [low]}
upstreams:
  full:
    targets: [{url: "http://10.0.0.1:1", labels: {version: v2}}, {url: "http://10.0.0.2:1", backup: true}]
    balance: least_requests
    sticky: {cookie: gw}
    slow_start: 30s
    health: {path: /up, fall: 4}
    eject: {consecutive_failures: 7, base: 20s}
    circuit: {error_ratio: 0.4, min_requests: 10, window: 5s, open: 15s}
    concurrency: {per_target: 50, queue: 9, queue_timeout: 2s, adaptive: enforce}
  bare: {targets: "http://10.0.0.3:1", eject: off, health: off}
  slow:
    targets: "http://10.0.0.4:1"
    timeouts: {first_byte: 90s, total: 2m}
    retry: off
    buffer: {request: 1MiB}
    deadline: {header: X-Left}
    hedge: 1s
  found: {discover: {srv: _http._tcp.x.local}, eject: {consecutive_failures: off, failure_ratio: 30%}}
routes:
  - name: full
    path: /full
    to: full
    importance: low
    fault: {delay: {time: 2s, percent: 50}, abort: {status: 503, percent: 0.5}}
    buffer: {request: 1MiB, response: 64KiB}
    deadline: {header: X-Left, trust: none}
    mirror: {upstream: bare, percent: 5, compare: status}
    hedge: {after: 200ms, max: 2}
  - {name: bare, path: /bare, to: bare}
  - {name: found, path: /found, to: found, hedge: p95}
  - name: split
    path: /split
    split: [{upstream: full, weight: 3}, {upstream: bare, weight: 1}]
  - name: timed
    path: /timed
    split: [{upstream: full, weight: 3}, {upstream: slow, weight: 1}]
"""


@pytest.fixture
def of_route() -> Callable[[str], dict[str, str]]:
    """The stages of a route of UPSTREAMS, by its name."""
    config = load_text(UPSTREAMS)
    routes = {route.name: route for route in config.routes}
    return lambda name: dict(pipeline(routes[name], config))


def test_settings_of_the_upstream_have_their_stages(
    of_route: Callable[[str], dict[str, str]],
) -> None:
    found = of_route("full")
    assert list(found)[4:17] == [
        *("overload", "fault", "request transform", "buffer", "total time-out", "deadline"),
        *("concurrency", "mirror", "circuit", "balance", "left out", "try", "hedge"),
    ]
    assert found["overload"] == "503 while the event loop is 100ms late for 1s"
    assert found["fault"] == "50% wait 2s, 0.5% get 503"
    assert found["buffer"] == (
        "bodies up to 1MiB are gathered first, replies are read 64KiB ahead of a slow client"
    )
    assert found["deadline"] == "the time left goes on in X-Left; heard from nobody"
    assert found["concurrency"] == (
        "at most 50 at a target, 9 wait for 2s; fewer as response times say"
    )
    assert found["mirror"] == "5% copied to bare, answers compared"
    assert found["circuit"] == "503 for 15s when 40% of 10 or more fail in 5s"
    assert found["balance"] == "full: least_requests, the same again by cookie gw, slow start 30s"
    assert found["left out"] == (
        "down after 4 failed checks (GET /up), 20s out after 7 failures, "
        "but not while fewer than 50% are left"
    )
    assert found["hedge"] == "2 more beside the first after 200ms, if it may be repeated"


def test_what_is_off_has_no_stage(of_route: Callable[[str], dict[str, str]]) -> None:
    found = of_route("bare")
    unasked = {"overload", "fault", "buffer", "deadline", "concurrency", "mirror", "circuit"}
    assert not (unasked | {"left out", "hedge"}) & found.keys()


def test_a_ratio_ejects_where_rows_do_not(of_route: Callable[[str], dict[str, str]]) -> None:
    told = of_route("found")["left out"]
    assert told == "10s out when 30% fail, but not while fewer than 50% are left"
    assert "p95" in of_route("found")["hedge"]


def test_branches_with_other_settings_are_told_apart(
    of_route: Callable[[str], dict[str, str]],
) -> None:
    found = of_route("split")
    assert found["concurrency"].startswith("full: at most 50 at a target")
    assert found["concurrency"].endswith("; bare: off")
    assert found["balance"].startswith("full or bare by weight: full: least_requests")
    tried = "connect 3s, first_byte 30s, idle 60s; 1 more on connect, reset_before_response"
    assert found["try"] == tried, "once, where it is the same of all"
    assert found["total time-out"] == "off"


def test_branches_with_other_policies_are_told_apart(
    of_route: Callable[[str], dict[str, str]],
) -> None:
    found = of_route("timed")
    assert found["try"] == (
        "full: connect 3s, first_byte 30s, idle 60s; 1 more on connect, reset_before_response"
        " | slow: connect 3s, first_byte 90s, idle 60s; no further tries"
    )
    assert found["total time-out"] == "full: off; slow: 2m"
    assert found["buffer"] == "full: off; slow: bodies up to 1MiB are gathered first"
    assert found["deadline"].startswith("full: off; slow: the time left goes on in X-Left")
    assert found["hedge"].startswith("full: off; slow: 1 more beside the first after 1s")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("respond: 204", "respond 204"),
        ("redirect: /x", "redirect 308"),
        ("static: /srv", "files below /srv"),
    ],
)
def test_a_route_that_answers_by_itself_has_no_upstream_stages(answer: str, words: str) -> None:
    found = stages(f"path: {{regex: '^/x'}}, access_log: off, body: off, retry: off, {answer}")
    assert found["answer"] == words
    assert found["access log"] == "off"
    assert found["limits"] == "head within server.limits, body of any size"
    assert found["route"] == "any method any host regex ^/x"
    assert "balance" not in found


def test_what_is_switched_off_is_said() -> None:
    found = stages("to: 'http://127.0.0.1:1', retry: off, timeouts: {idle: off}")
    assert found["try"].endswith("idle off; no further tries")
    assert found["total time-out"] == "off"
    assert found["request transform"] == "nothing"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (1.5, "1.5s"),
        (60, "60s"),
        (300, "5m"),
        (90, "90s"),
        (43200, "12h"),
        (172800, "2d"),
    ],
)
def test_durations_read_as_they_are_written(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0B"), (1000, "1000B"), (1024, "1KiB"), (10 * 1024**2, "10MiB"), (2 * 1024**3, "2GiB")],
)
def test_sizes_read_as_they_are_written(count: int, text: str) -> None:
    assert size(count) == text


def test_other_values_read_as_they_are_written_too() -> None:
    assert shown("retry.budget", 0.2) == "20%"
    assert shown("body.min_rate", 1024.0) == "1KiB/s"
    assert shown("access_log", True) == "on"
    assert shown("timeouts.total", None) == "off"
    assert shown("methods", ["GET", "PUT"]) == "GET, PUT"
    assert shown("priority", 3) == "3"
    assert shown("concurrency.queue_timeout", 1.0) == "1s"
    assert shown("eject.max", 300.0) == "5m"
    assert shown("pool.max", 100) == "100"
    assert shown("panic", 0.5) == "50%"
    assert shown("eject.max_percent", 50.0) == "50%"
    assert shown("buffer.request", 65536) == "64KiB"
