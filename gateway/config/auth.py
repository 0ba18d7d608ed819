"""Who is known: the named policies of `auth`.

The rules are those of `model.py`. Each method has `consumer`, `groups` and `forward`, which say what an accepted credential
makes of a client. Whatever can be used in place of a password is a `Secret`.
"""

from __future__ import annotations

import base64
import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from gateway.config.addresses import CookieName, HeaderName, HeaderValue
from gateway.config.forms import Model, around, built_in
from gateway.config.nodes import Map, Seq, Text
from gateway.config.ranges import Period
from gateway.config.scalars import Duration, Size, read_text, refuse
from gateway.config.services import Issuer, Jwks, Landing, SafeUrl, ServiceUrl
from gateway.config.texts import FilePath, Secret

# ── what all methods have ───────────────────────────────────────────────────────────────────────

_CLAIM = re.compile(r"\{claim\.[a-z_.0-9-]+\}")


def _one_claim(value: object) -> str:
    word = read_text(value, "a claim such as {claim.roles}")
    if not _CLAIM.fullmatch(word):
        bare = word.strip("{}").removeprefix("claim.")
        fix = f"{{claim.{bare}}}"
        hint = fix if _CLAIM.fullmatch(fix) else "{claim.roles}"
        raise refuse(f"groups are a claim, and nothing beside it: write '{hint}', not {word!r}")
    return word


class Method(Model):
    """What an accepted credential makes of a client."""

    consumer: str | None = Field(
        None, description="whom limits and logs mean: a text with {claim.NAME} in it"
    )
    groups: Annotated[str, BeforeValidator(_one_claim)] | None = Field(
        None, description="the claim that holds the groups; built in: '{claim.groups}'"
    )
    forward: dict[HeaderName, HeaderValue | None] = Field(
        default_factory=dict,
        description="fields for the upstream, with {claim.NAME} and {consumer} in them; "
        "what clients send in them never passes",
    )


# ── tokens ──────────────────────────────────────────────────────────────────────────────────────

ASYMMETRIC = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
SYMMETRIC = ("HS256", "HS384", "HS512")
Algorithm = Literal[
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "HS256",
    "HS384",
    "HS512",
]
_SECURE = ("RS256", "PS256", "ES256", "EdDSA")


