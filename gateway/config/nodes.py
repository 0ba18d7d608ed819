"""YAML nodes → plain data that knows where it was written.

Rules of this file: every scalar stays text, exactly as written, until the field that takes it says what it means; so none of
the guesses of YAML 1.1 (`017`, `8080:30`, `NO`, dates) is ever made. Keys are strings, whatever they look like. Anchors and
merge keys work, but what they expand to is bounded. Mistakes are collected, not raised: `Builder.problems` has all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from gateway.config import traps
from gateway.config.effective import Place, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MAX_DEPTH = 60
MAX_EXPANDED = 100_000
"""Nodes that aliases and merge keys may add to what is written."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One file that was read: its name as shown, the folder that its relative paths start from, and its lines."""

    name: str
    folder: Path
    lines: tuple[str, ...] = ()

    def place(self, line: int, column: int) -> Place:
        """The place of a line and a column that count from 0."""
        return Place(self.name, line + 1, column + 1)


class Text(str):
    """A scalar as written, with its place. `plain`: without quotes, so that `off` may be the switch."""

    __slots__ = ("column", "from_file", "line", "plain", "source")

    source: Source
    line: int
    column: int
    plain: bool
    from_file: bool
    """Holds what a `${file:…}` gave: never shown."""

    @property
    def place(self) -> Place:
        """Where it starts."""
        return self.source.place(self.line, self.column)

    def derive(self, value: str, *, plain: bool = False, from_file: bool = False) -> Text:
        """Another text at the same place."""
        return text(value, self.source, self.line, self.column, plain, self.from_file or from_file)

    @property
    def comment(self) -> str | None:
        """The comment that follows on the same line, if any: `/x #y` gives `#y`."""
        if not self.plain or self.line >= len(self.source.lines):
            return None
        rest = self.source.lines[self.line][self.column :]
        if not rest.startswith(self):
            return None
        rest = rest[len(self) :].lstrip()
        return rest.rstrip() if rest.startswith("#") else None


def text(
    value: str, source: Source, line: int, column: int, plain: bool, from_file: bool = False
) -> Text:
    """Make a `Text`."""
    made = Text(value)
    made.source, made.line, made.column = source, line, column
    made.plain, made.from_file = plain, from_file
    return made


class Map(dict[str, Any]):
    """A mapping, with the places of itself and of its keys."""

    __slots__ = ("column", "flow", "keys_at", "line", "source")

    source: Source
    line: int
    column: int
    flow: bool
    keys_at: dict[str, tuple[Source, int, int]]

    @property
    def place(self) -> Place:
        """Where it starts."""
        return self.source.place(self.line, self.column)

    def key_place(self, key: str) -> Place:
        """Where a key stands; the mapping's own place if it was not written."""
        at = self.keys_at.get(key)
        return at[0].place(at[1], at[2]) if at else self.place

    def like(self, items: dict[str, Any]) -> Map:
        """Other items with the places of this mapping."""
        return mapping(items, self.source, self.line, self.column, self.keys_at, self.flow)


def braces(value: Map) -> str | None:
    """`{id}` if a mapping looks like a template whose quotes were forgotten."""
    bare = (isinstance(item, Text) and item.plain and item == "" for item in value.values())
    return "{" + ", ".join(value) + "}" if value.flow and value and all(bare) else None


def entry_of(items: Map, key: str) -> str | None:
    """The key as written, which may differ in case: names of headers are case-blind."""
    if key in items:
        return key
    lowered = key.lower()
    return next((name for name in items if name.lower() == lowered), None)


def mapping(
    items: dict[str, Any],
    source: Source,
    line: int,
    column: int,
    keys_at: dict[str, tuple[Source, int, int]],
    flow: bool = False,
) -> Map:
    """Make a `Map`."""
    made = Map(items)
    made.source, made.line, made.column = source, line, column
    made.keys_at, made.flow = keys_at, flow
    return made


