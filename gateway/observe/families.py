"""The metrics as Prometheus sees them, made of the meters when somebody scrapes.

Rules of this file: it reads meters and counts nothing, and copies each dict before it walks it, so
that it may run in a thread beside the event loop that counts. Names, labels and help texts are in
catalogue.py.
"""

from __future__ import annotations

import itertools
import math
import platform
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client import exposition as text_format
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gateway import __version__
from gateway.observe.catalogue import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prometheus_client import Metric

    from gateway.observe.entrance import Entrance
    from gateway.observe.metrics import Histogram, Metrics, RouteMeter, UpstreamMeter
    from gateway.upstream.breaker import Breaker
    from gateway.upstream.upstream import Target


CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx", "5xx", "5xx", "5xx", "5xx")
"""Status classes by status // 100. RFC 9110 section 15: a code outside the known classes is treated
as 5xx.
"""
_OWN_WORKER = "0"


class _Page:
    """All families of one scrape, being filled."""

    def __init__(self) -> None:
        self.values: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        self.histograms: dict[str, HistogramMetricFamily] = {}
        self.infos: dict[str, InfoMetricFamily] = {}
        for name, kind, labels, text in CATALOGUE:
            if kind == "counter":
                self.values[name] = CounterMetricFamily(name, text, labels=labels)
            elif kind == "gauge":
                self.values[name] = GaugeMetricFamily(name, text, labels=labels)
            elif kind == "histogram":
                self.histograms[name] = HistogramMetricFamily(name, text, labels=labels)
            else:
                self.infos[name] = InfoMetricFamily(name.removesuffix("_info"), text)

    def add(self, name: str, value: float, *labels: str) -> None:
        self.values[name].add_metric(labels, value)

    def add_histogram(self, name: str, histogram: Histogram, *labels: str) -> None:
        counts, total = histogram.read()
        words = [*map(floatToGoString, histogram.bounds), "+Inf"]
        self.histograms[name].add_metric(
            labels, [*zip(words, itertools.accumulate(counts), strict=True)], total
        )

    def add_info(self, name: str, **labels: str) -> None:
        self.infos[name].add_metric((), labels)

    def families(self) -> Iterable[Metric]:
        return (*self.values.values(), *self.histograms.values(), *self.infos.values())


class GatewayCollector(Collector):
    """Reads the meters when the registry is asked."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """Every family of CATALOGUE."""
        metrics, page = self._metrics, _Page()
        for route in list(metrics.routes.values()):
            _add_route(page, route)
        for upstream in list(metrics.upstreams.values()):
            _add_upstream(page, upstream)
            _add_source(page, upstream)
        _add_entrance(page, metrics.entrance)
        _add_worker(page, metrics)
        return page.families()


def _add_route(page: _Page, route: RouteMeter) -> None:
    name = route.name
    for (method, status, source), cell in list(route.cells.items()):
        page.add("gateway_requests_total", cell.count, name, method, str(status), source)
    for (method, status_class), histogram in list(route.durations.items()):
        page.add_histogram(
            "gateway_request_duration_seconds", histogram, name, method, status_class
        )
    page.add_histogram("gateway_overhead_seconds", route.overhead, name)
    for reason, count in list(route.errors.items()):
        page.add("gateway_errors_total", count, name, reason)
    for reason, count in list(route.reported.items()):
        page.add("gateway_would_refuse_total", count, name, reason)
    for importance, count in list(route.shed.items()):
        page.add("gateway_shed_total", count, name, importance)
    for result, count in list(route.mirrored.items()):
        page.add("gateway_mirror_requests_total", count, name, result)
    for kind, count in list(route.mismatches.items()):
        page.add("gateway_mirror_mismatches_total", count, name, kind)
    page.add("gateway_requests_in_flight", route.in_flight, name)
    page.add("gateway_websockets_in_flight", route.websockets, name)
    page.add("gateway_request_bytes_total", route.bytes_in, name)
    page.add("gateway_response_bytes_total", route.bytes_out, name)


def _add_upstream(page: _Page, upstream: UpstreamMeter) -> None:
    name = upstream.name
    for meter in {id(one): one for one in list(upstream.targets.values())}.values():
        by_class = [*meter.by_class[:5], sum(meter.by_class[5:])]
        for word, count in zip(CLASSES, by_class, strict=False):
            if count:
                page.add("gateway_upstream_requests_total", count, name, meter.label, word)
        for result, count in list(meter.checks.items()):
            page.add("gateway_health_checks_total", count, name, meter.label, result)
        if meter.ejections:
            page.add("gateway_upstream_ejections_total", meter.ejections, name, meter.label)
    for status_class, histogram in list(upstream.heads.items()):
        page.add_histogram(
            "gateway_upstream_request_duration_seconds", histogram, name, status_class
        )
    page.add_histogram("gateway_upstream_time_to_last_byte_seconds", upstream.last_bytes, name)
    page.add_histogram("gateway_pool_wait_seconds", upstream.waits, name)
    page.add("gateway_upstream_connections_opened_total", upstream.opened, name)
    page.add("gateway_upstream_connections_reused_total", upstream.reused, name)
    page.add("gateway_retry_budget_exhausted_total", upstream.budget_exhausted, name)
    for (reason, outcome), count in list(upstream.retries.items()):
        page.add("gateway_retries_total", count, name, reason, outcome)
    for outcome, count in list(upstream.hedges.items()):
        page.add("gateway_hedges_total", count, name, outcome)


ALL_TARGETS = "_all"
"""Stands for the target where something is the upstream's own."""


