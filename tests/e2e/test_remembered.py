"""What a client's connection remembers of a head, where another request has the same fields but not the same meaning.

Rules of this file: the second request is one that a new connection would have been told otherwise of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway import inbound
from gateway.certificates import Encryption

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin

HOST = b"Host: a.test\r\n"


def ask(fields: bytes = HOST, path: bytes = b"/", method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, path, fields)


async def test_a_head_that_is_too_large_for_its_target_is_refused_though_its_fields_are_known(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    limits = {"request_head": "2KiB", "request_line": "1900B"}
    client = await raw(await gateway(up, server={"limits": limits}))
    fields = HOST + b"X: %b\r\n" % (b"x" * 500)
    assert (await client.ask(ask(fields))).status == 200
    assert (await client.ask(ask(fields, b"/" + b"p" * 1800))).status == 431
    assert len(up.requests) == 1


async def test_what_an_options_request_has_spent_is_not_missing_from_the_next(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    """Max-Forwards counts for OPTIONS only."""
    up = await origin()
    client = await raw(await gateway(up))
    fields = HOST + b"Max-Forwards: 5\r\n"
    for method in (b"OPTIONS", b"GET", b"OPTIONS", b"GET"):
        await client.ask(ask(fields, b"/", method))
    assert [message.get(b"Max-Forwards") for message in up.requests] == [b"4", b"5"] * 2


async def test_the_scheme_that_a_trusted_proxy_names_holds_for_each_request_over_tls(
    gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway(
        {"routes": [{"name": "here", "path": "/*", "respond": {"body": "{scheme}"}}]},
        server={"trusted_proxies": ["127.0.0.0/8"]},
    )
    client = await raw(running)
    assert (await client.ask(ask())).body == b"http"
    (connection,) = running.gateway.servers[0].connections
    connection.tls = Encryption("TLSv1.3", "TLS_AES_256_GCM_SHA384")
    for said in (b"http", b"http", b"https", b"https", b"http"):
        answer = await client.ask(ask(HOST + b"X-Forwarded-Proto: %b\r\n" % said))
        assert answer.body == said
    for _ in range(2):
        assert (await client.ask(ask())).body == b"https"


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        (b"GET / HTTP/1.1\r\n", b"GET /#f HTTP/1.1\r\n", 400),
        (b"GET / HTTP/1.1\r\n", b"GET x HTTP/1.1\r\n", 400),
        (b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.2\r\n", 400),
        (b"GET / HTTP/1.1\r\n", b"TRACE / HTTP/1.1\r\n", 405),
        (b"GET / HTTP/1.1\r\n", b"CONNECT a.test:80 HTTP/1.1\r\n", 405),
        (b"GET / HTTP/1.1\r\n", b"OPTIONS * HTTP/1.1\r\n", 204),
        (b"GET / HTTP/1.1\r\n", b"GET http://other.test:99999/ HTTP/1.1\r\n", 400),
    ],
)
async def test_fields_that_are_known_excuse_no_bad_request_line(
    origin: MakeOrigin,
    gateway: MakeGateway,
    raw: MakeClient,
    first: bytes,
    second: bytes,
    status: int,
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    for line, told in ((first, 200), (first, 200), (second, status)):
        assert (await client.ask(line + HOST + b"\r\n")).status == told


async def test_a_request_of_http_1_0_with_known_fields_is_answered_as_one(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    for _ in range(2):
        await client.ask(ask())
    answer = await client.ask(b"GET / HTTP/1.0\r\n" + HOST + b"\r\n")
    assert (answer.status, answer.get(b"Connection")) == (200, b"close")
    via = [(message.get(b"Via") or b"")[:4] for message in up.requests]
    assert via == [b"1.1 ", b"1.1 ", b"1.0 "]


async def test_only_so_much_is_remembered_of_hosts_that_clients_make_up(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    client = await raw(await gateway(await origin()))
    longest = b"h" * 3000
    assert (await client.ask(ask(b"Host: %b\r\n" % longest))).status == 200
    assert longest.decode() not in inbound._valid_hosts


async def test_a_large_head_is_not_kept_by_a_connection_that_rests(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway(await origin())
    client = await raw(running)
    await client.ask(ask(HOST + b"Cookie: a=%b\r\n" % (b"x" * 1000)))
    (connection,) = running.gateway.servers[0].connections
    assert connection.known is not None
    await client.ask(ask(HOST + b"Cookie: a=%b\r\n" % (b"x" * 9000)))
    assert connection.known is None
