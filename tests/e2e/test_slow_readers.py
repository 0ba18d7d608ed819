"""Whoever reads slowly is served for as long as it reads, a client or an upstream; who stops is cut.

Rules of this file: real sockets with small buffers, so that what the kernel takes is what the client reads; the test's
clock lets the time pass in which a client reads what it reads.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conformance.conftest import get, post
from tests.kit.frames import frame
from tests.kit.origin import reply
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin, Peer
    from tests.kit.raw import Client
    from tests.kit.running import Running
    from tests.kit.wire import Wire

SIZE = 20_000_000
IDLE = 60
STEP = 5
"""Seconds between two reads."""
RATE = 1000
"""Bytes a second."""


async def _large(peer: Peer) -> None:
    await peer.request()
    await peer.send(reply(b"", b"Content-Length: %d" % SIZE, length=False))
    await peer.send(bytes(SIZE))
    await peer.rest()


@pytest.fixture(params=["upstream", "file"])
async def running(
    request: pytest.FixtureRequest, gateway: MakeGateway, origin: MakeOrigin, tmp_path: Path
) -> Running:
    """A gateway that has a large body to send, of an upstream or of its own."""
    limits: dict[str, Any] = {"server": {"limits": {"body_idle": f"{IDLE}s"}}}
    if request.param == "upstream":
        return await gateway(
            await origin(_large), route={"timeouts": {"idle": f"{IDLE}s"}}, **limits
        )
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "large").write_bytes(bytes(SIZE))
    route = {"name": "all", "path": "/*", "static": str(tmp_path / "files")}
    return await gateway({"routes": [route], **limits})


async def _stalled(running: Running) -> None:
    """Wait until the gateway waits for the client."""
    async with asyncio.timeout(10):
        while not any(type(one).__name__ == "Backlog" for one in running.clock.watched):
            await asyncio.sleep(0.01)


async def test_a_client_that_reads_a_kilobyte_a_second_is_not_cut(
    running: Running, raw: MakeClient
) -> None:
    client = await raw(running, receive_buffer=4096)
    await client.send(get(b"/large"))
    await client.head()
    await _stalled(running)
    for second in range(0, 5 * IDLE, STEP):
        for _ in range(STEP):
            assert await client.exactly(RATE) == bytes(RATE), f"cut after {second} s"
            await asyncio.sleep(0.002)
        running.clock.advance(STEP)
        await asyncio.sleep(0.002)
    assert not client.ending
    assert running.metric("gateway_errors_total") == 0


async def test_one_that_stops_is_cut_after_the_idle_time(running: Running, raw: MakeClient) -> None:
    client = await raw(running, receive_buffer=4096)
    await client.send(get(b"/large"))
    await client.head()
    await _stalled(running)
    for _ in range(4):
        await client.exactly(STEP * RATE)
        running.clock.advance(STEP)
        await asyncio.sleep(0.01)
    stopped = 0
    while not running.metric("gateway_errors_total"):
        running.clock.advance(STEP)
        stopped += STEP
        await asyncio.sleep(
            0.05
        )  # the kernel still fills what the client has left free, in its own time
        assert stopped < 20 * IDLE
    assert stopped >= IDLE - STEP
    assert running.metric("gateway_errors_total", reason="client_timeout") == 1


# ── an upstream, of an upload ──


async def _peer(up: Origin) -> Peer:
    """The one connection of an upstream, once a request has come."""
    await up.wait_for_request()
    (peer,) = up.connections
    return peer


async def _few_bytes_at_a_time(peer: Peer) -> None:
    """Take a head; what follows is read by the test."""
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await peer.head()
    await asyncio.Event().wait()


@pytest.fixture
async def uploading(
    gateway: MakeGateway, origin: MakeOrigin, raw: MakeClient
) -> AsyncIterator[tuple[Running, Client, Peer]]:
    """An upload that has filled every buffer up to an upstream that reads nothing."""
    up = await origin(_few_bytes_at_a_time)
    running = await gateway(
        up, route={"timeouts": {"idle": f"{IDLE}s"}, "body": {"max": "unlimited"}}
    )
    client = await raw(running)
    await client.send(post(b"Content-Length: 1000000000", body=None))
    await client.send_until_full(quiet=0.2)
    peer = await _peer(up)
    yield running, client, peer
    peer.reset()  # of the client, which is not read from, nobody would hear that it has left


async def _read_slowly(running: Running, reader: Wire, seconds: int) -> None:
    for second in range(0, seconds, STEP):
        got = await reader.exactly(STEP * RATE)
        assert len(got) == STEP * RATE, f"cut after {second} s"
        await asyncio.sleep(0.005)
        running.clock.advance(STEP)
        await asyncio.sleep(0.005)
        assert running.metric("gateway_errors_total") == 0, f"cut after {second} s"


async def _cut_after(running: Running, reason: str) -> None:
    """Let time pass in which nobody reads, until an error is counted."""
    stopped = 0
    while not running.metric("gateway_errors_total"):
        running.clock.advance(STEP)
        stopped += STEP
        await asyncio.sleep(0.05)
        assert stopped < 20 * IDLE
    assert stopped >= IDLE - STEP
    assert running.metric("gateway_errors_total", reason=reason) == 1


async def test_an_upstream_that_reads_a_kilobyte_a_second_is_given_its_time(
    uploading: tuple[Running, Client, Peer],
) -> None:
    running, client, peer = uploading
    await _read_slowly(running, peer, 3 * IDLE)
    assert not client.ending
    assert not peer.ending


async def test_an_upstream_that_stops_reading_is_given_up_after_the_idle_time(
    uploading: tuple[Running, Client, Peer],
) -> None:
    running, client, peer = uploading
    await _read_slowly(running, peer, IDLE)
    await _cut_after(running, "upstream_header_timeout")
    assert (await client.response("POST")).status == 504


# ── either side, of a tunnel ──

UPGRADE = (
    b"GET /chat HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


async def _switch(peer: Peer) -> None:
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await peer.head()
    await peer.send(SWITCH)
    await asyncio.Event().wait()


@pytest.fixture(params=["client", "upstream"])
async def tunnelled(
    request: pytest.FixtureRequest, gateway: MakeGateway, origin: MakeOrigin, raw: MakeClient
) -> AsyncIterator[tuple[Running, Wire, Wire]]:
    """(_, who reads nothing, who has sent it a long message) of a tunnel."""
    up = await origin(_switch)
    running = await gateway(up, route={"websocket": {"idle": f"{IDLE}s"}})
    client = await raw(running, receive_buffer=4096)
    await client.send(UPGRADE)
    assert (await client.response()).status == 101
    reader, writer = client, await _peer(up)
    if request.param == "upstream":
        reader, writer = writer, reader  # type: ignore[assignment]
    message = frame(bytes(SIZE), mask=request.param == "upstream")
    async with asyncio.timeout(PATIENCE):
        sent = 0
        while count := await writer.send_until_full(message[sent : sent + 65536], most=65536):
            sent += count
    assert sent < SIZE
    yield running, reader, writer
    reader.reset()


async def test_a_side_of_a_tunnel_that_reads_slowly_is_not_idle(
    tunnelled: tuple[Running, Wire, Wire],
) -> None:
    running, reader, writer = tunnelled
    await _read_slowly(running, reader, 3 * IDLE)
    assert not reader.ending
    assert not writer.ending


async def test_a_side_of_a_tunnel_that_stops_reading_is_idle(
    tunnelled: tuple[Running, Wire, Wire],
) -> None:
    running, reader, writer = tunnelled
    await _read_slowly(running, reader, IDLE)
    for _ in range(3 * IDLE // STEP):
        running.clock.advance(STEP)
        await asyncio.sleep(0.02)
    assert await writer.rest(), "it was not told"
    assert (await running.log())[0]["reason"] == "websocket_timeout"
