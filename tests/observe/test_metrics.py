from __future__ import annotations

import re
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from gateway.config import model
from gateway.observe.catalogue import CATALOGUE
from gateway.observe.families import prefers_openmetrics
from gateway.observe.metrics import FOLDED_AT, Histogram, Metrics
from gateway.upstream.breaker import State
from tests.kit.programs import need
from tests.observe.stand_in import exchange, refused, samples, source, target

CONTRACT = {
    "gateway_requests_total": "route method status source",
    "gateway_request_duration_seconds": "route method status_class",
    "gateway_overhead_seconds": "route",
    "gateway_upstream_request_duration_seconds": "upstream status_class",
    "gateway_upstream_time_to_last_byte_seconds": "upstream",
    "gateway_errors_total": "route reason",
    "gateway_would_refuse_total": "route reason",
    "gateway_requests_in_flight": "route",
    "gateway_websockets_in_flight": "route",
    "gateway_request_bytes_total": "route",
    "gateway_response_bytes_total": "route",
    "gateway_upstream_requests_total": "upstream target status_class",
    "gateway_upstream_target_up": "upstream target",
    "gateway_upstream_target_weight": "upstream target",
    "gateway_upstream_ejections_total": "upstream target",
    "gateway_upstream_ejected": "upstream",
    "gateway_health_checks_total": "upstream target result",
    "gateway_circuit_state": "upstream target",
    "gateway_concurrency_limit": "upstream target",
    "gateway_upstream_connections": "upstream state",
    "gateway_upstream_connections_opened_total": "upstream",
    "gateway_upstream_connections_reused_total": "upstream",
    "gateway_pool_wait_seconds": "upstream",
    "gateway_queue_length": "upstream",
    "gateway_retries_total": "upstream reason outcome",
    "gateway_retry_budget_exhausted_total": "upstream",
    "gateway_hedges_total": "upstream outcome",
    "gateway_shed_total": "route importance",
    "gateway_mirror_requests_total": "route result",
    "gateway_mirror_mismatches_total": "route kind",
    "gateway_auth_decisions_total": "policy outcome",
    "gateway_rate_limit_decisions_total": "limit decision",
    "gateway_jwks_refresh_total": "policy result",
    "gateway_jwks_age_seconds": "policy",
    "gateway_connections_refused_total": "listener reason",
    "gateway_tls_certificate_not_after_timestamp_seconds": "names",
    "gateway_config_reloads_total": "result",
    "gateway_config_last_reload_successful": "",
    "gateway_config_last_success_timestamp_seconds": "",
    "gateway_config_info": "hash generation",
    "gateway_build_info": "version python aiohttp loop",
    "gateway_event_loop_lag_seconds": "worker",
    "gateway_access_log_dropped_total": "",
    "gateway_label_values_dropped_total": "metric",
}


def made(**settings: Any) -> Metrics:
    return Metrics(model.Metrics(**settings))


def busy() -> Metrics:
    """Metrics in which every family has a sample."""
    metrics = made()
    route = metrics.route("orders")
    route.begin()
    route.finish(exchange(bytes_in=3, bytes_out=5, report=("circuit_open",)))
    metrics.route("_none").finish(refused())
    upstream = metrics.upstream("orders")
    half, limit = SimpleNamespace(state=State.HALF_OPEN), SimpleNamespace(shown=50)
    upstream.source = source(target(waiting=4, breaker=half, limit=limit), waiting=3)
    upstream.target("10.0.0.9:8000").by_class[2] += 1
    upstream.target("10.0.0.9:8000").checks["fail"] += 1
    upstream.target("10.0.0.9:8000").ejections += 1
    upstream.head(0.002, 200)
    upstream.last_byte(0.003)
    upstream.waited(0.01)
    upstream.retried("connect_refused", "success")
    upstream.hedges["won"] += 1
    route.shed["low"] += 1
    route.mirrored["mismatch"] += 1
    route.mismatches["status"] += 1
    policy = metrics.entrance.policy("staff")
    policy.ok += 1
    policy.refreshes["success"] += 1
    policy.keys_age = lambda: 3.0
    metrics.entrance.limit("fair").decisions["denied"] += 1
    metrics.entrance.not_let_in("main", "handshake")
    metrics.entrance.certificates["a.test b.test"] = 1_800_000_000.0
    metrics.loaded(1, "0123456789ab", 1_700_000_000.0, reload=False)
    metrics.loop_lag.observe(0.001)
    metrics.label_values_dropped["gateway_requests_total"] += 1
    return metrics


