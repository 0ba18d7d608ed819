from __future__ import annotations

import asyncio
import json
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from gateway.admin.api import application
from gateway.config import model
from gateway.middleware.compare import Difference
from gateway.middleware.mirror import Mismatch
from gateway.observe.events import Events
from gateway.observe.metrics import Metrics
from gateway.upstream.breaker import State
from tests.observe.stand_in import LastReload, StandIn, configuration, exchange, source, target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aiohttp import ClientResponse

    Ask = Callable[..., Awaitable[ClientResponse]]

TOKEN = "not-for-everybody"


def guarded(**admin: Any) -> StandIn:
    return StandIn(config=configuration(admin=model.Admin(token=TOKEN, **admin)))


@pytest.fixture
async def clients() -> AsyncIterator[list[TestClient[Any, Any]]]:
    opened: list[TestClient[Any, Any]] = []
    yield opened
    for client in opened:
        await client.close()


@pytest.fixture
def ask(clients: list[TestClient[Any, Any]]) -> Ask:
    """`await ask(gateway, path, method=…, headers=…)` over a real socket."""

    async def asked(
        gateway: StandIn, path: str, method: str = "GET", **options: Any
    ) -> ClientResponse:
        client = TestClient(TestServer(application(gateway)))
        clients.append(client)
        await client.start_server()
        return await client.request(method, path, **options)

    return asked


# ── health ──


async def test_health_tells_the_generation_and_the_last_reload(ask: Ask) -> None:
    answer = await ask(
        StandIn(last_reload=LastReload(1000.5, False, "gateway.yaml:3:1: no")), "/health"
    )
    assert answer.status == 200
    assert await answer.json() == {
        "status": "ready",
        "generation": 7,
        "config": "0123456789ab",
        "last_reload": {
            "at": "1970-01-01T00:16:40Z",
            "successful": False,
            "error": "gateway.yaml:3:1: no",
        },
    }


async def test_health_after_a_good_start_has_no_error(ask: Ask) -> None:
    told = await (await ask(StandIn(), "/health")).json()
    assert (told["last_reload"]["successful"], told["last_reload"]["error"]) == (True, None)


@pytest.mark.parametrize(
    ("ready", "draining", "status", "word"),
    [(True, False, 200, "ready"), (True, True, 503, "draining"), (False, False, 503, "starting")],
)
async def test_it_is_ready_once_it_listens_and_until_it_drains(
    ask: Ask, ready: bool, draining: bool, status: int, word: str
) -> None:
    answer = await ask(StandIn(ready=ready, draining=draining), "/health/ready")
    assert (answer.status, await answer.json()) == (status, {"status": word})


async def test_a_draining_gateway_is_alive(ask: Ask) -> None:
    assert (await ask(StandIn(draining=True), "/health/live")).status == 200


# ── metrics ──


async def test_metrics_are_prometheus_text_or_openmetrics(ask: Ask) -> None:
    gateway = StandIn()
    plain = await ask(gateway, "/metrics")
    assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "gateway_build_info" in await plain.text()
    wanted = {"Accept": "application/openmetrics-text;version=1.0.0"}
    better = await ask(gateway, "/metrics", headers=wanted)
    assert better.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert (await better.text()).endswith("# EOF\n")


# ── what serves ──


async def test_the_configuration_is_shown_masked(ask: Ask) -> None:
    answer = await ask(
        StandIn(config=configuration(document=lambda: {"admin": {"token": "***"}})), "/config"
    )
    assert await answer.json() == {
        "generation": 7,
        "digest": "0123456789ab",
        "files": ["gateway.yaml"],
        "config": {"admin": {"token": "***"}},
    }


async def test_routes_are_listed_with_what_is_under_way(ask: Ask) -> None:
    gateway = StandIn()
    gateway.metrics.route("orders").begin()
    told = await (await ask(gateway, "/routes")).json()
    [row] = told["routes"]
    assert (row["name"], row["answer"], row["place"]) == ("orders", "to orders", "gateway.yaml:3:5")
    assert (row["requests_in_flight"], row["websockets_in_flight"]) == (1, 0)


