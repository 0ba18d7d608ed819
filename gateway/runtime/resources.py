"""What outlives a configuration: upstreams with their connections, log writers, the word in `Via`.

Rules of this file: mark and sweep by generation, no reference counts. A compilation claims what it
needs by kind and key and gets the same object as the last one did. Nothing that it made counts
before `commit`, so that a compilation that fails leaves no trace. What no living generation claims
any more is swept; a WebSocket that holds generation 7 open simply keeps the things of 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
Key = tuple[str, str]


@dataclass(slots=True)
class _Entry:
    value: object
    generation: int
    """The last one that claimed it."""


class Resources:
    """Everything long-lived of one Gateway. A value that must be closed has `async def aclose()`."""

    def __init__(self) -> None:
        self._entries: dict[Key, _Entry] = {}

    def begin(self, generation: int) -> Claims:
        """The claims of the compilation of `generation`."""
        return Claims(self._entries, generation)

    def sweep(self, oldest: int) -> list[object]:
        """Take out, and return, what no generation from `oldest` on has claimed; the caller closes
        it.
        """
        gone = [key for key, entry in self._entries.items() if entry.generation < oldest]
        return [self._entries.pop(key).value for key in gone]

    def of(self, kind: str) -> list[Any]:
        """Every value of one kind."""
        return [entry.value for (each, _), entry in self._entries.items() if each == kind]

    def __len__(self) -> int:
        return len(self._entries)


class Claims:
    """What one compilation asks for: nothing of it counts until `commit`."""

    def __init__(self, entries: dict[Key, _Entry], generation: int) -> None:
        self._entries = entries
        self.generation = generation
        self._claimed: dict[Key, object] = {}
        self._made: list[object] = []
        self._changes: list[Callable[[], None]] = []

    def claim(self, kind: str, key: str, make: Callable[[], T]) -> T:
        """The value under (`kind`, `key`): the one that lives, else what `make` returns."""
        name = (kind, key)
        if name in self._claimed:
            return cast("T", self._claimed[name])
        entry = self._entries.get(name)
        if entry is None:
            value = make()
            self._made.append(value)
        else:
            value = cast("T", entry.value)
        self._claimed[name] = value
        return value

    def made(self, kind: str) -> list[Any]:
        """Every value of one kind that was made for this compilation."""
        return [
            value
            for (each, _), value in self._claimed.items()
            if each == kind and value in self._made
        ]

    def at_commit(self, change: Callable[[], None]) -> None:
        """Call `change` when this generation is swapped in. It must not fail: what can fail belongs
        before.
        """
        self._changes.append(change)

    def commit(self) -> None:
        """From now on these claims count, and changes of settings are in force."""
        for name, value in self._claimed.items():
            self._entries[name] = _Entry(value, self.generation)
        for change in self._changes:
            change()

    async def discard(self) -> None:
        """The compilation, or what followed it, has failed: close what was made for it alone."""
        await close(self._made)


async def close(values: list[object]) -> None:
    """Close what can be closed."""
    for value in values:
        aclose = getattr(value, "aclose", None)
        if aclose is not None:
            await aclose()
