"""Upgraded connections: what passes, who slows whom, and how a tunnel ends.

The gateway's side is as small as it can be: a listener that dials the upstream, sends the 101 on
and hands both connections over.
"""

from __future__ import annotations

import asyncio
import gc
import ssl
import struct
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import pytest_asyncio

from gateway.admission import Admission
from gateway.config import model
from gateway.exchange import Exchange
from gateway.incoming import END, Incoming
from gateway.server import Server
from gateway.tunnel import FLUSH, GOODBYE, Tunnels, tunnel
from gateway.upstream.wire import Dialer, Endpoint
from tests.kit.answers import Answers
from tests.kit.clock import FakeClock
from tests.kit.frames import frame
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.conftest import MakeClient, MakeOrigin
    from tests.kit import raw as raw_kit
    from tests.kit.origin import Peer

    Join = Callable[..., Awaitable["Ends"]]
    MakeRig = Callable[..., Awaitable["Rig"]]

ASK = b"GET /chat HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
GOING_AWAY = b"\x88\x02\x03\xe9"


class Rig:
    """A listener in front of one upstream, joined by a tunnel."""

    def __init__(self, url: str, unix: str | None, tls: ssl.SSLContext | bool, options: Any):
        self.clock = FakeClock()
        self.tunnels = Tunnels()
        self.options = {"idle": 300.0, "max_age": 1e9, "websocket": True, **options}
        self.exchanges: list[Exchange] = []
        self.ended = asyncio.Event()
        self.admission = Admission(model.Limits())
        self.server = Server(
            Answers(self._handle, self._refuse), listener="main", limits=model.Limits(), clock=self.clock,
            admission=self.admission,
        )  # fmt: skip
        connector = aiohttp.UnixConnector(unix) if unix else aiohttp.TCPConnector()
        self._session = aiohttp.ClientSession(connector=connector)
        self._dialer = Dialer(lambda: self._session, Endpoint(url, tls, None), self.clock)
        self._listening: asyncio.Server | None = None
        self.port = 0

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(self.server, "127.0.0.1", 0)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def _refuse(self, incoming: Incoming, error: Exception) -> Any:
        raise AssertionError(f"refused: {error!r}")

    async def _handle(self, incoming: Incoming) -> Any:
        exchange = Exchange()
        exchange.incoming = incoming
        self.exchanges.append(exchange)
        wire = await self._dialer.dial()
        try:
            wire.prepare(head_only=False, trailers=False)
            assert wire.transport is not None
            wire.transport.write(ASK)
            message, _ = await wire.head()
            assert message.code == 101
            assert message.upgrade
            assert incoming.protocol.transport is not None
            incoming.protocol.transport.write(SWITCH)
            await tunnel(exchange, wire, clock=self.clock, tunnels=self.tunnels, **self.options)
        finally:
            wire.end()
            self.ended.set()
        return END

    @property
    def only(self) -> Exchange:
        (exchange,) = self.exchanges
        return exchange

    async def over(self) -> Exchange:
        """Wait for the one tunnel to end."""
        async with asyncio.timeout(PATIENCE):
            await self.ended.wait()
            while self.admission.total or self.server.connections:
                await asyncio.sleep(0.005)
        assert not self.tunnels.open
        assert not self.clock.watched
        return self.only

    async def pass_time(self, seconds: float) -> None:
        """Move the clock, then let the loop turn."""
        self.clock.advance(seconds)
        await asyncio.sleep(0.02)

    async def aclose(self) -> None:
        if self._listening is not None:
            self._listening.close()
        await self.server.shutdown(0.1)
        await self._session.close()


@pytest_asyncio.fixture
async def rig(_leak_guard: None) -> AsyncIterator[MakeRig]:
    made: list[Rig] = []

    async def make(
        url: str, *, unix: str | None = None, tls: ssl.SSLContext | bool = True, **options: Any
    ) -> Rig:
        one = Rig(url, unix, tls, options)
        made.append(one)
        await one.listen()
        return one

    yield make
    for one in made:
        await one.aclose()


class Ends:
    """Both ends of a tunnel, as raw sockets."""

    def __init__(self, rig: Rig, client: raw_kit.Client, upstream: Peer) -> None:
        self.rig = rig
        self.client = client
        self.upstream = upstream


