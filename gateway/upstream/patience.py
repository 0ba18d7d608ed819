"""How long a connection to one target may rest: what the target's own closes teach.

Rules of this file: pure; seconds come in, seconds go out. A server that ends idle connections after
5 s (uvicorn) or 2 s (gunicorn) may do so in the very moment in which a request is on its way, and
who sent a POST can not know whether it was read. So connections must be ended by us, first. Down
goes at once, since each connection that rests too long is a risk; up goes slowly, and only while
connections outlive their rest, since each try to go up is a risk too.

Before anything is known a short rest is sure, and a longer one is not: a request that can not be sent
twice does not go out on a connection that has rested for longer than `sure_for`. Rests that were
outlived make longer ones sure.

What is no lesson: a close that belongs to a response (it said `Connection: close`, or the end came
with its last bytes), and one sooner than what others have just outlived (a restart ends every
connection, whatever its age), unless it is repeated.
"""

from __future__ import annotations

MARGIN = 0.5
"""Seconds that we must be sooner: the ticker is up to 0.2 s late, and both ends see the last byte
of a response at different times."""
SHARE = 0.8
"""Of a long patience that much is used: its timers may be as coarse as it is long."""
SURE = 1.0
"""Seconds for which any server is trusted to wait: with a late ticker still below gunicorn's two."""
SURELY = 0.7
"""Of a rest that was outlived that much is sure: a server that looks at its timers once a second
(gunicorn's threads) lets some outlive 2.4 s of its 2."""
BRIEF = 0.1
"""A rest shorter than this many seconds tells of a response, not of patience."""
QUIET = 60.0
"""Seconds without a lesson after which it is tried whether the target's patience has grown."""
LONGEST_QUIET = 3600.0
GROWTH = 1.25
"""The factor of one such step; the first is a quarter of a second."""
STEP = 0.25
AGREEING = 3
"""Closes that were seen at different times, and agree, outweigh what was outlived before."""
APART = 1.0
"""Seconds between two closes that are not the same incident: a restart takes a moment."""
ALIKE = 0.2
"""By how much of itself a rest may differ from another that it agrees with."""
MEMORY = 600.0
"""Seconds for which a close that is not believed is remembered; the last `MOST` of them."""
MOST = 16


class Patience:
    """How long connections to one target rest, at most `configured` seconds."""

    def __init__(self, configured: float) -> None:
        self.configured = configured
        self.keep_for = configured
        """Seconds after which a resting connection is to be ended; 0.0: none is to rest."""
        self.sure_for = min(SURE, configured)
        """Seconds after which a resting connection is only for what can be sent twice."""
        self.limit: float | None = None
        """Seconds after which the target ends an idle connection; None: no sooner than we do."""
        self._outlived = 0.0
        self._changed_at = 0.0
        self._quiet = QUIET
        self._doubts: list[tuple[float, float]] = []
        """(rest, moment) of closes that contradict what was outlived."""

    def __repr__(self) -> str:
        known = "" if self.limit is None else f", the target ends them after {self.limit:.3g} s"
        return f"<Patience: rests of {self.keep_for:.3g} s{known}>"

    def configure(self, seconds: float) -> float:
        """Another setting: what is known of the target stays. Returns `keep_for`."""
        self.configured = seconds
        self.keep_for = seconds if self.limit is None else min(self.keep_for, seconds)
        return self._settled()

    def learn(self, rested: float, now: float) -> float:
        """The target has ended a connection that had rested for `rested` seconds. Returns `keep_for`.

        Not to be called for a connection whose last response said that it is the last, nor for one
        on which a request was under way.
        """
        if rested < BRIEF or not self._believed(rested, now):
            return self.keep_for
        self._doubts.clear()
        again = self.limit is not None and abs(rested - self.limit) < MARGIN
        self._quiet = min(2 * self._quiet, LONGEST_QUIET) if again else QUIET
        self._changed_at = now
        self._outlived = min(self._outlived, rested)
        self.limit = rested
        self.keep_for = min(self.keep_for, max(0.0, min(rested - MARGIN, rested * SHARE)))
        return self._settled()

    def outlived(self, now: float) -> float:
        """A connection has rested for `keep_for` seconds and was still open when we ended it, or
        was ended at once because none is to rest. Returns `keep_for`, which may have grown.
        """
        self._outlived = max(self._outlived, self.keep_for)
        if self.keep_for >= self.configured:
            self.limit, self._quiet = None, QUIET
        elif now - self._changed_at >= self._quiet:
            self._changed_at = now
            self.keep_for = min(self.configured, max(self.keep_for * GROWTH, self.keep_for + STEP))
        return self._settled()

    def _settled(self) -> float:
        self.sure_for = min(self.keep_for, max(SURE, self._outlived * SURELY))
        return self.keep_for

    def _believed(self, rested: float, now: float) -> bool:
        """Whether a close tells of the target's patience."""
        if rested >= self._outlived:
            return True
        recent = [doubt for doubt in self._doubts if now - doubt[1] < MEMORY][-MOST:]
        agreeing = [at for rest, at in recent if abs(rest - rested) <= max(BRIEF, rested * ALIKE)]
        if agreeing and now - agreeing[-1] < APART:
            return False
        self._doubts = [*recent, (rested, now)]
        return len(agreeing) + 1 >= AGREEING
