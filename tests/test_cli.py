"""The command line, as real processes: what is printed where, and the exit code.

Rules of this file: nothing of the gateway is imported; a command is what a user types.
"""

from __future__ import annotations

import http.client
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent
PATIENCE = 20.0

GOOD = """
routes:
  - {name: app, path: /app/*, to: "http://127.0.0.1:1", rewrite: {strip_prefix: /app}}
  - {name: hello, path: /hello, methods: [GET], respond: {body: hello}}
tests:
  - name: the prefix goes
    request: {get: "http://localhost/app/x"}
    expect: {route: app, upstream_path: /x}
"""
FAILING = GOOD.replace("upstream_path: /x", "upstream_path: /wrong")
WRONG = """
routes:
  - {name: app, path: /app/*, to: "http://127.0.0.1:1", timeout: {idle: 5s}}
  - {name: hello, path: /hello, respond: {body: hello}, body: {max: 10M}}
"""


def environment(**more: str) -> dict[str, str]:
    """This process's, without what could choose a configuration or colours."""
    unwanted = {"GATEWAY_CONFIG", "XDG_CONFIG_HOME", "NO_COLOR", "FORCE_COLOR"}
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def gateway(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "gateway", *words],
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a good gateway.yaml."""
    (tmp_path / "gateway.yaml").write_text(GOOD)
    return tmp_path


# ── check and test ──


def test_check_of_a_good_file_ends_with_0_and_counts(here: Path) -> None:
    done = gateway("check", cwd=here)
    assert done.returncode == 0, done
    assert "gateway.yaml: ok: 2 routes, 1 upstream, 1 of 1 test passed" in done.stdout
    assert done.stderr == ""


def test_check_reports_every_mistake_with_its_place_on_standard_output(here: Path) -> None:
    (here / "gateway.yaml").write_text(WRONG)
    done = gateway("check", cwd=here)
    assert done.returncode == 78
    first, second = done.stdout.splitlines()
    assert "gateway.yaml:3:" in first
    assert "timeouts" in first  # the nearest known word
    assert "gateway.yaml:4:" in second
    assert "10MiB" in second
    assert done.stderr == ""


def test_check_as_json_holds_the_same(here: Path) -> None:
    assert json.loads(gateway("check", "--json", cwd=here).stdout) == {
        "ok": True,
        "problems": [],
        "tests": [
            {"name": "the prefix goes", "place": "gateway.yaml:6:5", "passed": True, "problems": []}
        ],
    }
    (here / "gateway.yaml").write_text(WRONG)
    done = gateway("check", "--json", cwd=here)
    assert done.returncode == 78
    report = json.loads(done.stdout)
    assert report["ok"] is False
    assert [(each["severity"], each["line"]) for each in report["problems"]] == [
        ("error", 3),
        ("error", 4),
    ]
    assert all(each["file"] == "gateway.yaml" for each in report["problems"])


def test_a_failing_inline_test_ends_check_and_test_with_1(here: Path) -> None:
    (here / "gateway.yaml").write_text(FAILING)
    for command in ("check", "test"):
        done = gateway(command, cwd=here)
        assert done.returncode == 1, command
        assert "gateway.yaml:6:5: failed: the prefix goes" in done.stdout
        assert "/wrong" in done.stdout
    (only,) = json.loads(gateway("test", "--json", cwd=here).stdout)
    assert only["passed"] is False
    assert only["problems"]


def test_test_names_what_passed(here: Path) -> None:
    done = gateway("test", cwd=here)
    assert done.returncode == 0
    assert "passed: the prefix goes" in done.stdout
    assert "1 of 1 test passed" in done.stdout


def test_a_warning_is_a_failure_only_with_strict(here: Path) -> None:
    never = '  - {name: never, path: {regex: "^/app/x$"}, respond: {body: x}}\n'
    (here / "gateway.yaml").write_text(GOOD.replace("tests:", f"{never}tests:"))
    done = gateway("check", cwd=here)
    assert done.returncode == 0, done
    assert "gateway.yaml:5:" in done.stdout
    assert "warning" in done.stdout
    strict = gateway("check", "--strict", cwd=here)
    assert strict.returncode == 1
    assert "not ok" in strict.stdout
    assert json.loads(gateway("check", "--json", cwd=here).stdout)["problems"][0]["severity"] == (
        "warning"
    )


# ── which file ──


def test_the_file_is_looked_for_in_the_documented_places(tmp_path: Path) -> None:
    home = tmp_path / "xdg"
    (home / "gateway").mkdir(parents=True)
    env = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(home)}
    nothing = gateway("check", cwd=tmp_path, **env)
    assert nothing.returncode == 78
    assert nothing.stdout == ""
    for place in ("gateway.yaml", f"{home}/gateway/gateway.yaml", "/etc/gateway/gateway.yaml"):
        assert place in nothing.stderr

    def route_names(*words: str, **more: str) -> list[str]:
        done = gateway("routes", "--json", *words, cwd=tmp_path, **env, **more)
        return [route["name"] for route in json.loads(done.stdout)]

    def write(path: Path, name: str) -> None:
        path.write_text(f"routes: [{{name: {name}, path: /*, respond: {{status: 204}}}}]\n")

    write(home / "gateway" / "gateway.yaml", "xdg")
    assert route_names() == ["xdg"]
    write(tmp_path / "gateway.yaml", "here")
    assert route_names() == ["here"]
    write(tmp_path / "env.yaml", "env")
    assert route_names(GATEWAY_CONFIG="env.yaml") == ["env"]
    write(tmp_path / "option.yaml", "option")
    assert route_names("-c", "option.yaml", GATEWAY_CONFIG="env.yaml") == ["option"]


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "check",
        "test",
        "routes",
        "explain GET http://h/",
        "pipeline app",
        "healthcheck",
        "upstreams",
        "demo",
    ],
)
def test_every_command_ends_with_78_for_a_missing_and_for_a_wrong_file(
    command: str, here: Path
) -> None:
    missing = gateway(*command.split(), "-c", "missing.yaml", cwd=here)
    assert missing.returncode == 78, missing
    assert "missing.yaml" in missing.stderr
    (here / "wrong.yaml").write_text(WRONG)
    port = ["--origin-port", "0"] if command == "demo" else []
    wrong = gateway(*command.split(), "-c", "wrong.yaml", *port, cwd=here)
    assert wrong.returncode == 78, wrong
    assert "wrong.yaml:3:" in wrong.stdout + wrong.stderr
    assert "Traceback" not in wrong.stderr


# ── looking at it ──


def test_explain_ends_with_0_when_a_route_matches_and_1_when_none_does(here: Path) -> None:
    done = gateway("explain", "get", "http://localhost/app/x", "-H", "X-A: b", cwd=here)
    assert done.returncode == 0, done
    assert "app" in done.stdout
    assert "gateway.yaml:3" in done.stdout
    assert "/x" in done.stdout
    assert "\x1b" not in done.stdout  # no colours: this is no terminal
    nothing = gateway("explain", "GET", "http://localhost/nowhere", cwd=here)
    assert nothing.returncode == 1
    assert "no_route" in nothing.stdout
    answer = json.loads(gateway("explain", "--json", "GET", "http://h/hello", cwd=here).stdout)
    assert isinstance(answer, dict)


def test_explain_in_a_terminal_is_coloured_unless_no_color_is_set(here: Path) -> None:
    for env, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        leader, follower = os.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "explain", "GET", "http://h/hello"],
            cwd=here,
            env=environment(**env),
            stdout=follower,
        )
        os.close(follower)
        seen = b""
        try:
            while block := os.read(leader, 65536):
                seen += block
        except OSError:
            pass  # a pseudo terminal whose other end is closed
        os.close(leader)
        assert process.wait(PATIENCE) == 0
        assert (b"\x1b[" in seen) is coloured, env


@pytest.mark.parametrize(
    "words",
    [
        ["fly"],
        ["explain", "GET"],
        ["explain", "GET", "http://h/", "-H", "no colon"],
        ["explain", "GET", "not a url"],
        ["pipeline", "nobody"],
        ["run", "--log-level", "loud"],
        ["check", "--nonsense"],
    ],
)
def test_wrong_usage_ends_with_2_and_says_so_on_standard_error(
    words: list[str], here: Path
) -> None:
    done = gateway(*words, cwd=here)
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert "Error:" in done.stderr


def test_routes_lists_what_each_route_takes_and_what_answers_it(here: Path) -> None:
    done = gateway("routes", cwd=here)
    assert done.returncode == 0
    heading, app, hello = done.stdout.splitlines()
    assert heading.split() == ["NAME", "METHODS", "HOST", "PATH", "ANSWER", "PLACE"]
    assert app.split() == ["app", "any", "any", "/app/*", "to", "app", "gateway.yaml:3:5"]
    assert hello.split()[:6] == ["hello", "GET", "any", "/hello", "respond", "200"]


def test_pipeline_prints_the_stages_of_a_route_in_their_order(here: Path) -> None:
    done = gateway("pipeline", "app", cwd=here)
    assert done.returncode == 0, done
    assert len(done.stdout.splitlines()) > 5
    stages = json.loads(gateway("pipeline", "app", "--json", cwd=here).stdout)
    assert all(stage["stage"] and stage["does"] for stage in stages)


def test_schema_is_the_committed_one(tmp_path: Path) -> None:
    done = gateway("schema", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == (ROOT / "config" / "schema.json").read_text(), "make schema"


def test_version_names_the_versions_of_what_it_runs_on(tmp_path: Path) -> None:
    done = gateway("version", cwd=tmp_path)
    assert done.returncode == 0
    for word in ("gateway 0.", "python 3.", "aiohttp 3.", "uvloop"):
        assert word in done.stdout
    versions = json.loads(gateway("version", "--json", cwd=tmp_path).stdout)
    assert set(versions) == {"gateway", "python", "aiohttp", "uvloop"}


@pytest.mark.parametrize(
    "words",
    [["check"], ["explain", "GET", "http://h/hello"], ["routes"], ["pipeline", "app"], ["schema"]],
)
def test_commands_that_look_at_a_configuration_load_no_network(
    words: list[str], here: Path
) -> None:
    program = (
        "import sys; from gateway.cli import main\n"
        f"try: main({words!r})\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "loaded = {'aiohttp', 'uvloop', 'prometheus_client'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=here,
        env=environment(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


# ── run ──


class Running:
    """`gateway run` (or `demo`) as a process, with the events that it logs."""

    def __init__(self, *words: str, cwd: Path, **env: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway", *words],
            cwd=cwd,
            env=environment(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.events: list[dict[str, Any]] = []
        self.other: list[str] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._more:
                try:
                    self.events.append(json.loads(line))
                except ValueError:
                    self.other.append(line)
                self._more.notify_all()

    def saw(self, event: str, after: int = 0) -> dict[str, Any]:
        """Wait for an event of the service log; `after` skips those before."""

        def found() -> list[dict[str, Any]]:
            return [each for each in self.events[after:] if each["event"] == event]

        with self._more:
            assert self._more.wait_for(found, PATIENCE), (event, self.events, self.other)
            return found()[0]

    def address(self) -> str:
        """Of the first listener."""
        return str(self.saw("listening")["address"])

    def admin(self) -> str:
        """Of the admin listener."""
        return str(self.saw("admin_listening")["address"])

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def ended(self) -> int:
        """The exit code."""
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """Kill what is left."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


