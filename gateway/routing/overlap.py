"""Is there a text that several regular expressions all find something in?

Rules of this file: pure, for load time only. The expressions are turned into one automaton each
over printable ASCII, and their product is searched, the shortest text first. What an automaton
cannot say exactly (look-around, back references, huge repeats) is taken as wider than it is and
marked: then "no such text" is still certain, and a text that was found is a guess. Callers try it
on the real expressions anyway.
"""

from __future__ import annotations

import importlib
from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import re
    from collections.abc import Iterable, Sequence

# The parser of `re` has no public name; tests/routing/test_overlap.py fails if it moves.
_parser: Any = importlib.import_module("re._parser")

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ/-_.~!$&'()*+,;=:@%"
"""What a path may hold, in the order in which examples prefer it."""
PRINTABLE = ALPHABET + ' "#<>?[\\]^`{|}'
"""What the value of a field may hold."""

_EPSILON, _BEGIN, _END = -1, -2, -3
_MOST_STATES = 4_000
_MOST_REPEATS = 24

State = frozenset[tuple[int, bool]]


class Automaton:
    """One regular expression, as `re.search` reads it. The last node accepts."""

    def __init__(self, regex: re.Pattern[str], alphabet: str) -> None:
        self.exact = True
        self._alphabet = alphabet
        self._all = _mask(alphabet, alphabet)
        self._ignore_case = bool(regex.flags & 2)
        self.edges: list[list[tuple[int, int]]] = []
        start = self._node()
        self._edge(start, self._all, start)
        tree = _parser.parse(regex.pattern, regex.flags)
        end = self._sequence(tree, start)
        self.accept = self._node()
        self._edge(end, _EPSILON, self.accept)
        self._edge(self.accept, self._all, self.accept)
        self.first = self._closure([(start, False)], at_start=True)

    def step(self, state: State, bit: int) -> State:
        """Where one character leads."""
        moved = [
            (to, False)
            for node, ended in state
            if not ended
            for mask, to in self.edges[node]
            if mask >= 0 and mask & bit
        ]
        return self._closure(moved, at_start=False)

    def masks(self, state: State) -> Iterable[int]:
        """The sets of characters that lead on from here."""
        return (m for node, ended in state if not ended for m, _ in self.edges[node] if m >= 0)

    def accepts(self, state: State) -> bool:
        """Whether the text may end here."""
        return any(node == self.accept for node, _ in state)

    def _closure(self, nodes: list[tuple[int, bool]], *, at_start: bool) -> State:
        found = set(nodes)
        todo = list(found)
        while todo:
            node, ended = todo.pop()
            for kind, to in self.edges[node]:
                if kind == _EPSILON or (kind == _BEGIN and at_start):
                    reached = (to, ended)
                elif kind == _END:
                    reached = (to, True)
                else:
                    continue
                if reached not in found:
                    found.add(reached)
                    todo.append(reached)
        return frozenset(found)

    # ── building ──

    def _node(self) -> int:
        self.edges.append([])
        return len(self.edges) - 1

    def _edge(self, start: int, kind: int, end: int) -> None:
        self.edges[start].append((kind, end))

    def _sequence(self, items: Iterable[Any], at: int) -> int:
        for name, value in items:
            at = self._item(str(name), value, at)
        return at

    def _item(self, name: str, value: Any, at: int) -> int:
        if name in ("LITERAL", "NOT_LITERAL", "ANY", "IN", "RANGE", "CATEGORY"):
            end = self._node()
            self._edge(at, self._class(name, value), end)
            return end
        if name == "BRANCH":
            end = self._node()
            for choice in value[1]:
                self._edge(self._sequence(choice, at), _EPSILON, end)
            return end
        if name == "SUBPATTERN":
            if value[1] or value[2]:
                self.exact = False  # flags that hold inside only
            return self._sequence(value[3], at)
        if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            self.exact = self.exact and name != "POSSESSIVE_REPEAT"
            least, most, items = value
            return self._repeat(int(least), int(most), items, at)
        if name == "AT":
            return self._anchor(str(value), at)
        return self._wider(name, value, at)

    def _wider(self, name: str, value: Any, at: int) -> int:
        self.exact = False
        if name == "ATOMIC_GROUP":
            return self._sequence(value, at)
        end = self._node()
        self._edge(at, _EPSILON, end)
        if name not in ("ASSERT", "ASSERT_NOT"):  # a back reference: anything
            self._edge(end, self._all, end)
        return end

    def _repeat(self, least: int, most: int, items: Any, at: int) -> int:
        if least > _MOST_REPEATS:
            self.exact, least = False, _MOST_REPEATS
        for _ in range(least):
            at = self._sequence(items, at)
        end = self._node()
        self._edge(at, _EPSILON, end)
        if most - least > _MOST_REPEATS:
            self.exact = self.exact and most >= _parser.MAXREPEAT
            loop = self._node()
            self._edge(at, _EPSILON, loop)
            back = self._sequence(items, loop)
            self._edge(back, _EPSILON, loop)
            self._edge(back, _EPSILON, end)
            return end
        for _ in range(most - least):
            at = self._sequence(items, at)
            self._edge(at, _EPSILON, end)
        return end

    def _anchor(self, where: str, at: int) -> int:
        end = self._node()
        if where in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
            self._edge(at, _BEGIN, end)
        elif where in ("AT_END", "AT_END_STRING"):
            self._edge(at, _END, end)
        else:
            self.exact = False
            self._edge(at, _EPSILON, end)
        return end

    def _class(self, name: str, value: Any) -> int:
        if name == "ANY":
            return self._all
        if name == "IN":
            negated = bool(value) and str(value[0][0]) == "NEGATE"
            mask = 0
            for inner, what in value[negated:]:
                mask |= self._class(str(inner), what)
            return self._all & ~mask if negated else mask
        if name == "NOT_LITERAL":
            return self._all & ~self._class("LITERAL", value)
        if name == "CATEGORY":
            return self._category(str(value))
        low, high = (value, value) if name == "LITERAL" else value
        chars = {char for char in self._alphabet if low <= ord(char) <= high}
        if self._ignore_case:
            chars |= {char for one in chars for char in (one.lower(), one.upper())}
        return _mask(chars, self._alphabet)

    def _category(self, name: str) -> int:
        tests = {"DIGIT": str.isdigit, "SPACE": str.isspace, "WORD": _is_word}
        test = tests[name.rpartition("_")[2]]
        mask = _mask([char for char in self._alphabet if test(char)], self._alphabet)
        return self._all & ~mask if "_NOT_" in name else mask


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_"


