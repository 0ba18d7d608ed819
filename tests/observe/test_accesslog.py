from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import stat
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from gateway.config import model
from gateway.observe import accesslog
from gateway.observe.accesslog import AccessLog, compile_sample
from gateway.observe.metrics import Metrics
from gateway.tasks import spawn
from tests.kit.clock import FakeClock
from tests.observe.stand_in import exchange, refused

if TYPE_CHECKING:
    from pathlib import Path


def opened(path: Path | None, **settings: Any) -> tuple[AccessLog, FakeClock, Metrics]:
    clock, metrics = FakeClock(), Metrics(model.Metrics())
    file = None if path is None else str(path)
    return AccessLog(model.AccessLog(file=file, **settings), clock, metrics), clock, metrics


async def until_written(path: Path, lines: int) -> list[str]:
    async with asyncio.timeout(10):
        while True:
            found = path.read_text().splitlines() if path.exists() else []
            if len(found) >= lines:
                return found
            await asyncio.sleep(0.01)


async def test_lines_are_written_in_their_order_once_they_have_been_gathered(
    tmp_path: Path,
) -> None:
    path = tmp_path / "access.log"
    log, clock, _ = opened(path, format="{path}")
    for number in range(3):
        log.record(exchange(path=f"/{number}"))
    assert path.read_text() == ""
    clock.advance(accesslog.GATHER)
    assert await until_written(path, 3) == ["/0", "/1", "/2"]
    await log.aclose()


async def test_a_line_bears_the_time_at_which_its_exchange_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log, clock, _ = opened(path)
    first = clock.wall()
    for _ in range(2):
        log.record(exchange(ended=clock.now()))
        clock.advance(0.05)
    clock.advance(30)
    times = [json.loads(line)["time"] for line in await until_written(path, 2)]
    told = [datetime.fromisoformat(time).timestamp() for time in times]
    assert told == pytest.approx([first, first + 0.05], abs=0.03)
    await log.aclose()


async def test_no_more_than_so_many_are_gathered(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log, _, _ = opened(path, format="{path}")
    for number in range(accesslog.GATHERED + 1):
        log.record(exchange(path=f"/{number}"))
    assert len(await until_written(path, accesslog.GATHERED)) == accesslog.GATHERED
    await log.aclose()
    assert len(path.read_text().splitlines()) == accesslog.GATHERED + 1


async def test_closing_writes_what_was_gathered(tmp_path: Path) -> None:
    log, _, metrics = opened(tmp_path / "access.log")
    log.record(exchange())
    await log.aclose()
    [line] = (tmp_path / "access.log").read_text().splitlines()
    assert json.loads(line)["status"] == 200
    assert metrics.access_log_dropped == 0


async def test_lines_go_to_standard_output_where_no_file_is_named(
    capfd: pytest.CaptureFixture[str],
) -> None:
    log, _, _ = opened(None, format="{path}")
    log.record(exchange())
    await log.aclose()
    assert capfd.readouterr().out == "/orders/7\n"
    os.fstat(1)  # still open


async def test_a_log_is_appended_to_and_not_readable_for_all(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    for _ in range(2):
        log, _, _ = opened(path, format="{path}")
        log.record(exchange())
        await log.aclose()
    assert path.read_text() == "/orders/7\n" * 2
    assert stat.S_IMODE(path.stat().st_mode) & 0o137 == 0


def test_a_file_that_can_not_be_opened_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no/access\.log"):
        opened(tmp_path / "no" / "access.log")


async def test_after_a_rotation_lines_go_to_the_new_file_and_none_is_lost(tmp_path: Path) -> None:
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    log, _, _ = opened(path, format="{path}")
    log.record(exchange(path="/before"))
    path.rename(old)
    log.record(exchange(path="/between"))
    log.reopen()
    log.record(exchange(path="/after"))
    await log.aclose()
    assert old.read_text() == "/before\n/between\n"
    assert path.read_text() == "/after\n"


async def test_where_the_new_file_can_not_be_opened_the_old_one_serves_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "access.log"
    log, _, _ = opened(path, format="{path}")
    log.record(exchange(path="/before"))
    moved = tmp_path / "moved"
    folder.rename(moved)
    log.reopen()
    log.record(exchange(path="/after"))
    await log.aclose()
    assert (moved / "access.log").read_text() == "/before\n/after\n"
    assert [record.getMessage() for record in caplog.records] == ["access_log_not_reopened"]


async def test_what_comes_after_the_end_is_dropped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log, clock, metrics = opened(path, format="{path}")
    await log.aclose()
    with (tmp_path / "another").open("wb") as another:  # takes the number of the closed descriptor
        log.record(exchange())
        log.reopen()
        clock.advance(1)
        await log.aclose()
        assert not clock.timers
        assert another.tell() == 0
    assert path.read_text() == ""
    assert metrics.access_log_dropped == 1


def test_a_pipe_that_nobody_reads_is_an_error_and_not_a_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device"):
        opened(tmp_path / "pipe")


# ── what can not be written ──


async def test_lines_are_dropped_and_counted_when_nobody_reads_and_recording_never_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accesslog, "MOST_LINES", 100)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        log, clock, metrics = opened(pipe, format="{path}")
        long = "/" + "x" * 10_000  # 100 of them are more than a pipe holds
        for _ in range(150):
            log.record(exchange(path=long))
        clock.advance(accesslog.GATHER)
        for _ in range(50):
            log.record(exchange(path=long))
        assert metrics.access_log_dropped == 100
        closing = spawn(log.aclose(), "closing")
        got = b""
        async with asyncio.timeout(10):
            while not closing.done():
                with contextlib.suppress(BlockingIOError):
                    got += os.read(reader, 1 << 20)
                await asyncio.sleep(0.001)
        await closing
        got += os.read(reader, 1 << 20)
        assert got.count(b"\n") == 100
        assert metrics.access_log_dropped == 100
    finally:
        os.close(reader)


async def test_a_writer_that_stays_stuck_does_not_keep_the_gateway_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accesslog, "CLOSE_WITHIN", 0.05)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    log, _, metrics = opened(pipe, format="{path}")
    for _ in range(20):
        log.record(exchange(path="/" + "x" * 10_000))
    async with asyncio.timeout(5):
        await log.aclose()
    assert metrics.access_log_dropped == 20
    os.close(reader)  # the thread ends with EPIPE