@pytest.fixture
def join(rig: MakeRig, origin: MakeOrigin, raw: MakeClient) -> Join:
    """`await join()`: a tunnel that is open, with nothing sent through it yet."""

    async def make(*, early: bytes = b"", behind: bytes = b"", **options: Any) -> Ends:
        arrived: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()
        done = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.head()
            await peer.send(SWITCH + behind)
            arrived.set_result(peer)
            await done.wait()

        up = await origin(script)
        one = await rig(up.url, **options)
        client = await raw(one.port)
        await client.send(ASK + early)
        assert (await client.response()).status == 101
        async with asyncio.timeout(PATIENCE):
            peer = await arrived
            while not one.tunnels.open:
                await asyncio.sleep(0)
        return Ends(one, client, peer)

    return make


async def both_ended(ends: Ends) -> tuple[bytes, bytes]:
    """What each end was still sent before its connection was closed."""
    to_client = await ends.client.rest()
    to_upstream = await ends.upstream.rest()
    ends.client.close()
    ends.upstream.close()
    return to_client, to_upstream


# ── what passes ──


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(frame(b"hello", 1, mask=True), id="a-message"),
        pytest.param(
            frame(b"one", 1, fin=False, mask=True)
            + frame(b"", 9, mask=True)
            + frame(b"two", 0, fin=False, mask=True)
            + frame(b"", 0, mask=True),
            id="fragments-with-a-ping-between",
        ),
        pytest.param(frame(b"\xc1\x00", 2, rsv=4, mask=True), id="a-compressed-message"),
        pytest.param(frame(b"x" * 70_000, mask=True), id="a-long-message"),
        pytest.param(frame(b"x" * 300, 11, rsv=7, mask=False), id="reserved-bits-and-opcode"),
        pytest.param(b"\xff" * 40, id="garbage"),
        pytest.param(b"\x00" * 4096, id="two-thousand-empty-frames"),
    ],
)
async def test_bytes_pass_untouched_both_ways(join: Join, sent: bytes) -> None:
    ends = await join()
    await ends.client.send(sent)
    assert await ends.upstream.exactly(len(sent)) == sent
    await ends.upstream.send(sent)
    assert await ends.client.exactly(len(sent)) == sent
    ends.client.close()
    assert await ends.upstream.rest() == b""
    ends.upstream.close()
    exchange = await ends.rig.over()
    assert (exchange.bytes_in, exchange.bytes_out) == (len(sent), len(sent))


async def test_every_byte_on_its_own_is_a_frame_all_the_same(
    join: Join,
) -> None:
    ends = await join()
    sent = frame(b"x" * 200, mask=True) + frame(b"", 9, mask=True)
    for at in range(len(sent)):
        await ends.client.send(sent[at : at + 1])
        assert await ends.upstream.exactly(1) == sent[at : at + 1]
    ends.rig.tunnels.go_away()
    assert (await ends.upstream.exactly(8))[:2] == b"\x88\x82"


async def test_what_came_before_the_tunnel_goes_first(
    join: Join,
) -> None:
    early, behind = frame(b"early", mask=True), frame(b"greeting", mask=False)
    ends = await join(early=early, behind=behind)
    await ends.client.send(frame(b"later", mask=True))
    assert await ends.upstream.exactly(len(early) * 2) == early + frame(b"later", mask=True)
    assert await ends.client.exactly(len(behind)) == behind


async def test_more_than_aiohttp_holds_before_the_tunnel_is_read_on(
    rig: MakeRig, origin: MakeOrigin, raw: MakeClient
) -> None:
    early, behind = b"e" * 300_000, b"b" * 300_000
    got: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.head()
        await asyncio.sleep(0.1)
        await peer.send(SWITCH + behind)
        got.append(await peer.exactly(len(early)))

    up = await origin(script)
    one = await rig(up.url, websocket=False)
    client = await raw(one.port)
    await client.send(ASK + early)
    assert (await client.response()).status == 101
    assert await client.exactly(len(behind)) == behind
    assert await client.closed() == "fin"
    client.close()
    await one.over()
    assert got == [early]


