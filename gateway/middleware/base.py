"""What a middleware is, and what it is given at load.

A middleware is a module of this folder with one function::

    def wrap(route: effective.Route, forward: Handler, build: Build) -> Handler

It reads its settings from `route.policies`, looks everything up once, and returns a closure over constants: or `forward`
itself when the route does not want it, so that an unused middleware costs nothing. What must happen when the exchange has
ended (a streamed body outlives the handler's return) is registered with `build.at_finish`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.auth import Authenticator
    from gateway.clock import Clock
    from gateway.config import effective
    from gateway.exchange import Finish, Handler
    from gateway.limits.stores import Stores
    from gateway.middleware.mirror import Mirrors
    from gateway.middleware.shed import Shedding
    from gateway.observe.accesslog import AccessLog
    from gateway.observe.metrics import Metrics
    from gateway.upstream.upstream import Upstream

Layer: TypeAlias = "tuple[str, Callable[[effective.Route, Handler, Build], Handler]]"
"""A middleware's name and its `wrap`."""


ANSWERS = 500
"""Answers whose seconds are remembered."""


def _of_nobody(_: str) -> deque[float]:
    return deque(maxlen=ANSWERS)


@dataclass(slots=True)
class Build:
    """What the compiler hands to `wrap`: long-lived things, looked up once at load."""

    config: effective.Config
    clock: Clock
    metrics: Metrics
    access_log: AccessLog | None
    upstreams: Mapping[str, Upstream]
    shedding: Shedding
    mirrors: Mirrors
    authenticators: Mapping[str, Authenticator]
    """By name of the policy under `auth:`."""
    limits: Stores
    seconds: Callable[[str], deque[float]] = _of_nobody
    """By name: how long the last answers took. One that was there before a reload goes on."""
    at_finish: list[Finish] = field(default_factory=list)
    """Callbacks of the route under compilation, called once when an exchange has ended."""