async def test_lines_that_the_disk_refuses_are_counted_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "access.log"
    log, clock, metrics = opened(path, format="{path}")

    def full(fd: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(accesslog, "write_all", full)
        for _ in range(2):
            log.record(exchange())
            log.record(exchange())
            clock.advance(accesslog.GATHER)
            async with asyncio.timeout(10):
                while log._writer.backlog:
                    await asyncio.sleep(0.001)
    log.record(exchange())
    await log.aclose()
    assert metrics.access_log_dropped == 4
    assert path.read_text() == "/orders/7\n"
    assert [record.getMessage() for record in caplog.records] == ["access_log_not_written"]
    assert caplog.records[0].levelno == logging.ERROR


def test_every_byte_is_written_to_a_descriptor_that_does_not_block() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    data = b"x" * 300_000
    got = bytearray()

    def read() -> None:
        while len(got) < len(data):
            got.extend(os.read(reading, 65_536))

    import threading

    thread = threading.Thread(target=read)
    thread.start()
    accesslog.write_all(writing, data)
    thread.join(10)
    os.close(reading)
    os.close(writing)
    assert bytes(got) == data


# ── sampling ──


def test_all_is_logged_unless_a_sample_is_asked_for() -> None:
    assert compile_sample(model.Sample()) is None


def test_a_sample_of_successes_keeps_every_error_and_everything_slow() -> None:
    wanted = compile_sample(model.Sample(success=0.0, slower_than=1.0))
    assert wanted is not None
    assert not wanted(exchange())
    assert wanted(exchange(status=404))
    assert wanted(refused(status=503))
    assert wanted(exchange(reason="upstream_reset"))
    assert wanted(exchange(ended=101.5))


def test_errors_can_be_sampled_too() -> None:
    wanted = compile_sample(model.Sample(errors=0.0))
    assert wanted is not None
    assert wanted(exchange())
    assert not wanted(refused())


def test_a_share_is_drawn_for_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter((0.05, 0.15, 0.099, 0.1))
    monkeypatch.setattr(accesslog.random, "random", lambda: next(draws))
    wanted = compile_sample(model.Sample(success=0.1))
    assert wanted is not None
    assert [wanted(exchange()) for _ in range(4)] == [True, False, True, False]


async def test_what_is_not_in_the_sample_is_not_written(tmp_path: Path) -> None:
    log, _, metrics = opened(tmp_path / "a", format="{status}", sample={"success": 0.0})
    log.record(exchange())
    log.record(exchange(status=500))
    await log.aclose()
    assert (tmp_path / "a").read_text() == "500\n"
    assert metrics.access_log_dropped == 0
