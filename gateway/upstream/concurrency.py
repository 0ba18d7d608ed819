"""How many requests a target is given at once, and who waits for room.

Rules of this file: where there is room, a request costs one comparison and one addition (`busy`
below `most`), written out by who forwards it. Whoever finds none waits in the upstream's one queue,
in which consumers take turns (fairness.py), among those that the free target would do for. A place is counted for
whom it is given to before that one runs, so that nobody can slip in between; one that gives up in
that very moment passes it on, or it would be lost for good. In `mode: report` places are counted, and
whoever finds none goes on all the same.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from gateway import errors
from gateway.upstream.adaptive import MOST, Gradient
from gateway.upstream.fairness import Lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gateway.clock import Clock


class Settings(Protocol):
    """`concurrency:` of an upstream."""

    @property
    def per_target(self) -> int | None: ...
    @property
    def queue(self) -> int: ...
    @property
    def queue_timeout(self) -> float: ...
    @property
    def adaptive(self) -> str: ...
    @property
    def mode(self) -> str: ...


T = TypeVar("T")


class Limit(Generic[T]):
    """The places of one target."""

    __slots__ = ("_concurrency", "adaptive", "busy", "most", "target")

    def __init__(self, target: T, concurrency: Concurrency[T]) -> None:
        self.target = target
        self._concurrency = concurrency
        self.busy = 0
        """Places that are taken."""
        self.most: float = math.inf
        """Places that there are. While anybody waits for this target, `busy` is not below it."""
        self.adaptive: Gradient | None = None
        """What response times say, where that is asked for; in force only with `enforce`."""

    def __repr__(self) -> str:
        return f"<Limit: {self.busy} of {self.most:g}>"

    @property
    def shown(self) -> float:
        """The limit for people: what is in force, or what would be with `adaptive: report`."""
        return self.most if self.adaptive is None else math.floor(self.adaptive.limit)

    @property
    def reports(self) -> bool:
        """Whether a request that finds no place goes on all the same."""
        return self._concurrency.reports

    @property
    def has_room(self) -> bool:
        """Whether one more request would not have to wait."""
        return self.busy < self.most or self.reports

    @property
    def queue_is_full(self) -> bool:
        """Whether one more request that finds no place here would be refused. In report mode: were all held to the limit,
        those beyond it would wait.
        """
        return self._concurrency.beyond() >= self._concurrency.queue

    def leave(self) -> None:
        """The try has ended: the place goes to whose turn it is, or becomes free."""
        self.busy -= 1
        if self._concurrency.waiting:
            self._concurrency.admit(self)

    def succeeded(self, _target: T, status: int, seconds: float) -> None:
        """An answer came `seconds` after the request was written; to be called before `leave`."""
        adaptive = self.adaptive
        # 429 and 503 are quick because nothing was done for them: no measure of what is borne.
        if (
            adaptive is not None
            and status not in (429, 503)
            and adaptive.answered(seconds, self.busy)
        ):
            self._concurrency.moved(self)

    def failed(self, _target: T, error: errors.GatewayError, _seconds: float) -> None:
        """The try has failed; only a target that was too slow says something about its load."""
        adaptive = self.adaptive
        if (
            adaptive is not None
            and isinstance(error, (errors.UpstreamHeaderTimeout, errors.ConnectTimeout))
            and adaptive.timed_out(self.busy)
        ):
            self._concurrency.moved(self)


class _Turn(Generic[T]):
    """One request that waits."""

    __slots__ = ("limits", "place", "who")

    def __init__(
        self, limits: tuple[Limit[T], ...], place: asyncio.Future[Limit[T]], who: str
    ) -> None:
        self.limits = limits
        """Any of these would do."""
        self.place = place
        self.who = who


class Concurrency(Generic[T]):
    """The limits of one upstream's targets and the queue before them."""

    def __init__(self, clock: Clock, available: Callable[[T], bool]) -> None:
        """`available`: whether a target may be given to one that has waited, for meanwhile it may
        have gone down.
        """
        self._clock = clock
        self._available = available
        self.queue = 0
        """Requests that may wait, at most."""
        self.queue_timeout = 0.0
        """Seconds."""
        self.enforced = False
        self.reports = False
        """Limits are only to be counted: nobody waits."""
        self.waiting: Lines[_Turn[T]] = Lines()
        self._limits: tuple[Limit[T], ...] = ()

    def __repr__(self) -> str:
        return f"<Concurrency: {len(self._limits)} targets, {len(self.waiting)} waiting>"

    # ── settings ──

    def apply(self, settings: Settings | None, targets: Iterable[T]) -> dict[T, Limit[T]]:
        """Take new settings and targets; those that stay keep their places and what was learnt.

        Returns the limits, none where `settings` are None; then whoever waits is let in at once.
        """
        known = {limit.target: limit for limit in self._limits}
        limits = {}
        if settings is not None:
            self.queue = settings.queue
            self.queue_timeout = settings.queue_timeout
            self.enforced = settings.adaptive == "enforce"
            self.reports = settings.mode == "report"
            limits = {target: known.get(target) or Limit(target, self) for target in targets}
            for limit in limits.values():
                self._adapt(limit, settings)
        self._limits = tuple(limits.values())
        self._let_go({limit for limit in known.values() if limit.target not in limits})
        self.wake()
        return limits

    def _let_go(self, gone: set[Limit[T]]) -> None:
        """Whoever waits for one of `gone` waits for the others that would do. Where there is none it is let in: nobody
        knows better than its try whether that target still answers.
        """
        for turn in self.waiting:
            turn.limits = tuple(one for one in turn.limits if one not in gone) or turn.limits
        for limit in gone:
            limit.most = math.inf
            self.admit(limit, gone=True)

    def _adapt(self, limit: Limit[T], settings: Settings) -> None:
        most = math.inf if settings.per_target is None else settings.per_target
        if settings.adaptive == "off":
            limit.adaptive = None
        elif limit.adaptive is None:
            limit.adaptive = Gradient(self._clock.now, enforced=self.enforced, most=min(most, MOST))
        else:
            limit.adaptive.apply(enforced=self.enforced, most=min(most, MOST))
        limit.most = most
        if self.enforced and limit.adaptive is not None:
            limit.most = math.floor(limit.adaptive.limit)

    def moved(self, limit: Limit[T]) -> None:
        """Response times say another limit than before."""
        if self.enforced and limit.adaptive is not None:
            limit.most = math.floor(limit.adaptive.limit)
            self.admit(limit)

    # ── waiting ──

    async def enter(
        self, wanted: Limit[T], others: Sequence[Limit[T]] = (), who: str = ""
    ) -> Limit[T]:
        """A place, counted already: at `wanted`, or sooner at one of `others` if any would do.

        `who`: with whom it shares its turns, where it has to wait.

        Give it back with its `leave`, and send to its `target`. Raises errors.QueueFull,
        errors.QueueTimeout; errors.NoHealthyTarget when all of them have gone down meanwhile.
        """
        limits = (wanted, *others)
        roomy = [limit for limit in limits if limit.has_room]
        if roomy:
            limit = min(roomy, key=_share)
            limit.busy += 1
            return limit
        if len(self.waiting) >= self.queue:
            self._make_room(who)
        place: asyncio.Future[Limit[T]] = asyncio.get_running_loop().create_future()
        turn = _Turn(limits, place, who)
        self.waiting.append(turn)
        seconds = self.queue_timeout
        timer = self._clock.call_later(seconds, _give_up, place, seconds)
        try:
            return await place
        except BaseException:
            if _admitted(place):
                place.result().leave()
            raise
        finally:
            timer.cancel()
            self.waiting.discard(turn)

    def _make_room(self, who: str) -> None:
        """The queue is full: send away one of those that have most in it. Raises errors.QueueFull where `who` has."""
        turn = self.waiting.give_way(who, _waits) if self.queue else None
        if turn is None:
            raise errors.QueueFull(f"{len(self.waiting)} requests wait for room already")
        turn.place.set_exception(
            errors.QueueFull(f"{len(self.waiting) + 1} requests wait, most of them of one client")
        )

    def admit(self, limit: Limit[T], *, gone: bool = False) -> None:
        """Give the free places of `limit` to those whose turn it is.

        `gone`: it is no target any more, so nobody will ever ask again.
        """
        if not gone and not self._available(limit.target):
            return
        while limit.has_room:
            turn = self.waiting.take(lambda one: limit in one.limits and _waits(one))
            if turn is None:
                break
            limit.busy += 1
            turn.place.set_result(limit)

    def beyond(self) -> float:
        """Requests that wait, and those that are under way beyond all places."""
        return len(self.waiting) + sum(limit.busy - limit.most for limit in self._limits)

    def wake(self) -> None:
        """Other targets may be available than before: give away what is free, and send away those
        that would wait for targets that are down.
        """
        if not self.waiting:
            return
        for limit in self._limits:
            self.admit(limit)
        for turn in self.waiting:
            lost = not any(self._available(limit.target) for limit in turn.limits)
            if lost and not turn.place.done():
                turn.place.set_exception(errors.NoHealthyTarget("it went down meanwhile"))


def _share(limit: Limit[T]) -> float:
    """How much of it is taken; many without a bound rank by what they have."""
    return limit.busy / limit.most if limit.most < math.inf else limit.busy - math.inf


def _waits(turn: _Turn[T]) -> bool:
    return not turn.place.done()


def _admitted(place: asyncio.Future[Limit[T]]) -> bool:
    """Whether the place was given: then the turn has left the queue."""
    return place.done() and not place.cancelled() and place.exception() is None


def _give_up(place: asyncio.Future[Limit[T]], seconds: float) -> None:
    if not place.done():
        place.set_exception(errors.QueueTimeout(f"no room at the upstream within {seconds:g} s"))
