"""Two things that happen in the same moment: an answer comes while its request is handed over, cut, given up or left.

Rules of this file: what the loop would bring by luck is called by the test itself, at the moment that is meant.
"""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest

from gateway import errors
from tests.kit.origin import OK, reply
from tests.kit.wire import Ended

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin, Peer
    from tests.kit.raw import Client
    from tests.kit.running import Running

GET = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"


async def mute_after_one(peer: Peer) -> None:
    await peer.request()
    await peer.send(OK)
    while True:
        await peer.request()


async def under_way(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, **sections: Any
) -> tuple[Origin, Running, Client, Any]:
    """(origin, gateway, client, its connection): a second request has reached its target and no task awaits it."""
    up = await origin(mute_after_one)
    running = await gateway(up, **sections)
    client = await raw(running)
    await client.ask(GET)
    await client.send(GET)
    await up.wait_for_request(2)
    (connection,) = running.gateway.servers[0].connections
    assert connection.under_way is not None
    assert connection.under_way.tells
    return up, running, client, connection


async def at_rest(running: Running) -> None:
    await running.at_rest()
    proxy = running.gateway.proxy
    assert (proxy.in_flight, proxy.snapshot.in_flight) == (0, 0)
    assert running.metric("gateway_requests_in_flight") == 0
    source: Any = running.gateway.metrics.upstream("up").source
    assert [target.in_flight for target in source.targets] == [0]
    gc.collect()  # a coroutine that nobody has awaited says so when it goes


