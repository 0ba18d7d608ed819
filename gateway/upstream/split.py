"""Which branch of a split a request takes, and from which targets that branch draws.

Rules of this file: a branch is a `Group` of its upstream. With `sticky_by` the whole split goes by hash, so that the same
client always takes the same branch; requests without that value go by weight, as all do without `sticky_by`.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from gateway.routing.template import Template
from gateway.upstream.hashing import branch_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gateway.config import model
    from gateway.exchange import Exchange
    from gateway.upstream.group import Group
    from gateway.upstream.upstream import Upstream

_random = Random().random  # noqa: S311 - spread, not secrecy


class Split:
    """The branches of one route, one for a route with `to`."""

    def __init__(
        self,
        route: str,
        branches: Sequence[model.Branch],
        upstreams: Mapping[str, Upstream],
        random: Callable[[], float] = _random,
    ) -> None:
        """`route`: its name, so that not the same clients are the first to try everything."""
        self._route = route
        self._random = random
        self._weights = [branch.weight for branch in branches]
        self.groups = [
            upstreams[branch.upstream].subset(
                branch.labels,
                [one.labels for one in branches if one.upstream == branch.upstream],
            )
            for branch in branches
        ]
        """One for each branch, in their order."""
        self.only = self.groups[0] if len(branches) == 1 else None
        """The one branch; None: `draw` one."""
        sticky_by = next((branch.sticky_by for branch in branches if branch.sticky_by), None)
        self._key = Template.compile(f"{{{sticky_by}}}").render_or_none if sticky_by else None

    def draw(self, exchange: Exchange) -> Group:
        """The branch for this request."""
        if self._key is not None:
            key = self._key(exchange)
            if key:
                return self.groups[branch_of(key, self._weights, self._route)]
        point = self._random() * sum(self._weights)
        for weight, group in zip(self._weights, self.groups, strict=True):
            point -= weight
            if point < 0:
                return group
        return self.groups[-1]
