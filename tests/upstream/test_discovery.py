"""Discovery: when it looks, what it keeps, what it says. The source is a script of answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from gateway.observe.events import Events
from gateway.upstream import discovery
from gateway.upstream.discovery import Answer, Change, Discovery, Found, NotFound
from tests.kit.clock import FakeClock
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    Step = Answer | NotFound | Exception | None

A, B, C = (Found(f"http://10.0.0.{number}:80") for number in (1, 2, 3))


class Script:
    """A source that says what the test has put in, the last thing again and again."""

    what = "dns users.test"
    interval = 8.0

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.looks = 0

    async def look(self) -> Answer | None:
        self.looks += 1
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, Exception):
            raise step
        return step


@dataclass
class Target:
    """A target as the upstream knows it."""

    found: Found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.found, name)

    @property
    def name(self) -> str:
        return self.found.url.removeprefix("http://")


class Upstream:
    """Notes what it is told."""

    name = "users"

    def __init__(self) -> None:
        self.told: list[tuple[Found, ...]] = []
        self.targets: list[Target] = []

    def retarget(self, wanted: Sequence[Found]) -> None:
        self.told.append(tuple(wanted))
        self.targets = [Target(one) for one in wanted]


class World:
    """A discovery and what it does."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.events = Events(self.clock.wall)
        self.upstream = Upstream()
        self.script = Script()
        self.discovery: Discovery

    def of(self, *steps: Step) -> Discovery:
        self.script = Script(*steps)
        self.discovery = Discovery(
            self.upstream, self.script, self.clock, self.events, random=lambda: 1.0
        )
        return self.discovery

    @property
    def said(self) -> list[tuple[str, str]]:
        return [(event.kind, event.why) for event in self.events.select()]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0)


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.discovery.aclose()


def answer(*targets: Found, again: float = 5.0, problem: str | None = None) -> Answer:
    return Answer(targets, again, problem)


async def test_what_is_found_becomes_the_targets_and_is_said(world: World) -> None:
    assert await world.of(answer(B, A, again=5.0)).look() == 5.0
    assert world.upstream.told == [(A, B)]
    (event,) = world.events.select()
    assert (event.kind, event.upstream) == ("targets_changed", "users")
    assert event.why == "+2 -0, new: 10.0.0.1:80 10.0.0.2:80, 2 in all"


async def test_what_comes_goes_and_changes_is_said_by_name(world: World) -> None:
    discovery = world.of(answer(A, B), answer(replace(B, weight=3), C))
    await discovery.look()
    await discovery.look()
    assert world.said[-1] == (
        "targets_changed",
        "+1 -1, new: 10.0.0.3:80, gone: 10.0.0.1:80, changed: 10.0.0.2:80, 2 in all",
    )


async def test_targets_that_were_there_before_the_first_look_count(world: World) -> None:
    world.upstream.retarget([A])
    await world.of(answer(A)).look()
    assert world.said == [], "after a reload nothing has changed"


async def test_another_order_of_the_same_answer_changes_nothing(world: World) -> None:
    discovery = world.of(answer(A, B, C), answer(C, A, B), answer(B, C, A, A))
    for _ in range(3):
        await discovery.look()
    assert len(world.upstream.told) == 1
    assert len(world.said) == 1


async def test_a_failure_keeps_the_last_good_answer_and_is_said_once(world: World) -> None:
    discovery = world.of(answer(A, B), NotFound("SERVFAIL"), NotFound("SERVFAIL"), answer(B, A))
    await discovery.look()
    await discovery.look()
    await discovery.look()
    assert world.upstream.told == [(A, B)]
    assert discovery.problem == "SERVFAIL; keeping 2 targets"
    await discovery.look()
    assert discovery.problem is None
    assert [kind for kind, _ in world.said] == [
        "targets_changed",
        "discovery_failed",
        "discovery_recovered",
    ]
    assert world.said[1][1] == "dns users.test: SERVFAIL; keeping 2 targets"


async def test_another_failure_is_said_with_its_own_words(world: World) -> None:
    discovery = world.of(NotFound("NXDOMAIN"), NotFound("time-out"))
    await discovery.look()
    await discovery.look()
    assert [why for _, why in world.said] == [
        "dns users.test: NXDOMAIN; no targets yet",
        "dns users.test: time-out; no targets yet",
    ]


