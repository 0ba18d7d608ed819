"""`timeouts.total`: from the parsed request head to the last reply byte, over all tries.

Rules of this file: the deadline is watched by the ticker, so it costs a set entry and no timer; it gives the
exchange up, whose owner (proxy.py) answers 504 if no head is out, and breaks the connection otherwise. Upgraded
connections know `websocket.idle` and `websocket.max_age` only.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gateway import errors
from gateway.exchange import give_up

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from gateway.config import effective
    from gateway.exchange import Exchange, Handler, Reply
    from gateway.middleware.base import Build


class Deadline:
    """The end of one exchange's time."""

    __slots__ = ("due", "exchange", "total")

    def __init__(self, exchange: Exchange, total: float) -> None:
        self.exchange = exchange
        self.total = total
        self.due = exchange.began + total

    def expire(self) -> None:
        """Cancel the exchange: its time is over."""
        self.due = math.inf
        if not self.exchange.upgraded:
            give_up(self.exchange, errors.TotalTimeout(f"no end within {self.total:g} s"))


def wrap(route: effective.Route, forward: Handler, build: Build) -> Handler:
    """Limit the whole exchange; `forward` itself where there is no `timeouts.total`."""
    total = route.policies.timeouts.total
    if total is None:
        return forward
    watched = build.clock.watched

    def timeout(exchange: Exchange) -> Awaitable[Reply]:
        exchange.deadline = deadline = Deadline(exchange, total)
        watched.add(deadline)
        return forward(exchange)

    def ended(exchange: Exchange) -> None:
        if exchange.deadline is not None:
            watched.discard(exchange.deadline)
            exchange.deadline = None  # a ring otherwise, left to the garbage collector

    build.at_finish.append(ended)
    return timeout
