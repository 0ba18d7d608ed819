"""Answers that end too early, come too slowly or come too fast.

Rules of this file: the upstream is the one that misbehaves on command; the gateway is a process.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.kit.fleet import before, eventually
from tests.kit.load import GET, POST, Load

if TYPE_CHECKING:
    from tests.kit.fleet import Fleet

MIB = 1024 * 1024


async def test_a_truncated_reply_never_looks_whole_and_is_never_asked_for_again(
    fleet: Fleet,
) -> None:
    """Every client of a reply that ends too early sees that it did, and no upstream is asked twice."""
    (origin,) = await fleet.origins("raw")
    gateway = await fleet.gateway(before([origin]))
    async with Load(gateway.address) as load:
        for ways, how in enumerate(("length", "chunked", "reset"), 1):
            await origin.tell(f"truncate {how}")
            await load.burst(20, [GET, POST])
            assert load.counts == {"cut": 20 * ways}, how
        assert len(origin.asked()) == 60
        await origin.tell("ok")
        await load.burst(20, [GET, POST])
    assert load.counts == {"cut": 60, "200": 20}
    assert await gateway.metric("gateway_errors_total", reason="upstream_reset") == 60
    assert await gateway.metric("gateway_retries_total") == 0


async def test_a_reply_that_comes_slowly_is_not_cut_while_it_comes_and_is_when_it_stands_still(
    fleet: Fleet,
) -> None:
    """`timeouts.idle: 2s` lets a reply of 4 s through whole and cuts one that stops, within 4 s."""
    slow, still = await fleet.origins("raw", "raw")
    routes = [{"path": f"/{each.name}/*", "to": each.url} for each in (slow, still)]
    gateway = await fleet.gateway({"routes": routes, "defaults": {"timeouts": {"idle": "2s"}}})
    await slow.tell("trickle 5 0.8")
    await still.tell("stall 500")
    async with Load(gateway.address) as load:
        await load.burst(10, [GET.to("/a/"), GET.to("/b/")])
    assert load.counts == {"200": 5, "cut": 5}
    assert {outcome.ask.path for outcome in load.failed()} == {"/b/"}
    assert all(2 <= outcome.took < 4 for outcome in load.failed())
    assert await gateway.metric("gateway_errors_total", reason="upstream_body_timeout") == 5


async def test_a_client_that_does_not_wait_for_its_reply_leaves_nothing_behind(
    fleet: Fleet,
) -> None:
    """The upstream of a client that has left is let go at once, and the others notice nothing."""
    (origin,) = await fleet.origins("raw")
    gateway = await fleet.gateway(before([origin]))
    await origin.tell("delay 8")
    async with Load(gateway.address, patience=2) as leaving:
        await leaving.burst(20, [GET, POST])
    assert leaving.counts == {"late": 20}
    await origin.tell("delay 0")
    async with Load(gateway.address) as load:
        await load.burst(20, [GET, POST])
        assert load.counts == {"200": 20}
    assert await gateway.metric("gateway_errors_total", reason="client_closed") == 20
    assert await gateway.metric("gateway_retries_total") == 0
    assert len(origin.asked()) == 40
    assert await gateway.metric("gateway_upstream_connections", state="active") == 0


async def test_a_client_that_is_slower_than_its_reply_costs_no_memory(fleet: Fleet) -> None:
    """Ten replies of 64 MiB to clients that do not read cost the gateway less than one of them."""
    (origin,) = await fleet.origins("raw")
    gateway = await fleet.gateway(before([origin]))
    await origin.tell(f"large {64 * MIB}")
    host, _, port = gateway.address.rpartition(":")
    memory = gateway.memory()
    writers = []
    for _ in range(10):
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writers.append(writer)
        writer.write(b"GET / HTTP/1.1\r\nHost: drill\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
    await eventually(lambda: len(origin.asked()) == 10, "all are being answered")
    await origin.tell("ok")
    async with Load(gateway.address) as load:
        await load.burst(200)  # what the others could read has been read
    assert load.counts == {"200": 200}
    assert gateway.memory() - memory < 64 * MIB
    for writer in writers:
        writer.transport.abort()
