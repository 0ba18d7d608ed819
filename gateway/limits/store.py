"""What a store of limits is.

Rules of this file: types only. A store answers for all limits of one stage in one step: either every binding one passes and
all are counted, or nothing is counted by any. One that is not binding (`mode: report`) never keeps the others from passing,
and counts when they pass and it does itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.limits.algorithms import Algorithm, Taken


class Asked(NamedTuple):
    """One question to a store."""

    table: str
    """Which limit; see `quota.Quota.table`."""
    algorithm: Algorithm
    key: str
    """Whose; of bounded length."""
    cost: float
    binding: bool = True


class LimitStore(Protocol):
    """Where counters are kept that one process reads and writes without waiting."""

    def take(self, asked: Sequence[Asked]) -> list[Taken]:
        """The decisions, in the order asked; counted if all binding ones pass."""

    def take_one(self, name: str, algorithm: Algorithm, key: str, cost: float) -> Taken:
        """The same for one question, binding or not: at half the price, and mostly there is one."""

    def give_back(self, asked: Sequence[Asked]) -> None:
        """Undo a `take` of a moment ago that has passed: what followed was denied elsewhere."""

    def keep(self, names: frozenset[str]) -> None:
        """Forget the limits but those of these names: no configuration has the others any more."""
