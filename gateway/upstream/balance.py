"""Which of the available targets is next: pure choices over shares and counts, no waiting and no health.

Rules of this file: what can be computed when the targets change is computed in `rebuild`, so that `choose` costs no more for
a thousand targets than for three. A share is the weight in force, an integer of at least 1. `other` is for a further try of
the same request and may cost more. The one that hashes is in `hashing.py`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from heapq import heapify, heappop, heappush, heapreplace
from itertools import accumulate, permutations
from random import Random
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from gateway.upstream.outlier import is_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway import errors

_random = Random().random  # noqa: S311 - spread, not secrecy

SCAN = 64
"""Targets that `least_requests` looks at for one request."""
DECAY = 10.0
"""Seconds after which an old latency counts for 1/e, as in Finagle's peak EWMA."""
PENALTY = 1.0
"""Seconds that a failure counts for at the least: a target that fails at once must not look fast."""
PENALTY_CAP = 60.0


class Weighed(Protocol):
    """What a balancer sees of a target."""

    @property
    def share(self) -> int: ...

    @property
    def in_flight(self) -> int: ...


T = TypeVar("T", bound=Weighed)


class Balancer(Protocol[T]):
    """A way to choose. Until `rebuild` has been called there is nothing to choose from."""

    def rebuild(self, targets: Sequence[T], members: Sequence[T], /) -> None:
        """From now on choose among `targets`, at least one; `members` are all that belong here, down or not."""

    def choose(self, exchange: Any, /) -> T:
        """The target for a first try."""

    def other(self, exchange: Any, tried: Sequence[T], /) -> T:
        """One that is not among `tried`. At least one must remain."""


FEW = 16
"""Targets of which all pairs are kept: 240."""


class RandomChoice(Generic[T]):
    """By weight, without memory.

    Of n requests a target with the share p of all weights gets n·p, give or take sqrt(n·p·(1-p)) once in three times.
    """

    choose: Callable[[Any], T]

    def __init__(self, random: Callable[[], float] = _random) -> None:
        self._random = random
        self._targets: Sequence[T] = ()
        self._ends: list[int] = []
        """Where the stretch of each target ends, on a line as long as all shares."""
        self._total = 0

    def rebuild(self, targets: Sequence[T], _members: Sequence[T], /) -> None:
        """Draw among `targets`."""
        shares = [target.share for target in targets]
        self._targets = targets
        self._ends = list(accumulate(shares))
        self._total = self._ends[-1]
        self.choose = self._among_equals if min(shares) == max(shares) else self._by_share

    def other(self, exchange: Any, tried: Sequence[T], /) -> T:
        """Choose among those that remain."""
        rest = [target for target in self._targets if target not in tried]
        among = self._like()
        among.rebuild(rest, rest)
        return among.choose(exchange)

    def _like(self) -> RandomChoice[T]:
        return type(self)(self._random)

    def _among_equals(self, _: Any) -> T:
        return self._targets[int(self._random() * len(self._targets))]

    def _by_share(self, _: Any) -> T:
        return self._targets[self._at(self._random() * self._total)]

    def _at(self, point: float) -> int:
        # The upper bound: a product of floats may be rounded to the very end of the line.
        return bisect_right(self._ends, point, 0, len(self._ends) - 1)

    def _two(self) -> tuple[T, T]:
        """Two different targets, the second drawn by share from what remains; the same twice if there is but one."""
        ends, random = self._ends, self._random
        at = self._at(random() * self._total)
        first = self._targets[at]
        share = first.share
        point = random() * (self._total - share)
        if point >= ends[at] - share:
            point += share  # the stretch of the first is not there
        return first, self._targets[self._at(point)]