# ── names ──


def test_every_metric_has_the_name_and_labels_of_the_contract() -> None:
    assert {one.name: " ".join(one.labels) for one in CATALOGUE} == CONTRACT


def test_every_metric_of_the_contract_is_on_the_page_with_its_labels() -> None:
    found: dict[str, set[str]] = {}
    for family in read_text(busy().exposition(None)[0].decode()):
        for sample in family.samples:
            name = sample.name
            if family.type == "histogram":
                name = name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
            found.setdefault(name, set()).update(set(sample.labels) - {"le"})
    ours = {name: " ".join(sorted(labels)) for name, labels in found.items() if "gateway" in name}
    assert ours == {name: " ".join(sorted(text.split())) for name, text in CONTRACT.items()}


def test_promtool_finds_nothing_to_complain_about() -> None:
    page = busy().exposition(None)[0]
    checked = subprocess.run(
        [need("promtool"), "check", "metrics"], input=page, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_metrics_of_the_process_and_the_interpreter_are_there() -> None:
    page = samples(made())
    assert page["process_resident_memory_bytes"] > 0
    assert any(name.startswith("python_info{") for name in page)
    assert any(name.startswith("python_gc_collections_total{") for name in page)


# ── requests ──


def test_a_request_is_counted_by_route_method_status_and_source() -> None:
    metrics = made()
    route = metrics.route("orders")
    for _ in range(2):
        route.begin()
        route.finish(exchange())
    name = 'gateway_requests_total{method="GET",route="orders",source="upstream",status="200"}'
    assert samples(metrics)[name] == 2


def test_a_request_is_in_flight_from_begin_to_finish() -> None:
    metrics = made()
    route = metrics.route("orders")
    route.begin()
    assert samples(metrics)['gateway_requests_in_flight{route="orders"}'] == 1
    route.finish(exchange())
    assert samples(metrics)['gateway_requests_in_flight{route="orders"}'] == 0


def test_a_duration_stands_in_the_bucket_whose_bound_it_meets() -> None:
    histogram = Histogram((1.0, 2.0))
    for seconds in (0.5, 1.0, 1.5, 3.0):
        histogram.observe(seconds)
    assert histogram.read() == ([2, 1, 1], 6.0)


def test_durations_are_cumulative_and_shared_by_statuses_of_a_class() -> None:
    metrics = made(buckets=(0.001, 1))
    route = metrics.route("orders")
    for status in (200, 204):
        route.begin()
        route.finish(exchange(status=status))
    page = samples(metrics)
    name = "gateway_request_duration_seconds"
    labels = 'method="GET",route="orders",status_class="2xx"'
    assert page[f'{name}_bucket{{le="0.001",{labels}}}'] == 0
    assert page[f'{name}_bucket{{le="1.0",{labels}}}'] == 2
    assert page[f'{name}_bucket{{le="+Inf",{labels}}}'] == 2
    assert page[f"{name}_count{{{labels}}}"] == 2
    assert page[f"{name}_sum{{{labels}}}"] == pytest.approx(0.006)


def test_overhead_is_what_the_gateway_itself_took_of_a_forwarded_request() -> None:
    metrics = made()
    route = metrics.route("orders")
    route.begin()
    route.finish(exchange())
    page = samples(metrics)
    assert page['gateway_overhead_seconds_count{route="orders"}'] == 1
    assert page['gateway_overhead_seconds_sum{route="orders"}'] == pytest.approx(0.0002)


def test_an_answer_of_the_gateway_has_no_overhead() -> None:
    metrics = made()
    metrics.route("_none").finish(refused())
    assert samples(metrics)['gateway_overhead_seconds_count{route="_none"}'] == 0


def test_a_failure_is_counted_once_under_the_word_that_the_client_was_told() -> None:
    metrics = made()
    route = metrics.route("orders")
    route.begin()
    route.finish(exchange(reason="upstream_body_timeout"))
    name = 'gateway_errors_total{reason="upstream_body_timeout",route="orders"}'
    assert samples(metrics)[name] == 1


def test_bytes_of_bodies_are_added_up() -> None:
    metrics = made()
    route = metrics.route("orders")
    for _ in range(2):
        route.begin()
        route.finish(exchange(bytes_in=10, bytes_out=100))
    page = samples(metrics)
    assert page['gateway_request_bytes_total{route="orders"}'] == 20
    assert page['gateway_response_bytes_total{route="orders"}'] == 200


def test_a_websocket_is_counted_at_its_101_and_not_again_at_its_end() -> None:
    metrics = made()
    route = metrics.route("chat")
    socket = exchange(route="chat", status=101, upgraded=True, ended=0.0)
    route.begin()
    route.upgraded(socket)
    page = samples(metrics)
    name = 'gateway_requests_total{method="GET",route="chat",source="upstream",status="101"}'
    took = 'gateway_request_duration_seconds_sum{method="GET",route="chat",status_class="1xx"}'
    assert page[name] == 1
    assert page[took] == pytest.approx(0.0022)
    assert page['gateway_requests_in_flight{route="chat"}'] == 0
    assert page['gateway_websockets_in_flight{route="chat"}'] == 1
    socket.ended, socket.bytes_out, socket.reason = 5000.0, 7, "websocket_timeout"
    route.finish(socket)
    page = samples(metrics)
    assert page[name] == 1
    assert page[took] == pytest.approx(0.0022)
    assert page['gateway_websockets_in_flight{route="chat"}'] == 0
    assert page['gateway_response_bytes_total{route="chat"}'] == 7
    assert page['gateway_errors_total{reason="websocket_timeout",route="chat"}'] == 1


def test_requests_without_a_route_are_never_in_flight() -> None:
    metrics = made()
    unmatched = metrics.route("_none")
    unmatched.finish(refused())
    unmatched.begin()
    unmatched.finish(refused())
    page = samples(metrics)
    assert page['gateway_requests_in_flight{route="_none"}'] == 0
    name = 'gateway_requests_total{method="GET",route="_none",source="gateway",status="404"}'
    assert page[name] == 2


# ── labels are bounded ──


def test_a_thousand_invented_methods_are_one_label_value() -> None:
    metrics = made()
    unmatched = metrics.route("_none")
    for number in range(1000):
        unmatched.finish(refused(method=f"BREW{number}"))
    assert len(unmatched.cells) == 1
    name = 'gateway_requests_total{method="_other",route="_none",source="gateway",status="404"}'
    assert samples(metrics)[name] == 1000


def test_statuses_beyond_the_cap_are_one_label_value_and_counted() -> None:
    metrics = made(max_label_values=3)
    route = metrics.route("orders")
    for status in range(200, 300):
        route.begin()
        route.finish(exchange(status=status))
    assert len(route.cells) == 4
    page = samples(metrics)
    name = 'gateway_requests_total{method="GET",route="orders",source="upstream",status="_other"}'
    assert page[name] == 97
    dropped = 'gateway_label_values_dropped_total{metric="gateway_requests_total"}'
    assert page[dropped] == 97


def test_routes_beyond_the_cap_share_one_meter() -> None:
    metrics = made(max_label_values=2)
    meters = [metrics.route(f"r{number}") for number in range(5)]
    assert meters[2] is meters[3] is meters[4]
    assert meters[0] is not meters[1]
    page = samples(metrics)
    assert page['gateway_requests_in_flight{route="_other"}'] == 0
    assert page['gateway_label_values_dropped_total{metric="gateway_requests_total"}'] == 3


def test_upstreams_and_targets_beyond_the_cap_share_one_meter() -> None:
    metrics = made(max_label_values=2)
    upstreams = [metrics.upstream(f"u{number}") for number in range(4)]
    assert upstreams[2] is upstreams[3]
    targets = [upstreams[0].target(f"10.0.0.{number}:80") for number in range(4)]
    assert targets[2] is targets[3]
    targets[3].by_class[5] += 1
    name = 'gateway_upstream_requests_total{status_class="5xx",target="_other",upstream="u0"}'
    assert samples(metrics)[name] == 1


def test_a_status_beyond_the_known_classes_counts_as_5xx() -> None:
    metrics = made()
    upstream = metrics.upstream("orders")
    upstream.head(0.1, 777)
    upstream.target("a:80").by_class[777 // 100] += 1
    page = samples(metrics)
    head = "gateway_upstream_request_duration_seconds_count"
    assert page[f'{head}{{status_class="5xx",upstream="orders"}}'] == 1
    name = 'gateway_upstream_requests_total{status_class="5xx",target="a:80",upstream="orders"}'
    assert page[name] == 1


# ── upstreams ──


def test_a_try_that_nothing_came_back_from_has_the_class_none() -> None:
    metrics = made()
    metrics.upstream("orders").target("a:80").by_class[0] += 1
    name = 'gateway_upstream_requests_total{status_class="none",target="a:80",upstream="orders"}'
    assert samples(metrics)[name] == 1


def test_hedges_sheds_and_mirrors_are_on_the_page() -> None:
    page = samples(busy())
    assert page['gateway_hedges_total{outcome="won",upstream="orders"}'] == 1
    assert page['gateway_shed_total{importance="low",route="orders"}'] == 1
    assert page['gateway_mirror_requests_total{result="mismatch",route="orders"}'] == 1
    assert page['gateway_mirror_mismatches_total{kind="status",route="orders"}'] == 1


def test_gauges_of_an_upstream_are_read_from_its_targets() -> None:
    page = samples(busy())
    assert page['gateway_upstream_connections{state="active",upstream="orders"}'] == 2
    assert page['gateway_upstream_connections{state="idle",upstream="orders"}'] == 1
    assert page['gateway_queue_length{upstream="orders"}'] == 4 + 3
    labels = 'target="10.0.0.9:8000",upstream="orders"'
    assert page[f"gateway_upstream_target_weight{{{labels}}}"] == 2
    assert page[f"gateway_upstream_target_up{{{labels}}}"] == 1


def test_a_target_that_may_not_be_chosen_is_not_up_and_ejected_ones_are_counted() -> None:
    metrics = made()
    upstream = metrics.upstream("orders")
    upstream.present(("a:80", "b:80", "c:80"))
    states = (("a:80", True, 0.0), ("b:80", False, 12.5), ("c:80", False, 0.0))
    upstream.source = source(
        *(target(name, available=up, ejected_until=until) for name, up, until in states)
    )
    page = samples(metrics)
    up = [page[f'gateway_upstream_target_up{{target="{n}",upstream="orders"}}'] for n, *_ in states]
    assert up == [1, 0, 0]
    assert page['gateway_upstream_ejected{upstream="orders"}'] == 1


def test_ejections_and_checks_are_counted_for_each_target() -> None:
    metrics = made()
    upstream = metrics.upstream("orders")
    upstream.present(("a:80", "b:80"))
    upstream.target("a:80").ejections += 2
    upstream.target("b:80").checks["timeout"] += 3
    page = samples(metrics)
    ejections = "gateway_upstream_ejections_total"
    assert page[f'{ejections}{{target="a:80",upstream="orders"}}'] == 2
    checks = "gateway_health_checks_total"
    assert page[f'{checks}{{result="timeout",target="b:80",upstream="orders"}}'] == 3
    upstream.present(("b:80",))
    assert not any("a:80" in name for name in samples(metrics))


def test_circuits_are_told_for_each_target_or_for_the_whole_upstream() -> None:
    metrics = made()
    upstream = metrics.upstream("orders")
    upstream.present(("a:80", "b:80"))
    opened, whole = SimpleNamespace(state=State.OPEN), SimpleNamespace(state=State.HALF_OPEN)
    upstream.source = source(target("a:80", breaker=opened), target("b:80"))
    found = {name: value for name, value in samples(metrics).items() if "circuit_state" in name}
    assert found == {'gateway_circuit_state{target="a:80",upstream="orders"}': 2}
    targets = (target("a:80", breaker=whole), target("b:80", breaker=whole))
    upstream.source = source(*targets, breaker=whole)
    found = {name: value for name, value in samples(metrics).items() if "circuit_state" in name}
    assert found == {'gateway_circuit_state{target="_all",upstream="orders"}': 1}


def test_a_limit_is_told_where_there_is_one() -> None:
    metrics = made()
    upstream = metrics.upstream("orders")
    limits = {"a:80": 50, "b:80": float("inf"), "c:80": None}
    upstream.present(limits)
    upstream.source = source(
        *(
            target(name, limit=None if most is None else SimpleNamespace(shown=most))
            for name, most in limits.items()
        )
    )
    page = samples(metrics)
    found = {name: value for name, value in page.items() if "concurrency_limit" in name}
    assert found == {'gateway_concurrency_limit{target="a:80",upstream="orders"}': 50}


def test_targets_beyond_the_cap_are_told_together() -> None:
    metrics = made(max_label_values=1)
    upstream = metrics.upstream("orders")
    names = ("a:80", "b:80", "c:80")
    upstream.present(names)
    upstream.source = source(
        *(
            target(
                name,
                available=name != "c:80",
                limit=SimpleNamespace(shown=5),
                breaker=SimpleNamespace(state=int(name == "b:80")),
            )
            for name in names
        )
    )
    for name in names:
        upstream.target(name).ejections += 1
    page = samples(metrics)
    other = '{target="_other",upstream="orders"}'
    assert page[f"gateway_upstream_target_up{other}"] == 0
    assert page[f"gateway_upstream_target_weight{other}"] == 4
    assert page[f"gateway_concurrency_limit{other}"] == 10
    assert page[f"gateway_circuit_state{other}"] == 1
    assert page[f"gateway_upstream_ejections_total{other}"] == 2


def series(metrics: Metrics) -> dict[str, float]:
    """Tries by target that are on the page."""
    found = re.compile(r'gateway_upstream_requests_total\{.*target="([^"]+)".*\}')
    page = samples(metrics)
    return {match[1]: page[name] for name in page if (match := found.match(name))}


def test_a_target_that_has_left_is_off_the_page_and_goes_on_counting_when_it_is_back() -> None:
    metrics = made()
    upstream = metrics.upstream("orders")
    upstream.present(("a:80", "b:80"))
    upstream.target("a:80").by_class[2] += 3
    upstream.target("b:80").by_class[2] += 1
    upstream.present(("b:80",))
    assert series(metrics) == {"b:80": 1}
    upstream.target("a:80").by_class[2] += 1  # a try that began before
    assert series(metrics) == {"b:80": 1}
    upstream.present(("a:80", "b:80"))
    assert series(metrics) == {"a:80": 4, "b:80": 1}


def test_ten_thousand_targets_one_after_the_other_take_bounded_room_and_no_label_is_folded() -> (
    None
):
    metrics = made(max_label_values=5)
    upstream = metrics.upstream("orders")
    for number in range(10_000):
        upstream.present((f"10.0.{number}:80", "constant:80"))
        upstream.target(f"10.0.{number}:80").by_class[2] += 1
    assert series(metrics) == {"10.0.9999:80": 1}
    assert len(upstream.targets) == 2
    assert len(upstream._gone) <= 5
    assert not metrics.label_values_dropped


def test_two_upstreams_with_the_same_target_take_one_label_value() -> None:
    metrics = made(max_label_values=2)
    first, second = metrics.upstream("first"), metrics.upstream("second")
    for upstream in (first, second):
        upstream.present(("a:80", "b:80"))
    assert not metrics.label_values_dropped
    first.present(())
    assert second.target("c:80").label == "_other"  # a and b are still second's
    second.present(("c:80",))
    assert second.target("d:80").label == "d:80"


def test_an_upstream_that_has_gone_keeps_its_counters_and_has_no_gauges() -> None:
    metrics = busy()
    metrics.upstream("orders").source = None
    page = samples(metrics)
    assert not any(name.startswith("gateway_upstream_target_") for name in page)
    assert page['gateway_upstream_time_to_last_byte_seconds_count{upstream="orders"}'] == 1


def test_what_an_upstream_counts_is_on_the_page() -> None:
    metrics = made()
    upstream = metrics.upstream("orders")
    upstream.opened, upstream.reused, upstream.budget_exhausted = 3, 9, 2
    upstream.retried("upstream_reset", "no_budget")
    upstream.waited(0.2)
    page = samples(metrics)
    assert page['gateway_upstream_connections_opened_total{upstream="orders"}'] == 3
    assert page['gateway_upstream_connections_reused_total{upstream="orders"}'] == 9
    assert page['gateway_retry_budget_exhausted_total{upstream="orders"}'] == 2
    labels = 'outcome="no_budget",reason="upstream_reset",upstream="orders"'
    assert page[f"gateway_retries_total{{{labels}}}"] == 1
    assert page['gateway_pool_wait_seconds_sum{upstream="orders"}'] == pytest.approx(0.2)


# ── reloads ──


def test_meters_outlive_a_reload() -> None:
    metrics = made()
    before = metrics.route("orders"), metrics.upstream("orders")
    metrics.apply(model.Metrics())
    assert (metrics.route("orders"), metrics.upstream("orders")) == before


def test_other_buckets_begin_their_histograms_anew_and_keep_the_counters() -> None:
    metrics = busy()
    metrics.apply(model.Metrics(buckets=(0.5, 1)))
    page = samples(metrics)
    labels = 'method="GET",route="orders",status_class="2xx"'
    assert page[f"gateway_request_duration_seconds_count{{{labels}}}"] == 0
    name = 'gateway_requests_total{method="GET",route="orders",source="upstream",status="200"}'
    assert page[name] == 1
    metrics.route("orders").begin()
    metrics.route("orders").finish(exchange())
    assert samples(metrics)[f'gateway_request_duration_seconds_bucket{{le="0.5",{labels}}}'] == 1


def test_reloads_are_told_by_their_result() -> None:
    metrics = made()
    metrics.loaded(1, "aaaa", 1000.0, reload=False)
    page = samples(metrics)
    assert page['gateway_config_reloads_total{result="success"}'] == 0
    assert page["gateway_config_last_reload_successful"] == 1
    metrics.reload_failed()
    page = samples(metrics)
    assert page['gateway_config_reloads_total{result="failure"}'] == 1
    assert page["gateway_config_last_reload_successful"] == 0
    assert page["gateway_config_last_success_timestamp_seconds"] == 1000
    metrics.loaded(2, "bbbb", 2000.0, reload=True)
    page = samples(metrics)
    assert page['gateway_config_reloads_total{result="success"}'] == 1
    assert page["gateway_config_last_reload_successful"] == 1
    assert page["gateway_config_last_success_timestamp_seconds"] == 2000
    assert page['gateway_config_info{generation="2",hash="bbbb"}'] == 1


# ── the page ──


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", True),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*", True),
        ("text/plain;q=0.9, application/openmetrics-text;q=0.4", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=nonsense", False),
    ],
)
def test_openmetrics_is_sent_to_who_prefers_it(accept: str, openmetrics: bool) -> None:
    assert prefers_openmetrics(accept) is openmetrics
    kind = made().exposition(accept)[1]
    assert kind.startswith("application/openmetrics-text" if openmetrics else "text/plain;")


