"""The innermost handler of a route that forwards: choose a target, speak to it, try again where that is safe.

Rules of this file: all that can be decided at load is decided in `__init__`. The first try begins without waiting where a
connection is at rest; what it comes to is sent from the callback that brings it (`Begun.at_hand`), and only what cannot
be sent so is awaited, in `tries`. Nothing here writes to the client.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from gateway import errors, headers
from gateway.attempt import Attempt, failed, release
from gateway.begun import Begun, Queued
from gateway.config import effective
from gateway.exchange import would_refuse
from gateway.hedge import Hedge
from gateway.outbound import Outbound, request_fields
from gateway.routing.rewrite import compile_host, compile_rewrite
from gateway.upgrade import Upgrades
from gateway.uploads import Uploads
from gateway.upstream import retry
from gateway.upstream.fairness import line_of
from gateway.upstream.split import Split
from gateway.withheld import Withheld, told

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from gateway.client import Clients
    from gateway.exchange import Exchange, Reply
    from gateway.middleware.base import Build
    from gateway.relay import Upload
    from gateway.upstream.breaker import Breaker
    from gateway.upstream.concurrency import Limit
    from gateway.upstream.group import Group
    from gateway.upstream.upstream import Target, Upstream
    from gateway.upstream.wire import Wire

BACKOFF, BACKOFF_CAP = 0.025, 0.25
_ROUTES_KNOWN = 16
"""Routes for which a client's connection remembers the fields that go on."""
_random = Random().random  # noqa: S311 - spread, not secrecy


class _Course:
    """What has been tried for one request."""

    __slots__ = ("again", "error", "extra", "fresh", "tried", "wait")

    def __init__(self) -> None:
        self.tried: list[Target] = []
        self.error: errors.UpstreamError | None = None
        """What the last try has failed of."""
        self.extra = 0
        """Tries beyond the first."""
        self.again = ""
        """Why the present try is not the first: a word of `gateway_retries_total`."""
        self.fresh: Target | None = None
        """Where it goes on a connection of its own, since one that had rested was closed."""
        self.wait = 0.0
        """Seconds that the upstream has asked for."""


