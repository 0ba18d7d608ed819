"""The listener's side of a connection: limits, deadlines, and answers to what is no request.

The handler is as small as can be; what a gateway does with a request is tested elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from gateway import errors
from gateway.admission import Admission
from gateway.config import model
from gateway.edge import ClientConnection
from gateway.incoming import END, KEEP, Incoming, Sent, reset
from gateway.server import Server
from tests.kit.answers import Answers
from tests.kit.clock import FakeClock
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.conftest import MakeClient

    MakeListener = Callable[..., Awaitable["Listener"]]
    Handle = Callable[["Listener", Incoming], Awaitable[Sent]]

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = b"POST /chunked HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


class Listener:
    """A server, what it was asked, and a clock."""

    def __init__(self, handle: Handle | None, limits: dict[str, Any]) -> None:
        self.clock = FakeClock()
        self.limits = model.Limits(**limits)
        self.admission = Admission(self.limits)
        self.asked: list[Incoming] = []
        self.bodies: list[bytes | BaseException] = []
        self.dropped = 0
        self._custom = handle
        self.server = Server(
            Answers(self._handle, self._refuse), listener="main", limits=self.limits, clock=self.clock,
            admission=self.admission, on_dropped=self._drop,
        )  # fmt: skip
        self._listening: asyncio.Server | None = None
        self.port = 0

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(self.server, "127.0.0.1", 0)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        if self._listening is not None:
            self._listening.close()
        await self.server.shutdown(0.1)

    def _drop(self) -> None:
        self.dropped += 1

    async def _handle(self, incoming: Incoming) -> Sent:
        self.asked.append(incoming)
        return await (self._custom or answer)(self, incoming)

    async def _refuse(self, incoming: Incoming, error: errors.GatewayError) -> Sent:
        write(incoming, error.status, error.reason.encode(), close=True)
        return END

    async def pass_time(self, seconds: float) -> None:
        """Move the clock, then let the loop turn."""
        self.clock.advance(seconds)
        await asyncio.sleep(0.02)


def write(incoming: Incoming, status: int, body: bytes, *, close: bool) -> None:
    transport = incoming.protocol.transport
    assert transport is not None
    end = b"Connection: close\r\n" if close else b""
    transport.write(
        b"HTTP/1.1 %d X\r\n%bContent-Length: %d\r\n\r\n%b" % (status, end, len(body), body)
    )


async def answer(listener: Listener, incoming: Incoming) -> Sent:
    """Read the body, then name the target and the first field."""
    client = incoming.protocol
    assert isinstance(client, ClientConnection)
    try:
        body = await incoming.payload.read()
    except errors.GatewayError as fault:
        listener.bodies.append(fault)
        write(incoming, fault.status, fault.reason.encode(), close=True)
        return END
    listener.bodies.append(body)
    message = incoming.message
    close = message.should_close or (message.chunked and not client.chunked_end_is_clean())
    first = message.raw_headers[0][0] if message.raw_headers else b""
    status = 200 if client.admitted else 503
    write(incoming, status, message.path.encode() + b" " + first, close=close)
    return END if close else KEEP


@pytest_asyncio.fixture
async def listen(_leak_guard: None) -> AsyncIterator[MakeListener]:
    made: list[Listener] = []

    async def make(handle: Handle | None = None, **limits: Any) -> Listener:
        one = Listener(handle, limits)
        made.append(one)
        await one.listen()
        return one

    yield make
    for one in made:
        await one.aclose()


# ── deadlines ──


@pytest.mark.parametrize("before", [b"", GET], ids=["first", "second"])
async def test_half_a_head_is_answered_408_at_the_deadline(
    listen: MakeListener, raw: MakeClient, before: bytes
) -> None:
    one = await listen(header_timeout=10.0)
    client = await raw(one.port)
    if before:
        await client.ask(before)
    await client.send(b"GET / HTTP/1.1\r\nHo")
    await asyncio.sleep(0.02)
    await one.pass_time(9)
    await client.send(b"st:")
    assert await client.silence()
    await one.pass_time(1.1)
    reply = await client.response()
    assert (reply.status, reply.body) == (408, b"client_timeout")
    assert await client.closed() == "fin"
    assert len(one.asked) == (1 if before else 0)


async def test_a_head_that_began_behind_another_request_has_a_deadline(
    listen: MakeListener, raw: MakeClient
) -> None:
    one = await listen(header_timeout=10.0)
    client = await raw(one.port)
    assert (await client.ask(GET + b"GET /se")).status == 200
    await one.pass_time(10.1)
    assert (await client.response()).status == 408
    assert await client.closed() == "fin"


async def test_a_head_that_is_completed_in_time_is_served(
    listen: MakeListener, raw: MakeClient
) -> None:
    one = await listen(header_timeout=10.0)
    client = await raw(one.port)
    await client.send(GET[:20])
    await asyncio.sleep(0.02)
    await one.pass_time(9)
    assert (await client.ask(GET[20:], method="GET")).status == 200
    await one.pass_time(9)
    assert (await client.ask(GET)).status == 200


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"\r\n\r\n"], ids=["nothing", "a-line", "lines"])
async def test_a_connection_without_a_request_is_closed_in_silence(
    listen: MakeListener, raw: MakeClient, sent: bytes
) -> None:
    one = await listen(header_timeout=10.0)
    client = await raw(one.port)
    await client.send(sent)
    await asyncio.sleep(0.02)
    await one.pass_time(9)
    assert await client.silence()
    await one.pass_time(1.1)
    assert await client.closed() == "fin"
    assert not one.asked


@pytest.mark.parametrize("header_timeout", [10.0, 200.0, None])
async def test_an_idle_connection_is_closed_after_keepalive_idle(
    listen: MakeListener, raw: MakeClient, header_timeout: float | None
) -> None:
    one = await listen(header_timeout=header_timeout, keepalive_idle=75.0)
    client = await raw(one.port)
    for _ in range(3):
        assert (await client.ask(GET)).status == 200
        await one.pass_time(74)
    assert await client.silence()
    await one.pass_time(1.1)
    assert await client.closed() == "fin"


async def test_a_keepalive_idle_below_the_heads_deadline_is_kept(
    listen: MakeListener, raw: MakeClient
) -> None:
    one = await listen(header_timeout=10.0, keepalive_idle=2.0)
    client = await raw(one.port)
    assert (await client.ask(GET)).status == 200
    await one.pass_time(2.1)
    assert await client.closed() == "fin"


async def test_without_limits_nothing_is_closed(listen: MakeListener, raw: MakeClient) -> None:
    one = await listen(header_timeout=None, keepalive_idle=None)
    client = await raw(one.port)
    await one.pass_time(1000)
    await client.send(GET[:10])
    await asyncio.sleep(0.02)
    await one.pass_time(1000)
    assert (await client.ask(GET[10:], method="GET")).status == 200
    await one.pass_time(1000)
    assert (await client.ask(GET)).status == 200


async def test_a_request_under_way_is_not_idle(listen: MakeListener, raw: MakeClient) -> None:
    go = asyncio.Event()

    async def slow(listener: Listener, incoming: Incoming) -> Sent:
        await go.wait()
        return await answer(listener, incoming)

    one = await listen(slow, header_timeout=10.0, keepalive_idle=20.0)
    client = await raw(one.port)
    await client.send(GET)
    await asyncio.sleep(0.02)
    for _ in range(5):
        await one.pass_time(30)
    go.set()
    assert (await client.response()).status == 200
    await one.pass_time(19)
    assert await client.silence()
    await one.pass_time(1.1)
    assert await client.closed() == "fin"


# ── sizes ──


async def test_an_unfinished_head_over_the_limit_is_431(
    listen: MakeListener, raw: MakeClient
) -> None:
    one = await listen(request_head=4096)
    client = await raw(one.port)
    await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n")
    for number in range(20):
        await client.send(b"X-%d: %b\r\n" % (number, b"v" * 300))
        await asyncio.sleep(0)
    reply = await client.response()
    assert (reply.status, reply.body) == (431, b"head_too_large")
    await client.rest()
    assert not one.asked


async def test_a_finished_head_over_the_limit_is_marked_for_measuring(
    listen: MakeListener, raw: MakeClient
) -> None:
    one = await listen(request_head=4096)
    client = await raw(one.port)
    fields = b"".join(b"X-%d: %b\r\n" % (number, b"v" * 300) for number in range(20))
    await client.ask(GET)
    assert not _connection(one).long_head
    await client.ask(b"GET / HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n", method="GET")
    assert _connection(one).long_head


async def test_a_long_body_in_the_segment_of_its_head_makes_no_long_head(
    listen: MakeListener, raw: MakeClient
) -> None:
    one = await listen(request_head=1000)
    client = await raw(one.port)
    await client.ask(
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3000\r\n\r\n" + b"v" * 3000, method="POST"
    )
    assert not _connection(one).long_head


async def test_heads_in_pieces_are_measured_together(listen: MakeListener, raw: MakeClient) -> None:
    one = await listen(request_head=1000)
    client = await raw(one.port)
    await client.send(b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"v" * 600)
    await asyncio.sleep(0.02)
    await client.ask(b"\r\nB: " + b"v" * 600 + b"\r\n\r\n", method="GET")
    assert _connection(one).long_head


HOST = b"Host: h\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param(b"GET /%b HTTP/1.1\r\n" % (b"a" * 3000) + HOST, 414, id="target"),
        pytest.param(b"GET / HTTP/1.1\r\nX: %b\r\n" % (b"a" * 5000) + HOST, 431, id="field"),
        pytest.param(b"GET / HTTP/1.1\r\n%b: x\r\n" % (b"a" * 5000) + HOST, 431, id="name"),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n" * 20, 431, id="fields"),
        pytest.param(b"FOO / HTTP/1.1\r\n" + HOST, 501, id="method"),
        pytest.param(b"get / HTTP/1.1\r\n" + HOST, 501, id="method-in-lower-case"),
        pytest.param(b"G@T / HTTP/1.1\r\n" + HOST, 400, id="no-method"),
        pytest.param(b"GET/ HTTP/1.1\r\n" + HOST, 400, id="no-space"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400, id="tls"),
        pytest.param(b"GET / HTTP/1.1\r\n", 400, id="no-host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost : h\r\n", 400, id="space-before-colon"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: h\r\nA: b\x00c\r\n", 400, id="nul"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            400,
            id="two-framings",
        ),
    ],
)
async def test_what_is_no_request_is_answered_by_its_own_status(
    listen: MakeListener, raw: MakeClient, head: bytes, status: int
) -> None:
    one = await listen(request_line=2048, request_head=4096, headers=15)
    client = await raw(one.port)
    await client.send(head + b"\r\n")
    assert (await client.response()).status == status
    await client.rest()
    assert client.ending == "fin"
    assert not one.asked


async def test_odd_limits_tell_a_target_from_a_field_all_the_same(
    listen: MakeListener, raw: MakeClient
) -> None:
    one = await listen(request_line=2047, request_head=4095)
    client = await raw(one.port)
    assert (await client.ask(b"GET /%b HTTP/1.1\r\n\r\n" % (b"a" * 3000))).status == 414
    client = await raw(one.port)
    reply = await client.ask(b"GET / HTTP/1.1\r\nX: %b\r\n\r\n" % (b"a" * 4100))
    assert reply.status == 431


# ── bodies ──


async def test_the_connection_is_kept_after_a_chunked_body_without_trailers(
    listen: MakeListener, raw: MakeClient
) -> None:
    one = await listen()
    client = await raw(one.port)
    for pieces in (
        [CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"],
        [CHUNKED, b"3\r\nabc\r\n", b"0\r\n\r\n"],
        [CHUNKED, b"3\r\nabc\r\n0", b"\r\n", b"\r\n"],
    ):
        for piece in pieces:
            await client.send(piece)
            await asyncio.sleep(0.01)
        reply = await client.response()
        assert (reply.status, reply.body) == (200, b"/chunked Host")
        assert reply.get("connection") is None
    assert one.bodies == [b"abc"] * 3
    assert (await client.ask(GET)).body == b"/ Host"


TRAILED = CHUNKED + b"3\r\nabc\r\n0\r\nX-One: 1\r\nX-Evil: 1\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param([TRAILED], id="alone"),
        pytest.param([TRAILED[:-20], TRAILED[-20:]], id="in-pieces"),
        pytest.param([TRAILED + GET], id="before-a-get"),
        pytest.param([TRAILED + CHUNKED + b"0\r\n\r\n"], id="before-a-clean-chunked"),
        pytest.param([TRAILED[:-4], TRAILED[-4:] + CHUNKED + b"0\r\n\r\n"], id="in-two-segments"),
        pytest.param([TRAILED + CHUNKED, b"0\r\n\r\n"], id="before-a-later-clean-end"),
        pytest.param([CHUNKED, TRAILED[len(CHUNKED) :] + CHUNKED, b"0\r\n\r\n"], id="spread"),
    ],
)
async def test_a_trailer_never_becomes_a_field_of_the_next_request(
    listen: MakeListener, raw: MakeClient, sent: list[bytes]
) -> None:
    one = await listen()
    client = await raw(one.port)
    for piece in sent:
        await client.send(piece)
        await asyncio.sleep(0.02)
    reply = await client.response()
    assert (reply.status, reply.body) == (200, b"/chunked Host")
    assert reply.get("connection") == b"close"
    assert await client.closed() in ("fin", "rst")
    assert len(one.asked) == 1


async def test_a_bad_chunk_in_a_later_segment_fails_the_body(
    listen: MakeListener, raw: MakeClient
) -> None:
    one = await listen()
    client = await raw(one.port)
    await client.send(CHUNKED + b"3\r\nabc\r\n")
    await asyncio.sleep(0.02)
    await client.send(b"zz\r\n")
    reply = await client.response()
    assert (reply.status, reply.body) == (400, b"bad_request")
    await client.rest()
    (fault,) = one.bodies
    assert isinstance(fault, errors.BadRequest)
    assert fault.detail
    assert fault.headers == ()


async def test_a_client_that_leaves_during_its_body_cancels_the_handler(
    listen: MakeListener, raw: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[BaseException] = []
    ended = asyncio.Event()

    async def upload(listener: Listener, incoming: Incoming) -> Sent:
        try:
            await incoming.payload.read()
        except BaseException as error:
            seen.append(error)
            raise
        finally:
            ended.set()
        return END

    one = await listen(upload)
    client = await raw(one.port)
    await client.send(CHUNKED + b"3\r\nabc\r\n")
    await asyncio.sleep(0.02)
    client.close()
    async with asyncio.timeout(PATIENCE):
        await ended.wait()
    await asyncio.sleep(0.02)
    (error,) = seen
    assert isinstance(error, asyncio.CancelledError | errors.ClientClosed)
    assert not caplog.records


async def test_an_early_answer_reaches_a_client_that_still_sends(
    listen: MakeListener, raw: MakeClient
) -> None:
    async def early(listener: Listener, incoming: Incoming) -> Sent:
        write(incoming, 413, b"too large", close=True)
        return END

    one = await listen(early)
    client = await raw(one.port)
    await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n")
    for _ in range(30):
        await client.send(b"x" * 100_000)
    assert (await client.response()).status == 413
    assert await client.closed() == "fin"


async def test_what_is_read_while_lingering_is_no_head(
    listen: MakeListener, raw: MakeClient
) -> None:
    async def early(listener: Listener, incoming: Incoming) -> Sent:
        write(incoming, 413, b"too large", close=True)
        return END

    one = await listen(early, request_head=1000)
    client = await raw(one.port)
    await client.ask(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3000\r\n\r\n")
    await client.send(b"x" * 1500)
    await asyncio.sleep(0.02)
    await one.pass_time(20)
    await client.send(b"x" * 1500)
    assert await client.closed(2.0) == "fin"


# ── upgrades ──


UPGRADE = b"GET /up HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n"


@pytest.mark.parametrize("protocol", [b"websocket", b"foo"])
async def test_a_declined_upgrade_leaves_the_connection_in_step(
    listen: MakeListener, raw: MakeClient, protocol: bytes
) -> None:
    go = asyncio.Event()

    async def waits(listener: Listener, incoming: Incoming) -> Sent:
        await go.wait()
        return await answer(listener, incoming)

    one = await listen(waits)
    client = await raw(one.port)
    await client.send(UPGRADE % protocol)
    await asyncio.sleep(0.02)
    await client.send(GET)
    await asyncio.sleep(0.02)
    go.set()
    assert (await client.response()).body == b"/up Host"
    assert (await client.response()).body == b"/ Host"


@pytest.mark.parametrize("protocol", [b"websocket", b"foo"])
async def test_what_follows_an_upgrade_request_is_kept_for_the_new_protocol(
    listen: MakeListener, raw: MakeClient, protocol: bytes
) -> None:
    kept: list[tuple[bytes, bool]] = []
    go = asyncio.Event()

    async def waits(listener: Listener, incoming: Incoming) -> Sent:
        await go.wait()
        client = incoming.protocol
        assert isinstance(client, ClientConnection)
        kept.append((incoming.take_over(), client.bytes_lost))
        write(incoming, 200, b"", close=True)
        return END

    one = await listen(waits)
    client = await raw(one.port)
    await client.send(UPGRADE % protocol)
    await asyncio.sleep(0.02)
    await client.send(b"\x01\x02 not http")
    await asyncio.sleep(0.02)
    go.set()
    await client.response()
    assert kept == [(b"\x01\x02 not http", False)]


@pytest.mark.parametrize("behind", [b"early", GET, b"\r\n\r\n"])
async def test_bytes_that_aiohttp_loses_behind_an_upgrade_are_noticed(
    listen: MakeListener, raw: MakeClient, behind: bytes
) -> None:
    one = await listen()
    client = await raw(one.port)
    await client.send(UPGRADE % b"foo" + behind)
    await client.response()
    assert _connection(one).bytes_lost


# ── how many ──


async def test_pipelined_requests_are_answered_in_order(
    listen: MakeListener, raw: MakeClient
) -> None:
    one = await listen()
    client = await raw(one.port)
    asked = [b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number for number in range(100)]
    await client.send(b"".join(asked))
    for number in range(100):
        assert (await client.response()).body == b"/%d Host" % number
    assert (await client.ask(GET)).status == 200


# ── what is owed before what is no request ──


class Held:
    """A handler that answers when it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, listener: Listener, incoming: Incoming) -> Sent:
        await self.go.wait()
        return await answer(listener, incoming)


