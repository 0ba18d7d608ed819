"""Clients that read slowly are served for as long as they read; those that stop are cut.

Rules of this file: real sockets with small buffers, so that what the kernel takes is what the client reads; the test's
clock lets the time pass in which a client reads what it reads.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conformance.conftest import get
from tests.kit.origin import reply

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Peer
    from tests.kit.running import Running

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
        while not any(type(one).__name__ == "Stall" for one in running.clock.watched):
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
