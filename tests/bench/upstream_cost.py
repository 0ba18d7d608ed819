"""What the policies of an upstream cost each request: balancing, circuits, ejection and retries, in processor time.

Two gateways run side by side on the same origin: one sends to a single target and tries nothing twice, the other has three
targets, two random choices, ejection, a circuit for each target and retries. Both get the same requests in turn, in short
batches, and the difference of a pair of batches is what counts: the machine's moods meet both. Linux only (schedstat).
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

ORIGIN, BARE, FULL = 9120, 9121, 9122
CONNECTIONS, TURNS, PAIRS = 16, 60, 80
REQUEST = b"GET /api HTTP/1.1\r\nHost: a.test\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
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
_CONFIG = """\
listeners: [{{bind: "127.0.0.1:{port}"}}]
admin: off
upstreams: {{up: {{{upstream}}}}}
routes: [{{path: /*, to: up, access_log: off}}]
"""
_ONE = f"targets: ['http://127.0.0.1:{ORIGIN}'], eject: off, retry: off"
_THREE = (
    "targets: [" + ", ".join(f"'http://127.0.0.{n}:{ORIGIN}'" for n in (1, 2, 3)) + "], "
    "balance: p2c, eject: {consecutive_failures: 5}, circuit: {scope: target}, retry: {max: 1}"
)


def processor_time(pid: int) -> float:
    """Microseconds of processor time that a process has used."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1000


def connect(port: int) -> list[socket.socket]:
    """Connections of clients, once somebody listens."""
    made: list[socket.socket] = []
    while len(made) < CONNECTIONS:
        try:
            one = socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            time.sleep(0.1)
            continue
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.append(one)
    return made


def batch(clients: list[socket.socket], turns: int) -> None:
    """Each client asks `turns` times, all of them at once."""
    for _ in range(turns):
        for client in clients:
            client.sendall(REQUEST)
        for client in clients:
            if not client.recv(65_536).startswith(b"HTTP/1.1 200"):
                sys.exit("an answer is not 200")


def main() -> int:
    """Measure and print."""
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        commands = [[sys.executable, "-c", _ORIGIN % ORIGIN]]
        for port, upstream in ((BARE, _ONE), (FULL, _THREE)):
            file = work / f"{port}.yaml"
            file.write_text(_CONFIG.format(port=port, upstream=upstream))
            commands.append([sys.executable, "-m", "gateway", "run", "-c", str(file)])
        running = []
        for command in commands:
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            running.append(process.pid)
        sides = [(running[1], connect(BARE)), (running[2], connect(FULL))]
        for _, clients in sides:
            batch(clients, 200)
        costs: tuple[list[float], list[float]] = ([], [])
        for _ in range(PAIRS):
            for (pid, clients), cost in zip(sides, costs, strict=True):
                before = processor_time(pid)
                batch(clients, TURNS)
                cost.append((processor_time(pid) - before) / (TURNS * CONNECTIONS))
        for _, clients in sides:
            for client in clients:
                client.close()
    more = statistics.median(full - bare for bare, full in zip(*costs, strict=True))
    print(
        f"**balancing, circuits, ejection and retries**: {more:.1f} µs of processor time a request, "
        f"beside {statistics.median(costs[0]):.1f} µs for a request to one target without them "
        f"({PAIRS} pairs of {TURNS * CONNECTIONS} requests, {os.cpu_count()} cores)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
