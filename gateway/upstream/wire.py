"""HTTP/1.1 on a connection to an upstream: the only file that knows the internals of aiohttp's client.

Rules of this file: a Wire is aiohttp's ResponseHandler with its gaps closed; nothing here chooses, retries or pools. Each
private name that is touched has a test in tests/test_aiohttp_contract.py. A parser reads on only behind a response that
cannot have had trailers: the C parser carries one over into the next head.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import os
import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import http_exceptions
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.helpers import EMPTY_BODY_STATUS_CODES, TimerNoop, set_result
from aiohttp.streams import EMPTY_PAYLOAD
from yarl import URL

from gateway import errors
from gateway.headers import CONTROLS, PROTECTED, RESPONSE, TOKEN, content_length, unquoted

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import StreamReader
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.http_parser import RawResponseMessage

    from gateway.clock import Clock
    from gateway.outbound import ResponseHead

HEAD_LINE = 64 * 1024
"""Bytes that one header line of a response may have. Large cookies and policies pass; a runaway head does not."""
HEAD_FIELDS = 256
HEAD_MOST = 512 * 1024
"""Bytes that may come without a head being complete: the two bounds above still allow 16 MB."""
READ_BUFFER = 64 * 1024
TRAILER_TAIL = 16 * 1024
_TIMER = TimerNoop()


class Wire(ResponseHandler):
    """One connection to a target, leased to one request at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        super().__init__(loop)
        self.clock = clock
        self.lease: Connection | None = None
        self.made_at = clock.now()
        self.dialled = 0.0
        """Seconds that it took to connect, for the request for which it was made."""
        self.used = 0
        """Requests that were answered on this connection before the present one."""
        self.received = False
        """Whether any byte came back for the present request."""
        self.resting = False
        """In the idle list: any byte that arrives now belongs to nobody."""
        self.rested_at = 0.0
        """Clock seconds: since when it rests."""
        self.rests_until = 0.0
        """Clock seconds: when it is to be ended."""
        self.doubtful = False
        """It has rested for so long that the target may be about to end it."""
        self.expired = False
        """It has rested for as long as it may, and is ended by us."""
        self._head_room = 0
        """Bytes that may still come before the head that is waited for is complete; 0: none is waited for."""
        self._parser_is_clean = False
        """The parser has read a whole response without trailers, so it may read another."""
        self._taken_over = False
        self._first = b""
        """The first bytes of a response, while the parser looks at them."""
        self.tail: bytes | None = None
        """The last bytes received, kept only where trailers are wanted."""
        self.last_head: ResponseHead | None = None
        """The fields of the last response, taken apart by whoever reads heads: many responses have the same."""
        self.on_lost: Callable[[Wire], None] | None = None
        self.on_answer: Callable[[], None] | None = None
        """Called once, when a head or a failure has come that nobody awaits yet."""
        self.due = math.inf
        self.overdue: Callable[[], Exception] = errors.UpstreamHeaderTimeout

    def __bool__(self) -> bool:
        """aiohttp's DataQueue has a length, so that a connection without an answer would be false."""
        return True

    # ── Watched: `due` moves with the request, the ticker calls ──

    def expire(self) -> None:
        """The upstream has been silent for too long; or, resting, the connection has been idle for long enough."""
        if self.resting and not self.doubtful and self.clock.now() < self.rests_until:
            self.doubtful = True
            self.due = self.rests_until
            return
        self.due = math.inf
        if self.resting:
            self.expired = True
            self.end()
        else:
            self.set_exception(self.overdue())

    # ── what a request does with it ──

    def prepare(self, *, head_only: bool, trailers: bool) -> None:
        """Get ready for one response: `head_only` after HEAD; `trailers` keeps what is behind the last chunk."""
        self.received = False
        self._head_room = HEAD_MOST
        self.tail = b"" if trailers else None
        if self._parser_is_clean and not head_only:
            return
        self._parser_is_clean = False
        self.set_response_params(
            timer=_TIMER,
            skip_payload=head_only,
            read_until_eof=True,
            auto_decompress=False,
            read_timeout=None,
            read_bufsize=READ_BUFFER,
            max_line_size=HEAD_LINE,
            max_field_size=HEAD_LINE,
            max_headers=HEAD_FIELDS,
        )

    async def head(self) -> tuple[RawResponseMessage, StreamReader]:
        """The next head, 1xx included, with its body. Raises errors.UpstreamError."""
        if not self._buffer:
            self._head_room = HEAD_MOST
        try:
            return await self.read()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - translated
            raise self.translate(error) from None

    def translate(self, error: BaseException) -> errors.GatewayError:
        """aiohttp's or the operating system's word for a failure on this connection, in ours."""
        if isinstance(error, errors.GatewayError):
            return error
        # Its frames hold the wire, which holds `error`: a ring otherwise.
        error.__traceback__ = None
        if isinstance(error, http_exceptions.HttpProcessingError | aiohttp.ClientPayloadError):
            if self.received and not isinstance(error, aiohttp.ClientPayloadError):
                if isinstance(
                    error.__cause__, http_exceptions.LineTooLong
                ) or "Too many headers" in str(error):
                    return errors.ResponseTooLarge(unquoted(error))
                return errors.UpstreamBadResponse(unquoted(error))
            return errors.UpstreamReset(unquoted(error))
        if self.used and not self.received:
            return errors.UpstreamIdleClosed(repr(error))
        return errors.UpstreamReset(repr(error))

    def reusable(self) -> bool:
        """Whether the present response ended in a way that lets another request follow."""
        # As aiohttp's should_close and is_connected, without their calls.
        transport, payload = self.transport, self._payload
        if (
            transport is None
            or self._should_close
            or (payload is not None and not payload.is_eof())
            or self._upgraded
            or self._exception is not None
            or self._buffer
            or self._tail
            or transport.is_closing()
        ):
            return False
        if not self._parser_is_clean or self._parser is None:
            return True
        try:
            # Half a head behind the response would be the beginning of the next: between two messages it is None.
            return self._parser.feed_eof() is None
        except http_exceptions.HttpProcessingError:
            return False

    def end(self) -> None:
        """Close the connection and give its place back. Idempotent."""
        lease, self.lease = self.lease, None
        self.due = math.inf
        self.clock.watched.discard(self)
        transport = self.transport
        if transport is not None and not self._taken_over and transport.get_write_buffer_size():
            # Half a request that nobody reads would keep a closing socket for ever.
            transport.abort()
        if lease is not None:
            lease.close()
        if self.on_lost is not None:
            on_lost, self.on_lost = self.on_lost, None
            on_lost(self)

    def take_over(self) -> bytes:
        """The connection is no longer aiohttp's: it speaks another protocol. Returns what came behind the 101."""
        self.due = math.inf
        self._taken_over = True
        early, self._tail = self._tail, b""
        return early

    def trailers(self) -> bytes:
        """Trailer lines behind the last chunk, each with its line end; empty without any, or where not kept."""
        if not self.tail:
            return b""
        _, found, behind = self.tail.rpartition(b"\r\n0\r\n")
        lines, ended, surplus = behind.partition(b"\r\n\r\n")
        if not found or not ended or surplus or behind.startswith(b"\r\n"):
            return b""
        return _forwardable(lines.split(b"\r\n"))

    # ── what arrives ──

    def data_received(self, data: bytes) -> None:
        if self.resting:
            # Bytes that nobody asked for would be taken for the next request's answer (aio-libs/aiohttp#13656).
            self.end()
            return
        if not self.received:
            self.received = True
            self._first = data
        if self.tail is not None:
            self.tail = (self.tail + data)[-TRAILER_TAIL:]
        if self._parser is None or self._upgraded:
            super().data_received(data)
            self._first = b""
            return
        try:
            messages, self._upgraded, behind = self._parser.feed_data(data)
        except Exception as error:  # noqa: BLE001 - aiohttp's parser raises what it likes
            self._garbled(error)
            return
        for message, payload in messages:
            self._deliver(message, payload)
        if self._upgraded and behind:
            super().data_received(behind)
        self._first = b""
        if not self._buffer:
            self._head_grows(len(data))
            return
        self._head_room = 0
        told = self.on_answer
        if told is not None:
            self.on_answer = None
            told()

    def resume_reading(self, resume_parser: bool = True) -> None:
        # aiohttp asks for it at each read and end of a body, paused or not, and would parse nothing once more.
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def _deliver(self, message: RawResponseMessage, payload: StreamReader) -> None:
        """As aiohttp's data_received does, less its timers."""
        if message.should_close:
            self._should_close = True
        self._payload = payload
        bodiless = self._skip_payload or message.code in EMPTY_BODY_STATUS_CODES
        self._parser_is_clean = not (message.chunked or bodiless)
        self._buffer.append(((message, EMPTY_PAYLOAD if bodiless else payload), 0))
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            set_result(waiter, None)

    def _garbled(self, error: Exception) -> None:
        """What came is no response."""
        if self.transport is not None:
            self.transport.close()
        told = http_exceptions.HttpProcessingError()
        if isinstance(error, http_exceptions.HttpProcessingError):
            told = http_exceptions.HttpProcessingError(
                code=error.code, message=error.message, headers=error.headers
            )
        self.set_exception(told, error)

    def _tell(self) -> None:
        told, self.on_answer = self.on_answer, None
        if told is not None:
            told()

    def _head_grows(self, size: int) -> None:
        if not self._head_room:
            return
        self._head_room = max(0, self._head_room - size)
        if not self._head_room and self._exception is None:
            self.set_exception(errors.ResponseTooLarge("the response head does not end"))

    def _salvaged(self, data: bytes) -> bool:
        """Whether `data` was a whole response with surplus behind it: that is delivered, and the connection ends.

        aiohttp's parser drops what it has read when the next byte in the same segment is no response. A server that sends a
        body to HEAD is the common case.
        """
        head, ended, rest = data.partition(b"\r\n\r\n")
        if not ended:
            return False
        self._parser_is_clean = False
        self.prepare(head_only=self._skip_payload, trailers=False)
        self.received = True
        try:
            messages, _, _ = self._parser.feed_data(head + ended)  # type: ignore[union-attr]
            message, payload = messages[0]
            if message.code < 200:
                return False
            if self._skip_payload or message.code in (204, 304):
                payload = EMPTY_PAYLOAD
            else:
                length = content_length(message.headers.get("Content-Length", "").encode())
                if length is None or length > len(rest):
                    return False
                if length:
                    self._parser.feed_data(rest[:length])  # type: ignore[union-attr]
        except (http_exceptions.HttpProcessingError, IndexError):
            return False
        self._should_close = True
        self._payload = payload
        self.feed_data((message, payload), 0)
        return True

    def _read_what_is_left(self) -> None:
        """Take what had arrived when a write failed: asyncio reports the failure and never reads it (uvloop does).

        A server that refuses an upload and closes without reading it is the common case: its 413 lies in the kernel.
        """
        transport = self.transport
        if transport is None or type(transport).__module__ != "asyncio.selector_events":
            return  # any other may have closed the descriptor by now, and TLS would have to be decrypted
        descriptor = transport.get_extra_info("socket").fileno()
        left = HEAD_MOST
        with contextlib.suppress(OSError):
            while left > 0 and (data := os.read(descriptor, READ_BUFFER)):
                left -= len(data)
                self.data_received(data)

    def set_exception(self, exc: Any, exc_cause: Any = None) -> None:
        first, self._first = self._first, b""
        if first and self._salvaged(first):
            return
        # A malformed chunk sets the exception on the protocol only: whoever reads the body would wait for ever.
        payload = self._payload
        if payload is not None and not payload.is_eof():
            payload.set_exception(exc)
        if isinstance(exc_cause, Exception):
            # aiohttp sets it only where somebody waits at this moment; `translate` looks at it later.
            exc.__cause__ = exc_cause
            super().set_exception(exc, exc_cause)
        else:
            super().set_exception(exc)
        self._tell()

    def connection_lost(self, exc: BaseException | None) -> None:
        if exc is not None:
            exc.__traceback__ = None  # whose frames know the transport: a ring otherwise
        if exc is not None and not self.resting and not self._taken_over:
            self._read_what_is_left()
        # A reset in the middle of a body that only the connection's end delimits must not look like that end.
        payload = self._payload
        if exc is not None and payload is not None and not payload.is_eof():
            payload.set_exception(errors.UpstreamReset(repr(exc)))
        super().connection_lost(exc)
        if self.resting:
            self.end()


