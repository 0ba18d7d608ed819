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
from gateway.config.nodes import Map, Seq, Text
from gateway.config.words import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gateway.config.loading import Entry, Parts
    from gateway.config.report import Context


def check(parts: Parts, context: Context, listeners: Iterable[str]) -> None:
    """Every route's names, whether the route could be read or not; and names that nobody uses."""
    used: dict[str, set[str]] = {"upstream": set(), "profile": set()}
    known_listeners = list(listeners)
    for entry in parts.routes:
        if not isinstance(entry.raw, Map):
            continue
        _one_answer(entry, context)
        for name, keys in _upstreams(entry.raw):
            used["upstream"].add(name)
            _known(entry, context, "upstream", name, parts.upstreams, keys)
        _mirrors(entry, parts, context, used["upstream"])
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
    _unused(parts, used, context)


def _unused(parts: Parts, used: dict[str, set[str]], context: Context) -> None:
    for kind, entries in (("upstream", parts.upstreams), ("profile", parts.profiles)):
        for name, entry in entries.items():
            if name not in used[kind]:
                message = f"no route uses the {kind} {name}"
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
