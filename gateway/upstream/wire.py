"""HTTP/1.1 on a connection to an upstream: the only file that knows the internals of aiohttp's client.

Rules of this file: a Wire is aiohttp's ResponseHandler with its gaps closed; nothing here chooses, retries or pools. Each
private name that is touched has a test in tests/test_aiohttp_contract.py. A new parser is made for each response, never
saved: the C parser carries a trailer over into the next head otherwise.
"""

from __future__ import annotations

import asyncio
import functools
import math
import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import http_exceptions
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.helpers import TimerNoop
from yarl import URL

from gateway import errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import StreamReader
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.http_parser import RawResponseMessage

    from gateway.clock import Clock

HEAD_LINE = 64 * 1024
"""Bytes that one header line of a response may have. Large cookies and policies pass; a runaway head does not."""
HEAD_FIELDS = 256
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
        self.used = 0
        """Requests that were answered on this connection before the present one."""
        self.received = False
        """Whether any byte came back for the present request."""
        self.resting = False
        """In the idle list: any byte that arrives now belongs to nobody."""
        self.tail: bytes | None = None
        """The last bytes received, kept only where trailers are wanted."""
        self.on_lost: Callable[[Wire], None] | None = None
        self.due = math.inf
        self.overdue: Callable[[], Exception] = errors.UpstreamHeaderTimeout

    # ── Watched: `due` moves with the request, the ticker calls ──

    def expire(self) -> None:
        """The upstream has been silent for too long; or, resting, the connection has been idle for long enough."""
        self.due = math.inf
        if self.resting:
            self.end()
        else:
            self.set_exception(self.overdue())

    # ── what a request does with it ──

    def prepare(self, *, head_only: bool, trailers: bool) -> None:
        """Get ready for one response: `head_only` after HEAD; `trailers` keeps what is behind the last chunk."""
        self.received = False
        self.tail = b"" if trailers else None
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
        try:
            return await self.read()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise self.translate(error) from None

    def translate(self, error: BaseException) -> errors.GatewayError:
        """aiohttp's or the operating system's word for a failure on this connection, in ours."""
        if isinstance(error, errors.GatewayError):
            return error
        if isinstance(error, http_exceptions.HttpProcessingError | aiohttp.ClientPayloadError):
            if self.received and not isinstance(error, aiohttp.ClientPayloadError):
                if isinstance(error.__cause__, http_exceptions.LineTooLong) or "Too many headers" in str(error):
                    return errors.ResponseTooLarge(str(error))
                return errors.UpstreamBadResponse(str(error))
            return errors.UpstreamReset(str(error))
        if self.used and not self.received:
            return errors.UpstreamIdleClosed(repr(error))
        return errors.UpstreamReset(repr(error))

    def reusable(self) -> bool:
        """Whether the present response ended in a way that lets another request follow."""
        return not self.should_close and self.is_connected()

    def end(self) -> None:
        """Close the connection and give its place back. Idempotent."""
        lease, self.lease = self.lease, None
        self.due = math.inf
        self.clock.watched.discard(self)
        if lease is not None:
            lease.close()
        if self.on_lost is not None:
            on_lost, self.on_lost = self.on_lost, None
            on_lost(self)

    def take_over(self) -> bytes:
        """The connection is no longer aiohttp's: it speaks another protocol. Returns what came behind the 101."""
        self.due = math.inf
        early, self._tail = self._tail, b""
        return early

    def trailers(self) -> bytes:
        """Trailer lines behind the last chunk, each with its line end; empty without any, or where not kept."""
        if not self.tail:
            return b""
        _, found, lines = self.tail.rpartition(b"\r\n0\r\n")
        return lines[:-2] if found and lines.endswith(b"\r\n\r\n") else b""

    # ── what arrives ──

    def data_received(self, data: bytes) -> None:
        if self.resting:
            # Bytes that nobody asked for would be taken for the next request's answer (aio-libs/aiohttp#13656).
            self.end()
            return
        self.received = True
        if self.tail is not None:
            self.tail = (self.tail + data)[-TRAILER_TAIL:]
        super().data_received(data)

    def set_exception(self, exc: Any, exc_cause: Any = None) -> None:
        # A malformed chunk sets the exception on the protocol only: whoever reads the body would wait for ever.
        payload = self._payload
        if payload is not None and not payload.is_eof():
            payload.set_exception(exc)
        if exc_cause is None:
            super().set_exception(exc)
        else:
            super().set_exception(exc, exc_cause)

    def connection_lost(self, exc: BaseException | None) -> None:
        # A reset in the middle of a body that only the connection's end delimits must not look like that end.
        payload = self._payload
        if exc is not None and payload is not None and not payload.is_eof():
            payload.set_exception(errors.UpstreamReset(repr(exc)))
        super().connection_lost(exc)
        if self.resting:
            self.end()


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

    def __init__(self, session: Callable[[], aiohttp.ClientSession], endpoint: Endpoint, clock: Clock) -> None:
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
