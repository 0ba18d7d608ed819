"""JSON of strangers: what is read, and what is refused rather than repaired."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.documents import DEEPEST, BadDocument, read

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.text(), VALUES, max_size=5), st.booleans())
def test_what_is_valid_is_read_as_everybody_reads_it(
    value: dict[str, object], ascii_only: bool
) -> None:
    try:
        data = json.dumps(value, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        return
    assert read(data) == value


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[1]", "no JSON object"),
        (b'"text"', "no JSON object"),
        (b'{"a": 1} x', "no JSON"),
        (b'{"a": 1, "a": 1}', "twice"),
        (b'{"x": [{"a": 1, "\\u0061": 2}]}', "twice"),
        (b'{"a": NaN}', "a number that JSON has not"),
        (b'{"a": -Infinity}', "a number that JSON has not"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"a": "\xff"}', "UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "no JSON"),
        (b'{"a": "\\ud800"}', "half a character"),
        (b'{"\\udc80": 1}', "half a character"),
        (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "deeper"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deeper"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "deeper"),
    ],
    ids=lambda value: value[:24] if isinstance(value, bytes) else None,
)
def test_what_two_readers_could_read_differently_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(BadDocument, match=words):
        read(data)


def test_a_document_may_be_as_deep_as_is_said_and_as_wide_as_it_likes() -> None:
    inner = "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1)
    assert read(f'{{"a": {inner}}}'.encode())
    assert read(b'{"a": [' + b"[]," * 1000 + b"[]]}")
    with pytest.raises(BadDocument):
        read(f'{{"a": [{inner}]}}'.encode())


def test_a_whole_pair_of_surrogates_is_a_character() -> None:
    assert read(b'{"a": "\\ud83d\\ude00"}') == {"a": "😀"}
