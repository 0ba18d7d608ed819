"""The pages metrics, reasons, events and access-log of docs/reference, made from what the code itself
declares.

Rules of this file: the only words here are those that the code does not need: what to look at when a
reason or an event is seen. `python -m gateway.observe.reference FOLDER` writes the pages; a test holds them
against what stands in docs/reference.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.errors import ClientError, Overload, UpstreamError, reasons
from gateway.observe.catalogue import CATALOGUE
from gateway.observe.events import KINDS, MOST
from gateway.observe.lines import FIELDS
from gateway.observe.masks import HEADERS, QUERY
from gateway.observe.metrics import LAG_BUCKETS, OVERHEAD_BUCKETS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.errors import GatewayError

ADVICE = {
    "no_route": "No route takes this host, path and method. `gateway explain METHOD URL` shows "
    "every route that was considered and the first condition that failed in it.",
    "not_found": "A `static` route found no such file below its `root`.",
    "method_not_allowed": "A route matches but for its `methods`; `Allow` lists those that would.",
    "bad_request": "The head can not be parsed or could be read in two ways, such as two lengths, "
    "or a path whose normal form belongs to another route (`server.ambiguous_paths`).",
    "body_too_large": "More body than `body.max`, said in Content-Length or found while reading.",
    "uri_too_long": "A path and query longer than `server.limits.request_line`; the method and the version do not "
    "count.",
    "head_too_large": "More header fields than `server.limits.headers`, or a head longer than "
    "`server.limits.request_head`.",
    "misdirected": "The request names a host that this connection is not for.",
    "unauthenticated": "None of the route's `auth` policies knows the client. "
    "`gateway_auth_decisions_total` tells why, by policy.",
    "forbidden": "The client is known, but the route's `allow` does not let it through.",
    "ip_denied": "The client's address is not in `allow.ip`, or is in `allow.deny_ip`.",
    "rate_limited": "A limit of the route is used up; `Retry-After` tells until when.",
    "auth_unavailable": "An identity provider, a forward-auth service or a store does not answer. "
    '`gateway_auth_decisions_total{outcome="provider_error"}` counts it by policy.',
    "not_implemented": "The request asks for something that no part of the gateway does, such as "
    "CONNECT or an unknown transfer coding.",
    "client_timeout": "The client was too slow with its head (`server.limits.header_timeout`), its "
    "body (`server.limits.body_idle`, `body_min_rate`), or in reading the reply.",
    "client_closed": "The client left before the reply was complete. Many of them point to an "
    "upstream that is slower than its clients' patience.",
    "loop_detected": "The request has passed this gateway before: a target leads back to it.",
    "too_many_connections": "`server.limits.connections` or `connections_per_ip` is reached.",
    "pool_timeout": "All `pool.max` connections to the target were busy for `timeouts.pool_wait`. "
    "The upstream is slower than its traffic, or the pool is too small.",
    "queue_full": "Every target has `concurrency.per_target` requests, or as many as the adaptive limit "
    "allows, and `concurrency.queue` more wait already.",
    "queue_timeout": "No target had room for one more request within `concurrency.queue_timeout`.",
    "shutting_down": "The gateway drains: it was told to stop.",
    "no_healthy_target": "Active checks call every target down, or all are ejected or draining. "
    "`gateway upstreams` says which, why and since when.",
    "circuit_open": "So many tries have failed of late that none is made for `circuit.open`; then "
    "a few are let through, and the circuit closes if they pass.",
    "overloaded": "The event loop was late for longer than `server.overload` allows, and the route's "
    "`importance` is one of those that are refused then. `gateway_event_loop_lag_seconds` shows it.",
    "dns_error": "The target's host name has no address, or no name server answered.",
    "connect_refused": "Nothing listens at the target's address, or it can not be reached.",
    "connect_timeout": "No connection (name, TCP and TLS) within `timeouts.connect`.",
    "tls_error": "The target's certificate is not trusted or names another host, or the two sides "
    "have no TLS version in common. See `tls.ca`, `tls.server_name`.",
    "upstream_reset": "The connection ended before the response was complete: the upstream has "
    "crashed, was restarted, or closes idle connections sooner than `pool.idle`.",
    "upstream_header_timeout": "No response head within `timeouts.first_byte` of the last request "
    "byte, or within `retry.per_try`.",
    "total_timeout": "The request was not done within `timeouts.total`, all tries together.",
    "upstream_body_timeout": "Nothing came for `timeouts.idle` in the middle of a response body.",
    "upstream_bad_response": "What the upstream sent is no valid HTTP/1.1 response.",
    "response_too_large": "The upstream's response head is larger than can be passed on.",
    "websocket_timeout": "A WebSocket was idle for `websocket.idle` or older than "
    "`websocket.max_age`; it was closed.",
    "fault_injected": "The route's `fault.abort` refused a share of its requests on purpose.",
    "internal_error": "A mistake in the gateway itself. The service log has the traceback, under "
    "the same request id.",
}
"""What each reason means for who reads it in a log."""

_GENERATED = "<!-- Made by `python -m gateway.observe.reference docs/reference`. -->\n"


def metrics_page() -> str:
    """The text of metrics.md."""
    rows = [
        f"| `{one.name}` | {one.kind} | {', '.join(one.labels) or '–'} | {one.help} |"
        for one in CATALOGUE
    ]
    return f"""# Metrics

