"""An OpenID provider as a login needs it: where it is, what a code is worth, and what an ID token says.

Rules of this file: OpenID Connect Discovery 1.0 and Core 1.0 section 3.1.3. What the provider announces is read once,
renewed while logins go on, and kept while it does not answer. Every address that it names is treated as the issuer's own:
https, or loopback, and never led elsewhere. Neither a code nor a verifier, a token or a secret is in an error.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from gateway import errors
from gateway.auth import documents, jwks, jws
from gateway.auth.fetch import Fetch, FetchError, Single, client_credentials
from gateway.auth.jwt import Claims, Refused
from gateway.config.auth import ASYMMETRIC

if TYPE_CHECKING:
    from gateway.auth import Tools
    from gateway.config import model

FRESH = 600.0
"""Seconds after which what the provider has announced, and its keys, are read again."""
COOL_DOWN = 1.0
"""Seconds for which a provider that has not answered is not asked again."""
_HASHES = {"256": "sha256", "384": "sha384", "512": "sha512"}
_WORD = re.compile(r"[a-z_]{1,64}")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a provider announces (Discovery 1.0 section 3)."""

    authorization: str
    token: str
    end_session: str | None = None
    posts_secret: bool = False
    """Its token endpoint takes the client's secret in the form only."""
    names_itself: bool = False
    """Its answers bear `iss` (RFC 9207)."""


class Provider:
    """One issuer, asked for one client."""

    def __init__(self, name: str, settings: model.Oidc, tools: Tools) -> None:
        """`name`: of the policy."""
        self._settings = settings
        self._clock = tools.clock
        self._fetch = Fetch(tools.clock, timeout=settings.timeout)
        self._algorithms = jws.usable(ASYMMETRIC)
        source = jwks.Web(self._fetch, issuer=settings.issuer)
        self._keys = jwks.Keys(name, self._algorithms, tools, source, FRESH)
        wanted = SimpleNamespace(
            issuer=settings.issuer,
            audience=(settings.client_id,),
            require=("iss", "sub", "aud", "iat"),
            leeway=settings.leeway,
            expiry="required",
            typ=None,
        )
        self._claims = Claims(cast("model.Jwt", wanted), tools.clock)
        self._single: Single[str, Metadata] = Single(f"discovery of {settings.issuer}")
        self._known: Metadata | None = None
        self._read_at = 0.0
        self._failed_at = -COOL_DOWN
        self._problem = ""

    async def metadata(self) -> Metadata:
        """What it announces; the last known where there is one. Raises errors.AuthUnavailable."""
        now = self._clock.now()
        cool = now >= self._failed_at + COOL_DOWN
        if self._known is not None:
            if now >= self._read_at + FRESH and cool:
                self._single.start("", self._discover)
            return self._known
        if not cool:
            raise errors.AuthUnavailable(self._problem)
        try:
            return await self._single.do("", self._discover)
        except FetchError as error:
            raise errors.AuthUnavailable(str(error)) from None

    async def redeem(self, code: str, verifier: str, redirect: str) -> dict[str, Any]:
        """The tokens that a code is worth (Core 1.0 section 3.1.3.3): `id_token` is a text.

        Raises errors.Unauthenticated for a code that the provider refuses, errors.AuthUnavailable where it can not tell.
        """
        where = await self.metadata()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect,
            "code_verifier": verifier,
        }
        fields = [("Accept", "application/json")]
        secret = self._settings.client_secret
        if secret is None or where.posts_secret:
            form["client_id"] = self._settings.client_id
        if secret is not None and where.posts_secret:
            form["client_secret"] = secret.reveal()
        elif secret is not None:
            fields.append(
                ("Authorization", client_credentials(self._settings.client_id, secret.reveal()))
            )
        try:
            # Never sent twice: a code that is used again may cost the tokens of its first use (RFC 6749 section 4.1.2).
            answer = await self._fetch.ask(where.token, headers=fields, form=form, repeatable=False)
            if answer.status == 200:
                return _tokens(documents.read(answer.body))
        except (FetchError, documents.BadDocument) as error:
            raise errors.AuthUnavailable(f"the token endpoint: {error}") from None
        raise _refusal(answer.status, answer.body)

    async def aclose(self) -> None:
        """Give up what is under way."""
        await self._single.aclose()
        await self._keys.aclose()

    async def verified(self, tokens: dict[str, Any], nonce: str) -> dict[str, Any]:
        """The claims of an ID token (Core 1.0 section 3.1.3.7), for the login that has sent `nonce`.

        Raises errors.Unauthenticated, errors.AuthUnavailable.
        """
        token = tokens["id_token"]
        try:
            header = jws.header_of(token)
            if header.alg not in self._algorithms:
                raise jws.BadSignature("its algorithm is not accepted")
            keys = self._keys.find(header.kid, header.alg)
            if keys is None:
                keys = await self._keys.wait(header.kid, header.alg)
            if not keys:
                raise _refused("unknown_key", "it is signed with a key that is not known")
            claims, _ = jws.verified(token, header, keys)
            self._claims.check(claims)
        except Refused as error:
            raise _refused(error.outcome, str(error)) from None
        except jws.BadSignature as error:
            raise _refused("bad_signature", str(error)) from None
        except jws.Malformed as error:
            raise _refused("malformed", str(error)) from None
        self._check(claims, nonce)
        _check_hash(claims, tokens.get("access_token"), header.alg)
        return claims

    def _check(self, claims: dict[str, Any], nonce: str) -> None:
        """What is particular to ID tokens. Raises errors.Unauthenticated."""
        if not claims["sub"]:
            raise _refused("malformed", "its sub is empty")
        own, audience = self._settings.client_id, claims["aud"]
        party = claims.get("azp", own if audience in (own, [own]) else None)
        if party != own:
            raise _refused("wrong_audience", "it is for another client (azp)")
        given = claims.get("nonce")
        if not isinstance(given, str) or not hmac.compare_digest(given.encode(), nonce.encode()):
            raise _refused("malformed", "it is of another login (nonce)")

    async def _discover(self) -> Metadata:
        try:
            document = await jwks.discover(self._fetch, self._settings.issuer)
            found = self._read(document)
        except FetchError as error:
            self._failed_at, self._problem = self._clock.now(), str(error)
            raise
        self._known, self._read_at = found, self._clock.now()
        return found

    def _read(self, document: dict[str, Any]) -> Metadata:
        issuer = self._settings.issuer
        methods = document.get("token_endpoint_auth_methods_supported", ())
        end_session = None
        if "end_session_endpoint" in document:
            end_session = jwks.announced(document, "end_session_endpoint", issuer)
        return Metadata(
            authorization=jwks.announced(document, "authorization_endpoint", issuer),
            token=jwks.announced(document, "token_endpoint", issuer),
            end_session=end_session,
            posts_secret="client_secret_post" in methods and "client_secret_basic" not in methods,
            names_itself=document.get("authorization_response_iss_parameter_supported") is True,
        )


