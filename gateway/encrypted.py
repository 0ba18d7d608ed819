"""TLS on a connection that has been accepted: a transport for whom it is for, a protocol for the socket's own transport.

Rules of this file: every answer to "how much", "is it closing", "may I read" is the socket's transport's own, so that
whatever holds of a plain connection holds of this one; nothing is buffered here but the part of a record that is not
complete. asyncio's and uvloop's own TLS keep a second buffer whose size nobody can ask for, wait for the client's
`close_notify` before they let a connection go, and close a failed handshake without the alert that says why.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gateway.certificates import Encryption

_PIECE = 256 * 1024
"""Bytes that are asked for at once; TLS gives a record, 16 KiB at most."""


class Encrypted(asyncio.Transport, asyncio.Protocol):
    """One encrypted connection. Give it to the socket's transport as its protocol, and feed it what has come already."""

    def __init__(
        self,
        context: ssl.SSLContext,
        raw: asyncio.Transport,
        *,
        agreed: Callable[[Encrypted], asyncio.Protocol],
        failed: Callable[[BaseException | None], None],
    ) -> None:
        """`agreed`: called once when the handshake is over; returns the protocol that the connection is for.

        `failed`: called in its place, with why; the alert has been written, and the connection is still open. None: it is
        gone.
        """
        super().__init__()
        self.raw = raw
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._agreed = agreed
        self._failed = failed
        self._protocol: asyncio.Protocol | None = None
        """Whom it is for; None: the handshake is not over."""
        self._ended = False
        """Nothing more is read: the client has sent its last, it is closing, or its handshake has failed."""
        self._half_open = False
        """The client has sent its last, but is still to be answered."""
        self._said_end = False
        """Our close_notify is out."""
        self.encryption: Encryption | None = None
        """What the handshake has agreed upon."""

    # ── the socket's transport calls ──

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        self._incoming.write(data)
        if self._protocol is None and not self._shake():
            return
        self._read()

    def eof_received(self) -> bool:
        if self._protocol is not None and not self._ended:
            self._ended = True
            self._half_open = bool(self._protocol.eof_received())
        return self._half_open

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        if self._protocol is not None:
            self._protocol.connection_lost(exc)
        else:
            self._failed(None)

    def pause_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.resume_writing()

    def _shake(self) -> bool:
        """Go on with the handshake; whether it is over."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as error:
            self._ended = True
            self._flush()  # the alert
            self._failed(error)
            return False
        self._flush()
        self._protocol = self._agreed(self)
        self._protocol.connection_made(self)
        return True

    def _read(self) -> None:
        """Pass on what has come, all in one, as a socket's transport would."""
        pieces: list[bytes] = []
        whole = self._decrypt(pieces)
        self._flush()
        protocol = self._protocol
        assert protocol is not None
        if pieces:
            protocol.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if not whole:
            self.abort()
        elif self._ended and not self.raw.is_closing():
            self._half_open = bool(protocol.eof_received())
            if not self._half_open:
                self.close()

    def _decrypt(self, pieces: list[bytes]) -> bool:
        """Decrypt what there is; False: it is broken."""
        tls, incoming = self.tls, self._incoming
        try:
            while incoming.pending or tls.pending():
                piece = tls.read(_PIECE)
                if not piece:  # close_notify
                    self._ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # close_notify behind our own
            self._ended = True
        except ssl.SSLError:
            return False
        return True

    def _flush(self) -> None:
        if self._outgoing.pending and not self.raw.is_closing():
            self.raw.write(self._outgoing.read())

    # ── whom it is for calls ──

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        raw = self.raw
        if not data or self._said_end or raw.is_closing():
            return
        try:
            sent = self.tls.write(data)
            if sent < len(data):
                rest = memoryview(data)
                while sent < len(rest):
                    sent += self.tls.write(rest[sent:])
        except ssl.SSLError:
            raw.abort()
            return
        raw.write(self._outgoing.read())

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """The same of several pieces, in one."""
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        """Tell the client that this is the end, and close once it has been sent everything. Idempotent."""
        if not self.raw.is_closing():
            self._ended = True
            self._say_end()
            self.raw.close()

    def _say_end(self) -> None:
        """Send close_notify, once. The client's own is not waited for (RFC 8446 section 6.1)."""
        if not self._said_end and self._protocol is not None:
            self._said_end = True
            with contextlib.suppress(ssl.SSLError):
                self.tls.unwrap()
            self._flush()

    def abort(self) -> None:
        """Close at once; what was not sent is lost."""
        self._ended = True
        self.raw.abort()

    def is_closing(self) -> bool:
        """Whether it is closing, or closed."""
        return self.raw.is_closing()

    def can_write_eof(self) -> bool:
        """Yes: each direction ends by itself (RFC 8446 section 6.1)."""
        return True

    def write_eof(self) -> None:
        """Tell the client that nothing more will come; it may still send."""
        if not self.raw.is_closing():
            self._say_end()
            self.raw.write_eof()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Whom it is for from now on."""
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Whom it is for."""
        assert self._protocol is not None
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As of the socket's transport, and `ssl_object`, `sslcontext` and `encryption`."""
        if name == "encryption":
            return self.encryption
        if name == "ssl_object":
            return self.tls
        if name == "sslcontext":
            return self.tls.context
        return self.raw.get_extra_info(name, default)

    def is_reading(self) -> bool:
        """Whether what comes is passed on."""
        return self.raw.is_reading()

    def pause_reading(self) -> None:
        """Let nothing more come."""
        self.raw.pause_reading()

    def resume_reading(self) -> None:
        """Let it come again."""
        self.raw.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Bytes that the socket's transport holds, encrypted."""
        return self.raw.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Those of the socket's transport."""
        return self.raw.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set those of the socket's transport."""
        self.raw.set_write_buffer_limits(high, low)
