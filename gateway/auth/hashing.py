"""Slow work off the loop: a few threads, and a queue with an end.

Rules of this file: hashing passwords costs the processor a tenth of a second each, which is what an attacker would
buy with one small request. So there are few threads, and who comes when the queue is full is told so at once.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from gateway import errors

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS = max(1, min(4, (os.cpu_count() or 2) // 2))
"""Half of the processors: the loop needs one of its own."""
QUEUE = 64
"""Verifications that wait or run."""


class Verifier:
    """Runs verifications for one policy."""

    def __init__(self, threads: int = THREADS, queue: int = QUEUE) -> None:
        self._queue = queue
        self._executor = ThreadPoolExecutor(threads, "password")
        self.waiting = 0
        """Those that wait or run."""
        self.done = 0
        """Hashes that were computed."""

    def run(self, verify: Callable[[bytes], bool], password: bytes) -> asyncio.Future[bool]:
        """Verify in a thread; cancelled if the policy is closed first. Raises errors.AuthUnavailable."""
        if self.waiting >= self._queue:
            raise busy()
        self.waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self._executor, verify, password)
        future.add_done_callback(self._ended)
        return future

    def _ended(self, _future: asyncio.Future[bool]) -> None:
        self.waiting -= 1
        self.done += 1

    async def aclose(self) -> None:
        """Give up what waits, and wait for what runs."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._executor.shutdown)


def busy() -> errors.AuthUnavailable:
    """What those are told for whom there is no room."""
    return errors.AuthUnavailable("too many passwords wait to be verified", (("Retry-After", "1"),))
