"""THE DATA PATH: what happens to a request, from its parsed head to its last byte. Read this first.

    client ──▶ check ──▶ match ──▶ middleware ──▶ forward ──▶ target      inbound.py, routing/, middleware/, forward.py
    client ◀── send ◀───────────── middleware ◀── head ◀───── target      relay.py for what streams, tunnel.py for upgrades

Rules of this file: what need not wait makes no task (`begin`, `at_once`); what does is awaited by one (`answer`). Either way
an exchange ends once, in `_end`, with all that was leased given back. An answer that has begun is never replaced by another:
it is whole, or its connection breaks. Every failure has a name (errors.py) or is a bug, and is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import math
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from gateway import errors, inbound, relay
from gateway.attempt import release
from gateway.begun import Begun
from gateway.edge import ClientConnection
from gateway.exchange import Exchange, Reply, give_up
from gateway.forward import Forward
from gateway.incoming import END, KEEP, reset
from gateway.outbound import server_timing, status_line
from gateway.tunnel import Tunnels, tunnel
from gateway.upgrade import Switch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.clock import Clock
    from gateway.incoming import Incoming, Sent
    from gateway.snapshot import Snapshot

__all__ = ["Forward", "Proxy", "unmatched"]

log = logging.getLogger("gateway.proxy")

_PHRASES = {status.value: status.phrase for status in http.HTTPStatus}


class Proxy:
    """Answers every request with the current snapshot."""

    def __init__(self, clock: Clock) -> None:
        self.snapshot: Snapshot
        """The one pointer: a reload is one assignment to it."""
        self.clock = clock
        self.draining = False
        self.ending: errors.GatewayError | None = None
        """Why every task that is cancelled from now on is: the gateway ends."""
        self.in_flight = 0
        self.tunnels = Tunnels()
        """Upgraded connections that are open."""

    def handle(self, incoming: Incoming) -> Awaitable[Sent]:
        """Answer one request. What is returned never raises but CancelledError, when the client is gone."""
        return self.answer(self.begin(incoming))

    def begin(self, incoming: Incoming, arrived: Callable[[], None] | None = None) -> Exchange:
        """Take a request as far as it goes without waiting: often that is to its target. Never raises.

        What becomes of it is for one of `at_once`, `answer` and `abandon`. `arrived` is called once, where the exchange
        `tells` that its target is asked already: something has come of it.
        """
        snapshot = self.snapshot  # read once: this request lives in this generation
        exchange = inbound.begin(incoming, snapshot, self.clock.now())
        snapshot.in_flight += 1
        self.in_flight += 1
        try:
            if not inbound.recall(exchange):
                inbound.check(exchange)
                snapshot.clients.identify(exchange)
                inbound.remember(exchange)
            snapshot.clients.number(exchange)
            if exchange.refusal is None and snapshot.redirects:
                exchange.refusal = _redirected(exchange)
            if exchange.refusal is None:
                exchange.route, exchange.captures, exchange.target = snapshot.router.match(exchange)
        except Exception as error:  # noqa: BLE001 - every failure is answered
            _refused(exchange, error)
        try:
            exchange.answer = answer = exchange.route.handler(exchange)
        except Exception as error:  # noqa: BLE001 - every failure is answered
            exchange.answer = answer = _failed(exchange, error)
        if arrived is not None and isinstance(answer, Begun):
            answer.call(arrived)
            exchange.tells = True
        return exchange

    def refuse(self, incoming: Incoming, error: errors.GatewayError) -> Awaitable[Sent]:
        """Answer what is no request: aiohttp's parser, or a deadline, has said why."""
        exchange = inbound.begin(incoming, self.snapshot, self.clock.now())
        exchange.snapshot.in_flight += 1
        self.in_flight += 1
        exchange.close = True
        _refused(exchange, error)
        try:
            exchange.answer = exchange.route.handler(exchange)
        except errors.GatewayError as refusal:
            exchange.answer = _failed(exchange, refusal)
        return self.answer(exchange)

    def at_once(self, exchange: Exchange) -> Sent | None:
        """Send the answer, if all of it is there and its client reads; None: it has to be awaited."""
        answer: object = exchange.answer
        if isinstance(answer, Begun):
            answer = answer.at_hand()
        if not isinstance(answer, Reply):
            return None
        exchange.answer = answer
        client: Any = exchange.incoming.protocol  # what is written changes what it says of writing
        if client.writing_paused or answer.status in exchange.route.pages.intercepts:
            return None
        sent = self._send_whole(exchange, answer)
        if sent is not None:
            if client.writing_paused:
                exchange.sent = sent
                return None
            self._end(exchange, exchange.replied_at)  # that was just now
        return sent

    async def answer(self, exchange: Exchange) -> Sent:
        """Wait for the answer, and send it. Never raises but CancelledError, when the client is gone."""
        exchange.task = asyncio.current_task()
        try:
            return await self._deliver(exchange)
        except asyncio.CancelledError:
            fault = exchange.fault or self.ending
            _note(exchange, fault or errors.ClientClosed())
            if fault is None or exchange.incoming.protocol.transport is None:
                raise
            _uncancel()  # a fault of ours cancelled it with the answer half out: it is broken off
            _cut(exchange)
            return END
        finally:
            self._end(exchange)

    def abandon(self, exchange: Exchange) -> None:
        """The client has left before anybody awaited the answer."""
        _note(exchange, exchange.fault or errors.ClientClosed())
        _leave(exchange)
        self._end(exchange)

    def end(self, exchange: Exchange) -> None:
        """The gateway ends, and this exchange with it: its client is told, if it can be."""
        give_up(exchange, self.ending or errors.ShuttingDown())

    async def _deliver(self, exchange: Exchange) -> Sent:
        if exchange.sent is not None:
            await self._drained(exchange, await exchange.answer)
            return exchange.sent
        reply = await self._reply(exchange)
        sent = self._send_whole(exchange, reply)
        if sent is None:
            return await self._send(exchange, reply)
        if exchange.incoming.protocol.writing_paused:
            await self._drained(exchange, reply)
        return sent

    async def _reply(self, exchange: Exchange) -> Reply:
        """What the client is told: the route's answer, or the page of its failure."""
        try:
            if exchange.fault is not None:
                _leave(exchange)
                raise exchange.fault
            reply = await exchange.answer
        except asyncio.CancelledError:
            fault = exchange.fault or self.ending
            if fault is None:
                raise
            _uncancel()
            return _failed(exchange, fault)
        except Exception as error:  # noqa: BLE001 - every failure is answered
            return _failed(exchange, error)
        if reply.status in exchange.route.pages.intercepts and reply.start:  # it is the upstream's
            release(exchange, whole=False)
            reply = exchange.route.pages.intercepted(reply, exchange)
            if exchange.route.edits is not None:
                exchange.route.edits.apply(exchange, reply)
        return reply

    def _send_whole(self, exchange: Exchange, reply: Reply) -> Sent | None:
        """Write an answer that is all there, in one go; None: it is not."""
        transport = exchange.incoming.protocol.transport
        if transport is None:
            _note(exchange, errors.ClientClosed())
            return END
        body: Any = reply.body
        framing, data = b"\r\n", b""
        if body.__class__ is relay.Whole:
            framing, data = b"Content-Length: %b\r\n\r\n" % body.length, body.data
            release(exchange)
            exchange.bytes_out = len(data)
        elif body.__class__ is relay.Download:
            if body.empty:
                release(exchange)
            else:
                at_hand = body.at_hand()
                if at_hand is None:
                    return None
                data = at_hand
                if body.length is not None:
                    framing = b"Content-Length: %b\r\n\r\n" % body.length
                else:
                    framing, data = body.reframed(exchange, data)
                release(exchange)
                exchange.bytes_out = len(at_hand)
        elif body.__class__ is bytes:
            if reply.status not in (204, 304):
                framing = b"Content-Length: %d\r\n\r\n" % len(body)
                if exchange.method != "HEAD":
                    data = body
                    exchange.bytes_out = len(data)
        else:
            return None
        transport.write(b"".join((*self._head(exchange, reply), framing, data)))
        return END if exchange.close else KEEP

    async def _send(self, exchange: Exchange, reply: Reply) -> Sent:
        """Write the head, then the body as it comes."""
        transport = exchange.incoming.protocol.transport
        assert transport is not None
        body: Any = reply.body
        if body.__class__ is Switch:
            return await self._send_switch(exchange, reply, body, transport)
        if body.__class__ is not relay.Download:
            return await self._send_blocks(exchange, self._head(exchange, reply), body, transport)
        framing, chunked = body.framing(exchange)
        transport.write(b"".join((*self._head(exchange, reply), framing)))
        return await self._relay(exchange, reply, body, chunked=chunked)

    async def _send_blocks(
        self,
        exchange: Exchange,
        head: list[bytes],
        body: relay.Blocks,
        transport: asyncio.Transport,
    ) -> Sent:
        """A file."""
        client = exchange.incoming.protocol
        blocks = body.blocks()
        try:
            transport.write(b"".join((*head, b"Content-Length: %b\r\n\r\n" % body.length)))
            if exchange.method != "HEAD":
                idle = exchange.snapshot.config.server.limits.body_idle or math.inf
                await relay.stream(exchange, client, blocks, self.clock, chunked=False, idle=idle)
        except (errors.GatewayError, OSError) as error:
            _note(
                exchange,
                error
                if isinstance(error, errors.GatewayError)
                else errors.InternalError(repr(error)),
            )
            _cut(exchange)
            return END
        finally:
            await blocks.aclose()
        return END if exchange.close else KEEP

    async def _drained(self, exchange: Exchange, reply: Reply) -> None:
        """Wait for a client that reads more slowly than it is answered."""
        idle = exchange.snapshot.config.server.limits.body_idle or math.inf
        if reply.start:  # the upstream's
            idle = reply.body.idle  # type: ignore[union-attr]
        try:
            await relay.Stall(exchange, exchange.incoming.protocol, self.clock, idle).drained()
        except errors.GatewayError as error:
            _note(exchange, error)

    async def _relay(
        self, exchange: Exchange, reply: Reply, body: relay.Download, *, chunked: bool
    ) -> Sent:
        client = exchange.incoming.protocol
        transport = client.transport
        if body.ahead and transport is not None:
            transport.set_write_buffer_limits(max(body.ahead, relay.WRITTEN_AHEAD))
        try:
            await relay.stream(
                exchange, client, body.blocks(), self.clock, chunked=chunked, idle=body.idle
            )
        except errors.GatewayError as error:
            _note(exchange, error)
            _cut(exchange)
            return END
        if chunked and client.transport is not None:
            trailers = body.trailers() if exchange.wants_trailers else b""
            client.transport.write(b"0\r\n%b\r\n" % trailers)
        release(exchange)
        if body.ahead and client.transport is not None:
            client.transport.set_write_buffer_limits()  # its own again: what is ahead is waited for
            if client.writing_paused:
                await self._drained(exchange, reply)
        return END if exchange.close else KEEP

    async def _send_switch(
        self, exchange: Exchange, reply: Reply, switch: Switch, transport: asyncio.Transport
    ) -> Sent:
        """The 101 goes out; from here on bytes pass both ways."""
        exchange.close = True
        exchange.status, exchange.source = 101, "upstream"
        transport.write(b"".join((reply.start, *reply.lines, *exchange.extra, b"\r\n")))
        exchange.replied_at = self.clock.now()
        switch.counted(exchange)
        await tunnel(
            exchange, switch.wire, clock=self.clock, idle=switch.idle, max_age=switch.max_age,
            websocket=exchange.upgrade == "websocket", tunnels=self.tunnels,
        )  # fmt: skip
        return END

    def _head(self, exchange: Exchange, reply: Reply) -> list[bytes]:
        """Status line and fields but framing; the exchange has an answer from now on."""
        incoming = exchange.incoming
        forwarded = reply.start != b""
        exchange.status = reply.status
        exchange.source = "upstream" if forwarded else "gateway"
        if self.draining or not incoming.payload.is_eof():
            exchange.close = True
        elif exchange.length is None:
            client = incoming.protocol
            if type(client) is ClientConnection and not client.chunked_end_is_clean():
                exchange.close = True
        start = reply.start or status_line(reply.status, _PHRASES.get(reply.status, ""))
        head = [start, *reply.lines]
        if not forwarded:
            head.append(self.clock.date_line)
        if exchange.extra:
            head.extend(exchange.extra)
        head.append(exchange.snapshot.clients.echo(exchange))
        if exchange.close:
            head.append(b"Connection: close\r\n")
        elif exchange.http10:
            head.append(b"Connection: keep-alive\r\n")
        exchange.replied_at = now = self.clock.now()
        timing = exchange.snapshot.server_timing
        if timing != "off" and (timing == "all" or exchange.peer_trusted):
            head.append(server_timing(exchange, now))
        return head

    def _end(self, exchange: Exchange, now: float = 0.0) -> None:
        """Account for it, once. `now`: when it has ended, if not at this moment."""
        if exchange.target_in_use is not None:
            release(exchange, whole=False)
        self.in_flight -= 1
        exchange.snapshot.in_flight -= 1
        exchange.ended = now or self.clock.now()
        if not exchange.status:
            exchange.status, exchange.source = 499, "client"
        for finish in exchange.route.at_finish:
            try:
                finish(exchange)
            except Exception as error:  # noqa: BLE001 - the others are owed their end, and nobody ends it twice
                _named(exchange, error)
        # Left as rings, these would wait for the garbage collector: the upload and the try know their exchange.
        if exchange.upload is not None:
            exchange.upload = None
        if exchange.task is not None:
            exchange.task = None
        del exchange.answer


