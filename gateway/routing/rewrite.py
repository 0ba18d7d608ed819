"""What `rewrite:` makes of a request target, compiled.

Rules of this file: target in, target out; what is not edited stays byte for byte. The order is
fixed: `strip_prefix`, then `path` or `regex`, then `add_prefix`, then the query. A rewritten path
in which some server could find a dot segment is a bad request, and so is one that a target's URL
puts its own path before: nobody must climb out of the place that the configuration gives them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from gateway import errors
from gateway.routing.paths import canonical, holds_dot_segment
from gateway.routing.template import Template, percent_encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.config import effective, model
    from gateway.routing.template import View

    Edit = Callable[[View, str], str]


def compile_rewrite(
    route: effective.Route, upstreams: Mapping[str, effective.Upstream] | None = None
) -> Edit | None:
    """A function from (view, matched target) to the new target; None where path and query stay as
    they came.

    `upstreams`: where the route forwards to; a target's URL may have a path that goes before what
    the function returns. The function raises errors.BadRequest for a dot segment in a rewritten
    path or below such a base. Compiling raises ValueError for a regex or a placeholder that is none.
    """
    settings = route.policies.rewrite
    path_edits = _path_edits(settings)
    query_edit = _query_edit(settings.query)
    judged = bool(path_edits) or _has_base(route.answer, upstreams or {})
    if not judged and query_edit is None:
        return None

    def rewrite(view: View, target: str) -> str:
        if target == "*":
            return target  # `OPTIONS *` has neither path nor query
        path, mark, query = target.partition("?")
        for edit in path_edits:
            path = edit(view, path)
        if judged and holds_dot_segment(path):
            raise errors.BadRequest("the path to forward holds a dot segment")
        if query_edit is not None:
            edited = query_edit(view, query)
            if edited != query:
                query, mark = edited, "?" if edited else ""
        return path + mark + query

    return rewrite


def _has_base(answer: object, upstreams: Mapping[str, effective.Upstream]) -> bool:
    """Whether some target of the route has a path in its URL."""
    names = {branch.upstream for branch in getattr(answer, "branches", ())}
    every = [upstreams[name].settings for name in names & upstreams.keys()]
    if any(one.discover is not None and (one.discover.file or one.discover.env) for one in every):
        return True  # a list that is read later may hold any URL
    urls = [target.url for one in every for target in one.targets]
    return any("/" in url.partition("://")[2].rstrip("/") for url in urls)


def compile_host(route: effective.Route) -> Template | None:
    """The `Host` that `rewrite.host` gives the upstream's request; None: `host:` of the upstream
    decides.
    """
    host = route.policies.rewrite.host
    return None if host is None else Template.compile(host, where="header")


# ── the path ────────────────────────────────────────────────────────────────────────────────────


def _path_edits(settings: model.Rewrite) -> tuple[Edit, ...]:
    edits: list[Edit] = []
    if settings.strip_prefix is not None and settings.path is None:
        edits.append(_strip(settings.strip_prefix))
    if settings.path is not None:
        edits.append(_replace(settings.path))
    if settings.regex is not None:
        edits.append(_substitute(settings.regex))
    if settings.add_prefix is not None:
        edits.append(_prepend(settings.add_prefix))
    return tuple(edits)


def _strip(prefix: str) -> Edit:
    wanted = canonical("/" + prefix.strip("/"))
    count = wanted.count("/") + 1
    below = wanted + "/"

    def strip(_: View, path: str) -> str:
        if wanted == "/":
            return path
        if path.startswith(below):
            return path[len(wanted) :]
        if path == wanted:
            return "/"
        # Another spelling of the same prefix, such as `/%61pi` for `/api`.
        segments = path.split("/", count)
        if canonical("/".join(segments[:count])) == wanted:
            return "/" + "/".join(segments[count:])
        return path

    return strip


def _replace(text: str) -> Edit:
    template = Template.compile(_literal(text), where="path")
    return lambda view, _: template.render(view)


def _prepend(text: str) -> Edit:
    template = Template.compile(_literal(text).rstrip("/"), where="path")
    return lambda view, path: template.render(view) + path


def _substitute(settings: model.RegexRewrite) -> Edit:
    regex = re.compile(settings.match)

    def substitute(_: View, path: str) -> str:
        found = regex.search(path)
        if found is None:
            path = canonical(path)
            found = regex.search(path)
            if found is None:
                return path
        changed = path[: found.start()] + found.expand(settings.replace) + path[found.end() :]
        return "/" + changed.lstrip("/") if not changed.startswith("/") else changed

    return substitute


def _literal(text: str) -> str:
    """Literal text of a path: a `?` in it is a character, not the beginning of a query."""
    return "/" + text.removeprefix("/").replace("?", "%3F").replace("#", "%23")


# ── the query ───────────────────────────────────────────────────────────────────────────────────


def _query_edit(settings: model.QueryEdits) -> Edit | None:
    gone = frozenset(settings.remove) | frozenset(settings.set)
    new = [_pair(name, value) for name, value in settings.set.items()]
    for name, values in settings.add.items():
        new.extend(
            _pair(name, value) for value in ([values] if isinstance(values, str) else values)
        )
    if not gone and not new:
        return None

    def edit(view: View, query: str) -> str:
        parts = query.split("&") if query else []
        if gone:
            parts = [part for part in parts if unquote_plus(part.partition("=")[0]) not in gone]
        return "&".join(parts + [name + value.render(view) for name, value in new])

    return edit


def _pair(name: str, value: str) -> tuple[str, Template]:
    """(`name=` ready to send, its value with literal text percent-encoded too)."""
    return percent_encode(name) + "=", Template.compile(value, where="query")
