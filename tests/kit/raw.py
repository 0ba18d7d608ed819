"""A client that sends exactly the bytes it is given and reads exactly the bytes that come.

Rules of this file: it knows how a response is framed and nothing else; it never sends, adds or
repairs anything by itself.
"""

from __future__ import annotations

import asyncio
import socket

from tests.kit.wire import PATIENCE, Ended, Message, Wire

__all__ = ["Client", "Ended", "Message", "connect"]


class Client(Wire):
    """One connection of a client."""

    async def response(self, method: str = "GET", patience: float = PATIENCE) -> Message:
        """The next final response; the 1xx before it are in `interim`.

        A body that only the connection's end delimits has framing "close" and `ended` "fin" or
        "rst". Raises Ended if the connection ends before the response is complete.
        """
        interim: list[Message] = []
        while True:
            message = await self.head(patience)
            if message.status >= 200 or message.status == 101:
                break
            interim.append(message)
        message.interim = interim
        if message.status != 101:
            await self.body(message, method, patience)
        return message

    async def head(self, patience: float = PATIENCE) -> Message:
        """The next head, be it 1xx."""
        head = await self.until(b"\r\n\r\n", patience)
        assert head.startswith(b"HTTP/1."), f"not a status line: {head[:200]!r}"
        return Message(raw=head, head=head)

    async def body(
        self, message: Message, method: str = "GET", patience: float = PATIENCE
    ) -> bytes:
        """Read the body of a response whose head was read."""
        if method == "HEAD" or message.status in (204, 304):
            return b""
        codings = message.all("transfer-encoding")
        lengths = message.all("content-length")
        assert not (codings and lengths), "a response with both framings"
        if codings:
            assert codings == [b"chunked"], codings
            message.framing = "chunked"
            raw, message.body, message.trailers = await self.chunked()
            message.raw += raw
        elif lengths:
            assert len(lengths) == 1, lengths
            message.framing = "length"
            message.body = await self.exactly(int(lengths[0]), patience)
            message.raw += message.body
        else:
            message.framing = "close"
            message.body = await self.rest(patience)
            message.raw += message.body
            message.ended = self.ending
        return message.body

    async def ask(self, *pieces: bytes, method: str = "") -> Message:
        """Send, then read one response."""
        await self.send(*pieces)
        word = method or pieces[0].lstrip(b"\r\n").split(b" ", 1)[0].decode("latin-1")
        return await self.response(word)


async def connect(
    address: int | str, *, receive_buffer: int | None = None, source: str | None = None
) -> Client:
    """Connect to a port of 127.0.0.1, to `host:port`, or to `unix:/path`.

    `receive_buffer`: bytes of SO_RCVBUF, small for a client that must not take much unread.
    `source`: local address.
    """
    if isinstance(address, int):
        address = f"127.0.0.1:{address}"
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        where: str | tuple[str, int] = address.removeprefix("unix:")
    else:
        host, _, port = address.rpartition(":")
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        where = (host.strip("[]"), int(port))
        if source is not None:
            sock.bind((source, 0))
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(PATIENCE):
            await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return Client(sock)
