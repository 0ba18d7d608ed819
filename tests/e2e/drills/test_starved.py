"""A gateway that gets too little of a processor.

Rules of this file: it is stopped and continued from outside, as a container's quota does it, so that no other program has
to burn the machine's time. What was refused is counted by the clients and by the gateway.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from tests.kit.fleet import before, eventually
from tests.kit.load import GET, Load

if TYPE_CHECKING:
    from tests.kit.fleet import Fleet, Gateway

RATE = 60
OVERLOAD = {"loop_lag": "250ms", "for": "1s", "shed": ["low"]}
STOPPED, GOES = 0.6, 0.15
"""Seconds of each round: the loop is late by the first, and has the second to catch up."""


async def starve(gateway: Gateway, rounds: int) -> None:
    for _ in range(rounds):
        gateway.signal(signal.SIGSTOP)
        await asyncio.sleep(STOPPED)
        gateway.signal(signal.SIGCONT)
        await asyncio.sleep(GOES)


async def test_a_starved_gateway_refuses_what_matters_least_and_answers_the_rest(
    fleet: Fleet,
) -> None:
    """With OVERLOAD and a loop that is late for 4 s, only `importance: low` is refused, with 503; calm again, nothing is."""
    (origin,) = await fleet.origins("raw")
    config = before([origin], route={"importance": "high"}, server={"overload": OVERLOAD})
    config["routes"].append({"name": "low", "path": "/low", "to": "up", "importance": "low"})
    gateway = await fleet.gateway(config)
    asks = [GET.to("/high"), GET.to("/low")]
    async with Load(gateway.address) as load:
        load.at(RATE, asks)
        await asyncio.sleep(1)
        await starve(gateway, 5)
        assert gateway.events("shed_on")
        await eventually(lambda: len(gateway.events("shed_off")) > 0, "it is calm again")
        await load.settle()
        hurt = len(load.outcomes)
        load.at(RATE, asks)
        await asyncio.sleep(1)
    refused = load.failed()
    assert {outcome.ask.path for outcome in refused} == {"/low"}
    assert {outcome.word for outcome in refused} == {"503 overloaded"}
    assert len(refused) > RATE / 2
    assert await gateway.metric("gateway_shed_total", route="low", importance="low") == len(refused)
    assert len(origin.asked()) == load.sent - len(refused)  # for what is refused nobody is asked
    assert {outcome.word for outcome in load.outcomes[hurt:]} == {"200"}