def test_the_openmetrics_page_can_be_read_by_its_own_parser() -> None:
    page, kind = busy().exposition("application/openmetrics-text")
    assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert page.endswith(b"# EOF\n")
    families = {family.name: family.type for family in read_openmetrics(page.decode())}
    assert families["gateway_requests"] == "counter"
    assert families["gateway_build"] == "info"


def test_a_route_may_be_named_with_quotes_and_line_ends() -> None:
    metrics = made()
    metrics.route('a"b\\c\nd').begin()
    page = metrics.exposition(None)[0].decode()
    assert 'gateway_requests_in_flight{route="a\\"b\\\\c\\nd"} 1.0' in page
    [family] = [one for one in read_text(page) if one.name == "gateway_requests_in_flight"]
    assert family.samples[0].labels["route"] == 'a"b\\c\nd'


def test_observations_are_sorted_in_before_they_are_many() -> None:
    histogram = Histogram((1.0, 2.0))
    for _ in range(2 * FOLDED_AT + 1):
        histogram.observe(1.5)
    assert len(histogram.pending) < FOLDED_AT
    assert histogram.read() == ([0, 2 * FOLDED_AT + 1, 0], 1.5 * (2 * FOLDED_AT + 1))
    assert histogram.read() == histogram.read(), "read twice, counted twice"


def test_a_busy_route_and_upstream_keep_few_observations() -> None:
    metrics = made()
    route, upstream = metrics.route("orders"), metrics.upstream("up")
    for _ in range(3 * FOLDED_AT):
        route.begin()
        upstream.head(0.1, 200)
        upstream.last_byte(0.2)
        route.finish(exchange())
    held = [
        route.overhead,
        *route.durations.values(),
        upstream.last_bytes,
        *upstream.heads.values(),
    ]
    assert all(len(histogram.pending) < 2 * FOLDED_AT for histogram in held)
    assert (
        samples(metrics)[
            'gateway_requests_total{method="GET",route="orders",source="upstream",status="200"}'
        ]
        == 3 * FOLDED_AT
    )


def test_answers_that_are_broken_off_leave_few_observations_behind() -> None:
    """Streams that their clients leave have a head and never a last byte."""
    metrics = made()
    meter = metrics.upstream("up")
    for _ in range(2 * FOLDED_AT + 1):
        meter.head(0.5, 200)
    assert len(meter.heads["2xx"].pending) < FOLDED_AT
    counts, total = meter.heads["2xx"].read()
    assert (sum(counts), total) == (2 * FOLDED_AT + 1, 0.5 * (2 * FOLDED_AT + 1))
