"""The server of one listener: whose connections are whose, and how all of them end.

Rules of this file: what is done with one connection is edge.py's. Each private name of aiohttp that is touched has a test in
tests/test_aiohttp_contract.py.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.edge import ClientConnection
from gateway.heads import LINGER, options
from gateway.incoming import Incoming

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.web_protocol import RequestHandler

    from gateway.admission import Admission
    from gateway.clock import Clock
    from gateway.config import model
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

    def pre_shutdown(self) -> None:
        """Close what is idle: see `close_if_idle`."""
        for connection in self.connections:
            connection.close_if_idle()

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - aiohttp's name
        """aiohttp's runner: what could finish has."""
        await self.end(LINGER if timeout is None else min(timeout, LINGER))

    async def end(self, patience: float) -> None:
        """Cancel what is under way and close every connection; break what has not gone in `patience` seconds."""
        for connection in self.connections:
            connection.force_close()
        for _ in range(int(patience * 100)):
            if not self._connections:
                return
            await asyncio.sleep(0.01)
        for transport in [*self._connections.values()]:
            transport.abort()
        for _ in range(3):  # connection_lost, the handler's end, aiohttp's account of it
            await asyncio.sleep(0)

    def __call__(self) -> RequestHandler:
        # Not aiohttp's own: it falls back to defaults, decompression included, when an option is misspelt.
        return ClientConnection(self, loop=self._loop, **options(self.limits))
