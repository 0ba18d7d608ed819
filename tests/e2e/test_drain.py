"""A graceful end, phase by phase, on a clock that the test moves.

Rules of this file: real sockets; nothing sleeps for the time that a phase takes.
"""

from __future__ import annotations

import asyncio
import base64
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.kit.origin import chunk, reply
from tests.kit.raw import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Peer
    from tests.kit.running import Running

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
    + base64.b64encode(b"0123456789abcdef")
    + b"\r\n\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: x\r\n\r\n"
)
GOING_AWAY = b"\x88\x02\x03\xe9"
"""An unmasked Close with status 1001."""


def shutdown(**settings: str) -> dict[str, Any]:
    return {"shutdown": {"ready_delay": "5s", "grace": "30s", **settings}}


class Draining:
    """A drain that is under way."""

    def __init__(self, running: Running, delay: float | None) -> None:
        self.running = running
        self.task = asyncio.get_running_loop().create_task(running.gateway.drain(delay))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.01)

    async def pass_time(self, seconds: float) -> None:
        """Let `seconds` pass, and let everybody take notice."""
        self.running.clock.advance(seconds)
        await asyncio.sleep(0.1)

    async def over(self) -> None:
        async with asyncio.timeout(5):
            await self.task


@pytest.fixture
async def begin() -> AsyncIterator[Callable[..., Draining]]:
    """`begin(running, delay)`: start to drain."""
    drains: list[Draining] = []

    def start(running: Running, delay: float | None = None) -> Draining:
        drains.append(Draining(running, delay))
        return drains[-1]

    yield start
    for drain in drains:
        drain.task.cancel()
    await asyncio.gather(*(drain.task for drain in drains), return_exceptions=True)


async def test_during_the_delay_clients_are_accepted_and_told_to_close_and_ready_is_false(
    gateway: MakeGateway, origin: MakeOrigin, raw: MakeClient, begin: Callable[..., Draining]
) -> None:
    running = await gateway(await origin(), server=shutdown())
    resting = await raw(running)
    assert (await resting.ask(GET)).get("connection") is None
    assert running.gateway.ready
    drain = begin(running)
    await drain.until(lambda: running.gateway.draining)
    assert not running.gateway.ready
    await drain.pass_time(4)
    for client in (resting, await raw(running)):
        answer = await client.ask(GET)
        assert answer.status == 200
        assert answer.get("connection") == b"close"
        assert await client.closed() == "fin"
    assert not drain.task.done()
    await drain.pass_time(1.5)
    await drain.over()


async def test_after_the_delay_nobody_is_accepted_and_connections_at_rest_are_closed(
    gateway: MakeGateway, origin: MakeOrigin, raw: MakeClient, begin: Callable[..., Draining]
) -> None:
    running = await gateway(await origin(), server=shutdown())
    resting = await raw(running)
    await resting.ask(GET)
    drain = begin(running)
    await drain.until(lambda: running.gateway.draining)
    await drain.pass_time(5)
    assert await resting.closed() == "fin"
    with pytest.raises(OSError):
        await raw(running)
    await drain.over()


async def test_without_a_delay_a_drain_with_nothing_to_do_is_over_at_once(
    gateway: MakeGateway, origin: MakeOrigin, raw: MakeClient, begin: Callable[..., Draining]
) -> None:
    running = await gateway(await origin(), server=shutdown())
    client = await raw(running)
    await client.ask(GET)
    drain = begin(running, 0)
    await drain.over()
    assert await client.closed() == "fin"


async def test_a_second_call_waits_for_the_same_end(
    gateway: MakeGateway, origin: MakeOrigin, begin: Callable[..., Draining]
) -> None:
    running = await gateway(await origin(), server=shutdown())
    first, second = begin(running), begin(running, 0)
    await asyncio.sleep(0.1)
    assert not second.task.done()
    await first.pass_time(5)
    await first.over()
    await second.over()


async def test_an_upload_that_is_under_way_when_the_drain_begins_arrives_whole(
    gateway: MakeGateway, origin: MakeOrigin, raw: MakeClient, begin: Callable[..., Draining]
) -> None:
    up = await origin()
    running = await gateway(up, server=shutdown())
    client = await raw(running)
    await client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhello")
    await up.wait_for_request()
    drain = begin(running, 0)
    await drain.until(lambda: running.gateway.draining)
    await drain.pass_time(20)
    assert not drain.task.done()
    await client.send(b"world")
    answer = await client.response("POST")
    assert answer.status == 200
    assert answer.get("connection") == b"close"
    await drain.over()
    assert up.requests[0].body == b"helloworld"


async def test_a_head_that_is_half_there_when_the_drain_begins_is_answered(
    gateway: MakeGateway, origin: MakeOrigin, raw: MakeClient, begin: Callable[..., Draining]
) -> None:
    running = await gateway(await origin(), server=shutdown())
    client = await raw(running)
    await client.ask(GET)
    await client.send(GET[:20])
    await asyncio.sleep(0.05)
    drain = begin(running, 0)
    await asyncio.sleep(0.1)
    assert (await client.ask(GET[20:], method="GET")).status == 200
    await drain.over()


