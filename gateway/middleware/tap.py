"""What is kept of an exchange while its bytes pass, so that a copy of it can be sent elsewhere.

Rules of this file: nothing here waits, raises or touches what passes; pieces are kept by reference. A body is kept up to
MOST_BODY and dropped whole beyond it; all bodies that the taps of one route hold have a bound together, MOST_HELD. Headers
are those of the wire: what the client's upstream was sent and what it answered, before any edit of the answer.

The data path calls, where `exchange.tap` is not None: `on_head` before a try is written, `on_request` for each piece of body
that comes from the client, `on_response` with a final head, `on_body` for each piece of its body. How the exchange has ended
is asked when it has (`mirror.ended`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gateway.middleware.compare import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.exchange import Exchange
    from gateway.observe.metrics import RouteMeter
    from gateway.upstream.upstream import Target

MARKER = b"X-Gateway-Mirror: 1\r\n"
"""By this the mirror's servers know a copy, such as not to send mail for it."""
MOST_BODY = 64 * 1024
"""Bytes of one body. A request with a larger one is not mirrored, a response with a larger one not compared."""
MOST_HELD = 8 * 1024 * 1024
"""Bytes that the copies of one route may hold together."""
_LONGEST = 300
"""Characters of a path that are shown."""


class Owner(Protocol):
    """The mirror that a tap gathers for."""

    meter: RouteMeter
    reads_body: bool
    """Whether answers are compared, bodies included."""
    held: int
    """Bytes of bodies that its taps hold."""

    def send(self, exchange: Exchange, shot: Shot, tap: Tap) -> None: ...


class Outgoing(Protocol):
    """A request head that can be finished for any target."""

    def head(self, target: Target, edits: bytes) -> bytes: ...


class Copy:
    """A body, as far as it is kept."""

    __slots__ = ("_mirror", "pieces", "size")

    def __init__(self, mirror: Owner) -> None:
        self._mirror = mirror
        self.pieces: list[bytes] | None = []
        """None: it was too large."""
        self.size = 0
        """Bytes held."""

    def add(self, data: bytes) -> None:
        """Keep `data`, or from now on nothing."""
        if self.pieces is None:
            return
        size = self.size + len(data)
        if size > MOST_BODY or self._mirror.held + len(data) > MOST_HELD:
            self.clear()
            self.pieces = None
            return
        self.pieces.append(data)
        self.size = size
        self._mirror.held += len(data)

    def clear(self) -> None:
        """Hold nothing, and begin anew."""
        self._mirror.held -= self.size
        self.size = 0
        self.pieces = []

    @property
    def body(self) -> bytes | None:
        """All of it; None if it was too large."""
        if self.pieces is not None and len(self.pieces) != 1:
            self.pieces = [b"".join(self.pieces)]
        return None if self.pieces is None else self.pieces[0]


class Tap:
    """Where the data path shows what passes. Nothing here waits or raises; each call costs the copy of a reference."""

    __slots__ = ("_answer", "_edits", "_fields", "_mirror", "_outgoing", "_request", "_status")

    def __init__(self, mirror: Owner) -> None:
        self._mirror = mirror
        self._outgoing: Outgoing | None = None
        self._edits = b""
        self._request = Copy(mirror)
        self._status = 0
        self._fields: Sequence[tuple[bytes, bytes]] = ()
        self._answer = Copy(mirror)

    def on_head(self, outgoing: Outgoing, edits: bytes) -> None:
        """A try begins: what is sent, and the lines that were made for it. The last try counts."""
        self._outgoing, self._edits = outgoing, edits

    def on_request(self, data: bytes) -> None:
        """A piece of the request's body was taken from the client, without framing; each piece once."""
        self._request.add(data)

    def on_response(self, status: int, fields: Sequence[tuple[bytes, bytes]]) -> None:
        """A final head came, with these fields as they came. It takes the place of an earlier try's."""
        self._status, self._fields = status, fields
        self._answer.clear()

    def on_body(self, data: bytes) -> None:
        """A piece of the response's body, without framing."""
        if self._mirror.reads_body:
            self._answer.add(data)

    def done(self, exchange: Exchange) -> None:
        """The exchange has ended, and both its bodies have passed whole: send the copy."""
        body = self._request.body
        if self._outgoing is None or not self._status or body is None:
            self.drop()
            return
        answer = Answer(self._status, self._fields, self._answer.body)
        shot = Shot(exchange, self._outgoing, self._edits, body, answer)
        self._mirror.send(exchange, shot, self)

    def drop(self) -> None:
        """There is nothing to copy, or nothing to compare with: the exchange did not end well."""
        self._mirror.meter.mirrored["dropped"] += 1
        self.clear()

    def clear(self) -> None:
        """Hold nothing any more. Idempotent."""
        self._request.clear()
        self._answer.clear()


class Shot:
    """One copy, ready to be sent."""

    __slots__ = ("_edits", "_outgoing", "answer", "body", "chunked", "method", "path", "request_id")

    def __init__(
        self, exchange: Exchange, outgoing: Outgoing, edits: bytes, body: bytes, answer: Answer
    ) -> None:
        self._outgoing = outgoing
        self._edits = edits
        self.body = body
        self.chunked = exchange.length is None
        self.answer = answer
        """What the client's own upstream has answered."""
        self.method = exchange.method
        self.path = exchange.path[:_LONGEST]
        self.request_id = exchange.request_id

    def framed(self, target: Target) -> bytes:
        """Head and body for `target`."""
        head = self._outgoing.head(target, self._edits + MARKER)
        if not self.chunked:
            return head + self.body
        if not self.body:
            return head + b"0\r\n\r\n"
        return b"%b%x\r\n%b\r\n0\r\n\r\n" % (head, len(self.body), self.body)
