"""Layers → effective values: built in, `defaults`, the upstream, profiles in order, the route.

Rules of this file: every layer is in full form and valid before it is merged. Mappings merge by
key (names of headers without regard to case), lists and scalars replace, off replaces all.
`model_fields_set` of a result is the union of what was written. Equal layers are merged
once: ten thousand routes without policies of their own share one result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from gateway.config import model
from gateway.config.effective import Origin
from gateway.config.forms import Model, is_off, made_of
from gateway.config.nodes import Map, Seq, Text, entry_of

if TYPE_CHECKING:
    from gateway.config.nodes import Value

M = TypeVar("M", bound=Model)

_OFF_BY_KEY = frozenset({"timeouts", "body"})
"""Policies whose `off` means each of their keys."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One layer: its name as `explain` prints it, the values, and the same as written."""

    name: str
    values: Model
    raw: Map


def merge(base: M, over: Model, raw: Any) -> M:
    """`base` with what was written in `over`; keys that `base` does not have are left out."""
    values = dict(base.__dict__)
    written = set(base.model_fields_set)
    fields = type(base).model_fields
    _put_aside(values, over)
    for name in over.model_fields_set:
        if name in fields:
            below = raw.get(name) if isinstance(raw, Map) else None
            values[name] = _merged(values[name], getattr(over, name), below)
            written.add(name)
    return made_of(type(base), values, written)


def _put_aside(values: dict[str, Any], over: Model) -> None:
    """Of keys that exclude each other the inner layer's choice stands alone."""
    if any(getattr(over, name) and name in over.model_fields_set for name in over.exclusive):
        for name in over.exclusive:
            values[name] = type(over).model_fields[name].default


def _merged(base: Any, over: Any, raw: Any) -> Any:
    if isinstance(over, Model):
        if isinstance(base, Model) and not (is_off(raw) and not over.model_fields_set):
            return merge(base, over, raw)
        return over
    if isinstance(over, dict) and isinstance(base, dict) and not is_off(raw):
        return merge_names(base, over)
    return over


def merge_names(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Two maps of free text by name, case-blind; None takes an inherited entry away."""
    result = {name.lower(): (name, value) for name, value in base.items()}
    for name, value in over.items():
        result[name.lower()] = (name, value)
    return {name: value for name, value in result.values() if value is not None}


class Merger:
    """Merges layers of policies, remembering what it has merged."""

    def __init__(self, base: model.Policies) -> None:
        self.base = base
        self.known: dict[tuple[int, ...], model.Policies] = {}

    def policies(self, layers: tuple[Layer, ...]) -> model.Policies:
        """The effective policies of some layers, outermost first."""
        if not layers:
            return self.base
        key = tuple(map(id, layers))
        found = self.known.get(key)
        if found is None:
            below = self.policies(layers[:-1])
            found = self.known[key] = merge(below, layers[-1].values, layers[-1].raw)
        return found

    def with_own(self, layers: tuple[Layer, ...], own: Layer) -> model.Policies:
        """The same with a last layer that no other route has."""
        below = self.policies(layers)
        if own.values.model_fields_set.isdisjoint(model.Policies.model_fields):
            return below
        return merge(below, own.values, own.raw)


class Origins(Mapping[str, Origin]):
    """`timeouts.idle` → where it was written. Computed when asked: most routes are never explained."""

    def __init__(self, layers: tuple[tuple[str, Map], ...]) -> None:
        self.layers = layers
        self._all: dict[str, Origin] | None = None

    def written(self, parts: tuple[str | int, ...]) -> tuple[str, Value] | None:
        """The layer that decides about a value, and the value as written: or what holds it in short form."""
        again = False
        for layer, raw in reversed(self.layers):
            found = _follow(raw, parts)
            if found is not None:
                # What was off below and is written again above begins with what is built in.
                return None if again and is_off(found) else (layer, found)
            again = again or (parts[0] in raw and parts[0] not in _OFF_BY_KEY)
        return None

    def __getitem__(self, path: str) -> Origin:
        found = self.written(tuple(path.split("."))) or self._flat(path)
        if found is None:
            raise KeyError(path)
        return Origin(found[0], found[1].place)

    def _flat(self, path: str) -> tuple[str, Value] | None:
        """For names with a dot in them."""
        for layer, raw in reversed(self.layers):
            for name, value in _leaves(raw, ""):
                if name.lower() == path.lower():
                    return layer, value
        return None

    def __iter__(self) -> Iterator[str]:
        if self._all is None:
            self._all = {}
            for layer, raw in self.layers:
                for name, value in _leaves(raw, ""):
                    for known in [one for one in self._all if one.startswith(f"{name}.")]:
                        del self._all[known]
                    self._all[name] = Origin(layer, value.place)
        return iter(self._all)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _follow(raw: Value, parts: tuple[str | int, ...]) -> Value | None:
    here: Any = raw
    for part in parts:
        if isinstance(here, Map) is not isinstance(part, str) and not isinstance(here, Text):
            continue  # a short form: the value of the only key, or a list of one
        if isinstance(here, Map):
            key = entry_of(here, str(part))
            if key is None:
                return None
            here = here[key]
        elif isinstance(here, Seq) and isinstance(part, int) and part < len(here):
            here = here[part]
        else:
            break
    return here if isinstance(here, Text | Map | Seq) else None


def _leaves(raw: Value, path: str) -> Iterator[tuple[str, Value]]:
    if isinstance(raw, Map) and (raw or not path):
        for key, value in raw.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, raw