async def test_an_upstream_that_ends_behind_its_101_is_heard(
    rig: MakeRig, origin: MakeOrigin, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(SWITCH + GOING_AWAY)

    up = await origin(script)
    one = await rig(up.url)
    client = await raw(one.port)
    await client.send(ASK)
    assert (await client.response()).status == 101
    assert await client.exactly(4) == GOING_AWAY
    assert await client.closed() == "fin"
    client.close()
    await one.over()


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
async def test_the_clients_close_code_reaches_the_upstream_and_its_answer_the_client(
    join: Join, code: int
) -> None:
    ends = await join()
    closing = frame(struct.pack(">H", code) + b"bye", 8, mask=True)
    answer = frame(struct.pack(">H", code), 8, mask=False)
    await ends.client.send(closing)
    assert await ends.upstream.exactly(len(closing)) == closing
    await ends.upstream.send(answer)
    ends.upstream.close()
    assert await ends.client.rest() == answer
    ends.client.close()
    assert (await ends.rig.over()).reason == ""


async def test_the_upstreams_close_code_reaches_the_client(
    join: Join,
) -> None:
    ends = await join()
    closing = frame(struct.pack(">H", 1012) + b"restart", 8, mask=False)
    await ends.upstream.send(closing)
    assert await ends.client.exactly(len(closing)) == closing
    answer = frame(struct.pack(">H", 1012), 8, mask=True)
    await ends.client.send(answer)
    assert await ends.upstream.exactly(len(answer)) == answer
    ends.upstream.close()
    assert await ends.client.rest() == b""
    ends.client.close()
    await ends.rig.over()


async def test_a_unix_upstream_is_tunnelled_to(
    rig: MakeRig, origin: MakeOrigin, raw: MakeClient, tmp_path: Any
) -> None:
    async def echo(peer: Peer) -> None:
        await peer.head()
        await peer.send(SWITCH)
        while data := await peer.some():
            await peer.send(data)

    path = str(tmp_path / "up.sock")
    await origin(echo, unix=path)
    one = await rig("http://localhost", unix=path)
    client = await raw(one.port)
    await client.ask(ASK)
    await client.send(b"\x82\x03abc")
    assert await client.exactly(5) == b"\x82\x03abc"
    client.half_close()
    assert await client.closed() == "fin"
    client.close()
    await one.over()


@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_an_upstream_over_tls_is_tunnelled_to(
    rig: MakeRig, raw: MakeClient, who: str, caplog: pytest.LogCaptureFixture
) -> None:
    import trustme

    authority = trustme.CA()
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    received = bytearray()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH)
        while data := await reader.read(65536):
            received.extend(data)
            writer.write(data)
            if who == "upstream" and len(received) == len(message):
                break
        writer.close()
        await writer.wait_closed()

    message = frame(b"m" * 300_000, mask=True)
    listening = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=serving)
    port = listening.sockets[0].getsockname()[1]
    one = await rig(f"https://localhost:{port}", tls=trusting)
    client = await raw(one.port)
    await client.ask(ASK)
    await client.send(message)
    assert await client.exactly(len(message)) == message
    # TLS can not be closed one way only: the end of either ends both.
    if who == "client":
        client.half_close()
    assert await client.closed() == "fin"
    client.close()
    await one.over()
    assert bytes(received) == message
    assert not caplog.records
    listening.close()
    await listening.wait_closed()


# ── back-pressure ──


@pytest.mark.parametrize("way", ["to-the-upstream", "to-the-client"])
async def test_a_side_that_does_not_read_stops_the_other_and_loses_nothing(
    join: Join, way: str
) -> None:
    ends = await join()
    source, sink = ends.client, ends.upstream
    if way == "to-the-client":
        source, sink = sink, source  # type: ignore[assignment]
    head = b"\x82\x7f" + struct.pack(">Q", 1 << 32)
    await source.send(head)
    taken = await source.send_until_full(most=64 << 20)
    assert taken < 48 << 20, "it never stopped"
    (one,) = ends.rig.tunnels.open
    pipe = one.upstream if way == "to-the-upstream" else one.client
    assert pipe.transport is not None
    assert pipe.transport.get_write_buffer_size() < 1 << 20
    assert await sink.exactly(len(head) + taken) == head + b"x" * taken
    await source.send(b"and on")
    assert await sink.exactly(6) == b"and on"


# ── half-closed ──


async def test_the_end_of_one_direction_leaves_the_other_open(
    join: Join,
) -> None:
    ends = await join(websocket=False)
    await ends.client.send(b"question")
    ends.client.half_close()
    assert await ends.upstream.rest() == b"question"
    await ends.upstream.send(b"answer")
    assert await ends.client.exactly(6) == b"answer"
    ends.upstream.close()
    assert await ends.client.rest() == b""
    ends.client.close()
    assert (await ends.rig.over()).reason == ""