@contextmanager
def running(*words: str, cwd: Path, **env: str) -> Iterator[Running]:
    """A process that is gone afterwards."""
    process = Running(*words, cwd=cwd, **env)
    try:
        process.saw("ready")
        yield process
    finally:
        process.close()


def get(address: str, path: str, **headers: str) -> tuple[int, str]:
    """Status and body."""
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def until(holds: Callable[[], bool]) -> None:
    """Wait for what must come soon."""
    deadline = time.perf_counter() + PATIENCE
    while not holds():
        assert time.perf_counter() < deadline
        time.sleep(0.01)


def connected(process: Running) -> socket.socket:
    """A connection to the first listener."""
    host, _, port = process.address().rpartition(":")
    return socket.create_connection((host, int(port)), PATIENCE)


def takes_connections(address: str) -> bool:
    """Whether somebody listens there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except (
        ConnectionRefusedError,
        ConnectionResetError,
    ):  # reset: it closed while we were in its queue
        return False
    return True


SERVED = """
listeners: [{bind: "127.0.0.1:0"}]
admin: {bind: "127.0.0.1:0"}
server: {shutdown: {ready_delay: 0s, grace: 10s}}
observability: {access_log: {file: access.log}}
routes:
  - {name: hello, path: /hello, respond: {body: first}}
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Running]:
    """A gateway that answers /hello."""
    (tmp_path / "gateway.yaml").write_text(SERVED)
    with running("run", cwd=tmp_path) as process:
        yield process


