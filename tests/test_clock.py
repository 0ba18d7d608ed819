"""Time: what is due is called, never early, and once."""

from __future__ import annotations

import asyncio
import math
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import TICK, Clock
from tests.kit.clock import FakeClock
from tests.kit.wire import PATIENCE


class Standing(Clock):
    """Shows what it is told to."""

    def __init__(self, at: float = 0.0) -> None:
        super().__init__()
        self.at = at

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return self.at


class Watched:
    def __init__(self, clock: Clock, due: float) -> None:
        self.clock = clock
        self.due = due
        self.expired: list[float] = []
        clock.watched.add(self)

    def expire(self) -> None:
        self.expired.append(self.clock.now())
        self.due = math.inf


TIMES = st.floats(0, 1000, allow_nan=False)


@given(st.lists(TIMES, max_size=20), st.lists(TIMES, max_size=20))
def test_a_scan_expires_what_is_due_never_early_and_once(
    dues: list[float], scans: list[float]
) -> None:
    clock = Standing()
    all_watched = [Watched(clock, due) for due in dues]
    for at in sorted(scans):
        clock.at = at
        clock.scan()
    for due, watched in zip(dues, all_watched, strict=True):
        assert watched.expired == [at for at in sorted(scans) if at >= due][:1]


def test_what_expires_may_take_others_out_of_the_watch_and_add_new_ones() -> None:
    clock = Standing(5.0)
    first = Watched(clock, 1.0)

    def replace() -> None:
        clock.watched.clear()
        first.due = math.inf
        Watched(clock, 2.0)

    first.expire = replace  # type: ignore[method-assign]
    clock.scan()
    [fresh] = clock.watched
    assert isinstance(fresh, Watched)
    assert fresh.expired == [], "what is added is looked at by the next scan"
    clock.scan()
    assert fresh.expired == [5.0]


async def test_the_ticker_scans_by_itself_until_it_is_stopped() -> None:
    clock = Clock()
    clock.start()
    clock.start()
    watched = Watched(clock, clock.now())
    async with asyncio.timeout(PATIENCE):
        while not watched.expired:
            await asyncio.sleep(TICK / 4)
    clock.stop()
    clock.stop()
    assert not clock.watched
    late = Watched(clock, 0.0)
    await asyncio.sleep(2 * TICK)
    assert late.expired == []


async def test_a_stopped_clock_can_be_started_again() -> None:
    clock = Clock()
    clock.start()
    clock.stop()
    clock.start()
    watched = Watched(clock, 0.0)
    async with asyncio.timeout(PATIENCE):
        while not watched.expired:
            await asyncio.sleep(TICK / 4)
    clock.stop()


async def test_a_sleep_lasts_until_its_time_has_passed() -> None:
    clock = FakeClock()
    sleeper = asyncio.get_running_loop().create_task(clock.sleep(1000))
    await asyncio.sleep(0)
    clock.advance(900)
    await asyncio.sleep(0)
    assert not sleeper.done()
    clock.advance(100)
    await sleeper
    assert not clock.timers


async def test_a_sleep_that_is_cancelled_leaves_no_timer() -> None:
    clock = FakeClock()
    sleeper = asyncio.get_running_loop().create_task(clock.sleep(1000))
    await asyncio.sleep(0)
    assert len(clock.timers) == 1
    sleeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeper
    assert not clock.timers


async def test_a_real_sleep_ends_and_a_timer_that_is_cancelled_is_not_called() -> None:
    clock = Clock()
    called: list[int] = []
    clock.call_later(0.0, called.append, 1).cancel()
    clock.call_later(0.0, called.append, 2)
    before = clock.now()
    await clock.sleep(0.01)
    assert clock.now() - before >= 0.009
    assert called == [2]


@given(st.integers(0, 4_102_444_800))
def test_a_date_is_the_time_of_day_in_the_form_of_the_standard(second: int) -> None:
    text = Standing(second + 0.75).date().decode()
    assert text.endswith(" GMT")
    assert len(text) == 29
    assert parsedate_to_datetime(text).timestamp() == second


def test_a_date_is_made_once_a_second() -> None:
    clock = Standing(784_111_777.0)
    first = clock.date()
    assert first == b"Sun, 06 Nov 1994 08:49:37 GMT"
    clock.at += 0.9
    assert clock.date() is first
    clock.at += 0.2
    assert clock.date() == b"Sun, 06 Nov 1994 08:49:38 GMT"


async def test_the_date_line_follows_the_clock() -> None:
    clock = FakeClock()
    clock.start()
    try:
        first = clock.date_line
        clock.advance(3600)
        assert first == b"Date: %b\r\n" % first[6:-2]
        assert clock.date_line == b"Date: %b\r\n" % clock.date()
        assert clock.date_line != first
    finally:
        clock.stop()
