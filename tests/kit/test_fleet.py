"""The fleet and the load themselves, without a gateway between: a drill sees every failure there is."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest_asyncio

from tests.kit.fleet import Fleet, arrivals
from tests.kit.load import GET, KEYED, MIX, POST, Load, quantile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest_asyncio.fixture
async def fleet(_watch: None, tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    await fleet.close()


async def test_every_way_in_which_a_request_can_fail_is_counted(fleet: Fleet) -> None:
    (origin,) = await fleet.origins("raw")
    async with Load(origin.address, patience=0.5) as load:
        await load.burst(3, [GET, POST, KEYED])
        await origin.tell("truncate length")
        await load.burst(4)
        await origin.tell("stall 10")
        await load.burst(6)
        await origin.tell("ok")
        await origin.tell("status 503")
        await load.burst(7)
    assert load.counts == {"200": 3, "cut": 4, "late": 6, "503": 7}
    assert len(load.failed()) == 17
    assert load.failed(repeatable=False) == []
    assert sorted(map(int, origin.asked())) == list(range(1, load.sent + 1))
    await origin.tell("slam")
    async with Load(origin.address) as load:
        await load.burst(5, [POST])
    assert load.counts["closed"] + load.counts["refused"] == len(load.failed()) == 5
    await origin.kill()
    async with Load(origin.address) as load:
        await load.burst(8)
    assert load.counts == {"refused": 8}


async def test_a_port_is_kept_through_a_death_and_refuses_meanwhile(fleet: Fleet) -> None:
    for kind in ("raw", "uvicorn", "gthread"):
        (origin,) = await fleet.origins(kind)
        address = origin.address
        for word in ("200", "refused", "200"):
            async with Load(address) as load:
                await load.burst(3)
            assert load.counts == {word: 3}
            if word == "200":
                await origin.kill()
            else:
                await origin.start()
        assert len(origin.asked()) == 6


async def test_a_frozen_process_takes_connections_and_answers_once_it_goes_on(
    fleet: Fleet,
) -> None:
    (origin,) = await fleet.origins("sync")
    async with Load(origin.address) as load:
        origin.freeze()
        load.at(50)
        await asyncio.sleep(1)
        assert load.sent > 25
        assert load.counts == {}
        origin.thaw()
    assert load.counts == {"200": load.sent}
    assert quantile(load.outcomes, 1.0) > 0.5


async def test_what_was_sent_twice_is_found(fleet: Fleet) -> None:
    (origin,) = await fleet.origins("raw")
    async with Load(origin.address) as load:
        await load.burst(len(MIX), MIX)
        once = [outcome.number for outcome in load.outcomes if not outcome.ask.repeatable]
        assert load.sent_twice(arrivals([origin])) == []
        twice = arrivals([origin]) + arrivals([origin])
        assert twice == Counter({str(number): 2 for number in range(1, len(MIX) + 1)})
        assert load.sent_twice(twice) == once
    assert len(once) == 1
