"""The effective document as plain data, without what must not be shown.

Rules of this file: a value is hidden by its type (`Secret`) or by where it came from (`${file:…}`),
never by a list of names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.config import written
from gateway.config.forms import Model
from gateway.config.limits import StoreUrl
from gateway.config.merge import Origins
from gateway.config.nodes import Map, Text, mapping
from gateway.config.texts import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.config import effective
    from gateway.config.loading import Entry, Parts

HIDDEN = "***"


def below(key: str, raw: Any) -> Map:
    """What is written, as the value of a key."""
    at = (raw.source, raw.line, raw.column)
    return mapping({key: raw}, raw.source, raw.line, raw.column, {key: at})


def document(config: effective.Config, parts: Parts) -> dict[str, object]:
    """The whole configuration in full form."""
    from gateway.config.effective import SignIn  # noqa: PLC0415 - types only elsewhere

    def section(name: str, value: Model | None) -> object:
        entry = parts.sections.get(name)
        origins = Origins(((name, entry.raw),)) if entry is not None else None
        return _plain(value, origins, ())

    def named(entries: Mapping[str, Entry]) -> object:
        return {
            name: _plain(entry.values, Origins(((name, entry.raw),)), ())
            for name, entry in entries.items()
        }

    own = [
        Origins((("listener", entry.raw),)) for entry in parts.listeners if entry.values is not None
    ]
    whole = {
        "version": 1,
        "server": section("server", config.server),
        "listeners": [
            _plain(listener, own[index] if index < len(own) else None, ())
            for index, listener in enumerate(config.listeners)
        ],
        "admin": section("admin", config.admin),
        "observability": section("observability", config.observability),
        "errors": section("errors", config.errors),
        "auth": named(parts.auth),
        "rate_limits": named(parts.rate_limits),
        "stores": named(parts.stores),
        "upstreams": {name: upstream(settings) for name, settings in config.upstreams.items()},
        "routes": [route(one) for one in config.routes if not isinstance(one.answer, SignIn)],
        "tests": [
            _plain(entry.values, Origins((("tests", entry.raw),)), ())
            for entry in parts.tests
            if entry.values is not None
        ],
    }
    return {key: value for key, value in whole.items() if key not in written.Document.later}


def upstream(one: effective.Upstream) -> object:
    """One upstream's settings in full form."""
    return _plain(one.settings, _origins(one), ())


def route(route: effective.Route) -> dict[str, object]:
    """One route in full form. Where branches of its split differ in a policy, it stands in each of them."""
    from gateway.config import effective  # noqa: PLC0415 - types only elsewhere

    made: dict[str, object] = {"name": route.name}
    origins = _origins(route)
    made |= _items(route.match, origins, ())
    answer = route.answer
    policies = _items(route.policies, origins, ())
    if isinstance(answer, effective.Forward):
        split = [_items(branch, None, ()) for branch in answer.branches]
        own = [_items(one.policies, _origins(one), ()) for one in route.per_branch]
        differing = [key for key in policies if any(one[key] != policies[key] for one in own)]
        for branch, one in zip(split, own, strict=False):
            branch["policies"] = {key: one[key] for key in differing}
        for key in differing:
            del policies[key]
        made["split"] = split
    elif isinstance(answer, effective.SignIn):
        made["sign_in"] = {answer.does: f"auth.{answer.policy}"}
    else:
        key = type(answer).__name__.lower()
        made[key] = _plain(answer, origins, (key,))
    return made | policies


def _origins(part: effective.Route | effective.Upstream) -> Origins | None:
    return part.origins if isinstance(part.origins, Origins) else None


def _items(value: Model, origins: Origins | None, path: tuple[str | int, ...]) -> dict[str, object]:
    fields = type(value).model_fields
    return {
        fields[name].alias or name: _plain(item, origins, (*path, fields[name].alias or name))
        for name, item in value.__dict__.items()
        if name in fields and name not in value.later
    }


def _plain(value: Any, origins: Origins | None, path: tuple[str | int, ...]) -> object:
    if isinstance(value, Model):
        return _items(value, origins, path)
    if isinstance(value, dict):
        return {key: _plain(item, origins, (*path, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, origins, (*path, index)) for index, item in enumerate(value)]
    if _from_file(origins, path):
        return HIDDEN
    if isinstance(value, Secret):
        return str(value) if isinstance(value, StoreUrl) else HIDDEN
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value)


def _from_file(origins: Origins | None, path: tuple[str | int, ...]) -> bool:
    if origins is None:
        return False
    found = origins.written(path)
    return found is not None and isinstance(found[1], Text) and found[1].from_file
