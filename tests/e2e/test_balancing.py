"""Which target a request goes to: balancers, hash keys, backups, slow start; seen from upstreams.

Rules of this file: what is drawn at random is asked so often that a wrong outcome by luck does not
happen in the lifetime of a project.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gateway.config import load_dict
from tests.e2e.conformance.conftest import get, problem
from tests.kit.origin import OK, reply
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin, Peer
    from tests.kit.raw import Client
    from tests.kit.running import Running


HEALTH = {"path": "/health", "fall": 1, "rise": 1}


async def ask_often(client: Client, times: int, *lines: bytes, target: bytes = b"/") -> None:
    """As many requests, one after the other."""
    for _ in range(times):
        assert (await client.ask(get(target, *lines))).status == 200


def counts(*origins: Origin) -> list[int]:
    """Requests of clients that each has seen."""
    return [sum(message.target != b"/health" for message in one.requests) for one in origins]


def who(origins: list[Origin], before: list[int]) -> list[int]:
    """Which of the origins have been asked since."""
    return [at for at, count in enumerate(counts(*origins)) if count > before[at]]


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


async def test_ewma_leaves_the_target_that_answers_slowly(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def slow(peer: Peer) -> None:
        while True:
            await peer.request()
            await asyncio.sleep(1)
            await peer.send(OK)

    late, soon = await origin(slow), await origin()
    targets = [{"url": late.url, "weight": 3}, soon.url]
    running = await gateway(late, upstream={"targets": targets, "balance": "ewma"})
    client = await raw(running)
    await ask_often(client, 40)
    assert len(late.requests) == 1, "its first answer says enough"
    running.clock.advance(120)
    await ask_often(await raw(running), 10)
    assert len(late.requests) == 2, "it is asked again after a while"


async def test_ewma_leaves_the_target_that_fails_at_once(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    bad, good = await origin(reply(status=b"503 No")), await origin()
    upstream = {"targets": [bad.url, good.url], "balance": "ewma", "eject": "off"}
    running = await gateway(bad, upstream=upstream)
    client = await raw(running)
    statuses = [(await client.ask(get())).status for _ in range(40)]
    assert statuses.count(503) == len(bad.requests) == 1


# ── panic ──


@pytest.mark.parametrize("panic", ["50%", "off"])
async def test_with_most_targets_ejected_all_are_asked_again_unless_panic_is_off(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, panic: str
) -> None:
    bad = [await origin(reply(status=b"503 No")) for _ in range(2)]
    good = await origin()
    running = await gateway(
        good,
        upstream={
            "targets": [one.url for one in (*bad, good)],
            "balance": "round_robin",
            "eject": {"consecutive_failures": 1, "max_percent": 100},
            "panic": panic,
        },
    )
    client = await raw(running)
    for _ in range(3):
        await client.ask(get())
    assert [bool(target.ejected_until) for target in targets_of(running)] == [True, True, False]
    statuses = [(await client.ask(get())).status for _ in range(12)]
    kinds = [event.kind for event in running.gateway.events.select()]
    if panic == "off":
        assert statuses == [200] * 12
        assert "panic_on" not in kinds
    else:
        assert statuses.count(503) == 8
        assert kinds[-1] == "panic_on"


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
    running = await gateway(primary, upstream={"targets": targets, "health": HEALTH})
    client = await raw(running)

    async def until(*up: bool) -> None:
        async with asyncio.timeout(PATIENCE):
            while [target.healthy for target in targets_of(running)] != list(up):
                running.clock.advance(2.0)
                await asyncio.sleep(0.02)

    await until(True, True, True)
    await ask_often(client, 50)
    assert counts(spare) == [0]
    await dies(primary)
    await dies(other)
    await until(False, False, True)
    before = counts(primary, other, spare)
    await ask_often(client, 20)
    assert counts(primary, other, spare) == [before[0], before[1], 20]
    primary.bind()
    await until(True, False, True)
    await ask_often(client, 20)
    assert counts(primary, other, spare) == [before[0] + 20, before[1], 20]


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


# ── subsets and splits ──


async def test_a_branch_takes_the_targets_that_bear_its_labels_and_the_rest_the_others(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    plain, old, new = await origin(), await origin(), await origin()
    targets = [
        plain.url,
        {"url": old.url, "labels": {"version": "v1"}},
        {"url": new.url, "labels": {"version": "v2", "zone": "a"}},
    ]
    route = {
        "to": None,
        "split": [
            {"upstream": "up", "weight": 1},
            {"upstream": "up", "labels": {"version": "v2"}, "weight": 1},
        ],
    }
    running = await gateway(plain, route=route, upstream={"targets": targets})
    await ask_often(await raw(running), 200)
    # Half of 200 are 100: 50 or fewer come once in a million million runs.
    assert counts(new)[0] in range(50, 150)
    assert min(counts(plain, old)) > 10


async def test_a_branch_whose_targets_are_down_says_so_and_the_others_go_on(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    stable, canary = await origin(), await origin()
    targets = [stable.url, {"url": canary.url, "labels": {"version": "v2"}}]
    split = [
        {"upstream": "up", "weight": 1},
        {"upstream": "up", "labels": {"version": "v2"}, "weight": 1, "sticky_by": "header.x-user"},
    ]
    running = await gateway(
        stable,
        route={"to": None, "split": split},
        upstream={"targets": targets, "health": HEALTH},
    )
    client = await raw(running)
    answers = []
    for _ in range(2):
        answers.append(
            [(await client.ask(get(b"/", b"X-User: %d" % number))).status for number in range(20)]
        )
        if len(answers) == 1:
            await dies(canary)
            async with asyncio.timeout(PATIENCE):
                while targets_of(running)[1].healthy:
                    running.clock.advance(2.0)
                    await asyncio.sleep(0.02)
    assert set(answers[0]) == {200}
    assert set(answers[1]) == {200, 503}
    again = [(await client.ask(get(b"/", b"X-User: %d" % number))).status for number in range(20)]
    assert again == answers[1], "the same clients, since the split is by hash"
    number = answers[1].index(503)
    problem(await client.ask(get(b"/", b"X-User: %d" % number)), "no_healthy_target", 503)


async def test_whoever_is_a_canary_stays_one_through_a_reload_that_makes_more_of_them(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    stable, canary = await origin(), await origin()

    def config(weight: int) -> dict[str, Any]:
        split = [
            {"upstream": "stable", "weight": 100 - weight, "sticky_by": "cookie.id"},
            {"upstream": "next", "weight": weight},
        ]
        return {
            "listeners": [{"bind": "127.0.0.1:0"}],
            "admin": "off",
            "observability": {"access_log": "off"},
            "routes": [{"name": "r", "path": "/*", "split": split}],
            "upstreams": {"stable": [stable.url], "next": [canary.url]},
        }

    running = await gateway(config(10))
    client = await raw(running)

    async def canaries() -> set[int]:
        found = set()
        for number in range(100):
            before = counts(canary)[0]
            await ask_often(client, 1, b"Cookie: id=%d" % number)
            if counts(canary)[0] > before:
                found.add(number)
        return found

    first = await canaries()
    assert 0 < len(first) < 30
    assert await canaries() == first
    await running.gateway.reload(load_dict(config(50)))
    assert first < await canaries()


# ── cookies ──

SECRET = "a secret that is long enough for anything"


def cookie(answer: Any) -> bytes:
    [line] = answer.all("set-cookie")
    name, _, value = line.partition(b";")[0].partition(b"=")
    assert name == b"gw"
    return b"Cookie: gw=" + value


async def test_a_client_stays_with_its_target_by_a_cookie_that_it_is_given_once(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    origins = [await origin() for _ in range(3)]
    urls = [one.url for one in origins]
    running = await gateway(
        origins[0],
        upstream={"targets": urls, "sticky": {"cookie": "gw", "ttl": "1h"}},
        server={"secret": SECRET},
    )
    client = await raw(running)
    for _ in range(10):
        before = counts(*origins)
        answer = await client.ask(get())
        mine = cookie(answer)
        [home] = who(origins, before)
        assert origins[home].address.encode() not in mine
        before = counts(*origins)
        for _ in range(5):
            answer = await client.ask(get(b"/", mine))
            assert answer.all("set-cookie") == []
        assert who(origins, before) == [home]
    [line] = (await client.ask(get())).all("set-cookie")
    assert line.endswith(b"; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax")


async def test_a_forged_cookie_is_no_cookie(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(
        up, upstream={"sticky": {"cookie": "gw"}}, server={"secret": [SECRET, SECRET[::-1]]}
    )
    client = await raw(running)
    mine = cookie(await client.ask(get()))
    forged = mine[:-3] + (b"AAA" if mine[-3:] != b"AAA" else b"BBB")
    assert (await client.ask(get(b"/", mine))).all("set-cookie") == []
    assert cookie(await client.ask(get(b"/", forged))) not in (mine + b"!", forged)


@pytest.mark.parametrize("on_failure", ["redistribute", "fail"])
async def test_what_a_client_is_told_whose_target_is_down(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, on_failure: str
) -> None:
    origins = [await origin() for _ in range(2)]
    urls = [one.url for one in origins]
    sticky = {"cookie": "gw", "on_failure": on_failure}
    running = await gateway(
        origins[0],
        upstream={"targets": urls, "sticky": sticky, "health": HEALTH},
        server={"secret": SECRET},
    )
    client = await raw(running)
    before = counts(*origins)
    mine = cookie(await client.ask(get()))
    [home] = who(origins, before)
    await dies(origins[home])
    async with asyncio.timeout(PATIENCE):
        while targets_of(running)[home].healthy:
            running.clock.advance(2.0)
            await asyncio.sleep(0.02)
    answer = await client.ask(get(b"/", mine))
    if on_failure == "fail":
        problem(answer, "no_healthy_target", 503)
        assert answer.all("set-cookie") == []
        assert (await client.ask(get())).status == 200, "a new client is served"
        return
    assert answer.status == 200
    other = cookie(answer)
    assert other != mine
    origins[home].bind()
    async with asyncio.timeout(PATIENCE):
        while not targets_of(running)[home].healthy:
            running.clock.advance(2.0)
            await asyncio.sleep(0.02)
    before = counts(*origins)
    await ask_often(client, 10, other)
    assert who(origins, before) == [1 - home], "it stays where its session is now"


@pytest.mark.parametrize("on_failure", ["redistribute", "fail"])
async def test_a_further_try_goes_elsewhere_only_if_the_session_may(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, on_failure: str
) -> None:
    origins = [await origin() for _ in range(2)]
    urls = [one.url for one in origins]
    sticky = {"cookie": "gw", "on_failure": on_failure}
    running = await gateway(
        origins[0],
        upstream={"targets": urls, "sticky": sticky},
        server={"secret": SECRET},
    )
    client = await raw(running)
    before = counts(*origins)
    mine = cookie(await client.ask(get()))
    [home] = who(origins, before)
    await dies(origins[home])
    answer = await client.ask(get(b"/", mine))
    if on_failure == "fail":
        problem(answer, "connect_refused", 502)
    else:
        assert answer.status == 200
        assert cookie(answer) != mine


async def test_cookies_hold_while_secrets_rotate(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    origins = [await origin() for _ in range(3)]
    upstream = {"targets": [one.url for one in origins], "sticky": {"cookie": "gw"}}
    old, new = SECRET, SECRET[::-1]
    clients = [
        await raw(await gateway(origins[0], upstream=upstream, server={"secret": secret}))
        for secret in (old, [new, old], new)
    ]
    before = counts(*origins)
    first = cookie(await clients[0].ask(get()))
    [home] = who(origins, before)
    before = counts(*origins)
    second = cookie(await clients[1].ask(get(b"/", first)))
    answer = await clients[2].ask(get(b"/", second))
    assert answer.all("set-cookie") == []
    assert who(origins, before) == [home]


async def test_the_upstreams_own_cookies_are_passed_beside_the_gateways(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(reply(b"ok", b"Set-Cookie: own=1"))
    running = await gateway(up, upstream={"sticky": {"cookie": "gw"}}, server={"secret": SECRET})
    answer = await (await raw(running)).ask(get())
    own, ours = answer.all("set-cookie")
    assert own == b"own=1"
    assert ours.startswith(b"gw=")
