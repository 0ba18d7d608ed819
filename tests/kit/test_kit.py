"""The kit itself: what it says of a connection is what happened on it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.kit.origin import OK, chunk, reply
from tests.kit.raw import Ended

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeOrigin
    from tests.kit.origin import Peer

GET = b"GET /a?b HTTP/1.1\r\nHost: a\r\nX: 1\r\nX: 2\r\n\r\n"


async def test_an_origin_answers_every_request_and_keeps_its_bytes(
    origin: MakeOrigin, raw: MakeClient
) -> None:
    up = await origin(OK)
    client = await raw(up.port)
    assert (await client.ask(GET)).body == b"ok"
    assert (await client.ask(GET)).raw == OK
    assert [request.raw for request in up.requests] == [GET, GET]
    assert up.requests[0].all("x") == [b"1", b"2"]
    assert len(up.connections) == 1


async def test_chunked_bodies_are_read_in_both_directions(
    origin: MakeOrigin, raw: MakeClient
) -> None:
    up = await origin(
        b"HTTP/1.1 100 Continue\r\n\r\n"
        + reply(b"", b"Transfer-Encoding: chunked", length=False)
        + chunk(b"one")
        + chunk(b"two")
        + b"0\r\nX-T: 1\r\n\r\n"
    )
    client = await raw(up.port)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    got = await client.ask(head, chunk(b"abc") + b"0\r\n\r\n")
    assert (got.body, got.trailers, got.framing) == (b"onetwo", b"X-T: 1\r\n", "chunked")
    assert [one.status for one in got.interim] == [100]
    assert up.only.body == b"abc"


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_reset_is_told_from_an_ordinary_end(
    origin: MakeOrigin, raw: MakeClient, how: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
        await asyncio.sleep(0.05)
        peer.close() if how == "fin" else peer.reset()

    up = await origin(script)
    client = await raw(up.port)
    with pytest.raises(Ended) as ended:
        await client.ask(GET)
    assert ended.value.how == how
    assert client.received.endswith(b"\r\n\r\nab")


async def test_a_script_that_fails_fails_the_test(origin: MakeOrigin, raw: MakeClient) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        raise ValueError("wrong request")

    up = await origin(script)
    client = await raw(up.port)
    await client.send(GET)
    assert await client.closed() == "fin"
    assert [str(failure) for failure in up.failures] == ["wrong request"]
    up.failures.clear()


async def test_a_port_that_refuses_can_be_taken_again(origin: MakeOrigin, raw: MakeClient) -> None:
    up = await origin()
    await up.refuse()
    with pytest.raises(ConnectionRefusedError):
        await raw(up.port)
    up.bind()
    assert (await (await raw(up.port)).ask(GET)).status == 200