{_GENERATED}
`/metrics` of the admin listener, in Prometheus' text format or, where `Accept` prefers it, in
OpenMetrics. Metrics of the process (`process_*`) and the interpreter (`python_*`) are there too.

| Metric | Type | Labels | What it tells |
|---|---|---|---|
{_lines(rows)}

## Labels

- `route` and `upstream` are names of the configuration; an upstream without a name bears its
  route's. Requests that no route takes have the route `_none`.
- `target` is host:port as configured, or `unix:` and a path.
- `method` is one of RFC 9110's or PATCH, else `_other`.
- `status` is what went out; 499 stands for a client that left before any head did. `source` tells
  who made that head: `upstream`, `gateway`, or `client` with 499.
- `reason` is one of the [reasons](reasons.md).
- No label has more than `observability.metrics.max_label_values` values (200). What is beyond
  stands together under `_other`, and `gateway_label_values_dropped_total` counts how often.

## Buckets

Histograms have the buckets of `observability.metrics.buckets`, but for two, whose values are far
smaller: `gateway_overhead_seconds` ({_seconds(OVERHEAD_BUCKETS)}) and
`gateway_event_loop_lag_seconds` ({_seconds(LAG_BUCKETS)}). When a reload changes the buckets, the
histograms begin at zero; counters go on.

## When it is counted

- A request is counted when its last byte is out, or when its client is gone; a WebSocket at its
  101, and its duration ends there. What goes through it adds to the bytes when it ends.
- `gateway_errors_total` counts a request once, with the reason that its client was told. Tries that
  failed and were repeated are in `gateway_retries_total`.
- `gateway_upstream_requests_total` counts tries, so it is more than the requests where some were
  repeated.
"""


def reasons_page() -> str:
    """The text of reasons.md."""
    found = reasons()
    groups = (
        ("The client or its request", ClientError),
        ("No room", Overload),
        ("The upstream or the way to it", UpstreamError),
    )
    parts = []
    for title, kind in groups:
        words = [word for word, error in found.items() if issubclass(error, kind)]
        parts.append(f"## {title}\n\n{_entries(words, found)}")
        for word in words:
            del found[word]
    parts.append(f"## The gateway itself\n\n{_entries(list(found), found)}")
    return f"""# Reasons

{_GENERATED}
A request that fails has one reason: the same word in `gateway_errors_total`, in the access log
(`reason`), in `Proxy-Status` (`details`, RFC 9209) and in the problem+json body. The status is
what the client is sent if no head is out yet; a reply that breaks off keeps its status and has
a reason.

