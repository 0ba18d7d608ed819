"""A signed token: its parts, its header, its signature (RFC 7515, as RFC 8725 says).

Rules of this file: signatures are PyJWT's. What stands before it is refusal: what is no compact JWS of three parts, what is
encrypted, compressed, or asks for something special is not looked at any further. Of the header `alg`, `kid` and `typ` are
read, and none of them is trusted: the key says which algorithms it is for. A key, or an address of one, in a header (`jwk`,
`jku`, `x5u`, `x5c`) is the sender's own, and ignored.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import jwt
from jwt.algorithms import get_default_algorithms

from gateway.auth import documents

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.auth.keys import Key

LONGEST = 8192
"""Characters of a token. At that length a signature takes half a millisecond to check, most of it for reading base64."""
LONGEST_KID = 256
MOST_TRIED = 4
"""Keys that one token is tried with, where several bear its `kid`, or none: issuers that do so have two at most."""

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_NOT_SPOKEN = {
    "enc": "it is encrypted",
    "zip": "it is compressed",
    "crit": "it demands extensions of its reader",
    "b64": "its payload is not encoded",
}
_JWS = jwt.PyJWS(
    algorithms=[name for name in get_default_algorithms() if name != "none"],
    options={"enforce_minimum_key_length": True, "verify_signature": True},
)


class Malformed(ValueError):
    """It is no token that is read here; its text says why, and quotes nothing of it."""


class BadSignature(ValueError):
    """Nobody whom we trust has signed it; its text says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """What is read of a token's header."""

    alg: str
    kid: str | None
    typ: str | None


def header_of(token: str) -> Header:
    """The header of a compact JWS. Raises Malformed."""
    if len(token) > LONGEST:
        raise Malformed(f"it is longer than {LONGEST} characters")
    if not _COMPACT.fullmatch(token):
        raise Malformed(_shape(token))
    try:
        fields = documents.read(_decode(token.partition(".")[0]))
    except (ValueError, binascii.Error) as error:
        raise Malformed(f"its header: {error}") from None
    for name, why in _NOT_SPOKEN.items():
        if name in fields:
            raise Malformed(why)
    alg = fields.get("alg")
    if not isinstance(alg, str):
        raise Malformed("its header names no algorithm")
    kid = _text(fields, "kid")
    if kid is not None and len(kid) > LONGEST_KID:
        raise Malformed(f"its kid is longer than {LONGEST_KID} characters")
    return Header(alg, kid, _text(fields, "typ"))


def verified(token: str, header: Header, keys: Iterable[Key]) -> tuple[dict[str, Any], Key]:
    """The claims, and which of `keys` has signed them. Raises BadSignature, or Malformed for claims that are no JSON."""
    fitting = (key for key in keys if header.alg in key.algorithms)
    for key in islice(fitting, MOST_TRIED):
        payload = _payload(token, header.alg, key)
        if payload is not None:
            try:
                return documents.read(payload), key
            except documents.BadDocument as error:
                raise Malformed(f"its claims: {error}") from None
    raise BadSignature("no key that is trusted has signed it")


def _payload(token: str, alg: str, key: Key) -> bytes | None:
    try:
        payload: bytes = _JWS.decode(token, key.public, algorithms=[alg])
    except (
        jwt.PyJWTError,
        ValueError,
    ):  # among them a signature of another length, a key that is too short
        return None
    return payload


def _shape(token: str) -> str:
    dots = token.count(".")
    if dots == 4:
        return "it is encrypted"
    if dots != 2:
        return "it has not three parts"
    if token.endswith("."):
        return "it is not signed"
    return "it is no base64url without padding"


def _decode(part: str) -> bytes:
    if len(part) % 4 == 1:
        raise ValueError("it is no base64url")
    data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii") != part:
        raise ValueError("it is no base64url as it should be")
    return data


def _text(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is None and name not in fields:
        return None
    if not isinstance(value, str):
        raise Malformed(f"its {name} is no text")
    return value


def usable(names: Sequence[str]) -> frozenset[str]:
    """Those of `names` that PyJWT knows here. Raises ValueError for one that it does not."""
    known = get_default_algorithms()
    for name in names:
        if name == "none" or name not in known:
            raise ValueError(f"{name} is no algorithm that signatures can be checked with here")
    return frozenset(names)