@pytest.mark.parametrize("waiting", [1, 3])
@pytest.mark.parametrize("status", [431, 408, 400])
async def test_what_is_no_request_is_answered_behind_those_that_are_under_way(
    listen: MakeListener, raw: MakeClient, waiting: int, status: int
) -> None:
    held = Held()
    one = await listen(held, request_head=1000, header_timeout=10.0)
    client = await raw(one.port)
    for _ in range(waiting):
        await client.send(GET)
        await asyncio.sleep(0.02)
    if status == 400:
        await client.send(b"GET/ HTTP/1.1\r\n\r\n")
    else:
        fields = b"".join(b"X-%d: %b\r\n" % (number, b"x" * 90) for number in range(15))
        await client.send(b"GET / HTTP/1.1\r\n", fields if status == 431 else fields[:50])
    await asyncio.sleep(0.02)
    await one.pass_time(10.1)
    await client.send(b"\r\n\r\n" + GET)  # nobody listens any more
    await asyncio.sleep(0.02)
    held.go.set()
    statuses = [(await client.response()).status for _ in range(waiting + 1)]
    assert statuses == [200] * waiting + [status]
    await client.rest()
    assert len(one.asked) == waiting


CLOSE = b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("behind", [b"more", GET, b"more\r\n\r\n" + GET])
@pytest.mark.parametrize(
    "segments",
    [
        pytest.param([GET + CLOSE], id="one"),
        pytest.param([GET[:10], GET[10:] + CLOSE], id="in pieces"),
        pytest.param(
            [GET[:10], GET[10:20], GET[20:] + CLOSE[:-1], CLOSE[-1:]], id="in small pieces"
        ),
        pytest.param([GET + CLOSE[:10], CLOSE[10:]], id="cut between"),
        pytest.param([GET, CLOSE], id="one each"),
        pytest.param([GET + CLOSE[:-2], CLOSE[-2:]], id="cut in its end"),
    ],
)
@pytest.mark.parametrize("busy", [False, True])
async def test_no_request_is_lost_for_what_comes_behind_the_last_one(
    listen: MakeListener, raw: MakeClient, segments: list[bytes], behind: bytes, busy: bool
) -> None:
    held = Held()
    one = await listen(held)
    client = await raw(one.port)
    expected = [b"/", b"/last"]
    if busy:
        await client.send(GET + GET)
        await asyncio.sleep(0.02)
        expected = [b"/", b"/", *expected]
    else:
        held.go.set()
    for segment in [*segments[:-1], segments[-1] + behind]:
        await client.send(segment)
        await asyncio.sleep(0.02)
    held.go.set()
    answers = [(await client.response()).body.split()[0] for _ in expected]
    assert answers == expected
    assert await client.rest() == b""
    assert len(one.asked) == len(expected)


