"""THE DATA PATH: what happens to a request, from its parsed head to its last byte. Read this first.

    client ──▶ check ──▶ match ──▶ middleware ──▶ forward ──▶ target      inbound.py, routing/, middleware/, forward.py
    client ◀── send ◀───────────── middleware ◀── head ◀───── target      relay.py for what streams, tunnel.py for upgrades

Rules of this file: one exchange, one task, one `finally` that gives back what was leased. An answer that has begun is never
replaced by another: it is whole, or its connection breaks. Every failure has a name (errors.py) or is a bug, and is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import math
from typing import TYPE_CHECKING

from gateway import errors, inbound, relay
from gateway.edge import END, KEEP, ClientConnection, reset
from gateway.exchange import Exchange, Reply
from gateway.forward import Forward, Switch, release
from gateway.outbound import status_line
from gateway.tunnel import Tunnels, tunnel

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from gateway.clock import Clock
    from gateway.edge import Incoming, Sent
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
        """Answer one request. Never raises but CancelledError, when the client is gone.

        A plain function, as are those below that only choose: each coroutine in the chain is resumed with the request.
        """
        snapshot = self.snapshot  # read once: this request lives in this generation
        exchange = inbound.begin(incoming, snapshot, self.clock.now())
        try:
            inbound.check(exchange)
            snapshot.clients.identify(exchange)
            if exchange.refusal is None and snapshot.redirects:
                exchange.refusal = _redirected(exchange)
            if exchange.refusal is None:
                exchange.route, exchange.captures, exchange.target = snapshot.router.match(exchange)
        except errors.GatewayError as error:
            _refused(exchange, error)
        return self._answer(exchange)

    def refuse(self, incoming: Incoming, error: errors.GatewayError) -> Awaitable[Sent]:
        """Answer what is no request: aiohttp's parser, or a deadline, has said why."""
        exchange = inbound.begin(incoming, self.snapshot, self.clock.now())
        exchange.close = True
        _refused(exchange, error)
        return self._answer(exchange)

    async def _answer(self, exchange: Exchange) -> Sent:
        exchange.snapshot.in_flight += 1
        self.in_flight += 1
        try:
            try:
                reply = await exchange.route.handler(exchange)
                if (
                    reply.status in exchange.route.pages.intercepts
                    and reply.body.__class__ is relay.Download
                ):
                    release(exchange, whole=False)
                    reply = exchange.route.pages.intercepted(reply, exchange)
                    if exchange.route.edits is not None:
                        exchange.route.edits.apply(exchange, reply)
            except errors.GatewayError as error:
                reply = _failed(exchange, error)
            except asyncio.CancelledError:
                fault = exchange.fault or self.ending
                if fault is None:
                    raise
                _uncancel()
                reply = _failed(exchange, fault)
            except Exception as bug:
                log.exception(
                    "internal_error",
                    extra={"route": exchange.route.name, "request_id": exchange.request_id},
                )
                reply = _failed(exchange, errors.InternalError(repr(bug)))
            body = reply.body
            transport = exchange.incoming.protocol.transport
            if body.__class__ is relay.Download and transport is not None:
                return await self._send_download(exchange, reply, body, transport)
            return await self._send(exchange, reply)
        except asyncio.CancelledError:
            fault = exchange.fault or self.ending
            _note(exchange, fault or errors.ClientClosed())
            if fault is None or exchange.incoming.protocol.transport is None:
                raise
            # A fault of ours cancelled it with the answer half out: break it off.
            _uncancel()
            _cut(exchange)
            return END
        finally:
            self._end(exchange)

    async def _send(self, exchange: Exchange, reply: Reply) -> Sent:
        """Write the head, then the body as it comes."""
        client = exchange.incoming.protocol
        transport = client.transport
        if transport is None:
            _note(exchange, errors.ClientClosed())
            return END
        body = reply.body
        if body.__class__ is Switch:
            return await self._send_switch(exchange, reply, body, transport)
        head = self._head(exchange, reply)
        if isinstance(body, bytes):
            if reply.status in (204, 304):
                transport.write(b"".join((*head, b"\r\n")))
            else:
                head.append(b"Content-Length: %d\r\n\r\n" % len(body))
                shown = b"" if exchange.method == "HEAD" else body
                exchange.bytes_out = len(shown)
                transport.write(b"".join((*head, shown)))
            return END if exchange.close else KEEP
        return await self._send_blocks(exchange, head, body, transport)

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

    async def _send_download(
        self, exchange: Exchange, reply: Reply, body: relay.Download, transport: asyncio.Transport
    ) -> Sent:
        """An upstream's response: in one write if it is all there, else as it comes."""
        client = exchange.incoming.protocol
        if body.empty:
            release(exchange)
            transport.write(b"".join((*self._head(exchange, reply), b"\r\n")))
            return END if exchange.close else KEEP
        framing, chunked = b"", False
        if body.length is not None:
            framing = b"Content-Length: %b\r\n\r\n" % body.length
        elif not exchange.http10:
            framing, chunked = b"Transfer-Encoding: chunked\r\n\r\n", True
        else:
            framing, exchange.close = b"\r\n", True
        data = body.at_hand()
        if data is None:
            transport.write(b"".join((*self._head(exchange, reply), framing)))
            return await self._relay(exchange, body, chunked=chunked)
        trailers = body.trailers() if chunked and exchange.wants_trailers else b""
        release(exchange)
        exchange.bytes_out = len(data)
        if chunked:
            data = (
                b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(data), data, trailers)
                if data
                else b"0\r\n%b\r\n" % trailers
            )
        transport.write(b"".join((*self._head(exchange, reply), framing, data)))
        if client.writing_paused:
            await self._drained(exchange, body.idle)
        return END if exchange.close else KEEP

    async def _drained(self, exchange: Exchange, idle: float) -> None:
        try:
            await relay.Stall(exchange, exchange.incoming.protocol, self.clock, idle).drained()
        except errors.GatewayError as error:
            _note(exchange, error)

    async def _relay(self, exchange: Exchange, body: relay.Download, *, chunked: bool) -> Sent:
        client = exchange.incoming.protocol
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
        return END if exchange.close else KEEP

    async def _send_switch(
        self, exchange: Exchange, reply: Reply, switch: Switch, transport: asyncio.Transport
    ) -> Sent:
        """The 101 goes out; from here on bytes pass both ways."""
        exchange.close = True
        head = [
            status_line(101, reply.phrase.decode() or "Switching Protocols"),
            *reply.lines,
            b"\r\n",
        ]
        exchange.status, exchange.source = 101, "upstream"
        transport.write(b"".join(head))
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
        forwarded = reply.body.__class__ is relay.Download
        exchange.status = reply.status
        exchange.source = "upstream" if forwarded else "gateway"
        if self.draining or not incoming.payload.is_eof():
            exchange.close = True
        elif exchange.length is None:
            client = incoming.protocol
            if type(client) is ClientConnection and not client.chunked_end_is_clean():
                exchange.close = True
        phrase = (
            reply.phrase.decode("utf-8", "surrogateescape")
            if forwarded
            else _PHRASES.get(reply.status, "")
        )
        head = [status_line(reply.status, phrase), *reply.lines]
        if not forwarded:
            head.append(self.clock.date_line)
        head.append(exchange.snapshot.clients.echo(exchange))
        if exchange.close:
            head.append(b"Connection: close\r\n")
        elif exchange.http10:
            head.append(b"Connection: keep-alive\r\n")
        exchange.replied_at = now = self.clock.now()
        timing = exchange.snapshot.server_timing
        if timing != "off" and (timing == "all" or exchange.peer_trusted):
            head.append(_server_timing(exchange, now))
        return head

    def _end(self, exchange: Exchange) -> None:
        """Account for it, once."""
        if exchange.target_in_use is not None:
            release(exchange, whole=False)
        self.in_flight -= 1
        exchange.snapshot.in_flight -= 1
        exchange.ended = self.clock.now()
        if not exchange.status:
            exchange.status, exchange.source = 499, "client"
        for finish in exchange.route.at_finish:
            finish(exchange)
        # The upload knows its exchange: left as a ring, each body would wait for the garbage collector.
        exchange.upload = None


