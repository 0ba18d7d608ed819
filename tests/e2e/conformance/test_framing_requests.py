"""http.md 28 to 36 and 42: where a request ends, and what must never be taken for another one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conformance.conftest import EVIL, get, one_refusal, post
from tests.kit.origin import chunk

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.e2e.conformance.conftest import Refused, Through
    from tests.kit.origin import Origin, Peer

CHUNKED = b"Transfer-Encoding: chunked"
END = b"0\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: 5", CHUNKED],
        [CHUNKED, b"Content-Length: 5"],
        [b"Content-Length: 0", CHUNKED],
        [b"content-length:5", b"TRANSFER-ENCODING:Chunked"],
        [b"Content-Length: 44", b"X: y", CHUNKED],
        [CHUNKED, CHUNKED, b"Content-Length: 5"],
        [b"Content-Length: 5", b"Transfer-Encoding: identity"],
        [b"Content-Length: 5", b"Transfer-Encoding: gzip, chunked"],
        [b"Content-Length: 5", b"Transfer-Encoding:"],
        [b"Content-Length: 5", b"Transfer-Encoding: x"],
        [b"Content-Length:", CHUNKED],
    ],
)
async def test_28_content_length_with_transfer_encoding_is_refused(
    refused: Refused, lines: list[bytes]
) -> None:
    await refused(post(*lines, body=None) + END, 400, 501)


async def test_28_content_length_with_transfer_encoding_is_refused_in_http_1_0(
    refused: Refused,
) -> None:
    head = get(b"/", b"Content-Length: 5", CHUNKED, method=b"POST", version=b"HTTP/1.0")
    await refused(head + END, 400)


BAD_LENGTHS = [
    b"+5", b"-5", b"-0", b"5_0", b"1_0", b"0x5", b"0b1", b"5 5", b"5;5", b"5.0", b"5e0", b"five", b'"5"', b"'5'",
    b"\xd9\xa5", b"\xef\xbc\x95", b"5\x0b", b"\x0c5", b"5\x00", b"99999999999999999999999", b"18446744073709551616",
    b"18446744073709551621", b"5,6", b"5, 6", b"6,5", b"5 ,6", b"5,", b",5", b",", b"", b" ",
    b"\t", b"NaN", b"inf",
    b"5h", b"0 5", b"5\xa0", b"~5", b"5,5,6", b"1" + b"0" * 400,
]  # fmt: skip


@pytest.mark.parametrize("value", BAD_LENGTHS)
async def test_29_a_content_length_that_is_not_digits_is_refused(
    refused: Refused, value: bytes
) -> None:
    await refused(post(b"Content-Length: " + value, body=None) + b"hello", 400, 413)


async def test_29_a_content_length_beyond_64_bits_of_sign_is_refused(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up, route={"body": {"max": "unlimited"}}))
    got = await client.ask(post(b"Content-Length: 9223372036854775808", body=None))
    assert (got.status, got.get("connection")) == (400, b"close")
    assert up.requests == []


@pytest.mark.parametrize(
    "values",
    [
        [b"5", b"6"],
        [b"6", b"5"],
        [b"5", b""],
        [b"", b"5"],
        [b"0", b"5"],
        [b"5", b"5", b"4"],
        [b"5", b"05"],
    ],
)
async def test_29_differing_content_lengths_are_refused(
    refused: Refused, values: list[bytes]
) -> None:
    lines = [b"Content-Length: " + value for value in values]
    await refused(post(*lines, body=None) + b"hello", 400)


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: 5", b"Content-Length: 5"],
        [b"Content-Length: 5, 5"],
        [b"Content-Length: 5,5,5"],
        [b"Content-Length: 5", b"content-length: 5"],
        [b"Content-Length: 005"],
        [b"Content-Length: 5\t "],
        [b"Content-Length:5"],
    ],
)
async def test_29_equal_content_lengths_are_refused_or_become_one(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, lines: list[bytes]
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    got = await client.ask(post(*lines, body=None) + b"hello")
    if got.status == 200:
        assert [length.lstrip(b"0") for length in up.only.all("content-length")] == [b"5"]
        assert up.only.body == b"hello"
    else:
        assert got.status == 400
        assert up.requests == []


BAD_CODINGS = [
    b"gzip", b"identity", b"chunked, gzip", b"gzip, chunked", b"chunked, chunked", b"chunked chunked", b"xchunked",
    b"chunkedx", b"chunked;q=1", b"chunked;", b'"chunked"', b"'chunked'", b"\x0bchunked", b"chunked\x0b", b"\x0cchunked",
    b"chunk", b"", b"chun\x00ked", b"chunked\x00", b"chunked, identity", b"identity, chunked", b"x, chunked",
    b"chunked, x",
    b"\xffchunked", b"chunked\xff", b"chu\nked", b"deflate", b"compress", b"br", b"chunked/1.0", b"[chunked]",
    b"c\xc2\xadhunked",
    b"chunKed\xe2\x84\xaa", b"trailers", b"none", b"null", b"chunked:", b"=chunked",
]  # fmt: skip


@pytest.mark.parametrize("coding", BAD_CODINGS)
async def test_30_a_transfer_coding_other_than_chunked_is_refused(
    refused: Refused, coding: bytes
) -> None:
    await refused(post(b"Transfer-Encoding: " + coding, body=None) + END, 400, 501)


@pytest.mark.parametrize(
    "lines",
    [
        b"Transfer-Encoding : chunked", b"Transfer-Encoding\t: chunked", b"Transfer-Encoding\x0b: chunked",
        b"Transfer-Encoding\x00: chunked", b" Transfer-Encoding: chunked", b"Transfer-Encoding\r\n: chunked",
        b"Transfer-Encoding:\n chunked", b"X: y\nTransfer-Encoding: chunked", b"X: y\rTransfer-Encoding: chunked",
        b"Transfer-Encoding\xa0: chunked", b"Transfer Encoding: chunked", b"Transfer-Encoding= chunked",
        b"Transfer-Encoding chunked",
        b"Transfer-Encoding:: chunked", b"Transfer-Encoding;: chunked",
        b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nTransfer-Encoding:",
        b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", b"Foo: bar\r\n\rTransfer-Encoding: chunked",
    ],
)  # fmt: skip
async def test_30_a_disguised_transfer_encoding_is_refused(refused: Refused, lines: bytes) -> None:
    await refused(post(lines, body=None) + END, 400, 501)


@pytest.mark.parametrize(
    "line",
    [b"Transfer_Encoding: chunked", b"Transfer-Encoding2: chunked", b"X-Transfer-Encoding: chunked",
     b"Transfer-Encodin: chunked", b"TransferEncoding: chunked"],
)  # fmt: skip
async def test_30_a_field_that_only_looks_like_it_frames_nothing(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, line: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    assert (await client.ask(post(line, body=b"5\r\nhello\r\n0\r\n\r\n"))).status == 200
    assert up.only.framing == "length"
    assert up.only.body == b"5\r\nhello\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "value", [b"chunked", b"Chunked", b"CHUNKED", b"\t chunked", b" chunked  "]
)
async def test_30_chunked_is_case_insensitive(through: Through, value: bytes) -> None:
    got = await through(post(b"Transfer-Encoding:" + value, body=None) + chunk(b"hello") + END)
    assert (got.sent.framing, got.sent.body) == ("chunked", b"hello")
    assert (await got.client.ask(get(b"/next"))).status == 200


@pytest.mark.parametrize("connection", [b"keep-alive", b"close"])
async def test_31_transfer_encoding_in_http_1_0_ends_the_connection(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, connection: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    head = get(b"/", CHUNKED, b"Connection: " + connection, version=b"HTTP/1.0", method=b"POST")
    await client.send(head + END + EVIL)
    got = await client.response("POST")
    assert got.status in (200, 400)
    assert await client.closed() in ("fin", "rst")
    assert [request.target for request in up.requests] in ([], [b"/"])


BAD_CHUNKS = [
    b"+5\r\nhello\r\n", b"-5\r\nhello\r\n", b"0x5\r\nhello\r\n", b" 5\r\nhello\r\n", b"5_0\r\nhello\r\n",
    b"g\r\nhello\r\n",
    b"\r\nhello\r\n", b";\r\nhello\r\n", b"5h\r\nhello\r\n", b"5.\r\nhello\r\n", b"\xd9\xa5\r\nhello\r\n",
    b"\x005\r\nhello\r\n",
    b"FFFFFFFFFFFFFFFFF\r\nhello\r\n", b"10000000000000000\r\nhello\r\n", b"10000000000000005\r\nhello\r\n",
    b"80000000000000000\r\nhello\r\n",
    b"ffffffffffffffffffffffffffffffff5\r\nhello\r\n", b"5\nhello\r\n", b"5\rhello\r\n", b"5\r\nhello\n", b"5\r\nhello",
    b"5\r\nhello!\r\n",
    b"5\r\nhell\r\n", b"5\r\nhello\r\r\n", b"5\r\nhello\rX", b"5\r\nhelloXX", b"5\r\n\r\nhello\r\n",
    b"\r\n5\r\nhello\r\n", b"5\x0b\r\nhello\r\n",
    b"5\x00\r\nhello\r\n", b"5\x0c\r\nhello\r\n", b"5\r\r\nhello\r\n", b"5;a\nhello\r\n", b"5;a\x00\r\nhello\r\n",
    b"5;a\rb\r\nhello\r\n",
    b"'5'\r\nhello\r\n", b'"5"\r\nhello\r\n', b"{5}\r\nhello\r\n", b"5,5\r\nhello\r\n", b"5 5\r\nhello\r\n",
    b"0x\r\nhello\r\n", b"x5\r\nhello\r\n",
    b"5;\x7f\r\nhello\r\n", b"#5\r\nhello\r\n",
]  # fmt: skip


def _body(peer: Peer) -> bytes:
    """What the upstream received behind the first head."""
    return bytes(peer.received).partition(b"\r\n\r\n")[2]


async def _sees_no_whole_request(up: Origin) -> None:
    """The upstream may have seen a beginning; it must not see an end, and no other request."""
    for peer in up.connections:
        assert await peer.closed_soon()
        assert b"/evil" not in peer.received
        assert not _body(peer).endswith(b"0\r\n\r\n")
    assert b"/evil" not in b"".join(request.target for request in up.requests)


@pytest.mark.parametrize("bad", BAD_CHUNKS)
@pytest.mark.parametrize("segments", ["one", "body later", "second chunk later"])
async def test_32_a_malformed_chunk_is_refused(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, bad: bytes, segments: str
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    head = post(CHUNKED, body=None)
    rest = bad + END + EVIL
    if segments == "one":
        await client.send(head + rest)
    elif segments == "body later":
        await client.send(head)
        await asyncio.sleep(0.01)
        await client.send(rest)
    else:
        await client.send(head + chunk(b"first"))
        await up.wait_for_request()
        await client.send(rest)
    seen = await client.rest()
    assert one_refusal(seen) == 400
    await _sees_no_whole_request(up)


@pytest.mark.parametrize(
    "end",
    [b"0\n\r\n", b"0\r\n\n", b"0\n\n", b"0\r\r\n", b"00x\r\n\r\n", b"0\r\nX : y\r\n\r\n", b"0\r\nX\r\n\r\n",
     b"0\r\nX: y\n\r\n", b"0\r\n\x00: y\r\n\r\n", b"0\r\nX: a\x00b\r\n\r\n", b"0\r\n: y\r\n\r\n", b"0 0\r\n\r\n"],
)  # fmt: skip
async def test_32_a_malformed_end_of_a_chunked_body_is_refused(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, end: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    await client.send(post(CHUNKED, body=None) + chunk(b"hello") + end + EVIL)
    seen = await client.rest()
    assert one_refusal(seen) == 400
    await _sees_no_whole_request(up)


@pytest.mark.parametrize(
    "size", [b"5", b"05", b"0000000000005", b"5;a", b"5;a=b", b'5;a="b;c";d', b"5 ;a=b"]
)
async def test_32_a_well_formed_chunk_size_is_taken(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, size: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    got = await client.ask(post(CHUNKED, body=None) + size + b"\r\nhello\r\n" + END)
    if b" " in size and got.status == 400:
        return  # BWS before an extension: only "bad" whitespace, so it may be refused
    assert got.status == 200
    assert up.only.body == b"hello"


async def test_32_hexadecimal_sizes_in_both_cases(through: Through) -> None:
    body = bytes(range(256)) * 2
    pieces = (
        b"a\r\n" + body[:10] + b"\r\nA\r\n" + body[10:20] + b"\r\n1eC\r\n" + body[20:] + b"\r\n"
    )
    got = await through(post(CHUNKED, body=None) + pieces + END)
    assert got.sent.body == body


async def test_33_chunk_extensions_are_not_forwarded(through: Through) -> None:
    got = await through(post(CHUNKED, body=None) + b'5;secret="x y"\r\nhello\r\n0;last=1\r\n\r\n')
    assert got.sent.body == b"hello"
    assert b"secret" not in got.sent.raw
    assert b"last" not in got.sent.raw


async def test_33_a_huge_chunk_extension_is_refused_or_dropped(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    await client.send(post(CHUNKED, body=None) + b"5;" + b"x" * 1_000_000)
    await client.send(b"\r\nhello\r\n" + END)
    got = await client.response("POST")
    assert got.status in (200, 400, 413, 431)
    assert all(b"xxxx" not in peer.received for peer in up.connections)


TRAILERS = [b"X-Forwarded-For: 6.6.6.6", b"Authorization: evil", b"Content-Length: 99", b"Host: evil",
            b"Transfer-Encoding: chunked", b"X-T: 1", b"Cookie: evil", b"Via: 1.1 evil"]  # fmt: skip


@pytest.mark.parametrize("line", TRAILERS)
@pytest.mark.parametrize("announced", [True, False])
async def test_34_request_trailers_are_not_merged_into_the_head(
    through: Through, line: bytes, announced: bool
) -> None:
    fields = [b"Trailer: " + line.partition(b":")[0]] if announced else []
    head = post(CHUNKED, *fields, body=None)
    got = await through(head + chunk(b"hello") + b"0\r\n" + line + b"\r\n\r\n")
    if got.response.status == 400:  # framing fields have no place in trailers
        assert line.startswith((b"Content-Length", b"Transfer-Encoding"))
        return
    assert got.response.status == 200
    assert line not in got.sent.head
    assert b"evil" not in got.sent.head
    assert got.sent.body == b"hello"


@pytest.mark.parametrize("apart", [True, False])
async def test_34_a_trailer_never_becomes_a_field_of_the_next_request(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, apart: bool
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    first = post(CHUNKED, body=None) + chunk(b"a") + b"0\r\nX-One: 1\r\nX-Evil: 1\r\n\r\n"
    if apart:
        await client.send(first)
        assert (await client.response("POST")).status == 200
        await client.send(get(b"/second"))
    else:
        await client.send(first + get(b"/second"))
        assert (await client.response("POST")).status == 200
    await client.rest()  # the connection ends, or the next answer comes and then nothing
    for request in up.requests[1:]:
        assert b"x-evil" not in request.names
        assert b"x-one" not in request.names


async def test_34_without_trailers_a_chunked_upload_keeps_its_connection(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    for _ in range(3):
        got = await client.ask(post(CHUNKED, body=None) + chunk(b"a") + END)
        assert got.status == 200
    assert len(up.requests) == 3


@pytest.mark.parametrize(
    "method", [b"GET", b"DELETE", b"OPTIONS", b"HEAD", b"PUT", b"PATCH", b"PROPFIND"]
)
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_35_framing_does_not_depend_on_the_method(
    through: Through, method: bytes, framing: str
) -> None:
    body = b"hello" if framing == "length" else None
    lines = [] if framing == "length" else [CHUNKED]
    request = get(b"/", *lines, method=method, body=body)
    got = await through(request + (chunk(b"hello") + END if framing == "chunked" else b""))
    assert (got.sent.method, got.sent.framing, got.sent.body) == (method, framing, b"hello")
    assert (await got.client.ask(get(b"/next"))).status == 200


@pytest.mark.parametrize("size", [0, 1, 5, 70_000])
async def test_36_a_known_length_stays_a_length(through: Through, size: int) -> None:
    got = await through(post(body=b"x" * size))
    assert got.sent.all("content-length") == [b"%d" % size]
    assert got.sent.all("transfer-encoding") == []
    assert len(got.sent.body) == size


@pytest.mark.parametrize("method", [b"GET", b"DELETE", b"POST"])
async def test_36_no_framing_is_invented_for_a_request_without_body(
    through: Through, method: bytes
) -> None:
    got = await through(get(method=method))
    assert got.sent.all("transfer-encoding") == []
    assert got.sent.all("content-length") in ([], [b"0"])
    if method != b"POST":
        assert got.sent.all("content-length") == []


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize(
    "begun",
    [
        post(b"Content-Length: 10", body=None) + b"hello",
        post(CHUNKED, body=None) + chunk(b"hello"),
        post(CHUNKED, body=None) + b"a\r\nhello",
        post(CHUNKED, body=None) + chunk(b"hello") + b"0\r\n",
        post(CHUNKED, body=None) + chunk(b"hello") + b"0\r\nX: y\r\n",
        post(CHUNKED, body=None) + chunk(b"hello") + b"0",
    ],
)
async def test_42_an_incomplete_request_never_becomes_a_complete_one(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, begun: bytes, how: str
) -> None:
    up = await origin()
    running = await gateway(up)
    client = await raw(running)
    await client.send(begun)
    await asyncio.sleep(0.03)
    if how == "rst":
        client.reset()
    else:
        client.half_close()
        await client.rest()
    for peer in up.connections:
        assert await peer.closed_soon()
        assert not _body(peer).endswith(b"0\r\n\r\n")
        assert b"hellohello" not in peer.received
    await running.at_rest()


@pytest.mark.parametrize(
    "end",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: a.test\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nX: ",
    ],
)
async def test_42_half_a_head_is_no_request(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, end: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    await client.send(end)
    await asyncio.sleep(0.02)
    client.half_close()
    seen = await client.rest()
    assert seen == b"" or one_refusal(seen) in (400, 408)
    assert up.requests == []