class TwoChoices(RandomChoice[T]):
    """Power of two choices: draw two by weight, take the one with fewer requests in flight for its weight.

    Idle targets are drawn by weight, as by `RandomChoice`. Nobody can be herded: two gateways that see the same counts do
    not choose alike. (Mitzenmacher, "The power of two choices in randomized load balancing", 2001.)
    """

    _pairs: Sequence[tuple[T, T]] = ()

    def rebuild(self, targets: Sequence[T], members: Sequence[T], /) -> None:
        """Draw among `targets`."""
        super().rebuild(targets, members)
        if self.choose == self._among_equals and 1 < len(targets) <= FEW:
            self._pairs = list(permutations(targets, 2))
            self.choose = self._of_pairs

    def _of_pairs(self, _: Any) -> T:
        # One draw instead of two, where all pairs of equals can be written down.
        pairs = self._pairs
        first, second = pairs[int(self._random() * len(pairs))]
        return second if second.in_flight < first.in_flight else first

    def _among_equals(self, _: Any) -> T:
        targets, random = self._targets, self._random
        count = len(targets)
        at = int(random() * count)
        beside = int(random() * (count - 1))
        first = targets[at]
        second = targets[beside + 1 if beside >= at else beside] if count > 1 else first
        return second if second.in_flight < first.in_flight else first

    def _by_share(self, _: Any) -> T:
        first, second = self._two()
        if second.in_flight * first.share < first.in_flight * second.share:
            return second
        return first


class Timed(Weighed, Protocol):
    """What `PeakEwma` sees and keeps of a target."""

    ewma: float
    ewma_at: float
    """Clock seconds: when `ewma` was last brought up to date."""


E = TypeVar("E", bound=Timed)


class PeakEwma(RandomChoice[E]):
    """Two by weight, and of them the one that is likely to answer sooner: latency x (in flight + 1) / weight.

    Latency is a moving average that goes up at once to a slower answer, and comes down over `DECAY` seconds, with or without
    traffic: a slow target is left quickly, and asked again after a while. A target that nobody has asked gets one request
    and, until that is answered, hardly a second one. The source is `PeakEwma` in Twitter's Finagle, from where Linkerd has
    it, there too with two choices; that a failure counts as slow is ours: there, another part takes failing targets out.
    """

    def __init__(
        self, random: Callable[[], float] = _random, now: Callable[[], float] = lambda: 0.0
    ) -> None:
        """`now` gives clock seconds."""
        super().__init__(random)
        self._now = now

    def rebuild(self, targets: Sequence[E], members: Sequence[E], /) -> None:
        """Draw among `targets`."""
        super().rebuild(targets, members)
        self.choose = self._by_share

    def _like(self) -> RandomChoice[E]:
        return PeakEwma(self._random, self._now)

    def _by_share(self, _: Any) -> E:
        first, second = self._two()
        now = self._now()
        if _cost(second, now) * first.share < _cost(first, now) * second.share:
            return second
        return first

    def succeeded(self, target: E, status: int, seconds: float) -> None:
        """`target` has answered `status` after `seconds`."""
        if status >= 500:
            seconds = _penalty(target, seconds)
        now = self._now()
        old = target.ewma
        kept = math.exp((target.ewma_at - now) / DECAY) if old else 0.0
        target.ewma = seconds if seconds > old * kept else old * kept + seconds * (1.0 - kept)
        target.ewma_at = now

    def failed(self, target: E, error: errors.GatewayError, seconds: float) -> None:
        """`target` has not answered; what is not its fault says nothing about it."""
        if is_failure(error):
            self.succeeded(target, 0, _penalty(target, seconds))


def _cost(target: Timed, now: float) -> float:
    latency = target.ewma
    if not latency:
        return PENALTY_CAP * (target.in_flight + 1) if target.in_flight else 0.0
    return latency * math.exp((target.ewma_at - now) / DECAY) * (target.in_flight + 1)


def _penalty(target: Timed, seconds: float) -> float:
    return min(PENALTY_CAP, max(PENALTY, seconds, 2 * target.ewma))


