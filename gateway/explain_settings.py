"""Every setting of a route with its place, for an explanation: once what all its branches have, else for each of them.

Rules of this file: what is effective is read from the masked document, where it was written from the origins; what is empty
and says nothing is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from gateway.config import effective, masking, model
from gateway.pipeline import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

_OFTEN_EMPTY = (
    "when.",
    "rewrite.",
    "errors.",
    "path.",
    "static.",
    "respond.",
    "upstream.tls.",
    "tls.",
    "discover.",
)
"""Where a missing value says nothing."""
_IN_THE_ROUTE = frozenset(("targets", "timeouts", "retry", "buffer", "deadline", "hedge"))
"""What is said of an upstream elsewhere: among the targets, or by what the route makes of it."""
_OF_A_REPLY = ("body", "headers.response", "access_log", "errors")
"""Policies that mean something where nothing is forwarded."""


@dataclass(frozen=True)
class Setting:
    """One effective value, and where it was written."""

    key: str
    value: str
    layer: str
    place: str
    upstream: str = ""
    """Whose branch of a split has it, where not all have the same."""


def settings_of(route: effective.Route, upstream: effective.Upstream | None) -> Iterator[Setting]:
    """Those of a route, and of the upstream that stands for its answer; None: nothing is forwarded."""
    yield from _of_branches(route)
    if upstream is not None:
        shown_of: Any = masking.upstream(upstream)
        for key, value in _leaves(shown_of):
            if key.partition(".")[0] not in _IN_THE_ROUTE:
                yield _setting(f"upstream.{key}", key, value, upstream.origins)


def _of_branches(route: effective.Route) -> Iterator[Setting]:
    """Settings of a route: once what all its branches have, else one after the other."""
    found = {
        name: {one.key: one for one in _of_route(replace(variant, per_branch=()))}
        for name, variant in route.variants().items()
    }
    sections: dict[str, dict[str, None]] = {}
    for key in chain(*found.values()):
        sections.setdefault(key.partition(".")[0], {})[key] = None
    for key in chain(*sections.values()):
        told = {name: settings.get(key) for name, settings in found.items()}
        if len(set(told.values())) == 1:
            yield next(filter(None, told.values()))
        else:
            yield from (replace(one, upstream=name) for name, one in told.items() if one)


def _of_route(route: effective.Route) -> Iterator[Setting]:
    forwards = isinstance(route.answer, effective.Forward)
    for key, value in _leaves(masking.route(route)):
        if key in ("name", "split") or key.startswith(("path.", "split.")):
            continue
        parts = key.split(".")
        is_policy = parts[0] in model.Policies.model_fields
        if is_policy and not forwards and not key.startswith(_OF_A_REPLY):
            continue
        yield _setting(key, key, value, route.origins)


def _setting(key: str, path: str, value: object, origins: Any) -> Setting:
    origin = origins.get(path)
    layer = origin.layer if origin is not None else "built in"
    place = str(origin.place) if origin is not None and origin.place is not None else ""
    text = shown(path, value)
    if path == "timeouts.idle" and not place:
        text += " (5m for text/event-stream)"
    return Setting(key, text, layer, place)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a document by its dotted path; what is empty is left out."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif value != [] and (value is not None or not path.startswith(_OFTEN_EMPTY)):
        yield path, value
