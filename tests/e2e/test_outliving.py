"""What is known of targets outlives a reload, and changed thresholds count at once.

Rules of this file: every reload changes something of the upstream, so that it is not the very same
configuration that goes on; what is known is told by what clients and upstreams see.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gateway.config import load_dict
from tests.e2e.conformance.conftest import get, post, problem
from tests.kit.origin import OK, reply
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin, Peer
    from tests.kit.raw import Client
    from tests.kit.running import Running

BUSY = reply(b"", status=b"503 Busy")
SECRET = "a secret that is long enough for anything"


def written(*origins: Origin, **upstream: Any) -> dict[str, Any]:
    """A route to these targets that tries each request once, unless said otherwise."""
    settings = {"targets": [one.url for one in origins], "retry": "off", **upstream}
    return {
        "listeners": [{"bind": "127.0.0.1:0"}],
        "admin": "off",
        "server": {"secret": SECRET},
        "routes": [{"name": "all", "path": "/*", "to": "up"}],
        "upstreams": {"up": settings},
    }


async def reload(running: Running, *origins: Origin, **upstream: Any) -> None:
    generation = running.gateway.generation
    await running.gateway.reload(load_dict(written(*origins, **upstream)))
    assert running.gateway.generation == generation + 1


async def statuses(client: Client, times: int) -> list[int]:
    return [(await client.ask(post())).status for _ in range(times)]


async def until(fact: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not fact():
            await asyncio.sleep(0.005)


def kinds(running: Running) -> list[str]:
    return [event.kind for event in running.gateway.events.select(upstream="up")]


# ── who is alive ──


async def test_failures_in_a_row_are_counted_on_and_another_threshold_counts_at_once(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    bad, well = await origin(BUSY), await origin()
    running = await gateway(written(bad, well, eject={"consecutive_failures": 9}, balance="random"))
    client = await raw(running)
    while len(bad.requests) < 2:
        await client.ask(post())
    await reload(running, bad, well, eject={"consecutive_failures": 3}, balance="random")
    assert kinds(running) == []
    while len(bad.requests) < 3:
        await client.ask(post())
    assert kinds(running) == ["ejected"]
    assert await statuses(client, 30) == [200] * 30


async def test_an_ejection_lasts_through_a_reload_and_no_longer_than_the_new_maximum(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    bad, well = await origin(BUSY), await origin()
    eject = {"consecutive_failures": 1, "base": "60s"}
    running = await gateway(written(bad, well, eject=eject, balance="round_robin"))
    client = await raw(running)
    assert sorted(await statuses(client, 4)) == [200, 200, 200, 503]
    await reload(running, bad, well, eject={**eject, "window": "20s"}, balance="round_robin")
    running.clock.advance(20)
    assert await statuses(await raw(running), 10) == [200] * 10
    short = {**eject, "base": "30s", "max": "30s"}
    await reload(running, bad, well, eject=short, balance="round_robin")
    assert kinds(running) == ["ejected"]
    running.clock.advance(10.1)
    assert kinds(running) == ["ejected", "restored"]


async def test_failed_checks_are_counted_on_and_another_fall_counts_at_once(
    origin: MakeOrigin, gateway: MakeGateway
) -> None:
    up, other = await origin(BUSY), await origin()
    health = {"path": "/up", "interval": "10s", "interval_down": "10s"}
    running = await gateway(written(up, other, health={**health, "fall": 9}))
    result = {"result": "fail", "target": up.address}
    for number in (1, 2):
        await running.eventually("gateway_health_checks_total", number, **result)
        if number == 1:
            running.clock.advance(11.5)
    await reload(running, up, other, health={**health, "fall": 3})
    assert len(up.requests) == 2, "a reload is no reason to ask at once"
    assert running.metric("gateway_upstream_target_up", target=up.address) == 1
    running.clock.advance(11.5)
    await running.eventually("gateway_upstream_target_up", 0, target=up.address)
    assert len(up.requests) == 3


@pytest.mark.parametrize("scope", ["target", "upstream"])
async def test_an_open_circuit_stays_open_and_another_time_counts_at_once(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, scope: str
) -> None:
    up = await origin([BUSY] * 4 + [OK])
    circuit = {"scope": scope, "min_requests": 4, "open": "60s", "half_open_requests": 1}
    running = await gateway(written(up, circuit=circuit))
    client = await raw(running)
    assert await statuses(client, 4) == [503] * 4
    await reload(running, up, circuit={**circuit, "open": "5s"})
    problem(await client.ask(post()), "circuit_open", 503)
    assert len(up.requests) == 4
    running.clock.advance(5.1)
    assert running.metric("gateway_circuit_state") == 1
    assert (await (await raw(running)).ask(post())).status == 200
    assert kinds(running) == ["circuit_opened", "circuit_half_open", "circuit_closed"]


async def test_what_a_circuit_has_counted_counts_on_and_another_threshold_at_once(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(BUSY)
    running = await gateway(written(up, circuit={"min_requests": 20}))
    client = await raw(running)
    assert await statuses(client, 3) == [503] * 3
    await reload(running, up, circuit={"min_requests": 4})
    assert await statuses(client, 3) == [503] * 3
    assert len(up.requests) == 4
    assert kinds(running) == ["circuit_opened"]


async def test_panic_changes_with_a_reload(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    bad, well = await origin(BUSY), await origin()
    eject = {"consecutive_failures": 1}
    running = await gateway(written(bad, well, eject=eject, panic="off"))
    client = await raw(running)
    while not kinds(running):
        await client.ask(post())
    assert await statuses(client, 20) == [200] * 20
    await reload(running, bad, well, eject=eject, panic="60%")
    assert kinds(running) == ["ejected", "panic_on"]
    assert 503 in await statuses(client, 40)  # none of forty: once in a million million runs
    await reload(running, bad, well, eject=eject, panic="10%")
    assert kinds(running)[-1] == "panic_off"
    assert await statuses(client, 20) == [200] * 20


# ── who gets the next request ──


async def test_ewma_remembers_who_was_slow(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def slow(peer: Peer) -> None:
        while True:
            await peer.request()
            await asyncio.sleep(1)
            await peer.send(OK)

    late, soon = await origin(slow), await origin()
    running = await gateway(written(late, soon, balance="ewma"))
    client = await raw(running)
    assert await statuses(client, 20) == [200] * 20
    assert len(late.requests) == 1
    await reload(running, late, soon, balance="ewma", panic="40%")
    assert await statuses(client, 20) == [200] * 20
    assert len(late.requests) == 1, "asked again, as if it were not known"


@pytest.mark.parametrize("how", ["cookie", "hash"])
async def test_a_client_keeps_its_target(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, how: str
) -> None:
    origins = [await origin() for _ in range(4)]
    keys: dict[str, Any] = (
        {"sticky": {"cookie": "gw"}} if how == "cookie" else {"balance": "hash:{header.x-user}"}
    )
    running = await gateway(written(*origins, **keys))
    client = await raw(running)

    async def home(line: bytes) -> tuple[int, list[bytes]]:
        before = [len(one.requests) for one in origins]
        answer = await client.ask(get(b"/", line))
        [found] = [at for at, one in enumerate(origins) if len(one.requests) > before[at]]
        return found, answer.all("set-cookie")

    homes = {}
    for number in range(20):
        line = b"X-User: %d" % number
        found, given = await home(line)
        if how == "cookie":
            line = b"Cookie: " + given[0].partition(b";")[0]
        homes[line] = found
    await reload(running, *reversed(origins), panic="40%", **keys)
    assert {line: await home(line) for line in homes} == {
        line: (found, []) for line, found in homes.items()
    }


async def test_slow_start_goes_on_where_it_was_and_another_length_counts_at_once(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    old, new = await origin(), await origin()
    words = {"balance": "round_robin"}
    running = await gateway(written(old, slow_start="100s", **words))
    await reload(running, old, new, slow_start="100s", **words)
    running.clock.advance(50.5)
    await reload(running, old, new, slow_start="100s", panic="40%", **words)
    client = await raw(running)
    assert await statuses(client, 30) == [200] * 30
    assert len(new.requests) == 10, "half of its share, so one for two of the other's"
    await reload(running, old, new, slow_start="10s", **words)
    assert await statuses(client, 20) == [200] * 20
    assert len(new.requests) == 20


# ── what they bear, and what is spent ──


async def test_connections_of_a_target_that_stays_are_used_again_and_their_number_may_change(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up, other = await origin(), await origin()
    running = await gateway(written(up))
    client = await raw(running)
    await client.ask(post())
    await reload(running, up, other, pool={"max": 7}, timeouts={"connect": "1s"})
    for _ in range(20):
        await client.ask(post())
    assert len(up.requests) > 1
    assert len(up.connections) == len(other.connections) == 1


async def test_an_idle_time_that_was_learnt_is_kept(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(written(up, pool={"idle": "4s"}))

    def kept_for() -> float:
        [upstream] = running.gateway._resources.of("upstream")
        found: float = upstream.targets[0].connections.patience.keep_for
        return found

    client = await raw(running)
    await client.ask(post())
    running.clock.offset += 2  # the target has waited for so long, and now has no more patience
    await up.hang_up()
    await until(lambda: kept_for() < 2)
    learnt = kept_for()
    await reload(running, up, pool={"idle": "4s", "max": 9})
    assert kept_for() == learnt
    await reload(running, up, pool={"idle": "500ms", "max": 9})
    assert kept_for() == 0.5


async def test_an_adaptive_limit_that_was_found_is_kept(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(written(up, concurrency={"adaptive": "report"}))
    client = await raw(running)
    assert running.metric("gateway_concurrency_limit", target=up.address) == 3
    async with asyncio.timeout(PATIENCE):
        while running.metric("gateway_concurrency_limit", target=up.address) == 3:
            clients = [await raw(running) for _ in range(4)]
            for each in (client, *clients):
                await each.send(post())
            for each in (client, *clients):
                assert (await each.response()).status == 200
            running.clock.advance(0.3)
    found = running.metric("gateway_concurrency_limit", target=up.address)
    await reload(running, up, concurrency={"adaptive": "enforce", "queue": 5})
    assert running.metric("gateway_concurrency_limit", target=up.address) == found


async def test_a_budget_that_is_spent_is_spent(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(BUSY)
    retry = {"on": ["503"]}
    running = await gateway(written(up, retry=retry))
    client = await raw(running)
    for _ in range(3):
        await client.ask(get())
    assert len(up.requests) == 6
    await reload(running, up, retry={**retry, "per_try": "1s"})
    await client.ask(get())
    assert len(up.requests) == 7
    assert running.metric("gateway_retry_budget_exhausted_total") == 1
    await reload(running, up, retry={**retry, "budget": "off"})
    await client.ask(get())
    assert len(up.requests) == 9