{_lines(parts)}
## Of tries, not of requests

### upstream_idle_closed

Stands in `gateway_retries_total` only: a reused connection ended before any byte of a response,
since the upstream closes idle connections sooner than `pool.idle`. The request is sent once more
on a fresh connection; where that can not be done safely, the client is told `upstream_reset`.
"""


def _entries(words: Sequence[str], found: dict[str, type[GatewayError]]) -> str:
    return _lines([_entry(word, found[word]) for word in sorted(words)])


def _entry(word: str, error: type[GatewayError]) -> str:
    kind = f"`{error.proxy_error}`" if error.proxy_error else "none"
    return (
        f"### {word}\n\n"
        f"`{word}` · status {_status(word, error)} · RFC 9209 type {kind}\n\n"
        f"{error.title}. {ADVICE[word]}\n"
    )


def _status(word: str, error: type[GatewayError]) -> str:
    told = {
        "fault_injected": "as configured",
        "client_closed": "499, in logs and metrics only",
        "websocket_timeout": "101, for it has gone out long before",
        "upstream_body_timeout": "that of the head that is out; the body breaks off",
    }
    return told.get(word, str(error.status))


def _seconds(buckets: Sequence[float]) -> str:
    return ", ".join(f"{bound * 1000:g} ms" for bound in buckets)


def _names(names: frozenset[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _lines(lines: Sequence[str]) -> str:
    return "\n".join(lines)


def access_log_page() -> str:
    """The text of access-log.md."""
    rows = [f"| `{name}` | {FIELD_HELP[name]} |" for name in FIELDS]
    return f"""# Access log

{_GENERATED}
One line a request, written when its last byte is out or its client is gone; of a WebSocket, when it
has ended. To standard output, or to `file:`, which is opened again at SIGUSR1. When the writer can
not keep up, lines are dropped and counted in `gateway_access_log_dropped_total`, never requests.

| Field | What it tells |
|---|---|
{_lines(rows)}

- `format: json` has every field, in this order; `null` where there is nothing to tell.
- `format: combined` is Apache's.
- Any other text is a template: each field is a placeholder, such as `{{status}}`, and so are
  `{{scheme}}`, `{{path.NAME}}`, `{{query.NAME}}`, `{{header.NAME}}` and `{{cookie.NAME}}`;
  `{{reason|-}}` gives a default.
- `fields.add` adds to each format, by name: `add: {{tenant: "{{header.x-tenant}}"}}`.
- Control characters are escaped in every format, and in the last two quotes and backslashes too.
- `sample` keeps a share of the successes and of the errors (statuses from 400, and whatever has a
  reason); what took longer than `slower_than` is always kept.

## What is masked

