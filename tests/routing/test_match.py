"""What a route asks of a request."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.config import model
from gateway.routing import match
from tests.routing.kit import view


def condition(**when: Any) -> match.Condition:
    (found,) = match.conditions(model.When.model_validate(when))
    return found


@pytest.mark.parametrize(
    ("test", "fits", "fails"),
    [
        ({"equals": "2"}, [["2"], ["1", "2"]], [[], ["1"], ["22"], [""]]),
        ({"equals": ""}, [[""]], [[], ["1"]]),
        ({"one_of": ["a", "b"]}, [["b"], ["x", "a"]], [[], ["c"], ["a,b"]]),
        ({"present": True}, [[""], ["x"]], [[]]),
        ({"present": False}, [[]], [[""], ["x"]]),
        ({"regex": "^a+$"}, [["aa"], ["b", "a"]], [[], ["b"], ["ab"]]),
        ({"regex": "a"}, [["bab"]], [["b"]]),
    ],
)
@pytest.mark.parametrize("kind", ["header", "query", "cookie"])
def test_a_value_is_tested_and_of_repeated_ones_any_may_fit(
    kind: str, test: dict[str, Any], fits: list[list[str]], fails: list[list[str]]
) -> None:
    one = condition(**{kind: {"x-y": test}})

    def asked(values: list[str]) -> Any:
        if kind == "header":
            return view(headers=[("X-Y", value) for value in values])
        if kind == "query":
            return view("/?" + "&".join(f"x-y={value}" for value in values))
        return view(headers=[("Cookie", f"a=b; x-y={value}") for value in values])

    assert [values for values in fits if not one.test(asked(values))] == []
    assert [values for values in fails if one.test(asked(values))] == []


def test_query_values_compare_decoded_and_names_too() -> None:
    assert condition(query={"a b": {"equals": "c&d é"}}).test(view("/?x&a+b=c%26d+%C3%A9"))
    assert match.query_values("a&a=&b=1&a=2=3&&", "a") == ["", "", "2=3"]
    assert match.query_values("", "") == []


def test_cookies_are_read_from_every_field_without_their_quotes() -> None:
    headers = CIMultiDict([("Cookie", 'a=1;b="2" ; c'), ("cookie", 'a=3; A=4; d="')])
    assert match.cookie_values(headers, "a") == ["1", "3"]
    assert match.cookie_values(headers, "b") == ["2"]
    assert match.cookie_values(headers, "c") == []
    assert match.cookie_values(headers, "d") == ['"']


@pytest.mark.parametrize(
    ("networks", "address", "fits"),
    [
        (["10.0.0.0/8"], "10.1.2.3", True),
        (["10.0.0.0/8"], "11.1.2.3", False),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
        (["2001:db8::/32"], "2001:db8::1", True),
        (["2001:db8::/32"], "10.1.2.3", False),
        (["10.0.0.0/8", "unix"], "unix", True),
        (["10.0.0.0/8"], "unix", False),
        (["0.0.0.0/0"], "not an address", False),
        (["0.0.0.0/0"], "010.1.2.3", False),
    ],
)
def test_client_ip_is_tested_against_networks(
    networks: list[str], address: str, fits: bool
) -> None:
    assert condition(client_ip=networks).test(view(client_ip=address)) is fits


def test_scheme_and_listener_are_tested() -> None:
    assert condition(scheme="https").test(view(scheme="https"))
    assert not condition(scheme="https").test(view(scheme="http"))
    assert condition(listener=["a", "b"]).test(view(listener="b"))
    assert not condition(listener=["a", "b"]).test(view(listener="c"))


@pytest.mark.parametrize(
    ("when", "why"),
    [
        ({"header": {"x": {"equals": "2"}}}, "header x is 'a' and 'b', wanted '2'"),
        ({"header": {"y": {"one_of": ["1", "2"]}}}, "header y is absent, wanted '1' or '2'"),
        ({"query": {"q": {"regex": "^a"}}}, "query q is 'z', wanted /^a/"),
        ({"cookie": {"c": {"present": True}}}, "cookie c is absent, wanted present"),
        ({"header": {"x": {"present": False}}}, "header x is 'a' and 'b', wanted absent"),
        ({"scheme": "https"}, "scheme is http, wanted https"),
        ({"listener": ["b", "a"]}, "listener is main, wanted a or b"),
        (
            {"client_ip": ["10.0.0.0/8", "unix"]},
            "client_ip is 203.0.113.9, wanted in 10.0.0.0/8 or unix",
        ),
    ],
)
def test_a_condition_says_what_it_found_and_what_it_wanted(when: dict[str, Any], why: str) -> None:
    request = view("/?q=z", headers=[("X", "a"), ("X", "b")])
    one = condition(**when)
    assert not one.test(request)
    assert one.why_not(request) == why


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("/", "exact"),
        ("/a/", "exact"),
        ("/{x}", "template"),
        ("/a/{x}/*", "prefix"),
        ("/{x...}", "prefix"),
    ],
)
def test_a_path_has_a_class(text: str, kind: str) -> None:
    assert match.Path.compile(model.PathPattern.model_construct(text=text, regex=None)).kind == kind


@pytest.mark.parametrize("text", ["a", "/*/a", "/{a}b", "/{a...}/b", "/{a}/{a}", "/{a}/{a...}"])
def test_a_pattern_that_means_nothing_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"`|captures"):
        match.Path.compile(model.PathPattern.model_construct(text=text, regex=None))


def test_a_broken_regex_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="is not a regular expression"):
        match.Path.compile(model.PathPattern.model_construct(text=None, regex="("))


def test_the_captures_of_a_path_are_known() -> None:
    def names(**pattern: Any) -> frozenset[str]:
        return match.Path.compile(model.PathPattern.model_validate(pattern)).captures

    assert names(text="/{a}/b/{c}/{d...}") == {"a", "c", "d"}
    assert names(regex=r"^/(?P<x>\d+)/(y)") == {"x"}
    assert names(text="/a") == frozenset()


@given(st.lists(st.sampled_from(["a", "b%2Fc", "~", ""]), min_size=3, max_size=5))
def test_captures_put_back_into_their_places_give_the_path(segments: list[str]) -> None:
    path = "/" + "/".join(segments)
    pattern = match.Path.compile(model.PathPattern(text="/{one}/{two}/{rest...}"))
    if not pattern.matches(path):
        assert "" in segments[:2]
        return
    capture = pattern.capturer()
    assert capture is not None
    taken = capture(path, path)
    assert f"/{taken['one']}/{taken['two']}/{taken['rest']}" == path


def test_an_unmatched_optional_group_is_an_empty_capture() -> None:
    capture = match.Path.compile(model.PathPattern(regex="^/(?P<a>x)?y")).capturer()
    assert capture is not None
    assert capture("/y", "/y") == {"a": ""}


def test_a_group_of_a_regex_takes_the_bytes_that_came() -> None:
    capture = match.Path.compile(model.PathPattern(regex="^/u/(?P<name>.+)")).capturer()
    assert capture is not None
    assert capture("/u/%7Eann", "/u/~ann") == {"name": "%7Eann"}
    assert capture("/%75/%7Eann", "/u/~ann") == {"name": "~ann"}


# ── values, however they are spelt ──

_NAMES = st.sampled_from(["a", "ab", "a b", "é", "a+b", "a%b", "A"])


@given(
    st.lists(
        st.sampled_from(
            ["a", "b", "&", "=", "%61", "%41", "%62", "+", "%20", "%c3%a9", "%C3%A9", "%2b", "%25", "%", ";", "é", " "]
        ),
        max_size=12,
    ),
    _NAMES,
)  # fmt: skip
def test_the_values_of_a_parameter_are_those_of_a_query_whose_every_name_is_decoded(
    pieces: list[str], name: str
) -> None:
    query = "".join(pieces)
    pairs = [part.partition("=") for part in query.split("&") if part]
    wanted = [unquote_plus(value) for key, _, value in pairs if unquote_plus(key) == name]
    assert match.query_values(query, name) == wanted


def test_of_a_query_with_thousands_of_escaped_names_only_values_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded: list[str] = []

    def noted(text: str) -> str:
        decoded.append(text)
        return unquote_plus(text)

    monkeypatch.setattr(match, "unquote_plus", noted)
    query = "%41=%41&" * 1000 + "c%6Fde=%41"
    assert match.query_values(query, "code") == ["A"]
    assert decoded == ["%41"]


@given(
    st.lists(st.sampled_from(["a", "b", ";", "=", "\t", " ", '"', "A", "é"]), max_size=12),
    st.sampled_from(["a", "ab", "A"]),
)
def test_the_values_of_a_cookie_are_those_of_a_field_that_is_cut_at_each_semicolon(
    pieces: list[str], name: str
) -> None:
    field = "".join(pieces)
    pairs = [part.strip(" \t").partition("=") for part in field.split(";")]
    values = [value for key, mark, value in pairs if mark and key == name]
    wanted = [
        value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
        for value in values
    ]
    assert match.cookie_values(CIMultiDict({"Cookie": field}), name) == wanted
