"""Whether regular expressions have a text in common."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.overlap import literal_beginning, witness


def common(*regexes: str) -> tuple[str | None, bool]:
    return witness([re.compile(regex) for regex in regexes])


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (r"^/v\d+/", r"^/v1/users"),
        (r"^/a.*z$", r"^/[^b]+$"),
        ("a", "b"),
        (r"^/(x|y)+$", r"^/(?:yx)*\Z"),
        (r"^/a{2,20}$", r"^/a{3}$"),
        (r"^/[a-f]{2}\w\W", r"^/ab\S"),
        ("(?i)^/ABC$", "^/abc$"),
        ("^/a(b|c)?d*?$", "^/acdd$"),
        ("^/[^/]+/x", "^/(?P<id>[0-9]+)/x$"),
        ("x|^$", "x"),
    ],
)
def test_a_common_text_is_found_and_fits_both(one: str, two: str) -> None:
    text, certain = common(one, two)
    assert text is not None
    assert certain
    assert re.search(one, text)
    assert re.search(two, text)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("^/v1/", "^/v2/"),
        (r"^/\d+$", "^/[a-z]+$"),
        ("^a", "^/"),
        ("x$", "y$"),
        ("^/a$", "^/a/.+$"),
        ("^/$b", "/"),
    ],
)
def test_that_there_is_none_is_certain(one: str, two: str) -> None:
    assert common(one, two) == (None, True)


def test_what_an_automaton_cannot_say_is_no_certain_example() -> None:
    assert common("^/(?!a)[ab]$", "^/a$") == ("/a", False)
    assert common(r"^/(a|b)\1$", "^/ab$")[1] is False
    assert common(r"^/\bfoo", "^/bar") == (None, True), "narrower than disjoint is disjoint"


def test_the_shortest_text_comes_first() -> None:
    assert common("^/[a-z]*$")[0] == "/"
    assert common(r"^/users/\d+")[0] == "/users/0"


def test_a_search_that_explodes_gives_up() -> None:
    assert common("^(a|b)*a(a|b){20}c$", "^(a|b)*b(a|b){19}c$", "^(a|b)*a(a|b){15}c$")[1] is False


@given(
    st.from_regex(r"\A(\^?/?([ab]|\[ab\]|\(a\|b\)|\.)[*+?]?){1,3}\$?\Z"),
    st.from_regex(r"\A(\^?/?([ab]|\[^a\]|\(a\|bb\)|\.)[*+?]?){1,3}\$?\Z"),
    st.text(alphabet="/ab", max_size=5),
)
def test_a_text_that_both_find_refutes_that_there_is_none(one: str, two: str, text: str) -> None:
    found, certain = common(one, two)
    if re.search(one, text) and re.search(two, text):
        assert found is not None
        assert len(found) <= len(text)
    if found is not None and certain:
        assert re.search(one, found)
        assert re.search(two, found)


@pytest.mark.parametrize(
    ("regex", "text"),
    [
        ("^/api/v\\d", "/api/v"),
        ("/api", ""),
        ("^/a|^/b", "/"),
        ("(?i)^/a", ""),
        ("^/a.b", "/a"),
        ("", ""),
    ],
)
def test_the_literal_beginning_is_what_every_match_begins_with(regex: str, text: str) -> None:
    assert literal_beginning(re.compile(regex)) == text
