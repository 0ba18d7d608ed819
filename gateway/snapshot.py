"""One configuration, compiled: immutable, numbered by generation.

Rules of this file: data and type-only imports. `runtime/compile.py` makes it, `Proxy.snapshot` points at it, exchanges
hold the one that they began with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from gateway.client import Clients
    from gateway.config import effective
    from gateway.door import Entrance
    from gateway.exchange import Exchange, Finish, Handler, Reply
    from gateway.middleware.edit_headers import Edits
    from gateway.pages import Pages
    from gateway.routing.router import Router


@dataclass(slots=True, eq=False)
class Route:
    """What answers the requests that a match takes."""

    name: str
    handler: Handler
    """The compiled stack: middlewares around the answer."""
    at_finish: tuple[Finish, ...]
    stack: tuple[str, ...]
    """Names of the layers, outermost first, for `explain` and `pipeline`."""
    config: effective.Route | None
    """None for the stand-in of requests that no route takes."""
    pages: Pages
    """How its failures look."""
    gather: Callable[[Exchange, int, Callable[[int], None]], Awaitable[bytes]]
    """Has all of a body, up to so many bytes, before the request is forwarded: for who must see it to decide, and is told
    of the size of each piece."""
    edits: Edits | None
    """What is changed in the head of every answer; a forwarded one has been edited when it was read."""


@dataclass(slots=True, eq=False)
class Snapshot:
    """One configuration, compiled."""

    generation: int
    config: effective.Config
    router: Router[Route]
    clients: Clients
    unmatched: Route
    """Stands in where no route was found: `_none` in metrics, the server's own error pages."""
    redirects: Mapping[str, Callable[[Exchange], Reply | None]]
    """By name of the listener: who is sent to HTTPS, before any route."""
    entrances: Mapping[str, Entrance]
    """By name of the listener: what comes before HTTP, where anything does."""
    server_timing: str = "off"
    in_flight: int = 0
    """Exchanges that began with this snapshot and have not ended: what it holds is kept until then."""
