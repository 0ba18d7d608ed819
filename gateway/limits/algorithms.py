"""How much may still come: four algorithms, each a pure function of what is stored, the time and the cost.

Rules of this file: no clock and no store. A state is immutable, None for a key that nobody has asked for; whoever keeps
states stores the one that comes back where it is meant to count, and nothing else where it is not: what is denied consumes
nothing. Times are seconds, of the wall (UTC) where `calendar` is set and of any clock that never goes back where it is not.
limits/script.py says the same in Lua; a test holds the two against each other.

Bounds, for a rate of N in P seconds and a burst of B, over any W seconds (each may be let in SLACK too early): gcra and
token_bucket at most B + N * W / P; sliding_window at most N in any W up to P; fixed_window at most N in each window, so
2 * N around the border of two.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Protocol

State = Any
"""A number, or a tuple of numbers; each algorithm has its own."""
Taken = tuple[State, float, int, float]
"""(state afterwards, seconds until the same question passes, units left, seconds until all of them are back). It has passed
where the second is 0.0; infinite means never: it costs more than there can be. A plain tuple, for one is made per decision.
"""

SLACK: Final = 1e-6
"""Seconds by which a decision may be early, so that asking again after exactly `wait` passes whatever floats do."""
_DUST: Final = 1e-9
MONTH: Final = 30 * 86400.0
"""Seconds of a month where it is a length and no page of the calendar: of all algorithms but fixed_window."""
PERIODS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "month": MONTH}
SLOTS: Final = 10
"""Parts of a sliding window. What has left the window is forgotten up to one part late, never early."""


class Algorithm(Protocol):
    """One quota: what an algorithm and its numbers come to."""

    word: ClassVar[str]
    calendar: ClassVar[bool]
    """Whether it wants the time of the wall."""

    @property
    def most(self) -> float:
        """The largest cost that can ever pass."""

    @property
    def numbers(self) -> tuple[float, float]:
        """What the Lua script needs of it, next to the word."""

    def take(self, state: State, now: float, cost: float = 1.0) -> Taken:
        """What comes of asking for `cost` (not negative) units at `now`."""

    def give_back(self, state: State, when: float, cost: float) -> State:
        """The state without `cost` units that were taken at `when`, not long ago."""

    def rank(self, state: State) -> float:
        """How much forgetting this state would give away: of two keys the one with the higher has used more."""

    def ends(self, state: State) -> float:
        """When the state says nothing any more: from then on None would do as well."""


class Gcra:
    """The generic cell rate algorithm: one number, the time at which all would be back (ITU-T I.371, "TAT")."""

    word: ClassVar[str] = "gcra"
    calendar: ClassVar[bool] = False
    __slots__ = ("_interval", "_tolerance", "most", "numbers")

    def __init__(self, amount: float, period: float, burst: float) -> None:
        self._interval = period / amount
        self._tolerance = burst * self._interval
        self.most = burst
        self.numbers = (self._interval, self._tolerance)

    def take(self, state: State, now: float, cost: float = 1.0) -> Taken:
        """See Algorithm."""
        back = now if state is None or state < now else state
        later = back + cost * self._interval
        spare = self._tolerance + now - later
        if spare >= -SLACK:
            return later, 0.0, int((spare + SLACK / 2) / self._interval), later - now
        wait = math.inf if cost > self.most else -spare
        spare += later - back
        return back, wait, int((spare + SLACK / 2) / self._interval), back - now

    def give_back(self, state: State, when: float, cost: float) -> State:
        """See Algorithm."""
        del when
        return state - cost * self._interval

    def rank(self, state: State) -> float:
        """See Algorithm."""
        return state  # type: ignore[no-any-return]

    def ends(self, state: State) -> float:
        """See Algorithm."""
        return state  # type: ignore[no-any-return]


class TokenBucket:
    """Tokens that come at the rate, at most `burst` of them: (tokens, when they were counted)."""

    word: ClassVar[str] = "token_bucket"
    calendar: ClassVar[bool] = False
    __slots__ = ("_rate", "most", "numbers")

    def __init__(self, amount: float, period: float, burst: float) -> None:
        self._rate = amount / period
        self.most = burst
        self.numbers = (self._rate, burst)

    def take(self, state: State, now: float, cost: float = 1.0) -> Taken:
        """See Algorithm."""
        tokens = self.most
        if state is not None:
            tokens = min(tokens, state[0] + max(0.0, now - state[1]) * self._rate)
        early = SLACK * self._rate
        if tokens + early >= cost:
            wait = 0.0
            tokens -= cost
        else:
            wait = math.inf if cost > self.most else (cost - tokens) / self._rate
        left = max(0, int(tokens + early / 2))
        return (tokens, now), wait, left, (self.most - tokens) / self._rate

    def give_back(self, state: State, when: float, cost: float) -> State:
        """See Algorithm."""
        del when
        return min(self.most, state[0] + cost), state[1]

    def rank(self, state: State) -> float:
        """See Algorithm."""
        return self.ends(state)

    def ends(self, state: State) -> float:
        """See Algorithm."""
        return state[1] + (self.most - state[0]) / self._rate  # type: ignore[no-any-return]


class FixedWindow:
    """So many in each second, minute, hour, day or month of the calendar (UTC): (when the window began, units used)."""

    word: ClassVar[str] = "fixed_window"
    calendar: ClassVar[bool] = True
    __slots__ = ("_period", "most", "numbers")

    def __init__(self, amount: float, unit: str) -> None:
        self._period = 0.0 if unit == "month" else PERIODS[unit]
        self.most = amount
        self.numbers = (amount, self._period)

    def take(self, state: State, now: float, cost: float = 1.0) -> Taken:
        """See Algorithm."""
        start, end = self._window(now + SLACK)
        used = 0.0
        if state is not None and start <= state[0] < end + (end - start):
            if state[0] > start:  # the wall clock was set back a little: the later window goes on
                start, end = self._window(state[0])
            used = state[1]
        if used + cost <= self.most + _DUST:
            wait = 0.0
            used += cost
        else:
            wait = math.inf if cost > self.most else max(end - now, SLACK)
        return (start, used), wait, max(0, int(self.most - used + _DUST)), max(end - now, SLACK)

    def _window(self, now: float) -> tuple[float, float]:
        if self._period:
            start = now // self._period * self._period
            return start, start + self._period
        return month(now)

    def give_back(self, state: State, when: float, cost: float) -> State:
        """See Algorithm."""
        if when + SLACK < state[0]:
            return state
        return state[0], max(0.0, state[1] - cost)

    def rank(self, state: State) -> float:
        """See Algorithm."""
        start, end = self._window(state[0])
        return start + (end - start) * state[1] / self.most  # type: ignore[no-any-return]

    def ends(self, state: State) -> float:
        """See Algorithm."""
        return self._window(state[0])[1]


class SlidingWindow:
    """At most so many in any time as long as the window: (number of the present part of it, units used in that and in
    each of the SLOTS parts before). The oldest part is counted as if all of it were inside.
    """

    word: ClassVar[str] = "sliding_window"
    calendar: ClassVar[bool] = False
    __slots__ = ("_period", "_slot", "most", "numbers")

    def __init__(self, amount: float, period: float) -> None:
        self._period = period
        self._slot = period / SLOTS
        self.most = amount
        self.numbers = (amount, self._slot)

    def take(self, state: State, now: float, cost: float = 1.0) -> Taken:
        """See Algorithm."""
        index = (now + SLACK) // self._slot
        used = (0.0,) * (SLOTS + 1)
        if state is not None:
            passed = int(index - state[0])
            if passed <= 0:
                index, used = state[0], state[1:]
            elif passed <= SLOTS:
                used = (0.0,) * passed + state[1 : SLOTS + 2 - passed]
        total = sum(used)
        if total + cost <= self.most + _DUST:
            wait = 0.0
            used = (used[0] + cost, *used[1:])
            total += cost
        else:
            wait = self._wait(index, used, total + cost - self.most) - now
        left = max(0, int(self.most - total + _DUST))
        if used[0]:  # mostly: the present part is the last to leave
            back = (index + SLOTS + 1) * self._slot - now
        else:
            back = self._wait(index, used, total) - now if total > 0 else 0.0
        return (index, *used), wait, left, back

    def _wait(self, index: float, used: tuple[float, ...], excess: float) -> float:
        """When `excess` units of `used` have left the window."""
        for age in range(SLOTS, -1, -1):
            excess -= used[age]
            if excess <= _DUST:
                return (index - age + SLOTS + 1) * self._slot
        return math.inf

    def give_back(self, state: State, when: float, cost: float) -> State:
        """See Algorithm."""
        age = 1 + int(state[0] - (when + SLACK) // self._slot)
        if not 1 <= age <= SLOTS + 1:
            return state
        return *state[:age], max(0.0, state[age] - cost), *state[age + 1 :]

    def rank(self, state: State) -> float:
        """See Algorithm."""
        return state[0] * self._slot + self._period * sum(state[1:]) / self.most  # type: ignore[no-any-return]

    def ends(self, state: State) -> float:
        """See Algorithm."""
        return (state[0] + SLOTS + 1) * self._slot  # type: ignore[no-any-return]


def make(word: str, amount: float, unit: str, burst: float | None = None) -> Algorithm:
    """The algorithm of that name for `amount` units per `unit` (s, m, h, d, month).

    `burst`: how many may come at once, where the algorithm knows such a thing; None: as many as the rate has units, at
    least one. Raises ValueError, with a sentence for the user.
    """
    if not 0 < amount < math.inf:
        raise ValueError("a rate is more than 0")
    if word in ("gcra", "token_bucket"):
        size = max(1.0, amount) if burst is None else burst
        if size <= 0:
            raise ValueError("a burst is at least 1")
        return (Gcra if word == "gcra" else TokenBucket)(amount, PERIODS[unit], size)
    if burst is not None:
        raise ValueError(f"{word} has no burst: what may come at once is the rate itself")
    if word == "fixed_window":
        return FixedWindow(amount, unit)
    return SlidingWindow(amount, PERIODS[unit])


def month(now: float) -> tuple[float, float]:
    """Beginning and end of the calendar month (UTC) of a Unix time."""
    day = datetime.fromtimestamp(now, UTC)
    start = datetime(day.year, day.month, 1, tzinfo=UTC)
    end = datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC)
    return start.timestamp(), end.timestamp()
