"""Upgraded connections: two transports joined to each other, bytes passed as they come.

Rules of this file: behind the upstream's 101 nothing is HTTP any more, so both transports get a
Pipe as their protocol and aiohttp hears again only that they are lost. Whoever is slower slows the
other down. Of a WebSocket the heads of frames are counted, never the payload, and only so that the
gateway's own Close (RFC 6455 section 5.5.1) can go out between two frames; messages, extensions and
close codes pass untouched. A tunnel outlives the task that awaits it only to flush.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from gateway import errors
from gateway.frames import Frames, close_frame
from gateway.pending import pending

if TYPE_CHECKING:
    from gateway.clock import Clock
    from gateway.exchange import Exchange
    from gateway.upstream.wire import Wire

GOODBYE = 0.8
"""Seconds for a frame to end and a Close to be answered; with the tick, one at most."""
FLUSH = 10.0
"""Seconds for a closing transport to deliver what is buffered; then it is cut."""
_LOOKS = 4
"""Looks at what the two sides have not read yet, in the time after which the tunnel is idle."""

_GOING_AWAY = (1001).to_bytes(2, "big")


class Tunnels:
    """The tunnels that are open now; the Proxy holds one of these, and drain ends them all."""

    def __init__(self) -> None:
        self.open: set[Tunnel] = set()

    def go_away(self) -> None:
        """End every tunnel: a WebSocket by Close 1001 between two frames, any other at once."""
        for tunnel in [*self.open]:
            tunnel.go_away()


async def tunnel(
    exchange: Exchange,
    wire: Wire,
    *,
    clock: Clock,
    tunnels: Tunnels,
    idle: float,
    max_age: float,
    websocket: bool,
) -> None:
    """Join the client of `exchange` to `wire` until both connections are closed.

    To be called once the 101 has been written to the client, without an await in between. Both
    transports are the tunnel's from then on; the caller still ends the wire, which gives its place
    in the pool back. `idle`: seconds in which neither side sends a byte, or reads one that was sent
    to it; `max_age`: seconds from now; `math.inf` for none. Past either the exchange's reason is
    `websocket_timeout`. Never raises for a connection that is lost, which is how tunnels end; if
    cancelled, both are closed at once.
    """
    joined = Tunnel(exchange, wire, clock, idle, max_age, websocket=websocket)
    joined.begin(tunnels)
    try:
        await joined.over
    except asyncio.CancelledError:
        joined.cut()
        raise
    finally:
        joined.hand_back()


class Tunnel:
    """Two joined connections. Watched by the clock: `due` is the next deadline of whatever phase it
    is in.
    """

    def __init__(
        self,
        exchange: Exchange,
        wire: Wire,
        clock: Clock,
        idle: float,
        max_age: float,
        *,
        websocket: bool,
    ) -> None:
        incoming = exchange.incoming
        self.exchange = exchange
        self.clock = clock
        self.idle = idle
        self.last = clock.now()
        """When the last byte came from either side, or was last seen to have been read by one."""
        self._unread = (0, 0)
        """Bytes that the client and the upstream had not taken at the last look."""
        self.oldest = self.last + max_age
        self.leaving = False
        """A Close has gone, or is to go, out both ways."""
        self.closing = False
        self.websocket = websocket
        self.due = min(self.last + idle / _LOOKS, self.oldest)
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.client = Pipe(self, incoming.protocol, incoming.protocol.transport, masks=False)
        self.upstream = Pipe(self, wire, wire.transport, masks=True)
        self.client.other, self.upstream.other = self.upstream, self.client
        self._early = (incoming.take_over(), wire.take_over())
        self._registry: Tunnels | None = None
        self.handed_back = False
        """A loss is told to aiohttp at once: no task is left that must not be cancelled."""

    def begin(self, tunnels: Tunnels) -> None:
        """Take both transports over; what came early goes first."""
        self._registry = tunnels
        tunnels.open.add(self)
        self.clock.watched.add(self)
        for pipe, full in ((self.client, self.upstream), (self.upstream, self.client)):
            if pipe.transport is not None:
                pipe.transport.set_protocol(pipe)
            # The old protocol was told of a full buffer; the new one would hear only of its end.
            if full.owner_is_full:
                pipe.hold()
            else:
                pipe.release()
        for pipe, early in zip((self.client, self.upstream), self._early, strict=True):
            if early:
                pipe.data_received(early)
        if self.client.lost or self.upstream.lost:
            self.close()
            self._maybe_over()

    # ── ends ──

    def go_away(self) -> None:
        """End it: with Close 1001 both ways at the next frame boundary, or at once where there are
        no frames.
        """
        if self.leaving or self.closing:
            return
        if not self.websocket:
            self.close()
            return
        self.leaving = True
        self.due = self.clock.now() + GOODBYE
        for pipe in (self.client, self.upstream):
            pipe.leave()
        self.check()

    def cut(self) -> None:
        """End it now: Close 1001 where a frame has just ended, and no waiting for answers."""
        self.go_away()
        self.close()

    def close(self) -> None:
        """Close both transports once they have delivered what they hold. Idempotent."""
        if self.closing:
            return
        self.closing = True
        self.due = self.clock.now() + FLUSH
        for pipe in (self.client, self.upstream):
            if pipe.transport is not None:
                pipe.transport.close()

    def check(self) -> None:
        """Close once both sides have answered, or forestalled, our Close."""
        if self.leaving and self.client.has_left() and self.upstream.has_left():
            self.close()

    def lost(self, pipe: Pipe, error: BaseException | None) -> None:
        """One connection is gone: the other follows."""
        if error is not None and not (self.closing or self.leaving or self.exchange.reason):
            kind = errors.ClientClosed if pipe is self.client else errors.UpstreamReset
            self.exchange.reason = kind.reason
        self.close()
        self._maybe_over()

    def expire(self) -> None:
        """The ticker: a deadline has passed, or has moved on since it was set."""
        now = self.clock.now()
        if self.closing:
            self.due = math.inf
            for pipe in (self.client, self.upstream):
                if pipe.transport is not None and not pipe.lost:
                    pipe.transport.abort()
            return
        if self.leaving:
            self.close()
            return
        self._look(now)
        if now >= min(self.last + self.idle, self.oldest):
            self.exchange.reason = errors.WebSocketTimeout.reason
            self.go_away()
        else:
            look = now + self.idle / _LOOKS
            self.due = min(look, self.last + self.idle, self.oldest)

    def _look(self, now: float) -> None:
        """A side that still reads what was sent to it is slow, not idle."""
        unread = (self.client.unread, self.upstream.unread)
        if any(
            before and before != left for before, left in zip(self._unread, unread, strict=True)
        ):
            self.last = now
        self._unread = unread

    def _maybe_over(self) -> None:
        if not (self.client.lost and self.upstream.lost):
            return
        self.clock.watched.discard(self)
        if self._registry is not None:
            self._registry.open.discard(self)
        if not self.over.done():
            self.over.set_result(None)

    def hand_back(self) -> None:
        """Nobody awaits it any more: count the bytes, tell aiohttp which connections are lost."""
        self.exchange.bytes_in += self.client.passed
        self.exchange.bytes_out += self.upstream.passed
        self.handed_back = True
        for pipe in (self.client, self.upstream):
            if pipe.lost:
                # Later, not now: the client's aiohttp cancels the task that we are in.
                asyncio.get_running_loop().call_soon(pipe.tell_owner)


class Pipe(asyncio.Protocol):
    """The protocol of one of the two transports: what it receives goes to the `other`."""

    __slots__ = (
        "_frames", "_gone", "_goodbye_due", "_masks", "_owner", "_told", "_tunnel",
        "eof", "error", "lost", "other", "passed", "transport",
    )  # fmt: skip

    other: Pipe

    def __init__(
        self,
        tunnel: Tunnel,
        owner: asyncio.Protocol,
        transport: asyncio.Transport | None,
        *,
        masks: bool,
    ) -> None:
        self._tunnel = tunnel
        self._owner = owner
        self.transport = transport
        self._masks = masks
        """Frames towards this side are masked: it is the server of the WebSocket (RFC 6455 section
        5.1).
        """
        self._frames = Frames() if tunnel.websocket else None
        self.lost = transport is None
        self._told = transport is None
        self.error: BaseException | None = None
        self.eof = False
        self.passed = 0
        """Bytes received from this side and passed on."""
        self._goodbye_due = False
        """Our Close is to follow the frame that this side is sending."""
        self._gone = False
        """Our Close has taken the place of whatever this side still sends."""

    @property
    def owner_is_full(self) -> bool:
        """Whether aiohttp's protocol was last told that this transport's buffer is full."""
        return bool(getattr(self._owner, "writing_paused", False))

    @property
    def unread(self) -> int:
        """Bytes that this side has been sent and has not taken."""
        return 0 if self.transport is None or self.lost else pending(self.transport)

    # ── asyncio calls ──

    def data_received(self, data: bytes) -> None:
        tunnel = self._tunnel
        tunnel.last = tunnel.clock.now()
        if self._frames is not None:
            if tunnel.leaving:
                self._receive_leaving(self._frames, data)
                return
            self._frames.feed(data)
        self._pass(data)

    def eof_received(self) -> bool:
        self.eof = True
        tunnel, other = self._tunnel, self.other
        if tunnel.closing:
            return False
        if tunnel.leaving:
            tunnel.check()
            return not self._ends_as_one()
        if self._ends_as_one() or not other.end():
            tunnel.close()
            return False
        # One direction has ended; the other may go on for as long as any tunnel may.
        if other.eof:
            tunnel.close()
        return True

    def pause_writing(self) -> None:
        self.other.hold()

    def resume_writing(self) -> None:
        self.other.release()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.error = exc
        self._tunnel.lost(self, exc)
        if self._tunnel.handed_back:
            self.tell_owner()

    # ── the tunnel calls ──

    def hold(self) -> None:
        """Stop reading: the other side does not keep up."""
        if self.transport is not None and not self._gone and not self.transport.is_closing():
            self.transport.pause_reading()

    def release(self) -> None:
        """Read on."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def leave(self) -> None:
        """Send a Close in this side's name as soon as its present frame has ended, unless it has
        sent its own.
        """
        if self._frames is None or self.eof or self._frames.closed:
            return
        if self._frames.between:
            self._say_goodbye()
        else:
            self._goodbye_due = True

    def has_left(self) -> bool:
        """Whether nothing more is to be expected from this side: it has sent a whole Close, or its
        end.
        """
        frames = self._frames
        return self.lost or self.eof or (frames is not None and frames.closed and frames.between)

    def tell_owner(self) -> None:
        """Tell aiohttp's protocol that its connection is lost. Idempotent."""
        if not self._told:
            self._told = True
            self._owner.connection_lost(self.error if isinstance(self.error, Exception) else None)

    def end(self) -> bool:
        """Tell this side that nothing more will come, while it may still send; False if that can
        not be told.
        """
        if self.transport is None or self.transport.is_closing() or self._ends_as_one():
            return False
        self.transport.write_eof()
        return True

    def _ends_as_one(self) -> bool:
        """Whether both directions end at once: TLS to an upstream, as the event loops do it."""
        return self.transport is not None and not self.transport.can_write_eof()

    def _pass(self, data: bytes) -> None:
        transport = self.other.transport
        if transport is not None and not self._tunnel.closing:
            self.passed += len(data)
            transport.write(data)

    def _receive_leaving(self, frames: Frames, data: bytes) -> None:
        if self._goodbye_due:
            end = frames.feed(data, stop=True)
            self._pass(data[:end])
            if not frames.between:
                return
            self._say_goodbye()
            data = data[end:]
        elif not self._gone:
            self._pass(data)  # what is left of this side's own Close
        frames.feed(data)
        self._tunnel.check()

    def _say_goodbye(self) -> None:
        self._goodbye_due = False
        self._gone = True
        other = self.other
        if other.transport is not None and not other.transport.is_closing():
            other.transport.write(close_frame(_GOING_AWAY, mask=other._masks))
        self.release()
