"""http.md 34 and 36 to 41: where a response ends, and what must never look complete."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conformance.conftest import get, problem
from tests.kit.origin import OK, chunk, reply
from tests.kit.raw import Ended

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.e2e.conformance.conftest import Through
    from tests.kit.origin import Peer

CHUNKED = reply(b"", b"Transfer-Encoding: chunked", length=False)
UNTIL_CLOSE = reply(b"", b"Connection: close", length=False)
END = b"0\r\n\r\n"


async def test_34_response_trailers_are_dropped_for_a_client_that_did_not_ask(
    through: Through,
) -> None:
    answer = CHUNKED + chunk(b"hello") + b"0\r\nX-T: 1\r\nSet-Cookie: evil=1\r\n\r\n"
    got = await through(get(), reply=answer)
    assert (got.response.body, got.response.trailers) == (b"hello", b"")
    assert not {b"x-t", b"set-cookie"} & set(got.response.names)


async def test_34_response_trailers_pass_to_a_client_that_asked(through: Through) -> None:
    answer = CHUNKED + chunk(b"hello") + b"0\r\nX-T: 1\r\nX-U: 2\r\n\r\n"
    got = await through(get(b"/", b"TE: trailers", b"Connection: TE"), reply=answer)
    assert (got.response.body, got.response.trailers) == (b"hello", b"X-T: 1\r\nX-U: 2\r\n")
    assert b"x-t" not in got.response.names


async def test_34_a_trailer_never_becomes_a_field_of_the_next_response(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin([CHUNKED + chunk(b"a") + b"0\r\nX-One: 1\r\nX-Evil: 1\r\n\r\n", OK])
    client = await raw(await gateway(up))
    assert (await client.ask(get())).body == b"a"
    second = await client.ask(get())
    assert (second.body, b"x-evil" in second.names, b"x-one" in second.names) == (
        b"ok",
        False,
        False,
    )


@pytest.mark.parametrize("size", [0, 1, 5, 70_000])
async def test_36_a_response_of_known_length_keeps_it(through: Through, size: int) -> None:
    got = await through(get(), reply=reply(b"x" * size))
    assert got.response.all("content-length") == [b"%d" % size]
    assert len(got.response.body) == size


async def test_37_the_length_of_a_head_response_is_kept_and_no_body_awaited(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin([b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", OK])
    client = await raw(await gateway(up))
    got = await client.ask(get(method=b"HEAD"))
    assert got.get("content-length") == b"1234"
    assert (await client.ask(get())).raw.endswith(b"\r\n\r\nok")
    assert len(up.connections) == 1


async def test_37_a_chunked_head_response_has_no_body(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin([CHUNKED, OK])
    client = await raw(await gateway(up))
    got = await client.ask(get(method=b"HEAD"))
    assert got.status == 200
    assert (await client.ask(get())).body == b"ok"


async def test_37_a_head_response_without_framing_gets_none_that_lies(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin([reply(b"", length=False), OK])
    client = await raw(await gateway(up))
    got = await client.ask(get(method=b"HEAD"))
    assert (got.status, got.get("content-length")) == (200, None)
    assert (await client.ask(get())).body == b"ok"


async def test_37_a_body_behind_a_head_response_is_not_delivered(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin([OK, OK])
    client = await raw(await gateway(up))
    await client.ask(get(method=b"HEAD"))
    got = await client.ask(get())
    assert (got.status, got.body) == (200, b"ok")
    assert bytes(client.received).count(b"ok") == 1


@pytest.mark.parametrize(
    "extra",
    [b"", b"Content-Length: 0\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"],
)
async def test_37_204_has_neither_body_nor_framing(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, extra: bytes
) -> None:
    up = await origin([b"HTTP/1.1 204 No Content\r\n" + extra + b"\r\n", OK])
    client = await raw(await gateway(up))
    got = await client.ask(get())
    if got.status != 204:  # a 204 that announces a body may be taken for a broken one
        assert got.status == 502
        assert extra
    else:
        assert not {b"content-length", b"transfer-encoding"} & set(got.names)
    assert (await client.ask(get())).body == b"ok"


async def test_37_304_keeps_its_length_without_a_body(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(
        [b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 1234\r\n\r\n', OK]
    )
    client = await raw(await gateway(up))
    got = await client.ask(get())
    assert (got.status, got.get("content-length"), got.get("etag")) == (304, b"1234", b'"a"')
    assert (await client.ask(get())).body == b"ok"


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_37_a_body_behind_a_bodyless_status_is_not_delivered(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, status: bytes
) -> None:
    up = await origin([reply(b"evil", status=status), OK])
    client = await raw(await gateway(up))
    await client.ask(get())
    assert (await client.ask(get())).body == b"ok"
    assert b"evil" not in client.received


BAD_RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok!",
    b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n0123456789",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxx",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nxx\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n2\r\nxx\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nxx",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n2\r\nxx\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n2\r\nxx\r\n0\r\n\r\n",
    b"HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 +200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 099 Low\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 000 Zero\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 \r\nContent-Length: 2\r\n\r\nok",
    b"HTPP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"ICY 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"hello, world\r\n\r\n",
    b"<html>old and simple</html>\r\n\r\n",
    b"\x00\x01\x02\x03\x04\r\n\r\n",
    b"\x15\x03\x01\x00\x02\x02\x0a\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nNo colon\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\n: empty\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX\x00Y: 1\r\nContent-Length: 2\r\n\r\nok",
]  # fmt: skip


@pytest.mark.parametrize("answer", BAD_RESPONSES)
async def test_38_a_malformed_response_is_502(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, answer: bytes
) -> None:
    up = await origin(answer)
    running = await gateway(up)
    client = await raw(running)
    got = await client.ask(get())
    problem(got, "upstream_bad_response", 502)
    assert await up.connections[0].closed_soon()
    assert running.metric("gateway_errors_total", reason="upstream_bad_response") == 1


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: 1\r\n" % number for number in range(2000)),
        b"HTTP/1.1 200 " + b"a" * 200_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"N" * 200_000 + b": 1\r\n",
    ],
    ids=["value", "fields", "reason", "name"],
)
async def test_38_a_response_head_beyond_all_bounds_is_502(through: Through, head: bytes) -> None:
    got = await through(get(), reply=head + b"Content-Length: 2\r\n\r\nok")
    problem(got.response, "response_too_large", 502)


@pytest.mark.parametrize("count", [1, 30])
async def test_38_a_large_but_reasonable_response_head_passes(through: Through, count: int) -> None:
    cookies = [b"Set-Cookie: c%d=" % number + b"x" * 2000 for number in range(count)]
    got = await through(get(), reply=reply(b"ok", *cookies))
    assert len(got.response.all("set-cookie")) == count


@pytest.mark.parametrize(
    "surplus",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        b"evil",
        b"\r\nevil",
        b"\x00",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
async def test_39_surplus_bytes_behind_a_response_are_never_delivered(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, surplus: bytes
) -> None:
    up = await origin([OK + surplus, reply(b"second")])
    running = await gateway(up)
    client = await raw(running)
    assert (await client.ask(get())).body == b"ok"
    assert (await client.ask(get())).body == b"second"
    assert b"evil" not in client.received
    assert len(up.connections) == 2


@pytest.mark.parametrize(
    "late", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"HTTP/1.1 408", b"x"]
)
async def test_39_bytes_on_an_idle_connection_end_it(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, late: bytes
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK if peer.number == 0 else reply(b"second"))
        if peer.number == 0:
            await asyncio.sleep(0.02)
            await peer.send(late)
        await peer.rest()

    up = await origin(script)
    client = await raw(await gateway(up))
    assert (await client.ask(get())).body == b"ok"
    assert await up.connections[0].closed_soon()
    assert (await client.ask(get())).body == b"second"
    assert b"evil" not in client.received


@pytest.mark.parametrize("keep", [False, True])
async def test_40_an_http_1_0_client_gets_no_transfer_encoding(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, keep: bool
) -> None:
    up = await origin(CHUNKED + chunk(b"hel") + chunk(b"lo") + END)
    client = await raw(await gateway(up))
    lines = [b"Connection: keep-alive"] if keep else []
    got = await client.ask(get(b"/", *lines, version=b"HTTP/1.0"))
    assert b"transfer-encoding" not in got.names
    assert (got.body, got.framing, got.ended) == (b"hello", "close", "fin")


async def test_40_our_own_version_stands_in_requests_and_responses(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
    running = await gateway(up)
    new = await (await raw(running)).ask(get())
    old = await (await raw(running)).ask(get(version=b"HTTP/1.0"))
    assert [got.start for got in (new, old)] == [b"HTTP/1.1 200 OK"] * 2
    assert [request.start for request in up.requests] == [b"GET / HTTP/1.1"] * 2


async def test_40_an_http_1_0_upstream_is_not_reused_unless_it_says_so(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.0 200 OK\r\n\r\nok")  # ends with the connection

    up = await origin(script)
    client = await raw(await gateway(up))
    for _ in range(2):
        got = await client.ask(get())
        assert (got.body, got.framing) == (b"ok", "chunked")
    assert len(up.connections) == 2


INCOMPLETE = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
    "length, no body yet": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
    "chunked between chunks": CHUNKED + chunk(b"hello"),
    "chunked inside a chunk": CHUNKED + b"a\r\nhello",
    "chunked before the last line": CHUNKED + chunk(b"hello") + b"0\r\n",
    "chunked inside trailers": CHUNKED + chunk(b"hello") + b"0\r\nX: y\r\n",
    "chunked, bad size": CHUNKED + chunk(b"hello") + b"zz\r\nevil\r\n0\r\n\r\n",
    "chunked, no line end": CHUNKED + b"5\r\nhelloXX0\r\n\r\n",
    "chunked, overflow": CHUNKED + chunk(b"hello") + b"FFFFFFFFFFFFFFFFFF\r\n",
    "chunked, negative": CHUNKED + chunk(b"hello") + b"-1\r\n",
}


@pytest.mark.parametrize("name", INCOMPLETE)
@pytest.mark.parametrize("how", ["fin", "rst", "stays open"])
@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
async def test_41_an_incomplete_response_never_looks_complete(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, name: str, how: str, version: bytes
) -> None:
    malformed = ", " in name and name.startswith("chunked")
    if how == "stays open" and not malformed:
        return  # nothing is wrong yet

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(INCOMPLETE[name])
        await asyncio.sleep(0.03)
        if how == "rst":
            peer.reset()
        elif how == "stays open":
            await peer.rest()

    up = await origin(script)
    running = await gateway(up, route={"retry": "off"})
    client = await raw(running)
    await client.send(get(version=version))
    await _broken(client, version)
    assert bytes(client.received).count(b"HTTP/1.1 ") == 1
    assert b"evil" not in client.received
    assert len(up.requests) == 1
    await running.at_rest()


async def _broken(client: object, version: bytes) -> None:
    from tests.kit.raw import Client

    assert isinstance(client, Client)
    try:
        got = await client.response()
    except Ended:
        return
    if got.status == 502:
        return  # nothing had gone out yet
    # Only the end of the connection delimits it: it must have been a reset.
    assert got.framing == "close"
    assert got.ended == "rst", (version, got.raw)


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
async def test_41_a_close_delimited_response_that_is_reset_never_looks_complete(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, version: bytes
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(UNTIL_CLOSE + b"hello")
        await asyncio.sleep(0.03)
        peer.reset()

    client = await raw(await gateway(await origin(script), route={"retry": "off"}))
    await client.send(get(version=version))
    await _broken(client, version)


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
async def test_41_a_close_delimited_response_that_ends_well_is_complete(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, version: bytes
) -> None:
    up = await origin(UNTIL_CLOSE + b"hello")
    client = await raw(await gateway(up))
    got = await client.ask(get(version=version))
    assert got.body == b"hello"
    if version == b"HTTP/1.1":
        assert got.framing == "chunked"
        assert (await client.ask(get())).body == b"hello"
    else:
        assert got.ended == "fin"


async def test_41_a_cut_is_counted_with_its_reason(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(INCOMPLETE["length"])

    running = await gateway(await origin(script))
    client = await raw(running)
    with pytest.raises(Ended):
        await client.ask(get())
    await running.eventually("gateway_errors_total", 1, reason="upstream_reset")
    await running.eventually("gateway_requests_total", 1, status="200", source="upstream")
