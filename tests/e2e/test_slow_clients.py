"""A thousand clients that take their time, at once: nobody else waits for them, and they all go.

A third drips its request head byte by byte, a third drips a body, a third does not read a large
reply. They are shut out by the configured times, which the test's clock lets pass.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from typing import TYPE_CHECKING

import pytest

from gateway.backlog import Backlog
from gateway.relay import Upload
from tests.kit.clock import FakeClock
from tests.kit.origin import OK
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Peer
    from tests.kit.raw import Client
    from tests.kit.running import Running

HEADS, BODIES, READERS = 334, 333, 333
ALL = HEADS + BODIES + READERS
LARGE = 1 << 20
HEAD = b"GET /head HTTP/1.1\r\nHost: a\r\n\r\n"
BODY = b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
REPLY = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n"
ORDINARY = b"GET /ordinary HTTP/1.1\r\nHost: a\r\n\r\n"
_DESCRIPTORS = 4096

CONFIG = """
server:
  limits:
    header_timeout: 60s
    body_min_rate: 1kB/s
upstreams:
  up:
    targets: ["{url}"]
    pool: 1000
routes:
  - name: all
    path: /*
    to: up
    timeouts: {{idle: 60s}}
"""


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    """Room for both ends of every connection on both sides of the gateway."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, max(hard, _DESCRIPTORS)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _serve(peer: Peer) -> None:
    """Read what comes, for as long as it comes, and offer a large reply whether it is read or not."""
    # Little of the reply may rest in the kernel, or it would never be the client's turn.
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    loop = asyncio.get_running_loop()
    while peer.buffer or await peer._more():
        head = await peer.head()
        if head.target == b"/body":
            while await peer._more():
                pass
        elif head.target == b"/large":
            start = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE
            await loop.sock_sendall(peer.sock, start + bytes(LARGE))
        else:
            await peer.send(OK)


class _Standing(FakeClock):
    """A clock on which nothing passes but what the test lets pass, however busy the machine is."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = 1000.0

    def now(self) -> float:
        return self.offset


class _Slow:
    """Some clients of a kind."""

    def __init__(self, socks: Sequence[socket.socket]) -> None:
        self.socks = socks

    @classmethod
    async def connect(cls, running: Running, count: int, first: bytes) -> _Slow:
        """`count` connections, each of which has sent `first`."""
        return cls(await asyncio.gather(*(cls._one(running.port, first) for _ in range(count))))

    @staticmethod
    async def _one(port: int, first: bytes) -> socket.socket:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        # A small window and small segments: what is not read stays the gateway's.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        await loop.sock_sendall(sock, first)
        return sock

    def drip(self, byte: bytes) -> None:
        """One more byte from each."""
        for sock in self.socks:
            sock.send(byte)

    async def ends(self) -> list[bytes]:
        """What each has read when its connection has ended."""
        async with asyncio.timeout(PATIENCE):
            return await asyncio.gather(*(self._end(sock) for sock in self.socks))

    @staticmethod
    async def _end(sock: socket.socket) -> bytes:
        loop = asyncio.get_running_loop()
        seen = bytearray()
        try:
            while data := await loop.sock_recv(sock, 1 << 16):
                seen += data
                await asyncio.sleep(0)  # what lies ready is read without a turn of the loop
        except ConnectionResetError:
            pass
        return bytes(seen)

    def close(self) -> None:
        for sock in self.socks:
            sock.close()


async def _watched(running: Running, kind: type, count: int) -> None:
    """Wait until the gateway waits for so many clients in this way."""
    async with asyncio.timeout(PATIENCE):
        while sum(type(one) is kind for one in running.clock.watched) != count:
            await asyncio.sleep(0.02)


async def _open(running: Running, count: int) -> None:
    """Wait until so many clients hold a connection."""
    admission = running.gateway._admission
    async with asyncio.timeout(PATIENCE):
        while admission.total != count:
            await asyncio.sleep(0.02)
    assert sum(admission.by_address.values()) == count


async def _ordinary(client: Client, running: Running, raw: MakeClient) -> None:
    """A client that is there already and one that comes now are both served."""
    fresh = await raw(running)
    for one in (client, fresh, client):
        got = await one.ask(ORDINARY)
        assert (got.status, got.body) == (200, b"ok")
    fresh.close()


async def test_a_thousand_slow_clients_hinder_nobody_and_are_all_shut_out_in_time(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After an early answer the rest of a body is awaited on the loop's own clock: not here.
    monkeypatch.setattr("gateway.heads.LINGER", 0.2)
    up = await origin(_serve)
    running = await gateway(CONFIG.format(url=up.url), clock=_Standing())
    client = await raw(running)
    await _ordinary(client, running, raw)
    heads = await _Slow.connect(running, HEADS, HEAD[:1])
    bodies = await _Slow.connect(running, BODIES, BODY)
    readers = await _Slow.connect(running, READERS, REPLY)
    try:
        await _open(running, ALL + 1)
        await _watched(running, Upload, BODIES)
        await _watched(running, Backlog, READERS)
        assert running.metric("gateway_requests_in_flight") == BODIES + READERS
        await _ordinary(client, running, raw)

        # Nobody's time is up: the rate of a body is judged after five seconds.
        running.clock.advance(4)
        heads.drip(HEAD[1:2])
        bodies.drip(b"x")
        await _ordinary(client, running, raw)
        await _open(running, ALL + 1)
        assert running.metric("gateway_errors_total") == 0

        running.clock.advance(4)
        heads.drip(HEAD[2:3])
        bodies.drip(b"x")
        await _ordinary(client, running, raw)
        assert {end[:13] for end in await bodies.ends()} == {b"HTTP/1.1 408 "}
        await _open(running, HEADS + READERS + 1)

        running.clock.advance(40)
        heads.drip(HEAD[3:4])
        await _ordinary(client, running, raw)
        await _open(running, HEADS + READERS + 1)

        running.clock.advance(40)
        await _ordinary(client, running, raw)
        assert {end[:13] for end in await heads.ends()} == {b"HTTP/1.1 408 "}
        for end in await readers.ends():
            assert end.startswith(b"HTTP/1.1 200 ")
            assert len(end) < LARGE, "it was given all of the reply"

        await _open(running, 1)
        await running.eventually("gateway_requests_in_flight", 0)
        await running.eventually("gateway_errors_total", ALL)
        assert running.metric("gateway_errors_total", reason="client_timeout") == ALL
        assert running.metric("gateway_errors_total", reason="client_timeout", route="all") == (
            BODIES + READERS
        )
        await _ordinary(client, running, raw)
        await running.eventually("gateway_upstream_connections", 0, state="active")
        client.close()
        await _open(running, 0)
    finally:
        for slow in (heads, bodies, readers):
            slow.close()
