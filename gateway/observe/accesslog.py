"""The access log: one line a request, written by a thread of its own.

Rules of this file: `record` never waits. Exchanges are gathered, for a tenth of a second at most,
and their lines made and handed to the writer together: making many in a row takes half the time,
and waking a thread for each would cost more than the line. When the writer can not keep up, lines
are dropped and counted, never requests. What a line holds is `lines.py`'s.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import random
import select
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.observe.lines import compile_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clock import Clock, Timer
    from gateway.config import model
    from gateway.exchange import Exchange
    from gateway.observe.metrics import Metrics

log = logging.getLogger("gateway.observe.accesslog")

MOST_LINES = 10_000
"""Lines that may wait for the writer; more are dropped."""
GATHER = 0.1
"""Seconds for which exchanges are gathered,"""
GATHERED = 128
"""and how many at most: the loop stands still while their lines are made."""
CLOSE_WITHIN = 5.0
"""Seconds that the writer is given at the end for what it still holds."""
_STDOUT = 1


class AccessLog:
    """Writes a line for each exchange that is recorded."""

    def __init__(self, settings: model.AccessLog, clock: Clock, metrics: Metrics) -> None:
        """Open the log. Raises OSError if its file can not be opened, ValueError if its format can
        not be compiled.
        """
        self._clock = clock
        self._metrics = metrics
        self._line = compile_line(settings, lambda: self._moment)
        self._moment = 0.0
        """Unix seconds: the end of the exchange whose line is made."""
        self._wanted = compile_sample(settings.sample)
        self._writer = Writer(settings.file)
        self._ended: list[Exchange] = []
        self._timer: Timer | None = None
        self._lost = 0
        self._most = MOST_LINES

    def record(self, exchange: Exchange) -> None:
        """Take an exchange that has ended; on the event loop."""
        if self._wanted is not None and not self._wanted(exchange):
            return
        ended = self._ended
        if len(ended) + self._writer.backlog >= self._most:
            self._metrics.access_log_dropped += 1
            return
        ended.append(exchange)
        if len(ended) >= GATHERED:
            self._flush()
        elif self._timer is None:
            self._timer = self._clock.call_later(GATHER, self._flush)

    def reopen(self) -> None:
        """Close the file and open its name again: after a rotation has renamed it. Standard output
        stays.
        """
        if self._most:
            self._flush()
            self._writer.reopen()

    async def aclose(self) -> None:
        """Write what is there, then end the writer. What a stuck reader does not take in time is
        counted as dropped, and so is what comes later. Idempotent.
        """
        self._most = 0
        self._flush()
        await self._writer.aclose()
        self._count_lost()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._count_lost()
        if self._ended:
            ended, self._ended = self._ended, []
            since = self._clock.wall() - self._clock.now()
            lines = []
            for exchange in ended:
                self._moment = exchange.ended + since
                lines.append(self._line(exchange))
            self._writer.write(lines)

    def _count_lost(self) -> None:
        # The writer counts for itself: an integer that two threads add to loses some.
        lost = self._writer.lost
        self._metrics.access_log_dropped += lost - self._lost
        self._lost = lost


class Writer:
    """A thread that writes lines to a file or to standard output, in the order of their coming."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._fd = _STDOUT if path is None else _open(path)
        self._work: queue.SimpleQueue[list[str] | Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._given = 0
        self._done = 0
        self.lost = 0
        """Lines that could not be written; only the thread adds to it until it has ended."""
        self._failing = False

    @property
    def backlog(self) -> int:
        """Lines that the thread still holds."""
        return self._given - self._done

    def write(self, lines: list[str]) -> None:
        """Hand lines over."""
        self._given += len(lines)
        self._put(lines)

    def reopen(self) -> None:
        """Open the file again, once what was handed over before is written."""
        if self._path is not None:
            self._put(self._reopen)

    async def aclose(self) -> None:
        """Wait, without blocking the loop, until all is written; give up after `CLOSE_WITHIN`."""
        thread = self._thread
        if thread is not None:
            self._work.put(None)
            await asyncio.to_thread(thread.join, CLOSE_WITHIN)
            self._thread = None
            if thread.is_alive():
                # Stuck on a pipe that nobody reads. It is a daemon, and its descriptor stays open
                # with it.
                self.lost += self.backlog
                return
        if self._path is not None and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _put(self, work: list[str] | Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
            self._thread.start()
        self._work.put(work)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            if isinstance(work, list):
                self._write(work)
            else:
                work()

    def _write(self, lines: list[str]) -> None:
        try:
            write_all(self._fd, "".join(lines).encode("utf-8", "backslashreplace"))
            self._failing = False
        except OSError as error:
            # Said once, not ten times a second: the disk stays full for a while.
            self.lost += len(lines)
            if not self._failing:
                self._failing = True
                log.error("access_log_not_written", extra={"file": self._path, "error": str(error)})  # noqa: TRY400
        self._done += len(lines)

    def _reopen(self) -> None:
        try:
            fd = _open(self._path or "")
        except OSError as error:
            log.error("access_log_not_reopened", extra={"file": self._path, "error": str(error)})  # noqa: TRY400
            return
        os.close(self._fd)
        self._fd = fd


def write_all(fd: int, data: bytes) -> None:
    """Write every byte, waiting for room where the descriptor is non-blocking. Raises OSError."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            # Whoever shares standard output with us may have made it non-blocking.
            select.select((), (fd,), ())


def _open(path: str) -> int:
    # Without the execute bits and unreadable for others: addresses of people stand in it.
    # Non-blocking while it is opened: a pipe that nobody reads is an error then, not a wait without
    # end.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    fd = os.open(Path(path), flags, 0o640)
    os.set_blocking(fd, True)
    return fd


def compile_sample(sample: model.Sample) -> Callable[[Exchange], bool] | None:
    """Which exchanges are logged; None: all. Errors are statuses from 400 and whatever has a
    reason; the slow are all logged.
    """
    success, errors, slow = sample.success, sample.errors, sample.slower_than
    if success >= 1 and errors >= 1:
        return None
    draw = random.random

    def wanted(exchange: Exchange) -> bool:
        if slow is not None and exchange.ended - exchange.began > slow:
            return True
        share: float = errors if exchange.status >= 400 or exchange.reason else success
        return share >= 1 or draw() < share

    return wanted
