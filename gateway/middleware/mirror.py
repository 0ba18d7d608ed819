"""`mirror`: a share of a route's requests is sent to another upstream as well, and its answers may be compared.

Rules of this file: the client's request never waits for its copy and never fails with it. The copy is gathered by a Tap
(tap.py, which bounds it) while the bytes pass, and sent when the exchange has ended well, in a task of its own. Of a route
IN_FLIGHT copies are under way at most, each for TAKES seconds. What is beyond is not sent, or not compared, and counted as
`dropped`.

The copy is the request as the real upstream got it, path and fields, with a marker behind them. It is no try: it is sent
once (again only where a rested connection had gone and the method is idempotent), and its outcome ejects nobody.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from gateway import errors, tasks
from gateway.config import effective
from gateway.middleware.compare import Answer, Comparison, Difference
from gateway.middleware.tap import MOST_BODY, Shot, Tap
from gateway.upstream.retry import IDEMPOTENT

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable

    from aiohttp import StreamReader
    from aiohttp.http_parser import RawResponseMessage

    from gateway.clock import Clock
    from gateway.exchange import Exchange, Handler, Reply
    from gateway.middleware.base import Build
    from gateway.observe.metrics import RouteMeter
    from gateway.upstream.upstream import Target, Upstream
    from gateway.upstream.wire import Wire

IN_FLIGHT = 32
"""Copies of one route under way."""
TAKES = 60.0
"""Seconds that a copy may take in all, whatever the time-outs of its upstream."""
KEPT = 100
"""Mismatches that are kept for people to look at, of all routes."""
_INTERIM = 16
_random = Random().random  # noqa: S311 - spread, not secrecy


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A copy whose answer differed."""

    at: float
    """Unix seconds."""
    route: str
    method: str
    path: str
    """Without the query, which may hold secrets; cut after 300 characters."""
    request_id: str
    upstream: str
    """The mirror's."""
    target: str
    differences: tuple[Difference, ...]


class Mirrors:
    """All copies under way and the last mismatches. One for each worker; it outlives reloads."""

    def __init__(self) -> None:
        self.mismatches: deque[Mismatch] = deque(maxlen=KEPT)
        """Oldest first."""
        self.running: set[asyncio.Task[str]] = set()

    def __repr__(self) -> str:
        return f"<Mirrors: {len(self.running)} copies under way, {len(self.mismatches)} mismatches>"

    async def aclose(self) -> None:
        """Give up what is under way."""
        await tasks.stop(*self.running)


