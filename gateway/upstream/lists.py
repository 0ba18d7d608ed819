"""Targets by list: a file that somebody else rewrites (`discover: {file: …}`), and the environment.

Rules of this file: a file is looked at by its stamp, on every file system and through the links
that Kubernetes swaps; it is read in a thread, and only when its stamp has changed and stands still,
for a list that is half written may well be a list. One that is broken, empty or gone is a failure,
told once for each stamp.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config import ConfigError
from gateway.config.targets import MAX_BYTES, read_targets, read_variable
from gateway.upstream.discovery import Answer, Found, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.clock import Clock
    from gateway.config import model

SETTLE = 0.2
"""Seconds for which a file must not have changed before it is read."""
_Stamp = tuple[int, int, int]


class File:
    """A JSON or YAML file that holds a list of targets."""

    def __init__(self, path: str, interval: float, clock: Clock) -> None:
        """`interval`: seconds between two looks at its stamp."""
        self._path = Path(path)
        self._clock = clock
        self._seen: _Stamp | str | None = None
        """The stamp of what was read last, or why it could not be."""
        self.interval = interval
        self.what = f"file {path}"

    async def look(self) -> Answer | None:
        """Read it if it has changed. Raises NotFound."""
        stamp = await asyncio.to_thread(self._stamp)
        if stamp == self._seen:
            return None
        if isinstance(stamp, str):
            self._seen = stamp
            raise NotFound(stamp)
        if self._seen is not None:  # at the start there is nothing to lose by reading at once
            await self._clock.sleep(SETTLE)
        read = await asyncio.to_thread(self._read)
        if await asyncio.to_thread(self._stamp) != stamp:
            return None  # somebody is writing: the next look will tell
        self._seen = stamp
        if isinstance(read, str):
            raise NotFound(read)
        return Answer(read, self.interval)

    def _stamp(self) -> _Stamp | str:
        try:
            status = self._path.stat()
        except OSError as error:
            return error.strerror or str(error)
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _read(self) -> tuple[Found, ...] | str:
        """The targets, or what is wrong. In the thread: a large list takes a while to be read."""
        try:
            with self._path.open("rb") as stream:
                content = stream.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                return f"it is larger than {MAX_BYTES // 1024 // 1024} MiB"
            text = content.decode("utf-8-sig")
            return found(read_targets(text, self._path.name, self._path.parent))
        except OSError as error:
            return error.strerror or str(error)
        except UnicodeDecodeError:
            return "it is not UTF-8: save it as UTF-8"
        except ConfigError as error:
            return _brief(error)


class Environment:
    """A variable that holds targets. What a process finds in its environment does not change by
    itself: it is read once for each configuration.
    """

    def __init__(self, name: str, interval: float) -> None:
        self._name = name
        self._read = False
        self.interval = interval
        self.what = f"env {name}"

    async def look(self) -> Answer | None:
        """Read the variable, the first time. Raises NotFound."""
        if self._read:
            return None
        self._read = True
        try:
            return Answer(found(read_variable(self._name, os.environ)), self.interval)
        except ConfigError as error:
            raise NotFound(_brief(error)) from None


def found(targets: Iterable[model.Target]) -> tuple[Found, ...]:
    """Targets as they are written in a configuration, as found ones."""
    return tuple(Found(one.url, one.weight, one.labels, one.backup) for one in targets)


def _brief(error: ConfigError) -> str:
    """The first mistake, and how many others there are: it is for one line."""
    first, *others = map(str, error.problems)
    return f"{first} (and {len(others)} more)" if others else first
