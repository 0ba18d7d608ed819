"""WebSockets with an implementation at both ends that is not aiohttp's and not ours, in plain and over TLS.

Rules of this file: the server is a real one and judges what arrives; where a peer must misbehave, a raw socket plays the
client. What two ends say byte by byte is in conformance/test_websocket.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import trustme
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Close, Frame, Opcode
from websockets.uri import parse_uri

from gateway.tasks import spawn
from tests.kit.frames import KEY, frame
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from websockets.asyncio.client import ClientConnection
    from websockets.asyncio.server import ServerConnection

    from tests.conftest import MakeClient, MakeGateway
    from tests.kit.raw import Client
    from tests.kit.running import Running

    Handler = Callable[[ServerConnection], Awaitable[None]]

MANY = 1 << 24


class Served:
    """A WebSocket server and the gateway in front of it."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.ends: list[ServerConnection] = []
        """The server's end of each tunnel."""
        self.closes: list[Close | None] = []
        """What each of them heard last: None where no Close came."""

    def dial(self, **options: Any) -> connect:
        """A client of the gateway."""
        options = {"compression": None, "ping_interval": None, "max_size": MANY, **options}
        return connect(f"ws://{self.running.address}/chat?x=1", proxy=None, **options)

    async def heard(self, count: int = 1) -> Close | None:
        """The Close that the server's end heard, once it is over."""
        async with asyncio.timeout(PATIENCE):
            while len(self.closes) < count:
                await asyncio.sleep(0.005)
        return self.closes[-1]


async def echo(end: ServerConnection) -> None:
    """Say everything back."""
    async for message in end:
        await end.send(message)


@pytest_asyncio.fixture(params=["plain", "tls"])
async def served(
    request: pytest.FixtureRequest, gateway: MakeGateway, tmp_path: Path
) -> AsyncIterator[Callable[..., Awaitable[Served]]]:
    """`await served(handler, **options)`: a server of the `websockets` library behind the gateway."""
    stack = contextlib.AsyncExitStack()

    async def make(handler: Handler = echo, *, route: Any = None, **options: Any) -> Served:
        scheme, tls = "http", {}
        if request.param == "tls":
            scheme, tls = "https", {"ca": str(tmp_path / "ca.pem")}
            authority = trustme.CA()
            authority.cert_pem.write_to_path(tls["ca"])
            options["ssl"] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("localhost").configure_cert(options["ssl"])

        async def run(end: ServerConnection) -> None:
            one.ends.append(end)
            try:
                await handler(end)
                await end.wait_closed()
            except ConnectionClosed:
                pass
            finally:
                one.closes.append(end.protocol.close_rcvd)

        options = {"compression": None, "ping_interval": None, "max_size": MANY, **options}
        server = await stack.enter_async_context(serve(run, "127.0.0.1", 0, **options))
        port = server.sockets[0].getsockname()[1]
        up: dict[str, Any] = {"targets": [f"{scheme}://localhost:{port}"]}
        if tls:
            up["tls"] = tls
        settled = {"path": "/*", "to": "up", **(route or {})}
        one = Served(await gateway({"routes": [settled], "upstreams": {"up": up}}))
        return one

    yield make
    await stack.aclose()


# ── messages ──

SIZES = (0, 1, 125, 126, 127, 128, 65_535, 65_536, 65_537, 200_000)


