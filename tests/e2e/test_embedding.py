"""The gateway inside other people's programs, each way that the library page promises.

Rules of this file: real servers; programs of their own where a process belongs to the promise.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

import gateway as package
from gateway.runtime.embedding import GATEWAY
from tests.kit.origin import chunk, reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aiohttp.test_utils import TestClient

    from tests.conftest import MakeClient, MakeOrigin
    from tests.kit.origin import Origin, Peer

    MakeTestClient = Callable[..., Awaitable[TestClient[Any, Any]]]

ROOT = Path(__file__).parents[2]
GET = b"GET %b HTTP/1.1\r\nHost: test\r\n\r\n"


def config(up: Origin, path: str = "/*", **sections: Any) -> dict[str, Any]:
    return {
        "observability": {"access_log": "off"},
        "routes": [{"name": "all", "path": path, "to": up.url}],
        **sections,
    }


async def serving(runner: web.AppRunner) -> str:
    """Where a runner serves, on a port of the system's choice."""
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return f"127.0.0.1:{site.port}"


@pytest.fixture
async def parent(origin: MakeOrigin) -> AsyncIterator[Callable[..., Awaitable[str]]]:
    """`await parent(config)`: somebody's application with a handler of its own and ours under /gw."""
    runners: list[web.AppRunner] = []

    async def start(settings: dict[str, Any], **arguments: Any) -> str:
        async def own(request: web.Request) -> web.Response:
            return web.Response(text=f"own {await request.text()}")

        app = web.Application()
        app.router.add_route("*", "/own", own)
        app.add_subapp("/gw", package.application(settings))
        runners.append(web.AppRunner(app, **arguments))
        return await serving(runners[-1])

    yield start
    for runner in runners:
        await runner.cleanup()


# ── in the event loop of a program ──


@pytest.mark.parametrize("kind", ["path", "text path", "mapping", "loaded"])
async def test_a_gateway_runs_in_an_event_loop_from_any_kind_of_configuration(
    origin: MakeOrigin, raw: MakeClient, tmp_path: Path, kind: str
) -> None:
    up = await origin()
    written = {**config(up), "listeners": [{"bind": "127.0.0.1:0"}], "admin": "off"}
    file = tmp_path / "gateway.yaml"
    file.write_text(json.dumps(written))
    given: Any = {
        "path": file, "text path": str(file), "mapping": written, "loaded": package.load(file),
    }[kind]  # fmt: skip
    async with package.Gateway(given) as gateway:
        client = await raw(next(iter(gateway.addresses.values())))
        assert (await client.ask(GET % b"/")).status == 200
        await gateway.reload()
        assert gateway.generation == 2
        client.close()


async def test_a_gateway_that_can_not_start_leaves_nothing_open(
    origin: MakeOrigin, tmp_path: Path
) -> None:
    up = await origin()
    binds = [{"bind": f"unix:{tmp_path}/gw.sock"}, {"bind": f"127.0.0.1:{up.port}"}]
    gateway = package.Gateway({**config(up), "listeners": binds, "admin": "off"})
    with pytest.raises(OSError, match="the address is in use"):
        await gateway.start()
    assert not (tmp_path / "gw.sock").exists()
    assert not gateway.clock.watched
    with pytest.raises(RuntimeError, match="starts once"):
        await gateway.start()


async def test_the_admin_listener_opens_moves_and_closes_with_the_configuration(
    origin: MakeOrigin, raw: MakeClient
) -> None:
    up = await origin()
    written = {**config(up), "listeners": [{"bind": "127.0.0.1:0"}]}
    async with package.Gateway({**written, "admin": {"bind": "127.0.0.1:0"}}) as gateway:
        first = str(gateway.admin_address)
        client = await raw(first)
        assert (await client.ask(GET % b"/health/ready")).status == 200
        guarded = {"bind": "127.0.0.1:0", "token": "secret"}
        await gateway.reload({**written, "admin": guarded})
        assert gateway.admin_address == first
        asked = await raw(first)
        assert (await asked.ask(GET % b"/config")).status == 401
        await gateway.reload({**written, "admin": "off"})
        assert gateway.admin_address is None
        with pytest.raises(OSError):
            await raw(first)
        client.close()
        asked.close()


def test_importing_the_package_imports_neither_aiohttp_nor_asyncio() -> None:
    code = "import sys, gateway; print([m for m in ('aiohttp', 'asyncio', 'pydantic') if m in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]", ran.stderr


def test_every_public_name_can_be_had_from_the_package() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = package.nonsense  # type: ignore[attr-defined]


