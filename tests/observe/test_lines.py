from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import model, placeholders
from gateway.identity import Identity
from gateway.observe.lines import FIELDS, compile_line, escaped
from tests.observe.stand_in import exchange, refused

MOMENT = 1_700_000_000.1239
"""2023-11-14T22:13:20.123Z"""


def line(one: Any, **settings: Any) -> str:
    made = compile_line(model.AccessLog(**settings), lambda: MOMENT)(one)
    assert made.endswith("\n")
    assert made.count("\n") == 1
    return made.removesuffix("\n")


def read(one: Any, **settings: Any) -> dict[str, Any]:
    return dict(json.loads(line(one, **settings)))


# ── JSON ──


def test_a_forwarded_request_is_told_in_full() -> None:
    one = exchange(
        {"User-Agent": "curl/8", "Referer": "https://a.test/x"},
        query="page=2",
        trace_id="ab" * 16,
        bytes_in=3,
        bytes_out=5,
    )
    assert read(one) == {
        "time": "2023-11-14T22:13:20.123Z",
        "request_id": "0" * 32,
        "trace_id": "ab" * 16,
        "client_ip": "10.0.0.1",
        "method": "GET",
        "host": "api.example.com",
        "path": "/orders/7",
        "query": "page=2",
        "protocol": "HTTP/1.1",
        "status": 200,
        "source": "upstream",
        "reason": None,
        "route": "orders",
        "upstream": "orders",
        "target": "10.0.0.9:8000",
        "consumer": None,
        "duration_ms": 3.0,
        "overhead_ms": 0.2,
        "upstream_ms": 2.0,
        "attempts": 1,
        "bytes_in": 3,
        "bytes_out": 5,
        "user_agent": "curl/8",
        "referer": "https://a.test/x",
        "tls": None,
        "detail": None,
    }


def test_the_fields_have_one_order() -> None:
    assert tuple(read(exchange())) == FIELDS


def test_what_did_not_happen_is_null() -> None:
    told = read(refused(request_id="", http10=True))
    absent = {name for name, value in told.items() if value is None}
    assert absent == {
        "request_id",
        "trace_id",
        "query",
        "upstream",
        "target",
        "consumer",
        "overhead_ms",
        "upstream_ms",
        "user_agent",
        "referer",
        "tls",
        "detail",
    }
    assert (told["protocol"], told["reason"], told["attempts"]) == ("HTTP/1.0", "no_route", 0)


def test_json_lines_hold_no_control_character_and_no_byte_outside_ascii() -> None:
    agent = 'a\x1b[2J\x7f\x85\r\n\u2028"\\é' + b"\xff\xc3\xa9".decode("utf-8", "surrogateescape")
    text = line(exchange({"User-Agent": agent}, path="/\x00"))
    assert text.isascii()
    assert text.isprintable()
    told = json.loads(text)
    assert told["user_agent"] == 'a\x1b[2J\x7f\x85\r\n\u2028"\\é\\xffé'
    assert told["path"] == "/\x00"


def test_secrets_in_query_and_referer_are_masked_in_json() -> None:
    one = exchange({"Referer": "https://a.test/?token=hush"}, query="api_key=hush&sig=hush&a=1")
    text = line(one, fields={"mask": ["query.sig"]})
    assert "hush" not in text
    told = json.loads(text)
    assert told["query"] == "api_key=***&sig=***&a=1"
    assert told["referer"] == "https://a.test/?token=***"


def test_a_masked_header_is_masked_where_a_field_shows_it() -> None:
    one = exchange({"User-Agent": "hush", "Referer": "hush"})
    told = read(one, fields={"mask": ["header.user-agent", "header.referer"]})
    assert (told["user_agent"], told["referer"]) == ("***", "***")


def test_fields_are_added_after_ours() -> None:
    one = exchange({"X-Tenant": 'ac"me', "Cookie": "theme=dark; sid=1"})
    add = {
        "tenant": "{header.x-tenant}",
        "theme": "{cookie.theme}",
        "zone": "eu",
        "none": "{header.x-absent}",
        "what": "{method} {status}",
    }
    told = read(one, fields={"add": add})
    assert list(told)[-5:] == list(add)
    assert [told[name] for name in add] == ['ac"me', "dark", "eu", None, "GET 200"]


def test_an_added_field_that_bears_the_name_of_ours_takes_its_place() -> None:
    told = read(exchange({"X-Real": "1"}), fields={"add": {"client_ip": "{header.x-real}"}})
    assert told["client_ip"] == "1"
    assert tuple(told) == FIELDS


# ── combined ──


