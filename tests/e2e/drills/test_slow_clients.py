"""Clients that are slow, in front of synchronous workers of which there are few.

Rules of this file: gunicorn has as many workers as there are slow clients.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from tests.kit.fleet import WORKERS, before
from tests.kit.load import Load, quantile

if TYPE_CHECKING:
    from tests.kit.fleet import Fleet

LARGE = 32 * 1024 * 1024
"""Bytes: more than kernels and the gateway take, unasked, for a client that does not read."""


class Slow:
    """A client that stops in the middle: of its upload, or of reading what it has asked for."""

    def __init__(self, way: str) -> None:
        self.uploads = way == "request"

    async def begin(self, address: str, stack: AsyncExitStack) -> None:
        """Come to the middle."""
        host, _, port = address.rpartition(":")
        self.reader, self.writer = await asyncio.open_connection(host, int(port), limit=1024)
        stack.callback(self.writer.transport.abort)
        if self.uploads:
            self.writer.write(b"PUT / HTTP/1.1\r\nHost: drill\r\nContent-Length: 100\r\n\r\nxx")
        else:
            self.writer.write(b"GET /large/%d HTTP/1.1\r\nHost: drill\r\n\r\n" % LARGE)
            await self.reader.readuntil(b"\r\n\r\n")

    async def end(self) -> None:
        """Go on; what is missing must come whole."""
        if self.uploads:
            self.writer.write(b"x" * 98)
            assert (await self.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        else:
            assert len(await self.reader.readexactly(LARGE)) == LARGE


@pytest.mark.parametrize("way", ["request", "response"])
async def test_slow_clients_do_not_hold_synchronous_workers(fleet: Fleet, way: str) -> None:
    """With `buffer` as many slow clients as there are sync workers cost the others nothing, in either direction."""
    (origin,) = await fleet.origins("sync")
    gateway = await fleet.gateway(before([origin], route={"buffer": {way: "32MiB"}}))
    slow = [Slow(way) for _ in range(WORKERS)]
    async with AsyncExitStack() as stack:
        for client in slow:
            await client.begin(gateway.address, stack)
        async with Load(gateway.address) as load:
            await load.burst(20)
        assert load.counts == {"200": 20}
        assert quantile(load.outcomes, 1.0) < 2
        for client in slow:
            await client.end()
    assert len(origin.asked()) == 20 + WORKERS
