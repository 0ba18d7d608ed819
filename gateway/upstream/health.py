"""Active checks: targets are asked again and again, and the verdict follows from the last answers.

Rules of this file: a verdict belongs to an address and to what is asked of it; another question makes it unknown again, and
it is asked at once. How often, and how many answers in a row it takes, are thresholds: a change keeps the verdict and
holds at once. A target that is unknown counts as well, but it is asked as often as one that is down. There is a timer for
each target and a task only while it is being asked.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Protocol

from gateway import tasks
from gateway.upstream.probe import Answer, Probes

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    from gateway.clock import Clock, Timer
    from gateway.config import model
    from gateway.observe.metrics import UpstreamMeter
    from gateway.upstream.upstream import Target


MOST_AT_ONCE = 32
"""Targets of one upstream that are asked at the same time."""
JITTER = 0.1
"""Checks come so much earlier or later, as a share of the interval: many gateways do not ask in step."""
_random = Random().uniform  # noqa: S311 - spread, not secrecy


class Judge(Protocol):
    """Who is told of verdicts."""

    def went_down(self, target: Target, why: str) -> None:
        """`target` is not to be used."""

    def went_up(self, target: Target, why: str) -> None:
        """`target` may be used again."""

    def unknown(self, target: Target, why: str) -> None:
        """Nothing is known of `target` any more, so it may be used."""

    def passed(self, target: Target, began: float) -> None:
        """A check that began then (clock seconds) has passed."""


class Check:
    """What is known of one target from asking it."""

    def __init__(self, checks: Checks, target: Target) -> None:
        self._checks = checks
        self.target = target
        self.passes = 0
        self.failures = 0
        """In a row."""
        self.settled = False
        """Whether there was a verdict since the question is the present one."""
        self.ended = 0.0
        """When the last check ended."""
        self.last: Answer | None = None
        self._settings: model.Health
        self._asked: tuple[object, ...] = ()
        self._timer: Timer | None = None
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Check {self.target.name}: {self.passes} passed, {self.failures} failed>"

    def apply(self, settings: model.Health, asked: tuple[object, ...]) -> None:
        """Take new settings. `asked`: what gives the verdict its meaning."""
        self._settings = settings
        if asked == self._asked:
            self._weigh()
            if self._timer is not None:
                self._plan()
            return
        known, self._asked = bool(self._asked), asked
        self.forget("the check is another one now, and has not been made yet" if known else "")
        if self._checks.started:
            self.begin()

    def begin(self) -> None:
        """Ask now."""
        self._stop_waiting()
        self._task = tasks.spawn(self._check(), f"health check of {self.target.name}")

    def forget(self, why: str) -> None:
        """Go back to knowing nothing, and let go of what is under way."""
        self.stop()
        self.passes = self.failures = 0
        self.settled = False
        self.last = None
        if not self.target.healthy or why:
            self._checks.judge.unknown(self.target, why)

    def stop(self) -> asyncio.Task[None] | None:
        """Ask no more. Returns the task that is being cancelled, if there is one."""
        self._stop_waiting()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        return task

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _plan(self) -> None:
        """Set the timer for the next check, counted from the last one's end."""
        self._stop_waiting()
        checks, settings = self._checks, self._settings
        well = self.settled and self.target.healthy
        pause = settings.interval if well else settings.interval_down
        due = self.ended + pause * checks.uniform(1 - JITTER, 1 + JITTER)
        self._timer = checks.clock.call_later(max(0.0, due - checks.clock.now()), self.begin)

    async def _check(self) -> None:
        checks, settings = self._checks, self._settings
        async with checks.room:
            began = checks.clock.now()
            answer = await self._answer(settings)
        self._task = None
        self.ended = checks.clock.now()
        self.last = answer
        checks.meter.target(self.target.name).checks[answer.result] += 1
        if answer.result == "pass":
            self.passes += 1
            self.failures = 0
        else:
            self.failures += 1
            self.passes = 0
        self._weigh()
        if answer.result == "pass":
            checks.judge.passed(self.target, began)
        self._plan()

    async def _answer(self, settings: model.Health) -> Answer:
        checks, limit = self._checks, settings.timeout
        assert checks.probes is not None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as patience:
                timer = checks.clock.call_later(limit, lambda: patience.reschedule(loop.time()))
                try:
                    return await checks.probes.ask(self.target, settings, checks.host)
                finally:
                    timer.cancel()
        except TimeoutError:
            return Answer("timeout", f"no answer within {limit:g} s")

    def _weigh(self) -> None:
        """Find out whether the last answers change the verdict."""
        target, judge, settings = self.target, self._checks.judge, self._settings
        if self.failures >= settings.fall:
            self.settled = True
            if target.healthy:
                words = self.last.words if self.last is not None else ""
                judge.went_down(target, f"{words}, {_in_a_row(self.failures)}")
        elif self.passes and target.healthy:
            self.settled = True
        elif self.passes >= settings.rise:
            judge.went_up(target, f"{_in_a_row(self.passes)} passed")


