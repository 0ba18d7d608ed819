"""How failures look: problem+json, HTML, templates, pages by status, Proxy-Status.

Rules of this file: no socket; each test renders one error for an exchange made by hand.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from gateway import errors
from gateway.config import model
from gateway.exchange import Exchange, Reply
from gateway.pages import Pages

if TYPE_CHECKING:
    from pathlib import Path

REFUSED = errors.ConnectRefused("10.0.0.7:8000 <refused>")


def pages(name: str = "gateway", **settings: Any) -> Pages:
    return Pages(model.Errors.model_construct(**settings), name)


def asked(accept: str | None = None, **attributes: Any) -> Exchange:
    exchange = Exchange()
    fields = {} if accept is None else {"Accept": accept}
    exchange.headers = CIMultiDictProxy(CIMultiDict(fields))
    exchange.request_id = "r1"
    exchange.method, exchange.path, exchange.query = "GET", "/x", ""
    exchange.route = SimpleNamespace(name="orders")  # type: ignore[assignment]
    for name, value in attributes.items():
        setattr(exchange, name, value)
    return exchange


def page(status: str, file: Path, when: str | None = None) -> dict[str, model.Page]:
    return {status: model.Page.model_construct(file=str(file), when_accepts=when)}


def test_a_failure_is_a_problem_document_with_its_reason() -> None:
    reply = pages().render(REFUSED, asked())
    assert reply.status == 502
    assert reply.get(b"content-type") == b"application/problem+json"
    assert json.loads(reply.body) == {
        "type": "about:blank",
        "title": "The upstream refused the connection",
        "status": 502,
        "reason": "connect_refused",
        "request_id": "r1",
    }


def test_no_detail_reaches_a_client_unless_it_may() -> None:
    for settings in ({}, {"format": "html"}):
        assert b"10.0.0.7" not in pages(**settings).render(REFUSED, asked()).body
    shown = pages(expose_reason=True).render(REFUSED, asked()).body
    assert json.loads(shown)["detail"] == "10.0.0.7:8000 <refused>"
    assert "detail" not in json.loads(
        pages(expose_reason=True).render(errors.NoRoute(), asked()).body
    )


def test_the_type_leads_to_the_documentation_where_there_is_one() -> None:
    reply = pages(docs_url="https://docs.example/reasons").render(REFUSED, asked())
    assert json.loads(reply.body)["type"] == "https://docs.example/reasons#connect_refused"


@pytest.mark.parametrize("kind", errors.reasons().values(), ids=lambda kind: kind.reason)
def test_every_reason_is_told_in_proxy_status(kind: type[errors.GatewayError]) -> None:
    reply = pages().render(kind(), asked())
    error = f"; error={kind.proxy_error}" if kind.proxy_error else ""
    expected = f'gateway{error}; details="{kind.reason}"'
    assert reply.get(b"proxy-status") == expected.encode()
    assert json.loads(reply.body)["status"] == reply.status == kind.status


def test_a_name_that_is_no_token_is_quoted() -> None:
    reply = pages(name='my "edge"').render(REFUSED, asked())
    assert (reply.get(b"proxy-status") or b"").startswith(b'"my \\"edge\\""; error=')


def test_the_errors_own_fields_are_sent_and_nothing_is_stored() -> None:
    error = errors.MethodNotAllowed(headers=(("Allow", "GET, HEAD"),))
    reply = pages().render(error, asked())
    assert reply.get(b"allow") == b"GET, HEAD"
    assert reply.get(b"cache-control") == b"no-store"


def test_html_is_a_page_in_which_everything_is_escaped() -> None:
    error = errors.BadRequest("<script>")
    reply = pages(format="html", expose_reason=True).render(error, asked(request_id="<b>"))
    assert reply.get(b"content-type") == b"text/html; charset=utf-8"
    body = reply.body.decode()
    assert body.startswith("<!doctype html>")
    assert "<h1>400</h1>" in body
    assert "Bad request" in body
    assert "bad_request" in body
    assert "&lt;script&gt;" in body
    assert "<script>" not in body
    assert "body{font" in body
    assert body.count("{") == body.count("}")


def test_a_template_is_filled_with_the_failure_and_the_request(tmp_path: Path) -> None:
    file = tmp_path / "error.html"
    text = "<p>{status} {title} {reason} {detail|none} {route} {query.q} {{x} {a b}</p>é"
    file.write_text(text, "utf-8")
    shown = pages(format="template", template=str(file))
    file.unlink()  # it was read at load
    reply = shown.render(REFUSED, asked(query="q=%3Cb%3E"))
    assert reply.get(b"content-type") == b"text/html; charset=utf-8"
    assert reply.body.decode() == (
        "<p>502 The upstream refused the connection connect_refused none orders &lt;b&gt;"
        " {x} {a b}</p>é"
    )


def test_a_template_of_another_kind_is_not_escaped_as_html(tmp_path: Path) -> None:
    file = tmp_path / "error.txt"
    file.write_text("{reason}: {query.q}")
    reply = pages(format="template", template=str(file)).render(REFUSED, asked(query="q=%3Cb%3E"))
    assert reply.get(b"content-type") == b"text/plain; charset=utf-8"
    assert reply.body == b"connect_refused: <b>"


def test_a_template_with_an_unknown_name_is_a_mistake_at_load(tmp_path: Path) -> None:
    file = tmp_path / "error.html"
    file.write_text("{nothing}")
    with pytest.raises(ValueError, match="nothing"):
        pages(format="template", template=str(file))
    with pytest.raises(OSError, match="absent"):
        pages(pages=page("503", tmp_path / "absent.html"))


def test_a_page_answers_for_its_status_alone_and_word_for_word(tmp_path: Path) -> None:
    file = tmp_path / "503.html"
    file.write_bytes(b"<p>{reason} {{ \xff")
    shown = pages(pages=page("503", file))
    reply = shown.render(errors.PoolTimeout(), asked())
    assert reply.status == 503
    assert reply.body == b"<p>{reason} {{ \xff"
    assert reply.get(b"content-type") == b"text/html; charset=utf-8"
    assert b"pool_timeout" in (reply.get(b"proxy-status") or b"")
    assert shown.render(REFUSED, asked()).get(b"content-type") == b"application/problem+json"


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        ("text/html", True),
        ("text/html,application/xhtml+xml,*/*;q=0.8", True),
        ("application/json, TEXT/HTML;q=0.1", True),
        ("text/*", True),
        ("text/*, text/html;q=0", False),
        ("text/html;q=0.0", False),
        ("application/json", False),
        ("*/*", False),
        ("", False),
        (None, False),
    ],
)
def test_a_page_may_be_for_those_that_ask_for_its_type(
    accept: str | None, is_page: bool, tmp_path: Path
) -> None:
    file = tmp_path / "503.html"
    file.write_bytes(b"page")
    shown = pages(pages=page("503", file, "text/html"))
    assert (shown.render(errors.PoolTimeout(), asked(accept)).body == b"page") is is_page


def test_an_upstreams_error_is_replaced_but_for_what_the_client_must_know(tmp_path: Path) -> None:
    file = tmp_path / "503.html"
    file.write_bytes(b"page")
    shown = pages(pages=page("503", file), intercept=(502, 503))
    assert shown.intercepts == {502, 503}
    upstream = Reply(503, [b"Server: secret/1\r\n", b"RETRY-AFTER: 7\r\n"], b"trace of 10.0.0.7")
    reply = shown.intercepted(upstream, asked())
    assert (reply.status, reply.body) == (503, b"page")
    assert reply.get(b"retry-after") == b"7"
    assert reply.get(b"server") is None
    assert reply.get(b"proxy-status") == b"gateway; received-status=503"
    reply = shown.intercepted(Reply(502, [], b"x"), asked())
    assert json.loads(reply.body)["title"] == "Bad Gateway"
    assert "reason" not in json.loads(reply.body)


def test_stray_bytes_in_a_detail_still_make_a_document() -> None:
    error = errors.BadRequest("caf\udce9 \x00")
    for settings in ({}, {"format": "html"}):
        reply = pages(expose_reason=True, **settings).render(error, asked())
        assert reply.body.decode("utf-8")


# ── over a socket ──


async def test_what_a_client_sees_of_a_dead_upstream(
    gateway: Any, raw: Any, tmp_path: Path
) -> None:
    (tmp_path / "404.html").write_text("<p>nothing here")
    config = {
        "server": {"name": "edge"},
        "errors": {
            "pages": {"404": {"file": str(tmp_path / "404.html"), "when_accepts": "text/html"}}
        },
        "routes": [{"name": "dead", "path": "/dead", "to": "http://127.0.0.1:9"}],
    }
    client = await raw(await gateway(config))
    message = await client.ask(b"GET /dead HTTP/1.1\r\nHost: a\r\n\r\n")
    assert message.status == 502
    assert message.all("content-type") == [b"application/problem+json"]
    assert message.all("proxy-status") == [
        b'edge; error=connection_refused; details="connect_refused"'
    ]
    problem = json.loads(message.body)
    assert problem["reason"] == "connect_refused"
    assert message.all("x-request-id") == [problem["request_id"].encode()]
    assert b"127.0.0.1" not in message.raw
    message = await client.ask(b"GET /none HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n")
    assert (message.status, message.body) == (404, b"<p>nothing here")
    message = await client.ask(b"HEAD /none HTTP/1.1\r\nHost: a\r\n\r\n")
    assert message.body == b""
    assert int(message.get("content-length")) > 50


async def test_an_upstreams_own_error_is_passed_unless_it_is_intercepted(
    gateway: Any, raw: Any, origin: Any
) -> None:
    up = await origin(
        b"HTTP/1.1 503 Gone Fishing\r\nContent-Length: 5\r\nRetry-After: 9\r\nX-A: 1\r\n\r\ntrace"
    )
    ask = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    message = await (await raw(await gateway(up))).ask(ask)
    assert (message.status, message.body) == (503, b"trace")
    edits = {"response": {"set": {"X-Edited": "yes"}}}
    running = await gateway(up, route={"errors": {"intercept": [503]}, "headers": edits})
    client = await raw(running)
    for _ in range(2):
        message = await client.ask(ask)
        assert message.status == 503
        assert json.loads(message.body)["title"] == "Service Unavailable"
        assert message.all("retry-after") == [b"9"]
        assert message.all("x-a") == []
        assert message.all("x-edited") == [b"yes"]
