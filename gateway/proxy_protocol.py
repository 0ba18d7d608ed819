"""The PROXY protocol, versions 1 and 2: who a proxy in front says is asking, before anything else is sent.

Rules of this file: pure, and strict where two readers could disagree. A header is read whole or not at all, what stands
behind it is not looked at, and nobody is believed here: whether the sender may speak is for `Senders`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Final

from gateway import hops

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.config.scalars import Network

UNIX: Final = "unix"
LONGEST: Final = 4096
"""Bytes of a header, the records behind its addresses included: a chain of certificates fits."""

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_FIXED = 16
"""Bytes of a version 2 header before its addresses."""
_LONGEST_LINE = 107
_LINE = re.compile(
    rb"PROXY TCP(?P<family>[46]) (?P<source>[0-9A-Fa-f:.]+) (?P<target>[0-9A-Fa-f:.]+)"
    rb" (?P<ports>(?:0|[1-9][0-9]{0,4}) (?:0|[1-9][0-9]{0,4}))\r\n"
)
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [ -~]*)?\r\n")
_LOCAL, _PROXY = 0, 1
_UNSPECIFIED, _INET, _INET6, _UNIX = range(4)
_ADDRESSES = {_UNSPECIFIED: 0, _INET: 12, _INET6: 36, _UNIX: 216}
"""Bytes that the two addresses and ports of a family take."""
_STREAM = 1
_MOST_TRANSPORT = 2


class Malformed(ValueError):
    """What came is no header, and no more bytes will make it one."""


@dataclass(frozen=True, slots=True)
class Header:
    """One header."""

    source: str | None
    """Address of the client, IPv4-mapped IPv6 folded, or `unix`; None: the sender speaks for itself."""
    size: int
    """Bytes of it: what stands behind is the client's."""


class Senders:
    """Who may send a header."""

    def __init__(self, senders: Iterable[Network | str]) -> None:
        """`senders`: networks, or `unix` for every peer of a unix socket."""
        wanted = tuple(senders)
        self._networks = tuple(one for one in wanted if not isinstance(one, str))
        self._unix = UNIX in wanted

    def trust(self, peer: str) -> bool:
        """Whether a socket's peer, an address or `unix`, may."""
        if peer == UNIX:
            return self._unix
        parsed = hops.address(peer.partition("%")[0])  # the kernel's zone of a link-local peer
        return parsed is not None and any(parsed in network for network in self._networks)


def read(data: bytes) -> Header | None:
    """The header that `data` begins with; None: more has to come, which is at most LONGEST bytes. Raises Malformed."""
    if data[:1] == b"P":
        return _read_line(data)
    if data[: len(_SIGNATURE)] == _SIGNATURE[: len(data)]:
        return _read_binary(data) if len(data) >= _FIXED else None
    raise Malformed("no PROXY header")


def _read_line(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, _LONGEST_LINE) + 2
    line = data[:end] if end > 1 else data[:_LONGEST_LINE]
    if not line.startswith(b"PROXY "[: len(line)]):
        raise Malformed("no PROXY header")
    if end < 2:
        if len(line) == _LONGEST_LINE:
            raise Malformed("the line is too long")
        return None
    if _UNKNOWN.fullmatch(line):
        return Header(None, end)
    found = _LINE.fullmatch(line)
    if found is None or any(int(port) > 0xFFFF for port in found["ports"].split()):
        raise Malformed("the line can not be read")
    is_ipv6 = found["family"] == b"6"
    source = _of_family(found["source"], is_ipv6)
    _of_family(found["target"], is_ipv6)
    return Header(source, end)


def _of_family(text: bytes, is_ipv6: bool) -> str:
    parsed = hops.address(text.decode("ascii"))
    if parsed is None or (b":" in text) != is_ipv6:
        raise Malformed("an address can not be read")
    return str(parsed)


def _read_binary(data: bytes) -> Header | None:
    version, command = data[12] >> 4, data[12] & 0x0F
    family, transport = data[13] >> 4, data[13] & 0x0F
    size = _FIXED + int.from_bytes(data[14:16], "big")
    if version != 2 or command > _PROXY:
        raise Malformed("the version or the command is unknown")
    if family not in _ADDRESSES or transport > _MOST_TRANSPORT:
        raise Malformed("the family or the transport is unknown")
    if size > LONGEST:
        raise Malformed(f"the header is larger than {LONGEST} bytes")
    if command == _PROXY and size - _FIXED < _ADDRESSES[family]:
        raise Malformed("the addresses are cut off")
    if len(data) < size:
        return None
    if command == _LOCAL or transport != _STREAM:
        return Header(None, size)
    return Header(_source(family, data), size)


def _source(family: int, data: bytes) -> str | None:
    if family == _UNIX:
        return UNIX
    if family == _UNSPECIFIED:
        return None
    if family == _INET:
        return ".".join(map(str, data[16:20]))
    parsed = IPv6Address(data[16:32])
    return str(parsed.ipv4_mapped or parsed)
