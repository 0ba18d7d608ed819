"""`timeouts.total`: one end for all of an exchange."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from gateway import errors
from gateway.config import model
from gateway.exchange import Exchange, Handler, Reply
from gateway.middleware import timeout
from tests.kit.clock import FakeClock
from tests.middleware.test_metrics import build
from tests.observe.stand_in import exchange

if TYPE_CHECKING:
    from gateway.middleware.base import Build


async def never(one: Exchange) -> Reply:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


async def at_once(one: Exchange) -> Reply:
    return Reply(200, [])


class Case:
    def __init__(self, forward: Handler, total: float | None = 10.0) -> None:
        self.clock = FakeClock()
        self.build: Build = build()
        self.build.clock = self.clock
        route = SimpleNamespace(policies=model.Policies(timeouts=model.Timeouts(total=total)))
        self.forward = forward
        self.handler = timeout.wrap(cast("Any", route), forward, self.build)
        self.exchange = exchange(began=self.clock.now())

    async def begin(self) -> asyncio.Task[Any]:
        async def run() -> Reply:  # a handler need be no coroutine function: it is called in here
            self.exchange.task = asyncio.current_task()
            return await self.handler(self.exchange)

        task = asyncio.get_running_loop().create_task(run())
        await asyncio.sleep(0)
        return task

    async def _run(self) -> Reply:
        return await self.handler(self.exchange)

    def finish(self) -> None:
        for callback in self.build.at_finish:
            callback(self.exchange)


def test_a_route_without_it_pays_nothing() -> None:
    case = Case(at_once, None)
    assert case.handler is case.forward
    assert not case.build.at_finish


async def test_an_exchange_is_cancelled_when_its_time_is_over_and_not_before() -> None:
    case = Case(never)
    task = await case.begin()
    case.clock.advance(9)
    await asyncio.sleep(0)
    assert not task.done()
    case.clock.advance(1)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(case.exchange.fault, errors.TotalTimeout)
    assert "10 s" in case.exchange.fault.detail
    case.finish()
    assert not case.clock.watched


async def test_time_counts_from_the_parsed_head() -> None:
    case = Case(never)
    case.exchange.began -= 9
    task = await case.begin()
    case.clock.advance(1)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_reply_that_streams_after_the_handler_has_returned_is_still_watched() -> None:
    case = Case(at_once)

    async def whole() -> None:
        case.exchange.task = asyncio.current_task()
        await case.handler(case.exchange)
        await asyncio.get_running_loop().create_future()  # the body

    task = asyncio.get_running_loop().create_task(whole())
    await asyncio.sleep(0)
    assert case.clock.watched
    case.clock.advance(10)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(case.exchange.fault, errors.TotalTimeout)
    case.finish()


async def test_an_exchange_that_has_ended_is_watched_no_more() -> None:
    case = Case(at_once)
    assert (await case.handler(case.exchange)).status == 200
    case.finish()
    assert not case.clock.watched
    case.clock.advance(100)
    assert case.exchange.fault is None


async def test_it_cancels_once() -> None:
    case = Case(never)
    task = await case.begin()
    case.clock.advance(10)
    case.clock.advance(10)
    assert task.cancelling() == 1
    await asyncio.gather(task, return_exceptions=True)
    case.finish()


async def test_an_upgraded_connection_has_no_total() -> None:
    case = Case(never)
    task = await case.begin()
    case.exchange.upgraded = True
    case.clock.advance(100)
    await asyncio.sleep(0)
    assert not task.done()
    assert case.exchange.fault is None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    case.finish()


async def test_what_never_reached_it_is_finished_all_the_same() -> None:
    case = Case(at_once)
    case.finish()
    assert not case.clock.watched
