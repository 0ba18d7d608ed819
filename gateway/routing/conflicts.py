"""Routes that contradict each other: two that tie, and those that can never match.

Rules of this file: a tie is reported with a request that both routes have really been given and
have taken; what only might be is not reported, except for regexes whose overlap cannot be decided.
Routes are put in buckets of equal rank first, so that ten thousand of them are compared in the time
that they take to read. A route that repeats a header with two values is no example: of such a
request either route may be meant, and the order of names decides.
"""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from gateway import errors
from gateway.config import effective
from gateway.config.effective import Problem
from gateway.routing import examples, paths
from gateway.routing.match import KINDS
from gateway.routing.overlap import literal_beginning, witness
from gateway.routing.router import Entry, Router

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gateway.config.effective import Place
    from gateway.routing.router import Node, Tree

    One = Entry[effective.Route]

_MOST_ERRORS = 100
"""More would not be read; and ten thousand routes that all tie are fifty million pairs."""
_MOST_REGEX_PAIRS = 1_000
"""About two milliseconds each."""
_BRUTE_FORCE = 24
_PATH = re.compile("^/")
_Asked = tuple[str, str]


def find(
    routes: Sequence[effective.Route], ambiguous_paths: str = "reject"
) -> tuple[list[Problem], list[Problem]]:
    """(errors: pairs of routes that tie; warnings: routes that can never match).

    The patterns, regexes and templates of `routes` must compile.
    """
    router = Router([(route, route) for route in routes], ambiguous_paths)
    names, covers = _Names(routes), _Covers(router)
    ties, uncompared = _ties(router.entries)
    dead = [
        Problem(entry.route.place, names.path(entry.route), why)
        for entry in router.entries
        if (why := _why_dead(entry, covers, ambiguous_paths)) is not None
    ]
    if uncompared is not None:
        dead.append(
            Problem(
                uncompared.route.place,
                names.path(uncompared.route),
                "too many regex routes of equal rank to compare each with each: give them priorities,"
                " or let their regexes begin with different literal text",
            )
        )
    dead.sort(key=lambda one: (one.place.file, one.place.line, one.place.column))
    return [names.tie(tie) for tie in ties], dead


class _Names:
    """What to call routes in messages: `routes[2]` counts within its file."""

    def __init__(self, routes: Iterable[effective.Route]) -> None:
        counts: dict[str, int] = defaultdict(int)
        self._index: dict[Place, int] = {}
        for route in routes:
            self._index[route.place] = counts[route.place.file]
            counts[route.place.file] += 1

    def path(self, route: effective.Route) -> str:
        if isinstance(route.answer, effective.SignIn):
            return f"auth.{route.answer.policy}.oidc.{route.answer.does}"
        return f"routes[{self._index[route.place]}]"

    def tie(self, tie: _Tie) -> Problem:
        one, two = sorted(
            (tie.one.route, tie.two.route), key=lambda r: (r.place.file, r.place.line)
        )
        both = f"routes {one.name!r} ({one.place}) and {two.name!r} ({two.place})"
        proof = (
            f"both take {tie.example}"
            if tie.example is not None
            else "nothing shows that no request fits both regexes"
        )
        remedy = "give one of them another `priority` or one more condition"
        if isinstance(two.answer, effective.SignIn):
            remedy = f"write another {two.answer.does} in auth.{two.answer.policy}"
        elif isinstance(one.answer, effective.SignIn):
            remedy = f"write another {one.answer.does} in auth.{one.answer.policy}"
        return Problem(two.place, self.path(two), f"{both} have equal rank: {proof}; {remedy}")


class _Tie(NamedTuple):
    one: One
    two: One
    example: examples.Example | None


# ── ties ────────────────────────────────────────────────────────────────────────────────────────


def _ties(entries: Sequence[One]) -> tuple[list[_Tie], One | None]:
    """(ties, the first of the regex routes that were too many to compare, or None)."""
    buckets: dict[tuple[object, ...], list[One]] = defaultdict(list)
    for entry in entries:
        for host in entry.hosts or ("",):
            buckets[entry.priority, host, entry.order[0], *_shape(entry)].append(entry)
    found: dict[frozenset[int], _Tie] = {}
    for key, bucket in buckets.items():
        if len(bucket) < 2:
            continue
        most = _MOST_REGEX_PAIRS if bucket[0].path.regex is not None else None
        for one, two in islice(_pairs(bucket), most):
            both = frozenset((id(one), id(two)))
            if both not in found and (tie := _tie(one, two, str(key[1]))) is not None:
                found[both] = tie
                if len(found) >= _MOST_ERRORS:
                    return list(found.values()), None
        if most is not None and next(islice(_pairs(bucket), most, None), None) is not None:
            return list(found.values()), bucket[0]
    return list(found.values()), None


