"""The same client goes to the same target: a cookie that names the target, and that nobody else can make.

Rules of this file: the value is 30 bytes in base64url: an id of the target (a keyed hash, so that it tells no address, and
another one under another secret), when the cookie was set, and a keyed hash of both with the upstream's name. What does not
verify is as if it were not there. The first secret signs, all verify; a cookie of a former secret is renewed at the next
answer. Nothing is kept for each client.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from hashlib import blake2b
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from gateway.routing.match import cookie_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from multidict import MultiMapping

    from gateway.clock import Clock

_ID, _STAMP, _PROOF = 10, 4, 16
_LENGTH = (_ID + _STAMP + _PROOF) * 4 // 3
_RENEWED = 0.5
"""Part of `ttl` after which an answer brings a new cookie: who stays active stays with the target."""
_CANDIDATES = 4
"""Cookies of the name that are looked at: a client may send one for each path, or a thousand to keep us busy."""


class Settings(Protocol):
    """What is read of `sticky:`."""

    @property
    def cookie(self) -> str: ...

    @property
    def ttl(self) -> float | None: ...

    @property
    def on_failure(self) -> str: ...


class Asking(Protocol):
    """What is read of a request."""

    @property
    def headers(self) -> MultiMapping[str]: ...

    @property
    def scheme(self) -> str: ...


class Located(Protocol):
    """What is read of a target."""

    @property
    def url(self) -> str: ...


T = TypeVar("T", bound=Located)


class Sticky(Generic[T]):
    """The cookies of one upstream."""

    def __init__(
        self, settings: Settings, secrets: Sequence[str], upstream: str, clock: Clock
    ) -> None:
        """`secrets`: `server.secret`, at least one. `upstream`: its name; cookies of another one mean nothing here."""
        self._clock = clock
        self._name = settings.cookie
        self._ttl = settings.ttl
        self.fail = settings.on_failure == "fail"
        """Whether a client whose target is down is told so, rather than sent to another."""
        self._upstream = upstream.encode("utf-8", "surrogateescape")
        self._keys = [_key(secret) for secret in secrets]
        self._targets: list[dict[bytes, T]] = [{} for _ in self._keys]
        """By key: id → target."""

    def rebuild(self, targets: Iterable[T]) -> None:
        """From now on cookies name one of `targets`, whether up or down."""
        targets = list(targets)
        if set(self._targets[0].values()) != set(targets):
            self._targets = [{_id(key, one.url): one for one in targets} for key in self._keys]

    def target_of(self, exchange: Asking) -> T | None:
        """The target that the request's cookie names; None: there is none that is good, or the target is gone."""
        found = self._read(exchange)
        return None if found is None else found[0]

    def set_cookie(self, exchange: Asking, target: T) -> bytes:
        """The `Set-Cookie` line for an answer of `target`; empty where the client's cookie says so already."""
        found = self._read(exchange)
        if found is not None and found[0] is target and not found[1]:
            return b""
        # Lax: links from elsewhere still find their session. Only what came by https is told to be sent by https alone.
        age = "" if self._ttl is None else f"; Max-Age={int(self._ttl)}"
        secure = "; Secure" if exchange.scheme == "https" else ""
        value = self.value(target)
        return (
            f"Set-Cookie: {self._name}={value}; Path=/{age}{secure}; HttpOnly; SameSite=Lax\r\n"
        ).encode("ascii")

    def value(self, target: T) -> str:
        """A new cookie's value."""
        key = self._keys[0]
        said = _id(key, target.url) + int(self._clock.wall()).to_bytes(_STAMP, "big")
        return base64.urlsafe_b64encode(said + self._proof(key, said)).decode("ascii")

    def _read(self, exchange: Asking) -> tuple[T, bool] | None:
        """(target, whether the cookie should be renewed) of the first cookie that is good."""
        for value in cookie_values(exchange.headers, self._name)[:_CANDIDATES]:
            found = self._verified(value)
            if found is not None:
                return found
        return None

    def _verified(self, value: str) -> tuple[T, bool] | None:
        if len(value) != _LENGTH or not value.isascii():
            return None
        try:
            raw = base64.b64decode(value, altchars=b"-_", validate=True)
        except binascii.Error:
            return None
        said, proof = raw[: _ID + _STAMP], raw[_ID + _STAMP :]
        for at, key in enumerate(self._keys):
            if hmac.compare_digest(self._proof(key, said), proof):
                target = self._targets[at].get(said[:_ID])
                age = self._clock.wall() - int.from_bytes(said[_ID:], "big")
                if target is None or (self._ttl is not None and age >= self._ttl):
                    return None
                return target, at > 0 or (self._ttl is not None and age >= self._ttl * _RENEWED)
        return None

    def _proof(self, key: bytes, said: bytes) -> bytes:
        return blake2b(
            said + self._upstream, digest_size=_PROOF, key=key, person=b"sticky proof"
        ).digest()


def _key(secret: str) -> bytes:
    """A key of its own for this use of `server.secret`."""
    return blake2b(secret.encode("utf-8", "surrogateescape"), person=b"sticky key").digest()


def _id(key: bytes, url: str) -> bytes:
    text = url.encode("utf-8", "surrogateescape")
    return blake2b(text, digest_size=_ID, key=key, person=b"sticky target").digest()
