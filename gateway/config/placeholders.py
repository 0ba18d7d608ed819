"""`{client_ip}` and the others: which names there are, and which a route can give a value to.

Rules of this file: the same reading as `routing.template`, which renders them; a test holds the two
lists together.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from gateway.config.addresses import captures
from gateway.config.words import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.config import effective, model

SIMPLE = frozenset(
    (
        *("client_ip", "host", "scheme", "method", "path", "query"),
        *("route", "upstream", "target", "request_id"),
    )
)
KEYED = frozenset({"path", "query", "header", "cookie"})
IDENTITY = frozenset({"consumer", "claim"})
TLS = frozenset(
    (
        *("version", "cipher", "server_name", "subject", "serial", "fingerprint"),
        *("san_dns", "san_uri", "san_email"),
    )
)
"""What a connection with TLS tells: `tls.NAME`."""
LOG_ONLY = frozenset(
    (
        *("time", "trace_id", "protocol", "status", "source", "reason", "consumer", "duration_ms"),
        *("overhead_ms", "upstream_ms", "attempts", "bytes_in", "bytes_out", "user_agent"),
        *("referer", "tls", "detail"),
    )
)
"""Fields of a line of the access log, which a template of it may name too."""
PAGE_ONLY = frozenset({"status", "title", "reason", "detail", "type"})
"""What only the page of a failure has."""

_PLACEHOLDER = re.compile(r"\{\{|\{([a-z_.0-9-]+)(?:\|([^{}]*))?\}")


def names(text: str) -> Iterator[str]:
    """The names that a text asks for."""
    if "{" in text:
        for found in _PLACEHOLDER.finditer(text):
            if found[1] is not None:
                yield found[1]


def defaults(text: str) -> str:
    """The text where every placeholder has its default; empty where one has none."""
    found = list(_PLACEHOLDER.finditer(text))
    if any(one[1] is not None and one[2] is None for one in found):
        return ""
    return _PLACEHOLDER.sub(lambda one: "{" if one[1] is None else one[2], text)


def of_identity(name: str) -> bool:
    """Whether its value is told by `auth`: `consumer`, `claim.NAME`."""
    kind, _, key = name.partition(".")
    return kind in IDENTITY and bool(key) == (kind == "claim")


def problem(
    name: str,
    paths: frozenset[str] | None,
    extra: frozenset[str] = frozenset(),
    *,
    known: bool = False,
) -> str | None:
    """Why a name has no value here; `paths`: the captures of the route, None where any may be; `known`: who asks is."""
    if name in SIMPLE or name in extra:
        return None
    kind, _, key = name.partition(".")
    if of_identity(name):
        return None if known else f"{{{name}}}: there is no `auth` here, so nobody is known"
    if kind == "tls" and key in TLS:
        return None
    if kind in KEYED and key:
        if kind != "path" or paths is None or key in paths:
            return None
        hint = nearest(key, paths, sorted(paths)) if paths else "; this path has no captures"
        return f"{{{name}}}: the path has no capture {key!r}{hint}"
    known_names = {*SIMPLE, *extra, "consumer", "claim.NAME"}
    names = sorted(known_names | {f"{one}.NAME" for one in KEYED} | {f"tls.{one}" for one in TLS})
    hint = nearest(name, names) or f"; known are {', '.join(names)}"
    return f"there is no placeholder {{{name}}}{hint}; a literal brace is written {{{{"


def knows_who_asks(route: effective.Route, left_out: frozenset[str]) -> bool:
    """Whether a route has `auth`; also where it is not known because of another mistake in what it says of that."""
    return bool(route.policies.auth) or not left_out.isdisjoint(("auth", "use"))


def of_path(pattern: model.PathPattern) -> frozenset[str]:
    """The names of a path's captures."""
    if pattern.regex is not None:
        return frozenset(re.compile(pattern.regex).groupindex)
    return frozenset(captures(pattern.text or ""))


def texts(route: effective.Route) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text of a route in which placeholders are filled in, with its path."""
    policies = route.policies
    for way in ("request", "response"):
        edits = getattr(policies.headers, way)
        yield from _of_map(edits.set, ("headers", way, "set"))
        yield from _of_map(edits.add, ("headers", way, "add"))
    rewrite = policies.rewrite
    for key in ("path", "add_prefix", "host"):
        yield from _of_value(getattr(rewrite, key), ("rewrite", key))
    yield from _of_map(rewrite.query.set, ("rewrite", "query", "set"))
    yield from _of_map(rewrite.query.add, ("rewrite", "query", "add"))
    answer: Any = route.answer
    if hasattr(answer, "to"):
        yield ("redirect", "to"), answer.to
    if hasattr(answer, "body"):
        yield from _of_map(answer.headers, ("respond", "headers"))
        yield from _of_value(answer.body, ("respond", "body"))
        yield from _of_value(answer.json_, ("respond", "json"))


def _of_map(
    entries: dict[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, value in entries.items():
        yield from _of_value(value, (*path, name))


def _of_value(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        yield from _of_map(value, path)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _of_value(item, path)
