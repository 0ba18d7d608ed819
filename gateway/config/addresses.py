"""Addresses, URLs of targets, methods and path patterns: read and checked, kept as text.

Rules of this file: what passes here is what the router, the pools and the listeners can take without asking again; a message
says what to write instead.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, WithJsonSchema

from gateway.config.nodes import Text
from gateway.config.scalars import read_text, refuse
from gateway.config.texts import watched

if TYPE_CHECKING:
    from pydantic import ValidationInfo

Port = Annotated[int, Field(ge=0, le=65535)]

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?")


def split_bind(written: str) -> dict[str, str]:
    """`host:port` or `unix:/path` in parts. Raises ValueError with the fix."""
    word = written.strip()
    if word.startswith("unix:"):
        path = word.removeprefix("unix:")
        if not path or path.startswith("//"):
            raise ValueError(f"{word}: write unix:/run/gateway.sock")
        return {"unix": path}
    if "://" in word:
        raise ValueError(f"{word} is a URL: write the address alone, such as 127.0.0.1:8080")
    host, colon, port = word.rpartition(":")
    if not colon:
        example = f"127.0.0.1:{word}, or 0.0.0.0:{word} for every address" if word.isdigit() else ""
        raise ValueError(f"{word!r} is no address: write {example or f'{word}:8080'}")
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"{word}: {port!r} is no port: a number up to 65535 is wanted")
    return {"host": _bind_host(host, word), "port": str(int(port))}


def _bind_host(host: str, word: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ValueError(f"{host} is no IPv6 address: write '[::1]:8080'") from None
    if host in ("", "*"):
        port = word.rpartition(":")[2]
        raise ValueError(f"{word} names no address: write 0.0.0.0:{port} or '[::]:{port}'")
    if ":" in host:
        raise ValueError(
            f"{word} is no address: IPv6 needs brackets and quotes, such as '[::1]:8080'"
        )
    if host.replace(".", "").isdigit():
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError(
                f"{word} is no address: {host} is no host; write HOST:PORT, such as 127.0.0.1:8080"
            ) from None
    if not _NAME.fullmatch(host):
        raise ValueError(f"{word} is no address: {host!r} is no host name")
    return host


def looks_like_url(word: str) -> bool:
    """Whether `to:` means a URL and not the name of an upstream."""
    return "://" in word or word.startswith("unix:") or "/" in word


def check_url(word: str) -> str:
    """The URL of a target, as written. Raises ValueError with the fix."""
    if word.startswith("unix:"):
        path = word.removeprefix("unix:")
        if not path or path.startswith("//"):
            raise ValueError(f"{word}: write unix:/run/app.sock")
        return word
    if any(ord(character) <= 32 or ord(character) == 127 for character in word):
        raise ValueError(f"{word!r} holds a blank or a control character")
    scheme, mark, rest = word.partition("://")
    if not mark:
        host = re.fullmatch(r"[\w.-]+(:\d+)?(/.*)?", word)
        raise ValueError(f"{word!r} is no URL: write http://{word if host else '127.0.0.1:8000'}")
    if scheme.lower() not in ("http", "https"):
        better = {"ws": "http", "wss": "https", "h2c": "http"}.get(scheme.lower())
        hint = f": write {better}://{rest}" if better else ": http, https and unix are"
        raise ValueError(f"{scheme}:// is not spoken here{hint}")
    for sign, what in (("?", "query"), ("#", "fragment"), ("@", "user")):
        if sign in rest and not (sign == "@" and "/" in rest.split("@")[0]):
            shown = re.sub(r"//.*@", "//***@", word)  # it may be a password
            raise ValueError(f"{shown}: the URL of a target has no {what}")
    _check_authority(word)
    return scheme.lower() + mark + rest


def _check_authority(word: str) -> None:
    try:
        parts = urlsplit(word)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{word} is no URL: {error}") from None
    if not host:
        raise ValueError(f"{word} names no host: write http://127.0.0.1:8000")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError(f"{word}: the port is missing")
    if "[" not in parts.netloc and not _NAME.fullmatch(host):
        raise ValueError(f"{word}: {host!r} is no host name")


def _url(value: object, info: ValidationInfo) -> str:
    word = read_text(watched(value, info), "a URL such as http://127.0.0.1:8000")
    try:
        word = check_url(word)
    except ValueError as error:
        raise refuse(str(error)) from None
    if word.startswith("unix:") and isinstance(value, Text):
        return f"unix:{Path(value.source.folder, word.removeprefix('unix:'))}"
    return word


Url = Annotated[
    str,
    BeforeValidator(_url),
    WithJsonSchema(
        {
            "type": "string",
            "description": "the URL of a target: http://host:port, https://host or unix:/path",
            "examples": ["http://127.0.0.1:8000", "https://api.internal", "unix:/run/app.sock"],
        }
    ),
]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
)


def is_token(word: str) -> bool:
    """Whether a word may be a method or the name of a header (RFC 9110, section 5.6.2)."""
    return _TOKEN.fullmatch(word) is not None


def _method(value: object) -> str:
    word = read_text(value, "a method such as GET")
    if word.upper() in _METHODS and word not in _METHODS:
        raise refuse(f"{word} is not a method: write {word.upper()}")
    if not is_token(word):
        raise refuse(f"{word!r} is no method: write one such as GET")
    return word


Method = Annotated[
    str,
    BeforeValidator(_method),
    WithJsonSchema({"type": "string", "description": "a method", "examples": sorted(_METHODS)}),
]

_SEGMENT = re.compile(r"\{([^{}]*)\}")
_CAPTURE = re.compile(r"[a-z_][a-z0-9_]*")


def captures(path: str) -> tuple[str, ...]:
    """The names of the captures of a path in text form."""
    return tuple(name.removesuffix("...") for name in _SEGMENT.findall(path))


def check_path(word: str) -> str:
    """A path pattern in text form. Raises ValueError with the fix."""
    if not word.startswith("/"):
        raise ValueError(f"{word!r} is no path: write /{word}")
    if any(ord(character) <= 32 or ord(character) == 127 for character in word):
        raise ValueError(f"{word!r}: a blank or a control character is written with %, such as %20")
    for sign, fix in (("?", "match the query with when: {query: …}"), ("#", "it never arrives")):
        if sign in word:
            raise ValueError(f"{word}: a path has no {sign}: {fix}")
    if re.search(r"%(?![0-9A-Fa-f]{2})", word):
        raise ValueError(f"{word}: a % is written %25")
    segments = word.split("/")[1:]
    for index, segment in enumerate(segments):
        _check_segment(segment, word, last=index == len(segments) - 1)
    names = captures(word)
    if len(set(names)) != len(names):
        raise ValueError(f"{word}: two captures have the same name")
    return word


def _check_segment(segment: str, word: str, *, last: bool) -> None:
    if segment in (".", ".."):
        raise ValueError(f"{word}: a path holds no dot segments")
    if "*" in segment and (segment != "*" or not last):
        raise ValueError(
            f"{word}: a * stands alone at the end, such as /a/*; one segment in the middle is {{name}}"
        )
    if "{" not in segment and "}" not in segment:
        return
    match = _SEGMENT.fullmatch(segment)
    if match is None:
        raise ValueError(
            f"{word}: a capture is a whole segment, such as /users/{{id}}; use a regex for parts"
        )
    name = match[1].removesuffix("...")
    if match[1].endswith("...") and not last:
        raise ValueError(f"{word}: {{{match[1]}}} takes the rest, so it stands at the end")
    if not _CAPTURE.fullmatch(name):
        fix = re.sub(r"[^a-z0-9_]", "_", name.lower()).lstrip("0123456789")
        raise ValueError(
            f"{word}: {{{match[1]}}}: a capture is named with a-z, 0-9 and _: "
            f"write {{{fix or 'id'}}}"
        )


def _path(value: object, info: ValidationInfo) -> object:
    value = watched(value, info)
    try:
        check_path(read_text(value, "a path such as /orders/*"))
    except ValueError as error:
        raise refuse(str(error)) from None
    return value


PathText = Annotated[
    str,
    BeforeValidator(_path),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^(/|.*\$\{)",
            "description": "/a exact, /a/* prefix, /users/{id} one segment, /files/{rest...} the rest",
            "examples": ["/*", "/orders/*", "/users/{id}"],
        }
    ),
]


# ── names and numbers of HTTP ───────────────────────────────────────────────────────────────────

Count = Annotated[int, Field(ge=1)]
RealPort = Annotated[int, Field(ge=1, le=65535)]
Status = Annotated[int, Field(ge=400, le=599)]

FRAMING = frozenset(
    (
        *("connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer"),
        *("transfer-encoding", "upgrade"),
    )
)
"""Fields of one connection: the gateway makes them itself (RFC 9110, section 7.6.1)."""


def _token(value: object) -> str:
    word = read_text(value, "a name")
    if not is_token(word):
        raise refuse(f"{word!r} is no name: letters, digits and - are wanted")
    return word


def _header_name(value: object) -> str:
    word = read_text(value, "the name of a header")
    if not is_token(word):
        raise refuse(f"{word!r} is no name of a header: write one such as X-Tenant")
    return word


def _header_value(value: object) -> object:
    if isinstance(value, str) and any(
        (ord(character) < 32 and character != "\t") or ord(character) == 127 for character in value
    ):
        raise refuse("the value of a header holds no line breaks or control characters")
    return value


def _upstream_host(value: object) -> str:
    word = read_text(value, "pass, target or a name")
    if word in ("pass", "target"):
        return word
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:\d+)?", word):
        raise refuse(f"{word!r} is no host: write pass, target, or a name such as api.internal")
    return word


def _cookie(value: object) -> str:
    word = read_text(value, "the name of a cookie")
    if not is_token(word):
        raise refuse(f"{word!r} is no name of a cookie: write one such as gw")
    return word


Token = Annotated[str, BeforeValidator(_token)]
CookieName = Annotated[str, BeforeValidator(_cookie)]
HeaderName = Annotated[str, BeforeValidator(_header_name)]
HeaderValue = Annotated[str, BeforeValidator(_header_value)]
UpstreamHost = Annotated[str, BeforeValidator(_upstream_host)]
