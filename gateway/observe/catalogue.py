"""Every metric: what it is called, which labels it has, what it tells.

Rules of this file: a metric that is not in CATALOGUE does not exist. docs/reference/metrics.md is made
from it.
"""

from __future__ import annotations

from typing import NamedTuple


class Declared(NamedTuple):
    """One metric: what it is called, what it tells."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


CATALOGUE = (
    Declared(
        "gateway_requests_total",
        "counter",
        ("route", "method", "status", "source"),
        "Requests by the status that went out and by who made that head: "
        "upstream, gateway, or client (499: it left before there was one).",
    ),
    Declared(
        "gateway_request_duration_seconds",
        "histogram",
        ("route", "method", "status_class"),
        "From the parsed request head to the last byte of the reply; for a WebSocket to its 101.",
    ),
    Declared(
        "gateway_overhead_seconds",
        "histogram",
        ("route",),
        "The gateway's own share of a forwarded request: "
        "head parsed to request written, and upstream head read to head written.",
    ),
    Declared(
        "gateway_upstream_request_duration_seconds",
        "histogram",
        ("upstream", "status_class"),
        "From the written request to the upstream's response head.",
    ),
    Declared(
        "gateway_upstream_time_to_last_byte_seconds",
        "histogram",
        ("upstream",),
        "From the written request to the last byte of the upstream's response.",
    ),
    Declared(
        "gateway_errors_total",
        "counter",
        ("route", "reason"),
        "Requests that failed, once each, by the reason that the client was told.",
    ),
    Declared(
        "gateway_would_refuse_total",
        "counter",
        ("route", "reason"),
        "Requests that went on although a policy in mode: report would have refused them, by the reason for it.",
    ),
    Declared(
        "gateway_requests_in_flight",
        "gauge",
        ("route",),
        "Requests under way, WebSockets excepted.",
    ),
    Declared(
        "gateway_websockets_in_flight", "gauge", ("route",), "Upgraded connections that are open."
    ),
    Declared("gateway_request_bytes_total", "counter", ("route",), "Bytes of request bodies."),
    Declared("gateway_response_bytes_total", "counter", ("route",), "Bytes of response bodies."),
    Declared(
        "gateway_upstream_requests_total",
        "counter",
        ("upstream", "target", "status_class"),
        "Tries at a target, by the status class of what came back, or none.",
    ),
    Declared(
        "gateway_upstream_target_up",
        "gauge",
        ("upstream", "target"),
        "Whether a target may be chosen: 1, else 0 (down, ejected, draining, or its circuit is open).",
    ),
    Declared(
        "gateway_upstream_target_weight", "gauge", ("upstream", "target"), "Weight as configured."
    ),
    Declared(
        "gateway_upstream_ejections_total",
        "counter",
        ("upstream", "target"),
        "How often a target was set aside because real requests failed.",
    ),
    Declared("gateway_upstream_ejected", "gauge", ("upstream",), "Targets that are set aside now."),
    Declared(
        "gateway_health_checks_total",
        "counter",
        ("upstream", "target", "result"),
        "Active checks: pass, fail, timeout.",
    ),
    Declared(
        "gateway_circuit_state",
        "gauge",
        ("upstream", "target"),
        "Circuit breaker: 0 closed, 1 half-open, 2 open; target _all is that of the whole upstream.",
    ),
    Declared(
        "gateway_concurrency_limit",
        "gauge",
        ("upstream", "target"),
        "Requests that a target is given at once; with adaptive: report, what it would be given.",
    ),
    Declared(
        "gateway_upstream_connections",
        "gauge",
        ("upstream", "state"),
        "Connections to an upstream: active (on lease or being made) and idle.",
    ),
    Declared(
        "gateway_upstream_connections_opened_total",
        "counter",
        ("upstream",),
        "Connections that were made.",
    ),
    Declared(
        "gateway_upstream_connections_reused_total",
        "counter",
        ("upstream",),
        "How often a request was given a connection that had served one before.",
    ),
    Declared(
        "gateway_pool_wait_seconds",
        "histogram",
        ("upstream",),
        "How long requests waited for a connection; those that found one at once are not in it.",
    ),
    Declared(
        "gateway_queue_length",
        "gauge",
        ("upstream",),
        "Requests that wait now, for a connection or for room under the concurrency limit.",
    ),
    Declared(
        "gateway_retries_total",
        "counter",
        ("upstream", "reason", "outcome"),
        "Tries that failed where another came, or could have come: "
        "success, failure, no_budget, not_replayable.",
    ),
    Declared(
        "gateway_retry_budget_exhausted_total",
        "counter",
        ("upstream",),
        "How often a second try was wanted and the retry budget was spent.",
    ),
    Declared(
        "gateway_hedges_total",
        "counter",
        ("upstream", "outcome"),
        "Second tries that were due before the first had failed: won, lost, not_sent.",
    ),
    Declared(
        "gateway_shed_total",
        "counter",
        ("route", "importance"),
        "Requests that were refused because the event loop was late.",
    ),
    Declared(
        "gateway_mirror_requests_total",
        "counter",
        ("route", "result"),
        "Copies of requests, by how the other upstream did: match, mismatch, failed, dropped.",
    ),
    Declared(
        "gateway_mirror_mismatches_total",
        "counter",
        ("route", "kind"),
        "What differed between an answer and that to its copy: status, header, body.",
    ),
    Declared(
        "gateway_auth_decisions_total",
        "counter",
        ("policy", "outcome"),
        "Credentials, by what came of them: ok, missing, malformed, expired, inactive, bad_signature, wrong_audience, "
        "unknown_key, forbidden, provider_error, would_deny.",
    ),
    Declared(
        "gateway_rate_limit_decisions_total",
        "counter",
        ("limit", "decision"),
        "Requests that a limit was asked about: allowed, denied, would_deny, store_error.",
    ),
    Declared(
        "gateway_jwks_refresh_total",
        "counter",
        ("policy", "result"),
        "Fetches of an issuer's keys: success, failure.",
    ),
    Declared(
        "gateway_jwks_age_seconds",
        "gauge",
        ("policy",),
        "How long ago the keys that are in use were fetched.",
    ),
    Declared(
        "gateway_connections_refused_total",
        "counter",
        ("listener", "reason"),
        "Connections that ended before HTTP: proxy_header, handshake, client_certificate, plain_http.",
    ),
    Declared(
        "gateway_tls_certificate_not_after_timestamp_seconds",
        "gauge",
        ("names",),
        "Unix time at which a certificate in use ends, by the names in it.",
    ),
    Declared("gateway_config_reloads_total", "counter", ("result",), "Reloads: success, failure."),
    Declared(
        "gateway_config_last_reload_successful",
        "gauge",
        (),
        "Whether the last reload (or the start) was taken: 1, else 0.",
    ),
    Declared(
        "gateway_config_last_success_timestamp_seconds",
        "gauge",
        (),
        "Unix time since which the present configuration serves.",
    ),
    Declared(
        "gateway_config_info", "info", ("hash", "generation"), "The configuration that serves."
    ),
    Declared("gateway_build_info", "info", ("version", "python", "aiohttp", "loop"), "What runs."),
    Declared(
        "gateway_event_loop_lag_seconds",
        "histogram",
        ("worker",),
        "How late a timer of the event loop fired; ten samples a second.",
    ),
    Declared(
        "gateway_access_log_dropped_total",
        "counter",
        (),
        "Lines that were not written, since the writer could not keep up.",
    ),
    Declared(
        "gateway_label_values_dropped_total",
        "counter",
        ("metric",),
        "How often a label value was folded into _other, since max_label_values was reached.",
    ),
)
