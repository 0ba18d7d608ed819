"""The server of one listener: whose connections are whose, and how all of them end.

Rules of this file: what is done with one connection is edge.py's. Each private name of aiohttp that is touched has a test in
tests/test_aiohttp_contract.py.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.door import Door
from gateway.edge import SETTLING, ClientConnection
from gateway.heads import LINGER, options
from gateway.incoming import Incoming

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.admission import Admission
    from gateway.clock import Clock
    from gateway.config import model
    from gateway.door import Entrance
    from gateway.incoming import Answers, Sent


class Server(web.Server):
    """The server of one listener."""

    def __init__(
        self,
        proxy: Answers,
        *,
        listener: str,
        limits: model.Limits,
        clock: Clock,
        admission: Admission,
        on_dropped: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(self._answer, request_factory=Incoming, handler_cancellation=True)  # type: ignore[arg-type]
        self.proxy = proxy
        self.listener = listener
        self.limits = limits
        self.clock = clock
        self.admission = admission
        self.on_dropped = on_dropped
        """Called for each connection that is dropped unread, above every limit."""
        self.entrance: Entrance | None = None
        """What comes before HTTP; None: nothing does."""
        self.doors: set[Door] = set()
        """Connections that are there and not let in yet."""

    def _answer(self, incoming: Incoming) -> Awaitable[Sent]:
        """aiohttp's task is at it: go on with what has begun, or begin."""
        client = incoming.protocol
        assert isinstance(client, ClientConnection)
        exchange, client.under_way = client.under_way, None
        if exchange is None:
            exchange = self.proxy.begin(incoming)
        return self.proxy.answer(exchange)

    @property
    def connections(self) -> list[ClientConnection]:  # type: ignore[override]
        """Every connection that is open."""
        return [*self._connections]  # type: ignore[list-item]

    @property
    def deserted(self) -> bool:
        """Nobody is connected."""
        return not self._connections and not self.doors

    def pre_shutdown(self) -> None:
        """Close what is idle: see `close_if_idle`."""
        for connection in self.connections:
            connection.close_if_idle()
        for door in [*self.doors]:
            if self.clock.now() - door.since >= SETTLING:
                door.close()

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - aiohttp's name
        """aiohttp's runner: what could finish has."""
        await self.end(LINGER if timeout is None else min(timeout, LINGER))

    async def end(self, patience: float) -> None:
        """Cancel what is under way and close every connection; break what has not gone in `patience` seconds."""
        for connection in self.connections:
            connection.force_close()
        for door in [*self.doors]:
            door.close()
        for _ in range(int(patience * 100)):
            if not self._connections:
                return
            await asyncio.sleep(0.01)
        for transport in [*self._connections.values()]:
            transport.abort()
        for _ in range(3):  # connection_lost, the handler's end, aiohttp's account of it
            await asyncio.sleep(0)

    def __call__(self) -> asyncio.Protocol:  # type: ignore[override]
        return self.client() if self.entrance is None else Door(self, self.entrance)

    def client(self) -> ClientConnection:
        """A connection on which HTTP begins."""
        # Not aiohttp's own: it falls back to defaults, decompression included, when an option is misspelt.
        return ClientConnection(self, loop=self._loop, **options(self.limits))
