"""Certificates for a test, and a raw client that speaks TLS.

Rules of this file: certificates are trustme's, of one authority for the whole run; the client encrypts what it is told to
send and repairs nothing. How a connection ends is told as of a plain one; `close_notify` and FIN both are "fin".
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from typing import TYPE_CHECKING, Any

import trustme

import gateway.runtime.gateway  # noqa: F401 - here no guard watches the loop: reading all of it takes a while
from tests.kit import raw
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    import socket
    from pathlib import Path


@functools.cache
def authority() -> trustme.CA:
    """The authority that everybody in the tests trusts."""
    return trustme.CA()


def issue(
    folder: Path, *names: str, ca: trustme.CA | None = None, stem: str = "", **more: Any
) -> dict[str, str]:
    """A certificate for these names, as `certificates:` takes it."""
    leaf = (ca or authority()).issue_cert(*names, **more)
    stem = stem or names[0].replace("*", "any")
    cert, key = folder / f"{stem}.crt", folder / f"{stem}.key"
    cert.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(key)
    return {"cert": str(cert), "key": str(key)}


def write_authority(folder: Path, ca: trustme.CA | None = None, stem: str = "ca") -> str:
    """The authority's own certificate, as `client_ca:` takes it."""
    path = folder / f"{stem}.pem"
    (ca or authority()).cert_pem.write_to_path(path)
    return str(path)


def trusting(
    *, own: dict[str, str] | None = None, newest: ssl.TLSVersion | None = None
) -> ssl.SSLContext:
    """A client's context that trusts the authority; `own`: the certificate that it shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    if own is not None:
        context.load_cert_chain(own["cert"], own["key"])
    if newest is not None:
        context.maximum_version = newest
    return context


class SecureClient(raw.Client):
    """One encrypted connection of a client."""

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, name: str | None, session: Any
    ) -> None:
        super().__init__(sock)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._rest = b""
        """What `send_some` has encrypted and the socket has not taken yet."""
        self.prefix = b""
        """Goes out in the clear, in one segment with what is encrypted next."""
        context.check_hostname = context.check_hostname and name is not None
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=name, session=session
        )

    async def shake_hands(self) -> None:
        """Raises ssl.SSLError, ConnectionError."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    self.tls.do_handshake()
                except ssl.SSLWantReadError:
                    await self._flush()
                    await self._receive()
                else:
                    await self._flush()
                    return

    async def send(self, *pieces: bytes) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                for piece in pieces:
                    if piece:
                        self.tls.write(piece)
                    await self._flush()
        except (ConnectionResetError, BrokenPipeError):
            pass

    def send_some(self, data: bytes) -> int:
        if not self._rest:
            self.tls.write(data)
            self._rest = self._outgoing.read()
            taken = len(data)
        else:
            taken = 0
        with contextlib.suppress(BlockingIOError, ConnectionResetError, BrokenPipeError):
            self._rest = self._rest[self.sock.send(self._rest) :]
        return taken

    def half_close(self) -> None:
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self.sock.send(self._outgoing.read())
        super().half_close()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            data, self.prefix = self.prefix + self._outgoing.read(), b""
            await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def _receive(self) -> None:
        data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16)
        if not data:
            raise ConnectionAbortedError("the connection has ended")
        self._incoming.write(data)

    async def _more(self, most: int = 1 << 16) -> bool:
        if self.ending:
            return False
        while True:
            try:
                data = self.tls.read(most)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:  # close_notify behind our own
                self.ending = "fin"
                return False
            else:
                if not data:
                    self.ending = "fin"
                    return False
                self.buffer += data
                self.received += data
                return True
            try:
                await self._flush()
                await self._receive()
            except ConnectionAbortedError:
                self.ending = "fin"
                return False
            except (ConnectionResetError, BrokenPipeError):
                self.ending = "rst"
                return False

    async def skip(self, count: int, patience: float = PATIENCE) -> int:
        got = 0
        async with asyncio.timeout(patience):
            while got < count and await self._more(min(1 << 16, count - got)):
                got += len(self.buffer)
                self.buffer.clear()
                self.received.clear()
        return got


async def connect(
    address: str,
    context: ssl.SSLContext | None = None,
    name: str | None = "a.test",
    *,
    prefix: bytes = b"",
    session: Any = None,
    **where: Any,
) -> SecureClient:
    """Connect and shake hands; `prefix` goes before it in the clear. Raises ssl.SSLError, ConnectionError."""
    plain = await raw.connect(address, **where)
    client = SecureClient(plain.sock, context or trusting(), name, session)
    client.prefix = prefix
    try:
        await client.shake_hands()
    except BaseException:
        plain.close()
        raise
    return client