class Forward:
    """The innermost handler of a route that forwards: try targets until one answers."""

    def __init__(self, route: effective.Route, build: Build, clients: Clients) -> None:
        policies, server = route.policies, build.config.server
        answer = route.answer
        assert isinstance(answer, effective.Forward)
        self._clients = clients
        self.clock = build.clock
        self._split = Split(route.name, answer.branches, build.upstreams)
        self._rewrite = compile_rewrite(route, build.config.upstreams)
        self._rewrite_host = compile_host(route)
        self._prefix = (policies.rewrite.strip_prefix or "").encode()
        self._upgrades = Upgrades(route, build)
        self.attempt = Attempt(route, build, clients, self._upgrades)
        self._withheld = withheld = Withheld(route, build.authenticators)
        edited = self.attempt.own_fields
        own = edited | withheld.fields
        self._not_told = edited & withheld.fields
        self._tables = tuple(
            headers.FieldTable(
                withheld.special,
                clients.dropped(trusted) | own,
                server.underscore_headers,
                withheld.cookies,
            )
            for trusted in (False, True)
        )
        self.pool_wait = policies.timeouts.pool_wait
        """Seconds that a request may wait for a connection; None: no limit."""
        # Branches may drop different fields.
        self._known_as = f"{route.name} {sorted(own)} {sorted(withheld.cookies)}"
        self._gathered = policies.buffer.request or 0
        self._policy = retry.Policy(policies.retry)
        self.uploads = Uploads(policies, server.limits, build.clock)
        self._hedge = None
        if policies.hedge is not None:
            names = {branch.upstream for branch in answer.branches}
            seen = {name: build.seconds(f"{route.name} {name}") for name in names}
            self._hedge = Hedge(policies.hedge, self._policy.share, build.clock, seen)
        limits = (policies.timeouts.connect, self._policy.per_try)
        self._connect = min((limit for limit in limits if limit is not None), default=None)
        self.again_on = self._policy.statuses
        """Statuses after which another try may follow."""

    def __call__(self, exchange: Exchange) -> Awaitable[Reply]:
        """Forward. Raises errors.GatewayError; so does what is returned, when it is awaited."""
        group = self._split.only or exchange.branch or self._split.draw(exchange)
        upstream = group.upstream
        exchange.upstream = upstream.name
        if exchange.incoming.message.upgrade:
            self._upgrades.judge(exchange)
        request = self._request(exchange, upstream)
        if exchange.has_body:
            upload = exchange.upload = exchange.upload or self.uploads(exchange)
            if self._gathered and upload.whole is None:
                return self._gather(exchange, group, request, upload)
        policy = self._policy
        if policy.share is not None:
            upstream.budget.first(exchange.began)
        if self._hedge is not None and self._hedge.applies(exchange):
            return self._hedge.answer(self, exchange, group, request)
        target = group.only or group.first(exchange)
        if target.limit is not None and not _placed(exchange, target.limit):
            return self.tries(exchange, group, request)
        self._lease(exchange, target)
        connections = target.connections
        wire = connections.take(self._repeatable, exchange)
        if wire is None:
            if connections.full:
                return Queued(self, exchange, group, request, connections)
            return self.tries(exchange, group, request)
        self.attempt.write(exchange, wire, target, request)
        return Begun(self, exchange, group, request, wire)

    async def _gather(
        self, exchange: Exchange, group: Group, request: Outbound, upload: Upload
    ) -> Reply:
        """Have the body, or as much of it as may be held, before a target has to wait for it."""
        await upload.gather(self._gathered)
        if self._policy.share is not None:
            group.upstream.budget.first(exchange.began)
        return await self.tries(exchange, group, request)

    def _lease(self, exchange: Exchange, target: Target) -> None:
        exchange.target_in_use = target
        exchange.target_name = target.name
        exchange.attempts += 1
        target.in_flight += 1
        breaker = target.breaker
        if breaker is not None:
            exchange.permit = breaker.free
            if breaker.free is None:
                self._admit(exchange, breaker)

    def _admit(self, exchange: Exchange, breaker: Breaker) -> None:
        """Ask the circuit whether this try may begin: after `pick` it may, the same target once more maybe not.

        Raises errors.CircuitOpen.
        """
        exchange.permit = breaker.admit(self.clock.now())
        if exchange.permit is None:
            if breaker.reports:
                would_refuse(exchange, errors.CircuitOpen.reason)
                return
            release(exchange, whole=False)
            raise errors.CircuitOpen(f"the circuit of {exchange.target_name} is open")

    async def tries(
        self,
        exchange: Exchange,
        group: Group,
        request: Outbound,
        begun: Wire | None = None,
    ) -> Reply:
        """Try until there is an answer. `begun`: the first request is out already, on this connection."""
        upstream = group.upstream
        course = _Course()
        while True:
            target = exchange.target_in_use or await self._next(exchange, group, course)
            try:
                if begun is not None:
                    wire, begun = begun, None
                    reply = await self.attempt.head(exchange, wire, upstream)
                else:
                    reply = await self._try(exchange, upstream, target, request, course.fresh)
            except errors.UpstreamError as error:
                if exchange.fault is not None:
                    raise
                target.meter.by_class[0] += 1
                failed(exchange, target, error)
                if self._resent(exchange, upstream, target, course, error):
                    continue
            else:
                if not self._answered_badly(exchange, upstream, reply, course):
                    return reply
            course.tried.append(target)
            spread = _random() * min(BACKOFF_CAP, BACKOFF * 2**course.extra)
            course.extra += 1
            await self.clock.sleep(course.wait or spread)

    async def _next(self, exchange: Exchange, group: Group, course: _Course) -> Target:
        """The target of the next try, leased. Raises errors.GatewayError: what the last try has failed of, if one has."""
        try:
            target = course.fresh or group.pick(exchange, course.tried)
            if target.limit is not None and not _placed(exchange, target.limit):
                exchange.place = await group.enter(exchange, target, course.tried)
                target = exchange.place.target
            self._lease(exchange, target)
        except errors.GatewayError:
            error, course.error = course.error, None
            if error is not None:
                raise error from None
            raise
        return target

    async def try_once(
        self, exchange: Exchange, group: Group, target: Target, request: Outbound
    ) -> Reply:
        """One try at `target` and no other. Raises errors.GatewayError."""
        if target.limit is not None and not _placed(exchange, target.limit):
            raise errors.QueueFull(f"{target.name} has no room")
        self._lease(exchange, target)
        try:
            return await self._try(exchange, group.upstream, target, request, None)
        except errors.UpstreamError as error:
            target.meter.by_class[0] += 1
            failed(exchange, target, error)
            raise

    def _resent(
        self,
        exchange: Exchange,
        upstream: Upstream,
        target: Target,
        course: _Course,
        error: errors.UpstreamError,
    ) -> bool:
        """Whether the request goes out again at once, to the same target. False: another try may follow.

        Raises `error` where none may.
        """
        answered = exchange.wire is not None and exchange.wire.received
        release(exchange, whole=False)
        if course.again:
            upstream.meter.retried(course.again, "failure")
        idle_closed = isinstance(error, errors.UpstreamIdleClosed)
        course.again = "upstream_idle_closed" if idle_closed else error.reason
        if idle_closed and course.fresh is None and self._repeatable(exchange):
            course.fresh = target  # outside `max` and budget: nothing but bad luck with the pool
            return True
        course.fresh = None
        if answered:  # by a part of a head, or a 103 that the client has seen
            raise error
        self._may_follow(exchange, upstream, error, course.again, course.extra)
        course.error = error.with_traceback(None)  # whose frames hold `course`: a ring otherwise
        course.wait = 0.0
        return False

    def _answered_badly(
        self, exchange: Exchange, upstream: Upstream, reply: Reply, course: _Course
    ) -> bool:
        """Whether another try follows an answer, because of its status."""
        policy = self._policy
        if course.again:
            upstream.meter.retried(course.again, policy.outcome(reply.status))
        if reply.status not in policy.statuses or not self._status_may_follow(
            exchange, upstream, reply, course.extra
        ):
            return False
        wait = retry.after(reply)
        deadline = exchange.deadline
        if deadline is not None and self.clock.now() + wait >= deadline.due:
            return False  # this answer is better than none in time
        course.again, course.fresh, course.error = str(reply.status), None, None
        course.wait = wait
        release(exchange, whole=False)
        return True

    async def _try(
        self,
        exchange: Exchange,
        upstream: Upstream,
        target: Target,
        request: Outbound,
        fresh: Target | None,
    ) -> Reply:
        """One try: lease, write, read the head."""
        connections = target.connections
        wire = connections.take(self._repeatable, exchange) if fresh is None else None
        if wire is None:
            wire = await connections.make(self._connect, self.pool_wait, line_of(exchange))
        self.attempt.write(exchange, wire, target, request)
        return await self.attempt.head(exchange, wire, upstream)

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
        # Without a connection nothing was sent: the upstream sees no more for it.
        if error.retry != "connect" and not self._in_budget(upstream, word):
            raise error

    def _status_may_follow(
        self, exchange: Exchange, upstream: Upstream, reply: Reply, extra: int
    ) -> bool:
        if extra >= self._policy.max:
            return False
        if not self._repeatable(exchange):
            upstream.meter.retried(str(reply.status), "not_replayable")
            return False
        return self._in_budget(upstream, str(reply.status))

    def _in_budget(self, upstream: Upstream, word: str) -> bool:
        share = self._policy.share
        if share is None or upstream.budget.spend(share):
            return True
        upstream.meter.retried(word, "no_budget")
        upstream.meter.budget_exhausted += 1
        return False

    def _request(self, exchange: Exchange, upstream: Upstream) -> Outbound:
        target = exchange.target
        if self._withheld.parameters:
            target = self._withheld.target(target)
        if self._rewrite is not None:
            target = self._rewrite(exchange, target)
        host: bytes | None
        if self._rewrite_host is not None:
            host = self._rewrite_host.render(exchange).encode("latin-1", "ignore")
        elif upstream.host == "pass":
            host = exchange.authority.encode("utf-8", "surrogateescape") or None
        else:
            host = upstream.fixed_host
        fields = self._fields(exchange) + self._clients.numbers(exchange)
        if exchange.identity is not None:
            fields += told(exchange.identity, self._not_told)
        return Outbound(exchange.method, target, host, fields)

    def _fields(self, exchange: Exchange) -> bytes:
        """What the request's fields become on their way, less what tells this request from the next."""
        known = exchange.known
        if known is not None:
            fields = known.fields.get(self._known_as)
            if fields is not None:
                return fields
        fields = request_fields(exchange, self._tables[exchange.peer_trusted])
        fields += self._clients.about(exchange, self._prefix)
        if known is not None and not exchange.wants_trailers and len(known.fields) < _ROUTES_KNOWN:
            known.fields[self._known_as] = fields
        return fields


def _placed(exchange: Exchange, limit: Limit[Target]) -> bool:
    """Whether there was room for one more try: then it is counted."""
    if limit.busy >= limit.most:
        if not limit.reports:
            return False
        if limit.queue_is_full:
            would_refuse(exchange, errors.QueueFull.reason)
    limit.busy += 1
    exchange.place = limit
    return True
