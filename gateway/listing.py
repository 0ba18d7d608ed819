"""The routes of a configuration as rows, for the command line and the admin listener.

Rules of this file: plain data out, nothing that is not in the configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config import effective, model

if TYPE_CHECKING:
    from collections.abc import Iterator


def routes(config: effective.Config) -> list[dict[str, str]]:
    """One row for each route in the order of the file; the keys are those of `row`."""
    return [row(route) for route in config.routes]


def row(route: effective.Route) -> dict[str, str]:
    """One route in words."""
    match = route.match
    path = match.path.text if match.path.regex is None else f"regex {match.path.regex}"
    return {
        "name": route.name,
        "methods": ",".join(match.methods) or "any",
        "host": ",".join(match.host) or "any",
        "path": path or "/*",
        "when": " ".join(conditions(match.when)),
        "answer": answer(route),
        "place": str(route.place),
    }


def conditions(when: model.When) -> Iterator[str]:
    """What else must hold, one word or two for each condition."""
    for kind, tests in (("header", when.header), ("query", when.query), ("cookie", when.cookie)):
        for name in tests:
            yield f"{kind}.{name}"
    if when.client_ip:
        yield "client_ip"
    if when.scheme:
        yield f"scheme={when.scheme}"
    if when.listener:
        yield f"listener={','.join(when.listener)}"


def answer(route: effective.Route) -> str:
    """What answers the route's requests."""
    found = route.answer
    match found:
        case effective.Forward():
            if len(found.branches) == 1:
                return f"to {found.branches[0].upstream}"
            total = sum(branch.weight for branch in found.branches)
            shares = (f"{b.upstream} {b.weight}/{total}" for b in found.branches)
            return f"split {', '.join(shares)}"
        case model.Static():
            return f"static {found.root}"
        case model.Redirect():
            return f"redirect {found.status} {found.to}"
        case model.Respond():
            return f"respond {found.status}"
