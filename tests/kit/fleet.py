"""Upstreams as processes of their own, and the gateway in front of them as users run it.

Rules of this file: a port is chosen by the system and kept while the test lasts, by a socket that
is bound and never listens: a process that is killed and started again has the same one, and nobody
else gets it meanwhile. What a process was asked stands in its journal, which outlives it. Every
wait has a bound; whatever was started is killed at the end, frozen or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from tests.kit.apps import READY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 20.0
"""Seconds that a process may take to start or to end."""
GRACE = 5
"""Seconds that an upstream gives its requests when it is told to stop."""
WORKERS = 4
"""Of gunicorn, if they are sync ones; with threads it has one worker of twice as many threads."""


class Program:
    """One process."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.output = folder / f"{name}.out"
        """All that it prints, over all its lives."""

    def command(self) -> list[str]:
        """What is run, behind the interpreter."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """What is set beside this process's own environment."""
        return {}

    def launch(self) -> None:
        """Start the process; it is not ready yet."""
        assert self.process is None, f"{self.name} runs"
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, *self.command()],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **self.environment()},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,  # its workers are killed with it
            )

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        assert self.process is not None, f"{self.name} does not run"
        self.process.send_signal(number)

    def _signal_all(self, number: int) -> None:
        assert self.process is not None, f"{self.name} does not run"
        os.killpg(self.process.pid, number)

    async def kill(self) -> None:
        """kill -9, the workers too."""
        self._signal_all(signal.SIGKILL)
        await self.ended()
        await eventually(
            self._refuses, f"nobody of {self.name} listens"
        )  # workers die a moment later

    def _refuses(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self.port)) == errno.ECONNREFUSED

    async def ended(self) -> int:
        """Wait until the process is gone; its exit code."""
        process = self.process
        assert process is not None, f"{self.name} does not run"
        await eventually(lambda: process.poll() is not None, f"{self.name} ends")
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        self.process = None
        return int(process.returncode)

    async def close(self) -> None:
        """Leave nothing behind."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._signal_all(signal.SIGKILL)
            await self.ended()

    def said(self) -> str:
        """All that it has printed."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""


class Origin(Program):
    """One upstream: `kind` is uvicorn, gthread, sync (gunicorn's workers) or raw."""

    def __init__(
        self, name: str, folder: Path, kind: str, held: socket.socket, options: Sequence[str]
    ) -> None:
        super().__init__(name, folder)
        self.kind = kind
        self._options = options
        self._held = held
        self.host, self.port = held.getsockname()
        self.address = f"{self.host}:{self.port}"
        """As metrics name the target."""
        self.url = f"http://{self.address}"
        self._journal = folder / f"{name}.journal"
        self._journal.touch()
        self._forgotten = 0

    def command(self) -> list[str]:
        if self.kind == "raw":
            return ["-m", "tests.kit.apps", self.host, str(self.port)]
        if self.kind == "uvicorn":
            words = ["-m", "uvicorn", "tests.kit.apps:asgi"]
            words += ["--host", self.host, "--port", str(self.port)]
            quiet = ["--no-access-log", "--log-level", "warning"]
            grace = ["--timeout-graceful-shutdown", str(GRACE)]
            return [*words, *quiet, *grace, *self._options]
        words = ["-m", "gunicorn", "tests.kit.apps:wsgi", "--bind", self.address]
        workers = ["--worker-class", self.kind, "--worker-tmp-dir", str(self.folder)]
        threads = (
            ["--threads", str(2 * WORKERS)]
            if self.kind == "gthread"
            else ["--workers", str(WORKERS)]
        )
        grace = ["--graceful-timeout", str(GRACE), "--no-control-socket"]
        return [*words, *workers, *threads, *grace, *self._options]

    def environment(self) -> dict[str, str]:
        return {"DRILL_JOURNAL": str(self._journal), "DRILL_NAME": self.name}

    # ── life ──

    async def start(self) -> None:
        """Start, and wait until it answers."""
        seen = self.count("listening")
        self.launch()
        await self.ready(seen)

    async def ready(self, listened: int = 0) -> None:
        """Wait until it answers; a raw one is not asked, for it counts its connections."""
        if self.kind == "raw":
            await eventually(lambda: self.count("listening") > listened, f"{self.name} listens")
            return
        async with asyncio.timeout(PATIENCE):
            while await _status(self.address, READY) != 200:
                assert self.process is not None
                assert self.process.poll() is None, self.said()
                await asyncio.sleep(0.03)

    async def stop(self) -> None:
        """SIGTERM: what is under way ends first."""
        self.signal(signal.SIGTERM)
        await self.ended()

    def freeze(self) -> None:
        """SIGSTOP, the workers too: the kernel goes on taking connections, nobody answers."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal_all(signal.SIGCONT)

    async def reload(self) -> None:
        """SIGHUP to gunicorn: new workers, while the listening socket stays."""
        before = self._workers()
        self.signal(signal.SIGHUP)
        await eventually(lambda: not before & self._workers(), f"{self.name} has new workers")
        await self.ready()

    def _workers(self) -> set[int]:
        assert self.process is not None
        own = self.process.pid
        children = Path(f"/proc/{own}/task/{own}/children").read_text()
        return {int(pid) for pid in children.split()}

    async def tell(self, command: str) -> None:
        """Give a raw origin a command, and wait until it has taken it; see `Raw.obey`."""
        process = self.process
        assert self.kind == "raw"
        assert process is not None
        assert process.stdin is not None
        before = self.count("obeyed")
        process.stdin.write(command.encode() + b"\n")
        process.stdin.flush()
        await eventually(lambda: self.count("obeyed") > before, f"{self.name} obeys")

    async def close(self) -> None:
        await super().close()
        self._held.close()

    # ── what it was asked ──

    def forget(self) -> None:
        """From now on count only what comes."""
        self._forgotten = self._journal.stat().st_size

    def lines(self, word: str) -> list[list[str]]:
        """The journal's lines that begin with `word`, without it."""
        with self._journal.open("rb") as file:
            file.seek(self._forgotten)
            found = [line.split() for line in file.read().decode().splitlines()]
        return [line[1:] for line in found if line[0] == word]

    def count(self, word: str) -> int:
        """How many lines begin with `word`: `request`, for a raw one also `connection` or `lost`."""
        return len(self.lines(word))

    def asked(self) -> list[str]:
        """The numbers (X-Drill) of the requests that arrived, in their order."""
        return [line[0] for line in self.lines("request")]


