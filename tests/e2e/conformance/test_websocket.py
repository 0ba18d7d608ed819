"""http.md 81 to 94: WebSocket through the gateway, byte for byte.

The gateway reads heads of frames at most, so what two ends say to each other must pass unchanged; what belongs to the
handshake and to the end of a tunnel is the gateway's own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gateway.tasks import spawn
from tests.e2e.conformance.conftest import EVIL, get, problem
from tests.kit.frames import frame
from tests.kit.origin import OK, reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.e2e.conformance.conftest import Through
    from tests.kit.origin import Peer
    from tests.kit.raw import Client
    from tests.kit.running import Running

ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
VERSION = b"Sec-WebSocket-Version: 13"
UPGRADE = (b"Connection: Upgrade", b"Upgrade: websocket")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
SWITCHED = SWITCH + ACCEPT + b"\r\n\r\n"


def ask(*lines: bytes, target: bytes = b"/chat") -> bytes:
    """A handshake."""
    return get(target, *UPGRADE, KEY, VERSION, *lines)


async def _echo(peer: Peer) -> None:
    """Switch, then send back whatever comes."""
    await peer.head()
    await peer.send(SWITCHED)
    while data := await peer.some():
        await peer.send(data)


@pytest.fixture
async def pair(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> AsyncIterator[tuple[Client, Peer, Running]]:
    """A tunnel that is open: the client, the upstream's end of it, the gateway."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(SWITCHED)
        await asyncio.Event().wait()

    up = await origin(script)
    running = await gateway(up, route={"timeouts": {"idle": "1s", "first_byte": "1s"}})
    client = await raw(running)
    assert (await client.ask(ask())).status == 101
    yield client, up.connections[0], running
    client.close()
    up.connections[0].close()


