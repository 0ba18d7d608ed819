"""Bearer tokens: where they stand in a request, and what is answered to one that is not good (RFC 6750).

Rules of this file: exactly one token in exactly one field; what is ambiguous is 400, not a choice of ours. A client is told
`invalid_token` and no more: whether it is expired, forged or meant for somebody else is for operators.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multidict import istr

from gateway import errors
from gateway.auth import Taken

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.auth import Tools
    from gateway.exchange import Exchange

CHALLENGE = 'Bearer realm="gateway"'
INVALID = 'Bearer realm="gateway", error="invalid_token"'
TOO_LITTLE = 'Bearer realm="gateway", error="insufficient_scope"'
AMBIGUOUS = 'Bearer realm="gateway", error="invalid_request"'


class Bearer:
    """Reads the token of one policy."""

    def __init__(self, policy: str, tools: Tools, header: str = "Authorization") -> None:
        """`header`: where it stands; in Authorization behind the scheme, elsewhere alone."""
        self._policy = policy
        self._meter = tools.meter
        self._header = istr(header)
        self._bare = header.lower() != "authorization"
        self.taken = Taken(headers=frozenset((header.lower().encode("ascii"),)))

    def token(self, exchange: Exchange) -> str | None:
        """The token; None: there is none. Raises errors.BadRequest for several (RFC 6750 section 3.1)."""
        fields = exchange.headers.getall(self._header, ())
        if len(fields) != 1:
            return self._several(fields) if fields else None
        if self._bare:
            return fields[0].strip(" \t")
        scheme, _, token = fields[0].partition(" ")
        if scheme != "Bearer" and scheme.lower() != "bearer":
            return None
        return token.strip(" \t")

    def _several(self, fields: Any) -> str | None:
        if not self._bare and not any(each[:6].lower() == "bearer" for each in fields):
            return None
        self._meter.outcomes["malformed"] += 1
        raise errors.BadRequest(
            f"policy {self._policy}: {len(fields)} fields {self._header}",
            (("WWW-Authenticate", AMBIGUOUS),),
        )

    def refuse(self, outcome: str, why: str) -> errors.Unauthenticated:
        """The error for a token that is not good. `why` is for operators; it quotes nothing of it."""
        return errors.Unauthenticated(why, (("WWW-Authenticate", INVALID),), outcome=outcome)


def scopes_of(claims: Mapping[str, Any]) -> frozenset[str]:
    """The scopes that a token has: `scope`, `scp` and `scopes`, each a text of words or a list."""
    found: set[str] = set()
    for name in ("scope", "scp", "scopes"):
        value = claims.get(name)
        if isinstance(value, str):
            found.update(value.split())
        elif isinstance(value, list):
            found.update(each for each in value if isinstance(each, str))
    return frozenset(found)


def consumer_of(claims: Mapping[str, Any], policy: str, names: tuple[str, ...]) -> str:
    """Who that is, unless the policy says: the first of these claims that is a text; else the policy's own name."""
    for name in names:
        value = claims.get(name)
        if isinstance(value, str) and value:
            return value
    return policy


def for_one_of(claims: Mapping[str, Any], wanted: frozenset[str]) -> bool:
    """Whether `aud` names one of `wanted` (RFC 7519 section 4.1.3: a text, or a list of them).

    Where nothing is wanted it must name nobody: what is meant for somebody is not for us then.
    """
    named = claims.get("aud")
    if named is None or named in ("", []):
        return not wanted
    if isinstance(named, str):
        return named in wanted
    if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
        return False
    return not wanted.isdisjoint(named)
