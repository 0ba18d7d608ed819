"""`gateway upstreams`: what a running gateway says of its targets.

Rules of this file: as in test_cli.py, real processes; the admin listener is a unix socket, for its
address must be known before.
"""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from gateway.listing import lasting, targets
from tests.test_cli import gateway, get, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVED = """
listeners: [{{bind: "127.0.0.1:0"}}]
admin: {{bind: "unix:admin.sock", token: sesame}}
observability: {{access_log: off}}
upstreams:
  orders:
    targets: [{{url: "http://127.0.0.1:{port}", weight: 3}}, {{url: "http://127.0.0.2:{port}"}}]
    retry: off
routes:
  - {{name: orders, path: /*, to: orders}}
"""


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which nobody answers: it is bound and does not listen."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def here(tmp_path: Path, port: int) -> Path:
    """A folder with a configuration of two targets that refuse."""
    (tmp_path / "gateway.yaml").write_text(SERVED.format(port=port))
    return tmp_path


def test_a_running_gateway_tells_each_target_with_state_and_since(here: Path, port: int) -> None:
    with running("run", cwd=here) as process:
        assert get(process.address(), "/")[0] == 502
        table = gateway("upstreams", cwd=here)
        plain = gateway("upstreams", "--json", cwd=here)
    assert table.returncode == 0, table
    heading, *rows = table.stdout.splitlines()
    columns = ["UPSTREAM", "TARGET", "STATE", "SINCE", "WEIGHT", "IN", "FLIGHT"]
    assert heading.split() == [*columns, "CONNECTIONS", "WHY"]
    first, second = rows
    assert first.split()[:3] == ["orders", f"127.0.0.1:{port}", "available"]
    assert second.split()[:3] == ["orders", f"127.0.0.2:{port}", "available"]

    assert plain.returncode == 0, plain
    [orders] = json.loads(plain.stdout)
    states = {target["name"]: target for target in orders["targets"]}
    one = states[f"127.0.0.1:{port}"]
    assert (one["weight"], one["state"], one["why"]) == (3, "available", None)
    assert one["connections"] == {"active": 0, "idle": 0}
    since = datetime.fromisoformat(one["since"])
    assert 0 <= (datetime.now(UTC) - since).total_seconds() < 60


def test_where_nobody_answers_it_says_so_and_ends_with_1(here: Path) -> None:
    done = gateway("upstreams", cwd=here)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no answer from unix:" in done.stderr
    assert "is a gateway running with this configuration?" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_token_than_the_running_gateway_s_is_told(here: Path) -> None:
    with running("run", cwd=here):
        file = here / "gateway.yaml"
        file.write_text(file.read_text().replace("sesame", "open-up"))
        done = gateway("upstreams", cwd=here)
    assert done.returncode == 1
    assert "another token" in done.stderr


@pytest.mark.parametrize("admin", ["off", '{bind: "127.0.0.1:0"}'])
def test_without_an_address_to_ask_it_says_so(here: Path, admin: str) -> None:
    file = here / "gateway.yaml"
    file.write_text(file.read_text().replace('{bind: "unix:admin.sock", token: sesame}', admin))
    done = gateway("upstreams", cwd=here)
    assert done.returncode == 1
    assert "admin listener" in done.stderr


@contextmanager
def something_else(path: Path, answer: bytes) -> Iterator[None]:
    """A server at a unix socket that gives one answer."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        listening.settimeout(20)

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(20)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"upstreams":7}',
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
    ],
)
def test_what_is_no_gateway_is_told(here: Path, answer: bytes) -> None:
    with something_else(here / "admin.sock", answer):
        done = gateway("upstreams", cwd=here)
    assert done.returncode == 1
    assert "is no gateway's admin listener" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_was_broken_meanwhile_still_says_whom_to_ask(here: Path, port: int) -> None:
    with running("run", cwd=here):
        (here / "gateway.yaml").write_text(
            SERVED.format(port=port) + "upstream: {}\nserver: {secret: '${env:NOT_SET}'}\n"
        )
        assert gateway("check", cwd=here).returncode == 78
        assert gateway("healthcheck", cwd=here).returncode == 0
        table = gateway("upstreams", cwd=here)
    assert table.returncode == 0, table.stderr
    assert table.stdout.count("orders") == 2


@pytest.mark.parametrize("text", ["admin: {bind: 12}", "admin: [", "admin: {token: '${env:NO}'}"])
def test_a_file_that_does_not_say_whom_to_ask_is_told(here: Path, text: str) -> None:
    (here / "gateway.yaml").write_text(f"{text}\nroutes: [{{path: /*, too: x}}]\n")
    done = gateway("upstreams", cwd=here)
    assert done.returncode == 78
    assert "gateway.yaml:" in done.stderr
    assert "too" not in done.stderr


def test_an_upstream_without_targets_has_a_row() -> None:
    assert [*targets([{"name": "found", "targets": []}])] == [
        ("found", "-", "no targets", "", "", "", "", "")
    ]
    discovery = {"from": "dns x.test", "problem": "no answer; no targets yet"}
    [row] = targets([{"name": "found", "targets": [], "discovery": discovery}])
    assert row[1:] == ("dns x.test", "no targets", "", "", "", "", "no answer; no targets yet")


@pytest.mark.parametrize(
    ("problem", "state"), [(None, "found"), ("no answer; keeping 1 target", "not found")]
)
def test_where_targets_are_looked_up_is_told_before_them(problem: str | None, state: str) -> None:
    target = {
        "name": "10.0.0.1:80", "state": "available", "seconds": 3, "weight": 1, "backup": False,
        "in_flight": 0, "connections": {"active": 0, "idle": 0}, "why": None,
    }  # fmt: skip
    discovery = {"from": "dns x.test", "problem": problem}
    whence, row = targets([{"name": "u", "targets": [target], "discovery": discovery}])
    assert whence == ("u", "dns x.test", state, "", "", "", "", problem or "")
    assert row[:3] == ("u", "10.0.0.1:80", "available")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0s"),
        (0, "0s"),
        (12.9, "12s"),
        (60, "1m"),
        (200, "3m 20s"),
        (3605, "1h"),
        (3661, "1h 1m"),
        (2 * 86400 + 4 * 3600 + 59, "2d 4h"),
    ],
)
def test_how_long_it_has_been_so_is_told_in_its_largest_units(seconds: float, text: str) -> None:
    assert lasting(seconds) == text
