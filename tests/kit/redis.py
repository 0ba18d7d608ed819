"""A real redis-server that a test kills, freezes and starts again.

Rules of this file: one process for each fixture, on a unix socket in the test's folder and with nothing on disk, so that
tests do not meet. What a test leaves frozen is thawed before it is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Any

from tests.kit.programs import need
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path


class RedisServer:
    """A server, and what can happen to it."""

    def __init__(self, folder: Path, *, cluster: bool = False) -> None:
        """`cluster`: as the only node of one."""
        self.path = folder / "redis.sock"
        self._folder = folder
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As `stores` takes it."""
        return f"unix://{self.path}"

    async def start(self) -> None:
        """Start it, with nothing in its memory; returns once it answers."""
        port = str(_free_port()) if self._cluster else "0"
        self._process = subprocess.Popen(
            [
                *(need("redis-server"), "--port", port, "--unixsocket", str(self.path)),
                *("--save", "", "--appendonly", "no", "--dir", str(self._folder)),
                *("--cluster-enabled", "yes" if self._cluster else "no", "--bind", "127.0.0.1"),
            ],
            stdout=subprocess.DEVNULL,
        )
        async with asyncio.timeout(PATIENCE):
            while not await self._answers():
                await asyncio.sleep(0.02)
            if self._cluster:
                await self.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
                while b"cluster_state:ok" not in await self.command("CLUSTER", "INFO"):
                    await asyncio.sleep(0.02)

    async def _answers(self) -> bool:
        try:
            return await self.command("PING") is True
        except OSError:
            return False

    async def command(self, *words: Any) -> Any:
        """What the server says to a command, over a connection of its own."""
        from redis.asyncio import Redis
        from redis.exceptions import ConnectionError as Lost

        client = Redis(unix_socket_path=str(self.path), protocol=2)
        try:
            return await client.execute_command(*words)
        except Lost as lost:
            raise ConnectionError(*lost.args) from None
        finally:
            await client.aclose()

    def kill(self) -> None:
        """End it at once; its memory is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """It keeps its connections, takes new ones, and says nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """End it, whatever state it is in."""
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self.kill()


def _free_port() -> int:
    """One that is free together with that of the cluster's bus, which is 10000 higher."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            if port + 10_000 > 65_535:
                continue
            with contextlib.suppress(OSError):
                other.bind(("127.0.0.1", port + 10_000))
                return port
