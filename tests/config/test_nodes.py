"""The table of YAML traps, row by row; and what bounds a file that means harm."""

from __future__ import annotations

import pytest

from gateway.config import load_text
from tests.config.kit import ROUTE, loaded, messages, refused, route


def test_the_same_key_twice_names_both_lines() -> None:
    (line,) = refused("version: 1\nroutes: []\nversion: 1\n")
    assert line == "3:1: version: version is written twice: the first one is in line 1"


def test_the_same_key_twice_deep_inside_is_told_with_its_path() -> None:
    lines = refused("routes:\n  - path: /a\n    to: http://h\n    path: /b\n")
    assert lines == [
        "4:5: routes[0].path: path is written twice: the first one is in line 2",
    ]


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("host: *.example.com", "write .example.com (every sub-domain), or '*.example.com'"),
        ("host: [a.example, *.b.example]", "write .b.example"),
        ("methods: *", "put it in quotes, '*'"),
        ("bind: [::]:8080", "put it in quotes, '[::]:8080'"),
        ("path: {id}/x", "put it in quotes, '{id}/x'"),
        ('regex: "\\d+"', r"use single quotes, '\d+'"),
        ("routes: [{path: /x/{id}, to: u}]", "a path with a { needs quotes: '/x/{id}'"),
        ("a: {path: /x/{id}/{rest...}}", "needs quotes: '/x/{id}/{rest...}'"),
        ("a: {path: {id}/x/{b}}", "put it in quotes, '{id}/x/{b"),
        ("path: @x", "put it in quotes, '@x'"),
        ("path: %x", "put it in quotes, '%x'"),
        ("path: `x`", "put it in quotes, '`x`'"),
        ("a: [${env:A}]", "inside [ ] and { } this needs quotes: '${env:A}'"),
        ("a: =", "write '='"),
        ("a: <<", "write '<<'"),
        ("a: b: c", "a second `: ` in one line"),
        ("a: 'x", "a quote is opened and never closed"),
        ("a: [1, 2", "is not closed"),
        ("a:\n\tb: 1", "indent with spaces, not tabs"),
        ("a: 1\n\tb: 1", "indent with spaces, not tabs"),
        ("a: 1\n---\nb: 1", "one document a file"),
        ("- a\nb: 1", "wrong indentation"),
        ("a: \x01", "control character"),
        ("a: *nothing", "put it in quotes, '*nothing'"),
        ("a: !!python/object:os.system x", "means nothing here: remove it"),
        ("? [a]\n: b", "a key must be a text"),
        ("{a: 1}: b", "a key must be a text"),
    ],
)
def test_yaml_that_means_something_else_is_told_with_the_fix(text: str, fix: str) -> None:
    assert fix in messages(text + "\n")


def test_the_place_of_a_trap_is_where_it_stands() -> None:
    assert refused("a: 1\nb:\n  host: *.example.com\n")[0].startswith("3:9: ")
    assert refused("b:\n  bind: [::]:80\n")[0].startswith("2:9: ")


def test_a_template_without_quotes_is_a_mapping_and_is_told_so() -> None:
    text = "routes:\n  - path: {id}\n    to: http://h\n"
    assert "3" not in refused(text)[0].split(":")[0]
    assert "put it in quotes, '{id}'" in messages(text)
    assert "put it in quotes, '{id}'" in messages("routes: [{path: /x, redirect: {to: {id}}}]")


def test_an_address_is_never_a_number() -> None:
    text = "listeners: [{bind: 8080:30}]\n" + ROUTE
    assert "8080:30 is no address" in messages(text)
    assert "write 127.0.0.1:8080" in messages("listeners: [{bind: 8080}]\n" + ROUTE)
    assert "is no address" in messages("listeners: [12:30:00]\n" + ROUTE)


def test_numbers_of_yaml_1_1_are_not_numbers() -> None:
    for written in ("017", "0x1F", "1_000", "1e3", "0o17"):
        assert "server.limits.headers" in messages(
            f"server: {{limits: {{headers: {written}}}}}\n{ROUTE}"
        )


def test_an_id_is_never_a_number() -> None:
    made = route(answer="respond: {headers: {A: 017, B: 1_000, C: 1e3, D: 0x1F, E: 1.10}}")
    assert made.answer.headers == {  # type: ignore[union-attr]
        "A": "017",
        "B": "1_000",
        "C": "1e3",
        "D": "0x1F",
        "E": "1.10",
    }


@pytest.mark.parametrize(
    "word", ["off", "Off", "OFF", "no", "No", "false", "False", "~", "null", ""]
)
def test_every_switch_takes_every_word_for_off(word: str) -> None:
    made = route(f"retry: {word}\nwebsocket: {word}\naccess_log: {word}")
    assert made.policies.retry is None
    assert made.policies.websocket is None
    assert made.policies.access_log is False


@pytest.mark.parametrize("word", ["NO", "no", "yes", "on", "true"])
def test_a_switch_is_no_text(word: str) -> None:
    text = f"routes:\n  - name: {word}\n    to: http://h\n"
    assert f"write '{word}'" in messages(text)
    assert loaded(text.replace(word, f"'{word}'")).routes[0].name == word
    headers = f"routes: [{{respond: {{headers: {{X-Country: {word}}}}}}}]"
    assert f"write '{word}'" in messages(headers)


