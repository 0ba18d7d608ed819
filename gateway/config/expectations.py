"""What an inline test may expect: names that exist, words of the closed list, and what can be known.

Rules of this file: what is expected is compared with the configuration here, with what happens in
`inline_tests.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway import errors as reasons
from gateway.config.words import nearest

if TYPE_CHECKING:
    from gateway.config import effective, model
    from gateway.config.loading import Entry, Parts
    from gateway.config.report import Context

_LATER_REASONS = frozenset(
    (
        *("unauthenticated", "forbidden", "ip_denied", "rate_limited", "auth_unavailable"),
        *("overloaded", "queue_full", "queue_timeout", "fault_injected", "plugin_error"),
        "invalid_request_schema",
    )
)
"""Words of the closed list for failures that are not built: such a test could never pass."""


def check(entry: Entry, config: effective.Config, parts: Parts, context: Context) -> None:
    """One test, if it could be read."""
    if entry.values is None:
        return
    expect: model.TestExpect = entry.values.expect
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
    words = reasons.reasons()
    if expect.reason in _LATER_REASONS - words.keys():
        message = f"{expect.reason} is not supported yet: nothing answers so"
        context.add(entry.raw, entry.path, ("expect", "reason"), message)
    elif expect.reason is not None and expect.reason not in words:
        message = f"{expect.reason!r} is no reason{nearest(expect.reason, words)}"
        context.add(entry.raw, entry.path, ("expect", "reason"), message)
    forwarded = {"upstream", "upstream_path", "upstream_headers"} & expect.model_fields_set
    if expect.status is not None and forwarded:
        message = "a forwarded request has no status here: no upstream is asked"
        context.add(entry.raw, entry.path, ("expect", "status"), message)
