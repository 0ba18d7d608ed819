"""http.md 1 to 10: fields that belong to one connection."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conformance.conftest import get, post, problem
from tests.kit.origin import OK, chunk, reply

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.e2e.conformance.conftest import Through


@pytest.mark.parametrize(
    "connection",
    [
        [b"Connection: X-Hop"],
        [b"Connection: x-hop, close"],
        [b"connection:close ,\tX-HOP"],
        [b"Connection: keep-alive", b"Connection: x-hop"],
        [b"Connection: , ,x-hop,,"],
        [b"Connection: x-hop", b"Connection: keep-alive"],
        [b"CONNECTION: keep-alive, x-hop, x-none"],
    ],
)
async def test_01_connection_and_what_it_names_go_from_requests(
    through: Through, connection: list[bytes]
) -> None:
    got = await through(get(b"/", b"X-Hop: secret", *connection, b"X-Stays: 1", b"x-hop: twice"))
    assert b"connection" not in got.sent.names
    assert b"x-hop" not in got.sent.names
    assert b"secret" not in got.sent.raw
    assert got.sent.get("x-stays") == b"1"


@pytest.mark.parametrize(
    "connection",
    [b"X-Hop", b"x-hop, keep-alive", b"close, X-HOP", b",x-hop ,"],
)
async def test_01_connection_and_what_it_names_go_from_responses(
    through: Through, connection: bytes
) -> None:
    answer = reply(b"ok", b"X-Hop: secret", b"Connection: " + connection, b"X-Stays: 1")
    got = await through(get(), reply=answer)
    assert b"x-hop" not in got.response.names
    assert got.response.get("x-stays") == b"1"
    assert b"x-hop" not in (got.response.get("connection") or b"").lower()


async def test_01_a_field_named_by_one_connection_line_of_several_responses_goes(
    through: Through,
) -> None:
    answer = reply(b"ok", b"Connection: a", b"A: 1", b"B: 2", b"Connection: b", b"C: 3")
    got = await through(get(), reply=answer)
    assert not {b"a", b"b"} & set(got.response.names)
    assert got.response.get("c") == b"3"


HOP_BY_HOP = [b"Keep-Alive: timeout=5", b"Proxy-Connection: keep-alive", b"TE: gzip", b"Upgrade: x"]


@pytest.mark.parametrize("line", HOP_BY_HOP)
async def test_02_hop_by_hop_fields_go_from_requests_unnamed(through: Through, line: bytes) -> None:
    got = await through(get(b"/", line, b"X-Stays: 1"))
    assert line.partition(b":")[0].lower() not in got.sent.names
    assert got.sent.get("x-stays") == b"1"


@pytest.mark.parametrize("line", HOP_BY_HOP)
async def test_02_hop_by_hop_fields_go_from_responses_unnamed(
    through: Through, line: bytes
) -> None:
    got = await through(get(), reply=reply(b"ok", line, b"X-Stays: 1"))
    assert line.partition(b":")[0].lower() not in got.response.names
    assert (got.response.get("x-stays"), got.response.body) == (b"1", b"ok")


END_TO_END = [
    b"Authorization: Bearer t",
    b"Cookie: a=b",
    b"Content-Type: text/plain",
    b"Content-Encoding: gzip",
    b"Cache-Control: no-cache",
]


@pytest.mark.parametrize("line", END_TO_END)
async def test_03_connection_does_not_name_end_to_end_fields_away(
    through: Through, line: bytes
) -> None:
    name, _, value = line.partition(b": ")
    got = await through(post(line, b"Connection: close, " + name))
    assert got.sent.get(name) == value


@pytest.mark.parametrize(
    "name",
    [b"Host", b"Content-Length", b"X-Forwarded-For", b"X-Forwarded-Proto", b"X-Forwarded-Host",
     b"X-Forwarded-Port", b"Via", b"X-Request-Id"],
)  # fmt: skip
async def test_03_connection_does_not_name_the_gateways_own_fields_away(
    through: Through, name: bytes
) -> None:
    got = await through(post(b"Connection: keep-alive, " + name))
    assert got.sent.get(name), got.sent.head
    assert got.sent.body == b"hello"


async def test_03_connection_does_not_name_forwarded_away(through: Through) -> None:
    got = await through(post(b"Connection: Forwarded"), server={"forwarded": "both"})
    assert got.sent.get("forwarded")


@pytest.mark.parametrize("name", [b"Transfer-Encoding", b"transfer-encoding, te"])
async def test_03_connection_does_not_name_the_framing_away(through: Through, name: bytes) -> None:
    head = post(b"Transfer-Encoding: chunked", b"Connection: " + name, body=None)
    got = await through(head + chunk(b"hello") + b"0\r\n\r\n")
    assert (got.sent.framing, got.sent.body) == ("chunked", b"hello")


@pytest.mark.parametrize(
    "line",
    [b"Set-Cookie: a=b", b"Content-Type: text/plain", b"Location: /x", b"Cache-Control: private"],
)
async def test_03_connection_does_not_name_end_to_end_response_fields_away(
    through: Through, line: bytes
) -> None:
    name, _, value = line.partition(b": ")
    got = await through(get(), reply=reply(b"ok", line, b"Connection: " + name))
    assert got.response.get(name) == value


async def test_03_connection_does_not_name_a_responses_length_away(through: Through) -> None:
    got = await through(get(), reply=reply(b"ok", b"Connection: Content-Length"))
    assert (got.response.framing, got.response.body) == ("length", b"ok")


async def test_04_a_request_is_framed_anew_for_the_next_hop(through: Through) -> None:
    head = post(b"Transfer-Encoding: Chunked", body=None)
    got = await through(head, b"3;x=y\r\nabc\r\n", b"0002\r\nde\r\n0\r\n\r\n")
    assert got.sent.all("transfer-encoding") == [b"chunked"]
    assert got.sent.all("content-length") == []
    assert got.sent.body == b"abcde"


async def test_04_a_response_is_framed_anew_for_the_client(through: Through) -> None:
    answer = reply(b"", b"Transfer-Encoding: CHUNKED", length=False)
    got = await through(get(), reply=answer + b"3;x=y\r\nabc\r\n0002\r\nde\r\n0\r\n\r\n")
    assert got.response.all("transfer-encoding") == [b"chunked"]
    assert got.response.all("content-length") == []
    assert got.response.body == b"abcde"
    assert b"x=y" not in got.response.raw


@pytest.mark.parametrize(
    "te",
    [b"gzip", b"trailers", b"trailers, deflate;q=0.5", b"deflate , TRAILERS", b"trailersx", b""],
)
async def test_05_only_trailers_passes_of_te_and_connection_names_it(
    through: Through, te: bytes
) -> None:
    got = await through(get(b"/", b"TE: " + te, b"Connection: TE"))
    if got.sent.get("te") is not None:
        assert b"trailers" in [part.strip(b" \t").lower() for part in te.split(b",")]
        assert got.sent.get("te") == b"trailers"
        assert (got.sent.get("connection") or b"").lower() == b"te"
    else:
        assert b"connection" not in got.sent.names


async def test_05_te_trailers_reaches_the_upstream(through: Through) -> None:
    got = await through(get(b"/", b"TE: trailers", b"Connection: TE"))
    assert got.sent.get("te") == b"trailers"
    assert (got.sent.get("connection") or b"").lower() == b"te"


H2C = [b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABkAAQAAP__"]


@pytest.mark.parametrize(
    "lines",
    [
        H2C,
        [b"Upgrade: H2C", b"Connection: upgrade"],
        [b"Upgrade: h2c, websocket", b"Connection: upgrade"],
        [b"Upgrade: foo/2", b"Connection: upgrade"],
        [b"Upgrade: TLS/1.0", b"Connection: Upgrade"],
        [b"Upgrade: websocket", b"Connection: keep-alive"],
        [b"Upgrade: websocket"],
    ],
)
async def test_06_an_upgrade_that_is_not_let_through_goes_on_as_an_ordinary_request(
    through: Through, lines: list[bytes]
) -> None:
    got = await through(get(b"/", *lines))
    assert not {b"upgrade", b"connection", b"http2-settings"} & set(got.sent.names)
    assert (got.response.status, got.response.body) == (200, b"ok")


async def test_06_bytes_behind_an_upgrade_that_was_removed_are_no_request(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    got = await client.ask(get(b"/first", *H2C) + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert got.get("connection") == b"close"
    await client.rest()
    assert [request.target for request in up.requests] == [b"/first"]


async def test_06_what_upgrade_names_is_let_through(through: Through) -> None:
    answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\nhi"
    got = await through(
        get(b"/", b"Connection: Upgrade", b"Upgrade: foo"), reply=answer, route={"upgrade": ["foo"]}
    )
    assert got.response.status == 101
    assert (got.sent.get("upgrade"), (got.sent.get("connection") or b"").lower()) == (
        b"foo",
        b"upgrade",
    )
    assert await got.client.exactly(2) == b"hi"


def test_06_h2c_can_not_be_let_through() -> None:
    from gateway.config import ConfigError, load_dict

    route = {"path": "/*", "to": "http://127.0.0.1:1", "upgrade": ["h2c"]}
    with pytest.raises(ConfigError, match="h2c"):
        load_dict({"routes": [route]})


async def test_07_via_is_appended_to_requests(through: Through) -> None:
    got = await through(get(b"/", b"Via: 1.0 fred", b"Via: 1.1 p.example.net"))
    via = b", ".join(got.sent.all("via"))
    assert re.fullmatch(rb"1\.0 fred, 1\.1 p\.example\.net, 1\.1 gateway-[0-9a-f]{8}", via)


async def test_07_via_bears_the_configured_name_and_the_clients_version(through: Through) -> None:
    got = await through(get(version=b"HTTP/1.0"), server={"name": "edge"})
    assert re.fullmatch(rb"1\.[01] edge-[0-9a-f]{8}", got.sent.get("via") or b"")


@pytest.mark.parametrize("form", [b"%b", b"1.0 fred, %b", b"%b, 1.1 other", b"%b (comment)"])
async def test_07_a_request_that_has_passed_this_instance_is_a_loop(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, form: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    await client.ask(get())
    own = up.only.get("via") or b""
    again = await client.ask(get(b"/", b"Via: " + form.replace(b"%b", own)))
    problem(again, "loop_detected", 508)
    assert len(up.requests) == 1


async def test_07_another_instance_of_the_same_name_is_no_loop(through: Through) -> None:
    got = await through(get(b"/", b"Via: 1.1 gateway-00000000, 1.1 gateway"))
    assert got.response.status == 200


async def test_08_options_with_max_forwards_0_is_answered_here(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    got = await client.ask(get(b"/", b"Max-Forwards: 0", method=b"OPTIONS"))
    assert got.status in (200, 204)
    assert up.requests == []


async def test_08_options_with_max_forwards_goes_on_with_one_less(through: Through) -> None:
    got = await through(get(b"/", b"Max-Forwards: 10", method=b"OPTIONS"))
    assert got.sent.get("max-forwards") == b"9"


async def test_08_max_forwards_of_another_method_is_left_alone(through: Through) -> None:
    got = await through(get(b"/", b"Max-Forwards: 0"))
    assert got.sent.get("max-forwards") == b"0"


async def test_09_fields_for_an_authenticating_proxy_are_dropped(through: Through) -> None:
    answer = reply(b"ok", b"Proxy-Authenticate: Basic", b"Proxy-Authentication-Info: x")
    got = await through(get(b"/", b"Proxy-Authorization: Basic eDp5"), reply=answer)
    assert b"proxy-authorization" not in got.sent.names
    assert not {b"proxy-authenticate", b"proxy-authentication-info"} & set(got.response.names)


@pytest.mark.parametrize("line", [b"Max-Forwards: 0", b"Max-Forwards: 5", b"X: 1"])
async def test_10_trace_is_refused_and_reflects_nothing(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, line: bytes
) -> None:
    up = await origin(OK)
    client = await raw(await gateway(up))
    got = await client.ask(get(b"/", b"Authorization: secret", line, method=b"TRACE"))
    assert got.status in (405, 501)
    assert b"secret" not in got.raw
    assert up.requests == []