def _mask(chars: Iterable[str], alphabet: str) -> int:
    mask = 0
    for char in chars:
        mask |= 1 << alphabet.index(char)
    return mask


@lru_cache(maxsize=500)
def _automaton(regex: re.Pattern[str], alphabet: str) -> Automaton:
    return Automaton(regex, alphabet)


def witness(
    regexes: Sequence[re.Pattern[str]], alphabet: str = ALPHABET
) -> tuple[str | None, bool]:
    """(the shortest text that all of `regexes` find something in, or None; whether that is
    certain).
    """
    automata = [_automaton(regex, alphabet) for regex in regexes]
    exact = all(automaton.exact for automaton in automata)
    first = tuple(automaton.first for automaton in automata)
    seen = {first}
    todo = deque([(first, "")])
    while todo:
        states, text = todo.popleft()
        if all(a.accepts(s) for a, s in zip(automata, states, strict=True)):
            return text, exact
        for char, bit in _leads(automata, states, alphabet):
            moved = tuple(a.step(s, bit) for a, s in zip(automata, states, strict=True))
            if all(moved) and moved not in seen:
                seen.add(moved)
                todo.append((moved, text + char))
        if len(seen) > _MOST_STATES:
            return None, False
    return None, True  # wider automata share nothing, so the narrower expressions do not either


def _leads(
    automata: list[Automaton], states: tuple[State, ...], alphabet: str
) -> Iterable[tuple[str, int]]:
    """One character of each kind that makes a difference here."""
    masks = sorted({m for a, s in zip(automata, states, strict=True) for m in a.masks(s)})
    kinds: set[tuple[bool, ...]] = set()
    for index, char in enumerate(alphabet):
        bit = 1 << index
        kind = tuple(bool(mask & bit) for mask in masks)
        if any(kind) and kind not in kinds:
            kinds.add(kind)
            yield char, bit


@lru_cache(maxsize=20_000)
def literal_beginning(regex: re.Pattern[str]) -> str:
    """The literal text that every match begins with; empty if the expression is not anchored."""
    items = [(str(name), value) for name, value in _parser.parse(regex.pattern, regex.flags)]
    if regex.flags & 2 or not items or items[0][0] != "AT" or "BEGINNING" not in str(items[0][1]):
        return ""
    text = ""
    for name, value in items[1:]:
        if name != "LITERAL":
            break
        text += chr(value)
    return text
