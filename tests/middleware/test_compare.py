"""Two answers: the same, or where they differ."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.middleware import compare
from gateway.middleware.compare import MOST, Answer, Comparison

JSON = (b"Content-Type", b"application/json")


def answer(body: bytes = b"", *fields: tuple[bytes, bytes], status: int = 200) -> Answer:
    return Answer(status, fields, body)


def as_json(value: Any, *fields: tuple[bytes, bytes]) -> Answer:
    return answer(json.dumps(value).encode(), JSON, *fields)


def found(one: Answer, other: Answer, *ignore: str) -> list[str]:
    return [difference.where for difference in Comparison(ignore).differences(one, other)]


def test_the_same_is_the_same() -> None:
    one = as_json({"a": [1, {"b": None}]}, (b"X-A", b"1"))
    assert found(one, one) == []


def test_statuses_are_compared_unless_ignored() -> None:
    one, other = answer(), answer(status=404)
    [difference] = Comparison().differences(one, other)
    assert difference == ("status", "status", "200", "404")
    assert found(one, other, "status") == []


def test_fields_are_compared_by_name_in_any_case_and_order() -> None:
    one = answer(b"", (b"X-A", b"1"), (b"X-B", b"2"), (b"Set-Cookie", b"a"), (b"Set-Cookie", b"b"))
    same = answer(
        b"", (b"set-cookie", b"a"), (b"set-cookie", b"b"), (b"x-b", b" 2"), (b"x-a", b"1")
    )
    assert found(one, same) == []
    other = answer(b"", (b"X-A", b"1"), (b"X-B", b"3"), (b"X-C", b""), (b"Set-Cookie", b"b"))
    assert found(one, other) == ["header.set-cookie", "header.x-b", "header.x-c"]
    assert found(one, other, "header.X-B", "header.x-c", "header.set-cookie") == []


def test_what_belongs_to_the_connection_or_frames_the_body_does_not_count() -> None:
    one = answer(b"x", (b"Content-Length", b"1"), (b"Connection", b"close"))
    other = answer(b"x", (b"Transfer-Encoding", b"chunked"), (b"Keep-Alive", b"timeout=5"))
    assert found(one, other) == []


def test_the_date_is_a_field_like_any_other() -> None:
    one, other = answer(b"", (b"Date", b"a")), answer(b"", (b"Date", b"b"))
    assert found(one, other) == ["header.date"]
    assert found(one, other, "header.date") == []


def test_credentials_are_never_shown() -> None:
    [difference] = Comparison().differences(answer(b"", (b"Set-Cookie", b"sid=1")), answer())
    assert difference == ("header", "header.set-cookie", "***", "absent")


def test_json_is_compared_as_a_value() -> None:
    one = answer(b'{"a": 1, "b": [true, NaN]}', JSON)
    other = answer(
        b'{"b":[true,NaN],"a":1.0}', (b"content-type", b"Application/JSON; charset=utf-8")
    )
    assert found(one, other, "header.content-type") == []
    assert found(answer(one.body or b"", JSON), answer(b'{"a":1}', JSON)) == ["body.$.b"]


def test_where_json_differs_is_told_as_a_rule_would_name_it() -> None:
    one = as_json({"id": 7, "items": [{"p": 1}, {"p": 2}], "x": {"y": "z" * 300}})
    other = as_json({"id": 7, "items": [{"p": 1}, {"p": 3}, 4], "x": {"y": []}})
    differences = Comparison().differences(one, other)
    assert [(each.where, each.sent[:8], each.mirrored) for each in differences] == [
        ("body.$.items[1].p", "2", "3"),
        ("body.$.items[2]", "absent", "4"),
        ("body.$.x.y", '"zzzzzzz', "a list of 0"),
    ]
    assert max(len(each.sent) for each in differences) <= 120


@pytest.mark.parametrize("other", [1, 0, "true", None, [True], {"a": True}])
def test_true_is_nothing_else(other: Any) -> None:
    assert found(as_json({"v": True}), as_json({"v": other})) == ["body.$.v"]


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ("body.$.at", ["body.$.list[0].at", "body.$.list[1].at", "body.$.map.p.at"]),
        ("body.$.list", ["body.$.at", "body.$.map.p.at"]),
        ("body.$.list[*].at", ["body.$.at", "body.$.map.p.at"]),
        ("body.$.list[1].at", ["body.$.at", "body.$.list[0].at", "body.$.map.p.at"]),
        ("body.$.map.*.at", ["body.$.at", "body.$.list[0].at", "body.$.list[1].at"]),
        ("body.$.*", []),
        ("body.$[*]", []),
        ("body.$", []),
        ("body", []),
        (
            "body.$.other",
            ["body.$.at", "body.$.list[0].at", "body.$.list[1].at", "body.$.map.p.at"],
        ),
    ],
)
def test_a_path_is_ignored_and_nothing_else(rule: str, left: list[str]) -> None:
    one = {"at": 1, "list": [{"at": 1}, {"at": 1}], "map": {"p": {"at": 1, "same": 1}}}
    other = {"at": 2, "list": [{"at": 2}, {"at": 2}], "map": {"p": {"at": 2, "same": 1}}}
    assert found(as_json(one), as_json(other), rule) == left


def test_an_ignored_member_may_be_missing_altogether() -> None:
    assert found(as_json({"a": 1}), as_json({}), "body.$.a") == []
    assert found(as_json({"l": [1, 2]}), as_json({"l": [1]}), "body.$.l[1]") == []
    assert found(as_json({"0": 1}), as_json({"0": 2}), "body.$[0]") == ["body.$.0"]


@pytest.mark.parametrize(
    "word",
    ["", "date", "header.", "body.", "body.a", "body.$a", "body.$..a", "body.$.a[-1]", "body.$.a[?x]",
     "body.$.a.", "body.$.a b", "statuses"],
)  # fmt: skip
def test_what_is_no_rule_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        Comparison([word])


def test_other_bodies_are_compared_byte_by_byte() -> None:
    [difference] = Comparison().differences(answer(b"abcdef"), answer(b"abcxefg"))
    assert difference == (
        "body",
        "body",
        "6 bytes, from byte 3: b'def'",
        "7 bytes, from byte 3: b'xefg'",
    )
    assert found(answer(b"abc"), answer(b"ab")) == ["body"]
    html = (b"Content-Type", b"text/html")
    assert found(answer(b'{"a":1}', html), answer(b'{"a": 1}', html)) == ["body"]


@pytest.mark.parametrize("broken", [b"{", b"", b"\xff", b"[" * 100_000, b"9" * 5000])
def test_what_says_json_and_is_none_is_compared_as_bytes(broken: bytes) -> None:
    assert found(answer(broken, JSON), answer(b"{}", JSON)) == ["body"]
    assert found(answer(broken, JSON), answer(broken, JSON)) == []


@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
def test_a_compressed_body_is_compared_by_what_it_holds(coding: bytes) -> None:
    named = (b"Content-Encoding", coding)
    pack = {b"gzip": lambda data: gzip.compress(data, mtime=1), b"deflate": zlib.compress}[coding]
    one = answer(pack(b'{"a":1,"b":1}'), JSON, named)
    other = answer(pack(b'{"b":2,"a":1}'), JSON, named)
    assert found(one, other) == ["body.$.b"]
    assert found(one, other, "body.$.b") == []
    assert found(answer(b"broken", named), answer(b"brokem", named)) == ["body"]


def test_a_body_that_unfolds_without_end_is_compared_as_it_came(monkeypatch: Any) -> None:
    monkeypatch.setattr(compare, "MOST_DECODED", 1000)
    named = (b"Content-Encoding", b"gzip")
    one, other = (gzip.compress(b"x" * 100_000, level, mtime=1) for level in (1, 9))
    assert found(answer(one, named), answer(other, named)) == ["body"]


def test_a_body_that_is_not_known_whole_is_left_out() -> None:
    assert found(answer(b"x"), Answer(200, (), None)) == []


def test_the_list_of_differences_ends() -> None:
    many = {str(at): at for at in range(1000)}
    assert len(found(as_json(many), as_json({}))) == MOST
    fields = tuple((b"X-%d" % at, b"") for at in range(1000))
    assert len(found(answer(b"", *fields), answer())) == MOST


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)


rules = st.lists(
    st.sampled_from(
        ["$.a", "$[0]", "$.*", "$[*]", "$.a.b", "$.a[1]", "$[*].a", "$.*.*", "$[0].b[0]"]
    )
)
small = st.recursive(
    st.booleans() | st.integers(0, 2) | st.sampled_from([1.0, 2.5]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=8,
)


@given(small, small, rules)
def test_the_quick_look_and_the_walk_agree(a: Any, b: Any, ignored: list[str]) -> None:
    comparison = Comparison(f"body.{path}" for path in ignored)
    walked = compare._walk(a, b, comparison._rules)
    assert [each.where for each in walked] == found(
        as_json(a), as_json(b), *(f"body.{path}" for path in ignored)
    )


@given(values, values)
def test_values_differ_exactly_if_they_are_not_equal_and_either_way_round(a: Any, b: Any) -> None:
    def strict(value: Any) -> Any:
        if isinstance(value, bool):
            return ("bool", value)
        if isinstance(value, list):
            return [strict(each) for each in value]
        if isinstance(value, dict):
            return {key: strict(each) for key, each in value.items()}
        return value

    one, other = as_json(a), as_json(b)
    assert found(one, one) == []
    assert bool(found(one, other)) == (strict(a) != strict(b))
    assert found(one, other) == found(other, one)
