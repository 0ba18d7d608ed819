"""A parsed head becomes an Exchange, or a refusal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiohttp.http import HttpVersion
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway import errors, inbound
from gateway.admission import Admission
from gateway.certificates import Encryption
from gateway.clock import Clock
from gateway.config import model
from gateway.edge import ClientConnection
from gateway.exchange import Exchange, Reply
from gateway.incoming import END
from gateway.server import Server
from tests.kit.answers import Answers

if TYPE_CHECKING:
    from gateway.incoming import Incoming, Sent


def head(
    target: str = "/",
    *,
    method: str = "GET",
    host: str | None = "example.com",
    version: tuple[int, int] = (1, 1),
    chunked: bool = False,
    body: bool = False,
    client: Any = None,
    limits: dict[str, Any] | None = None,
    **fields: str,
) -> Exchange:
    """The exchange of this head, not yet checked; `fields` with `_` for `-`."""
    pairs = [] if host is None else [("Host", host)]
    pairs += [(name.replace("_", "-"), value) for name, value in fields.items()]
    message = SimpleNamespace(
        method=method,
        path=target,
        version=HttpVersion(*version),
        headers=CIMultiDict(pairs),
        raw_headers=tuple((name.encode(), value.encode()) for name, value in pairs),
        should_close=False,
        chunked=chunked,
    )
    incoming = SimpleNamespace(
        message=message,
        protocol=client or SimpleNamespace(transport=None),
        has_body=body or chunked,
    )
    config = SimpleNamespace(server=SimpleNamespace(limits=model.Limits(**(limits or {}))))
    snapshot = cast("Any", SimpleNamespace(unmatched="nothing", config=config))
    return inbound.begin(cast("Any", incoming), snapshot, 5.0)


def checked(target: str = "/", **words: Any) -> Exchange:
    exchange = head(target, **words)
    inbound.check(exchange)
    return exchange


def refused(kind: type[errors.GatewayError], target: str = "/", **words: Any) -> Exchange:
    exchange = head(target, **words)
    with pytest.raises(kind):
        inbound.check(exchange)
    return exchange


# ── hosts ──


@pytest.mark.parametrize(
    "host",
    [
        "example.com", "EXAMPLE.com", "example.com.", "a", "my_host", "a~b", "xn--bcher-kva.example",
        "example.com:80", "example.com:", "example.com:0", "example.com:65535", "127.0.0.1",
        "127.0.0.1:8080", "[::1]", "[::1]:8080", "[::ffff:1.2.3.4]", "1-2.3",
    ],
)  # fmt: skip
def test_a_host_is_accepted_as_it_is_written(host: str) -> None:
    assert checked(host=host).authority == host


@pytest.mark.parametrize(
    "host",
    [
        "", " ", ".", "a..b", ".a", "a b", "a/b", "a?b", "a#b", "a@b", "user@a:80", "a\\b", "a,b", "a:b",
        "a:80:80", "a:+80", "a:-1", "a:65536", "a:99999", "a:000080", "a: 80", "a:٨٠", "::1", "[::1",
        "::1]", "[]", "[::1]a", "[::g]", "[fe80::1%25eth0]", "é.example", "a\x00", "a\tb", "a\n", "%61",
        "a, b", "<a>", "a;b", "a'b", '"a"',
    ],
)  # fmt: skip
def test_what_is_no_host_is_refused_and_ends_the_connection(host: str) -> None:
    assert refused(errors.BadRequest, host=host).close


def test_a_host_is_missing_only_in_http_1_0() -> None:
    assert refused(errors.BadRequest, host=None).close
    assert checked(host=None, version=(1, 0)).authority == ""


@given(st.text(max_size=12))
def test_no_accepted_host_can_be_taken_for_more_than_a_host(host: str) -> None:
    exchange = head(host=host)
    try:
        inbound.check(exchange)
    except errors.BadRequest:
        return
    assert host.isascii()
    assert not set(host) & set(" \t\r\n/?#@\\,;%<>\"'")


# ── targets ──


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/a/b?c=d", "/a/b", "c=d"),
        ("/a?", "/a", ""),
        ("/a?b?c", "/a", "b?c"),
        ("/a%2Fb/%2e%2E", "/a%2Fb/%2e%2E", ""),
        ("//a//b", "//a//b", ""),
        ("/http://other/", "/http://other/", ""),
        ("/a\udcff", "/a\udcff", ""),
    ],
)
def test_a_path_stays_as_it_came(target: str, path: str, query: str) -> None:
    exchange = checked(target)
    assert (exchange.target, exchange.path, exchange.query) == (target, path, query)
    assert exchange.authority == "example.com"


@pytest.mark.parametrize(
    ("target", "authority", "origin_form"),
    [
        ("http://a", "a", "/"),
        ("http://a/", "a", "/"),
        ("HTTP://A:80/b?c", "A:80", "/b?c"),
        ("https://a?b", "a", "/?b"),
        ("http://[::1]:8080/x", "[::1]:8080", "/x"),
        ("http://a//b", "a", "//b"),
    ],
)
def test_the_authority_of_a_url_replaces_host(
    target: str, authority: str, origin_form: str
) -> None:
    for host in ("example.com", "not a host", None):
        exchange = checked(target, host=host)
        assert (exchange.authority, exchange.target) == (authority, origin_form)


@pytest.mark.parametrize(
    "target",
    [
        "", "*", "a", "a/b", "a:80", "ftp://a/", "http:/a", "http:///a", "http://", "http://u@a/",
        "http://a\\b/", "http://a b/", "http://a:99999/", "ws://a/", "?a", "#a", "/a#b", "/#",
        "http://a/b#c", "http://a#b", "http://a\\@b/",
    ],
)  # fmt: skip
def test_what_is_no_request_target_is_refused(target: str) -> None:
    refused(errors.BadRequest, target)


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
def test_connect_and_trace_are_never_forwarded(method: str) -> None:
    exchange = head("example.com:443", method=method)
    with pytest.raises(errors.MethodNotAllowed) as caught:
        inbound.check(exchange)
    assert caught.value.headers == (("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),)
    assert exchange.close


@pytest.mark.parametrize("version", [(0, 9), (1, 2), (2, 0)])
def test_only_http_1_0_and_1_1_are_spoken(version: tuple[int, int]) -> None:
    assert refused(errors.BadRequest, version=version).close
    assert checked(version=(1, 0)).http10
    assert not checked().http10


# ── OPTIONS ──


@pytest.mark.parametrize("target", ["*", "http://a"])
def test_options_for_the_server_are_answered_here(target: str) -> None:
    exchange = checked(target, method="OPTIONS")
    assert exchange.target == "*"
    assert isinstance(exchange.refusal, Reply)
    assert exchange.refusal.status == 204
    assert exchange.refusal.get(b"allow") is not None


@pytest.mark.parametrize(
    ("hops", "answered"),
    [("0", True), ("00", True), ("1", False), ("-0", False), ("", False), ("²", False),
     ("٠", False), ("0" * 5000, True), ("9" * 5000, False)],
)  # fmt: skip
def test_options_that_may_go_no_further_are_answered_here(hops: str, answered: bool) -> None:
    exchange = checked("/a", method="OPTIONS", Max_Forwards=hops)
    assert (exchange.refusal is not None) is answered
    assert checked("/a", Max_Forwards=hops).refusal is None


# ── bodies ──


def test_a_head_without_a_body_has_none() -> None:
    exchange = checked(Expect="100-continue")
    assert (exchange.has_body, exchange.length, exchange.expects) == (False, 0, False)


def test_a_length_and_a_coding_are_noted() -> None:
    sized = checked(method="POST", body=True, Content_Length="12", Expect="100-Continue")
    assert (sized.has_body, sized.length, sized.expects) == (True, 12, True)
    chunked = checked(method="POST", chunked=True, Transfer_Encoding="\tChunked ")
    assert (chunked.has_body, chunked.length, chunked.expects) == (True, None, False)


@pytest.mark.parametrize("length", ["", "+5", "1_0", "-1", "5 5", "٥", "²", "9" * 19, "\udcff"])
def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    exchange = head(method="POST", body=True)
    exchange.headers = cast("Any", CIMultiDict({"Host": "a", "Content-Length": length}))
    with pytest.raises(errors.BadRequest):
        inbound.check(exchange)
    assert exchange.close


@pytest.mark.parametrize(
    "coding", ["gzip, chunked", "chunked, chunked", "identity", "", "xchunked"]
)
def test_a_coding_other_than_chunked_is_not_implemented(coding: str) -> None:
    words = {"method": "POST", "chunked": True, "Transfer_Encoding": coding}
    assert refused(errors.NotImplementedByGateway, **words).close


def test_http_1_0_has_no_chunked_bodies_and_no_expectations() -> None:
    words: dict[str, Any] = {"method": "POST", "version": (1, 0)}
    assert refused(errors.BadRequest, chunked=True, Transfer_Encoding="chunked", **words).close
    old = checked(body=True, Content_Length="5", Expect="100-continue", **words)
    assert not old.expects


# ── who asks ──


def test_what_is_known_before_any_check_is_noted() -> None:
    exchange = head("/a?b", method="PUT")
    assert (exchange.method, exchange.target, exchange.began) == ("PUT", "/a?b", 5.0)
    assert exchange.route == "nothing"
    assert (exchange.peer, exchange.listener, exchange.scheme) == ("", "", "http")


SECURE = SimpleNamespace(
    version=lambda: "TLSv1.3", cipher=lambda: ("AES", "", 0), getpeercert=lambda binary_form: None
)


@pytest.mark.parametrize(
    ("peer", "tls", "noted"),
    [(("10.0.0.1", 5), None, ("10.0.0.1", "http")), (("::1", 5, 0, 0), SECURE, ("::1", "https")),
     ("", None, ("unix", "http"))],
)  # fmt: skip
def test_a_connection_of_another_server_tells_its_peer(
    peer: Any, tls: object, noted: tuple[str, str]
) -> None:
    known = {"peername": peer, "ssl_object": tls}
    client = SimpleNamespace(transport=SimpleNamespace(get_extra_info=known.get))
    exchange = head(client=client)
    assert (exchange.peer, exchange.scheme) == noted
    assert (exchange.tls is not None and exchange.tls.version) == (tls is not None and "TLSv1.3")
    assert not exchange.close
    assert head(client=client, chunked=True).close, "its trailers would open the next head"


# ── limits ──


async def _none(_: Incoming, __: errors.GatewayError | None = None) -> Sent:
    return END


@pytest.fixture
async def client() -> ClientConnection:
    limits = model.Limits()
    server = Server(
        Answers(_none, _none),
        listener="main",
        limits=limits,
        clock=Clock(),
        admission=Admission(limits),
    )
    made = server()
    assert type(made) is ClientConnection
    made.address, made.tls = "10.0.0.1", Encryption("TLSv1.3", "AES")
    return made


async def test_an_own_connection_tells_its_peer_and_listener(client: ClientConnection) -> None:
    exchange = checked(client=client)
    assert (exchange.peer, exchange.listener, exchange.scheme) == ("10.0.0.1", "main", "https")
    assert not exchange.close


async def test_a_connection_too_many_is_told_so(client: ClientConnection) -> None:
    client.admitted = False
    assert refused(errors.TooManyConnections, client=client).close


async def test_a_long_segment_makes_each_head_be_measured(client: ClientConnection) -> None:
    limits = {"request_head": 200}
    long = {"client": client, "limits": limits, "X": "x" * 200}
    checked(**long)
    client.long_head = True
    assert refused(errors.HeadTooLarge, **long).close
    checked(client=client, limits=limits, X="x" * 20)


async def test_the_last_request_of_a_connection_ends_it(client: ClientConnection) -> None:
    words: dict[str, Any] = {"client": client, "limits": {"requests_per_connection": 3}}
    assert [checked(**words).close for _ in range(3)] == [False, False, True]


@given(
    st.sampled_from(["GET", "POST", "DELETE"]),
    st.text("/abc", min_size=1, max_size=20),
    st.lists(st.tuples(st.binary(min_size=1, max_size=9), st.binary(max_size=9)), max_size=9),
)
def test_a_head_is_as_large_as_it_was_on_the_wire(
    method: str, path: str, fields: list[tuple[bytes, bytes]]
) -> None:
    message = cast("Any", SimpleNamespace(method=method, path=path, raw_headers=tuple(fields)))
    lines = b"".join(b"%b: %b\r\n" % field for field in fields)
    wire = b"%b %b HTTP/1.1\r\n%b\r\n" % (method.encode(), path.encode(), lines)
    assert inbound.head_size(message) == len(wire)
