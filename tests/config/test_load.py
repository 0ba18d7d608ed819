"""A whole configuration: everything wrong in one go, everything shown but secrets, fast enough."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from gateway.config import ConfigError, load, load_text
from tests.config.kit import ROUTE, loaded, refused

if TYPE_CHECKING:
    from pathlib import Path


def test_three_lines_are_a_configuration() -> None:
    config = loaded("routes:\n  - path: /*\n    to: http://127.0.0.1:8000\n")
    assert config.listeners[0].bind.port == 8080
    assert config.listeners[0].name == "127.0.0.1:8080"
    assert config.admin is not None
    assert config.upstreams["/*"].settings.targets[0].url == "http://127.0.0.1:8000"
    assert config.warnings == ()
    assert len(config.digest) == 12


def test_the_defaults_are_those_that_are_promised() -> None:
    config = loaded(ROUTE)
    limits, made = config.server.limits, config.routes[0].policies
    assert (limits.connections, limits.request_head, limits.request_line) == (10_000, 2**14, 2**13)
    assert (limits.headers, limits.connections_per_ip) == (100, None)
    assert (limits.header_timeout, limits.body_idle, limits.keepalive_idle) == (10, 30, 75)
    assert (limits.body_min_rate, limits.requests_per_connection) == (None, None)
    times = made.timeouts
    assert (times.pool_wait, times.connect, times.first_byte) == (1, 3, 30)
    assert (times.idle, times.total) == (60, None)
    assert made.retry is not None
    assert (made.retry.max, made.retry.on) == (1, ("connect", "reset_before_response"))
    assert (made.retry.budget, made.retry.replay_body, made.retry.per_try) == (0.2, 2**16, None)
    assert (made.retry.methods, made.retry.idempotency_key) == ("idempotent", "Idempotency-Key")
    assert (made.body.max, made.body.min_rate) == (10 * 2**20, None)
    assert made.websocket is not None
    assert (made.websocket.idle, made.websocket.max_age) == (300, None)
    pool = config.upstreams["r"].settings.pool
    assert (pool.max, pool.idle, pool.max_age) == (100, 4, None)
    assert config.upstreams["r"].settings.balance == "p2c"
    assert config.upstreams["r"].settings.host == "pass"
    assert config.upstreams["r"].settings.tls.verify is True
    server = config.server
    assert (server.name, server.trusted_proxies, server.ambiguous_paths) == (
        "gateway",
        (),
        "reject",
    )
    assert (server.forwarded, server.underscore_headers) == ("x-forwarded", "drop")
    assert (server.shutdown.ready_delay, server.shutdown.grace) == (5, 30)
    assert config.errors.expose_reason is False
    assert config.observability.metrics.max_label_values == 200


def test_every_mistake_is_told_in_one_go_and_in_order() -> None:
    lines = refused("""
        version: 1
        server: {workers: x, limits: {headers: 0}, nam: a}
        listeners: [{bind: 8080}]
        upstreams:
          a: {targets: [{url: 'ws://h', wight: 1}], pool: {idle: 5}}
        routes:
          - {path: x, to: b, timeouts: {total: 5}}
          - {path: /y, to: 'http://h', use: p, headers: {request: {set: {A: '{nope}'}}}}
        tests: [{name: t, request: {get: /}, expect: {}}]
        nope: 1
    """)
    assert [line.split(":")[0] for line in lines] == [
        *("3", "3", "3", "4", "6", "6", "6", "8", "8", "8", "9", "9", "10", "10", "11")
    ]
    for line in lines:
        place_path, message = line.rsplit(": ", 1) if "mean" not in line else (line, line)
        assert message
        assert len(place_path.split(":")) >= 3


def test_a_problem_prints_as_place_path_and_message(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text("routes:\n  - path: /a\n    to: http://h\n    timeouts: {idle: 30}\n")
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert str(raised.value) == (
        f"{path}:4:22: routes[0].timeouts.idle: a time needs a unit: write 30s"
    )
    (problem,) = raised.value.problems
    assert (problem.place.line, problem.place.column) == (4, 22)


def test_x_keys_are_free_at_the_top_and_nowhere_else() -> None:
    assert loaded("x-a: {b: [1, off]}\nx-: *b\n".replace("*b", "1") + ROUTE)
    assert "'x-a' is not known here" in refused("routes: [{path: /a, to: 'http://h', x-a: 1}]")[0]


# ── what is shown ───────────────────────────────────────────────────────────────────────────────


def test_the_document_is_shown_in_full_form() -> None:
    config = loaded(
        f"tests: [{{name: t, request: {{get: 'http://h/'}}, expect: {{route: r}}}}]\n{ROUTE}"
    )
    shown = config.masked
    assert json.loads(json.dumps(shown)) == shown
    assert list(shown) == [
        *("version", "server", "listeners", "admin", "observability", "errors"),
        *("auth", "rate_limits", "stores", "upstreams", "routes", "tests"),
    ]
    (route,) = shown["routes"]  # type: ignore[misc]
    assert route["timeouts"]["idle"] == 60
    assert route["path"] == {"text": "/*", "regex": None}
    (branch,) = route["split"]
    assert (branch["upstream"], branch["weight"]) == ("r", 1)
    assert config.masked is config.masked


def test_secrets_and_what_came_from_files_are_never_shown(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("hidden-word\n")
    (tmp_path / "n").write_text("8123\n")
    (tmp_path / "u").write_text("http://hidden-word:1\n")
    config = load_text(
        """
