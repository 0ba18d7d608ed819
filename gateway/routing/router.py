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
_plain = paths.plain_characters
NO_CAPTURES: dict[str, str] = {}
"""Shared and never written: a route without captures costs nothing."""
_REMEMBERED = 4096
_LONGEST_KNOWN = 512
"""Characters of method, host and path together: clients choose them."""


class Entry(Generic[R]):
    """One route, compiled, with what was registered for it."""

    __slots__ = (
        "capture",
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
        self.capture = self.path.capturer()
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
    """One segment of the templates and prefixes of a host; its children are what may follow."""

    __slots__ = ("literal", "prefixes", "templates", "wild")

    def __init__(self) -> None:
        self.literal: dict[str, Node[R]] = {}
        self.wild: Node[R] | None = None
        self.templates: list[Entry[R]] = []
        """The templates that end here, best first."""
        self.prefixes: list[Entry[R]] = []
        """The prefixes that end here, best first."""

    def child(self, segment: str | None) -> Node[R]:
        """The node one segment further, made if need be."""
        if segment is not None:
            return self.literal.setdefault(segment, Node())
        if self.wild is None:
            self.wild = Node()
        return self.wild


class Tree(Generic[R]):
    """The path tables of one host."""

    __slots__ = ("conditional", "depth", "exact", "regexes", "root")

    def __init__(self) -> None:
        self.exact: dict[str, list[Entry[R]]] = {}
        self.root: Node[R] = Node()
        self.depth = 0
        """Segments of the longest template or prefix; 0: there is none."""
        self.regexes: list[Entry[R]] = []
        self.conditional = False
        """Whether some route here looks at more than host, path and method."""

    def add(self, entry: Entry[R]) -> None:
        """Register a route under its path; entries come best first."""
        path = entry.path
        self.conditional = self.conditional or bool(entry.conditions)
        if path.kind == "exact":
            self.exact.setdefault("/".join(map(str, path.segments)), []).append(entry)
        elif path.kind == "regex":
            self.regexes.append(entry)
        else:
            node = self.root
            for segment in path.segments:
                node = node.child(segment)
            (node.templates if path.kind == "template" else node.prefixes).append(entry)
            self.depth = max(self.depth, len(path.segments))

    def candidates(self, path: str) -> Iterator[Entry[R]]:
        """Every route of this host whose path fits, best first."""
        yield from self.exact.get(path, ())
        if self.depth:
            yield from self.walk(path)
        for entry in self.regexes:
            if entry.path.matches(path):
                yield entry

    def walk(self, path: str) -> list[Entry[R]]:
        """Templates, then prefixes that take `path`, best first.

        The path is cut no further than the longest pattern is: thousands of slashes cost what a few
        do. Where only one way leads on, it is gone without recursion.
        """
        segments = path.split("/", self.depth)
        passed: list[list[Entry[R]]] = []
        node = self.root
        for at, segment in enumerate(segments):
            child = node.literal.get(segment)
            if node.wild is not None and segment:
                if child is not None:
                    templates: list[Entry[R]] = []
                    prefixes: list[Entry[R]] = []
                    _descend(node, segments, at, templates, prefixes)
                    return _joined(templates, [*passed, prefixes])
                child = node.wild
            if node.prefixes:
                passed.append(node.prefixes)
            if child is None:
                return _joined([], passed)
            node = child
        if node.prefixes:
            passed.append(node.prefixes)
        return _joined(node.templates, passed)


def _joined(templates: list[Entry[R]], passed: list[list[Entry[R]]]) -> list[Entry[R]]:
    """Templates first, then the prefixes, those of the deepest node first; copied if need be."""
    if not passed:
        return templates
    if len(passed) == 1 and not templates:
        return passed[0]
    return templates + [entry for prefixes in reversed(passed) for entry in prefixes]


def _descend(
    node: Node[R], segments: list[str], at: int, templates: list[Entry[R]], prefixes: list[Entry[R]]
) -> None:
    """Literal before `{x}`, and of prefixes the longer before the shorter: the order of rank."""
    if at < len(segments):
        segment = segments[at]
        child = node.literal.get(segment)
        if child is not None:
            _descend(child, segments, at + 1, templates, prefixes)
        if segment and node.wild is not None:
            _descend(node.wild, segments, at + 1, templates, prefixes)
    else:
        templates += node.templates
    prefixes += node.prefixes


class Router(Generic[R]):
    """Every route of a configuration, ready to be asked. Immutable, but for what it remembers."""

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
        self._known: dict[tuple[str, str, str], R] = {}
        """What was found for (method, host, path), where nothing else decides; bounded."""
        self._hosts = {host: (tree, *self._trees_of(host)) for host, tree in exact.items()}

    def match(self, view: Request) -> tuple[R, dict[str, str], str]:
        """(what was registered for the route, captures, target to forward).

        Raises errors.NoRoute, errors.MethodNotAllowed, and errors.BadRequest for a path that can be
        read two ways.
        """
        path = view.path
        known = self._known.get((view.method, view.host, path))
        if known is not None:
            return known, NO_CAPTURES, view.target
        if _plain(path) is None or "//" in path or "/." in path:
            return self._match_odd(view)
        entry = self._select(view, path)
        if entry is None:
            raise self._refusal(view, path)
        capture = entry.capture
        if capture is None:
            self._remember(view, path, entry.value)
            return entry.value, NO_CAPTURES, view.target
        return entry.value, capture(path, path), view.target

    def _remember(self, view: Request, path: str, found: R) -> None:
        size = len(view.method) + len(view.host) + len(path)
        if self._mixed or size > _LONGEST_KNOWN or view.method == "OPTIONS":
            return
        for tree in self._trees(view.host):
            if tree.conditional:
                return
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[view.method, view.host, path] = found

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
            # What is left: `;parameters`, and what was encoded twice.
            if any(self._select(view, form) is not entry for form in paths.readings(path)):
                raise errors.BadRequest(
                    "the path, resolved, can be read in two ways that lead to different routes"
                )
            if entry is None:
                raise self._refusal(view, path)
            return entry, path, path + view.target[len(view.path) :]
        if entry is None:
            raise self._refusal(view, path)
        return entry, raw, view.target

    def tables(self, host: str) -> list[tuple[str, Tree[R]]]:
        """(host pattern, its path tables), of every pattern that takes all hosts that `host`,
        itself a pattern, takes. Empty text stands for any host.
        """
        found = [("", self._any)]
        dot = host.find(".")
        while dot >= 0:
            if host[dot:] in self._suffixes:
                found.append((host[dot:], self._suffixes[host[dot:]]))
            dot = host.find(".", dot + 1)
        if host in self._hosts:
            found.append((host, self._hosts[host][0]))
        return found

    def _match_odd(self, view: Request) -> tuple[R, dict[str, str], str]:
        entry, path, target = self.decide(view)
        capture = entry.capture
        captures = NO_CAPTURES if capture is None else capture(path, paths.canonical(path))
        return entry.value, captures, target

    def _select(self, view: Request, path: str) -> Entry[R] | None:
        method = view.method
        if method == "OPTIONS":
            method = asked_method(view)
        if self._mixed:
            return _first(self.candidates(view.host, path), view, method)
        for tree in self._trees(view.host):
            # What `Tree.candidates` yields, without a generator: this is the hot path.
            exact = tree.exact.get(path)
            if exact is not None and (found := _first(exact, view, method)) is not None:
                return found
            if tree.depth and (found := _first(tree.walk(path), view, method)) is not None:
                return found
            for entry in tree.regexes:
                if entry.path.matches(path) and _first((entry,), view, method):
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
        for tree in self._trees(host):
            yield from tree.candidates(path)

    def _trees(self, host: str) -> tuple[Tree[R], ...]:
        trees = self._hosts.get(host)
        if trees is None:
            return self._trees_of(host) if self._suffixes else self._unknown
        return trees

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


def _first(entries: Iterable[Entry[R]], view: Request, method: str) -> Entry[R] | None:
    """The first of `entries` that takes the method and whose conditions hold."""
    for entry in entries:
        if (entry.methods is None or method in entry.methods) and (
            not entry.conditions or entry.passes(view)
        ):
            return entry
    return None


def allow_value(methods: Iterable[str]) -> str:
    """The value of an `Allow` field: GET and HEAD first, the rest by name."""
    return ", ".join(sorted(methods, key=lambda method: (method not in ("GET", "HEAD"), method)))
