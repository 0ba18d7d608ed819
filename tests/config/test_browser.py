"""`cors`, `security_headers` and `hsts` as they are written: what is taken, and what is refused with which fix."""

from __future__ import annotations

import pytest

from gateway.config import ConfigError, load_text, model
from gateway.config.browser import PRESETS

ROUTE = "routes:\n  - path: /*\n    to: http://127.0.0.1:1\n    "


def policies(line: str) -> model.Policies:
    return load_text(ROUTE + line).routes[0].policies


def told(line: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load_text(ROUTE + line)
    return str(raised.value)


def test_a_text_is_an_origin_and_a_word_is_a_preset_and_a_time_is_hsts() -> None:
    found = policies("cors: 'https://A.example.com'\n    security_headers: strict\n    hsts: 30d")
    assert found.cors is not None
    assert [one.text for one in found.cors.origins] == ["https://a.example.com"]
    assert found.security_headers == model.SecurityHeaders(preset="strict")
    assert found.hsts == model.Hsts(max_age=30 * 86400.0)


def test_off_takes_an_inherited_one_away() -> None:
    text = "defaults: {cors: '*', security_headers: basic, hsts: 1d}\n" + ROUTE
    found = (
        load_text(text + "cors: off\n    security_headers: off\n    hsts: off").routes[0].policies
    )
    assert (found.cors, found.security_headers, found.hsts) == (None, None, None)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cors: {origins: https://a.test, headers: '*', credentials: true}", "list headers"),
        ("cors: {origins: '*', credentials: true}", "let every page on the web act for your users"),
        ("cors: app.example.com", "write https://app.example.com"),
        ("cors: https://app.example.com/", "which has no path"),
        ("cors: https://app.example.com/x", "which has no path"),
        ("cors: https://a*.example.com", "a * stands for one label, in front"),
        ("cors: https://*.*.example.com", "a * stands for one label, in front"),
        ("cors: https://*", "a * stands for one label, in front"),
        ("cors: https://u@example.com", "is no origin"),
        ("cors: 'https://é.test'", "the form with xn--"),
        ("cors: {origins: []}", "origins is missing"),
        ("cors: {max_age: 1m}", "origins is missing"),
        ("cors: {origins: [null]}", "a text is wanted"),
        ("cors: {origins: [{regex: '('}]}", "this regular expression is wrong"),
        ("cors: {origins: '*', max_age: 10}", "max_age"),
        ("cors: {origins: '*', methods: [get]}", "write GET"),
        ("security_headers: paranoid", "strict"),
        ("security_headers: {preset: basic, remove: [Server]}", "headers: {response: {remove"),
        ("security_headers: {set: {X-A: '{client_ip}'}}", "X-A is the same in all answers"),
        ("hsts: {preload: true}", "subdomains: on"),
        ("hsts: {preload: true, subdomains: true, max_age: 30d}", "365d or more"),
        ("cors: '*'\n    headers: {response: {set: {Access-Control-Allow-Origin: x}}}", "what cors writes"),
        ("cors: '*'\n    headers: {response: {add: {access-control-max-age: '1'}}}", "what cors writes"),
        ("hsts: 1d\n    headers: {response: {set: {Strict-Transport-Security: x}}}", "what hsts writes"),
    ],
)  # fmt: skip
def test_what_can_not_be_meant_is_refused_with_the_fix(line: str, words: str) -> None:
    assert words in told(line)


def test_what_an_outer_layer_writes_is_no_mistake_of_a_route_without_cors() -> None:
    assert policies("headers: {response: {set: {Access-Control-Allow-Origin: '*'}}}").cors is None


def test_presets_name_each_field_once_and_have_no_placeholders() -> None:
    for preset in PRESETS.values():
        assert len({name.lower() for name in preset}) == len(preset)
        assert not any("{" in value for value in preset.values())
