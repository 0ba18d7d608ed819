"""A peer that does not read what it is sent.

Rules of this file: whoever writes waits here while a transport is full; what becomes of a peer that is given up is for the
caller to say. Nothing is timed by a timer of its own: the ticker looks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gateway.pending import pending

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clock import Clock

_LOOKS = 4
"""Looks at a client that does not read, in the time after which it is cut off."""


class Backlog:
    """A peer that does not read: given up once it has read nothing for `idle` seconds.

    Whether it reads is asked of the kernel, a few times in `idle` seconds: the transport would not say so for minutes.
    """

    def __init__(
        self, peer: Any, clock: Clock, idle: float, give_up: Callable[[Any], None]
    ) -> None:
        """`give_up` is called with the transport, None where the connection is lost already."""
        self._peer = peer
        self._clock = clock
        self._idle = idle
        self._give_up = give_up
        self._pending = 0
        """Bytes that it had not taken at the last look; 0: there was none yet."""
        self._last = 0.0
        """When it was last known to read."""
        self.due = math.inf

    def expire(self) -> None:
        """Look whether it has read; if it has not for too long, give it up."""
        transport = self._peer.transport
        now = self._clock.now()
        if transport is not None:
            left = pending(transport)
            if self._pending and left != self._pending:
                # Nothing is written meanwhile: whatever moved, moved since it reads.
                self._last = now
            self._pending = left
            if now < self._last + self._idle:
                self.due = min(now + self._idle / _LOOKS, self._last + self._idle)
                return
        self.due = math.inf
        self._give_up(transport)

    async def drain(self) -> None:
        """Wait until it has read enough. Raises ConnectionError where the connection is lost meanwhile."""
        self._last = self._clock.now()
        self._pending = 0
        self.due = self._last + self._idle / _LOOKS
        self._clock.watched.add(self)
        try:
            await self._peer._drain_helper()
        finally:
            self._clock.watched.discard(self)
