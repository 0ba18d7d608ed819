"""What both ends of a test's connection share: a raw socket that is read only when a test asks.

Rules of this file: nothing is read ahead, nothing is corrected, and a reset is told from an
ordinary end. Every wait has a bound, so that a gateway that hangs is a failure with a line number.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from dataclasses import dataclass, field

PATIENCE = float(os.environ.get("GATEWAY_TEST_PATIENCE", "10"))
"""Seconds for which a test waits for what must come at once."""


class Ended(AssertionError):
    """The connection ended (`how`: "fin" or "rst") too early; `seen` is what had come."""

    def __init__(self, how: str, seen: bytes) -> None:
        super().__init__(f"connection ended ({how}) after {len(seen)} bytes: {seen[:2000]!r}")
        self.how = how
        self.seen = seen


@dataclass
class Message:
    """One HTTP message as it was on the wire."""

    raw: bytes
    head: bytes
    """Start line and fields with their line ends, up to and with the empty line."""
    body: bytes = b""
    """The content, chunks put together."""
    trailers: bytes = b""
    framing: str = "none"
    """none | length | chunked | close."""
    ended: str = ""
    """How the connection ended, where that ended the body ("fin" or "rst")."""
    interim: list[Message] = field(default_factory=list)
    """1xx heads that came before."""

    @property
    def start(self) -> bytes:
        """The first line."""
        return self.head.split(b"\r\n", 1)[0]

    @property
    def status(self) -> int:
        """Status of a response."""
        return int(self.start.split(b" ")[1])

    @property
    def reason(self) -> bytes:
        """Reason phrase of a response."""
        return [*self.start.split(b" ", 2), b""][2]

    @property
    def method(self) -> bytes:
        """Method of a request."""
        return self.start.split(b" ")[0]

    @property
    def target(self) -> bytes:
        """Target of a request."""
        return self.start.split(b" ")[1]

    @property
    def lines(self) -> list[bytes]:
        """Field lines without their line ends."""
        return self.head.split(b"\r\n")[1:-2]

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """(name in lower case, value) of each line, in order."""
        return [
            (name.strip().lower(), value.strip(b" \t"))
            for name, _, value in (line.partition(b":") for line in self.lines)
        ]

    @property
    def names(self) -> list[bytes]:
        """Field names in lower case, in order."""
        return [name for name, _ in self.fields]

    def all(self, name: bytes | str) -> list[bytes]:
        """Every value of a field."""
        wanted = name.encode() if isinstance(name, str) else name
        return [value for key, value in self.fields if key == wanted.lower()]

    def get(self, name: bytes | str) -> bytes | None:
        """The value of a field that stands at most once; None without it."""
        values = self.all(name)
        assert len(values) <= 1, f"{name!r} stands {len(values)} times: {values}"
        return values[0] if values else None


class Wire:
    """One end of a TCP or unix connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.buffer = bytearray()
        """What has been read and not yet been consumed."""
        self.received = bytearray()
        """All that has been read since the connection was made."""
        self.ending = ""
        """How the peer ended the connection: "" not yet, "fin" or "rst"."""

    # ── bytes out ──

    async def send(self, *pieces: bytes) -> None:
        """Write each piece. That the peer has reset the connection shows in what is read."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE):
                for piece in pieces:
                    await loop.sock_sendall(self.sock, piece)
        except (ConnectionResetError, BrokenPipeError):
            pass

    def send_some(self, data: bytes) -> int:
        """Write what the socket takes at once; 0 when it takes nothing."""
        try:
            return self.sock.send(data)
        except (BlockingIOError, ConnectionResetError, BrokenPipeError):
            return 0

    async def send_until_full(
        self, block: bytes = b"x" * 65536, most: int = 1 << 30, quiet: float = 0.3
    ) -> int:
        """Write `block` again and again until none is taken for `quiet` seconds; bytes taken."""
        taken, silent = 0, 0.0
        while taken < most and silent < quiet:
            count = self.send_some(block[: most - taken])
            taken += count
            if count:
                silent = 0.0
                await asyncio.sleep(0)
            else:
                silent += 0.02
                await asyncio.sleep(0.02)
        return taken

    def half_close(self) -> None:
        """Send FIN and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close both directions. Idempotent."""
        self.sock.close()

    def reset(self) -> None:
        """Close with a reset."""
        if self.sock.fileno() >= 0:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # ── bytes in ──

    async def _more(self, most: int = 1 << 16) -> bool:
        """Read once; False when the connection has ended."""
        if self.ending:
            return False
        try:
            data = await asyncio.get_running_loop().sock_recv(self.sock, most)
        except (ConnectionResetError, BrokenPipeError, TimeoutError) as error:
            if isinstance(error, TimeoutError):
                raise
            self.ending = "rst"
            return False
        if not data:
            self.ending = "fin"
            return False
        self.buffer += data
        self.received += data
        return True

    async def _need(self, most: int = 1 << 16) -> None:
        if not await self._more(most):
            raise Ended(self.ending, bytes(self.buffer))

    async def until(self, mark: bytes, patience: float = PATIENCE) -> bytes:
        """Read up to and with `mark`."""
        async with asyncio.timeout(patience):
            while (end := self.buffer.find(mark)) < 0:
                await self._need()
        return self._take(end + len(mark))

    async def exactly(self, count: int, patience: float = PATIENCE) -> bytes:
        """Read `count` bytes."""
        async with asyncio.timeout(patience):
            while len(self.buffer) < count:
                await self._need()
        return self._take(count)

    async def some(self, patience: float = PATIENCE) -> bytes:
        """Whatever comes next; empty at the end of the connection."""
        async with asyncio.timeout(patience):
            if not self.buffer:
                await self._more()
        return self._take(len(self.buffer))

    async def rest(self, patience: float = PATIENCE) -> bytes:
        """Everything until the connection ends; `ending` tells how."""
        async with asyncio.timeout(patience):
            while await self._more():
                pass
        return self._take(len(self.buffer))

    async def closed(self, patience: float = PATIENCE) -> str:
        """Wait for the end with nothing more said; "fin" or "rst"."""
        data = await self.rest(patience)
        assert data == b"", f"more came before the end: {data[:2000]!r}"
        return self.ending

    async def skip(self, count: int, patience: float = PATIENCE) -> int:
        """Read up to `count` bytes and keep none of them; how many came before the end, or before `count` was reached."""
        loop = asyncio.get_running_loop()
        block = memoryview(bytearray(1 << 18))
        got = 0
        async with asyncio.timeout(patience):
            while got < count:
                try:
                    size = await loop.sock_recv_into(self.sock, block[: count - got])
                except ConnectionResetError:
                    self.ending = "rst"
                    break
                if not size:
                    self.ending = "fin"
                    break
                got += size
        return got

    async def silence(self, seconds: float = 0.15) -> bool:
        """Whether nothing comes for `seconds`, the end of the connection included."""
        if self.buffer or self.ending:
            return False
        try:
            async with asyncio.timeout(seconds):
                await self._more()
        except TimeoutError:
            return True
        return False

    def _take(self, count: int) -> bytes:
        data = bytes(self.buffer[:count])
        del self.buffer[:count]
        return data

    async def chunked(self) -> tuple[bytes, bytes, bytes]:
        """(raw, content, trailer lines) of a chunked body, whose framing must be exact."""
        raw, content = b"", b""
        while True:
            line = await self.until(b"\r\n")
            raw += line
            size = int(line.split(b";")[0].strip(), 16)
            if size == 0:
                break
            data = await self.exactly(size + 2)
            assert data.endswith(b"\r\n"), f"no line end behind a chunk: {data[-20:]!r}"
            raw += data
            content += data[:-2]
        trailers = b""
        while (line := await self.until(b"\r\n")) != b"\r\n":
            trailers += line
        return raw + trailers + b"\r\n", content, trailers
