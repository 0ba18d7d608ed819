"""What forwarding fields say, taken apart: addresses, hosts, lists, `Forwarded`, `traceparent`.

Rules of this file: pure and strict. What can be read in two ways is no value: a reader that repairs would cut at another
place than the proxy that wrote.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
TOKEN = re.compile(_WORD)
_PAIR = re.compile(
    rf"""[ \t]*({_WORD})=({_WORD}|"(?:[^"\\]|\\.)*")[ \t]*([;,]|$)""",
)

Address = IPv4Address | IPv6Address


def address(text: str) -> Address | None:
    """`text` as an IP address, IPv4-mapped IPv6 folded; None if it is none, or bears a zone.

    A zone names an interface of the machine that wrote it and means nothing here; leading zeros are
    octal to some readers and decimal to others (RFC 6943 section 3.1.1).
    """
    try:
        if ":" not in text:
            return IPv4Address(text)
        parsed = IPv6Address(text)
    except AddressValueError:
        return None
    if parsed.scope_id is not None:
        return None
    return parsed.ipv4_mapped or parsed


def node(text: str) -> Address | None:
    """The address of a forwarding list's member: bare, `1.2.3.4:80`, `[::1]` or `[::1]:80`; else
    None.

    `unknown` and `_names` of RFC 7239 section 6 are no addresses, and neither is anything with a
    bad port.
    """
    if text.startswith("["):
        inner, bracket, port = text[1:].partition("]")
        if not bracket or ":" not in inner or not (port == "" or is_port(port[1:], port[0])):
            return None
        return address(inner)
    if text.count(":") == 1:
        text, _, port = text.partition(":")
        if not is_port(port, ":"):
            return None
    return address(text)


def is_port(digits: str, colon: str) -> bool:
    return colon == ":" and digits.isascii() and digits.isdigit() and len(digits) <= 5


def host_of(authority: str) -> str:
    """The host of an authority, for decisions: lower-case, no port, no last dot; brackets stay."""
    if authority.startswith("["):
        return authority.partition("]")[0].lower() + "]"
    return authority.partition(":")[0].lower().removesuffix(".")


def members(values: Iterable[str]) -> list[str]:
    """The members of a comma-separated list, maybe in several fields (RFC 9110 section 5.6.1)."""
    return [member for value in values for part in value.split(",") if (member := part.strip())]


def parse_forwarded(values: Iterable[str]) -> list[dict[str, str]] | None:
    """The elements of `Forwarded`, parameter names in lower case; None if any of it breaks RFC 7239
    section 4.

    Strict, because a reader that repairs would cut at another place than the proxy that wrote:
    `for="a, for=b"` is one element. A parameter that stands twice in an element is an error too.
    """
    elements: list[dict[str, str]] = []
    for value in values:
        element: dict[str, str] = {}
        at = 0
        while True:
            pair = _PAIR.match(value, at)
            if pair is None:
                return None
            name, given, end = pair.group(1).lower(), pair.group(2), pair.group(3)
            if name in element:
                return None
            element[name] = re.sub(r"\\(.)", r"\1", given[1:-1]) if given[0] == '"' else given
            at = pair.end()
            if end != ";":
                elements.append(element)
                element = {}
            if not end:
                break
    return elements


def trace_of(traceparent: str | None) -> str:
    """The trace id of a `traceparent`, or "" if it breaks W3C Trace Context section 3.2."""
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if found is None:
        return ""
    version, trace, span, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace.strip("0") or not span.strip("0"):
        return ""
    return trace
