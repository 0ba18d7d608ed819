"""The innermost handler of a route that forwards: choose a target, speak to it, try again where that is safe.

Rules of this file: all that can be decided at load is decided in `__init__`. Whatever is leased hangs on the exchange, and
`release` gives it back, once, from wherever the exchange ends. Nothing here writes to the client but 103.
"""

from __future__ import annotations

import asyncio
import math
from random import Random
from typing import TYPE_CHECKING

from gateway import errors, headers, relay, tasks
from gateway.config import effective
from gateway.exchange import Exchange, Finish, Reply
from gateway.middleware.edit_headers import RequestEdits, ResponseEdits
from gateway.outbound import Outbound, ResponseHead, request_fields, status_line
from gateway.routing.rewrite import compile_host, compile_rewrite
from gateway.upstream import retry

if TYPE_CHECKING:
    from aiohttp import StreamReader
    from aiohttp.http_parser import RawResponseMessage

    from gateway.client import Clients
    from gateway.middleware.base import Build
    from gateway.upstream.upstream import Target, Upstream
    from gateway.upstream.wire import Wire

EVENT_STREAM_IDLE = 300.0
"""Seconds of silence that a text/event-stream may keep, unless `timeouts.idle` is written."""
INTERIM_ANSWERS = 16
"""1xx heads that one answer may have before it."""
BACKOFF, BACKOFF_CAP = 0.025, 0.25
_random = Random().random  # noqa: S311 - spread, not secrecy


class Switch:
    """The body of a 101: an upstream connection that speaks another protocol from now on."""

    def __init__(self, wire: Wire, idle: float, max_age: float, counted: Finish) -> None:
        self.wire = wire
        self.counted = counted
        """To be called once the 101 is out: a tunnel counts when it opens, not when it ends."""
        self.idle = idle
        self.max_age = max_age


