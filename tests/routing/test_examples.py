"""Requests that are made up to show something."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gateway.config import model
from gateway.routing import examples
from gateway.routing.match import Path


def made(one: dict[str, Any], two: dict[str, Any] | None = None, host: str = "") -> str:
    first, second = (model.Match.model_validate(m) for m in (one, two if two is not None else one))
    return str(examples.request(first, second, host, "/p"))


@pytest.mark.parametrize(
    ("one", "two", "shown"),
    [
        ({}, {}, "GET http://any.host/p"),
        ({"methods": ["PUT"]}, {}, "PUT http://any.host/p"),
        ({"methods": ["HEAD"]}, {"methods": ["HEAD", "PUT"]}, "HEAD http://any.host/p"),
        ({"methods": ["HEAD"]}, {"methods": ["GET"]}, "None"),
        ({"methods": ["POST"]}, {"methods": ["GET"]}, "None"),
        ({"when": {"scheme": "https"}}, {}, "GET https://any.host/p"),
        (
            {"when": {"listener": ["a", "b"]}},
            {"when": {"listener": ["b"]}},
            "GET http://any.host/p at listener b",
        ),
        (
            {"when": {"client_ip": ["unix"]}},
            {"when": {"client_ip": ["10.0.0.0/8", "unix"]}},
            "GET http://any.host/p from unix",
        ),
        (
            {"when": {"client_ip": ["10.0.0.0/8"]}},
            {"when": {"client_ip": ["2001:db8::/32"]}},
            "None",
        ),
        ({"when": {"query": {"a b": {"equals": "c d"}}}}, {}, "GET http://any.host/p?a%20b=c%20d"),
        (
            {"when": {"cookie": {"c": {"regex": "^x{2}$"}}}},
            {},
            "GET http://any.host/p with cookie: c=xx",
        ),
        ({"when": {"header": {"x": {"present": False}}}}, {}, "GET http://any.host/p"),
        (
            {"when": {"header": {"x": {"present": False}}}},
            {"when": {"header": {"X": {"present": True}}}},
            "None",
        ),
        (
            {"when": {"header": {"x": {"equals": "absent"}}}},
            {},
            "GET http://any.host/p with x: absent",
        ),
    ],
)
def test_a_request_fits_both_matches_or_there_is_none(
    one: dict[str, Any], two: dict[str, Any], shown: str
) -> None:
    for first, second in ((one, two), (two, one)):
        assert made(first, second).lower() == shown.lower()


def test_a_host_pattern_becomes_a_host() -> None:
    assert made({}, host="a.com") == "GET http://a.com/p"
    assert made({}, host=".a.com") == "GET http://any.a.com/p"


@pytest.mark.parametrize(
    ("text", "path"),
    [("/a/{id}/b", "/a/x/b"), ("/a/*", "/a"), ("/*", "/"), ("/", "/"), ("/{r...}", "/")],
)
def test_a_pattern_becomes_a_path_that_fits_it(text: str, path: str) -> None:
    pattern = Path.compile(model.PathPattern(text=text))
    assert examples.path_of(pattern) == path
    assert pattern.matches(path)


@pytest.mark.parametrize(
    ("regexes", "found"),
    [
        ([r"^/v\d/"], ("/v0/", True)),
        ([r"\.php$", "^/a"], ("/a.php", True)),
        (["^/%2F$"], ("/%2F", True)),
        (["^x"], (None, True)),
        (["^/(?!a)[ab]$", "^/(?=a)[ab]$"], (None, False)),
    ],
)
def test_regexes_become_a_plain_path_where_there_is_one(
    regexes: list[str], found: tuple[str | None, bool]
) -> None:
    assert examples.path_of_regexes([re.compile(one) for one in regexes]) == found