async def test_a_connection_that_was_just_made_still_gets_its_first_request_answered(
    gateway: MakeGateway, origin: MakeOrigin, raw: MakeClient, begin: Callable[..., Draining]
) -> None:
    running = await gateway(await origin(), server=shutdown())
    accepted = await raw(running)
    await asyncio.sleep(0.05)
    with socket.create_connection(("127.0.0.1", running.port)) as sock:
        queued = Client(sock)  # nothing has awaited: the gateway has not accepted it yet
        drain = begin(running, 0)
        await asyncio.sleep(0.1)
        assert (await accepted.ask(GET)).status == 200
        assert (await queued.ask(GET)).status == 200
        await drain.over()


async def test_a_request_without_an_answer_at_the_end_of_its_grace_is_told_so(
    gateway: MakeGateway, origin: MakeOrigin, raw: MakeClient, begin: Callable[..., Draining]
) -> None:
    async def never(peer: Peer) -> None:
        await peer.request()
        await peer.rest()

    up = await origin(never)
    running = await gateway(up, server=shutdown(grace="20s"))
    client = await raw(running)
    await client.send(GET)
    await up.wait_for_request()
    drain = begin(running, 0)
    await drain.until(lambda: running.gateway.draining)
    await drain.pass_time(19)
    assert not drain.task.done()
    await drain.pass_time(1.5)
    answer = await client.response()
    assert answer.status == 503
    assert b"shutting_down" in answer.body
    assert answer.get("connection") == b"close"
    assert await client.closed() == "fin"
    await drain.over()
    assert running.metric("gateway_errors_total", reason="shutting_down") == 1


async def test_an_answer_that_is_half_out_at_the_end_of_its_grace_is_cut_visibly(
    gateway: MakeGateway, origin: MakeOrigin, raw: MakeClient, begin: Callable[..., Draining]
) -> None:
    async def half(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"half"))
        await peer.rest()

    running = await gateway(await origin(half), server=shutdown(grace="20s"))
    client = await raw(running)
    await client.send(GET)
    await client.until(b"half\r\n")
    drain = begin(running, 0)
    await drain.until(lambda: running.gateway.draining)
    await drain.pass_time(20.5)
    await drain.over()
    assert await client.rest() == b"", "a cut answer must not get its last chunk"
    (line,) = await running.log()
    assert (line["status"], line["reason"]) == (200, "shutting_down")


async def echo(peer: Peer) -> None:
    await peer.request()
    await peer.send(SWITCH)
    await peer.send(await peer.exactly(8))
    await peer.rest()


@pytest.mark.parametrize(
    ("grace", "websocket_grace", "goes_at"),
    [("30s", None, 30), ("10s", "60s", 60), ("60s", "10s", 10)],
    ids=["as grace", "longer than grace", "shorter than grace"],
)
async def test_a_websocket_goes_on_for_its_grace_and_then_gets_a_close_1001(
    gateway: MakeGateway,
    origin: MakeOrigin,
    raw: MakeClient,
    begin: Callable[..., Draining],
    grace: str,
    websocket_grace: str | None,
    goes_at: float,
) -> None:
    settings = {"grace": grace}
    if websocket_grace:
        settings["websocket_grace"] = websocket_grace
    up = await origin(echo)
    running = await gateway(up, server=shutdown(**settings), route={"websocket": {"idle": "off"}})
    client = await raw(running)
    assert (await client.ask(UPGRADE)).status == 101
    drain = begin(running, 0)
    await drain.until(lambda: running.gateway.draining)
    await drain.pass_time(goes_at - 1)
    await client.send(b"\x82\x82\0\0\0\0ab")
    assert await client.exactly(8) == b"\x82\x82\0\0\0\0ab", "it no longer passes bytes"
    assert not drain.task.done()
    await drain.pass_time(1.5)
    assert await client.exactly(4) == GOING_AWAY
    await client.send(b"\x88\x82\0\0\0\0\x03\xe9")
    await drain.pass_time(0)  # it is read
    await drain.pass_time(1)
    assert await client.closed() == "fin"
    await drain.over()


async def test_a_client_that_never_reads_its_answer_does_not_outlive_the_grace(
    gateway: MakeGateway, origin: MakeOrigin, raw: MakeClient, begin: Callable[..., Draining]
) -> None:
    running = await gateway(await origin(reply(b"x" * 8_000_000)), server=shutdown(grace="5s"))
    client = await raw(running, receive_buffer=4096)
    await client.send(GET)
    await client.until(b"\r\n\r\n")
    drain = begin(running, 0)
    await drain.until(lambda: running.gateway.draining)
    await drain.pass_time(5.5)
    await drain.pass_time(2.5)
    await drain.over()


async def test_leaving_the_block_without_a_drain_ends_at_once_and_leaves_nothing(
    origin: MakeOrigin, raw: MakeClient
) -> None:
    from gateway.runtime.gateway import Gateway

    async def never(peer: Peer) -> None:
        await peer.request()
        await peer.rest()

    up = await origin(never)
    config = {
        "listeners": [{"bind": "127.0.0.1:0"}], "admin": "off",
        "observability": {"access_log": "off"}, "routes": [{"path": "/*", "to": up.url}],
    }  # fmt: skip
    async with Gateway(config) as gateway:
        client = await raw(next(iter(gateway.addresses.values())))
        await client.send(GET)
        await up.wait_for_request()
    assert await client.closed() == "fin"
    assert gateway.proxy.in_flight == 0
    assert len(gateway._resources) == 0
    assert not gateway.clock.watched
