"""`deadline`: the caller's limit and what the upstream is told of it."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import errors
from gateway.config import effective, model
from gateway.exchange import Exchange, Reply
from gateway.middleware import deadline, timeout
from gateway.middleware.deadline import TimeLeft, seconds
from tests.kit.clock import FakeClock
from tests.middleware.test_metrics import build
from tests.observe.stand_in import exchange

if TYPE_CHECKING:
    from gateway.exchange import Handler


class Case:
    def __init__(self, settings: model.Deadline | None = None, total: float | None = None) -> None:
        self.clock = FakeClock()
        self.build = build()
        self.build.clock = self.clock
        policies = model.Policies(
            deadline=settings or model.Deadline(), timeouts=model.Timeouts(total=total)
        )
        route = cast(
            "Any", SimpleNamespace(policies=policies, answer=effective.Forward(branches=()))
        )
        self.called = False
        self.ended = asyncio.Event()
        inner = deadline.wrap(route, self.forward, self.build)
        self.handler: Handler = timeout.wrap(route, inner, self.build)
        self.left = TimeLeft(settings or model.Deadline(), self.clock)

    async def forward(self, one: Exchange) -> Reply:
        self.called = True
        await self.ended.wait()
        return Reply(200, [])

    def exchange(self, value: str | None = None, *, trusted: bool = True) -> Exchange:
        headers = {} if value is None else {"x-request-timeout-ms": value}
        return exchange(headers, began=self.clock.now(), peer_trusted=trusted, sent_at=0.0)

    async def begin(self, one: Exchange) -> asyncio.Task[Any]:
        async def run() -> Reply:
            one.task = asyncio.current_task()
            return await self.handler(one)

        task = asyncio.get_running_loop().create_task(run())
        await asyncio.sleep(0)
        return task

    async def finish(self, one: Exchange, task: asyncio.Task[Any]) -> None:
        self.ended.set()
        await asyncio.gather(task, return_exceptions=True)
        for callback in self.build.at_finish:
            callback(one)
        assert not self.clock.watched

    async def told(self, one: Exchange) -> bytes:
        """What the upstream would be told at once."""
        task = await self.begin(one)
        line = self.left.lines(one)
        await self.finish(one, task)
        return line


def about(milliseconds: int, line: bytes) -> bool:
    name, _, value = line.partition(b": ")
    assert name == b"X-Request-Timeout-Ms"
    assert value.endswith(b"\r\n")
    return milliseconds - 1000 < int(value) <= milliseconds


async def test_a_route_that_answers_itself_or_trusts_nobody_pays_nothing() -> None:
    case = Case(model.Deadline(trust="none"))
    assert case.handler == case.forward
    policies = model.Policies(deadline=model.Deadline())
    for route in (
        SimpleNamespace(policies=policies, answer=model.Respond(status=204)),
        SimpleNamespace(policies=model.Policies(), answer=effective.Forward(())),
    ):
        assert deadline.wrap(cast("Any", route), case.forward, build()) == case.forward


async def test_the_upstream_is_told_the_shorter_of_the_total_and_the_callers_limit() -> None:
    assert about(10_000, await (case := Case(total=10)).told(case.exchange()))
    assert about(4_000, await (case := Case(total=10)).told(case.exchange("4000")))
    assert about(10_000, await (case := Case(total=10)).told(case.exchange("99000")))
    assert about(4_000, await (case := Case()).told(case.exchange("4000")))
    assert await (case := Case()).told(case.exchange()) == b""


async def test_only_a_trusted_callers_limit_counts() -> None:
    assert await (case := Case()).told(case.exchange("4000", trusted=False)) == b""
    everyone = model.Deadline(trust="all")
    assert about(4_000, await (case := Case(everyone)).told(case.exchange("4000", trusted=False)))
    nobody = model.Deadline(trust="none")
    assert about(10_000, await (case := Case(nobody, total=10)).told(case.exchange("4000")))


@pytest.mark.parametrize("value", ["", "-1", "1.5", "4s", "1e3", "٤", "9" * 13, "4000, 1"])
async def test_a_limit_that_is_no_number_of_milliseconds_says_nothing(value: str) -> None:
    assert await (case := Case()).told(case.exchange(value)) == b""


async def test_a_limit_that_is_over_is_answered_without_calling_anybody() -> None:
    case = Case()
    one = case.exchange("0")
    with pytest.raises(errors.TotalTimeout) as found:
        await case.handler(one)
    assert (found.value.status, found.value.reason) == (504, "total_timeout")
    assert not case.called
    late = case.exchange("500")
    late.began -= 1
    with pytest.raises(errors.TotalTimeout):
        await case.handler(late)
    assert not case.called
    assert not case.clock.watched


async def test_a_limit_that_ends_under_way_ends_the_exchange_as_a_total_does() -> None:
    case = Case(total=10)
    one = case.exchange("4000")
    task = await case.begin(one)
    case.clock.advance(3)
    await asyncio.sleep(0)
    assert not task.done()
    case.clock.advance(1)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(one.fault, errors.TotalTimeout)
    assert one.fault.detail == "no end within 4 s"
    await case.finish(one, task)


async def test_every_try_is_told_what_is_left_then() -> None:
    case = Case()
    one = case.exchange("4000")
    task = await case.begin(one)
    assert about(4_000, case.left.lines(one))
    case.clock.advance(2)
    assert about(2_000, case.left.lines(one))
    case.clock.offset += 2  # over, but not scanned yet
    with pytest.raises(errors.TotalTimeout):
        case.left.lines(one)
    case.clock.scan()
    with pytest.raises(errors.TotalTimeout):
        case.left.lines(one)
    await case.finish(one, task)


def test_a_client_cannot_write_the_line_itself() -> None:
    left = TimeLeft.compile(model.Deadline(header="X-Left"), FakeClock())
    assert left is not None
    assert left.dropped == {b"x-left"}
    assert TimeLeft.compile(None, FakeClock()) is None


@given(st.text(max_size=14))
def test_what_is_read_is_a_number_of_seconds_or_nothing(value: str) -> None:
    found = seconds(value)
    assert found is None or 0 <= found < math.inf
