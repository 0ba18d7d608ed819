"""Rules of one upstream: values that exclude each other, that do nothing, or that need something else.

Rules of this file: a rule looks at effective values, so that what comes from `defaults` counts, and
is told where the value is written. Only keys that somebody wrote are looked at: ten thousand
upstreams with nothing but URLs cost nothing.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.config import ConfigError, effective, model, placeholders
from gateway.config.addresses import FRAMING
from gateway.config.targets import read_variable
from gateway.config.words import nearest

if TYPE_CHECKING:
    from gateway.config.loading import Entry
    from gateway.config.report import Context, Once

Found = Iterator[tuple[tuple[str | int, ...], str]]
Routes = list[tuple["Entry", effective.Route]]


def check_named(name: str, entry: Entry, context: Context) -> None:
    """What an upstream under `upstreams:` says about itself."""
    upstream: model.Upstream = entry.values
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        message = f"{name!r} is no name: letters, digits, _ - and . are"
        context.problems.append(effective.Problem(entry.key_place, entry.path, message))
    seen = set()
    for index, target in enumerate(upstream.targets):
        if target.url in seen:
            message = f"{target.url} is written twice: use weight for a larger share"
            context.add(entry.raw, entry.path, ("targets", index), message)
        seen.add(target.url)
    if upstream.targets and all(target.backup for target in upstream.targets):
        message = "every target is a backup: at least one has to serve"
        context.add(entry.raw, entry.path, ("targets",), message)
    _tls(entry, upstream, context)


def _tls(entry: Entry, upstream: model.Upstream, context: Context) -> None:
    tls = upstream.tls
    if (tls.cert is None) != (tls.key is None):
        missing = "key" if tls.key is None else "cert"
        context.add(
            entry.raw, entry.path, ("tls",), f"{missing} is missing: cert and key go together"
        )
    for key in ("ca", "cert", "key"):
        file = getattr(tls, key)
        why = None if file is None else unreadable(file)
        if why is not None:
            context.add(entry.raw, entry.path, ("tls", key), why)
    found = upstream.discover
    encrypted = any(one.url.startswith("https:") for one in upstream.targets) or (
        found is not None and (found.scheme == "https" or bool(found.file or found.env))
    )
    if tls.model_fields_set and not encrypted:
        message = "no target is https, so tls has no effect"
        context.warn(entry.raw, entry.path, ("tls",), message)


def unreadable(file: str) -> str | None:
    """Why a file cannot be opened, for people; None: it can be."""
    try:
        with Path(file).open("rb"):
            return None
    except OSError as error:
        return f"{file} cannot be read: {error.strerror or error}"


# ── effective values ────────────────────────────────────────────────────────────────────────────


class Rules:
    """The rules of effective upstreams."""

    def __init__(self, routes: Routes, once: Once, *, has_secret: bool) -> None:
        self.has_secret = has_secret
        self.routes = routes
        self.once = once
        self._by_upstream: dict[str, Routes] | None = None
        self._cookies: dict[str, list[str]] = {}

    def check(self, entry: Entry, upstream: effective.Upstream) -> None:
        """One upstream; `entry` is where it is written, a route's for an anonymous one."""
        settings = upstream.settings
        written = settings.model_fields_set
        for key in _WRONG.keys() & written:
            for keys, message in _WRONG[key](settings):
                self.once.add(entry, upstream.origins, keys, message)
        for key in _IDLE.keys() & written:
            for keys, message in _IDLE[key](settings):
                self.once.add(entry, upstream.origins, keys, message, warning=True)
        if settings.sticky is not None:
            self._sticky(entry, upstream, settings.sticky)
        text = model.hash_key(settings.balance)
        if text is not None:
            for message in self._hash(upstream.name, text):
                self.once.add(entry, upstream.origins, ("balance",), message)

    def _sticky(self, entry: Entry, upstream: effective.Upstream, sticky: model.Sticky) -> None:
        if not self.has_secret:
            message = "sticky needs server: {secret: …}, which signs its cookie"
            self.once.add(entry, upstream.origins, ("sticky",), message)
        others = self._cookies.setdefault(sticky.cookie, [])
        for other in others:
            if self._share_clients(upstream.name, other):
                message = (
                    f"{sticky.cookie} is the cookie of {other} too: a client of both would lose "
                    "its target with each change between them; give it another name"
                )
                self.once.add(entry, upstream.origins, ("sticky", "cookie"), message, warning=True)
                break
        others.append(upstream.name)

    def _share_clients(self, one: str, other: str) -> bool:
        """Whether a browser may send the cookies of one to the other: there are routes with the same host."""
        hosts = [
            [host for _, route in self._users(name) for host in route.match.host or ("",)]
            for name in (one, other)
        ]
        either = {*hosts[0], *hosts[1]}
        return all(hosts) and ("" in either or not set(hosts[0]).isdisjoint(hosts[1]))

    def _hash(self, upstream: str, text: str) -> Iterator[str]:
        names = list(placeholders.names(text))
        if not names:
            yield f"hash:{text} names no placeholder: write one such as hash:{{client_ip}}"
        for name in names:
            if name in ("upstream", "target"):
                yield f"{{{name}}} is the same for every request, or not known yet"
                continue
            found = placeholders.problem(name, None, known=True)
            if found is not None:
                yield found
            elif name.startswith("path.") or placeholders.of_identity(name):
                yield from self._on_routes(upstream, name)

    def _on_routes(self, upstream: str, name: str) -> Iterator[str]:
        """On which of its routes a name has no value."""
        for entry, route in self._users(upstream):
            paths = None
            if "path" not in entry.left_out:
                paths = placeholders.of_path(route.match.path)
            known = placeholders.knows_who_asks(route, entry.left_out)
            found = placeholders.problem(name, paths, known=known)
            if found is not None:
                yield f"on the route {route.name}, {found}"

    def _users(self, upstream: str) -> Routes:
        if self._by_upstream is None:
            self._by_upstream = {}
            for entry, route in self.routes:
                if isinstance(route.answer, effective.Forward):
                    for name in {branch.upstream for branch in route.answer.branches}:
                        self._by_upstream.setdefault(name, []).append((entry, route))
        return self._by_upstream.get(upstream, [])


