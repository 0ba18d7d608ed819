"""Which target a request goes to: balancers, hash keys, backups, slow start; seen from upstreams.

Rules of this file: what is drawn at random is asked so often that a wrong outcome by luck does not
happen in the lifetime of a project.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gateway.config import load_dict
from tests.e2e.conformance.conftest import get
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin, Peer
    from tests.kit.raw import Client
    from tests.kit.running import Running


async def ask_often(client: Client, times: int, *lines: bytes, target: bytes = b"/") -> None:
    """As many requests, one after the other."""
    for _ in range(times):
        assert (await client.ask(get(target, *lines))).status == 200


def counts(*origins: Origin) -> list[int]:
    return [len(one.requests) for one in origins]


def who(origins: list[Origin], before: list[int]) -> list[int]:
    """Which of the origins have been asked since."""
    return [at for at, one in enumerate(origins) if len(one.requests) > before[at]]


async def dies(origin: Origin) -> None:
    await origin.refuse()
    await origin.hang_up()


async def hangs(peer: Peer) -> None:
    await peer.request()
    await peer.rest()


async def sent(raw: MakeClient, running: Running, origins: list[Origin], *lines: bytes) -> None:
    """One request that nobody answers has arrived somewhere."""
    before = sum(counts(*origins))
    await (await raw(running)).send(get(b"/", *lines))
    async with asyncio.timeout(PATIENCE):
        while sum(counts(*origins)) == before:
            await asyncio.sleep(0.01)


async def changed(running: Running, urls: list[Any], **words: Any) -> None:
    """The upstream gets other targets and settings by a reload."""
    config = {
        "listeners": [{"bind": "127.0.0.1:0"}],
        "admin": "off",
        "observability": {"access_log": "off"},
        "routes": [{"name": "all", "path": "/*", "to": "up"}],
        "upstreams": {"up": {"targets": urls, **words}},
    }
    await running.gateway.reload(load_dict(config))


# ── balancers ──


@pytest.mark.parametrize("balance", ["random", "least_requests"])
async def test_a_balancer_reaches_all_targets_by_weight(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, balance: str
) -> None:
    many, few = await origin(), await origin()
    targets = [{"url": many.url, "weight": 9}, {"url": few.url}]
    running = await gateway(many, upstream={"targets": targets, "balance": balance})
    await ask_often(await raw(running), 200)
    assert len(many.requests) > 100
    assert few.requests
    if balance == "least_requests":
        assert counts(many, few) == [180, 20], "idle targets take turns"


async def test_least_requests_fills_targets_evenly_with_requests_that_do_not_end(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    origins = [await origin(hangs) for _ in range(3)]
    targets = [{"url": one.url, "weight": 1 + at // 2} for at, one in enumerate(origins)]
    running = await gateway(origins[0], upstream={"targets": targets, "balance": "least_requests"})
    for _ in range(8):
        await sent(raw, running, origins)
    assert counts(*origins) == [2, 2, 4]


# ── by key ──


KEYS = {
    "{header.x-user}": lambda value: ((b"X-User: " + value,), b"/"),
    "{cookie.id}": lambda value: ((b"Cookie: a=b; id=" + value,), b"/"),
    "{client_ip}": lambda value: ((b"X-Forwarded-For: 10.0.0." + value,), b"/"),
    "{path.id}": lambda value: ((), b"/users/" + value),
    "{query.q}": lambda value: ((), b"/?q=" + value),
}


@pytest.mark.parametrize("key", KEYS)
async def test_the_same_key_always_goes_to_the_same_target(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, key: str
) -> None:
    origins = [await origin() for _ in range(3)]
    running = await gateway(
        {
            "server": {"trusted_proxies": ["127.0.0.0/8"]},
            "routes": [{"path": "/users/{id}" if "path" in key else "/*", "to": "up"}],
            "upstreams": {
                "up": {"targets": [one.url for one in origins], "balance": f"hash:{key}"}
            },
        }
    )
    clients = [await raw(running) for _ in range(2)]
    homes = set()
    for number in range(30):
        lines, target = KEYS[key](b"%d" % number)
        before = counts(*origins)
        for client in clients:
            await ask_often(client, 2, *lines, target=target)
        [home] = who(origins, before)
        homes.add(home)
    assert homes == {0, 1, 2}, "once in 60,000 runs one of three is not among 30 homes"


async def test_another_gateway_and_another_run_choose_the_same_targets(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    origins = [await origin() for _ in range(4)]
    words = {"balance": "hash:{header.x-user}"}
    upstream = {"targets": [one.url for one in origins], **words}
    turned = {"targets": [one.url for one in reversed(origins)], **words}
    clients = [
        await raw(await gateway(origins[0], upstream=settings)) for settings in (upstream, turned)
    ]
    for number in range(20):
        before = counts(*origins)
        for client in clients:
            await ask_often(client, 1, b"X-User: %d" % number)
        assert len(who(origins, before)) == 1


async def test_keys_of_a_target_that_is_dead_go_elsewhere_and_all_others_stay(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    origins = [await origin() for _ in range(3)]
    urls = [one.url for one in origins]
    running = await gateway(
        origins[0],
        upstream={"targets": urls, "balance": "hash:{header.x-user}"},
        route={"retry": {"budget": "100%"}},
    )
    client = await raw(running)

    async def homes() -> list[int]:
        found = []
        for number in range(30):
            before = counts(*origins)
            await ask_often(client, 1, b"X-User: %d" % number)
            found += who(origins, before)
        return found

    first = await homes()
    await dies(origins[1])
    second = await homes()
    assert 1 not in second
    assert all(now == old for old, now in zip(first, second, strict=True) if old != 1)
    await changed(running, [urls[0], urls[2]], balance="hash:{header.x-user}")
    assert await homes() == second, "gone or dead: the same ones take over"


async def test_a_key_that_everybody_asks_for_does_not_overload_its_target(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    origins = [await origin(hangs) for _ in range(3)]
    urls = [one.url for one in origins]
    running = await gateway(
        origins[0], upstream={"targets": urls, "balance": "hash:{header.x-user}"}
    )
    for _ in range(12):
        await sent(raw, running, origins, b"X-User: ann")
    assert max(counts(*origins)) == 5, "1.25 times a third of twelve"
    assert min(counts(*origins)) > 0


async def test_requests_without_the_key_are_spread(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    origins = [await origin() for _ in range(3)]
    urls = [one.url for one in origins]
    running = await gateway(
        origins[0], upstream={"targets": urls, "balance": "hash:{header.x-user}"}
    )
    await ask_often(await raw(running), 100)
    assert min(counts(*origins)) > 0


# ── backups ──


async def test_a_backup_serves_only_while_no_primary_does(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    primary, other, spare = await origin(), await origin(), await origin()
    targets = [primary.url, other.url, {"url": spare.url, "backup": True}]
    health = {"path": "/ok", "interval": "10s", "fall": 1, "rise": 1}
    running = await gateway(primary, upstream={"targets": targets, "health": health})
    client = await raw(running)

    def served() -> list[int]:
        return [
            sum(message.target == b"/" for message in one.requests)
            for one in (primary, other, spare)
        ]

    async def until(*up: bool) -> None:
        async with asyncio.timeout(PATIENCE):
            while [target.healthy for target in targets_of(running)] != list(up):
                running.clock.advance(2.0)
                await asyncio.sleep(0.02)

    await until(True, True, True)
    await ask_often(client, 50)
    assert served()[2] == 0
    await dies(primary)
    await dies(other)
    await until(False, False, True)
    before = served()
    await ask_often(client, 20)
    assert served() == [before[0], before[1], 20]
    primary.bind()
    await until(True, False, True)
    await ask_often(client, 20)
    assert served() == [before[0] + 20, before[1], 20]


def targets_of(running: Running) -> Any:
    source = running.gateway.metrics.upstream("up").source
    assert source is not None
    return source.targets


async def test_a_backup_saves_a_request_whose_only_primary_has_just_died(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    primary, spare = await origin(), await origin()
    targets = [primary.url, {"url": spare.url, "backup": True}]
    running = await gateway(primary, upstream={"targets": targets})
    await dies(primary)
    await ask_often(await raw(running), 3)
    assert counts(primary, spare) == [0, 3]


# ── slow start ──


async def test_a_target_that_comes_later_gets_its_share_bit_by_bit(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    old, new = await origin(), await origin()
    words = {"balance": "round_robin", "slow_start": "100s"}
    running = await gateway(old, upstream=words)
    client = await raw(running)
    await ask_often(client, 10)
    await changed(running, [old.url, new.url], **words)
    shares = []
    for _ in range(5):
        before = counts(new)[0]
        await ask_often(client, 44)
        shares.append(counts(new)[0] - before)
        running.clock.advance(25.0)
    assert 3 <= shares[0] <= 5, "a tenth of the other's"
    assert shares == sorted(shares)
    assert shares[2] in range(13, 17), "half of the other's"
    assert shares[4] == 22


async def test_without_slow_start_a_new_target_gets_its_whole_share_at_once(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    old, new = await origin(), await origin()
    running = await gateway(old, upstream={"balance": "round_robin"})
    await changed(running, [old.url, new.url], balance="round_robin")
    await ask_often(await raw(running), 40)
    assert counts(old, new) == [20, 20]
