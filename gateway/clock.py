"""Time, as one object that tests can move.

Rules of this file: everything that waits, asks a Clock. `now()` is monotonic seconds and decides; `wall()` is Unix time
and is only ever shown. A deadline that most requests meet is watched by the ticker (one scan for all of them, four
times a second); a timer of its own costs ten times as much and is for rare waits.
"""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

TICK = 0.2
"""Seconds between two scans: a watched deadline is met at most this much late, and never early."""


class Timer(Protocol):
    """What `Clock.call_later` returns."""

    def cancel(self) -> None: ...


class Watched(Protocol):
    """Something with a deadline that moves often: the ticker calls `expire()` once `due` has passed."""

    due: float

    def expire(self) -> None: ...


class Clock:
    """The time of one event loop, with its ticker."""

    def __init__(self) -> None:
        self.watched: set[Watched] = set()
        self._ticking: asyncio.TimerHandle | None = None
        self._date_second = -1
        self._date = b""
        self.date_line = b""
        """A whole `Date` field, renewed with every tick: no call for each response."""

    now: Callable[[], float] = staticmethod(time.monotonic)  # noqa: TID251
    """Monotonic seconds. A plain built-in: no frame of ours on the hot path."""

    def wall(self) -> float:
        """Unix time in seconds, for logs, `Date` and metrics."""
        return time.time()  # noqa: TID251

    def date(self) -> bytes:
        """The value of a `Date` field (RFC 9110 section 5.6.7), made once a second."""
        second = int(self.wall())
        if second != self._date_second:
            self._date_second = second
            self._date = formatdate(second, usegmt=True).encode("ascii")
        return self._date

    def call_later(self, seconds: float, callback: Callable[..., None], *args: Any) -> Timer:
        """Call back once after `seconds`; for rare waits (connecting, draining), never per request."""
        return asyncio.get_running_loop().call_later(seconds, callback, *args)

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        woken = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, _wake, woken)
        try:
            await woken
        finally:
            timer.cancel()

    def start(self) -> None:
        """Begin to tick on the running loop. Idempotent."""
        if self._ticking is None:
            self.date_line = b"Date: %b\r\n" % self.date()
            self._ticking = asyncio.get_running_loop().call_later(TICK, self._tick)

    def stop(self) -> None:
        """Stop ticking; what is watched is never called again."""
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        self.watched.clear()

    def _tick(self) -> None:
        self._ticking = asyncio.get_running_loop().call_later(TICK, self._tick)
        self.scan()

    def scan(self) -> None:
        """Expire what is due. Separate from the timer, so that a test's clock can call it."""
        self.date_line = b"Date: %b\r\n" % self.date()
        now = self.now()
        for watched in [w for w in self.watched if w.due <= now]:
            watched.expire()


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
