"""One loading: documents → sections → layers → effective configuration → checks.

Rules of this file: every part is read even if its neighbours are wrong, so that all mistakes are told at once; a check is
made only about parts that could be read. Names of parts that could not be read stay known, so that one mistake is told once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from gateway.config import ConfigError, effective, lint, masking, model, sign_in, written
from gateway.config.assembling import Assembling
from gateway.config.forms import is_off, listed
from gateway.config.nodes import Map, Seq, Text
from gateway.config.report import Context
from gateway.config.sources import Sources

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway.config.forms import Model

_NO_LISTENER = "127.0.0.1:8080"


@dataclass(slots=True, eq=False)
class Entry:
    """A part of the document: as written, where, and its model unless it is wrong."""

    raw: Any
    path: str
    values: Any
    key: effective.Place | None = None
    left_out: frozenset[str] = frozenset()
    """Keys that are wrong, so that the model is without them."""

    @property
    def in_doubt(self) -> bool:
        """Whether it is not known what this route matches."""
        return not self.left_out.isdisjoint(written.MATCH)

    @property
    def key_place(self) -> effective.Place:
        """Where its name stands."""
        place: effective.Place = self.raw.place
        return self.key or place


@dataclass(slots=True, eq=False)
class Parts:
    """What was written, taken apart. A name that is known but wrong has no values."""

    upstreams: dict[str, Entry] = field(default_factory=dict)
    profiles: dict[str, Entry] = field(default_factory=dict)
    auth: dict[str, Entry] = field(default_factory=dict)
    rate_limits: dict[str, Entry] = field(default_factory=dict)
    stores: dict[str, Entry] = field(default_factory=dict)
    routes: list[Entry] = field(default_factory=list)
    tests: list[Entry] = field(default_factory=list)
    listeners: list[Entry] = field(default_factory=list)
    sections: dict[str, Entry] = field(default_factory=dict)

    def section(self, name: str, default: Any) -> Any:
        """The model of a section, or what it is when it is not written (or wrong)."""
        entry = self.sections.get(name)
        return default if entry is None or entry.values is None else entry.values


def _models(entries: dict[str, Entry]) -> dict[str, Any]:
    """Those that could be read."""
    return {name: entry.values for name, entry in entries.items() if entry.values is not None}


class Loading:
    """One configuration on its way from text to effect."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self.sources = Sources(environment)
        self.context = Context(self.sources.problems)
        self.parts = Parts()

    def finish(self, document: Map | None) -> effective.Config:
        """Take the document apart, merge and check. Raises ConfigError with all problems so far."""
        config = None
        if document is not None:
            self._document(document)
            for included in self.sources.included(document):
                self._named(included, main=False)
            config = self._effective()
        if self.sources.problems or config is None:
            raise ConfigError(_in_order(self.sources.told(), self.sources.files))
        return config

    def admin(self, document: Map | None) -> model.Admin | None:
        """The section `admin` alone. Raises ConfigError if that, or the document as a whole, can not be read."""
        if document is not None and "admin" in document:
            self._section("admin", document["admin"])
        found = [
            problem
            for problem in self.sources.problems
            if document is None or problem.path.partition(".")[0] == "admin"
        ]
        if found:
            raise ConfigError(map(self.sources.without_secrets, found))
        entry = self.parts.sections.get("admin")
        return model.Admin() if entry is None else entry.values

    # ── taking apart ────────────────────────────────────────────────────────────────────────────────────────────────

    def _document(self, document: Map) -> None:
        for key, value in document.items():
            if key in _SECTIONS:
                self._section(key, value)
            elif key == "listeners":
                for index, raw in enumerate(listed(value) or ()):
                    self._entry(self.parts.listeners, model.Listener, raw, f"listeners[{index}]")
            elif key == "version":
                if value != "1":
                    self.context.add(document, "", ("version",), "version: 1 is the only one")
            elif key == "include":
                pass
            elif key in written.Document.later or not _may_be_included(key):
                self._unknown(document, key, written.Document.unknown(key))
        self._named(document, main=True)

    def _section(self, key: str, value: Any) -> None:
        kind = _SECTIONS[key]
        if key == "admin" and is_off(value):
            self.parts.sections[key] = Entry(value, key, None)
            return
        values = self.context.read(kind, value, key)
        self.parts.sections[key] = Entry(value, key, values, left_out=self.context.left_out)

    def _entry(self, entries: list[Entry], kind: type[Model], raw: Any, path: str) -> None:
        values = self.context.read(kind, raw, path)
        entries.append(Entry(raw, path, values, left_out=self.context.left_out))

    def _unknown(self, document: Map, key: str, message: str) -> None:
        self.context.problems.append(effective.Problem(document.key_place(key), key, message))

    def _named(self, document: Map, *, main: bool) -> None:
        for key, value in document.items():
            if key in _NAMED and key not in written.Document.later:
                self._by_name(getattr(self.parts, key), _NAMED[key], value, document, key)
            elif key in ("routes", "tests"):
                self._list(key, value)
            elif not main and not key.startswith("x-"):
                later = key in written.Document.later
                message = f"{key} is not supported yet" if later else _not_included(key)
                self._unknown(document, key, message)

    def _by_name(
        self, entries: dict[str, Entry], kind: type[Model], value: Any, document: Map, key: str
    ) -> None:
        if isinstance(value, Text) and is_off(value):
            return
        if not isinstance(value, Map):
            self.context.add(document, "", (key,), f"a mapping is wanted: {key}: NAME: …")
            return
        for name, raw in value.items():
            if name in entries:
                first = entries[name].key_place
                self.context.problems.append(
                    effective.Problem(
                        value.key_place(name),
                        f"{key}.{name}",
                        f"{name} is defined twice: the first one is at {first}",
                    )
                )
                continue
            path = f"{key}.{name}"
            values = self.context.read(kind, raw, path)
            entries[name] = Entry(raw, path, values, value.key_place(name))

    def _list(self, key: str, value: Any) -> None:
        if isinstance(value, Text) and is_off(value):
            return
        if not isinstance(value, Seq):
            message = f"a list is wanted: each of the {key} begins with -"
            self.context.add(value, key, (), message)
            return
        kind, entries = (
            (written.Route, self.parts.routes)
            if key == "routes"
            else (model.InlineTest, self.parts.tests)
        )
        for index, raw in enumerate(value):
            self._entry(entries, kind, raw, f"{key}[{index}]")

    # ── putting together ────────────────────────────────────────────────────────────────────────────────────────────

    def _effective(self) -> effective.Config:
        from gateway.config.check import check  # noqa: PLC0415 - check needs Parts

        parts = self.parts
        assembling = Assembling(parts)
        upstreams, routes = assembling.upstreams(), assembling.routes()
        upstreams |= assembling.anonymous
        listeners = [self._listener(entry) for entry in parts.listeners if entry.values is not None]
        admin_off = "admin" in parts.sections and parts.sections["admin"].values is None
        tests = [entry for entry in parts.tests if entry.values is not None]
        known = [route for entry, route in routes if not entry.in_doubt]
        places = {name: entry.key_place for name, entry in parts.auth.items()}
        known += sign_in.routes(_models(parts.auth), places, known, assembling.unwritten())
        config = effective.Config(
            server=parts.section("server", model.Server()),
            listeners=tuple(listeners) or (_default_listener(),),
            admin=None if admin_off else parts.section("admin", model.Admin()),
            observability=parts.section("observability", model.Observability()),
            errors=parts.section("errors", model.Errors()),
            upstreams=upstreams,
            routes=tuple(known),
            tests=tuple(entry.values for entry in tests),
            auth=_models(parts.auth),
            rate_limits=_models(parts.rate_limits),
            stores=_models(parts.stores),
            files=tuple(self.sources.files),
            digest=self.sources.digest,
            test_places=tuple(entry.raw.place for entry in tests),
            auth_places=places,
        )
        check(config, parts, routes, self.context)
        document = cache(lambda: masking.document(config, parts))
        return replace(
            config,
            warnings=tuple(
                _in_order(
                    map(self.sources.without_secrets, self.context.warnings), self.sources.files
                )
            ),
            document=document,
            findings=lambda: lint.findings(config, parts, self.sources.hidden),
        )

    @staticmethod
    def _listener(entry: Entry) -> model.Listener:
        listener: model.Listener = entry.values
        return listener if listener.name else listener.replaced(name=str(listener.bind))


