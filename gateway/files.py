"""A file that somebody else rewrites while the gateway runs.

Rules of this file: a file is looked at by its stamp, on every file system and through the links
that Kubernetes swaps; it is read in a thread, and only when its stamp has changed and stands still,
for a file that is half written may well look whole. One that cannot be read is a failure, told once
for each stamp.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clock import Clock

T = TypeVar("T")

SETTLE = 0.2
"""Seconds for which a file must not have changed before it is read."""
_Stamp = tuple[int, int, int]


class Unreadable(Exception):
    """It cannot be read, or not used; its text says why, for people."""


class Watched(Generic[T]):
    """One file, and what it was found to hold."""

    def __init__(self, path: str, read: Callable[[bytes], T], clock: Clock, *, most: int) -> None:
        """`read` makes sense of the content, in a thread; it raises Unreadable. `most`: bytes."""
        self._path = Path(path)
        self._read = read
        self._clock = clock
        self._most = most
        self._seen: _Stamp | str | None = None
        """The stamp of what was read last, or why it could not be."""

    def first(self) -> T:
        """Read it now, in this thread: before there is a loop. Raises Unreadable."""
        stamp = self._stamp()
        if isinstance(stamp, str):
            raise Unreadable(stamp)
        found = self._content()
        self._seen = stamp  # of before: what has changed since is seen by the next look
        return found

    async def look(self) -> T | None:
        """What it holds, if that has changed since the last look. Raises Unreadable."""
        stamp = await asyncio.to_thread(self._stamp)
        if stamp == self._seen:
            return None
        if isinstance(stamp, str):
            self._seen = stamp
            raise Unreadable(stamp)
        if self._seen is not None:  # at the start there is nothing to lose by reading at once
            await self._clock.sleep(SETTLE)
        failure: Unreadable | None = None
        found: T | None = None
        try:
            found = await asyncio.to_thread(self._content)
        except Unreadable as error:
            failure = error
        if await asyncio.to_thread(self._stamp) != stamp:
            return None  # somebody is writing: the next look will tell
        self._seen = stamp
        if failure is not None:
            raise failure
        return found

    def _stamp(self) -> _Stamp | str:
        try:
            status = self._path.stat()
        except OSError as error:
            return error.strerror or str(error)
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _content(self) -> T:
        try:
            with self._path.open("rb") as stream:
                content = stream.read(self._most + 1)
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from None
        if len(content) > self._most:
            raise Unreadable(f"it is larger than {self._most // 1024 // 1024} MiB")
        return self._read(content)


def decoded(content: bytes) -> str:
    """The text of a file, without the mark that some editors put at its beginning. Raises Unreadable."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"it is not UTF-8 in line {line}: save it as UTF-8") from None