def test_run_says_its_addresses_and_serves(served: Running) -> None:
    assert get(served.address(), "/hello") == (200, "first")
    assert get(served.admin(), "/health/ready")[0] == 200


def test_sighup_takes_the_new_configuration(served: Running, tmp_path: Path) -> None:
    address = served.address()
    (tmp_path / "gateway.yaml").write_text(SERVED.replace("first", "second"))
    served.signal(signal.SIGHUP)
    until(lambda: get(address, "/hello") == (200, "second"))
    served.signal(signal.SIGTERM)
    assert served.ended() == 0


def test_sighup_with_a_wrong_file_keeps_the_old_configuration_and_says_why(
    served: Running, tmp_path: Path
) -> None:
    before = len(served.events)
    (tmp_path / "gateway.yaml").write_text(SERVED.replace("respond:", "respnd:"))
    served.signal(signal.SIGHUP)
    until(lambda: "respnd" in get(served.admin(), "/health")[1])
    assert "respnd" in served.saw("reload_failed", after=before)["error"]
    assert "gateway_config_last_reload_successful 0" in get(served.admin(), "/metrics")[1]
    assert get(served.address(), "/hello") == (200, "first")
    served.signal(signal.SIGTERM)
    assert served.ended() == 0


@contextmanager
def read_from(fifo: Path) -> Iterator[BinaryIO]:
    """The other end of a pipe with a name, once somebody is about to read it."""
    ends: list[int] = []

    def has_reader() -> bool:
        with suppress(OSError):  # ENXIO: nobody has
            ends.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        return bool(ends)

    until(has_reader)
    with os.fdopen(ends[0], "wb") as pipe:
        yield pipe


