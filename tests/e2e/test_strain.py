"""The data path under strain: early answers, clients that leave or pause, both directions at once.

Rules of this file: what tests/e2e/conformance proves of one message is not proved again; whatever
ends early, every counter of what is under way is back at zero afterwards.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import pytest

from gateway.backlog import Backlog
from tests.e2e.conformance.conftest import get, post
from tests.kit.origin import OK, chunk, reply
from tests.kit.raw import Ended
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Peer
    from tests.kit.running import Running
    from tests.kit.wire import Wire

MIB = 1 << 20
CHUNKED = b"Transfer-Encoding: chunked"
STREAM = reply(b"", CHUNKED, length=False)
END = b"0\r\n\r\n"
BLOCK = bytes(range(256)) * 256
"""64 KiB that are not all alike."""


async def nothing_is_left(running: Running) -> None:
    """Every counter of what is under way is back at zero."""
    await running.eventually("gateway_requests_in_flight", 0)
    await running.eventually("gateway_upstream_connections", 0, state="active")
    upstream = running.gateway.metrics.upstream("up").source
    assert upstream is not None
    assert [target.in_flight for target in upstream.targets] == [0]


async def stalled(running: Running) -> None:
    """Wait until a reply waits for its client."""
    async with asyncio.timeout(PATIENCE):
        while not any(isinstance(one, Backlog) for one in running.clock.watched):
            await asyncio.sleep(0.01)


async def discard(wire: Wire, count: int) -> str:
    """Read `count` bytes and keep none; their digest."""
    digest = hashlib.sha256()
    loop = asyncio.get_running_loop()
    head = wire.buffer[:count]
    del wire.buffer[:count]
    digest.update(head)
    count -= len(head)
    while count:
        data = await loop.sock_recv(wire.sock, min(count, 1 << 18))
        assert data, f"ended {count} bytes too early"
        digest.update(data)
        count -= len(data)
    return digest.hexdigest()


def digest_of(blocks: int) -> str:
    """The digest of so many times BLOCK."""
    digest = hashlib.sha256()
    for _ in range(blocks):
        digest.update(BLOCK)
    return digest.hexdigest()


# ── early answers ──


@pytest.mark.parametrize("status", [b"200 OK", b"413 Content Too Large"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_answer_before_the_body_is_complete_ends_both_connections_but_is_delivered(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, status: bytes, framing: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.until(b"first part")
        await peer.send(reply(b"enough", status=status))
        await peer.rest()

    up = await origin(script)
    running = await gateway(up)
    client = await raw(running)
    if framing == "length":
        await client.send(post(b"Content-Length: 1000", body=None), b"first part")
    else:
        await client.send(post(CHUNKED, body=None), chunk(b"first part"))
    got = await client.response("POST")
    assert (got.start, got.body) == (b"HTTP/1.1 " + status, b"enough")
    assert got.get("connection") == b"close"
    assert await up.connections[0].closed_soon()
    assert not up.connections[0].buffer  # least of all an end of the body
    await nothing_is_left(running)
    assert running.metric("gateway_upstream_connections", state="idle") == 0


async def test_a_long_early_answer_is_read_to_its_end_while_nobody_reads_the_body(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(reply(BLOCK * 64, status=b"413 Content Too Large"))
        await peer.rest()

    running = await gateway(await origin(script), route={"body": {"max": "unlimited"}})
    client = await raw(running)
    await client.send(post(b"Content-Length: 100000000", body=None))
    await client.send_until_full(most=64 * MIB)
    head = await client.head()
    assert head.status == 413
    assert await discard(client, 64 * len(BLOCK)) == digest_of(64)


async def test_an_early_answer_of_an_upstream_that_then_leaves_is_delivered(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.until(b"first part")
        await peer.send(reply(b"enough", b"Connection: close", status=b"413 Content Too Large"))

    client = await raw(await gateway(await origin(script)))
    await client.send(post(b"Content-Length: 1000000", body=None), b"first part")
    got = await client.response("POST")
    assert (got.status, got.body) == (413, b"enough")


async def test_a_refusal_by_an_upstream_that_closes_without_reading_is_delivered(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(reply(b"no", b"Connection: close", status=b"413 Content Too Large"))
        # what has arrived and was not read makes a reset of this end

    running = await gateway(await origin(script), route={"body": {"max": "unlimited"}})
    for _ in range(20):  # whether a write fails before the answer is read is a race
        client = await raw(running)
        await client.send(post(b"Content-Length: 3000000", body=None))
        sending = asyncio.get_running_loop().create_task(client.send(*[b"x" * 50_000] * 60))
        got = await client.response("POST")
        assert (got.status, got.body) == (413, b"no")
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        client.close()


# ── clients that leave ──


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_client_that_leaves_in_its_upload_cancels_it(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, how: str, framing: str
) -> None:
    up = await origin()
    running = await gateway(up)
    client = await raw(running)
    line = CHUNKED if framing == "chunked" else b"Content-Length: 1000"
    await client.send(post(line, body=None), chunk(b"first part"))
    await up.wait_for_request()
    assert running.metric("gateway_requests_in_flight") == 1
    assert running.metric("gateway_upstream_connections", state="active") == 1
    getattr(client, how)()
    assert await up.connections[0].closed_soon()
    assert not up.connections[0].received.endswith(END)
    await nothing_is_left(running)
    await running.eventually("gateway_errors_total", 1, reason="client_closed")
    (line_of_log,) = await running.log()
    assert (line_of_log["status"], line_of_log["source"]) == (499, "client")


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_without_reading_cancels_its_download(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, how: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n")
        await peer.send_until_full(most=64 * MIB, quiet=0.1)
        await peer.rest()

    up = await origin(script)
    running = await gateway(up)
    client = await raw(running, receive_buffer=4096)
    await client.send(get())
    await client.head()
    await stalled(running)
    getattr(client, how)()
    assert await up.connections[0].closed_soon()
    await nothing_is_left(running)
    await running.eventually("gateway_errors_total", 1, reason="client_closed")


# ── whoever is slower ──


async def test_a_client_that_pauses_gets_the_whole_reply_in_the_end(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    blocks = 32 * MIB // len(BLOCK)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (blocks * len(BLOCK)))
        for _ in range(blocks):
            await peer.send(BLOCK)
        await peer.rest()

    running = await gateway(await origin(script))
    client = await raw(running, receive_buffer=65536)
    await client.send(get())
    await client.head()
    await stalled(running)
    running.clock.advance(55)  # less than it may pause for; the upstream's own clock stands still
    assert await discard(client, blocks * len(BLOCK)) == digest_of(blocks)
    await nothing_is_left(running)


async def test_an_echo_of_any_size_does_not_lock_up(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    blocks = 32 * MIB // len(BLOCK)

    async def script(peer: Peer) -> None:
        message = await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (blocks * len(BLOCK)))
        left = int(message.get("content-length") or b"0")
        while left:
            data = await peer.some()
            left -= len(data)
            await peer.send(data)
            peer.received.clear()
        await peer.rest()

    running = await gateway(await origin(script), route={"body": {"max": "unlimited"}})
    client = await raw(running)
    await client.send(post(b"Content-Length: %d" % (blocks * len(BLOCK)), body=None))
    assert (await client.head()).status == 200
    sending = asyncio.get_running_loop().create_task(client.send(*[BLOCK] * blocks))
    async with asyncio.timeout(20):
        assert await discard(client, blocks * len(BLOCK)) == digest_of(blocks)
        await sending


# ── ends of messages and connections ──


@pytest.mark.parametrize("apart", [True, False])
async def test_a_chunked_upload_with_trailers_is_the_last_request_of_its_connection(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, apart: bool
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    head, rest = post(CHUNKED, body=None), chunk(b"a") + b"0\r\nX-T: 1\r\n\r\n"
    await client.send(*([head, rest] if apart else [head + rest]))
    got = await client.response("POST")
    assert (got.status, got.get("connection")) == (200, b"close")
    await client.closed()
    assert up.only.body == b"a"


async def test_a_reply_that_breaks_off_is_not_the_end_of_the_upstreams_other_replies(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        while True:
            message = await peer.request()
            if message.target == b"/cut":
                await peer.send(STREAM, chunk(b"half"))
                await asyncio.sleep(0.02)
                return
            await peer.send(OK)

    running = await gateway(await origin(script))
    client = await raw(running)
    with pytest.raises(Ended):
        await client.ask(get(b"/cut"))
    assert (await (await raw(running)).ask(get())).body == b"ok"
    await nothing_is_left(running)
