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


def written(slow: Origin, quick: Origin, **route: Any) -> dict[str, Any]:
    return {
        "upstreams": {
            "up": {"targets": [slow.url, quick.url], "balance": "round_robin", "eject": "off"}
        },
        "routes": [{"name": "all", "path": "/*", "to": "up", "hedge": {"after": "1s"}, **route}],
    }


async def start(gateway: MakeGateway, slow: Origin, quick: Origin, **route: Any) -> Running:
    """Round robin: the first request goes to `slow`."""
    return await gateway(written(slow, quick, **route))


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


async def test_what_is_late_is_still_known_after_a_reload(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    script = Slow()
    script.go.set()
    slow, quick = await origin(script), await origin(OK)
    running = await start(gateway, slow, quick, hedge={"after": "p95"})
    client = await raw(running)
    for _ in range(41):
        assert (await client.ask(GET)).status == 200
    for after in ("p95", "p90"):  # what has been seen does not depend on what is asked of it
        config = written(slow, quick, hedge={"after": after}, timeouts={"first_byte": "40s"})
        here = {"listeners": [{"bind": "127.0.0.1:0"}], "admin": "off"}
        await running.gateway.reload({**here, **config})
        script.go.clear()
        seen = len(slow.requests)
        for _ in range(2):  # one of the two goes to the slow one, and is answered by the other
            await client.send(GET)
            if len(slow.requests) == seen:
                await asyncio.sleep(0.05)
            running.clock.advance(30)
            assert (await client.response()).body == b"ok"
        assert len(slow.requests) > seen
        script.go.set()


@pytest.mark.parametrize("same", [True, False])
async def test_each_branch_of_a_split_has_its_own_idea_of_what_is_late(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, same: bool
) -> None:
    script = Slow()
    script.go.set()
    slow, quick, other = await origin(script), await origin(OK), await origin(OK)
    branches = [
        {"upstream": "up", "weight": 1, "sticky_by": "header.x-branch"},
        {"upstream": "new", "weight": 1},
    ]
    config = written(slow, quick, split=branches, hedge={"after": "p95"})
    del config["routes"][0]["to"]
    config["upstreams"]["new"] = {"targets": [other.url]}
    if not same:
        config["upstreams"]["new"]["timeouts"] = {"idle": "5s"}
    running = await gateway(config)
    client = await raw(running)

    def by(number: int) -> bytes:
        return b"GET /x HTTP/1.1\r\nHost: a.test\r\nX-Branch: %d\r\n\r\n" % number

    number = 0
    while not other.requests:
        number += 1
        await client.ask(by(number))
    for _ in range(30):
        await client.ask(by(number))
    here = 0
    while len(slow.requests) + len(quick.requests) < 1:
        here += 1
        await client.ask(by(here))
    script.go.clear()
    seen = len(slow.requests)
    while len(slow.requests) == seen:
        before = len(quick.requests)
        await client.send(by(here))
        async with asyncio.timeout(PATIENCE):
            while len(slow.requests) == seen and len(quick.requests) == before:
                await asyncio.sleep(0.01)
        if len(slow.requests) == seen:
            assert (await client.response()).status == 200
    running.clock.advance(20)
    await asyncio.sleep(0.02)
    hedges = running.metric("gateway_hedges_total", upstream="up")
    assert hedges == 0, "nothing is known of this one"
    script.go.set()
    assert (await client.response()).body == b"slow"
