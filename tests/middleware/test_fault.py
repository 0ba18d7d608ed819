"""`fault`: late or refused, by percent."""

from __future__ import annotations

import asyncio
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from gateway import errors
from gateway.config import model
from gateway.exchange import Exchange, Reply
from gateway.middleware import fault
from tests.kit.clock import FakeClock
from tests.middleware.test_metrics import build
from tests.observe.stand_in import exchange

if TYPE_CHECKING:
    from gateway.exchange import Handler


async def forward(one: Exchange) -> Reply:
    one.attempts = 99
    return Reply(200, [])


LATE = {"time": 2.0}
REFUSED = {"status": 503}


def wrapped(clock: FakeClock | None = None, **settings: Any) -> Handler:
    made = build()
    made.clock = clock or FakeClock()
    route = SimpleNamespace(policies=model.Policies(fault=model.Fault(**settings)))
    return fault.wrap(cast("Any", route), forward, made)


def test_a_route_without_faults_pays_nothing() -> None:
    route = cast("Any", SimpleNamespace(policies=model.Policies()))
    assert fault.wrap(route, forward, build()) is forward


@pytest.mark.parametrize("status", [418, 503])
def test_an_abort_has_the_configured_status_and_never_reaches_what_is_behind(status: int) -> None:
    one = exchange(attempts=0)
    with pytest.raises(errors.FaultInjected) as found:
        wrapped(abort={"status": status})(one)
    assert (found.value.status, found.value.reason) == (status, "fault_injected")
    assert one.attempts == 0
    assert errors.FaultInjected.status == 503


async def test_a_percentage_is_kept_in_the_long_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fault, "_random", Random(7).random)
    handler = wrapped(abort={**REFUSED, "percent": 10})
    refused = 0
    for _ in range(10_000):
        try:
            await handler(exchange())
        except errors.FaultInjected:
            refused += 1
    assert 850 < refused < 1150  # five standard deviations


async def test_none_is_none_and_adds_no_coroutine() -> None:
    handler = wrapped(delay={**LATE, "percent": 0}, abort={**REFUSED, "percent": 0})
    waiting = cast("Any", handler(exchange()))
    assert waiting.cr_code is forward.__code__
    assert (await waiting).status == 200


async def test_a_delay_waits_on_the_clock_before_anything_behind_it_begins() -> None:
    clock, one = FakeClock(), exchange(attempts=0)

    async def run() -> Reply:
        return await wrapped(clock, delay=LATE)(one)

    task = asyncio.get_running_loop().create_task(run())
    await asyncio.sleep(0)
    clock.advance(1.5)
    await asyncio.sleep(0)
    assert (task.done(), one.attempts) == (False, 0)
    clock.advance(0.5)
    assert (await task).status == 200
    assert one.attempts == 99
    assert not clock.timers


async def test_a_delay_ends_with_its_exchange() -> None:
    clock = FakeClock()

    async def run() -> Reply:
        return await wrapped(clock, delay={"time": 3600})(exchange())

    task = asyncio.get_running_loop().create_task(run())
    await asyncio.sleep(0)
    assert len(clock.timers) == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not clock.timers


async def test_what_is_both_is_late_and_then_refused() -> None:
    clock = FakeClock()
    handler = wrapped(clock, delay=LATE, abort=REFUSED)

    async def run() -> Reply:
        return await handler(exchange())

    task = asyncio.get_running_loop().create_task(run())
    await asyncio.sleep(0)
    assert not task.done()
    clock.advance(2)
    with pytest.raises(errors.FaultInjected):
        await task