class Jwt(Method):
    """Signed tokens (RFC 7519), checked here. Their keys come from a JWKS, or are `secret`."""

    short = "issuer"

    issuer: Issuer | None = Field(None, description="the `iss` that tokens must have")
    jwks: Jwks | None = Field(
        None, description="discover (built in, where there is an issuer), a URL, or a file"
    )
    secret: tuple[Secret, ...] = Field(
        (), description="for HS algorithms, in place of a JWKS; of a list each is accepted"
    )
    audience: tuple[str, ...] = Field((), description="the `aud` that is wanted: any of these")
    algorithms: tuple[Algorithm, ...] = Field(
        (),
        description=f"that are accepted; built in: {', '.join(_SECURE)}, with a secret HS256",
    )
    leeway: Duration = Field(30.0, description="how far clocks may be apart")
    require: tuple[str, ...] = Field((), description="claims that must be there")
    expiry: Literal["required", "optional"] = Field(
        "required", description="whether a token without `exp` is refused"
    )
    typ: str | None = Field(None, description="the `typ` that a token must have, such as at+jwt")
    header: HeaderName = Field(
        "Authorization", description="where it stands; in Authorization behind Bearer"
    )
    refresh: Period = Field(600.0, description="how old the keys of a URL may become")
    timeout: Period = Field(5.0, description="of one reading of them")

    @model_validator(mode="after")
    def _keys(self) -> Self:
        if self.secret and self.jwks is not None:
            raise refuse(
                "jwt has a JWKS or a secret, not both: a public key must never serve as a secret"
            )
        if not self.secret and self.jwks is None:
            if self.issuer is None:
                raise refuse("jwks is missing: write a URL or a file, or issuer: https://…")
            self.__dict__["jwks"] = "discover"
        if self.jwks == "discover" and (self.issuer is None or "://" not in self.issuer):
            if self.issuer is not None and "jwks" not in self.model_fields_set:
                word = self.issuer
                fix = f"write https://{word}, or jwks: with the URL or the file of its keys"
                raise refuse(f"issuer: {word} is no URL, so its keys cannot be looked up: {fix}")
            raise refuse("jwks: discover needs issuer: the URL below which its keys are announced")
        if not self.algorithms:
            self.__dict__["algorithms"] = ("HS256",) if self.secret else _SECURE
        wrong = [each for each in self.algorithms if (each in SYMMETRIC) != bool(self.secret)]
        if wrong and self.secret:
            raise refuse(
                f"algorithms: {wrong[0]} takes a public key: write jwks in place of secret"
            )
        if wrong:
            raise refuse(
                f"algorithms: {wrong[0]} takes secret: …, never a JWKS: its keys are public"
            )
        self._long_enough()
        return self

    def _long_enough(self) -> None:
        """RFC 7518 section 3.2: whoever has one token could try all shorter secrets."""
        for each in self.secret:
            size = len(each.reveal().encode("utf-8"))
            for name in self.algorithms:
                if size < (wanted := int(name[2:]) // 8):
                    raise refuse(
                        f"secret: it has {size} bytes, and {name} wants {wanted} at least: "
                        "make one with openssl rand -hex 32"
                    )


class Introspection(Method):
    """Opaque tokens, which an authorisation server is asked about (RFC 7662)."""

    url: SafeUrl = Field(description="of the endpoint")
    client_id: str = Field(description="the gateway's own name there")
    client_secret: Secret = Field(description="and its password")
    audience: tuple[str, ...] = Field((), description="the `aud` that is wanted: any of these")
    cache: Duration | None = Field(
        30.0, description="how long an answer is kept, and never past `exp`"
    )
    timeout: Period = Field(5.0, description="of one question")


# ── keys and passwords ──────────────────────────────────────────────────────────────────────────


class Attempts(Model):
    """How many failures of one address are too many. Then it is refused for a while (429)."""

    max: Annotated[int, Field(ge=1, le=1_000_000)] = Field(10, description="failures of an address")
    window: Period = Field(60.0, description="in this time, and how long it is refused then")


class ApiKey(Method):
    """Keys that a file lists by their SHA-256; `gateway hash-key` makes them."""

    short = "keys_file"

    header: HeaderName | None = Field(None, description="where it stands; built in: X-Api-Key")
    query: str | None = Field(None, description="or the parameter that holds it")
    cookie: CookieName | None = Field(None, description="or the cookie")
    keys_file: FilePath = Field(description="YAML: `keys`, each {id, sha256, consumer, …}")
    attempts: Attempts | None = Field(
        default_factory=built_in(Attempts), description="unknown keys; off: no limit"
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        given = [name for name in ("header", "query", "cookie") if getattr(self, name) is not None]
        if len(given) > 1:
            raise refuse(f"a key stands in one place, not in {' and '.join(given)}")
        if not given:
            self.__dict__["header"] = "X-Api-Key"
        return self


class Basic(Method):
    """Names and passwords (RFC 7617), from a file of `htpasswd`'s."""

    short = "htpasswd"

    htpasswd: FilePath = Field(description="the file: bcrypt, argon2 or apr1")
    realm: HeaderValue = Field("gateway", description="what browsers show when they ask")
    attempts: Attempts | None = Field(
        default_factory=built_in(Attempts), description="wrong passwords; off: no limit"
    )


# ── those who are asked, and logins ─────────────────────────────────────────────────────────────


def _own_path(value: object) -> str:
    path = read_text(value, "a path such as /oauth2/callback")
    if not re.fullmatch(r"/[!-~]+", path) or any(sign in path for sign in "?#*{}%\\"):
        raise refuse(f"{path!r} is no path of one's own: write one such as /oauth2/callback")
    return path


OwnPath = Annotated[str, BeforeValidator(_own_path)]


class Session(Model):
    """The cookie that a login leaves, sealed with `server.secret`."""

    short = "cookie"

    cookie: CookieName = Field("gw_session", description="its name")
    max_age: Period = Field(8 * 3600.0, description="then the login begins anew")
    same_site: Literal["lax", "strict"] = Field("lax", description="its SameSite")
    claims: tuple[str, ...] | None = Field(
        None,
        description="that it keeps, beside sub and what the policy's own texts name; built in: all",
    )


class Oidc(Method):
    """A login at an OpenID provider (authorization code with PKCE), and then a cookie."""

    issuer: SafeUrl = Field(description="the provider")
    client_id: str = Field(description="the gateway's own name there")
    client_secret: Secret | None = Field(None, description="and its password, unless it has none")
    scopes: tuple[str, ...] = Field(("openid",), description="that are asked for")
    callback: OwnPath = Field("/oauth2/callback", description="where the provider sends back to")
    logout: OwnPath = Field("/oauth2/logout", description="a visit ends the session")
    after_logout: Landing = Field("/", description="and leads there: a path, or a URL")
    session: Session = Field(default_factory=built_in(Session), description="the cookie")
    leeway: Duration = Field(30.0, description="how far clocks may be apart")
    timeout: Period = Field(5.0, description="of one question to the provider")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if "openid" not in self.scopes:
            raise refuse("scopes: without openid there is no login: add it")
        if self.callback == self.logout:
            raise refuse("callback and logout are one path: give them two")
        return self


class ForwardAuth(Method):
    """A service of your own says who may come in: 2xx lets in, anything else is its answer."""

    short = "url"

    url: ServiceUrl = Field(description="what is asked")
    send: tuple[HeaderName, ...] = Field(
        ("authorization", "cookie"), description="fields of the request that it gets"
    )
    copy_: tuple[HeaderName, ...] = Field(
        (), alias="copy", description="fields of its answer that the upstream gets"
    )
    cache: Duration | None = Field(None, description="how long an answer is kept")
    timeout: Period = Field(1.0, description="of one question")
    on_error: Literal["deny", "allow"] = Field(
        "deny", description="what becomes of requests while it does not answer"
    )
    max_body: Size = Field(64 * 1024, description="of its answer")


# ── signatures and certificates ─────────────────────────────────────────────────────────────────

_SIGNATURE_FIELDS = {
    "request": "X-Signature",
    "standard-webhooks": "webhook-signature",
    "github": "X-Hub-Signature-256",
    "stripe": "Stripe-Signature",
}


def hmac_key(scheme: str, secret: str) -> bytes:
    """The key that a secret stands for. Raises the error that says what is wrong with it."""
    if not secret:
        raise refuse("secret: it is empty, so anybody could sign")
    if scheme != "standard-webhooks":
        return secret.encode("utf-8", "surrogateescape")
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not key:
        raise refuse("secret: standard-webhooks wants whsec_ and base64 behind it")
    return key


class Hmac(Method):
    """Requests that are signed with a shared secret, webhooks above all."""

    header: HeaderName | None = Field(
        None, description="where the signature stands; built in: as the scheme has it"
    )
    secret: tuple[Secret, ...] = Field(description="that both know; of a list each is accepted")
    scheme: Literal["request", "standard-webhooks", "github", "stripe"] = Field(
        "request", description="what is signed, and how it is written"
    )
    tolerance: Period = Field(300.0, description="how old a signature may be")
    max_body: Size = Field(1024 * 1024, description="the largest body that is read for it (413)")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.secret:
            raise refuse("secret: at least one is wanted")
        for secret in self.secret:
            hmac_key(self.scheme, secret.reveal())
        if self.header is None:
            self.__dict__["header"] = _SIGNATURE_FIELDS[self.scheme]
        return self


class Mtls(Method):
    """Certificates of clients, which the listener's `client_ca` has vouched for."""


class AuthPolicy(Model):
    """A way to be known: exactly one method."""

    jwt: Jwt | None = Field(None, description="signed tokens")
    api_key: ApiKey | None = Field(None, description="keys from a file")
    basic: Basic | None = Field(None, description="names and passwords")
    introspection: Introspection | None = Field(None, description="opaque tokens")
    oidc: Oidc | None = Field(None, description="a login with a browser")
    forward_auth: ForwardAuth | None = Field(None, description="a service of your own")
    hmac: Hmac | None = Field(None, description="signed requests")
    mtls: Mtls | None = Field(None, description="certificates of clients")

    @classmethod
    def full_form(cls, value: Text | Seq) -> Map:
        """`mtls` alone needs no settings."""
        if isinstance(value, Text) and value == "mtls":
            return around(value, {"mtls": value.derive("on")})
        raise refuse(cls._wanted(value))

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in METHODS if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"; not {' and '.join(given)}: give each a policy of its own" if given else ""
            raise refuse(f"a policy has exactly one of {', '.join(METHODS)}{found}")
        return self

    @property
    def method(self) -> str:
        """The key that is given."""
        return next(name for name in METHODS if getattr(self, name) is not None)

    @property
    def settings(self) -> Method:
        """What is written there."""
        made: Method = getattr(self, self.method)
        return made


METHODS = ("jwt", "api_key", "basic", "introspection", "oidc", "forward_auth", "hmac", "mtls")