def test_a_wrong_configuration_makes_no_application() -> None:
    with pytest.raises(package.ConfigError):
        package.application({"routes": [{"path": "/*", "too": "http://127.0.0.1:1"}]})


# ── as an application ──


async def test_it_runs_under_the_test_client_of_pytest_aiohttp(
    origin: MakeOrigin, aiohttp_client: MakeTestClient
) -> None:
    up = await origin(reply(b"from upstream", b"X-Up: 1"))
    app = package.application(config(up))
    client = await aiohttp_client(app)
    for method in ("GET", "POST", "DELETE", "OPTIONS", "PATCH"):
        async with client.request(method, "/a%2Fb?x=1&&") as answer:
            assert answer.status == 200
            assert answer.headers["X-Up"] == "1"
            assert await answer.text() == "from upstream"
    assert {request.target for request in up.requests} == {b"/a%2Fb?x=1&&"}
    assert app[GATEWAY].addresses == {}
    assert app[GATEWAY].admin_address is None
    await client.close()
    assert app[GATEWAY].proxy.in_flight == 0
    assert len(app[GATEWAY]._resources) == 0


async def test_handlers_added_to_the_application_come_before_the_gateway(
    origin: MakeOrigin, aiohttp_client: MakeTestClient
) -> None:
    async def own(_: web.Request) -> web.Response:
        return web.Response(text="own")

    app = package.application(config(await origin()))
    app.router.add_get("/own", own)
    client = await aiohttp_client(app)
    for path, text in (("/own", "own"), ("/own/", "ok"), ("/", "ok")):
        async with client.get(path) as answer:
            assert await answer.text() == text


async def test_inside_a_program_admin_listens_only_where_the_configuration_says_so(
    origin: MakeOrigin, raw: MakeClient, aiohttp_client: MakeTestClient
) -> None:
    up = await origin()
    app = package.application({**config(up), "admin": {"bind": "127.0.0.1:0"}})
    await aiohttp_client(app)
    address = app[GATEWAY].admin_address
    asked = await raw(str(address))
    assert (await asked.ask(GET % b"/health/ready")).status == 200


async def test_a_compressed_upload_is_forwarded_as_it_came(
    origin: MakeOrigin, aiohttp_client: MakeTestClient
) -> None:
    up = await origin()
    client = await aiohttp_client(package.application(config(up)))
    packed = gzip.compress(b"hello" * 1000)
    headers = {"Content-Encoding": "gzip"}
    async with client.post("/", data=packed, headers=headers) as answer:
        assert answer.status == 200
    assert up.requests[0].body == packed
    assert up.requests[0].get("content-encoding") == b"gzip"
    assert up.requests[0].get("content-length") == str(len(packed)).encode()


async def test_it_says_once_what_a_foreign_server_can_not_give(
    origin: MakeOrigin, aiohttp_client: MakeTestClient, caplog: pytest.LogCaptureFixture
) -> None:
    client = await aiohttp_client(package.application(config(await origin())))
    with caplog.at_level(logging.WARNING, "gateway"):
        for _ in range(3):
            async with client.get("/") as answer:
                assert answer.status == 200
    (missing,) = [one.message for one in caplog.records if "foreign_server" in one.message]
    for word in ("heads", "whole head", "414", "431", "chunked upload", "gateway.runner"):
        assert word in missing


# ── mounted in an application beside its own handlers ──


async def test_mounted_beside_other_handlers_each_answers_its_own(
    origin: MakeOrigin, raw: MakeClient, parent: Callable[..., Awaitable[str]]
) -> None:
    up = await origin()
    client = await raw(await parent(config(up, "/gw/*")))
    assert (await client.ask(GET % b"/own")).body == b"own "
    assert (await client.ask(GET % b"/gw/a%2Fb")).body == b"ok"
    assert (await client.ask(GET % b"/elsewhere")).status == 404
    assert (await client.ask(GET % b"/gw/x")).body == b"ok"
    assert (await client.ask(GET % b"/gw")).body == b"ok"
    assert [request.target for request in up.requests] == [b"/gw/a%2Fb", b"/gw/x", b"/gw"]


async def test_under_a_server_that_decompresses_the_head_fits_the_body_that_is_forwarded(
    origin: MakeOrigin, raw: MakeClient, parent: Callable[..., Awaitable[str]]
) -> None:
    up = await origin()
    client = await raw(await parent(config(up, "/gw/*")))
    packed = gzip.compress(b"hello" * 1000)
    head = (
        b"POST /gw/ HTTP/1.1\r\nHost: test\r\nContent-Encoding: gzip\r\nX-Other: 1\r\n"
        b"Content-Length: %d\r\n\r\n" % len(packed)
    )
    assert (await client.ask(head + packed)).status == 200
    (seen,) = up.requests
    assert seen.body == b"hello" * 1000
    assert seen.get("content-encoding") is None
    assert seen.framing == "chunked"
    assert seen.get("x-other") == b"1"


