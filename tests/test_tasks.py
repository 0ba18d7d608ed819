"""Background tasks: kept while they run, heard when they crash, gone when they are stopped."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from typing import TYPE_CHECKING

from gateway import tasks
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    import pytest


async def test_a_crash_is_logged_at_once_with_its_name_and_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def crash() -> None:
        raise ValueError("no such thing")

    task = tasks.spawn(crash(), "sweeper")
    await asyncio.wait([task])
    await asyncio.sleep(0)
    [record] = caplog.records
    assert (record.name, record.levelno, record.message) == (
        "gateway.tasks",
        logging.ERROR,
        "task_crashed",
    )
    assert vars(record)["task"] == "sweeper"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "no such thing"
    assert record.exc_info[2] is not None


async def test_a_task_that_ends_or_is_cancelled_is_no_crash(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def seven() -> int:
        return 7

    assert await tasks.spawn(seven(), "short") == 7
    await tasks.stop(tasks.spawn(asyncio.sleep(1000), "long"))
    assert not caplog.records
    assert not tasks._running


def _finish(waiter: weakref.ref[asyncio.Future[None]]) -> None:
    if (future := waiter()) is not None:
        future.set_result(None)


async def test_a_task_that_nobody_holds_runs_to_its_end() -> None:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    async def work() -> None:
        # Only the task holds what it waits for: the loop alone would let both be collected.
        waiter = loop.create_future()
        loop.call_later(0.02, _finish, weakref.ref(waiter))
        await waiter
        done.set()

    tasks.spawn(work(), "alone")
    await asyncio.sleep(0)
    gc.collect()
    async with asyncio.timeout(PATIENCE):
        await done.wait()


async def test_stop_waits_until_a_task_has_cleaned_up() -> None:
    steps: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            for _ in range(3):
                await asyncio.sleep(0)
            steps.append("clean")

    running = [tasks.spawn(work(), "a"), tasks.spawn(work(), "b")]
    await asyncio.sleep(0)
    await tasks.stop(*running)
    assert steps == ["clean", "clean"]
    assert all(task.cancelled() for task in running)


async def test_stop_swallows_what_a_task_raises_on_its_way_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            raise ValueError("late")

    task = tasks.spawn(work(), "bad")
    await asyncio.sleep(0)
    await tasks.stop(task)
    assert [record.message for record in caplog.records] == ["task_crashed"]
    await tasks.stop(task)
    await tasks.stop()
