"""`redirect:` and `redirect_to_https:`: answers that send the client elsewhere.

Rules of this file: where to is decided by the configuration, never by the client alone. What a
request adds may fill a path or a query; a host that it fills must be one that a route names, or end
in text that the configuration gives. A result that a browser could take for another host than was
meant is a bad request (`//evil`, `/\\evil`, a scheme).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from gateway import errors
from gateway.exchange import Reply
from gateway.middleware.respond import pieces
from gateway.routing.template import Template
from gateway.withheld import Withheld

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config import effective, model
    from gateway.exchange import Exchange, Handler
    from gateway.middleware.base import Build

ACME = "/.well-known/acme-challenge/"

_ABSOLUTE = re.compile(r"(?:(?:[A-Za-z][A-Za-z0-9+.-]*|\{scheme\}):)?//")
_AUTHORITY_END = re.compile(r"[/?#\\]")
_AUTHORITY = re.compile(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_BAD = re.compile(r"[^\x21-\x7e]")
_SCHEME = re.compile(r"[^/?#]*:")
_PLACEHOLDER = re.compile(r"(\{[^{}]*\})")


def answer(
    settings: model.Redirect,
    route: effective.Route,
    build: Build,
) -> Handler:
    """The handler of a route that redirects. Raises ValueError for an unknown placeholder."""
    to = quote(settings.to, safe="!#$%&'()*+,/:;=?@[]~{}|\\")
    location = _Location(to, named_hosts(build.config), Withheld(route, build.authenticators).query)
    status = settings.status

    def redirect(exchange: Exchange) -> Reply:
        return Reply(status, [b"Location: %b\r\n" % location.render(exchange)])

    return redirect


class _Location:
    """What `to` makes of a request."""

    def __init__(
        self, to: str, is_named: Callable[[str], bool], passing: Callable[[str], str]
    ) -> None:
        """`passing`: what of a query may go where another host may read it."""
        self._passing = passing
        rest, hash_, fragment = _cut(to, "#")
        path, self._mark, query = _cut(rest, "?")
        self._path = Template.compile(path, where="path")
        # Piece by piece: a template of a query is one value, whose `&` and `=` are escaped.
        self._query: list[str | Template] = [
            Template.compile(piece, where="query") if index % 2 else piece
            for index, piece in enumerate(pieces(query))
        ]
        self._fragment = Template.compile(hash_ + fragment, where="path")
        self._is_named = is_named
        absolute = _ABSOLUTE.match(to)
        # What stands for the authority as written; None: `to` is a path.
        self._authority = None
        if absolute is not None:
            self._authority = _AUTHORITY_END.split(path[absolute.end() :], maxsplit=1)[0]
        parts = _PLACEHOLDER.split(self._authority or "")
        self._head, self._tail = parts[0], parts[-1]

    def render(self, exchange: Exchange) -> bytes:
        """The value of Location. Raises errors.BadRequest for one that leads astray."""
        path = self._path.render(exchange)
        if self._authority is None:
            safe = path[:1] != "\\" and path[:2] not in ("//", "/\\") and not _SCHEME.match(path)
        else:
            safe = self._is_meant(path)
        query = self._own_query(exchange) if self._mark else self._passing(exchange.query)
        text = path + ("?" + query if query or self._mark else "") + self._fragment.render(exchange)
        if not safe or _BAD.search(text):
            raise errors.BadRequest("the redirect would lead to a place that is not configured")
        return text.encode("ascii")

    def _own_query(self, exchange: Exchange) -> str:
        return "".join(
            piece if isinstance(piece, str) else piece.render(exchange) for piece in self._query
        )

    def _is_meant(self, path: str) -> bool:
        """Whether the host of an absolute location is one that the configuration means."""
        authority = _AUTHORITY_END.split(path.partition("//")[2], maxsplit=1)[0]
        if authority == self._head:
            return authority != ""
        if _AUTHORITY.fullmatch(authority) is None:
            return False
        tail = self._tail
        if tail.startswith(".") and tail.strip(".:0123456789") and authority.endswith(tail):
            return True
        host = authority if authority.endswith("]") else re.sub(r":[0-9]+$", "", authority)
        return self._is_named(host.lower().removesuffix("."))


def _cut(text: str, mark: str) -> tuple[str, str, str]:
    """As str.partition, but not inside a placeholder."""
    parts = _PLACEHOLDER.split(text)
    for index, piece in enumerate(parts):
        if mark in piece and not piece.startswith("{"):
            before, _, after = piece.partition(mark)
            rest = "".join(parts[index + 1 :])
            return "".join(parts[:index]) + before, mark, after + rest
    return text, "", ""


def named_hosts(config: effective.Config) -> Callable[[str], bool]:
    """Whether a host (lower-case, no port) is one that a route names, itself or by a suffix."""
    hosts = {host.lower() for route in config.routes for host in route.match.host}
    exact = frozenset(host for host in hosts if not host.startswith("."))
    suffixes = tuple(host for host in hosts if host.startswith("."))

    def is_named(host: str) -> bool:
        return host in exact or (host.endswith(suffixes) and host not in suffixes)

    return is_named


def https_redirect(
    config: effective.Config,
    listener: model.Listener,
    certified: Callable[[str], bool] = lambda _host: False,
) -> Callable[[Exchange], Reply | None]:
    """What a listener with `redirect_to_https` asks before it routes: the 308, or None to go on.

    `certified`: whether a certificate that is served names a host (lower-case, no port).
    Only for a Host that a route or a certificate names, since anything else would be an open redirect, and not for
    the challenge of RFC 8555 section 8.3, which comes over port 80 before there is a certificate.
    """
    port = listener.redirect_to_https.port if listener.redirect_to_https else 443
    suffix = "" if port == 443 else f":{port}"
    is_named = named_hosts(config)

    def redirect(exchange: Exchange) -> Reply | None:
        if exchange.scheme == "https" or exchange.path.startswith(ACME):
            return None
        if not exchange.target.startswith("/") or not (
            is_named(exchange.host) or certified(exchange.host)
        ):
            return None
        location = f"https://{exchange.host}{suffix}{exchange.target}"
        line = b"Location: %b\r\n" % location.encode("utf-8", "surrogateescape")
        return Reply(308, [line])

    return redirect
