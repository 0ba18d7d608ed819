"""One of three upstreams dies, or stops answering without dying.

Rules of this file: the settings are those that are named in a drill, else the defaults. Every
outcome is looked at, not only those of the bad moment.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.e2e.drills.conftest import only_what_could_not_be_saved_is_lost
from tests.kit.apps import READY
from tests.kit.fleet import before
from tests.kit.load import MIX, Load, quantile

if TYPE_CHECKING:
    from tests.kit.fleet import Fleet, Gateway, Origin

RATE = 150
PER_TRY = 0.5
FROZEN = {
    "retry": {"per_try": f"{PER_TRY}s", "on": ["connect", "reset_before_response", "first_byte"]},
    "eject": {"consecutive_failures": 3, "base": "5s"},
}
NOTICED = 3 * PER_TRY
"""Seconds that FROZEN promises: so many tries in a row, each as long as it may be."""
CHECKED = {
    "retry": {
        "per_try": "3s",
        "on": ["connect", "reset_before_response", "first_byte"],
        "budget": "100%",
    },
    "eject": "off",
    "health": {
        "path": READY,
        "interval": "500ms",
        "interval_down": "500ms",
        "timeout": "500ms",
        "rise": 1,
        "fall": 2,
    },
}
TOLD = 2 * (1.1 * 0.5 + 0.5)
"""Seconds that CHECKED promises: so many checks in a row, with their pauses (a tenth longer at most) and time-outs."""


async def tries(gateway: Gateway, origin: Origin) -> float:
    """Tries at this upstream that have come to an end."""
    return await gateway.metric("gateway_upstream_requests_total", target=origin.address)


async def test_killing_one_of_three_upstreams_fails_no_request_that_may_be_repeated(
    fleet: Fleet,
) -> None:
    """kill -9 to one of three upstreams under load: nothing fails but a POST without a key that was on its way."""
    origins = await fleet.origins("uvicorn", "uvicorn", "uvicorn")
    gateway = await fleet.gateway(before(origins))
    async with Load(gateway.address) as load:
        load.at(RATE, [ask.to("/wait/50") for ask in MIX])
        await asyncio.sleep(1.5)
        await origins[0].kill()
        killed = asyncio.get_running_loop().time()
        await asyncio.sleep(2.5)
    assert await gateway.metric("gateway_upstream_ejections_total", target=origins[0].address) == 1
    assert {each.origin for each in load.since(killed) if each.word == "200"} == {"b", "c"}
    await only_what_could_not_be_saved_is_lost(load, gateway, origins)


async def test_a_frozen_upstream_is_left_out_within_the_time_that_its_settings_promise(
    fleet: Fleet,
) -> None:
    """SIGSTOP to one of three with FROZEN: no GET fails, from twice NOTICED on none waits, and thawed it serves again."""
    origins = await fleet.origins("uvicorn", "uvicorn", "uvicorn")
    gateway = await fleet.gateway(before(origins, upstream=FROZEN))
    loop = asyncio.get_running_loop()
    async with Load(gateway.address) as load:
        load.at(RATE)
        await asyncio.sleep(1.5)
        origins[0].freeze()
        frozen = loop.time()
        await asyncio.sleep(2 * NOTICED)
        noticed = loop.time()
        asked = await tries(gateway, origins[0])
        await asyncio.sleep(1.5)
        assert await tries(gateway, origins[0]) == asked
        origins[0].thaw()
        thawed = loop.time()
        await asyncio.sleep(4)
    assert load.counts == {"200": load.sent}
    bad = [each for each in load.since(frozen) if each.began < noticed]
    good = [each for each in load.since(noticed) if each.began < thawed]
    assert quantile(bad, 1.0) >= PER_TRY  # it was bad indeed
    assert quantile(good, 0.99) < 2
    assert {each.origin for each in good} == {"b", "c"}
    assert {each.origin for each in load.since(thawed + 3)} == {"a", "b", "c"}


async def test_a_frozen_upstream_that_only_checks_can_tell_is_left_out_within_their_time(
    fleet: Fleet,
) -> None:
    """SIGSTOP to one of three with CHECKED: no GET fails, from twice TOLD on none waits, and thawed it serves again."""
    origins = await fleet.origins("uvicorn", "uvicorn", "uvicorn")
    gateway = await fleet.gateway(before(origins, upstream=CHECKED))
    loop = asyncio.get_running_loop()
    async with Load(gateway.address) as load:
        load.at(RATE / 3)
        await asyncio.sleep(1.5)
        origins[0].freeze()
        frozen = loop.time()
        await asyncio.sleep(2 * TOLD)
        noticed = loop.time()
        asked = await tries(gateway, origins[0])
        await asyncio.sleep(1.5)
        assert await tries(gateway, origins[0]) == asked
        origins[0].thaw()
        thawed = loop.time()
        await asyncio.sleep(3)
    assert load.counts == {"200": load.sent}
    bad = [each for each in load.since(frozen) if each.began < noticed]
    good = [each for each in load.since(noticed) if each.began < thawed]
    assert quantile(bad, 1.0) >= 3  # it was bad indeed
    assert quantile(good, 0.99) < 2
    assert {each.origin for each in good} == {"b", "c"}
    assert {each.origin for each in load.since(thawed + 2)} == {"a", "b", "c"}
    assert await gateway.metric("gateway_upstream_ejections_total") == 0
    checks = {"upstream": "up", "target": origins[0].address, "result": "timeout"}
    assert await gateway.metric("gateway_health_checks_total", **checks) >= 2