async def test_an_answer_that_comes_while_its_request_is_handed_to_a_task_is_sent_once(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up, running, client, connection = await under_way(origin, gateway, raw)
    wire = connection.under_way.wire
    connection._queue_error(errors.HeadTooLarge())  # the next head: it wakes aiohttp's task
    while connection._waiter is not None:
        await asyncio.sleep(0)
    wire.data_received(OK)
    assert (await client.response()).status == 200
    assert (await client.response()).status == 431
    assert await client.rest() == b""
    assert len(up.requests) == 2
    await at_rest(running)


async def test_an_answer_that_comes_before_a_woken_task_runs_is_sent_once(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up, running, client, connection = await under_way(origin, gateway, raw)
    wire = connection.under_way.wire
    connection._queue_error(errors.HeadTooLarge())
    wire.data_received(OK)
    assert (await client.response()).status == 200
    assert (await client.response()).status == 431
    assert len(up.requests) == 2
    await at_rest(running)


@pytest.mark.parametrize("warm", [False, True])
async def test_what_is_cut_as_it_begins_is_told_so(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, warm: bool
) -> None:
    """Where no connection rests, the answer is a coroutine, and no task is at it yet."""
    running = await gateway(await origin(mute_after_one))
    client = await raw(running)
    if warm:
        await client.ask(GET)
    else:
        while not running.gateway.servers[0].connections:
            await asyncio.sleep(0)
    (connection,) = running.gateway.servers[0].connections
    while connection._waiter is None:
        await asyncio.sleep(0)
    connection.data_received(GET)
    connection.cut()
    assert (await client.response()).status == 503
    await at_rest(running)


@pytest.mark.parametrize("how", ["cut", "late", "left", "lost"])
@pytest.mark.parametrize("answered", [0, 1, 2])
async def test_what_ends_as_its_answer_comes_is_answered_once_or_cut(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, how: str, answered: int
) -> None:
    """`answered`: the answer comes after, or before, or only its first half before."""
    up, running, client, connection = await under_way(
        origin, gateway, raw, route={"timeouts": {"total": "5s"}}
    )
    wire = connection.under_way.wire
    answer = reply(b"x" * 100)
    if answered == 1:
        wire.data_received(answer)
    elif answered == 2:
        wire.data_received(answer[:-50])
    if how == "cut":
        connection.cut()
    elif how == "late":
        running.clock.advance(6)
    elif how == "left":
        client.reset()
        connection.transport and connection.transport.abort()
    else:
        wire.transport and wire.transport.abort()
    if not answered and wire.transport is not None:
        wire.data_received(answer)
    if answered == 2 and wire.transport is not None:
        wire.data_received(answer[-50:])
    if how != "left":
        try:
            told = (await client.response()).status
        except Ended:
            told = 0
        assert told == 200 if answered == 1 else told in (0, 200, 502, 503, 504)
        assert not client.buffer
    await at_rest(running)
    assert len(up.requests) in (2, 3)


async def test_a_client_that_leaves_as_its_request_is_handed_to_a_task_is_counted_once(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up, running, client, connection = await under_way(origin, gateway, raw)
    connection._queue_error(errors.HeadTooLarge())
    while connection._waiter is not None:
        await asyncio.sleep(0)
    connection.connection_lost(None)
    client.close()
    await running.eventually("gateway_errors_total", 1, route="all", reason="client_closed")
    await at_rest(running)
    assert len(up.requests) == 2


@pytest.mark.parametrize("reads", [1, 2])
@pytest.mark.parametrize(
    ("surplus", "goes_on"),
    [
        (b"H", b"TTP/1.1 200 OK\r\nX-Stale: 1\r\nContent-Length: 1\r\n\r\nx"),
        (b"HTTP/1.1 200 OK\r\nX-Stale: 1\r\nX: ", reply(b"ok")),
        (b"HTTP/1.1 200 OK\r\nA: 1\r\nSec-WebSocket-Key1: 1\r\nX", b"-Stale: 1\r\nContent-Length: 0\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: \x00", b"\r\n\r\n"),
        (reply(b"stale"), reply(b"ok")),
        (b"x", reply(b"ok")),
    ],
)  # fmt: skip
async def test_what_comes_behind_an_answer_is_never_the_beginning_of_the_next(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, reads: int, surplus: bytes, goes_on: bytes
) -> None:  # fmt: skip
    answer = reply(b"ok")

    async def script(peer: Peer) -> None:
        await peer.request()
        if reads == 2:
            await peer.send(answer[:-1])
            await asyncio.sleep(0.05)
            await peer.send(answer[-1:] + surplus)
        else:
            await peer.send(answer + surplus)
        await peer.request()
        await peer.send(goes_on)

    up = await origin(script)
    running = await gateway(up)
    client = await raw(running)
    for _ in range(3):
        answered = await client.ask(GET)
        assert (answered.status, answered.body, answered.get(b"X-Stale")) == (200, b"ok", None)
    assert len(up.connections) == 3


async def test_an_empty_line_behind_an_answer_does_no_harm(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(reply(b"ok") + b"\r\n")
    running = await gateway(up)
    client = await raw(running)
    for _ in range(3):
        assert (await client.ask(GET)).body == b"ok"
    assert len(up.connections) == 1


def broken(*_: object) -> None:
    raise RuntimeError("a bug")


async def test_a_bug_where_a_request_begins_is_a_500_and_ends_no_other_request(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    running = await gateway(await origin())
    client = await raw(running)
    router = running.gateway.snapshot.router
    for bug in (False, True, True, False):
        with pytest.MonkeyPatch.context() as patched:
            if bug:
                patched.setattr(router, "match", broken)
            assert (await client.ask(GET)).status == (500 if bug else 200)
    assert [record.message for record in caplog.records] == ["internal_error"] * 2
    await at_rest(running)


@pytest.mark.parametrize("waits", [False, True])
async def test_a_bug_where_a_request_ends_does_not_end_it_twice(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, caplog: pytest.LogCaptureFixture, waits: bool
) -> None:  # fmt: skip
    answer = reply(b"x" * 100)

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(answer[:-50])
            if waits:
                await asyncio.sleep(0.02)
            await peer.send(answer[-50:])

    running = await gateway(await origin(script))
    client = await raw(running)
    await client.ask(GET)
    (route,) = running.gateway.snapshot.router._known.values()
    route.at_finish = (broken, *route.at_finish)
    for _ in range(3):
        assert (await client.ask(GET)).status == 200
    await at_rest(running)
    assert [record.message for record in caplog.records] == ["internal_error"] * 3
    assert len(await running.log(4)) == 4
