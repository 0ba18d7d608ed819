"""What a part of the configuration costs each request, in processor time: gateways side by side, on the same origin.

Each gateway gets the same requests in turn, in short batches, and the difference between the batches of a round is what
counts: the machine's moods meet all of them. All gateways share one core, client and origin another: who shares a cache with
whom is worth more than what is measured. Linux only (schedstat).
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ORIGIN, FIRST = 9120, 9121
CONNECTIONS, TURNS, ROUNDS = 16, 60, 80
REQUEST = b"GET /api HTTP/1.1\r\nHost: a.test\r\nUser-Agent: bench\r\nAccept: */*\r\n%b\r\n"
_ORIGIN = """
import asyncio
class Origin(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(b"HTTP/1.1 200 OK\\r\\nX: y\\r\\nContent-Length: 24\\r\\n\\r\\n" + b"x" * 24)
async def main():
    server = await asyncio.get_running_loop().create_server(Origin, "0.0.0.0", %d)
    await server.serve_forever()
asyncio.run(main())
"""


def processor_time(pid: int) -> float:
    """Microseconds of processor time that a process has used."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1000


def connect(port: int) -> list[socket.socket]:
    """Connections of clients, once somebody listens."""
    made: list[socket.socket] = []
    tries = 0
    while len(made) < CONNECTIONS:
        try:
            one = socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            tries += 1
            if tries == 200:
                sys.exit("nobody listens: `gateway run` with this configuration tells why")
            time.sleep(0.1)
            continue
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.append(one)
    return made


def batch(clients: list[socket.socket], request: bytes, turns: int) -> None:
    """Each client asks `turns` times, all of them at once."""
    for _ in range(turns):
        for client in clients:
            client.sendall(request)
        for client in clients:
            if not client.recv(65_536).startswith(b"HTTP/1.1 200"):
                sys.exit("an answer is not 200")


def measure(configurations: Sequence[str], fields: bytes = b"") -> list[list[float]]:
    """For each configuration, in turn: microseconds a request in each round. `{port}` in it is where it listens."""
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        commands = [[sys.executable, "-c", _ORIGIN % ORIGIN]]
        ports = range(FIRST, FIRST + len(configurations))
        for port, text in zip(ports, configurations, strict=True):
            file = work / f"{port}.yaml"
            file.write_text(text.replace("{port}", str(port)))
            commands.append([sys.executable, "-m", "gateway", "run", "-c", str(file)])
        running = []
        for command in commands:
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            running.append(process.pid)
        cores = sorted(os.sched_getaffinity(0))
        for pid in running:
            os.sched_setaffinity(pid, {cores[0] if pid == running[0] else cores[-1]})
        os.sched_setaffinity(0, {cores[0]})
        request = REQUEST % fields
        sides = list(zip(running[1:], map(connect, ports), strict=True))
        for _, clients in sides:
            batch(clients, request, 200)
        costs: list[list[float]] = [[] for _ in sides]
        turns = list(zip(sides, costs, strict=True))
        for _ in range(ROUNDS):
            turns.append(turns.pop(0))  # another one is first in each round
            for (pid, clients), cost in turns:
                before = processor_time(pid)
                batch(clients, request, TURNS)
                cost.append((processor_time(pid) - before) / (TURNS * CONNECTIONS))
        for _, clients in sides:
            for client in clients:
                client.close()
        return costs


def difference(bare: list[float], full: list[float]) -> float:
    """Microseconds that `full` takes more."""
    return statistics.median(more - less for less, more in zip(bare, full, strict=True))
