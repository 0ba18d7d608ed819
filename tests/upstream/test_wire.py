"""One connection to an upstream: what is an answer, what is a failure, and whose."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import pytest_asyncio

from gateway import errors
from gateway.config import model
from gateway.upstream.pool import Pool
from gateway.upstream.wire import HEAD_FIELDS, HEAD_LINE, HEAD_MOST, Dialer, Endpoint, Wire
from tests.kit.clock import FakeClock
from tests.kit.origin import OK, chunk
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.conftest import MakeOrigin
    from tests.kit.origin import Peer, Script

    Dial = Callable[..., Awaitable[Wire]]
    Ask = Callable[..., Awaitable[Wire]]

REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest_asyncio.fixture
async def dial(_leak_guard: None) -> AsyncIterator[Dial]:
    """`await dial(url)`: a connection, made as a target makes it."""
    clock = FakeClock()
    pools: list[Pool] = []
    wires: list[Wire] = []

    async def make(
        url: str, *, unix: str | None = None, tls: model.UpstreamTls | None = None
    ) -> Wire:
        settings = tls or model.UpstreamTls()
        pool = Pool(settings, encrypted=url.startswith("https"))
        pools.append(pool)
        endpoint = Endpoint(url, pool.context, settings.server_name)
        wire = await Dialer(lambda: pool.session(unix), endpoint, clock).dial()
        wires.append(wire)
        return wire

    yield make
    for wire in wires:
        wire.end()
    for pool in pools:
        await pool.aclose()
    assert not clock.watched


@pytest.fixture
def ask(dial: Dial, origin: MakeOrigin) -> Ask:
    """`await ask(script)`: a connection on which a request has been sent."""

    async def make(
        script: bytes | Script, *, head_only: bool = False, trailers: bool = False
    ) -> Wire:
        up = await origin(script)
        wire = await dial(up.url)
        send(wire, head_only=head_only, trailers=trailers)
        return wire

    return make


def send(wire: Wire, *, head_only: bool = False, trailers: bool = False) -> None:
    wire.prepare(head_only=head_only, trailers=trailers)
    assert wire.transport is not None
    wire.transport.write(REQUEST)


def then(*pieces: bytes, end: str = "") -> Script:
    """A script that reads a request, sends the pieces one by one, and ends as told."""

    async def script(peer: Peer) -> None:
        await peer.head()
        for piece in pieces:
            await peer.send(piece)
            await asyncio.sleep(0.02)
        if end == "rst":
            peer.reset()
        elif end == "fin":
            peer.close()
        else:
            await peer.rest()

    return script


async def body(payload: aiohttp.StreamReader) -> bytes:
    async with asyncio.timeout(PATIENCE):
        return await payload.read()


async def failure(wire: Wire) -> errors.GatewayError:
    """What the wait for the head ends with."""
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(errors.GatewayError) as caught:
            await wire.head()
    return caught.value


async def body_failure(wire: Wire) -> errors.GatewayError:
    """What the wait for the body ends with, as relay.py sees it."""
    _, payload = await wire.head()
    with pytest.raises(Exception) as caught:
        await body(payload)
    assert not isinstance(caught.value, TimeoutError), "nobody told the reader"
    return wire.translate(caught.value)


# ── answers ──


async def test_a_response_leaves_the_connection_reusable(ask: Ask) -> None:
    wire = await ask(OK)
    for used in range(3):
        message, payload = await wire.head()
        assert (message.code, await body(payload)) == (200, b"ok")
        assert wire.reusable()
        assert wire.received
        wire.used = used + 1
        send(wire)
        assert not wire.received
    await wire.head()


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        pytest.param(CHUNKED + chunk(b"abc") + b"0\r\n\r\n", b"abc", id="chunked"),
        pytest.param(HEAD + b"Content-Length: 0\r\n\r\n", b"", id="empty"),
        pytest.param(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b"", id="304"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", b"", id="204"),
        pytest.param(b"HTTP/1.1 299\r\nContent-Length: 1\r\n\r\nx", b"x", id="no-phrase"),
    ],
)
async def test_each_framing_is_read_to_its_end(ask: Ask, answer: bytes, content: bytes) -> None:
    wire = await ask(answer)
    _, payload = await wire.head()
    assert await body(payload) == content
    assert wire.reusable()


async def test_the_answer_to_head_has_no_body_whatever_its_length_says(ask: Ask) -> None:
    wire = await ask(HEAD + b"Content-Length: 500\r\n\r\n", head_only=True)
    _, payload = await wire.head()
    assert await body(payload) == b""
    assert wire.reusable()


async def test_a_body_until_the_end_of_the_connection_is_whole_at_a_fin(ask: Ask) -> None:
    wire = await ask(then(HEAD + b"\r\nabc", b"def", end="fin"))
    _, payload = await wire.head()
    assert await body(payload) == b"abcdef"
    assert not wire.reusable()


async def test_every_interim_head_is_seen_before_the_final_one(ask: Ask) -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    wire = await ask(then(b"HTTP/1.1 100 Continue\r\n\r\n" + hint, hint + OK))
    heads = [await wire.head() for _ in range(4)]
    assert [message.code for message, _ in heads] == [100, 103, 103, 200]
    assert await body(heads[-1][1]) == b"ok"
    assert wire.reusable()


async def test_raw_fields_keep_case_order_and_bytes(ask: Ask) -> None:
    wire = await ask(HEAD + b"x-B: \xff\xfe\r\nX-a: 1\r\nX-A: 2\r\nContent-Length: 0\r\n\r\n")
    message, _ = await wire.head()
    assert message.raw_headers == (
        (b"x-B", b"\xff\xfe"), (b"X-a", b"1"), (b"X-A", b"2"), (b"Content-Length", b"0"),
    )  # fmt: skip


async def test_an_encoded_body_is_not_decoded(ask: Ask) -> None:
    wire = await ask(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc")
    _, payload = await wire.head()
    assert await body(payload) == b"abc"


async def test_after_a_101_what_follows_is_kept_and_the_connection_is_not_reused(ask: Ask) -> None:
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n"
    wire = await ask(then(switch + b"early", b" and later"))
    message, _ = await wire.head()
    assert (message.code, message.upgrade) == (101, True)
    await asyncio.sleep(0.05)
    assert not wire.reusable()
    assert wire.take_over() == b"early and later"
    assert wire.take_over() == b""


async def test_a_connection_is_true_with_and_without_an_answer(ask: Ask) -> None:
    wire = await ask(then())
    assert len(wire) == 0
    assert wire


# ── trailers ──


LAST = CHUNKED + chunk(b"abc") + b"0\r\n"


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        pytest.param([LAST + b"\r\n"], b"", id="none"),
        pytest.param([LAST + b"X-T: 1\r\nX-U: 2\r\n\r\n"], b"X-T: 1\r\nX-U: 2\r\n", id="two"),
        pytest.param([LAST, b"X-T", b": 1\r\n\r", b"\n"], b"X-T: 1\r\n", id="in-pieces"),
        pytest.param([LAST + b"X-T: 1\r\nLocation: /\r\n\r\n"], b"X-T: 1\r\n", id="location"),
        pytest.param([LAST + b"Set-Cookie: a=b\r\nX-T: 1\r\n\r\n"], b"X-T: 1\r\n", id="cookie"),
        pytest.param(
            [CHUNKED + chunk(b"\r\n0\r\nX-Evil: 1\r\n") + b"00\r\n\r\n"], b"", id="content-like-one"
        ),
        pytest.param(
            [CHUNKED + chunk(b"\r\n0\r\nX-Evil: 1\r\n") + b"0;a=b\r\n\r\n"], b"", id="extension"
        ),
    ],
)
async def test_trailers_are_kept_where_they_are_wanted(
    ask: Ask, answer: list[bytes], lines: bytes
) -> None:
    wire = await ask(then(*answer), trailers=True)
    _, payload = await wire.head()
    await body(payload)
    assert wire.trailers() == lines


async def test_trailers_are_not_kept_where_nobody_wants_them(ask: Ask) -> None:
    wire = await ask(then(LAST + b"X-T: 1\r\n\r\n"))
    _, payload = await wire.head()
    await body(payload)
    assert wire.trailers() == b""


async def test_a_trailer_never_becomes_a_field_of_the_next_response(ask: Ask) -> None:
    wire = await ask([LAST + b"X-One: 1\r\nX-Evil: 1\r\n\r\n", OK])
    _, payload = await wire.head()
    await body(payload)
    send(wire)
    message, _ = await wire.head()
    assert message.raw_headers == ((b"Content-Length", b"2"),)


async def test_only_the_end_of_a_long_body_is_kept_for_its_trailers(ask: Ask) -> None:
    wire = await ask(then(CHUNKED + chunk(b"x" * 200_000), b"0\r\nX-T: 1\r\n\r\n"), trailers=True)
    _, payload = await wire.head()
    await body(payload)
    assert wire.trailers() == b"X-T: 1\r\n"
    assert wire.tail is not None
    assert len(wire.tail) <= 16 * 1024


# ── failures before the head ──


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(b"nonsense\r\n\r\n", errors.UpstreamBadResponse, id="no-status-line"),
        pytest.param(b"HTTP/1.1 20x OK\r\n\r\n", errors.UpstreamBadResponse, id="status"),
        pytest.param(
            HEAD + b"Content-Length: a\r\n\r\n", errors.UpstreamBadResponse, id="bad-length"
        ),
        pytest.param(
            HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
            errors.UpstreamBadResponse,
            id="two-lengths",
        ),
        pytest.param(HEAD + b"A\x00: b\r\n\r\n", errors.UpstreamBadResponse, id="nul-in-a-name"),
        pytest.param(
            HEAD + b"A: " + b"b" * (HEAD_LINE + 10) + b"\r\n\r\n",
            errors.ResponseTooLarge,
            id="line",
        ),
        pytest.param(
            HEAD + b"A: b\r\n" * (HEAD_FIELDS + 1) + b"\r\n", errors.ResponseTooLarge, id="fields"
        ),
        pytest.param(
            HEAD + (b"A: " + b"b" * 60_000 + b"\r\n") * (HEAD_MOST // 60_000 + 1),
            errors.ResponseTooLarge,
            id="head-without-end",
        ),
        pytest.param(b"HTTP/1.1 2", errors.UpstreamReset, id="half-a-status-line"),
        pytest.param(HEAD + b"A: b\r\n", errors.UpstreamReset, id="half-a-head"),
        pytest.param(b"", errors.UpstreamReset, id="nothing"),
    ],
)
@pytest.mark.parametrize("waiting", [True, False], ids=["awaited", "arrived-before"])
async def test_what_is_no_answer_has_a_name(
    ask: Ask, answer: bytes, kind: type[errors.GatewayError], waiting: bool
) -> None:
    wire = await ask(then(answer, end="fin"))
    if not waiting:
        await asyncio.sleep(0.1)
    error = await failure(wire)
    assert type(error) is kind
    assert not wire.reusable()


async def test_a_reset_before_the_head_is_one(ask: Ask) -> None:
    error = await failure(await ask(then(end="rst")))
    assert type(error) is errors.UpstreamReset


async def test_a_used_connection_that_ends_before_any_byte_was_idle_for_too_long(ask: Ask) -> None:
    wire = await ask(then(OK, end="fin"))
    _, payload = await wire.head()
    await body(payload)
    wire.used = 1
    send(wire)
    assert type(await failure(wire)) is errors.UpstreamIdleClosed


async def test_a_used_connection_that_ends_after_a_byte_was_reset(ask: Ask) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.send(b"H")

    wire = await ask(script)
    _, payload = await wire.head()
    await body(payload)
    wire.used = 1
    send(wire)
    assert type(await failure(wire)) is errors.UpstreamReset


async def test_silence_is_the_time_out_that_is_due(ask: Ask) -> None:
    wire = await ask(then())
    wire.due = wire.clock.now() + 30
    clock = wire.clock
    assert isinstance(clock, FakeClock)
    clock.advance(29)
    clock.advance(1.1)
    assert type(await failure(wire)) is errors.UpstreamHeaderTimeout


# ── failures in the body ──


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        pytest.param(
            then(CHUNKED + chunk(b"abc"), b"zz\r\n"), errors.UpstreamBadResponse, id="bad-chunk"
        ),
        pytest.param(
            then(CHUNKED, b"3\r\nabcdef"), errors.UpstreamBadResponse, id="chunk-without-end"
        ),
        pytest.param(
            then(CHUNKED + chunk(b"abc"), end="fin"), errors.UpstreamReset, id="no-last-chunk"
        ),
        pytest.param(
            then(HEAD + b"Content-Length: 9\r\n\r\nabc", end="fin"),
            errors.UpstreamReset,
            id="short",
        ),
        pytest.param(
            then(HEAD + b"Content-Length: 9\r\n\r\nabc", end="rst"),
            errors.UpstreamReset,
            id="reset",
        ),
        pytest.param(
            then(HEAD + b"\r\nabc", end="rst"), errors.UpstreamReset, id="reset-without-length"
        ),
    ],
)
async def test_a_body_that_breaks_off_is_an_error_and_not_an_end(
    ask: Ask, script: Script, kind: type[errors.GatewayError]
) -> None:
    wire = await ask(script)
    assert type(await body_failure(wire)) is kind
    assert not wire.reusable()


async def test_silence_in_the_body_reaches_its_reader(ask: Ask) -> None:
    wire = await ask(then(HEAD + b"Content-Length: 9\r\n\r\nabc"))
    await wire.head()
    wire.overdue = errors.UpstreamBodyTimeout
    payload = wire._payload
    assert payload is not None
    wire.expire()
    with pytest.raises(errors.UpstreamBodyTimeout):
        await body(payload)


async def test_surplus_bytes_behind_a_response_end_the_connection(ask: Ask) -> None:
    wire = await ask(OK + OK)
    _, payload = await wire.head()
    assert await body(payload) == b"ok"
    assert not wire.reusable()


async def test_surplus_bytes_that_come_later_end_the_connection(ask: Ask) -> None:
    wire = await ask(then(OK, b"surplus"))
    _, payload = await wire.head()
    assert await body(payload) == b"ok"
    await asyncio.sleep(0.06)
    assert not wire.reusable()


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        pytest.param(OK + b"surplus", b"ok", id="behind-a-body"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\nsurplus", b"", id="behind-204"),
    ],
)
async def test_a_response_that_runs_into_nonsense_is_delivered_without_it(
    ask: Ask, answer: bytes, content: bytes
) -> None:
    # aiohttp's parser drops what it has found when the same segment holds an error.
    wire = await ask(answer)
    _, payload = await wire.head()
    assert await body(payload) == content
    assert not wire.reusable()


async def test_the_body_that_a_server_sends_to_head_is_dropped(ask: Ask) -> None:
    wire = await ask(OK + b"more", head_only=True)
    message, payload = await wire.head()
    assert message.code == 200
    assert await body(payload) == b""
    assert not wire.reusable()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(CHUNKED + chunk(b"abc") + b"zz\r\n", id="chunked"),
        pytest.param(HEAD + b"Content-Length: 9\r\nA\x00: b\r\n\r\nabc", id="bad-field"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\nnonsense", id="interim"),
    ],
)
async def test_what_is_no_whole_response_is_not_made_one_by_what_follows(
    ask: Ask, answer: bytes
) -> None:
    assert type(await failure(await ask(answer))) is errors.UpstreamBadResponse


# ── at rest ──


@pytest.mark.parametrize("sent", [b"H", OK, b"\r\n"])
async def test_bytes_on_a_resting_connection_end_it(ask: Ask, sent: bytes) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await go.wait()
        await peer.send(sent)
        assert await peer.rest() == b""

    wire = await ask(script)
    _, payload = await wire.head()
    await body(payload)
    lost: list[Wire] = []
    wire.on_lost = lost.append
    wire.resting = True
    go.set()
    async with asyncio.timeout(PATIENCE):
        while not lost:
            await asyncio.sleep(0.005)
    assert not wire.is_connected()
    assert not len(wire), "it was delivered as an answer"


async def test_a_resting_connection_that_is_closed_says_so_once(ask: Ask) -> None:
    wire = await ask(then(OK, end="fin"))
    lost: list[Wire] = []
    wire.on_lost = lost.append
    _, payload = await wire.head()
    await body(payload)
    wire.resting = True
    async with asyncio.timeout(PATIENCE):
        while not lost:
            await asyncio.sleep(0.005)
    wire.end()
    assert lost == [wire]


async def test_ending_with_half_a_request_unsent_cuts_the_connection(
    dial: Dial, origin: MakeOrigin
) -> None:
    ended = asyncio.Event()

    async def script(peer: Peer) -> None:
        await ended.wait()
        await peer.rest()
        assert peer.ending == "rst" or len(peer.received) < 30_000_000

    up = await origin(script)
    wire = await dial(up.url)
    wire.prepare(head_only=False, trailers=False)
    transport = wire.transport
    assert transport is not None
    transport.write(b"x" * 30_000_000)
    wire.end()
    async with asyncio.timeout(PATIENCE):
        while transport.get_write_buffer_size():
            await asyncio.sleep(0.005)
    ended.set()
    async with asyncio.timeout(PATIENCE):
        while not (up.connections and up.connections[0].ending):
            await asyncio.sleep(0.005)


# ── connecting ──


async def test_a_closed_port_is_refused(dial: Dial, origin: MakeOrigin) -> None:
    up = await origin()
    await up.refuse()
    with pytest.raises(errors.ConnectRefused):
        await dial(up.url)


async def test_a_missing_unix_socket_is_refused(dial: Dial, tmp_path: Path) -> None:
    with pytest.raises(errors.ConnectRefused):
        await dial("http://localhost", unix=str(tmp_path / "none.sock"))


async def test_a_unix_socket_is_connected_to(
    dial: Dial, origin: MakeOrigin, tmp_path: Path
) -> None:
    path = str(tmp_path / "up.sock")
    await origin(OK, unix=path)
    wire = await dial("http://localhost", unix=path)
    send(wire)
    assert (await wire.head())[0].code == 200


async def test_a_name_that_does_not_resolve_is_a_dns_error(
    dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(*_: Any, **__: Any) -> Any:
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    with pytest.raises(errors.DnsError):
        await dial("http://upstream.invalid:80")


@pytest.mark.parametrize("kind", [TimeoutError, OSError])
async def test_an_operating_system_that_gives_up_is_told_from_one_that_is_refused(
    dial: Dial, monkeypatch: pytest.MonkeyPatch, kind: type[OSError]
) -> None:
    loop = asyncio.get_running_loop()

    async def refuse(*_: Any, **__: Any) -> Any:
        raise kind(113, "cannot")

    monkeypatch.setattr(aiohttp.TCPConnector, "_wrap_create_connection", refuse)
    assert loop.is_running()
    with pytest.raises(errors.UpstreamError) as caught:
        await dial("http://127.0.0.1:9")
    wanted = errors.ConnectTimeout if kind is TimeoutError else errors.ConnectRefused
    assert type(caught.value) is wanted


@pytest.fixture
def authority(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS settings for `localhost`, and who vouches for it."""
    import trustme

    ca = trustme.CA()
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(serving)
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return serving, path


