"""Who asks: addresses, the walk through trusted proxies, what the upstream is told.

Rules of this file: requests are exchanges made by hand; what goes over a socket is tested in e2e.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from gateway import client, errors
from gateway.client import Clients
from gateway.config import model
from gateway.exchange import Exchange

PUBLIC = "203.0.113.9"
LB = "10.0.0.1"
NETWORKS = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


def server(**settings: Any) -> model.Server:
    return model.Server.model_construct(**{"trusted_proxies": NETWORKS, **settings})


def request(*fields: tuple[str, str], peer: str = LB, **attributes: Any) -> Exchange:
    exchange = Exchange()
    exchange.headers = CIMultiDictProxy(CIMultiDict(fields))
    exchange.peer = peer
    exchange.authority = "api.example.com"
    for name, value in attributes.items():
        setattr(exchange, name, value)
    return exchange


def identified(*fields: tuple[str, str], clients: Clients | None = None, **rest: Any) -> Exchange:
    exchange = request(*fields, **rest)
    clients = clients or Clients(server())
    clients.identify(exchange)
    clients.number(exchange)
    return exchange


def told(clients: Clients, exchange: Exchange, prefix: bytes = b"") -> dict[str, str]:
    """The lines for the upstream, by name; each name stands once."""
    clients.identify(exchange)
    clients.number(exchange)
    text = clients.forwarding(exchange, prefix).decode()
    assert text.endswith("\r\n")
    pairs = [line.split(": ", 1) for line in text.split("\r\n")[:-1]]
    assert len({name.lower() for name, _ in pairs}) == len(pairs)
    return dict(pairs)


# ── addresses ──


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:8080", "192.0.2.1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:1", "192.0.2.1"),
    ],
)
def test_an_address_is_read_with_or_without_brackets_and_port(text: str, address: str) -> None:
    assert str(client.node(text)) == address


@pytest.mark.parametrize(
    "text",
    [
        "", "unknown", "_hidden", "192.0.2.01", "192.0.2", "3221225985", "0x7f.0.0.1", "localhost",
        "192.0.2.1:", "192.0.2.1:x", "192.0.2.1:123456", "192.0.2.1/24", " 192.0.2.1",
        "fe80::1%eth0", "[fe80::1%25eth0]", "[192.0.2.1]", "[::1", "::1]", "[::1]x", "[::1]:",
        "[::1]:99999x", "٣.0.0.1", "192.0.2.1:٣", "192.0.2.1\n",
    ],
)  # fmt: skip
def test_what_ipaddress_would_not_take_is_no_address(text: str) -> None:
    assert client.node(text) is None


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("API.Example.com", "api.example.com"),
        ("api.example.com:8080", "api.example.com"),
        ("api.example.com.", "api.example.com"),
        ("api.example.com.:80", "api.example.com"),
        ("[2001:DB8::1]:80", "[2001:db8::1]"),
        ("", ""),
    ],
)
def test_the_host_for_decisions_has_no_port_case_or_last_dot(authority: str, host: str) -> None:
    assert identified(peer=PUBLIC, authority=authority).host == host


# ── the walk ──


def test_an_untrusted_peer_is_the_client_whatever_it_says() -> None:
    said = [
        ("X-Forwarded-For", "1.1.1.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.example"),
        ("Forwarded", "for=1.1.1.1;proto=https;host=evil.example"),
        ("X-Request-Id", "mine"),
    ]
    exchange = identified(*said, peer=PUBLIC)
    assert (exchange.client_ip, exchange.scheme, exchange.host, exchange.peer_trusted) == (
        PUBLIC, "http", "api.example.com", False,
    )  # fmt: skip
    assert exchange.request_id != "mine"


@pytest.mark.parametrize(
    ("chain", "who"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("6.6.6.6, 192.0.2.1", "192.0.2.1"),
        ("6.6.6.6, 192.0.2.1, 10.9.9.9", "192.0.2.1"),
        ("6.6.6.6,192.0.2.1:4711 , [fd00::7]:80", "192.0.2.1"),
        ("6.6.6.6, unknown, 10.9.9.9", "10.9.9.9"),
        ("6.6.6.6, _secret", LB),
        ("6.6.6.6, 192.0.2.01", LB),
        ("6.6.6.6, fe80::1%eth0", LB),
        ("10.1.1.1, 10.2.2.2", "10.1.1.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:10.3.3.3, ::ffff:10.4.4.4", "10.3.3.3"),
        ("", LB),
        (", ,", LB),
    ],
)
def test_the_client_is_the_first_from_the_right_that_is_not_trusted(chain: str, who: str) -> None:
    assert identified(("X-Forwarded-For", chain)).client_ip == who


def test_several_fields_are_one_list() -> None:
    fields = [("X-Forwarded-For", "6.6.6.6, 192.0.2.1"), ("X-Forwarded-For", "10.2.2.2")]
    assert identified(*fields).client_ip == "192.0.2.1"


def test_a_peer_is_recognised_in_its_mapped_form_and_with_a_zone() -> None:
    assert identified(peer="::ffff:10.0.0.1").client_ip == LB
    assert identified(peer="::ffff:10.0.0.1").peer_trusted
    assert identified(peer="fe80::1%eth0").client_ip == "fe80::1"


def test_a_unix_socket_is_trusted_only_by_name() -> None:
    field = ("X-Forwarded-For", "192.0.2.1")
    assert identified(field, peer="unix").client_ip == "unix"
    trusting = Clients(server(trusted_proxies=("unix",)))
    assert identified(field, peer="unix", clients=trusting).client_ip == "192.0.2.1"
    assert identified(peer="unix", clients=trusting).client_ip == "unix"


ADDRESSES = st.ip_addresses().map(str)


@given(st.lists(ADDRESSES | st.sampled_from(["10.0.0.7", "fd00::9", "unknown", "_x", "1.2.3"])))
def test_nothing_left_of_the_first_stranger_counts(chain: list[str]) -> None:
    """What the walk finds, by a second, naive reading of the rule."""

    def trusted(text: str) -> bool:
        one = ip_address(text)
        one = getattr(one, "ipv4_mapped", None) or one
        return any(one in network for network in NETWORKS)

    expected = LB
    for member in reversed(chain):
        if client.node(member) is None:
            break
        one = ip_address(member)
        expected = str(getattr(one, "ipv4_mapped", None) or one)
        if not trusted(member):
            break
    assert identified(("X-Forwarded-For", ", ".join(chain))).client_ip == expected


@given(st.text(), st.lists(ADDRESSES, min_size=1, max_size=3))
def test_a_client_cannot_talk_its_way_past_a_trusted_proxy(forged: str, hops: list[str]) -> None:
    honest = identified(("X-Forwarded-For", "192.0.2.77, 10.5.5.5"))
    lied = identified(("X-Forwarded-For", f"{forged},{','.join(hops)}, 192.0.2.77, 10.5.5.5"))
    assert lied.client_ip == honest.client_ip == "192.0.2.77"


def test_scheme_and_host_are_the_trusted_peers_own_last_word() -> None:
    exchange = identified(
        ("X-Forwarded-Proto", "http, HTTPS"), ("X-Forwarded-Host", "evil.example, Shop.example:444")
    )
    assert exchange.scheme == "https"
    assert exchange.authority == "Shop.example:444"
    assert exchange.host == "shop.example"


@pytest.mark.parametrize("host", ["a b", "a/b", "a@b", "a?b", "a#b", "a:b", "[::1", ""])
def test_a_forwarded_host_that_is_none_is_ignored(host: str) -> None:
    assert identified(("X-Forwarded-Host", host)).host == "api.example.com"


@pytest.mark.parametrize("scheme", ["ftp", "javascript", ""])
def test_a_forwarded_scheme_that_is_none_is_ignored(scheme: str) -> None:
    assert identified(("X-Forwarded-Proto", scheme)).scheme == "http"


# ── Forwarded ──


def test_forwarded_is_read_with_quotes_escapes_brackets_and_ports() -> None:
    parsed = client.parse_forwarded(
        ['For="[2001:db8::1]:80" ; proto=https;host="a\\"b:1", for=192.0.2.1', "for=_x"]
    )
    assert parsed == [
        {"for": "[2001:db8::1]:80", "proto": "https", "host": 'a"b:1'},
        {"for": "192.0.2.1"},
        {"for": "_x"},
    ]


@pytest.mark.parametrize(
    "value",
    [
        "", "for", "for=", "for=;proto=http", "for=a b", 'for="a', 'for="a"b', "for=a,", "for=a;",
        "for=[::1]", "for =a", "for= a", "for=a;;proto=http", "for=a;for=b", "=a", "for=1.1.1.1:80",
    ],
)  # fmt: skip
def test_forwarded_that_breaks_the_grammar_is_not_guessed_at(value: str) -> None:
    assert client.parse_forwarded([value]) is None
    assert identified(("Forwarded", value)).client_ip == LB


def test_a_comma_in_quotes_does_not_begin_an_element() -> None:
    assert client.parse_forwarded(['for="a, for=1.1.1.1"']) == [{"for": "a, for=1.1.1.1"}]


def test_forwarded_gives_address_scheme_and_host_of_the_clients_own_hop() -> None:
    exchange = identified(
        (
            "Forwarded",
            (
                'for=6.6.6.6;host=evil.example, for="[2001:db8::1]:80";proto=https;host=shop.example,'
                "for=10.0.0.5;proto=http;host=inner.example"
            ),
        ),
        clients=Clients(server(forwarded="rfc7239")),
    )
    assert (exchange.client_ip, exchange.scheme, exchange.host) == (
        "2001:db8::1", "https", "shop.example",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "who"),
    [("x-forwarded", "192.0.2.1"), ("both", "192.0.2.1"), ("rfc7239", "192.0.2.2")],
)
def test_the_two_families_are_never_mixed(mode: str, who: str) -> None:
    """A proxy that writes one of them passes the client's forgery on in the other."""
    exchange = identified(
        ("X-Forwarded-For", "192.0.2.1"),
        ("X-Forwarded-Proto", "https"),
        ("Forwarded", "for=192.0.2.2;host=other.example;proto=http"),
        clients=Clients(server(forwarded=mode)),
    )
    assert exchange.client_ip == who
    assert exchange.scheme == ("http" if mode == "rfc7239" else "https")
    assert exchange.host == ("other.example" if mode == "rfc7239" else "api.example.com")