class Checks:
    """The checks of one upstream's targets."""

    def __init__(
        self,
        clock: Clock,
        judge: Judge,
        meter: UpstreamMeter,
        uniform: Callable[[float, float], float] = _random,
    ) -> None:
        self.clock = clock
        self.meter = meter
        self.judge = judge
        self.uniform = uniform
        self.started = False
        self.host: str | None = None
        self.room = asyncio.Semaphore(MOST_AT_ONCE)
        self.probes: Probes | None = None
        self._closing: asyncio.Task[None] | None = None
        self._checks: dict[Target, Check] = {}

    def __repr__(self) -> str:
        return f"<Checks: {len(self._checks)} targets>"

    def of(self, target: Target) -> Check | None:
        """What is known of `target`; None if it is not checked."""
        return self._checks.get(target)

    def apply(
        self,
        settings: model.Health | None,
        targets: Iterable[Target],
        *,
        tls: model.UpstreamTls,
        context: ssl.SSLContext | bool,
        host: str | None = None,
    ) -> None:
        """Take new settings (None: no checks any more) and targets. `host`: the Host to ask for, None: each target's."""
        wanted = dict.fromkeys(targets)
        for gone in [target for target in self._checks if target not in wanted]:
            self._checks.pop(gone).stop()
        if settings is None or not (settings.tcp or settings.path):
            for known in self._checks.values():
                known.forget("it is not checked any more")
            self._checks.clear()
            return
        self.host = host
        self._use(context, tls.server_name)
        asked = (
            *(settings.tcp, settings.path, settings.method, settings.port),
            *(tuple(settings.headers.items()), tuple(settings.expect.status)),
            *(settings.expect.body, host, tls),
        )
        for target in wanted:
            check = self._checks.get(target)
            if check is None:
                check = self._checks[target] = Check(self, target)
            check.apply(settings, asked)

    def start(self) -> None:
        """Begin to ask, every target at once. Idempotent."""
        if self.started:
            return
        self.started = True
        for check in self._checks.values():
            check.begin()

    async def aclose(self) -> None:
        """Ask no more."""
        self.started = False
        under_way = [check.stop() for check in self._checks.values()]
        self._checks.clear()
        await tasks.stop(*(task for task in under_way if task is not None))
        if self._closing is not None:
            await self._closing
        if self.probes is not None:
            await self.probes.aclose()

    def _use(self, context: ssl.SSLContext | bool, server_name: str | None) -> None:
        present = self.probes
        if present is not None:
            if (present.context, present.server_name) == (context, server_name):
                return
            # Whoever was being asked with the former settings is a target no more: the pool has made new ones.
            self._closing = tasks.spawn(present.aclose(), "former probes")
        self.probes = Probes(context, server_name)


def _in_a_row(number: int) -> str:
    return "1 check" if number == 1 else f"{number} checks in a row"