def unmatched(exchange: Exchange) -> Reply:
    """The handler of the stand-in route: says what was decided before any route was."""
    refusal = exchange.refusal
    if isinstance(refusal, Reply):
        return refusal
    raise refusal or errors.InternalError("no refusal")


def _refused(exchange: Exchange, error: Exception) -> None:
    """No route will see it; still, the log says who asked, and the answer has its request id."""
    exchange.refusal = _named(exchange, error)
    if isinstance(error, errors.BadRequest):
        # Whoever speaks broken HTTP is not trusted with where the next request begins.
        exchange.close = True
    if not exchange.client_ip:
        inbound.name_place(exchange)
        with contextlib.suppress(Exception):
            exchange.snapshot.clients.identify(exchange)
            exchange.snapshot.clients.number(exchange)


def _redirected(exchange: Exchange) -> Reply | None:
    redirect = exchange.snapshot.redirects.get(exchange.listener)
    return None if redirect is None else redirect(exchange)


def _named(exchange: Exchange, error: Exception) -> errors.GatewayError:
    """`error` itself, or what is said of a bug to a client; the log is told all of it."""
    if isinstance(error, errors.GatewayError):
        return error
    log.error(
        "internal_error",
        exc_info=error,
        extra={"route": exchange.route.name, "request_id": exchange.request_id},
    )
    return errors.InternalError(repr(error))


