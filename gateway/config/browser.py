"""What browsers are told: CORS, security headers, HSTS.

The rules are those of `model.py`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, model_validator

from gateway.config import placeholders
from gateway.config.addresses import HeaderName, HeaderValue, Method
from gateway.config.forms import Model, around
from gateway.config.scalars import Duration, read_text, refuse
from gateway.config.texts import Regex

if TYPE_CHECKING:
    from gateway.config.nodes import Map, Seq, Text


def _origin(value: object) -> str:
    word = read_text(value, "an origin such as https://app.example.com")
    if word in ("*", "null"):
        return word
    scheme, mark, rest = word.partition("://")
    if not mark or not scheme or not rest:
        raise refuse(f"{word!r} is no origin: write https://{word.strip('/') or 'app.example.com'}")
    bare = rest.rstrip("/")
    if "/" in bare or rest != bare:
        raise refuse(
            f"{word} is no origin, which has no path: write {scheme}://{bare.split('/')[0]}"
        )
    _check_host(word, bare)
    return f"{scheme.lower()}://{bare.lower()}"


def _check_host(word: str, host: str) -> None:
    if not host.isascii():
        raise refuse(f"{word}: browsers send the form with xn--: write that one")
    stars = host.count("*")
    if stars and (stars > 1 or not host.startswith("*.")):
        raise refuse(f"{word}: a * stands for one label, in front: write https://*.example.com")
    try:
        parts = urlsplit("//" + host.removeprefix("*."))
        found, _ = parts.hostname, parts.port
    except ValueError as error:
        raise refuse(f"{word!r} is no origin: {error}") from None
    if not found or parts.username is not None or not re.fullmatch(r"[\w.:\[\]-]+", found):
        raise refuse(f"{word!r} is no origin: write one such as https://app.example.com")


class Origin(Model):
    """An origin, or a regex for some."""

    short = "text"

    text: Annotated[str, BeforeValidator(_origin)] = Field(
        "",
        description="https://app.example.com, https://*.example.com (one label), null, or * for all",
    )
    regex: Regex | None = Field(None, description="of the whole origin, as browsers send it")

    @classmethod
    def full_form(cls, value: Text | Seq) -> Map:
        """A text is an origin, `'null'` as well: nothing is switched off here."""
        return around(value, {"text": value})

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.text == "") == (self.regex is None):
            raise refuse(r"an origin is a text, or {regex: '^https://[a-z]+\.example\.com$'}")
        return self


class Cors(Model):
    """Which pages of other origins may read answers (CORS)."""

    short = "origins"

    origins: tuple[Origin, ...] = Field((), description="texts, or {regex: …}; at least one")
    methods: tuple[Method, ...] = Field(
        ("GET", "HEAD", "POST"), description="that pages may ask with"
    )
    headers: tuple[HeaderName, ...] = Field((), description="that pages may send; * for all")
    expose: tuple[HeaderName, ...] = Field((), description="that pages may read")
    credentials: bool = Field(False, description="whether cookies come along")
    max_age: Duration = Field(600.0, description="how long browsers may keep a preflight's answer")


BASIC = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "X-Permitted-Cross-Domain-Policies": "none",
}
"""What no application should miss."""
STRICT = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "X-Permitted-Cross-Domain-Policies": "none",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'; "
        "object-src 'none'; upgrade-insecure-requests"
    ),
    "Permissions-Policy": (
        "accelerometer=(), autoplay=(), camera=(), display-capture=(), encrypted-media=(), "
        "fullscreen=(), geolocation=(), gyroscope=(), magnetometer=(), microphone=(), midi=(), "
        "payment=(), picture-in-picture=(), publickey-credentials-get=(), screen-wake-lock=(), "
        "usb=(), web-share=(), xr-spatial-tracking=()"
    ),
}
"""What an application that needs none of it can live with."""
PRESETS = {"basic": BASIC, "strict": STRICT}


class SecurityHeaders(Model):
    """Fields that tell browsers to be careful."""

    short = "preset"

    preset: Literal["basic", "strict"] = Field("basic", description="which set")
    set: dict[HeaderName, HeaderValue] = Field(
        default_factory=dict, description="name: value, in place of the set's"
    )
    remove: tuple[HeaderName, ...] = Field((), description="names that are not wanted of the set")

    @model_validator(mode="after")
    def _known(self) -> Self:
        preset = PRESETS[self.preset]
        known = {name.lower() for name in preset}
        for name in self.remove:
            if name.lower() not in known:
                raise refuse(
                    f"{self.preset} has no {name}, but {', '.join(preset)}; to take a field of the "
                    "upstream away, write headers: {response: {remove: …}}"
                )
        for name, value in self.set.items():
            for asked in placeholders.names(value):
                raise refuse(f"{name} is the same in all answers: {{{asked}}} has no value here")
        return self


class Hsts(Model):
    """Browsers use https only, from now on (RFC 6797)."""

    short = "max_age"

    max_age: Duration = Field(365 * 86400.0, description="for how long; 0s takes it back")
    subdomains: bool = Field(False, description="for sub-domains too")
    preload: bool = Field(False, description="that browsers may ship it")