async def test_a_half_closed_tunnel_lasts_as_long_as_any(join: Join) -> None:
    ends = await join(websocket=False, idle=60.0)
    ends.upstream.half_close()
    assert await ends.client.rest() == b""
    for _ in range(5):
        await ends.rig.pass_time(59)
        await ends.client.send(b"on")
        assert await ends.upstream.exactly(2) == b"on"
    await ends.rig.pass_time(61)
    assert await ends.upstream.rest() == b""
    ends.client.close()
    ends.upstream.close()
    assert (await ends.rig.over()).reason == "websocket_timeout"


# ── time ──


@pytest.mark.parametrize("limit", ["idle", "max_age"])
async def test_too_long_is_answered_with_close_1001_both_ways(join: Join, limit: str) -> None:
    ends = await join(**{limit: 60.0})
    await ends.rig.pass_time(59)
    assert await ends.client.silence()
    await ends.rig.pass_time(1.1)
    assert await ends.client.exactly(4) == GOING_AWAY
    masked = await ends.upstream.exactly(8)
    assert masked[:2] == b"\x88\x82"
    assert bytes(a ^ b for a, b in zip(masked[6:], masked[2:], strict=False)) == b"\x03\xe9"
    await ends.client.send(frame(b"\x03\xe9", 8, mask=True))
    assert await ends.client.silence(), "closed before the other side had answered"
    await ends.upstream.send(GOING_AWAY)
    assert await both_ended(ends) == (b"", b"")
    assert (await ends.rig.over()).reason == "websocket_timeout"


async def test_bytes_of_either_side_keep_it_from_being_idle(
    join: Join,
) -> None:
    ends = await join(idle=60.0)
    for side, other in ((ends.client, ends.upstream), (ends.upstream, ends.client)) * 2:
        await ends.rig.pass_time(50)
        await side.send(b"\x89\x00")
        assert await other.exactly(2) == b"\x89\x00"
    assert ends.rig.tunnels.open


async def test_bytes_do_not_make_it_younger(join: Join) -> None:
    ends = await join(max_age=60.0)
    await ends.rig.pass_time(50)
    await ends.client.send(b"\x89\x00")
    assert await ends.upstream.exactly(2) == b"\x89\x00"
    await ends.rig.pass_time(11)
    assert await ends.client.exactly(4) == GOING_AWAY


async def test_any_other_protocol_is_closed_when_idle(
    join: Join,
) -> None:
    ends = await join(idle=60.0, websocket=False)
    await ends.rig.pass_time(61)
    assert await both_ended(ends) == (b"", b"")
    assert (await ends.rig.over()).reason == "websocket_timeout"


# ── drain ──


async def test_drain_waits_for_the_end_of_a_frame(join: Join) -> None:
    ends = await join()
    message = frame(b"m" * 1000, mask=True)
    await ends.client.send(message[:500])
    assert await ends.upstream.exactly(500) == message[:500]
    ends.rig.tunnels.go_away()
    assert await ends.client.exactly(4) == GOING_AWAY, "this direction was between two frames"
    assert await ends.upstream.silence()
    await ends.client.send(message[500:] + frame(b"too late", mask=True))
    rest = await ends.upstream.exactly(len(message) - 500 + 8)
    assert rest[:-8] == message[500:]
    assert rest[-8:-6] == b"\x88\x82"
    await ends.client.send(frame(b"\x03\xe9", 8, mask=True))
    await ends.upstream.send(GOING_AWAY)
    assert await both_ended(ends) == (b"", b"")
    exchange = await ends.rig.over()
    assert exchange.reason == ""
    assert exchange.bytes_in == len(message)


async def test_drain_goes_by_tcp_alone_if_no_frame_ends(
    join: Join,
) -> None:
    ends = await join()
    await ends.client.send(b"\x82\xff")
    assert await ends.upstream.exactly(2) == b"\x82\xff"
    ends.rig.tunnels.go_away()
    await ends.rig.pass_time(GOODBYE + 0.01)
    assert await both_ended(ends) == (GOING_AWAY, b"")
    await ends.rig.over()


async def test_drain_does_not_wait_for_an_answer_for_ever(
    join: Join,
) -> None:
    ends = await join()
    ends.rig.tunnels.go_away()
    ends.rig.tunnels.go_away()
    await ends.rig.pass_time(GOODBYE + 0.01)
    to_client, to_upstream = await both_ended(ends)
    assert to_client == GOING_AWAY
    assert len(to_upstream) == 8
    await ends.rig.over()


