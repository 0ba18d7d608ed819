"""Cookies that only this gateway can make and read: a login that lasts, and one that is under way.

Rules of this file: nothing is kept on the server, so every worker and every gateway with the same `server.secret` reads the
same cookies. What is sealed is Fernet's (AES-128-CBC and HMAC-SHA-256) under a key that is derived for one purpose of one
policy: a cookie of another policy, issuer or purpose does not open. The first secret seals, all open. When it was sealed
stands inside the seal, and so does its age's end: what a browser says of a cookie's age counts for nothing. A cookie that
does not open is as if it were not there, and nobody is told why.
"""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.clock import Clock

LARGEST = 4096
"""Bytes of a cookie, its attributes among them, that every browser keeps (RFC 6265 section 6.1)."""
HOST_ONLY = "__Host-"
"""A browser takes such a cookie over https only, from the very host, for all paths: no neighbour can plant it."""
_MARKED = (HOST_ONLY, "__Secure-")


class TooLarge(ValueError):
    """A cookie that browsers would not keep. Its text is for operators and holds no value of it."""


class Seal:
    """Seals JSON values for one purpose."""

    def __init__(self, secrets: Sequence[str], clock: Clock, *purpose: str) -> None:
        """`secrets`: `server.secret`, at least one. `purpose`: what another one's seals differ by."""
        if not secrets:
            raise ValueError("a cookie session needs server: {secret: …}, which seals it")
        info = json.dumps(["gateway", *purpose]).encode("ascii")
        self._keys = MultiFernet([Fernet(_key(secret, info)) for secret in secrets])
        self._clock = clock

    def close(self, value: Any) -> str:
        """`value`, which JSON can tell, as text that may stand in a cookie or a URL."""
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        data = text.encode("utf-8", "replace")
        return self._keys.encrypt_at_time(data, int(self._clock.wall())).decode("ascii").rstrip("=")

    def open(self, text: str, age: float) -> Any | None:
        """What was sealed at most `age` seconds ago; None for anything else."""
        if not 0 < len(text) <= LARGEST or not text.isascii():
            return None
        padded = text + "=" * (-len(text) % 4)
        try:
            return json.loads(
                self._keys.decrypt_at_time(padded, math.floor(age), int(self._clock.wall()))
            )
        except (InvalidToken, ValueError):
            return None


def _key(secret: str, info: bytes) -> bytes:
    derived = HKDF(SHA256(), length=32, salt=None, info=info).derive(
        secret.encode("utf-8", "surrogateescape")
    )
    return base64.urlsafe_b64encode(derived)


@dataclass(frozen=True, slots=True)
class Cookie:
    """One name for a cookie of the gateway's own."""

    name: str
    same_site: str = "Lax"
    """`Lax`: of requests from elsewhere it comes with navigations, as the provider's answer is one, and with no other."""

    def called(self, *, secure: bool) -> str:
        """Its name over https, or over http, where no prefix may stand."""
        return HOST_ONLY + self.name if secure and not self.name.startswith(_MARKED) else self.name

    @property
    def names(self) -> frozenset[str]:
        """Both."""
        return frozenset((self.called(secure=True), self.called(secure=False)))

    def line(self, value: str, age: float, *, secure: bool) -> bytes:
        """The `Set-Cookie` line; an `age` of 0 seconds takes the cookie away.

        `secure`: the client's scheme is https; a browser drops a `Secure` cookie that came over http. Raises TooLarge.
        """
        line = (
            f"Set-Cookie: {self.called(secure=secure)}={value}; Path=/; Max-Age={math.floor(age)}"
            f"{'; Secure' if secure else ''}; HttpOnly; SameSite={self.same_site}\r\n"
        ).encode("ascii")
        size = len(line) - len(b"Set-Cookie: \r\n")
        if size > LARGEST:
            raise TooLarge(
                f"the cookie {self.name} would have {size} bytes; browsers keep {LARGEST}"
            )
        return line


@dataclass(frozen=True, slots=True)
class Session:
    """Who has logged in."""

    claims: Mapping[str, Any]
    expires: float
    """Wall seconds from which on it counts no more."""


class Sessions:
    """The sessions of one policy."""

    def __init__(
        self,
        secrets: Sequence[str],
        clock: Clock,
        *policy: str,
        cookie: str,
        max_age: float,
        same_site: str = "lax",
    ) -> None:
        """`policy`: its name, and whatever else another one's sessions differ by. `max_age`: seconds from the login on."""
        self.cookie = Cookie(cookie, same_site.capitalize())
        self._seal = Seal(secrets, clock, "session", *policy)
        self._max_age = max_age
        self._clock = clock

    def open(self, value: str) -> Session | None:
        """The session that a cookie's value holds; None: it is none of this policy's, or over."""
        held = self._seal.open(value, self._max_age)
        if held is None:
            return None
        # By the lesser age: a `max_age` that was shortened since holds for those who are in.
        expires = min(held["e"], held["b"] + self._max_age)
        return Session(held["c"], expires) if self._clock.wall() < expires else None

    def line(self, claims: Mapping[str, Any], *, secure: bool) -> bytes:
        """The `Set-Cookie` line of a new session. Raises TooLarge, and says which claims are."""
        now = int(self._clock.wall())
        value = self._seal.close({"b": now, "e": now + self._max_age, "c": claims})
        try:
            return self.cookie.line(value, self._max_age, secure=secure)
        except TooLarge as error:
            sizes = {name: len(json.dumps(held)) for name, held in claims.items()}
            largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
            told = ", ".join(f"{name} {sizes[name]}" for name in largest)
            raise TooLarge(f"{error}. The largest claims, in bytes: {told}") from None
