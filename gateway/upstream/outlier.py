"""Passive ejection: a target that fails real requests is set aside for a while.

Rules of this file: pure, time is an argument. What a failure is stands in `is_failure` and `FAILURES`, for the circuit
breaker too. Settings are replaced by assignment and hold at once; what is known of a target outlives them. Tries that end
while their target is ejected say nothing: they began before, or the panic rule has sent them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gateway import errors
from gateway.upstream.window import Window

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.config import model

FAILURES = frozenset((502, 503, 504))
"""Statuses by which a target, or a proxy before it, says that it can not serve. 500 is not among them: it is an answer of
the application, and one bad request sent again and again would eject every target in turn.
"""


def is_failure(error: errors.GatewayError) -> bool:
    """Whether a try that ended so tells against its target: no connection, a reset, no head in time.

    Not so a reused connection that had ended: that is between the pool and the target's keep-alive time. An answer that
    is invalid is one; what the client, the pool or the total time-out has ended is nobody's.
    """
    return (
        isinstance(error, errors.UpstreamError)
        and error.retry is not None
        and not isinstance(error, errors.UpstreamIdleClosed)
    )


class Target(Protocol):
    """What is read and written of a target."""

    weight: int
    draining: bool
    failures: int
    """In a row."""
    ejections: int
    """Of late; see `Record.earlier`."""
    ejected_until: float
    """Clock seconds; 0.0: not ejected."""

    @property
    def usable(self) -> bool:
        """Whether it could serve, but for an ejection."""


class Record:
    """What ejection remembers of one target, beside the target's own attributes."""

    __slots__ = ("failed_at", "restored_at", "window")

    def __init__(self) -> None:
        self.window: Window | None = None
        """There only where `failure_ratio` is written."""
        self.failed_at = 0.0
        self.restored_at = 0.0

    def begin(self, window: float, *, share: bool) -> None:
        """Get ready for `eject.window` seconds, with or without counting the share of failures."""
        if not share:
            self.window = None
        elif self.window is None or self.window.span != window:
            self.window = Window(window)

    def succeeded(self, target: Target, now: float) -> None:
        """Real traffic was answered by `target`."""
        target.failures = 0
        if self.window is not None:
            self.window.succeeded(now)

    def failed(self, target: Target, settings: model.Eject, now: float) -> str:
        """Real traffic has failed at `target`: why that is reason to eject it, in words for people; empty if it is none."""
        if target.ejected_until:
            return ""
        if now - self.failed_at > settings.window:  # no row: it may have been a quiet night
            target.failures = 0
        self.failed_at = now
        target.failures += 1
        if settings.consecutive_failures and target.failures >= settings.consecutive_failures:
            return f"{target.failures} failures in a row"
        window = self.window
        if window is None or settings.failure_ratio is None:
            return ""
        window.failed(now)
        if window.reached(settings.failure_ratio, settings.min_requests):
            return f"{window.failures} of {window.tries} requests failed in {window.span:g} s"
        return ""

    def eject(self, target: Target, settings: model.Eject, now: float) -> float:
        """Set `target` aside. Returns for how many seconds: longer each time, unless it has behaved for a while since."""
        target.ejections = self.earlier(target, settings, now) + 1
        seconds = min(settings.base * target.ejections, settings.max)
        target.ejected_until = now + seconds
        target.failures = 0
        return seconds

    def restore(self, target: Target, now: float) -> None:
        """Let `target` serve again, with nothing held against it but the number of its ejections."""
        target.ejected_until = 0.0
        target.failures = 0
        self.restored_at = now
        if self.window is not None:
            self.window.clear()

    def earlier(self, target: Target, settings: model.Eject, now: float) -> int:
        """Ejections that still count: one is forgotten in each window in which the target has served."""
        if target.ejected_until or not target.ejections:
            return target.ejections
        return max(0, target.ejections - int((now - self.restored_at) / settings.window))


def may_eject(target: Target, targets: Iterable[Target], max_percent: float) -> bool:
    """Whether `target` may be set aside beside those that are.

    At most floor(n × `max_percent`) are ejected, but one may be where there are two. The last one that could serve never
    is: requests that fail at times are better than requests that all fail.
    """
    counted = ejected = others = 0
    for one in targets:
        if one.draining or one.weight <= 0:  # taken out on purpose
            continue
        counted += 1
        if one.ejected_until:
            ejected += 1
        elif one is not target and one.usable:
            others += 1
    if not others:
        return False
    return ejected < max(1, int(counted * max_percent / 100))