def _health(settings: model.Upstream) -> Found:
    health = settings.health
    if health is None:
        return
    if health.path is None and not health.tcp:
        yield ("health",), "nothing is asked for: write path: /healthz, or tcp: true"
    elif health.method == "HEAD" and health.expect.body is not None:
        yield ("health", "expect", "body"), "the answer to HEAD has no body: write method: GET"
    for name in health.headers:
        if name.lower() in FRAMING:
            message = f"{name} is made by the gateway for each connection"
            yield ("health", "headers", name), message


def _eject(settings: model.Upstream) -> Found:
    eject = settings.eject
    if eject is None:
        return
    if eject.consecutive_failures is None and eject.failure_ratio is None:
        yield ("eject",), "nothing ejects a target: write eject: off"
    if eject.base > eject.max:
        yield (
            ("eject", "base"),
            f"base ({eject.base:g}s) is longer than max ({eject.max:g}s): write eject.max too",
        )


def _concurrency(settings: model.Upstream) -> Found:
    limits = settings.concurrency
    if limits is not None and limits.per_target is None and limits.adaptive == "off":
        yield ("concurrency",), "nothing is limited: write per_target: 50, or adaptive: report"
    if limits is not None and limits.adaptive == "enforce" and limits.mode == "report":
        message = "nothing is kept to with mode: report: write adaptive: report"
        yield ("concurrency", "adaptive"), message


def _discover(settings: model.Upstream) -> Found:
    found = settings.discover
    if found is not None and found.env is not None:
        try:
            read_variable(found.env, os.environ)
        except ConfigError as error:
            for problem in error.problems:
                yield ("discover", "env"), problem.message
    if found is None or found.dns is None:
        return
    try:
        ipaddress.ip_address(found.dns)
    except ValueError:
        return
    fix = f"targets: ['{found.scheme}://{found.dns}:{found.port}']"
    yield ("discover", "dns"), f"{found.dns} is an address already: write {fix}"


_WRONG: dict[str, Callable[[model.Upstream], Found]] = {
    "health": _health,
    "eject": _eject,
    "concurrency": _concurrency,
    "discover": _discover,
}


