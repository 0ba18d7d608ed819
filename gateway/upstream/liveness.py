"""Who of an upstream's targets is alive: checks, ejection and circuits put together, with their timers.

Rules of this file: the rules are in `health.py`, `outlier.py` and `breaker.py`; here a change of state reaches the target's
attributes, the events and `refresh`. What is known of a target lives as long as the target; settings are replaced by
`apply` and hold at once. Nothing here is asked for at a request but `Watch`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gateway.upstream.breaker import Breaker, State
from gateway.upstream.health import Checks
from gateway.upstream.outlier import FAILURES, Record, is_failure, may_eject

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Hashable, Sequence

    from gateway import errors
    from gateway.clock import Clock, Timer
    from gateway.config import model
    from gateway.observe.events import Kind
    from gateway.observe.metrics import UpstreamMeter
    from gateway.upstream.upstream import Target

_TOLD: dict[State, Kind] = {
    State.CLOSED: "circuit_closed",
    State.HALF_OPEN: "circuit_half_open",
    State.OPEN: "circuit_opened",
}

SETTLED = 1.0
"""Seconds after which an ejection may end for another target's sake. Where all of them fail they would else take turns at
every request."""


class Owner(Protocol):
    """What is asked of an upstream."""

    name: str
    clock: Clock
    targets: tuple[Target, ...]
    breaker: Breaker | None

    def refresh(self) -> None:
        """A target's state has changed."""


class Watch:
    """Hears how each try at one target ends, for ejection."""

    __slots__ = ("_clock", "_liveness", "record")

    def __init__(self, liveness: Liveness, clock: Clock) -> None:
        self._liveness = liveness
        self._clock = clock
        self.record = Record()

    def succeeded(self, target: Target, status: int, seconds: float) -> None:  # noqa: ARG002
        """A response head has come; some statuses are failures."""
        if status in FAILURES:
            self._failed(target, f"status {status}")
        elif self.record.window is not None:
            self.record.succeeded(target, self._clock.now())
        elif target.failures:
            target.failures = 0

    def failed(
        self,
        target: Target,
        error: errors.GatewayError,
        seconds: float,  # noqa: ARG002
    ) -> None:
        """No response head has come."""
        if is_failure(error):
            self._failed(target, error.reason)

    def _failed(self, target: Target, last: str) -> None:
        settings = self._liveness.eject
        if settings is None:
            return
        now = self._clock.now()
        why = self.record.failed(target, settings, now)
        if why and self._liveness.make_room(target, settings.max_percent):
            self._liveness.set_aside(target, f"{why}, the last one: {last}")


