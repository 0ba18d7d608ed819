"""Who asks, and what the upstream is told about it: the only reader and writer of forwarding
fields.

Rules of this file: what a client says about itself counts for nothing unless the socket's peer is
in `trusted_proxies`; then the list is read from its right end, and only trusted addresses are
stepped over. An address that `ipaddress` would not take is no address: leading zeros, zones and
words end the walk. The usual case, an untrusted peer, costs three dictionary look-ups; what is
remembered is bounded in number and in length, since clients choose the keys.
"""

from __future__ import annotations

import random
import re
import secrets
from typing import TYPE_CHECKING, Final, Literal

from multidict import istr

from gateway import errors
from gateway.headers import clean
from gateway.hops import TOKEN, address, host_of, is_port, members, node, parse_forwarded, trace_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.certificates import Encryption
    from gateway.config import model
    from gateway.exchange import Exchange
    from gateway.hops import Address

INSTANCE: Final = secrets.token_hex(4)
"""Tells this process from every other of the same name, in Via. Reloads keep it."""

UNIX = "unix"
FORWARDED_FOR = istr("X-Forwarded-For")
FORWARDED_PROTO = istr("X-Forwarded-Proto")
FORWARDED_HOST = istr("X-Forwarded-Host")
FORWARDED_PORT = istr("X-Forwarded-Port")
FORWARDED_PREFIX = istr("X-Forwarded-Prefix")
FORWARDED = istr("Forwarded")
VIA = istr("Via")
TRACEPARENT = istr("traceparent")
TRACESTATE = istr("tracestate")

X_FORWARDED = frozenset(
    (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port",
     b"x-forwarded-prefix")
)  # fmt: skip
CLAIMS = X_FORWARDED | {b"forwarded", b"x-real-ip"}
"""What only a trusted peer may say."""

CERTIFICATE = frozenset((b"client-cert", b"client-cert-chain"))
"""What the gateway alone may say of a client's certificate (RFC 9440 section 2): not even a trusted peer."""

_REMEMBERED = 4096
_LONGEST_KEY = 256
_REQUEST_ID = re.compile(r"[A-Za-z0-9._~+/=-]{1,128}")
_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::[0-9]{0,5})?")
_PREFIX = re.compile(r"/[!-~]*")


