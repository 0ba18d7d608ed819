"""Parts of a document → effective upstreams and routes: layers put in order and merged.

Rules of this file: what is wrong is left out, and told elsewhere; what is written is not changed, so that each effective
value still knows its place.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.config import effective, masking, model, written
from gateway.config.addresses import looks_like_url
from gateway.config.forms import made_of
from gateway.config.merge import Layer, Merger, Origins, merge
from gateway.config.nodes import Map, Seq

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.config.loading import Entry, Parts


class Assembling:
    """Layers of upstreams and routes, merged."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
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

    def unwritten(self) -> model.Policies:
        """The policies of a route that says nothing itself."""
        return self.merger.policies(() if self.defaults is None else (self.defaults,))

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
            rate_limits=tuple(self._limits(name, policies.rate_limit)),
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

    def _limits(
        self, route: str, limits: tuple[str | model.RateLimit, ...]
    ) -> Iterator[tuple[str, model.RateLimit]]:
        own = 0
        for one in limits:
            if isinstance(one, model.RateLimit):
                own += 1
                yield (route if own == 1 else f"{route}-{own}"), one
            elif one in self.parts.rate_limits:
                found = self.parts.rate_limits[one].values
                if found is not None:
                    yield one, found

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
