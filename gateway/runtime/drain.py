"""A graceful end, in the order that load balancers and clients need.

    ready_delay       ready is false, answers say `Connection: close`, clients are still accepted
                      nobody is accepted any more; connections at rest are closed
    grace             requests finish; what is left is cut
    websocket_grace   WebSockets go on; then Close 1001 at the next frame boundary

Rules of this file: time is the clock's; what is waited for is looked at every few milliseconds, for
it happens once in the life of a process and must cost requests nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from gateway import errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config import model
    from gateway.edge import ClientConnection
    from gateway.runtime.gateway import Gateway

log = logging.getLogger("gateway.runtime")

LOOK = 0.02
"""Seconds between two looks at what is under way."""
FAREWELL = 2.0
"""Seconds for WebSockets to answer the Close, and for what is cut to be gone."""


class Drain:
    """One graceful end of one Gateway."""

    def __init__(self, gateway: Gateway, settings: model.Shutdown, delay: float) -> None:
        self._gateway = gateway
        self._proxy = gateway.proxy
        self._clock = gateway.clock
        self._delay = delay
        self._grace = settings.grace
        self._websocket_grace = (
            settings.grace if settings.websocket_grace is None else settings.websocket_grace
        )
        self._began = False
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Drain; a second caller waits for the first."""
        if self._began:
            await self._over.wait()
            return
        self._began = True
        try:
            await self._drain()
        finally:
            self._over.set()

    async def _drain(self) -> None:
        clock = self._clock
        log.info("draining", extra={"ready_delay": self._delay, "requests": self._proxy.in_flight})
        self._proxy.draining = True
        if self._delay:
            await clock.sleep(self._delay)
        stopped = clock.now()
        await asyncio.sleep(LOOK)  # whoever is in the queue is accepted
        self._gateway.stop_listening()
        if self._websocket_grace < self._grace:
            await self._end_tunnels(stopped + self._websocket_grace)
            await self._end_requests(stopped + self._grace)
        else:
            await self._end_requests(stopped + self._grace)
            await self._end_tunnels(stopped + self._websocket_grace)
        log.info("drained", extra={"seconds": round(clock.now() - stopped, 3)})

    async def _end_requests(self, deadline: float) -> None:
        if await self._until(self._quiet, deadline):
            return
        left = self._requests()
        log.warning("grace_over", extra={"requests": len(left)})
        self._proxy.ending = errors.ShuttingDown("the time for requests in flight is over")
        for connection in left:
            connection.cut()
        await self._until(self._quiet, self._clock.now() + FAREWELL)

    async def _end_tunnels(self, deadline: float) -> None:
        if await self._until(lambda: not self._proxy.tunnels.open, deadline):
            return
        log.info("websocket_grace_over", extra={"websockets": len(self._proxy.tunnels.open)})
        for tunnel in [*self._proxy.tunnels.open]:
            tunnel.go_away()
        await self._until(lambda: not self._proxy.tunnels.open, self._clock.now() + FAREWELL)

    def _quiet(self) -> bool:
        """Nothing but tunnels is under way, on our own connections or on those of a foreign server."""
        arriving = any(server.doors for server in self._gateway.servers)
        return (
            not arriving
            and not self._requests()
            and self._proxy.in_flight <= len(self._proxy.tunnels.open)
        )

    def _requests(self) -> list[ClientConnection]:
        """Our own connections on which something other than a tunnel is under way."""
        tunnels = {tunnel.exchange.incoming.protocol for tunnel in self._proxy.tunnels.open}
        return [
            connection
            for server in self._gateway.servers
            for connection in server.connections
            if connection.transport is not None and connection not in tunnels
        ]

    async def _until(self, done: Callable[[], object], deadline: float) -> bool:
        """Look until `done`, closing what has come to rest; False if the deadline came first."""
        while True:
            for server in self._gateway.servers:
                server.pre_shutdown()
            if done():
                return True
            if self._clock.now() >= deadline:
                return False
            await asyncio.sleep(LOOK)
