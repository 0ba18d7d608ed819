"""Real uvicorn and real gunicorn behind the gateway: idle connections that they close.

Rules of this file: uvicorn closes an idle connection after 5 s, gunicorn's threads after 2 s, and
its sync workers close each one behind its answer. A burst uses many connections, so that a pause
leaves many to be closed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.kit.load import MIX, Load

if TYPE_CHECKING:
    from tests.kit.fleet import Fleet

PAUSES = {
    "long": (6.0, 4.0),
    "five": (5.0, 5.0),
    "short": (2.0, 2.0, 2.0, 2.0),
    "odd": (3.0, 1.9, 2.1, 1.0),
}
"""Seconds between bursts. Each series has pools of its own, which nobody else keeps warm."""
BURST = 24


async def test_no_request_is_lost_to_servers_that_close_idle_connections(fleet: Fleet) -> None:
    """Bursts with pauses of 1 to 6 s before uvicorn and gunicorn: not one request fails, POST included."""
    origins = await fleet.origins("uvicorn", "gthread", "sync")
    series = [(origin, word) for origin in origins for word in PAUSES]
    upstreams = {f"{each.kind}-{word}": {"targets": [each.url]} for each, word in series}
    routes = [{"path": f"/{name}/*", "to": name} for name in upstreams]
    gateway = await fleet.gateway({"routes": routes, "upstreams": upstreams})

    async def bursts(load: Load, name: str, pauses: tuple[float, ...]) -> None:
        asks = [ask.to(f"/{name}/wait/20") for ask in MIX]
        await load.burst(BURST, asks)
        for pause in pauses:
            await asyncio.sleep(pause)
            await load.burst(BURST, asks)

    async with Load(gateway.address) as load:
        await asyncio.gather(
            *(bursts(load, f"{each.kind}-{word}", PAUSES[word]) for each, word in series)
        )
    assert load.counts == {"200": load.sent}
    assert load.sent == sum(BURST * (1 + len(PAUSES[word])) for _, word in series)
