"""Nothing of a request is left to the garbage collector: rings would hold bodies until it runs, and make it run."""

from __future__ import annotations

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
