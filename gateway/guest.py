"""A request that somebody else's server has parsed: under `web.run_app`, or mounted in another
application.

Rules of this file: such a server has no head deadline, may have decompressed the body, and does not
say when its client leaves. What can be made good is made good here, by reading aiohttp's privates;
what can not is said once, in the log.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.incoming import Incoming

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage

    from gateway.clock import Clock
    from gateway.exchange import Exchange

LOOK = 0.5
"""Seconds between two looks whether the client of a foreign server is still there."""
MISSING = (
    "no deadline for heads, no bound on a whole head, 400 in place of 414 and 431, "
    "no keep-alive after a chunked upload: use gateway.runner for all of these"
)
_REFRAMED = frozenset((b"content-encoding", b"content-length", b"transfer-encoding"))


class Guest(Incoming):
    """A request that a foreign server has parsed."""

    __slots__ = ("bytes_out", "status")

    def __init__(self, request: web.BaseRequest) -> None:
        super().__init__(
            _as_read(request), request._payload, request.protocol, None, asyncio.current_task()
        )
        self.status = 499
        self.bytes_out = 0


class Answered(web.StreamResponse):
    """What the foreign server is told of an answer that is out: enough for its access log and
    middlewares.
    """

    def __init__(self, guest: Guest, *, keep: bool) -> None:
        super().__init__(status=guest.status)
        self._keep = keep
        self._body_length = guest.bytes_out
        self._eof_sent = True

    @property
    def keep_alive(self) -> bool:
        """Whether the connection may carry another request."""
        return self._keep

    @property
    def body_length(self) -> int:
        """Bytes of the body."""
        return self._body_length

    async def prepare(self, request: Any) -> None:
        """Nothing is left to do."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to do."""


class Presence:
    """Cancels a task once the client of its foreign connection is gone, within a second."""

    __slots__ = ("_clock", "_protocol", "_task", "due")

    def __init__(self, guest: Guest, clock: Clock) -> None:
        self._protocol = guest.protocol
        self._task = guest._task
        self._clock = clock
        self.due = clock.now() + LOOK

    def expire(self) -> None:
        """The ticker: look."""
        if self._protocol.transport is None and self._task is not None:
            self.due = math.inf
            self._task.cancel()
        else:
            self.due = self._clock.now() + LOOK


def note(exchange: Exchange) -> None:
    """At the end of an exchange: what `Answered` will say."""
    guest = exchange.incoming
    if isinstance(guest, Guest):
        guest.status = exchange.status
        guest.bytes_out = exchange.bytes_out


def is_cancelled_by_its_server(request: web.BaseRequest) -> bool:
    """Whether the server cancels a handler whose client has left (`handler_cancellation`)."""
    server = request.protocol._manager
    return server is not None and server.handler_cancellation


def _as_read(request: web.BaseRequest) -> RawRequestMessage:
    """The head that fits the body as it will be read.

    A server that decompresses leaves the head as it came. Forwarded together they would be a lie:
    so the coding goes, and with it the length, which nobody knows any more.
    """
    message = request._message
    server = request.protocol._manager
    if not message.compression or not request.body_exists or server is None:
        return message
    if not server._kwargs.get("auto_decompress", True):
        return message
    headers = CIMultiDict(message.headers)
    headers.popall("Content-Encoding", None)
    headers.popall("Content-Length", None)
    headers["Transfer-Encoding"] = "chunked"
    kept = (field for field in message.raw_headers if field[0].lower() not in _REFRAMED)
    return message._replace(
        headers=CIMultiDictProxy(headers),
        raw_headers=(*kept, (b"Transfer-Encoding", b"chunked")),
        chunked=True,
        compression=None,
    )
