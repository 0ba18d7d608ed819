"""An upstream that gets copies only, and is in trouble.

Rules of this file: whoever waited for a copy would be late, since the mirror has more time than the clients have
patience. Requests are counted by the clients, copies by the gateway.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.kit.fleet import before
from tests.kit.load import MIX, Load, quantile

if TYPE_CHECKING:
    from tests.kit.fleet import Fleet, Gateway

RATE = 60
PATIENCE = 4.0
"""Seconds after which a client gives up."""
FIRST_BYTE = 8
"""Seconds that a copy is waited for."""


async def copies(gateway: Gateway, result: str = "") -> float:
    """How many there were, or how many with this result."""
    labels = {"result": result} if result else {}
    return await gateway.metric("gateway_mirror_requests_total", route="all", **labels)


async def every_copy_is_counted(gateway: Gateway, load: Load) -> None:
    """Wait until as many copies as requests have come to an end, whatever it was."""
    async with asyncio.timeout(2 * FIRST_BYTE):
        while await copies(gateway) < load.sent:
            await asyncio.sleep(0.1)
    assert await copies(gateway) == load.sent


@pytest.mark.parametrize("trouble", ["killed", "frozen"])
async def test_a_mirror_in_trouble_costs_no_request_anything(fleet: Fleet, trouble: str) -> None:
    """kill -9 or SIGSTOP to the mirror under load: no request, POST included, fails or waits, and every copy is counted."""
    real, mirror = await fleet.origins("uvicorn", "uvicorn")
    config = before(
        [real],
        route={
            "mirror": {
                "upstream": "mirror",
                "compare": {"ignore": ["header.date", "header.x-origin"]},
            }
        },
    )
    config["upstreams"]["mirror"] = {
        "targets": [mirror.url],
        "timeouts": {"first_byte": f"{FIRST_BYTE}s"},
    }
    gateway = await fleet.gateway(config)
    loop = asyncio.get_running_loop()
    async with Load(gateway.address, patience=PATIENCE) as load:
        load.at(RATE, [ask.to("/wait/20") for ask in MIX])
        await asyncio.sleep(1)
        if trouble == "killed":
            await mirror.kill()
        else:
            mirror.freeze()
        hit = loop.time()
        await asyncio.sleep(3)
        bad = load.since(hit)
        if trouble == "killed":
            await mirror.start()
        else:
            mirror.thaw()
        await load.settle()
        await every_copy_is_counted(gateway, load)
        spoiled = load.sent - await copies(gateway, "match")
        load.at(RATE, [ask.to("/wait/20") for ask in MIX])
        await asyncio.sleep(1)
        await load.settle()
        await every_copy_is_counted(gateway, load)
    assert load.counts == {"200": load.sent}
    assert {outcome.origin for outcome in load.outcomes} == {real.name}
    assert len(real.asked()) == load.sent
    assert quantile(bad, 1.0) < PATIENCE / 2
    word = "failed" if trouble == "killed" else "dropped"
    assert await copies(gateway, word) > RATE / 2
    # Once it is well, so are the copies.
    assert load.sent - await copies(gateway, "match") == spoiled
    assert await gateway.metric("gateway_upstream_ejections_total") == 0
