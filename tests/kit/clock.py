"""A clock that a test moves: real time, plus what the test has added.

Rules of this file: what is due is called within `advance`, so that a test sees its effect as soon
as the loop has turned; nothing has to sleep.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from gateway.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable


class FakeTimer:
    """One call that is to come, sooner if the clock is moved."""

    def __init__(
        self, clock: FakeClock, due: float, callback: Callable[..., None], args: tuple[Any, ...]
    ) -> None:
        self._clock = clock
        self._callback = callback
        self._args = args
        self._handle: asyncio.TimerHandle | None = None
        self.due = due
        self.wait()

    def wait(self) -> None:
        """Let the loop call when its time has come without anybody moving the clock."""
        if self._handle is not None:
            self._handle.cancel()
        left = self.due - self._clock.now()
        self._handle = asyncio.get_running_loop().call_later(left, self.fire)

    def fire(self) -> None:
        """Call back now."""
        self.cancel()
        self._callback(*self._args)

    def cancel(self) -> None:
        """Never call back. Idempotent."""
        self._clock.timers.discard(self)
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class FakeClock(Clock):
    """A Clock whose time is real until `advance` moves it."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = 0.0
        self.timers: set[FakeTimer] = set()

    def now(self) -> float:
        return time.monotonic() + self.offset  # noqa: TID251

    def wall(self) -> float:
        return time.time() + self.offset  # noqa: TID251

    def call_later(self, seconds: float, callback: Callable[..., None], *args: Any) -> FakeTimer:
        timer = FakeTimer(self, self.now() + seconds, callback, args)
        self.timers.add(timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass at once: calls every timer that is due, then scans what is watched."""
        self.offset += seconds
        now = self.now()
        for timer in sorted((one for one in self.timers if one.due <= now), key=lambda t: t.due):
            if timer in self.timers:  # one that was called may have cancelled another
                timer.fire()
        for timer in self.timers:
            timer.wait()
        self.scan()


class StillClock(FakeClock):
    """A FakeClock whose time stands still: for tests that look at the second."""

    def __init__(self) -> None:
        super().__init__()
        self._now, self._wall = super().now(), super().wall()

    def now(self) -> float:
        return self._now + self.offset

    def wall(self) -> float:
        return self._wall + self.offset