class Seq(list[Any]):
    """A list, with its place."""

    __slots__ = ("column", "flow", "line", "source")

    source: Source
    line: int
    column: int
    flow: bool

    @property
    def place(self) -> Place:
        """Where it starts."""
        return self.source.place(self.line, self.column)


def sequence(items: list[Any], source: Source, line: int, column: int, flow: bool = False) -> Seq:
    """Make a `Seq`."""
    made = Seq(items)
    made.source, made.line, made.column, made.flow = source, line, column, flow
    return made


Value: TypeAlias = "Text | Map | Seq"


class _Plainly:
    """The resolver that resolves nothing: a scalar is a scalar."""

    TAGS: ClassVar[dict[type[Node], str]] = {
        ScalarNode: "scalar",
        SequenceNode: "seq",
        MappingNode: "map",
    }

    def resolve(self, kind: type[Node], _value: str | None, _implicit: object) -> str:
        return self.TAGS[kind]

    def descend_resolver(self, node: Node | None, index: object) -> None:
        pass

    def ascend_resolver(self) -> None:
        pass


if yaml.__with_libyaml__:
    from yaml.cyaml import CParser  # type: ignore[attr-defined]

    class Composer(_Plainly, CParser):
        """libyaml's parser: ten times as fast as the other."""

        def __init__(self, stream: str) -> None:
            CParser.__init__(self, stream)
            self.anchors: dict[str, Node] = {}

else:  # pragma: no cover - a build of PyYAML without libyaml
    from yaml.composer import Composer as PyComposer
    from yaml.parser import Parser
    from yaml.reader import Reader
    from yaml.scanner import Scanner

    class Composer(_Plainly, Reader, Scanner, Parser, PyComposer):  # type: ignore[no-redef]
        """PyYAML's own parser."""

        def __init__(self, stream: str) -> None:
            Reader.__init__(self, stream)
            Scanner.__init__(self)
            Parser.__init__(self)
            PyComposer.__init__(self)


def compose(
    content: str, source: Source, expand: Callable[[Text], Text], problems: list[Problem]
) -> Value | None:
    """Read one document. What is wrong is added to `problems`; None: nothing could be read, or the file is empty."""
    try:
        node = Composer(content).get_single_node()
    except yaml.YAMLError as error:
        line, column, message = traps.explain(error, source.lines)
        problems.append(Problem(source.place(line, column), "", message))
        return None
    except RecursionError:
        problems.append(Problem(source.place(0, 0), "", "this is nested too deeply"))
        return None
    if node is None:
        return None
    builder = _Builder(source, expand, problems)
    return builder.build(node)


class _TooMuch(Exception):
    """The expansion of aliases has passed its bound."""


