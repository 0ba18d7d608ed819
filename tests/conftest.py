"""Fixtures of all tests: upstreams, raw clients, a gateway, a guard against what is left behind.

Rules of this file: GATEWAY_TEST_LOOP (`asyncio` or `uvloop`) chooses the event loop of every test.
What a fixture makes it ends: clients first, then gateways, then upstreams. A test that leaves a
task, a socket or a watched deadline, or holds the loop for half a second, fails.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import stat
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from hypothesis import settings

from tests.kit import raw as raw_kit
from tests.kit.origin import OK, Origin
from tests.kit.redis import RedisServer
from tests.kit.running import Running, document
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from tests.kit.origin import Script

    MakeOrigin = Callable[..., Awaitable[Origin]]
    MakeClient = Callable[..., Awaitable[raw_kit.Client]]
    MakeGateway = Callable[..., Awaitable[Running]]

# How long an example takes says more of the machine than of the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

BLOCKED = 0.5
"""Seconds of processor time for which nothing may hold the loop."""
_BEAT = 0.1


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that GATEWAY_TEST_LOOP names: asyncio's own by default."""
    name = os.environ.get("GATEWAY_TEST_LOOP", "asyncio")
    if name == "uvloop":
        import uvloop

        return {name: uvloop.new_event_loop}
    assert name == "asyncio", f"GATEWAY_TEST_LOOP={name}: it is uvloop or asyncio"
    return {name: asyncio.new_event_loop}


# ── the guard ──


def _sockets() -> set[str]:
    found = set()
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - numbers, not paths
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                found.add(name)
        except OSError:
            pass  # the descriptor of this very listing
    return found


class _Heart:
    """Beats on the loop and notes the longest time that the thread computed between two beats.

    Processor time, not time of day: on a busy machine a test may wait for its turn without holding
    the loop. The garbage collector's is left out: it says how much all tests before have left.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._last = time.thread_time()
        self.longest = 0.0
        self._collecting = 0.0
        gc.callbacks.append(self._collects)
        self._handle = loop.call_later(_BEAT, self._beat)

    def _collects(self, phase: str, _: object) -> None:
        if phase == "start":
            self._collecting = time.thread_time()
        else:
            self._last += time.thread_time() - self._collecting

    def _beat(self) -> None:
        now = time.thread_time()
        self.longest = max(self.longest, now - self._last)
        self._last = now
        self._handle = self._loop.call_later(_BEAT, self._beat)

    def stop(self) -> None:
        self._handle.cancel()
        gc.callbacks.remove(self._collects)


@pytest.fixture(scope="session")
def _imported() -> None:
    """Have the gateway imported before a loop runs: half a second, for which the first test of a process is not to blame."""
    importlib.import_module("gateway.runtime.gateway")


@pytest_asyncio.fixture
async def _watch(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, _imported: None
) -> AsyncIterator[None]:
    """Fail a test that leaves tasks or sockets behind, or that blocks the loop."""
    loop = asyncio.get_running_loop()
    before = _sockets()
    own = asyncio.all_tasks()
    sleep = time.sleep

    def refuse(seconds: float) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            sleep(seconds)
        else:
            raise AssertionError("time.sleep on the event loop")

    monkeypatch.setattr(time, "sleep", refuse)
    heart = _Heart(loop)
    yield
    heart.stop()
    tasks: set[asyncio.Task[Any]] = set()
    sockets: set[str] = set()
    for _ in range(100):
        tasks = {task for task in asyncio.all_tasks() - own if task is not asyncio.current_task()}
        sockets = _sockets() - before
        if not tasks and not sockets:
            break
        await asyncio.sleep(0.01)
    assert not tasks, f"tasks left behind: {tasks}"
    assert not sockets, f"sockets left behind: {_described(sockets)}"
    assert heart.longest < BLOCKED + _BEAT, f"the loop was held for {heart.longest:.2f} s"


def _described(numbers: set[str]) -> list[str]:
    return [f"{number} {Path('/dev/fd', number).readlink()}" for number in sorted(numbers)]


@pytest.fixture(autouse=True)
def _leak_guard(request: pytest.FixtureRequest) -> None:
    if pytest_asyncio.is_async_test(request.node):
        request.getfixturevalue("_watch")


# ── upstreams, clients, gateways ──


class _World:
    """What a test has made, in the order in which it ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.origins: list[Origin] = []
        self.clients: list[raw_kit.Client] = []
        self.gateways: list[Running] = []
        self.stack = AsyncExitStack()

    async def origin(self, script: bytes | Sequence[bytes] | Script = OK, **where: Any) -> Origin:
        one = Origin(script, **where)
        self.origins.append(one)
        one.bind()
        return one

    async def raw(
        self,
        address: int | str | Running,
        *,
        receive_buffer: int | None = None,
        source: str | None = None,
    ) -> raw_kit.Client:
        where = address.address if isinstance(address, Running) else address
        client = await raw_kit.connect(where, receive_buffer=receive_buffer, source=source)
        self.clients.append(client)
        return client

    async def gateway(
        self, config: str | Mapping[str, Any] | Origin, *, clock: Any = None, **sections: Any
    ) -> Running:
        from gateway.config import load_dict
        from gateway.runtime.gateway import Gateway
        from tests.kit.clock import FakeClock

        log = self.folder / f"access-{len(self.gateways)}.log"
        loaded = load_dict(document(config, log, **sections))
        clock = clock or FakeClock()
        entered = await self.stack.enter_async_context(Gateway(loaded, clock=clock))
        running = Running(entered, clock, log)
        self.gateways.append(running)
        return running

    async def end(self) -> None:
        for client in self.clients:
            client.close()
        try:
            async with asyncio.timeout(PATIENCE):
                for running in self.gateways:
                    await running.at_rest()
        finally:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self.stack.aclose()
            finally:
                for origin in self.origins:
                    await origin.aclose()


@pytest_asyncio.fixture
async def _world(_leak_guard: None, tmp_path: Path) -> AsyncIterator[_World]:
    world = _World(tmp_path)
    yield world
    await world.end()


@pytest.fixture
def origin(_world: _World) -> MakeOrigin:
    """`await origin(script)`: an upstream that does as it is told; see tests/kit/origin.py."""
    return _world.origin


@pytest.fixture
def raw(_world: _World) -> MakeClient:
    """`await raw(gateway or address)`: a client that sends exact bytes; see tests/kit/raw.py."""
    return _world.raw


@pytest.fixture
def gateway(_world: _World) -> MakeGateway:
    """`await gateway(config)`: a gateway on a clock that the test moves; see tests/kit/running.py.

    `config` is YAML text, a mapping, or an origin for one route to it; sections of the file may be
    given by name.
    """
    return _world.gateway


@pytest_asyncio.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """A real redis-server that answers; see tests/kit/redis.py."""
    server = RedisServer(tmp_path)
    await server.start()
    yield server
    server.end()