def _failed(exchange: Exchange, error: Exception) -> Reply:
    """The page of a failure; what was leased for it is given back."""
    named = _named(exchange, error)
    _note(exchange, named)
    release(exchange, whole=False)
    route = exchange.route
    reply = route.pages.render(named, exchange)
    if route.edits is not None:
        route.edits.apply(exchange, reply)
    return reply


def _note(exchange: Exchange, error: errors.GatewayError) -> None:
    """Remember why it failed: the first reason is the one that the client was told."""
    # Its frames hold the exchange: a ring otherwise.
    error.__traceback__ = error.__context__ = None
    if not exchange.reason:
        exchange.reason, exchange.detail = error.reason, error.detail
    if isinstance(error, errors.ClientError) and not exchange.incoming.payload.is_eof():
        exchange.close = True


def _leave(exchange: Exchange) -> None:
    """Nobody is going to await its answer."""
    answer: object = exchange.answer
    if isinstance(answer, Coroutine):
        answer.close()
    elif isinstance(answer, Begun):
        answer.leave()


def _cut(exchange: Exchange) -> None:
    """Break the client's connection so that what it has can not be taken for the whole (RFC 9112 section 8)."""
    client = exchange.incoming.protocol
    transport = client.transport
    if transport is None:
        return
    if exchange.http10:
        # Only the connection's end would mark the end of the body: a reset is no such end.
        reset(transport)
    client.force_close()


def _uncancel() -> None:
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
