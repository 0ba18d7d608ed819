"""What operators are told of a policy that can not do its work: an event, now and then.

Rules of this file: the client is told a word, the operator a sentence. Whoever fails to log in a thousand times a second
fills neither the ring of events nor the service log.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.auth import Tools
    from gateway.observe.events import Kind

PAUSE = 10.0
"""Seconds after an event in which no other of the same policy is told."""


class Telling:
    """Tells of one policy."""

    def __init__(self, policy: str, kind: Kind, tools: Tools) -> None:
        self._policy = policy
        self._kind: Kind = kind
        self._clock = tools.clock
        self._events = tools.events
        self._again = -math.inf
        self._untold = 0

    def tell(self, why: str) -> None:
        """It has failed because of `why`, which holds no credential."""
        now = self._clock.now()
        if now < self._again:
            self._untold += 1
            return
        more = f"; {self._untold} more since the last one" if self._untold else ""
        self._again, self._untold = now + PAUSE, 0
        self._events.record(self._kind, why=f"policy {self._policy}: {why}{more}")
