"""What a rule and a finding are, and how a rule looks at a configuration.

Rules of this file: no rule stands here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from gateway.config.merge import Origins
from gateway.config.nodes import Map, Seq, Text
from gateway.config.report import locate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from gateway.config import effective, model
    from gateway.config.effective import Place
    from gateway.config.loading import Entry, Parts

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")
Keys: TypeAlias = "tuple[str | int, ...]"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a rule has found."""

    code: str
    severity: Severity
    place: Place
    path: str
    message: str
    fix: str

    @property
    def counts(self) -> bool:
        """Whether `--strict` fails for it."""
        return self.severity != "info"

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{self.place}: {self.severity} {self.code}: {where}{self.message}: {self.fix}"


@dataclass(frozen=True, slots=True)
class Note:
    """What a rule says of one place."""

    place: Place
    path: str
    message: str
    fix: str = ""
    """Empty: the rule's own."""
    severity: Severity | None = None
    """None: the rule's own."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `title` and `why` are its entry in docs/lint.md, `fix` is what to write instead."""

    code: str
    severity: Severity
    title: str
    why: str
    fix: str
    look: Callable[[View], Iterable[Note]]


class View:
    """One configuration, as rules look at it."""

    def __init__(self, config: effective.Config, parts: Parts) -> None:
        self.config = config
        self.parts = parts

    def told(self, rule: Rule) -> Iterator[Finding]:
        """What a rule finds; the same inherited value is told once."""
        seen = set()
        for note in rule.look(self):
            severity = note.severity or rule.severity
            finding = Finding(
                rule.code, severity, note.place, note.path, note.message, note.fix or rule.fix
            )
            if (note.place, note.path) not in seen:
                seen.add((note.place, note.path))
                yield finding

    # ── what there is ──

    @property
    def routes(self) -> Iterator[effective.Route]:
        """Those that somebody has written."""
        return (route for route in self.config.routes if isinstance(route.origins, Origins))

    def policies(self) -> Iterator[tuple[str, Entry, model.AuthPolicy]]:
        """Name, entry and settings of each policy of `auth`."""
        for name, policy in self.config.auth.items():
            yield name, self.parts.auth[name], policy

    def guarded(self) -> list[effective.Route]:
        """Routes with `auth`."""
        return [route for route in self.routes if route.policies.auth]

    # ── where it stands ──

    @staticmethod
    def in_entry(entry: Entry, keys: Keys, message: str, **rest: Any) -> Note:
        """A note at a key of a section, a named part or a listener."""
        place, path = locate(entry.raw, entry.path, keys)
        return Note(place, path, message, **rest)

    def in_section(self, name: str, keys: Keys, message: str, **rest: Any) -> Note:
        """The same of a top-level section, written or not."""
        entry = self.parts.sections.get(name)
        if entry is None:
            return Note(self._top(), name, message, **rest)
        return self.in_entry(entry, keys, message, **rest)

    def _top(self) -> Place:
        from gateway.config.effective import Place  # noqa: PLC0415 - types only elsewhere

        route = next(self.routes, None)
        file = self.config.files[0] if self.config.files else ""
        return Place(route.place.file if route is not None else file, 1, 1)

    @staticmethod
    def in_route(route: effective.Route, keys: Keys, message: str, **rest: Any) -> Note:
        """A note at a value of a route, in whatever layer it is written."""
        assert isinstance(route.origins, Origins)
        found = route.origins.written(keys) if keys else None
        where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
        if found is None:
            return Note(route.place, f"route {route.name}", message, **rest)
        layer, node = found
        owner = f"route {route.name}" if layer == "route" else layer
        return Note(node.place, f"{owner}: {where.lstrip('.')}", message, **rest)

    @staticmethod
    def layer(route: effective.Route, key: str) -> str:
        """The layer in which a policy of a route is written; empty: in none."""
        assert isinstance(route.origins, Origins)
        found = route.origins.written((key,))
        return "" if found is None else str(found[0])


def in_the_clear(raw: Any) -> bool:
    """Whether a text stands in the file as it is, and came neither from ${env:…} nor from ${file:…}."""
    if not isinstance(raw, Text) or raw.from_file or raw.line >= len(raw.source.lines):
        return False
    rest = raw.source.lines[raw.line][raw.column :]
    return rest.lstrip("'\"").startswith(raw) and bool(raw)


def below(raw: Any, keys: Keys) -> Any:
    """What is written at `keys`; None where nothing is, or a short form stands for something else."""
    here = raw
    for key in keys:
        in_map = isinstance(here, Map) and key in here
        in_list = isinstance(here, Seq) and isinstance(key, int) and key < len(here)
        if in_map or in_list:
            here = here[key]
        else:
            return None
    return here
