"""`fault`, through a whole gateway: late, refused, and gone again with the next configuration."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conformance.conftest import get, post, problem
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.running import Running


async def under_way(running: Running, count: int = 1) -> None:
    async with asyncio.timeout(PATIENCE):
        while running.metric("gateway_requests_in_flight") != count:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("status", [418, 500, 503])
async def test_an_abort_answers_with_its_status_and_reason_and_asks_nobody(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, status: int
) -> None:
    up = await origin()
    running = await gateway(up, route={"fault": {"abort": status}})
    client = await raw(running)
    for _ in range(2):  # the connection lives on
        answer = await client.ask(get())
        problem(answer, "fault_injected", status)
        assert answer.get("proxy-status") == b'gateway; details="fault_injected"'
    assert not up.requests
    await running.eventually("gateway_errors_total", 2, reason="fault_injected")
    assert (await running.log())[0]["reason"] == "fault_injected"


async def test_a_refused_upload_does_not_keep_its_connection(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway(await origin(), route={"fault": {"abort": 503}})
    client = await raw(running)
    answer = await client.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\nhalf")
    problem(answer, "fault_injected", 503)
    assert answer.get("connection") == b"close"


async def test_a_delay_waits_and_then_the_request_is_served(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, route={"fault": {"delay": "2s"}})
    client = await raw(running)
    for number in (1, 2):
        await client.send(post(body=b"abc"))
        await under_way(running)
        running.clock.advance(1.5)
        assert await client.silence(0.05)
        assert len(up.requests) == number - 1
        running.clock.advance(0.6)
        answer = await client.response()
        assert (answer.status, up.requests[-1].body) == (200, b"abc")
    assert running.metric("gateway_errors_total") == 0


async def test_a_delay_ends_when_the_client_leaves(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, route={"fault": {"delay": "1h"}})
    client = await raw(running)
    await client.send(get())
    await under_way(running)
    client.close()
    await under_way(running, 0)
    assert not up.requests
    assert (await running.log())[0]["status"] == 499


async def test_a_delay_is_part_of_the_total(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, route={"fault": {"delay": "1h"}, "timeouts": {"total": "3s"}})
    client = await raw(running)
    await client.send(get())
    await under_way(running)
    running.clock.advance(3.5)
    problem(await client.response(), "total_timeout", 504)
    assert not up.requests


async def test_a_route_that_answers_itself_has_faults_too(
    gateway: MakeGateway, raw: MakeClient
) -> None:
    route = {"path": "/*", "respond": {"status": 204}, "fault": {"abort": 429}}
    running = await gateway({"routes": [route]})
    problem(await (await raw(running)).ask(get()), "fault_injected", 429)


@pytest.mark.parametrize("before", [{"abort": 503}, {"delay": "1h"}])
async def test_a_reload_takes_a_fault_away(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, before: dict[str, Any]
) -> None:
    from gateway.config import load_dict

    up = await origin()
    running = await gateway(up, route={"fault": before})
    route = {"name": "all", "path": "/*", "to": "up", "fault": "off"}
    written: dict[str, Any] = {"routes": [route], "upstreams": {"up": {"targets": [up.url]}}}
    written |= {"listeners": [{"bind": "127.0.0.1:0"}], "admin": "off"}
    written["observability"] = {"access_log": "off"}
    await running.gateway.reload(load_dict(written))
    assert (await (await raw(running)).ask(get())).status == 200
