"""The connections of one target: those at rest, those on lease, and who waits for one.

Rules of this file: the count of open connections never passes `limit`; last in, first out, so that a burst's surplus ages
out; a connection is handed over only if nothing has arrived on it since it was laid to rest. The ticker ends what has
rested for too long (`Wire.expire`), before the target does so itself: how long that is, its own closes teach
(patience.py). Nothing here has a timer of its own.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Protocol

from gateway import errors
from gateway.upstream.fairness import Lines
from gateway.upstream.patience import Patience

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clock import Clock
    from gateway.upstream.wire import Dialer, Wire


class Connections:
    """Open connections to one target."""

    def __init__(self, dialer: Dialer, clock: Clock, counts: Counts) -> None:
        self._dialer = dialer
        self._clock = clock
        self._counts = counts
        self.limit = math.inf
        self.patience = Patience(4.0)
        """How long a connection rests: `pool.idle` at most."""
        self.max_age = math.inf
        self.open = 0
        """Leased, resting and being made."""
        self.resting: list[Wire] = []
        self.waiting: Lines[Turn] = Lines()
        """Those whose turn comes one consumer after the other, however many each of them has waiting."""
        self.closed = False

    @property
    def full(self) -> bool:
        """Whether whoever has no connection has to wait for one."""
        return self.open >= self.limit

    def take(
        self, repeatable: Callable[[Any], bool] | None = None, request: object = None
    ) -> Wire | None:
        """A rested connection, at once; None if there is none.

        One that the target may be about to end is only for a request that may be sent again, which
        `repeatable(request)` is asked for then; None: it may.
        """
        resting = self.resting
        while resting:
            wire = resting.pop()
            if wire.doubtful and repeatable is not None and not repeatable(request):
                resting.append(wire)  # all others have rested for longer
                if self.open >= self.limit:
                    self._make_room()
                return None
            # It rested, so nothing has come and it is not lost: `Wire` ends itself then. It may be on its way to that.
            if wire.transport is not None and not wire.transport.is_closing():
                wire.resting = False
                wire.due = math.inf
                self._counts.reused += 1
                return wire
            wire.end()
        return None

    async def make(self, connect: float | None, wait: float | None, who: str = "") -> Wire:
        """A new connection, or one that another request gives back while this one waits for its turn.

        `connect` and `wait` are seconds (None: no limit); `who`: with whom it shares its turns.

        Raises errors.PoolTimeout, and what `Dialer.dial` raises.
        """
        while self.open >= self.limit:
            handed = await self._turn(wait, who)
            if handed is None:
                break
            if handed.reusable() and not handed.received:
                return handed
            handed.end()
        else:
            self.open += 1
        began = self._clock.now()
        try:
            async with asyncio.timeout(connect):
                wire = await self._dialer.dial()
        except TimeoutError:
            self._lost(None)
            raise errors.ConnectTimeout(f"no connection within {connect:g} s") from None
        except BaseException:
            self._lost(None)
            raise
        self._counts.opened += 1
        wire.dialled = self._clock.now() - began
        wire.on_lost = self._lost
        # A request that was on its way when its target left the configuration is still served; the connection ends with it.
        return wire

    def give_back(self, wire: Wire) -> None:
        """The response has ended: rest, or end, the connection."""
        now = self._clock.now()
        if self.closed or not wire.reusable() or now - wire.made_at > self.max_age:
            wire.end()
            return
        wire.used += 1
        wire.dialled = 0.0
        wire.received = False
        while self.waiting.count:
            turn = self.waiting.pop()
            if not turn.done():
                turn.set_result(wire)
                self._counts.reused += 1
                return
        keep_for = self.patience.keep_for
        if not keep_for:
            self.patience.outlived(now)
            wire.end()
            return
        wire.resting = True
        wire.doubtful = False
        wire.rested_at = now
        wire.rests_until = now + keep_for
        wire.due = now + self.patience.sure_for
        self.resting.append(wire)

    def waited(self, since: float) -> None:
        """A request has waited for its turn since then (monotonic seconds)."""
        self._counts.waited(self._clock.now() - since)

    def made_none(self) -> None:
        """The room for a connection was not used."""
        self._lost(None)

    def close(self) -> None:
        """End what rests now and what is leased when it is given back."""
        self.closed = True
        for wire in [*self.resting]:
            wire.end()

    async def _turn(self, wait: float | None, who: str) -> Wire | None:
        """Wait until a connection is given back, or until there is room for another: None, and it is counted already."""
        turn: asyncio.Future[Wire | None] = asyncio.get_running_loop().create_future()
        waits = _Waits(turn, who)
        self.waiting.append(waits)
        began = self._clock.now()
        timer = None if wait is None else self._clock.call_later(wait, _give_up, turn, wait)
        try:
            return await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                # Handed over in the very moment of giving up: pass it on, or it is lost for good.
                handed = turn.result()
                if handed is None:
                    self._lost(None)
                else:
                    self.give_back(handed)
            raise
        finally:
            self.waited(began)
            if timer is not None:
                timer.cancel()
            self.waiting.discard(waits)

    def _lost(self, wire: Wire | None) -> None:
        self.open -= 1
        if wire is not None and wire.resting:
            wire.resting = False
            if wire in self.resting:  # not if it is being taken
                self.resting.remove(wire)
            self._learn(wire)
        self._wake()

    def _make_room(self) -> None:
        """End the connection that has rested longest: another is wanted in its place."""
        wire = self.resting.pop(0)
        wire.resting = False
        wire.end()

    def _learn(self, wire: Wire) -> None:
        """A connection has ended at rest: who ended it tells how long the next may rest."""
        now = self._clock.now()
        if wire.expired:
            self.patience.outlived(now)
        elif not self.closed:
            before = self.patience.keep_for
            keep_for = self.patience.learn(now - wire.rested_at, now)
            if keep_for < before:
                for one in self.resting:
                    one.rests_until = min(one.rests_until, one.rested_at + keep_for)
                    one.due = min(one.due, one.rests_until)

    def _wake(self) -> None:
        while self.waiting.count and self.open < self.limit:
            turn = self.waiting.pop()
            if not turn.done():
                # Counted here: another could take the room before the one that waits is running.
                self.open += 1
                turn.set_result(None)


class Turn(Protocol):
    """Who waits for a connection: a future, or something that behaves as one."""

    @property
    def who(self) -> str:
        """In whose line it stands."""

    def done(self) -> bool: ...

    def set_result(self, result: Wire | None) -> None: ...


class _Waits:
    """A future in somebody's line."""

    __slots__ = ("done", "set_result", "who")

    def __init__(self, future: asyncio.Future[Wire | None], who: str) -> None:
        self.done = future.done
        self.set_result = future.set_result
        self.who = who


class Counts(Protocol):
    """What the connections of an upstream count: plain numbers that a scrape reads."""

    opened: int
    reused: int

    def waited(self, seconds: float) -> None: ...


def _give_up(turn: asyncio.Future[Wire | None], wait: float) -> None:
    if not turn.done():
        turn.set_exception(errors.PoolTimeout(f"no connection became free within {wait:g} s"))
