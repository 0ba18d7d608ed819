"""One loading: documents → sections → layers → effective configuration → checks.

Rules of this file: every part is read even if its neighbours are wrong, so that all mistakes are told at once; a check is
made only about parts that could be read. Names of parts that could not be read stay known, so that one mistake is told once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from gateway.config import ConfigError, effective, masking, model, written
from gateway.config.addresses import looks_like_url
from gateway.config.forms import is_off, listed, made_of
from gateway.config.merge import Layer, Merger, Origins, merge
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
    routes: list[Entry] = field(default_factory=list)
    tests: list[Entry] = field(default_factory=list)
    listeners: list[Entry] = field(default_factory=list)
    sections: dict[str, Entry] = field(default_factory=dict)

    def section(self, name: str, default: Any) -> Any:
        """The model of a section, or what it is when it is not written (or wrong)."""
        entry = self.sections.get(name)
        return default if entry is None or entry.values is None else entry.values


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
            problems = map(self.sources.without_secrets, self.sources.problems)
            raise ConfigError(_in_order(problems, self.sources.files))
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
            elif key not in written.INCLUDABLE and not key.startswith("x-"):
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
            if key == "upstreams":
                self._by_name(self.parts.upstreams, model.Upstream, value, document, key)
            elif key == "profiles":
                self._by_name(self.parts.profiles, written.Profile, value, document, key)
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
        assembling = _Assembling(parts, self.context)
        upstreams, routes = assembling.upstreams(), assembling.routes()
        upstreams |= assembling.anonymous
        listeners = [self._listener(entry) for entry in parts.listeners if entry.values is not None]
        admin_off = "admin" in parts.sections and parts.sections["admin"].values is None
        tests = [entry for entry in parts.tests if entry.values is not None]
        config = effective.Config(
            server=parts.section("server", model.Server()),
            listeners=tuple(listeners) or (_default_listener(),),
            admin=None if admin_off else parts.section("admin", model.Admin()),
            observability=parts.section("observability", model.Observability()),
            errors=parts.section("errors", model.Errors()),
            upstreams=upstreams,
            routes=tuple(route for entry, route in routes if not entry.in_doubt),
            tests=tuple(entry.values for entry in tests),
            files=tuple(self.sources.files),
            digest=self.sources.digest,
            test_places=tuple(entry.raw.place for entry in tests),
        )
        check(config, parts, routes, self.context)
        document = cache(
            lambda: masking.document(config, parts.sections, parts.listeners, parts.tests)
        )
        return replace(
            config,
            warnings=tuple(
                _in_order(
                    map(self.sources.without_secrets, self.context.warnings), self.sources.files
                )
            ),
            document=document,
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


def _not_included(key: str) -> str:
    may = ", ".join(sorted(written.INCLUDABLE))
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


class _Assembling:
    """Layers of upstreams and routes, merged."""

    def __init__(self, parts: Parts, context: Context) -> None:
        self.parts = parts
        self.context = context
        self.anonymous: dict[str, effective.Upstream] = {}
        self.defaults = self._layer("defaults", "defaults")
        errors = parts.sections.get("errors")
        base = model.Policies()
        self.base_origins: tuple[tuple[str, Map], ...] = ()
        if errors is not None and errors.values is not None:
            base = model.Policies.model_construct(
                {"errors"}, **{**base.__dict__, "errors": errors.values}
            )
            self.base_origins = (("errors", masking.below("errors", errors.raw)),)
        self.merger = Merger(base)
        self.upstream_base = made_of(model.Upstream, _UPSTREAM_DEFAULTS, set())
        """What is built in, and `defaults` merged over it."""
        if self.defaults is not None:
            layer = self.defaults
            self.upstream_base = merge(self.upstream_base, layer.values, layer.raw)
        self.upstream_layers: dict[str, Layer] = {}
        self.profile_layers: dict[str, Layer] = {
            name: Layer(f"profile {name}", entry.values, entry.raw)
            for name, entry in parts.profiles.items()
            if entry.values is not None
        }

    def _layer(self, section: str, name: str) -> Layer | None:
        entry = self.parts.sections.get(section)
        if entry is None or entry.values is None or not isinstance(entry.raw, Map):
            return None
        return Layer(name, entry.values, entry.raw)

    def upstreams(self) -> dict[str, effective.Upstream]:
        """The named upstreams that could be read."""
        made = {}
        for name, entry in self.parts.upstreams.items():
            if entry.values is None:
                continue
            raw = entry.raw if isinstance(entry.raw, Map) else masking.below("targets", entry.raw)
            layer = Layer(f"upstream {name}", entry.values, raw)
            self.upstream_layers[name] = layer
            made[name] = self._upstream(name, layer, anonymous=False)
        return made

    def _upstream(self, name: str, own: Layer, *, anonymous: bool) -> effective.Upstream:
        layers = [own] if self.defaults is None else [self.defaults, own]
        settings = merge(self.upstream_base, own.values, own.raw)
        health = settings.health
        asks = health is None or health.path is not None or health.tcp
        if not asks and "health" not in own.values.model_fields_set:
            # `defaults` says how to check, and nobody what to ask for: nothing is checked.
            settings = settings.replaced(health=None)
        origins = Origins(tuple((layer.name, layer.raw) for layer in layers))
        return effective.Upstream(name, anonymous, settings, origins)

    def routes(self) -> list[tuple[Entry, effective.Route]]:
        """The routes that could be read, with what was written."""
        made = []
        for entry in self.parts.routes:
            if entry.values is not None:
                route = self._route(entry)
                if route is not None:
                    made.append((entry, route))
        return made

    def _route(self, entry: Entry) -> effective.Route | None:
        route: written.Route = entry.values
        name = route.name or default_name(route)
        answer = self._answer(entry, name)
        if answer is None:
            return None
        branches = answer.branches if isinstance(answer, effective.Forward) else ()
        policies, origins = self._merged(entry, branches[0].upstream if branches else None)
        made = effective.Route(
            name=name,
            match=_match(route),
            answer=answer,
            policies=policies,
            place=entry.raw.place,
            origins=origins,
        )
        return replace(made, per_branch=self._per_branch(entry, made)) if branches[1:] else made

    def _per_branch(self, entry: Entry, route: effective.Route) -> tuple[effective.Route, ...]:
        """The route as each branch has it; empty where all have the same."""
        assert isinstance(route.answer, effective.Forward)
        made: dict[str, effective.Route] = {}
        for name in (branch.upstream for branch in route.answer.branches):
            if name not in made:
                policies, origins = self._merged(entry, name)
                made[name] = replace(route, policies=policies, origins=origins)
        if all(_behave_alike(route, one) for one in made.values()):
            return ()
        return tuple(made[branch.upstream] for branch in route.answer.branches)

    def _merged(self, entry: Entry, upstream: str | None) -> tuple[model.Policies, Origins]:
        """What a route has of its layers where `upstream` is asked; None: nothing is forwarded."""
        layers = self._layers(entry, upstream)
        own = Layer("route", entry.values, entry.raw)
        origins = (*self.base_origins, *((layer.name, layer.raw) for layer in (*layers, own)))
        return self.merger.with_own(layers, own), Origins(origins)

    def _layers(self, entry: Entry, upstream: str | None) -> tuple[Layer, ...]:
        layers = [] if self.defaults is None else [self.defaults]
        if upstream is not None and upstream in self.upstream_layers:
            layers.append(self.upstream_layers[upstream])
        for name in entry.values.use:
            profile = self.profile_layers.get(name)
            if profile is not None:
                layers.append(profile)
        return tuple(layers)

    def _answer(
        self, entry: Entry, name: str
    ) -> effective.Forward | model.Static | model.Redirect | model.Respond | None:
        route: written.Route = entry.values
        given = [key for key in written.ANSWERS if getattr(route, key) is not None]
        if len(given) != 1:
            return None  # told by references
        if given == ["to"]:
            return self._forward(entry, name)
        if route.split is not None:
            return effective.Forward(route.split)
        return route.static or route.redirect or route.respond

    def _forward(self, entry: Entry, name: str) -> effective.Forward | None:
        words = entry.values.to
        raw = entry.raw["to"]
        if len(words) == 1 and not isinstance(raw, Seq) and not looks_like_url(words[0]):
            # An unknown name is told by references.
            return effective.Forward((_whole(str(words[0])),))
        # The URLs have been checked where the route was read.
        targets = masking.below("targets", raw)
        upstream = model.Upstream.model_validate(targets)
        made = self._upstream(name, Layer("route", upstream, targets), anonymous=True)
        self.anonymous[name] = made
        return effective.Forward((_whole(name),))


_UPSTREAM_DEFAULTS = {
    name: info.get_default(call_default_factory=True)
    for name, info in model.Upstream.model_fields.items()
}


def _behave_alike(one: effective.Route, other: effective.Route) -> bool:
    """Whether nobody can tell two merges of a route apart. A written `idle` is not the same as one that is built in."""
    return one.policies == other.policies and one.idle_written == other.idle_written


def _whole(upstream: str) -> model.Branch:
    """The one branch of `to:`."""
    values = {"upstream": upstream, "weight": 1, "labels": {}, "sticky_by": None}
    return made_of(model.Branch, values, {"upstream"})


def _match(route: written.Route) -> model.Match:
    names = model.Match.model_fields
    values = {name: getattr(route, name) for name in names}
    return made_of(model.Match, values, route.model_fields_set & names.keys())


def default_name(route: written.Route) -> str:
    """`HOST/PATH METHODS`, for a route without a name."""
    path = route.path.text if route.path.text is not None else f"/{route.path.regex}"
    name = ",".join(route.host) + path
    return f"{name} {','.join(route.methods)}" if route.methods else name
