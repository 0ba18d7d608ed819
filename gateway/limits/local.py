"""Counters in this process: bounded, and nobody can flood his own away.

Rules of this file: a known key costs two look-ups in a dict. A new one pays for the bound: it looks at two others in turn
and forgets those whose time is over, and where the table is full it takes the place of one of a few drawn at random: the
one that has used least. So a flood of new keys, each used once, pushes out itself and not a key that is used up: to be
forgotten sooner, it would have to use up as much under each of the others. Each limit has a table of its own, since
only what is counted alike can be compared.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.clock import Clock
    from gateway.limits.algorithms import Algorithm, State, Taken
    from gateway.limits.store import Asked

MOST = 65_536
"""Keys of one limit: about 16 MB with long ones."""
DRAWN = 8
"""Keys that are compared when one must go."""
_SWEPT = 2
_random = Random().random  # noqa: S311 - spread; who could foretell it would gain nothing


class Table:
    """The keys of one limit."""

    __slots__ = ("_hand", "_most", "_names", "states")

    def __init__(self, most: int = MOST) -> None:
        self.states: dict[str, State] = {}
        self._names: list[str] = []
        """The same keys, to draw from."""
        self._most = most
        self._hand = 0

    def __len__(self) -> int:
        return len(self.states)

    def keep(self, key: str, former: State, state: State, algorithm: Algorithm, now: float) -> None:
        """Keep the state of a key that had `former`."""
        if former is not None or key in self.states:  # the same key twice in one question
            self.states[key] = state
        else:
            self.enter(key, state, algorithm, now)

    def enter(self, key: str, state: State, algorithm: Algorithm, now: float) -> None:
        """Keep the state of a key that is not here yet."""
        names = self._names
        for _ in range(_SWEPT):
            if not names:
                break
            self._hand = at = (self._hand + 1) % len(names)
            if algorithm.ends(self.states[names[at]]) <= now:
                self._forget(at)
        if len(names) >= self._most:
            self._forget(self._least(algorithm))
        self.states[key] = state
        names.append(key)

    def _least(self, algorithm: Algorithm) -> int:
        """Where one stands that has used little."""
        count = len(self._names)
        drawn = [int(_random() * count) for _ in range(DRAWN)]
        return min(drawn, key=lambda at: algorithm.rank(self.states[self._names[at]]))

    def _forget(self, at: int) -> None:
        names = self._names
        del self.states[names[at]]
        names[at] = names[-1]
        names.pop()


class LocalStore:
    """All limits of one process that are kept in its memory. It outlives reloads."""

    def __init__(self, clock: Clock, most: int = MOST) -> None:
        """`most`: keys of each limit."""
        self._now = clock.now
        self._wall = clock.wall
        self._most = most
        self._tables: dict[str, Table] = {}

    def __len__(self) -> int:
        return sum(len(table) for table in self._tables.values())

    def __repr__(self) -> str:
        return f"<LocalStore: {len(self)} keys of {len(self._tables)} limits>"

    def take(self, asked: Sequence[Asked]) -> list[Taken]:
        """See LimitStore."""
        if len(asked) == 1:
            name, algorithm, key, cost, _ = asked[0]
            return [self.take_one(name, algorithm, key, cost)]
        taken: list[Taken] = []
        found: list[tuple[Table, State, float]] = []
        passes = True
        for name, algorithm, key, cost, binding in asked:
            table = self._open(name)
            now = self._wall() if algorithm.calendar else self._now()
            state = table.states.get(key)
            one = algorithm.take(state, now, cost)
            if one[1] and binding:
                passes = False
            taken.append(one)
            found.append((table, state, now))
        if passes:
            for question, one, (table, state, now) in zip(asked, taken, found, strict=True):
                if not one[1]:
                    table.keep(question[2], state, one[0], question[1], now)
        return taken

    def take_one(self, name: str, algorithm: Algorithm, key: str, cost: float) -> Taken:
        """See LimitStore."""
        table = self._tables.get(name)
        if table is None:
            table = self._open(name)
        now = self._wall() if algorithm.calendar else self._now()
        states = table.states
        state = states.get(key)
        taken = algorithm.take(state, now, cost)
        if not taken[1]:
            if state is not None:
                states[key] = taken[0]
            else:
                table.enter(key, taken[0], algorithm, now)
        return taken

    def _open(self, name: str) -> Table:
        table = self._tables.get(name)
        if table is None:
            table = self._tables[name] = Table(self._most)
        return table

    def give_back(self, asked: Sequence[Asked]) -> None:
        """See LimitStore."""
        for name, algorithm, key, cost, _ in asked:
            table = self._tables.get(name)
            state = None if table is None else table.states.get(key)
            if table is not None and state is not None:
                when = self._wall() if algorithm.calendar else self._now()
                table.states[key] = algorithm.give_back(state, when, cost)

    def keep(self, names: frozenset[str]) -> None:
        """See LimitStore."""
        self._tables = {
            table: keys for table, keys in self._tables.items() if limit_of(table) in names
        }


def limit_of(table: str) -> str:
    """The name of the limit that a table is of."""
    return table.split("/", 2)[2]
