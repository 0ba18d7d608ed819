"""`fault`: make a share of a route's requests late, or refuse it, to see what clients do then.

Rules of this file: nothing is drawn on a route without `fault`; the two shares are drawn independently, the delay comes
first. A delay is part of the request's time: `timeouts.total` runs meanwhile, and a client that leaves ends it, since it
waits in the exchange's own task. What is refused never reaches an upstream, a mirror or a try.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from gateway import errors

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from gateway.clock import Clock
    from gateway.config import effective, model
    from gateway.exchange import Exchange, Handler, Reply
    from gateway.middleware.base import Build

_random = Random().random  # noqa: S311 - spread, not secrecy


def wrap(route: effective.Route, forward: Handler, build: Build) -> Handler:
    """Inject the route's faults; `forward` itself where it has none."""
    fault = route.policies.fault
    if fault is None:
        return forward
    if fault.abort is not None:
        forward = aborting(fault.abort, forward)
    if fault.delay is not None:
        forward = delaying(fault.delay, forward, build.clock)
    return forward


def aborting(abort: model.Abort, forward: Handler) -> Handler:
    """Refuse `abort.percent` of the requests with `abort.status`."""
    share = abort.percent / 100

    class Aborted(errors.FaultInjected):
        """With the status of this route: a class is data, and pages read it there."""

        status = abort.status

    def aborts(exchange: Exchange) -> Awaitable[Reply]:
        if _random() < share:
            raise Aborted("fault.abort of the route")
        return forward(exchange)

    return aborts


def delaying(delay: model.Delay, forward: Handler, clock: Clock) -> Handler:
    """Begin `delay.percent` of the requests `delay.time` seconds later."""
    share, seconds = delay.percent / 100, delay.time

    async def late(exchange: Exchange) -> Reply:
        await clock.sleep(seconds)
        return await forward(exchange)

    def delays(exchange: Exchange) -> Awaitable[Reply]:
        return late(exchange) if _random() < share else forward(exchange)

    return delays