def _shape(entry: One) -> tuple[object, ...]:
    """Equal for two paths exactly if they have the same rank and can fit the same request."""
    path = entry.path
    return (path.kind, path.segments) if path.kind != "regex" else (path.kind,)


def _pairs(entries: list[One]) -> Iterator[tuple[One, One]]:
    """Pairs that may tie: those that want different values of one name are not even compared."""
    if len(entries) > _BRUTE_FORCE:
        for name in ("methods", *sorted({name for entry in entries for name in _wishes(entry)})):
            groups = _groups(entries, name)
            if sum(map(len, groups)) <= len(entries) * 1.5 and len(groups) > 1:
                for group in groups:
                    yield from _pairs(group)
                return
    entries = sorted(entries, key=_beginning)
    for index, one in enumerate(entries):
        start = _beginning(one)
        for two in entries[index + 1 :]:
            if not _beginning(two).startswith(start):
                break  # sorted: none of those that follow begins so either
            yield one, two


def _beginning(entry: One) -> str:
    """The literal text that every path of a regex begins with: no path begins with two of them."""
    return "" if entry.path.regex is None else literal_beginning(entry.path.regex)


def _groups(entries: list[One], name: str) -> list[list[One]]:
    groups: dict[str, list[One]] = defaultdict(list)
    everywhere = []
    for entry in entries:
        values = entry.methods if name == "methods" else _wishes(entry).get(name)
        if values is None:
            everywhere.append(entry)
        else:
            for value in values:
                groups[value].append(entry)
    return [group + everywhere for group in groups.values()] if groups else [entries]


def _wishes(entry: One) -> dict[str, tuple[str, ...]]:
    """The values that a route wants of each name, where they can be listed."""
    when = entry.route.match.when
    found = {}
    for kind, tests in (("header", when.header), ("query", when.query), ("cookie", when.cookie)):
        for name, test in tests.items():
            if test.one_of is not None or test.equals is not None:
                found[f"{kind} {name}"] = test.one_of or (test.equals or "",)
    return found


def _tie(one: One, two: One, host: str) -> _Tie | None:
    if one is two:
        return None
    path: str | None
    certain = True
    if one.path.regex is not None and two.path.regex is not None:
        path, certain = examples.path_of_regexes([one.path.regex, two.path.regex])
    else:
        path = examples.path_of(one.path)
    example = examples.request(one.route.match, two.route.match, host, path or "/")
    if example is None:
        return None
    if path is not None and all(_takes(entry, example) for entry in (one, two)):
        return _Tie(one, two, example)
    return _Tie(one, two, None) if not certain else None


def _takes(entry: One, example: examples.Example) -> bool:
    """Whether a router that knows only this route gives it the request."""
    try:
        Router([(entry.route, entry)], "keep").match(example)
    except errors.GatewayError:
        return False
    return True


# ── routes that can never match ─────────────────────────────────────────────────────────────────


def _why_dead(entry: One, covers: _Covers, ambiguous_paths: str) -> str | None:
    regex = entry.path.regex
    if regex is not None and _fits_no_path(regex):
        return (
            f"can never match: no path fits the regex {regex.pattern!r}; every path begins with `/`"
        )
    if regex is None and ambiguous_paths == "reject":
        path = examples.path_of(entry.path)
        if not paths.is_plain(path) and _is_refused(entry, path):
            return (
                f"can never match: {entry.path.text!r} can be read in two ways, and"
                " `server.ambiguous_paths: reject` refuses such a request"
            )
    found_covers = []
    for host in entry.hosts or ("",):
        found = covers.find(entry, host)
        if found is None:
            return None
        found_covers.append(found)
    names = " and ".join(
        dict.fromkeys(f"{cover.route.name!r} ({cover.route.place})" for cover in found_covers)
    )
    return (
        f"route {entry.route.name!r} can never match: {names} takes every request that it would take,"
        " and ranks higher; give this one a higher `priority`, or remove it"
    )


