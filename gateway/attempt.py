"""One try: a request is written to a target's connection, and its head is read and judged.

Rules of this file: all that a route says about it is decided in `Attempt.__init__`. Nothing here chooses a target, tries
again or waits, but for a head (`head`); what a try has leased hangs on the exchange, and `release` gives it back, once.
Nothing here writes to the client but 103 and nothing is remembered between two tries.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from aiohttp.streams import EMPTY_PAYLOAD

from gateway import errors, headers, relay, tasks
from gateway.exchange import Exchange, Reply
from gateway.middleware import answer_edits
from gateway.middleware.deadline import TimeLeft
from gateway.middleware.edit_headers import RequestEdits
from gateway.outbound import ResponseHead, status_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import StreamReader
    from aiohttp.http_parser import RawResponseMessage

    from gateway.client import Clients
    from gateway.config import effective
    from gateway.middleware.base import Build
    from gateway.outbound import Outbound
    from gateway.upgrade import Switch, Upgrades
    from gateway.upstream.upstream import Target, Upstream
    from gateway.upstream.wire import Wire

EVENT_STREAM_IDLE = 300.0
"""Seconds of silence that a text/event-stream may keep, unless `timeouts.idle` is written."""
INTERIM_ANSWERS = 16
"""1xx heads that one answer may have before it."""


class Attempt:
    """How the requests of one route are tried on a target."""

    def __init__(
        self, route: effective.Route, build: Build, clients: Clients, upgrades: Upgrades
    ) -> None:
        policies = route.policies
        self._clock = build.clock
        self._upgrades = upgrades
        self._edits = RequestEdits.compile(policies.headers.request)
        self._left = TimeLeft.compile(policies.deadline, build.clock)
        self._response_edits = answer_edits.compile_edits(policies)
        names = frozenset({clients.echoed} if clients.echoed else ())
        gone = self._response_edits.dropped if self._response_edits else frozenset()
        filled = self._response_edits.filled if self._response_edits else ()
        self._table = headers.FieldTable(headers.RESPONSE, gone | names, filled=filled)
        self._first_byte = or_never(policies.timeouts.first_byte)
        retry = policies.retry
        self._per_try = math.inf if retry is None else or_never(retry.per_try)
        late = f"no head within {self._per_try:g} s (retry.per_try)"
        self._overdue: Callable[[], Exception] = errors.UpstreamHeaderTimeout
        if self._per_try < self._first_byte:
            self._overdue = functools.partial(errors.UpstreamHeaderTimeout, late)
        self._idle = or_never(policies.timeouts.idle)
        self._ahead = policies.buffer.response or 0
        self._idle_written = route.idle_written

    @property
    def own_fields(self) -> frozenset[bytes]:
        """Names (lower-case) of request fields that the route writes itself: the client's copies go."""
        edits = self._edits.dropped if self._edits else frozenset()
        return edits | self._left.dropped if self._left else edits

    def write(self, exchange: Exchange, wire: Wire, target: Target, request: Outbound) -> None:
        """Send the request on `wire`, which is leased to `exchange` from now on; a body that is still coming is pumped.

        Raises errors.UpstreamError for a connection that is lost already, errors.TotalTimeout where no time is left.
        """
        exchange.wire = wire
        wire.prepare(head_only=exchange.method == "HEAD", trailers=exchange.wants_trailers)
        wire.overdue = self._overdue
        within = self._first_byte
        if self._per_try < within:  # of which to connect has taken a part
            within = max(0.0, self._per_try - wire.dialled)
        transport = wire.transport
        if transport is None:
            raise wire.translate(ConnectionError("lost"))
        edits = self._edits.lines(exchange) if self._edits is not None else b""
        if self._left is not None:
            edits += self._left.lines(exchange)
        if exchange.tap is not None:
            exchange.tap.on_head(request, edits)
        head = request.head(target, edits)
        exchange.sent_at = sent_at = self._clock.now()
        upload = exchange.upload
        if upload is None:
            transport.write(head)
            wire.due = sent_at + within
        elif upload.whole is not None:
            transport.writelines((head, upload.framed()))
            wire.due = sent_at + within
        else:
            transport.write(head)
            exchange.pump = tasks.spawn(upload.pump(wire, within), "upload")

    async def head(self, exchange: Exchange, wire: Wire, upstream: Upstream) -> Reply:
        """Wait for the final head of what `write` has sent. Raises errors.GatewayError."""
        try:
            message, payload = await wire.read()
        except Exception as error:  # noqa: BLE001 - translated
            raise wire.translate(error) from None
        if message.code < 200:
            message, payload = await self._past_interim(exchange, wire, message, payload)
        return self.judge(exchange, wire, upstream, message, payload)

    def judge(
        self,
        exchange: Exchange,
        wire: Wire,
        upstream: Upstream,
        message: RawResponseMessage,
        payload: StreamReader,
    ) -> Reply:
        """A final head as a Reply whose body is not read yet. Raises errors.UpstreamBadResponse."""
        wire.due = math.inf
        exchange.head_at = now = self._clock.now()
        status = message.code
        reply = (
            self._switched(exchange, wire, message)
            if status == 101
            else self._reply(exchange, wire, message, payload)
        )
        if upstream.sticky is not None and exchange.target_in_use is not None:
            line = upstream.sticky.set_cookie(exchange, exchange.target_in_use)
            if line:
                reply.lines.append(line)
        seconds = now - exchange.sent_at
        target = exchange.target_in_use
        assert target is not None
        target.meter.by_class[status // 100 if status < 600 else 5] += 1
        upstream.meter.head(seconds, status)
        target.succeeded(status, seconds)
        permit = exchange.permit
        if permit is not None:
            exchange.permit = None
            permit.answered(status, now)
        return reply

    async def _past_interim(
        self, exchange: Exchange, wire: Wire, message: RawResponseMessage, payload: StreamReader
    ) -> tuple[RawResponseMessage, StreamReader]:
        """Skip 1xx heads, forwarding 103 (RFC 9110 section 15.2); a 101 is for the caller to judge."""
        for _ in range(INTERIM_ANSWERS):
            if message.code >= 200 or message.code == 101:
                return message, payload
            if message.code < 100:
                break
            if message.code == 103 and not exchange.http10:
                head = ResponseHead(message, self._table, bodiless=False)
                client = exchange.incoming.protocol.transport
                if client is not None:
                    client.write(b"".join((status_line(103, "Early Hints"), *head.lines, b"\r\n")))
            message, payload = await wire.head()
        raise errors.UpstreamBadResponse("too many interim answers, or one that is none")

    def _reply(
        self, exchange: Exchange, wire: Wire, message: RawResponseMessage, payload: StreamReader
    ) -> Reply:
        status = message.code
        bodiless = exchange.method == "HEAD" or status == 304
        # Many answers on a connection have the same head.
        head = wire.last_head
        if bodiless or head is None or not head.fits(message, self._table):
            head = ResponseHead(message, self._table, bodiless=bodiless)
            wire.last_head = None if bodiless else head
            if head.bound:
                wire._should_close = True  # or the next client would be served as this one
        lines = [*head.lines]
        if not head.dated:
            lines.append(self._clock.date_line)
        if (
            payload is not EMPTY_PAYLOAD
            and payload._eof
            and head.length is not None
            and not bodiless
            and exchange.tap is None
            and payload._exception is None
            and not wire._reading_paused
        ):
            reply = Reply(status, lines, relay.Whole(payload, head.length, self._idle), head.start)
            if self._response_edits is not None:
                self._response_edits.add(exchange, reply)
            return reply
        empty = bodiless or status == 204
        idle = self._idle
        if (
            not empty
            and not self._idle_written
            and not payload.is_eof()
            and _is_event_stream(lines)
        ):
            idle = max(idle, EVENT_STREAM_IDLE)
        body = relay.Download(wire, payload, head.length, idle, empty)
        body.ahead = self._ahead
        if exchange.tap is not None:
            exchange.tap.on_response(status, message.raw_headers)
            body.tap = exchange.tap
        reply = Reply(status, lines, body, head.start)
        if self._response_edits is not None:
            self._response_edits.add(exchange, reply)
        return reply

    def _switched(self, exchange: Exchange, wire: Wire, message: RawResponseMessage) -> Reply:
        if not exchange.upgrade:
            raise errors.UpstreamBadResponse("a 101 that was not asked for")
        head = ResponseHead(message, self._table, bodiless=False)
        if not message.upgrade or head.upgrade.decode("latin-1") != exchange.upgrade:
            raise errors.UpstreamBadResponse("switched to a protocol that was not asked for")
        exchange.upgraded = True
        lines = [b"Connection: Upgrade\r\n", b"Upgrade: %b\r\n" % head.upgrade, *head.lines]
        switch: Switch = self._upgrades.switch(exchange, wire)
        start = head.start if message.reason else status_line(101, "Switching Protocols")
        reply = Reply(101, lines, switch, start)
        if self._response_edits is not None:
            self._response_edits.add(exchange, reply)
        return reply


def failed(exchange: Exchange, target: Target, error: errors.UpstreamError) -> None:
    """The present try has failed: tell those who keep count of the target's tries."""
    now = target.clock.now()
    # Without a connection nothing was written: `sent_at` is another try's, or nobody's.
    target.failed(error, now - exchange.sent_at if exchange.wire is not None else 0.0)
    permit = exchange.permit
    if permit is not None:
        exchange.permit = None
        permit.failed(error, now)


def release(exchange: Exchange, *, whole: bool = True) -> None:
    """Give back what the present try has leased. `whole`: its response was read to the end. Idempotent."""
    target, wire, pump = exchange.target_in_use, exchange.wire, exchange.pump
    if target is None:
        return
    exchange.target_in_use = None
    target.in_flight -= 1
    permit = exchange.permit
    if permit is not None:  # its client has left, or it got no connection: there is no verdict
        exchange.permit = None
        permit.lost()
    place = exchange.place
    if place is not None:
        exchange.place = None
        place.leave()
    if whole:
        target.last_byte(target.clock.now() - exchange.sent_at)
    if pump is not None:
        exchange.pump = None
        if not pump.done():
            pump.cancel()
            whole = False
    if wire is None:
        return
    exchange.wire = None
    wire.on_answer = None
    if whole and wire.transport is not None and exchange.has_body:
        whole = (
            not wire.transport.get_write_buffer_size()
        )  # answered before it had the whole request
    if whole:
        target.connections.give_back(wire)
    else:
        wire.end()


def or_never(seconds: float | None) -> float:
    """A limit that may be off."""
    return math.inf if seconds is None else seconds


def _is_event_stream(lines: list[bytes]) -> bool:
    types = [line[13:].strip().lower() for line in lines if line[:13].lower() == b"content-type:"]
    return any(one.startswith(b"text/event-stream") for one in types)
