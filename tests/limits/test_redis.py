"""Counters in Redis, against a real server.

Rules of this file: the script is compared with the algorithms in Python on a time that the test makes up; everything else
goes by the server's own.
"""

from __future__ import annotations

import asyncio
import math
import random
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis

from gateway.config.limits import Store
from gateway.limits.algorithms import SLACK, Algorithm, make
from gateway.limits.redis import CONNECTIONS, PAUSE, TOGETHER, RedisStore, key_of
from gateway.limits.script import EPOCH, SCRIPT
from gateway.limits.store import Asked
from gateway.observe.events import Events
from gateway.tasks import spawn
from tests.kit.clock import FakeClock
from tests.kit.redis import RedisServer
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


WORDS = ("gcra", "token_bucket", "fixed_window", "sliding_window")
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "month": 30 * 86400.0}


class Bench:
    """A store, and what it has said of itself."""

    def __init__(self, server: RedisServer, **settings: Any) -> None:
        self.clock = FakeClock()
        self.events = Events(self.clock.wall)
        written = Store.model_validate({"url": server.url, "timeout": 1.0, **settings})
        self.store = RedisStore("shared", written, self.clock, self.events)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events.select()]

    async def recovered(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.store.failed:
                self.clock.advance(PAUSE)
                await asyncio.sleep(0.01)


@pytest.fixture
async def bench(redis: RedisServer) -> AsyncIterator[Bench]:
    one = Bench(redis)
    yield one
    await one.store.aclose()


def asked(key: str, algorithm: Algorithm, cost: float = 1.0, *, binding: bool = True) -> Asked:
    return Asked(f"{algorithm.word}/s/limit", algorithm, key, cost, binding)


@pytest.mark.parametrize("word", WORDS)
async def test_the_script_says_what_the_algorithm_says(redis: RedisServer, word: str) -> None:
    told = "local clock = {ARGV[#ARGV - 1], ARGV[#ARGV]}"
    script = SCRIPT.replace("local clock = redis.call('TIME')", told)
    assert script != SCRIPT
    client = Redis(unix_socket_path=str(redis.path), protocol=2)
    draw = random.Random(word)
    for round_ in range(40):
        unit = draw.choice([*UNITS])
        burst = draw.choice([None, 3, 30]) if word in ("gcra", "token_bucket") else None
        algorithm = make(word, draw.randint(1, 20), unit, burst)
        now = float(EPOCH + draw.randint(0, 10**8))
        state = None
        for _ in range(25):
            now += draw.choice([0, 0, 0.001, 0.01, 0.1, 0.5, 1.0]) * UNITS[unit] * draw.random()
            now = round(now, 6)
            cost = draw.choice([0, 1, 1, 1, 2, 5, 25])
            at = now if algorithm.calendar else now - EPOCH
            after, wait, left, back = algorithm.take(state, at, cost)
            state = after if wait == 0 else state
            seconds, micros = int(now), round((now - int(now)) * 1e6)
            said = await client.eval(
                *(script, 1, f"{round_}", word, *algorithm.numbers, algorithm.most, cost, 1, 0),
                *(seconds, micros),
            )
            assert (said[0] == 0) == (wait == 0), (algorithm.numbers, now, state)
            expected = -1e-6 if wait == math.inf else wait
            assert said[0] / 1e6 == pytest.approx(expected, abs=4 * SLACK, rel=1e-6)
            assert said[1] == left
            assert said[2] / 1e6 == pytest.approx(back, abs=4 * SLACK, rel=1e-6)
    await client.aclose()


async def test_one_that_denies_takes_nothing_from_the_others(bench: Bench) -> None:
    wide, narrow = make("gcra", 10, "d"), make("fixed_window", 1, "d")
    first = await bench.store.take([asked("a", wide), asked("a", narrow)])
    assert first is not None
    assert [one[1] for one in first] == [0, 0]
    second = await bench.store.take([asked("a", wide), asked("a", narrow)])
    assert second is not None
    assert second[0][1] == 0
    assert second[1][1] > 0
    alone = await bench.store.take([asked("a", wide)])
    assert alone is not None
    assert alone[0][2] == 8, "the one that was denied has not been counted by the other"


async def test_one_that_only_reports_keeps_nobody_out_and_counts_what_passes(bench: Bench) -> None:
    wide, report = make("gcra", 10, "d"), make("gcra", 1, "d", 1)
    lefts = []
    for _ in range(3):
        said = await bench.store.take([asked("a", wide), asked("r", report, binding=False)])
        assert said is not None
        lefts.append((said[0][1], said[0][2], said[1][1] > 0))
    assert lefts == [(0, 9, False), (0, 8, True), (0, 7, True)]


async def test_all_keys_of_a_call_are_in_one_slot_of_a_cluster(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, cluster=True)
    await server.start()
    bench = Bench(server)
    try:
        questions = [
            Asked(f"{word}/month/{name}", make(word, 10, "month"), key, 1.0)
            for word in WORDS
            for name in ("fair", "{x}", "a/b")
            for key in ("192.0.2.1", "2001:db8::", "}{", "\x1f\x1f{y}", "\udcff")
        ]
        said = await bench.store.take(questions)
        assert said is not None
        assert [one[2] for one in said] == [9] * len(questions)
        keys = [key_of(one) for one in questions]
        slots = {await server.command("CLUSTER", "KEYSLOT", key) for key in keys}
        assert len(slots) == 1
        assert len(await server.command("KEYS", "*")) == len(questions)
    finally:
        await bench.store.aclose()
        server.end()


async def test_every_key_ends_by_itself(bench: Bench, redis: RedisServer) -> None:
    algorithms = [make(word, 10, "m") for word in WORDS]
    await bench.store.take([asked(word, one) for word, one in zip(WORDS, algorithms, strict=True)])
    keys = await redis.command("KEYS", "*")
    assert len(keys) == 4
    for key in keys:
        assert 0 < await redis.command("PTTL", key) <= 67_000


async def test_a_script_that_the_server_has_forgotten_is_sent_again(
    bench: Bench, redis: RedisServer
) -> None:
    algorithm = make("gcra", 10, "d")
    await bench.store.take([asked("a", algorithm)])
    await redis.command("SCRIPT", "FLUSH")
    said = await bench.store.take([asked("a", algorithm)])
    assert said is not None
    assert said[0][2] == 8
    assert not bench.kinds()


async def test_what_costs_more_than_there_can_be_never_passes(bench: Bench) -> None:
    for word in WORDS:
        for cost in (11.0, math.inf):
            said = await bench.store.take([asked("a", make(word, 10, "d"), cost)])
            assert said is not None
            assert said[0][1] == math.inf


async def test_connections_are_bounded_and_all_are_answered(
    bench: Bench, redis: RedisServer
) -> None:
    algorithm = make("gcra", 1000, "d")
    said = await asyncio.gather(*(bench.store.take([asked("a", algorithm)]) for _ in range(200)))
    assert sorted(one[0][2] for one in said if one is not None) == list(range(800, 1000))
    clients = str(await redis.command("CLIENT", "LIST"))
    assert clients.count(" name=") - 1 <= CONNECTIONS


async def test_requests_that_come_at_once_are_asked_about_together_and_judged_one_by_one(
    bench: Bench, redis: RedisServer
) -> None:
    wide, narrow = make("gcra", 1000, "d"), make("gcra", 2, "d")
    await bench.store.take([asked("a", wide)])
    before = await redis.command("INFO", "commandstats")
    said = await asyncio.gather(
        *(
            bench.store.take([asked("a", wide), asked(f"{number % 4}", narrow)])
            for number in range(TOGETHER)
        )
    )
    after = await redis.command("INFO", "commandstats")
    assert after["cmdstat_evalsha"]["calls"] - before["cmdstat_evalsha"]["calls"] == 1
    passes = [one is not None and not one[1][1] for one in said]
    assert passes == [True] * 8 + [False] * (TOGETHER - 8)
    last = await bench.store.take([asked("a", wide)])
    assert last is not None
    assert last[0][2] == 1000 - 1 - 8 - 1


async def test_one_that_gives_up_takes_no_connection_with_it(
    bench: Bench, redis: RedisServer
) -> None:
    algorithm = make("gcra", 1000, "d")
    await bench.store.take([asked("a", algorithm)])
    made = await redis.command("INFO", "stats")
    for _ in range(20):
        task = spawn(bench.store.take([asked("a", algorithm)]), "gives up")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await bench.store.take([asked("a", algorithm)]) is not None
    now, word = await redis.command("INFO", "stats"), "total_connections_received"
    assert now[word] - made[word] <= CONNECTIONS
    assert not bench.kinds()


async def test_a_server_that_is_frozen_is_waited_for_no_longer_than_the_timeout_and_then_not_at_all(
    redis: RedisServer,
) -> None:
    bench = Bench(redis, timeout=0.05)
    algorithm = make("gcra", 1000, "d")
    assert await bench.store.take([asked("a", algorithm)]) is not None
    redis.freeze()
    while not bench.store.failed:
        began = asyncio.get_running_loop().time()
        said = await asyncio.gather(
            *(bench.store.take([asked("a", algorithm)]) for _ in range(100))
        )
        assert asyncio.get_running_loop().time() - began < 1.0
        assert said == [None] * 100
    redis.thaw()
    await bench.recovered()
    said = [await bench.store.take([asked("a", algorithm)])]
    assert said[0] is not None
    assert bench.kinds() == ["store_failed", "store_recovered"]
    await bench.store.aclose()


async def test_a_server_that_is_gone_and_comes_back_is_found_again(
    bench: Bench, redis: RedisServer
) -> None:
    algorithm = make("gcra", 1000, "d")
    assert await bench.store.take([asked("a", algorithm)]) is not None
    redis.kill()
    for _ in range(3):
        assert await bench.store.take([asked("a", algorithm)]) is None
    assert bench.store.failed
    await redis.start()
    await bench.recovered()
    assert await bench.store.take([asked("a", algorithm)]) is not None


async def test_connections_that_were_closed_meanwhile_are_made_anew(
    bench: Bench, redis: RedisServer
) -> None:
    algorithm = make("gcra", 1000, "d")
    assert await bench.store.take([asked("a", algorithm)]) is not None
    await redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert await bench.store.take([asked("a", algorithm)]) is not None


async def test_one_failure_is_no_reason_to_leave_it_alone(redis: RedisServer) -> None:
    bench = Bench(redis, timeout=0.05)
    algorithm = make("gcra", 1000, "d")
    assert await bench.store.take([asked("a", algorithm)]) is not None
    redis.freeze()
    assert await bench.store.take([asked("a", algorithm)]) is None
    redis.thaw()
    assert not bench.store.failed
    said = None
    for _ in range(2):  # the first may meet the answer to what was asked before
        said = said or await bench.store.take([asked("a", algorithm)])
    assert said is not None
    assert not bench.kinds()
    await bench.store.aclose()


async def test_an_answer_that_came_too_late_is_never_taken_for_that_to_another_question(
    redis: RedisServer,
) -> None:
    bench = Bench(redis, timeout=0.05)
    many, few = make("gcra", 1000, "d"), make("gcra", 2, "d")
    assert await bench.store.take([asked("a", many)]) is not None
    redis.freeze()
    assert await bench.store.take([asked("a", many)]) is None
    redis.thaw()
    lefts = []
    for _ in range(4):
        said = await bench.store.take([asked("b", few)])
        lefts += [] if said is None else [said[0][2]]
    assert max(lefts) < 2
    await bench.store.aclose()
