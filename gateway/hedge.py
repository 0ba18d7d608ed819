"""A second try beside the first, where that is slower than most (the tail-at-scale article of Dean and Barroso, CACM 2013).

Rules of this file: only for requests that do nothing (RFC 9110 section 9.2.1) and have no body; at another target, within
the retry budget, never in a queue. Each further try is made for a copy of the exchange, so that every try has a lease of
its own; the one whose answer counts hands its lease to the exchange, the others are given up before anything is sent on.
"""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING

from gateway import errors, tasks
from gateway.attempt import release

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Coroutine, Mapping

    from gateway.clock import Clock
    from gateway.config import model
    from gateway.config.ranges import Quantile
    from gateway.exchange import Exchange, Reply
    from gateway.forward import Forward
    from gateway.outbound import Outbound
    from gateway.upstream.group import Group

SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
KNOWN = 20
"""Answers that must have been seen before a share of them says what is slow."""
_ANEW = 1.0
"""Seconds after which the share is worked out anew."""
_LEASE = (
    "wire", "target_in_use", "target_name", "place", "permit", "sent_at", "head_at", "upgraded", "wants_trailers",
)  # fmt: skip


class Hedge:
    """When the requests of one route are tried a second time at once."""

    def __init__(
        self,
        settings: model.Hedge,
        share: float | None,
        clock: Clock,
        seen: Mapping[str, deque[float]],
    ) -> None:
        """`share`: the retry budget's; None: there is none. `seen`: seconds of each upstream's last answers, which outlive a
        reload.
        """
        self._late = {name: _Late(settings.after, answers, clock) for name, answers in seen.items()}
        self._most = settings.max
        self._share = share
        self._clock = clock

    def applies(self, exchange: Exchange) -> bool:
        """Whether a request may be tried twice at once. A copy for a mirror is taken of one try only."""
        return (
            exchange.method in SAFE
            and not exchange.has_body
            and not exchange.upgrade
            and exchange.tap is None
        )

    async def answer(
        self, forward: Forward, exchange: Exchange, group: Group, request: Outbound
    ) -> Reply:
        """The answer of whichever try has one first. Raises errors.GatewayError: that of the first try."""
        race = _Race()
        race.enter(exchange, forward.tries(exchange, group, request))
        late = self._late[group.upstream.name]
        began, delay = self._clock.now(), late.after()
        timer = None if delay is None else self._clock.call_later(delay, race.late)
        hedges = 0
        try:
            while (won := race.won()) is None:
                if race.over():
                    raise race.why()
                await race.turn()
                if race.is_late and hedges < self._most and race.won() is None:
                    race.is_late = False
                    if self._enter(race, forward, exchange, group, request):
                        hedges += 1
                        assert delay is not None
                        timer = self._clock.call_later(delay, race.late)
            await race.end(won)
        finally:
            if timer is not None:
                timer.cancel()
            await race.end(None)
        late.seen.append(self._clock.now() - began)
        if hedges:
            outcome = "lost" if won is exchange else "won"
            group.upstream.meter.hedges[outcome] += 1
            group.upstream.meter.hedges["lost"] += hedges - 1
        _adopt(exchange, won, hedges)
        return race.replies[won]

    def _enter(
        self, race: _Race, forward: Forward, exchange: Exchange, group: Group, request: Outbound
    ) -> bool:
        """Begin one more try, if another target, room and budget allow it."""
        upstream = group.upstream
        asked = [side.target_in_use for side in race.sides if side.target_in_use is not None]
        other = copy.copy(exchange)
        other.wire = other.target_in_use = other.place = other.permit = other.pump = None
        try:
            target = group.pick(other, asked)
        except errors.GatewayError:
            target = None
        if (
            target is None
            or target in asked
            or (target.limit is not None and not target.limit.has_room)
            or (self._share is not None and not upstream.budget.spend(self._share))
        ):
            upstream.meter.hedges["not_sent"] += 1
            return False
        race.enter(other, forward.try_once(other, group, target, request))
        return True


class _Late:
    """When an upstream's answer is late."""

    def __init__(self, after: float | Quantile, seen: deque[float], clock: Clock) -> None:
        self._after = after
        self._clock = clock
        self.seen = seen
        """Seconds of its last answers."""
        self._delay: float | None = None
        self._worked_out_at = -_ANEW

    def after(self) -> float | None:
        """Seconds after which a try is slow; None while that is not known."""
        if isinstance(self._after, float):
            return self._after
        now = self._clock.now()
        if len(self.seen) >= KNOWN and now - self._worked_out_at >= _ANEW:
            self._worked_out_at = now
            seen = sorted(self.seen)
            self._delay = seen[min(len(seen) - 1, int(self._after.share * len(seen)))]
        return self._delay


class _Race:
    """Tries for the same request."""

    def __init__(self) -> None:
        self.sides: dict[Exchange, asyncio.Task[None]] = {}
        self.replies: dict[Exchange, Reply] = {}
        self.is_late = False
        self._errors: dict[Exchange, errors.GatewayError] = {}
        self._changed = asyncio.Event()

    def enter(self, side: Exchange, work: Coroutine[None, None, Reply]) -> None:
        self.sides[side] = tasks.spawn(self._run(side, work), "try")

    async def _run(self, side: Exchange, work: Coroutine[None, None, Reply]) -> None:
        try:
            self.replies[side] = await work
        except errors.GatewayError as error:
            self._errors[side] = error
        finally:
            self._changed.set()

    def late(self) -> None:
        """The timer: the tries under way are slow."""
        self.is_late = True
        self._changed.set()

    async def turn(self) -> None:
        """Wait until something has happened."""
        await self._changed.wait()
        self._changed.clear()

    def won(self) -> Exchange | None:
        """Whose answer has come."""
        return next(iter(self.replies), None)

    def over(self) -> bool:
        """Nobody can have one any more."""
        return len(self._errors) == len(self.sides) or any(
            task.done() and side not in self._errors and side not in self.replies
            for side, task in self.sides.items()
        )

    def why(self) -> BaseException:
        """What the client is told: the first try's own word."""
        first = next(iter(self.sides))
        return self._errors.get(first) or errors.InternalError("a try has crashed")

    async def end(self, winner: Exchange | None) -> None:
        """Give up every try but the winner's, and what it has leased. Idempotent."""
        losing = [side for side in self.sides if side is not winner]
        await tasks.stop(*(self.sides[side] for side in losing))
        for side in losing:
            release(side, whole=False)
        self.sides = {}


def _adopt(exchange: Exchange, winner: Exchange, hedges: int) -> None:
    """The exchange goes on with the lease of the try that has won."""
    exchange.attempts += hedges
    if winner is exchange:
        return
    for name in _LEASE:
        setattr(exchange, name, getattr(winner, name))
    winner.target_in_use = winner.wire = winner.place = winner.permit = None
