"""The same key, the same target: a hash ring with bounded loads; and the branch of a split that a key belongs to.

Rules of this file: a hash depends on nothing but texts from the configuration and the request, so all workers and all
gateways with the same targets agree, today and after a restart.

A ring, since a look-up is one bisection whatever the number of targets, and since health does not touch it: who is down is
passed over, and its keys come back to it when it is up. Rendezvous hashing would cost a hash for each target and request;
Maglev's table would have to be filled anew (tens of milliseconds, with the loop standing still) at each change of health,
and moves keys between targets that stay.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from hashlib import blake2b
from struct import unpack
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from gateway.upstream.balance import TwoChoices, Weighed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

POINTS = 160
"""Points on the ring for each unit of weight; weights 2 and 4 are 1 and 2 units."""
MOST_POINTS = 32768
"""Points of one ring; with more than 200 targets each has fewer. Making them takes some 15 ms."""
LOAD = 1.25
"""No target has more than this times its part of the requests in flight, rounded up."""
EXACT = 64
"""With fewer available targets, requests in flight are counted at each choice; with n, once for each n // 64 + 1."""

_BLOCK = 8
"""Points that one digest gives."""
_LOW = 0xFFFF
"""Bits of a point that hold its owner's index."""
_UNIT = 2.0**-64


class Located(Weighed, Protocol):
    """What a ring sees of a target."""

    @property
    def url(self) -> str: ...

    @property
    def weight(self) -> int: ...


T = TypeVar("T", bound=Located)


def place(key: str) -> int:
    """Where on the ring a key is: 64 bits."""
    text = key.encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")


def branch_of(key: str, weights: Sequence[int], salt: str = "") -> int:
    """The branch that `key` belongs to, for good: the index of one of `weights`.

    Of many keys each branch gets its weight's part. When weights change, keys move to branches that have grown only, so who
    was a canary at 5 % is one at 10 %. With another `salt` (a route's name) the same keys fall differently, so that not the
    same clients try everything first. Weighted rendezvous hashing: the smallest of exponential draws of rate `weight`,
    drawn by hash.
    """
    best, chosen = math.inf, 0
    text = f"{salt}\0{key}".encode("utf-8", "surrogateescape")
    for at, weight in enumerate(weights):
        digest = blake2b(text, digest_size=8, salt=at.to_bytes(16, "big"), person=b"split").digest()
        draw = -math.log((int.from_bytes(digest, "big") + 1) * _UNIT) / weight
        if draw < best:
            best, chosen = draw, at
    return chosen


class ConsistentHash(Generic[T]):
    """By hash of a key, with bounded loads: what would overload a target goes on to the next on the ring.

    A target that goes leaves its keys to others, and no other key moves; one that comes takes its own part and nothing moves
    between those that were there (beyond 200 targets: but for what a changed number of points moves, in all less than one
    more part). A target takes a request only while it has fewer than `LOAD` times its part, by share, of the requests in
    flight on all available targets, this one included (of many targets, as `EXACT` says, those of a few choices ago). A
    request without a key goes by two choices. (Mirrokni, Thorup, Zadimoghaddam, "Consistent hashing with bounded loads",
    2016.)
    """

    def __init__(self, key: Callable[[Any], str | None]) -> None:
        """`key` gives the text that is hashed for an exchange; empty or None: there is none."""
        self._key = key
        self._keyless: TwoChoices[T] = TwoChoices()
        self._targets: Sequence[T] = ()
        self._open: frozenset[T] = frozenset()
        self._shares = 0
        self._members: Sequence[T] = ()
        self._weights: list[int] = []
        self._points: list[int] = []
        self._digests: dict[str, list[int]] = {}
        self._total, self._old, self._most = 0, 0, 0
        """Requests in flight, how many choices ago that was counted, and how many it may be."""

    def rebuild(self, targets: Sequence[T], members: Sequence[T]) -> None:
        """Choose among `targets`; the ring holds all `members`, and changes only when they do."""
        self._targets = targets
        self._open = frozenset(targets)
        self._shares = sum(target.share for target in targets)
        self._keyless.rebuild(targets, members)
        self._old = self._most = len(targets) // EXACT
        weights = [member.weight for member in members]
        if weights != self._weights or [*members] != [*self._members]:
            self._members, self._weights = members, weights
            self._place()

    def choose(self, exchange: Any, /) -> T:
        """The target of the exchange's key, or the next on the ring that has room. None has no key."""
        key = None if exchange is None else self._key(exchange)
        if not key:
            return self._keyless.choose(exchange)
        points = self._points
        at = bisect_right(points, place(key))
        target = self._members[points[at if at < len(points) else 0] & _LOW]
        if target in self._open and (not target.in_flight or self._room(target, self._flying())):
            return target
        return self._next(at, ())

    def other(self, exchange: Any, tried: Sequence[T], /) -> T:
        """The next on the ring that is not among `tried`, if possible with room."""
        key = None if exchange is None else self._key(exchange)
        if not key:
            return self._keyless.other(exchange, tried)
        return self._next(bisect_right(self._points, place(key)), tried)

    def _flying(self) -> int:
        """Requests in flight on all available targets."""
        if self._old >= self._most:
            self._old = 0
            self._total = sum([target.in_flight for target in self._targets])
        else:
            self._old += 1
        return self._total

    def _room(self, target: T, flying: int) -> bool:
        # Whole numbers below x: n + 1 <= ceil(x) is n < x.
        return target.in_flight * self._shares < LOAD * (flying + 1) * target.share

    def _next(self, at: int, tried: Sequence[T]) -> T:
        """From a point on, the first target that is available, has room and was not tried."""
        points, members, flying = self._points, self._members, self._flying()
        left = self._open.difference(tried)
        passed: set[T] = set()
        full: T | None = None
        for step in range(len(points)):
            target = members[points[(at + step) % len(points)] & _LOW]
            if target not in left or target in passed:
                continue
            if self._room(target, flying):
                return target
            full = full or target
            passed.add(target)
            if len(passed) == len(left):
                break
        assert full is not None  # somebody has room, unless it was tried
        return full

    def _place(self) -> None:
        unit = max(1, math.gcd(*self._weights))
        counts = [max(1, POINTS * weight // unit) for weight in self._weights]
        shrunk = min(1.0, MOST_POINTS / sum(counts))
        known, self._digests = self._digests, {}
        points: list[int] = []
        for index, (member, count) in enumerate(zip(self._members, counts, strict=True)):
            # Of a sequence that depends on the URL alone, the first so many: another number moves little.
            wanted = max(1, round(count * shrunk))
            own = self._digests[member.url] = known.get(member.url, [])
            while len(own) < wanted:
                text = f"{len(own)} {member.url}".encode("utf-8", "surrogateescape")
                own.extend(unpack(f">{_BLOCK}Q", blake2b(text, person=b"target").digest()))
            points.extend([point & ~_LOW | index for point in own[:wanted]])
        points.sort()
        self._points = points
