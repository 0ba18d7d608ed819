"""`hedge`: a second try beside a slow first one, for requests that may be repeated.

Rules of this file: the slow target answers when the test says so; time is the clock's.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.kit.origin import OK, reply
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin, Peer
    from tests.kit.running import Running

GET = b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n"


class Slow:
    """An upstream that answers when it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await peer.request()
            waits = loop.create_task(self.go.wait())
            leaves = loop.create_task(peer.rest())
            await asyncio.wait((waits, leaves), return_when=asyncio.FIRST_COMPLETED)
            if leaves.done():
                self.left.set()
                waits.cancel()
                return
            leaves.cancel()
            await asyncio.gather(leaves, return_exceptions=True)
            await peer.send(reply(b"slow"))


async def start(gateway: MakeGateway, slow: Origin, quick: Origin, **route: Any) -> Running:
    """Round robin: the first request goes to `slow`."""
    return await gateway(
        {
            "upstreams": {
                "up": {"targets": [slow.url, quick.url], "balance": "round_robin", "eject": "off"}
            },
            "routes": [
                {"name": "all", "path": "/*", "to": "up", "hedge": {"after": "1s"}, **route}
            ],
        }
    )


async def hedges(running: Running, outcome: str, count: float = 1) -> None:
    await running.eventually("gateway_hedges_total", count, upstream="up", outcome=outcome)


async def test_the_second_try_answers_where_the_first_is_slow(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    script = Slow()
    slow, quick = await origin(script), await origin()
    running = await start(gateway, slow, quick)
    client = await raw(running)
    await client.send(GET)
    await slow.wait_for_request(1)
    assert not quick.requests, "not before its time"
    running.clock.advance(1.1)
    assert (await client.response()).body == b"ok"
    async with asyncio.timeout(PATIENCE):
        await script.left.wait()  # the slow one is given up
    await hedges(running, "won")
    (line,) = await running.log()
    assert (line["attempts"], line["target"]) == (2, quick.address)
    await running.at_rest()


async def test_the_first_answer_counts_also_when_it_is_the_first_trys(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    first, second = Slow(), Slow()
    slow, other = await origin(first), await origin(second)
    running = await start(gateway, slow, other)
    client = await raw(running)
    await client.send(GET)
    await slow.wait_for_request(1)
    running.clock.advance(1.1)
    await other.wait_for_request(1)
    first.go.set()
    assert (await client.response()).body == b"slow"
    async with asyncio.timeout(PATIENCE):
        await second.left.wait()
    await hedges(running, "lost")
    (line,) = await running.log()
    assert line["target"] == slow.address
    await running.at_rest()


async def test_a_quick_answer_needs_no_second_try(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    one, two = await origin(), await origin()
    running = await start(gateway, one, two)
    client = await raw(running)
    for _ in range(6):
        assert (await client.ask(GET)).status == 200
        running.clock.advance(2)
    assert len(one.requests) + len(two.requests) == 6


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n",
        b"DELETE /x HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\n1",
    ],
)
async def test_what_does_something_or_has_a_body_is_tried_once_at_a_time(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, request_: bytes
) -> None:
    script = Slow()
    slow, quick = await origin(script), await origin()
    running = await start(gateway, slow, quick)
    client = await raw(running)
    await client.send(request_)
    await slow.wait_for_request(1)
    running.clock.advance(5)
    await asyncio.sleep(0.02)
    assert not quick.requests
    script.go.set()
    assert (await client.response()).body == b"slow"


async def test_a_second_try_is_outside_no_budget(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    script = Slow()
    slow, quick = await origin(script), await origin()
    running = await start(gateway, slow, quick)
    clients = [await raw(running) for _ in range(10)]
    for client in clients:
        await client.send(GET)
    await slow.wait_for_request(5)
    await running.eventually("gateway_requests_in_flight", 5, route="all")
    running.clock.advance(1.1)
    await hedges(running, "not_sent", 2)  # five are slow, three extra tries in ten seconds are free
    script.go.set()
    for client in clients:
        assert (await client.response()).status == 200
    assert len(quick.requests) == 8
    await running.at_rest()


async def test_without_another_target_there_is_no_second_try(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    script = Slow()
    slow = await origin(script)
    running = await gateway(slow, route={"hedge": {"after": "1s"}})
    client = await raw(running)
    await client.send(GET)
    await slow.wait_for_request(1)
    running.clock.advance(1.1)
    await hedges(running, "not_sent")
    script.go.set()
    assert (await client.response()).body == b"slow"
    assert len(slow.requests) == 1


async def test_a_second_try_that_fails_harms_nobody(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def dies(peer: Peer) -> None:
        await peer.request()
        peer.reset()

    script = Slow()
    slow, bad = await origin(script), await origin(dies)
    running = await start(gateway, slow, bad)
    client = await raw(running)
    await client.send(GET)
    await slow.wait_for_request(1)
    running.clock.advance(1.1)
    await bad.wait_for_request(1)
    script.go.set()
    assert (await client.response()).body == b"slow"
    await running.at_rest()


async def test_a_client_that_leaves_ends_every_try(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    first, second = Slow(), Slow()
    slow, other = await origin(first), await origin(second)
    running = await start(gateway, slow, other)
    client = await raw(running)
    await client.send(GET)
    await slow.wait_for_request(1)
    running.clock.advance(1.1)
    await other.wait_for_request(1)
    client.close()
    async with asyncio.timeout(PATIENCE):
        await first.left.wait()
        await second.left.wait()
    await running.eventually("gateway_errors_total", 1, route="all", reason="client_closed")
    await running.at_rest()


async def test_the_total_time_out_ends_every_try(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    first, second = Slow(), Slow()
    slow, other = await origin(first), await origin(second)
    running = await start(gateway, slow, other, timeouts={"total": "5s"})
    client = await raw(running)
    await client.send(GET)
    await slow.wait_for_request(1)
    running.clock.advance(1.1)
    await other.wait_for_request(1)
    running.clock.advance(5)
    answer = await client.response()
    assert (answer.status, b"total_timeout" in answer.body) == (504, True)
    await running.at_rest()


async def test_after_a_share_of_late_waits_until_enough_is_known(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    script = Slow()
    script.go.set()
    slow, quick = await origin(script), await origin(OK)
    running = await start(gateway, slow, quick, hedge={"after": "p95"})
    client = await raw(running)
    script.go.clear()
    await client.send(GET)
    await slow.wait_for_request(1)
    running.clock.advance(20)
    await asyncio.sleep(0.02)
    assert not quick.requests, "nothing is known yet of what is slow"
    script.go.set()
    assert (await client.response()).body == b"slow"
    for _ in range(41):
        assert (await client.ask(GET)).status == 200
    running.clock.advance(2)
    script.go.clear()
    seen = len(slow.requests)
    for _ in range(2):  # one of the two goes to the slow one, and is answered by the other
        await client.send(GET)
        if len(slow.requests) == seen:
            await asyncio.sleep(0.05)
        running.clock.advance(30)
        assert (await client.response()).body == b"ok"
    assert len(slow.requests) > seen
    await hedges(running, "won")