def test_the_combined_format_is_apaches() -> None:
    one = exchange(
        {"User-Agent": "curl/8", "Referer": "https://a.test/"},
        query="page=2&token=hush",
        bytes_out=512,
        ended=101.2,
    )
    assert line(one, format="combined") == (
        '10.0.0.1 - - [14/Nov/2023:22:13:18 +0000] "GET /orders/7?page=2&token=*** HTTP/1.1"'
        ' 200 512 "https://a.test/" "curl/8"'
    )


def test_a_dash_stands_for_what_is_not_there_in_the_combined_format() -> None:
    assert line(refused(client_ip="", http10=True), format="combined") == (
        '- - - [14/Nov/2023:22:13:20 +0000] "GET /orders/7 HTTP/1.0" 404 - "-" "-"'
    )


def test_quotes_of_a_client_do_not_end_a_field_of_the_combined_format() -> None:
    text = line(exchange({"User-Agent": 'x" 200 0 "\\\x1b'}), format="combined")
    assert text.endswith('"-" "x\\" 200 0 \\"\\\\\\x1b"')


def test_fields_are_added_to_the_combined_format_by_name() -> None:
    text = line(exchange(), format="combined", fields={"add": {"up": "{target}"}})
    assert text.endswith(' up="10.0.0.9:8000"')


# ── templates ──


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (
            "{method} {path} {route} {upstream} {target}",
            "GET /orders/7 orders orders 10.0.0.9:8000",
        ),
        ("{time} {status} {source}", "2023-11-14T22:13:20.123Z 200 upstream"),
        ("{duration_ms} {overhead_ms} {upstream_ms}", "3.000 0.200 2.000"),
        ("{attempts} {bytes_in} {bytes_out} {protocol}", "1 0 0 HTTP/1.1"),
        ("{{status} {reason|-}", "{status} -"),
        ("{header.x-a} {query.a} {cookie.c}", "A 1 3"),
        ("{query}", "a=1&token=***"),
        ("{query.token}", "***"),
        ("{header.authorization} {header.cookie}", "*** ***"),
        ("{header.x-api-key|none}", "none"),
        ("{header.referer} {referer}", "http://r.test/?token=*** http://r.test/?token=***"),
        ("{user_agent}", "me"),
        ("{request_id} {client_ip} {host}", f"{'0' * 32} 10.0.0.1 api.example.com"),
        ("no placeholder", "no placeholder"),
    ],
)
def test_a_template_is_filled_in(template: str, text: str) -> None:
    headers = {
        "X-A": "A",
        "Cookie": "c=3",
        "Authorization": "Bearer hush",
        "Referer": "http://r.test/?token=hush",
        "User-Agent": "me",
    }
    one = exchange(headers, query="a=1&token=hush", target="/orders/7?a=1&token=hush")
    assert line(one, format=template) == text


def test_values_in_a_template_can_not_end_the_line_or_their_quotes() -> None:
    one = exchange({"User-Agent": 'a"b\\c\x1b\x85\u202e' + "\udcff"})
    assert line(one, format='"{user_agent}"') == '"a\\"b\\\\c\\x1b\\x85\\u202e\\xff"'


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_of_json_is_a_placeholder_with_the_same_value(name: str) -> None:
    one = exchange({"User-Agent": "me", "Referer": "r"}, query="a=1", trace_id="ab" * 16)
    told = read(one)[name]
    text = line(one, format=f"{{{name}|nothing}}")
    assert text == ("nothing" if told is None else f"{told:.3f}" if "_ms" in name else str(told))


@pytest.mark.parametrize("name", sorted(placeholders.LOG_ONLY))
def test_what_a_check_of_the_file_lets_through_can_be_compiled(name: str) -> None:
    assert line(exchange(), format=f"a{{{name}}}").startswith("a")


def test_an_unknown_placeholder_is_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        compile_line(model.AccessLog(format="{nonsense}"), lambda: MOMENT)


@given(st.text())
def test_escaped_text_is_always_printable_and_keeps_ordinary_text(text: str) -> None:
    safe = escaped(text.replace("\ud800", ""))
    assert safe.isprintable()
    if text.isprintable() and not set(text) & set('"\\'):
        assert safe == text


# ── who asks ──


def test_the_consumer_stands_in_every_format_and_can_not_break_a_line() -> None:
    known = exchange(identity=Identity("staff", 'ann "b" é\n'))
    assert json.loads(line(known))["consumer"] == 'ann "b" é\n'
    assert line(known, format="combined").startswith('10.0.0.1 - ann\\x20\\"b\\"\\x20é\\x0a [')
    assert line(known, format="{consumer}").strip() == 'ann \\"b\\" é\\x0a'
    assert json.loads(line(exchange()))["consumer"] is None
    assert line(exchange(), format="{consumer|-}").strip() == "-"
