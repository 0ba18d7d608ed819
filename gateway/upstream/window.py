"""How many of the last seconds' tries have failed: a count in buckets, in constant memory.

Rules of this file: pure, time is an argument. The window slides by a tenth of its length, so what it holds is between nine
and ten tenths of it; a clock that stands still or steps back adds to the bucket that is filled now.
"""

from __future__ import annotations

BUCKETS = 10


class Window:
    """Tries, and failures among them, of the last `span` seconds."""

    __slots__ = (
        "_at",
        "_bad",
        "_per_second",
        "_seen",
        "_turn",
        "_until",
        "span",
    )

    def __init__(self, span: float) -> None:
        self.span = span
        self._per_second = BUCKETS / span
        self._turn = 0
        """Number of the bucket that is filled, counted from the clock's zero."""
        self._until = 0.0
        """Clock seconds: when that bucket is full."""
        self.clear()

    def __repr__(self) -> str:
        return f"<Window {self.span:g} s: {self.failures} of {self.tries} failed>"

    def clear(self) -> None:
        """Forget all."""
        self._at = 0
        self._seen = [0] * BUCKETS
        self._bad = [0] * BUCKETS

    def succeeded(self, now: float) -> None:
        """Count a try that did not fail."""
        if now >= self._until:
            self._slide(int(now * self._per_second))
        self._seen[self._at] += 1

    @property
    def tries(self) -> int:
        """Tries in the window, as of the last one. Summed when asked: most tries do not ask."""
        return sum(self._seen)

    @property
    def failures(self) -> int:
        """Those of them that failed."""
        return sum(self._bad)

    def failed(self, now: float) -> None:
        """Count a try that failed."""
        self.succeeded(now)
        self._bad[self._at] += 1

    def reached(self, ratio: float, least: int) -> bool:
        """Whether there are at least `least` tries and at least `ratio` of them have failed."""
        return self.tries >= least and self.failures >= ratio * self.tries

    def _slide(self, turn: int) -> None:
        """Empty the buckets that have left the window."""
        for _ in range(min(turn - self._turn, BUCKETS)):
            at = self._at = (self._at + 1) % BUCKETS
            self._seen[at] = self._bad[at] = 0
        self._turn = turn
        self._until = (turn + 1) / self._per_second
