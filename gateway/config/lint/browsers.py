"""Rules G4: what pages of other origins may read and do.

Rules of this file: as those of the package.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway.config.lint.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.config import effective, model
    from gateway.config.lint.rules import Note, View

MANY = 10
"""Origins; nobody looks over more than this."""
_LOCAL = re.compile(r"http://(localhost|127\.|\[::1\]|[^/]*\.localhost)")
_GLUED = re.compile(r"(?:\.|\\S|\\w|\])[*+][a-z0-9]")
_BARE_DOT = re.compile(r"(?<!\\)\.(?![*+?{])")


def _with_cors(view: View) -> Iterator[tuple[effective.Route, model.Cors]]:
    for route in view.routes:
        if route.policies.cors is not None:
            yield route, route.policies.cors


def _all_origins(view: View) -> Iterator[Note]:
    for route, cors in _with_cors(view):
        for index, origin in enumerate(cors.origins):
            if origin.text == "*":
                guarded = bool(route.policies.auth) or route.policies.allow is not None
                message = "every page on the web may read the answers"
                message += ", and not everybody may come in" if guarded else ""
                severity = "warning" if guarded else "info"
                keys = ("cors", "origins", index)
                yield view.in_route(route, keys, message, severity=severity)


def _null_origin(view: View) -> Iterator[Note]:
    for route, cors in _with_cors(view):
        for index, origin in enumerate(cors.origins):
            if origin.text == "null":
                severity = "error" if cors.credentials else "warning"
                message = "every page can make itself a frame whose origin is null"
                keys = ("cors", "origins", index)
                yield view.in_route(route, keys, message, severity=severity)


def _loose_regexes(view: View) -> Iterator[Note]:
    for route, cors in _with_cors(view):
        for index, origin in enumerate(cors.origins):
            regex = origin.regex
            if regex is None:
                continue
            message = ""
            if _BARE_DOT.search(_without_classes(regex)):
                message = f"a . in {regex} takes any sign"
            elif _GLUED.search(regex):
                message = f"{regex} takes names that only end like one of yours"
            if message:
                yield view.in_route(route, ("cors", "origins", index), message)


def _without_classes(regex: str) -> str:
    """A dot in brackets is a dot."""
    return re.sub(r"\[[^\]]*\]", "", regex)


def _many_with_credentials(view: View) -> Iterator[Note]:
    for route, cors in _with_cors(view):
        if not cors.credentials:
            continue
        for index, origin in enumerate(cors.origins):
            if "://*." in origin.text:
                message = (
                    f"every sub-domain of {origin.text.partition('*.')[2]} may act for your users"
                )
                yield view.in_route(route, ("cors", "origins", index), message)
        if len(cors.origins) > MANY:
            message = f"{len(cors.origins)} origins may act for your users"
            yield view.in_route(route, ("cors", "origins"), message)


def _plain_origins(view: View) -> Iterator[Note]:
    for route, cors in _with_cors(view):
        for index, origin in enumerate(cors.origins if cors.credentials else ()):
            text = origin.text
            if text.startswith("http://") and not _LOCAL.match(text):
                message = f"whoever is between a user and {text} can act for the user"
                yield view.in_route(route, ("cors", "origins", index), message)


RULES = (
    Rule(
        "G401",
        "info",
        "CORS for all origins",
        "`*` lets every page read answers; that is right for what is public. On a route with `auth` "
        "or `allow` it is a warning: "
        "an address inside a network is enough to come in, and each browser there has one.",
        "name the origins",
        _all_origins,
    ),
    Rule(
        "G402",
        "warning",
        "CORS for the origin `null`",
        "Frames with `sandbox`, files and redirects have it, so that everybody can have it. With "
        "`credentials` it is an error.",
        "take null away",
        _null_origin,
    ),
    Rule(
        "G403",
        "warning",
        "CORS by a regex that takes more than was meant",
        "`.` takes any sign: the regex `https://app.example.com` takes `https://appxexample.com`, which somebody else "
        "may buy. "
        "So is the name that ends like yours, where `.*` stands before it without `\\.` between.",
        r"write \. for a dot, as in '^https://[a-z]+\.example\.com$'",
        _loose_regexes,
    ),
    Rule(
        "G404",
        "warning",
        "CORS with credentials for many",
        "One sub-domain that somebody else can put a page on is enough; so is one of a long list "
        "that nobody uses any more.",
        "name the origins that need credentials",
        _many_with_credentials,
    ),
    Rule(
        "G405",
        "warning",
        "CORS with credentials for a page in plain text",
        "A page that came over http can have been changed on its way.",
        "write https:// in the origin",
        _plain_origins,
    ),
)
