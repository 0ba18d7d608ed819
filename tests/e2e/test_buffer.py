"""`buffer`: a slow client does not hold a worker of the upstream.

Rules of this file: the upstream says what it has seen; the client is slow on purpose, and waits for nothing but events.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.kit.origin import OK, reply
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Peer
    from tests.kit.running import Running

HEAD = b"POST /up HTTP/1.1\r\nHost: a.test\r\n"
SIZED = b"Content-Length: 10\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


async def _turns(count: int = 50) -> None:
    """Let everybody do what can be done now."""
    for _ in range(count):
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("head", "first", "second"),
    [(SIZED, b"01234", b"56789"), (CHUNKED, b"5\r\n01234\r\n", b"5\r\n56789\r\n0\r\n\r\n")],
)
async def test_a_target_is_asked_once_the_whole_body_is_there(
    origin: MakeOrigin,
    gateway: MakeGateway,
    raw: MakeClient,
    head: bytes,
    first: bytes,
    second: bytes,
) -> None:
    up = await origin()
    client = await raw(await gateway(up, route={"buffer": {"request": "1MiB"}}))
    await client.send(HEAD + head)
    await client.send(first)
    await _turns()
    assert not up.connections, "a worker would be held"
    await client.send(second)
    assert (await client.response("POST")).status == 200
    assert up.only.body == b"0123456789"


async def test_without_it_the_target_waits_with_the_client(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    await client.send(HEAD + SIZED + b"01234")
    async with asyncio.timeout(PATIENCE):
        while not up.connections:
            await asyncio.sleep(0.005)
    await client.send(b"56789")
    assert (await client.response("POST")).status == 200


async def test_a_larger_body_goes_on_its_way_when_the_buffer_is_full(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, route={"buffer": {"request": "1000B"}})
    client = await raw(running)
    body = bytes(range(256)) * 16
    await client.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body[:500])
    await _turns()
    assert not up.connections
    await client.send(body[500:1500])
    await up.wait_for_request(1)
    await client.send(body[1500:])
    assert (await client.response("POST")).status == 200
    assert up.only.body == body
    assert running.metric("gateway_request_bytes_total", route="all") == len(body)


async def test_a_client_that_waits_for_100_is_asked_for_the_body_before_any_target_is(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up, route={"buffer": {"request": "1MiB"}}))
    await client.send(HEAD + b"Expect: 100-continue\r\n" + SIZED)
    assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert not up.connections
    await client.send(b"0123456789")
    assert (await client.response("POST")).status == 200


@pytest.mark.parametrize("fault", ["idle", "too large", "bad chunk", "leaves"])
async def test_a_body_that_never_gets_whole_reaches_no_target(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, fault: str
) -> None:
    up = await origin()
    running = await gateway(up, route={"buffer": {"request": "1MiB"}, "body": {"max": "1000B"}})
    client = await raw(running)
    await client.send(HEAD + CHUNKED + b"5\r\n01234\r\n")
    await _turns(10)
    if fault == "leaves":
        client.close()
        await running.eventually("gateway_errors_total", 1, route="all", reason="client_closed")
    else:
        if fault == "idle":
            running.clock.advance(31)
        await client.send(
            {"too large": b"3e9\r\n" + b"x" * 1001, "bad chunk": b"zz\r\n"}.get(fault, b"")
        )
        status = {"idle": 408, "too large": 413, "bad chunk": 400}[fault]
        assert (await client.response("POST")).status == status
    assert not up.connections


async def test_a_gathered_body_is_sent_again_as_any_that_is_whole(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def dies(peer: Peer) -> None:
        await peer.request()
        peer.reset()

    bad, good = await origin(dies), await origin()
    running = await gateway(
        {
            "upstreams": {"up": {"targets": [bad.url, good.url], "balance": "round_robin"}},
            "routes": [{"path": "/*", "to": "up", "buffer": {"request": "1MiB"}}],
        }
    )
    client = await raw(running)
    for _ in range(2):
        await client.send(HEAD.replace(b"POST", b"PUT") + SIZED + b"01234")
        await _turns(5)
        await client.send(b"56789")
        assert (await client.response("PUT")).status == 200
    assert {message.body for message in good.requests} == {b"0123456789"}


async def _rests(running: Running, count: float = 1) -> None:
    await running.eventually("gateway_upstream_connections", count, upstream="up", state="idle")


SIZE = 8_000_000


def _large() -> bytes:
    return reply(b"x" * SIZE)


async def test_a_reply_is_read_ahead_of_a_slow_client_so_that_its_target_is_free(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(_large())
    running = await gateway(up, route={"buffer": {"response": "16MiB"}})
    client = await raw(running)
    await client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    await _rests(running)
    assert running.metric("gateway_requests_in_flight", route="all") == 1, "its client still reads"
    answer = await client.response()
    assert len(answer.body) == SIZE
    await running.eventually("gateway_requests_in_flight", 0, route="all")


async def test_without_it_a_target_is_held_as_long_as_the_client_reads(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(_large())
    running = await gateway(up)
    client = await raw(running)
    await client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    await up.wait_for_request(1)
    await _turns()
    assert running.metric("gateway_upstream_connections", upstream="up", state="active") == 1
    assert len((await client.response()).body) == SIZE
    await _rests(running)


async def test_a_client_that_reads_nothing_of_what_was_read_ahead_is_cut_off(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(_large())
    running = await gateway(
        up, route={"buffer": {"response": "16MiB"}, "timeouts": {"idle": "10s"}}
    )
    client = await raw(running)
    await client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    await _rests(running)
    for _ in range(12):
        running.clock.advance(2)
        await asyncio.sleep(0.01)
    await running.eventually("gateway_errors_total", 1, route="all", reason="client_timeout")
    client.close()


async def test_the_next_answer_on_the_connection_has_the_usual_room(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin([_large(), OK])
    running = await gateway(up, route={"buffer": {"response": "16MiB"}})
    client = await raw(running)
    request = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
    await client.send(request)
    assert len((await client.response()).body) == SIZE
    assert (await client.ask(request)).body == b"ok"
    (server,) = running.gateway.servers
    (connection,) = server.connections
    assert connection.transport is not None
    assert connection.transport.get_write_buffer_limits()[1] == 64 * 1024  # type: ignore[attr-defined]