async def test_under_a_foreign_server_a_chunked_upload_ends_its_connection(
    origin: MakeOrigin, raw: MakeClient, parent: Callable[..., Awaitable[str]]
) -> None:
    up = await origin()
    client = await raw(await parent(config(up, "/gw/*")))
    answer = await client.ask(
        b"POST /gw/ HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunk(b"x") + b"0\r\nX-Evil: 1\r\n\r\n" + GET % b"/gw/second"
    )  # fmt: skip
    assert answer.status == 200
    assert answer.get("connection") == b"close"
    await client.rest()
    assert len(up.requests) == 1
    assert up.requests[0].body == b"x"


async def test_under_a_foreign_server_100_continue_waits_until_the_body_is_wanted(
    origin: MakeOrigin, raw: MakeClient, parent: Callable[..., Awaitable[str]]
) -> None:
    up = await origin()
    settings = config(up, "/gw/*", defaults={"body": {"max": "4B"}})
    client = await raw(await parent(settings, handler_cancellation=True))
    head = b"POST /gw/ HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    await client.send(head % 2)
    assert (await client.head()).status == 100
    assert (await client.ask(b"hi", method="POST")).status == 200
    refused = await client.ask(head % 5)
    assert refused.status == 413
    assert refused.interim == []
    client.close()  # else aiohttp waits for the body that was refused


@pytest.mark.parametrize("cancels", [True, False], ids=["cancels", "does not cancel"])
async def test_under_a_foreign_server_a_client_that_leaves_ends_the_upstream_request(
    origin: MakeOrigin, raw: MakeClient, parent: Callable[..., Awaitable[str]], cancels: bool
) -> None:
    left = asyncio.Event()

    async def silent(peer: Peer) -> None:
        await peer.request()
        await peer.rest()
        left.set()

    up = await origin(silent)
    address = await parent(config(up, "/gw/*"), handler_cancellation=cancels)
    client = await raw(address)
    await client.send(GET % b"/gw/")
    await up.wait_for_request()
    client.close()
    async with asyncio.timeout(5):
        await left.wait()


async def test_middlewares_and_the_access_log_of_the_parent_see_what_was_answered(
    origin: MakeOrigin, raw: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[int, int]] = []

    @web.middleware
    async def look(request: web.Request, handler: Any) -> web.StreamResponse:
        answer = await handler(request)
        answer.headers["X-Too-Late"] = "1"
        seen.append((answer.status, answer.body_length))
        return answer  # type: ignore[no-any-return]

    up = await origin(reply(b"gone", status=b"410 Gone"))
    app = web.Application(middlewares=[look])
    app.add_subapp("/gw", package.application(config(up, "/gw/*")))
    runner = web.AppRunner(app)
    with caplog.at_level(logging.INFO, "aiohttp.access"):
        client = await raw(await serving(runner))
        answer = await client.ask(GET % b"/gw/")
        assert (answer.status, answer.body) == (410, b"gone")
        assert answer.get("x-too-late") is None
        assert (await client.ask(GET % b"/gw/")).status == 410
        await runner.cleanup()
    assert seen == [(410, 4), (410, 4)]
    lines = [record.message for record in caplog.records if record.name == "aiohttp.access"]
    assert len(lines) == 2
    assert all('"GET /gw/ HTTP/1.1" 410 4' in line for line in lines)


