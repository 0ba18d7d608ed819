"""A limit's rate: the one that is written, or the one that a text with placeholders gives for a request.

Rules of this file: what is written is read at load. What a text gives is read once for each text that comes up, and the
last few thousand are remembered. A text that is no rate counts as if its placeholders had no value: the default written in
it is taken, and where that gives none either, nobody knows what is allowed, so nothing is.

The fields that clients are told (draft-ietf-httpapi-ratelimit-headers-11) are Lists of structured fields (RFC 9651): the
rate as written in `RateLimit-Policy`, what is left of it in `RateLimit`.
"""

from __future__ import annotations

import math
from math import ceil
from typing import TYPE_CHECKING, Final

from gateway.config import placeholders
from gateway.config.limits import Rate, parse_quota
from gateway.limits.algorithms import SLACK, Algorithm, make
from gateway.routing.template import Template

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.config.limits import RateLimit
    from gateway.identity import Identity
    from gateway.routing.template import View

REMEMBERED: Final = 4096
_DIGITS: Final = 10
"""Of a cost that is read from a text: a larger one never passes."""
_LONGEST: Final = 64


class Quota:
    """One rate of one limit."""

    __slots__ = ("_left", "algorithm", "alone", "policy", "rate", "table")

    def __init__(self, name: str, settings: RateLimit, rate: Rate) -> None:
        """Raises ValueError, with a sentence for the user, for numbers that no algorithm can have."""
        self.algorithm: Algorithm = make(settings.algorithm, rate.count, rate.unit, settings.burst)
        quoted = quote(name)
        window = "" if rate.unit == "month" else f";w={rate.seconds:.0f}"
        self.policy = f"{quoted};q={rate.count}{window}".encode("ascii")
        """Its member of `RateLimit-Policy`; no month is so many seconds long that it could be said in advance."""
        self.alone = policy_line([self])
        """`RateLimit-Policy` where there is no other."""
        self.table = f"{settings.algorithm}/{rate.unit}/{name}"
        """Under which it is counted: what another algorithm, or another unit, has stored says nothing to this one."""
        self.rate = str(rate)
        self._left = b"RateLimit: %b;r=%%d;t=%%d\r\n" % quoted.encode("ascii").replace(b"%", b"%%")

    def line(self, left: int, seconds: float) -> bytes:
        """The field `RateLimit`: units left, and for how long that is so (rounded up)."""
        return self._left % (left, ceil(seconds - SLACK))


def policy_line(quotas: Sequence[Quota]) -> bytes:
    """The field `RateLimit-Policy`."""
    return b"RateLimit-Policy: %b\r\n" % b", ".join([quota.policy for quota in quotas])


def quote(name: str) -> str:
    """A name as a String of structured fields (RFC 9651 section 3.3.3), which is ASCII."""
    text = name.encode("ascii", "replace").decode("ascii")
    text = "".join(char if char.isprintable() else "?" for char in text)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Rates:
    """The quotas of a limit whose rate is a text with placeholders."""

    def __init__(self, name: str, settings: RateLimit, text: str) -> None:
        self._name = name
        self._settings = settings
        self.template = Template.compile(text, where="text")
        self._known: dict[str, Quota | None] = {}
        self._by_identity = all(map(placeholders.of_identity, self.template.names))
        """Nothing else is asked for: it is the same for all requests of one identity."""
        self._identities: dict[Identity, Quota | None] = {}
        self._default = self._read(placeholders.defaults(text))

    def of(self, exchange: View) -> Quota | None:
        """What holds for this request; None: nothing that could be read, so nothing is allowed."""
        identity = exchange.identity
        if identity is None or not self._by_identity:
            return self._of(exchange)
        try:
            return self._identities[identity]
        except KeyError:
            quota = self._of(exchange)
            if len(self._identities) >= REMEMBERED:
                self._identities.clear()
            self._identities[identity] = quota
            return quota

    def _of(self, exchange: View) -> Quota | None:
        text = self.template.render(exchange)
        try:
            return self._known[text]
        except KeyError:
            return self._learn(text)

    def _learn(self, text: str) -> Quota | None:
        quota = self._read(text) or self._default
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        if len(text) <= _LONGEST:
            self._known[text] = quota
        return quota

    def _read(self, text: str) -> Quota | None:
        try:
            return Quota(self._name, self._settings, parse_quota(text))
        except ValueError:
            return None


def cost_of(text: str) -> Callable[[View], float]:
    """Reads what a request costs from a text with placeholders.

    What is no number from 0 on counts as 1: who chooses the number must not be able to be paid for a request.
    """
    template = Template.compile(text, where="text")

    def cost(exchange: View) -> float:
        word = template.render(exchange).strip()
        if word.isascii() and word.isdigit():
            return float(word) if len(word) <= _DIGITS else math.inf
        return 1.0

    return cost