def test_a_date_is_a_text() -> None:
    assert route(answer="respond: {body: 2026-11-22}").answer.body == "2026-11-22"  # type: ignore[union-attr]


def test_keys_are_the_words_they_spell() -> None:
    made = route(answer="respond: {json: {on: 1, off: 2, no: 3, 503: 4, 017: 5, ~: 6}}")
    assert made.answer.json_ == {  # type: ignore[union-attr]
        "on": 1,
        "off": 2,
        "no": 3,
        "503": 4,
        "017": 5,
        "~": 6,
    }
    assert loaded("routes: [{path: /*, to: 'http://h', retry: {on: 503}}]").routes[
        0
    ].policies.retry.on == ("503",)  # type: ignore[union-attr]


def test_free_data_is_read_as_json_would() -> None:
    answer = (
        "respond: {json: [1, -2, 1.5, 1e3, true, false, null, ~, 'true', \"1\", x, 12:30:00, "
        "2026-11-22, 1_000]}"
    )
    assert route(answer=answer).answer.json_ == [  # type: ignore[union-attr]
        *(1, -2, 1.5, 1000.0, True, False, None, None),
        *("true", "1", "x", "12:30:00", "2026-11-22", "1_000"),
    ]


@pytest.mark.parametrize("word", ["yes", "off", "017"])
def test_free_data_that_can_be_read_two_ways_is_refused(word: str) -> None:
    text = f"routes: [{{respond: {{json: {{a: {word}}}}}}}]"
    assert f"write '{word}'" in messages(text)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("routes:\n  - path: /x #y\n    to: http://h\n", "routes[0].path"),
        ("routes:\n  - path: /x\n    to: http://h/a #b\n", "routes[0].to"),
        ("routes:\n  - path: {regex: '^/x'}\n    to: http://h # b\n", "routes[0].to"),
        (
            "routes:\n  - path:\n      regex: ^/x #y\n    to: http://h\n",
            "routes[0].path.regex",
        ),
        (
            "upstreams:\n  u:\n    targets:\n      - http://h #y\nroutes: [{to: u}]\n",
            "upstreams.u.targets[0]",
        ),
    ],
)
def test_a_comment_behind_a_path_a_url_or_a_regex_is_a_warning(text: str, path: str) -> None:
    (warning,) = loaded(text).warnings
    assert warning.path == path
    assert "is a comment" in warning.message


def test_a_comment_behind_anything_else_or_behind_quotes_is_none() -> None:
    text = "routes:\n  - name: a # b\n    path: '/x' # y\n    to: 'http://h' # z\n"
    assert loaded(text).warnings == ()


def test_anchors_and_merge_keys_work() -> None:
    config = loaded("""
        x-common: &common
          timeouts: {idle: 5s}
          retry: off
        routes:
          - {<<: *common, path: /a, to: 'http://h'}
          - {<<: [*common], path: /b, to: 'http://h', retry: {max: 2}}
    """)
    first, second = config.routes
    assert first.policies.timeouts.idle == second.policies.timeouts.idle == 5
    assert first.policies.retry is None
    assert second.policies.retry is not None
    assert second.policies.retry.max == 2


def test_what_aliases_expand_to_is_bounded() -> None:
    text = "x-a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    for number in range(1, 12):
        text += f"x-{number}: &b{number} [{', '.join(['*a' if number == 1 else f'*b{number - 1}'] * 10)}]\n"
    (line,) = refused(text)
    assert "aliases expand to more than" in line


def test_an_alias_that_holds_itself_is_refused() -> None:
    assert "this alias holds itself" in messages("x-a: &a [*a]\n" + ROUTE)
    assert "this alias holds itself" in messages("x-a: &a {b: *a}\n" + ROUTE)


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 50_000 + "a", "{a: " * 20_000])
def test_a_file_that_is_nested_without_end_is_refused(text: str) -> None:
    assert len(refused(text)) == 1
    assert refused("x-a: " + "[" * 100 + "]" * 100 + "\n" + ROUTE)


def test_a_byte_order_mark_and_windows_line_ends_change_nothing() -> None:
    text = "\ufeffversion: 1\r\nroutes:\r\n  - path: /a\r\n    to: http://h:1\r\n"
    config = load_text(text)
    assert config.routes[0].match.path.text == "/a"
    assert config.upstreams["/a"].settings.targets[0].url == "http://h:1"


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_is_refused(text: str) -> None:
    assert (
        refused(text)[0]
        in (
            "1:1: this file is empty: write routes: to begin with",
            "1:4: a configuration is a mapping: write routes: …",
            "1:1: a configuration is a mapping: write routes: …",
        )
        or "mapping" in refused(text)[0]
    )


@pytest.mark.parametrize("text", ["- a\n", "hello\n", "'x'\n"])
def test_a_file_is_a_mapping(text: str) -> None:
    assert refused(text) == ["1:1: a configuration is a mapping: write routes: …"]
