"""What changed and when: a target went down, a circuit opened, a configuration was taken.

Rules of this file: an event is a change of state, never a request, so it may cost a log line. The
ring holds the last ones; what falls out is counted by the numbers, which have no gaps. Nothing here
decides anything: `record` is called after the fact.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("gateway.events")

MOST = 1000
"""Events that are kept. At 300 bytes each they take a third of a megabyte."""

Kind = Literal[
    "target_down",
    "target_up",
    "ejected",
    "restored",
    "circuit_opened",
    "circuit_half_open",
    "circuit_closed",
    "targets_changed",
    "discovery_failed",
    "discovery_recovered",
    "jwks_failed",
    "jwks_recovered",
    "panic_on",
    "panic_off",
    "reloaded",
    "reload_failed",
    "draining",
    "shed_on",
    "shed_off",
    "certificate_reloaded",
    "certificate_failed",
    "certificate_expiring",
    "auth_file_failed",
    "auth_file_reloaded",
    "auth_service_failed",
    "login_failed",
    "store_failed",
    "store_recovered",
]

KINDS: tuple[Kind, ...] = get_args(Kind)

_TOLD_ELSEWHERE = frozenset(("reloaded", "reload_failed", "draining"))
"""These have a line in the service log already, with more fields."""
_BAD = frozenset(
    (
        "certificate_failed",
        "certificate_expiring",
        *("target_down", "ejected", "circuit_opened", "discovery_failed", "panic_on", "shed_on"),
        "auth_file_failed",
        "auth_service_failed",
        "login_failed",
        "store_failed",
        "jwks_failed",
    )
)


@dataclass(frozen=True, slots=True)
class Event:
    """One change of state."""

    number: int
    """Rises by one from 1: whoever polls sees what it has, and what it has missed."""
    at: float
    """Unix seconds, to the microsecond."""
    kind: Kind
    upstream: str
    """Its name; empty where it is about no upstream."""
    target: str
    """host:port as configured; empty where it is about no target."""
    why: str
    """A few words for people."""


class Events:
    """The last events of one worker, oldest first."""

    def __init__(self, wall: Callable[[], float], most: int = MOST) -> None:
        """`wall` gives Unix seconds."""
        self._wall = wall
        self._ring: deque[Event] = deque(maxlen=most)
        self._number = 0

    def __repr__(self) -> str:
        return f"<Events: {len(self._ring)} of {self._number}>"

    def record(self, kind: Kind, *, upstream: str = "", target: str = "", why: str = "") -> Event:
        """Something has changed: keep it, and say it in the service log."""
        self._number += 1
        # Whole microseconds, as it is told: who asks for what came since then must be given it.
        event = Event(self._number, round(self._wall(), 6), kind, upstream, target, why)
        self._ring.append(event)
        if kind not in _TOLD_ELSEWHERE:
            level = logging.WARNING if kind in _BAD else logging.INFO
            said = {"upstream": upstream, "target": target, "why": why}
            log.log(level, kind, extra={name: value for name, value in said.items() if value})
        return event

    def select(self, *, since: float | None = None, upstream: str | None = None) -> list[Event]:
        """Those at or after `since` (Unix seconds) and about `upstream`, newest last; None: all."""
        return [
            event
            for event in self._ring
            if (since is None or event.at >= since)
            and (upstream is None or event.upstream == upstream)
        ]
