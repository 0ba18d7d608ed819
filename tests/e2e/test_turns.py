"""Requests that wait for a connection, since their target has as many as it may have: nobody's turn is lost.

Rules of this file: the pool has one connection, and the upstream answers when it is let. What waits is counted, and each
test ends with nothing that waits.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gateway.tasks import spawn
from tests.kit.origin import CLOSING, OK

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin, Peer
    from tests.kit.raw import RawClient
    from tests.kit.running import Running

ONE = {"pool": {"max": 1}, "timeouts": {"pool_wait": "10s"}}


def get(path: bytes) -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\nHost: a.test\r\n\r\n"


class Case:
    """One upstream with one connection, and an answer for each `go`."""

    def __init__(self) -> None:
        self.let = asyncio.Semaphore(0)
        self.answer = OK

    async def script(self, peer: Peer) -> None:
        while True:
            await peer.request()
            await self.let.acquire()
            await peer.send(self.answer)
            if self.answer is CLOSING:
                peer.close()
                return

    def go(self, times: int = 1) -> None:
        for _ in range(times):
            self.let.release()


async def waiting(running: Running, count: int) -> None:
    await running.eventually("gateway_queue_length", count)


async def begin(
    make: MakeGateway, origin: MakeOrigin, raw: MakeClient, clients: int, **route: Any
) -> tuple[Case, Origin, Running, list[RawClient]]:
    """A request is at the upstream, and all others wait, in the order of their clients."""
    case = Case()
    up = await origin(case.script)
    running = await make(up, upstream=ONE, **({"route": route} if route else {}))
    made = [await raw(running) for _ in range(clients)]
    for number, client in enumerate(made):
        await client.send(get(b"/%d" % number))
        if number == 0:
            await up.wait_for_request()
        else:
            await waiting(running, number)
    return case, up, running, made


async def test_each_waits_for_its_turn_and_they_come_in_order(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    case, up, running, clients = await begin(gateway, origin, raw, 6)
    case.go(6)
    for client in clients:
        assert (await client.response()).status == 200
    assert [request.target for request in up.requests] == [b"/%d" % n for n in range(6)]
    assert len(up.connections) == 1
    assert running.metric("gateway_pool_wait_seconds_count") == 5
    await waiting(running, 0)
    await running.at_rest()


async def test_who_leaves_while_it_waits_is_passed_over(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    case, up, running, clients = await begin(gateway, origin, raw, 4)
    clients[1].close()
    clients[3].close()
    await waiting(running, 1)
    case.go(2)
    assert (await clients[0].response()).status == 200
    assert (await clients[2].response()).status == 200
    assert [request.target for request in up.requests] == [b"/0", b"/2"]
    await running.eventually("gateway_errors_total", 2, reason="client_closed")
    await running.at_rest()


async def test_who_has_waited_for_too_long_is_told_and_the_next_is_not_harmed(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    case, up, running, clients = await begin(gateway, origin, raw, 2)
    running.clock.advance(8)
    late = await raw(running)
    await late.send(get(b"/late"))
    await waiting(running, 2)
    running.clock.advance(3)
    refused = await clients[1].response()
    assert refused.status == 503
    assert b"pool_timeout" in (refused.get("proxy-status") or b"")
    case.go(2)
    assert (await clients[0].response()).status == 200
    assert (await late.response()).status == 200
    assert [request.target for request in up.requests] == [b"/0", b"/late"]
    await running.at_rest()


async def test_where_the_connection_ends_the_next_one_has_a_new_one(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    case, up, running, clients = await begin(gateway, origin, raw, 5)
    case.answer = CLOSING
    case.go(5)
    for client in clients:
        assert (await client.response()).status == 200
    assert [request.target for request in up.requests] == [b"/%d" % n for n in range(5)]
    assert len(up.connections) == 5
    await running.at_rest()


async def test_who_leaves_in_the_moment_of_its_turn_leaves_its_room_to_the_next(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    case, _, running, clients = await begin(gateway, origin, raw, 4)
    case.answer = CLOSING
    case.go(4)
    for client in clients[1:3]:
        client.reset()
    assert (await clients[0].response()).status == 200
    assert (await clients[3].response()).status == 200
    await running.at_rest()
    await waiting(running, 0)
    case.go()
    assert (await (await raw(running)).ask(get(b"/again"))).status == 200


async def test_the_whole_time_may_end_while_it_waits(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    case, up, running, clients = await begin(
        gateway, origin, raw, 3, timeouts={"total": "5s", "pool_wait": "10s"}
    )
    running.clock.advance(6)
    for client in clients:
        assert (await client.response()).status == 504
    assert [request.target for request in up.requests] == [b"/0"]
    case.go(5)
    fresh = await raw(running)
    assert (await fresh.ask(get(b"/fresh"))).status == 200
    await running.at_rest()


@pytest.mark.parametrize("count", [2, 3])
async def test_requests_in_a_row_on_one_connection_wait_as_well(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, count: int
) -> None:
    case, up, running, _ = await begin(gateway, origin, raw, 1)
    client = await raw(running)
    await client.send(b"".join(get(b"/r%d" % n) for n in range(count)))
    await waiting(running, 1)
    case.go(1 + count)
    for _ in range(count):
        assert (await client.response()).status == 200
    assert [request.target for request in up.requests][1:] == [b"/r%d" % n for n in range(count)]
    await running.at_rest()


async def test_a_gateway_that_ends_tells_who_waits(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    _, up, running, clients = await begin(
        gateway, origin, raw, 3, timeouts={"pool_wait": "off", "first_byte": "off"}
    )
    drain = spawn(running.gateway.drain(delay=0), "drain")
    await asyncio.sleep(0.05)
    running.clock.advance(40)  # shutdown.grace is over
    for client in clients[1:]:
        answer = await client.response()
        assert answer.status == 503
        assert b"shutting_down" in (answer.get("proxy-status") or b"")
    await drain
    assert [request.target for request in up.requests] == [b"/0"]


async def test_the_many_of_one_client_do_not_keep_out_the_few_of_another(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    case = Case()
    up = await origin(case.script)
    running = await gateway(up, upstream=ONE, server={"trusted_proxies": ["127.0.0.1"]})
    clients = [await raw(running) for _ in range(7)]
    addresses = (b"10.0.0.1",) * 5 + (b"10.0.0.2",) * 2
    for number, (client, address) in enumerate(zip(clients, addresses, strict=True)):
        told = b"X-Forwarded-For: " + address + b"\r\n\r\n"
        await client.send(get(b"/%d" % number).removesuffix(b"\r\n") + told)
        if number == 0:
            await up.wait_for_request()
        else:
            await waiting(running, number)
    case.go(7)
    for client in clients:
        assert (await client.response()).status == 200
    order = [request.target for request in up.requests]
    assert order == [b"/0", b"/1", b"/5", b"/2", b"/6", b"/3", b"/4"]
    await running.at_rest()
