"""Real uvicorn and real gunicorn behind the gateway: restarts of servers that are in use.

Rules of this file: what is lost is counted, and what the gateway says of it must be the same.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.e2e.drills.conftest import only_what_could_not_be_saved_is_lost
from tests.kit.fleet import before
from tests.kit.load import MIX, Load

if TYPE_CHECKING:
    from tests.kit.fleet import Fleet, Origin

RATE = 80


async def test_a_graceful_restart_of_gunicorn_costs_nothing(fleet: Fleet) -> None:
    """SIGHUP to gunicorn, threads and sync workers, under load: nothing fails but a POST without a key on its way."""
    origins = await fleet.origins("gthread", "sync")
    gateway = await fleet.gateway(before(origins))
    async with Load(gateway.address) as load:
        load.at(RATE, [ask.to("/wait/20") for ask in MIX])
        for origin in origins:
            await asyncio.sleep(0.5)
            await origin.reload()
        await asyncio.sleep(0.5)
    assert load.sent > RATE
    await only_what_could_not_be_saved_is_lost(load, gateway, origins)


async def test_a_rolling_restart_costs_nothing(fleet: Fleet) -> None:
    """SIGTERM to two and to three upstreams in turn, each away for a second: nothing fails but POSTs without a key."""
    origins = await fleet.origins("uvicorn", "uvicorn", "uvicorn", "gthread", "sync")
    groups = {"two": origins[:2], "three": origins[2:]}
    gateway = await fleet.gateway(
        {
            "routes": [{"path": f"/{name}/*", "to": name} for name in groups],
            "upstreams": {
                name: {"targets": [each.url for each in group]} for name, group in groups.items()
            },
        }
    )

    async def restart(group: list[Origin]) -> None:
        for origin in group:
            await origin.stop()
            await asyncio.sleep(1)  # as an application takes to load
            await origin.start()
            await asyncio.sleep(0.5)

    async with Load(gateway.address) as load:
        load.at(2 * RATE, [ask.to(f"/{name}/wait/20") for ask in MIX for name in groups])
        await asyncio.sleep(1.5)
        await asyncio.gather(*map(restart, groups.values()))
    assert await gateway.metric("gateway_upstream_ejections_total") >= 4
    await only_what_could_not_be_saved_is_lost(load, gateway, origins)
