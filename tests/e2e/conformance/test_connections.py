"""http.md 66 to 73 and 75: connections, retries of what the pool lost, early answers, flow.

The time limits of 74 are in tests/e2e/test_timeouts.py, memory of 71 in tests/e2e/test_backpressure.py.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conformance.conftest import EVIL, get, post, problem
from tests.kit.origin import CLOSING, OK, chunk, reply
from tests.kit.raw import Ended

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Peer

CHUNKED = b"Transfer-Encoding: chunked"


async def test_66_a_connection_is_kept(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    for number in range(5):
        got = await client.ask(get(b"/%d" % number))
        assert got.status == 200
        assert b"connection" not in got.names
    assert len(up.connections) == 1


async def test_66_pipelined_requests_are_answered_in_order(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        while True:
            message = await peer.request()
            if message.target == b"/0":
                await asyncio.sleep(0.05)
            await peer.send(reply(message.target))

    up = await origin(script)
    client = await raw(await gateway(up))
    await client.send(b"".join(get(b"/%d" % number) for number in range(10)))
    for number in range(10):
        assert (await client.response()).body == b"/%d" % number


async def test_66_pipelined_requests_with_bodies_are_told_apart(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    await client.send(post(body=b"one") + get(b"/two") + post(body=EVIL) + get(b"/four"))
    for _ in range(4):
        assert (await client.response()).status == 200
    assert [request.body for request in up.requests] == [b"one", b"", EVIL, b""]
    assert [request.target for request in up.requests] == [b"/", b"/two", b"/", b"/four"]


async def test_66_a_request_that_comes_byte_by_byte_is_one_request(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    for byte in post(body=b"hi"):
        await client.send(bytes([byte]))
        await asyncio.sleep(0)
    assert (await client.response("POST")).status == 200
    assert up.only.body == b"hi"


@pytest.mark.parametrize("value", [b"close", b"Close", b"x, close", b"keep-alive, close"])
async def test_66_connection_close_of_the_client_is_honoured(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, value: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    got = await client.ask(get(b"/", b"Connection: " + value) + EVIL)
    assert got.status == 200
    assert got.get("connection") == b"close"
    assert await client.closed() in ("fin", "rst")
    assert len(up.requests) == 1
    assert not up.connections[0].ending  # the upstream's connection is another matter


async def test_66_http_1_0_ends_with_its_answer(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    got = await client.ask(get(version=b"HTTP/1.0"))
    assert got.body == b"ok"
    assert await client.closed() == "fin"


async def test_66_http_1_0_may_ask_for_keep_alive(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    client = await raw(await gateway(await origin()))
    for _ in range(2):
        got = await client.ask(get(b"/", b"Connection: keep-alive", version=b"HTTP/1.0"))
        assert (got.get("connection"), got.body) == (b"keep-alive", b"ok")


async def test_66_connection_close_of_the_upstream_ends_only_that_connection(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(CLOSING)
    client = await raw(await gateway(up))
    for _ in range(2):
        got = await client.ask(get())
        assert (got.status, got.get("connection")) == (200, None)
    assert len(up.connections) == 2


async def test_66_a_connection_that_says_nothing_is_no_request(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up)
    client = await raw(running)
    client.half_close()
    assert await client.closed() == "fin"
    assert up.requests == []
    assert running.metric("gateway_requests_total") == 0


async def test_67_a_connection_that_the_upstream_has_closed_is_not_used(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)

    up = await origin(script)
    client = await raw(await gateway(up))
    for _ in range(3):
        assert (await client.ask(post())).status == 200
        await asyncio.sleep(0.02)  # the FIN is seen
    assert len(up.requests) == 3


async def test_68_a_client_that_leaves_cancels_the_upstreams_work(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.rest()

    up = await origin(script)
    running = await gateway(up)
    for how in ("close", "reset"):
        client = await raw(running)
        await client.send(get())
        await up.wait_for_request(len(up.requests) + 1)
        getattr(client, how)()
        assert await up.connections[-1].closed_soon()
    await running.eventually("gateway_requests_total", 2, status="499", source="client")
    await running.eventually("gateway_errors_total", 2, reason="client_closed")
    assert running.metric("gateway_requests_in_flight") == 0


async def test_68_a_client_that_leaves_midway_through_a_reply_cancels_it(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply(b"", CHUNKED, length=False))
        while await peer.silence(0.01):
            await peer.send(chunk(b"x" * 1000))

    up = await origin(script)
    running = await gateway(up)
    client = await raw(running)
    await client.send(get())
    await client.until(b"xxx")
    client.close()
    assert await up.connections[0].closed_soon()
    await running.eventually("gateway_errors_total", 1, reason="client_closed")
    await running.eventually("gateway_requests_total", 1, status="200", source="upstream")


async def test_68_a_client_that_leaves_gives_back_its_place_in_the_pool(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        message = await peer.request()
        if message.target == b"/slow":
            await peer.rest()
        await peer.send(CLOSING)

    up = await origin(script)
    running = await gateway(up, upstream={"pool": {"max": 1}})
    gone = await raw(running)
    await gone.send(get(b"/slow"))
    await up.wait_for_request()
    gone.close()
    assert (await (await raw(running)).ask(get(b"/quick"))).status == 200


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_69_an_early_answer_is_delivered_while_the_client_still_sends(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, framing: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(reply(b"no", status=b"413 Content Too Large"))
        await peer.rest()

    up = await origin(script)
    client = await raw(await gateway(up))
    line = b"Content-Length: 1000000" if framing == "length" else CHUNKED
    await client.send(post(line, body=None))
    got = await client.response("POST")
    assert (got.status, got.body, got.get("connection")) == (413, b"no", b"close")
    assert await up.connections[0].closed_soon()


async def test_70_an_early_answer_survives_a_client_that_goes_on_sending(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(reply(b"no" * 1000, status=b"403 Forbidden"))
        await peer.rest()

    client = await raw(await gateway(await origin(script)))
    await client.send(post(b"Content-Length: 3000000", body=None))
    for _ in range(30):  # a client that looks for an answer only when it has sent everything
        await client.send(b"x" * 50_000)
        await asyncio.sleep(0.005)
    got = await client.response("POST")
    assert (got.status, got.body) == (403, b"no" * 1000)


async def test_70_a_refusal_survives_a_client_that_goes_on_sending(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    client = await raw(await gateway(await origin(), route={"body": {"max": "1KiB"}}))
    await client.send(post(b"Content-Length: 1500000", body=None))
    for _ in range(30):
        await client.send(b"x" * 50_000)
        await asyncio.sleep(0.005)
    problem(await client.response("POST"), "body_too_large", 413)


async def test_72_whatever_comes_is_passed_on_at_once(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        head = reply(b"", b"Content-Type: text/event-stream", CHUNKED, length=False)
        await peer.send(head)
        for number in range(3):
            await go.wait()
            go.clear()
            await peer.send(chunk(b"data: %d\n\n" % number))
        await peer.send(b"0\r\n\r\n")
        await peer.rest()

    client = await raw(await gateway(await origin(script)))
    await client.send(get(b"/", b"Accept: text/event-stream"))
    head = await client.head()  # before the first byte of the body
    assert head.get("content-type") == b"text/event-stream"
    for number in range(3):
        go.set()
        assert await client.until(b"\r\n\r\n" if number < 0 else b"\n\n\r\n") == chunk(
            b"data: %d\n\n" % number
        )
    assert await client.exactly(5) == b"0\r\n\r\n"


async def test_72_a_length_delimited_body_is_passed_on_at_once(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
        await go.wait()
        await peer.send(b"def")
        await peer.rest()

    client = await raw(await gateway(await origin(script)))
    await client.send(get())
    await client.head()
    assert await client.exactly(3) == b"abc"
    go.set()
    assert await client.exactly(3) == b"def"


async def test_72_an_upload_is_passed_on_as_it_comes(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(peer: Peer) -> None:
        await peer.head()
        for _ in range(3):
            got.put_nowait(await peer.exactly(8))
        await peer.exactly(5)
        await peer.send(OK)
        await peer.rest()

    client = await raw(await gateway(await origin(script)))
    await client.send(post(CHUNKED, body=None))
    for word in (b"one", b"two", b"six"):
        await client.send(chunk(word))
        async with asyncio.timeout(5):
            assert await got.get() == chunk(word)
    await client.send(b"0\r\n\r\n")
    assert (await client.response("POST")).status == 200


async def test_73_both_directions_flow_at_the_same_time(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(reply(b"", CHUNKED, length=False))
        for _ in range(3):
            word = await peer.exactly(8)
            await peer.send(word)
        await peer.exactly(5)
        await peer.send(b"0\r\n\r\n")
        await peer.rest()

    client = await raw(await gateway(await origin(script)))
    await client.send(post(CHUNKED, body=None))
    await client.head()
    for word in (b"one", b"two", b"six"):
        await client.send(chunk(word))
        assert await client.exactly(8) == chunk(word)
    await client.send(b"0\r\n\r\n")
    assert await client.exactly(5) == b"0\r\n\r\n"


async def test_75_pipelined_requests_are_not_read_without_bound(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    hold = asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await hold.wait()
            await peer.send(OK)

    running = await gateway(await origin(script))
    client = await raw(running, receive_buffer=4096)
    taken = await client.send_until_full(get(b"/" + b"x" * 500) * 100, most=64 << 20)
    assert taken < 16 << 20, "the gateway reads requests that it can not answer yet"
    hold.set()
    assert (await client.response()).status == 200


async def test_75_an_answer_to_a_closed_connection_is_no_error_of_the_next(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(reply(b"x" * 1000))
    running = await gateway(up)
    for _ in range(20):
        client = await raw(running)
        await client.send(get())
        client.reset()
    assert (await (await raw(running)).ask(get())).status == 200


async def test_41_a_half_sent_reply_is_never_followed_by_another(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await asyncio.sleep(0.02)

    client = await raw(await gateway(await origin(script)))
    await client.send(get() + get(b"/second"))
    with pytest.raises(Ended):
        await client.response()
    assert bytes(client.received).count(b"HTTP/1.1") == 1