async def test_upstreams_are_listed_with_their_targets_why_they_are_so_and_since_when(
    ask: Ask,
) -> None:
    gateway = StandIn()
    meter = gateway.metrics.upstream("orders")
    meter.opened, meter.reused = 3, 8
    now = gateway.clock.now()
    circuit = SimpleNamespace(state=State.OPEN, why="9 of 9 tries failed in 10 s", since=now - 5)
    meter.source = source(
        target(
            waiting=2,
            labels={"version": "v2"},
            state="cut off",
            why="9 of 9 tries failed in 10 s",
            since=now - 5,
            failures=9,
            breaker=circuit,
            limit=SimpleNamespace(busy=2, shown=50),
        ),
        waiting=4,
    )
    [told] = (await (await ask(gateway, "/upstreams")).json())["upstreams"]
    [one] = told.pop("targets")
    assert told == {
        "name": "orders",
        "anonymous": False,
        "balance": "p2c",
        "connections_opened": 3,
        "connections_reused": 8,
        "waiting": 4,
        "circuit": None,
        "discovery": None,
    }
    since = one.pop("since")
    assert abs(datetime.fromisoformat(since).timestamp() - gateway.clock.wall() + 5) < 3
    assert one["circuit"].pop("since") == since
    assert 5 <= one.pop("seconds") <= 8
    assert 5 <= one["circuit"].pop("seconds") <= 8
    assert one == {
        "name": "10.0.0.9:8000",
        "url": "http://10.0.0.9:8000",
        "labels": {"version": "v2"},
        "backup": False,
        "state": "cut off",
        "why": "9 of 9 tries failed in 10 s",
        "weight": 2,
        "in_flight": 2,
        "connections": {"active": 2, "idle": 1},
        "rest": {"kept_for": 4.0, "ended_after": None},
        "waiting": 2,
        "failures": 9,
        "circuit": {"state": "open", "why": "9 of 9 tries failed in 10 s"},
        "concurrency": {"busy": 2, "limit": 50},
    }


async def test_the_circuit_of_a_whole_upstream_is_told_once(ask: Ask) -> None:
    gateway = StandIn()
    whole = SimpleNamespace(state=State.HALF_OPEN, why="open for 10 s", since=0.0)
    meter = gateway.metrics.upstream("orders")
    meter.source = source(target(breaker=whole), breaker=whole)
    [told] = (await (await ask(gateway, "/upstreams")).json())["upstreams"]
    assert told["circuit"]["state"] == "half_open"
    assert told["targets"][0]["circuit"] is None
    meter.source = source(target(breaker=whole, state="cut off", since=9.0), breaker=whole)
    [told] = (await (await ask(gateway, "/upstreams")).json())["upstreams"]
    [cut_off] = told["targets"]
    assert (cut_off["why"], cut_off["since"]) == ("open for 10 s", told["circuit"]["since"])


async def test_health_says_nothing_of_upstreams(ask: Ask) -> None:
    gateway = StandIn()
    gateway.metrics.upstream("orders").source = source(target(state="down", available=False))
    told = await ask(gateway, "/health")
    assert told.status == 200
    assert (await told.json()).keys() == {"status", "generation", "config", "last_reload"}
    assert (await ask(gateway, "/health/ready")).status == 200


async def test_the_index_links_every_endpoint(ask: Ask) -> None:
    answer = await ask(StandIn(), "/")
    assert answer.content_type == "text/html"
    page = await answer.text()
    app = application(StandIn())
    paths = {resource.canonical for resource in app.router.resources()} - {"/"}
    assert len(paths) == 10
    assert all(f'href="{path}' in page for path in paths)


# ── what has changed ──


def eventful() -> StandIn:
    """Three events, a second apart from the first at 1000.25."""
    times = iter([1000.25, 1001.25, 1002.25])
    events = Events(lambda: next(times))
    events.record("ejected", upstream="orders", target="10.0.0.9:8000", why="5 failures in a row")
    events.record("reloaded", why="generation 2 serves")
    events.record("target_down", upstream="users", target="10.0.0.1:80", why="no answer")
    return StandIn(metrics=Metrics(model.Metrics(), events))


