"""Heads that leave the gateway: the request's towards an upstream, the response's towards a client.

Rules of this file: a field passes as it came unless `headers.py` knows its name; framing fields are always our own; what
came from the other side is scanned once for control bytes before it leaves. Pure: bytes in, bytes out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway import errors, headers

if TYPE_CHECKING:
    from aiohttp.http_parser import RawResponseMessage

    from gateway.exchange import Exchange
    from gateway.headers import FieldTable
    from gateway.upstream.upstream import Target

_binding = re.compile(rb"(?:^|,)[ \t]*(?:ntlm|negotiate)(?:[ \t,]|$)", re.IGNORECASE).search
_KEEP = (b"keep-alive", b"close", b"Keep-Alive", b"Close")
_status_lines: dict[tuple[int, str], bytes] = {}
_REMEMBERED = 1_000
_BOTH = "both a Content-Length and a transfer coding"


def request_fields(exchange: Exchange, table: FieldTable) -> bytes:
    """The client's fields that pass, with framing of our own; notes on `exchange` that trailers are wanted.

    Raises errors.BadRequest for a field that must not be forwarded.
    """
    lines: list[bytes] = []
    named: list[bytes] = []
    for name, value in exchange.raw_headers:
        known = table[name]
        if isinstance(known, bytes):
            lines.append(b"%b%b\r\n" % (known, value))
        elif known == headers.CONNECTION:
            if value not in _KEEP:
                named += headers.tokens(value)
        elif known > headers.HOST:
            _special(exchange, known, name, value, lines, table)
    if named:
        lines = headers.without_named(lines, named)
    if exchange.length is None or exchange.upgrade or exchange.wants_trailers:
        _frame(exchange, lines)
    fields = b"".join(lines)
    if not headers.clean(fields, len(lines)):
        raise errors.BadRequest("a field has a control byte")
    return fields


def _frame(exchange: Exchange, lines: list[bytes]) -> None:
    """What this hop says for itself."""
    if exchange.length is None:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    if exchange.upgrade:
        lines.append(b"Connection: Upgrade\r\n")
        lines.append(b"Upgrade: %b\r\n" % exchange.upgrade.encode())
    elif exchange.wants_trailers:
        lines.append(b"Connection: TE\r\n")
        lines.append(b"TE: trailers\r\n")


def _special(
    exchange: Exchange, known: int, name: bytes, value: bytes, lines: list[bytes], table: FieldTable
) -> None:
    if known == headers.LENGTH:
        if exchange.length is not None:
            lines.append(b"Content-Length: %b\r\n" % value)
    elif known == headers.COOKIE:
        value = headers.without_cookies(value, table.cookies)
        if value:
            lines.append(b"%b: %b\r\n" % (name, value))
    elif known == headers.TE:
        exchange.wants_trailers = not exchange.http10 and b"trailers" in headers.tokens(value)
    elif known == headers.CODING:
        if exchange.length is not None:  # the parser takes an empty coding for none
            exchange.close = True
            raise errors.BadRequest("a transfer coding other than chunked")
    elif known == headers.MAX_FORWARDS:
        lines.append(b"%b: %b\r\n" % (name, _one_less(exchange.method, value)))
    elif known == headers.REJECT:
        raise errors.BadRequest("a field name with an underscore, or that is no token")


def _one_less(method: str, value: bytes) -> bytes:
    """Max-Forwards counts for OPTIONS only (RFC 9110 section 7.6.2; TRACE is never forwarded)."""
    if method == "OPTIONS" and value.isdigit() and 0 < len(value) <= 9:
        return b"%d" % (int(value) - 1)
    return value


class Outbound:
    """A request head, prepared once for all tries; only what depends on the target is filled in for each."""

    __slots__ = ("_fields", "_host", "_start", "_target")

    def __init__(self, method: str, target: str, host: bytes | None, fields: bytes) -> None:
        self._start = method.encode("ascii") + b" "
        self._target = target.encode("utf-8", "surrogateescape")
        self._host = host
        """None: the target's own address."""
        self._fields = fields

    def head(self, target: Target, edits: bytes) -> bytes:
        """The finished head for one target."""
        return b"%b%b%b HTTP/1.1\r\nHost: %b\r\n%b%b\r\n" % (
            self._start,
            target.prefix_bytes,
            self._target,
            self._host or target.authority,
            self._fields,
            edits,
        )


