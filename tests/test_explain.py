"""What `gateway explain` says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gateway.config import load_text
from gateway.explain import Explanation, explain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONFIG = """\
server: {trusted_proxies: [10.0.0.0/8]}
defaults:
  timeouts: {idle: 45s}
profiles:
  p: {headers: {request: {set: {X-Profile: "1"}}}}
upstreams:
  orders:
    targets: [{url: "http://10.9.9.9:8000/base", weight: 3}, {url: "http://10.9.9.8:8000/base"}]
    timeouts: {connect: 1s}
    balance: round_robin
routes:
  - name: v2
    host: api.example.com
    path: /orders/*
    when: {header: {x-version: "2"}}
    to: orders
  - name: orders
    host: api.example.com
    path: /orders/{id}
    methods: [GET, POST]
    use: [p]
    to: orders
    rewrite: {path: "/v2/{path.id}", query: {set: {source: gw}}}
    timeouts: {total: 10s}
  - name: far
    host: other.example.com
    path: /x
    to: orders
  - name: all
    path: /*
    respond: {status: 404}
"""


def ask(
    method: str = "GET", url: str = "http://api.example.com/orders/7", **rest: Any
) -> Explanation:
    return explain(load_text(CONFIG), method, url, **rest)


def considered(found: Explanation) -> dict[str, str]:
    return {one.route: f"{one.outcome} {one.why}".strip() for one in found.considered}


def test_every_route_is_considered_with_the_first_condition_that_failed() -> None:
    found = ask()
    assert found.matched
    assert found.route == "orders"
    assert considered(found) == {
        "orders": "wins",
        "v2": "refused header x-version is absent, wanted '2'",
        "all": "outranked it fits too; orders ranks higher",
        "far": "refused host is api.example.com, wanted other.example.com",
    }
    assert {one.route: one.failed for one in found.considered}["v2"] == "header x-version"


def test_a_method_that_is_not_taken_is_said() -> None:
    found = ask("DELETE")
    assert found.route == "all"
    assert considered(found)["orders"] == "refused method is DELETE, wanted GET, HEAD, POST"


def test_each_setting_says_where_it_was_written() -> None:
    settings = {one.key: (one.value, one.layer, one.place) for one in ask().settings}
    assert settings["timeouts.total"] == ("10s", "route", "gateway.yaml:24:23")
    assert settings["timeouts.idle"] == ("45s", "defaults", "gateway.yaml:3:20")
    assert settings["timeouts.connect"] == ("1s", "upstream orders", "gateway.yaml:9:25")
    assert settings["timeouts.first_byte"] == ("30s", "built in", "")
    assert settings["headers.request.set.X-Profile"][1] == "profile p"
    assert settings["rewrite.query.set.source"] == ("gw", "route", "gateway.yaml:23:60")
    assert settings["upstream.balance"] == ("round_robin", "upstream orders", "gateway.yaml:10:14")
    assert settings["body.max"][0] == "10MiB"
    assert settings["retry.budget"][0] == "20%"


def test_the_request_that_the_upstream_would_get_is_shown() -> None:
    found = ask(
        headers=[
            ("X-Forwarded-For", "1.2.3.4"),
            ("Connection", "x-hop"),
            ("X-Hop", "1"),
            ("X-A", "b"),
        ],
        client_ip="10.1.1.1",
    )
    assert found.sent is not None
    assert found.sent["method"] == "GET"
    assert found.sent["target"] == "/base/v2/7?source=gw"
    assert found.sent["host"] == "api.example.com"
    headers = {name.lower(): value for name, value in found.sent["headers"]}
    assert headers["x-forwarded-for"] == "1.2.3.4, 10.1.1.1"
    assert headers["x-a"] == "b"
    assert headers["x-profile"] == "1"
    assert headers["via"].startswith("1.1 gateway-")
    assert "x-hop" not in headers
    assert found.request["client_ip"] == "1.2.3.4"
    assert found.captures == {"id": "7"}


def test_the_targets_and_their_shares_are_shown() -> None:
    answer = ask().answer
    assert answer["upstream"] == "orders"
    assert [(target["weight"], target["share"]) for target in answer["targets"]] == [
        (3, 0.75),
        (1, 0.25),
    ]


def test_what_would_be_tried_again_depends_on_the_request() -> None:
    assert "reset_before_response: 1 more try" in ask("GET").retry
    (refused,) = (one for one in ask("POST").retry if one.startswith("reset"))
    assert refused == (
        "reset_before_response: no, POST is not among `methods` and has no Idempotency-Key"
    )
    assert (
        "reset_before_response: 1 more try" in ask("POST", headers=[("Idempotency-Key", "k")]).retry
    )
    assert any("64KiB" in one for one in ask().retry)


@pytest.mark.parametrize("on", ["connect", "first_byte"])
def test_the_time_of_one_try_is_told_and_whether_its_end_is_tried_again(on: str) -> None:
    retry = f"retry: {{per_try: 2s, on: [{on}]}}"
    found = explain(
        load_text(CONFIG.replace("timeouts: {total: 10s}", retry)),
        "GET",
        "http://api.example.com/orders/7",
    )
    [line] = [one for one in found.retry if one.startswith("one try has 2s")]
    assert ("that is the end" in line) is (on == "connect")
    assert any("Retry-After" in one for one in found.retry)


def test_retry_off_says_so() -> None:
    config = load_text(CONFIG.replace("timeouts: {total: 10s}", "retry: off"))
    found = explain(config, "GET", "http://api.example.com/orders/7")
    assert found.retry == ("nothing is ever sent twice (retry: off)",)


def test_a_path_that_can_be_read_two_ways_shows_where_each_reading_leads() -> None:
    found = ask(url="http://api.example.com/orders%2f7")
    assert not found.matched
    assert found.error is not None
    assert (found.error["status"], found.error["reason"]) == (400, "bad_request")
    assert found.error["readings"] == ["/orders%2F7 leads to all", "/orders/7 leads to orders"]


def test_without_a_route_there_is_a_404_and_every_reason() -> None:
    config = load_text(CONFIG.replace("path: /*\n    respond", "path: /only\n    respond"))
    found = explain(config, "GET", "http://nowhere.test/")
    assert not found.matched
    assert found.error is not None
    assert found.error["reason"] == "no_route"
    assert {one.outcome for one in found.considered} == {"refused"}
    text = found.text(colour=False)
    assert "404 no_route" in text
    assert "path is /, wanted /only" in text


def test_405_shows_the_allowed_methods() -> None:
    config = load_text(CONFIG.replace("path: /*\n    respond", "path: /only\n    respond"))
    text = explain(config, "DELETE", "http://api.example.com/orders/7").text(colour=False)
    assert "405 method_not_allowed" in text
    assert "Allow: GET, HEAD, POST" in text


@pytest.mark.parametrize(
    "url", ["/orders", "ftp://h/", "http://", "http://user@h/", "http://h o/", ""]
)
def test_what_is_no_url_is_a_value_error(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|host"):
        ask(url=url)


@pytest.mark.parametrize(
    "rest",
    [
        {"method": "G ET"},
        {"headers": [("a b", "c")]},
        {"headers": [("a", "b\nc")]},
        {"client_ip": "x"},
    ],
)
def test_what_is_no_request_is_a_value_error(rest: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is not"):
        ask(**rest)


def test_a_loop_is_found_as_in_traffic() -> None:
    from gateway.client import INSTANCE

    found = ask(headers=[("Via", f"1.1 gateway-{INSTANCE}")])
    assert found.error is not None
    assert found.error["reason"] == "loop_detected"
    assert "508 loop_detected" in found.text(colour=False)


def test_a_listener_that_redirects_answers_before_any_route() -> None:
    config = load_text('listeners: [{bind: "127.0.0.1:80", redirect_to_https: true}]\n' + CONFIG)
    found = explain(config, "GET", "http://api.example.com/orders/7?q")
    assert found.answer == {
        "kind": "redirect_to_https",
        "status": 308,
        "to": "https://api.example.com/orders/7?q",
    }
    assert "308 to https://api.example.com/orders/7?q" in found.text(colour=False)


def test_an_answer_of_the_gateways_own_is_shown_with_what_matters_for_it() -> None:
    found = ask(url="http://nowhere.test/a")
    assert found.route == "all"
    assert found.answer["kind"] == "respond"
    assert found.answer["respond"]["status"] == 404
    assert found.sent is None
    assert not any(one.key.startswith(("timeouts", "retry", "upstream")) for one in found.settings)


def test_a_split_shows_its_shares() -> None:
    config = load_text(
        CONFIG.replace(
            "    to: orders\n    rewrite",
            "    split: [{upstream: orders, weight: 9}, {upstream: b, weight: 1}]\n    rewrite",
        ).replace("upstreams:\n", "upstreams:\n  b: {targets: ['http://127.0.0.1:2']}\n")
    )
    found = explain(config, "GET", "http://api.example.com/orders/7")
    assert [(one["upstream"], one["share"]) for one in found.answer["split"]] == [
        ("orders", 0.9),
        ("b", 0.1),
    ]
    assert "split: b gets 10%" in found.text(colour=False)


def test_what_branches_have_of_their_own_upstreams_is_told_for_each_with_its_place() -> None:
    config = load_text("""\
upstreams:
  orders: {targets: ["http://127.0.0.1:1"], timeouts: {first_byte: 2s}}
  b: {targets: ["http://127.0.0.1:2"], timeouts: {first_byte: 20s}, retry: off}
routes:
  - path: /*
    split: [{upstream: orders, weight: 1}, {upstream: b, weight: 9}]
    timeouts: {idle: 7s}
""")
    found = explain(config, "GET", "http://h/")
    told = [
        (one.upstream, one.value, one.place)
        for one in found.settings
        if one.key == "timeouts.first_byte"
    ]
    assert told == [("orders", "2s", "gateway.yaml:2:68"), ("b", "20s", "gateway.yaml:3:63")]
    settings = {(one.key, one.upstream): one for one in found.settings}
    assert settings["timeouts.idle", ""].place == "gateway.yaml:7:22"
    assert settings["retry.max", "orders"].value == "1"
    assert settings["retry", "b"].layer == "upstream b"
    assert ("retry.max", "b") not in settings
    assert "b: nothing is ever sent twice (retry: off)" in found.retry
    assert any(line.startswith("orders: connect: 1 more try") for line in found.retry)
    text = found.text()
    assert re.search(r"timeouts\.first_byte of b +20s +gateway\.yaml:3:63 \(upstream b\)", text)
    assert re.search(r"timeouts\.idle +7s", text)
    assert len([one for one in found.settings if one.key == "timeouts.idle"]) == 1


def test_a_secret_from_a_file_is_never_shown(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret")
    file = f"${{file:{tmp_path}/key}}"
    config = load_text(
        f"""
routes:
  - path: /*
    to: http://127.0.0.1:1
    headers: {{request: {{set: {{X-Key: "{file}"}}, add: {{X-More: ["{file}"]}}}}}}
    rewrite: {{query: {{set: {{key: "{file}"}}}}}}
"""
    )
    found = explain(config, "GET", "http://h/")
    shown = json.dumps(found.json()) + found.text(colour=False)
    assert "s3cret" not in shown
    assert "X-Key: ***" in shown
    assert "key=***" in shown


def test_the_text_is_aligned_and_coloured_only_when_asked() -> None:
    plain, bright = ask().text(colour=False), ask().text(colour=True)
    assert "\x1b" not in plain
    assert "\x1b[32mwins\x1b[0m" in bright

    def settled(text: str) -> str:
        return re.sub(r"X-Request-Id: \w+", "", text)

    assert settled(re.sub(r"\x1b\[\d+m", "", bright)) == settled(plain)
    lines = plain[plain.index("\nSettings") :].splitlines()[2:]
    at = next(line for line in lines if "timeouts.total" in line).index("10s")
    assert next(line for line in lines if "timeouts.idle" in line)[at:].startswith("45s")


def test_control_characters_of_a_request_do_not_reach_the_terminal() -> None:
    text = ask(headers=[("X-A", "a\u009b31m")]).text(colour=False)
    assert "\u009b" not in text


def test_thousands_of_routes_that_have_nothing_to_do_with_it_are_counted_in_the_text() -> None:
    many = "".join(f"  - {{name: n{i}, path: /n{i}, to: orders}}\n" for i in range(100))
    found = explain(load_text(CONFIG + many), "GET", "http://api.example.com/orders/7")
    assert "and 61 more that fail on their host or path" in found.text(colour=False)
    assert len(found.json()["considered"]) == 104


def test_the_json_is_plain_data() -> None:
    data = json.loads(json.dumps(ask().json()))
    assert data["matched"] is True
    assert data["route"] == "orders"
    assert data["considered"][0] == {
        "route": "orders",
        "place": "gateway.yaml:17:5",
        "outcome": "wins",
        "failed": "",
        "why": "",
    }
    assert data["sent"]["target"] == "/base/v2/7?source=gw"
    assert [stage["stage"] for stage in data["pipeline"]][:4] == [
        "limits",
        "client",
        "normalise",
        "route",
    ]


def test_explaining_does_not_import_aiohttp() -> None:
    """Commands answer at once, and run where no server could."""
    code = (
        "import sys; from gateway.config import load_text; from gateway.explain import explain;"
        "c = load_text('routes: [{path: /*, to: \"http://127.0.0.1:1\"}]');"
        "explain(c, 'GET', 'http://h/').text(False); print('aiohttp' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_request_that_its_route_refuses_is_shown_with_its_route() -> None:
    config = load_text(
        CONFIG.replace("{trusted_proxies: [10.0.0.0/8]}", "{underscore_headers: reject}")
    )
    found = explain(config, "GET", "http://api.example.com/orders/7", [("X_Y", "1")])
    assert found.route == "orders"
    assert found.sent is None
    assert found.error is not None
    assert found.error["reason"] == "bad_request"


def test_resolved_paths_are_explained_by_the_form_that_decides() -> None:
    config = load_text(
        CONFIG.replace("{trusted_proxies: [10.0.0.0/8]}", "{ambiguous_paths: resolve}")
    )
    found = explain(config, "GET", "http://api.example.com/x/../orders%2f7")
    assert found.route == "orders"
    assert considered(found)["orders"] == "wins"
    assert found.captures == {"id": "7"}


# ── upstreams ──

UPSTREAMS = """\
upstreams:
  orders:
    targets:
      - {url: "http://10.9.9.1:8000", weight: 3}
      - {url: "http://10.9.9.2:8000", labels: {version: v2}}
      - {url: "http://10.9.9.3:8000", backup: true}
    health: /up
    circuit: {error_ratio: 0.25}
    concurrency: 50
  found: {discover: {dns: users.svc.local, port: 8000}}
routes:
  - {name: orders, path: /orders, to: orders, hedge: 1s}
  - {name: found, path: /found, to: found}
  - name: canary
    path: /canary
    split: [{upstream: orders, weight: 9, labels: {version: v2}}, {upstream: orders, weight: 1}]
"""


@pytest.fixture
def of_upstreams() -> Callable[[str], Explanation]:
    """What is said of a GET of a path of UPSTREAMS."""
    config = load_text(UPSTREAMS, "gateway.yaml")
    return lambda path: explain(config, "GET", f"http://h{path}")


def test_settings_of_the_upstream_are_told_with_their_places(
    of_upstreams: Callable[[str], Explanation],
) -> None:
    found = {one.key: (one.value, one.place) for one in of_upstreams("/orders").settings}
    assert found["upstream.health.path"] == ("/up", "gateway.yaml:7:13")
    assert found["upstream.health.interval"][0] == "10s"
    assert found["upstream.circuit.error_ratio"] == ("25%", "gateway.yaml:8:28")
    assert found["upstream.concurrency.per_target"] == ("50", "gateway.yaml:9:18")
    assert found["upstream.concurrency.queue_timeout"][0] == "1s"
    assert found["upstream.eject.base"] == ("10s", "")
    assert found["upstream.panic"] == ("50%", "")
    assert found["hedge.after"] == ("1s", "gateway.yaml:12:54")
    assert "upstream.hedge" not in found


def test_labels_and_backups_are_told_and_a_backup_has_no_share(
    of_upstreams: Callable[[str], Explanation],
) -> None:
    found = of_upstreams("/orders")
    assert [target["share"] for target in found.answer["targets"]] == [0.75, 0.25, 0]
    text = found.text()
    assert re.search(r"10\.9\.9\.2:8000 +weight 1 +25% +version=v2", text)
    assert re.search(r"10\.9\.9\.3:8000 +weight 1 +backup", text)


def test_a_branch_without_labels_has_the_targets_that_no_other_takes() -> None:
    canary = "{upstream: orders, weight: 1, labels: {version: v2}}"
    split = f"split: [{canary}, {{upstream: orders, weight: 199, sticky_by: client_ip}}]"
    lines = UPSTREAMS.splitlines()[:-1]
    found = explain(load_text("\n".join([*lines, f"    {split}"])), "GET", "http://h/canary")
    urls = [target["url"] for target in found.answer["targets"] if not target.get("backup")]
    assert len(urls) == 1
    assert "http://10.9.9.2:8000" not in urls
    text = found.text()
    assert "split: orders with version=v2 gets 0.5%" in text
    assert "split: orders gets 99.5%" in text
    assert "split: the same client_ip always goes the same way" in text


def test_a_branch_with_labels_has_only_their_targets(
    of_upstreams: Callable[[str], Explanation],
) -> None:
    found = of_upstreams("/canary")
    assert [target["url"] for target in found.answer["targets"]] == ["http://10.9.9.2:8000"]
    assert "upstream orders (targets with version=v2)" in found.text()


def test_targets_that_are_found_at_run_time_are_told_as_such(
    of_upstreams: Callable[[str], Explanation],
) -> None:
    found = of_upstreams("/found")
    assert found.answer["targets"] == []
    assert found.sent is not None
    assert found.sent["target"] == "/found"
    assert "targets: addresses of users.svc.local, port 8000" in found.text()
