"""Memory for a stream is bounded, whoever is slow, and large bodies pass whole.

Rules of this file: the slow end counts for what was taken on its behalf: by the gateway and by the kernel's buffers of two
connections, of which each takes a few megabytes on the loopback.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conformance.conftest import get, post
from tests.kit.frames import frame
from tests.kit.origin import OK, chunk, reply

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Peer

SIZE = 100_000_000
BOUND = 24_000_000
GROWTH = 40_000_000
BLOCK = bytes(range(256)) * 4096
CHUNKED = b"Transfer-Encoding: chunked"


def resident() -> int:
    """Bytes of memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_client_that_does_not_read_slows_the_upstream_down(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, framing: str
) -> None:
    taken: list[int] = []
    line = {
        "length": b"Content-Length: 1000000000",
        "chunked": CHUNKED,
        "close": b"Connection: close",
    }[framing]

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply(b"", line, length=False))
        block = chunk(b"x" * 65_536) if framing == "chunked" else b"x" * 65_536
        taken.append(await peer.send_until_full(block, most=SIZE, quiet=0.3))

    up = await origin(script)
    client = await raw(await gateway(up), receive_buffer=4096)
    await client.send(get())
    async with asyncio.timeout(10):
        while not taken:
            await asyncio.sleep(0.02)
    assert 0 < taken[0] < BOUND


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_upstream_that_does_not_read_slows_the_client_down(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, framing: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await asyncio.Event().wait()

    up = await origin(script)
    running = await gateway(up, route={"body": {"max": "unlimited"}})
    client = await raw(running)
    line = CHUNKED if framing == "chunked" else b"Content-Length: 1000000000"
    await client.send(post(line, body=None))
    block = chunk(b"x" * 65_536) if framing == "chunked" else b"x" * 65_536
    assert 0 < await client.send_until_full(block, most=SIZE) < BOUND
    running.clock.advance(61)  # nobody would hear the client leave while nothing is read from it
    await running.eventually("gateway_errors_total", 1)


@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_an_end_of_a_tunnel_that_does_not_read_slows_the_other_down(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, who: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        await asyncio.Event().wait()

    up = await origin(script)
    client = await raw(await gateway(up), receive_buffer=4096)
    lines = [b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13",
             b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]  # fmt: skip
    assert (await client.ask(get(b"/", *lines))).status == 101
    sender = up.connections[0] if who == "client" else client
    block = frame(b"x" * 60_000, mask=who == "upstream")
    assert 0 < await sender.send_until_full(block, most=SIZE) < BOUND
    client.close()
    up.connections[0].close()


async def test_a_large_download_passes_whole_in_little_memory(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply(b"", b"Content-Length: %d" % SIZE, length=False))
        sent = 0
        while sent < SIZE:
            await peer.send(BLOCK[: SIZE - sent])
            sent += len(BLOCK[: SIZE - sent])
        await peer.rest()

    running = await gateway(await origin(script))
    client = await raw(running)
    await client.send(get())
    await client.head()
    before, most, got = resident(), 0, len(await client.some())
    while got < SIZE:
        size = await client.skip(min(5_000_000, SIZE - got))
        assert size
        got += size
        most = max(most, resident())
    assert most - before < GROWTH
    await running.eventually("gateway_response_bytes_total", SIZE)


async def test_a_large_upload_passes_whole_in_little_memory(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    most = 0

    async def script(peer: Peer) -> None:
        nonlocal most
        await peer.head()
        got = len(await peer.some())
        while got < SIZE:
            size = await peer.skip(min(5_000_000, SIZE - got))
            assert size
            got += size
            most = max(most, resident())
        await peer.send(OK)
        await peer.rest()

    running = await gateway(await origin(script), route={"body": {"max": "unlimited"}})
    client = await raw(running)
    before = resident()
    await client.send(post(b"Content-Length: %d" % SIZE, body=None))
    sent = 0
    while sent < SIZE:
        part = BLOCK[: SIZE - sent]
        await client.send(part)
        sent += len(part)
    assert (await client.response("POST")).status == 200
    assert most - before < GROWTH
    await running.eventually("gateway_request_bytes_total", SIZE)


@pytest.mark.parametrize(
    "sizes", [[1] * 500, [65_536] * 40, [1, 100_000, 7, 250_000, 3], [1_000_000]]
)
async def test_chunked_bodies_of_any_grain_pass_whole_in_both_directions(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, sizes: list[int]
) -> None:
    parts = [
        hashlib.sha256(b"%d" % at).digest() * (size // 32 + 1) for at, size in enumerate(sizes)
    ]
    parts = [part[:size] for part, size in zip(parts, sizes, strict=True)]
    body = b"".join(chunk(part) for part in parts) + b"0\r\n\r\n"
    up = await origin(reply(b"", CHUNKED, length=False) + body)
    client = await raw(await gateway(up))
    got, _ = await asyncio.gather(
        client.response("POST"), client.send(post(CHUNKED, body=None), body)
    )
    assert got.body == b"".join(parts)
    assert up.only.body == b"".join(parts)


async def test_a_thousand_small_answers_leave_no_trace(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway(await origin())
    client = await raw(running)
    for _ in range(1000):
        await client.send(get())
        assert (await client.response()).status == 200
        client.received.clear()
    assert running.busy() == []
    assert running.metric("gateway_requests_in_flight") == 0
    assert running.metric("gateway_upstream_connections", state="active") == 0