class RoundRobin(Generic[T]):
    """Smooth weighted round robin: shares 3 and 1 give a a b a, not a a a b.

    Each target has its turns at even distances, share times a cycle; the earliest turn is next (a heap, so that a thousand
    targets cost no scan). With the same targets and shares, any sum(shares) turns in a row give each exactly its share, and
    any number of turns gives it within 1 + n x its part of all shares, n targets being there. Who stays when others come and
    go keeps its place in the round, so that frequent changes do not favour those that stand first.
    """

    def __init__(self) -> None:
        self._targets: Sequence[T] = ()
        self._shares: list[int] = []
        self._phases: list[float] = []
        """Of each target: how far into its own distance its first turn of a cycle is, from 0 to 1."""
        self._turns: list[tuple[int, float, int, int]] = []
        """A heap: (cycle, where in it from 0 to 1, index of the target, which of its turns in the cycle)."""
        self._cycle, self._point = 0, 0.0
        """Where the last turn was."""
        self._further: RoundRobin[T] | None = None
        """The round of further tries, once there has been one."""

    def rebuild(self, targets: Sequence[T], _members: Sequence[T], /) -> None:
        """Go on with `targets`; new ones join half a distance from now."""
        waiting: dict[T, float] = {}
        for cycle, point, at, _ in self._turns:
            away = (cycle - self._cycle + (point - self._point)) * self._shares[at]
            waiting[self._targets[at]] = min(1.0, max(0.0, away))
        self._targets = targets
        self._shares = [target.share for target in targets]
        self._phases = [waiting.get(target, 0.5) for target in targets]
        self._turns = [
            (0, phase / share, at, 0)
            for at, (phase, share) in enumerate(zip(self._phases, self._shares, strict=True))
        ]
        heapify(self._turns)
        self._cycle, self._point = 0, 0.0
        if self._further is not None:
            self._further.rebuild(targets, targets)

    def choose(self, _: Any, /) -> T:
        """Whose turn it is."""
        return self._targets[self._next()]

    def other(self, _: Any, tried: Sequence[T], /) -> T:
        """The next one of a round of its own, which only further tries take part in.

        If a further try took the turn of the next one, then of two targets the one that fails would get every first try.
        """
        if self._further is None:
            self._further = RoundRobin()
            self._further.rebuild(self._targets, self._targets)
        return self._further._next_beside(tried)

    def _next_beside(self, tried: Sequence[T]) -> T:
        passed = []
        while self._targets[self._turns[0][2]] in tried:
            passed.append(heappop(self._turns))
        at = self._next()
        for turn in passed:
            heappush(self._turns, turn)
        return self._targets[at]

    def _next(self) -> int:
        cycle, point, at, turn = self._turns[0]
        self._cycle, self._point = cycle, point
        share = self._shares[at]
        turn += 1
        if turn == share:
            # Turns are counted anew in each cycle: the same floats again, so that no error can add up.
            turn, cycle = 0, cycle + 1
        heapreplace(self._turns, (cycle, (self._phases[at] + turn) / share, at, turn))
        return at


class LeastRequests(RoundRobin[T]):
    """The fewest requests in flight for the weight; among equals, as between idle ones, the next of the round.

    Exact among up to `SCAN` + 1 targets; of more, the one whose turn it is and the next `SCAN` in the list are looked at.
    """

    def __init__(self) -> None:
        super().__init__()
        self._twice: list[T] = []
        self._reach = 0
        self._equal = True

    def rebuild(self, targets: Sequence[T], members: Sequence[T], /) -> None:
        """Choose among `targets`."""
        super().rebuild(targets, members)
        self._reach = min(SCAN, len(targets) - 1)
        self._twice = [*targets, *targets[: self._reach]]
        self._equal = min(self._shares) == max(self._shares)

    def choose(self, _: Any, /) -> T:
        """The least busy one."""
        at = self._next()
        first = self._targets[at]
        if not first.in_flight:
            return first
        # The first one comes first: among equals it is its turn.
        near = self._twice[at : at + 1 + self._reach]
        loads: list[float]
        if self._equal:
            loads = [target.in_flight for target in near]
        else:
            loads = [target.in_flight / target.share for target in near]
        return near[loads.index(min(loads))]

    def other(self, exchange: Any, tried: Sequence[T], /) -> T:
        """The least busy one that is not among `tried`; costs nobody its turn."""
        best = super().other(exchange, tried)
        for target in self._targets:
            if (
                target.in_flight * best.share < best.in_flight * target.share
                and target not in tried
            ):
                best = target
        return best
