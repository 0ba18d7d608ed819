"""Answers that stand in the configuration.

Rules of this file: the handler is called with an exchange made by hand; one test goes over a socket.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.config import model
from gateway.exchange import Exchange
from gateway.middleware import respond

if TYPE_CHECKING:
    from gateway.exchange import Reply

NOTHING: Any = SimpleNamespace()


async def said(query: str = "", **settings: Any) -> Reply:
    exchange = Exchange()
    exchange.headers = CIMultiDictProxy(CIMultiDict())
    exchange.method, exchange.path, exchange.query = "GET", "/x", query
    exchange.client_ip = "192.0.2.1"
    handler = respond.answer(model.Respond.model_construct(**settings), NOTHING, NOTHING)
    return await handler(exchange)


async def test_a_text_is_sent_as_text() -> None:
    reply = await said(status=503, body="zurück bald", headers={"Retry-After": "600"})
    assert reply.status == 503
    assert reply.body == "zurück bald".encode()
    assert reply.get(b"content-type") == b"text/plain; charset=utf-8"
    assert reply.get(b"retry-after") == b"600"


async def test_json_is_sent_as_json_with_its_values_escaped() -> None:
    value = {"n": [1, None, True], "who": "{client_ip}", "q": '{query.q|"}', "{query.q}": "{{é}"}
    reply = await said("q=%22%2c%22admin%22:%22%5c%0a", json=value)
    assert reply.get(b"content-type") == b"application/json"
    assert json.loads(reply.body) == {
        "n": [1, None, True], "who": "192.0.2.1", "q": '","admin":"\\', '","admin":"\\': "{é}",
    }  # fmt: skip
    assert json.loads((await said(json=value)).body)["q"] == '"'


async def test_a_type_of_ones_own_is_kept_and_html_is_escaped() -> None:
    reply = await said(
        "q=%3Cb%3E", body="<p>{query.q} {{x}</p>", headers={"content-type": "text/html"}
    )
    assert reply.body == b"<p>&lt;b&gt; {x}</p>"
    assert reply.lines == [b"content-type: text/html\r\n"]
    reply = await said("q=%3Cb%3E", body="{query.q}")
    assert reply.body == b"<b>"


async def test_headers_are_filled_and_left_out_where_there_is_no_value() -> None:
    headers = {"X-A": "{query.a}", "X-B": "{query.none}", "X-C": "c", "X-D": None}
    reply = await said("a=1", headers=headers)
    assert reply.lines == [b"X-A: 1\r\n", b"X-C: c\r\n"]


async def test_nothing_but_a_status_has_no_body_and_no_type() -> None:
    reply = await said(status=204)
    assert (reply.status, reply.body, reply.lines) == (204, b"", [])


async def test_two_requests_do_not_share_a_reply() -> None:
    handler = respond.answer(
        model.Respond.model_construct(headers={"X": "1"}, body="a"), NOTHING, NOTHING
    )
    one, other = await handler(Exchange()), await handler(Exchange())
    one.add(b"X-More", b"1")
    assert other.lines == [b"Content-Type: text/plain; charset=utf-8\r\n", b"X: 1\r\n"]


def test_an_unknown_placeholder_is_a_mistake_at_load() -> None:
    for settings in ({"body": "{nope}"}, {"headers": {"X": "{nope}"}}, {"json": ["{nope}"]}):
        with pytest.raises(ValueError, match="nope"):
            respond.answer(model.Respond.model_construct(**settings), NOTHING, NOTHING)


async def test_it_goes_over_the_wire(gateway: Any, raw: Any) -> None:
    route = {
        "name": "maintenance",
        "path": "/admin/*",
        "respond": {
            "status": 503,
            "headers": {"Retry-After": "600"},
            "json": {"detail": "back soon", "you": "{client_ip}"},
        },
    }
    client = await raw(await gateway({"routes": [route]}))
    message = await client.ask(b"GET /admin/x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert message.status == 503
    assert json.loads(message.body) == {"detail": "back soon", "you": "127.0.0.1"}
    assert message.all("content-type") == [b"application/json"]
    assert message.all("retry-after") == [b"600"]
    message = await client.ask(b"HEAD /admin/x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert message.body == b""
    assert message.all("content-length") == [b"43"]