def _idle_health(settings: model.Upstream) -> Found:
    health = settings.health
    if health is None:
        return
    if health.tcp:
        for key in ("method", "headers", "expect"):
            if key in health.model_fields_set:
                yield ("health", key), f"{key} has no effect: nothing is asked, only connected"
    if health.port is not None and any(one.url.startswith("unix:") for one in settings.targets):
        yield ("health", "port"), "port has no effect on unix sockets"


def _idle_eject(settings: model.Upstream) -> Found:
    eject = settings.eject
    if eject is None or eject.failure_ratio is not None:
        return
    if "min_requests" in eject.model_fields_set:
        yield ("eject", "min_requests"), "min_requests has no effect without failure_ratio"


def _idle_panic(settings: model.Upstream) -> Found:
    if settings.eject is None and settings.panic is not None:
        yield ("panic",), "panic has no effect: eject is off, and it sets aside ejections only"


def _idle_concurrency(settings: model.Upstream) -> Found:
    limits, pool = settings.concurrency, settings.pool
    if limits is None or limits.per_target is None or pool.max is None:
        return
    if limits.per_target > pool.max:
        yield (
            ("concurrency", "per_target"),
            f"pool.max is {pool.max}, so no more than that are ever under way",
        )


def _idle_discover(settings: model.Upstream) -> Found:
    found = settings.discover
    if found is None:
        return
    if found.env is not None and "refresh" in found.model_fields_set:
        yield ("discover", "refresh"), "refresh has no effect: a variable does not change"
    why = None if found.file is None else unreadable(found.file)
    if why is not None:
        # No error: it may be written later, and the gateway comes up without it.
        yield ("discover", "file"), why


_IDLE: dict[str, Callable[[model.Upstream], Found]] = {
    "health": _idle_health,
    "eject": _idle_eject,
    "panic": _idle_panic,
    "concurrency": _idle_concurrency,
    "discover": _idle_discover,
}


# ── split ───────────────────────────────────────────────────────────────────────────────────────


def split_problems(
    branches: tuple[model.Branch, ...], upstreams: Any
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What is wrong between the branches of one `split`, and with the targets that they take."""
    seen: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
    for index, branch in enumerate(branches):
        subset = branch.upstream, tuple(sorted(branch.labels.items()))
        if subset in seen:
            which = " with these labels" if branch.labels else ""
            message = f"{branch.upstream}{which} stands in this split twice: add the weights"
            yield ("split", index, "upstream"), message
        elif branch.upstream in upstreams:
            yield from _subset(index, branch, branches, upstreams[branch.upstream].settings)
        seen.add(subset)
    yield from _one_key(branches)


def _subset(
    index: int,
    branch: model.Branch,
    branches: tuple[model.Branch, ...],
    upstream: model.Upstream,
) -> Found:
    found = upstream.discover
    if branch.labels and found is not None and (found.dns or found.srv):
        message = "targets that DNS finds bear no labels: list them under targets, or in a file"
        yield ("split", index, "labels"), message
    if not upstream.targets:
        return
    if branch.labels:
        if not any(bears(target, branch.labels) for target in upstream.targets):
            message = f"no target of {branch.upstream} bears {_shown(branch.labels)}"
            yield ("split", index, "labels"), message + _known_labels(branch.labels, upstream)
        return
    others = [one.labels for one in branches if one.upstream == branch.upstream and one.labels]
    if all(any(bears(target, labels) for labels in others) for target in upstream.targets):
        message = f"no target of {branch.upstream} is left: the other branches take them all"
        yield ("split", index, "upstream"), message


def bears(target: model.Target, labels: dict[str, str]) -> bool:
    """Whether a target bears all of these labels."""
    return labels.items() <= target.labels.items()


def _shown(labels: dict[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in labels.items())


def _known_labels(labels: dict[str, str], upstream: model.Upstream) -> str:
    known = sorted({_shown({k: v}) for one in upstream.targets for k, v in one.labels.items()})
    wrong = next((_shown({k: v}) for k, v in labels.items() if _shown({k: v}) not in known), "")
    return nearest(wrong, known, known) if wrong else ""


def _one_key(branches: tuple[model.Branch, ...]) -> Found:
    given = [(index, one.sticky_by) for index, one in enumerate(branches) if one.sticky_by]
    for index, key in given[1:]:
        if key != given[0][1]:
            message = (
                f"sticky_by counts for the whole split, and a branch before says {given[0][1]}"
            )
            yield ("split", index, "sticky_by"), message
