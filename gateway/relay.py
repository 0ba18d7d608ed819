"""Bodies, from one side to the other.

Rules of this file: bytes pass by reference and as soon as they come; whoever is slower slows the other down, so memory for
a stream is bounded; while one side is waited for, the other side's clock stands still. Only this file and tunnel.py write
to transports while a body is under way. A body that breaks off is never ended as if it were whole.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp.streams import EMPTY_PAYLOAD

from gateway import errors
from gateway.backlog import Backlog
from gateway.exchange import would_refuse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from aiohttp import StreamReader

    from gateway.clock import Clock
    from gateway.exchange import Exchange
    from gateway.middleware.tap import Tap
    from gateway.upstream.wire import Wire

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
WRITTEN_AHEAD = 64 * 1024
"""Bytes that a transport holds for a client before it says that it does not read: asyncio's and uvloop's own number."""
_RATE_GRACE = 5.0
"""Seconds of waiting for a client before its rate is judged: the first segments of any upload are slow."""


def chunk(data: bytes) -> bytes:
    """`data` as one chunk of a body (RFC 9112 section 7.1).

    In one piece, never by `writelines`: with it, asyncio before 3.12.9 and 3.13.2 says to nobody that the peer does not read
    (CVE-2024-12254), and would hold all that comes.
    """
    return b"%x\r\n%b\r\n" % (len(data), data)


def _all_of(payload: StreamReader, exchange: Exchange) -> bytes:
    """A body that is here already, to its end."""
    if payload is EMPTY_PAYLOAD or payload.at_eof():
        return b""
    buffer = payload._buffer
    if len(buffer) == 1 and not (
        payload._buffer_offset or exchange.incoming.protocol._reading_paused
    ):
        return buffer[
            0
        ]  # nobody reads it again, so its book-keeping is left undone: that costs seven calls
    return payload.read_nowait(-1)


class BodyTimeout(errors.ClientTimeout, TimeoutError):
    """The client stopped sending, or sends too slowly. A TimeoutError only since aiohttp logs any other as its own bug."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the bodies of one route's requests may be, and how long they may take."""

    clock: Clock
    most: float
    """Bytes."""
    keep: int
    """Bytes up to which a body can be sent once more."""
    idle: float
    """Seconds that the client may send nothing."""
    rate: float
    """Bytes a second that it must send at least."""
    unread: float
    """Seconds that the upstream may read nothing."""
    reports: bool = False
    """A body of more than `most` bytes passes, and that is noted."""


