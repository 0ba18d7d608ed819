"""Rules across fields: names that must exist, places that may not be taken twice, values that exclude each other.

Rules of this file: one function for each rule or family of rules; each reports everything that it finds and never stops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config.words import nearest

if TYPE_CHECKING:
    from gateway.config import effective
    from gateway.config.loading import Entry, Parts
    from gateway.config.report import Context


def check(
    config: effective.Config,
    parts: Parts,
    routes: list[tuple[Entry, effective.Route]],
    context: Context,
) -> None:
    """Every rule, on all that could be read."""
    _upstreams_exist(parts, routes, context)
    _names_differ(parts, routes, context)


def _upstreams_exist(
    parts: Parts, routes: list[tuple[Entry, effective.Route]], context: Context
) -> None:
    known = list(parts.upstreams)
    for entry, route in routes:
        branches = getattr(route.answer, "branches", ())
        split = entry.values.split is not None
        if not split and isinstance(branches, tuple) and len(branches) == 1:
            from gateway.config.addresses import looks_like_url  # noqa: PLC0415

            word = entry.values.to[0] if entry.values.to else ""
            if not word or looks_like_url(word):
                continue
        for index, branch in enumerate(branches):
            if branch.upstream not in parts.upstreams:
                keys = ("split", index, "upstream") if split else ("to",)
                message = (
                    f"there is no upstream {branch.upstream!r}"
                    f"{nearest(branch.upstream, known, known)}"
                )
                context.add(entry.raw, entry.path, keys, message)


def _names_differ(
    parts: Parts, routes: list[tuple[Entry, effective.Route]], context: Context
) -> None:
    seen: dict[str, Entry] = {}
    for entry, route in routes:
        first = seen.setdefault(route.name, entry)
        if first is not entry:
            hint = "" if entry.values.name else ": give each a name"
            message = f"two routes are called {route.name!r}, the other at {first.raw.place}{hint}"
            context.add(entry.raw, entry.path, ("name",), message)
