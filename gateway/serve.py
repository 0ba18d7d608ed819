"""The process around a Gateway: its event loop, its service log, its signals and its exit code.

Rules of this file: what belongs to a process and not to a library is here, and nothing else. A
Gateway in somebody's own event loop (`async with Gateway(config)`) must not touch signals, logging
or the garbage collector.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from gateway import starting
from gateway.config import ConfigError
from gateway.observe import logs
from gateway.runtime.gateway import Gateway
from gateway.runtime.tls import hushed
from gateway.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from gateway.config import effective

log = logging.getLogger("gateway.serve")

FAILED = 1
WRONG = 78
"""The configuration is, with all that it names: EX_CONFIG of sysexits.h, which a supervisor does not restart."""
FIRST_THRESHOLD = 50_000
"""Allocations between two looks at young objects: those of a request die by themselves."""


class CannotStart(Exception):
    """An address that is taken or not ours, a file that the configuration names and that can not be used: one plain line."""

    def __init__(self, why: str, code: int = FAILED) -> None:
        super().__init__(why)
        self.code = code
        """What the process ends with."""


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's where it can be imported, else asyncio's; `GATEWAY_LOOP=asyncio` insists on that."""
    if os.environ.get("GATEWAY_LOOP") != "asyncio":
        try:
            import uvloop  # noqa: PLC0415 - it may be missing
        except ImportError:
            pass
        else:
            return uvloop.new_event_loop
    return asyncio.new_event_loop


def settle() -> None:
    """What has been loaded stays: the collector need not walk it again."""
    gc.unfreeze()  # after a reload, what has gone meanwhile can be collected
    gc.collect()
    gc.freeze()
    gc.set_threshold(FIRST_THRESHOLD, 20, 50)


def in_loop(main: Coroutine[None, None, int]) -> int:
    """Run `main` to its end on the loop of choice."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(main)


def serve(config: effective.Config, level: str) -> int:
    """Run a gateway until it is told to stop. Returns the exit code; raises CannotStart."""
    logs.setup(level)
    sys.unraisablehook = hushed(sys.unraisablehook)
    return in_loop(until_stopped(config))


async def until_stopped(
    config: effective.Config, started: Callable[[Gateway], None] | None = None
) -> int:
    """Start, obey signals, drain. Returns the exit code."""
    gateway = Gateway(config)
    try:
        await gateway.__aenter__()
    except OSError as error:
        raise CannotStart(error.strerror or str(error)) from error
    except ValueError as error:
        # A file that the configuration names is not what it should be: to start once more would not help.
        log.debug("cannot_start", exc_info=True)
        raise CannotStart(str(error), WRONG) from error
    try:
        for name, address in gateway.addresses.items():
            log.info("listening", extra={"listener": name, "address": address})
        if gateway.admin_address:
            log.info("admin_listening", extra={"address": gateway.admin_address})
        signals = Signals(gateway)
        signals.install()
        settle()
        if started:
            started(gateway)
        log.info("ready", extra={"generation": gateway.generation, "pid": os.getpid()})
        await signals.stopped.wait()
    finally:
        await gateway.__aexit__(None, None, None)
    log.info("stopped")
    return 0


class Signals:
    """What each signal does to a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._stopping = False
        self.stopped = asyncio.Event()

    def install(self) -> None:
        """Take over the signals of this process."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._start, self._reload)
        loop.add_signal_handler(signal.SIGUSR1, self._gateway.reopen_logs)
        loop.add_signal_handler(signal.SIGTERM, self._stop, None)
        loop.add_signal_handler(signal.SIGINT, self._stop, 0.0)
        if starting.reload_wanted():
            # The files may have changed after they were read.
            self._start(self._reload)

    def _start(self, work: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            await work()

        _ = spawn(run(), "signal")

    async def _reload(self) -> None:
        if self._stopping:
            return
        try:
            await self._gateway.reload()
        except (ConfigError, OSError, ValueError):
            return  # the gateway has logged and counted it, and serves what it served
        settle()

    def _stop(self, delay: float | None) -> None:
        if self._stopping:
            log.warning("stopped_at_once")
            logging.shutdown()
            os._exit(FAILED)
        self._stopping = True
        _ = spawn(self._drain(delay), "drain")

    async def _drain(self, delay: float | None) -> None:
        try:
            await self._gateway.drain(delay=delay)
        finally:
            self.stopped.set()
