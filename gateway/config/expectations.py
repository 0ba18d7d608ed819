"""What an inline test may expect: names that exist, words of the closed list, and what can be known.

Rules of this file: what is expected is compared with the configuration here, with what happens in
`inline_tests.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway import errors as reasons
from gateway.config import answers
from gateway.config.nodes import Map
from gateway.config.report import Context
from gateway.config.words import nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config import effective, model
    from gateway.config.loading import Entry, Parts

_LATER_REASONS = frozenset({"plugin_error", "invalid_request_schema"})
"""Words of the closed list for failures that are not built: such a test could never pass."""
_NEEDS_OTHERS = (
    reasons.Overload,
    reasons.UpstreamError,
    reasons.ClientTimeout,
    reasons.ClientClosed,
    reasons.WebSocketTimeout,
    reasons.RateLimited,
    reasons.AuthUnavailable,
)
"""Failures that take load, time, or somebody at the other end of a connection."""

_ENTRANCE: dict[str, Callable[[model.Policies], object]] = {
    reasons.Unauthenticated.reason: lambda policies: policies.auth,
    # `auth`, for csrf is on for the sessions of logins without being written.
    reasons.Forbidden.reason: lambda policies: (
        policies.allow or policies.csrf or policies.cors or policies.auth
    ),
    reasons.IpDenied.reason: lambda policies: policies.allow and policies.allow.of_address,
}
"""Refusals, and the policies that make them."""


def check(entry: Entry, config: effective.Config, parts: Parts, context: Context) -> None:
    """One test: what could be read of its expectations, though the rest of it is wrong."""
    expect = _expected(entry)
    if expect is None:
        return
    names = [route.name for route in config.routes]
    known_routes = {*names, *(str(one.raw.get("name", "")) for one in parts.routes if one.raw)}
    nameless = any(one.in_doubt and "name" not in one.raw for one in parts.routes)
    if expect.route is not None and expect.route not in known_routes and not nameless:
        message = f"there is no route {expect.route!r}{nearest(expect.route, names, names)}"
        context.add(entry.raw, entry.path, ("expect", "route"), message)
    upstreams = {*config.upstreams, *parts.upstreams}
    if expect.upstream is not None and expect.upstream not in upstreams:
        message = f"there is no upstream {expect.upstream!r}{nearest(expect.upstream, upstreams, upstreams)}"
        context.add(entry.raw, entry.path, ("expect", "upstream"), message)
    _asked(entry, parts, context)
    if expect.reason is not None:
        message = _never_met(expect.reason, config, parts)
        if message:
            context.add(entry.raw, entry.path, ("expect", "reason"), message)
    forwarded = {"upstream", "upstream_path", "upstream_headers"} & expect.model_fields_set
    if expect.status is not None and forwarded:
        message = "a forwarded request has no status here: no upstream is asked"
        context.add(entry.raw, entry.path, ("expect", "status"), message)


def _asked(entry: Entry, parts: Parts, context: Context) -> None:
    """The policy that a test says has accepted the client."""
    name = entry.values.request.auth if entry.values is not None else None
    if name is not None and name not in parts.auth:
        message = f"there is no auth policy {name!r}{nearest(name, parts.auth, parts.auth)}"
        context.add(entry.raw, entry.path, ("request", "auth"), message)


def _expected(entry: Entry) -> model.TestExpect | None:
    if entry.values is not None:
        expect: model.TestExpect = entry.values.expect
        return expect
    written = entry.raw.get("expect") if isinstance(entry.raw, Map) else None
    # What is wrong in it was told when the whole test was read.
    return Context([]).read(answers.TestExpect, written, "") if isinstance(written, Map) else None


def _never_met(word: str, config: effective.Config, parts: Parts) -> str:
    """Why no inline test can meet this reason; empty if one can."""
    words = reasons.reasons()
    if word not in words:
        if word in _LATER_REASONS:
            return f"{word} is not supported yet: nothing answers so"
        return f"{word!r} is no reason{nearest(word, words)}"
    if issubclass(words[word], _NEEDS_OTHERS):
        return (
            f"{word} can not be met by an inline test: it takes load, time or a connection, and nothing is sent "
            "here; expect route or upstream instead"
        )
    if any(entry.left_out or entry.values is None for entry in parts.routes):
        return ""
    if word in _ENTRANCE and not any(_ENTRANCE[word](one.policies) for one in config.routes):
        return f"{word} can not be expected: no route has what refuses so"
    if word == reasons.FaultInjected.reason and not any(map(certain_abort, config.routes)):
        return (
            f"{word} can not be expected: no route has a fault.abort with percent: 100, and what meets "
            "another one is chance"
        )
    return ""


def certain_abort(route: effective.Route) -> model.Abort | None:
    """`fault.abort` of a route whose every request it refuses."""
    fault = route.policies.fault
    if fault is None or fault.abort is None or fault.abort.percent < 100:
        return None
    return fault.abort
