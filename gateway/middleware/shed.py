"""`server.overload`: while the event loop is late, requests of low `importance` are refused, so that the others are served.

Rules of this file: the loop's lag is measured elsewhere (observe/lag.py) and judged here, ten times a second; a request
reads one attribute. One step up or down at a time, each after `for`: the lowest importance of `shed` first, and the highest
of it is let in first again. A single long pause is no overload: half of `for` is the most that one sample counts.

Up: the lag was above `loop_lag` for `for`, where each moment that it was not takes another away: a busy loop's lag goes up
and down with the work that a turn happens to find. Down: in the same way below half of `loop_lag`. In between nothing
moves, so that a lag around the limit does not switch on and off.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gateway import errors

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from gateway.clock import Clock
    from gateway.config import effective, model
    from gateway.exchange import Exchange, Handler, Reply
    from gateway.middleware.base import Build
    from gateway.observe.events import Events, Kind

IMPORTANCE = ("low", "normal", "high")
"""Lowest first."""
CALM = 0.5
"""The share of `loop_lag` below which the loop counts as at ease again."""


class Gate:
    """What a request of one importance looks at."""

    __slots__ = ("shut",)

    def __init__(self) -> None:
        self.shut = False


class Shedding:
    """Which importances are refused now. One for each worker; it outlives reloads."""

    def __init__(self, clock: Clock, events: Events) -> None:
        self._clock = clock
        self._events = events
        self.gates = {importance: Gate() for importance in IMPORTANCE}
        self.level = 0
        """How many of `steps` are refused."""
        self.steps: tuple[str, ...] = ()
        """Importances that may be refused, lowest first."""
        self._limit = math.inf
        self._hold = math.inf
        self._last = clock.now()
        self._above = 0.0
        self._below = 0.0

    def __repr__(self) -> str:
        return f"<Shedding {', '.join(self.steps[: self.level]) or 'nothing'}>"

    def apply(self, settings: model.Overload | None) -> None:
        """Take new settings; None lets everything in. What is refused stays refused while it may be."""
        refused = self.steps[: self.level]
        wanted = () if settings is None else settings.shed
        self.steps = tuple(importance for importance in IMPORTANCE if importance in wanted)
        self._limit = math.inf if settings is None else settings.loop_lag
        self._hold = math.inf if settings is None else settings.for_
        self._set(
            sum(importance in refused for importance in self.steps), "the configuration has changed"
        )

    def sample(self, lag: float) -> None:
        """The event loop is `lag` seconds late."""
        now = self._clock.now()
        passed, self._last = min(now - self._last, self._hold / 2), now
        if lag > self._limit:
            self._above += passed
        else:
            self._above = max(0.0, self._above - passed)
        if lag < self._limit * CALM:
            self._below += passed
        else:
            self._below = max(0.0, self._below - passed)
        if self._above >= self._hold and self.level < len(self.steps):
            self._set(self.level + 1, f"the event loop is {lag * 1000:.0f} ms late")
        elif self._below >= self._hold and self.level:
            self._set(self.level - 1, f"the event loop is {lag * 1000:.0f} ms late")

    def _set(self, level: int, why: str) -> None:
        self._above = self._below = 0.0
        former = {name for name, gate in self.gates.items() if gate.shut}
        self.level = level
        for importance, gate in self.gates.items():
            gate.shut = importance in self.steps[:level]
            if gate.shut != (importance in former):
                kind: Kind = "shed_on" if gate.shut else "shed_off"
                self._events.record(kind, why=f"importance {importance}: {why}")


def wrap(route: effective.Route, forward: Handler, build: Build) -> Handler:
    """Refuse what is asked of a route that may be shed; `forward` itself for any other."""
    settings = build.config.server.overload
    importance = route.policies.importance
    if settings is None or importance not in settings.shed:
        return forward
    gate = build.shedding.gates[importance]
    meter = build.metrics.route(route.name)
    again = (("Retry-After", str(max(1, math.ceil(settings.for_)))),)

    def shed(exchange: Exchange) -> Awaitable[Reply]:
        if gate.shut:
            meter.shed[importance] += 1
            raise errors.Overloaded(f"the event loop is late: importance {importance}", again)
        return forward(exchange)

    return shed