# ── request id, trace, loops ──


def test_a_request_id_is_32_hex_digits_and_new_each_time() -> None:
    ids = {identified(peer=PUBLIC).request_id for _ in range(50)}
    assert len(ids) == 50
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)


@pytest.mark.parametrize(
    ("trust", "peer", "taken"),
    [
        ("trusted_proxies", LB, True), ("trusted_proxies", PUBLIC, False),
        ("all", PUBLIC, True), ("none", LB, False),
    ],
)  # fmt: skip
def test_a_request_id_is_taken_from_whom_the_configuration_trusts(
    trust: str, peer: str, taken: bool
) -> None:
    settings = model.RequestId.model_construct(trust=trust, header="X-Id")
    clients = Clients(server(request_id=settings))
    exchange = request(("x-id", "a.B_c~+/=-9"), peer=peer)
    lines = told(clients, exchange)
    assert (exchange.request_id == "a.B_c~+/=-9") is taken
    assert lines["X-Id"] == exchange.request_id
    assert b"x-id" in clients.dropped(True) & clients.dropped(False)
    assert clients.echo(exchange) == b"X-Id: %b\r\n" % exchange.request_id.encode()


@pytest.mark.parametrize("given", ["", "a b", "a" * 129, "a\r\nX: 1", "ä", "a;b", "a,b", "{x}"])
def test_a_request_id_of_another_alphabet_is_replaced(given: str) -> None:
    assert re.fullmatch("[0-9a-f]{32}", identified(("X-Request-Id", given)).request_id)


