"""`jwt`: signed tokens, checked here with the keys of their issuer (RFC 7519, RFC 8725).

Rules of this file: the configuration says which algorithms, which issuer, which audience; a token is held against it and
chooses nothing. What was verified is remembered, for a minute at most, never past its end, and never longer than the key
that has signed it is published. Times are Unix seconds of the Clock. No part of a token is in an error.
"""

from __future__ import annotations

import math
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeAlias

from gateway.auth import jwks, jws, keys
from gateway.auth.bearer import CHALLENGE, Bearer, consumer_of, for_one_of, scopes_of
from gateway.auth.describing import Describing
from gateway.auth.fetch import Fetch
from gateway.auth.remembered import Remembered

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from gateway.auth import Tools, Verdict
    from gateway.clock import Clock
    from gateway.config import model
    from gateway.exchange import Exchange
    from gateway.identity import Identity

REMEMBERED = 60.0
"""Seconds for which a verified token is not verified again."""
_TYPES = frozenset((None, "jwt", "at+jwt"))
"""What a token may call itself if the policy does not say. Other kinds (logout+jwt, dpop+jwt, secevent+jwt) are signed by
the same issuer for other ends (RFC 8725 section 3.11)."""

_Ring: TypeAlias = "jwks.Keys | jwks.Fixed"


class Refused(ValueError):
    """A token that is not for us. `outcome` is a word of `gateway_auth_decisions_total`."""

    def __init__(self, outcome: str, why: str) -> None:
        super().__init__(why)
        self.outcome = outcome


class Claims:
    """What the claims of a token are held against."""

    def __init__(self, settings: model.Jwt, clock: Clock) -> None:
        self._clock = clock
        self._issuer = settings.issuer
        self._audience = frozenset(settings.audience)
        self._require = settings.require
        self._leeway = settings.leeway or 0.0
        self._ends = settings.expiry == "required"
        self._typ = None if settings.typ is None else kind(settings.typ)

    def check_type(self, header: jws.Header) -> None:
        """Raises Refused for another kind of token."""
        found = None if header.typ is None else kind(header.typ)
        if (found not in _TYPES) if self._typ is None else (found != self._typ):
            raise Refused("malformed", "it is a token of another kind: its typ is not accepted")

    def check(self, claims: dict[str, Any]) -> float:
        """Unix seconds from which on it counts no more. Raises Refused."""
        for name in self._require:
            if claims.get(name) is None:
                raise Refused("malformed", f"it lacks the claim {name}, which the policy requires")
        for name in ("sub", "jti"):
            if not isinstance(claims.get(name, ""), str):
                raise Refused("malformed", f"its {name} is no text")
        end = self._check_times(claims)
        if self._issuer is not None and claims.get("iss") != self._issuer:
            raise Refused("wrong_audience", "it is from another issuer")
        if not for_one_of(claims, self._audience):
            why = "it is for another audience" if self._audience else (
                "it is for an audience, and the policy names none: write audience"
            )  # fmt: skip
            raise Refused("wrong_audience", why)
        return end

    def _check_times(self, claims: dict[str, Any]) -> float:
        now = self._clock.wall()
        for name in ("nbf", "iat"):
            begin = _time(claims, name)
            if begin is not None and begin > now + self._leeway:
                raise Refused("inactive", f"it is not valid yet ({name})")
        end = _time(claims, "exp")
        if end is None:
            if self._ends:
                raise Refused("malformed", "it has no exp, and would never end")
            return math.inf
        if end + self._leeway <= now:
            raise Refused("expired", "it has expired")
        return end + self._leeway