class Upload:
    """A request's body on its way to the upstream."""

    # For one that is whole already, which is most, these stand for all that has not happened.
    _kept: list[bytes] | None = None
    """What was sent, for another try; None: too much to keep."""
    _ahead: list[bytes] = []  # noqa: RUF012 - this one is never written to
    """What `gather` has read and nobody has taken yet."""
    _size = 0
    _waited = 0.0
    due = math.inf
    begun = False
    """A byte of it has been taken from the client for the upstream."""

    def __init__(self, exchange: Exchange, terms: Terms) -> None:
        self._exchange = exchange
        self._terms = terms
        self._payload = payload = exchange.incoming.payload
        self.chunked = exchange.length is None
        self.whole: bytes | None = None
        """All of it, where it is in memory and not larger than the replay buffer; None while it streams."""
        # Asked once: it may become true while the connection is made, and then nobody would pump.
        if payload.is_eof():
            self.begun = True
            self.whole = data = _all_of(payload, exchange)
            self._measure(data)
        else:
            self._kept, self._ahead = [], []

    @property
    def replayable(self) -> bool:
        """Whether it can be sent once more."""
        return not self.begun or (self.whole is not None and self._size <= self._terms.keep)

    @property
    def unsent(self) -> bool:
        """Whether all of it is still to be had, where no connection was made that it could have been sent on."""
        return not self.begun or self.whole is not None

    def framed(self) -> bytes:
        """The whole body as it goes out behind the head."""
        assert self.whole is not None
        if not self.chunked:
            return self.whole
        if not self.whole:
            return LAST_CHUNK
        return b"%x\r\n%b\r\n0\r\n\r\n" % (len(self.whole), self.whole)

    async def gather(self, most: int, hold: Callable[[int], None] | None = None) -> None:
        """Read up to `most` bytes before a target is chosen: all of it, or what is sent first once it has one.

        `hold` is told of the bytes of each piece, and may raise. Raises errors.ClientTimeout, errors.BodyTooLarge,
        errors.BadRequest.
        """
        self._terms.clock.watched.add(self)
        size = 0
        try:
            self._invite()
            while size < most:
                data = await self._read()
                if not data:
                    self.begun, self.whole = True, b"".join(self._ahead)
                    self._ahead.clear()
                    return
                size += len(data)
                self._measure(data)
                if hold is not None:
                    hold(len(data))
                self._ahead.append(data)
        except RuntimeError as gone:
            raise errors.ClientClosed(repr(gone)) from None
        finally:
            self._terms.clock.watched.discard(self)

    async def pump(self, wire: Wire, first_byte: float) -> None:
        """Move the body while the upstream's answer is awaited; a fault of the client is told to whoever waits on `wire`."""
        self._terms.clock.watched.add(self)
        try:
            await self._move(wire)
            if wire.due == math.inf:
                wire.due = self._terms.clock.now() + first_byte
        except asyncio.CancelledError:
            raise
        except errors.GatewayError as fault:
            wire.set_exception(fault)
        except RuntimeError as gone:
            # aiohttp's word for a body whose connection is no more; the exchange is being cancelled.
            wire.set_exception(errors.ClientClosed(repr(gone)))
        except ConnectionError as lost:
            # The upstream went away while it was written to; its answer, if there is one, is in the reader's hands.
            if wire.transport is not None:
                wire.set_exception(errors.UpstreamReset(repr(lost)))
        finally:
            self._terms.clock.watched.discard(self)

    def _invite(self) -> None:
        """Ask for the body, where the client waits for that."""
        if (
            self._exchange.expects
            and self._payload.total_bytes == 0
            and self._exchange.incoming.protocol.transport is not None
        ):
            self._exchange.incoming.protocol.transport.write(CONTINUE)

    async def _next(self) -> bytes:
        """The next piece for the upstream; empty at the end."""
        if self._ahead:
            data = self._ahead.pop(0)
        else:
            data = await self._read()
            self._measure(data)
        self._keep_for_another_try(data)
        return data

    async def _move(self, wire: Wire) -> None:
        backlog: Backlog | None = None
        self._invite()
        while data := await self._next():
            if wire.transport is None:
                return
            if self.chunked:
                wire.transport.write(chunk(data))
            else:
                wire.transport.write(data)
            if wire.writing_paused:
                if backlog is None:
                    backlog = _upstream_backlog(wire, self._terms.clock, self._terms.unread)
                await backlog.drain()
        if self.chunked and wire.transport is not None:
            wire.transport.write(LAST_CHUNK)
        if self._kept is not None:
            self.whole = b"".join(self._kept)

    async def _read(self) -> bytes:
        began = self._terms.clock.now()
        self.due = began + self._terms.idle
        data = await self._payload.readany()
        self.due = math.inf
        self._waited += self._terms.clock.now() - began
        if self._waited > _RATE_GRACE and self._size + len(data) < self._terms.rate * self._waited:
            raise BodyTimeout(f"the body came at less than {self._terms.rate:g} bytes a second")
        return data

    def _measure(self, data: bytes) -> None:
        self._size += len(data)
        self._exchange.bytes_in = self._size
        if self._exchange.tap is not None:
            self._exchange.tap.on_request(data)
        if self._size > self._terms.most:
            if not self._terms.reports:
                raise errors.BodyTooLarge(f"the body is larger than {self._terms.most:g} bytes")
            would_refuse(self._exchange, errors.BodyTooLarge.reason)

    def _keep_for_another_try(self, data: bytes) -> None:
        self.begun = True
        if self._kept is not None:
            if self._size <= self._terms.keep:
                self._kept.append(data)
            else:
                self._kept = None

    def expire(self) -> None:
        """The client has sent nothing for too long."""
        self.due = math.inf
        self._payload.set_exception(BodyTimeout(f"no byte of the body for {self._terms.idle:g} s"))


