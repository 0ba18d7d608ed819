"""Count every request of a route. Outermost of the stack: what it does not see has not happened.

Rules of this file: no coroutine of its own, so that counting adds no frame to a request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from gateway.config import effective
    from gateway.exchange import Exchange, Handler, Reply
    from gateway.middleware.base import Build


def wrap(route: effective.Route, forward: Handler, build: Build) -> Handler:
    """Count the request in now and out when the exchange has ended."""
    meter = build.metrics.route(route.name)
    build.at_finish.append(meter.finish)

    def metrics(exchange: Exchange) -> Awaitable[Reply]:
        meter.in_flight += 1
        return forward(exchange)

    return metrics