class Clients:
    """Identifies clients, and writes the forwarding fields, as one `server:` section says.

    `traceparent`: `create` makes one where a request has none that is valid.
    """

    def __init__(
        self, server: model.Server, *, traceparent: Literal["pass", "create"] = "pass"
    ) -> None:
        self._networks = [network for network in server.trusted_proxies if network != UNIX]
        self._unix_trusted = UNIX in server.trusted_proxies
        self._writes_x = server.forwarded in ("x-forwarded", "both")
        self._writes_rfc = server.forwarded in ("rfc7239", "both")
        self._rfc_first = server.forwarded == "rfc7239"
        self._creates_trace = traceparent == "create"
        self.pseudonym = re.sub(r"[^0-9A-Za-z._~-]", "-", server.name) + "-" + INSTANCE
        """What Via calls this process."""
        wanted = server.request_id
        self._id_header = istr(wanted.header if wanted else "")
        self._id_prefix = f"{self._id_header}: ".encode("ascii") if wanted else b""
        self._id_trust = wanted.trust if wanted else "none"
        own_id = self._id_header.lower().encode("ascii")
        self.echoed = own_id if wanted and wanted.echo else b""
        """Lower-case name of the response field that `echo` writes in place of the upstream's;
        empty where nothing is echoed."""
        own = set(CERTIFICATE | {b"via"})
        if wanted:
            own.add(own_id)
        if self._creates_trace:
            own |= {b"traceparent", b"tracestate"}
        written = X_FORWARDED if self._writes_x else frozenset()
        if self._writes_rfc:
            written |= {b"forwarded"}
        self._dropped_untrusted = frozenset(own | CLAIMS)
        self._dropped_trusted = frozenset(own | written)
        self._peers: dict[str, tuple[str, bool]] = {}
        self._hosts: dict[str, str] = {}
        self._plain: dict[tuple[str, str, str], bytes] = {}

    # ── who asks ──

    def identify(self, exchange: Exchange) -> None:
        """Fill in who asks, from `peer`, `scheme`, `authority` and the headers of a trusted peer.

        Sets client_ip, peer_trusted, host and, for a trusted peer, scheme and authority; request_id
        and trace_id as far as they are given. Raises errors.LoopDetected, errors.Misdirected.
        """
        headers = exchange.headers
        known = self._peers.get(exchange.peer)
        if known is None:
            known = self._meet(exchange.peer)
        exchange.client_ip, exchange.peer_trusted = known
        if known[1]:
            self._believe(exchange)
        authority = exchange.authority
        host = self._hosts.get(authority)
        exchange.host = self._remember_host(authority) if host is None else host
        if exchange.tls is not None and not known[1]:
            _directed(exchange, exchange.tls)
        if VIA in headers and self._has_passed(headers.getall(VIA)):
            raise errors.LoopDetected
        trace = headers.get(TRACEPARENT)
        if trace is not None:
            exchange.trace_id = trace_of(trace)
        if self._id_trust == "all" or (known[1] and self._id_trust == "trusted_proxies"):
            given = headers.get(self._id_header, "")
            if given and _REQUEST_ID.fullmatch(given):
                exchange.request_id = given

    def number(self, exchange: Exchange) -> None:
        """Give it the request id, and the trace, that nobody has given it."""
        if not exchange.request_id:
            # Not a secret: it must only differ from others, and uuid4 costs eight times as much.
            exchange.request_id = "%032x" % random.getrandbits(128)  # noqa: UP031
        if self._creates_trace and not exchange.trace_id:
            exchange.trace_id = "%032x" % (random.getrandbits(128) or 1)

    def _meet(self, peer: str) -> tuple[str, bool]:
        """(folded address, whether it is trusted) of a socket's peer."""
        if peer == UNIX:
            known = (UNIX, self._unix_trusted)
        else:
            parsed = address(peer.partition("%")[0])  # the kernel's zone of a link-local peer
            known = (peer, False) if parsed is None else (str(parsed), self._trusts(parsed))
        if len(self._peers) >= _REMEMBERED:
            self._peers.clear()
        self._peers[peer] = known
        return known

    def _trusts(self, one: Address) -> bool:
        return any(one in network for network in self._networks)

    def _remember_host(self, authority: str) -> str:
        host = host_of(authority)
        if len(authority) <= _LONGEST_KEY:
            if len(self._hosts) >= _REMEMBERED:
                self._hosts.clear()
            self._hosts[authority] = host
        return host

    def _believe(self, exchange: Exchange) -> None:
        """Take what a trusted peer says: of the two families the one that it may be expected to
        write itself.

        They are never mixed. A proxy that knows only one of them passes on what the client wrote in
        the other.
        """
        headers = exchange.headers
        elements = parse_forwarded(headers.getall(FORWARDED, ()))
        if elements and self._reads_forwarded(exchange):
            self._believe_forwarded(exchange, elements)
            return
        hops = members(headers.getall(FORWARDED_FOR, ()))
        for _, one in self._walk(hops):
            exchange.client_ip = str(one)
        # The last value is the trusted peer's own; what stands before it, anyone may have sent to
        # it.
        scheme = (members(headers.getall(FORWARDED_PROTO, ())) or [""])[-1]
        authority = (members(headers.getall(FORWARDED_HOST, ())) or [""])[-1]
        _adopt(exchange, scheme, authority)

    def _reads_forwarded(self, exchange: Exchange) -> bool:
        return self._rfc_first or FORWARDED_FOR not in exchange.headers

    def _believe_forwarded(self, exchange: Exchange, elements: list[dict[str, str]]) -> None:
        seen = elements[-1]
        for index, one in self._walk([element.get("for", "") for element in elements]):
            exchange.client_ip = str(one)
            seen = elements[index]
        _adopt(exchange, seen.get("proto", ""), seen.get("host", ""))

    def _walk(self, hops: list[str]) -> Iterator[tuple[int, Address]]:
        """Addresses from the right end up to the first that is not trusted, that one included.

        A member that is no address ends the walk: whoever stands left of it has been vouched for by
        nobody known.
        """
        for index in range(len(hops) - 1, -1, -1):
            one = node(hops[index])
            if one is None:
                return
            yield index, one
            if not self._trusts(one):
                return

    def _has_passed(self, values: list[str]) -> bool:
        """Whether Via holds this very process's word as a received-by (RFC 9110 section 7.6.3)."""
        for value in values:
            if self.pseudonym in value:
                for member in value.split(","):
                    if self.pseudonym in member.split()[1:2]:
                        return True
        return False

    # ── what the upstream is told ──

    def dropped(self, trusted: bool) -> frozenset[bytes]:
        """Lower-case names of fields whose copies from the client never pass: forged, or written
        anew.
        """
        return self._dropped_trusted if trusted else self._dropped_untrusted

    def forwarding(self, exchange: Exchange, prefix: bytes = b"") -> bytes:
        """Finished header lines for the upstream: who asked, Via, request id, traceparent.

        `prefix`: what was stripped from the path, such as `/orders`; empty where nothing was.
        Raises errors.BadRequest for a control byte in what is carried on.
        """
        return self.about(exchange, prefix) + self.numbers(exchange)

    def about(self, exchange: Exchange, prefix: bytes = b"") -> bytes:
        """Of `forwarding`, what follows from the fields of the request and its connection: who asked, Via, Client-Cert."""
        if exchange.peer_trusted or VIA in exchange.headers or exchange.http10:
            lines = self._full(exchange, prefix)
        else:
            key = (exchange.peer, exchange.scheme, exchange.authority)
            lines = self._plain.get(key, b"") or self._remember_plain(key, exchange)
            if prefix and self._writes_x:
                lines += b"X-Forwarded-Prefix: %b\r\n" % prefix
        return lines if exchange.tls is None else lines + exchange.tls.lines

    def numbers(self, exchange: Exchange) -> bytes:
        """Of `forwarding`, what tells one request from the next: request id, traceparent."""
        lines = b""
        if self._id_prefix:
            lines = b"%b%b\r\n" % (self._id_prefix, exchange.request_id.encode("ascii"))
            exchange.id_line = lines
        if self._creates_trace:
            lines += self._trace_lines(exchange)
        return lines

    def echo(self, exchange: Exchange) -> bytes:
        """The response's request-id line; empty where it is not asked for."""
        if exchange.id_line and self.echoed:
            return exchange.id_line
        if not self.echoed or not exchange.request_id:
            return b""
        return b"%b%b\r\n" % (self._id_prefix, exchange.request_id.encode("ascii"))

    def _remember_plain(self, key: tuple[str, str, str], exchange: Exchange) -> bytes:
        lines = self._full(exchange, b"")
        if len(exchange.authority) <= _LONGEST_KEY:
            if len(self._plain) >= _REMEMBERED:
                self._plain.clear()
            self._plain[key] = lines
        return lines

    def _full(self, exchange: Exchange, prefix: bytes) -> bytes:
        peer = self._peers.get(exchange.peer) or self._meet(exchange.peer)
        lines: list[str] = []
        if self._writes_x:
            self._x_forwarded(lines, exchange, peer[0], prefix)
        if self._writes_rfc:
            before = self._own_forwarded(exchange, peer[0])
            lines.append(_line(FORWARDED, [*before, _element(exchange, peer[0])]))
        version = "1.0" if exchange.http10 else "1.1"
        lines.append(_line(VIA, [*exchange.headers.getall(VIA, ()), f"{version} {self.pseudonym}"]))
        return _sealed(lines)

    def _x_forwarded(self, lines: list[str], exchange: Exchange, peer: str, prefix: bytes) -> None:
        headers = exchange.headers
        trusted = exchange.peer_trusted
        hops = members(headers.getall(FORWARDED_FOR, ())) if trusted else []
        # A unix socket has no address: behind a list that a trusted front has written, a word would
        # only confuse readers.
        if not hops and exchange.client_ip != peer:
            hops.append(exchange.client_ip)  # read from Forwarded
        if peer != UNIX or not hops:
            hops.append(peer)
        lines.append(_line(FORWARDED_FOR, hops))
        lines.append(_line(FORWARDED_PROTO, [exchange.scheme]))
        if exchange.authority:
            lines.append(_line(FORWARDED_HOST, [exchange.authority]))
        lines.append(_line(FORWARDED_PORT, [_public_port(exchange)]))
        before = headers.get(FORWARDED_PREFIX, "") if trusted else ""
        before = before.rstrip("/") if _PREFIX.fullmatch(before) else ""
        if stripped := before + prefix.decode("utf-8", "surrogateescape"):
            lines.append(_line(FORWARDED_PREFIX, [stripped]))

    def _own_forwarded(self, exchange: Exchange, peer: str) -> list[str]:
        """What this hop's element is appended to: the trusted peer's own Forwarded if the client
        was read from it, else that client, so that both families name the same one.
        """
        given = exchange.headers.getall(FORWARDED, []) if exchange.peer_trusted else []
        if self._reads_forwarded(exchange) and parse_forwarded(given):
            return given
        return [] if exchange.client_ip == peer else [_for(exchange.client_ip)]

    def _trace_lines(self, exchange: Exchange) -> bytes:
        headers = exchange.headers
        given = headers.get(TRACEPARENT)
        if given is not None and trace_of(given):
            lines = [_line(TRACEPARENT, [given])]
            if state := headers.getall(TRACESTATE, []):
                lines.append(_line(TRACESTATE, state))
        else:
            # A broken one takes its tracestate with it (W3C Trace Context section 4.3).
            span = random.getrandbits(64) or 1
            lines = [f"traceparent: 00-{exchange.trace_id}-{span:016x}-01\r\n"]
        return _sealed(lines)


