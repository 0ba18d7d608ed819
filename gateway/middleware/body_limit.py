"""`body.max`: a request that declares a larger body is refused before anything is read or sent on.

Rules of this file: only what the head says is judged here. A chunked body is counted while it streams (`relay.Upload`), with
the same limit and the same answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway import errors
from gateway.exchange import would_refuse

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from gateway.config import effective
    from gateway.exchange import Exchange, Handler, Reply
    from gateway.middleware.base import Build


def wrap(route: effective.Route, forward: Handler, build: Build) -> Handler:  # noqa: ARG001 - as every wrap
    """Refuse bodies that say they are too large; `forward` itself where there is no limit."""
    most, reports = route.policies.body.max, route.policies.body.mode == "report"
    if most is None:
        return forward

    # No coroutine of its own: it only looks.
    def body_limit(exchange: Exchange) -> Awaitable[Reply]:
        if exchange.length is not None and exchange.length > most:
            if not reports:
                raise errors.BodyTooLarge(
                    f"the body has {exchange.length} bytes, {most} are allowed"
                )
            would_refuse(exchange, errors.BodyTooLarge.reason)
        return forward(exchange)

    return body_limit
