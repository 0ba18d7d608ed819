"""Rules across fields: places that may not be taken twice, values that exclude each other.

Rules of this file: one function for each rule or family of rules; each reports everything that it
finds, at the place where it is written, and never stops. Routes are compared by
`routing.conflicts`, which knows what they match; names that must exist are in `references`.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config import (
    browser_rules,
    effective,
    entrance_rules,
    expectations,
    model,
    placeholders,
    references,
    traffic_rules,
    upstream_rules,
)
from gateway.config.addresses import FRAMING, looks_like_url
from gateway.config.nodes import Seq, Text
from gateway.config.policies import upgrade_problem
from gateway.config.report import Once
from gateway.config.sources import shown
from gateway.config.upstream_rules import unreadable
from gateway.config.words import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.config.loading import Entry, Parts
    from gateway.config.report import Context

Routes = list[tuple["Entry", effective.Route]]


def check(config: effective.Config, parts: Parts, routes: Routes, context: Context) -> None:
    """Every rule, on all that could be read."""
    references.check(parts, context, [listener.name for listener in config.listeners])
    _listeners(config, parts, context)
    _access_log(config, parts, routes, context)
    _error_pages(parts.sections.get("errors"), config.errors, context)
    _names_differ(routes, parts, context)
    once = Once(context)
    has_secret = _has_secret(config, parts)
    entrance_rules.check_named(parts, context, has_secret=has_secret)
    entrance_rules.without_certificates(config, parts, context)
    entrance_rules.one_cookie(config, parts, context)
    upstreams = upstream_rules.Rules(routes, once, has_secret=has_secret)
    for name, entry in parts.upstreams.items():
        if entry.values is not None:
            upstream_rules.check_named(name, entry, context)
            upstreams.check(entry, config.upstreams[name])
    policies = _Policies(config, once)
    limits = entrance_rules.NamedLimits(parts, context)
    for entry, route in routes:
        _answer(entry, route, config, context)
        policies.check(entry, route)
        limits.check(entry, route)
        own = config.upstreams.get(route.name)
        if own is not None and own.anonymous:
            upstreams.check(entry, own)
    for entry in parts.tests:
        expectations.check(entry, config, parts, context)
    _conflicts(config, context)
    if not parts.routes:
        raw = next((entry.raw for entry in parts.sections.values()), None)
        place = raw.place if raw is not None else effective.Place(_first(config), 1, 1)
        message = "there are no routes: every request is answered 404"
        context.warnings.append(effective.Problem(place, "routes", message))


def _has_secret(config: effective.Config, parts: Parts) -> bool:
    """Whether one is written; if it is wrong, that has been told."""
    server = parts.sections.get("server")
    return bool(config.server.secret) or (server is not None and "secret" in server.left_out)


def _first(config: effective.Config) -> str:
    return shown(config.files[0]) if config.files else "configuration"


def _conflicts(config: effective.Config, context: Context) -> None:
    # By name: routing stands above config in the layers, and this is the one thing that is asked.
    conflicts = importlib.import_module("gateway.routing.conflicts")
    ties, never = conflicts.find(config.routes, config.server.ambiguous_paths)
    context.problems.extend(ties)
    context.warnings.extend(never)


# ── the server and its listeners ────────────────────────────────────────────────────────────────


def _listeners(config: effective.Config, parts: Parts, context: Context) -> None:
    entries = [entry for entry in parts.listeners if entry.values is not None]
    taken: list[tuple[model.Bind, Entry]] = []
    names: dict[str, Entry] = {}
    admin = parts.sections.get("admin")
    for entry in entries:
        bind: model.Bind = entry.values.bind
        entrance_rules.check_listener(entry, context)
        for other, first in taken:
            if _overlap(bind, other):
                message = f"{bind} is taken by {other}, at {first.raw.place}"
                context.add(entry.raw, entry.path, ("bind",), message)
        taken.append((bind, entry))
        name = entry.values.name or str(bind)
        first = names.setdefault(name, entry)
        if first is not entry and bind.port != 0 and not _overlap(bind, first.values.bind):
            message = f"two listeners are called {name!r}, the other at {first.raw.place}"
            context.add(entry.raw, entry.path, ("name",), message)
        elif first is not entry and bind.port == 0:
            message = f"two listeners are called {name!r}: give each a name"
            context.add(entry.raw, entry.path, ("name",), message)
    _admin(config, admin, taken, context)
    _redirects_somewhere(config, entries, context)


def _admin(
    config: effective.Config,
    admin: Entry | None,
    taken: list[tuple[model.Bind, Entry]],
    context: Context,
) -> None:
    if config.admin is None or (admin is not None and admin.values is None):
        return
    for other, entry in taken:
        if _overlap(config.admin.bind, other):
            message = f"{other} is the address of the admin listener too"
            context.add(entry.raw, entry.path, ("bind",), message)


def _redirects_somewhere(config: effective.Config, entries: list[Entry], context: Context) -> None:
    if any(route.match.host for route in config.routes):
        return
    if any(listener.tls is not None for listener in config.listeners):
        return  # its certificates name some
    for entry in entries:
        if entry.values.redirect_to_https is not None:
            message = (
                "no route and no certificate names a host, so there is none to redirect to https"
            )
            context.warn(entry.raw, entry.path, ("redirect_to_https",), message)


_EVERY = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound


def _overlap(one: model.Bind, other: model.Bind) -> bool:
    """Whether two binds want the same address."""
    if one.unix is not None or other.unix is not None:
        return one.unix == other.unix
    if one.port != other.port or one.port == 0:
        return False
    if one.host == other.host:
        return True
    either = {one.host, other.host} & _EVERY
    # `::` is bound for IPv6 only, so it leaves IPv4 addresses free.
    same_family = (":" in (one.host or "")) == (":" in (other.host or ""))
    return bool(either) and same_family


def _access_log(config: effective.Config, parts: Parts, routes: Routes, context: Context) -> None:
    entry, log = parts.sections.get("observability"), config.observability.access_log
    if entry is None or log is None:
        return
    texts = {("access_log", "format"): log.format}
    for name, text in log.fields.add.items():
        texts["access_log", "fields", "add", name] = text  # type: ignore[index]
    if log.format not in ("json", "combined") and "{" not in log.format:
        hint = nearest(log.format, ("json", "combined"))
        message = f"{log.format!r} is no format: write json, combined or a text with placeholders"
        context.add(entry.raw, entry.path, ("access_log", "format"), message + hint)
    known = any(placeholders.knows_who_asks(route, one.left_out) for one, route in routes)
    for keys, text in texts.items():
        for name in placeholders.names(text):
            found = placeholders.problem(name, None, placeholders.LOG_ONLY, known=known)
            if found is not None:
                context.add(entry.raw, entry.path, keys, found)
    for index, word in enumerate(log.fields.mask):
        kind, _, name = word.partition(".")
        if kind not in ("header", "cookie", "query") or not name:
            message = f"{word!r} cannot be masked: write header.NAME, cookie.NAME or query.NAME"
            context.add(entry.raw, entry.path, ("access_log", "fields", "mask", index), message)


# ── error pages ─────────────────────────────────────────────────────────────────────────────────


def _error_pages(entry: Entry | None, errors: model.Errors, context: Context) -> None:
    if entry is not None and entry.values is not None:
        for keys, message in _page_problems(errors):
            context.add(entry.raw, entry.path, keys, message)


def _page_problems(errors: model.Errors) -> Iterator[tuple[tuple[str, ...], str]]:
    if errors.format == "template" and errors.template is None:
        yield ("format",), "format: template needs template: FILE"
    if errors.template is not None:
        if errors.format != "template" and "format" in errors.model_fields_set:
            yield ("template",), f"format is {errors.format}: write format: template"
        yield from _template_problems(errors.template)
    for status, page in errors.pages.items():
        if not (status.isascii() and status.isdigit() and 400 <= int(status) <= 599):
            yield ("pages", status), f"{status!r} is no status of a failure: 400 to 599 are"
        elif (why := unreadable(page.file)) is not None:
            yield ("pages", status, "file"), why


def _template_problems(file: str) -> Iterator[tuple[tuple[str, ...], str]]:
    try:
        text = Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        yield ("template",), f"{file} cannot be read as UTF-8 text"
        return
    for name in placeholders.names(text):
        found = placeholders.problem(name, None, placeholders.PAGE_ONLY)
        if found is not None:
            yield ("template",), f"{file}: {found}"


# ── routes ──────────────────────────────────────────────────────────────────────────────────────


def _names_differ(routes: Routes, parts: Parts, context: Context) -> None:
    seen: dict[str, Entry] = {}
    for entry, route in routes:
        if entry.in_doubt and not entry.values.name:
            continue  # what it would be called is not known
        first = seen.setdefault(route.name, entry)
        if first is not entry:
            hint = "" if entry.values.name else ": give each a name"
            message = f"two routes are called {route.name!r}, the other at {first.raw.place}{hint}"
            context.add(entry.raw, entry.path, ("name",), message)
        elif not route.name.isprintable() or route.name == "_none":
            context.add(entry.raw, entry.path, ("name",), f"{route.name!r} cannot be a name")
        elif route.name in parts.upstreams and _is_anonymous(entry):
            message = (
                f"the upstream of this route would be called {route.name!r}, as the one at "
                f"{parts.upstreams[route.name].raw.place} is: give the route another name"
            )
            context.add(entry.raw, entry.path, ("name",), message)


def _is_anonymous(entry: Entry) -> bool:
    to = entry.raw.get("to")
    return isinstance(to, Seq) or (isinstance(to, Text) and looks_like_url(to))


def _answer(
    entry: Entry, route: effective.Route, config: effective.Config, context: Context
) -> None:
    values = entry.values
    for keys, message in upstream_rules.split_problems(values.split or (), config.upstreams):
        context.add(entry.raw, entry.path, keys, message)
    if isinstance(entry.raw.get("to"), Seq):
        urls = entry.values.to
        for index, url in enumerate(urls):
            if url in urls[:index]:
                message = f"{url} is written twice: weights are written in an upstream"
                context.add(entry.raw, entry.path, ("to", index), message)
    elif values.respond is not None:
        for name in values.respond.headers:
            if name.lower() in FRAMING:
                message = f"{name} is made by the gateway for each connection"
                context.add(entry.raw, entry.path, ("respond", "headers", name), message)
    if isinstance(route.answer, model.Static) and not Path(route.answer.root).is_dir():
        # No error: it may be mounted later, and a file may be checked on another machine.
        context.warn(entry.raw, entry.path, ("static",), f"there is no folder {route.answer.root}")
    _without_effect(entry, route, context)


def _without_effect(entry: Entry, route: effective.Route, context: Context) -> None:
    for key in _IDLE.get(_kind(route), ()):
        if key in entry.values.model_fields_set:
            message = f"{key} has no effect on a route that answers with {_kind(route)}"
            context.warn(entry.raw, entry.path, (key,), message)


def _kind(route: effective.Route) -> str:
    return type(route.answer).__name__.lower()


_FORWARDING = ("retry", "websocket", "upgrade", "buffer", "deadline", "hedge", "mirror")
_IDLE = {
    "static": _FORWARDING,
    "redirect": (*_FORWARDING, "rewrite"),
    "respond": (*_FORWARDING, "rewrite"),
}
"""Policies that do nothing where nothing is forwarded."""


class _Policies:
    """Checks of effective policies; the same inherited mistake is told once."""

    def __init__(self, config: effective.Config, once: Once) -> None:
        self.server = config.server
        self.auth = config.auth
        self.once = once
        self.pages: set[int] = set()
        self.kept: list[model.Errors] = []

    def check(self, entry: Entry, route: effective.Route) -> None:
        """One route."""
        path_known = "path" not in entry.left_out
        known = placeholders.knows_who_asks(route, entry.left_out)
        paths: frozenset[str] | None = None
        keys: tuple[str | int, ...]
        if path_known and any("{" in text for _, text in placeholders.texts(route)):
            paths = placeholders.of_path(route.match.path)
        found = (
            *_placeholder_problems(route, paths, known=known),
            *_rewrite_problems(route),
            *_header_problems(route),
            *entrance_rules.problems(route, path_known=path_known, client_known=known),
            *browser_rules.problems(route.policies),
        )
        for keys, message in found:
            self.add(entry, route, keys, message)
        for one in route.variants().values():
            for keys, message in traffic_rules.problems(
                one, path_known=path_known, client_known=known
            ):
                self.add(entry, one, keys, message)
        self.warnings(entry, route)
        for name in route.policies.upgrade:
            wrong = upgrade_problem(name)
            if wrong is not None:
                self.add(entry, route, ("upgrade",), wrong)
        self.errors(entry, route)

    def warnings(self, entry: Entry, route: effective.Route) -> None:
        """What has no effect. What a route says for all branches of its split has one if it has one for any of them."""
        for keys, message in (
            *entrance_rules.warnings(route),
            *entrance_rules.between(route, self.auth),
        ):
            self.once.add(entry, route.origins, keys, message, warning=True)
        found = [
            (one.origins, dict(traffic_rules.warnings(one, self.server)))
            for one in route.variants().values()
        ]
        for origins, told in found:
            for keys, message in told.items():
                of_all = all(keys in others for _, others in found)
                if of_all or self.once.layer(origins, keys).startswith("upstream "):
                    self.once.add(entry, origins, keys, message, warning=True)

    def errors(self, entry: Entry, route: effective.Route) -> None:
        """Pages and templates; most routes share one value."""
        errors = route.policies.errors
        if id(errors) in self.pages:
            return
        self.pages.add(id(errors))
        self.kept.append(errors)
        for keys, message in _page_problems(errors):
            self.add(entry, route, ("errors", *keys), message)

    def add(
        self, entry: Entry, route: effective.Route, keys: tuple[str | int, ...], message: str
    ) -> None:
        """Report at the place where the value is written."""
        self.once.add(entry, route.origins, keys, message)


def _placeholder_problems(
    route: effective.Route, paths: frozenset[str] | None, *, known: bool
) -> Iterator[tuple[tuple[str, ...], str]]:
    for keys, text in placeholders.texts(route):
        for name in placeholders.names(text):
            found = placeholders.problem(name, paths, known=known)
            if found is not None:
                yield keys, found


def _rewrite_problems(route: effective.Route) -> Iterator[tuple[tuple[str, ...], str]]:
    rewrite = route.policies.rewrite
    if rewrite.path is not None:
        for key in ("strip_prefix", "regex"):
            if getattr(rewrite, key) is not None:
                yield (
                    ("rewrite", key),
                    f"{key} and path exclude each other: path replaces all of it",
                )
    for key in ("strip_prefix", "add_prefix", "path"):
        text = getattr(rewrite, key)
        if text is not None and not text.startswith(("/", "{")):
            yield ("rewrite", key), f"{text!r} is no path: write /{text}"
    if rewrite.strip_prefix is not None and "{" in rewrite.strip_prefix:
        yield ("rewrite", "strip_prefix"), "a prefix is fixed: use regex or path for captures"
    if rewrite.regex is not None:
        found = _replacement_problem(rewrite.regex)
        if found is not None:
            yield ("rewrite", "regex", "replace"), found


def _replacement_problem(settings: model.RegexRewrite) -> str | None:
    """Why a replacement does not fit its regex: tried on a regex that has the same groups."""
    compiled = re.compile(settings.match)
    named = {number: name for name, number in compiled.groupindex.items()}
    groups = "".join(
        f"(?P<{named[number]}>)" if number in named else "()"
        for number in range(1, compiled.groups + 1)
    )
    try:
        re.compile(groups).sub(settings.replace, "")
    except (re.error, IndexError) as error:
        return f"{settings.replace!r} does not fit the regex: {error}"
    return None


def _header_problems(route: effective.Route) -> Iterator[tuple[tuple[str, ...], str]]:
    for way in ("request", "response"):
        edits: model.HeaderEdits = getattr(route.policies.headers, way)
        for key in ("set", "add"):
            for name in getattr(edits, key):
                if name.lower() in FRAMING:
                    message = f"{name} is made by the gateway for each connection"
                    yield ("headers", way, key, name), message
                elif way == "request" and name.lower() == "host":
                    message = "write rewrite: {host: …}, or host: in the upstream"
                    yield ("headers", way, key, name), message