def test_sighup_while_the_process_still_starts_is_obeyed_once_it_has(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(SERVED.replace("first", '"${file:word}"'))
    word = tmp_path / "word"
    os.mkfifo(word)
    process = Running("run", cwd=tmp_path)
    try:
        with read_from(word) as pipe:
            process.signal(signal.SIGHUP)
            process.signal(signal.SIGUSR1)
            word.unlink()
            word.write_text("second")
            pipe.write(b"first")
        process.saw("reloaded")
        assert get(process.address(), "/hello") == (200, "second")
        process.signal(signal.SIGTERM)
        assert process.ended() == 0
    finally:
        process.close()


@pytest.mark.parametrize(("command", "held"), [("run", True), ("check", False)])
def test_signals_are_held_before_the_commands_are_imported(command: str, held: bool) -> None:
    program = f"""
import importlib.metadata, signal, sys, tomllib

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "gateway.cli":
            print(signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL)
            sys.exit()

sys.meta_path.insert(0, Finder())
sys.argv[1:] = [{command!r}]
script = tomllib.load(open("pyproject.toml", "rb"))["project"]["scripts"]["gateway"]
importlib.metadata.EntryPoint("gateway", script, "console_scripts").load()()
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True)
    assert ran.stdout.decode().strip() == str(held)


class Slow:
    """An origin that answers when it is told to."""

    def __init__(self) -> None:
        slow = self
        self.asked = threading.Event()
        self.answer = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                slow.asked.set()
                slow.answer.wait(PATIENCE)
                self.send_response(200)
                self.send_header("Content-Length", "4")
                self.end_headers()
                self.wfile.write(b"done")

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.answer.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(PATIENCE)


@pytest.fixture
def slow() -> Iterator[Slow]:
    origin = Slow()
    yield origin
    origin.close()


def with_slow_route(slow: Slow) -> str:
    port = slow.server.server_address[1]
    return f'{SERVED}  - {{name: slow, path: /slow, to: "http://127.0.0.1:{port}"}}\n'


def test_sigterm_lets_a_request_in_flight_finish_and_ends_with_0(
    slow: Slow, tmp_path: Path
) -> None:
    (tmp_path / "gateway.yaml").write_text(with_slow_route(slow))
    with running("run", cwd=tmp_path) as process:
        address = process.address()
        answers: list[tuple[int, str]] = []
        client = threading.Thread(target=lambda: answers.append(get(address, "/slow")))
        client.start()
        assert slow.asked.wait(PATIENCE)
        process.signal(signal.SIGTERM)
        until(lambda: not takes_connections(address))
        assert process.process.poll() is None
        slow.answer.set()
        client.join(PATIENCE)
        assert answers == [(200, "done")]
        assert process.ended() == 0


def test_a_second_signal_ends_at_once_with_1(slow: Slow, tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(with_slow_route(slow))
    with running("run", cwd=tmp_path) as process, connected(process) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
        assert slow.asked.wait(PATIENCE)
        process.signal(signal.SIGTERM)
        process.saw("draining")
        process.signal(signal.SIGINT)
        assert process.ended() == 1


def test_sigint_does_not_wait_for_the_ready_delay(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(SERVED.replace("ready_delay: 0s", "ready_delay: 10m"))
    with running("run", cwd=tmp_path) as process:
        process.signal(signal.SIGINT)
        assert process.ended() == 0


def test_sigusr1_opens_the_access_log_again(served: Running, tmp_path: Path) -> None:
    log, moved = tmp_path / "access.log", tmp_path / "access.log.1"

    def wait_for(path: Path, text: str) -> None:
        until(lambda: path.exists() and text in path.read_text())

    get(served.address(), "/hello?before")
    wait_for(log, "before")
    log.rename(moved)
    get(served.address(), "/hello?moved")
    wait_for(moved, "moved")
    served.signal(signal.SIGUSR1)
    until(log.exists)
    get(served.address(), "/hello?after")
    wait_for(log, "after")
    assert "after" not in moved.read_text()


def test_a_port_that_is_taken_ends_run_with_1_and_one_plain_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = SERVED.replace(
            'listeners: [{bind: "127.0.0.1:0"}]', f"listeners: [{{bind: '127.0.0.1:{port}'}}]"
        )
        (tmp_path / "gateway.yaml").write_text(text)
        done = gateway("run", "--log-level", "error", cwd=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"127.0.0.1:{port}" in done.stderr
    assert "in use" in done.stderr


def test_healthcheck_asks_the_admin_listener(slow: Slow, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = tmp_path / "gateway.yaml"
    text = with_slow_route(slow)
    for admin in (f"127.0.0.1:{port}", f"0.0.0.0:{port}", "unix:admin.sock"):
        file.write_text(text.replace('admin: {bind: "127.0.0.1:0"}', f'admin: {{bind: "{admin}"}}'))
        nobody = gateway("healthcheck", cwd=tmp_path)
        assert nobody.returncode == 1
        assert "no answer from" in nobody.stdout
        with running("run", cwd=tmp_path) as process:
            well = gateway("healthcheck", cwd=tmp_path)
            assert (well.returncode, well.stdout) == (0, "ready\n")
            with connected(process) as client:
                client.sendall(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
                assert slow.asked.wait(PATIENCE)
                slow.asked.clear()
                process.signal(signal.SIGTERM)
                process.saw("draining")
                draining = gateway("healthcheck", cwd=tmp_path)
            assert (draining.returncode, draining.stdout) == (1, "not ready (503)\n")


def test_healthcheck_without_an_address_to_ask_says_so(tmp_path: Path) -> None:
    for admin in ("off", '{bind: "127.0.0.1:0"}'):
        (tmp_path / "gateway.yaml").write_text(
            SERVED.replace('{bind: "127.0.0.1:0"}\nserver', f"{admin}\nserver")
        )
        done = gateway("healthcheck", cwd=tmp_path)
        assert done.returncode == 1
        assert "admin listener" in done.stderr


# ── demo ──


def test_the_demo_answers_what_it_says_to_try(tmp_path: Path) -> None:
    ports = {"GATEWAY_PORT": "0", "GATEWAY_ADMIN_PORT": "0"}
    with running("demo", "--origin-port", "0", cwd=tmp_path, **ports) as demo:
        address = demo.address()
        status, body = get(address, "/api/hello?name=you")
        assert status == 200
        assert json.loads(body)["path"] == "/hello?name=you"
        assert json.loads(get(address, "/api/users/7")[1])["path"] == "/people/7"
        assert "The gateway is up" in get(address, "/")[1]
        assert get(address, "/old/page")[0] == 308
        assert get(address, "/nowhere")[0] == 404
        assert get(address, "/teapot")[0] == 418
        status, body = get(address, "/broken")
        assert status == 502
        assert json.loads(body)["reason"] == "connect_refused"
        status, body = get(address, "/api/slow?seconds=30")
        assert status == 504
        assert json.loads(body)["reason"] == "upstream_header_timeout"
        assert "gateway_requests_total" in get(demo.admin(), "/metrics")[1]
        demo.signal(signal.SIGINT)
        assert demo.ended() == 0
        assert demo.process.stdout is not None
        said = demo.process.stdout.read()
    assert f"http://{address}/api/hello" in said
    assert "kill -HUP" in said


def test_a_port_that_is_taken_ends_the_demo_with_1_and_one_plain_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = gateway("demo", "--origin-port", str(port), cwd=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"127.0.0.1:{port}" in done.stderr
    assert "in use" in done.stderr


def test_the_demo_origin_alone_echoes(tmp_path: Path) -> None:
    origin = Running("demo", "--origin-only", "--origin-port", "0", cwd=tmp_path)
    try:
        address = origin.saw("origin_listening")["address"].removeprefix("http://")
        assert json.loads(get(address, "/x?y=z", **{"X-A": "b"})[1])["headers"][-1] == "X-A: b"
        assert get(address, "/status/503")[0] == 503
        origin.signal(signal.SIGTERM)
        assert origin.ended() == 0
    finally:
        origin.close()


def test_a_key_set_that_can_not_be_used_is_told_by_check_and_by_run_alike(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text('{"keys": [{"kty": "oct", "k": "AAAA"}]}')
    (tmp_path / "gateway.yaml").write_text(
        'listeners: [{bind: "127.0.0.1:0"}]\nadmin: off\n'
        "auth:\n"
        "  staff: {jwt: {issuer: here, jwks: keys.json, audience: api}}\n"
        "  others: {jwt: {issuer: there, jwks: keys.json, audience: api}}\n"
        "routes: [{path: /*, respond: 204, auth: [staff, others]}]\n"
    )
    told = f"auth.staff.jwt: {tmp_path}/keys.json: it holds no key that can be used; key 1: it is a secret"
    checked = gateway("check", cwd=tmp_path)
    assert checked.returncode == 78
    staff, others = checked.stdout.splitlines()
    assert staff.startswith(f"gateway.yaml:4:3: {told}")
    assert others.startswith("gateway.yaml:5:3: auth.others.jwt: ")
    ran = gateway("run", cwd=tmp_path)
    assert ran.returncode == 78
    assert told in ran.stderr
    assert "Traceback" not in ran.stderr