def _time(claims: dict[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519 section 2). Raises Refused."""
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise Refused("malformed", f"its {name} is no number")
    if not -1e15 < value < 1e15:  # a number of a thousand digits is no float
        raise Refused("malformed", f"its {name} is no time")
    return float(value)


def kind(typ: str) -> str:
    """A `typ` as it is compared: the prefix `application/` may be left out (RFC 7515 section 4.1.9)."""
    return typ.lower().removeprefix("application/")


class Jwt:
    """One policy `jwt`."""

    challenge = CHALLENGE

    def __init__(self, name: str, settings: model.Jwt, tools: Tools, ring: _Ring) -> None:
        self.name = name
        self._now = tools.clock.now
        self._clock = tools.clock
        self._ring = ring
        self._algorithms = jws.usable(settings.algorithms)
        self._claims = Claims(settings, tools.clock)
        self._bearer = Bearer(name, tools, settings.header)
        self._token = self._bearer.token
        self._describing = Describing(name, settings)
        self._known: Remembered[tuple[Identity, keys.Key]] = Remembered()
        self.taken = self._bearer.taken
        self.forwarded = self._describing.forwarded

    def __repr__(self) -> str:
        return f"<Jwt {self.name}: {len(self._known)} tokens known, {self._ring!r}>"

    def authenticate(self, exchange: Exchange) -> Verdict:
        """Who asks: see auth.Authenticator."""
        token = self._token(exchange)
        if token is None:
            return None
        if len(token) > jws.LONGEST:
            raise self._bearer.refuse("malformed", f"it is longer than {jws.LONGEST} characters")
        key = sha256(token.encode("utf-8", "surrogateescape")).digest()
        known = self._known.get(key, self._now())
        if known is not None and known[1].live:
            return known[0]
        return self._verify(token, key)

    def rehearse(self, exchange: Exchange) -> Identity | None:
        """The same with keys that need no network."""
        token = self._token(exchange)
        if token is None or not len(self._ring.ring):
            return None
        header = self._header(token)
        return self._identity(
            token, b"", header, self._ring.ring.find(header.kid, header.alg) or ()
        )

    async def aclose(self) -> None:
        """Forget, and look for keys no more."""
        self._known.clear()
        await self._ring.aclose()

    def _verify(self, token: str, key: bytes) -> Identity | Awaitable[Identity]:
        header = self._header(token)
        found = self._ring.find(header.kid, header.alg)
        if found is None:
            return self._waiting(token, key, header)
        return self._identity(token, key, header, found)

    async def _waiting(self, token: str, key: bytes, header: jws.Header) -> Identity:
        return self._identity(token, key, header, await self._ring.wait(header.kid, header.alg))

    def _header(self, token: str) -> jws.Header:
        """What needs no key. Raises errors.Unauthenticated."""
        try:
            header = jws.header_of(token)
            self._claims.check_type(header)
        except jws.Malformed as error:
            raise self._bearer.refuse("malformed", str(error)) from None
        except Refused as error:
            raise self._bearer.refuse(error.outcome, str(error)) from None
        if header.alg not in self._algorithms:
            raise self._bearer.refuse("bad_signature", "its algorithm is not one of the policy's")
        return header

    def _identity(
        self, token: str, key: bytes, header: jws.Header, found: tuple[keys.Key, ...]
    ) -> Identity:
        """Raises errors.Unauthenticated."""
        if not found:
            raise self._bearer.refuse("unknown_key", "it is signed with a key that is not known")
        try:
            claims, signer = jws.verified(token, header, found)
            end = self._claims.check(claims)
        except jws.BadSignature as error:
            raise self._bearer.refuse("bad_signature", str(error)) from None
        except jws.Malformed as error:
            raise self._bearer.refuse("malformed", str(error)) from None
        except Refused as error:
            raise self._bearer.refuse(error.outcome, str(error)) from None
        identity = self._describing.identity(
            consumer_of(claims, self.name, ("sub", "client_id", "azp")),
            claims,
            scopes=scopes_of(claims),
            expires=end,
        )
        if key:
            left = min(REMEMBERED, end - self._clock.wall())
            self._known.put(key, (identity, signer), self._now() + left, len(token))
        return identity


def make(name: str, settings: model.Jwt, tools: Tools) -> Jwt:
    """The authenticator of the policy `name`. Raises ValueError or OSError with a sentence for the user."""
    try:
        return Jwt(name, settings, tools, _ring(name, settings, tools))
    except ValueError as error:
        raise ValueError(f"auth.{name}.jwt: {error}") from None


def _ring(name: str, settings: model.Jwt, tools: Tools) -> _Ring:
    if settings.secret:
        return jwks.Fixed(
            keys.secret(each.reveal(), settings.algorithms) for each in settings.secret
        )
    where = settings.jwks or "discover"
    algorithms = jws.usable(settings.algorithms)
    if where != "discover" and "://" not in where:
        file = jwks.File(where, tools.clock)
        ring = jwks.Keys(name, algorithms, tools, file, jwks.LOOK)
        ring.take(file.first())
        ring.looked()
        return ring
    fetch = Fetch(tools.clock, timeout=settings.timeout)
    web = jwks.Web(fetch, url=None if where == "discover" else where, issuer=settings.issuer or "")
    return jwks.Keys(name, algorithms, tools, web, settings.refresh)
