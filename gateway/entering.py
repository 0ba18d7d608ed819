"""Who may come in, rehearsed: a route's own policies, asked about a request that nobody sent.

Rules of this file: nothing is decided here; the middlewares are those of the data path, and the policies are made as
they are for it, but remember no failure. What takes a network to tell is not asked, and that is said. No limit counts.
"""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from gateway import errors
from gateway.auth import Inviting, Tools, making
from gateway.auth.bearer import scopes_of
from gateway.auth.describing import Describing
from gateway.clock import Clock
from gateway.middleware import ADMITTED
from gateway.middleware.base import Build
from gateway.observe.entrance import AuthMeter, Entrance
from gateway.observe.events import Events
from gateway.rehearsal import CannotTell

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.auth import Authenticator, Taken
    from gateway.config import effective, model
    from gateway.exchange import Exchange, Handler, Reply
    from gateway.identity import Identity
    from gateway.rehearsal import Given

COUNTING = frozenset({"rate_limit"})
"""Middlewares that a rehearsal leaves out: asking does not use anything up."""


class Entering:
    """The policies of one configuration, ready to be asked."""

    def __init__(self, config: effective.Config) -> None:
        """Raises ValueError or OSError, with a sentence for the user, for a file that a policy cannot use."""
        self.config = config
        self.clock = Clock()
        secrets = tuple(secret.reveal() for secret in config.server.secret)
        events = Events(self.clock.wall)
        self.authenticators: dict[str, Authenticator] = {
            name: making.make(
                name, _forgetful(policy), Tools(self.clock, AuthMeter(name), events, secrets)
            )
            for name, policy in config.auth.items()
        }

    def build(self, route: effective.Route, given: Given | None) -> Build:
        """What middlewares are given. Raises ValueError for a client that the route would not accept so."""
        unused: Any = None
        metrics = cast("Any", SimpleNamespace(entrance=Entrance()))
        accepted = None if given is None else self._accepted(route, given)
        asked = {
            name: (_Inviting if isinstance(policy, Inviting) else _Asked)(
                policy, self.config.auth[name], accepted
            )
            for name, policy in self.authenticators.items()
        }
        return Build(
            self.config, self.clock, metrics, None, {}, unused, unused, cast("Any", asked), unused
        )

    def around(self, route: effective.Route, handler: Handler, build: Build) -> Handler:
        """`handler` behind all that may refuse a client."""
        for name, wrap in reversed(ADMITTED):
            if name not in COUNTING:
                handler = wrap(route, handler, build)
        asked = cast("Mapping[str, _Asked]", build.authenticators)
        policies = [asked[name] for name in route.policies.auth or ()]

        async def told(exchange: Exchange) -> Reply:
            """Raises errors.GatewayError, and CannotTell where that is no more than a guess."""
            try:
                return await handler(exchange)
            except errors.Unauthenticated:
                for policy in policies:
                    if policy.untold:
                        raise CannotTell(policy.name, policy.untold) from None
                raise

        return told if policies else handler

    def admit(
        self, exchange: Exchange, route: effective.Route, given: Given | None
    ) -> Reply | None:
        """Let `exchange` in: it knows its client then. A Reply: what is answered instead.

        Raises errors.GatewayError where it is refused, CannotTell, and ValueError as `build` does.
        """

        async def inside(_: Exchange) -> None:
            """Whatever the route does with it."""

        handler = self.around(route, cast("Handler", inside), self.build(route, given))

        async def wait() -> Reply | None:
            return await handler(exchange)

        # A thread, since the caller may be in a loop already.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, wait()).result()

    def _accepted(self, route: effective.Route, given: Given) -> Identity:
        names = route.policies.auth
        if not names:
            raise ValueError(f"the route {route.name} has no auth, so nobody is known there")
        name = given.policy or names[0]
        if name not in names:
            raise ValueError(
                f"the route {route.name} does not accept the policy {name}: it accepts {', '.join(names)}"
            )
        settings = self.config.auth[name].settings
        if given.consumer is not None:
            settings = settings.replaced(consumer=None)
        consumer = given.consumer or str(given.claims.get("sub", name))
        scopes = scopes_of(given.claims)
        identity = Describing(name, settings).identity(consumer, given.claims, scopes=scopes)
        copied = getattr(settings, "copy_", ())
        lines = b"".join(_copied(field, given.claims.get(field.lower())) for field in copied)
        return replace(identity, lines=identity.lines + lines)


def _copied(field: str, value: Any) -> bytes:
    """What an answer of `forward_auth` would have brought, where a claim of that name is given."""
    return b"" if value is None else f"{field}: {value}\r\n".encode("utf-8", "surrogateescape")


_NOBODY = "asks others who this is, and nobody is asked here"
_PROVIDER = "sends who is not known to a provider, and nobody is asked here"
_MOMENT = "wants the moment of a signature, and its body; neither is here"


class _Asked:
    """One policy, asked as a rehearsal asks."""

    def __init__(
        self, policy: Authenticator, settings: model.AuthPolicy, accepted: Identity | None
    ) -> None:
        self._policy = policy
        self._settings = settings
        self._accepted = accepted
        self.name = policy.name
        self.untold = ""
        """Why nobody can tell here what it would say."""
        self.taken, self.forwarded, self.challenge = (
            policy.taken,
            policy.forwarded,
            policy.challenge,
        )

    def authenticate(self, exchange: Exchange) -> Identity | None:
        """Raises errors.Unauthenticated as the policy does."""
        if self._accepted is not None:
            return self._accepted if self._accepted.policy == self.name else None
        identity = self._policy.rehearse(exchange)
        if identity is None:
            self.untold = _untold(self._settings, exchange, self.taken)
        return identity


class _Inviting(_Asked):
    """The same of one that shows a login page."""

    def invite(self, exchange: Exchange) -> None:
        """Raises CannotTell where the client would be sent to a provider."""
        asking = cast("Inviting", self._policy).invite(exchange)
        if asking is not None:
            if inspect.iscoroutine(asking):
                asking.close()
            raise CannotTell(self.name, _PROVIDER)


def _untold(policy: model.AuthPolicy, exchange: Exchange, taken: Taken) -> str:
    """Why a policy that knows nobody could still know somebody; empty: it could not."""
    if policy.forward_auth is not None:
        return _NOBODY
    values = [exchange.headers.get(name.decode("ascii"), "") for name in taken.headers]
    if policy.hmac is not None:
        return _MOMENT if any(values) else ""
    jwt = policy.jwt
    asks = policy.introspection is not None or (
        jwt is not None and jwt.jwks is not None and (jwt.jwks == "discover" or "://" in jwt.jwks)
    )
    # Behind Authorization may be what another policy reads.
    plain = b"authorization" not in taken.headers
    token = any(value and (plain or value.lower().startswith("bearer ")) for value in values)
    return _NOBODY if asks and token else ""


def _forgetful(policy: model.AuthPolicy) -> model.AuthPolicy:
    """The same policy, slow to nobody: who tries things out is no burglar."""
    settings = policy.settings
    if "attempts" not in type(settings).model_fields:
        return policy
    return policy.replaced(**{policy.method: settings.replaced(attempts=None)})
