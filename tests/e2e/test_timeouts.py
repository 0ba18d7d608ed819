"""Every time limit: it cuts what is too slow, with its own word, and nothing that is not.

Rules of this file: time passes when the test says so. Each limit is tried on both sides: just before it nothing has
happened, just behind it the answer, the metric and the connection say the same.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conformance.conftest import get, post, problem
from tests.kit.origin import OK, chunk, reply
from tests.kit.raw import Ended

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Peer
    from tests.kit.running import Running

HALF = b"GET / HTTP/1.1\r\nHost: a.test\r\n"


async def silent(peer: Peer) -> None:
    """Take a request and say nothing."""
    await peer.request()
    await peer.rest()


async def says(running: Running, reason: str, count: float = 1) -> None:
    """The metric knows this reason."""
    await running.eventually("gateway_errors_total", count, reason=reason)


# ── the client's head ──


@pytest.mark.parametrize("head", [b"G", b"GET / HTTP/1.1", HALF, HALF + b"X: y"])
async def test_half_a_head_is_408_when_its_time_is_over(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, head: bytes
) -> None:
    running = await gateway(await origin())
    client = await raw(running)
    await client.send(head)
    await asyncio.sleep(0.02)
    running.clock.advance(9.5)
    assert await client.silence(0.05)
    running.clock.advance(1)
    got = await client.response()
    problem(got, "client_timeout", 408)
    assert got.get("connection") == b"close"
    assert await client.closed() in ("fin", "rst")
    await says(running, "client_timeout")


async def test_a_connection_that_says_nothing_is_closed_in_silence(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway(await origin())
    client = await raw(running)
    await asyncio.sleep(0.02)
    running.clock.advance(9.5)
    assert await client.silence(0.05)
    running.clock.advance(1)
    assert await client.closed() == "fin"
    assert running.metric("gateway_requests_total") == 0


async def test_a_dripped_head_gets_no_more_time(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up)
    client = await raw(running)
    await client.send(HALF)
    for number in range(4):
        await asyncio.sleep(0.01)
        running.clock.advance(2.4)
        await client.send(b"X-%d: y\r\n" % number)
    assert await client.silence(0.05)
    running.clock.advance(1)
    problem(await client.response(), "client_timeout", 408)
    assert up.requests == []


async def test_the_second_head_of_a_connection_has_its_own_time(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway(await origin())
    client = await raw(running)
    for _ in range(3):
        running.clock.advance(9)
        assert (await client.ask(get())).status == 200
    await client.send(HALF)
    await asyncio.sleep(0.02)
    running.clock.advance(11)
    problem(await client.response(), "client_timeout", 408)


@pytest.mark.parametrize("first", [get(), post()])
async def test_a_head_that_began_behind_a_whole_request_is_watched(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, first: bytes
) -> None:
    running = await gateway(await origin())
    client = await raw(running)
    await client.send(first + HALF)
    assert (await client.response()).status == 200
    await asyncio.sleep(0.02)
    running.clock.advance(80)
    if first.startswith(b"GET"):
        problem(await client.response(), "client_timeout", 408)
    assert await client.rest() is not None  # closed, whatever was said


async def test_the_head_time_out_can_be_set(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway(await origin(), server={"limits": {"header_timeout": "2s"}})
    client = await raw(running)
    await client.send(HALF)
    await asyncio.sleep(0.02)
    running.clock.advance(2.5)
    problem(await client.response(), "client_timeout", 408)


# ── the client's body ──


@pytest.mark.parametrize(
    "begun",
    [
        post(b"Content-Length: 10", body=None),
        post(b"Content-Length: 10", body=None) + b"hello",
        post(b"Transfer-Encoding: chunked", body=None) + chunk(b"hello"),
        post(b"Transfer-Encoding: chunked", body=None) + b"5\r\nhe",
    ],
)
async def test_an_idle_body_is_408(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, begun: bytes
) -> None:
    up = await origin(silent)
    running = await gateway(up)
    client = await raw(running)
    await client.send(begun)
    await up.wait_for_request()
    running.clock.advance(29)
    assert await client.silence(0.05)
    running.clock.advance(1.5)
    got = await client.response("POST")
    problem(got, "client_timeout", 408)
    assert got.get("connection") == b"close"
    assert await up.connections[0].closed_soon()
    await says(running, "client_timeout")


async def test_a_body_that_keeps_coming_is_not_idle(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up)
    client = await raw(running)
    await client.send(post(b"Content-Length: 5", body=None))
    await up.wait_for_request()
    for byte in b"hell":
        running.clock.advance(25)
        await client.send(bytes([byte]))
        await asyncio.sleep(0.02)
    got = await client.ask(b"o", method="POST")
    assert (got.status, up.only.body) == (200, b"hello")


@pytest.mark.parametrize("where", ["server", "route"])
async def test_a_body_below_the_least_rate_is_408(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, where: str
) -> None:
    up = await origin(silent)
    rate = "1KiB/s"
    sections = (
        {"server": {"limits": {"body_min_rate": rate}}}
        if where == "server"
        else {"route": {"body": {"min_rate": rate}}}
    )
    running = await gateway(up, **sections)
    client = await raw(running)
    await client.send(post(b"Content-Length: 100000", body=None))
    await up.wait_for_request()
    for _ in range(4):
        await client.send(b"x" * 100)
        await asyncio.sleep(0.01)
        running.clock.advance(2)
    await client.send(b"x")
    problem(await client.response("POST"), "client_timeout", 408)
    assert await up.connections[0].closed_soon()
    await says(running, "client_timeout")


async def test_a_body_above_the_least_rate_passes(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, server={"limits": {"body_min_rate": "1KiB/s"}})
    client = await raw(running)
    await client.send(post(b"Content-Length: 30000", body=None))
    await up.wait_for_request()
    for _ in range(10):
        await client.send(b"x" * 3000)
        await asyncio.sleep(0.01)
        running.clock.advance(2)
    assert (await client.response("POST")).status == 200


# ── keep-alive ──


async def test_an_idle_connection_is_closed_without_a_word(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway(await origin())
    client = await raw(running)
    for _ in range(2):
        assert (await client.ask(get())).status == 200
        await asyncio.sleep(0.01)
        running.clock.advance(73)
        assert await client.silence(0.05)
    assert (await client.ask(get())).status == 200
    await asyncio.sleep(0.01)
    running.clock.advance(76)
    assert await client.closed() == "fin"
    assert running.metric("gateway_errors_total") == 0


@pytest.mark.parametrize("size", [5, 40_000, 150_000])
async def test_an_upload_in_pieces_is_no_beginning_of_the_next_head(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, size: int
) -> None:
    up = await origin()
    running = await gateway(up)
    client = await raw(running)
    for number in range(1, 4):
        await client.send(post(b"Content-Length: %d" % size, body=None))
        await up.wait_for_request(number)
        await client.send(b"x" * size)
        assert (await client.response("POST")).status == 200
        await asyncio.sleep(0.01)
        running.clock.advance(60)
    assert await client.silence(0.05)
    assert running.metric("gateway_errors_total") == 0


async def test_keep_alive_can_be_set(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway(await origin(), server={"limits": {"keepalive_idle": "5s"}})
    client = await raw(running)
    await client.ask(get())
    await asyncio.sleep(0.01)
    running.clock.advance(5.5)
    assert await client.closed() == "fin"


async def test_a_slow_answer_is_not_an_idle_connection(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await go.wait()
        await peer.send(OK)
        await peer.rest()

    up = await origin(script)
    limits = {"keepalive_idle": "5s", "header_timeout": "5s", "body_idle": "5s"}
    running = await gateway(up, server={"limits": limits})
    client = await raw(running)
    await client.send(get())
    await up.wait_for_request()
    running.clock.advance(20)
    assert await client.silence(0.05)
    go.set()
    assert (await client.response()).status == 200


# ── towards the upstream ──


async def test_a_target_that_does_not_accept_is_504(gateway: MakeGateway, raw: MakeClient) -> None:
    # A listener whose queue is full drops the handshake, as a host that is off would.
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    waiting = [socket.socket() for _ in range(4)]
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(full.getsockname())
    port = full.getsockname()[1]
    route = {"name": "r", "path": "/*", "to": f"http://127.0.0.1:{port}", "retry": "off",
             "timeouts": {"connect": "200ms"}}  # fmt: skip
    running = await gateway({"routes": [route]})
    client = await raw(running)
    problem(await client.ask(get()), "connect_timeout", 504)
    await says(running, "connect_timeout")
    for one in (full, *waiting):
        one.close()


async def test_a_pool_without_room_is_503(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(silent)
    running = await gateway(up, upstream={"pool": {"max": 1}})
    first = await raw(running)
    await first.send(get(b"/first"))
    await up.wait_for_request()
    second = await raw(running)
    await second.send(get(b"/second"))
    await asyncio.sleep(0.02)
    running.clock.advance(0.8)
    assert await second.silence(0.05)
    running.clock.advance(0.5)
    problem(await second.response(), "pool_timeout", 503)
    await says(running, "pool_timeout")
    assert len(up.connections) == 1


async def test_the_first_byte_is_waited_for_so_long(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(silent)
    running = await gateway(up, route={"timeouts": {"first_byte": "5s"}})
    client = await raw(running)
    await client.send(get())
    await up.wait_for_request()
    running.clock.advance(4.5)
    assert await client.silence(0.05)
    running.clock.advance(1)
    problem(await client.response(), "upstream_header_timeout", 504)
    await says(running, "upstream_header_timeout")
    assert await up.connections[0].closed_soon()
    assert len(up.requests) == 1
    assert (await running.log())[0]["reason"] == "upstream_header_timeout"


async def test_the_first_byte_is_not_waited_for_while_the_client_sends(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, route={"timeouts": {"first_byte": "5s", "idle": "5s"}})
    client = await raw(running)
    await client.send(post(b"Content-Length: 5", body=None) + b"hell")
    await up.wait_for_request()
    running.clock.advance(20)
    assert await client.silence(0.05)
    assert (await client.ask(b"o", method="POST")).status == 200


async def test_the_first_byte_is_waited_for_once_the_upload_is_over(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(silent)
    running = await gateway(up, route={"timeouts": {"first_byte": "5s"}})
    client = await raw(running)
    await client.send(post(b"Content-Length: 5", body=None) + b"hell")
    await up.wait_for_request()
    running.clock.advance(20)
    await client.send(b"o")
    await asyncio.sleep(0.05)
    running.clock.advance(5.5)
    problem(await client.response("POST"), "upstream_header_timeout", 504)


async def test_an_interim_answer_does_not_stop_the_clock(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        await peer.rest()

    up = await origin(script)
    running = await gateway(up, route={"timeouts": {"first_byte": "5s"}})
    client = await raw(running)
    await client.send(get())
    await up.wait_for_request()
    await asyncio.sleep(0.05)
    running.clock.advance(5.5)
    problem(await client.response(), "upstream_header_timeout", 504)


async def test_an_upstream_that_stops_reading_the_upload_is_given_up(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await asyncio.Event().wait()

    up = await origin(script)
    running = await gateway(up, route={"timeouts": {"idle": "5s"}, "body": {"max": "unlimited"}})
    client = await raw(running)
    await client.send(post(b"Content-Length: 1000000000", body=None))
    await client.send_until_full(quiet=0.2)
    running.clock.advance(5.5)
    got = await client.response("POST")
    assert got.status == 504
    assert running.metric("gateway_errors_total", reason="client_timeout") == 0


# ── between bytes ──


def slow_body(content_type: bytes, framing: bytes) -> object:
    """A script that begins a body and never ends it."""

    async def script(peer: Peer) -> None:
        await peer.request()
        head = reply(b"", b"Content-Type: " + content_type, framing, length=False)
        await peer.send(head + (chunk(b"begun") if b"chunked" in framing else b"begun"))
        await peer.rest()

    return script


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 10", b"Transfer-Encoding: chunked", b"Connection: close"]
)
async def test_an_upstream_that_stops_sending_is_cut(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, framing: bytes
) -> None:
    up = await origin(slow_body(b"text/plain", framing))
    running = await gateway(up)
    client = await raw(running)
    await client.send(get())
    await client.until(b"begun")
    running.clock.advance(58)
    await asyncio.sleep(0.05)
    running.clock.advance(3)
    rest = await client.rest()
    assert not rest.endswith(b"0\r\n\r\n")
    await says(running, "upstream_body_timeout")
    assert running.metric("gateway_requests_total", status="200", source="upstream") == 1
    assert await up.connections[0].closed_soon()


async def test_an_event_stream_may_be_silent_for_five_minutes(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    script = slow_body(b"text/event-stream; charset=utf-8", b"Transfer-Encoding: chunked")
    running = await gateway(await origin(script))
    client = await raw(running)
    await client.send(get())
    await client.until(b"begun\r\n")
    running.clock.advance(290)
    assert await client.silence(0.05)
    running.clock.advance(11)
    await client.rest()
    await says(running, "upstream_body_timeout")


async def test_a_written_idle_time_holds_for_event_streams_too(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    script = slow_body(b"text/event-stream", b"Transfer-Encoding: chunked")
    running = await gateway(await origin(script), route={"timeouts": {"idle": "5s"}})
    client = await raw(running)
    await client.send(get())
    await client.until(b"begun\r\n")
    running.clock.advance(5.5)
    await client.rest()
    await says(running, "upstream_body_timeout")


async def test_a_body_that_keeps_coming_from_upstream_is_not_idle(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    more = asyncio.Semaphore(0)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        for _ in range(5):
            await more.acquire()
            await peer.send(b"x")
        await peer.rest()

    running = await gateway(await origin(script))
    client = await raw(running)
    await client.send(get())
    await client.head()
    for _ in range(5):
        running.clock.advance(50)
        more.release()
        assert await client.exactly(1) == b"x"


async def test_a_client_that_does_not_read_is_cut(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply(b"", b"Content-Length: 1000000000", length=False))
        await peer.send_until_full(quiet=1)

    up = await origin(script)
    running = await gateway(up)
    client = await raw(running, receive_buffer=4096)
    await client.send(get())
    await up.wait_for_request()
    await asyncio.sleep(0.3)
    running.clock.advance(58)
    assert running.metric("gateway_errors_total") == 0
    running.clock.advance(3)
    await says(running, "client_timeout")
    assert await up.connections[0].closed_soon()
    assert await client.skip(1 << 30) < 20_000_000


async def test_an_upstream_is_not_blamed_for_a_slow_client(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    size = 20_000_000

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply(b"", b"Content-Length: %d" % size, length=False))
        assert await peer.send_until_full(most=size, quiet=5) == size
        await peer.rest()

    running = await gateway(await origin(script))
    client = await raw(running, receive_buffer=65536)
    await client.send(get())
    head = await client.head()
    got = len(await client.some())
    while got < size:
        running.clock.advance(20)
        got += await client.skip(min(4_000_000, size - got))
    assert (head.status, got) == (200, size)


# ── all in all ──


async def test_the_total_time_without_a_head_is_504(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(silent)
    running = await gateway(up, route={"timeouts": {"total": "5s"}})
    client = await raw(running)
    await client.send(get())
    await up.wait_for_request()
    running.clock.advance(4.5)
    assert await client.silence(0.05)
    running.clock.advance(1)
    problem(await client.response(), "total_timeout", 504)
    await says(running, "total_timeout")
    assert await up.connections[0].closed_soon()


async def test_the_total_time_behind_the_head_is_a_cut(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply(b"", b"Transfer-Encoding: chunked", length=False))
        while await peer.silence(0.02):
            await peer.send(chunk(b"more"))

    up = await origin(script)
    running = await gateway(up, route={"timeouts": {"total": "5s"}})
    client = await raw(running)
    await client.send(get())
    await client.until(b"more")
    running.clock.advance(5.5)
    assert not (await client.rest()).endswith(b"0\r\n\r\n")
    await says(running, "total_timeout")
    assert bytes(client.received).count(b"HTTP/1.1") == 1


async def test_the_total_time_covers_the_upload(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(silent)
    running = await gateway(up, route={"timeouts": {"total": "50s"}})
    client = await raw(running)
    await client.send(post(b"Content-Length: 100", body=None))
    await up.wait_for_request()
    for _ in range(2):
        running.clock.advance(20)
        await client.send(b"x")
        await asyncio.sleep(0.02)
    running.clock.advance(11)
    got = await client.response("POST")
    problem(got, "total_timeout", 504)
    assert got.get("connection") == b"close"


async def test_the_total_time_covers_all_tries(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 0:
            return
        await peer.rest()

    up = await origin(script)
    running = await gateway(up, route={"timeouts": {"total": "5s"}})
    client = await raw(running)
    await client.send(get())
    await up.wait_for_request(2)
    running.clock.advance(5.5)
    problem(await client.response(), "total_timeout", 504)
    assert (await running.log())[0]["attempts"] == 2


async def test_without_a_total_time_there_is_none(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    more = asyncio.Semaphore(0)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        for _ in range(100):
            await more.acquire()
            await peer.send(b"x")
        await peer.rest()

    running = await gateway(await origin(script))
    client = await raw(running)
    await client.send(get())
    await client.head()
    for _ in range(100):
        running.clock.advance(50)
        more.release()
        assert await client.exactly(1) == b"x"


async def test_one_try_may_have_its_own_time(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number:
            await peer.send(OK)
        await peer.rest()

    up = await origin(script)
    retry = {"per_try": "200ms", "on": ["first_byte"]}
    running = await gateway(up, route={"retry": retry})
    client = await raw(running)
    assert (await client.ask(get())).status == 200
    assert len(up.requests) == 2


async def test_time_outs_can_be_switched_off(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(silent)
    running = await gateway(
        up,
        route={
            "timeouts": {"first_byte": "off", "idle": "off", "connect": "off", "pool_wait": "off"}
        },
        server={"limits": {"header_timeout": "off", "keepalive_idle": "off", "body_idle": "off"}},
    )
    clients = [await raw(running) for _ in range(3)]
    await clients[0].send(HALF)
    await clients[1].send(post(b"Content-Length: 5", body=None))
    await clients[2].send(get())
    await up.wait_for_request(2)
    running.clock.advance(100_000)
    for client in clients:
        assert await client.silence(0.05)


async def test_a_cut_reply_is_logged_with_its_reason(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(slow_body(b"text/plain", b"Content-Length: 10"))
    running = await gateway(up, route={"timeouts": {"idle": "5s"}})
    client = await raw(running)
    await client.send(get())
    await client.until(b"begun")
    running.clock.advance(5.5)
    with pytest.raises(Ended):
        await client.exactly(100)
    line = (await running.log())[0]
    assert (line["status"], line["reason"], line["source"]) == (
        200,
        "upstream_body_timeout",
        "upstream",
    )