def test_a_request_id_may_be_kept_from_the_client_or_be_off() -> None:
    silent = Clients(server(request_id=model.RequestId.model_construct(echo=False)))
    exchange = request()
    assert "X-Request-Id" in told(silent, exchange)
    assert silent.echo(exchange) == b""
    assert silent.echoed == b""
    off = Clients(server(request_id=None))
    assert "X-Request-Id" not in told(off, exchange)
    assert off.echo(exchange) == b""
    assert b"x-request-id" not in off.dropped(False)


TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("traceparent", "trace"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", TRACE),
        (f"cc-{TRACE}-b7ad6b7169203331-01-more", TRACE),
        (f"00-{TRACE}-b7ad6b7169203331-01-more", ""),
        (f"ff-{TRACE}-b7ad6b7169203331-01", ""),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", ""),
        (f"00-{TRACE}-{'0' * 16}-01", ""),
        (f"00-{TRACE.upper()}-b7ad6b7169203331-01", ""),
        ("junk", ""),
    ],
)
def test_the_trace_id_comes_from_a_valid_traceparent_only(traceparent: str, trace: str) -> None:
    assert identified(("traceparent", traceparent), peer=PUBLIC).trace_id == trace


def test_a_traceparent_passes_untouched_unless_one_is_to_be_created() -> None:
    clients = Clients(server())
    assert "traceparent" not in told(clients, request(peer=PUBLIC))
    assert b"traceparent" not in clients.dropped(False)


