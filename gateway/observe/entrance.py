"""What is counted of who may come in: credentials, limits, certificates.

Rules of this file: those of metrics.py. A meter is found by name once, at load, and outlives reloads. Whatever a client can
invent is no label here: policies, limits and certificates are the operator's.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class AuthMeter:
    """What one policy of `auth:` has decided."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.outcomes: Counter[str] = Counter()
        """Decisions, by outcome: ok, missing, expired and so on."""
        self.ok = 0
        """Credentials that were accepted: counted apart, for it is what most requests do."""
        self.refreshes: Counter[str] = Counter()
        """Fetches of an issuer's keys, by result: success, failure."""
        self.keys_age: Callable[[], float] | None = None
        """Seconds since the keys in use were fetched; None: this policy fetches none."""

    def __repr__(self) -> str:
        return f"<AuthMeter {self.name}: {self.ok} ok, {dict(self.outcomes)}>"


class LimitMeter:
    """What one of `rate_limits:` has decided."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.allowed = 0
        self.decisions: Counter[str] = Counter()
        """All others: denied, would_deny, store_error."""

    def __repr__(self) -> str:
        return f"<LimitMeter {self.name}: {self.allowed} allowed, {dict(self.decisions)}>"


class Entrance:
    """All meters of one worker for who may come in."""

    def __init__(self) -> None:
        self.policies: dict[str, AuthMeter] = {}
        self.limits: dict[str, LimitMeter] = {}
        self.certificates: dict[str, float] = {}
        """Names of a certificate in use → Unix seconds of its end."""
        self.refused: Counter[tuple[str, str]] = Counter()
        """Connections that ended before HTTP, by listener and reason."""

    def not_let_in(self, listener: str, reason: str) -> None:
        """A connection has ended before HTTP could begin."""
        self.refused[listener, reason] += 1

    def policy(self, name: str) -> AuthMeter:
        """The meter of a policy, the same for every generation."""
        return self.policies.setdefault(name, AuthMeter(name))

    def limit(self, name: str) -> LimitMeter:
        """The meter of a limit, the same for every generation."""
        return self.limits.setdefault(name, LimitMeter(name))