async def test_81_the_101_comes_only_after_the_upstreams(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await go.wait()
        await peer.send(SWITCHED)
        await peer.rest()

    up = await origin(script)
    client = await raw(await gateway(up))
    await client.send(ask())
    await up.wait_for_request()
    assert await client.silence()
    go.set()
    got = await client.response()
    assert (got.status, got.get("sec-websocket-accept")) == (101, ACCEPT.split(b": ")[1])
    assert got.get("upgrade") == b"websocket"
    assert (got.get("connection") or b"").lower() == b"upgrade"
    assert not {b"content-length", b"transfer-encoding"} & set(got.names)


@pytest.mark.parametrize(
    "status", [b"400 Bad Request", b"401 Unauthorized", b"403 Forbidden", b"404 Not Found",
               b"426 Upgrade Required", b"500 Internal Server Error", b"503 Service Unavailable",
               b"302 Found", b"200 OK"],
)  # fmt: skip
async def test_81_an_upstream_that_refuses_is_heard(through: Through, status: bytes) -> None:
    got = await through(ask(), reply=reply(b"no", b"X-Why: because", status=status))
    assert got.response.start == b"HTTP/1.1 " + status
    assert (got.response.body, got.response.get("x-why")) == (b"no", b"because")


@pytest.mark.parametrize(
    "lines",
    [
        [VERSION],
        [VERSION, b"Sec-WebSocket-Key:"],
        [VERSION, b"Sec-WebSocket-Key: "],
    ],
)
async def test_82_a_handshake_without_a_key_is_400(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, lines: list[bytes]
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    problem(await client.ask(get(b"/", *UPGRADE, *lines)), "bad_request", 400)
    assert up.requests == []


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b"Sec-WebSocket-Version: 8"],
        [b"Sec-WebSocket-Version: 14"],
        [b"Sec-WebSocket-Version: x"],
    ],
)
async def test_82_another_version_is_426_and_named(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, lines: list[bytes]
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    got = await client.ask(get(b"/", *UPGRADE, KEY, *lines))
    assert (got.status, got.get("sec-websocket-version")) == (426, b"13")
    assert up.requests == []


@pytest.mark.parametrize(
    "lines",
    [
        [b"Connection: upgrade", b"Upgrade: WebSocket"],
        [b"connection: keep-alive, UPGRADE", b"upgrade: WEBSOCKET"],
        [b"Connection: keep-alive", b"Connection: Upgrade", b"Upgrade: websocket"],
        [b"Connection:upgrade ,x", b"Upgrade:websocket"],
    ],
)
async def test_83_the_words_of_the_handshake_are_case_insensitive_lists(
    through: Through, lines: list[bytes]
) -> None:
    got = await through(get(b"/", KEY, VERSION, *lines), reply=SWITCHED)
    assert got.response.status == 101
    assert (got.sent.get("upgrade") or b"").lower() == b"websocket"
    assert (got.sent.get("connection") or b"").lower() == b"upgrade"


async def test_83_an_upstreams_handshake_may_be_spelt_otherwise(through: Through) -> None:
    answer = b"HTTP/1.1 101 Sure\r\nconnection: UPGRADE\r\nupgrade: WebSocket\r\n" + ACCEPT
    got = await through(ask(), reply=answer + b"\r\n\r\n")
    assert got.response.status == 101


async def test_84_subprotocols_pass_end_to_end_and_none_is_invented(through: Through) -> None:
    line = b"Sec-WebSocket-Protocol: chat, superchat"
    answer = SWITCH + ACCEPT + b"\r\nSec-WebSocket-Protocol: superchat\r\n\r\n"
    got = await through(ask(line), reply=answer)
    assert got.sent.all("sec-websocket-protocol") == [b"chat, superchat"]
    assert got.response.get("sec-websocket-protocol") == b"superchat"


async def test_84_no_subprotocol_is_invented(through: Through) -> None:
    got = await through(ask(b"Sec-WebSocket-Protocol: chat"), reply=SWITCHED)
    assert got.response.get("sec-websocket-protocol") is None


async def test_85_extensions_are_offered_and_accepted_end_to_end(through: Through) -> None:
    offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-odd"
    took = b"Sec-WebSocket-Extensions: permessage-deflate"
    got = await through(ask(offer), reply=SWITCH + ACCEPT + b"\r\n" + took + b"\r\n\r\n")
    assert got.sent.get("sec-websocket-extensions") == offer.split(b": ", 1)[1]
    assert got.response.get("sec-websocket-extensions") == b"permessage-deflate"


async def test_85_no_extension_is_invented(through: Through) -> None:
    got = await through(ask(), reply=SWITCHED)
    assert got.sent.get("sec-websocket-extensions") is None
    assert got.response.get("sec-websocket-extensions") is None


async def test_86_credentials_origin_and_target_are_forwarded(through: Through) -> None:
    lines = [
        b"Cookie: a=b",
        b"Authorization: Bearer x",
        b"Origin: https://a.test",
        b"User-Agent: u",
    ]
    got = await through(ask(*lines, target=b"/a%2Fb//c?x=%20&"), reply=SWITCHED)
    assert got.sent.target == b"/a%2Fb//c?x=%20&"
    for line in (*lines, KEY, VERSION):
        assert line + b"\r\n" in got.sent.head


FRAMES = {
    "text": frame(b"hello", 1, mask=True),
    "empty": frame(b"", 2, mask=True),
    "125": frame(b"x" * 125, mask=True),
    "126": frame(b"x" * 126, mask=True),
    "65535": frame(b"x" * 65535, mask=True),
    "65536": frame(b"x" * 65536, mask=True),
    "megabyte": frame(b"x" * 1_000_000, mask=True),
    "fragments": frame(b"a", 1, fin=False, mask=True)
    + frame(b"", 9, mask=True)
    + frame(b"b", 0, fin=False, mask=True)
    + frame(b"c", 0, mask=True),
    "ping": frame(b"payload", 9, mask=True),
    "pong": frame(b"unasked", 10, mask=True),
    "compressed": frame(b"\xaa\x00", 1, mask=True, rsv=4),
    "bad utf-8": frame(b"\xff\xfe", 1, mask=True),
    "reserved opcode": frame(b"x", 3, mask=True),
    "reserved bits": frame(b"x", 2, mask=True, rsv=3),
    "unmasked": frame(b"x", 2, mask=False),
    "many": frame(b"x" * 10, 2, mask=True) * 500,
}


@pytest.mark.parametrize("name", FRAMES)
async def test_87_frames_pass_whole_and_in_order_in_both_directions(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, name: str
) -> None:
    client = await raw(await gateway(await origin(_echo)))
    assert (await client.ask(ask())).status == 101
    sent = FRAMES[name]
    got, _ = await asyncio.gather(client.exactly(len(sent)), client.send(sent))
    assert got == sent


async def test_87_frames_right_behind_either_handshake_are_not_lost(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    first = frame(b"first", 1, mask=False)

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(SWITCHED + first)
        assert await peer.exactly(len(early)) == early
        await peer.rest()

    early = frame(b"early", 1, mask=True)
    client = await raw(await gateway(await origin(script)))
    await client.send(ask() + early)
    assert (await client.response()).status == 101
    assert await client.exactly(len(first)) == first


async def test_88_a_ping_of_either_end_reaches_the_other(
    pair: tuple[Client, Peer, Running],
) -> None:
    client, upstream, _ = pair
    await client.send(frame(b"up", 9, mask=True))
    assert await upstream.exactly(8) == frame(b"up", 9, mask=True)
    await upstream.send(frame(b"down", 9, mask=False))
    assert await client.exactly(6) == frame(b"down", 9, mask=False)


@pytest.mark.parametrize(
    "payload", [b"\x03\xe8", b"\x03\xe8bye", b"\x0f\xa0" + b"r" * 123, b"", b"\x03\xee"]
)
@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_89_close_code_and_reason_are_relayed(
    pair: tuple[Client, Peer, Running], payload: bytes, who: str
) -> None:
    client, upstream, _ = pair
    sender, receiver = (client, upstream) if who == "client" else (upstream, client)
    sent = frame(payload, 8, mask=who == "client")
    await sender.send(sent)
    sender.half_close()
    assert await receiver.exactly(len(sent)) == sent
    answer = frame(payload, 8, mask=who != "client")
    await receiver.send(answer)
    assert await sender.exactly(len(answer)) == answer
    receiver.close()
    assert await sender.closed() == "fin"


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_89_a_broken_peer_is_never_a_normal_close(
    pair: tuple[Client, Peer, Running], who: str, how: str
) -> None:
    client, upstream, _ = pair
    broken, other = (client, upstream) if who == "client" else (upstream, client)
    getattr(broken, how)()
    if how == "close":
        other.half_close()
    said = await other.rest()
    assert b"\x03\xe8" not in said  # 1000 would say that all is well
    assert said in (b"", b"\x88\x02\x03\xe9", b"\x88\x02\x03\xf3") or said[:1] == b"\x88"


async def test_92_a_refused_upgrade_leaves_http_in_step(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin([reply(b"no", status=b"403 Forbidden"), reply(b"next")])
    client = await raw(await gateway(up))
    assert (await client.ask(ask())).status == 403
    if not client.ending:
        try:
            got = await client.ask(get(b"/next"))
        except AssertionError:
            return  # closing after a refusal is in step too
        assert got.body == b"next"


@pytest.mark.parametrize("body", [EVIL, frame(b"x", mask=True), b"\x00" * 100])
async def test_92_the_body_of_an_upgrade_request_is_a_body(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, body: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    head = get(b"/", *UPGRADE, KEY, VERSION, b"Content-Length: %d" % len(body))
    got = await client.ask(head + body)
    await client.rest() if got.get("connection") == b"close" else None
    assert b"/evil" not in [request.target for request in up.requests]
    for request in up.requests:
        assert request.body == body or b"upgrade" in request.names


async def test_92_bytes_behind_a_refused_upgrade_are_requests_or_lost_but_never_misread(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin([reply(b"no", status=b"403 Forbidden"), OK])
    client = await raw(await gateway(up))
    await client.send(ask() + get(b"/second"))
    assert (await client.response()).status == 403
    await client.some()
    assert [request.target for request in up.requests] in ([b"/chat"], [b"/chat", b"/second"])


async def test_93_an_idle_websocket_is_not_cut_by_the_limits_of_http(
    pair: tuple[Client, Peer, Running],
) -> None:
    client, upstream, running = pair
    running.clock.advance(200)
    assert await client.silence()
    await client.send(frame(b"still", 1, mask=True))
    assert await upstream.exactly(11) == frame(b"still", 1, mask=True)


async def test_93_an_idle_websocket_ends_with_1001_after_its_own_limit(
    pair: tuple[Client, Peer, Running],
) -> None:
    client, upstream, running = pair
    running.clock.advance(301)
    assert await client.exactly(4) == b"\x88\x02\x03\xe9"
    assert (await upstream.exactly(2))[:1] == b"\x88"
    await running.eventually("gateway_errors_total", 1, reason="websocket_timeout")


async def test_93_the_idle_time_of_a_websocket_can_be_set_and_switched_off(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(_echo)
    for idle, passed, open_ in (("10s", 11, False), ("off", 3600, True), ("1h", 3000, True)):
        running = await gateway(up, route={"websocket": {"idle": idle}})
        client = await raw(running)
        assert (await client.ask(ask())).status == 101
        running.clock.advance(passed)
        assert await client.silence() is open_


async def test_94_a_drain_closes_websockets_with_1001(
    pair: tuple[Client, Peer, Running],
) -> None:
    client, _upstream, running = pair
    draining = spawn(running.gateway.drain(delay=0), "drain")
    await asyncio.sleep(0.05)
    running.clock.advance(31)
    assert await client.exactly(4) == b"\x88\x02\x03\xe9"
    await client.rest()
    async with asyncio.timeout(10):
        await draining
