"""Routes and targets as rows, for the command line and the admin listener.

Rules of this file: plain data out, and nothing that is not in what came in: a configuration, or what
a running gateway has told of its upstreams.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.config import effective, model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


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
        "auth": " or ".join(route.policies.auth or ()),
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
        case effective.SignIn():
            return str(found)
        case model.Static():
            return f"static {found.root}"
        case model.Redirect():
            return f"redirect {found.status} {found.to}"
        case model.Respond():
            return f"respond {found.status}"


def targets(upstreams: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """One row for each target: upstream, target, state, since, weight, in flight, connections, why.

    Where targets are looked up, a row before them says where, and what is wrong with that.
    """
    for upstream in upstreams:
        found = upstream.get("discovery")
        if found is not None:
            state = "not found" if found["problem"] else "found"
            state = state if upstream["targets"] else "no targets"
            yield (upstream["name"], found["from"], state, "", "", "", "", found["problem"] or "")
        for target in upstream["targets"]:
            connections = target["connections"]
            yield (
                upstream["name"],
                target["name"],
                target["state"],
                lasting(target["seconds"]),
                f"{target['weight']}, backup" if target["backup"] else str(target["weight"]),
                str(target["in_flight"]),
                f"{connections['active']} active, {connections['idle']} idle",
                target["why"] or "",
            )
        if not upstream["targets"] and found is None:
            yield (upstream["name"], "-", "no targets", "", "", "", "", "")


def lasting(seconds: float) -> str:
    """How long something has been so, in its largest units: `12s`, `3m 20s`, `2d 4h`."""
    left = max(0, int(seconds))
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    first = next((place for place, (_, length) in enumerate(units) if left >= length), 3)
    words: list[str] = []
    for unit, length in units[first : first + 2]:
        count, left = divmod(left, length)
        if count or not words:
            words.append(f"{count}{unit}")
    return " ".join(words)