def test_a_traceparent_is_created_where_there_is_none_that_is_valid() -> None:
    clients = Clients(server(), traceparent="create")
    exchange = request(("traceparent", "junk"), ("tracestate", "a=1"), peer=PUBLIC)
    lines = told(clients, exchange)
    assert re.fullmatch(f"00-{exchange.trace_id}-[0-9a-f]{{16}}-01", lines["traceparent"])
    assert len(exchange.trace_id) == 32
    assert "tracestate" not in lines
    assert {b"traceparent", b"tracestate"} <= clients.dropped(False)
    given = f"00-{TRACE}-b7ad6b7169203331-00"
    lines = told(clients, request(("traceparent", given), ("tracestate", "a=1"), peer=PUBLIC))
    assert (lines["traceparent"], lines["tracestate"]) == (given, "a=1")


def test_via_is_appended_and_names_this_process() -> None:
    clients = Clients(server(name="edge"))
    assert re.fullmatch("edge-[0-9a-f]{8}", clients.pseudonym)
    assert told(clients, request(peer=PUBLIC))["Via"] == f"1.1 {clients.pseudonym}"
    lines = told(clients, request(("Via", "1.0 a, 1.1 b"), ("Via", "1.1 c"), peer=PUBLIC))
    assert lines["Via"] == f"1.0 a, 1.1 b, 1.1 c, 1.1 {clients.pseudonym}"
    assert told(clients, request(peer=PUBLIC, http10=True))["Via"] == f"1.0 {clients.pseudonym}"
    assert Clients(server(name="edge")).pseudonym == clients.pseudonym
    assert b"via" in clients.dropped(True) & clients.dropped(False)


def test_a_request_that_has_been_here_is_a_loop() -> None:
    clients = Clients(server())
    with pytest.raises(errors.LoopDetected):
        clients.identify(request(("Via", f"1.1 a, 1.0 {clients.pseudonym} (x)"), peer=PUBLIC))
    for other in ("1.1 gateway-00000000", f"1.1 {clients.pseudonym}0", f"1.1 x{clients.pseudonym}"):
        clients.identify(request(("Via", other), peer=PUBLIC))


# ── what the upstream is told ──


def test_the_upstream_is_told_address_scheme_host_port_and_prefix() -> None:
    lines = told(Clients(server()), request(peer=PUBLIC), b"/orders")
    assert lines["X-Forwarded-For"] == PUBLIC
    assert lines["X-Forwarded-Proto"] == "http"
    assert lines["X-Forwarded-Host"] == "api.example.com"
    assert lines["X-Forwarded-Port"] == "80"
    assert lines["X-Forwarded-Prefix"] == "/orders"
    assert "Forwarded" not in lines
    assert "X-Forwarded-Prefix" not in told(Clients(server()), request(peer=PUBLIC))


@pytest.mark.parametrize(
    ("authority", "scheme", "port"),
    [
        ("a.example:8080", "http", "8080"), ("a.example", "https", "443"), ("[::1]", "http", "80"),
        ("[::1]:81", "http", "81"), ("a.example:", "http", "80"), ("", "http", "80"),
    ],
)  # fmt: skip
def test_the_port_is_the_hosts_or_the_schemes_own(authority: str, scheme: str, port: str) -> None:
    exchange = request(peer=PUBLIC, authority=authority, scheme=scheme)
    assert told(Clients(server()), exchange)["X-Forwarded-Port"] == port


def test_a_trusted_peers_own_fields_are_continued() -> None:
    exchange = request(
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "shop.example"),
        ("X-Forwarded-Port", "8443"),
        ("X-Forwarded-Prefix", "/api/"),
    )
    lines = told(Clients(server()), exchange, b"/orders")
    assert lines["X-Forwarded-For"] == f"6.6.6.6, 192.0.2.1, {LB}"
    assert lines["X-Forwarded-Proto"] == "https"
    assert lines["X-Forwarded-Host"] == "shop.example"
    assert lines["X-Forwarded-Port"] == "8443"
    assert lines["X-Forwarded-Prefix"] == "/api/orders"


