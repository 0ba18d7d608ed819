"""Upstreams that answer, but ten times as slowly as they should.

Rules of this file: what arrived is counted at the upstreams themselves.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.kit.fleet import before
from tests.kit.load import Load

if TYPE_CHECKING:
    from tests.kit.fleet import Fleet


async def test_retries_do_not_make_a_brown_out_worse(fleet: Fleet) -> None:
    """With every answer ten times slower than usual and `per_try` between, upstreams see at most 1.2 times what is asked."""
    origins = await fleet.origins("raw", "raw", "raw")
    retry = {"max": 3, "per_try": "1s", "on": ["connect", "first_byte"], "budget": "20%"}
    gateway = await fleet.gateway(before(origins, upstream={"retry": retry}))
    for origin in origins:
        await origin.tell("delay 0.2")
    async with Load(gateway.address) as load:
        load.at(80)
        await asyncio.sleep(1.5)
        slow_from = asyncio.get_running_loop().time()
        for origin in origins:
            await origin.tell("delay 2")
        await asyncio.sleep(3.5)
        for origin in origins:
            await origin.tell("delay 0.2")
        await load.settle()
        asked = len(load.outcomes)
        arrived = sum(len(origin.asked()) for origin in origins)
        hurt = load.failed()
        load.at(80)
        await asyncio.sleep(0.5)
    assert asked > 200
    assert len(hurt) > 100
    assert {outcome.word for outcome in hurt} == {"504 upstream_header_timeout"}
    assert min(outcome.began for outcome in hurt) > slow_from - 1
    assert asked * 1.1 < arrived <= asked * 1.2
    assert await gateway.metric("gateway_retry_budget_exhausted_total", upstream="up") > 100
    assert {outcome.word for outcome in load.outcomes[asked:]} == {"200"}
