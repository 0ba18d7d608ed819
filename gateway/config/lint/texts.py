"""Rules G5: regexes that can take for ever, secrets that stand in the file, and what is told to strangers.

Rules of this file: as those of the package. No message quotes a secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.config.lint.explosive import explosive
from gateway.config.lint.rules import Rule, below, in_the_clear
from gateway.config.merge import Origins

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.config import effective
    from gateway.config.lint.rules import Keys, Note, View

_SECRETS: dict[str, tuple[Keys, ...]] = {
    "server": (("secret",),),
    "admin": (("token",),),
}
"""Keys of sections that hold secrets."""
_OF_POLICIES: tuple[Keys, ...] = (
    ("jwt", "secret"),
    ("introspection", "client_secret"),
    ("oidc", "client_secret"),
    ("hmac", "secret"),
)
_TELLING = frozenset(
    ("authorization", "proxy-authorization", "cookie", "x-api-key", "api-key", "x-auth-token")
)
"""Lower-case names of fields whose values are secrets."""


def _explosive(view: View) -> Iterator[Note]:
    known: dict[str, str | None] = {}
    for route in view.routes:
        for keys, regex in _regexes(route):
            if regex not in known:
                known[regex] = explosive(regex)
            why = known[regex]
            if why is not None:
                yield view.in_route(route, keys, f"{regex} can take for ever ({why})")


def _regexes(route: effective.Route) -> Iterator[tuple[Keys, str]]:
    match, policies = route.match, route.policies
    if match.path.regex is not None:
        yield ("path", "regex"), match.path.regex
    for kind in ("header", "query", "cookie"):
        for name, test in getattr(match.when, kind).items():
            if test.regex is not None:
                yield ("when", kind, name, "regex"), test.regex
    if policies.rewrite.regex is not None:
        yield ("rewrite", "regex", "match"), policies.rewrite.regex.match
    for index, origin in enumerate(policies.cors.origins if policies.cors is not None else ()):
        if origin.regex is not None:
            yield ("cors", "origins", index, "regex"), origin.regex


def _secrets(view: View) -> Iterator[Note]:
    message = "a secret stands in the file"
    for name, keys_of in _SECRETS.items():
        entry = view.parts.sections.get(name)
        for keys in keys_of if entry is not None else ():
            for more in _clear(entry.raw if entry is not None else None, keys):
                yield view.in_section(name, more, message)
    for _, entry, _policy in view.policies():
        for keys in _OF_POLICIES:
            for more in _clear(entry.raw, keys):
                yield view.in_entry(entry, more, message)
    for name, entry in view.parts.stores.items():
        if "@" in view.config.stores[name].url.reveal():
            for more in _clear(entry.raw, ("url",) if isinstance(entry.raw, dict) else ()):
                yield view.in_entry(entry, more, "a password stands in the file")


def _clear(raw: Any, keys: Keys) -> Iterator[Keys]:
    """Those of the texts below `keys` that stand in the file as they are."""
    found = below(raw, keys)
    if isinstance(found, list):
        for index, one in enumerate(found):
            if in_the_clear(one):
                yield (*keys, index)
    elif in_the_clear(found):
        yield keys


def _headers(view: View) -> Iterator[Note]:
    for route in view.routes:
        assert isinstance(route.origins, Origins)
        edits = route.policies.headers.request
        for key, entries in (("set", edits.set), ("add", edits.add)):
            for name, value in entries.items():
                keys = ("headers", "request", key, name)
                if name.lower() not in _TELLING or (isinstance(value, str) and "{" in value):
                    continue
                found = route.origins.written(keys)
                if found is not None and in_the_clear(found[1]):
                    yield view.in_route(route, keys, f"the value of {name} stands in the file")


def _exposed(view: View) -> Iterator[Note]:
    message = "clients read what failed, addresses of upstreams included"
    if view.config.errors.expose_reason:
        yield view.in_section("errors", ("expose_reason",), message)
    for route in view.routes:
        if route.policies.errors.expose_reason and view.layer(route, "errors") != "errors":
            yield view.in_route(route, ("errors", "expose_reason"), message)


def _timing(view: View) -> Iterator[Note]:
    if view.config.observability.server_timing == "all":
        message = "everybody reads how long what has taken, guesses at credentials included"
        yield view.in_section("observability", ("server_timing",), message)


RULES = (
    Rule(
        "G501",
        "warning",
        "A regex that can take for ever",
        "It can share a text among its repeats in more ways than can be tried, and a client chooses "
        "the text: a request of a "
        "few dozen signs stops the whole worker. What is looked for is ambiguity (`(a+)+`, "
        "`(\\w+\\s?)*`, `(a|a?)+`), not "
        "nesting: `(/[a-z]+)*` is harmless. That nothing is found is no proof.",
        "let each repeat begin with a sign that the one before cannot take, or write (?>…) around it",
        _explosive,
    ),
    Rule(
        "G502",
        "warning",
        "A secret that stands in the file",
        "Files are copied, committed and shown. `server.secret`, `admin.token`, secrets of "
        "policies, passwords in URLs of stores.",
        "write ${file:/run/secrets/NAME} or ${env:NAME}",
        _secrets,
    ),
    Rule(
        "G503",
        "warning",
        "A credential for the upstream that stands in the file",
        "`Authorization`, `Cookie`, `X-Api-Key` and the like that `headers.request` writes.",
        "write ${file:/run/secrets/NAME} or ${env:NAME}",
        _headers,
    ),
    Rule(
        "G504",
        "warning",
        "Failures that are told in full",
        "`expose_reason: true` is for development: details name targets, files and policies.",
        "take expose_reason away: logs and `gateway explain` have it",
        _exposed,
    ),
    Rule(
        "G505",
        "info",
        "Times that are told to everybody",
        "`server_timing: all` tells strangers how long each part of an answer took.",
        "write server_timing: trusted",
        _timing,
    ),
)
