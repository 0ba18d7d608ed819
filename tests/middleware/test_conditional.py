"""Conditions, ranges and preferences, as tables.

Rules of this file: pure functions, header values in, decisions out.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.middleware import conditional

ETAG = '"a-1"'
MODIFIED = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
DATE = formatdate(MODIFIED, usegmt=True)
BEFORE = formatdate(MODIFIED - 1, usegmt=True)
AFTER = formatdate(MODIFIED + 1, usegmt=True)


def fields(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


@pytest.mark.parametrize(
    ("pairs", "status"),
    [
        ([], 0),
        ([("If-Match", ETAG)], 0),
        ([("If-Match", "*")], 0),
        ([("If-Match", '"x"'), ("If-Match", ETAG)], 0),
        ([("If-Match", f"W/{ETAG}")], 412),
        ([("If-Match", '"x"')], 412),
        ([("If-Match", "junk")], 412),
        ([("If-Unmodified-Since", DATE)], 0),
        ([("If-Unmodified-Since", BEFORE)], 412),
        ([("If-Unmodified-Since", "junk")], 0),
        ([("If-Match", ETAG), ("If-Unmodified-Since", BEFORE)], 0),
        ([("If-None-Match", ETAG)], 304),
        ([("If-None-Match", f'"x", W/{ETAG}')], 304),
        ([("If-None-Match", "*")], 304),
        ([("If-None-Match", '"x"')], 0),
        ([("If-None-Match", '"with, comma", "x"')], 0),
        ([("If-Modified-Since", DATE)], 304),
        ([("If-Modified-Since", AFTER)], 304),
        ([("If-Modified-Since", BEFORE)], 0),
        ([("If-Modified-Since", "Thursday, 01-Jan-26 00:00:00 GMT")], 304),
        ([("If-Modified-Since", "Thu Jan  1 00:00:00 2026")], 304),
        ([("If-Modified-Since", "yesterday")], 0),
        ([("If-Modified-Since", "Thu, 99 Jan 2026 00:00:00 GMT")], 0),
        ([("If-None-Match", '"x"'), ("If-Modified-Since", DATE)], 0),
        ([("If-Match", '"x"'), ("If-None-Match", ETAG)], 412),
        ([("If-Match", ETAG), ("If-None-Match", ETAG)], 304),
    ],
)
def test_preconditions_are_evaluated_in_the_order_of_the_rfc(
    pairs: list[tuple[str, str]], status: int
) -> None:
    assert conditional.evaluate(fields(*pairs), ETAG, MODIFIED) == status


@pytest.mark.parametrize(
    ("value", "size", "span"),
    [
        ("bytes=0-0", 10, (0, 1)),
        ("bytes=2-4", 10, (2, 3)),
        ("Bytes=2-4", 10, (2, 3)),
        ("bytes=2-", 10, (2, 8)),
        ("bytes=2-99", 10, (2, 8)),
        ("bytes=-3", 10, (7, 3)),
        ("bytes=-99", 10, (0, 10)),
        ("bytes=9-9", 10, (9, 1)),
        ("bytes=10-", 10, (0, 0)),
        ("bytes=10-20", 10, (0, 0)),
        ("bytes=-0", 10, (10, 0)),
        ("bytes=0-", 0, (0, 0)),
        ("bytes=-5", 0, None),
        ("bytes=4-2", 10, None),
        ("bytes=-", 10, None),
        ("bytes=0-1,3-4", 10, None),
        ("bytes=x-1", 10, None),
        ("bytes=+1-2", 10, None),
        ("bytes=٣-", 10, None),
        ("bytes 0-1", 10, None),
        ("lines=0-1", 10, None),
        ("bytes=" + "9" * 5000 + "-", 10, None),
        ("", 10, None),
    ],
)
def test_one_range_is_understood(value: str, size: int, span: tuple[int, int] | None) -> None:
    found = conditional.span(fields(("Range", value)), size, ETAG, DATE)
    if span is not None and span[1] == 0:
        assert found is not None
        assert found[1] == 0
    else:
        assert found == span


@given(
    st.integers(0, 50), st.one_of(st.none(), st.integers(0, 60)),
    st.one_of(st.none(), st.integers(0, 60)),
)  # fmt: skip
def test_a_range_never_leaves_the_file(size: int, first: int | None, last: int | None) -> None:
    value = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    found = conditional.span(fields(("Range", value)), size, ETAG, DATE)
    if found is not None and found[1]:
        assert 0 <= found[0] < found[0] + found[1] <= size
    data = bytes(range(size))
    if found and first is not None and last is not None and found[1]:
        assert data[found[0] : sum(found)] == data[first : last + 1]


@pytest.mark.parametrize(
    ("value", "is_partial"),
    [(ETAG, True), (DATE, True), (f"W/{ETAG}", False), ('"x"', False), (BEFORE, False),
     (AFTER, False), ("junk", False)],
)  # fmt: skip
def test_a_range_holds_only_for_the_representation_that_the_client_has(
    value: str, is_partial: bool
) -> None:
    found = conditional.span(fields(("Range", "bytes=0-1"), ("If-Range", value)), 10, ETAG, DATE)
    assert (found is not None) is is_partial


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("gzip, deflate, br, zstd", ("br", "gzip", "zstd")),
        ("gzip;q=0.9, br;q=0.8", ("gzip", "br")),
        ("GZIP", ("gzip",)),
        ("x-gzip", ("gzip",)),
        ("*", ("br", "gzip", "zstd")),
        ("*, br;q=0", ("gzip", "zstd")),
        ("gzip;q=0", ()),
        ("gzip;q=0.5, identity", ()),
        ("gzip;q=0.5, identity;q=0.4", ("gzip",)),
        ("gzip;q=junk", ()),
        ("gzip; Q=1.000", ("gzip",)),
        ("deflate", ()),
        ("", ()),
    ],
)
def test_codings_are_chosen_by_weight_then_by_the_configurations_order(
    value: str, expected: tuple[str, ...]
) -> None:
    assert conditional.codings([value], ("br", "gzip", "zstd")) == expected


def test_without_accept_encoding_the_plain_file_is_sent() -> None:
    assert conditional.codings([], ("br",)) == ()


@pytest.mark.parametrize(
    ("accept", "name", "takes"),
    [
        (["text/html,*/*;q=0.8"], "app.js", True),
        (["text/*"], "about", True),
        (["application/xhtml+xml"], "about", True),
        (["*/*"], "about", True),
        (["*/*"], "app.js", False),
        ([], "about", True),
        ([], "app.js", False),
        (["application/json"], "about", False),
        (["image/*"], "logo", False),
        (["*/*, text/html;q=0"], "about", False),
    ],
)
def test_a_page_in_place_of_what_is_missing_is_for_those_that_take_html(
    accept: list[str], name: str, takes: bool
) -> None:
    assert conditional.takes_html(accept, name) is takes
