"""A parsed request with its connection, and what aiohttp is told when it is answered.

Rules of this file: what edge.py hands in and takes back, and nothing that has a state of its own. Each private name of
aiohttp that is touched has a test in tests/test_aiohttp_contract.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD

from gateway import errors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import StreamReader
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.web_protocol import RequestHandler

    from gateway.exchange import Exchange

_UNREAD = 30.0
"""Seconds for which a closing connection waits for a client to acknowledge what it was sent."""


class Incoming:
    """A parsed request with its connection: what proxy.py reads of aiohttp.

    Stands in for aiohttp's BaseRequest, whose constructor takes apart the URL and asks the transport for names that nobody
    here reads.
    """

    __slots__ = ("_task", "message", "payload", "protocol")

    def __init__(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        _writer: object,
        task: asyncio.Task[None] | None,
    ) -> None:
        self.message = message
        self.payload = payload
        self.protocol = protocol
        self._task = task

    @classmethod
    def of(cls, request: web.BaseRequest) -> Incoming:
        """The same of a request that somebody else's Application or runner made."""
        return cls(request._message, request._payload, request.protocol, None, None)

    @property
    def has_body(self) -> bool:
        """Whether the request has a body, be it empty of bytes but chunked."""
        return self.payload is not EMPTY_PAYLOAD

    def take_over(self) -> bytes:
        """The connection is no longer aiohttp's. Returns what the client has sent behind its upgrade request."""
        early, self.protocol._message_tail = self.protocol._message_tail, b""
        return early

    def _finish(self) -> None:
        """aiohttp: the handler has returned. If the connection is kept, it is idle from now on."""
        client: Any = self.protocol
        client.answered_at = client.clock.now()

    def _cancel(self, error: BaseException) -> None:
        """aiohttp: the connection is gone; whoever reads the body must hear of it."""
        self.payload.set_exception(LeftDuringBody(str(error)))


class LeftDuringBody(errors.ClientClosed, TimeoutError):
    """The client left while its body was read. aiohttp logs what it finds on a payload unless it is a TimeoutError.

    In this order of bases: OSError's constructor would leave `detail` and `headers` out.
    """


class Sent(web.StreamResponse):
    """Tells aiohttp that the reply is out already; two instances, KEEP and END, serve all requests."""

    def __init__(self, *, keep: bool) -> None:  # no super().__init__: there is nothing to hold
        self._keep = keep

    @property
    def keep_alive(self) -> bool:
        """Whether the connection may carry another request."""
        return self._keep

    async def prepare(self, request: Any) -> None:
        """Nothing is left to do, but the end of a connection must not wait for a client that reads no more."""
        if not self._keep and request.protocol.transport is not None:
            bound_unread(request.protocol.transport)

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to do."""


KEEP = Sent(keep=True)
END = Sent(keep=False)


class Answers(Protocol):
    """What answers requests: proxy.Proxy, which says more of each."""

    def begin(self, incoming: Incoming, arrived: Callable[[], None] | None = None) -> Exchange: ...

    def at_once(self, exchange: Exchange) -> Sent | None: ...

    def answer(self, exchange: Exchange) -> Awaitable[Sent]: ...

    def abandon(self, exchange: Exchange) -> None: ...

    def end(self, exchange: Exchange) -> None: ...

    def refuse(self, incoming: Incoming, error: errors.GatewayError) -> Awaitable[Sent]: ...


class BadBody(errors.BadRequest, TimeoutError):
    """A broken chunk. A TimeoutError only for aiohttp's log: see LeftDuringBody."""


def without_frames(task: asyncio.Task[None]) -> None:
    """Let go of a cancelled task's frames. Where aiohttp reads what a client still sends, one of them knows its task: a
    ring, which would hold what was read.
    """
    if task.cancelled():
        with contextlib.suppress(asyncio.CancelledError):
            task.exception()


def bound_unread(transport: asyncio.BaseTransport) -> None:
    """Let the kernel end a closing connection whose peer takes nothing more.

    No code of ours runs for it any more, and it would wait for ever. Only when it closes: the kernel also ends a connection
    whose peer answers but does not read, and for how long a client may pause is for the time-outs of its route to say.
    """
    sock = transport.get_extra_info("socket")
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is None or sock is None or transport.is_closing():
        return
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, option, int(_UNREAD * 1000))


def reset(transport: asyncio.Transport) -> None:
    """Break the connection so that the peer sees a reset: what it has can not be taken for the whole."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
