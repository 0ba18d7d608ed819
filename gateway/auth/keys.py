"""Keys that signatures are checked with, each bound to the algorithms that it is for (RFC 7517, RFC 8725 section 3.1).

Rules of this file: an RSA key never serves as a secret, nor a key of one curve for another; a key's own `alg` and `use`
count. Keys of a document that can not be used here are left out one by one, with a word why: one exotic key does not cost
all the others. Private and symmetric keys in a document are left out, too: what everybody may read signs nothing.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MOST = 64
"""Keys of one document; more are left out."""
LARGEST_RSA = 8192
"""Bits. Checking takes a time that grows with the square of it."""
SMALLEST_RSA = 2048

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_OF_CURVE = {
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
    "Ed25519": ("EdDSA",),
    "Ed448": ("EdDSA",),
}
_ALIASES = {"Ed25519": "EdDSA", "Ed448": "EdDSA"}
"""RFC 9864 names the curve in `alg`."""
_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""RFC 7518 section 3.2: a secret is no shorter than the hash."""


class Key:
    """A key that is trusted."""

    __slots__ = ("algorithms", "kid", "live", "mark", "public")

    def __init__(
        self, kid: str | None, public: Any, algorithms: frozenset[str], mark: bytes
    ) -> None:
        self.kid = kid
        self.public = public
        """As PyJWT takes it: an object of `cryptography`, or the bytes of a secret."""
        self.algorithms = algorithms
        self.mark = mark
        """Equal for keys that are the same in every respect."""
        self.live = True
        """False once its issuer does not publish it any more: what it has signed counts no longer."""

    def __repr__(self) -> str:
        return f"<Key {self.kid}: {' '.join(sorted(self.algorithms))}>"


class Ring:
    """The keys of one moment. Never changed."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys = tuple(keys)
        self._by_kid: dict[str, tuple[Key, ...]] = {}
        for key in self.keys:
            if key.kid is not None:
                self._by_kid[key.kid] = (*self._by_kid.get(key.kid, ()), key)
        self._nameless = tuple(key for key in self.keys if key.kid is None)

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, kid: str | None, alg: str) -> tuple[Key, ...] | None:
        """Those that may have signed it, maybe none of them for `alg`; None: no key is called `kid`."""
        if kid is not None:
            return self._by_kid.get(kid) or self._nameless or None
        return tuple(key for key in self.keys if alg in key.algorithms) or None

    def replaced(self, keys: Iterable[Key]) -> Ring:
        """A ring of `keys`; those that are in this one already stay what they are, the others of it are dead."""
        known = {key.mark: key for key in self.keys}
        ring = Ring(known.pop(key.mark, key) for key in keys)
        for key in known.values():
            key.live = False
        return ring


class _Unfit(ValueError):
    """A key, or a document, that can not be used; its text says why."""


def read(document: Mapping[str, Any], algorithms: frozenset[str]) -> tuple[list[Key], list[str]]:
    """The keys of a JWKS that are for any of `algorithms`, and why others are left out. Raises ValueError for no JWKS."""
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise _Unfit("it is no JWKS: it has no list of keys")
    keys: dict[bytes, Key] = {}
    problems: list[str] = []
    for index, entry in enumerate(entries[:MOST]):
        try:
            key = _key(entry, algorithms)
        except (ValueError, TypeError, jwt.PyJWTError) as error:
            problems.append(f"key {index + 1}: {_why(error)}")
        else:
            keys.setdefault(key.mark, key)
    if len(entries) > MOST:
        problems.append(f"{len(entries)} keys, of which the first {MOST} are used")
    return list(keys.values()), problems


def _why(error: Exception) -> str:
    # Of foreign errors only the kind: PyJWT quotes the key.
    return (
        str(error) if isinstance(error, _Unfit) else f"it can not be read ({type(error).__name__})"
    )


def _key(entry: Any, algorithms: frozenset[str]) -> Key:
    if not isinstance(entry, dict):
        raise _Unfit("it is no JSON object")
    kid = entry.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise _Unfit("its kid is no text")
    _check_use(entry)
    fitting = _fitting(entry) & algorithms
    if not fitting:
        raise _Unfit("it is for none of the algorithms that are accepted")
    public = jwt.PyJWK(entry, algorithm=min(fitting)).key
    size = getattr(public, "key_size", SMALLEST_RSA)
    if entry["kty"] == "RSA" and not SMALLEST_RSA <= size <= LARGEST_RSA:
        raise _Unfit(f"it has {size} bits: {SMALLEST_RSA} to {LARGEST_RSA} are accepted")
    body = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Key(kid, public, fitting, _mark(kid, body, fitting))


def _check_use(entry: dict[str, Any]) -> None:
    kind = entry.get("kty")
    if kind == "oct":
        raise _Unfit("it is a secret, and a JWKS is public")
    if kind not in ("RSA", "EC", "OKP"):
        raise _Unfit("its kind is not known here")
    if "d" in entry:
        raise _Unfit("it is a private key")
    if entry.get("use") not in (None, "sig"):
        raise _Unfit("it is not for signatures")
    operations = entry.get("key_ops")
    if isinstance(operations, list) and "verify" not in operations:
        raise _Unfit("it is not for checking signatures")


def _fitting(entry: dict[str, Any]) -> frozenset[str]:
    """The algorithms that it is for: those of its kind, and of them the one that it names."""
    names: Sequence[str] = _RSA
    if entry["kty"] != "RSA":
        curve = entry.get("crv")
        names = _OF_CURVE.get(curve, ()) if isinstance(curve, str) else ()
    alg = entry.get("alg")
    if alg is None:
        return frozenset(names)
    return frozenset(names) & {_ALIASES.get(alg, alg) if isinstance(alg, str) else ""}


def secret(text: str, algorithms: Sequence[str]) -> Key:
    """A shared secret, for HS algorithms. Raises ValueError for one that is too short for any of them."""
    body = text.encode("utf-8")
    for name in algorithms:
        if name not in _SECRET_BYTES:
            raise ValueError(f"algorithms: {name} takes a public key, not a secret")
        if len(body) < _SECRET_BYTES[name]:
            raise ValueError(
                f"secret: it has {len(body)} bytes, and {name} wants {_SECRET_BYTES[name]} at least: "
                "whoever has one token could try all shorter ones (make one: openssl rand -hex 32)"
            )
    # Not the hash of the secret itself: a mark may be looked at.
    mark = hmac.new(body, b"gateway jwt secret", "sha256").digest()
    return Key(None, body, frozenset(algorithms), mark)


def _mark(kid: str | None, body: bytes, algorithms: frozenset[str]) -> bytes:
    names = "\0".join((kid or "", "" if kid is None else "named", *sorted(algorithms)))
    return hashlib.sha256(names.encode("utf-8") + b"\0\0" + body).digest()