async def _tls_origin(serving: ssl.SSLContext) -> tuple[asyncio.Server, int]:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass
        writer.close()

    server = await asyncio.start_server(script, "127.0.0.1", 0, ssl=serving)
    return server, server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("name", "settings", "accepted"),
    [
        pytest.param("localhost", {"ca": True}, True, id="trusted"),
        pytest.param("localhost", {}, False, id="unknown-authority"),
        pytest.param("127.0.0.1", {"ca": True}, False, id="wrong-name"),
        pytest.param(
            "127.0.0.1", {"ca": True, "server_name": "localhost"}, True, id="name-is-configured"
        ),
        pytest.param("127.0.0.1", {"verify": False}, True, id="not-verified"),
    ],
)
async def test_a_certificate_is_verified_unless_told_otherwise(
    dial: Dial,
    authority: tuple[ssl.SSLContext, Path],
    name: str,
    settings: dict[str, Any],
    accepted: bool,
) -> None:
    serving, ca = authority
    server, port = await _tls_origin(serving)
    if settings.get("ca"):
        settings = {**settings, "ca": str(ca)}
    tls = model.UpstreamTls(**settings)
    try:
        if accepted:
            wire = await dial(f"https://{name}:{port}", tls=tls)
            send(wire)
            assert (await wire.head())[0].code == 200
            wire.end()
        else:
            with pytest.raises(errors.TlsError):
                await dial(f"https://{name}:{port}", tls=tls)
    finally:
        server.close()
        await server.wait_closed()


async def test_a_port_that_does_not_speak_tls_is_a_tls_error(
    dial: Dial, origin: MakeOrigin
) -> None:
    async def script(peer: Peer) -> None:
        await peer.some()
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    up = await origin(script)
    with pytest.raises(errors.TlsError):
        await dial(up.url.replace("http:", "https:"))


async def test_an_ipv6_address_is_connected_to(dial: Dial) -> None:
    listening = socket.socket(socket.AF_INET6)
    try:
        listening.bind(("::1", 0))
    except OSError:
        listening.close()
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
    listening.listen()
    host = "[::1]" if listening.family == socket.AF_INET6 else "127.0.0.1"
    try:
        wire = await dial(f"http://{host}:{listening.getsockname()[1]}")
        assert wire.is_connected()
    finally:
        listening.close()


def test_settings_of_tls_are_read_once_and_only_where_needed() -> None:
    began = time.perf_counter()
    assert Pool(model.UpstreamTls(), encrypted=False).context is True
    assert time.perf_counter() - began < 2
    assert isinstance(Pool(model.UpstreamTls(), encrypted=True).context, ssl.SSLContext)
