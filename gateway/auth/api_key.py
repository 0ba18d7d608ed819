"""API keys: long random words that a file lists by their SHA-256.

Rules of this file: a key is looked up by its digest, so what the time of a look-up depends on is not what a client sends but
its SHA-256, and nothing of a key can be learned from it. No slow hash is needed, for a key is nothing that people choose:
`gateway hash-key` draws 256 bits. What each key makes of its bearer is ready before the first request. A key stands in the
one place that the policy names, once: two keys are none.
"""

from __future__ import annotations

import math
from hashlib import sha256
from typing import TYPE_CHECKING

from multidict import istr

from gateway import errors
from gateway.auth import Taken
from gateway.auth.attempts import limiter
from gateway.auth.describing import Describing
from gateway.auth.files import Credentials
from gateway.config.keys import read_keys
from gateway.routing.match import cookie_values, query_values

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.auth import Tools
    from gateway.config import model
    from gateway.exchange import Exchange
    from gateway.identity import Identity

LONGEST = 1024
"""Bytes of a key. Those of `hash-key` have 46."""

_Keys = dict[bytes, "Identity"]
_NOTHING: list[str] = []
_AUTHORIZATION = istr("Authorization")


class ApiKeys:
    """One policy."""

    def __init__(self, name: str, settings: model.ApiKey, tools: Tools) -> None:
        """Raises ValueError with every mistake in the keys' file, OSError if there is none."""
        self.name = name
        describing = Describing(name, settings)
        self.forwarded = describing.forwarded
        self.taken, self.challenge, self._values = _place(settings)
        self._wall = tools.clock.wall
        self._attempts = limiter(settings.attempts, tools.clock)
        self._refused: Mapping[str, float] = (
            {} if self._attempts is None else self._attempts.refused
        )
        self._keys: _Keys = {}

        def read(text: str, file: str) -> _Keys:
            return {
                key.sha256: describing.identity(
                    key.consumer or key.id,
                    {**key.claims, "id": key.id, "scopes": [*key.scopes], "groups": [*key.groups]},
                    scopes=key.scopes,
                    expires=math.inf if key.expires is None else key.expires,
                )
                for key in read_keys(text, file)
            }

        self._file = Credentials(name, settings.keys_file, read, self._take, tools)

    def __repr__(self) -> str:
        return f"<ApiKeys {self.name}: {len(self._keys)} keys>"

    def _take(self, keys: _Keys) -> str:
        self._keys = keys
        return f"{len(keys)} key{'' if len(keys) == 1 else 's'}"

    def authenticate(self, exchange: Exchange) -> Identity | None:
        """Who bears the key. None: there is no key where the policy looks for one.

        Raises errors.Unauthenticated, and errors.RateLimited for an address that has guessed.
        """
        values = self._values(exchange)
        if not values:
            return None
        if self._refused and self._attempts is not None:
            self._attempts.check(exchange.client_ip)
        value = values[0]
        if len(values) > 1 or not value or len(value) > LONGEST:
            raise self._bad(exchange, "malformed", "one key is wanted, and not a long one")
        digest = sha256(value.encode("utf-8", "surrogateescape")).digest()
        identity = self._keys.get(digest)
        if identity is None:
            raise self._bad(exchange, "unknown_key", "no such key", digest)
        if identity.expires != math.inf and identity.expires <= self._wall():
            # Its bearer has known a key: that is no guess.
            raise errors.Unauthenticated(
                f"the key {identity.claims['id']!r} has expired", outcome="expired"
            )
        return identity

    def rehearse(self, exchange: Exchange) -> Identity | None:
        """The same: nothing has to be waited for."""
        return self.authenticate(exchange)

    def _bad(
        self, exchange: Exchange, outcome: str, detail: str, digest: bytes = b""
    ) -> errors.Unauthenticated:
        if self._attempts is not None:
            self._attempts.failed(exchange.client_ip, digest)
        return errors.Unauthenticated(detail, outcome=outcome)

    async def aclose(self) -> None:
        """Watch the file no longer."""
        await self._file.aclose()


def make(name: str, settings: model.ApiKey, tools: Tools) -> ApiKeys:
    """The policy `name`. Raises ValueError or OSError for its file."""
    return ApiKeys(name, settings, tools)


def _place(settings: model.ApiKey) -> tuple[Taken, str, Callable[[Exchange], list[str]]]:
    """Where the key stands, its challenge, and how every value there is read."""
    if settings.query is not None:
        parameter = settings.query
        taken = Taken(query=frozenset((parameter,)))
        return taken, "ApiKey", lambda exchange: query_values(exchange.query, parameter)
    if settings.cookie is not None:
        cookie = settings.cookie
        taken = Taken(cookies=frozenset((cookie,)))
        return taken, "ApiKey", lambda exchange: cookie_values(exchange.headers, cookie)
    header = istr(settings.header or "X-Api-Key")
    taken = Taken(headers=frozenset((header.lower().encode("ascii"),)))
    if header.lower() == "authorization":
        return taken, "Bearer", _bearer
    return taken, "ApiKey", lambda exchange: exchange.headers.getall(header, _NOTHING)


def _bearer(exchange: Exchange) -> list[str]:
    """Keys behind `Bearer` (RFC 6750 section 2.1). Another scheme is another policy's; two fields are none's."""
    fields = exchange.headers.getall(_AUTHORIZATION, _NOTHING)
    if len(fields) == 1:
        return [fields[0][7:].strip(" ")] if fields[0][:7].lower() == "bearer " else _NOTHING
    known = any(field[:7].lower() == "bearer " for field in fields)
    return fields if known else _NOTHING