async def test_a_websocket_passes_a_foreign_server_and_is_told_when_it_shuts_down(
    origin: MakeOrigin, raw: MakeClient
) -> None:
    async def echo(peer: Peer) -> None:
        await peer.request()
        await peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n"
        )
        await peer.send(await peer.exactly(4))
        await peer.rest()

    up = await origin(echo)
    shutdown = {"shutdown": {"websocket_grace": "0s"}}
    runner = web.AppRunner(package.application(config(up, server=shutdown)))
    client = await raw(await serving(runner))
    answer = await client.ask(
        b"GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )
    assert answer.status == 101
    await client.send(b"\x82\x02ab")
    assert await client.exactly(4) == b"\x82\x02ab"
    ending = asyncio.get_running_loop().create_task(runner.cleanup())
    assert await client.exactly(4) == b"\x88\x02\x03\xe9"
    client.close()
    await ending


# ── with our own server ──


async def test_a_runner_serves_with_our_own_server_and_all_of_its_limits(
    origin: MakeOrigin, raw: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    up = await origin()
    limits = {"limits": {"request_line": "1KiB", "header_timeout": "300ms"}}
    runner = package.runner(config(up, server=limits))
    address = await serving(runner)
    client = await raw(address)
    chunked = (
        b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunk(b"x") + b"0\r\n\r\n"
    )  # fmt: skip
    for _ in range(2):
        answer = await client.ask(chunked)
        assert (answer.status, answer.get("connection")) == (200, None)
    long = await raw(address)
    assert (await long.ask(GET % (b"/" + b"x" * 2000))).status == 414
    slow = await raw(address)
    await slow.send(b"GET / HTTP/1.1\r\nHost")
    assert (await slow.response()).status == 408
    await runner.cleanup()
    assert await client.closed() == "fin"
    assert not [one for one in caplog.records if "foreign_server" in one.message]


async def test_a_runner_lets_an_upload_finish_when_it_shuts_down(
    origin: MakeOrigin, raw: MakeClient
) -> None:
    up = await origin()
    runner = package.runner(config(up))
    client = await raw(await serving(runner))
    await client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhello")
    await up.wait_for_request()
    ending = asyncio.get_running_loop().create_task(runner.cleanup())
    await asyncio.sleep(0.2)
    assert not ending.done()
    await client.send(b"world")
    assert (await client.response("POST")).status == 200
    await ending
    assert up.requests[0].body == b"helloworld"


# ── programs ──


class Program:
    """A server in a process of its own."""

    def __init__(self, *command: str, folder: Path, port: int) -> None:
        self.port = port
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=environment, stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE,
        )  # fmt: skip

    async def ready(self) -> None:
        async with asyncio.timeout(30):
            while True:
                assert self._process.poll() is None, self.output()
                with (
                    contextlib.suppress(OSError),
                    socket.create_connection(("127.0.0.1", self.port)),
                ):
                    return
                await asyncio.sleep(0.05)

    def output(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.read().decode()

    async def stop(self) -> tuple[int, str]:
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            while self._process.poll() is None:
                await asyncio.sleep(0.05)
        return self._process.returncode, self.output()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Program]]]:
    """`await program(source, *command)`: run `source` (site.py), with {port} in it and in the command."""
    running: list[Program] = []

    async def start(source: str, *command: str) -> Program:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (tmp_path / "served.py").write_text(source.replace("{port}", str(port)))
        words = [word.replace("{port}", str(port)) for word in command]
        running.append(Program(*words, folder=tmp_path, port=port))
        await running[-1].ready()
        return running[-1]

    yield start
    for one in running:
        one.kill()


GUNICORN = (
    "-m", "gunicorn", "--worker-class", "aiohttp.GunicornUVLoopWebWorker", "--bind",
    "127.0.0.1:{port}", "--log-level", "info", "--no-control-socket",
)  # fmt: skip


@pytest.mark.parametrize(
    ("source", "command"),
    [
        ("web.run_app(gateway.application(CONFIG), port={port})", ("served.py",)),
        ("app = gateway.application(CONFIG)", (*GUNICORN, "served:app")),
        ("async def app(): return gateway.application(CONFIG)", (*GUNICORN, "served:app")),
        ("async def app(): return gateway.runner(CONFIG)", (*GUNICORN, "served:app")),
    ],
    ids=["run_app", "gunicorn application", "gunicorn factory", "gunicorn runner"],
)
async def test_it_serves_in_a_program_and_ends_well(
    origin: MakeOrigin,
    raw: MakeClient,
    program: Callable[..., Awaitable[Program]],
    source: str,
    command: tuple[str, ...],
) -> None:
    up = await origin()
    head = f"import gateway\nfrom aiohttp import web\nCONFIG = {config(up)!r}\n"
    running = await program(f"{head}{source}\n", *command)
    client = await raw(running.port)
    for _ in range(2):
        assert (await client.ask(GET % b"/a%2Fb")).status == 200
    packed = gzip.compress(b"hello")
    upload = (
        b"POST / HTTP/1.1\r\nHost: test\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    )
    assert (await client.ask(upload % len(packed) + packed)).status == 200
    assert up.requests[-1].body == packed
    chunked = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = await client.ask(chunked + chunk(b"x") + b"0\r\n\r\n")
    assert answer.status == 200
    own_server = "runner" in source
    assert answer.get("connection") == (None if own_server else b"close")
    status, output = await running.stop()
    assert status == 0, output
    assert "Traceback" not in output