async def test_answers_of_mirrors_that_differed_are_told_newest_last(ask: Ask) -> None:
    gateway = StandIn()
    for route, at in (("orders", 1000.25), ("users", 1001.5)):
        found = Difference("body", "body.$.id", "7", "8")
        gateway.mirrors.mismatches.append(
            Mismatch(at, route, "GET", "/a", "0" * 32, "next", "10.0.0.9:80", (found,))
        )
    told = await (await ask(gateway, "/mirrors")).json()
    assert told["under_way"] == 0
    assert [each["route"] for each in told["mismatches"]] == ["orders", "users"]
    assert told["mismatches"][0] == {
        "at": "1970-01-01T00:16:40.250000Z",
        "route": "orders",
        "method": "GET",
        "path": "/a",
        "request_id": "0" * 32,
        "upstream": "next",
        "target": "10.0.0.9:80",
        "differences": [
            {"kind": "body", "where": "body.$.id", "sent": "7", "mirrored": "8"},
        ],
    }
    told = await (await ask(gateway, "/mirrors?route=users")).json()
    assert [each["route"] for each in told["mismatches"]] == ["users"]
    assert (await (await ask(gateway, "/mirrors?route=x")).json())["mismatches"] == []


async def test_events_are_told_newest_last_with_why(ask: Ask) -> None:
    told = (await (await ask(eventful(), "/events")).json())["events"]
    assert [event["kind"] for event in told] == ["ejected", "reloaded", "target_down"]
    assert told[0] == {
        "number": 1,
        "at": "1970-01-01T00:16:40.250000Z",
        "kind": "ejected",
        "upstream": "orders",
        "target": "10.0.0.9:8000",
        "why": "5 failures in a row",
    }
    assert (told[1]["upstream"], told[1]["target"]) == (None, None)


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("since=1001.25", [2, 3]),
        ("since=1001.26", [3]),
        ("since=1970-01-01T00:16:41.250000Z", [2, 3]),
        ("since=1970-01-01T00:16:41.25", [2, 3]),
        ("since=1970-01-01T01:16:41.25+01:00", [2, 3]),
        ("upstream=orders", [1]),
        ("upstream=nobody", []),
        ("since=1001&upstream=users", [3]),
    ],
)
async def test_events_are_chosen_by_time_and_by_upstream(
    ask: Ask, query: str, numbers: list[int]
) -> None:
    told = (await (await ask(eventful(), f"/events?{query}")).json())["events"]
    assert [event["number"] for event in told] == numbers


async def test_the_moment_that_was_told_asks_for_that_event_too(ask: Ask) -> None:
    moments = [1764081234.1234567 + number * 0.0137 for number in range(50)]
    times = iter(moments)
    events = Events(lambda: next(times))
    for number in range(50):
        events.record("targets_changed", upstream="orders", why=str(number))
    gateway = StandIn(metrics=Metrics(model.Metrics(), events))
    told = (await (await ask(gateway, "/events")).json())["events"]
    for event in told:
        since = (await (await ask(gateway, f"/events?since={event['at']}")).json())["events"]
        assert since[0]["number"] == event["number"]


@pytest.mark.parametrize("since", ["", "yesterday", "nan", "inf"])
async def test_a_since_that_is_no_time_is_refused_with_what_to_write(ask: Ask, since: str) -> None:
    answer = await ask(eventful(), f"/events?since={since}")
    assert answer.status == 400
    assert "seconds since 1970" in (await answer.json())["detail"]


# ── refusals ──


async def test_an_unknown_path_is_told_in_json(ask: Ask) -> None:
    answer = await ask(StandIn(), "/nothing")
    assert (answer.status, answer.content_type) == (404, "application/json")
    assert (await answer.json())["status"] == 404


async def test_another_method_is_told_in_json_with_what_is_allowed(ask: Ask) -> None:
    answer = await ask(StandIn(), "/config", "POST")
    assert (answer.status, answer.content_type) == (405, "application/json")
    assert answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "path", ["/", "/config", "/routes", "/upstreams", "/events", "/mirrors", "/explain", "/nothing"]
)
async def test_a_token_guards_what_is_not_for_everybody(ask: Ask, path: str) -> None:
    answer = await ask(guarded(), path)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="gateway admin"'
    assert TOKEN not in json.dumps(await answer.json())


@pytest.mark.parametrize("path", ["/metrics", "/health", "/health/live", "/health/ready"])
async def test_metrics_and_health_need_no_token(ask: Ask, path: str) -> None:
    assert (await ask(guarded(), path)).status == 200


