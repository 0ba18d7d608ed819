"""Circuit breaker: a table of transitions, and what counts for each state.

Rules of this file: pure, time is an argument. `TABLE` is the whole of what can happen; `Breaker` only finds out which event
has come. A try asks for a permit before it begins and reports to that permit, once. One of an earlier state says nothing
about the present one, so what began before the circuit opened can neither close it nor open it again.

A failure is what ejection calls one (`outlier.py`): no connection, a reset, no head in time, 502, 503 or 504.

In `mode: report` a circuit goes through its states as ever, by the verdicts of the same tries, and refuses nobody.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import TYPE_CHECKING

from gateway.upstream.outlier import FAILURES, is_failure
from gateway.upstream.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway import errors
    from gateway.config import model


class State(IntEnum):
    """The numbers are those of `gateway_circuit_state`."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Cause(Enum):
    """What moves a circuit from one state to another."""

    TRIPPED = "too many of the last tries have failed"
    WAITED = "it has been open for long enough"
    RECOVERED = "as many trials as are wanted have passed"
    RELAPSED = "a trial has failed"


TABLE: Mapping[tuple[State, Cause], State] = {
    (State.CLOSED, Cause.TRIPPED): State.OPEN,
    (State.OPEN, Cause.WAITED): State.HALF_OPEN,
    (State.HALF_OPEN, Cause.RECOVERED): State.CLOSED,
    (State.HALF_OPEN, Cause.RELAPSED): State.OPEN,
}
"""Any other pair changes nothing."""

# Looking a member up in its class takes longer than all the rest of a permit.
_CLOSED, _HALF_OPEN, _OPEN = State.CLOSED, State.HALF_OPEN, State.OPEN


class Permit:
    """What tries that began in one state of a breaker have in their hands: all of them the same one.

    Each try calls exactly one of `answered`, `failed` and `lost`, once.
    """

    __slots__ = ("_breaker",)

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker

    def answered(self, status: int, now: float) -> None:
        """A response head has come."""
        breaker = self._breaker
        if breaker.free is self and status not in FAILURES:
            breaker.window.succeeded(now)
        elif breaker.permit is self:
            breaker.count(now, failed=status in FAILURES)

    def failed(self, error: errors.GatewayError, now: float) -> None:
        """The try has ended without a response head. An error that is not the target's fault counts as lost."""
        if not is_failure(error):
            self.lost()
        elif self._breaker.permit is self:
            self._breaker.count(now, failed=True)

    def lost(self) -> None:
        """There is no verdict, as when the client has left: a trial gives its place back."""
        if self._breaker.permit is self:
            self._breaker.give_back()


class Breaker:
    """The circuit of one target, or of a whole upstream.

    `changed` is called after each transition (with the state before) and whenever `refuses` has changed, so that nothing
    has to ask for either at each request.
    """

    __slots__ = (
        "_changed",
        "_full",
        "_given",
        "_passed",
        "_settings",
        "free",
        "permit",
        "refuses",
        "since",
        "state",
        "why",
        "window",
    )

    def __init__(
        self, settings: model.Circuit, now: float, changed: Callable[[Breaker, State], None]
    ) -> None:
        self._settings = settings
        self._changed = changed
        self.window = Window(settings.window)
        self._given = 0
        """Trials under way or passed."""
        self._passed = 0
        self._full = False
        """Open, or half-open with every trial given out."""
        self.state = _CLOSED
        self.since = now
        """Clock seconds of the last transition."""
        self.why = ""
        """The last transition's reason, in words for people."""
        self.permit = Permit(self)
        """That of the present state; another one after each transition."""
        self.free: Permit | None = self.permit
        """The same while the circuit is closed, when a try need not ask; else None: it asks `admit`."""
        self.refuses = False
        """No try may begin: it is `_full`, and not in report mode."""

    def __repr__(self) -> str:
        return f"<Breaker {self.state.name.lower()}: {self.window!r}>"

    @property
    def reports(self) -> bool:
        """Whether it is in report mode: a try that gets no permit begins without one."""
        return self._settings.mode == "report"

    @property
    def wakes(self) -> float:
        """When, in clock seconds, an open circuit lets trials through."""
        return self.since + self._settings.open

    def apply(self, settings: model.Circuit, now: float) -> None:
        """Take new thresholds; the state stays. What they say of an open or half-open circuit holds at once."""
        before, self._settings = self._settings, settings
        if settings.window != before.window:
            self.window = Window(settings.window)
        if self.state is _OPEN:
            self.wake(now)
        elif self.state is _HALF_OPEN:
            self._weigh(now)
        self._look()

    def wake(self, now: float) -> None:
        """Let trials through if the time for that has come. To be called at `wakes`; early or late does no harm."""
        if self.state is _OPEN and now >= self.wakes:
            self._move(Cause.WAITED, now, f"open for {self._settings.open:g} s")

    def admit(self, now: float) -> Permit | None:
        """A permit for a try that begins now; None if it must not begin, or counts for nothing (see `reports`)."""
        if self.state is _CLOSED:
            return self.permit
        self.wake(now)
        if self._full:
            return None
        self._given += 1
        permit = self.permit
        self._look()
        return permit

    def count(self, now: float, *, failed: bool) -> None:
        """A try that began in this state has ended; for `Permit`."""
        if self.state is _HALF_OPEN:
            if failed:
                self._move(Cause.RELAPSED, now, "a trial failed")
            else:
                self._passed += 1
                self._weigh(now)
        elif not failed:
            self.window.succeeded(now)
        else:
            window, settings = self.window, self._settings
            window.failed(now)
            if window.reached(settings.error_ratio, settings.min_requests):
                words = f"{window.failures} of {window.tries} tries failed in {window.span:g} s"
                self._move(Cause.TRIPPED, now, words)

    def give_back(self) -> None:
        """A try that began in this state has ended and says nothing; for `Permit`."""
        if self.state is _HALF_OPEN:
            self._given -= 1
            self._look()

    def _weigh(self, now: float) -> None:
        """Close a half-open circuit if enough trials have passed."""
        wanted = self._settings.half_open_requests
        if self._passed >= wanted:
            self._move(Cause.RECOVERED, now, f"{wanted} of {wanted} trials passed")
        else:
            self._look()

    def _move(self, cause: Cause, now: float, why: str) -> None:
        before = self.state
        after = TABLE.get((before, cause))
        if after is None:
            return
        self.state = after
        self.since = now
        self.why = why
        self.permit = Permit(self)
        self.free = self.permit if after is _CLOSED else None
        self._given = self._passed = 0
        self.window.clear()
        self._full = after is _OPEN
        self.refuses = self._full and not self.reports
        self._changed(self, before)

    def _look(self) -> None:
        """Find out whether a half-open circuit has a place left."""
        if self.state is _HALF_OPEN:
            self._full = self._given >= self._settings.half_open_requests
        refuses = self._full and not self.reports
        if refuses is not self.refuses:
            self.refuses = refuses
            self._changed(self, self.state)
