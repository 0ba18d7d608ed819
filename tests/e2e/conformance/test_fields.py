"""http.md 43 to 56: what a field may look like, and that it stays what it was."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conformance.conftest import get, post, problem
from tests.kit.origin import OK, reply

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.e2e.conformance.conftest import Refused, Through


@pytest.mark.parametrize("fold", [b"\r\n ", b"\r\n\t", b"\r\n  \t ", b"\r\n \r\n "])
async def test_43_a_folded_request_field_is_refused_or_unfolded(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, fold: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    await client.send(get(b"/", b"X-Fold: a" + fold + b"b", b"X-Stays: 1"))
    got = await client.response()
    if got.status == 200:
        assert (up.only.get("x-fold") or b"").split() == [b"a", b"b"]
        assert up.only.get("x-stays") == b"1"
    else:
        assert got.status == 400
        assert up.requests == []


@pytest.mark.parametrize("fold", [b"\r\n ", b"\r\n\t", b"\r\n    "])
async def test_43_a_folded_response_field_is_502_or_unfolded(through: Through, fold: bytes) -> None:
    got = await through(get(), reply=reply(b"ok", b"X-Fold: a" + fold + b"b", b"X-Stays: 1"))
    if got.response.status == 200:
        assert (got.response.get("x-fold") or b"").split() == [b"a", b"b"]
        assert got.response.get("x-stays") == b"1"
        assert b"\r\n " not in got.response.head
        assert b"\r\n\t" not in got.response.head
    else:
        problem(got.response, "upstream_bad_response", 502)


CONTROLS = [bytes([code]) for code in (*range(9), 0x0A, 0x0B, 0x0C, 0x0D, *range(14, 32), 0x7F)]


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("place", [b"X: a%b", b"X: %b", b"X: a%bb", b"X%bY: a"])
async def test_44_a_control_byte_in_a_request_field_is_refused(
    refused: Refused, place: bytes, control: bytes
) -> None:
    await refused(get(b"/", place.replace(b"%b", control), b"X-Last: 1"), 400)


@pytest.mark.parametrize("control", CONTROLS)
async def test_44_a_control_byte_in_a_response_never_reaches_the_client(
    through: Through, control: bytes
) -> None:
    answer = reply(b"ok", b"X-Bad: a" + control + b"Set-Cookie: evil", b"X-Last: 1")
    got = await through(get(), reply=answer)
    if got.response.status == 502:
        problem(got.response, "upstream_bad_response", 502)
    else:  # a bare LF ends a line for lenient parsers: it must at least be one for us too
        assert control == b"\n"
    assert control not in got.response.head.replace(b"\r\n", b"")


async def test_44_a_tab_in_a_value_is_no_control_byte(through: Through) -> None:
    got = await through(get(b"/", b"X: a\tb"), reply=reply(b"ok", b"Y: c\td"))
    assert (got.sent.get("x"), got.response.get("y")) == (b"a\tb", b"c\td")


@pytest.mark.parametrize("ends", [b"\n", b"\r\r\n", b"\n\r\n"])
async def test_44_lines_of_a_request_end_in_crlf_only(refused: Refused, ends: bytes) -> None:
    await refused(b"GET / HTTP/1.1\r\nHost: a.test" + ends + b"X: y\r\n\r\n", 400)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\nHost: a.test\n\n",
        b"GET / HTTP/1.1\nHost: a.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\n\n",
        b"GET / HTTP/1.1\r\nHost: a.test\n\r\n",
        b"GET / HTTP/1.1\rHost: a.test\r\r",
        b"GET / HTTP/1.1\r\nHost: a.test\r\n\r",
    ],
)
async def test_44_a_head_with_bare_line_ends_is_refused(refused: Refused, head: bytes) -> None:
    await refused(head, 400, 0)


@pytest.mark.parametrize(
    "line",
    [
        b"Host : b.test",
        b"X : y",
        b"X\t: y",
        b"X \t : y",
        b"Content-Length : 5",
        b"X\x0b: y",
        b" : y",
    ],
)
async def test_45_space_before_the_colon_of_a_request_field_is_refused(
    refused: Refused, line: bytes
) -> None:
    await refused(get(b"/", line), 400)


@pytest.mark.parametrize("line", [b"X : y", b"X\t: y", b"Content-Length : 2", b"Set-Cookie : a"])
async def test_45_space_before_the_colon_of_a_response_field_is_removed_or_502(
    through: Through, line: bytes
) -> None:
    got = await through(get(), reply=reply(b"ok", line, length=not line.startswith(b"Content")))
    if got.response.status == 200:
        assert all(name.strip(b" \t") == name for name, _, _ in _parted(got.response.head))
    else:
        problem(got.response, "upstream_bad_response", 502)


def _parted(head: bytes) -> list[tuple[bytes, bytes, bytes]]:
    return [line.partition(b":") for line in head.split(b"\r\n")[1:-2]]


@pytest.mark.parametrize(
    "first", [b" X: y", b"\tX: y", b" Host: b.test", b" Transfer-Encoding: chunked", b"  "]
)
async def test_46_space_before_the_first_field_is_refused_or_dropped(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, first: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    await client.send(b"GET / HTTP/1.1\r\n" + first + b"\r\nHost: a.test\r\n\r\n")
    got = await client.response()
    if got.status == 200:
        assert up.only.get("host") == b"a.test"
        assert not {b"x", b"transfer-encoding"} & set(up.only.names)
    else:
        assert got.status == 400
        assert up.requests == []


@pytest.mark.parametrize(
    "line",
    [b": empty", b"No colon", b"NoColon", b"X Y: 1", b"(X): 1", b"X@Y: 1", b"X,Y: 1", b"X;Y: 1", b"X/Y: 1", b"X[Y]: 1",
     b"X{Y}: 1", b'"X": 1', b"X=Y: 1", b"X?Y: 1", b"X<Y: 1", b"X\\Y: 1", b"X\xc3\xa9: 1", b"\xffX: 1", b"X\x80: 1", b":",
     b"\xc2\xa0X: 1"],
)  # fmt: skip
async def test_47_a_request_field_name_that_is_no_token_is_refused(
    refused: Refused, line: bytes
) -> None:
    await refused(get(b"/", line), 400)


async def test_47_every_token_character_is_let_through(through: Through) -> None:
    name = b"!#$%&'*+-.^`|~09azAZ"
    got = await through(get(b"/", name + b": 1"), reply=reply(b"ok", name + b": 2"))
    assert name + b": 1\r\n" in got.sent.head
    assert name + b": 2\r\n" in got.response.head


async def test_48_the_order_of_equal_names_is_kept(through: Through) -> None:
    lines = [b"X-A: 1", b"X-B: 2", b"x-a: 3", b"X-A: 1", b"X-A:"]
    got = await through(get(b"/", *lines), reply=reply(b"ok", *lines))
    assert got.sent.all("x-a") == [b"1", b"3", b"1", b""]
    assert got.response.all("x-a") == [b"1", b"3", b"1", b""]


async def test_48_set_cookie_is_never_joined(through: Through) -> None:
    cookies = [b"a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT", b"b=2", b"a=3"]
    got = await through(get(), reply=reply(b"ok", *[b"Set-Cookie: " + one for one in cookies]))
    assert got.response.all("set-cookie") == cookies


async def test_49_a_cookie_is_opaque(through: Through) -> None:
    cookie = b'a=b; c="d,e; f"; =g; h; i=\xe9; $Version=1; a=z;;'
    got = await through(get(b"/", b"Cookie: " + cookie))
    assert got.sent.get("cookie") == cookie


async def test_49_the_pool_has_no_cookie_jar(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(reply(b"ok", b"Set-Cookie: session=1; Path=/"))
    running = await gateway(up)
    for _ in range(2):
        await (await raw(running)).ask(get())
    assert [b"cookie" in request.names for request in up.requests] == [False, False]


ODD_VALUES = [b"caf\xc3\xa9", b"caf\xe9", b"\x80\xff", b"\xe2\x82\xac", b'"a\\"b", c', b"a  b", b"%00%0d%0a",
              b"\\r\\n", b"=?utf-8?q?a?=", b"a;b=c,d:e", b"x" * 4000]  # fmt: skip


@pytest.mark.parametrize("value", ODD_VALUES)
async def test_50_values_are_passed_byte_for_byte(through: Through, value: bytes) -> None:
    got = await through(get(b"/", b"X-Odd: " + value), reply=reply(b"ok", b"X-Odd: " + value))
    assert got.sent.get("x-odd") == value
    assert got.response.get("x-odd") == value


async def test_50_the_spelling_of_names_is_kept(through: Through) -> None:
    got = await through(get(b"/", b"x-oDD-nAME: 1"), reply=reply(b"ok", b"X-oDD-rEPLY: 2"))
    assert b"\r\nx-oDD-nAME: 1\r\n" in got.sent.head
    assert b"\r\nX-oDD-rEPLY: 2\r\n" in got.response.head


@pytest.mark.parametrize("line", [b"X-Empty:", b"X-Empty: ", b"X-Empty:\t "])
async def test_51_empty_values_are_kept(through: Through, line: bytes) -> None:
    got = await through(get(b"/", line), reply=reply(b"ok", line))
    assert got.sent.all("x-empty") == [b""]
    assert got.response.all("x-empty") == [b""]


UNDERSCORED = [
    b"X_Forwarded_For: 6.6.6.6",
    b"X_Other: 1",
    b"Content_Length: 3",
    b"X-Forwarded_Host: evil",
]


@pytest.mark.parametrize("line", UNDERSCORED)
async def test_52_names_with_underscores_are_dropped_by_default(
    through: Through, line: bytes
) -> None:
    got = await through(get(b"/", line, b"X-Other: kept"))
    assert got.sent.get("x-other") == b"kept"
    assert line.partition(b":")[0].lower() not in got.sent.names
    assert b"6.6.6.6" not in got.sent.head
    assert b"evil" not in got.sent.head


async def test_52_names_with_underscores_can_be_kept(through: Through) -> None:
    got = await through(get(b"/", b"X_Other: 1"), server={"underscore_headers": "keep"})
    assert got.sent.get("x_other") == b"1"


async def test_52_names_with_underscores_can_be_refused(refused: Refused) -> None:
    request = get(b"/", b"X_Other: 1", b"Connection: close")
    await refused(request, 400, server={"underscore_headers": "reject"})


async def test_53_nothing_is_invented(through: Through) -> None:
    got = await through(get(host=b"a.test"))
    own = {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port",
           b"via", b"x-request-id"}  # fmt: skip
    assert sorted(got.sent.names) == sorted({b"host", *own})


async def test_53_nothing_is_invented_for_a_body(through: Through) -> None:
    got = await through(post())
    for name in (b"content-type", b"accept", b"accept-encoding", b"user-agent", b"expect", b"te"):
        assert name not in got.sent.names


async def test_53_nothing_is_invented_in_a_response(through: Through) -> None:
    got = await through(get())
    assert set(got.response.names) <= {b"content-length", b"date", b"x-request-id"}


NEGOTIATION = [b"Accept-Encoding: gzip;q=1.0, br", b"Range: bytes=0-1", b'If-None-Match: "a"', b'If-Match: W/"a"',
               b"If-Modified-Since: Wed, 21 Oct 2026 07:28:00 GMT", b"If-Range: x", b"Accept: */*", b"User-Agent: a/1",
               b"Accept-Language: de", b"Referer: http://a.test/", b"Origin: null", b"From: a@a.test", b"Prefer: x",
               b"Content-Encoding: gzip", b"Content-Language: de", b"Content-MD5: x", b"Sec-Fetch-Mode: cors",
               b"Priority: u=1"]  # fmt: skip


@pytest.mark.parametrize("line", NEGOTIATION)
async def test_54_negotiation_and_conditions_pass_to_the_upstream(
    through: Through, line: bytes
) -> None:
    got = await through(get(b"/", line))
    assert line + b"\r\n" in got.sent.head


DESCRIPTION = [b"Content-Encoding: gzip", b'ETag: W/"a"', b"Vary: *", b"Content-Range: bytes 0-1/5", b"Accept-Ranges: bytes",
               b"Last-Modified: Wed, 21 Oct 2026 07:28:00 GMT", b"Content-Type: text/plain; charset=latin-1",
               b"Cache-Control: a, b",
               b"Age: 3", b"Expires: 0", b"Location: /x?y#z", b"WWW-Authenticate: Basic realm=\"x\"", b"Link: </a>",
               b"Allow: GET",
               b"Content-Disposition: attachment; filename=\"a\xe9\"", b"Retry-After: 3", b"Warning: 199 - x",
               b"Alt-Svc: clear",
               b"Strict-Transport-Security: max-age=1", b"Refresh: 3", b"Pragma: no-cache",
               b"X-Powered-By: y"]  # fmt: skip


@pytest.mark.parametrize("line", DESCRIPTION)
async def test_54_descriptions_pass_to_the_client(through: Through, line: bytes) -> None:
    got = await through(get(), reply=reply(b"ok", line))
    assert line + b"\r\n" in got.response.head
    assert got.response.body == b"ok"


@pytest.mark.parametrize(
    "coding", [b"gzip", b"deflate", b"br", b"zstd", b"x-unknown", b"gzip, gzip"]
)
@pytest.mark.parametrize("valid", [True, False])
async def test_54_bodies_are_never_decoded(through: Through, coding: bytes, valid: bool) -> None:
    body = gzip.compress(b"hello" * 100) if valid else b"this is no " + coding
    line = b"Content-Encoding: " + coding
    got = await through(post(line, body=body), reply=reply(body, line))
    assert got.sent.body == body
    assert got.response.body == body
    assert got.response.get("content-encoding") == coding
    assert got.response.get("content-length") == b"%d" % len(body)


async def test_55_date_is_added_where_it_is_missing(through: Through) -> None:
    got = await through(get())
    assert (got.response.get("date") or b"").endswith(b" GMT")


async def test_55_the_upstreams_date_is_kept(through: Through) -> None:
    date = b"Wed, 21 Oct 2015 07:28:00 GMT"
    got = await through(get(), reply=reply(b"ok", b"Date: " + date))
    assert got.response.get("date") == date


async def test_55_there_is_one_date(through: Through) -> None:
    got = await through(get(), reply=reply(b"ok", b"Date: a", b"date: b"))
    assert len(got.response.all("date")) == 1


async def test_55_there_is_at_most_one_server(through: Through) -> None:
    got = await through(get(), reply=reply(b"ok", b"Server: origin/1"))
    assert got.response.get("server") == b"origin/1"


async def test_55_own_answers_have_a_date_and_name_no_software(
    gateway: MakeGateway, raw: MakeClient
) -> None:
    route = {"path": "/x", "respond": {"status": 200, "body": "x"}}
    client = await raw(await gateway({"routes": [route]}))
    for path in (b"/x", b"/none"):
        got = await client.ask(get(path))
        assert got.get("date")
        for word in (b"python", b"aiohttp", b"llhttp"):
            assert word not in got.raw.lower()


@pytest.mark.parametrize(
    "phrase", [b"OK", b"Fine by me", b"", b"caf\xe9", b"caf\xc3\xa9", b"a\tb", b"A" * 500]
)
async def test_56_the_reason_phrase_is_kept_or_empty(through: Through, phrase: bytes) -> None:
    got = await through(get(), reply=b"HTTP/1.1 200 " + phrase + b"\r\nContent-Length: 2\r\n\r\nok")
    assert got.response.status == 200
    assert got.response.reason in (phrase, b"")


async def test_56_a_status_line_without_a_space_behind_the_code_passes(through: Through) -> None:
    got = await through(get(), reply=b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok")
    assert (got.response.status, got.response.body) == (200, b"ok")


@pytest.mark.parametrize("phrase", [b"OK\rSet-Cookie: evil", b"O\x00K", b"O\x0bK", b"OK\r"])
async def test_56_a_reason_phrase_never_has_control_bytes(through: Through, phrase: bytes) -> None:
    got = await through(get(), reply=b"HTTP/1.1 200 " + phrase + b"\r\nContent-Length: 2\r\n\r\nok")
    assert got.response.status in (200, 502)
    assert b"\r" not in got.response.start
    assert b"\x00" not in got.response.raw
    assert b"set-cookie" not in got.response.names


@pytest.mark.parametrize("code", [b"299", b"399", b"418", b"451", b"499", b"599", b"203", b"226"])
async def test_56_unusual_statuses_pass_as_they_are(through: Through, code: bytes) -> None:
    got = await through(get(), reply=reply(b"ok", status=code + b" Odd"))
    assert got.response.start == b"HTTP/1.1 " + code + b" Odd"


async def test_56_the_answer_stays_in_step_behind_odd_heads(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin([reply(b"one", b"X: caf\xe9", status=b"299 \xe9"), OK])
    client = await raw(await gateway(up))
    assert (await client.ask(get())).body == b"one"
    assert (await client.ask(get())).body == b"ok"
