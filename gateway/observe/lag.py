"""How late the event loop is: the one number that tells whether Python itself is the bottleneck.

Rules of this file: one timer, ten samples a second, nothing kept but the histogram.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clock import Clock, Timer
    from gateway.observe.metrics import Metrics

EVERY = 0.1
"""Seconds between two samples."""


class LoopLag:
    """Measures by how much a timer of the running loop is late, and tells whoever acts on it."""

    def __init__(self, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self.heard: Callable[[float], None] | None = None
        """Called with every sample, in seconds."""
        self._timer: Timer | None = None
        self._due = 0.0

    def start(self) -> None:
        """Begin on the running loop. Idempotent."""
        if self._timer is None:
            module = type(asyncio.get_running_loop()).__module__
            self._metrics.loop = "uvloop" if module.startswith("uvloop") else "asyncio"
            self._next()

    def stop(self) -> None:
        """Take no more samples."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self) -> None:
        self._due = self._clock.now() + EVERY
        self._timer = self._clock.call_later(EVERY, self._sample)

    def _sample(self) -> None:
        late = max(0.0, self._clock.now() - self._due)
        self._metrics.loop_lag.observe(late)
        self._next()
        if self.heard is not None:
            self.heard(late)
