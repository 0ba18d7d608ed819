"""Header edits both ways, and Location made public.

Rules of this file: no socket; exchanges and replies are made by hand.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.config import model
from gateway.exchange import Exchange, Reply
from gateway.middleware.edit_headers import RequestEdits, ResponseEdits


def exchange(**fields: str) -> Exchange:
    one = Exchange()
    one.headers = CIMultiDictProxy(CIMultiDict(fields))
    one.method, one.path, one.query = "GET", "/x", "a=1"
    one.authority = one.host = "public.example"
    one.target_name = "10.0.0.1:8000"
    return one


def request_edits(**edits: Any) -> RequestEdits | None:
    return RequestEdits.compile(model.HeaderEdits.model_construct(**edits))


def response_edits(strip_prefix: str = "", add_prefix: str = "", **edits: Any) -> ResponseEdits:
    settings = model.ResponseHeaderEdits.model_construct(**edits)
    compiled = ResponseEdits.compile(settings, strip_prefix=strip_prefix, add_prefix=add_prefix)
    assert compiled is not None
    return compiled


def test_no_edits_cost_nothing() -> None:
    assert request_edits() is None
    assert ResponseEdits.compile(model.ResponseHeaderEdits.model_construct()) is None


def test_set_replaces_add_joins_and_remove_removes() -> None:
    edits = request_edits(
        set={"X-A": "1"}, add={"X-B": "2", "X-C": ("3", "4")}, remove=("X-D", "x-c")
    )
    assert edits is not None
    assert edits.dropped == {b"x-a", b"x-d", b"x-c"}
    assert edits.lines(exchange()) == b"X-A: 1\r\nX-B: 2\r\nX-C: 3\r\nX-C: 4\r\n"


def test_values_are_filled_from_the_request() -> None:
    edits = request_edits(set={"X-A": "{header.x-in}-{host}", "X-B": "b"})
    assert edits is not None
    assert edits.lines(exchange(**{"X-In": "é"})) == (
        b"X-B: b\r\n" + "X-A: é-public.example\r\n".encode()
    )


def test_a_value_that_is_missing_sets_nothing_and_still_drops_the_clients_copy() -> None:
    edits = request_edits(set={"X-Tenant": "{header.x-none}"})
    assert edits is not None
    assert edits.lines(exchange(**{"X-Tenant": "forged"})) == b""
    assert edits.dropped == {b"x-tenant"}


def test_an_edit_that_is_switched_off_does_nothing() -> None:
    assert request_edits(set={"X-A": None}) is None


@pytest.mark.parametrize(("name", "value"), [("X-A", "a\r\nX-Evil: 1"), ("X A", "a"), ("X:", "a")])
def test_an_edit_that_would_break_the_head_is_a_mistake_at_load(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="X"):
        request_edits(set={name: value})


def test_a_clients_value_cannot_break_the_head() -> None:
    edits = request_edits(set={"X-A": "{query.a}"})
    assert edits is not None
    one = exchange()
    one.query = "a=1%0d%0aX-Evil:%201"
    assert edits.lines(one) == b"X-A: 1X-Evil: 1\r\n"


def test_a_reply_of_the_gateway_gets_all_edits() -> None:
    edits = response_edits(set={"X-A": "1"}, add={"X-B": "2"}, remove=("Server",))
    reply = Reply(200, [b"server: s\r\n", b"x-a: 0\r\n", b"X-B: 1\r\n"])
    edits.apply(exchange(), reply)
    assert reply.lines == [b"X-B: 1\r\n", b"X-A: 1\r\n", b"X-B: 2\r\n"]
    reply = Reply(200, [])
    edits.add(exchange(), reply)
    assert reply.lines == [b"X-A: 1\r\n", b"X-B: 2\r\n"]


@pytest.mark.parametrize(
    ("location", "public"),
    [
        ("http://10.0.0.1:8000/x?y=1#z", "/x?y=1#z"),
        ("HTTP://10.0.0.1:8000", "/"),
        ("http://10.0.0.1:8000?y", "/?y"),
        ("//10.0.0.1:8000/x", "/x"),
        ("/x", "/x"),
        ("http://10.0.0.1:8000//evil.example/x", "/.//evil.example/x"),
        ("http://10.0.0.1:8000/\\evil.example", "/./\\evil.example"),
        ("http://10.0.0.1:8000/\t/evil.example", "/.//evil.example"),
        ("http://10.0.0.1:8001/x", None),
        ("http://10.0.0.1/x", None),
        ("http://other.example/x", None),
        ("http://user@10.0.0.1:8000/x", None),
        ("ftp://10.0.0.1:8000/x", None),
        ("relative", None),
        ("", None),
        ("http://[broken", None),
    ],
)
def test_a_location_that_names_the_target_becomes_a_path(location: str, public: str | None) -> None:
    edits = response_edits(rewrite_location=True)
    assert edits.public(location, exchange()) == public


@pytest.mark.parametrize(
    ("location", "public"),
    [
        ("http://10.0.0.1:8000/x", "/orders/x"),
        ("/x", "/orders/x"),
        ("/", "/orders/"),
        ("/orders/x", "/orders/x"),
        ("/ordersmore", "/orders/ordersmore"),
        ("http://10.0.0.1:8000//evil.example", "/orders//evil.example"),
        ("//evil.example/x", None),
    ],
)
def test_a_stripped_prefix_is_put_back(location: str, public: str | None) -> None:
    edits = response_edits(strip_prefix="/orders", rewrite_location=True)
    assert edits.public(location, exchange()) == public


def test_what_was_put_before_the_path_is_taken_away() -> None:
    one = exchange()
    one.target_in_use = SimpleNamespace(prefix="/base")  # type: ignore[assignment]
    edits = response_edits(strip_prefix="/a", add_prefix="/v2", rewrite_location=True)
    assert edits.public("http://10.0.0.1:8000/base/v2/x", one) == "/a/x"
    assert edits.public("/base/v2", one) == "/a/"
    assert edits.public("/base/v2?y", one) == "/a/?y"


def test_the_lines_of_a_reply_are_rewritten_in_place() -> None:
    edits = response_edits(rewrite_location=True)
    reply = Reply(
        201,
        [b"location: http://10.0.0.1:8000/x\r\n", b"Content-Location: http://10.0.0.1:8000/y\r\n"],
    )
    edits.add(exchange(), reply)
    assert reply.lines == [b"location: /x\r\n", b"Content-Location: /y\r\n"]
    reply = Reply(302, [b"Location: http://10.0.0.1:8000/x\r\n"])
    response_edits(add={"X": "1"}).add(exchange(), reply)
    assert reply.get(b"location") == b"http://10.0.0.1:8000/x"


def test_a_default_port_may_be_left_out() -> None:
    one = exchange()
    one.target_name = "app.internal:443"
    edits = response_edits(rewrite_location=True)
    assert edits.public("https://App.Internal/x", one) == "/x"
    assert edits.public("http://app.internal/x", one) is None


@given(st.text(alphabet="/\\\t.:@?#ax", max_size=12))
def test_a_rewritten_location_never_names_a_host(path: str) -> None:
    edits = response_edits(rewrite_location=True)
    public = edits.public("http://10.0.0.1:8000/" + path, exchange())
    assert public is not None
    assert public.startswith("/")
    assert public[1:2] not in ("/", "\\")
    assert "\t" not in public


async def test_an_upstreams_redirect_stays_within_the_gateway(
    gateway: Any, raw: Any, origin: Any
) -> None:
    """Absolute, to the target's own address: relative, below the prefix that was stripped."""
    up = await origin()
    up.script = (
        b"HTTP/1.1 302 Found\r\nLocation: %b/login?x=1\r\nServer: s\r\nContent-Length: 0\r\n\r\n"
        % up.url.encode()
    )
    headers = {
        "request": {"set": {"X-Who": "{client_ip}"}, "remove": ["X-Debug"]},
        "response": {"rewrite_location": True, "remove": ["Server"], "add": {"X-B": ["1", "2"]}},
    }
    route = {"path": "/orders/*", "rewrite": {"strip_prefix": "/orders"}, "headers": headers}
    client = await raw(await gateway(up, route=route))
    message = await client.ask(
        b"GET /orders/7 HTTP/1.1\r\nHost: evil.example\r\nX-Debug: 1\r\nx-who: me\r\n\r\n"
    )
    assert message.all("location") == [b"/orders/login?x=1"]
    assert message.all("server") == []
    assert message.all("x-b") == [b"1", b"2"]
    (request,) = up.requests
    assert request.target == b"/7"
    assert request.all("x-who") == [b"127.0.0.1"]
    assert request.all("x-debug") == []
