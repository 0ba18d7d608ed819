"""Redirects: where they lead, and where they must never lead.

Rules of this file: the handler is called with an exchange made by hand.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from gateway import errors
from gateway.config import model
from gateway.exchange import Exchange
from gateway.middleware import redirect

HOSTS = ("api.example.com", ".shop.example", "[::1]")


def config(*hosts: str) -> Any:
    match = SimpleNamespace(host=hosts)
    return SimpleNamespace(routes=(SimpleNamespace(match=match),))


def asked(target: str = "/old/a/b?x=1", host: str = "api.example.com", **rest: Any) -> Exchange:
    exchange = Exchange()
    exchange.headers = CIMultiDictProxy(CIMultiDict())
    exchange.method = "GET"
    exchange.target = target
    exchange.path, _, exchange.query = target.partition("?")
    exchange.host = exchange.authority = host
    for name, value in rest.items():
        setattr(exchange, name, value)
    return exchange


async def led(to: str, exchange: Exchange, status: int = 308) -> str:
    settings = model.Redirect.model_construct(to=to, status=status)
    build: Any = SimpleNamespace(config=config(*HOSTS), authenticators={})
    route: Any = SimpleNamespace(policies=SimpleNamespace(auth=None, forward_credentials=False))
    reply = await redirect.answer(settings, route, build)(exchange)
    assert reply.status == status
    assert reply.body == b""
    (line,) = reply.lines
    assert line.startswith(b"Location: ")
    return line[10:-2].decode("ascii")


@pytest.mark.parametrize(
    ("to", "location"),
    [
        ("https://www.example.com/new", "https://www.example.com/new?x=1"),
        ("https://www.example.com", "https://www.example.com?x=1"),
        ("https://www.example.com/new?", "https://www.example.com/new?"),
        ("https://www.example.com/new?y=2", "https://www.example.com/new?y=2"),
        ("https://www.example.com/new#top", "https://www.example.com/new?x=1#top"),
        ("/new", "/new?x=1"),
        ("/new/{path.rest}", "/new/a/b?x=1"),
        ("https://www.example.com{path}", "https://www.example.com/old/a/b?x=1"),
        ("https://www.example.com/{path.rest}?u={query.x}", "https://www.example.com/a/b?u=1"),
        ("/s?a={path.rest}&b={header.x-none|n}&{query}", "/s?a=a/b&b=n&x=1"),
        ("/s?a={path.amp}", "/s?a=1%26b%3D2"),
        ("https://{host}{path}", "https://api.example.com/old/a/b?x=1"),
        ("{scheme}://{host}:8443/x", "http://api.example.com:8443/x?x=1"),
        ("https://{path.t}.shop.example/", "https://de.shop.example/?x=1"),
        ("/käse und so", "/k%C3%A4se%20und%20so?x=1"),
        ("/{header.x-none|a?b}", "/a?b?x=1"),
    ],
)
async def test_a_redirect_keeps_the_query_unless_it_has_its_own(to: str, location: str) -> None:
    assert await led(to, asked(captures={"rest": "a/b", "t": "de", "amp": "1&b=2"})) == location


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_has_the_status_that_is_written(status: int) -> None:
    assert await led("/x", asked("/old"), status) == "/x"


EVIL = [
    ("/{path.rest}", "/evil.example"),
    ("/{path.rest}", "\\evil.example"),
    ("{path.rest}", "//evil.example"),
    ("{path.rest}", "https://evil.example"),
    ("{path.rest}", "javascript:alert(1)"),
    ("{path.rest}", "\\\\evil.example"),
    ("/x/{path.rest}", "a\r\nSet-Cookie:x"),
    ("/x/{path.rest}", "a\tb"),
    ("/x/{path.rest}", "a b"),
    ("https://www.example.com{path.rest}", ".evil.example/x"),
    ("https://www.example.com{path.rest}", "@evil.example"),
    ("https://www.example.com{path.rest}", ":80@evil.example"),
    ("https://{path.rest}", "evil.example"),
    ("https://{path.rest}.shop.example/", "evil.example/"),
    ("https://{path.rest}.shop.example/", "evil.example\\"),
    ("https://{path.rest}.shop.example/", "a@b"),
    ("https://{path.rest}:8080/", "evil.example"),
    ("https://x.{path.rest}/", "evil.example"),
    ("//{path.rest}/", "evil.example"),
]


@pytest.mark.parametrize(("to", "rest"), EVIL)
async def test_a_client_cannot_choose_where_a_redirect_leads(to: str, rest: str) -> None:
    try:
        location = await led(to, asked(captures={"rest": rest}))
    except errors.BadRequest:
        return
    assert all(byte > " " for byte in location)
    assert location.startswith("/x/")


@pytest.mark.parametrize(
    "host", ["evil.example", "shop.example", "", "api.example.com.evil.example"]
)
async def test_the_host_of_a_request_is_used_only_if_a_route_names_it(host: str) -> None:
    with pytest.raises(errors.BadRequest):
        await led("https://{host}{path}", asked(host=host))


@given(st.text(alphabet="/\\.:@?#%a\t", max_size=10))
async def test_no_capture_makes_a_path_into_a_host(rest: str) -> None:
    try:
        location = await led("/{path.rest}", asked(captures={"rest": rest}))
    except errors.BadRequest:
        return
    assert location[:1] == "/"
    assert location[1:2] not in ("/", "\\")


# ── redirect_to_https ──


def upgraded(exchange: Exchange, port: int = 443, hosts: tuple[str, ...] = HOSTS) -> str | None:
    settings = model.RedirectToHttps.model_construct(port=port)
    listener = model.Listener.model_construct(redirect_to_https=settings)
    reply = redirect.https_redirect(config(*hosts), listener)(exchange)
    if reply is None:
        return None
    assert reply.status == 308
    return (reply.get(b"location") or b"").decode()


def test_http_is_led_to_the_same_host_and_target_over_https() -> None:
    assert upgraded(asked("/a%2Fb?x=1&y")) == "https://api.example.com/a%2Fb?x=1&y"
    assert upgraded(asked("//evil.example")) == "https://api.example.com//evil.example"
    assert upgraded(asked("/", "de.shop.example"), 8443) == "https://de.shop.example:8443/"
    assert upgraded(asked("/", "[::1]")) == "https://[::1]/"


@pytest.mark.parametrize("host", ["evil.example", "shop.example", "x.api.example.com", ""])
def test_a_host_that_no_route_names_is_not_led_anywhere(host: str) -> None:
    assert upgraded(asked(host=host)) is None


def test_what_must_stay_on_http_stays() -> None:
    assert upgraded(asked("/.well-known/acme-challenge/token")) is None
    assert upgraded(asked("/.well-known/other")) is not None
    assert upgraded(asked(scheme="https")) is None
    assert upgraded(asked("*")) is None
    assert upgraded(asked(), hosts=()) is None


# ── over a socket ──


async def test_a_redirect_goes_over_the_wire_with_its_query(gateway: Any, raw: Any) -> None:
    route = {
        "name": "old",
        "path": "/old/{rest...}",
        "redirect": {"to": "https://www.example.com/{path.rest}", "status": 301},
        "headers": {"response": {"set": {"X-Edited": "yes"}}},
    }
    client = await raw(await gateway({"routes": [route]}))
    message = await client.ask(b"GET /old/a/b%2Fc?x=1&y HTTP/1.1\r\nHost: a\r\n\r\n")
    assert message.status == 301
    assert message.all("location") == [b"https://www.example.com/a/b%2Fc?x=1&y"]
    assert message.all("content-length") == [b"0"]
    assert message.all("x-edited") == [b"yes"]
    message = await client.ask(b"GET /old//evil.example HTTP/1.1\r\nHost: a\r\n\r\n")
    assert message.status == 400 or message.all("location")[0].startswith(
        b"https://www.example.com/"
    )


async def test_a_listener_leads_to_https_before_it_routes(gateway: Any, raw: Any) -> None:
    listener = {"bind": "127.0.0.1:0", "redirect_to_https": True}
    route = {"name": "api", "host": "api.example.com", "path": "/*", "respond": {"body": "plain"}}
    client = await raw(await gateway({"listeners": [listener], "routes": [route]}))
    message = await client.ask(b"GET /a?b HTTP/1.1\r\nHost: API.example.com:8080\r\n\r\n")
    assert message.status == 308
    assert message.all("location") == [b"https://api.example.com/a?b"]
    message = await client.ask(b"GET /a HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    assert (message.status, message.all("location")) == (404, [])
    token = b"/.well-known/acme-challenge/x"
    message = await client.ask(b"GET %b HTTP/1.1\r\nHost: api.example.com\r\n\r\n" % token)
    assert message.body == b"plain"
