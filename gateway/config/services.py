"""Who is asked about clients, and where: URLs of services, issuers, key sets, and of where a browser is sent.

Rules of this file: those of `scalars.py`. No message repeats a password that somebody has written into a URL.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from gateway.config.nodes import Text
from gateway.config.scalars import read_text, refuse


def _service(value: object) -> str:
    word = read_text(value, "a URL such as https://idp.example.com/")
    try:
        parts = urlsplit(word)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise refuse(f"{word!r} is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not host or re.search(r"[\x00-\x20\x7f]", word):
        raise refuse(f"{word!r} is no URL: write one such as https://idp.example.com/")
    if parts.username is not None or parts.password is not None:
        raise refuse("a URL holds no user and no password: they have keys of their own")
    if parts.fragment:
        raise refuse(f"{word}: the part from # on never arrives: leave it out")
    return word


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _safe(word: str) -> str:
    parts = urlsplit(word)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise refuse(
            f"{word}: who can change what is read from there can make credentials of their own: "
            f"write https://{word.partition('://')[2]}"
        )
    return word


_URL_SCHEMA = WithJsonSchema(
    {"type": "string", "description": "a URL", "examples": ["https://idp.example.com/"]}
)
ServiceUrl = Annotated[str, BeforeValidator(_service), _URL_SCHEMA]
"""The URL of a service that is asked: http or https, without user and fragment."""
SafeUrl = Annotated[str, BeforeValidator(_service), AfterValidator(_safe), _URL_SCHEMA]
"""The same where keys are read or tokens are sent: https, or this machine."""


def _issuer(value: object) -> str:
    word = read_text(value, "an issuer such as https://idp.example.com/")
    return _safe(_service(word)) if "://" in word else word


Issuer = Annotated[str, BeforeValidator(_issuer), _URL_SCHEMA]
"""A URL as `SafeUrl`, or a word that tokens bear."""


def _jwks(value: object) -> str:
    word = read_text(value, "discover, a URL or a file")
    if word == "discover":
        return word
    if "://" in word:
        return _safe(_service(word))
    return str(Path(value.source.folder, word)) if isinstance(value, Text) else word


Jwks = Annotated[
    str,
    BeforeValidator(_jwks),
    WithJsonSchema({"type": "string", "examples": ["discover", "https://idp.example.com/keys"]}),
]
"""`discover`, a URL, or the path of a file."""


def is_file(named: str | None) -> bool:
    """Whether what a key names is a file; `jwks` may say otherwise."""
    return named is not None and named != "discover" and "://" not in named


def _landing(value: object) -> str:
    word = read_text(value, "a path such as /bye, or a URL")
    if re.fullmatch(r"/(?![/\\])[!-~]*", word) and "\\" not in word:
        return word
    if "://" not in word or "\\" in word:
        raise refuse(f"{word!r} is neither a path of this host, such as /bye, nor a URL")
    _service(word.partition("#")[0])  # a browser keeps what is behind it
    return word


Landing = Annotated[str, BeforeValidator(_landing)]
"""Where a browser is sent: a path of the same host, or a URL that is written in full."""