async def test_messages_of_every_size_pass_both_ways(served: Any) -> None:
    one = await served()
    async with one.dial() as client:
        for size in SIZES:
            for message in ("é" * (size // 2) + "x" * (size % 2), os.urandom(size)):
                await client.send(message)
                assert await client.recv() == message
        await client.close(3001, "wiedersehen")
    assert await one.heard() == Close(3001, "wiedersehen")
    assert client.protocol.close_rcvd == Close(3001, "wiedersehen")


async def test_a_large_message_passes_in_both_directions_at_once(served: Any) -> None:
    async def both(end: ServerConnection) -> None:
        await asyncio.gather(end.send(down), _received(end, up))
        await end.recv()

    down, up = os.urandom(2_000_000), os.urandom(2_000_000)
    one = await served(both)
    async with one.dial() as client:
        await asyncio.gather(client.send(up), _received(client, down))


async def _received(end: ServerConnection | ClientConnection, message: bytes) -> None:
    assert await end.recv() == message


async def test_a_message_in_fragments_is_one_message_and_control_frames_go_between(
    served: Any,
) -> None:
    async def fragments(end: ServerConnection) -> None:
        frames = [message async for message in end.recv_streaming()]
        pong = await end.ping(b"from the middle")
        await end.send(frames)
        await pong
        await end.wait_closed()

    one = await served(fragments)
    async with one.dial() as client:

        async def pieces() -> AsyncIterator[bytes]:
            for piece in (b"a" * 300, b"", b"b" * 70_000):
                yield piece
                await (await client.ping(piece[:125]))

        await client.send(pieces())
        got = [frame async for frame in client.recv_streaming()]
    assert b"".join(got) == b"a" * 300 + b"b" * 70_000
    assert len(got) > 2, "the tunnel has put fragments together"


@pytest.mark.parametrize("size", [0, 1, 124, 125])
async def test_pings_of_either_end_are_answered_by_the_other_and_pongs_may_be_unasked(
    served: Any, size: int
) -> None:
    payload = os.urandom(size)

    async def pinging(end: ServerConnection) -> None:
        await end.pong(b"unasked")
        await (await end.ping(payload))
        await end.send("answered")
        await end.wait_closed()

    one = await served(pinging)
    async with one.dial() as client:
        await client.pong(b"unasked")
        await (await client.ping(payload))
        assert await client.recv() == "answered"


# ── compression ──


@pytest.mark.parametrize(
    ("client", "server"),
    [
        pytest.param({}, {}, id="defaults"),
        pytest.param({"client_no_context_takeover": True}, {}, id="client-forgets"),
        pytest.param({}, {"server_no_context_takeover": True}, id="server-forgets"),
        pytest.param({"client_max_window_bits": 9}, {"client_max_window_bits": 9}, id="9-bits-up"),
        pytest.param({"server_max_window_bits": 9}, {}, id="9-bits-down"),
    ],
)
async def test_compression_is_between_the_two_ends(
    served: Any, client: dict[str, Any], server: dict[str, Any]
) -> None:
    one = await served(compression=None, extensions=[ServerPerMessageDeflateFactory(**server)])
    asked = {"client_max_window_bits": True, **client}
    async with one.dial(extensions=[ClientPerMessageDeflateFactory(**asked)]) as end:
        (agreed,) = end.protocol.extensions
        (there,) = one.ends[0].protocol.extensions
        assert agreed.name == "permessage-deflate"
        assert (agreed.local_max_window_bits, agreed.remote_max_window_bits) == (
            there.remote_max_window_bits, there.local_max_window_bits,
        )  # fmt: skip
        for message in ("hello " * 10_000, "", os.urandom(70_000), "hello " * 10_000, "é" * 63):
            await end.send(message)
            assert await end.recv() == message
    await one.heard()
    assert one.running.metric("gateway_upstream_requests_total") == 1


# ── the end ──

CODES = (
    1000,
    1001,
    1002,
    1003,
    1007,
    1008,
    1009,
    1010,
    1011,
    1012,
    1013,
    1014,
    3000,
    3999,
    4000,
    4999,
)


@pytest.mark.parametrize("who", ["client", "server"])
async def test_every_close_code_arrives_with_its_reason_and_is_answered(
    served: Any, who: str
) -> None:
    async def closing(end: ServerConnection) -> None:
        code = int(await end.recv())
        if who == "server":
            await end.close(code, f"because {code}")

    one = await served(closing)
    for count, code in enumerate(CODES, 1):
        async with one.dial() as client:
            await client.send(str(code))
            if who == "client":
                await client.close(code, f"because {code}")
            else:
                await client.wait_closed()
        wanted = Close(code, f"because {code}")
        assert await one.heard(count) == wanted
        assert client.protocol.close_rcvd == wanted
    for line in await one.running.log(len(CODES)):
        assert (line["status"], line["reason"]) == (101, None)


async def test_a_drain_says_going_away_to_both_ends(served: Any) -> None:
    one = await served()
    async with one.dial() as client:
        await client.send("still")
        assert await client.recv() == "still"
        draining = spawn(one.running.gateway.drain(delay=0), "drain")
        await asyncio.sleep(0.05)
        one.running.clock.advance(31)
        async with asyncio.timeout(PATIENCE):
            await client.wait_closed()
        assert client.protocol.close_rcvd == Close(1001, "")
    assert await one.heard() == Close(1001, "")
    async with asyncio.timeout(PATIENCE):
        await draining


@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_connection_that_breaks_is_no_close_to_the_other_end(served: Any, who: str) -> None:
    one = await served()
    async with one.dial() as client:
        await client.send("x")
        await client.recv()
        broken = client if who == "client" else one.ends[0]
        broken.transport.abort()
        await client.wait_closed()
    close = await one.heard() if who == "client" else client.protocol.close_rcvd
    assert close is None or close.code in (1001, 1006, 1011)


# ── a client that misbehaves ──


def sent(opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0) -> bytes:
    """A client's frame. A key of zeros masks it, so that the server reads the payload as it stands here."""
    head = frame(payload, opcode, fin=fin, rsv=rsv, mask=True).removesuffix(payload)
    return head.removesuffix(KEY) + bytes(4) + payload


class Puppet:
    """A client of which every frame is made by hand, on a raw socket."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._protocol = ClientProtocol(parse_uri("ws://test/chat"), max_size=MANY)

    async def shake_hands(self) -> None:
        """Open the WebSocket."""
        self._protocol.send_request(self._protocol.connect())
        await self._flush()
        self._protocol.receive_data(await self._client.until(b"\r\n\r\n"))
        self._protocol.events_received()

    async def _flush(self) -> None:
        await self._client.send(b"".join(self._protocol.data_to_send()))

    async def send(self, data: bytes, step: int = 0) -> None:
        """Send bytes, in segments of `step` if it is not 0."""
        for at in range(0, len(data), step or len(data)):
            await self._client.send(data[at : at + (step or len(data))])

    async def frames(self, count: int) -> list[Frame]:
        """The next frames from the server."""
        found: list[Frame] = []
        async with asyncio.timeout(PATIENCE):
            while len(found) < count:
                data = await self._client.some()
                assert data, "the connection has ended"
                self._protocol.receive_data(data)
                found += [
                    each for each in self._protocol.events_received() if isinstance(each, Frame)
                ]
        return found

    async def close_code(self) -> int:
        """The status of the server's Close."""
        (close,) = await self.frames(1)
        assert close.opcode is Opcode.CLOSE
        return int.from_bytes(close.data[:2], "big")


@pytest_asyncio.fixture
async def puppet(raw: MakeClient) -> AsyncIterator[Callable[[Served], Awaitable[Puppet]]]:
    """`await puppet(served)`: such a client, its WebSocket open."""
    clients: list[Client] = []

    async def make(one: Served) -> Puppet:
        clients.append(await raw(one.running))
        made = Puppet(clients[-1])
        await made.shake_hands()
        return made

    yield make
    for client in clients:
        client.close()


@pytest.mark.parametrize("step", [1, 7, 997])
async def test_frames_may_come_in_pieces_of_any_size(served: Any, puppet: Any, step: int) -> None:
    one = await served()
    client = await puppet(one)
    for size in (0, 125, 126, 127, 128, 65_535, 65_536) if step > 100 else (0, 125, 126, 700):
        payload = os.urandom(size)
        await client.send(sent(2, payload), step)
        (answer,) = await client.frames(1)
        assert (answer.opcode, answer.data) == (Opcode.BINARY, payload)
    await client.send(sent(8, b"\x03\xe8"), step)
    assert await client.close_code() == 1000


WRONG = {
    **{f"opcode {code}": (1002, sent(code, b"x")) for code in (*range(3, 8), *range(11, 16))},
    **{f"reserved bits {bits}": (1002, sent(1, b"x", rsv=bits)) for bits in range(1, 8)},
    "not masked": (1002, frame(b"x", 1, mask=False)),
    "text that is no UTF-8": (1007, sent(1, b"\xce\xba\xed\xa0\x80")),
    "a reason that is no UTF-8": (1007, sent(8, b"\x03\xe8\xff")),
    "half a close code": (1002, sent(8, b"\x03")),
    "a continuation of nothing": (1002, sent(0, b"x")),
    "a message within a message": (1002, sent(1, b"x", fin=False) + sent(1, b"y")),
    "a ping in fragments": (1002, sent(9, b"x", fin=False)),
    "a ping that is too long": (1002, sent(9, b"x" * 126)),
    **{
        f"close code {code}": (1002, sent(8, code.to_bytes(2, "big")))
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
    },
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_is_wrong_passes_and_the_servers_verdict_comes_back(
    served: Any, puppet: Any, name: str
) -> None:
    code, data = WRONG[name]
    client = await puppet(await served())
    await client.send(data)
    assert await client.close_code() == code
