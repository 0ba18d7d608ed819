"""Counters in Redis: what several gateways count together.

Rules of this file: one round trip for all limits of a stage, and one for all requests that come at once: while as many
questions are on their way as there are connections, others gather for the next. No request waits longer than `timeout`,
whatever the server does; connecting is inside of it. A store that has failed a few times in a row is left alone, so
that a dead one costs nothing: the stage asks `failed` and goes by `on_error` at once. Meanwhile a task in the background
asks whether it is back. What was asked when a time-out struck may have been counted or not; it is not asked twice.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from gateway.limits.script import SCRIPT
from gateway.tasks import spawn, stop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.clock import Clock
    from gateway.config.limits import Store
    from gateway.limits.algorithms import Taken
    from gateway.limits.store import Asked
    from gateway.observe.events import Events

CONNECTIONS: Final = 4
"""To one store, at most, that ask; the server answers one question after the other anyway."""
TOGETHER: Final = 64
"""Requests, at most, that are asked about in one question."""
FAILURES: Final = 3
"""In a row, after which it is left alone."""
PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two looks whether it is back: the first, and what they grow to."""
_SHA: Final = sha1(SCRIPT.encode("ascii"), usedforsecurity=False).hexdigest()
_PREFIX: Final = "gateway:{limits}:"
"""The tag in braces keeps all keys of a call in one slot (Redis Cluster)."""
_ASKS_AND_COUNTS: Final = (f"{_PREFIX}is-it-back", "gcra", 1.0, 1.0, 1.0, 0, 1, 0)
"""A question that takes nothing and is written down: a replica, or a server without memory, answers, and can not count."""


class RedisStore:
    """One of `stores`. Opened by the first question; it outlives reloads while its settings are equal."""

    def __init__(self, name: str, settings: Store, clock: Clock, events: Events) -> None:
        self.name = name
        self.on_error = settings.on_error
        self.failed = False
        """It is left alone now."""
        self._settings = settings
        self._clock = clock
        self._events = events
        self._client: Redis | None = None
        self._failures = 0
        self._probe: asyncio.Task[None] | None = None
        self._waiting: deque[_Request] = deque()
        """Requests that nobody has asked about yet."""
        self._asking: set[asyncio.Task[None]] = set()
        self._soon: asyncio.Handle | None = None

    def __repr__(self) -> str:
        return f"<RedisStore {self.name}: {'failed' if self.failed else 'in use'}>"

    async def take(self, asked: Sequence[Asked]) -> list[Taken] | None:
        """The decisions, in the order asked; counted if all binding ones pass. None: it has not answered in time."""
        loop = asyncio.get_running_loop()
        request = _Request(asked, loop.create_future())
        self._waiting.append(request)
        if self._soon is None and len(self._asking) < CONNECTIONS:
            self._soon = loop.call_soon(self._send)
        try:
            async with asyncio.timeout(self._settings.timeout):
                return await request.said
        except TimeoutError:
            return None

    def _send(self) -> None:
        """Ask about those that wait."""
        self._soon = None
        while self._waiting and len(self._asking) < CONNECTIONS:
            together: list[_Request] = []
            while self._waiting and len(together) < TOGETHER:
                request = self._waiting.popleft()
                if not request.said.done():  # who has waited too long is gone
                    together.append(request)
            if together:
                task = spawn(self._ask(together), f"store {self.name}")
                self._asking.add(task)
                task.add_done_callback(self._asked)

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        if self._waiting:
            self._send()

    async def _ask(self, together: list[_Request]) -> None:
        """One question about several requests."""
        said: list[int] | None = None
        try:
            async with asyncio.timeout(self._settings.timeout):
                said = await self._run(*_written(together))
            self._failures = 0
        except (TimeoutError, RedisError, OSError) as error:
            self._fail(error)
        finally:
            at = 0
            for request in together:
                end = at + 3 * len(request.asked)
                if not request.said.done():
                    request.said.set_result(None if said is None else _read(said[at:end]))
                at = end

    async def _run(self, keys: list[bytes], words: list[str | float]) -> list[int]:
        client: Any = self._client or self._open()
        try:
            said: list[int] = await client.evalsha(_SHA, len(keys), *keys, *words)
        except NoScriptError:  # it was restarted, or another node has taken over
            said = await client.eval(SCRIPT, len(keys), *keys, *words)
        return said

    def _open(self) -> Redis:
        timeout = self._settings.timeout
        pool: Any = BlockingConnectionPool.from_url(
            self._settings.url.reveal(),
            max_connections=CONNECTIONS + 1,  # and one to look whether it is back
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._client = Redis.from_pool(pool)
        return self._client

    def _fail(self, error: BaseException) -> None:
        self._failures += 1
        if self._failures < FAILURES or self.failed:
            return
        self.failed = True
        why = str(error) or f"no answer within {self._settings.timeout * 1000:g} ms"
        self._events.record("store_failed", why=f"{self.name}: {why}; on_error: {self.on_error}")
        self._probe = spawn(self._look(), f"store {self.name}")

    async def _look(self) -> None:
        """Wait until it answers again."""
        pause = PAUSE
        while True:
            await self._clock.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            client: Any = self._client
            try:
                # Those that are left are from before: a server that froze may have a heap of old questions to answer.
                await client.connection_pool.disconnect(inuse_connections=False)
                async with asyncio.timeout(self._settings.timeout):
                    await client.eval(SCRIPT, 1, *_ASKS_AND_COUNTS)
            except (TimeoutError, RedisError, OSError):
                continue
            break
        self.failed = False
        self._failures = 0
        self._events.record("store_recovered", why=self.name)

    async def aclose(self) -> None:
        """Close its connections. Idempotent."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        self._waiting.clear()
        await stop(*self._asking, *([self._probe] if self._probe is not None else []))
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


class _Request(NamedTuple):
    """One request that waits for what its limits say."""

    asked: Sequence[Asked]
    said: asyncio.Future[list[Taken] | None]


def _written(together: list[_Request]) -> tuple[list[bytes], list[str | float]]:
    """KEYS and ARGV."""
    keys: list[bytes] = []
    words: list[str | float] = []
    for number, request in enumerate(together):
        for one in request.asked:
            _, algorithm, _, cost, binding = one
            keys.append(key_of(one))
            # Above any cost that passes, one is like another; infinity has no number in Lua.
            cost = min(cost, 2 * algorithm.most + 1)
            words += (
                algorithm.word,
                *algorithm.numbers,
                algorithm.most,
                cost,
                int(binding),
                number,
            )
    return keys, words


def _read(said: list[int]) -> list[Taken]:
    return [
        (None, math.inf if said[at] < 0 else said[at] / 1e6, said[at + 1], said[at + 2] / 1e6)
        for at in range(0, len(said), 3)
    ]


def key_of(asked: Asked) -> bytes:
    """The name under which Redis keeps a counter."""
    return f"{_PREFIX}{asked[0]}/{asked[2]}".encode("utf-8", "surrogateescape")
