"""What clients and upstreams do that no table of attacks has: each is named for the item of http.md that it belongs to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gateway.tasks import spawn
from tests.e2e.conformance.conftest import EVIL, get, post, problem
from tests.kit.frames import frame
from tests.kit.origin import OK, chunk, reply
from tests.kit.raw import Ended

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.e2e.conformance.conftest import Through
    from tests.kit.origin import Peer

CHUNKED = b"Transfer-Encoding: chunked"
UPGRADE = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13",
           b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")  # fmt: skip
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


# ── own answers stay in step ──


async def test_37_an_error_page_for_head_has_a_length_and_no_body(
    gateway: MakeGateway, raw: MakeClient
) -> None:
    route = {"path": "/x", "respond": {"status": 200, "body": "found"}}
    client = await raw(await gateway({"routes": [route]}))
    missing = await client.ask(get(b"/none", method=b"HEAD"))
    assert (missing.status, missing.get("content-type")) == (404, b"application/problem+json")
    assert int(missing.get("content-length") or b"0") > 0
    found = await client.ask(get(b"/x", method=b"HEAD"))
    assert (found.status, found.get("content-length")) == (200, b"5")
    assert (await client.ask(get(b"/x"))).body == b"found"


async def test_66_an_error_of_routing_keeps_the_connection(
    gateway: MakeGateway, raw: MakeClient
) -> None:
    route = {"path": "/x", "methods": ["GET"], "respond": {"status": 200, "body": "found"}}
    client = await raw(await gateway({"routes": [route]}))
    problem(await client.ask(get(b"/none")), "no_route", 404)
    wrong = await client.ask(post(target=b"/x"))
    problem(wrong, "method_not_allowed", 405)
    assert set((wrong.get("allow") or b"").split(b", ")) == {b"GET", b"HEAD"}
    assert (await client.ask(get(b"/x"))).body == b"found"


async def test_66_an_upstreams_failure_keeps_the_clients_connection(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        message = await peer.request()
        await peer.send(OK if message.target == b"/good" else b"garbage\r\n\r\n")

    client = await raw(await gateway(await origin(script)))
    for _ in range(3):
        problem(await client.ask(get(b"/bad")), "upstream_bad_response", 502)
        assert (await client.ask(get(b"/good"))).status == 200


async def test_40_errors_to_http_1_0_clients_end_the_connection(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    await up.refuse()
    client = await raw(await gateway(up))
    got = await client.ask(get(version=b"HTTP/1.0"))
    problem(got, "connect_refused", 502)
    assert got.start.startswith(b"HTTP/1.1 ")
    assert await client.closed() == "fin"


# ── the upstream's way of sending ──


async def test_38_a_head_that_comes_byte_by_byte_is_one_head(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        for byte in reply(b"hello", b"X: y"):
            await peer.send(bytes([byte]))
            await asyncio.sleep(0)
        await peer.rest()

    got = await (await raw(await gateway(await origin(script)))).ask(get())
    assert (got.status, got.body, got.get("x")) == (200, b"hello", b"y")


async def test_38_a_chunked_body_that_comes_byte_by_byte_is_one_body(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        for byte in reply(b"", CHUNKED, length=False) + chunk(b"hel") + chunk(b"lo") + b"0\r\n\r\n":
            await peer.send(bytes([byte]))
            await asyncio.sleep(0)
        await peer.rest()

    got = await (await raw(await gateway(await origin(script)))).ask(get())
    assert (got.status, got.body) == (200, b"hello")


async def test_39_an_answer_before_the_question_is_not_taken_for_one_later(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(reply(b"unasked"))
        while True:
            message = await peer.request()
            await peer.send(reply(message.target))

    client = await raw(await gateway(await origin(script), route={"retry": "off"}))
    for number in range(4):
        got = await client.ask(get(b"/%d" % number))
        assert got.status == 502 or got.body in (b"/%d" % number, b"unasked")
    assert bytes(client.received).count(b"HTTP/1.1") == 4


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length:2\r\nX:\r\n\r\nok",
        b"HTTP/1.1  200  OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 002\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_38_a_sloppy_response_is_made_tidy_or_502(through: Through, head: bytes) -> None:
    got = await through(get(), reply=head)
    if got.response.status == 200:
        assert got.response.body == b"ok"
        assert got.response.framing in ("length", "chunked")
        assert b"\n" not in got.response.head.replace(b"\r\n", b"")
    else:
        assert got.response.status == 502


async def test_27_a_101_that_names_no_protocol_is_a_bad_response(through: Through) -> None:
    got = await through(
        get(b"/", *UPGRADE), reply=b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + b"x" * 10
    )
    problem(got.response, "upstream_bad_response", 502)


async def test_57_an_unexpected_101_leaves_nothing_behind(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin([SWITCHED + frame(b"x", mask=False), OK])
    client = await raw(await gateway(up, route={"retry": "off"}))
    problem(await client.ask(get()), "upstream_bad_response", 502)
    assert (await client.ask(get())).body == b"ok"


# ── the client's way of sending ──


async def test_23_expect_without_a_body_changes_nothing(through: Through) -> None:
    got = await through(get(b"/", b"Expect: 100-continue"))
    assert (got.response.status, got.response.interim) == (200, [])


async def test_23_a_client_that_does_not_wait_for_100_is_served(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    for _ in range(3):
        await client.send(post(b"Content-Length: 5", b"Expect: 100-continue", body=None))
        await client.send(b"hello")
        assert (await client.response("POST")).status == 200
    assert [request.body for request in up.requests] == [b"hello"] * 3


async def test_28_a_field_that_hides_behind_another_is_one_value(through: Through) -> None:
    got = await through(get(b"/", b"X: a, Transfer-Encoding: chunked", b"Y: b: c"))
    assert got.sent.get("x") == b"a, Transfer-Encoding: chunked"
    assert got.sent.framing == "none"


@pytest.mark.parametrize("name", [b"Content-Length", b"Transfer-Encoding", b"Host"])
async def test_42_a_body_that_reads_like_a_request_is_a_body(through: Through, name: bytes) -> None:
    body = EVIL + name + b": 5\r\n\r\n"
    got = await through(post(body=body))
    assert got.sent.body == body
    assert (await got.client.ask(get(b"/next"))).status == 200
    assert [request.target for request in got.origin.requests] == [b"/", b"/next"]


async def test_34_trailers_of_pipelined_uploads_do_not_meet(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    evil = post(CHUNKED, body=None) + chunk(b"a") + b"0\r\nX-A: 1\r\nX-Evil: 1\r\n\r\n"
    clean = post(CHUNKED, body=None) + chunk(b"b") + b"0\r\n\r\n"
    await client.send(evil + clean + clean)
    assert (await client.response("POST")).status == 200
    await client.rest()
    for request in up.requests:
        assert not {b"x-evil", b"x-a"} & set(request.names)


@pytest.mark.parametrize(
    "behind",
    [
        b"\x00\x00",
        b"garbage\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        EVIL[:-4] + b"\r\nBad name: 1\r\n\r\n",
    ],
)
async def test_66_a_good_request_is_answered_whatever_stands_behind_it(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, behind: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    await client.send(get(b"/good") + behind)
    assert (await client.response()).body == b"ok"
    assert (await client.response()).status in (400, 501, 505)
    await client.rest()
    assert [request.target for request in up.requests] == [b"/good"]


# ── named for items that other files prove at length ──


async def test_71_what_nobody_reads_is_not_taken_from_the_upstream(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    taken: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply(b"", b"Content-Length: 1000000000", length=False))
        taken.append(await peer.send_until_full(most=64 << 20, quiet=0.2))

    client = await raw(await gateway(await origin(script)), receive_buffer=4096)
    await client.send(get())
    async with asyncio.timeout(10):
        while not taken:
            await asyncio.sleep(0.02)
    assert taken[0] < 24_000_000


async def test_74_a_drain_lets_requests_end_and_then_no_more(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await go.wait()
        await peer.send(OK)
        await peer.rest()

    up = await origin(script)
    running = await gateway(up)
    client = await raw(running)
    await client.send(get())
    await up.wait_for_request()
    draining = spawn(running.gateway.drain(delay=0), "drain")
    await asyncio.sleep(0.05)
    assert not running.gateway.ready
    go.set()
    got = await client.response()
    assert (got.body, got.get("connection")) == (b"ok", b"close")
    async with asyncio.timeout(10):
        await draining
    with pytest.raises((ConnectionRefusedError, Ended)):
        await (await raw(running)).ask(get())


@pytest.mark.parametrize(
    "broken",
    [frame(b"\xff\xfe", 1, mask=True), frame(b"x", 3, mask=True), frame(b"x" * 126, 9, mask=True),
     frame(b"x", 0, mask=True), frame(b"x", 8, mask=True), frame(b"x", 2, mask=True, rsv=7)],
)  # fmt: skip
async def test_90_a_protocol_error_and_the_answer_to_it_pass_between_the_ends(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, broken: bytes
) -> None:
    answer = frame(b"\x03\xea", 8, mask=False)

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(SWITCHED)
        assert await peer.exactly(len(broken)) == broken
        await peer.send(answer)

    client = await raw(await gateway(await origin(script)))
    assert (await client.ask(get(b"/", *UPGRADE))).status == 101
    await client.send(broken)
    assert await client.exactly(len(answer)) == answer
    client.half_close()
    assert await client.closed() == "fin"


async def test_91_masks_pass_as_they_are_and_our_own_frames_are_masked_towards_the_upstream(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(SWITCHED)
        await asyncio.Event().wait()

    up = await origin(script)
    running = await gateway(up)
    client = await raw(running)
    assert (await client.ask(get(b"/", *UPGRADE))).status == 101
    sent = frame(b"hello", 1, mask=True)
    await client.send(sent)
    assert await up.connections[0].exactly(len(sent)) == sent
    running.clock.advance(301)
    down = await client.exactly(4)
    upward = await up.connections[0].exactly(8)
    assert down == b"\x88\x02\x03\xe9"
    assert upward[:2] == b"\x88\x82"
    key, payload = upward[2:6], upward[6:]
    assert bytes(byte ^ key[at % 4] for at, byte in enumerate(payload)) == b"\x03\xe9"
    client.close()
    up.connections[0].close()


# ── nothing that a client writes becomes a line of its own ──


@pytest.mark.parametrize(
    "value", [b"a%0d%0aX-Evil:%201", b"a%0aX-Evil:%201", b"a%00b", b"%e5%98%8a%e5%98%8dX-Evil:%201"]
)
async def test_44_placeholders_do_not_let_line_ends_through(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, value: bytes
) -> None:
    up = await origin()
    headers = {
        "request": {"set": {"X-From": "{query.x}"}},
        "response": {"set": {"X-Back": "{query.x}"}},
    }
    client = await raw(await gateway(up, route={"headers": headers}))
    got = await client.ask(get(b"/?x=" + value))
    assert got.status in (200, 400)
    assert b"x-evil" not in got.names
    for request in up.requests:
        assert b"x-evil" not in request.names
        assert b"\x00" not in request.head


@pytest.mark.parametrize("target", [b"/a%0d%0aSet-Cookie:%20evil", b"/?x=%0d%0aSet-Cookie:%20evil"])
async def test_64_a_redirect_has_one_line(
    gateway: MakeGateway, raw: MakeClient, target: bytes
) -> None:
    route = {"path": "/*", "redirect": {"to": "https://a.test{path}?y={query.x}"}}
    got = await (await raw(await gateway({"routes": [route]}))).ask(get(target))
    assert b"set-cookie" not in got.names