async def test_failures_are_tried_again_soon_and_then_less_often_up_to_the_interval(
    world: World,
) -> None:
    discovery = world.of(NotFound("x"))
    assert [await discovery.look() for _ in range(5)] == [1.0, 2.0, 4.0, 8.0, 8.0]
    world.script.steps = [answer(A), NotFound("x")]
    await discovery.look()
    assert await discovery.look() == 1.0, "a good answer begins anew"


async def test_many_gateways_do_not_look_at_the_same_moment_and_none_looks_late(
    world: World,
) -> None:
    world.script = Script(answer(A, again=5.0))
    world.discovery = Discovery(
        world.upstream, world.script, world.clock, world.events, random=lambda: 0.0
    )
    assert await world.discovery.look() == pytest.approx(4.5)


async def test_nothing_new_waits_for_the_interval(world: World) -> None:
    assert await world.of(None).look() == 8.0
    assert world.upstream.told == []


async def test_targets_with_a_problem_are_taken_and_the_problem_is_said(world: World) -> None:
    discovery = world.of(answer(A, problem="1 of 2 hosts: b: NXDOMAIN"), answer(A, B))
    await discovery.look()
    assert world.upstream.told == [(A,)]
    assert world.said[-1] == ("discovery_failed", "dns users.test: 1 of 2 hosts: b: NXDOMAIN")
    await discovery.look()
    assert world.said[-1] == ("discovery_recovered", "dns users.test: 2 targets")


async def test_more_targets_than_the_bound_are_left_out_and_that_is_said(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "MOST", 2)
    await world.of(answer(C, B, A)).look()
    assert world.upstream.told == [(A, B)]
    assert "3 targets were found, and the first 2 of them are used" in world.said[-1][1]


async def test_a_fault_in_a_source_is_a_failure_and_not_the_end(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    discovery = world.of(KeyError("x"), answer(A))
    await discovery.look()
    assert "KeyError" in (discovery.problem or "")
    assert caplog.records[0].exc_info
    await discovery.look()
    assert world.upstream.told == [(A,)]


async def test_targets_that_can_not_be_taken_are_taken_at_the_next_look(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("full")

    discovery = world.of(answer(A))
    monkeypatch.setattr(world.upstream, "retarget", fail)
    assert await discovery.look() == 1.0
    monkeypatch.undo()
    await discovery.look()
    assert world.upstream.told == [(A,)]
    assert [kind for kind, _ in world.said] == [
        "discovery_failed",
        "targets_changed",
        "discovery_recovered",
    ]


async def test_it_looks_at_once_and_then_whenever_it_is_time(world: World) -> None:
    discovery = world.of(answer(A, again=5.0))
    discovery.start()
    discovery.start()
    await world.until(lambda: world.script.looks == 1 and bool(world.clock.timers))
    world.clock.advance(4.9)
    await asyncio.sleep(0)
    assert world.script.looks == 1
    world.clock.advance(0.1)
    await world.until(lambda: world.script.looks == 2)


async def test_it_looks_no_more_once_it_is_stopped(world: World) -> None:
    discovery = world.of(answer(A, again=5.0))
    discovery.start()
    await world.until(lambda: bool(world.clock.timers))
    await discovery.aclose()
    world.clock.advance(100)
    await asyncio.sleep(0)
    assert world.script.looks == 1
    assert not world.clock.timers


def test_a_change_is_told_in_words_and_many_names_by_their_number() -> None:
    assert str(Change(("a:80",), ())) == "+1 -0, new: a:80"
    assert str(Change(("b:1", "c:1"), ("a:80",), ("d:1",))) == (
        "+2 -1, new: b:1 c:1, gone: a:80, changed: d:1"
    )
    many = Change(tuple(f"a{number}" for number in range(8)))
    assert str(many) == "+8 -0, new: a0 a1 a2 a3 a4 and 3 more"
    assert not Change()


def test_a_discovery_shows_what_it_knows() -> None:
    made = Discovery(Upstream(), Script(), FakeClock(), Events(lambda: 0.0))
    assert repr(made) == "<Discovery dns users.test: 0 targets, well>"
