"""Who asks: what an accepted credential has told about a client.

Rules of this file: data only, and nothing of it a secret. An Identity is made by an authenticator (`auth/`), hangs on the
exchange, and may be shared by all requests that bear the same credential: nobody changes one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """A client that is known."""

    policy: str
    """The name under `auth:` of what has accepted it."""
    consumer: str
    """Whom limits, logs and metrics mean; never empty."""
    claims: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    """What is known about it, as JSON values: the claims of a token, the fields of a key or of a session."""
    scopes: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    lines: bytes = b""
    """Header lines for the upstream, each `Name: value\\r\\n`: what the policy's `forward` says."""
    expires: float = math.inf
    """Wall seconds from which on it counts no more."""
    once: tuple[bytes, ...] = ()
    """Header lines for this one answer, such as a renewed session cookie; only of an Identity that is not shared."""

    def claim(self, path: str) -> Any:
        """The value of a claim, or None. A claim of that very name wins; else dots lead into mappings: `realm.roles`."""
        if path in self.claims:
            return self.claims[path]
        value: Any = self.claims
        for part in path.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return None
            value = value[part]
        return value


NOBODY = Identity("", "")
"""Stands for a client that a policy lets in without knowing it (`on_error: allow`): the exchange has no identity then."""
