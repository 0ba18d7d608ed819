"""A split whose upstreams say different things: each branch has time-outs, retries and the like of its own.

Rules of this file: a branch is drawn once, before the first layer that an upstream has a say in, and stays with the
exchange; what stands between that layer and the innermost handler is the route's, and there once. A route with one branch,
or with branches that behave alike, never comes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config import effective
from gateway.forward import Forward
from gateway.upstream.split import Split

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from gateway.client import Clients
    from gateway.exchange import Exchange, Handler, Reply
    from gateway.middleware.base import Build
    from gateway.upstream.group import Group


class Fork:
    """The innermost handler of such a route: the Forward of the branch that was drawn."""

    def __init__(self, route: effective.Route, build: Build, clients: Clients) -> None:
        answer = route.answer
        assert isinstance(answer, effective.Forward)
        self._split = Split(route.name, answer.branches, build.upstreams)
        # Branches of one upstream share their route, and so their Forward: a hedge's memory of what is slow, too.
        made = {id(one): Forward(one, build, clients) for one in route.per_branch}
        self._forwards: dict[Group | None, Forward] = {
            group: made[id(one)]
            for group, one in zip(self._split.groups, route.per_branch, strict=True)
        }

    def __call__(self, exchange: Exchange) -> Awaitable[Reply]:
        """Forward to the branch that was drawn. Raises errors.GatewayError."""
        return self._forwards[exchange.branch](exchange)

    def drawing(self, handlers: Sequence[Handler]) -> Handler:
        """Draw a branch and go on with its handler: one for each branch, in their order."""
        draw = self._split.draw
        by_group = dict(zip(self._split.groups, handlers, strict=True))

        def split(exchange: Exchange) -> Awaitable[Reply]:
            exchange.branch = group = draw(exchange)
            return by_group[group](exchange)

        return split
