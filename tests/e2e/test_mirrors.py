"""`mirror`, through a whole gateway: the copy, the comparison, and that no client ever notices."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conformance.conftest import get, post
from tests.kit.origin import OK, chunk, reply
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin, Peer
    from tests.kit.running import Running

JSON = b"Content-Type: application/json"
RESULTS = "gateway_mirror_requests_total"
MISMATCHES = "gateway_mirror_mismatches_total"


def mirrored(up: Origin, copy: Origin, *, route: Any = None, **mirror: Any) -> dict[str, Any]:
    settings = {"upstream": "copy", "compare": {"ignore": ["header.date"]}, **mirror}
    return {
        "routes": [{"name": "all", "path": "/*", "to": "up", "mirror": settings, **(route or {})}],
        "upstreams": {"up": {"targets": [up.url]}, "copy": {"targets": [copy.url]}},
    }


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.rest()


async def results(running: Running, **expected: int) -> None:
    """Exactly these results have been counted, now or in a moment."""
    for result in ("match", "mismatch", "failed", "dropped"):
        await running.eventually(RESULTS, expected.get(result, 0), route="all", result=result)


# ── the copy ──


async def test_a_copy_that_is_answered_counts_for_the_mirrors_upstream_to_its_last_byte(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        for body in (b"ok", b"ok"):
            await peer.request()
            await peer.send(reply(body))
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    up, copy = await origin(), await origin(script)
    running = await gateway(mirrored(up, copy))
    client = await raw(running)
    for matches, failed in ((1, 0), (2, 0), (2, 1)):
        assert (await client.ask(get())).status == 200
        await results(running, match=matches, failed=failed)
    last_byte = "gateway_upstream_time_to_last_byte_seconds_count"
    assert running.metric(last_byte, upstream="copy") == 2, "a half answer has no last byte"
    assert running.metric("gateway_upstream_request_duration_seconds_count", upstream="copy") == 3


async def test_the_mirror_gets_what_the_upstream_got_with_the_marker_behind_it(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up, copy = await origin(), await origin()
    route = {
        "path": "/a/*",
        "rewrite": {"strip_prefix": "/a", "query": {"set": {"from": "gw"}}},
        "headers": {"request": {"set": {"X-Tenant": "t-{query.x}"}, "remove": ["X-Secret"]}},
    }
    running = await gateway(mirrored(up, copy, route=route))
    client = await raw(running)
    sent = get(b"/a/b%2Fc?x=1", b"X-Secret: s", b"x-odd-CASE: \xff\xfe", b"Cookie: a=b")
    assert (await client.ask(sent)).body == b"ok"
    await results(running, match=1)
    head, _, end = up.only.raw.rpartition(b"\r\n\r\n")
    assert copy.only.raw == head + b"\r\nX-Gateway-Mirror: 1\r\n\r\n" + end
    assert copy.only.get("x-tenant") == b"t-1"


@pytest.mark.parametrize("size", [0, 5, 20_000, 60_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_arrive_whole_at_both(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, size: int, chunked: bool
) -> None:
    up, copy = await origin(), await origin()
    running = await gateway(mirrored(up, copy))
    client = await raw(running)
    body = os.urandom(size)
    if chunked:
        await client.send(post(b"Transfer-Encoding: chunked", body=None))
        for at in range(0, size, 7000):
            await client.send(chunk(body[at : at + 7000]))
        await client.send(b"0\r\n\r\n")
        answer = await client.response()
    else:
        answer = await client.ask(post(body=body))
    assert answer.status == 200
    await results(running, match=1)
    assert up.only.body == copy.only.body == body
    assert up.only.framing == copy.only.framing


async def test_an_upload_that_streams_slowly_is_copied_whole(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up, copy = await origin(), await origin()
    running = await gateway(mirrored(up, copy))
    client = await raw(running)
    await client.send(post(b"Content-Length: 6", body=None))
    await up.wait_for_request()
    for piece in (b"ab", b"cd", b"ef"):
        await client.send(piece)
        await asyncio.sleep(0.02)
    assert (await client.response()).status == 200
    await results(running, match=1)
    assert copy.only.body == b"abcdef"


@pytest.mark.parametrize("method", ["HEAD", "DELETE", "OPTIONS"])
async def test_other_methods_are_mirrored_too(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, method: str
) -> None:
    answer = reply(b"", length=False) if method == "HEAD" else OK
    up, copy = await origin(answer), await origin(answer)
    running = await gateway(mirrored(up, copy))
    client = await raw(running)
    await client.ask(get(method=method.encode()), method=method)
    await results(running, match=1)
    assert copy.only.method == method.encode()


async def test_the_try_that_was_answered_is_the_one_that_is_compared(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin([reply(b"busy", status=b"503 Busy"), OK])
    copy = await origin()
    running = await gateway(mirrored(up, copy, route={"retry": {"on": ["503"]}}))
    assert (await (await raw(running)).ask(post(b"Idempotency-Key: a"))).status == 200
    await results(running, match=1)
    assert (len(up.requests), copy.only.body) == (2, b"hello")


async def test_the_share_is_drawn_for_each_request(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up, copy = await origin(), await origin()
    running = await gateway(mirrored(up, copy, percent=0))
    client = await raw(running)
    for _ in range(20):
        await client.ask(get())
    await results(running)
    assert not copy.connections


async def test_the_mirrors_own_balancing_sees_the_request(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up, first, second = await origin(), await origin(), await origin()
    written = mirrored(up, first)
    written["upstreams"]["copy"] = {
        "targets": [first.url, second.url],
        "balance": "hash:{header.x-tenant}",
    }
    running = await gateway(written)
    client = await raw(running)
    for number in range(8):
        await client.ask(get(b"/", b"X-Tenant: a"))
        await results(running, match=number + 1)  # in turn: a busy target is passed by
    assert sorted((len(first.requests), len(second.requests))) == [0, 8]


# ── the comparison ──


async def test_what_differs_is_counted_by_kind_and_kept_for_people(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(reply(b'{"id": 7, "at": 1}', JSON, b"Server: old", b"Date: then"))
    copy = await origin(reply(b'{"at":2,"id":8}', JSON, b"Server: new", b"Date: now"))
    ignore = ["header.date", "body.$.at"]
    route = {"headers": {"response": {"remove": ["Server"], "set": {"X-Own": "1"}}}}
    running = await gateway(mirrored(up, copy, compare={"ignore": ignore}, route=route))
    client = await raw(running)
    assert (await client.ask(get(b"/x?token=secret"))).body == b'{"id": 7, "at": 1}'
    await results(running, mismatch=1)
    assert running.metric(MISMATCHES, route="all", kind="header") == 1
    assert running.metric(MISMATCHES, route="all", kind="body") == 1
    assert running.metric(MISMATCHES, route="all", kind="status") == 0
    [mismatch] = running.gateway.mirrors.mismatches
    assert (mismatch.path, mismatch.target) == ("/x", copy.address)
    assert [each.where for each in mismatch.differences] == ["header.server", "body.$.id"]
    assert "secret" not in repr(mismatch)


async def test_a_response_that_streams_is_compared_whole(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def streams(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b"one ", b"two ", b"three"):
            await peer.send(chunk(piece))
            await asyncio.sleep(0.02)
        await peer.send(b"0\r\n\r\n")

    up, copy = await origin(streams), await origin(reply(b"one two three"))
    running = await gateway(mirrored(up, copy))
    assert (await (await raw(running)).ask(get())).body == b"one two three"
    await results(running, match=1)


async def test_a_large_response_is_passed_on_and_not_compared(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    large = os.urandom(300_000)
    up, copy = await origin(reply(large)), await origin(reply(large))
    running = await gateway(mirrored(up, copy))
    assert (await (await raw(running)).ask(get())).body == large
    await results(running, dropped=1)
    assert len(copy.requests) == 1


async def test_a_large_upload_is_passed_on_and_not_mirrored(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up, copy = await origin(), await origin()
    running = await gateway(mirrored(up, copy))
    client = await raw(running)
    body = os.urandom(100_000)
    assert (await client.ask(post(body=body))).status == 200
    await client.send(post(b"Transfer-Encoding: chunked", body=None), chunk(body), b"0\r\n\r\n")
    assert (await client.response()).status == 200
    await results(running, dropped=2)
    assert [one.body for one in up.requests] == [body, body]
    assert not copy.requests


# ── the client never notices ──


async def test_a_mirror_that_hangs_or_is_not_there_delays_nobody(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up, copy = await origin(), await origin(silent)
    running = await gateway(mirrored(up, copy))
    client = await raw(running)
    for _ in range(40):  # more than may be under way
        assert (await client.ask(post())).body == b"ok"
    await results(running, dropped=8)
    await copy.wait_for_request(32)
    await asyncio.sleep(0.05)  # the last of them is waited for, too
    running.clock.advance(31)  # first_byte of the mirror's upstream
    await results(running, dropped=8, failed=32)
    await copy.refuse()
    assert (await client.ask(get())).body == b"ok"
    await results(running, dropped=8, failed=33)
    assert running.metric("gateway_errors_total") == 0


async def test_the_clients_answer_is_out_before_the_mirror_is_asked(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    order = []

    async def notes(peer: Peer) -> None:
        await peer.request()
        order.append("mirror")
        await peer.send(OK)

    async def slow(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(0.1)
        order.append("upstream")
        await peer.send(OK)

    up, copy = await origin(slow), await origin(notes)
    running = await gateway(mirrored(up, copy))
    assert (await (await raw(running)).ask(get())).status == 200
    await results(running, match=1)
    assert order == ["upstream", "mirror"]


@pytest.mark.parametrize("how", ["reset", "refused", "half"])
async def test_an_exchange_that_fails_is_not_mirrored(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, how: str
) -> None:
    async def fails(peer: Peer) -> None:
        await peer.request()
        if how == "half":
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")

    up, copy = await origin(fails), await origin()
    running = await gateway(mirrored(up, copy, route={"retry": "off"}))
    if how == "refused":
        await up.refuse()
    client = await raw(running)
    await client.send(get())
    if how == "half":
        await client.rest()
    else:
        assert (await client.response()).status == 502
    await results(running, dropped=1)
    assert not copy.requests


async def test_a_client_that_leaves_midway_is_not_mirrored(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up, copy = await origin(silent), await origin()
    running = await gateway(mirrored(up, copy))
    client = await raw(running)
    await client.send(post())
    await up.wait_for_request()
    client.close()
    await results(running, dropped=1)
    assert not copy.requests


async def test_what_the_gateway_answers_itself_is_not_mirrored(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up, copy = await origin(reply(b"oops", status=b"500 Oops")), await origin()
    route = {"errors": {"intercept": [500]}}
    running = await gateway(mirrored(up, copy, route=route))
    assert (await (await raw(running)).ask(get())).status == 500
    await results(running, dropped=1)
    assert not copy.requests


async def test_a_refused_request_never_reaches_the_mirror(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up, copy = await origin(), await origin()
    running = await gateway(mirrored(up, copy, route={"fault": {"abort": 503}}))
    assert (await (await raw(running)).ask(get())).status == 503
    await results(running)
    assert not copy.connections


async def test_copies_under_way_end_with_the_gateway(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up, copy = await origin(), await origin(silent)
    running = await gateway(mirrored(up, copy))
    assert (await (await raw(running)).ask(get())).status == 200
    await copy.wait_for_request()
    assert len(running.gateway.mirrors.running) == 1
    mirrors = running.gateway.mirrors
    await running.gateway.aclose()
    assert not mirrors.running
    await results(running, failed=1)


async def test_a_websocket_is_not_mirrored(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def switches(peer: Peer) -> None:
        await peer.head()
        await peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        await peer.rest()

    up, copy = await origin(switches), await origin()
    running = await gateway(mirrored(up, copy))
    client = await raw(running)
    handshake = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")
    await client.send(get(b"/", *handshake, b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="))
    assert (await client.response()).status == 101
    client.close()
    await results(running, dropped=1)
    assert not copy.requests


async def test_mismatches_and_copies_outlive_a_reload(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    from gateway.config import load_dict

    released = asyncio.Event()

    async def waits(peer: Peer) -> None:
        await peer.request()
        await released.wait()
        await peer.send(reply(b"other"))

    up, copy = await origin(), await origin(waits)
    running = await gateway(mirrored(up, copy))
    assert (await (await raw(running)).ask(get())).status == 200
    await copy.wait_for_request()
    written: dict[str, Any] = {**mirrored(up, copy), "admin": "off"}
    written |= {"listeners": [{"bind": "127.0.0.1:0"}], "observability": {"access_log": "off"}}
    await running.gateway.reload(load_dict(written))
    released.set()
    await results(running, mismatch=1)
    async with asyncio.timeout(PATIENCE):
        while not running.gateway.mirrors.mismatches:
            await asyncio.sleep(0.01)