def _refused(outcome: str, why: str) -> errors.Unauthenticated:
    return errors.Unauthenticated(f"the ID token: {why}", outcome=outcome)


def _check_hash(claims: dict[str, Any], access_token: object, alg: str) -> None:
    """Core 1.0 section 3.1.3.8: the access token is the one that came with it."""
    if "at_hash" not in claims or not isinstance(access_token, str):
        return
    digest = hashlib.new(_HASHES.get(alg[-3:], "sha512"), access_token.encode("utf-8")).digest()
    half = base64.urlsafe_b64encode(digest[: len(digest) // 2]).decode("ascii").rstrip("=")
    if claims["at_hash"] != half:
        raise _refused("malformed", "it is of another access token (at_hash)")


def _tokens(document: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(document.get("id_token"), str):
        raise errors.AuthUnavailable("the token endpoint has answered without an id_token")
    return document


def _refusal(status: int, body: bytes) -> errors.GatewayError:
    """What an answer other than 200 means (RFC 6749 section 5.2)."""
    try:
        word = documents.read(body).get("error")
    except documents.BadDocument:
        word = None
    said = word if isinstance(word, str) and _WORD.fullmatch(word) else "no error of OAuth"
    told = f"the token endpoint: status {status}, {said}"
    if said == "invalid_grant":
        return errors.Unauthenticated(told, outcome="malformed")
    return errors.AuthUnavailable(told)
