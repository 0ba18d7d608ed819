"""What comes before HTTP on a connection: a PROXY header, a TLS handshake, or both in this order.

Rules of this file: whoever is here is nobody yet, so time (`header_timeout`) and number (`limits.connections`) are bounded
as for those who are in, and what fails is counted and said at debug level: strangers must not be able to fill a log. What a
trusted sender says in a PROXY header holds for all later rules: from here on it is the peer.
"""

from __future__ import annotations

import logging
import ssl
from asyncio import BaseTransport, Protocol, Transport
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from gateway import errors, proxy_protocol
from gateway.encrypted import Encrypted

if TYPE_CHECKING:
    import typing
    from collections.abc import Callable

    from gateway.certificates import Encryption
    from gateway.clock import Timer
    from gateway.edge import ClientConnection
    from gateway.proxy_protocol import Senders
    from gateway.server import Server

    class Tls(typing.Protocol):
        """What a handshake is made with: runtime/tls.py."""

        @property
        def context(self) -> ssl.SSLContext: ...

        def agreed(self, ssl_object: ssl.SSLObject) -> Encryption: ...


log = logging.getLogger("gateway.door")

LINGER = 1.0
"""Seconds in which a client that was refused may read why before the connection is closed under what it still sends."""


@dataclass(frozen=True, slots=True)
class Entrance:
    """What a listener wants to see before HTTP."""

    tls: Tls | None
    senders: Senders | None
    """Who has to begin with a PROXY header; None: nobody may."""
    failed: Callable[[str], None] = lambda _reason: None
    """Called for each connection that does not get in, with one word."""


class Door(Protocol):
    """A connection of which nothing is known yet but its socket."""

    def __init__(self, server: Server, entrance: Entrance) -> None:
        self._server = server
        self._entrance = entrance
        self._transport: Transport | None = None
        self._peer = ""
        self._address = ""
        """The peer, or whom it speaks for."""
        self._admitted = True
        self._counted: str | None = None
        """The address under which it is counted."""
        self._timer: Timer | None = None
        self._awaits_header = False
        self._data = b""
        self._told = False
        self.since = 0.0
        """When it was accepted."""

    # ── asyncio calls ──

    def connection_made(self, transport: BaseTransport) -> None:
        server = self._server
        self._transport = cast("Transport", transport)
        name = transport.get_extra_info("peername")
        self._peer = self._address = name[0] if isinstance(name, tuple) else "unix"
        senders = self._entrance.senders
        self._awaits_header = senders is not None and senders.trust(self._peer)
        self._count("" if self._awaits_header else self._peer)
        server.doors.add(self)
        self.since = server.clock.now()
        if server.admission.total > server.admission.ceiling:
            server.on_dropped()
            self.close()
        elif not self._awaits_header and self._entrance.tls is None:
            self._let_in(self._transport, b"")
        elif server.limits.header_timeout is not None:
            self._timer = server.clock.call_later(server.limits.header_timeout, self._late)

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._data += data
        if self._awaits_header:
            self._read_header()
        elif self._entrance.tls is not None:
            self._greet(self._entrance.tls)

    def connection_lost(self, exc: BaseException | None) -> None:  # noqa: ARG002
        if self._transport is not None:
            self._fail("proxy_header" if self._awaits_header else "handshake", "the client left")
        self._forget()

    # ── a header, a handshake, a client ──

    def _read_header(self) -> None:
        try:
            header = proxy_protocol.read(self._data)
        except proxy_protocol.Malformed as error:
            self._fail("proxy_header", str(error))
            self.close()
            return
        if header is None:
            return
        self._awaits_header = False
        self._data = self._data[header.size :]
        if header.source is not None:
            self._address = header.source
        self._count(self._address)
        if self._entrance.tls is None:
            assert self._transport is not None
            self._let_in(self._transport, self._data)
        elif self._data:
            self._greet(self._entrance.tls)

    def _greet(self, tls: Tls) -> None:
        """Shake hands, or say why not to a client that speaks plain HTTP. No handshake begins with a capital letter."""
        raw, data = self._transport, self._data
        assert raw is not None
        self._data = b""
        if data[:1].isalpha() and data[:1].isupper():
            self._fail("plain_http", "")
            self._let_in(raw, data, errors.PlainHttp())
            return
        connection = Encrypted(tls.context, raw, agreed=self._agreed, failed=self._refused)
        raw.set_protocol(connection)
        connection.data_received(data)

    def _agreed(self, connection: Encrypted) -> ClientConnection:
        tls = self._entrance.tls
        assert tls is not None
        connection.encryption = tls.agreed(connection.tls)
        return self._client()

    def _refused(self, error: BaseException | None) -> None:
        """The handshake has failed; the alert is on its way."""
        if error is None:
            self.connection_lost(None)
            return
        reason = "client_certificate" if _is_of_certificate(error) else "handshake"
        self._fail(reason, str(error))
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        # Closed under what it still sends, a client would see a reset and never read the alert.
        transport.write_eof()
        self._wait(LINGER, self.close)

    def _let_in(
        self, raw: Transport, data: bytes, unwelcome: errors.GatewayError | None = None
    ) -> None:
        client = self._client()
        if unwelcome is not None:
            client.admitted, client.unwelcome = False, unwelcome
        raw.set_protocol(client)
        client.connection_made(raw)
        if data:
            client.data_received(data)

    def _client(self) -> ClientConnection:
        """The connection as it is from now on, which is counted already."""
        client = self._server.client()
        client.address, client.admitted = self._address, self._admitted
        self._counted = self._transport = None
        self._forget()
        return client

    # ── the end ──

    def close(self) -> None:
        """Let it go, whatever it is at."""
        if self._transport is not None:
            transport, self._transport = self._transport, None
            transport.abort()
            self._forget()

    def _late(self) -> None:
        header = self._awaits_header
        self._fail("proxy_header" if header else "handshake", "it took too long")
        self.close()

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._server.clock.call_later(seconds, then)

    def _count(self, address: str) -> None:
        admission = self._server.admission
        if self._counted is not None:
            admission.leave(self._counted)
        self._counted = address
        self._admitted = admission.enter(address)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._counted is not None:
            self._server.admission.leave(self._counted)
            self._counted = None
        self._server.doors.discard(self)

    def _fail(self, reason: str, why: str) -> None:
        """Count and say it, once."""
        if self._told:
            return
        self._told = True
        self._entrance.failed(reason)
        log.debug(
            "not_let_in",
            extra={
                "listener": self._server.listener,
                "peer": self._peer,
                "client": self._address,
                "reason": reason,
                "why": why,
            },
        )


def _is_of_certificate(error: Any) -> bool:
    """Whether a handshake failed for what the client has sent, or not sent, as its certificate."""
    return isinstance(error, ssl.SSLCertVerificationError) or (
        getattr(error, "reason", None) == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
    )