def _forwardable(lines: list[bytes]) -> bytes:
    """Trailer lines less those that a recipient must not act on (RFC 9110 section 6.5.1); none if one is no field at all.

    A last chunk that is not written `0` is not found, and then what was taken for lines is content.
    """
    passed = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or TOKEN.fullmatch(name) is None or value.translate(None, CONTROLS) != value:
            return b""
        lower = name.lower()
        if lower not in PROTECTED and lower not in RESPONSE:
            passed.append(line + b"\r\n")
    return b"".join(passed)


class Endpoint:
    """Where a target is, in the shape that aiohttp's connector asks of a request."""

    proxy = proxy_headers = proxy_auth = None

    def __init__(self, url: str, tls: ssl.SSLContext | bool, server_name: str | None) -> None:
        self.url = URL(url, encoded=True)
        self.host = self.url.raw_host or "localhost"
        self.port = self.url.port
        self.ssl = tls
        self.server_hostname = server_name
        self.connection_key = ConnectionKey(
            self.host, self.port, self.is_ssl(), tls, None, None, None, server_name
        )

    def is_ssl(self) -> bool:
        """Whether the connection begins with a TLS handshake."""
        return self.url.scheme == "https"


class Dialer:
    """Makes connections to one target, through the connector of a ClientSession: names, happy eyeballs and TLS are its."""

    def __init__(
        self, session: Callable[[], aiohttp.ClientSession], endpoint: Endpoint, clock: Clock
    ) -> None:
        self._session = session
        self._endpoint = endpoint
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=None)

    async def dial(self) -> Wire:
        """Connect. Raises errors.DnsError, ConnectRefused, ConnectTimeout or TlsError."""
        connector = self._session().connector
        assert connector is not None
        connector._factory = functools.partial(Wire, loop=connector._loop, clock=self._clock)  # type: ignore[assignment]
        try:
            # The endpoint has all that the connector reads of a request; a ClientRequest costs 25 µs to make.
            lease = await connector.connect(_as_request(self._endpoint), [], self._timeout)
        except (OSError, aiohttp.ClientError) as error:
            raise _connect_error(error) from None
        wire = lease.protocol
        assert isinstance(wire, Wire)
        wire.lease = lease
        self._clock.watched.add(wire)
        return wire


def _as_request(endpoint: Endpoint) -> ClientRequest:
    return endpoint  # type: ignore[return-value]


def _connect_error(error: BaseException) -> errors.UpstreamError:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return errors.DnsError(str(error))
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return errors.TlsError(str(error))
    if isinstance(error, TimeoutError):
        return errors.ConnectTimeout(str(error))
    cause = getattr(error, "os_error", None)
    if isinstance(cause, TimeoutError):
        return errors.ConnectTimeout(str(error))
    return errors.ConnectRefused(str(error))