class Gateway(Program):
    """`python -m gateway run`."""

    def __init__(self, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        super().__init__(name, folder)
        self._file = folder / f"{name}.yaml"
        self._log = folder / f"{name}.access"
        self.write(config)

    def write(self, config: Mapping[str, Any]) -> None:
        """The configuration file; what is not said is put in: any port, an access log, admin."""
        observability = {"access_log": {"file": str(self._log)}, **config.get("observability", {})}
        whole = {
            "listeners": [{"bind": "127.0.0.1:0"}],
            "admin": {"bind": "127.0.0.1:0"},
            **config,
            "observability": observability,
        }
        self._file.write_text(json.dumps(whole, indent=1))  # JSON is YAML

    def command(self) -> list[str]:
        return ["-m", "gateway", "run", "-c", str(self._file)]

    async def start(self) -> None:
        """Start, and wait until it serves."""
        self.launch()
        await eventually(lambda: bool(self.events("ready")) or self._gone(), "the gateway is ready")
        assert not self._gone(), self.said()

    def _gone(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def events(self, event: str) -> list[dict[str, Any]]:
        """The lines of the service log for this event."""
        found = [json.loads(line) for line in self.said().splitlines() if line.startswith("{")]
        return [line for line in found if line["event"] == event]

    @property
    def address(self) -> str:
        """Of the listener."""
        return str(self.events("listening")[-1]["address"])

    @property
    def admin(self) -> str:
        """Of the admin listener."""
        return str(self.events("admin_listening")[-1]["address"])

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of a metric that bear these labels; 0.0 without any."""
        _, body = await fetch(self.admin, "/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def log(self) -> list[dict[str, Any]]:
        """The access log."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def memory(self) -> int:
        """Bytes that are resident."""
        assert self.process is not None
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


class Fleet:
    """Everything that one drill has started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._programs: list[Program] = []

    async def origins(
        self, *kinds: str, hosts: Sequence[str] = (), options: Sequence[str] = ()
    ) -> list[Origin]:
        """Start upstreams of these kinds, all at once; they are called `a`, `b`, `c` …

        With `hosts`, each has a loopback address of its own, and all have the same port.
        """
        first = ord("a") + len(self._programs)
        held = _held(hosts) if hosts else [_held(["127.0.0.1"])[0] for _ in kinds]
        origins = [
            Origin(chr(first + number), self.folder, kind, held[number], options)
            for number, kind in enumerate(kinds)
        ]
        self._programs += origins
        await asyncio.gather(*(origin.start() for origin in origins))
        return origins

    async def gateway(self, config: Mapping[str, Any]) -> Gateway:
        """Start a gateway with this configuration."""
        gateway = Gateway(f"gateway-{len(self._programs)}", self.folder, config)
        self._programs.append(gateway)
        await gateway.start()
        return gateway

    async def close(self) -> None:
        """Kill what still runs, the gateway first: it must not see its upstreams die."""
        for program in reversed(self._programs):
            await program.close()


def _held(hosts: Sequence[str]) -> list[socket.socket]:
    """One socket for each host, all on the same port, which is free on all of them."""
    for _ in range(20):
        held: list[socket.socket] = []
        try:
            for host in hosts:
                held.append(socket.socket())
                held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                held[-1].bind((host, held[0].getsockname()[1] if len(held) > 1 else 0))
        except OSError:
            for one in held:
                one.close()
        else:
            return held
    raise AssertionError(f"no port is free on all of {hosts}")


def before(origins: Sequence[Origin], **sections: Any) -> dict[str, Any]:
    """A configuration: one route of all paths to these upstreams' targets, `up`.

    `upstream={...}` and `route={...}` go on top of those, other sections beside them.
    """
    upstream = {"targets": [origin.url for origin in origins], **sections.pop("upstream", {})}
    route = {"name": "all", "path": "/*", "to": "up", **sections.pop("route", {})}
    return {"routes": [route], "upstreams": {"up": upstream}, **sections}


def arrivals(origins: Sequence[Origin]) -> Counter[str]:
    """How often each request (by its X-Drill) has arrived at any of these."""
    return Counter(number for origin in origins for number in origin.asked())


async def eventually(holds: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait until something holds that must come."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    while not holds():
        assert loop.time() < deadline, f"not within {patience:g} s: {what}"
        await asyncio.sleep(0.02)


async def fetch(address: str, path: str) -> tuple[int, bytes]:
    """Status and body of a GET on a connection of its own."""
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: drill\r\nConnection: close\r\n\r\n".encode()
            )
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    return int(head.split(b" ")[1]) if head else 0, body


async def _status(address: str, path: str) -> int:
    try:
        return (await fetch(address, path))[0]
    except OSError:
        return 0