def test_forwarded_is_written_as_rfc_7239_says_and_continued() -> None:
    clients = Clients(server(forwarded="rfc7239"))
    lines = told(clients, request(peer="2001:db8::5", authority="a.example:81"))
    assert lines["Forwarded"] == 'for="[2001:db8::5]";host="a.example:81";proto=http'
    assert not any(name.startswith("X-Forwarded") for name in lines)
    lines = told(clients, request(("Forwarded", "for=192.0.2.1;proto=https")))
    assert lines["Forwarded"] == (
        f"for=192.0.2.1;proto=https, for={LB};host=api.example.com;proto=https"
    )
    lines = told(clients, request(("Forwarded", 'for="broken')))
    assert lines["Forwarded"] == f"for={LB};host=api.example.com;proto=http"
    lines = told(Clients(server(forwarded="both")), request(peer=PUBLIC))
    assert {"Forwarded", "X-Forwarded-For"} <= set(lines)


def test_both_families_name_the_client_that_one_of_them_told() -> None:
    clients = Clients(server(forwarded="both"))
    chain = ("X-Forwarded-For", "6.6.6.6, 2001:db8::9")
    own = f"for={LB};host=api.example.com;proto=http"
    for forged in ([], [("Forwarded", "for=1.1.1.1")]):
        lines = told(clients, request(chain, *forged))
        assert lines["X-Forwarded-For"] == f"6.6.6.6, 2001:db8::9, {LB}"
        assert lines["Forwarded"] == f'for="[2001:db8::9]", {own}'
    lines = told(clients, request(("Forwarded", "for=192.0.2.1")))
    assert lines["X-Forwarded-For"] == f"192.0.2.1, {LB}"
    assert lines["Forwarded"] == f"for=192.0.2.1, {own}"
    lines = told(Clients(server(forwarded="rfc7239")), request(chain))
    assert lines["Forwarded"] == f'for="[2001:db8::9]", {own}'


def test_with_forwarded_off_only_what_is_not_about_the_client_is_written() -> None:
    clients = Clients(server(forwarded="off"))
    assert set(told(clients, request(peer=PUBLIC))) == {"Via", "X-Request-Id"}
    assert clients.dropped(False) >= client.CLAIMS


