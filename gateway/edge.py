"""aiohttp's server, repaired: the only file that knows its internals.

Rules of this file: repairs and limits of connections, no policy of requests. A ClientConnection is aiohttp's RequestHandler
with what it lacks as the outermost hop: a deadline for heads, a bound on their whole size, our error answers, an end
to idle connections. Each private name that is touched has a test in tests/test_aiohttp_contract.py.

Two bugs of aiohttp are kept out here. The C parser carries the last trailer of a chunked request over into the next head
on that connection, so `chunked_end_is_clean` must hold before it is kept. Bytes behind an upgrade other than websocket
are lost, so such a request is answered with `Connection: close`.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from gateway import errors
from gateway.certificates import Encryption
from gateway.heads import apart, named, parser
from gateway.incoming import KEEP, BadBody, Incoming, bound_unread, without_frames

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from gateway.certificates import ClientCertificate
    from gateway.clock import Timer
    from gateway.exchange import Exchange
    from gateway.inbound import Known
    from gateway.server import Server

log = logging.getLogger("gateway.edge")

SETTLING = 1.0
"""Seconds in which the first request of a new connection may be on its way."""
_LOOK = 60.0
"""Seconds after which a connection is looked at again though nothing is due."""
_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"\r\n0\r\n\r\n"


class ClientConnection(RequestHandler):
    """One connection of a client."""

    __slots__ = (
        "_began_head",
        "_beginning",
        "_body",
        "_chunked_tail",
        "_ending",
        "_head",
        "_limits",
        "_made",
        "_reading_again",
        "_timer",
        "_trailed",
        "address",
        "admitted",
        "answered_at",
        "bytes_lost",
        "clock",
        "handled",
        "known",
        "long_head",
        "server",
        "tls",
        "under_way",
        "unwelcome",
    )  # fmt: skip

    def __init__(self, server: Server, **options: Any) -> None:
        super().__init__(server, **options)
        self.server = server
        self.clock = server.clock
        self._limits = server.limits
        self._began_head = 0.0
        """When a head that is not complete began; 0.0: none is under way."""
        self._head = bytearray()
        """What has come of it; at most as much as a head may be, and a segment."""
        self._ending = False
        """What follows is not parsed: an answer that ends the connection stands at the end of the queue."""
        self._reading_again = False
        self._body = EMPTY_PAYLOAD
        """Body of the newest request."""
        self._chunked_tail: bytes | None = None
        """Last bytes on the wire of a chunked body that is under way; None: no such body."""
        self._trailed = False
        """Behind some chunked body came what may have been a trailer: later heads are not to be trusted."""
        self._timer: Timer | None = None
        self._made = 0.0
        self.answered_at = 0.0
        """When the handler of the last request returned."""
        self.bytes_lost = False
        """aiohttp has thrown away what came behind an upgrade request: it must not be accepted."""
        self.address = ""
        """The peer's address, `unix` on a unix socket."""
        self.tls: Encryption | None = None
        """What was agreed upon where it is encrypted."""
        self.admitted = True
        self.unwelcome: errors.GatewayError | type[errors.GatewayError] = errors.TooManyConnections
        """What the first request is told where it is not admitted."""
        self.handled = 0
        """Requests that were answered on this connection; counted only where they are limited."""
        self._beginning = False
        self.known: Known | None = None
        """What the fields of the last head came to."""
        self.under_way: Exchange | None = None
        """What has begun and is awaited by no task yet; its head is still the first of `_messages`."""
        self.long_head = False
        """A segment was longer than a head may be: from now on each head is measured."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not self.address:  # else the door has asked, and counted it
            peer = transport.get_extra_info("peername")
            self.address = peer[0] if isinstance(peer, tuple) else "unix"
            self.admitted = self.server.admission.enter(self.address)
        secure = transport.get_extra_info("ssl_object")
        if secure is not None:
            self.tls = transport.get_extra_info("encryption") or Encryption.of(secure)
        self._made = self.clock.now()
        super().connection_made(transport)
        if self.server.admission.total > self.server.admission.ceiling:
            self.server.on_dropped()
            self.force_close()
            return
        self._rearm(self._limits.header_timeout)

    @property
    def certificate(self) -> ClientCertificate | None:
        """The client's, if it has sent one that the listener accepts."""
        return None if self.tls is None else self.tls.certificate

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._manager is not None:
            self.server.admission.leave(self.address)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self.under_way is not None:
                exchange, self.under_way = self.under_way, None
                self.server.proxy.abandon(exchange)
            if self._waiter is None and self._task_handler is not None:
                self._task_handler.add_done_callback(without_frames)
            self._body = EMPTY_PAYLOAD  # which knows its connection
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if (
            self._upgraded
            or self._ending
            or self._force_close
            or self._close
            or self._parser is None
        ):
            self._not_parsed(data)
            return
        body = self._body
        between = body is EMPTY_PAYLOAD or body.is_eof()  # the bytes may be its last
        try:
            messages, upgraded, behind = self._parser.feed_data(data)
        except HttpProcessingError as error:
            # Without its frames, which know this connection: a ring otherwise.
            broken = _ErrInfo(status=400, exc=error.with_traceback(None), message=error.message)
            messages, upgraded, behind = [(broken, EMPTY_PAYLOAD)], False, b""
        if messages:
            self._request_count += len(messages)
            self._messages.extend(messages)
            if len(self._messages) >= self._max_msg_queue_size and not self._buffer_paused:
                self._pause_reading_for_buffer()
        if upgraded:
            self._upgraded = True
            self._message_tail = behind
        if self._chunked_tail is not None:
            self._follow_chunks(self._chunked_tail + data, alone=not messages)
        if messages:
            self._heads_complete(data, len(messages), between)
        elif between and data and not upgraded:
            self._head_grows(data)
        # aiohttp's task sleeps on where it can: most requests are answered without it.
        if self._waiter is not None and self._messages and not self._beginning:
            self._proceed()

    def _not_parsed(self, data: bytes) -> None:
        """What comes behind an upgrade is kept by aiohttp; what comes behind the end, by nobody."""
        if not self._ending:
            super().data_received(data)

    # ── answers without a task ──

    def _proceed(self) -> None:
        """Begin what has come, and send what is there at once; aiohttp's task is woken for what has to be awaited."""
        while self._messages and self.under_way is None:
            waiter = self._waiter
            if waiter is None or waiter.done():
                return
            message, payload = self._messages[0]
            if (
                isinstance(message, _ErrInfo)
                or not (payload is EMPTY_PAYLOAD or payload.is_eof())
                or message.upgrade
                or self._buffer_paused
            ):
                waiter.set_result(None)
                return
            proxy = self.server.proxy
            incoming = Incoming(message, payload, self, None, None)
            self._beginning = True  # to read its body may call data_received
            self.under_way = exchange = proxy.begin(incoming, self._arrived)
            self._beginning = False
            if exchange.tells:
                return
            self._settle()

    def _arrived(self) -> None:
        """Something has come of what is under way."""
        if self._waiter is None:
            return  # a head that is too long has woken aiohttp's task: it has taken this one, and is about to await it
        self._settle()
        if self._messages:
            self._proceed()

    def _settle(self) -> None:
        """Send the answer if it can be sent at once; else let it be awaited."""
        exchange, waiter = self.under_way, self._waiter
        assert exchange is not None
        try:
            sent = self.server.proxy.at_once(exchange)
        except Exception:
            log.exception("handler_failed")
            self.force_close()
            return
        if sent is None:
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
            return
        self.under_way = None
        self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        self.answered_at = exchange.ended
        if sent is not KEEP:
            self.force_close()

    def _heads_complete(self, data: bytes, fresh: int, between: bool) -> None:
        message, payload = self._messages[-1]
        if (
            fresh == 1
            and payload is EMPTY_PAYLOAD
            and not self._head
            and len(data) <= self._limits.request_head
            and data.endswith(_HEAD_END)
            and not isinstance(message, _ErrInfo)
            and not message.upgrade
        ):
            self._body = payload  # the usual request: one segment, no body
            return
        begun = bytes(self._head)
        if len(begun) + len(data) > self._limits.request_head:
            self._suspect(data, alone=fresh == 1 and not begun)
        self._began_head = 0.0
        self._head.clear()
        if fresh > 1:
            # Bytes stand behind each of these but the last.
            behind = [self._messages[at][0] for at in range(-fresh, -1)]
            self._trailed = self._trailed or any(getattr(one, "chunked", False) for one in behind)
        if isinstance(message, _ErrInfo):
            self._is_broken(begun + data, whole=between)
            return
        self._body = payload
        if message.chunked:
            self._follow_chunks(data, alone=True)
        elif payload is EMPTY_PAYLOAD and not self._upgraded:
            if message.upgrade:
                self._keep_behind_upgrade(data, fresh)
            elif not data.endswith(_HEAD_END):
                # The next head has begun in the same segment.
                self._head_grows(data[data.rfind(_HEAD_END) + len(_HEAD_END) :])

    def _is_broken(self, data: bytes, *, whole: bool) -> None:
        """`whole`: `data` begins where a head begins."""
        # A bad chunk in a later segment: aiohttp queues the error behind the request whose body waits for ever.
        if not self._body.is_eof():
            self._body.set_exception(BadBody("the body's framing is broken"))
        elif whole and not (self._reading_again or self._buffer_paused):
            parts = apart(data)
            if len(parts) > 1:
                self._reading_again = True
                self._read_again(parts)
                self._reading_again = False

    def _suspect(self, data: bytes, *, alone: bool) -> None:
        """A segment is longer than a head may be: is the head? Where its body stands behind it, that is seen at once."""
        end = data.find(_HEAD_END) + len(_HEAD_END)
        if not alone or not len(_HEAD_END) <= end <= self._limits.request_head:
            self.long_head = True

    def _read_again(self, parts: list[bytes]) -> None:
        """aiohttp forgets the requests before a broken one in the same segment: they are owed their answers."""
        self._messages.pop()
        self._request_count -= 1
        self._parser = parser(self, self._loop, self._limits)
        for part in parts:
            if not (self._messages and isinstance(self._messages[-1][0], _ErrInfo)):
                self.data_received(part)

    def resume_reading(self, resume_parser: bool = True) -> None:
        # aiohttp asks for it at each read of a body, paused or not, and would parse nothing once more.
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def _follow_chunks(self, data: bytes, *, alone: bool) -> None:
        """Note how a chunked body ends; `alone`: no head came in the same segment."""
        self._chunked_tail = data[-len(_LAST_CHUNK) :]
        if self._body.is_eof():
            self._trailed = self._trailed or not alone or self._chunked_tail != _LAST_CHUNK
            self._chunked_tail = None

    def _keep_behind_upgrade(self, data: bytes, fresh: int) -> None:
        """aiohttp keeps what follows an upgrade to websocket only, and parses it if the upgrade is declined."""
        self._upgraded = True
        self.bytes_lost = fresh > 1 or data.find(_HEAD_END) + len(_HEAD_END) != len(data)

    def _head_grows(self, data: bytes) -> None:
        if not self._began_head:
            if not data.strip(b"\r\n"):
                return  # empty lines before a request line (RFC 9112 section 2.2)
            self._began_head = self.clock.now()
            self._rearm(self._limits.header_timeout)
        self._head += data
        if len(self._head) > self._limits.request_head:
            self._queue_error(errors.HeadTooLarge())

    def chunked_end_is_clean(self) -> bool:
        """Whether every chunked body so far has ended, without trailers and with nothing behind it."""
        return self._chunked_tail is None and not self._trailed

    # ── deadlines ──

    def _rearm(self, seconds: float | None) -> None:
        """Look again in `seconds`, and never later than the connection may be idle."""
        if self._timer is not None:
            self._timer.cancel()
        idle = self._limits.keepalive_idle
        wait = min(_LOOK if seconds is None else seconds, _LOOK if idle is None else idle)
        self._timer = self.clock.call_later(wait, self._overdue)

    def _overdue(self) -> None:
        """The one timer of a connection: half a head, no head, or idle for too long; else look again later."""
        self._timer = None
        if self._force_close or self.transport is None:
            return
        now = self.clock.now()
        due = self._due()
        if due > now:
            self._rearm(min(due - now, _LOOK))
        elif self._began_head:
            self._queue_error(errors.ClientTimeout("the request head did not arrive in time"))
        else:
            self.force_close()

    def _due(self) -> float:
        """When the wait for what the client owes is over."""
        head, idle = self._limits.header_timeout, self._limits.keepalive_idle
        if self._began_head:
            return math.inf if head is None else self._began_head + head
        if self._waiter is None or self._waiter.done() or self.under_way is not None:
            return math.inf
        if self._request_count == 0:
            return math.inf if head is None else self._made + head
        return math.inf if idle is None else self.answered_at + idle

    def _process_keepalive(self) -> None:
        """aiohttp's own idle timer: `_overdue` does its work, on our clock."""
        self._keepalive_handle = None

    # ── the end ──

    def force_close(self) -> None:
        """Close it, and wait for the client to read what was sent only so long."""
        if self.transport is not None:
            bound_unread(self.transport)
        super().force_close()

    @property
    def idle(self) -> bool:
        """Nothing is under way, not even the first bytes of a request. A new connection counts as busy for a while."""
        waiter = self._waiter
        if waiter is None or waiter.done() or self._messages or self._began_head:
            return False
        return self._request_count > 0 or self.clock.now() - self._made >= SETTLING

    def close_if_idle(self) -> None:
        """Close it if nothing is under way. aiohttp's own `close` makes a busy one deaf to the rest of an upload."""
        if self.idle:
            self.force_close()

    def cut(self) -> None:
        """Cancel what is under way; its answer, if one can still be given, ends the connection."""
        if self.under_way is not None:
            self.server.proxy.end(self.under_way)
        elif self._task_handler is not None and self._request_in_progress:
            self._task_handler.cancel()
        else:
            self.force_close()

    # ── our answers to what is no request ──

    def _queue_error(self, error: errors.GatewayError) -> None:
        """Answer `error` to whatever is coming in, behind what is owed before it; nothing that follows is parsed."""
        self._began_head = 0.0
        self._head.clear()
        self._ending = True
        self._messages.append((_ErrInfo(error.status, error, ""), EMPTY_PAYLOAD))
        self._request_count += 1
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _make_error_handler(
        self, err_info: _ErrInfo
    ) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        error = named(err_info.exc)

        async def refuse(request: Any) -> web.StreamResponse:
            return await self.server.proxy.refuse(request, error)

        return refuse

    def handle_error(
        self,
        request: Any,  # noqa: ARG002
        status: int = 500,  # noqa: ARG002
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """The handler raised, which is a bug: it answers every failure itself. Say so and break the connection."""
        log.error("handler_failed", exc_info=exc)
        self.force_close()
        raise ConnectionError("handler failed")
