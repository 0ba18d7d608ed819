"""http.md 57 to 60: whose status it is, and what it tells."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conformance.conftest import get, post, problem
from tests.kit.origin import chunk, reply
from tests.kit.raw import Ended

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.e2e.conformance.conftest import Through
    from tests.kit.origin import Peer


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (b"301 Moved", b"Location: /elsewhere"),
        (b"302 Found", b"Location: http://127.0.0.1:1/"),
        (b"303 See Other", b"Location: https://example.com/"),
        (b"307 Temporary Redirect", b"Location: //evil.test/"),
        (b"308 Permanent Redirect", b"Location: relative"),
        (b"401 Unauthorized", b'WWW-Authenticate: Basic realm="x"'),
        (b"401 Unauthorized", b"WWW-Authenticate: Negotiate"),
        (b"404 Not Found", b"X: 1"),
        (b"407 Proxy Authentication Required", b"X: 1"),
        (b"408 Request Timeout", b"X: 1"),
        (b"421 Misdirected Request", b"X: 1"),
        (b"425 Too Early", b"X: 1"),
        (b"429 Too Many Requests", b"Retry-After: 1"),
        (b"500 Internal Server Error", b"X: 1"),
        (b"502 Bad Gateway", b"X: 1"),
        (b"503 Service Unavailable", b"Retry-After: 1"),
        (b"504 Gateway Timeout", b"X: 1"),
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_57_the_upstreams_status_is_passed_and_not_acted_on(
    through: Through, status: bytes, line: bytes, method: bytes
) -> None:
    request = get(method=method, body=b"x" if method == b"POST" else None)
    got = await through(request, reply=reply(b"body", line, status=status))
    assert got.response.start == b"HTTP/1.1 " + status
    assert got.response.body == b"body"
    assert line + b"\r\n" in got.response.head
    assert got.response.get("proxy-status") is None
    assert len(got.origin.requests) == 1


async def test_57_a_post_is_sent_once(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()

    up = await origin(script)
    client = await raw(await gateway(up))
    problem(await client.ask(post()), "upstream_reset", 502)
    assert len(up.requests) == 1


async def test_58_an_upstream_that_refuses_is_502(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    await up.refuse()
    running = await gateway(up)
    client = await raw(running)
    problem(await client.ask(get()), "connect_refused", 502)
    assert running.metric("gateway_errors_total", reason="connect_refused", route="all") == 1
    assert running.metric("gateway_requests_total", status="502", source="gateway") == 1
    assert (await running.log())[0]["reason"] == "connect_refused"


async def test_58_a_name_that_does_not_exist_is_502(gateway: MakeGateway, raw: MakeClient) -> None:
    route = {"path": "/*", "to": "http://does-not-exist.invalid"}
    client = await raw(await gateway({"routes": [route]}))
    problem(await client.ask(get()), "dns_error", 502)


async def test_58_an_upstream_without_tls_behind_https_is_502(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.some()
        await peer.send(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    up = await origin(script)
    route = {"path": "/*", "to": f"https://{up.address}"}
    client = await raw(await gateway({"routes": [route]}))
    problem(await client.ask(get()), "tls_error", 502)


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Le"])
async def test_58_an_upstream_that_leaves_before_its_head_is_502(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, how: str, sent: bytes
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(sent)
        await asyncio.sleep(0.02)
        if how == "rst":
            peer.reset()

    up = await origin(script)
    client = await raw(await gateway(up, route={"retry": "off"}))
    got = await client.ask(get())
    problem(got, "upstream_reset", 502)
    assert len(up.requests) == 1


async def test_58_a_silent_upstream_is_504(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.rest()

    up = await origin(script)
    running = await gateway(up)
    client = await raw(running)
    await client.send(get())
    await up.wait_for_request()
    running.clock.advance(30.5)
    problem(await client.response(), "upstream_header_timeout", 504)


async def test_58_a_failure_behind_the_head_breaks_the_connection(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        await asyncio.sleep(0.02)

    client = await raw(await gateway(await origin(script)))
    with pytest.raises(Ended):
        await client.ask(get())
    assert bytes(client.received).count(b"HTTP/1.1") == 1


TALKATIVE = [
    b"traceback",
    b"aiohttp",
    b"python",
    b"error(",
    b"exception",
    b"errno",
    b".py",
    b"127.0.0.1",
    b"invalid.",
]


@pytest.mark.parametrize("fault", ["refused", "reset", "garbage", "timeout", "dns"])
@pytest.mark.parametrize("accept", [b"*/*", b"text/html"])
async def test_59_a_gateways_error_tells_nothing_of_upstream_or_software(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, fault: str, accept: bytes
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if fault == "garbage":
            await peer.send(b"SECRET-GARBAGE\r\n\r\n")
        if fault == "timeout":
            await peer.rest()

    up = await origin(script)
    if fault == "refused":
        await up.refuse()
    to = "http://upstream.invalid." if fault == "dns" else up.url
    running = await gateway({"routes": [{"name": "r", "path": "/*", "to": to, "retry": "off"}]})
    client = await raw(running)
    await client.send(get(b"/", b"Accept: " + accept))
    if fault == "timeout":
        await up.wait_for_request()
        running.clock.advance(31)
    got = await client.response()
    assert got.status in (502, 504)
    said = got.body.lower()
    for word in [*TALKATIVE, b"secret-garbage", str(up.port).encode()]:
        assert word not in said, got.body
    assert str(up.port).encode() not in got.head
    assert b"server" not in got.names


async def test_59_the_detail_is_told_only_where_it_is_asked_for(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    await up.refuse()
    client = await raw(await gateway(up, errors={"expose_reason": True}))
    got = await client.ask(get())
    assert b'"detail"' in got.body
    client = await raw(await gateway(up))
    assert b'"detail"' not in (await client.ask(get())).body


async def test_60_a_declared_length_beyond_the_limit_is_413(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up, route={"body": {"max": "10B"}}))
    await client.send(post(body=b"12345678901"))
    problem(await client.response("POST"), "body_too_large", 413)
    assert up.requests == []
    client = await raw(await gateway(up, route={"body": {"max": "10B"}}))
    assert (await client.ask(post(body=b"1234567890"))).status == 200


@pytest.mark.parametrize("segments", ["one", "two"])
async def test_60_a_chunked_body_beyond_the_limit_is_413(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, segments: str
) -> None:
    up = await origin()
    client = await raw(await gateway(up, route={"body": {"max": "10B"}}))
    head = post(b"Transfer-Encoding: chunked", body=None)
    body = chunk(b"12345") * 3 + b"0\r\n\r\n"
    if segments == "one":
        await client.send(head + body)
    else:
        await client.send(head + chunk(b"12345"))
        await up.wait_for_request()
        await client.send(chunk(b"12345") * 2)
    problem(await client.response("POST"), "body_too_large", 413)
    for peer in up.connections:
        assert await peer.closed_soon()
        assert b"\r\n0\r\n\r\n" not in peer.received


async def test_60_a_chunked_body_within_the_limit_passes(through: Through) -> None:
    head = post(b"Transfer-Encoding: chunked", body=None)
    got = await through(head + chunk(b"12345") * 2 + b"0\r\n\r\n", route={"body": {"max": "10B"}})
    assert got.response.status == 200


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        (get(b"/" + b"a" * 9000), 414, "uri_too_long"),
        (get(b"/?" + b"a" * 9000), 414, "uri_too_long"),
        (get(b"/", b"X: " + b"a" * 17_000), 431, "head_too_large"),
        (
            get(b"/", *[b"X-%d: %b" % (number, b"a" * 1000) for number in range(20)]),
            431,
            "head_too_large",
        ),
        (get(b"/", *[b"X-%d: 1" % number for number in range(150)]), 431, "head_too_large"),
        (get(b"/", b"X" * 17_000 + b": 1"), 431, "head_too_large"),
        (get(method=b"FOO"), 501, "not_implemented"),
        (get(b"/", b"Bad name: 1"), 400, "bad_request"),
    ],
    ids=["path", "query", "one field", "all fields", "count", "name", "method", "syntax"],
)
async def test_60_the_status_fits_what_is_wrong(
    origin: MakeOrigin,
    gateway: MakeGateway,
    raw: MakeClient,
    request_: bytes,
    status: int,
    reason: str,
) -> None:
    up = await origin()
    running = await gateway(up)
    client = await raw(running)
    await client.send(request_)
    problem(await client.response(), reason, status)
    assert up.requests == []
    assert running.metric("gateway_errors_total", reason=reason, route="_none") == 1


def test_the_name_that_must_not_resolve_does_not() -> None:
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("does-not-exist.invalid", 80)
