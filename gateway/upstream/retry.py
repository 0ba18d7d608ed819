"""May this failure be tried again?

Rules of this file: pure decisions over a policy, an error and what is known of the body; the loop is in proxy.py. What has
been sent to the client is never tried again. A request that an upstream may have acted on is tried again only if it is
idempotent, or bears a key that makes it so (RFC 9110 section 9.2.2).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway import errors
    from gateway.clock import Clock
    from gateway.config import model
    from gateway.exchange import Exchange, Reply

IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
_BUDGET_SPAN = 10.0
_BUDGET_FLOOR = 3


class Budget:
    """Extra tries as a share of the first tries of the last ten seconds, with a floor of three.

    A retry storm is how a brown-out becomes an outage: with 20 % the upstream sees at most 1.2 times what clients ask.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until = 0.0
        """Clock seconds: when the newest slot is over."""
        self._firsts: deque[list[int]] = deque()
        """[second, first tries, extra tries], oldest first."""
        self._newest = [0, 0, 0]

    def first(self, now: float) -> None:
        """Count a first try."""
        if now < self._until:
            self._newest[1] += 1
        else:
            self._slot(now)[1] += 1

    def spend(self, share: float) -> bool:
        """Take one extra try out of the budget; False if there is none left."""
        now = self._clock.now()
        slot = self._slot(now)
        while self._firsts and self._firsts[0][0] <= now - _BUDGET_SPAN:
            self._firsts.popleft()
        firsts = sum(entry[1] for entry in self._firsts)
        extras = sum(entry[2] for entry in self._firsts)
        if extras + 1 > max(_BUDGET_FLOOR, share * firsts):
            return False
        slot[2] += 1
        return True

    def _slot(self, now: float) -> list[int]:
        second = int(now)
        # Not `!=`: a request that began in the second before may be counted after one of this second.
        if not self._firsts or self._firsts[-1][0] < second:
            self._newest = [second, 0, 0]
            self._until = second + 1.0
            self._firsts.append(self._newest)
            if len(self._firsts) > _BUDGET_SPAN + 1:
                self._firsts.popleft()
        return self._firsts[-1]


class Policy:
    """One route's `retry:`, compiled."""

    def __init__(self, settings: model.Retry | None) -> None:
        self.off = settings is None
        self.max = settings.max if settings else 0
        self.on = frozenset(settings.on) if settings else frozenset()
        self.statuses = frozenset(int(word) for word in self.on if word.isdigit())
        self.per_try = settings.per_try if settings else None
        self.share = settings.budget if settings else None
        self.replay_body = settings.replay_body if settings else 0
        methods = settings.methods if settings else "idempotent"
        self._any_method = methods == "all"
        self._methods = IDEMPOTENT if isinstance(methods, str) else frozenset(methods)
        self._key = settings.idempotency_key if settings else None

    def repeatable(self, exchange: Exchange) -> bool:
        """Whether doing it twice is the same as doing it once."""
        return (
            exchange.method in self._methods
            or self._any_method
            or (self._key is not None and self._key in exchange.headers)
        )

    def covers(self, error: errors.UpstreamError) -> bool:
        """Whether `on:` names this failure."""
        return error.retry is not None and error.retry in self.on

    def outcome(self, status: int) -> str:
        """The word for what a further try has brought: a status that is tried again is no success."""
        return "failure" if status in self.statuses else "success"

    def may_repeat(self, error: errors.UpstreamError, exchange: Exchange) -> bool:
        """Whether sending this request again, after `error`, is possible and can do no harm."""
        upload = exchange.upload
        if error.retry == "connect":  # nothing was sent: neither method nor `replay_body` matters
            return upload is None or upload.unsent
        return self.repeatable(exchange) and (upload is None or upload.replayable)


def after(reply: Reply) -> float:
    """Seconds that the upstream asks for, where it asks for one at most; else 0."""
    return 1.0 if reply.get(b"Retry-After") == b"1" else 0.0