class ResponseHead:
    """An upstream's final head, taken apart: the lines that pass and what frames the body."""

    __slots__ = (
        "_named", "bound", "chunked", "code", "dated", "length", "lines", "raw_headers", "reason", "start", "table",
        "upgrade", "version",
    )  # fmt: skip

    def __init__(self, message: RawResponseMessage, table: FieldTable, *, bodiless: bool) -> None:
        """`bodiless`: the answer to HEAD, or a 304, whose Content-Length is news and no framing.

        Raises errors.UpstreamBadResponse for a head that can be read in two ways.
        """
        self.raw_headers, self.table = message.raw_headers, table
        self.version, self.code, self.reason = message.version, message.code, message.reason
        phrase = message.reason.encode("utf-8", "surrogateescape")
        if (
            message.version[0] != 1
            or not 101 <= message.code <= 999
            or not headers.clean(phrase, 0)
        ):
            raise errors.UpstreamBadResponse("the status line is invalid")
        self.start = status_line(message.code, message.reason)
        self.length: bytes | None = None
        self.chunked = False
        self.upgrade = b""
        self.dated = False
        self.bound = False
        """The server may take its connection for the client's from now on (NTLM, Negotiate: RFC 4559 section 6)."""
        self._named: list[bytes] = []
        lines: list[bytes] = []
        self.lines = lines
        for name, value in message.raw_headers:
            known = table[name]
            if isinstance(known, bytes):
                lines.append(b"%b%b\r\n" % (known, value))
            elif known:
                self._special(known, name, value)
        if self._named:
            self.lines = lines = headers.without_named(lines, self._named)
        if table.filled and message.code >= 200:
            headers.fill(lines, table.filled)
        if not headers.clean(b"".join(lines), len(lines)):
            raise errors.UpstreamBadResponse("a field has a control byte")
        if bodiless:
            self._announce_length()

    def fits(self, message: RawResponseMessage, table: FieldTable) -> bool:
        """Whether `message` taken apart by `table` comes to the same."""
        return (
            self.raw_headers == message.raw_headers
            and self.table is table
            and self.code == message.code
            and self.reason == message.reason
            and self.version == message.version
        )

    def _announce_length(self) -> None:
        """What the body of the same GET would have."""
        if self.length is not None:
            self.lines.append(b"Content-Length: %b\r\n" % self.length)

    def _special(self, known: int, name: bytes, value: bytes) -> None:
        if known == headers.LENGTH:
            self._measure(value)
        elif known == headers.DATE:
            if not self.dated:
                self.lines.append(b"%b: %b\r\n" % (name, value))
            self.dated = True
        elif known == headers.CONNECTION:
            if value not in _KEEP:
                self._named += headers.tokens(value)
        elif known == headers.CODING:
            self._code(value)
        elif known == headers.UPGRADE:
            self.upgrade = value.lower()
        elif known in (headers.TRAILER, headers.CHALLENGE):
            self.lines.append(b"%b: %b\r\n" % (name, value))
            self.bound |= known == headers.CHALLENGE and _binding(value) is not None
        elif known == headers.REJECT:
            raise errors.UpstreamBadResponse("a field name that is no token")

    def _measure(self, value: bytes) -> None:
        # As headers.content_length, without a call for every response.
        if not value.isdigit() or len(value) > 18 or self.length not in (None, value):
            raise errors.UpstreamBadResponse("the Content-Length is invalid, or there are two")
        if self.chunked:
            raise errors.UpstreamBadResponse(_BOTH)
        self.length = value

    def _code(self, value: bytes) -> None:
        # The parser reads any other coding until the connection ends, and passing that on would corrupt it.
        if self.chunked or value.strip(b" \t").lower() != b"chunked":
            raise errors.UpstreamBadResponse("a transfer coding other than chunked")
        if self.length is not None:
            raise errors.UpstreamBadResponse(_BOTH)
        self.chunked = True


def status_line(status: int, phrase: str) -> bytes:
    """The first line of a response; a phrase with control bytes is left out (CVE-2026-34519)."""
    line = _status_lines.get((status, phrase))
    if line is None:
        text = phrase.encode("utf-8", "surrogateescape")
        if not headers.clean(text, 0):
            text = b""
        line = b"HTTP/1.1 %d %b\r\n" % (status, text)
        if len(_status_lines) < _REMEMBERED:
            _status_lines[status, phrase] = line
    return line


def server_timing(exchange: Exchange, now: float) -> bytes:
    """How long the gateway and the upstream took, `now` being when the head goes out (clock seconds)."""
    if not exchange.head_at:
        return b"Server-Timing: gw;dur=%.1f\r\n" % (1000 * (now - exchange.began))
    waited = exchange.head_at - exchange.sent_at
    return b"Server-Timing: gw;dur=%.1f, up;dur=%.1f\r\n" % (
        1000 * (now - exchange.began - waited),
        1000 * waited,
    )
