"""Targets that are looked up while the gateway runs: when to look, what to keep, what to say.

Rules of this file: an answer that can not be had, or holds nothing, changes no target: the last
good one stays, from the very start to the very end. The order of an answer means nothing. What has
changed is an event, once; a failure is an event when it begins and when its words change. Where
answers come from is in `names` (DNS) and `lists` (a file, the environment): they look and raise
`NotFound`, this file waits and decides. Time is the Clock's.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from gateway.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gateway.clock import Clock
    from gateway.config import model
    from gateway.observe.events import Events

log = logging.getLogger("gateway.upstream")

MOST = 1000
"""Targets of one upstream that are found; more are left out, and that is said. Each may have
health checks and a label of metrics, and an answer over TCP holds four thousand addresses."""
SHORTEST = 1.0
"""Seconds between two looks, unless `refresh` is shorter: a time to live of 0 is no order to ask
without pause."""
_NAMED = 5
"""Targets that an event names; of more it gives the number."""
_random = Random().random  # noqa: S311 - spread, not secrecy


class NotFound(Exception):
    """Nothing could be found; its text says why, for people."""


@dataclass(frozen=True, slots=True)
class Found:
    """A target as it was found: what `targets:` says of one, and the name behind an address."""

    url: str
    weight: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    backup: bool = False
    server_name: str | None = None
    """Asked for and checked in TLS unless the settings name another: an address is in no
    certificate."""
    authority: str | None = None
    """What `host: target` sends, if not the address."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a look has found."""

    targets: tuple[Found, ...]
    """At least one."""
    again: float
    """Seconds after which it should be looked again."""
    problem: str | None = None
    """What is wrong though targets were found, for people."""


class Source(Protocol):
    """Where targets are looked up."""

    what: str
    """`dns users.svc.local`, for people."""
    interval: float
    """Seconds between two looks: the longest, and the one after a look that brings nothing new."""

    async def look(self) -> Answer | None:
        """What is there now; None: nothing has changed since the last look. Raises NotFound."""


@dataclass(frozen=True, slots=True)
class Change:
    """What new targets have changed: names (`host:port`) of targets."""

    added: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """Those with another weight, other labels, or that have become a backup or ceased to be one."""

    def __str__(self) -> str:
        parts = [f"+{len(self.added)} -{len(self.gone)}"]
        for names, word in ((self.added, "new"), (self.gone, "gone"), (self.changed, "changed")):
            if names:
                rest = len(names) - _NAMED
                more = f" and {rest} more" if rest > 0 else ""
                parts.append(f"{word}: {' '.join(names[:_NAMED])}{more}")
        return ", ".join(parts)

    def __bool__(self) -> bool:
        return bool(self.added or self.gone or self.changed)


class Retargeted(Protocol):
    """What a discovery knows of its upstream."""

    name: str

    @property
    def targets(self) -> Sequence[Known]: ...

    def retarget(self, wanted: Sequence[Found]) -> None:
        """From now on these are the targets. Those that stay keep connections, health and counters;
        those that go finish what they have begun.
        """


class Known(Protocol):
    """A target of the upstream, as far as a change is told."""

    url: str
    name: str
    weight: int
    labels: Mapping[str, str]
    backup: bool


_Traits: TypeAlias = "tuple[int, Mapping[str, str], bool]"


