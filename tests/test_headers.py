"""Header bytes: tables of names, and the pure functions around them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import headers
from gateway.headers import FieldTable, clean, content_length, tokens, without_named

TOKEN_BYTES = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
NAMES = st.lists(st.sampled_from(TOKEN_BYTES), min_size=1, max_size=20).map(bytes)
VALUES = st.lists(
    st.sampled_from([9, *range(32, 127), *range(128, 256)]), min_size=0, max_size=40
).map(bytes)


def spelt(name: bytes, upper: list[bool]) -> bytes:
    """`name` with some letters in upper case."""
    return bytes(
        ord(chr(byte).upper()) if high else byte for byte, high in zip(name, upper, strict=False)
    )


# ── clean ──


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_lines_of_visible_bytes_are_clean(fields: list[tuple[bytes, bytes]]) -> None:
    head = b"".join(b"%b: %b\r\n" % field for field in fields)
    assert clean(head, len(fields))


@given(
    st.lists(st.tuples(NAMES, VALUES), min_size=1, max_size=8),
    st.data(),
    st.sampled_from([byte for byte in range(256) if (byte < 32 and byte != 9) or byte == 127]),
)
def test_one_control_byte_in_any_value_is_found(
    fields: list[tuple[bytes, bytes]], data: st.DataObject, control: int
) -> None:
    at = data.draw(st.integers(0, len(fields) - 1))
    name, value = fields[at]
    where = data.draw(st.integers(0, len(value)))
    fields[at] = (name, value[:where] + bytes([control]) + value[where:])
    assert not clean(b"".join(b"%b: %b\r\n" % field for field in fields), len(fields))


def test_a_smuggled_line_is_found_and_a_tab_is_not() -> None:
    assert not clean(b"A: b\r\nC: d\r\n", 1)
    assert not clean(b"A: b\r\n", 2)
    assert clean(b"A: b\tc\r\n", 1)
    assert clean(b"", 0)


# ── tokens ──


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b"close", [b"close"]),
        (b"Keep-Alive, X-One", [b"keep-alive", b"x-one"]),
        (b"\t a ,,b\t, ", [b"a", b"b"]),
        (b"", []),
        (b" , ,", []),
    ],
)
def test_a_list_of_tokens_is_read_in_lower_case_without_empty_members(
    value: bytes, found: list[bytes]
) -> None:
    assert tokens(value) == found


@given(st.lists(NAMES, max_size=6), st.sampled_from([b",", b", ", b" ,\t", b",,"]))
def test_what_was_joined_to_a_list_is_found_in_it(names: list[bytes], comma: bytes) -> None:
    assert tokens(comma.join(names)) == [name.lower() for name in names]


# ── Content-Length ──


@pytest.mark.parametrize(
    ("value", "length"),
    [
        (b"0", 0),
        (b"5", 5),
        (b"007", 7),
        (b"999999999999999999", 10**18 - 1),
        (b"", None),
        (b"+5", None),
        (b"-5", None),
        (b"-0", None),
        (b"1_0", None),
        (b"0x10", None),
        (b"1e3", None),
        (b"5.0", None),
        (b" 5", None),
        (b"5 ", None),
        (b"5\t", None),
        (b"5\r", None),
        (b"5\x00", None),
        (b"5, 5", None),
        (b"5,5", None),
        ("٥".encode(), None),
        ("5²".encode(), None),
        (b"\xb2", None),
        (b"9223372036854775808", None),
        (b"18446744073709551621", None),
        (b"9" * 5000, None),
    ],
)
def test_a_content_length_is_digits_and_nothing_else(value: bytes, length: int | None) -> None:
    assert content_length(value) == length


@given(st.integers(0, 10**18 - 1))
def test_every_length_that_fits_is_read(length: int) -> None:
    assert content_length(b"%d" % length) == length


@given(st.binary(max_size=30))
def test_no_other_bytes_make_a_length(value: bytes) -> None:
    length = content_length(value)
    if length is None:
        assert not value or set(value) - set(b"0123456789") or len(value) > 18
    else:
        assert value.lstrip(b"0") == (b"%d" % length if length else b"")
        assert length < 2**63


# ── tables ──


@given(NAMES)
def test_an_unknown_name_is_prepared_as_it_was_spelt(name: bytes) -> None:
    table = FieldTable(headers.REQUEST)
    if name.lower() not in headers.REQUEST:
        assert table[name] == name + b": "
        assert table[name] is table[name]


@given(st.sampled_from(sorted(headers.REQUEST)), st.lists(st.booleans(), min_size=40, max_size=40))
def test_a_known_name_means_the_same_in_any_case(name: bytes, upper: list[bool]) -> None:
    assert FieldTable(headers.REQUEST)[spelt(name, upper)] == headers.REQUEST[name]


@given(st.binary(max_size=12))
def test_what_is_no_token_is_rejected(name: bytes) -> None:
    table = FieldTable(headers.RESPONSE)
    is_token = bool(name) and all(byte in TOKEN_BYTES for byte in name)
    assert (table[name] == headers.REJECT) is (not is_token)


def test_configured_names_are_dropped_in_any_case_and_special_ones_stay_special() -> None:
    table = FieldTable(headers.REQUEST, frozenset((b"x-secret", b"host")))
    assert table[b"X-Secret"] == headers.DROP
    assert table[b"Host"] == headers.HOST


@pytest.mark.parametrize(
    ("underscores", "known"),
    [("keep", b"X_User: "), ("drop", headers.DROP), ("reject", headers.REJECT)],
)
def test_a_name_with_an_underscore_is_treated_as_configured(
    underscores: str, known: bytes | int
) -> None:
    table = FieldTable(headers.REQUEST, underscores=underscores)
    assert table[b"X_User"] == known
    assert table[b"X-User"] == b"X-User: "


def test_invented_names_do_not_grow_a_table_without_bound() -> None:
    table = FieldTable(headers.REQUEST)
    for number in range(3_000):
        name = b"X-%d" % number
        assert table[name] == name + b": "
    assert len(table) == 2_000


# ── what Connection names ──


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8), st.lists(NAMES, max_size=4), st.data())
def test_exactly_the_named_fields_go_and_the_others_keep_their_order(
    fields: list[tuple[bytes, bytes]], named: list[bytes], data: st.DataObject
) -> None:
    if fields:
        named += data.draw(st.lists(st.sampled_from([name for name, _ in fields]), max_size=3))
    named = [name.lower() for name in named]
    lines = [b"%b: %b\r\n" % field for field in fields]
    kept = without_named(lines, named)
    assert kept == [
        line
        for (name, _), line in zip(fields, lines, strict=True)
        if name.lower() not in named or name.lower() in headers.PROTECTED
    ]


@given(
    st.lists(st.sampled_from(sorted(headers.PROTECTED)), min_size=1),
    st.lists(st.booleans(), min_size=40, max_size=40),
)
def test_what_says_who_a_client_is_can_not_be_named_away(
    names: list[bytes], upper: list[bool]
) -> None:
    lines = [b"%b: v\r\n" % spelt(name, upper) for name in names]
    assert without_named(lines, sorted(headers.PROTECTED)) == lines
