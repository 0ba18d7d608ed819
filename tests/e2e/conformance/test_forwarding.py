"""http.md 61 to 64: who asks, and what the upstream is told about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.conformance.conftest import get

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway
    from tests.e2e.conformance.conftest import Through

TRUSTED = {"trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]}

CLAIMS = [b"X-Forwarded-For: 6.6.6.6", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: evil.test",
          b"X-Forwarded-Port: 666", b"X-Forwarded-Prefix: /evil", b"X-Real-IP: 6.6.6.6",
          b"Forwarded: for=6.6.6.6;host=evil.test;proto=https"]  # fmt: skip


@pytest.mark.parametrize("line", CLAIMS)
@pytest.mark.parametrize("spelling", ["as is", "lower", "twice"])
async def test_61_what_an_untrusted_client_claims_is_dropped(
    through: Through, line: bytes, spelling: str
) -> None:
    name, _, value = line.partition(b":")
    lines = {
        "as is": [line],
        "lower": [name.lower() + b":" + value],
        "twice": [line, name.upper() + b":" + value],
    }[spelling]
    got = await through(get(b"/", *lines))
    for word in (b"6.6.6.6", b"evil", b"https"):
        assert word not in got.sent.head
    assert got.sent.get("x-forwarded-for") == b"127.0.0.1"
    assert got.sent.get("x-forwarded-proto") == b"http"
    assert got.sent.get("x-forwarded-host") == b"a.test"
    assert got.sent.get("x-forwarded-port") == b"80"


async def test_61_the_peer_is_the_right_most_of_x_forwarded_for(through: Through) -> None:
    got = await through(get(b"/", b"X-Forwarded-For: 1.1.1.1, 10.0.0.7"), server=TRUSTED)
    assert got.sent.get("x-forwarded-for") == b"1.1.1.1, 10.0.0.7, 127.0.0.1"


@pytest.mark.parametrize(
    ("value", "client"),
    [
        (b"1.1.1.1", "1.1.1.1"),
        (b"6.6.6.6, 1.1.1.1", "1.1.1.1"),
        (b"6.6.6.6, 1.1.1.1, 10.0.0.7", "1.1.1.1"),
        (b"10.9.9.9, 10.0.0.7", "10.9.9.9"),
        (b"1.1.1.1,10.0.0.7,10.0.0.8", "1.1.1.1"),
        (b"1.1.1.1, unknown, 10.0.0.7", "10.0.0.7"),
        (b"unknown", "127.0.0.1"),
        (b"", "127.0.0.1"),
        (b"1.1.1.1:1234", "1.1.1.1"),
        (b"[2001:db8::1]:1234", "2001:db8::1"),
        (b"2001:DB8::1", "2001:db8::1"),
        (b"::ffff:1.2.3.4", "1.2.3.4"),
        (b"::ffff:10.0.0.9", "10.0.0.9"),
        (b"6.6.6.6, ::ffff:10.0.0.9", "6.6.6.6"),
        (b"1.1.1.01", "127.0.0.1"),
        (b"6.6.6.6, 010.0.0.1", "127.0.0.1"),
        (b"fe80::1%eth0", "127.0.0.1"),
        (b"_hidden", "127.0.0.1"),
        (b"1.1.1", "127.0.0.1"),
        (b"1.1.1.1.1", "127.0.0.1"),
        (b"0x1.1.1.1", "127.0.0.1"),
        (b"1.1.1.1/32", "127.0.0.1"),
        (b"16843009", "127.0.0.1"),
    ],
)
async def test_62_addresses_are_read_strictly_and_from_the_right(
    through: Through, value: bytes, client: str
) -> None:
    got = await through(get(b"/", b"X-Forwarded-For: " + value), server=TRUSTED)
    assert (await got.gateway.log())[0]["client_ip"] == client


async def test_61_several_lines_are_one_list(through: Through) -> None:
    lines = [b"X-Forwarded-For: 6.6.6.6", b"X-Forwarded-For: 1.1.1.1", b"X-Forwarded-For: 10.0.0.7"]
    got = await through(get(b"/", *lines), server=TRUSTED)
    assert (await got.gateway.log())[0]["client_ip"] == "1.1.1.1"


async def test_62_a_mapped_address_meets_rules_for_ipv4(
    gateway: MakeGateway, raw: MakeClient
) -> None:
    routes = [
        {"name": "in", "path": "/*", "when": {"client_ip": ["1.2.3.0/24"]},
         "respond": {"status": 200, "body": "in"}},
        {"name": "out", "path": "/*", "respond": {"status": 403, "body": "out"}},
    ]  # fmt: skip
    client = await raw(await gateway({"routes": routes, "server": TRUSTED}))
    assert (await client.ask(get(b"/", b"X-Forwarded-For: ::ffff:1.2.3.4"))).body == b"in"
    assert (await client.ask(get(b"/", b"X-Forwarded-For: 1.2.4.4"))).body == b"out"


async def test_63_forwarded_is_written_as_rfc_7239_wants_it(through: Through) -> None:
    got = await through(get(host=b"a.test:8080"), server={"forwarded": "rfc7239"})
    assert got.sent.get("forwarded") == b'for=127.0.0.1;host="a.test:8080";proto=http'
    assert b"x-forwarded-for" not in got.sent.names


async def test_63_forwarded_is_appended_to_what_a_trusted_proxy_sent(through: Through) -> None:
    given = b'for="[2001:db8::1]:80";host="b\\"c";proto=https'
    got = await through(
        get(b"/", b"Forwarded: " + given), server={**TRUSTED, "forwarded": "rfc7239"}
    )
    value = got.sent.get("forwarded") or b""
    assert value.startswith(given + b", for=127.0.0.1;")


@pytest.mark.parametrize(
    ("value", "client"),
    [
        (b"for=1.1.1.1", "1.1.1.1"),
        (b'for="[2001:db8::1]:80"', "2001:db8::1"),
        (b'For="1.1.1.1:80" ; Proto=http', "1.1.1.1"),
        (b"for=6.6.6.6, for=1.1.1.1, for=10.0.0.7", "1.1.1.1"),
        (b'for="\\1.1.1.1"', "1.1.1.1"),
        (b'for="a, for=6.6.6.6", for=1.1.1.1', "1.1.1.1"),
        (b"for=unknown", "127.0.0.1"),
        (b"for=_obf", "127.0.0.1"),
        (b'for="6.6.6.6', "127.0.0.1"),
        (b"for=6.6.6.6;for=7.7.7.7", "127.0.0.1"),
        (b"6.6.6.6", "127.0.0.1"),
    ],
)
async def test_63_forwarded_is_parsed_strictly(through: Through, value: bytes, client: str) -> None:
    got = await through(
        get(b"/", b"Forwarded: " + value), server={**TRUSTED, "forwarded": "rfc7239"}
    )
    assert (await got.gateway.log())[0]["client_ip"] == client


async def test_63_forwarding_can_be_switched_off(through: Through) -> None:
    got = await through(get(b"/", *CLAIMS), server={"forwarded": "off"})
    for name in (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip"):
        assert name not in got.sent.names


@pytest.mark.parametrize(
    "target",
    [
        b"//evil.test/x",
        b"/\\evil.test",
        b"/%09/evil.test",
        b"/%2f%2fevil.test",
        b"//evil.test",
        b"/x/..//evil.test",
        b"///evil.test",
    ],
)
@pytest.mark.parametrize("to", ["{path}", "/base{path}", "https://www.example.com{path}"])
async def test_64_a_redirect_never_leads_where_the_configuration_does_not(
    gateway: MakeGateway, raw: MakeClient, target: bytes, to: str
) -> None:
    route = {"path": "/*", "redirect": {"to": to}}
    client = await raw(await gateway({"routes": [route]}))
    got = await client.ask(get(target, host=b"evil.test"))
    location = got.get("location")
    if location is None:
        assert got.status == 400
        return
    assert not location.startswith((b"//", b"/\\", b"\\", b"/\t"))
    assert b"\t" not in location
    if to.startswith("https"):
        assert location.startswith(b"https://www.example.com/")
    elif location.startswith(b"http"):
        assert location.split(b"/")[2] != b"evil.test"


async def test_64_redirect_to_https_names_only_known_hosts(
    gateway: MakeGateway, raw: MakeClient
) -> None:
    config = {
        "listeners": [{"bind": "127.0.0.1:0", "redirect_to_https": True}],
        "routes": [{"host": "a.test", "path": "/*", "respond": {"status": 200, "body": "x"}}],
    }
    client = await raw(await gateway(config))
    got = await client.ask(get(b"/x?y", host=b"a.test:80"))
    assert (got.status, got.get("location")) == (308, b"https://a.test/x?y")
    got = await client.ask(get(b"/x", host=b"evil.test"))
    assert got.get("location") is None
    assert got.status in (400, 404, 421)
