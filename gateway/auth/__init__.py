"""Ways of knowing who asks: one file for each method of `auth:`, and this the one place that says what a method is.

Rules of this folder: an authenticator is made at load from its settings, lives as long as they stay the same, and keeps
what it has learned (keys, verified tokens, sessions) within stated bounds. It answers at once where it can; only what needs
a network, or a slow hash, is awaited. No credential is kept, logged or put into an error: its SHA-256 is. Errors tell
operators why (`outcome`, `detail`), and a client no more than that it is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from gateway.clock import Clock
    from gateway.exchange import Exchange, Reply
    from gateway.identity import Identity
    from gateway.observe.entrance import AuthMeter
    from gateway.observe.events import Events

Verdict: TypeAlias = "Identity | Awaitable[Identity | Reply | None] | None"


@dataclass(frozen=True, slots=True)
class Taken:
    """Where a policy's credentials stand in a request: they do not reach the upstream unless the route says so."""

    headers: frozenset[bytes] = frozenset()
    """Lower-case names of fields."""
    query: frozenset[str] = frozenset()
    """Names of query parameters, decoded."""
    cookies: frozenset[str] = frozenset()
    """Names of cookies."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What the makers of authenticators are given at load."""

    clock: Clock
    meter: AuthMeter
    """Counts what becomes of the policy's credentials."""
    events: Events
    secrets: tuple[str, ...] = ()
    """`server.secret`: the first signs and seals, each is accepted."""


class Authenticator(Protocol):
    """One named policy of `auth:`."""

    name: str
    taken: Taken
    forwarded: frozenset[bytes]
    """Lower-case names of fields that its identities write for the upstream: a client's own never pass."""
    challenge: str
    """Its `WWW-Authenticate` (RFC 9110 section 11.6.1); empty: there is none for it."""

    def authenticate(self, exchange: Exchange) -> Verdict:
        """Who asks. None: the request has no credential of this kind. At once where nothing has to be waited for.

        Raises errors.Unauthenticated (with its `outcome`) for a credential that is not good, errors.AuthUnavailable where
        nobody can tell; so does what is returned, when it is awaited. A Reply instead of an Identity is the answer to the
        client (a login page, what a forward-auth service has said).
        """

    def rehearse(self, exchange: Exchange) -> Identity | None:
        """As `authenticate`, for inline tests: no loop. None: there is no credential, or it takes a network to tell."""

    async def aclose(self) -> None:
        """Give up what it holds."""


@runtime_checkable
class Inviting(Protocol):
    """An authenticator that has more to say to who is not known than that: a login page."""

    def invite(self, exchange: Exchange) -> Awaitable[Reply] | None:
        """The answer in place of 401, once no policy of the route knows the client; None: this client gets the 401.

        Raises errors.AuthUnavailable; so does what is returned.
        """
