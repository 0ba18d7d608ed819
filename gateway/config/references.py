"""Names that must exist, and answers that must be one: read from what is written.

Rules of this file: it looks at the text, so that a route with another mistake in it still has its
names checked in the same go. Whatever is not of the right form is left to the model that reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.config import written
from gateway.config.addresses import looks_like_url
from gateway.config.effective import Problem
from gateway.config.forms import is_off, listed
from gateway.config.limits import is_inline
from gateway.config.nodes import Map, Seq, Text
from gateway.config.words import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gateway.config.loading import Entry, Parts
    from gateway.config.report import Context


_KINDS = {
    "upstream": "upstreams",
    "profile": "profiles",
    "auth policy": "auth",
    "rate limit": "rate_limits",
    "store": "stores",
}
"""What has a name, and the section that it stands in."""


def check(parts: Parts, context: Context, listeners: Iterable[str]) -> None:
    """Every route's names, whether the route could be read or not; and names that nobody uses."""
    used: dict[str, set[str]] = {kind: set() for kind in _KINDS}
    known_listeners = list(listeners)
    for entry in parts.routes:
        if not isinstance(entry.raw, Map):
            continue
        _one_answer(entry, context)
        for name, keys in _upstreams(entry.raw):
            used["upstream"].add(name)
            _known(entry, context, "upstream", name, parts.upstreams, keys)
        _mirrors(entry, parts, context, used["upstream"])
        _entrance(entry, parts, context, used)
        for name, keys in _texts(entry.raw, "use"):
            used["profile"].add(name)
            _known(entry, context, "profile", name, parts.profiles, keys)
        when = entry.raw.get("when")
        for name, keys in _texts(when, "listener") if isinstance(when, Map) else ():
            _known(entry, context, "listener", name, known_listeners, ("when", *keys))
    shared = [*parts.profiles.values(), parts.sections.get("defaults")]
    for layer in shared:
        if layer is not None and isinstance(layer.raw, Map):
            _mirrors(layer, parts, context, used["upstream"])
            _entrance(layer, parts, context, used)
    for entry in parts.rate_limits.values():
        if isinstance(entry.raw, Map):
            _store(entry, parts, context, entry.raw.get("store"), ("store",), used)
    _unused(parts, used, context)


def _unused(parts: Parts, used: dict[str, set[str]], context: Context) -> None:
    for kind, section in _KINDS.items():
        entries: dict[str, Entry] = getattr(parts, section)
        for name, entry in entries.items():
            if name not in used[kind]:
                who = "limit" if kind == "store" else "route"
                message = f"no {who} uses the {kind} {name}"
                context.warnings.append(Problem(entry.key_place, entry.path, message))


def _one_answer(entry: Entry, context: Context) -> None:
    answers = (*written.ANSWERS, *written.LATER_ANSWERS)
    given = [key for key in entry.raw if key in answers and not is_off(entry.raw[key])]
    if len(given) > 1:
        message = f"a route has exactly one answer; this one has {' and '.join(given)}"
        place = entry.raw.key_place(given[1])
        context.problems.append(Problem(place, f"{entry.path}.{given[1]}", message))
    elif not given:
        message = f"nothing answers: write one of {', '.join(written.ANSWERS)}"
        wrong = [key for key in entry.raw if key not in written.Route.table()]
        hint = nearest(wrong[0], written.ANSWERS) if wrong else ""
        context.problems.append(Problem(entry.raw.place, entry.path, message + hint))


def _upstreams(raw: Map) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    to = raw.get("to")
    if isinstance(to, Text) and not looks_like_url(to) and not is_off(to) and to.plain is not None:
        yield str(to), ("to",)
    for index, branch in enumerate(listed(raw.get("split")) or ()):
        name = branch.get("upstream") if isinstance(branch, Map) else None
        if isinstance(name, Text):
            yield str(name), ("split", index, "upstream")


def _mirrors(entry: Entry, parts: Parts, context: Context, used: set[str]) -> None:
    value = entry.raw.get("mirror")
    if "mirror" in written.Route.later or value is None or is_off(value):
        return
    name = value.get("upstream") if isinstance(value, Map) else value
    keys = ("mirror", "upstream") if isinstance(value, Map) else ("mirror",)
    if not isinstance(name, Text):
        return
    used.add(str(name))
    if looks_like_url(name):
        message = (
            f"the name of an upstream is wanted: write {name} under upstreams, and its name here"
        )
        context.add(entry.raw, entry.path, keys, message)
    else:
        _known(entry, context, "upstream", str(name), parts.upstreams, keys)


def _entrance(entry: Entry, parts: Parts, context: Context, used: dict[str, set[str]]) -> None:
    """Names of policies of `auth`, of limits, and of the stores of limits that have no name."""
    raw, later = entry.raw, written.Route.later
    if "auth" not in later:
        for name, keys in _texts(raw, "auth"):
            used["auth policy"].add(name)
            _known(entry, context, "auth policy", name, parts.auth, keys)
    if "rate_limit" in later:
        return
    value = raw.get("rate_limit")
    for index, one in enumerate(listed(value) or ()):
        keys = ("rate_limit", index) if isinstance(value, Seq) else ("rate_limit",)
        if isinstance(one, Map):
            _store(entry, parts, context, one.get("store"), (*keys, "store"), used)
        elif isinstance(one, Text) and not is_off(one) and not is_inline(one):
            used["rate limit"].add(str(one))
            _known(entry, context, "rate limit", str(one), parts.rate_limits, keys)


def _store(
    entry: Entry,
    parts: Parts,
    context: Context,
    name: Any,
    keys: tuple[str | int, ...],
    used: dict[str, set[str]],
) -> None:
    if isinstance(name, Text) and not is_off(name):
        used["store"].add(str(name))
        _known(entry, context, "store", str(name), parts.stores, keys)


def _texts(raw: Map, key: str) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    value = raw.get(key)
    if isinstance(value, Text) and is_off(value):
        return
    for index, name in enumerate(listed(value) or ()):
        if isinstance(name, Text):
            yield str(name), ((key, index) if isinstance(value, Seq) else (key,))


def _known(
    entry: Entry,
    context: Context,
    kind: str,
    name: str,
    known: Iterable[str],
    keys: tuple[str | int, ...],
) -> None:
    names: Any = known
    if name in names:
        return
    hint = nearest(name, known, known)
    if kind == "upstream" and keys == ("to",) and ("." in name or ":" in name):
        hint = f": for an address write http://{name}"
    context.add(entry.raw, entry.path, keys, f"there is no {kind} {name!r}{hint}")