def _fits_no_path(regex: re.Pattern[str]) -> bool:
    return not literal_beginning(regex).startswith("/") and witness([regex, _PATH]) == (None, True)


def _is_refused(entry: One, path: str) -> bool:
    wanted = entry.route.match
    example = examples.request(wanted, wanted, next(iter(entry.hosts), ""), path)
    if example is None:
        return False
    try:
        Router([(entry.route, entry)], "reject").match(example)
    except errors.BadRequest:
        return True
    except errors.GatewayError:
        return False
    return False


class _Covers:
    """Finds a route of higher rank that takes all that another one takes.

    A cover asks for nothing that the covered route does not ask for. So each list of routes is
    indexed by the first condition of each: ten thousand tenants on one path are not compared pair
    by pair.
    """

    def __init__(self, router: Router[effective.Route]) -> None:
        self._router = router
        self._indexed: dict[int, dict[_Asked | None, list[One]]] = {}

    def find(self, entry: One, host: str) -> One | None:
        """The cover of `entry` at one of its host patterns, or None."""
        rank = _rank(entry, host)
        asked = {(condition.name, condition.wanted) for condition in entry.conditions}
        for pattern, tree in self._router.tables(host):
            for routes in _above(entry, tree):
                index = self._index(routes)
                for key in (None, *asked):
                    for other in index.get(key, ()):
                        if _rank(other, pattern) < rank and _asks_no_more(other, entry, asked):
                            return other
        return None

    def _index(self, routes: list[One]) -> dict[_Asked | None, list[One]]:
        known = self._indexed.get(id(routes))
        if known is not None:
            return known
        best: dict[object, One] = {}
        for entry in routes:
            asked = frozenset((condition.name, condition.wanted) for condition in entry.conditions)
            key = (entry.methods, asked)
            if key not in best or best[key].priority < entry.priority:
                best[key] = entry
        index: dict[_Asked | None, list[One]] = defaultdict(list)
        for entry in best.values():
            first = next(iter(entry.conditions), None)
            index[(first.name, first.wanted) if first else None].append(entry)
        self._indexed[id(routes)] = index
        return index


def _rank(entry: One, host: str) -> tuple[object, ...]:
    """Compares as the router does; the smaller wins."""
    shape = tuple(segment is None for segment in entry.path.segments)
    longer_first = (*map(int, shape), 2)
    host_rank = (2, 0) if not host else (1, -len(host)) if host.startswith(".") else (0, 0)
    return (-entry.priority, host_rank, KINDS.index(entry.path.kind), longer_first, entry.order[0])


def _asks_no_more(other: One, entry: One, asked: set[_Asked]) -> bool:
    if other is entry:
        return False
    if other.methods is not None and (entry.methods is None or not entry.methods <= other.methods):
        return False
    return all((condition.name, condition.wanted) in asked for condition in other.conditions)


def _above(entry: One, tree: Tree[effective.Route]) -> list[list[One]]:
    """The routes of a table whose path takes all that the path of `entry` takes, list by list."""
    path = entry.path
    found: list[list[One]] = []
    segments: Sequence[str | None] = path.segments
    if path.kind == "exact":
        text = "/".join(map(str, segments))
        found += [tree.exact.get(text, [])]
        found += [
            [one]
            for one in tree.regexes
            if one.priority > entry.priority and one.path.matches(text)
        ]
    if path.regex is not None:
        # What stands before the last slash of its literal beginning is a prefix of every match.
        segments = literal_beginning(path.regex).split("/")[:-1] or [""]
        found += [
            [one]
            for one in tree.regexes
            if one.priority > entry.priority and one.path.text == path.text
        ]
    _covering(tree.root, segments, 0, found, whole=path.kind in ("exact", "template"))
    return found


def _covering(
    node: Node[effective.Route],
    segments: Sequence[str | None],
    at: int,
    found: list[list[One]],
    *,
    whole: bool,
) -> None:
    """As the router's walk, but a `{x}` of the pattern is covered by a `{x}` only."""
    found.append(node.prefixes)
    if at == len(segments):
        if whole:
            found.append(node.templates)
        return
    segment = segments[at]
    child = node.literal.get(segment) if segment is not None else None
    for below in (child, node.wild if segment != "" else None):
        if below is not None:
            _covering(below, segments, at + 1, found, whole=whole)
