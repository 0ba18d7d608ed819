"""A circuit that opens, is tried, and closes.

Rules of this file: what was let through is counted at the upstream.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING

from tests.kit.fleet import PATIENCE, before
from tests.kit.load import Load

if TYPE_CHECKING:
    from tests.kit.fleet import Fleet

CIRCUIT = {
    "error_ratio": 0.5,
    "min_requests": 10,
    "window": "10s",
    "open": "2s",
    "half_open_requests": 3,
}


async def test_a_half_open_circuit_lets_through_as_many_as_it_says_whoever_comes_at_once(
    fleet: Fleet,
) -> None:
    """Of fifty requests at once a half-open circuit sends three; if they fail none for `open: 2s`, if they succeed all."""
    (origin,) = await fleet.origins("raw")
    gateway = await fleet.gateway(before([origin], upstream={"circuit": CIRCUIT}))
    async with Load(gateway.address) as load:

        async def burst(count: int) -> tuple[dict[str, int], int]:
            """Outcomes, and how many requests arrived."""
            origin.forget()
            before = load.counts
            await load.burst(count)
            return dict(load.counts - before), len(origin.asked())

        async def half_open() -> None:
            """Wait until it lets trials through: at `open` after it opened, and not before."""
            async with asyncio.timeout(PATIENCE):
                while await gateway.metric("gateway_circuit_state", upstream="up") != 1:
                    await asyncio.sleep(0.05)
            opened, half = (
                gateway.events(f"circuit_{word}")[-1] for word in ("opened", "half_open")
            )
            moments = [datetime.fromisoformat(event["time"]) for event in (opened, half)]
            assert 1.9 < (moments[1] - moments[0]).total_seconds() < 4

        await origin.tell("status 503")
        for _ in range(10):
            await load.burst(1)
        assert await gateway.metric("gateway_circuit_state", upstream="up") == 2
        assert await burst(50) == ({"503 circuit_open": 50}, 0)

        await origin.tell("delay 2")  # all fifty are here before the first of them is answered
        await half_open()
        assert await burst(50) == ({"503": 3, "503 circuit_open": 47}, 3)
        assert await burst(50) == ({"503 circuit_open": 50}, 0)

        await origin.tell("status 200")
        await half_open()
        assert await burst(50) == ({"200": 3, "503 circuit_open": 47}, 3)
        await origin.tell("delay 0")
        assert await burst(50) == ({"200": 50}, 50)
    assert await gateway.metric("gateway_circuit_state", upstream="up") == 0
    assert await gateway.metric("gateway_errors_total", reason="circuit_open") == 194