@pytest.mark.parametrize("mode", ["x-forwarded", "rfc7239", "both", "off"])
def test_what_an_untrusted_client_claims_is_always_dropped(mode: str) -> None:
    claims = {b"forwarded", b"x-real-ip", b"x-forwarded-for", b"x-forwarded-proto",
              b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-prefix"}  # fmt: skip
    clients = Clients(server(forwarded=mode))
    assert claims <= clients.dropped(False)
    assert b"x-real-ip" not in clients.dropped(True)
    assert (b"forwarded" in clients.dropped(True)) is (mode in ("rfc7239", "both"))
    assert (b"x-forwarded-for" in clients.dropped(True)) is (mode in ("x-forwarded", "both"))


def test_a_unix_peer_is_named_so_unless_it_speaks_for_somebody() -> None:
    clients = Clients(server(trusted_proxies=("unix",), forwarded="both"))
    lines = told(clients, request(peer="unix"))
    assert lines["X-Forwarded-For"] == "unix"
    assert lines["Forwarded"].startswith("for=_unix;")
    lines = told(clients, request(("X-Forwarded-For", "192.0.2.1"), peer="unix"))
    assert lines["X-Forwarded-For"] == "192.0.2.1"


@pytest.mark.parametrize("name", ["Via", "X-Forwarded-For", "traceparent", "tracestate"])
def test_a_control_byte_in_a_carried_value_is_refused(name: str) -> None:
    clients = Clients(server(), traceparent="create")
    fields = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-00", "tracestate": "a=1"}
    fields[name] = fields.get(name, "a") + "\r\nX-Evil: 1"
    exchange = request(*fields.items())
    clients.identify(exchange)
    if name == "traceparent":  # not valid any more, so replaced
        assert b"X-Evil" not in clients.forwarding(exchange)
        return
    with pytest.raises(errors.BadRequest):
        clients.forwarding(exchange)


def test_bytes_outside_ascii_are_carried_as_they_came() -> None:
    exchange = request(("Via", "1.1 caf\udce9"), peer=PUBLIC)
    clients = Clients(server())
    clients.identify(exchange)
    assert b"Via: 1.1 caf\xe9, 1.1 " in clients.forwarding(exchange)


def test_what_is_remembered_of_clients_is_bounded() -> None:
    clients = Clients(server())
    for number in range(10_000):
        exchange = request(peer=f"2001:db8::{number:x}", authority=f"h{number}.example")
        clients.identify(exchange)
        clients.forwarding(exchange)
    exchange = request(peer=PUBLIC, authority="x" * 8000)
    clients.identify(exchange)
    clients.forwarding(exchange)
    for table in (clients._peers, clients._hosts, clients._plain):
        assert len(table) <= 4096
        assert not any("x" * 300 in str(key) for key in table)


def test_two_clients_never_get_each_others_lines() -> None:
    clients = Clients(server())
    for peer in ("192.0.2.1", "192.0.2.2", "192.0.2.1"):
        for authority in ("a.example", "b.example"):
            lines = told(clients, request(peer=peer, authority=authority))
            assert (lines["X-Forwarded-For"], lines["X-Forwarded-Host"]) == (peer, authority)


# ── over a socket ──


async def seen_by_origin(gateway: Any, raw: Any, origin: Any, *lines: str, **sections: Any) -> Any:
    up = await origin()
    running = await gateway(up, **sections)
    head = ["GET /orders/1 HTTP/1.1", "Host: API.example.com:8080", *lines, "", ""]
    reply = await (await raw(running)).ask("\r\n".join(head).encode())
    return up.requests[0] if up.requests else None, reply


FORGED = (
    "X-Forwarded-For: 6.6.6.6", "X-Real-IP: 6.6.6.6", "Forwarded: for=6.6.6.6",
    "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: https", "X-Forwarded-Port: 1",
    "X-Forwarded-Prefix: /evil", "X-Request-Id: forged", "Via: 1.1 other",
)  # fmt: skip


async def test_an_upstream_sees_no_word_of_a_stranger(gateway: Any, raw: Any, origin: Any) -> None:
    request, reply = await seen_by_origin(
        gateway, raw, origin, *FORGED, route={"rewrite": {"strip_prefix": "/orders"}}
    )
    assert request.all("x-forwarded-for") == [b"127.0.0.1"]
    assert request.all("x-forwarded-host") == [b"API.example.com:8080"]
    assert request.all("x-forwarded-proto") == [b"http"]
    assert request.all("x-forwarded-port") == [b"8080"]
    assert request.all("x-forwarded-prefix") == [b"/orders"]
    assert request.all("x-real-ip") == request.all("forwarded") == []
    assert re.fullmatch(rb"1\.1 other, 1\.1 gateway-[0-9a-f]{8}", request.get("via"))
    assert request.all("x-request-id") == reply.all("x-request-id")
    assert re.fullmatch(rb"[0-9a-f]{32}", request.get("x-request-id"))


async def test_a_trusted_proxy_is_believed(gateway: Any, raw: Any, origin: Any) -> None:
    request, reply = await seen_by_origin(
        gateway, raw, origin, *FORGED[:1], *FORGED[2:], "X-Real-IP: 6.6.6.6",
        server={"trusted_proxies": ["127.0.0.0/8"], "forwarded": "both"},
    )  # fmt: skip
    assert request.all("x-forwarded-for") == [b"6.6.6.6, 127.0.0.1"]
    assert request.all("x-forwarded-proto") == [b"https"]
    assert request.all("x-forwarded-host") == [b"evil.example"]
    assert request.get("forwarded").startswith(b"for=6.6.6.6, for=127.0.0.1;")
    assert request.all("x-real-ip") == [b"6.6.6.6"]
    assert reply.all("x-request-id") == [b"forged"]


async def test_a_gateway_that_meets_itself_says_so(gateway: Any, raw: Any, origin: Any) -> None:
    word = f"Via: 1.1 gateway-{client.INSTANCE}"
    request, reply = await seen_by_origin(gateway, raw, origin, word)
    assert request is None
    assert reply.status == 508
    assert b"loop_detected" in reply.body
