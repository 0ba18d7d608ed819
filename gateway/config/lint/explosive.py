r"""Regular expressions that can take exponential time: a repeat inside a repeat, with more than one way to share a text.

Rules of this file: a warning has to be right more often than not, so what is looked for is ambiguity, not nesting:
`(/[a-z]+)*` is nested and harmless, since nothing but `/` begins the next turn; `([a-z]+)*` and `(\w+\s?)*` are not. A regex
is read by Python's own parser. Signs are taken as ASCII and one stand-in for everything else; look-arounds and
back-references count as empty. What this misses, it misses silently: it is no proof.
"""

from __future__ import annotations

import importlib
import re
import string
from functools import reduce
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MANY = 16
"""A repeat that may go on for longer than this is taken as endless: 2 ** 16 ways are enough."""
_OTHER = 1 << 128
_ALL = (1 << 129) - 1


def _mask(signs: Iterable[str]) -> int:
    return reduce(lambda mask, sign: mask | (1 << ord(sign)), signs, 0)


_DIGIT = _mask(string.digits)
_SPACE = _mask(string.whitespace)
_WORD = _mask(string.ascii_letters + string.digits + "_") | _OTHER
_CATEGORIES = {
    "CATEGORY_DIGIT": _DIGIT,
    "CATEGORY_NOT_DIGIT": _ALL & ~_DIGIT,
    "CATEGORY_SPACE": _SPACE,
    "CATEGORY_NOT_SPACE": _ALL & ~_SPACE,
    "CATEGORY_WORD": _WORD,
    "CATEGORY_NOT_WORD": _ALL & ~_WORD | _OTHER,
}
_REPEATS = frozenset({"MAX_REPEAT", "MIN_REPEAT"})


def explosive(pattern: str) -> str | None:
    """The part of a regex (in words) that can take exponential time; None: none was found."""
    parser: Any = importlib.import_module("re._parser")
    try:
        tree = parser.parse(pattern)
    except (re.error, RecursionError):
        return None
    blind = bool(tree.state.flags & re.IGNORECASE)
    return next(_Reader(blind=blind).ambiguous(list(tree), 0, inside=False), None)


class _Reader:
    """Sets of signs, as bits."""

    def __init__(self, *, blind: bool) -> None:
        self._blind = blind

    def ambiguous(self, items: list[Any], after: int, *, inside: bool) -> Iterator[str]:
        """What is ambiguous in a sequence; `after`: what may follow it; `inside`: whether it is "
        "repeated without end."""
        for index, (code, value) in enumerate(items):
            follow = self.first(items[index + 1 :], after)
            name = str(code)
            if name in _REPEATS:
                yield from self._repeat(value, follow, inside=inside)
            elif name == "BRANCH":
                branches = [list(branch) for branch in value[1]]
                if inside and self._overlap(branches, follow):
                    yield "alternatives that begin alike, in a repeat"
                for branch in branches:
                    yield from self.ambiguous(branch, follow, inside=inside)
            else:
                kept = inside and name != "ATOMIC_GROUP"  # what it has taken it never gives back
                for body in _bodies(name, value):
                    yield from self.ambiguous(body, follow, inside=kept)

    def _repeat(self, value: Any, follow: int, *, inside: bool) -> Iterator[str]:
        _, most, found = value
        body = list(found)
        endless = int(most) > MANY
        start = self.first(body, 0)
        if endless and inside and start & follow:
            yield "a repeat in a repeat, where either may take the same sign"
        again = follow | start if endless else follow
        yield from self.ambiguous(body, again, inside=inside or endless)

    def _overlap(self, branches: list[list[Any]], follow: int) -> bool:
        seen = 0
        for branch in branches:
            begins = self.first(branch, follow)
            if begins & seen:
                return True
            seen |= begins
        return False

    def first(self, items: list[Any], after: int) -> int:
        """What a sequence may begin with; where it may be empty, also what may follow it."""
        found = 0
        for code, value in items:
            begins, empty = self._begins(str(code), value)
            found |= begins
            if not empty:
                return found
        return found | after

    def _begins(self, name: str, value: Any) -> tuple[int, bool]:
        """What one item may begin with, and whether it may be empty."""
        if name in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            return self.signs(name, value), False
        if name in _REPEATS or name == "POSSESSIVE_REPEAT":
            least, _, body = value
            return self.first(list(body), 0), least == 0 or self._empty(list(body))
        if name == "BRANCH":
            branches = [list(branch) for branch in value[1]]
            signs = reduce(lambda mask, one: mask | self.first(one, 0), branches, 0)
            return signs, any(map(self._empty, branches))
        bodies = list(_bodies(name, value))
        if not bodies:
            return 0, True
        signs = reduce(lambda mask, one: mask | self.first(one, 0), bodies, 0)
        return signs, any(map(self._empty, bodies))

    def _empty(self, items: list[Any]) -> bool:
        return all(self._begins(str(code), value)[1] for code, value in items)

    def signs(self, name: str, value: Any) -> int:
        """The signs that one item takes."""
        if name == "ANY":
            return _ALL & ~_mask("\n")
        if name == "LITERAL":
            return self._either_case(_bit(value))
        if name == "NOT_LITERAL":
            return _ALL & ~self._either_case(_bit(value)) | _OTHER
        found, negated = 0, False
        for code, one in value:
            kind = str(code)
            if kind == "NEGATE":
                negated = True
            elif kind == "RANGE":
                low, high = one
                found |= reduce(lambda mask, n: mask | _bit(n), range(low, min(high, 128) + 1), 0)
                found |= _OTHER if high > 127 else 0
            elif kind == "CATEGORY":
                found |= _CATEGORIES.get(str(one), _ALL)
            else:
                found |= _bit(one)
        found = self._either_case(found)
        return _ALL & ~found | _OTHER if negated else found

    def _either_case(self, mask: int) -> int:
        if not self._blind:
            return mask
        for upper, lower in zip(string.ascii_uppercase, string.ascii_lowercase, strict=True):
            both = _mask((upper, lower))
            mask |= both if mask & both else 0
        return mask


def _bit(number: int) -> int:
    return 1 << number if number < 128 else _OTHER


def _bodies(name: str, value: Any) -> Iterator[list[Any]]:
    """The sequences inside a group; a look-around takes nothing."""
    if name == "SUBPATTERN":
        yield list(value[3])
    elif name == "ATOMIC_GROUP":
        yield list(value)
    elif name == "GROUPREF_EXISTS":
        yield list(value[1])
        yield list(value[2] or ())
