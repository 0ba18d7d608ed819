"""How many requests in flight a target bears, found from its response times.

The gradient controller of Envoy's adaptive concurrency filter, which is Netflix' concurrency-limits
of 2018 with a measured baseline in place of a long average: a target that is asked for more than it
can do at once lets requests wait, so its median response time rises above the one it has when
unloaded. For each window of samples

    gradient = unloaded median × 1.25 / median of the window, at most 1
    limit    = gradient × limit + √limit, at least half of what it was

The root is room to find out that more would do. Where Envoy throttles to 3 requests every minute to
measure the unloaded time, this one looks for it first in what comes by itself. Only if for a minute
nothing has been as fast, the limit is halved for one window, and once more as long as that makes
answers faster.

Rules of this file: pure; time and chance are passed in. It decides nothing about requests.
"""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW = 1.0
"""Seconds that a window lasts at least; it never ends before twice the last median has passed, or
its samples would come from before the last change.
"""
LEAST_SAMPLES = 10
MOST_SAMPLES = 200
"""Samples a window keeps: the median of 200 is good enough, and takes 20 µs a second."""
TOLERANCE = 1.25
NEAR = 1.1
"""A window this near to the unloaded median confirms it."""
REMEASURE = 60.0
"""Seconds without confirmation until the unloaded median is measured again."""
REMEMBER = 600.0
"""The same where nothing may be throttled: a report must not take overload for normal."""
JITTER = 0.15
"""Gateways in front of the same target shall not throttle all at once."""
LEAST, MOST = 3.0, 1000.0
"""It begins with the least, so that the first median is that of an unloaded target, and is doubled
for each window until a gradient says less.
"""
BACK_OFF = 0.9
"""What remains of the limit after a window in which a tenth of the tries, or more, timed out."""
_TICK = 1e-6
"""A median of nothing would say nothing of its multiples."""

_random = Random().random  # noqa: S311 - spread, not secrecy


class Gradient:
    """The limit of one target."""

    __slots__ = (
        "_doubling",
        "_due",
        "_ends",
        "_enforced",
        "_held",
        "_ignore_until",
        "_late",
        "_lowest",
        "_most",
        "_now",
        "_peak",
        "_random",
        "_samples",
        "_slow",
        "limit",
        "unloaded",
    )

    def __init__(
        self,
        now: Callable[[], float],
        *,
        enforced: bool,
        most: float = MOST,
        random: Callable[[], float] = _random,
    ) -> None:
        """`now` gives monotonic seconds. `most`: the limit never passes it."""
        self._now = now
        self._random = random
        self.limit = LEAST
        """Requests in flight that the target bears, as far as is known."""
        self.unloaded = math.inf
        """Seconds: the median response time when nothing waits."""
        self._lowest = math.inf
        """The smallest median since the last one that confirmed `unloaded`."""
        self._samples: list[float] = []
        self._late = 0
        self._peak = 0
        self._held: float | None = None
        """The limit to return to when the throttled window ends; None: nothing is throttled."""
        self._slow = 0.0
        """The median before the limit was halved."""
        self._doubling = True
        self._ignore_until = 0.0
        self._ends = now() + WINDOW
        self._due = math.inf
        self.apply(enforced=enforced, most=most)

    def __repr__(self) -> str:
        return f"<Gradient: {self.limit:.1f}, unloaded {self.unloaded * 1000:.1f} ms>"

    def apply(self, *, enforced: bool, most: float = MOST) -> None:
        """Take new settings; what was learnt stays."""
        if not enforced and self._held is not None:
            self.limit, self._held = self._held, None
        self._enforced = enforced
        self._most = most
        self._set(self.limit)

    def answered(self, seconds: float, in_flight: int) -> bool:
        """An answer came after `seconds`, with `in_flight` requests at the target, it included.

        Returns whether the limit is another one now.
        """
        now = self._now()
        if now < self._ignore_until:
            return False
        if in_flight > self._peak:
            self._peak = in_flight
        if len(self._samples) < MOST_SAMPLES:
            self._samples.append(seconds)
        return now >= self._ends and self._close(now)

    def timed_out(self, in_flight: int) -> bool:
        """No answer came in time. Returns whether the limit is another one now."""
        now = self._now()
        if now < self._ignore_until:
            return False
        self._peak = max(self._peak, in_flight)
        self._late += 1
        return now >= self._ends and self._close(now)

    def _close(self, now: float) -> bool:
        """End the window, if it tells enough."""
        if len(self._samples) + self._late < LEAST_SAMPLES:
            return False
        before = self.limit
        median = None
        if self._samples:
            median = max(sorted(self._samples)[len(self._samples) // 2], _TICK)
        late = self._late * 10 >= len(self._samples) + self._late
        peak = self._peak
        self._samples.clear()
        self._late = self._peak = 0
        self._ends = now + max(WINDOW, 2 * (median or 0.0))
        if self._held is not None:
            self._measured(median, now)
        else:
            if median is not None:
                self._learn(median, now)
            self._move(median, peak, late=late)
            if median is not None and now >= self._due:
                self._remeasure(median, peak, now)
        return self.limit != before

    def _move(self, median: float | None, peak: int, *, late: bool) -> None:
        """The gradient's step."""
        limit = self.limit
        gradient = 1.0 if median is None else min(1.0, self.unloaded * TOLERANCE / median)
        # Where nothing is enforced more are in flight than the limit: they made the times.
        wanted = gradient * max(limit, peak) + math.sqrt(limit)
        if gradient < 1 or late:
            self._doubling = False
        if self._doubling:
            wanted = max(wanted, 2 * limit)
        if late:
            wanted = min(wanted, BACK_OFF * limit)
        if peak < limit / 2:
            wanted = min(wanted, limit)  # nobody has asked for more: that it would do is not shown
        self._set(max(wanted, limit / 2))

    def _set(self, limit: float) -> None:
        self.limit = min(max(limit, min(LEAST, self._most)), self._most)

    # ── the unloaded time ──

    def _learn(self, median: float, now: float) -> None:
        self._lowest = min(self._lowest, median)
        if median <= self.unloaded * NEAR:
            self.unloaded = min(self.unloaded, median)
            self._confirmed(now)

    def _confirmed(self, now: float) -> None:
        self._lowest = math.inf
        patience = REMEASURE if self._enforced else REMEMBER
        self._due = now + patience * (1 + JITTER * self._random())

    def _remeasure(self, median: float, peak: int, now: float) -> None:
        """Nothing was as fast as `unloaded` for long: it may be true no more."""
        if self._enforced and peak >= self.limit / 2:
            self._held = self.limit
            self._throttle(median, now)
            return
        self.unloaded = self._lowest
        self._confirmed(now)

    def _throttle(self, median: float, now: float) -> None:
        self._slow = median
        self._set(self.limit / 2)
        self._ignore_until = now + median  # until those of before are through
        self._ends = self._ignore_until + max(WINDOW, 2 * median)

    def _measured(self, median: float | None, now: float) -> None:
        """A throttled window has ended."""
        assert self._held is not None
        if median is not None:
            helped = self.unloaded * NEAR < median < self._slow / NEAR
            if helped and self.limit > min(LEAST, self._most):
                self._throttle(median, now)
                return
            self.unloaded = median
        self._set(self._held)
        self._held = None
        self._confirmed(now)
