"""Rules of what a route does with its requests besides forwarding them: hedge, mirror, deadline, importance, sticky splits.

Rules of this file: as those of `upstream_rules`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config import effective, model, placeholders
from gateway.config.addresses import FRAMING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOKED_AT = frozenset({"hedge", "mirror", "deadline", "importance"})
_HEDGED = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that do nothing (RFC 9110 section 9.2.1)."""


def problems(
    route: effective.Route, *, path_known: bool, client_known: bool
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What cannot be."""
    answer, deadline = route.answer, route.policies.deadline
    if deadline is not None and deadline.header.lower() in (*FRAMING, "host"):
        message = f"{deadline.header} means something else: write one such as X-Request-Timeout-Ms"
        yield ("deadline", "header"), message
    if isinstance(answer, effective.Forward) and any(one.sticky_by for one in answer.branches):
        paths = placeholders.of_path(route.match.path) if path_known else None
        yield from _sticky_by(answer, paths, known=client_known)


def warnings(
    route: effective.Route, server: model.Server
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What has no effect."""
    policies = route.policies
    if policies.model_fields_set.isdisjoint(_LOOKED_AT):
        return
    yield from _hedge(route)
    if policies.deadline is not None and policies.timeouts.total is None:
        nobody = policies.deadline.trust == "none" or (
            policies.deadline.trust == "trusted_proxies" and not server.trusted_proxies
        )
        if nobody:
            message = (
                f"deadline has no effect on the route {route.name}: its timeouts.total is off, "
                "and no caller is trusted"
            )
            yield ("deadline",), message
    if policies.mirror is not None and isinstance(route.answer, effective.Forward):
        name = policies.mirror.upstream
        if any(branch.upstream == name for branch in route.answer.branches):
            yield (
                ("mirror", "upstream"),
                f"{name} gets these requests already, so it gets some twice",
            )
    if "importance" in policies.model_fields_set and server.overload is None:
        yield ("importance",), "importance has no effect: server.overload is off"


def _hedge(route: effective.Route) -> Iterator[tuple[tuple[str | int, ...], str]]:
    hedge = route.policies.hedge
    if hedge is None:
        return
    if route.policies.retry is None:
        # `retry: off` on a route is the way to take an inherited hedge away, too.
        if _layer(route, "hedge") in ("route", _layer(route, "retry")):
            yield ("hedge",), "hedge has no effect: retry is off, so nothing is ever sent twice"
        return
    for name, limit in (
        ("timeouts.first_byte", route.policies.timeouts.first_byte),
        ("timeouts.total", route.policies.timeouts.total),
    ):
        if isinstance(hedge.after, float) and limit is not None and hedge.after >= limit:
            message = f"hedge has no effect: {name} is {limit:g}s, which is over before"
            yield ("hedge", "after"), message
            return
    if route.match.methods and _HEDGED.isdisjoint(route.match.methods):
        methods = ", ".join(route.match.methods)
        message = f"hedge has no effect on {methods}: only GET, HEAD and OPTIONS are tried twice"
        if _layer(route, "hedge") == "route":
            yield ("hedge",), message


def _layer(route: effective.Route, key: str) -> str:
    origin = route.origins.get(key)
    return origin.layer if origin is not None else ""


def _sticky_by(
    answer: effective.Forward, paths: frozenset[str] | None, *, known: bool
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    for index, branch in enumerate(answer.branches):
        name = branch.sticky_by
        if name is None:
            continue
        if name in ("upstream", "target", "route"):
            message = f"{{{name}}} says nothing about the client: write one such as client_ip"
            yield ("split", index, "sticky_by"), message
            continue
        found = placeholders.problem(name, paths, known=known)
        if found is not None:
            yield ("split", index, "sticky_by"), found