async def unmatched(exchange: Exchange) -> Reply:
    """The handler of the stand-in route: says what was decided before any route was."""
    refusal = exchange.refusal
    if isinstance(refusal, Reply):
        return refusal
    raise refusal or errors.InternalError("no refusal")


def _refused(exchange: Exchange, error: errors.GatewayError) -> None:
    """No route will see it; still, the log says who asked, and the answer has its request id."""
    exchange.refusal = error
    if isinstance(error, errors.BadRequest):
        exchange.close = (
            True  # whoever speaks broken HTTP is not trusted with where the next request begins
        )
    if not exchange.client_ip:
        with contextlib.suppress(errors.GatewayError):
            exchange.snapshot.clients.identify(exchange)


def _redirected(exchange: Exchange) -> Reply | None:
    redirect = exchange.snapshot.redirects.get(exchange.listener)
    return None if redirect is None else redirect(exchange)


def _failed(exchange: Exchange, error: errors.GatewayError) -> Reply:
    """The page of a failure; what was leased for it is given back."""
    _note(exchange, error)
    release(exchange, whole=False)
    route = exchange.route
    reply = route.pages.render(error, exchange)
    if route.edits is not None:
        route.edits.apply(exchange, reply)
    return reply


def _note(exchange: Exchange, error: errors.GatewayError) -> None:
    """Remember why it failed: the first reason is the one that the client was told."""
    if not exchange.reason:
        exchange.reason = error.reason
    if isinstance(error, errors.ClientError) and not exchange.incoming.payload.is_eof():
        exchange.close = True


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


def _server_timing(exchange: Exchange, now: float) -> bytes:
    if not exchange.head_at:
        return b"Server-Timing: gw;dur=%.1f\r\n" % (1000 * (now - exchange.began))
    waited = exchange.head_at - exchange.sent_at
    return b"Server-Timing: gw;dur=%.1f, up;dur=%.1f\r\n" % (
        1000 * (now - exchange.began - waited),
        1000 * waited,
    )
