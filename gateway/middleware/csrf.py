"""`csrf`: a page of another site can not make a browser do something with the user's cookies.

Rules of this file: those of Go's `net/http.CrossOriginProtection`. GET, HEAD and OPTIONS pass: they must change nothing.
Of any other request the browser itself says where it comes from: `Sec-Fetch-Site` must be `same-origin` or `none`; where
that field is missing, the host of `Origin` must be the one that is asked. A request with neither is no browser's, or an old
one's from the same origin, and passes. Origins that the route's `cors` lets in with credentials are trusted. Beyond those
rules, a request for an upgrade counts as unsafe, though it is a GET: browsers let any page open a WebSocket.

It is on where it is written; and, unless it is off, for sessions that a login has left. It asks who somebody is, so it
stands behind `auth`: what comes with a key or a token of a program's own is nothing that a browser adds by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway import errors
from gateway.config.sign_in import protected as protected_on
from gateway.middleware.origins import Origins

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.config import effective, model
    from gateway.exchange import Exchange, Handler, Reply
    from gateway.middleware.base import Build

SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
_OWN = frozenset(("same-origin", "none"))


def wrap(route: effective.Route, forward: Handler, build: Build) -> Handler:
    """Refuse what another site has begun; `forward` itself where nobody is protected."""
    protected = protected_on(route, build.config.auth)
    if protected is not None and not protected:
        return forward
    trusted = _trusted(route.policies.cors)

    def csrf(exchange: Exchange) -> Awaitable[Reply]:
        if exchange.method in SAFE and "Upgrade" not in exchange.headers:
            return forward(exchange)
        identity = exchange.identity
        if protected is None or (identity is not None and identity.policy in protected):
            check(exchange, trusted)
        return forward(exchange)

    return csrf


def check(exchange: Exchange, trusted: Callable[[str], bool]) -> None:
    """Raises errors.Forbidden for an unsafe request that another site's page has begun."""
    headers = exchange.headers
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if site is None:
        if origin is None or _host(origin) == exchange.authority.lower():
            return
    elif site in _OWN:
        return
    if origin is None or not trusted(origin.lower()):
        raise errors.Forbidden(
            f"another site has begun this request: Sec-Fetch-Site {site or 'absent'}, "
            f"Origin {origin or 'absent'}"
        )


def _host(origin: str) -> str:
    """The host of an origin, with its port; of `null`, and of what is none, a text that is no host."""
    scheme, mark, host = origin.lower().partition("://")
    return host if mark and host and scheme in ("http", "https") else "//"


def _trusted(cors: model.Cors | None) -> Callable[[str], bool]:
    if cors is None or not cors.credentials:
        return lambda _: False
    origins = Origins(cors.origins)
    return lambda origin: origin != "null" and origins.names(origin)
