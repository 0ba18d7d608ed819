"""Credentials do not go on: what of a request a route's `auth` has read stays with the gateway.

Rules of this file: decided at load, by name. Unless the route says `forward_credentials: true`, an upstream sees neither a
key nor a token nor a session's cookie; and whatever it says, no client writes a field that some policy's identities write,
on any route: the upstream behind a public one must not be told who somebody is by a stranger. A field stands in a request
once: what a route sets or removes itself, an identity does not write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from gateway.headers import COOKIE, REQUEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway.auth import Authenticator
    from gateway.config import effective
    from gateway.identity import Identity


class Withheld:
    """What one route takes out of its requests."""

    def __init__(self, route: effective.Route, authenticators: Mapping[str, Authenticator]) -> None:
        own: Iterable[Authenticator] = ()
        if not route.policies.forward_credentials:
            own = [authenticators[name] for name in route.policies.auth or ()]
        written = (each.forwarded for each in authenticators.values())
        fields = frozenset[bytes]().union(*written, *(each.taken.headers for each in own))
        # Whatever way an underscore is written: for CGI and WSGI, `X-User` is `X_User`.
        self.fields = fields | {name.replace(b"_", b"-") for name in fields}
        """Lower-case names of fields."""
        self.cookies = frozenset(
            name.encode("utf-8") for each in own for name in each.taken.cookies
        )
        """Names of cookies."""
        self.parameters = frozenset(name for each in own for name in each.taken.query)
        """Names of query parameters, decoded."""

    @property
    def special(self) -> dict[bytes, int]:
        """The fields that are looked at, for `headers.FieldTable`."""
        return REQUEST | {b"cookie": COOKIE} if self.cookies else REQUEST

    def target(self, target: str) -> str:
        """A request target without the parameters that were credentials."""
        path, mark, query = target.partition("?")
        if not mark:
            return target
        left = self.query(query)
        if left == query:
            return target
        return f"{path}?{left}" if left else path

    def query(self, query: str) -> str:
        """A query without them."""
        if not self.parameters:
            return query
        pairs = query.split("&")
        return "&".join(
            [pair for pair in pairs if unquote_plus(pair.partition("=")[0]) not in self.parameters]
        )


def told(identity: Identity, own: frozenset[bytes]) -> bytes:
    """The lines of an identity for the upstream; `own`: lower-case names of fields that are the route's business."""
    if not own:
        return identity.lines
    lines = identity.lines.split(b"\r\n")[:-1]
    return b"".join(
        [line + b"\r\n" for line in lines if line.partition(b":")[0].lower() not in own]
    )


def masks(authenticators: Iterable[Authenticator]) -> tuple[str, ...]:
    """What the access log must hide besides: words as `fields.mask` takes them."""
    words: set[str] = set()
    for each in authenticators:
        words |= {f"header.{name.decode('ascii')}" for name in each.taken.headers}
        words |= {f"query.{name}" for name in each.taken.query}
        words |= {f"cookie.{name}" for name in each.taken.cookies}
    return tuple(sorted(words))