class _Builder:
    def __init__(
        self, source: Source, expand: Callable[[Text], Text], problems: list[Problem]
    ) -> None:
        self.source = source
        self.expand = expand
        self.problems = problems
        self.path: list[str] = []
        self.seen: set[int] = set()
        self.open: set[int] = set()
        self.copied = 0
        self.copying = 0
        """How many aliases the walk is inside of."""

    def problem(self, node: Node, message: str) -> None:
        mark = node.start_mark
        path = "".join(self.path).lstrip(".")
        self.problems.append(Problem(self.source.place(mark.line, mark.column), path, message))

    def build(self, root: Node) -> Value | None:
        try:
            return self.value(root)
        except _TooMuch:
            self.path.clear()
            self.problem(root, f"aliases expand to more than {MAX_EXPANDED} values: write less")
            return None

    def value(self, node: Node) -> Value:
        number = id(node)
        if self.copying or number in self.seen:
            self.copied += 1
            if self.copied > MAX_EXPANDED:
                raise _TooMuch
        if number in self.seen:
            self.copying += 1
            try:
                return self.made(node)
            finally:
                self.copying -= 1
        self.seen.add(number)
        return self.made(node)

    def made(self, node: Node) -> Value:
        if type(node) is ScalarNode:
            return self.scalar(node)
        if id(node) in self.open or len(self.path) > MAX_DEPTH:
            loop = id(node) in self.open
            self.problem(node, "this alias holds itself" if loop else "this is nested too deeply")
            return self.nothing(node)
        self.open.add(id(node))
        try:
            if node.tag not in ("map", "seq"):
                self.problem(node, f"the tag {node.tag} means nothing here: remove it")
            if isinstance(node, SequenceNode):
                return self.seq(node)
            assert isinstance(node, MappingNode)
            return self.map(node)
        finally:
            self.open.discard(id(node))

    def nothing(self, node: Node) -> Text:
        return text("", self.source, node.start_mark.line, node.start_mark.column, plain=True)

    def scalar(self, node: ScalarNode) -> Text:
        value, mark = node.value, node.start_mark
        plain = not node.style
        made = text(value, self.source, mark.line, mark.column, plain)
        if node.tag != "scalar":
            self.problem(node, f"the tag {node.tag} means nothing here: remove it")
        if "${" in value:
            return self.expand_at(made)
        if plain and value in ("=", "<<"):
            self.problem(node, f"{value} has a meaning of its own in YAML: write '{value}'")
        return made

    def expand_at(self, made: Text) -> Text:
        try:
            return self.expand(made)
        except ValueError as error:
            path = "".join(self.path).lstrip(".")
            self.problems.append(Problem(made.place, path, str(error)))
            return made

    def seq(self, node: SequenceNode) -> Seq:
        items = []
        for index, item in enumerate(node.value):
            self.path.append(f"[{index}]")
            items.append(self.value(item))
            self.path.pop()
        mark = node.start_mark
        return sequence(items, self.source, mark.line, mark.column, bool(node.flow_style))

    def map(self, node: MappingNode) -> Map:
        items: dict[str, Any] = {}
        keys_at: dict[str, tuple[Source, int, int]] = {}
        merged: list[Map] = []
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self.problem(key_node, traps.ODD_KEY)
                continue
            key, mark = key_node.value, key_node.start_mark
            if key in keys_at:
                first = keys_at[key][1] + 1
                self.path.append(f".{key}")
                self.problem(key_node, f"{key} is written twice: the first one is in line {first}")
                self.path.pop()
                continue
            keys_at[key] = (self.source, mark.line, mark.column)
            if key == "<<" and not key_node.style:
                merged.extend(self.merge_key(value_node))
                continue
            self.path.append(f".{key}")
            items[key] = self.value(value_node)
            self.path.pop()
        keys_at.pop("<<", None) if merged else None
        for layer in merged:
            for key, value in layer.items():
                if key not in items:
                    items[key] = value
                    keys_at[key] = layer.keys_at[key]
        mark = node.start_mark
        return mapping(items, self.source, mark.line, mark.column, keys_at, bool(node.flow_style))

    def merge_key(self, node: Node) -> Iterator[Map]:
        self.path.append(".<<")
        made = self.value(node)
        for layer in made if isinstance(made, Seq) else [made]:
            if isinstance(layer, Map):
                yield layer
            else:
                self.problem(node, "<< takes a mapping: write <<: *anchor, or quote it: '<<'")
        self.path.pop()


def plain_data(value: Any, source: Source, expand: Callable[[Text], Text]) -> Value:
    """Python data as if it had been read from a file: for configurations that a program makes."""
    if isinstance(value, dict):
        items = {str(key): plain_data(item, source, expand) for key, item in value.items()}
        return mapping(items, source, 0, 0, {})
    if isinstance(value, (list, tuple, set, frozenset)):
        return sequence([plain_data(item, source, expand) for item in value], source, 0, 0)
    if value is None or isinstance(value, bool):
        return text({None: "null", True: "true", False: "false"}[value], source, 0, 0, plain=True)
    if isinstance(value, (int, float)):
        return text(repr(value), source, 0, 0, plain=True)
    made = text(str(value), source, 0, 0, plain=False)
    return expand(made) if "${" in made else made