_SECTIONS: dict[str, type[Model]] = {
    "server": model.Server,
    "admin": model.Admin,
    "observability": model.Observability,
    "errors": model.Errors,
    "defaults": written.Defaults,
}


_NAMED: dict[str, type[Model]] = {
    "upstreams": model.Upstream,
    "profiles": written.Profile,
    "auth": model.AuthPolicy,
    "rate_limits": model.RateLimit,
    "stores": model.Store,
}


def _may_be_included(key: str) -> bool:
    return key in written.INCLUDABLE or key.startswith("x-")


def _not_included(key: str) -> str:
    may = ", ".join(sorted(written.INCLUDABLE - written.Document.later))
    if key in written.Document.table():
        return f"{key} may stand in the main file only; an included file holds {may}"
    return written.Document.unknown(key)


def _default_listener() -> model.Listener:
    host, _, port = _NO_LISTENER.rpartition(":")
    return model.Listener(bind=model.Bind(host=host, port=int(port)), name=_NO_LISTENER)


def _in_order(problems: Iterable[effective.Problem], files: list[str]) -> list[effective.Problem]:
    """Problems by file, in the order of reading, then by line; each told once."""
    from pathlib import Path  # noqa: PLC0415

    order = {name: number for number, name in enumerate(files)}

    def key(problem: effective.Problem) -> tuple[int, str, int, int]:
        place = problem.place
        number = order.get(str(Path(place.file).absolute()), len(order))
        return number, place.file, place.line, place.column

    return sorted(dict.fromkeys(problems), key=key)
