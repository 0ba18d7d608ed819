"""Which route takes a request: host table, then path tables, then candidates in order of rank.

Rules of this file: the order of the configuration does not matter, since ties of rank are errors at
load. Rank is: priority, host, class of path, segments from the left, number of conditions. Finding
the candidates is dictionary lookups and, for templates and prefixes, a walk as deep as the longest
pattern: its cost does not grow with the number of routes. Only regexes are asked one after another.
`match` and `explain` walk the same candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from gateway import errors
from gateway.routing import paths
from gateway.routing.match import (
    Path,
    asked_method,
    conditions,
    host_matches,
    host_pattern,
    methods_taken,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gateway.config import effective
    from gateway.routing.match import Request

R = TypeVar("R")
NO_CAPTURES: dict[str, str] = {}
"""Shared and never written: a route without captures costs nothing."""


class Entry(Generic[R]):
    """One route, compiled, with what was registered for it."""

    __slots__ = (
        "captures",
        "conditions",
        "hosts",
        "methods",
        "order",
        "path",
        "priority",
        "route",
        "value",
    )

    def __init__(self, route: effective.Route, value: R) -> None:
        self.route = route
        self.value = value
        self.hosts = tuple(host_pattern(host) for host in route.match.host)
        self.path = Path.compile(route.match.path)
        self.captures = bool(self.path.captures)
        self.methods = methods_taken(route.match.methods)
        self.conditions = conditions(route.match.when)
        self.priority = route.match.priority
        weight = len(self.conditions) + bool(route.match.methods)
        # Within equal rank a written HEAD beats the implied one. The name decides nothing that
        # check lets pass: it only makes the order a matter of the routes and not of the file.
        self.order = (-weight, "HEAD" not in route.match.methods, route.name)

    def passes(self, view: Request) -> bool:
        """Whether every entry of `when` holds."""
        return all(condition.test(view) for condition in self.conditions)

    def why_not(self, view: Request, path: str) -> tuple[str, str] | None:
        """(which condition fails first, why), or None if this route can take the request. `path` is
        canonical.
        """
        if self.hosts and not any(host_matches(host, view.host) for host in self.hosts):
            return "host", f"host is {view.host or 'absent'}, wanted {' or '.join(self.hosts)}"
        if not self.path.matches(path):
            return "path", f"path is {path}, wanted {self.path.text}"
        method = asked_method(view)
        if self.methods is not None and method not in self.methods:
            return "methods", f"method is {method}, wanted {allow_value(self.methods)}"
        for condition in self.conditions:
            if not condition.test(view):
                return condition.name, condition.why_not(view)
        return None


class Node(Generic[R]):
    """One segment of the patterns below it."""

    __slots__ = ("entries", "literal", "wild")

    def __init__(self) -> None:
        self.literal: dict[str, Node[R]] = {}
        self.wild: Node[R] | None = None
        self.entries: list[Entry[R]] = []
        """The patterns that end here, best first."""

    def child(self, segment: str | None) -> Node[R]:
        """The node one segment further, made if need be."""
        if segment is not None:
            return self.literal.setdefault(segment, Node())
        if self.wild is None:
            self.wild = Node()
        return self.wild


class Trie(Generic[R]):
    """The templates, or the prefixes, of one host."""

    __slots__ = ("depth", "root", "wild")

    def __init__(self) -> None:
        self.root: Node[R] = Node()
        self.depth = 0
        self.wild = False

    def add(self, entry: Entry[R]) -> None:
        """Insert a pattern; entries come best first."""
        node = self.root
        for segment in entry.path.segments:
            node = node.child(segment)
            self.wild = self.wild or segment is None
        self.depth = max(self.depth, len(entry.path.segments))
        node.entries.append(entry)

    def whole(self, path: str) -> list[Entry[R]]:
        """Patterns that take all of `path`, best first."""
        found: list[Entry[R]] = []
        # No further cut than the longest pattern: a path of thousands of slashes costs what a short
        # one does.
        _descend(self.root, path.split("/", self.depth), 0, found, prefixes=False)
        return found

    def above(self, path: str) -> list[Entry[R]]:
        """Patterns that take the beginning of `path` up to a segment border, best first."""
        segments = path.split("/", self.depth)
        found: list[Entry[R]] = []
        if self.wild:
            _descend(self.root, segments, 0, found, prefixes=True)
            return found
        node: Node[R] | None = self.root
        for segment in segments:
            node = node.literal.get(segment)  # type: ignore[union-attr]
            if node is None:
                break
            if node.entries:
                found = node.entries + found if found else node.entries
        return found


def _descend(
    node: Node[R], segments: list[str], at: int, found: list[Entry[R]], *, prefixes: bool
) -> None:
    """Literal before `{x}`, and for prefixes the longer before the shorter: the order of rank."""
    if at < len(segments):
        segment = segments[at]
        child = node.literal.get(segment)
        if child is not None:
            _descend(child, segments, at + 1, found, prefixes=prefixes)
        if node.wild is not None and segment:
            _descend(node.wild, segments, at + 1, found, prefixes=prefixes)
        if not prefixes:
            return
    found += node.entries


class Tree(Generic[R]):
    """The path tables of one host."""

    __slots__ = ("exact", "prefixes", "regexes", "templates")

    def __init__(self) -> None:
        self.exact: dict[str, list[Entry[R]]] = {}
        self.templates: Trie[R] | None = None
        self.prefixes: Trie[R] | None = None
        self.regexes: list[Entry[R]] = []

    def add(self, entry: Entry[R]) -> None:
        """Register a route under its path; entries come best first."""
        kind = entry.path.kind
        if kind == "exact":
            self.exact.setdefault("/".join(map(str, entry.path.segments)), []).append(entry)
        elif kind == "template":
            self.templates = self.templates or Trie()
            self.templates.add(entry)
        elif kind == "prefix":
            self.prefixes = self.prefixes or Trie()
            self.prefixes.add(entry)
        else:
            self.regexes.append(entry)

    def candidates(self, path: str) -> Iterator[Entry[R]]:
        """Every route of this host whose path fits, best first."""
        exact = self.exact.get(path)
        if exact is not None:
            yield from exact
        if self.templates is not None:
            yield from self.templates.whole(path)
        if self.prefixes is not None:
            yield from self.prefixes.above(path)
        for entry in self.regexes:
            if entry.path.matches(path):
                yield entry


class Router(Generic[R]):
    """Every route of a configuration, ready to be asked. Immutable."""

    def __init__(
        self, entries: Iterable[tuple[effective.Route, R]], ambiguous_paths: str = "reject"
    ) -> None:
        self.entries = sorted(
            (Entry(route, value) for route, value in entries), key=lambda entry: entry.order
        )
        self._ambiguous = ambiguous_paths
        self._mixed = len({entry.priority for entry in self.entries}) > 1
        exact: dict[str, Tree[R]] = {}
        self._suffixes: dict[str, Tree[R]] = {}
        self._any: Tree[R] = Tree()
        for entry in self.entries:
            for host in entry.hosts:
                trees = self._suffixes if host.startswith(".") else exact
                trees.setdefault(host, Tree()).add(entry)
            if not entry.hosts:
                self._any.add(entry)
        self._unknown = (self._any,)
        self._hosts = {host: (tree, *self._trees_of(host)) for host, tree in exact.items()}

    def match(self, view: Request) -> tuple[R, dict[str, str], str]:
        """(what was registered for the route, captures, target to forward).

        Raises errors.NoRoute, errors.MethodNotAllowed, and errors.BadRequest for a path that can be
        read two ways.
        """
        path = view.path
        if not paths.is_plain(path):
            return self._match_odd(view)
        entry = self._select(view, path)
        if entry is None:
            raise self._refusal(view, path)
        return (
            entry.value,
            entry.path.capture(path, path) if entry.captures else NO_CAPTURES,
            view.target,
        )

    def candidates(self, host: str, path: str) -> Iterable[Entry[R]]:
        """Every route whose host and path fit, in order of rank. `path` is canonical."""
        if self._mixed:
            return sorted(self._walk(host, path), key=lambda entry: -entry.priority)
        return self._walk(host, path)

    def decide(self, view: Request) -> tuple[Entry[R], str, str]:
        """As `match`: (route, path that it was matched by, target to forward)."""
        # `OPTIONS *` asks about the server as a whole: what answers for `/` answers it (RFC 9110
        # section 9.3.7).
        raw = "/" if view.path == "*" else view.path
        path = paths.canonical(raw)
        entry = self._select(view, path)
        if self._ambiguous != "keep" and any(
            self._select(view, form) is not entry for form in paths.readings(raw)
        ):
            if self._ambiguous == "reject":
                raise errors.BadRequest(
                    "the path can be read in two ways that lead to different routes"
                )
            path = paths.resolve(raw)
            entry = self._select(view, paths.canonical(path))
            if entry is None:
                raise self._refusal(view, path)
            return entry, path, path + view.target[len(view.path) :]
        if entry is None:
            raise self._refusal(view, path)
        return entry, raw, view.target

    def _match_odd(self, view: Request) -> tuple[R, dict[str, str], str]:
        entry, path, target = self.decide(view)
        captures = (
            entry.path.capture(path, paths.canonical(path)) if entry.captures else NO_CAPTURES
        )
        return entry.value, captures, target

    def _select(self, view: Request, path: str) -> Entry[R] | None:
        method = view.method
        if method == "OPTIONS":
            method = asked_method(view)
        for entry in self.candidates(view.host, path):
            if (entry.methods is None or method in entry.methods) and (
                not entry.conditions or entry.passes(view)
            ):
                return entry
        return None

    def _refusal(self, view: Request, path: str) -> errors.GatewayError:
        allowed: set[str] = set()
        for entry in self.candidates(view.host, path):
            if entry.methods is not None and entry.passes(view):
                allowed |= entry.methods
        if not allowed:
            return errors.NoRoute()
        return errors.MethodNotAllowed(headers=(("Allow", allow_value(allowed)),))

    def _walk(self, host: str, path: str) -> Iterator[Entry[R]]:
        trees = self._hosts.get(host)
        if trees is None:
            trees = self._trees_of(host) if self._suffixes else self._unknown
        for tree in trees:
            yield from tree.candidates(path)

    def _trees_of(self, host: str) -> tuple[Tree[R], ...]:
        """The tables of the suffixes of `host`, the longest first, then that of any host."""
        found = []
        dot = host.find(".", 1)
        while dot > 0:
            tree = self._suffixes.get(host[dot:])
            if tree is not None:
                found.append(tree)
            dot = host.find(".", dot + 1)
        return (*found, self._any)


def allow_value(methods: Iterable[str]) -> str:
    """The value of an `Allow` field: GET and HEAD first, the rest by name."""
    return ", ".join(sorted(methods, key=lambda method: (method not in ("GET", "HEAD"), method)))
