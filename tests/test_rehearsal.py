"""A request that nobody sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trustme

from gateway.config import load_text
from gateway.rehearsal import Outgoing, Rehearsal, target_name, target_prefix

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
server: {underscore_headers: drop}
listeners:
  - {bind: "0.0.0.0:8080", name: plain}
  - {bind: "0.0.0.0:9090", name: other, redirect_to_https: true}
routes:
  - name: r
    path: /a/{id}
    to: ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    rewrite: {host: "{path.id}.internal"}
    headers: {request: {set: {X-Target: "{target}", X-Route: "{route}"}}}
"""


def outgoing(config: str = CONFIG, url: str = "http://h.com/a/7", **rest: Any) -> Outgoing:
    rehearsal = Rehearsal(load_text(config))
    exchange = rehearsal.ask(rest.pop("method", "GET"), url, **rest)
    return rehearsal.outgoing(exchange, rehearsal.match(exchange), "r")


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://h.com", "/"),
        ("http://h.com?q", "/?q"),
        ("HTTP://h.com/a%2Fb//c;d?e#f", "/a%2Fb//c;d?e"),
        ("http://h.com/é b", "/%C3%A9%20b"),
    ],
)
def test_the_target_is_what_a_client_would_send(url: str, target: str) -> None:
    assert Rehearsal(load_text(CONFIG)).ask("GET", url).target == target


@pytest.mark.parametrize(
    ("url", "listener"),
    [
        ("http://h.com:8080/", "plain"),
        ("http://h.com:9090/", "other"),
        ("http://h.com/", "other"),
        ("https://h.com/", "plain"),
        ("http://[::1]:8080/", "plain"),
    ],
)
def test_the_port_else_the_scheme_chooses_the_listener(url: str, listener: str) -> None:
    assert Rehearsal(load_text(CONFIG)).ask("GET", url).listener == listener


def test_https_leads_to_the_listener_with_tls_and_http_to_hosts_of_its_certificates(
    tmp_path: Path,
) -> None:
    pem = trustme.CA().issue_cert("a.test", "*.b.test").private_key_and_cert_chain_pem
    pem.write_to_path(tmp_path / "both.pem")
    config = load_text(
        "listeners:\n"
        "  - {bind: '0.0.0.0:80', name: plain, redirect_to_https: on}\n"
        "  - {bind: '127.0.0.1:81', name: inside}\n"
        "  - {bind: '0.0.0.0:443', name: web, tls: both.pem}\n"
        "routes: [{path: /*, to: 'http://h'}]\n",
        base=tmp_path,
    )
    assert not config.warnings
    rehearsal = Rehearsal(config)
    assert rehearsal.ask("GET", "https://a.test/").listener == "web"
    assert rehearsal.ask("GET", "https://a.test:8443/").listener == "web"
    for host, status in (("a.test", 308), ("x.b.test", 308), ("b.test", None), ("c.test", None)):
        reply = rehearsal.redirected(rehearsal.ask("GET", f"http://{host}/"))
        assert (reply and reply.status) == status


def test_a_host_header_beats_the_url_as_it_would_on_the_wire() -> None:
    exchange = Rehearsal(load_text(CONFIG)).ask("GET", "http://h.com/", [("hOsT", "Other.com:81")])
    assert (exchange.host, exchange.authority) == ("other.com", "Other.com:81")


def test_a_body_is_announced_by_its_length_whatever_the_caller_says() -> None:
    exchange = Rehearsal(load_text(CONFIG)).ask(
        "PUT", "http://h.com/", [("Content-Length", "9")], body=b"abc"
    )
    assert exchange.length == 3
    assert exchange.headers.getall("Content-Length") == ["3"]


def test_what_is_sent_on_is_edited_as_in_traffic() -> None:
    sent = outgoing(fields=[("X_Y", "1"), ("X-Target", "forged"), ("Cookie", "a=b")])
    assert sent.host == "7.internal"
    assert sent.named("x-target") == ["127.0.0.1:1"]
    assert sent.named("x-route") == ["r"]
    assert sent.named("cookie") == ["a=b"]
    assert sent.named("x_y") == []
    assert sent.named("host") == []


@pytest.mark.parametrize(
    ("host", "shown"), [("pass", "h.com"), ("target", None), ("fixed.test", "fixed.test")]
)
def test_the_host_is_the_clients_the_targets_or_a_fixed_one(host: str, shown: str | None) -> None:
    config = f"""
upstreams: {{r: {{targets: ["http://127.0.0.1:1"], host: {host}}}}}
routes: [{{name: r, path: /*, to: r}}]
"""
    assert outgoing(config).host == shown


def test_an_upgrade_is_passed_only_where_the_route_lets_it_through() -> None:
    asked = [("Connection", "upgrade"), ("Upgrade", "websocket")]
    assert outgoing(fields=asked).named("upgrade") == ["websocket"]
    off = CONFIG.replace("rewrite:", "websocket: off\n    rewrite:")
    assert outgoing(off, fields=asked).named("upgrade") == []
    asked = [("Connection", "upgrade"), ("Upgrade", "h2c")]
    assert outgoing(fields=asked).named("upgrade") == []


@pytest.mark.parametrize(
    ("url", "name", "prefix"),
    [
        ("http://a.com", "a.com:80", ""),
        ("https://a.com/base/", "a.com:443", "/base"),
        ("http://[::1]:81/x", "[::1]:81", "/x"),
        ("unix:/run/x.sock", "unix:/run/x.sock", ""),
    ],
)
def test_a_target_has_a_name_and_maybe_a_path(url: str, name: str, prefix: str) -> None:
    assert target_name(url) == name
    assert target_prefix(url) == prefix
