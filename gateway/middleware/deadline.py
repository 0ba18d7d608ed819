"""`deadline`: how much time is left is told to the upstream, and a trusted caller's own limit is kept where it is shorter.

Rules of this file: milliseconds in a header on both sides, seconds inside. The end of an exchange's time is one object, that
of `timeouts.total` (middleware/timeout.py), which this one replaces by a shorter one or makes where there is none: it is
watched, and ends the exchange, as any total does. What a client sends in the header never passes: it is written anew for
each try, for time has passed since the one before.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from gateway import errors
from gateway.config import effective
from gateway.middleware.timeout import Deadline

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from gateway.clock import Clock
    from gateway.config import model
    from gateway.exchange import Exchange, Handler, Reply
    from gateway.middleware.base import Build

_MILLISECONDS = re.compile(r"[0-9]{1,12}")


def seconds(value: str) -> float | None:
    """A caller's limit in seconds; None for what is no whole number of milliseconds, and so says nothing."""
    return int(value) / 1000 if _MILLISECONDS.fullmatch(value) else None


def wrap(route: effective.Route, forward: Handler, build: Build) -> Handler:
    """Keep a trusted caller's limit; `forward` itself where nobody is trusted or nothing is forwarded."""
    settings = route.policies.deadline
    if settings is None or not isinstance(route.answer, effective.Forward):
        return forward
    name, everyone = settings.header, settings.trust == "all"
    if settings.trust == "none":
        return forward
    clock = build.clock

    def deadline(exchange: Exchange) -> Awaitable[Reply]:
        value = exchange.headers.get(name) if everyone or exchange.peer_trusted else None
        if value is not None and (left := seconds(value)) is not None:
            _shorten(exchange, left, clock)
        return forward(exchange)

    def ended(exchange: Exchange) -> None:
        if exchange.deadline is not None:
            clock.watched.discard(exchange.deadline)
            exchange.deadline = None

    build.at_finish.append(ended)
    return deadline


def _shorten(exchange: Exchange, left: float, clock: Clock) -> None:
    """End the exchange `left` seconds after its head was parsed, unless it ends sooner anyway."""
    present = exchange.deadline
    if present is not None:
        if present.due <= exchange.began + left:
            return
        clock.watched.discard(present)
    exchange.deadline = mine = Deadline(exchange, left)
    if mine.due <= clock.now():
        raise errors.TotalTimeout(f"the caller's limit of {left:g} s is over")
    clock.watched.add(mine)


class TimeLeft:
    """The line that tells the upstream how much time is left. Made for every try."""

    def __init__(self, settings: model.Deadline, clock: Clock) -> None:
        self._prefix = settings.header.encode("ascii") + b": "
        self.dropped = frozenset({settings.header.lower().encode("ascii")})
        """Lower-case names of fields whose copies from the client do not pass."""
        self._now = clock.now

    @classmethod
    def compile(cls, settings: model.Deadline | None, clock: Clock) -> TimeLeft | None:
        """None where the route has no `deadline`."""
        return None if settings is None else cls(settings, clock)

    def lines(self, exchange: Exchange) -> bytes:
        """The finished header line; empty for an exchange without an end.

        Raises errors.TotalTimeout where less than a millisecond is left: the upstream is not called.
        """
        deadline = exchange.deadline
        if deadline is None:
            return b""
        left = deadline.due - self._now()
        if not 0.001 <= left < math.inf:  # it is infinite once it has expired
            raise errors.TotalTimeout("no time is left for a try")
        return b"%b%d\r\n" % (self._prefix, int(left * 1000))