Always, with `***`: the headers {_names(HEADERS)}, and the query parameters {_names(QUERY)}, in the
`referer` too. `fields.mask` adds to them: `mask: [header.x-tenant, cookie.sid, query.sig]`.
"""


FIELD_HELP = {
    "time": "when the line was made: RFC 3339, UTC, milliseconds",
    "request_id": "the same as in the answer's request id header",
    "trace_id": "of the request's `traceparent`",
    "client_ip": "the client behind trusted proxies; `unix` on a unix socket",
    "method": "as it came",
    "host": "asked for; lower case, no port",
    "path": "as it came, undecoded",
    "query": "as it came, undecoded, secrets masked",
    "protocol": "`HTTP/1.1` or `HTTP/1.0`",
    "status": "what went out; 499 if the client left before",
    "source": "who made the head: `upstream`, `gateway`, `client` with 499",
    "reason": "why it failed: one of the [reasons](reasons.md)",
    "route": "its name; `_none` where none matched",
    "upstream": "its name",
    "target": "host:port of the last try",
    "consumer": "who asks, where the route has `auth`",
    "duration_ms": "from the parsed head to the last byte",
    "overhead_ms": "the gateway's own share of a forwarded request, to its head",
    "upstream_ms": "from the written request to the upstream's head",
    "attempts": "tries at targets",
    "bytes_in": "of the request's body",
    "bytes_out": "of the reply's body",
    "user_agent": "as it came",
    "referer": "as it came, secrets masked",
    "tls": "the version, such as `TLSv1.3`; null without TLS",
    "detail": "why exactly, behind `reason`: which policy, which target, which limit. For operators: clients are told this "
    "only with `errors.expose_reason`",
}
EVENT_HELP = {
    "target_down": "Active checks have failed `health.fall` times in a row: nothing is sent to it.",
    "target_up": "Checks have passed `health.rise` times in a row: it is back.",
    "ejected": "Real requests have failed at this target, and `eject` sets it aside for the time told.",
    "restored": "The time of an ejection is over, or a check has passed.",
    "circuit_opened": "Too much has failed: nothing is sent for `circuit.open`. Without a target it is "
    "the whole upstream's.",
    "circuit_half_open": "A few requests are let through, to try.",
    "circuit_closed": "They have succeeded.",
    "targets_changed": "Discovery has found other targets than before.",
    "discovery_failed": "No name server has answered, or the list can not be read: the last good "
    "targets stay.",
    "discovery_recovered": "It answers again.",
    "jwks_failed": "The keys of a policy of `auth` could not be fetched or read: the last good ones stay.",
    "jwks_recovered": "They can be had again.",
    "panic_on": "Fewer targets than `panic` are left: ejections are set aside.",
    "panic_off": "Enough are left again.",
    "reloaded": "Another configuration serves.",
    "reload_failed": "A configuration was refused: the one before serves on.",
    "draining": "The gateway was told to stop.",
    "shed_on": "The event loop is late: requests of this `importance` are refused.",
    "shed_off": "They are let in again.",
    "certificate_reloaded": "Files of a listener's `tls` have changed: new connections are served the new ones.",
    "certificate_failed": "They have changed and can not be used: the certificates from before serve on.",
    "certificate_expiring": "A certificate ends in less than 21 days, has ended, or is not valid yet. Told "
    "at load and once a day.",
    "auth_file_failed": "A file of keys or passwords can not be read, or is wrong: what it held before "
    "counts on, so a key that was taken out of it since still lets in.",
    "auth_file_reloaded": "A file of keys or passwords has changed, and counts as it is now.",
    "auth_service_failed": "The service of a `forward_auth` gives no verdict: `on_error` says what becomes of requests. "
    "Told once in ten seconds.",
    "login_failed": "A login of an `oidc` could not begin, or has failed after its user had come back: why is told here, "
    "and not to the client. Told once in ten seconds.",
    "store_failed": "A store of `stores` does not answer: its limits go by its `on_error`, and it is left alone.",
    "store_recovered": "It answers again, and counts again.",
}


def events_page() -> str:
    """The text of events.md."""
    rows = [f"| `{kind}` | {EVENT_HELP[kind]} |" for kind in KINDS]
    return f"""# Events

{_GENERATED}
What has changed: `/events` of the admin listener has the last {MOST}, newest last. The service log has
each of them too, with the same words.

| Kind | What has happened |
|---|---|
{_lines(rows)}

An event has a `number` (from 1, no gaps: what is missing at the beginning has fallen out), `at` (RFC 3339,
UTC), `kind`, `upstream` and `target` where it is about one, and `why`, for people.

- `/events?since=2027-01-31T12:00:00Z`: from that moment on. Seconds since 1970 will do, and so will the
  `at` of the last event seen; that one comes again.
- `/events?upstream=orders`: about one upstream.
"""


PAGES = {
    "events.md": events_page,
    "metrics.md": metrics_page,
    "reasons.md": reasons_page,
    "access-log.md": access_log_page,
}


def write(folder: Path) -> None:
    """Write every page."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/reference"))