class Discovery:
    """Keeps the targets of one upstream as its source says."""

    def __init__(
        self,
        upstream: Retargeted,
        source: Source,
        clock: Clock,
        events: Events,
        random: Callable[[], float] = _random,
    ) -> None:
        self._upstream = upstream
        self._source = source
        self._clock = clock
        self._events = events
        self._random = random
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self.found: tuple[Found, ...] = ()
        """The last good answer, in an order of its own; empty: there has been none yet."""
        self.looked = asyncio.Event()
        """Set once it has looked, whatever came of it."""
        self.problem: str | None = None
        """Why the last look failed, or what is wrong with what it found; None: all is well."""

    def __repr__(self) -> str:
        state = self.problem or "well"
        return f"<Discovery {self._source.what}: {len(self.found)} targets, {state}>"

    @property
    def what(self) -> str:
        """Where it looks, for people."""
        return self._source.what

    def start(self) -> None:
        """Begin to look, at once. Needs a running loop. Idempotent."""
        if self._task is None:
            self._task = spawn(self._run(), f"discovery {self._upstream.name}")

    def stop(self) -> None:
        """Look no more; the targets stay. Idempotent."""
        if self._task is not None:
            self._task.cancel()

    async def aclose(self) -> None:
        """The same, and wait until a look that is under way has ended."""
        self.stop()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            wait = await self.look()
            self.looked.set()
            await self._clock.sleep(wait)

    async def look(self) -> float:
        """Look once and take what is found. Returns the seconds until the next look."""
        try:
            answer = await self._source.look()
            if answer is None:
                return self._source.interval
            self._take(answer)
        except NotFound as error:
            return self._failed(str(error))
        except Exception as error:  # a fault of ours or a library's must not end the looking
            log.exception("discovery_crashed", extra={"upstream": self._upstream.name})
            return self._failed(f"{type(error).__name__}: {error}")
        self._failures = 0
        # Only ever sooner: what was found may not be kept for longer than it says.
        return answer.again * (0.9 + 0.1 * self._random())

    def _take(self, answer: Answer) -> None:
        found, problem = _bounded(answer)
        if found != self.found:
            before = _told(self._upstream.targets)
            self._upstream.retarget(found)
            self.found = found
            change = _difference(before, _told(self._upstream.targets))
            if change:
                self._record("targets_changed", f"{change}, {len(found)} in all")
        if problem is not None:
            self._complain(problem)
        elif self.problem is not None:
            self.problem = None
            self._record("discovery_recovered", f"{self.what}: {_targets(len(found))}")

    def _failed(self, why: str) -> float:
        kept = len(self._upstream.targets)
        does = f"keeping {_targets(kept)}" if kept else "no targets yet"
        self._complain(f"{why}; {does}")
        wait = min(self._source.interval, SHORTEST * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return wait * (0.9 + 0.1 * self._random())

    def _complain(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            self._record("discovery_failed", f"{self.what}: {problem}")

    def _record(
        self,
        kind: Literal["targets_changed", "discovery_failed", "discovery_recovered"],
        why: str,
    ) -> None:
        self._events.record(kind, upstream=self._upstream.name, why=why)


def _told(targets: Sequence[Known]) -> dict[str, _Traits]:
    """What is told of each target when it changes, by its name."""
    return {one.name: (one.weight, one.labels, one.backup) for one in targets}


def _difference(before: dict[str, _Traits], after: dict[str, _Traits]) -> Change:
    return Change(
        added=tuple(name for name in after if name not in before),
        gone=tuple(name for name in before if name not in after),
        changed=tuple(name for name in after if before.get(name, after[name]) != after[name]),
    )


def _bounded(answer: Answer) -> tuple[tuple[Found, ...], str | None]:
    """The targets, each once and in an order of their own, and what is wrong with the answer."""
    single = {one.url: one for one in reversed(answer.targets)}
    found = tuple(sorted(single.values(), key=lambda one: one.url))
    if len(found) <= MOST:
        return found, answer.problem
    too_many = f"{len(found)} targets were found, and the first {MOST} of them are used"
    return found[:MOST], "; ".join(filter(None, (too_many, answer.problem)))


def _targets(number: int) -> str:
    return "1 target" if number == 1 else f"{number} targets"


def prepare(settings: model.Discover) -> None:
    """Import what `source` will need: what can fail belongs before new settings are in force."""
    if settings.dns is not None or settings.srv is not None:
        import gateway.upstream.names  # noqa: F401, PLC0415 - dnspython takes 50 ms to import


def source(settings: model.Discover, clock: Clock) -> Source:
    """Where `discover:` says that targets are."""
    from gateway.upstream import lists  # noqa: PLC0415 - it is built on this file

    if settings.file is not None:
        return lists.File(settings.file, settings.refresh, clock)
    if settings.env is not None:
        return lists.Environment(settings.env, settings.refresh)
    from gateway.upstream.names import Names  # noqa: PLC0415 - as above

    return Names(settings, settings.refresh, clock)
