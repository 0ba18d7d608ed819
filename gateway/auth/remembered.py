"""What was learned of credentials, by their SHA-256, for a while and within bounds.

Rules of this file: no credential is kept, its SHA-256 is. Python's own hash would not do in its place: it has 64 bits, and
two texts that share them are told apart only by comparing the texts, which would have to be kept; an attacker who finds a
second text for a key here is somebody else from then on, so finding one must be as hard as breaking the digest. What was
used longest ago makes room first; an entry weighs as much as what it was learned from, so that a few large ones are as
bounded as many small ones.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Generic, TypeVar

MOST = 10_000
"""Entries."""
HEAVIEST = 8 * 1024 * 1024
"""Characters of the credentials that all entries were learned from."""

Value = TypeVar("Value")


def digest(credential: str) -> bytes:
    """What a credential is remembered by. A text from a header may hold bytes that are no UTF-8."""
    return hashlib.sha256(credential.encode("utf-8", "surrogateescape")).digest()


class Remembered(Generic[Value]):
    """Values by digest, each until a moment of the monotonic clock."""

    def __init__(self, most: int = MOST, heaviest: int = HEAVIEST) -> None:
        self._most = most
        self._heaviest = heaviest
        self._entries: OrderedDict[bytes, tuple[float, Value, int]] = OrderedDict()
        self.weight = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, now: float) -> Value | None:
        """What was learned, if it still counts."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[0] <= now:
            self.forget(key)
            return None
        self._entries.move_to_end(key)
        return entry[1]

    def put(self, key: bytes, value: Value, until: float, weight: int) -> None:
        """Remember `value` until `until`; `weight` is the length of the credential."""
        self.forget(key)
        self._entries[key] = (until, value, weight)
        self.weight += weight
        while len(self._entries) > self._most or self.weight > self._heaviest:
            self.forget(next(iter(self._entries)))

    def forget(self, key: bytes) -> None:
        """Know nothing of it any more."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.weight -= entry[2]

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.weight = 0
