"""Proxies side by side, in one run, on one origin and one load: `make bench`, or `make bench ARGS='--only gateway'`.

Every round starts each contender in turn, in rotating order, loads it with wrk and stops it. The origin (nginx)
and wrk share one core, the contender has the other. Absolute figures drift with the machine, so each is quoted
beside its ratio to the naive aiohttp proxy, taken round by round. Needs Debian's nginx-light and wrk; other
proxies join in where they are found.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench import contenders
from tests.bench.contenders import ORIGIN, PROXY

TICK = os.sysconf("SC_CLK_TCK")
BASELINE = "naive"


@dataclass(frozen=True)
class Load:
    """What wrk asks for."""

    title: str
    path: str = "/api"
    connections: int = 32
    post: int = 0


LOADS = (
    Load("small replies, 32 connections"),
    Load("small replies, 256 connections", connections=256),
    Load("100 kB replies", path="/100k"),
    Load("10 MB replies", path="/10m", connections=8),
    Load("16 kB uploads", post=16 << 10),
    Load("10 MB uploads", post=10 << 20, connections=8),
)


@dataclass(frozen=True)
class Figures:
    """One round of one contender."""

    rate: float
    p99: float
    cpu: float
    memory: float
    failed: int


def cpu_seconds(pid: int) -> float:
    """Processor time that a process and its children have used."""
    total = 0
    for one in [pid, *children(pid)]:
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def children(pid: int) -> list[int]:
    """Processes below `pid`."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *children(int(child))]
    return found


def peak_memory(pid: int) -> float:
    """Peak resident megabytes of a process and its children."""
    total = 0.0
    for one in [pid, *children(pid)]:
        peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{one}/status").read_text())
        total += int(peak[1]) / 1024 if peak else 0.0
    return total


def start(command: list[str], core: int, port: int, log: Path) -> subprocess.Popen[bytes]:
    """Start `command` on one core and wait until it listens. Raises RuntimeError if it does not."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command], stdout=out, stderr=out, start_new_session=True
        )
    end = time.monotonic() + 20
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 0.5).close()
        except OSError:
            time.sleep(0.05)
        else:
            return process
    stop(process)
    raise RuntimeError(f"{command[0]} does not listen on {port}: {log.read_text()[-500:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process group, politely at first; a drain takes its time, so not for long."""
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        os.killpg(process.pid, sign)
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            continue
    time.sleep(0.2)


def measure(command: list[str], load: Load, seconds: int, work: Path) -> Figures:
    """One round."""
    process = start(command, 1, PROXY, work / "contender.log")
    try:
        wrk = [
            "taskset",
            "-c",
            "0",
            "wrk",
            "-t1",
            f"-c{load.connections}",
            "--latency",
            "--timeout",
            "10s",
        ]
        if load.post:
            script = work / "post.lua"
            script.write_text(f'wrk.method="POST"; wrk.body=string.rep("x",{load.post})\n')
            wrk += ["-s", str(script)]
        url = f"http://127.0.0.1:{PROXY}{load.path}"
        subprocess.run([*wrk, "-d1s", url], capture_output=True, check=True)
        before = cpu_seconds(process.pid)
        said = subprocess.run(
            [*wrk, f"-d{seconds}s", url], capture_output=True, text=True, check=True
        ).stdout
        cpu = cpu_seconds(process.pid) - before
        return Figures(
            rate=float(_one(r"Requests/sec:\s+([\d.]+)", said)),
            p99=_milliseconds(_one(r"99%\s+([\d.]+[a-z]+)", said)),
            cpu=cpu / max(1, int(_one(r"(\d+) requests in", said))) * 1e6,
            memory=peak_memory(process.pid),
            failed=_failures(said),
        )
    finally:
        stop(process)


def _one(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"wrk did not say {pattern}: {text}")
    return found[1]


def _milliseconds(text: str) -> float:
    value, unit = re.fullmatch(r"([\d.]+)([a-z]+)", text).groups()  # type: ignore[union-attr]
    return float(value) * {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}[unit]


def _failures(said: str) -> int:
    numbers = re.findall(r"Non-2xx or 3xx responses: (\d+)", said)
    for found in re.findall(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said
    ):
        numbers += found
    return sum(map(int, numbers))


def origin(work: Path) -> subprocess.Popen[bytes]:
    """What all contenders stand in front of."""
    www = work / "www"
    www.mkdir()
    work.chmod(0o755)
    (www / "100k").write_bytes(os.urandom(100 << 10))
    (www / "10m").write_bytes(os.urandom(10 << 20))
    http = (
        f"server {{ listen 127.0.0.1:{ORIGIN} backlog=4096; root {www}; location ~ ^/[0-9]+[km]$ {{ }}"
        ' location / { default_type application/json; return 200 \'{"ok":true,"id":1234567}\'; } }'
    )
    return start(contenders.nginx_with(work, "origin", http), 0, ORIGIN, work / "origin.log")


def table(load: Load, runs: dict[str, list[Figures]]) -> list[str]:
    """Rows of Markdown: medians, and the ratio to the baseline taken round by round."""
    rows = [
        f"**{load.title}**",
        "",
        f"| proxy, one core | req/s | x {BASELINE} | CPU µs/request | p99 ms | peak MB | failed |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    base = runs.get(BASELINE, [])
    for name, rounds in runs.items():
        ratios = [mine.rate / other.rate for mine, other in zip(rounds, base, strict=False)]
        ratio = f"{statistics.median(ratios):.2f}" if ratios else ""
        rate, p99, cpu, memory = (
            statistics.median(getattr(one, key) for one in rounds)
            for key in ("rate", "p99", "cpu", "memory")
        )
        failed = sum(one.failed for one in rounds)
        rows.append(
            f"| {name} | {rate:,.0f} | {ratio} | {cpu:.0f} | {p99:.1f} | {memory:.0f} | {failed} |"
        )
    return [*rows, ""]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument(
        "--only", action="append", default=[], choices=sorted(contenders.ALL), metavar="NAME"
    )
    parser.add_argument(
        "--load", type=int, action="append", default=[], help="number of a load, from 1"
    )
    args = parser.parse_args()
    for program in ("nginx", "wrk", "taskset"):
        if not (shutil.which(program) or shutil.which(program, path="/usr/sbin")):
            sys.exit(
                f"{program} is missing: install Debian's packages nginx-light, wrk and util-linux"
            )
    loads = [LOADS[number - 1] for number in args.load] or LOADS
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        work = Path(folder)
        commands: dict[str, list[str]] = {}
        for name, make in contenders.ALL.items():
            if args.only and name not in args.only and name != BASELINE:
                continue
            place = work / re.sub(r"\W+", "-", name)
            place.mkdir()
            try:
                commands[name] = make(place)
            except FileNotFoundError as missing:
                print(f"{name}: {missing} is not installed, left out", file=sys.stderr)
        behind = origin(work)
        try:
            for load in loads:
                print("\n".join(table(load, rounds_of(load, commands, args, work))), flush=True)
        finally:
            stop(behind)
    return 0


def rounds_of(
    load: Load, commands: dict[str, list[str]], args: argparse.Namespace, work: Path
) -> dict[str, list[Figures]]:
    """All rounds of one load, the order of contenders rotating."""
    names = [*commands]
    runs: dict[str, list[Figures]] = {name: [] for name in names}
    for turn in range(args.rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            runs[name].append(measure(commands[name], load, args.seconds, work))
    return runs


if __name__ == "__main__":
    sys.exit(main())
