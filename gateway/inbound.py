"""A parsed request head becomes an Exchange, or a refusal.

Rules of this file: what aiohttp's parser lets through and a gateway must not is refused here, before anything is decided
(RFC 9112 sections 3 and 6). Pure: no waiting, no configuration but limits. The bytes of the target stay as they came.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aiohttp.http import HttpVersion10, HttpVersion11

from gateway import errors, refusals
from gateway.certificates import Encryption
from gateway.edge import ClientConnection
from gateway.exchange import Exchange
from gateway.headers import content_length

if TYPE_CHECKING:
    from aiohttp.http_parser import RawRequestMessage

    from gateway.incoming import Incoming
    from gateway.snapshot import Snapshot

_ABSOLUTE = re.compile(r"https?://([^/?#@\\]+)(.*)", re.IGNORECASE | re.DOTALL)
_USER = re.compile(r"//[^/]*@")
_valid_hosts: set[str] = set()
"""Host values that were looked at and found valid; bounded."""
_REMEMBERED = 5_000
_LONGEST_HOST = 256
_LARGEST_KNOWN = 8 * 1024
"""Bytes of a head that a connection remembers at most, times the routes that it asks: clients may open many and rest."""
_UNUSUAL = frozenset(("CONNECT", "TRACE", "OPTIONS"))


def begin(incoming: Incoming, snapshot: Snapshot, now: float) -> Exchange:
    """The exchange of a head, before anything of it was checked."""
    exchange = Exchange()
    message = incoming.message
    exchange.incoming = incoming
    exchange.snapshot = snapshot
    exchange.route = snapshot.unmatched
    exchange.began = now
    exchange.method = message.method
    exchange.target = exchange.path = message.path
    exchange.query = ""
    exchange.headers = message.headers
    exchange.raw_headers = message.raw_headers
    exchange.close = message.should_close
    client = incoming.protocol
    if type(client) is ClientConnection:
        exchange.peer = client.address
        exchange.listener = client.server.listener
        if client.tls is not None:
            exchange.scheme = "https"
            exchange.tls = client.tls
    else:
        exchange.peer = exchange.listener = ""
        _foreign(exchange, incoming)
    return exchange


def _foreign(exchange: Exchange, incoming: Incoming) -> None:
    """Under somebody else's runner there is no ClientConnection that knows these."""
    transport = incoming.protocol.transport
    if transport is None:
        return
    peer = transport.get_extra_info("peername")
    exchange.peer = peer[0] if isinstance(peer, tuple) else "unix"
    secure = transport.get_extra_info("ssl_object")
    if secure is not None:
        exchange.scheme = "https"
        exchange.tls = Encryption.of(secure)
    if incoming.message.chunked:
        exchange.close = (
            True  # the last trailer would open the next head: only a ClientConnection can tell
        )


def check(exchange: Exchange) -> None:
    """Refuse a head that must not be acted on, and fill in target, host and body. Raises errors.ClientError."""
    incoming = exchange.incoming
    message = incoming.message
    if message.version != HttpVersion11:
        _older(exchange, message)
    client = incoming.protocol
    if type(client) is ClientConnection:
        _within_limits(exchange, client)
    if message.method == "CONNECT" or message.method == "TRACE":
        exchange.close = True
        raise refusals.never_forwarded(message.method)
    target, authority = message.path, exchange.headers.get("Host")
    if target[:1] != "/":
        target, authority = _unusual_target(exchange, target, authority)
    if authority not in _valid_hosts:
        _check_host(exchange, authority)
    if authority is not None:
        exchange.authority = authority
    if "#" in target:
        raise errors.BadRequest("the request target has a fragment")
    exchange.target = target
    exchange.path, _, exchange.query = target.partition("?")
    if incoming.has_body:
        _body(exchange, message)
    if message.method == "OPTIONS":
        _options(exchange)


class Known:
    """What the fields of one head came to, remembered for the next one of its connection that has the same fields.

    Who speaks HTTP to a gateway over a kept connection mostly says the same of itself in every request.
    """

    __slots__ = (
        "authority", "client_ip", "expects", "fields", "generation", "has_body", "host", "length", "peer_trusted",
        "plain", "raw_headers", "request_id", "scheme", "trace_id",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, client: ClientConnection) -> None:
        self.generation = exchange.snapshot.generation
        self.raw_headers = exchange.raw_headers
        self.authority = exchange.authority
        self.host = exchange.host
        self.scheme = exchange.scheme
        self.client_ip = exchange.client_ip
        self.peer_trusted = exchange.peer_trusted
        self.request_id = exchange.request_id
        self.trace_id = exchange.trace_id
        self.has_body, self.length = exchange.has_body, exchange.length
        self.expects = exchange.expects
        self.plain = not (
            self.has_body
            or self.request_id
            or self.trace_id
            or self.scheme != "http"
            or client.tls is not None  # where a trusted proxy says http
        )
        """The rest is as it is in every exchange at first."""
        self.fields: dict[str, bytes] = {}
        """What goes to the upstream, by the name of the route."""