class Mirror:
    """What one route sends to another upstream."""

    def __init__(
        self,
        route: str,
        upstream: Upstream,
        comparison: Comparison | None,
        meter: RouteMeter,
        mirrors: Mirrors,
    ) -> None:
        """`comparison`: None counts every answer as a match."""
        self._route = route
        self._upstream = upstream
        self._comparison = comparison
        self._clock: Clock = upstream.clock
        self._mirrors = mirrors
        self.meter = meter
        self.reads_body = comparison is not None and comparison.reads_body
        self.held = 0
        """Bytes of bodies that taps hold."""
        self.in_flight = 0

    def __repr__(self) -> str:
        return f"<Mirror of {self._route}: {self.in_flight} in flight, {self.held} bytes held>"

    def send(self, exchange: Exchange, shot: Shot, tap: Tap) -> None:
        """Send a copy in the background, if there is room for it. `exchange`: chooses the target, by its key or cookie."""
        if self.in_flight >= IN_FLIGHT:
            tap.drop()
            return
        try:
            target = self._upstream.pick(exchange)
        except errors.GatewayError:
            self.meter.mirrored["failed"] += 1
            tap.clear()
            return
        self.in_flight += 1
        task = tasks.spawn(self._result(shot, target), "mirror")
        self._mirrors.running.add(task)
        # Not a `finally` of its own: a task that is cancelled before its first step never runs one.
        task.add_done_callback(functools.partial(self._ended, tap))

    def _ended(self, tap: Tap, task: asyncio.Task[str]) -> None:
        self._mirrors.running.discard(task)
        well = not task.cancelled() and task.exception() is None
        self.meter.mirrored[task.result() if well else "failed"] += 1
        self.in_flight -= 1
        tap.clear()

    async def _result(self, shot: Shot, target: Target) -> str:
        """Send a copy, compare its answer, and return the word for what came of it."""
        try:
            return await self._compared(shot, target)
        except errors.GatewayError:
            return "failed"  # the client has had its answer long ago

    async def _compared(self, shot: Shot, target: Target) -> str:
        end = self._clock.now() + TAKES
        try:
            answer = await self._ask(shot, target, end)
        except errors.UpstreamIdleClosed:
            if shot.method not in IDEMPOTENT:
                raise
            answer = await self._ask(shot, target, end, fresh=True)
        if self._comparison is None:
            return "match"
        differences = self._comparison.differences(shot.answer, answer)
        if differences:
            self._differs(shot, target, differences)
            return "mismatch"
        whole = shot.answer.body is not None and answer.body is not None
        return "match" if whole or not self.reads_body else "dropped"

    def _differs(self, shot: Shot, target: Target, differences: list[Difference]) -> None:
        for kind in {difference.kind for difference in differences}:
            self.meter.mismatches[kind] += 1
        self._mirrors.mismatches.append(
            Mismatch(
                self._clock.wall(), self._route, shot.method, shot.path, shot.request_id,
                self._upstream.name, target.name, tuple(differences),
            )
        )  # fmt: skip

    async def _ask(self, shot: Shot, target: Target, end: float, *, fresh: bool = False) -> Answer:
        """Send the copy to `target` and read its answer. Raises errors.GatewayError."""
        timeouts = self._upstream.settings.timeouts
        connections = target.connections
        target.in_flight += 1
        wire: Wire | None = None
        whole = False
        try:
            wire = None if fresh else connections.take()
            if wire is None:
                wire = await connections.make(timeouts.connect, timeouts.pool_wait)
            sent_at = self._clock.now()
            message, payload = await self._head(shot, target, wire, sent_at, end)
            body = await self._body(wire, payload, end)
            whole = body is not None
            if whole:
                target.last_byte(self._clock.now() - sent_at)
            return Answer(message.code, message.raw_headers, body)
        finally:
            target.in_flight -= 1
            if wire is not None:
                wire.due = math.inf
                if whole:
                    connections.give_back(wire)
                else:
                    wire.end()

    async def _head(
        self, shot: Shot, target: Target, wire: Wire, sent_at: float, end: float
    ) -> tuple[RawResponseMessage, StreamReader]:
        wire.prepare(head_only=shot.method == "HEAD", trailers=False)
        wire.overdue = errors.UpstreamHeaderTimeout
        if wire.transport is None:
            raise wire.translate(ConnectionError("lost"))
        wire.transport.write(shot.framed(target))
        wire.due = _sooner(end, sent_at, self._upstream.settings.timeouts.first_byte)
        meter = self._upstream.meter
        try:
            for _ in range(_INTERIM):
                message, payload = await wire.head()
                if message.code >= 200:
                    meter.target(target.name).by_class[min(message.code // 100, 5)] += 1
                    meter.head(self._clock.now() - sent_at, min(message.code, 599))
                    return message, payload
            raise errors.UpstreamBadResponse("too many interim answers")
        except errors.UpstreamError:
            meter.target(target.name).by_class[0] += 1
            raise

    async def _body(self, wire: Wire, payload: StreamReader, end: float) -> bytes | None:
        """All of it; None if it is too large, and then there is more to come."""
        idle = self._upstream.settings.timeouts.idle
        wire.overdue = errors.UpstreamBodyTimeout
        pieces: list[bytes] = []
        size = 0
        while True:
            wire.due = _sooner(end, self._clock.now(), idle)
            try:
                data = await payload.readany()
            except Exception as error:  # noqa: BLE001 - translated
                raise wire.translate(error) from None
            if not data:
                return b"".join(pieces)
            size += len(data)
            if size > MOST_BODY:
                return None
            if self.reads_body:
                pieces.append(data)


def _sooner(end: float, now: float, seconds: float | None) -> float:
    return end if seconds is None else min(end, now + seconds)


def wrap(route: effective.Route, forward: Handler, build: Build) -> Handler:
    """Mirror a share of the requests; `forward` itself where the route has no mirror or forwards nothing."""
    settings = route.policies.mirror
    if settings is None or not isinstance(route.answer, effective.Forward):
        return forward
    share = settings.percent / 100
    compare = settings.compare
    mirror = Mirror(
        route.name,
        build.upstreams[settings.upstream],
        None if compare is None else Comparison(compare.ignore),
        build.metrics.route(route.name),
        build.mirrors,
    )
    build.at_finish.append(ended)
    return mirroring(mirror, share, forward)


def mirroring(mirror: Mirror, share: float, forward: Handler) -> Handler:
    """Put a tap on a share of the exchanges."""

    # No coroutine of its own: it only looks.
    def mirrors(exchange: Exchange) -> Awaitable[Reply]:
        if _random() < share:
            if mirror.in_flight >= IN_FLIGHT or (exchange.length or 0) > MOST_BODY:
                mirror.meter.mirrored["dropped"] += 1
            else:
                exchange.tap = tap = Tap(mirror)
                upload = exchange.upload
                if upload is not None and upload.whole:  # it was read to know who asks
                    tap.on_request(upload.whole)
        return forward(exchange)

    return mirrors


def _seen(exchange: Exchange) -> bool:
    """Whether all of the request's body has passed the tap."""
    upload = exchange.upload
    if not exchange.has_body or (upload is not None and upload.whole is not None):
        return True
    return exchange.incoming.payload.at_eof()


def ended(exchange: Exchange) -> None:
    """The exchange is over: send the copy, or forget it."""
    tap = exchange.tap
    if tap is None:
        return
    exchange.tap = None
    if exchange.reason or exchange.source != "upstream" or exchange.upgraded or not _seen(exchange):
        tap.drop()
    else:
        tap.done(exchange)
