"""Which target is next: pure choices over counts, no waiting and no health.

Rules of this file: a balancer sees targets with a weight and the number of requests in flight, and names one. It is called
once a try; a target that this request has tried already is left out while another remains.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Weighed(Protocol):
    """What a balancer sees of a target."""

    weight: int
    in_flight: int


T = TypeVar("T", bound=Weighed)
_random = Random().random  # noqa: S311 - spread, not secrecy


def two_choices(targets: Sequence[T], random: Callable[[], float] = _random) -> T:
    """Power of two choices: draw two by weight, take the one with fewer requests in flight for its weight."""
    first = _draw(targets, random)
    second = _draw([target for target in targets if target is not first] or targets, random)
    if second.in_flight * first.weight < first.in_flight * second.weight:
        return second
    return first


def _draw(targets: Sequence[T], random: Callable[[], float]) -> T:
    if len(targets) == 1:
        return targets[0]
    point = random() * sum(target.weight for target in targets)
    for target in targets:
        point -= target.weight
        if point < 0:
            return target
    return targets[-1]


class RoundRobin:
    """Smooth weighted round robin: weights 3 and 1 give a a b a, not a a a b.

    Each turn every target gains its weight; the highest is chosen and pays the sum of all.
    """

    def __init__(self) -> None:
        self._credit: dict[int, int] = {}

    def choose(self, targets: Sequence[T]) -> T:
        """The next target of the round; over any `sum(weights)` turns with the same targets each gets exactly its weight."""
        credit = self._credit
        best = targets[0]
        total = 0
        for target in targets:
            total += target.weight
            credit[id(target)] = credit.get(id(target), 0) + target.weight
            if credit[id(target)] > credit[id(best)]:
                best = target
        credit[id(best)] -= total
        return best
