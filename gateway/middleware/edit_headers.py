"""`headers:` and `rewrite_location`: what is removed, set and added in either head.

Rules of this file: a route's edits are compiled to a set of names that do not pass and to lines
that are appended. What is constant is bytes before the first request. A placeholder without value
keeps its field out, and the other side's copy of the field goes all the same: a header that the
configuration sets is never one that a client wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from gateway.exchange import Reply
from gateway.headers import CONTROLS, TOKEN
from gateway.routing.template import Template

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from gateway.config import model
    from gateway.exchange import Exchange, Handler

REWRITTEN = (b"location", b"content-location")


def field(name: str, value: str) -> tuple[bytes, Template]:
    """`Name: ` and the template of its value.

    Raises ValueError for an unknown placeholder, a name that is no token, or a control byte.
    """
    if TOKEN.fullmatch(name.encode("utf-8")) is None:
        raise ValueError(f"{name!r} is no header name")
    if any(byte in CONTROLS for byte in value.encode("utf-8", "surrogateescape")):
        raise ValueError(f"the value of {name} has a control character, such as a line end")
    return name.encode("ascii") + b": ", Template.compile(value, where="header")


class _Lines:
    """Header lines, the constant ones in one piece."""

    def __init__(self, edits: model.HeaderEdits) -> None:
        self.constant: list[bytes] = []
        self.made: list[tuple[bytes, Template]] = []
        for name, value in edits.set.items():
            if value is not None:
                self._take(name, value)
        for name, values in edits.add.items():
            for value in (values,) if isinstance(values, str) else values:
                self._take(name, value)

    def _take(self, name: str, value: str) -> None:
        prefix, template = field(name, value)
        if template.constant is None:
            self.made.append((prefix, template))
        else:
            self.constant.append(prefix + _bytes(template.constant) + b"\r\n")

    def render(self, exchange: Exchange) -> list[bytes]:
        lines = self.constant[:]
        for prefix, template in self.made:
            value = template.render_or_none(exchange)
            if value is not None:
                lines.append(prefix + _bytes(value) + b"\r\n")
        return lines


def _bytes(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")


def _dropped(edits: model.HeaderEdits) -> frozenset[bytes]:
    names = [*edits.remove, *(name for name, value in edits.set.items() if value is not None)]
    return frozenset(name.lower().encode("ascii") for name in names)


class RequestEdits:
    """Edits of the head that goes to the upstream."""

    def __init__(self, edits: model.HeaderEdits) -> None:
        self.dropped = _dropped(edits)
        """Lower-case names of fields whose copies from the client do not pass."""
        self._lines = _Lines(edits)
        self._constant = b"".join(self._lines.constant) if not self._lines.made else None

    @classmethod
    def compile(cls, edits: model.HeaderEdits) -> RequestEdits | None:
        """The compiled edits, or None where there are none."""
        compiled = cls(edits)
        return compiled if compiled.dropped or edits.add else None

    def lines(self, exchange: Exchange) -> bytes:
        """Finished header lines for the upstream."""
        if self._constant is not None:
            return self._constant
        return b"".join(self._lines.render(exchange))


class Edits(Protocol):
    """What a route does to the heads of its answers."""

    dropped: frozenset[bytes]
    """Lower-case names of fields whose copies from the upstream do not pass."""
    filled: tuple[tuple[bytes, bytes], ...]
    """(lower-case name, line) of fields for heads that have none of that name."""

    def add(self, exchange: Exchange, reply: Reply) -> None:
        """Rewrite and append; for a reply that `dropped` names have not passed into and that has what is `filled`."""

    def apply(self, exchange: Exchange, reply: Reply) -> None:
        """All of it: for a reply that the gateway made itself."""


class ResponseEdits:
    """`headers.response`: edits of the head that goes to the client."""

    filled: tuple[tuple[bytes, bytes], ...] = ()

    def __init__(
        self, edits: model.ResponseHeaderEdits, strip_prefix: str, add_prefix: str
    ) -> None:
        self.dropped = _dropped(edits)
        """Lower-case names of fields whose copies from the upstream do not pass."""
        self._lines = _Lines(edits)
        self._rewrites = edits.rewrite_location
        self._strip_prefix = strip_prefix.rstrip("/")
        self._add_prefix = add_prefix.rstrip("/")

    @classmethod
    def compile(
        cls, edits: model.ResponseHeaderEdits, *, strip_prefix: str = "", add_prefix: str = ""
    ) -> ResponseEdits | None:
        """The compiled edits, or None where there are none.

        `strip_prefix`, `add_prefix`: as in `rewrite`; undone in a Location by `rewrite_location`.
        """
        compiled = cls(edits, strip_prefix, add_prefix)
        if compiled.dropped or edits.add or edits.rewrite_location:
            return compiled
        return None

    def add(self, exchange: Exchange, reply: Reply) -> None:
        """Rewrite Location and append; for a reply that `dropped` names have not passed into."""
        if self._rewrites and exchange.target_name:
            self._rewrite(exchange, reply)
        reply.lines += self._lines.render(exchange)

    def apply(self, exchange: Exchange, reply: Reply) -> None:
        """All of it: for a reply that the gateway made itself."""
        if self.dropped:
            reply.lines = [
                line for line in reply.lines if line.partition(b":")[0].lower() not in self.dropped
            ]
        self.add(exchange, reply)

    def _rewrite(self, exchange: Exchange, reply: Reply) -> None:
        for index, line in enumerate(reply.lines):
            name, _, value = line.partition(b":")
            if name.lower() in REWRITTEN:
                told = value.strip().decode("utf-8", "surrogateescape")
                public = self.public(told, exchange)
                if public is not None:
                    reply.lines[index] = name + b": " + _bytes(public) + b"\r\n"

    def public(self, location: str, exchange: Exchange) -> str | None:
        """`location` as the client must see it, or None where it does not point at the target.

        The result has no host: the client's own way here is kept whatever stood in Host, and the
        path cannot be read as a host either (RFC 9110 section 10.2.2 allows a relative reference).
        """
        location = location.replace("\t", "")  # browsers drop it, and then `/\t/evil` names a host
        path: str | None = location
        if not location.startswith("/") or location.startswith("//"):
            path = _behind(location, exchange.target_name)
        if path is None:
            return None
        target = exchange.target_in_use
        for before in (target.prefix if target is not None else "", self._add_prefix):
            if before and _is_under(path, before):
                path = path[len(before) :] or "/"
        if path[:1] != "/":
            path = "/" + path
        if self._strip_prefix and not _is_under(path, self._strip_prefix):
            path = self._strip_prefix + path
        return "/." + path if path[1:2] in ("/", "\\") else path


def edited(answer: Handler, edits: Edits | None) -> Handler:
    """`answer`, of a route that answers itself, with its edits applied."""
    if edits is None:
        return answer

    def edit(exchange: Exchange) -> Awaitable[Reply]:
        reply = answer(exchange)
        if isinstance(reply, Reply):
            edits.apply(exchange, reply)
            return reply
        return later(exchange, reply)

    async def later(exchange: Exchange, answering: Awaitable[Reply]) -> Reply:
        reply = await answering
        edits.apply(exchange, reply)
        return reply

    return edit


def _is_under(path: str, prefix: str) -> bool:
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/", "?", "#")


def _behind(location: str, target_name: str) -> str | None:
    """What follows the authority of `location` if that is the target's own; else None."""
    try:
        parts = urlsplit(location)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https", "") or "@" in parts.netloc or not parts.hostname:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = port or (443 if parts.scheme == "https" else 80)
    if f"{host}:{port}" != target_name.lower():
        return None
    return location[location.index("//") + 2 + len(parts.netloc) :]
