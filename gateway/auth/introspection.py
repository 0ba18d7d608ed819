"""`introspection`: tokens that only their issuer understands; it is asked about each (RFC 7662).

Rules of this file: who is let in is what the endpoint says now, or has said within `cache`, and never past `exp`. What it
does not know is remembered for a few seconds, or a client that repeats itself would be a flood for it; an endpoint that does
not answer is remembered by nobody. Many requests with one token are one question. The token goes to the endpoint, in a body,
and nowhere else.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from yarl import URL

from gateway import errors
from gateway.auth.bearer import CHALLENGE, Bearer, consumer_of, for_one_of, scopes_of
from gateway.auth.describing import Describing
from gateway.auth.fetch import Fetch, FetchError, Single, client_credentials, shown
from gateway.auth.remembered import Remembered, digest

if TYPE_CHECKING:
    from gateway.auth import Tools, Verdict
    from gateway.config import model
    from gateway.exchange import Exchange
    from gateway.identity import Identity

LONGEST = 8192
"""Characters of a token."""
LARGEST = 64 * 1024
"""Bytes of an answer."""
NOT_ACTIVE = 5.0
"""Seconds for which a token that is not good is not asked about again."""
MOST_UNKNOWN = 10_000
"""Tokens that are not good: they have no room in common with good ones, whoever sends how many."""


class Introspection:
    """One policy `introspection`."""

    challenge = CHALLENGE

    def __init__(self, name: str, settings: model.Introspection, tools: Tools) -> None:
        self.name = name
        self._clock = tools.clock
        self._url = settings.url
        self._shown = shown(URL(settings.url))
        self._authorization = client_credentials(
            settings.client_id, settings.client_secret.reveal()
        )
        self._audience = frozenset(settings.audience)
        self._kept = settings.cache or 0.0
        self._fetch = Fetch(tools.clock, timeout=settings.timeout, largest=LARGEST)
        self._single: Single[bytes, Identity] = Single(f"introspection of {name}")
        self._bearer = Bearer(name, tools)
        self._token = self._bearer.token
        self._describing = Describing(name, settings)
        self._known: Remembered[Identity] = Remembered()
        self._unknown: Remembered[tuple[str, str]] = Remembered(MOST_UNKNOWN)
        self.taken = self._bearer.taken
        self.forwarded = self._describing.forwarded

    def __repr__(self) -> str:
        return f"<Introspection {self.name}: {len(self._known)} tokens known>"

    def authenticate(self, exchange: Exchange) -> Verdict:
        """Who asks: see auth.Authenticator."""
        token = self._token(exchange)
        if token is None:
            return None
        if not token or len(token) > LONGEST or not token.isascii() or not token.isprintable():
            raise self._bearer.refuse("malformed", "it is no token (RFC 6750 section 2.1)")
        key = digest(token)
        now = self._clock.now()
        known = self._known.get(key, now)
        if known is not None:
            return known
        refused = self._unknown.get(key, now)
        if refused is not None:
            raise self._bearer.refuse(*refused)
        return self._asked(token, key)

    def rehearse(self, exchange: Exchange) -> Identity | None:
        """None: it takes a network to tell."""

    async def aclose(self) -> None:
        """Forget, and ask no more."""
        await self._single.aclose()
        await self._fetch.aclose()
        self._known.clear()
        self._unknown.clear()

    async def _asked(self, token: str, key: bytes) -> Identity:
        try:
            return await self._single.do(key, lambda: self._ask(token, key))
        except FetchError as error:
            raise errors.AuthUnavailable(f"policy {self.name}: {error}") from None
        except _Refused as error:
            raise self._bearer.refuse(error.outcome, error.why) from None

    async def _ask(self, token: str, key: bytes) -> Identity:
        """Ask the endpoint. Raises FetchError, or _Refused."""
        answer = await self._fetch.document(
            self._url,
            form={"token": token, "token_type_hint": "access_token"},
            headers={"Authorization": self._authorization},
        )
        try:
            end = self._judge(answer)
        except _Refused as error:
            kept = min(NOT_ACTIVE, self._kept)
            if kept > 0:
                until = self._clock.now() + kept
                self._unknown.put(key, (error.outcome, error.why), until, len(token))
            raise
        identity = self._describing.identity(
            consumer_of(answer, self.name, ("sub", "username", "client_id")),
            answer,
            scopes=scopes_of(answer),
            expires=end,
        )
        kept = min(self._kept, end - self._clock.wall())
        if kept > 0:
            self._known.put(key, identity, self._clock.now() + kept, len(token))
        return identity

    def _judge(self, answer: dict[str, Any]) -> float:
        """Unix seconds from which on it counts no more. Raises _Refused, or FetchError for what is no answer."""
        if not isinstance(answer.get("active"), bool):
            raise FetchError(f"{self._shown}: its answer does not say `active`")
        if answer["active"] is not True:
            raise _Refused("inactive", "the issuer does not know it, or not any more")
        now = self._clock.wall()
        if self._time(answer, "nbf", -math.inf) > now:
            raise _Refused("inactive", "it is not valid yet (nbf)")
        end = self._time(answer, "exp", math.inf)
        if end <= now:
            raise _Refused("expired", "it has expired")
        # Where no audience is wanted any will do: the endpoint tells whether this client may have the token.
        if self._audience and not for_one_of(answer, self._audience):
            raise _Refused("wrong_audience", "it is for another audience")
        return end

    def _time(self, answer: dict[str, Any], name: str, default: float) -> float:
        """Unix seconds. Raises FetchError."""
        value = answer.get(name)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e15:
            raise FetchError(f"{self._shown}: its answer's {name} is no time")
        return float(value)


class _Refused(Exception):
    """A token that is not good."""

    def __init__(self, outcome: str, why: str) -> None:
        super().__init__(why)
        self.outcome = outcome
        self.why = why


def make(name: str, settings: model.Introspection, tools: Tools) -> Introspection:
    """The authenticator of the policy `name`."""
    return Introspection(name, settings, tools)