async def test_a_connection_over_the_limit_is_told_so(
    listen: MakeListener, raw: MakeClient
) -> None:
    one = await listen(connections=2)
    for _ in range(2):
        assert (await (await raw(one.port)).ask(GET)).status == 200
    over = await raw(one.port)
    assert (await over.ask(GET)).status == 503
    assert one.admission.total == 3


async def test_an_address_over_its_limit_is_told_so_while_others_are_served(
    listen: MakeListener, raw: MakeClient
) -> None:
    one = await listen(connections_per_ip=1)
    first = await raw(one.port)
    assert (await first.ask(GET)).status == 200
    assert (await (await raw(one.port)).ask(GET)).status == 503
    other = await raw(one.port, source="127.0.0.2")
    assert (await other.ask(GET)).status == 200
    assert one.admission.by_address == {"127.0.0.1": 2, "127.0.0.2": 1}


async def test_far_over_the_limit_a_connection_is_dropped_unread(
    listen: MakeListener, raw: MakeClient
) -> None:
    one = await listen(connections=1)
    one.admission.ceiling = 2
    kept = [await raw(one.port) for _ in range(2)]
    await kept[0].ask(GET)
    over = await raw(one.port)
    await over.send(GET)
    assert await over.closed() in ("fin", "rst")
    assert one.dropped == 1
    assert (await kept[0].ask(GET)).status == 200


