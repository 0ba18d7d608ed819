"""A small origin, to try the gateway against.

JSON echo, slow and odd answers, server-sent events, WebSocket echo. Rules of this file: nothing of
the gateway's data path is used here, so that what is seen through the gateway is its own doing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import WSMsgType, web

from gateway.observe import logs
from gateway.serve import CannotStart, in_loop, until_stopped

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config import effective
    from gateway.runtime.gateway import Gateway

log = logging.getLogger("gateway.demo")


def sample() -> Path:
    """The sample configuration: beside the package in a checkout, inside it when installed."""
    here = Path(__file__).parent
    inside = here / "sample" / "gateway.yaml"
    return inside if inside.is_file() else here.parent / "config" / "gateway.yaml"


def demonstrate(
    load: Callable[[], effective.Config] | None, host: str, port: int, level: str
) -> int:
    """Run the origin, and a gateway on what `load` returns unless it is None. Returns the exit code;
    raises CannotStart.
    """
    logs.setup(level)
    return in_loop(_demonstrate(load, host, port))


async def _demonstrate(load: Callable[[], effective.Config] | None, host: str, port: int) -> int:
    # No time for those who linger: a stream of events that somebody still reads ends with the demo.
    runner = web.AppRunner(origin(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    try:
        try:
            await site.start()
        except OSError as error:
            why = os.strerror(error.errno or 0)
            hint = "choose another with --origin-port"
            raise CannotStart(
                f"the origin cannot listen on {host}:{port}: {why}; {hint}"
            ) from error
        bound = runner.addresses[0][1]
        address = f"http://{host}:{bound}"
        log.info("origin_listening", extra={"address": address})
        if load is None:
            await _interrupted()
            return 0
        os.environ["DEMO_ORIGIN"] = address
        return await until_stopped(load(), _say_what_to_try)
    finally:
        await runner.cleanup()


async def _interrupted() -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()


def _say_what_to_try(gateway: Gateway) -> None:
    served = f"http://{next(iter(gateway.addresses.values()))}"
    admin = f"http://{gateway.admin_address}"
    file = os.path.relpath(gateway.snapshot.config.files[0])
    command = _command()
    rows = [
        (f"curl -i '{served}/api/hello?name=you'", "a JSON echo, through the gateway"),
        (f"curl -N {served}/api/events", "server-sent events, as they come"),
        (f"curl -i {served}/old/page", "a redirect"),
        (f"curl -i {served}/broken", "an upstream that is not there"),
        (f"curl -i {served}/shaky/hello", "one of two targets is dead, and nobody notices"),
        (f"{served}/", "static files, in a browser"),
        (f"curl {admin}/metrics", "what Prometheus sees"),
        (f"curl {admin}/health", "is it well"),
        (f"{command} upstreams -c {file}", "who is up, why not, since when"),
        (f"{command} explain GET {served}/api/users/7 -c {file}", "why, and what is sent"),
        (f"{command} check -c {file} && kill -HUP {os.getpid()}", "after editing that file"),
    ]
    width = max(len(what) for what, _ in rows[:-3])
    lines = [f"  {what:{width}}  {why}" for what, why in rows]
    print("", "The gateway is up; Ctrl-C stops it. To try:", *lines, "", sep="\n", flush=True)  # noqa: T201


def _command() -> str:
    """How this very program was called."""
    started = Path(sys.argv[0])
    return os.path.relpath(started) if started.name == "gateway" else "python -m gateway"


# ── the origin ────────────────────────────────────────────────────────────────────────────────────


def origin() -> web.Application:
    """The demo origin as an application."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_get("/events", events)
    app.router.add_get("/ws", socket)
    app.router.add_route("*", "/slow", slow)
    app.router.add_route("*", "/status/{code:[2-5][0-9][0-9]}", status)
    app.router.add_route("*", "/{path:.*}", echo)
    return app


async def echo(request: web.Request) -> web.Response:
    """The request as JSON: what the upstream sees."""
    body = await request.read()
    return web.json_response(
        {
            "method": request.method,
            "path": request.raw_path,
            "headers": [
                # As they came: aiohttp's own view changes the case of some names.
                f"{name.decode('latin-1')}: {value.decode('latin-1')}"
                for name, value in request.raw_headers
            ],
            "body": body.decode("utf-8", "replace")[:1000],
            "body_bytes": len(body),
        }
    )


async def slow(request: web.Request) -> web.Response:
    """An answer after `?seconds=`, 2 when not said, 60 at most."""
    seconds = min(float(request.query.get("seconds", "2")), 60.0)
    await asyncio.sleep(seconds)
    return web.json_response({"slept": seconds})


async def status(request: web.Request) -> web.Response:
    """An answer with the status that the path names."""
    code = int(request.match_info["code"])
    return web.json_response({"status": code}, status=code)


async def events(request: web.Request) -> web.StreamResponse:
    """Server-sent events, one a second, ten of them."""
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
    )
    await response.prepare(request)
    for number in range(10):
        await response.write(f"id: {number}\ndata: tick {number}\n\n".encode())
        await asyncio.sleep(1)
    await response.write_eof()
    return response


async def socket(request: web.Request) -> web.WebSocketResponse:
    """A WebSocket that says everything back."""
    connection = web.WebSocketResponse()
    await connection.prepare(request)
    async for message in connection:
        if message.type is WSMsgType.TEXT:
            await connection.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await connection.send_bytes(message.data)
    return connection
