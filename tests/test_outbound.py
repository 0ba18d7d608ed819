"""Heads that leave the gateway: what passes, what is our own, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from gateway import errors, headers
from gateway.exchange import Exchange
from gateway.headers import FieldTable
from gateway.outbound import Outbound, ResponseHead, request_fields, status_line
from tests.test_headers import NAMES, VALUES

Fields = list[tuple[bytes, bytes]]


def asked(fields: Fields, method: str = "GET", **attributes: Any) -> Exchange:
    made = Exchange()
    made.method = method
    made.raw_headers = tuple(fields)
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
    made.headers = CIMultiDictProxy(CIMultiDict(pairs))
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def sent(fields: Fields, method: str = "GET", **attributes: Any) -> bytes:
    return request_fields(asked(fields, method, **attributes), FieldTable(headers.REQUEST))


def answered(*fields: tuple[bytes, bytes], bodiless: bool = False) -> ResponseHead:
    message = cast(
        "Any", SimpleNamespace(raw_headers=fields, version=(1, 1), code=200, reason="OK")
    )
    return ResponseHead(message, FieldTable(headers.RESPONSE), bodiless=bodiless)


# ── requests ──


@given(st.lists(st.tuples(NAMES, VALUES), max_size=12))
def test_unknown_fields_pass_byte_for_byte_and_in_order(fields: Fields) -> None:
    unknown = [field for field in fields if field[0].lower() not in headers.REQUEST]
    assert sent(unknown) == b"".join(b"%b: %b\r\n" % field for field in unknown)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6), st.data())
def test_hop_by_hop_fields_among_others_never_pass(fields: Fields, data: st.DataObject) -> None:
    fields = [field for field in fields if field[0].lower() not in headers.REQUEST]
    passing = b"".join(b"%b: %b\r\n" % field for field in fields)
    hops = [b"Keep-Alive", b"proxy-connection", b"UPGRADE", b"Proxy-Authorization", b"Trailer"]
    for name in data.draw(st.lists(st.sampled_from(hops), max_size=5)):
        fields.insert(data.draw(st.integers(0, len(fields))), (name, b"x"))
    assert sent(fields) == passing


@given(VALUES, st.sampled_from([*range(9), *range(10, 32), 127]), VALUES)
def test_a_control_byte_in_a_value_is_refused(before: bytes, control: int, after: bytes) -> None:
    with pytest.raises(errors.BadRequest):
        sent([(b"X", before + bytes([control]) + after)])


@pytest.mark.parametrize("name", [b"", b"X Y", b"X\r\nY", b"X:Y", b"(x)", b"\xc3\xa9"])
def test_a_name_that_is_no_token_is_refused(name: bytes) -> None:
    with pytest.raises(errors.BadRequest):
        sent([(name, b"v")])


def test_what_connection_names_goes_unless_it_says_who_the_client_is() -> None:
    fields = [
        (b"Connection", b"close, X-Hop"),
        (b"X-Hop", b"1"),
        (b"X-Other", b"2"),
        (b"connection", b"X-FORWARDED-FOR, cookie"),
        (b"Cookie", b"a=b"),
    ]
    assert sent(fields) == b"X-Other: 2\r\nCookie: a=b\r\n"


def test_the_framing_is_our_own() -> None:
    length = (b"content-length", b"05")
    coding = (b"Transfer-Encoding", b"chunked")
    assert sent([length], length=5) == b"Content-Length: 05\r\n"
    assert sent([coding], length=None) == b"Transfer-Encoding: chunked\r\n"
    both = sent([length, coding, (b"A", b"b")], length=None)
    assert both == b"A: b\r\nTransfer-Encoding: chunked\r\n"


def test_a_coding_that_the_parser_took_for_none_ends_the_connection() -> None:
    exchange = asked([(b"Transfer-Encoding", b"")], length=0)
    with pytest.raises(errors.BadRequest):
        request_fields(exchange, FieldTable(headers.REQUEST))
    assert exchange.close


def test_trailers_are_asked_for_when_the_client_wants_them() -> None:
    exchange = asked([(b"TE", b"gzip, Trailers"), (b"Connection", b"TE")])
    fields = request_fields(exchange, FieldTable(headers.REQUEST))
    assert fields == b"Connection: TE\r\nTE: trailers\r\n"
    assert exchange.wants_trailers
    old = asked([(b"TE", b"trailers")], http10=True)
    assert request_fields(old, FieldTable(headers.REQUEST)) == b""
    assert not old.wants_trailers


def test_an_upgrade_is_said_by_this_hop() -> None:
    fields = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"A", b"b")]
    passed = b"A: b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    assert sent(fields, upgrade="websocket") == passed
    assert sent(fields) == b"A: b\r\n"


@pytest.mark.parametrize(
    ("method", "value", "passed"),
    [
        ("OPTIONS", b"5", b"4"),
        ("OPTIONS", b"010", b"9"),
        ("OPTIONS", b"five", b"five"),
        ("OPTIONS", b"1" * 10, b"1" * 10),
        ("OPTIONS", b"\xb2", b"\xb2"),
        ("GET", b"5", b"5"),
    ],
)
def test_max_forwards_counts_down_for_options_only(
    method: str, value: bytes, passed: bytes
) -> None:
    assert sent([(b"Max-Forwards", value)], method) == b"Max-Forwards: %b\r\n" % passed


def test_a_head_is_finished_for_each_target() -> None:
    near = cast("Any", SimpleNamespace(prefix_bytes=b"", authority=b"near:80"))
    far = cast("Any", SimpleNamespace(prefix_bytes=b"/base", authority=b"far:81"))
    own = Outbound("GET", "/a?b", None, b"A: b\r\n")
    assert own.head(near, b"") == b"GET /a?b HTTP/1.1\r\nHost: near:80\r\nA: b\r\n\r\n"
    assert own.head(far, b"C: d\r\n") == (
        b"GET /base/a?b HTTP/1.1\r\nHost: far:81\r\nA: b\r\nC: d\r\n\r\n"
    )
    fixed = Outbound("GET", "/", b"given", b"")
    assert fixed.head(far, b"") == b"GET /base/ HTTP/1.1\r\nHost: given\r\n\r\n"


@given(st.binary(max_size=20))
def test_the_bytes_of_a_target_leave_as_they_came(target: bytes) -> None:
    near = cast("Any", SimpleNamespace(prefix_bytes=b"", authority=b"a"))
    text = target.decode("utf-8", "surrogateescape")
    assert Outbound("GET", text, None, b"").head(near, b"").startswith(b"GET %b HTTP/" % target)


# ── responses ──


@given(st.lists(st.tuples(NAMES, VALUES), max_size=12))
def test_unknown_response_fields_pass_byte_for_byte_and_in_order(fields: Fields) -> None:
    unknown = [field for field in fields if field[0].lower() not in headers.RESPONSE]
    head = answered(*unknown)
    assert head.lines == [b"%b: %b\r\n" % field for field in unknown]
    assert (head.length, head.chunked, head.dated, head.upgrade) == (None, False, False, b"")


LENGTH = (b"Content-Length", b"5")
CHUNKED = (b"Transfer-Encoding", b"chunked")


@pytest.mark.parametrize(
    "fields",
    [
        (LENGTH, CHUNKED),
        (CHUNKED, LENGTH),
        (LENGTH, (b"content-length", b"6")),
        (LENGTH, (b"Content-Length", b"05")),
        ((b"Content-Length", b"5, 5"),),
        ((b"Content-Length", b"+5"),),
        ((b"Content-Length", b"-1"),),
        ((b"Content-Length", b""),),
        ((b"Content-Length", b"1_0"),),
        ((b"Content-Length", b"9223372036854775808"),),
        (CHUNKED, CHUNKED),
        ((b"Transfer-Encoding", b"gzip, chunked"),),
        ((b"Transfer-Encoding", b"chunked, chunked"),),
        ((b"Transfer-Encoding", b"identity"),),
        ((b"Transfer-Encoding", b""),),
        ((b"Transfer-Encoding", b"\x0bchunked"),),
        ((b"Transfer-Encoding", b"xchunked"),),
        ((b"X", b"a\rb"),),
        ((b"X", b"a\nb"),),
        ((b"X", b"a\x00b"),),
        ((b"X Y", b"a"),),
        ((b"Content-Length ", b"5"),),
        ((b"Date", b"a\nb"),),
        ((b"Trailer", b"a\nb"),),
    ],
)
@pytest.mark.parametrize("bodiless", [False, True])
def test_a_head_that_can_be_read_in_two_ways_is_refused(
    fields: tuple[tuple[bytes, bytes], ...], bodiless: bool
) -> None:
    with pytest.raises(errors.UpstreamBadResponse):
        answered(*fields, bodiless=bodiless)


def test_framing_is_noted_and_does_not_pass() -> None:
    sized = answered((b"A", b"b"), LENGTH, LENGTH)
    assert (sized.lines, sized.length, sized.chunked) == ([b"A: b\r\n"], b"5", False)
    chunked = answered((b"transfer-encoding", b" Chunked\t"), (b"A", b"b"))
    assert (chunked.lines, chunked.length, chunked.chunked) == ([b"A: b\r\n"], None, True)


def test_a_length_without_a_body_is_news_and_passes() -> None:
    assert answered(LENGTH, bodiless=True).lines == [b"Content-Length: 5\r\n"]
    assert answered(bodiless=True).lines == []


def test_one_date_passes_and_what_connection_names_does_not() -> None:
    head = answered(
        (b"Date", b"x"),
        (b"date", b"y"),
        (b"Connection", b"close, x-hop"),
        (b"X-Hop", b"1"),
        (b"Set-Cookie", b"a=b"),
        (b"Connection", b"Set-Cookie"),
        (b"Upgrade", b"WebSocket"),
        (b"Trailer", b"X-T"),
    )
    assert head.lines == [b"Date: x\r\n", b"Set-Cookie: a=b\r\n", b"Trailer: X-T\r\n"]
    assert (head.dated, head.upgrade) == (True, b"websocket")


@given(st.integers(200, 599), st.binary(max_size=20))
def test_a_status_line_is_one_line_whatever_the_phrase_is(status: int, phrase: bytes) -> None:
    line = status_line(status, phrase.decode("utf-8", "surrogateescape"))
    start = b"HTTP/1.1 %d " % status
    assert line.startswith(start)
    assert headers.clean(line, 1)
    assert line[len(start) : -2] in (phrase, b"")


def test_a_phrase_passes_and_one_with_a_line_end_is_left_out() -> None:
    assert status_line(200, "Fine by me") == b"HTTP/1.1 200 Fine by me\r\n"
    assert status_line(200, "a\r\nSet-Cookie: b") == b"HTTP/1.1 200 \r\n"


@pytest.mark.parametrize(
    "other",
    [
        {"raw_headers": ((b"A", b"2"),)},
        {"raw_headers": ((b"a", b"1"),)},
        {"code": 201},
        {"reason": "Fine"},
        {"version": (1, 0)},
    ],
)
def test_what_is_remembered_of_a_head_is_for_the_same_head_only(other: dict[str, Any]) -> None:
    said: dict[str, Any] = {
        "raw_headers": ((b"A", b"1"),), "code": 200, "reason": "OK", "version": (1, 1),
    }  # fmt: skip
    table = FieldTable(headers.RESPONSE)
    head = ResponseHead(cast("Any", SimpleNamespace(**said)), table, bodiless=False)
    assert head.fits(cast("Any", SimpleNamespace(**said)), table)
    assert not head.fits(cast("Any", SimpleNamespace(**{**said, **other})), table)
    assert not head.fits(cast("Any", SimpleNamespace(**said)), FieldTable(headers.RESPONSE))