class Liveness:
    """What one upstream knows of who answers, and does about it."""

    def __init__(self, upstream: Owner, meter: UpstreamMeter) -> None:
        self.upstream = upstream
        self.clock = upstream.clock
        self.checks = Checks(self.clock, self, meter)
        self.eject: model.Eject | None = None
        self._meter = meter
        self._watches: dict[Target, Watch] = {}
        self._timers: dict[Hashable, Timer] = {}

    def __repr__(self) -> str:
        return f"<Liveness of {self.upstream.name}>"

    # ── settings ──

    def apply(self, settings: model.Upstream, context: ssl.SSLContext | bool) -> None:
        """Take new settings and the upstream's present targets. `context`: for probes over TLS."""
        targets = self.upstream.targets
        for gone in [target for target in self._watches if target not in targets]:
            self._forget(gone)
        self._apply_eject(settings.eject, targets)
        self._apply_circuit(settings.circuit, targets)
        fixed = settings.host not in ("pass", "target")
        self.checks.apply(
            settings.health,
            targets,
            tls=settings.tls,
            context=context,
            host=settings.host if fixed else None,
        )

    def _apply_eject(self, settings: model.Eject | None, targets: Sequence[Target]) -> None:
        self.eject = settings
        for target in targets:
            watch = self._watches.get(target)
            if watch is None:
                watch = self._watches[target] = Watch(self, self.clock)
            if settings is None:
                target.outlier = None
                target.failures = 0
                if target.ejected_until:
                    self._restore(target, "ejection is switched off")
                continue
            target.outlier = watch
            watch.record.begin(settings.window, share=settings.failure_ratio is not None)
            if target.ejected_until:
                latest = target.since + settings.max
                target.ejected_until = min(target.ejected_until, latest)
                self._at(("ejected", target), target.ejected_until, self._ejection_over, target)

    def _apply_circuit(self, settings: model.Circuit | None, targets: Sequence[Target]) -> None:
        upstream, now = self.upstream, self.clock.now()
        former = upstream.breaker
        whole = settings is not None and settings.scope == "upstream"
        upstream.breaker = self._renewed(former, settings if whole else None, now)
        for target in targets:
            own = None if target.breaker is former else target.breaker
            own = self._renewed(own, None if whole else settings, now)
            target.breaker = upstream.breaker or own

    def _renewed(
        self, breaker: Breaker | None, settings: model.Circuit | None, now: float
    ) -> Breaker | None:
        """The circuit in the place of `breaker`: the same one, with `settings`; None without settings."""
        if settings is None:
            self._cancel(breaker)
            return None
        if breaker is None:
            return Breaker(settings, now, self._circuit_changed)
        breaker.apply(settings, now)
        if breaker.state is State.OPEN:
            self._at(breaker, breaker.wakes, self._wake, breaker)
        return breaker

    def _forget(self, target: Target) -> None:
        """Tries at a target that has left end later; they are not heard any more."""
        del self._watches[target]
        self._cancel(("ejected", target))
        if target.breaker is not self.upstream.breaker:
            self._cancel(target.breaker)
        target.outlier = target.breaker = None

    # ── from start to end ──

    def start(self) -> None:
        """Begin the checks. Idempotent; needs the running loop."""
        self.checks.start()

    async def aclose(self) -> None:
        """End all checks and timers, for good: tries that are still under way are not heard."""
        self.eject = None
        self.upstream.breaker = None
        for target in self.upstream.targets:
            target.outlier = target.breaker = None
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await self.checks.aclose()

    # ── checks ──

    def went_down(self, target: Target, why: str) -> None:
        """Active checks say so."""
        target.healthy = False
        self._changed(target, "target_down", why)

    def went_up(self, target: Target, why: str) -> None:
        """Active checks say so."""
        target.healthy = True
        self._changed(target, "target_up", why)

    def unknown(self, target: Target, why: str) -> None:
        """Nothing is known any more: it counts as well."""
        if not target.healthy:
            self.went_up(target, why)

    def passed(self, target: Target, began: float) -> None:
        """A check that began after an ejection ends it."""
        if target.ejected_until and began >= target.since:
            self._restore(target, "a check has passed")

    # ── ejection ──

    def set_aside(self, target: Target, why: str) -> None:
        """Eject `target`."""
        settings = self.eject
        assert settings is not None
        now = self.clock.now()
        seconds = self._watches[target].record.eject(target, settings, now)
        self._meter.target(target.name).ejections += 1
        self._at(("ejected", target), target.ejected_until, self._ejection_over, target)
        self._changed(target, "ejected", f"{why}; for {seconds:g} s")

    def make_room(self, target: Target, max_percent: float) -> bool:
        """Whether `target` may be set aside, which may cost another one that place: what failed last is known best.

        After a rolling restart the first target is back long before its ejection is over, and another one is dead.
        """
        targets = self.upstream.targets
        if may_eject(target, targets, max_percent):
            return True
        latest = self.clock.now() - SETTLED
        out = [one for one in targets if one.ejected_until and one.usable and one.since <= latest]
        if not out or target.ejected_until:
            return False
        self._restore(min(out, key=lambda one: one.since), f"{target.name} fails now")
        return may_eject(target, targets, max_percent)

    def _ejection_over(self, target: Target) -> None:
        self._restore(target, "its time is over")

    def _restore(self, target: Target, why: str) -> None:
        self._cancel(("ejected", target))
        self._watches[target].record.restore(target, self.clock.now())
        self._changed(target, "restored", why)

    # ── circuits ──

    def _circuit_changed(self, breaker: Breaker, before: State) -> None:
        upstream = self.upstream
        target = next((one for one in upstream.targets if one.breaker is breaker), None)
        if target is None:
            return  # it has left, or circuits are off by now
        if breaker.state is before:  # a trial has taken the last place, or given one back
            upstream.refresh()
            return
        if breaker.state is State.OPEN:
            self._at(breaker, breaker.wakes, self._wake, breaker)
        told = _TOLD[breaker.state]
        if breaker is not upstream.breaker:
            self._changed(target, told, breaker.why)
        else:
            self._meter.events.record(told, upstream=upstream.name, why=breaker.why)
            upstream.refresh()

    def _wake(self, breaker: Breaker) -> None:
        now = self.clock.now()
        breaker.wake(now)
        if breaker.state is State.OPEN:  # the timer was a hair early
            self._at(breaker, breaker.wakes, self._wake, breaker)

    # ── what all have in common ──

    def _changed(self, target: Target, kind: Kind, why: str) -> None:
        target.since = self.clock.now()
        target.why = why
        self._meter.events.record(kind, upstream=self.upstream.name, target=target.name, why=why)
        self.upstream.refresh()

    def _at(self, key: Hashable, when: float, callback: Callable[..., None], *args: object) -> None:
        """Call back then; another time for the same key takes the place of the first."""
        self._cancel(key)

        def fire() -> None:
            self._timers.pop(key, None)
            callback(*args)

        self._timers[key] = self.clock.call_later(max(0.0, when - self.clock.now()), fire)

    def _cancel(self, key: Hashable) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