async def test_metrics_need_a_token_where_it_is_asked_for(ask: Ask) -> None:
    gateway = guarded(metrics_token=True)
    assert (await ask(gateway, "/metrics")).status == 401
    assert (await ask(gateway, "/health")).status == 200
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert (await ask(gateway, "/metrics", headers=right)).status == 200


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([f"Bearer {TOKEN}"], 200),
        ([f"bearer  {TOKEN}"], 200),
        ([f"Basic {TOKEN}"], 401),
        (["Bearer "], 401),
        ([f"Bearer {TOKEN}x"], 401),
        ([TOKEN], 401),
        (["Bearer caf\u00e9"], 401),
        ([f"Bearer {TOKEN}", f"Bearer {TOKEN}"], 401),
    ],
)
async def test_only_the_token_itself_opens(ask: Ask, fields: list[str], status: int) -> None:
    headers = [("Authorization", field) for field in fields]
    assert (await ask(guarded(), "/config", headers=headers)).status == status


@pytest.mark.parametrize(
    "path",
    ["/health/../config", "/metrics/../config", "/health/%2e%2e/config", "//config", "/%63onfig"],
)
async def test_another_spelling_of_an_open_path_opens_nothing_else(path: str) -> None:
    # Byte for byte: a client's library would tidy the path up.
    async with TestServer(application(guarded())) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_a_token_that_a_reload_changes_counts_at_once(ask: Ask) -> None:
    gateway = guarded()
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert (await ask(gateway, "/config", headers=right)).status == 200
    gateway.config = configuration(admin=model.Admin(token="another"))
    assert (await ask(gateway, "/config", headers=right)).status == 401


async def test_answers_are_not_kept_by_caches(ask: Ask) -> None:
    for path in ("/", "/metrics", "/health", "/config"):
        answer = await ask(StandIn(), path)
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_reading_does_not_count_as_traffic(ask: Ask) -> None:
    gateway = StandIn()
    route = gateway.metrics.route("orders")
    route.begin()
    route.finish(exchange())
    before = dict(route.cells)
    await ask(gateway, "/routes")
    assert (route.cells, list(gateway.metrics.routes)) == (before, ["orders"])


async def test_a_mistake_of_ours_is_told_in_json_and_in_the_service_log(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(accept: str | None) -> tuple[bytes, str]:
        raise RuntimeError("secret detail")

    gateway = StandIn()
    monkeypatch.setattr(gateway.metrics, "exposition", broken)
    answer = await ask(gateway, "/metrics")
    assert (answer.status, answer.content_type) == (500, "application/json")
    assert "secret detail" not in await answer.text()
    assert [record.getMessage() for record in caplog.records] == ["admin_failed"]
    assert caplog.records[0].exc_info is not None


# ── explain ──


async def test_explain_is_asked_of_the_configuration_that_serves(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def explain(*given: Any, **named: Any) -> Any:
        calls.append((given, named))
        if given[2] == "nonsense":
            raise ValueError("not a URL")
        return SimpleNamespace(json=lambda: {"route": "orders"})

    monkeypatch.setattr("gateway.admin.api.explain", explain)
    gateway = StandIn()
    query = "method=POST&url=http://a.test/x%3Fy=1&header=X-A:%201&header=X-B:2&client_ip=10.0.0.1"
    answer = await ask(gateway, f"/explain?{query}")
    assert (answer.status, await answer.json()) == (200, {"route": "orders"})
    fields = [("X-A", "1"), ("X-B", "2")]
    expected = (gateway.config, "POST", "http://a.test/x?y=1", fields)
    assert calls == [(expected, {"client_ip": "10.0.0.1"})]
    wrong = await ask(gateway, "/explain?url=nonsense")
    assert (wrong.status, (await wrong.json())["detail"]) == (400, "not a URL")


@pytest.mark.parametrize("query", ["", "?method=GET", "?url=http://a.test/&header=nonsense"])
async def test_a_question_that_is_none_is_told_what_to_write(ask: Ask, query: str) -> None:
    answer = await ask(StandIn(), f"/explain{query}")
    assert (answer.status, answer.content_type) == (400, "application/json")
    assert "=" in (await answer.json())["detail"]
