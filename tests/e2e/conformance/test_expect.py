"""http.md 23 to 27: Expect, and the 1xx of either side."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conformance.conftest import get, post, problem
from tests.kit.origin import OK, chunk, reply

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.e2e.conformance.conftest import Through
    from tests.kit.origin import Peer

EXPECTING = post(b"Content-Length: 5", b"Expect: 100-continue", body=None)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (EXPECTING, b"hello"),
        (post(b"Content-Length: 5", b"expect: 100-Continue", body=None), b"hello"),
        (
            post(b"Transfer-Encoding: chunked", b"Expect: 100-continue", body=None),
            chunk(b"hello") + b"0\r\n\r\n",
        ),
        (
            get(b"/", b"Expect: 100-continue", b"Content-Length: 5", method=b"PUT"),
            b"hello",
        ),
    ],
)
async def test_23_a_client_that_expects_100_sees_it_before_it_sends(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, head: bytes, body: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    await client.send(head)
    assert (await client.head()).status == 100
    got = await client.ask(body, method="POST")
    assert (got.status, got.body, got.interim) == (200, b"ok", [])
    assert up.only.body == b"hello"
    assert (await client.ask(get(b"/next"))).status == 200


async def test_23_a_body_that_is_not_wanted_is_refused_without_100(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up, route={"body": {"max": "4B"}}))
    await client.send(EXPECTING)
    got = await client.response("POST")
    problem(got, "body_too_large", 413)
    assert got.interim == []
    assert up.requests == []


@pytest.mark.parametrize("path", [b"/none", b"/gone"])
async def test_23_a_request_that_is_not_forwarded_gets_its_answer_without_100(
    gateway: MakeGateway, raw: MakeClient, path: bytes
) -> None:
    route = {"path": "/gone", "respond": {"status": 410, "body": "gone"}}
    client = await raw(await gateway({"routes": [route]}))
    await client.send(get(path, b"Content-Length: 5", b"Expect: 100-continue", method=b"POST"))
    got = await client.response("POST")
    assert got.status in (404, 410)
    assert got.interim == []


async def test_23_no_answer_is_held_back_for_a_body_that_never_comes(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(reply(b"no", status=b"403 Forbidden"))
        await peer.rest()

    up = await origin(script)
    client = await raw(await gateway(up))
    await client.send(EXPECTING)
    got = await client.response("POST")
    assert (got.status, got.body) == (403, b"no")


async def test_23_a_body_that_came_with_its_head_is_not_asked_for(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    got = await client.ask(EXPECTING + b"hello")
    assert got.status == 200
    assert len(got.interim) <= 1
    assert up.only.body == b"hello"


@pytest.mark.parametrize("expect", [b"foo", b"100-continue, foo", b"100-continued"])
async def test_23_an_unknown_expectation_fails_or_is_ignored(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, expect: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    got = await client.ask(post(b"Expect: " + expect))
    assert got.status in (200, 417, 400)


async def test_24_an_upstream_that_never_says_100_gets_the_body(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        message = await peer.head()
        assert b"expect" not in message.names
        await peer.body(message)
        await peer.send(OK)
        await peer.rest()

    up = await origin(script)
    client = await raw(await gateway(up))
    await client.send(EXPECTING)
    await client.head()
    assert (await client.ask(b"hello", method="POST")).status == 200
    assert up.only.body == b"hello"


async def test_24_a_100_of_the_upstream_is_not_doubled(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
    client = await raw(await gateway(up))
    await client.send(EXPECTING)
    assert (await client.head()).status == 100
    got = await client.ask(b"hello", method="POST")
    assert (got.status, got.interim) == (200, [])


async def test_25_an_http_1_0_client_never_sees_1xx(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    up = await origin(b"HTTP/1.1 100 Continue\r\n\r\n" + early + OK)
    client = await raw(await gateway(up))
    head = get(
        b"/", b"Content-Length: 5", b"Expect: 100-continue", version=b"HTTP/1.0", method=b"POST"
    )
    await client.send(head)
    assert await client.silence()
    got = await client.ask(b"hello", method="POST")
    assert (got.status, got.interim) == (200, [])


@pytest.mark.parametrize(
    "interim",
    [
        [b"HTTP/1.1 100 Continue\r\n\r\n"],
        [b"HTTP/1.1 102 Processing\r\n\r\n"],
        [b"HTTP/1.1 102 Processing\r\nX-A: 1\r\n\r\n"] * 5,
        [b"HTTP/1.1 199 What\r\n\r\n"],
        [b"HTTP/1.1 104 Upload\r\nUpload-Offset: 3\r\n\r\n"],
    ],
)
async def test_26_an_unasked_1xx_is_not_the_answer(through: Through, interim: list[bytes]) -> None:
    got = await through(get(), reply=b"".join(interim) + OK)
    assert (got.response.status, got.response.body) == (200, b"ok")
    assert b"x-a" not in got.response.names
    assert (await got.client.ask(get())).body == b"ok"


async def test_26_103_is_forwarded_at_once_with_its_fields(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nLink: </b>\r\n\r\n"
        )
        await go.wait()
        await peer.send(OK)
        await peer.rest()

    client = await raw(await gateway(await origin(script)))
    await client.send(get())
    early = await client.head()
    assert (early.status, early.all("link")) == (103, [b"</a>; rel=preload", b"</b>"])
    assert not {b"content-length", b"transfer-encoding"} & set(early.names)
    go.set()
    assert (await client.response()).body == b"ok"


async def test_26_an_endless_row_of_1xx_comes_to_an_end(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        while await peer.silence(0.001):
            await peer.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 10)

    running = await gateway(await origin(script), route={"retry": "off"})
    client = await raw(running)
    await client.send(get())
    await asyncio.sleep(0.1)
    running.clock.advance(31)  # by now first_byte is over, whatever came meanwhile
    got = await client.response()
    assert got.status in (502, 504)


@pytest.mark.parametrize(
    "asked",
    [
        [],
        [b"Connection: Upgrade", b"Upgrade: h2c"],
        [b"Upgrade: websocket"],
        [
            b"Connection: Upgrade",
            b"Upgrade: websocket",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ],
    ],
)
async def test_27_a_101_to_what_was_not_asked_is_a_bad_response(
    through: Through, asked: list[bytes]
) -> None:
    answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nxxxx"
    got = await through(get(b"/", *asked), reply=answer)
    problem(got.response, "upstream_bad_response", 502)
    assert await got.origin.connections[0].closed_soon()
