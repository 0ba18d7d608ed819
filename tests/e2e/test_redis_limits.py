"""Limits that several gateways count together, against a real redis-server: killed, frozen and started again under load.

Rules of this file: the bound on how long a request may take is far above what it should take, and far below what it would
take if anybody waited for the server.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gateway.clock import Clock
from tests.e2e.conformance.conftest import get
from tests.kit.load import Load
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import MakeClient, MakeGateway
    from tests.kit.redis import RedisServer
    from tests.kit.running import Running

TIMEOUT = 0.1
LONGEST = 1.0
"""Seconds that a request may take, whatever the server does: ten times TIMEOUT."""
RATE = 100


def config(server: RedisServer, *, on_error: str = "local", rate: str = "5/d", **more: Any) -> Any:
    return {
        "routes": [{"name": "here", "path": "/*", "respond": {"body": "hi"}, "rate_limit": "shared"}],
        "rate_limits": {"shared": {"rate": rate, "store": "redis", **more}},
        "stores": {"redis": {"url": server.url, "timeout": f"{TIMEOUT}s", "on_error": on_error}},
    }  # fmt: skip


def kinds(running: Running) -> list[str]:
    return [event.kind for event in running.gateway.events.select()]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


async def test_two_gateways_share_one_limit_exactly(
    redis: RedisServer, gateway: MakeGateway
) -> None:
    one, other = (
        await gateway(config(redis, rate="100/d")),
        await gateway(config(redis, rate="100/d")),
    )
    async with Load(one.address) as first, Load(other.address) as second:
        await asyncio.gather(*(load.burst(20) for load in (first, second) for _ in range(4)))
    counts = first.counts + second.counts
    assert counts["200"] == 100
    assert counts["429 rate_limited"] == 60
    allowed = [
        each.metric("gateway_rate_limit_decisions_total", limit="shared", decision="allowed")
        for each in (one, other)
    ]
    assert sum(allowed) == 100


async def test_clients_are_told_what_the_server_counts(
    redis: RedisServer, gateway: MakeGateway, raw: MakeClient
) -> None:
    one, other = await gateway(config(redis)), await gateway(config(redis))
    told = []
    for running in (one, other, one, other, one, other):
        answer = await (await raw(running)).ask(get(b"/"))
        told.append((answer.status, (answer.get("ratelimit") or b"").partition(b";t=")[0]))
    assert told == [
        *[(200, b'"shared";r=%d' % left) for left in (4, 3, 2, 1, 0)],
        (429, b'"shared";r=0'),
    ]
    assert int(answer.get("retry-after") or 0) in range(17_270, 17_281)


async def test_the_clock_of_the_server_counts_and_not_that_of_a_gateway(
    redis: RedisServer, gateway: MakeGateway, raw: MakeClient
) -> None:
    one, other = await gateway(config(redis, rate="2/d")), await gateway(config(redis, rate="2/d"))
    one.clock.advance(86_400 * 3)
    assert (await (await raw(one)).ask(get(b"/"))).status == 200
    assert (await (await raw(other)).ask(get(b"/"))).status == 200
    assert (await (await raw(one)).ask(get(b"/"))).status == 429


async def test_a_limit_here_and_one_there_pass_together_or_not_at_all(
    redis: RedisServer, gateway: MakeGateway, raw: MakeClient
) -> None:
    written = config(redis, rate="3/d")
    written["routes"][0]["rate_limit"] = ["shared", "own"]
    written["rate_limits"]["own"] = {"rate": "5/d", "key": "{client_ip} {header.x-user|}x"}
    written["rate_limits"]["shared"]["key"] = "client_ip"
    running = await gateway(written)
    client = await raw(running)
    said = [(await client.ask(get(b"/", b"X-User: a"))) for _ in range(6)]
    assert [one.status for one in said] == [200, 200, 200, 429, 429, 429]
    assert said[0].get("ratelimit-policy") == b'"own";q=5;w=86400, "shared";q=3;w=86400'
    assert (said[2].get("ratelimit") or b"").startswith(b'"shared";r=0;')
    await redis.command("FLUSHALL")
    again = [(await client.ask(get(b"/", b"X-User: a"))) for _ in range(3)]
    assert [one.status for one in again] == [200, 200, 429], (
        "what was denied there took nothing here"
    )
    assert (again[2].get("ratelimit") or b"").startswith(b'"own";r=0;')
    denied = "gateway_rate_limit_decisions_total"
    assert running.metric(denied, limit="own", decision="denied") == 1
    other = await client.ask(get(b"/", b"X-User: b"))
    assert other.status == 200, "what was denied here took nothing there"


@pytest.mark.parametrize("trouble", ["killed", "frozen"])
async def test_no_request_waits_longer_than_the_timeout_and_none_is_lost(
    redis: RedisServer, gateway: MakeGateway, trouble: str
) -> None:
    running = await gateway(config(redis, rate="1000000/s"), clock=Clock())
    failed = "gateway_rate_limit_decisions_total"
    async with Load(running.address, patience=30) as load:
        load.at(RATE)
        await until(lambda: load.counts["200"] >= 50)
        assert running.metric(failed, limit="shared", decision="store_error") == 0
        if trouble == "killed":
            redis.kill()
        else:
            redis.freeze()
        await until(lambda: "store_failed" in kinds(running))
        before = load.sent
        await until(lambda: load.sent >= before + 2 * RATE)
        if trouble == "killed":
            await redis.start()
        else:
            redis.thaw()
        await until(lambda: "store_recovered" in kinds(running))
        errors = running.metric(failed, limit="shared", decision="store_error")
        before = load.sent
        await until(lambda: load.sent >= before + 50)
        assert running.metric(failed, limit="shared", decision="store_error") == errors > 2 * RATE
    assert load.failed() == []
    assert max(outcome.took for outcome in load.outcomes) < LONGEST
    assert kinds(running) == ["store_failed", "store_recovered"]
    assert len(await redis.command("KEYS", "*shared*")) == 1


async def test_a_server_that_is_restarted_again_and_again_costs_no_request(
    redis: RedisServer, gateway: MakeGateway
) -> None:
    running = await gateway(config(redis, rate="1000000/s"), clock=Clock())
    async with Load(running.address, patience=30) as load:
        load.at(RATE)
        for _ in range(3):
            before = load.sent
            redis.kill()
            await redis.start()
            await until(lambda count=before + RATE: load.sent >= count)  # type: ignore[misc]
    assert load.failed() == []
    assert max(outcome.took for outcome in load.outcomes) < LONGEST


@pytest.mark.parametrize(
    ("on_error", "said"),
    [("local", [200, 200, 429]), ("allow", [200, 200, 200]), ("deny", [429, 429, 429])],
)
async def test_while_it_does_not_answer_on_error_decides(
    redis: RedisServer, gateway: MakeGateway, raw: MakeClient, on_error: str, said: list[int]
) -> None:
    redis.kill()
    running = await gateway(config(redis, rate="2/d", on_error=on_error))
    client = await raw(running)
    found = [await client.ask(get(b"/")) for _ in range(3)]
    assert [one.status for one in found] == said
    told = [one.get("ratelimit") is not None for one in found]
    assert told == [on_error == "local"] * 3
    assert kinds(running) == ["store_failed"]
    later = [await client.ask(get(b"/")) for _ in range(2)]
    assert [one.status for one in later] == [said[-1]] * 2
    if on_error == "deny":
        assert later[0].get("retry-after") == b"1"
    count = running.metric(
        "gateway_rate_limit_decisions_total", limit="shared", decision="store_error"
    )
    assert count == 5
    await redis.start()
    await until(lambda: "store_recovered" in kinds(running))
    assert (await client.ask(get(b"/"))).status == 200


async def test_a_store_lives_through_reloads_and_goes_with_the_last_that_names_it(
    redis: RedisServer, gateway: MakeGateway, raw: MakeClient
) -> None:
    written = {**config(redis), "listeners": [{"bind": "127.0.0.1:0"}], "admin": "off"}
    running = await gateway(written)
    client = await raw(running)
    assert (await client.ask(get(b"/"))).status == 200
    mine = "name="  # every client's line has it

    async def clients() -> int:
        return str(await redis.command("CLIENT", "LIST")).count(mine) - 1

    assert await clients() == 1
    await running.gateway.reload({**written, "server": {"name": "other"}})
    assert (await client.ask(get(b"/"))).status == 200
    assert await clients() == 1
    routes = [{**written["routes"][0], "rate_limit": "off"}]
    await running.gateway.reload({**written, "routes": routes, "stores": {}, "rate_limits": {}})
    async with asyncio.timeout(PATIENCE):
        while await clients():
            running.clock.scan()
            await asyncio.sleep(0.01)


async def test_without_the_client_the_configuration_says_what_to_install(
    redis: RedisServer, gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "gateway.limits.redis", raising=False)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ValueError, match=r"pip install 'gateway\[redis\]'"):
        await gateway(config(redis))


async def test_a_gateway_ends_and_reloads_at_once_although_its_store_is_frozen(
    redis: RedisServer, gateway: MakeGateway, raw: MakeClient
) -> None:
    written = {**config(redis), "listeners": [{"bind": "127.0.0.1:0"}], "admin": "off"}
    running = await gateway(written)
    client = await raw(running)
    assert (await client.ask(get(b"/"))).status == 200
    redis.freeze()
    began = asyncio.get_running_loop().time()
    await client.send(get(b"/"))
    other = {"redis": {"url": redis.url, "timeout": "1s"}}
    await running.gateway.reload({**written, "stores": other})
    assert (await client.response()).status == 200
    waiting = await raw(running)
    await waiting.send(get(b"/"))
    await running.gateway.aclose()
    assert asyncio.get_running_loop().time() - began < 5


async def test_a_password_is_used_and_told_to_nobody(
    redis: RedisServer, gateway: MakeGateway, raw: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    await redis.command("CONFIG", "SET", "requirepass", "a-long-password")
    right, wrong = (
        {"url": f"unix://:{word}@{redis.path}", "timeout": "1s", "on_error": "deny"}
        for word in ("a-long-password", "another-password")
    )
    for store, status in ((right, 200), (wrong, 429)):
        running = await gateway({**config(redis), "stores": {"redis": store}})
        client = await raw(running)
        for _ in range(3):
            assert (await client.ask(get(b"/"))).status == status
    events = running.gateway.events.select()
    assert [event.kind for event in events] == ["store_failed"]
    said = [event.why for event in events] + [str(vars(record)) for record in caplog.records]
    assert not [
        line for line in said if "password" in line.replace("invalid username-password", "")
    ]


async def test_a_server_that_answers_and_takes_no_counters_is_not_back(
    redis: RedisServer, gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway(config(redis), server={"overload": "off"})
    client = await raw(running)
    # As a replica after a failover, or one whose memory is full: it answers, and writes nothing.
    await redis.command("CONFIG", "SET", "min-replicas-to-write", 1)
    for _ in range(3):
        assert (await client.ask(get(b"/"))).status == 200
    for _ in range(5):
        running.clock.advance(2)
        await asyncio.sleep(0.05)
    assert kinds(running) == ["store_failed"]
    await redis.command("CONFIG", "SET", "min-replicas-to-write", 0)
    async with asyncio.timeout(PATIENCE):
        while "store_recovered" not in kinds(running):
            running.clock.advance(2)
            await asyncio.sleep(0.02)
    assert (await client.ask(get(b"/"))).status == 200
    assert await redis.command("KEYS", "*shared*")
