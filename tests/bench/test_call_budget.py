"""The hot path's budget: Python calls a proxied request, which no noise of a machine can move.

Gateway and its aiohttp only: the origin and the client are not counted. When a change needs more, raise the
budget in the same commit, and say why there.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gateway as package

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import MakeGateway

REQUESTS = 256
"""Twice as many as the access log gathers: what it does then is counted too."""
BARE = 61
"""Calls in gateway/ and aiohttp for a GET on a bare route, log off. 59 when this was written."""
LOGGED = 79
"""The same with a JSON access log, a total time-out and header edits both ways. 76 when this was written."""
SEVERAL_ROUTES = 4
"""More calls with a thousand routes than with one."""
HOME = str(Path(package.__file__).parent)


class _Client(asyncio.Protocol):
    """Sends a request and waits for any answer."""

    transport: asyncio.Transport
    answered: asyncio.Future[None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if not self.answered.done():
            self.answered.set_result(None)


class _Origin(asyncio.Protocol):
    """Answers each segment with the same bytes."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        )


def _counted(code: Any) -> bool:
    return code.co_filename.startswith(HOME) or "aiohttp" in code.co_filename


async def _calls(make: Callable[[str], Any]) -> float:
    """Calls a request of a gateway that `make` starts in front of an origin at the URL it is given."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Origin, "127.0.0.1", 0)
    origin = server.sockets[0].getsockname()[1]
    running = await make(f"http://127.0.0.1:{origin}")
    transport, client = await loop.create_connection(_Client, "127.0.0.1", running.port)
    calls = 0

    def count(frame: Any, event: str, _: object) -> None:
        nonlocal calls
        if event == "call" and _counted(frame.f_code):
            calls += 1

    async def request() -> None:
        client.answered = loop.create_future()
        transport.write(
            b"GET /app HTTP/1.1\r\nHost: a.test\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n"
        )
        await client.answered

    try:
        for _ in range(10):
            await request()
        before = sys.getprofile()
        sys.setprofile(count)
        try:
            for _ in range(REQUESTS):
                await request()
        finally:
            sys.setprofile(before)
    finally:
        transport.close()
        server.close()
    return calls / REQUESTS


async def test_a_bare_route_stays_within_its_budget(gateway: MakeGateway) -> None:
    async def make(url: str) -> Any:
        return await gateway({"routes": [{"path": "/*", "to": url, "access_log": "off"}]})

    assert await _calls(make) <= BARE


async def test_a_thousand_routes_cost_what_one_costs(gateway: MakeGateway) -> None:
    async def one(url: str) -> Any:
        return await gateway({"routes": [{"path": "/*", "to": url, "access_log": "off"}]})

    async def many(url: str) -> Any:
        others = [{"path": f"/s{n}/*", "to": url, "access_log": "off"} for n in range(1000)]
        return await gateway({"routes": [{"path": "/*", "to": url, "access_log": "off"}, *others]})

    assert await _calls(many) <= await _calls(one) + SEVERAL_ROUTES


async def test_a_production_route_stays_within_its_budget(gateway: MakeGateway) -> None:
    async def make(url: str) -> Any:
        edits = {
            "request": {"set": {"X-Env": "test"}, "remove": ["X-Debug"]},
            "response": {"remove": ["Server"], "set": {"X-Served": "yes"}},
        }
        route = {"path": "/*", "to": url, "headers": edits, "timeouts": {"total": "60s"}}
        return await gateway({"routes": [route]})

    assert await _calls(make) <= LOGGED