def _directed(exchange: Exchange, tls: Encryption) -> None:
    """Refuse what came over the connection of another host (RFC 9110 section 15.5.20).

    Not from a trusted proxy, which may send whatever it is asked over the connection that it has.
    """
    if tls.misdirected(exchange.host):
        raise errors.Misdirected("the certificate of this connection is for other hosts")


def _adopt(exchange: Exchange, scheme: str, authority: str) -> None:
    scheme = scheme.lower()
    if scheme in ("http", "https"):
        exchange.scheme = scheme
    if _AUTHORITY.fullmatch(authority):
        exchange.authority = authority


def _sealed(lines: list[str]) -> bytes:
    """The lines as bytes. They hold text of clients, and nobody scans them after this."""
    text = "".join(lines).encode("utf-8", "surrogateescape")
    if not clean(text, len(lines)):
        raise errors.BadRequest("a forwarding field has a control byte")
    return text


def _line(name: str, values: list[str]) -> str:
    return f"{name}: {', '.join(values)}\r\n"


def _element(exchange: Exchange, peer: str) -> str:
    """This hop's own element of Forwarded (RFC 7239 section 5)."""
    parts = [_for(peer)]
    if exchange.authority:
        named = exchange.authority
        parts.append(f"host={named}" if TOKEN.fullmatch(named) else f"host={_quoted(named)}")
    parts.append(f"proto={exchange.scheme}")
    return ";".join(parts)


def _for(peer: str) -> str:
    return f'for="[{peer}]"' if ":" in peer else f"for={'_unix' if peer == UNIX else peer}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _public_port(exchange: Exchange) -> str:
    """The port that the client spoke to, as far as it said: a trusted peer's word, the authority's,
    the scheme's own.
    """
    if exchange.peer_trusted:
        said = (members(exchange.headers.getall(FORWARDED_PORT, ())) or [""])[-1]
        if is_port(said, ":"):
            return said
    # Behind a bracket, if there is one: an IPv6 address is full of colons.
    _, _, port = exchange.authority.rpartition("]")[2].partition(":")
    return port if is_port(port, ":") else ("443" if exchange.scheme == "https" else "80")