class Forward:
    """The innermost handler of a route that forwards: try targets until one answers."""

    def __init__(self, route: effective.Route, build: Build, clients: Clients) -> None:
        policies, server = route.policies, build.config.server
        answer = route.answer
        assert isinstance(answer, effective.Forward)
        self._clients = clients
        self._clock = build.clock
        self._count_upgraded = build.metrics.route(route.name).upgraded
        self._branches = [
            (branch.weight, build.upstreams[branch.upstream]) for branch in answer.branches
        ]
        self._only = self._branches[0][1] if len(self._branches) == 1 else None
        self._weights = sum(weight for weight, _ in self._branches)
        self._rewrite = compile_rewrite(route, build.config.upstreams)
        self._rewrite_host = compile_host(route)
        self._prefix = (policies.rewrite.strip_prefix or "").encode()
        self._edits = RequestEdits.compile(policies.headers.request)
        self._response_edits = ResponseEdits.compile(
            policies.headers.response,
            strip_prefix=policies.rewrite.strip_prefix or "",
            add_prefix=policies.rewrite.add_prefix or "",
        )
        own = self._edits.dropped if self._edits else frozenset()
        self._tables = tuple(
            headers.FieldTable(
                headers.REQUEST, clients.dropped(trusted) | own, server.underscore_headers
            )
            for trusted in (False, True)
        )
        names = frozenset({clients.echoed} if clients.echoed else ())
        gone = self._response_edits.dropped if self._response_edits else frozenset()
        self._response_table = headers.FieldTable(headers.RESPONSE, gone | names)
        self._upgrades = frozenset(name.lower() for name in policies.upgrade)
        self._websocket = policies.websocket
        self._timeouts = policies.timeouts
        self._first_byte = _or_never(policies.timeouts.first_byte)
        self._idle = _or_never(policies.timeouts.idle)
        self._idle_written = (
            "timeouts.idle" in route.origins and route.origins["timeouts.idle"].place is not None
        )
        limits = server.limits
        self._most = _or_never(policies.body.max)
        self._body_idle = _or_never(limits.body_idle)
        self._body_rate = policies.body.min_rate or limits.body_min_rate or 0.0
        self._policy = retry.Policy(policies.retry)
        self._try = self._attempt if self._policy.per_try is None else self._timed_attempt

    async def __call__(self, exchange: Exchange) -> Reply:
        """Forward. Raises errors.GatewayError."""
        upstream = self._only or self._draw()
        exchange.upstream = upstream.name
        if exchange.incoming.message.upgrade:
            self._judge_upgrade(exchange)
        request = self._request(exchange, upstream)
        policy = self._policy
        self._begin(exchange, upstream)
        tried: list[Target] = []
        extra, again = 0, ""
        fresh: Target | None = None
        while True:
            target = fresh or upstream.pick(tried)
            exchange.target_in_use = target
            exchange.target_name = target.name
            exchange.attempts += 1
            target.in_flight += 1
            try:
                reply = await self._try(
                    exchange, upstream, target, request, fresh=fresh is not None
                )
            except errors.UpstreamError as error:
                upstream.meter.target(target.name).by_class[0] += 1
                answered = exchange.wire is not None and exchange.wire.received
                release(exchange, whole=False)
                if again:
                    upstream.meter.retried(again, "failure")
                again = (
                    "upstream_idle_closed"
                    if isinstance(error, errors.UpstreamIdleClosed)
                    else error.reason
                )
                if (
                    isinstance(error, errors.UpstreamIdleClosed)
                    and fresh is None
                    and self._repeatable(exchange)
                ):
                    fresh = target  # outside `max` and budget: nothing but bad luck with the pool
                    continue
                fresh = None
                if answered:  # by a part of a head, or a 103 that the client has seen
                    raise
                self._may_follow(exchange, upstream, error, again, extra)
                wait = 0.0
            else:
                if again:
                    upstream.meter.retried(again, policy.outcome(reply.status))
                if reply.status not in policy.statuses or not self._status_may_follow(
                    exchange, upstream, reply, extra
                ):
                    return reply
                again, fresh = str(reply.status), None
                wait = _retry_after(reply)
                release(exchange, whole=False)
            tried.append(target)
            extra += 1
            await self._clock.sleep(wait or _random() * min(BACKOFF_CAP, BACKOFF * 2**extra))

    def _repeatable(self, exchange: Exchange) -> bool:
        """Whether the same request may go out again although the upstream may have acted on it."""
        upload = exchange.upload
        return (
            not self._policy.off
            and self._policy.repeatable(exchange)
            and (upload is None or upload.replayable)
        )

    def _may_follow(
        self,
        exchange: Exchange,
        upstream: Upstream,
        error: errors.UpstreamError,
        word: str,
        extra: int,
    ) -> None:
        """Return if another try may follow `error`; else raise it."""
        policy = self._policy
        if not policy.covers(error) or extra >= policy.max:
            raise error
        if not policy.may_repeat(error, exchange):
            upstream.meter.retried(word, "not_replayable")
            raise error
        if policy.share is not None and not upstream.budget.spend(policy.share):
            upstream.meter.retried(word, "no_budget")
            upstream.meter.budget_exhausted += 1
            raise error

    def _status_may_follow(
        self, exchange: Exchange, upstream: Upstream, reply: Reply, extra: int
    ) -> bool:
        if extra >= self._policy.max:
            return False
        if not self._repeatable(exchange):
            upstream.meter.retried(str(reply.status), "not_replayable")
            return False
        if self._policy.share is not None and not upstream.budget.spend(self._policy.share):
            upstream.meter.retried(str(reply.status), "no_budget")
            upstream.meter.budget_exhausted += 1
            return False
        return True

    async def _timed_attempt(
        self,
        exchange: Exchange,
        upstream: Upstream,
        target: Target,
        request: Outbound,
        *,
        fresh: bool,
    ) -> Reply:
        per_try = self._policy.per_try
        try:
            async with asyncio.timeout(per_try):
                return await self._attempt(exchange, upstream, target, request, fresh=fresh)
        except TimeoutError as late:
            if isinstance(late, errors.GatewayError):
                raise
            kind = errors.UpstreamHeaderTimeout if exchange.wire else errors.ConnectTimeout
            raise kind(f"no head within {per_try:g} s (retry.per_try)") from None

    async def _attempt(
        self,
        exchange: Exchange,
        upstream: Upstream,
        target: Target,
        request: Outbound,
        *,
        fresh: bool,
    ) -> Reply:
        """One try: lease, write, read the head."""
        if fresh:
            wire = await target.connections.make(self._timeouts.connect, self._timeouts.pool_wait)
        else:
            wire = await upstream.lease(target, self._timeouts)
        exchange.wire = wire
        wire.prepare(head_only=exchange.method == "HEAD", trailers=exchange.wants_trailers)
        wire.overdue = errors.UpstreamHeaderTimeout
        transport = wire.transport
        if transport is None:
            raise wire.translate(ConnectionError("lost"))
        edits = self._edits.lines(exchange) if self._edits is not None else b""
        head = request.head(target, edits)
        exchange.sent_at = sent_at = self._clock.now()
        upload = exchange.upload
        if upload is None:
            transport.write(head)
            wire.due = sent_at + self._first_byte
        elif upload.whole is not None:
            transport.write(head + upload.framed())
            wire.due = sent_at + self._first_byte
        else:
            transport.write(head)
            exchange.pump = tasks.spawn(upload.pump(wire, self._first_byte), "upload")
        try:
            message, payload = await wire.read()
        except Exception as error:  # noqa: BLE001 - translated
            raise wire.translate(error) from None
        if message.code < 200:
            message, payload = await self._past_interim(exchange, wire, message, payload)
        wire.due = math.inf
        exchange.head_at = now = self._clock.now()
        status = message.code
        if status == 101 and not exchange.upgrade:
            raise errors.UpstreamBadResponse("a 101 that was not asked for")
        reply = self._reply(exchange, wire, message, payload)
        meter = upstream.meter
        meter.target(target.name).by_class[min(status // 100, 5)] += 1
        meter.head(now - sent_at, status)
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
                head = ResponseHead(message, self._response_table, bodiless=False)
                client = exchange.incoming.protocol.transport
                if client is not None:
                    client.write(b"".join((status_line(103, "Early Hints"), *head.lines, b"\r\n")))
            message, payload = await wire.head()
        raise errors.UpstreamBadResponse("too many interim answers, or one that is none")

    def _reply(
        self, exchange: Exchange, wire: Wire, message: RawResponseMessage, payload: StreamReader
    ) -> Reply:
        """The upstream's head as a Reply whose body is not read yet."""
        status = message.code
        if message.version[0] != 1 or not 101 <= status <= 999:
            raise errors.UpstreamBadResponse("the status line is invalid")
        phrase = message.reason.encode("utf-8", "surrogateescape")
        if not headers.clean(phrase, 0):
            raise errors.UpstreamBadResponse("the reason phrase has a control byte")
        bodiless = exchange.method == "HEAD" or status == 304
        head = ResponseHead(message, self._response_table, bodiless=bodiless)
        lines = head.lines
        if status == 101:
            return self._switched(exchange, wire, message, head)
        if not head.dated:
            lines.append(self._clock.date_line)
        empty = bodiless or status == 204
        idle = self._idle
        if (
            not empty
            and not self._idle_written
            and not payload.is_eof()
            and _is_event_stream(lines)
        ):
            idle = max(idle, EVENT_STREAM_IDLE)
        body = relay.Download(wire, payload, head.length, idle, empty=empty)
        reply = Reply(status, lines, body, phrase=phrase)
        if self._response_edits is not None:
            self._response_edits.add(exchange, reply)
        return reply

    def _switched(
        self, exchange: Exchange, wire: Wire, message: RawResponseMessage, head: ResponseHead
    ) -> Reply:
        if not message.upgrade or head.upgrade.decode("latin-1") != exchange.upgrade:
            raise errors.UpstreamBadResponse("switched to a protocol that was not asked for")
        exchange.upgraded = True
        settings = self._websocket
        websocket = exchange.upgrade == "websocket" and settings is not None
        idle = _or_never(settings.idle) if websocket and settings else self._idle
        max_age = _or_never(settings.max_age) if websocket and settings else math.inf
        lines = [b"Connection: Upgrade\r\n", b"Upgrade: %b\r\n" % head.upgrade, *head.lines]
        reply = Reply(
            101,
            lines,
            Switch(wire, idle, max_age, self._count_upgraded),
            phrase=message.reason.encode("utf-8", "surrogateescape"),
        )
        if self._response_edits is not None:
            self._response_edits.add(exchange, reply)
        return reply

    def _begin(self, exchange: Exchange, upstream: Upstream) -> None:
        """What is done once, before the first try."""
        if exchange.has_body:
            exchange.upload = relay.Upload(
                exchange.incoming,
                exchange,
                self._clock,
                most=self._most,
                keep=self._policy.replay_body,
                idle=self._body_idle,
                rate=self._body_rate,
                unread=self._idle,
            )
        if self._policy.share is not None:
            upstream.budget.first(exchange.began)

    def _draw(self) -> Upstream:
        """One branch of a split, by weight."""
        point = _random() * self._weights
        for weight, upstream in self._branches:
            point -= weight
            if point < 0:
                return upstream
        return self._branches[-1][1]

    def _request(self, exchange: Exchange, upstream: Upstream) -> Outbound:
        fields = request_fields(exchange, self._tables[exchange.peer_trusted])
        target = exchange.target
        if self._rewrite is not None:
            target = self._rewrite(exchange, target)
        host: bytes | None
        if self._rewrite_host is not None:
            host = self._rewrite_host.render(exchange).encode("latin-1", "ignore")
        elif upstream.host == "pass":
            host = exchange.authority.encode("utf-8", "surrogateescape") or None
        else:
            host = upstream.fixed_host
        return Outbound(
            exchange.method, target, host, fields + self._clients.forwarding(exchange, self._prefix)
        )

    def _judge_upgrade(self, exchange: Exchange) -> None:
        """Let an upgrade through, or go on with an ordinary request (RFC 9110 section 7.8).

        Raises errors.BadRequest or errors.UpgradeRequired for a WebSocket handshake that is none.
        """
        fields = exchange.headers
        name = fields.get("Upgrade", "").strip().lower()
        # Bytes behind an upgrade that aiohttp does not know are lost, so nothing may follow on this connection.
        exchange.close = exchange.close or name != "websocket"
        websocket = name == "websocket" and self._websocket is not None
        if (
            exchange.has_body
            or exchange.http10
            or getattr(exchange.incoming.protocol, "bytes_lost", False)
            or not (websocket or (name in self._upgrades and name != "h2c"))
        ):
            exchange.close = True
            return
        if name == "websocket":
            if exchange.method != "GET":
                exchange.close = True
                return
            if not fields.get("Sec-WebSocket-Key"):
                raise errors.BadRequest("the WebSocket handshake has no key")
            if fields.get("Sec-WebSocket-Version", "").strip() != "13":
                raise errors.UpgradeRequired("the WebSocket version is not 13")
        exchange.upgrade = name


def release(exchange: Exchange, *, whole: bool = True) -> None:
    """Give back what the present try has leased. `whole`: its response was read to the end. Idempotent."""
    target, wire, pump = exchange.target_in_use, exchange.wire, exchange.pump
    if target is None:
        return
    exchange.target_in_use = None
    target.in_flight -= 1
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
    if whole and wire.transport is not None and exchange.has_body:
        whole = (
            not wire.transport.get_write_buffer_size()
        )  # answered before it had the whole request
    if whole:
        target.connections.give_back(wire)
    else:
        wire.end()


def _or_never(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds


def _is_event_stream(lines: list[bytes]) -> bool:
    types = [line[13:].strip().lower() for line in lines if line[:13].lower() == b"content-type:"]
    return any(one.startswith(b"text/event-stream") for one in types)


def _retry_after(reply: Reply) -> float:
    """Seconds that the upstream asks for, where it asks for one at most; else 0."""
    value = reply.get(b"Retry-After") or b""
    return float(value) if value in (b"0", b"1") else 0.0
