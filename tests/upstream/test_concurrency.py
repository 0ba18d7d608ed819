"""Places at targets and the queue before them.

Rules of this file: targets are names; the clock is moved, nothing sleeps for time.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import errors
from gateway.tasks import spawn
from gateway.upstream.concurrency import Concurrency
from tests.kit.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.upstream.concurrency import Limit

    Task = asyncio.Task[Limit[str]]


@dataclass
class Written:
    """`concurrency:` as a configuration has it."""

    per_target: int | None = 1
    queue: int = 10
    queue_timeout: float = 5.0
    adaptive: str = "off"
    mode: str = "enforce"


class Bench:
    """An upstream's limits, with requests that wait in tasks."""

    def __init__(self, targets: str = "a", **written: int | float | str | None) -> None:
        self.clock = FakeClock()
        self.down: set[str] = set()
        self.concurrency: Concurrency[str] = Concurrency(
            self.clock, lambda target: target not in self.down
        )
        self.limits: dict[str, Limit[str]] = {}
        self.apply(targets, **written)
        self.tasks: list[Task] = []

    def apply(self, targets: str = "a", **written: int | float | str | None) -> None:
        settings = Written(**written)  # type: ignore[arg-type]
        self.limits = self.concurrency.apply(settings, targets)

    def fill(self) -> None:
        for limit in self.limits.values():
            while limit.busy < limit.most:
                limit.busy += 1

    async def ask(self, wanted: str = "a", others: str = "", who: str = "") -> Task:
        """One more request that waits, or has its place."""
        limits = [self.limits[name] for name in others]
        task = spawn(self.concurrency.enter(self.limits[wanted], limits, who), "waits")
        self.tasks.append(task)
        await turn()
        return task

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def turn() -> None:
    """Let everything run that can."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_where_there_is_room_nobody_waits() -> None:
    bench = Bench(per_target=2)
    assert await bench.concurrency.enter(bench.limits["a"]) is bench.limits["a"]
    assert bench.limits["a"].busy == 1


async def test_whoever_waits_longest_is_next() -> None:
    bench = Bench()
    bench.fill()
    first, second = await bench.ask(), await bench.ask()
    bench.limits["a"].leave()
    await turn()
    assert (first.done(), second.done()) == (True, False)
    first.result().leave()
    await turn()
    assert second.done()
    assert bench.limits["a"].busy == 1
    assert not bench.concurrency.waiting


async def test_nobody_slips_in_between_a_place_being_given_and_its_taker_running() -> None:
    bench = Bench()
    bench.fill()
    waiting = await bench.ask()
    bench.limits["a"].leave()
    assert bench.limits["a"].busy == bench.limits["a"].most  # before the task runs
    await turn()
    assert waiting.done()


async def test_a_full_queue_is_told_at_once() -> None:
    bench = Bench(queue=1)
    bench.fill()
    _ = await bench.ask()
    with pytest.raises(errors.QueueFull) as refused:
        await bench.concurrency.enter(bench.limits["a"])
    assert (refused.value.status, refused.value.reason) == (503, "queue_full")
    await bench.end()


async def test_clients_take_turns_and_share_the_room_of_a_full_queue() -> None:
    bench = Bench(queue=3)
    bench.fill()
    many = [await bench.ask(who="x") for _ in range(3)]
    few = await bench.ask(who="y")
    with pytest.raises(errors.QueueFull, match="most of them of one client"):
        many.pop().result()
    with pytest.raises(errors.QueueFull, match="wait for room already"):
        await bench.concurrency.enter(bench.limits["a"], who="x")
    assert len(bench.concurrency.waiting) == 3
    order = []
    for _ in range(3):
        bench.limits["a"].leave()
        await turn()
        [served] = [one for one in (*many, few) if one.done() and one not in order]
        order.append(served)
    assert order == [many[0], few, many[1]]
    assert bench.limits["a"].busy == 1


async def test_without_a_queue_a_full_target_refuses() -> None:
    bench = Bench(queue=0)
    bench.fill()
    with pytest.raises(errors.QueueFull):
        await bench.concurrency.enter(bench.limits["a"])


async def test_who_waits_too_long_is_told_so_and_leaves_the_queue() -> None:
    bench = Bench(queue_timeout=1.5)
    bench.fill()
    task = await bench.ask()
    bench.clock.advance(1.4)
    await turn()
    assert not task.done()
    bench.clock.advance(0.2)
    await turn()
    with pytest.raises(errors.QueueTimeout, match=r"1\.5 s") as refused:
        task.result()
    assert (refused.value.status, refused.value.reason) == (503, "queue_timeout")
    assert not bench.concurrency.waiting
    assert bench.limits["a"].busy == 1


async def test_one_that_leaves_in_the_moment_it_is_let_in_passes_its_place_on() -> None:
    bench = Bench()
    bench.fill()
    first, second = await bench.ask(), await bench.ask()
    bench.limits["a"].leave()  # given to the first, which has not run since
    first.cancel()
    await turn()
    assert first.cancelled()
    assert second.done()
    assert second.result() is bench.limits["a"]
    assert bench.limits["a"].busy == 1


async def test_one_that_leaves_while_it_waits_takes_no_place() -> None:
    bench = Bench()
    bench.fill()
    first, second = await bench.ask(), await bench.ask()
    first.cancel()
    await turn()
    bench.limits["a"].leave()
    await turn()
    assert second.done()
    assert bench.limits["a"].busy == 1


async def test_another_target_with_room_is_taken_before_anybody_waits() -> None:
    bench = Bench("abc", per_target=4)
    for name, busy in (("a", 4), ("b", 3), ("c", 1)):
        bench.limits[name].busy = busy
    limits = bench.limits
    taken = await bench.concurrency.enter(limits["a"], [limits["b"], limits["c"]])
    assert taken.target == "c"
    assert limits["c"].busy == 2


async def test_a_free_place_goes_to_the_first_that_it_would_do_for() -> None:
    bench = Bench("ab")
    bench.fill()
    pinned, any_of_them = await bench.ask("a"), await bench.ask("a", "b")
    bench.limits["b"].leave()
    await turn()
    assert not pinned.done()
    assert any_of_them.result().target == "b"
    bench.limits["a"].leave()
    await turn()
    assert pinned.result().target == "a"


async def test_a_target_that_went_down_is_given_to_nobody() -> None:
    bench = Bench("ab")
    bench.fill()
    task = await bench.ask("a", "b")
    bench.down.add("a")
    bench.limits["a"].leave()
    await turn()
    assert not task.done()
    bench.limits["b"].leave()
    await turn()
    assert task.result().target == "b"


async def test_a_target_that_comes_back_is_given_away_by_the_wake_up() -> None:
    bench = Bench("ab")
    bench.fill()
    task = await bench.ask("a", "b")
    bench.down.add("a")
    bench.limits["a"].leave()
    bench.down.clear()
    bench.concurrency.wake()
    await turn()
    assert task.result().target == "a"


async def test_who_waits_only_for_what_went_down_is_sent_away_at_once() -> None:
    bench = Bench("ab")
    bench.fill()
    pinned, any_of_them = await bench.ask("a"), await bench.ask("a", "b")
    bench.down.add("a")
    bench.concurrency.wake()
    await turn()
    with pytest.raises(errors.NoHealthyTarget):
        pinned.result()
    assert not any_of_them.done()
    await bench.end()


# ── reloads ──


async def test_a_higher_limit_lets_in_whoever_waits() -> None:
    bench = Bench()
    bench.fill()
    tasks = [await bench.ask() for _ in range(3)]
    bench.apply(per_target=3)
    await turn()
    assert [task.done() for task in tasks] == [True, True, False]
    assert bench.limits["a"].busy == 3
    await bench.end()


async def test_a_lower_limit_lets_nobody_in_until_enough_have_left() -> None:
    bench = Bench(per_target=3)
    bench.fill()
    bench.apply(per_target=1)
    task = await bench.ask()
    for _ in range(2):
        bench.limits["a"].leave()
        await turn()
        assert not task.done()
    bench.limits["a"].leave()
    await turn()
    assert task.done()


async def test_without_the_setting_everybody_is_let_in() -> None:
    bench = Bench()
    bench.fill()
    tasks = [await bench.ask() for _ in range(3)]
    assert bench.concurrency.apply(None, "a") == {}
    await turn()
    assert all(task.done() for task in tasks)
    for task in tasks:
        task.result().leave()


async def test_in_report_mode_nobody_waits_and_a_queue_that_would_be_full_is_known() -> None:
    bench = Bench("ab", per_target=2, queue=3, mode="report")
    limit = bench.limits["a"]
    known = []
    for _ in range(9):
        known.append(limit.queue_is_full)
        assert (await bench.ask()).done()
    # Four have places, at one target or the other; three would wait.
    assert known == [False] * 7 + [True] * 2
    assert limit.busy == 9
    for _ in range(9):
        limit.leave()
    assert not limit.queue_is_full
    await bench.end()


async def test_who_waits_is_let_in_when_the_mode_becomes_report() -> None:
    bench = Bench()
    bench.fill()
    waiting = [await bench.ask() for _ in range(3)]
    bench.apply(mode="report")
    await turn()
    assert all(task.done() for task in waiting)
    assert bench.limits["a"].busy == 4
    bench.apply()
    task = await bench.ask()
    assert not task.done()
    await bench.end()


async def test_who_waits_for_a_target_that_is_gone_is_let_in_to_find_out() -> None:
    bench = Bench("ab")
    bench.fill()
    task = await bench.ask("b")
    bench.down.add("b")
    bench.apply("a")
    await turn()
    assert task.result().target == "b"
    assert list(bench.limits) == ["a"]


async def test_when_one_of_several_targets_leaves_its_place_is_given_to_nobody() -> None:
    bench = Bench("ab")
    bench.fill()
    tasks = [await bench.ask("b", "a") for _ in range(3)]
    gone = bench.limits["b"]
    bench.apply("a")
    await turn()
    assert not any(task.done() for task in tasks)
    gone.leave()
    await turn()
    assert not any(task.done() for task in tasks)
    bench.limits["a"].leave()
    await turn()
    assert [task.done() for task in tasks] == [True, False, False]
    assert tasks[0].result().target == "a"
    await bench.end()


# ── the adaptive limit ──


async def answers(bench: Bench, seconds: float, count: int = 12) -> None:
    """A window of answers, each after `seconds`, with all places taken."""
    limit = bench.limits["a"]
    for _ in range(count):
        bench.clock.advance(0.1)
        limit.succeeded("a", 200, seconds)
    await turn()


async def test_an_enforced_limit_follows_the_response_times_up_to_per_target() -> None:
    bench = Bench(per_target=8, adaptive="enforce")
    limit = bench.limits["a"]
    assert limit.most == limit.shown == 3
    for _ in range(6):
        bench.fill()
        await answers(bench, 0.01)
    assert limit.most == limit.shown == 8
    for _ in range(3):
        await answers(bench, 0.5)
    assert limit.most == limit.shown < 8


async def test_a_rising_limit_lets_in_whoever_waits() -> None:
    bench = Bench(per_target=None, adaptive="enforce")
    bench.fill()
    task = await bench.ask()
    await answers(bench, 0.01)
    assert task.done()


async def test_a_report_shows_the_limit_and_holds_nobody_back() -> None:
    bench = Bench(per_target=None, adaptive="report")
    limit = bench.limits["a"]
    for _ in range(40):
        assert limit.busy < limit.most
        limit.busy += 1
    await answers(bench, 0.01)
    assert limit.shown >= 40
    assert limit.most == float("inf")


async def test_quick_refusals_of_the_target_are_no_sign_that_it_bears_more() -> None:
    bench = Bench(per_target=100, adaptive="report")
    bench.limits["a"].busy = 50
    limit = bench.limits["a"]
    before = limit.shown
    for _ in range(50):
        bench.clock.advance(0.1)
        limit.succeeded("a", 503, 0.0001)
        limit.failed("a", errors.ConnectRefused(), 0.0001)
    assert limit.shown == before


async def test_head_time_outs_lower_an_enforced_limit() -> None:
    bench = Bench(per_target=100, adaptive="enforce")
    limit = bench.limits["a"]
    for _ in range(5):
        bench.fill()
        await answers(bench, 0.01)
    before = limit.most
    for _ in range(60):
        bench.clock.advance(0.1)
        limit.failed("a", errors.UpstreamHeaderTimeout(), 30.0)
    assert limit.most < before


# ── whatever happens ──


class Play:
    """Requests that come, wait, leave and give up in any order; checks after each step."""

    def __init__(self) -> None:
        self.bench = Bench("ab", per_target=1, queue=5)
        self.inside: list[Limit[str]] = []
        self.tasks: list[Task] = []

    async def ask(self, wanted: str, others: str, who: str) -> None:
        self.tasks.append(await self.bench.ask(wanted, others, who))

    async def leave(self, which: int) -> None:
        if self.inside:
            self.inside.pop(which % len(self.inside)).leave()

    async def cancel(self, which: int) -> None:
        if self.tasks:
            self.tasks[which % len(self.tasks)].cancel()

    async def both(self, which: int) -> None:
        await self.leave(which)
        await self.cancel(0)  # most likely the one that was let in

    async def wait(self, seconds: float) -> None:
        self.bench.clock.advance(seconds)

    async def limit(self, most: int) -> None:
        self.bench.apply("ab", per_target=most, queue=5)

    async def toggle(self, target: str) -> None:
        self.bench.down.symmetric_difference_update({target})
        self.bench.concurrency.wake()

    def check(self) -> None:
        for task in [task for task in self.tasks if task.done()]:
            self.tasks.remove(task)
            if not task.cancelled() and task.exception() is None:
                self.inside.append(task.result())
        held = {name: sum(one.target == name for one in self.inside) for name in "ab"}
        assert {name: limit.busy for name, limit in self.bench.limits.items()} == held
        waiting = self.bench.concurrency.waiting
        assert len(waiting) == len(self.tasks) <= 5
        for limit in (limit for one in waiting for limit in one.limits):
            assert limit.busy >= limit.most or limit.target in self.bench.down


NUMBERS, TARGETS = st.integers(0, 50), st.sampled_from("ab")


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.just(Play.ask),
                st.tuples(TARGETS, st.sampled_from(["", "ab"]), st.sampled_from("xyz")),
            ),
            st.tuples(st.sampled_from([Play.leave, Play.cancel, Play.both]), st.tuples(NUMBERS)),
            st.tuples(st.just(Play.wait), st.tuples(st.floats(0, 3))),
            st.tuples(st.just(Play.limit), st.tuples(st.integers(1, 3))),
            st.tuples(st.just(Play.toggle), st.tuples(TARGETS)),
        ),
        min_size=12,
        max_size=60,
    )
)
def test_no_place_is_lost_or_given_twice_and_nobody_waits_beside_a_free_one(
    steps: list[tuple[Callable[..., Awaitable[None]], tuple[object, ...]]],
) -> None:
    async def playing() -> None:
        play = Play()
        for step, arguments in steps:
            await step(play, *arguments)
            await turn()
            play.check()
        await play.bench.end()

    asyncio.run(playing())