def recall(exchange: Exchange) -> bool:
    """Fill in what `check` and `Clients.identify` would, where the head's fields are those of the one before."""
    incoming, target = exchange.incoming, exchange.target
    known: Known | None = getattr(incoming.protocol, "known", None)
    if (
        known is None
        or known.raw_headers != exchange.raw_headers
        or known.generation != exchange.snapshot.generation
        or exchange.method in _UNUSUAL
        or target[:1] != "/"
        or "#" in target
        or incoming.message.version != HttpVersion11
        or incoming.protocol.long_head  # type: ignore[attr-defined]
    ):
        return False
    exchange.known = known
    exchange.authority = known.authority
    exchange.host = known.host
    exchange.client_ip = known.client_ip
    exchange.peer_trusted = known.peer_trusted
    if not known.plain:
        exchange.scheme = known.scheme
        exchange.request_id, exchange.trace_id = known.request_id, known.trace_id
        exchange.has_body, exchange.length = known.has_body, known.length
        exchange.expects = known.expects
    if "?" in target:
        exchange.path, _, exchange.query = target.partition("?")
    return True


def remember(exchange: Exchange) -> None:
    """Keep what a head came to for the next one on its connection."""
    client, message = exchange.incoming.protocol, exchange.incoming.message
    if type(client) is not ClientConnection:
        return
    client.known = None  # it could not be told of this head either
    if (
        client.admitted
        and not client.long_head
        and not exchange.http10
        and not message.upgrade
        and exchange.method not in _UNUSUAL  # what an OPTIONS asks for counts for itself
        and message.path[:1] == "/"  # of a whole URL, the host is not that of the fields
        and exchange.snapshot.config.server.limits.requests_per_connection is None
        and head_size(message) <= _LARGEST_KNOWN
    ):
        client.known = exchange.known = Known(exchange, client)


def name_place(exchange: Exchange) -> None:
    """Host, path and query of a head that was refused before they were told apart, for the log, which masks the query."""
    if "?" in exchange.path:
        exchange.path, _, exchange.query = exchange.path.partition("?")
    if "@" in exchange.path and exchange.path[:1] != "/":
        exchange.path = _USER.sub("//", exchange.path, count=1)
    host = exchange.headers.get("Host", "")
    if not exchange.authority and refusals.is_host(host):
        exchange.authority = host


def _older(exchange: Exchange, message: RawRequestMessage) -> None:
    if message.version != HttpVersion10:
        exchange.close = True
        raise errors.BadRequest("the HTTP version is not 1.0 or 1.1")
    exchange.http10 = True


def _within_limits(exchange: Exchange, client: ClientConnection) -> None:
    limits = exchange.snapshot.config.server.limits
    if not client.admitted:
        exchange.close = True
        raise client.unwelcome
    if client.long_head and head_size(exchange.incoming.message) > limits.request_head:
        exchange.close = True
        raise errors.HeadTooLarge(f"the head is larger than {limits.request_head} bytes")
    if limits.requests_per_connection is not None:
        client.handled += 1
        if client.handled >= limits.requests_per_connection:
            exchange.close = True


def head_size(message: RawRequestMessage) -> int:
    """Bytes of a head: what counts against `limits.request_head`."""
    fields = sum(len(name) + len(value) + 4 for name, value in message.raw_headers)
    return len(message.method) + len(message.path) + 14 + fields


def _unusual_target(
    exchange: Exchange, target: str, authority: str | None
) -> tuple[str, str | None]:
    """Absolute form, whose authority replaces Host (RFC 9112 section 3.2.2), or `*`."""
    if target == "*" and exchange.method == "OPTIONS":
        return target, authority
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        exchange.close = True
        raise errors.BadRequest("the request target is neither a path nor a URL")
    rest = absolute[2]
    if not rest:
        # RFC 9112 section 3.2.4: an OPTIONS for a URL without a path is one for the server.
        rest = "*" if exchange.method == "OPTIONS" else "/"
    elif rest[0] == "?":
        rest = "/" + rest
    elif rest[0] != "/":
        raise errors.BadRequest("the request target is not a valid URL")
    return rest, absolute[1]


def _check_host(exchange: Exchange, authority: str | None) -> None:
    if authority is None:
        if exchange.http10:
            return
        exchange.close = True
        raise errors.BadRequest("the Host field is missing")
    if not refusals.is_host(authority):
        exchange.close = True
        raise errors.BadRequest("the Host field is not a host")
    if len(authority) <= _LONGEST_HOST:
        if len(_valid_hosts) >= _REMEMBERED:
            _valid_hosts.clear()
        _valid_hosts.add(authority)


def _body(exchange: Exchange, message: RawRequestMessage) -> None:
    exchange.has_body = True
    if message.chunked:
        if exchange.headers.get("Transfer-Encoding", "").strip(" \t").lower() != "chunked":
            exchange.close = True
            raise errors.NotImplementedByGateway("a transfer coding other than chunked")
        if exchange.http10:
            exchange.close = True
            raise errors.BadRequest("HTTP/1.0 has no chunked bodies")  # RFC 9112 section 6.1
        exchange.length = None
    else:
        length = content_length(
            exchange.headers.get("Content-Length", "").encode("utf-8", "replace")
        )
        if length is None:
            exchange.close = True
            raise errors.BadRequest("the Content-Length is not a number")
        exchange.length = length
    exchange.expects = (
        not exchange.http10 and exchange.headers.get("Expect", "").lower() == "100-continue"
    )


def _options(exchange: Exchange) -> None:
    """`OPTIONS *`, and one that may not be forwarded any more, are answered here (RFC 9110 sections 7.6.2, 9.3.7)."""
    hops = exchange.headers.get("Max-Forwards", "")
    if exchange.target == "*" or refusals.goes_no_further(exchange.method, hops):
        exchange.refusal = refusals.options()
