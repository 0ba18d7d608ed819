"""Every upstream dies, and every one comes back.

Rules of this file: what is tried is counted: by the gateway where nobody listens, at the upstreams
once they do.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.kit.apps import READY
from tests.kit.fleet import before, eventually
from tests.kit.load import Load, peak, quantile

if TYPE_CHECKING:
    from tests.kit.fleet import Fleet

RATE = 100
CHECKS = {
    "path": READY,
    "interval": "1s",
    "interval_down": "1s",
    "timeout": "1s",
    "rise": 1,
    "fall": 1,
}


async def test_when_all_were_dead_they_are_in_use_again_within_one_check_and_without_a_rush(
    fleet: Fleet,
) -> None:
    """All three die and come back, checked every second: a second later all is well, and nothing has hammered on them."""
    origins = await fleet.origins("raw", "raw", "raw")
    gateway = await fleet.gateway(before(origins, upstream={"health": CHECKS}))
    loop = asyncio.get_running_loop()
    async with Load(gateway.address) as load:
        load.at(RATE)
        await asyncio.sleep(1)
        for origin in origins:
            await origin.kill()
        await eventually(
            lambda: len({event["target"] for event in gateway.events("target_down")}) == 3,
            "all are known to be down",
        )
        down = loop.time()
        tries = await gateway.metric("gateway_upstream_requests_total", upstream="up")
        checks = await gateway.metric("gateway_health_checks_total", upstream="up")
        await asyncio.sleep(2)
        dead = load.since(down)
        assert await gateway.metric("gateway_upstream_requests_total", upstream="up") == tries
        checks = await gateway.metric("gateway_health_checks_total", upstream="up") - checks
        seconds = loop.time() - down
        assert 3 <= checks <= 3 * (seconds / 0.9 + 1)  # each of them once a second
        for origin in origins:
            origin.forget()
        await asyncio.gather(*(origin.start() for origin in origins))
        back = loop.time()
        checks = await gateway.metric("gateway_health_checks_total", upstream="up")
        await asyncio.sleep(2.5)
        checks = await gateway.metric("gateway_health_checks_total", upstream="up") - checks
    assert {outcome.word for outcome in dead} == {"503 no_healthy_target"}
    assert quantile(dead, 1.0) < 2  # no request has waited for this moment
    assert {outcome.word for outcome in load.since(back + 2)} == {"200"}
    assert {outcome.origin for outcome in load.since(back + 2)} == {"a", "b", "c"}
    # Connections are made for checks and for what is under way, and never for more at once than clients ask at once.
    moments = sorted(float(at) for origin in origins for (at,) in origin.lines("connection"))
    answered = sum(outcome.word == "200" for outcome in load.since(down))
    assert (
        len(moments) <= checks + 3 + answered
    )  # a check each may have come before they were counted
    rush = max(sum(at <= other < at + 0.05 for other in moments) for at in moments)
    assert rush <= 3 + 2 * peak(load.since(down))
