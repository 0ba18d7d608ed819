"""Files of credentials: read when their policy is made, and again whenever they change.

Rules of this file: a file is watched as `gateway/files.py` says, so nothing need be signalled or reloaded when a
key is withdrawn. A broken file, or one that is gone, changes nothing: what it held last counts on, and that is said once, as
an event. Nothing that is said quotes the file.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Generic, TypeVar

from gateway.config import ConfigError
from gateway.config.credentials import MAX_BYTES
from gateway.config.sources import shown
from gateway.files import Unreadable, Watched, decoded
from gateway.tasks import spawn, stop

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.auth import Tools

log = logging.getLogger("gateway.auth")

T = TypeVar("T")

INTERVAL = 2.0
"""Seconds between two looks: a key that is withdrawn counts for this much longer, and `SETTLE`."""


class Credentials(Generic[T]):
    """What one file of a policy holds, kept up to date where there is a loop."""

    def __init__(
        self,
        policy: str,
        path: str,
        read: Callable[[str, str], T],
        take: Callable[[T], str],
        tools: Tools,
    ) -> None:
        """Read the file. `read` makes sense of its text (and its name, for messages), in a thread;
        it raises ConfigError. `take` puts what was read in force, on the loop, and says what that is
        (`12 keys`).

        Raises ValueError with every mistake in the file, OSError if there is none.
        """
        self._policy = policy
        self._path = path
        self._name = shown(path)
        self._parse = read
        self._take = take
        self._clock = tools.clock
        self._events = tools.events
        self._problem: str | None = None
        self._file = Watched(path, self._read, tools.clock, most=MAX_BYTES)
        try:
            take(self._file.first())
        except _Wrong as error:
            raise ValueError(str(error.cause)) from None
        except Unreadable as error:
            raise ValueError(f"{self._name} cannot be read: {error}") from None
        self._task: asyncio.Task[None] | None = None
        if _in_loop():  # a check or a test of a configuration is in none
            self._task = spawn(self._run(), f"credentials of {policy}")

    def __repr__(self) -> str:
        return f"<Credentials of {self._policy}: {self._name}, {self._problem or 'well'}>"

    async def aclose(self) -> None:
        """Look no more; what was read last stays. Idempotent."""
        if self._task is not None:
            await stop(self._task)

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(INTERVAL)
            await self.look()

    async def look(self) -> None:
        """Look once, and take what is found."""
        try:
            found = await self._file.look()
            if found is None:
                return
            held = self._take(found)
        except _Wrong as error:
            self._complain(str(error))  # its places name the file
        except Unreadable as error:
            self._complain(f"{self._name}: {error}")
        except Exception as error:  # a fault of ours must not end the looking
            log.exception("auth_file_crashed", extra={"policy": self._policy})
            self._complain(f"{self._name}: {type(error).__name__}")
        else:
            self._problem = None
            self._events.record("auth_file_reloaded", why=f"{self._policy}: {self._name}: {held}")

    def _complain(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            why = f"{self._policy}: {problem}; what it held before counts on"
            self._events.record("auth_file_failed", why=why)

    def _read(self, content: bytes) -> T:
        try:
            return self._parse(decoded(content), self._name)
        except ConfigError as error:
            raise _Wrong(error) from None


class _Wrong(Unreadable):
    """There are mistakes in it."""

    def __init__(self, cause: ConfigError) -> None:
        first, *others = map(str, cause.problems)
        super().__init__(f"{first} (and {len(others)} more)" if others else first)
        self.cause = cause


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
