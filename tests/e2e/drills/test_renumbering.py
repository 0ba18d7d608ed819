"""Upstreams whose addresses change under load.

Rules of this file: the name server is the test's own; each upstream has a loopback address.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.kit.dns import name_server
from tests.kit.fleet import arrivals, eventually
from tests.kit.load import MIX, Load

if TYPE_CHECKING:
    from tests.kit.fleet import Fleet

RATE = 80
NAME = ("app.drill", "A")


async def test_addresses_that_change_are_followed_and_the_last_good_ones_are_kept(
    fleet: Fleet,
) -> None:
    """With `refresh: 1s` old addresses are left for new ones within 2 s, no answer changes nothing, and no request fails."""
    hosts = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
    origins = await fleet.origins("uvicorn", "uvicorn", "uvicorn", hosts=hosts)
    old, both, new = origins
    async with name_server() as names:
        names.ttl = 1
        names.records[NAME] = [old.host, both.host]
        discover = {
            "dns": NAME[0],
            "port": old.port,
            "refresh": "1s",
            "nameservers": [names.address],
        }
        gateway = await fleet.gateway(
            {
                "routes": [{"path": "/*", "to": "up"}],
                "upstreams": {"up": {"discover": discover}},
            }
        )
        await eventually(lambda: bool(gateway.events("targets_changed")), "targets are found")
        async with Load(gateway.address) as load:
            load.at(RATE, [ask.to("/wait/20") for ask in MIX])
            await asyncio.sleep(1.5)
            assert {outcome.origin for outcome in load.outcomes} == {old.name, both.name}
            loop = asyncio.get_running_loop()
            seen = len(gateway.events("targets_changed"))
            names.records[NAME] = [both.host, new.host]
            changed = loop.time()
            await eventually(
                lambda: len(gateway.events("targets_changed")) > seen, "other targets are found"
            )
            assert loop.time() - changed < 4
            await asyncio.sleep(0.5)  # what was on its way to the old one is answered
            moved = loop.time()
            await old.stop()  # nobody asks it any more
            names.silent = True
            await asyncio.sleep(3)
            await load.settle()
            assert {outcome.origin for outcome in load.since(moved)} == {both.name, new.name}
    assert load.counts == {"200": load.sent}
    assert set(arrivals(origins).values()) == {1}
