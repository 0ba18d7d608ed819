"""What a running gateway tells of the requests that it serves, over real sockets."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.kit import origin as answers

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Peer
    from tests.kit.raw import Message
    from tests.kit.running import Running

GET = b"GET /a?page=2&token=hush HTTP/1.1\r\nHost: a.test\r\nUser-Agent: me\r\n\r\n"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
ADMIN = {"bind": "127.0.0.1:0"}


async def asked(raw: MakeClient, gateway: Running, path: str, *fields: str) -> Message:
    client = await raw(gateway.admin)
    lines = "".join(f"{field}\r\n" for field in fields)
    return await client.ask(f"GET {path} HTTP/1.1\r\nHost: admin\r\n{lines}\r\n".encode())


async def told(raw: MakeClient, gateway: Running, path: str) -> Any:
    return json.loads((await asked(raw, gateway, path)).body)


async def test_a_forwarded_request_is_counted_and_logged(
    origin: MakeOrigin, raw: MakeClient, gateway: MakeGateway
) -> None:
    up = await origin(answers.reply(b"hello"))
    running = await gateway(up)
    client = await raw(running)
    assert (await client.ask(GET)).status == 200
    labels = {"route": "all", "method": "GET", "status": "200", "source": "upstream"}
    await running.eventually("gateway_requests_total", 1, **labels)
    assert running.metric("gateway_overhead_seconds_count", route="all") == 1
    assert running.metric("gateway_response_bytes_total", route="all") == 5
    assert running.metric("gateway_requests_in_flight", route="all") == 0
    target = up.url.removeprefix("http://")
    tries = {"upstream": "up", "target": target, "status_class": "2xx"}
    assert running.metric("gateway_upstream_requests_total", **tries) == 1
    assert running.metric("gateway_upstream_target_up", upstream="up", target=target) == 1
    head = "gateway_upstream_request_duration_seconds_count"
    assert running.metric(head, upstream="up", status_class="2xx") == 1
    last = "gateway_upstream_time_to_last_byte_seconds"
    assert running.metric(f"{last}_count", upstream="up") == 1
    assert 0 < running.metric(f"{last}_sum", upstream="up") < 10
    assert running.metric("gateway_upstream_connections_opened_total", upstream="up") == 1
    assert running.metric("gateway_upstream_connections", upstream="up", state="idle") == 1
    [line] = await running.log()
    assert line["status"] == 200
    assert (line["route"], line["upstream"], line["target"]) == ("all", "up", target)
    assert (line["path"], line["query"]) == ("/a", "page=2&token=***")
    assert (line["user_agent"], line["bytes_out"], line["attempts"]) == ("me", 5, 1)
    assert line["overhead_ms"] >= 0
    assert line["upstream_ms"] <= line["duration_ms"]


async def test_a_request_without_a_route_is_counted_under_none_with_its_reason(
    raw: MakeClient, gateway: MakeGateway
) -> None:
    running = await gateway("routes: [{path: /only, respond: 200}]")
    client = await raw(running)
    assert (await client.ask(b"PROPFIND /a HTTP/1.1\r\nHost: a.test\r\n\r\n")).status == 404
    labels = {"route": "_none", "method": "_other", "status": "404", "source": "gateway"}
    await running.eventually("gateway_requests_total", 1, **labels)
    assert running.metric("gateway_errors_total", route="_none", reason="no_route") == 1
    assert running.metric("gateway_requests_in_flight", route="_none") == 0
    [line] = await running.log()
    assert (line["method"], line["route"], line["reason"]) == ("PROPFIND", "_none", "no_route")


async def test_a_websocket_counts_at_its_101_and_is_logged_at_its_end(
    origin: MakeOrigin, raw: MakeClient, gateway: MakeGateway
) -> None:
    async def switch(peer: Peer) -> None:
        await peer.head()
        await peer.send(SWITCHED)
        assert await peer.exactly(5) == b"hello"

    running = await gateway(await origin(switch))
    client = await raw(running)
    assert (await client.ask(UPGRADE)).status == 101
    labels = {"route": "all", "method": "GET", "status": "101", "source": "upstream"}
    await running.eventually("gateway_requests_total", 1, **labels)
    took = "gateway_request_duration_seconds_count"
    assert running.metric(took, route="all", status_class="1xx") == 1
    assert running.metric("gateway_websockets_in_flight", route="all") == 1
    assert running.metric("gateway_requests_in_flight", route="all") == 0
    await client.send(b"hello")
    await client.rest()
    client.close()
    await running.eventually("gateway_websockets_in_flight", 0, route="all")
    assert running.metric("gateway_requests_total", **labels) == 1
    assert running.metric(took, route="all", status_class="1xx") == 1
    assert running.metric("gateway_request_bytes_total", route="all") == 5
    [line] = await running.log()
    assert (line["status"], line["bytes_in"]) == (101, 5)


async def test_a_client_that_leaves_is_logged_as_499(
    origin: MakeOrigin, raw: MakeClient, gateway: MakeGateway
) -> None:
    arrived = asyncio.Event()

    async def hang(peer: Peer) -> None:
        await peer.head()
        arrived.set()
        await peer.rest()

    running = await gateway(await origin(hang))
    client = await raw(running)
    await client.send(GET)
    await arrived.wait()
    client.close()
    labels = {"route": "all", "status": "499", "source": "client"}
    await running.eventually("gateway_requests_total", 1, **labels)
    assert running.metric("gateway_errors_total", reason="client_closed") == 1
    assert running.metric("gateway_requests_in_flight", route="all") == 0
    [line] = await running.log()
    assert (line["status"], line["source"], line["reason"]) == (499, "client", "client_closed")


async def test_a_route_may_be_left_out_of_the_log(raw: MakeClient, gateway: MakeGateway) -> None:
    running = await gateway(
        "routes: [{path: /quiet, respond: 200, access_log: off}, {path: /loud, respond: 200}]"
    )
    client = await raw(running)
    for path in (b"/quiet", b"/loud"):
        await client.ask(b"GET %b HTTP/1.1\r\nHost: a.test\r\n\r\n" % path)
    assert [line["path"] for line in await running.log()] == ["/loud"]
    assert running.metric("gateway_requests_total", status="200") == 2


async def test_counters_outlive_a_reload(
    origin: MakeOrigin, raw: MakeClient, gateway: MakeGateway
) -> None:
    up = await origin()
    running = await gateway(up)
    client = await raw(running)
    await client.ask(GET)
    await running.gateway.reload()
    await client.ask(GET)
    await running.eventually("gateway_requests_total", 2, route="all")
    assert running.metric("gateway_upstream_connections_reused_total", upstream="up") == 1
    assert running.metric("gateway_config_reloads_total", result="success") == 1
    assert running.metric("gateway_config_info", generation="2") == 1
    assert running.metric("gateway_upstream_target_up", upstream="up") == 1


async def test_a_refused_reload_is_told_by_metrics_and_health(
    origin: MakeOrigin, raw: MakeClient, gateway: MakeGateway
) -> None:
    from gateway.config import ConfigError

    running = await gateway(await origin(), admin=ADMIN)
    with pytest.raises(ConfigError):
        await running.gateway.reload({"routes": [{"path": "/*", "too": "http://a.test"}]})
    assert running.metric("gateway_config_last_reload_successful") == 0
    assert running.metric("gateway_config_reloads_total", result="failure") == 1
    health = await told(raw, running, "/health")
    assert (health["status"], health["generation"]) == ("ready", 1)
    assert health["last_reload"]["successful"] is False
    assert "too" in health["last_reload"]["error"]


async def test_the_lag_of_the_loop_is_sampled(origin: MakeOrigin, gateway: MakeGateway) -> None:
    running = await gateway(await origin())
    before = running.metric("gateway_event_loop_lag_seconds_count", worker="0")
    running.clock.advance(0.2)
    assert running.metric("gateway_event_loop_lag_seconds_count", worker="0") > before


# ── the admin listener ──


async def test_the_admin_listener_answers_on_its_own_address_only(
    origin: MakeOrigin, raw: MakeClient, gateway: MakeGateway
) -> None:
    up = await origin()
    running = await gateway(up, admin=ADMIN)
    client = await raw(running)
    answer = await client.ask(b"GET /metrics HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert answer.body == b"ok"
    assert up.requests[0].start == b"GET /metrics HTTP/1.1"
    page = await asked(raw, running, "/metrics", "Accept: application/openmetrics-text")
    assert page.get("content-type") == (
        b"application/openmetrics-text; version=1.0.0; charset=utf-8"
    )
    assert b'gateway_requests_total{method="GET",route="all"' in page.body


async def test_the_admin_listener_shows_what_serves(
    origin: MakeOrigin, raw: MakeClient, gateway: MakeGateway
) -> None:
    up = await origin()
    running = await gateway(up, admin=ADMIN)
    await (await raw(running)).ask(GET)
    assert (await told(raw, running, "/health/ready")) == {"status": "ready"}
    [route] = (await told(raw, running, "/routes"))["routes"]
    assert (route["name"], route["answer"]) == ("all", "to up")
    [upstream] = (await told(raw, running, "/upstreams"))["upstreams"]
    [target] = upstream["targets"]
    assert (target["url"], target["connections"]) == (up.url, {"active": 0, "idle": 1})
    config = await told(raw, running, "/config")
    assert config["config"]["routes"][0]["name"] == "all"


async def test_secrets_of_the_configuration_are_not_shown(
    origin: MakeOrigin, raw: MakeClient, gateway: MakeGateway
) -> None:
    running = await gateway(await origin(), admin={**ADMIN, "token": "hush-hush"})
    assert (await asked(raw, running, "/config")).status == 401
    answer = await asked(raw, running, "/config", "Authorization: Bearer hush-hush")
    assert answer.status == 200
    assert b"hush-hush" not in answer.body
    assert json.loads(answer.body)["config"]["admin"]["token"] == "***"


async def test_the_admin_listener_explains_a_request(
    origin: MakeOrigin, raw: MakeClient, gateway: MakeGateway
) -> None:
    running = await gateway(await origin(), admin=ADMIN)
    found = await told(raw, running, "/explain?method=GET&url=http://a.test/x&header=X-A:1")
    assert (found["matched"], found["route"]) == (True, "all")
    for wrong in (
        "/explain",
        "/explain?url=http://a.test/&header=nonsense",
        "/explain?url=nonsense",
    ):
        answer = await asked(raw, running, wrong)
        assert (answer.status, json.loads(answer.body)["status"]) == (400, 400)


async def test_a_log_that_was_rotated_is_opened_again(
    origin: MakeOrigin, raw: MakeClient, gateway: MakeGateway, tmp_path: Path
) -> None:
    running = await gateway(await origin())
    client = await raw(running)
    await client.ask(GET)
    await running.log(1)
    path = tmp_path / "access-0.log"
    path.rename(tmp_path / "old.log")
    running.gateway.reopen_logs()
    await client.ask(GET)
    [line] = await running.log(1)
    assert line["status"] == 200
    assert len((tmp_path / "old.log").read_text().splitlines()) == 1