async def test_drain_reads_what_a_stalled_side_has_sent_or_its_close_would_be_lost(
    join: Join,
) -> None:
    ends = await join()
    await ends.client.send_until_full(b"\x82\x00" * 32768, most=64 << 20)
    (one,) = ends.rig.tunnels.open
    assert one.client.transport is not None
    ends.rig.tunnels.go_away()
    before = 0.0
    while one.last != before:  # until everything has been read
        before = one.last
        await asyncio.sleep(0.1)
    await ends.rig.pass_time(GOODBYE + 0.01)
    # A connection that is closed with bytes unread is reset.
    assert await ends.client.rest() == GOING_AWAY
    assert ends.client.ending == "fin"
    await ends.rig.pass_time(FLUSH + 0.01)
    ends.client.close()
    ends.upstream.close()
    await ends.rig.over()


async def test_no_second_close_behind_a_close(join: Join) -> None:
    ends = await join()
    closing = frame(b"\x03\xe8", 8, mask=True)
    await ends.client.send(closing)
    assert await ends.upstream.exactly(len(closing)) == closing
    ends.rig.tunnels.go_away()
    assert await ends.client.exactly(4) == GOING_AWAY
    await ends.upstream.send(frame(b"\x03\xe8", 8, mask=False))
    assert await both_ended(ends) == (b"", b"")
    await ends.rig.over()


async def test_half_a_close_is_completed_at_drain(join: Join) -> None:
    ends = await join()
    closing = frame(b"\x03\xe8bye", 8, mask=True)
    await ends.client.send(closing[:7])
    assert await ends.upstream.exactly(7) == closing[:7]
    ends.rig.tunnels.go_away()
    await ends.upstream.send(GOING_AWAY)
    await ends.client.send(closing[7:])
    assert await both_ended(ends) == (GOING_AWAY, closing[7:])
    await ends.rig.over()


async def test_drain_closes_any_other_protocol(join: Join) -> None:
    ends = await join(websocket=False)
    ends.rig.tunnels.go_away()
    assert await both_ended(ends) == (b"", b"")
    assert (await ends.rig.over()).reason == ""


async def test_a_server_that_is_shut_down_ends_both_connections(join: Join) -> None:
    ends = await join()
    await ends.rig.server.shutdown(0.1)
    # Without a Close: who ends a server has told its tunnels to go away before.
    assert await both_ended(ends) == (b"", b"")
    await ends.rig.over()


# ── losses ──


async def test_a_client_that_resets_takes_the_upstream_with_it(
    join: Join,
) -> None:
    ends = await join()
    ends.client.reset()
    assert await ends.upstream.rest() == b""
    ends.upstream.close()
    assert (await ends.rig.over()).reason == "client_closed"


async def test_an_upstream_that_resets_takes_the_client_with_it(
    join: Join,
) -> None:
    ends = await join()
    ends.upstream.reset()
    assert await ends.client.rest() == b""
    ends.client.close()
    assert (await ends.rig.over()).reason == "upstream_reset"


async def test_both_lost_at_once_is_one_end(join: Join) -> None:
    ends = await join()
    ends.upstream.reset()
    ends.client.reset()
    await ends.rig.over()


async def test_what_was_sent_before_the_end_arrives(
    join: Join,
) -> None:
    ends = await join(websocket=False)
    sending = asyncio.get_running_loop().create_task(ends.upstream.send(b"x" * 3_000_000))
    data = await ends.client.exactly(1000)
    await sending
    ends.upstream.close()
    assert data + await ends.client.rest() == b"x" * 3_000_000
    ends.client.close()
    await ends.rig.over()


async def test_a_side_that_never_reads_is_cut_when_the_tunnel_closes(
    join: Join,
) -> None:
    ends = await join(websocket=False)
    await ends.upstream.send_until_full(most=64 << 20)
    ends.rig.tunnels.go_away()
    await ends.rig.pass_time(FLUSH - 1)
    assert not ends.rig.ended.is_set()
    await ends.rig.pass_time(1.1)
    ends.upstream.close()
    await ends.rig.over()
    ends.client.close()


async def test_a_tunnel_leaves_nothing_behind_in_memory(
    join: Join,
) -> None:
    from gateway.tunnel import Pipe

    ends = await join()
    ends.client.close()
    await ends.upstream.rest()
    ends.upstream.close()
    await ends.rig.over()
    await asyncio.sleep(0.02)
    gc.collect()
    assert not [one for one in gc.get_objects() if isinstance(one, Pipe)]