class _Label:
    """What is said of one target, or of all those that share a label."""

    def __init__(self) -> None:
        self.up = 1
        self.weight = 0
        self.circuit: int | None = None
        self.limit: float | None = None

    def add(self, target: Target, whole: Breaker | None) -> None:
        self.up = min(self.up, int(target.available))
        self.weight += target.weight
        if target.breaker is not None and target.breaker is not whole:
            self.circuit = max(self.circuit or 0, target.breaker.state)
        if target.limit is not None and math.isfinite(target.limit.shown):
            self.limit = (self.limit or 0) + target.limit.shown


def _add_source(page: _Page, upstream: UpstreamMeter) -> None:
    source = upstream.source
    if source is None:
        return
    name, whole = upstream.name, source.breaker
    labels: dict[str, _Label] = {}
    opened = idle = ejected = 0
    queued = len(source.concurrency.waiting)
    for target in source.targets:
        # Not `upstream.target`: that may change it, and this may be another thread.
        meter = upstream.targets.get(target.name)
        if meter is not None:
            labels.setdefault(meter.label, _Label()).add(target, whole)
        opened += target.connections.open
        idle += len(target.connections.resting)
        queued += len(target.connections.waiting)
        ejected += bool(target.ejected_until)
    for label, said in labels.items():
        _add_target(page, name, label, said)
    if whole is not None:
        page.add("gateway_circuit_state", whole.state, name, ALL_TARGETS)
    page.add("gateway_upstream_ejected", ejected, name)
    page.add("gateway_upstream_connections", opened - idle, name, "active")
    page.add("gateway_upstream_connections", idle, name, "idle")
    page.add("gateway_queue_length", queued, name)


def _add_target(page: _Page, upstream: str, label: str, said: _Label) -> None:
    page.add("gateway_upstream_target_up", said.up, upstream, label)
    page.add("gateway_upstream_target_weight", said.weight, upstream, label)
    if said.circuit is not None:
        page.add("gateway_circuit_state", said.circuit, upstream, label)
    if said.limit is not None:
        page.add("gateway_concurrency_limit", said.limit, upstream, label)


def _add_entrance(page: _Page, entrance: Entrance) -> None:
    for policy in list(entrance.policies.values()):
        page.add("gateway_auth_decisions_total", policy.ok, policy.name, "ok")
        for outcome, count in list(policy.outcomes.items()):
            page.add("gateway_auth_decisions_total", count, policy.name, outcome)
        for result, count in list(policy.refreshes.items()):
            page.add("gateway_jwks_refresh_total", count, policy.name, result)
        if policy.keys_age is not None:
            page.add("gateway_jwks_age_seconds", policy.keys_age(), policy.name)
    for limit in list(entrance.limits.values()):
        page.add("gateway_rate_limit_decisions_total", limit.allowed, limit.name, "allowed")
        for decision, count in list(limit.decisions.items()):
            page.add("gateway_rate_limit_decisions_total", count, limit.name, decision)
    for (listener, reason), count in list(entrance.refused.items()):
        page.add("gateway_connections_refused_total", count, listener, reason)
    for names, end in list(entrance.certificates.items()):
        page.add("gateway_tls_certificate_not_after_timestamp_seconds", end, names)


def _add_worker(page: _Page, metrics: Metrics) -> None:
    for result, count in metrics.reloads.items():
        page.add("gateway_config_reloads_total", count, result)
    page.add("gateway_config_last_reload_successful", int(metrics.last_reload_successful))
    page.add("gateway_config_last_success_timestamp_seconds", metrics.last_success)
    page.add("gateway_access_log_dropped_total", metrics.access_log_dropped)
    for metric, count in list(metrics.label_values_dropped.items()):
        page.add("gateway_label_values_dropped_total", count, metric)
    page.add_histogram("gateway_event_loop_lag_seconds", metrics.loop_lag, _OWN_WORKER)
    page.add_info("gateway_config_info", hash=metrics.digest, generation=str(metrics.generation))
    page.add_info(
        "gateway_build_info",
        version=__version__,
        python=platform.python_version(),
        aiohttp=version_of("aiohttp"),
        loop=metrics.loop,
    )


def registry(metrics: Metrics) -> CollectorRegistry:
    """A registry with the gateway's own metrics and those of the process and the interpreter."""
    made = CollectorRegistry()
    made.register(GatewayCollector(metrics))
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    GCCollector(registry=made)
    return made


def exposition(registered: CollectorRegistry, accept: str | None) -> tuple[bytes, str]:
    """The page and its content type; see `Metrics.exposition`."""
    if prefers_openmetrics(accept or ""):
        page: bytes = openmetrics.generate_latest(registered)  # type: ignore[no-untyped-call]
        return page, openmetrics.CONTENT_TYPE_LATEST
    return text_format.generate_latest(registered), text_format.CONTENT_TYPE_PLAIN_0_0_4


def prefers_openmetrics(accept: str) -> bool:
    """Whether Accept (RFC 9110 section 12.5.1) ranks OpenMetrics no lower than plain text."""
    quality = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for entry in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in entry.split(";"))
        if kind in quality:
            quality[kind] = max(quality[kind], _quality(parameters))
    return quality["application/openmetrics-text"] >= max(quality["text/plain"], 0.001)


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0
