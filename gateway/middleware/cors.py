"""`cors`: which pages of other origins may read a route's answers (the CORS protocol of the Fetch standard).

Rules of this file: an origin is compared as text, exactly, or with one label where the configuration has a `*`; what was
not written is never allowed, and an answer never repeats an origin that it has not found. A preflight is answered here, so
it is neither authenticated nor counted against a limit: it has no credentials, and its answer says nothing of what it
protects. An upstream's own fields of this protocol never pass: two of them would be none for a browser. What an answer gets
is made at load, but for an origin that only a pattern knows.

`Vary: Origin` is on every answer that depends on it, those to requests without an Origin included: a cache would serve them
to a page that may read none, or the other way round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway import errors
from gateway.config.browser_rules import CORS_FIELDS
from gateway.exchange import Reply
from gateway.headers import TOKEN
from gateway.middleware.origins import ANY, Origins

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from gateway.config import effective, model
    from gateway.exchange import Exchange, Handler
    from gateway.middleware.base import Build

FIELDS = frozenset(name.encode("ascii") for name in CORS_FIELDS)
_VARY = b"Vary: Origin\r\n"
_VARY_PREFLIGHT = b"Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n"
_REMEMBERED = 1_000
"""Origins of one route whose lines are kept: what a pattern allows may be without end."""
_MOST_ASKED = 4096
"""Characters of a list of field names that a preflight may ask for where `headers` allows any."""


class Cors:
    """One route's answers to pages of other origins."""

    dropped = FIELDS
    """Lower-case names of fields whose copies from the upstream do not pass."""

    def __init__(self, settings: model.Cors) -> None:
        """With credentials `origins` never has a `*`: the model refuses it."""
        self._origins = origins = Origins(settings.origins)
        self._credentials = settings.credentials
        self._expose = b""
        if settings.expose:
            names = ", ".join(settings.expose).encode("ascii")
            self._expose = b"Access-Control-Expose-Headers: %b\r\n" % names
        self._everyone = self._allowed(b"*") if origins.any else None
        self._known = {one: (*self._allowed(one.encode("ascii")), _VARY) for one in origins.exact}
        self._preflight = _Preflight(settings)

    def _allowed(self, value: bytes) -> tuple[bytes, ...]:
        """What the answer to a page of that origin has, but Vary."""
        lines = [b"Access-Control-Allow-Origin: %b\r\n" % value]
        if self._credentials:
            lines.append(b"Access-Control-Allow-Credentials: true\r\n")
        if self._expose:
            lines.append(self._expose)
        return tuple(lines)

    def _of(self, asking: str) -> tuple[bytes, ...] | None:
        """The lines for a page of the origin `asking`; None: it is not allowed."""
        known = self._known.get(asking)
        if known is None and self._origins.matches(asking):
            known = (*self._allowed(asking.encode("ascii")), _VARY)
            if len(self._known) < _REMEMBERED:
                self._known[asking] = known
        return known

    def lines(self, exchange: Exchange) -> tuple[bytes, ...]:
        """The lines of an answer that is no preflight's."""
        if self._everyone is not None:
            return self._everyone
        asking = exchange.headers.get("Origin")
        if asking is None:
            return (_VARY,)
        return self._of(asking) or (_VARY,)

    def preflight(self, exchange: Exchange) -> Reply:
        """The answer to a preflight. Raises errors.Forbidden for an origin that is not allowed."""
        asking = exchange.headers["Origin"]
        lines = self._everyone or self._of(asking)
        if lines is None:
            raise errors.Forbidden(f"cors: the origin {asking[:200]!r} is not one of `origins`")
        allowed = [line for line in lines if line not in (_VARY, self._expose)]
        return Reply(204, allowed + self._preflight.lines(exchange))


class _Preflight:
    """What a preflight is told beside the origin: the same for each that is allowed.

    Where anything is allowed, what is asked for is repeated: a `*` would leave `Authorization` out.
    """

    def __init__(self, settings: model.Cors) -> None:
        self._any_method = ANY in settings.methods
        self._any_field = ANY in settings.headers
        self._constant: list[bytes] = []
        if settings.methods and not self._any_method:
            self._constant.append(_line(b"Methods", ", ".join(settings.methods).encode("ascii")))
        if settings.headers and not self._any_field:
            self._constant.append(_line(b"Headers", ", ".join(settings.headers).encode("ascii")))
        self._constant.append(b"Access-Control-Max-Age: %d\r\n" % settings.max_age)
        self._constant.append(_VARY_PREFLIGHT)

    def lines(self, exchange: Exchange) -> list[bytes]:
        asked = exchange.headers
        lines = self._constant[:]
        if self._any_method and (names := _names(asked["Access-Control-Request-Method"])):
            lines.append(_line(b"Methods", names))
        if self._any_field and (names := _names(asked.get("Access-Control-Request-Headers", ""))):
            lines.append(_line(b"Headers", names))
        return lines


def _line(what: bytes, names: bytes) -> bytes:
    return b"Access-Control-Allow-%b: %b\r\n" % (what, names)


def _names(asked: str) -> bytes:
    """The tokens that a preflight asks for; empty, if it asks for anything that is none."""
    if len(asked) > _MOST_ASKED:
        return b""
    names = [name.strip(" \t").encode("utf-8", "surrogateescape") for name in asked.split(",")]
    return b", ".join(names) if all(TOKEN.fullmatch(name) for name in names) else b""


def wrap(route: effective.Route, forward: Handler, build: Build) -> Handler:  # noqa: ARG001 - as every wrap
    """Answer preflights; `forward` itself where the route has no `cors`."""
    settings = route.policies.cors
    if settings is None:
        return forward
    cors = Cors(settings)

    def preflights(exchange: Exchange) -> Awaitable[Reply]:
        if (
            exchange.method == "OPTIONS"
            and "Origin" in exchange.headers
            and exchange.headers.get("Access-Control-Request-Method")
        ):
            return cors.preflight(exchange)
        return forward(exchange)

    return preflights
