"""Nothing of a request is left to the garbage collector: rings would hold bodies until it runs, and make it run."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest

from tests.kit.origin import OK

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Peer

REQUESTS = 40
HEAD = b"Host: a.test\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param([b"GET / HTTP/1.1\r\n" + HEAD + b"\r\n"], id="get"),
        pytest.param(
            [b"POST / HTTP/1.1\r\n" + HEAD + b"Content-Length: 4\r\n\r\nbody"], id="whole body"
        ),
        pytest.param(
            [b"POST / HTTP/1.1\r\n" + HEAD + b"Content-Length: 4\r\n\r\nbo", b"dy"],
            id="streamed body",
        ),
    ],
)
async def test_a_request_leaves_no_ring_behind(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, request_: list[bytes]
) -> None:
    up = await origin([OK] * (REQUESTS + 5))
    running = await gateway(up, route={"timeouts": {"total": "60s"}})
    client = await raw(running)

    async def ask() -> None:
        for part in request_:
            await client.send(part)
        assert (await client.response()).status == 200

    for _ in range(5):
        await ask()
    gc.collect()
    gc.disable()
    try:
        for _ in range(REQUESTS):
            await ask()
        found = gc.collect()
    finally:
        gc.enable()
    assert found / REQUESTS < 5


async def test_a_failure_leaves_no_ring_behind(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    """An error knows its frames, and these know whom it befell."""

    async def script(peer: Peer) -> None:
        await peer.request()
        peer.reset()

    up = await origin(script)
    route = {"name": "all", "path": "/*", "to": up.url, "retry": "off"}
    running = await gateway({"routes": [route]})

    async def ask() -> None:
        client = await raw(running)
        answer = await client.ask(b"GET / HTTP/1.1\r\n" + HEAD + b"\r\n")
        assert answer.status == 502
        client.close()

    for _ in range(5):
        await ask()
    gc.collect()
    gc.disable()
    try:
        for _ in range(REQUESTS):
            await ask()
        found = gc.collect()
    finally:
        gc.enable()
    assert found / REQUESTS < 20  # two connections of its own each, of which asyncio makes rings


ASYNCIO = "asyncio.unix_events"
GET = b"GET / HTTP/1.1\r\n" + HEAD + b"\r\n"
POST = b"POST / HTTP/1.1\r\n" + HEAD
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"
HALF_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"
CASES = {
    "reset in the body": (GET, HALF, True),
    "reset in a chunked body": (GET, HALF_CHUNKED, True),
    "a bad chunk": (GET, HALF_CHUNKED + b"x\r\n", False),
    "a bad answer": (GET, b"HTTP/1.1 2x0 OK\r\n\r\n", False),
    "no request": (b"GET/ HTTP/1.1\r\n\r\n", OK, True),
    "a head too large": (b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 200 + b"\r\n", OK, True),
    "a body too large": (POST + b"Content-Length: 1000\r\n\r\n", OK, False),
    "a chunked body too large": (
        POST + b"Transfer-Encoding: chunked\r\n\r\nc8\r\n" + b"x" * 200 + b"\r\n",
        OK,
        False,
    ),
}
"""A request, what the upstream sends before it resets, and whether the client's connection ends by itself."""


@pytest.mark.parametrize("case", CASES)
async def test_what_breaks_off_or_is_refused_leaves_no_ring_behind(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, case: str
) -> None:
    request, answer, ends = CASES[case]

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)
        await asyncio.sleep(0.01)
        peer.reset()

    up = await origin(script)
    route = {"name": "all", "path": "/*", "to": up.url, "retry": "off", "body": {"max": "100B"}}
    running = await gateway({"routes": [route]})

    async def ask() -> None:
        client = await raw(running)
        await client.send(request)
        # Where an answer is whole, the gateway reads on, or keeps the connection.
        await (client.rest() if ends else client.response("POST"))
        client.close()
        await running.at_rest()

    for _ in range(5):
        await ask()
    gc.collect()
    gc.disable()
    try:
        for _ in range(REQUESTS):
            await ask()
        found = gc.collect()
    finally:
        gc.enable()
    # Of each connection of its own asyncio makes a ring, uvloop does not.
    assert found / REQUESTS < (20 if type(asyncio.get_running_loop()).__module__ == ASYNCIO else 5)
