"""Real uvicorn and real gunicorn behind the gateway: restarts of servers that are in use.

Rules of this file: what is lost is counted, and what the gateway says of it must be the same.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.kit.fleet import arrivals, before
from tests.kit.load import MIX, Load

if TYPE_CHECKING:
    from tests.kit.fleet import Fleet, Gateway, Origin

RATE = 80


async def only_what_could_not_be_saved_is_lost(
    load: Load, gateway: Gateway, origins: list[Origin]
) -> None:
    """Nothing has failed but a POST without a key that was on its way; that is counted, and told as it was."""
    assert load.failed(repeatable=True) == []
    lost = load.failed(repeatable=False)
    assert {outcome.word for outcome in lost} <= {"502 upstream_reset"}
    assert len(lost) == await gateway.metric("gateway_errors_total", reason="upstream_reset")
    assert load.sent_twice(arrivals(origins)) == []


async def test_a_graceful_restart_of_gunicorn_costs_nothing(fleet: Fleet) -> None:
    """SIGHUP to gunicorn, threads and sync workers, under load: nothing fails but a POST without a key on its way."""
    origins = await fleet.origins("gthread", "sync")
    gateway = await fleet.gateway(before(origins))
    async with Load(gateway.address) as load:
        load.at(RATE, [ask.to("/wait/20") for ask in MIX])
        for origin in origins:
            await asyncio.sleep(1)
            await origin.reload()
        await asyncio.sleep(1)
    assert load.sent > RATE * 2
    await only_what_could_not_be_saved_is_lost(load, gateway, origins)
