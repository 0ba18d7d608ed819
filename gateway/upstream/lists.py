"""Targets by list: a file that somebody else rewrites (`discover: {file: …}`), and the environment.

Rules of this file: a file is watched as `files.py` says. One that is broken, empty or gone is a
failure, told once for each stamp.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config import ConfigError
from gateway.config.targets import MAX_BYTES, read_targets, read_variable
from gateway.files import Unreadable, Watched, decoded
from gateway.upstream.discovery import Answer, Found, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.clock import Clock
    from gateway.config import model


class File:
    """A JSON or YAML file that holds a list of targets."""

    def __init__(self, path: str, interval: float, clock: Clock) -> None:
        """`interval`: seconds between two looks at its stamp."""
        self._path = Path(path)
        self._file = Watched(path, self._read, clock, most=MAX_BYTES)
        self.interval = interval
        self.what = f"file {path}"

    async def look(self) -> Answer | None:
        """Read it if it has changed. Raises NotFound."""
        try:
            targets = await self._file.look()
        except Unreadable as error:
            raise NotFound(str(error)) from None
        return None if targets is None else Answer(targets, self.interval)

    def _read(self, content: bytes) -> tuple[Found, ...]:
        """In the thread: a large list takes a while to be read."""
        try:
            return found(read_targets(decoded(content), self._path.name, self._path.parent))
        except ConfigError as error:
            raise Unreadable(_brief(error)) from None


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