async def test_connections_that_end_are_counted_out(listen: MakeListener, raw: MakeClient) -> None:
    one = await listen()
    clients = [await raw(one.port) for _ in range(3)]
    for client in clients:
        await client.ask(GET)
    assert one.admission.by_address == {"127.0.0.1": 3}
    clients[0].close()
    clients[1].reset()
    await clients[2].send(b"nonsense\r\n\r\n")
    await clients[2].rest()
    async with asyncio.timeout(PATIENCE):
        while one.admission.total:
            await asyncio.sleep(0.005)
    assert one.admission.by_address == {}


# ── ends ──


async def test_only_a_closing_connection_bounds_how_long_a_client_may_not_read(
    listen: MakeListener, raw: MakeClient
) -> None:
    bounds: list[int] = []

    async def look(listener: Listener, incoming: Incoming) -> Sent:
        client = incoming.protocol
        assert client.transport is not None
        sock = client.transport.get_extra_info("socket")
        option = getattr(socket, "TCP_USER_TIMEOUT", 18)
        bounds.append(sock.getsockopt(socket.IPPROTO_TCP, option))
        sent = await answer(listener, incoming)
        await sent.prepare(incoming)
        bounds.append(sock.getsockopt(socket.IPPROTO_TCP, option))
        return sent

    one = await listen(look)
    client = await raw(one.port)
    await client.ask(GET)
    await client.ask(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert bounds == [0, 0, 0, 30_000]


async def test_a_handler_that_raises_breaks_the_connection_and_is_logged(
    listen: MakeListener, raw: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    async def bug(listener: Listener, incoming: Incoming) -> Sent:
        raise ValueError("a bug")

    one = await listen(bug)
    client = await raw(one.port)
    with caplog.at_level(logging.ERROR, logger="gateway.edge"):
        await client.send(GET)
        assert await client.rest() == b""
    assert [record.message for record in caplog.records] == ["handler_failed"]


async def test_a_reset_is_seen_as_one(listen: MakeListener, raw: MakeClient) -> None:
    async def cut(listener: Listener, incoming: Incoming) -> Sent:
        assert incoming.protocol.transport is not None
        incoming.protocol.transport.write(b"HTTP/1.0 200 OK\r\n\r\nhalf")
        await asyncio.sleep(0.02)
        reset(incoming.protocol.transport)
        return END

    one = await listen(cut)
    client = await raw(one.port)
    await client.send(GET)
    await client.rest()
    assert client.ending == "rst"


def _connection(one: Listener) -> ClientConnection:
    (connection,) = one.server.connections
    return connection