class Download:
    """An upstream's response body, not yet read."""

    def __init__(
        self, wire: Wire, payload: StreamReader, length: bytes | None, idle: float, empty: bool
    ) -> None:
        # No keywords: CPython makes a dictionary of those at each call of a class.
        self.wire = wire
        self.payload = payload
        self.length = length
        """Content-Length as the upstream gave it; None: chunked, or until the connection ends."""
        self.idle = idle
        self.tap: Tap | None = None
        """Is shown what passes."""
        self.empty = empty
        """There is none whatever the framing says: HEAD, 204, 304."""
        self.ahead = 0
        """Bytes that are read although the client does not read yet, beyond what is read anyway."""

    def at_hand(self) -> bytes | None:
        """All of it, if it has arrived already; else None."""
        payload = self.payload
        if payload is EMPTY_PAYLOAD:
            return b""
        if not payload._eof or payload._exception is not None:
            return None
        # Nobody reads this payload again, so its book-keeping is left undone: that costs seven calls.
        wire = self.wire
        if wire._reading_paused:
            wire.resume_reading()
        buffer = payload._buffer
        data = buffer[0] if len(buffer) == 1 and not payload._buffer_offset else b""
        if buffer and not data:
            data = payload.read_nowait(-1)
        if self.tap is not None:
            self.tap.on_body(data)
        return data

    def framing(self, exchange: Exchange) -> tuple[bytes, bool]:
        """(the last lines of the head, whether the body goes out in chunks) while it is still coming."""
        if self.length is not None:
            return b"Content-Length: %b\r\n\r\n" % self.length, False
        if not exchange.http10:
            return b"Transfer-Encoding: chunked\r\n\r\n", True
        exchange.close = True
        return b"\r\n", False

    def reframed(self, exchange: Exchange, data: bytes) -> tuple[bytes, bytes]:
        """(the last lines of the head, the body as it goes out) where all of it, `data`, is there."""
        framing, chunked = self.framing(exchange)
        if chunked:
            trailers = self.trailers() if exchange.wants_trailers else b""
            last = b"0\r\n%b\r\n" % trailers
            data = b"%x\r\n%b\r\n%b" % (len(data), data, last) if data else last
        return framing, data

    async def blocks(self) -> AsyncIterator[bytes]:
        """What comes, when it comes. Raises errors.UpstreamError."""
        wire, payload, clock = self.wire, self.payload, self.wire.clock
        wire.overdue = errors.UpstreamBodyTimeout
        while True:
            wire.due = clock.now() + self.idle
            try:
                data = await payload.readany()
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - translated
                raise wire.translate(error) from None
            wire.due = math.inf
            if not data:
                return
            if self.tap is not None:
                self.tap.on_body(data)
            yield data

    def trailers(self) -> bytes:
        """Trailer lines, where the client wants them."""
        return self.wire.trailers()


class Whole:
    """An upstream's response body that is here already, and whose length the upstream has told."""

    __slots__ = ("data", "idle", "length")

    def __init__(self, payload: StreamReader, length: bytes, idle: float) -> None:
        """`payload` has ended without a fault, and nobody else reads it."""
        buffer = payload._buffer  # its book-keeping is left undone: that costs seven calls
        plain = len(buffer) == 1 and not payload._buffer_offset
        self.data = buffer[0] if plain else payload.read_nowait(-1) if buffer else b""
        self.length = length
        self.idle = idle


class Blocks(Protocol):
    """A body that the gateway reads from somewhere itself, such as a file."""

    length: bytes
    """Its Content-Length."""

    def blocks(self) -> AsyncGenerator[bytes]:
        """What is left of it. Raises OSError, or errors.GatewayError if it is shorter than it was said to be."""


class Stall:
    """A client that does not read: cut off, and what waits is woken by the loss."""

    def __init__(self, exchange: Exchange, client: Any, clock: Clock, idle: float) -> None:
        self._exchange = exchange

        def cut_off(transport: Any) -> None:
            exchange.fault = errors.ClientTimeout(f"the client read nothing for {idle:g} s")
            if transport is not None:
                transport.abort()

        self._backlog = Backlog(client, clock, idle, cut_off)

    async def drained(self) -> None:
        """Wait until the client has read enough. Raises errors.ClientClosed."""
        try:
            await self._backlog.drain()
        except ConnectionError:
            raise self._exchange.fault or errors.ClientClosed() from None


def _upstream_backlog(wire: Wire, clock: Clock, idle: float) -> Backlog:
    """Of an upstream that does not read an upload: told to whoever waits for its answer.

    One whose answer is under way need not read what it does not want: the answer has an idle time of its own.
    """

    def tell(transport: Any) -> None:
        if transport is not None and wire.overdue is not errors.UpstreamBodyTimeout:
            wire.set_exception(wire.overdue())

    return Backlog(wire, clock, idle, tell)


async def stream(
    exchange: Exchange,
    client: Any,
    blocks: AsyncIterator[bytes],
    clock: Clock,
    *,
    chunked: bool,
    idle: float,
) -> None:
    """Write `blocks` to the client as they come, each as a chunk if `chunked`; the last chunk is the caller's.

    `idle`: seconds that the client may read nothing. Raises errors.GatewayError of either side.
    """
    stall: Stall | None = None
    async for data in blocks:
        transport = client.transport
        if transport is None:
            raise errors.ClientClosed
        exchange.bytes_out += len(data)
        if chunked:
            transport.write(chunk(data))
        else:
            transport.write(data)
        if client.writing_paused:
            if stall is None:
                stall = Stall(exchange, client, clock, idle)
            await stall.drained()