admin: {bind: '127.0.0.1:${file:n}', token: plain-token}
observability: {access_log: {fields: {add: {a: '${file:s}'}}}}
defaults: {headers: {request: {set: {X-Key: 'Bearer ${file:s}'}}}}
profiles: {p: {headers: {response: {add: {X-More: [a, '${file:s}']}}}}}
upstreams: {u: {targets: {url: '${file:u}'}, host: '${file:s}'}}
routes:
  - {path: /a, to: u, use: p, when: {header: {x: '${file:s}', y: [a, '${file:s}']}}}
  - {path: /b, to: '${file:u}'}
  - {path: /c, to: ['${file:u}', 'http://shown:1']}
  - {path: /d, redirect: '/${file:s}'}
  - {path: /e, respond: {json: {a: [1, {b: '${file:s}'}]}, headers: {A: '${file:s}'}}}
tests:
  - {name: t, request: {get: 'http://h/', headers: {A: '${file:s}'}}, expect: {route: /a}}
""",
        base=tmp_path,
    )
    shown = json.dumps(config.masked)
    for word in ("hidden-word", "plain-token", "8123"):
        assert word not in shown
    assert shown.count("***") >= 12
    assert "http://shown:1" in shown
    assert config.routes[0].policies.headers.request.set["X-Key"] == "Bearer hidden-word"


def test_a_secret_is_not_told_in_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("hidden-word")
    lines = refused(
        "admin: '${file:s}'\nserver: {limits: {headers: '${file:s}', body_idle: '${file:s}'},"
        " forwarded: '${file:s}'}\nroutes: [{path: '${file:s}', to: '${file:s}', methods: '${file:s} x',"
        " retry: {on: '${file:s}'}, host: '${file:s} x', access_log: '${file:s}'}]",
        tmp_path,
    )
    assert len(lines) > 8
    assert "hidden-word" not in "\n".join(lines)


# ── speed ───────────────────────────────────────────────────────────────────────────────────────


def test_ten_thousand_routes_load_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    with path.open("w") as stream:
        stream.write("upstreams: {u: 'http://h:1'}\ndefaults: {timeouts: {total: 30s}}\nroutes:\n")
        for number in range(10_000):
            stream.write(
                f"  - name: r{number}\n    host: h{number % 100}.example.com\n"
                f"    path: /a{number}/*\n    methods: [GET, POST]\n    to: u\n"
            )
    began = time.process_time()
    config = load(path)
    # Under a second where nothing else runs; the promise is three.
    assert time.process_time() - began < 6
    assert len(config.routes) == 10_000
    assert gc.isenabled()


def test_importing_the_package_loads_neither_pydantic_nor_a_network() -> None:
    code = (
        "import sys, gateway.config; early = 'pydantic' in sys.modules;"
        "gateway.config.load_text('routes: []');"
        "print(early, [name for name in ('aiohttp', 'asyncio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False []"
