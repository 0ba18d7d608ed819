"""Write one line for each request of a route, unless the route says `access_log: off`.

Rules of this file: nothing wraps the handler; the line is made when the exchange has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config import effective
    from gateway.exchange import Handler
    from gateway.middleware.base import Build


def wrap(route: effective.Route, forward: Handler, build: Build) -> Handler:
    """Register the log for the exchange's end where this route is logged at all."""
    if build.access_log is not None and route.policies.access_log:
        build.at_finish.append(build.access_log.record)
    return forward
