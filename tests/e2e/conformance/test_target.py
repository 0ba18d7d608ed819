"""http.md 11 to 22: Host, the request line and its target, methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.conformance.conftest import EVIL, get, post
from tests.kit.origin import OK, reply

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.e2e.conformance.conftest import Refused, Through

BAD_HOSTS = [
    b"a b", b"a/b", b"a@b", b"user:pw@a.test", b"a?b", b"a#b", b"a..b", b".a.test", b"a\\b", b"a,b",
    b"a.test, b.test", b"a:b", b"a:80:80", b"a:-1", b"a:+80", b"a:99999", b"[::1", b"::1", b"]::1[",
    b"[::1]x", b"[]", b"http://a.test", b"a\tb", b"a%00b", b"a\"b", b"<a>", b"a;b", b"a^b", b"a|b",
    b"a{b}", b"a`b", b":80", b"a\xc3\xa9",
]  # fmt: skip


@pytest.mark.parametrize("host", BAD_HOSTS)
async def test_11_an_invalid_host_is_refused(refused: Refused, host: bytes) -> None:
    await refused(get(host=host), 400)


async def test_11_http_1_1_without_host_is_refused(refused: Refused) -> None:
    await refused(get(host=None), 400)


@pytest.mark.parametrize(
    "lines",
    [
        [b"Host: a.test", b"Host: b.test"],
        [b"Host: a.test", b"Host: a.test"],
        [b"Host: a.test", b"X: 1", b"hOST: b.test"],
        [b"Host:", b"Host: a.test"],
    ],
)
async def test_11_more_than_one_host_is_refused(refused: Refused, lines: list[bytes]) -> None:
    await refused(get(b"/", *lines, host=None), 400)


@pytest.mark.parametrize("target", [b"http://a.test/", b"http://b.test/x"])
async def test_11_an_absolute_target_does_not_excuse_a_missing_or_second_host(
    refused: Refused, target: bytes
) -> None:
    await refused(get(target, host=None), 400)
    await refused(get(target, b"Host: b.test"), 400)


@pytest.mark.parametrize(
    "host",
    [b"a", b"A.Test", b"a.test:8080", b"a.test.", b"127.0.0.1", b"127.0.0.1:80", b"[::1]",
     b"[2001:db8::1]:8080", b"xn--bcher-kva.example", b"a-b.c1", b"a_b.test"],
)  # fmt: skip
async def test_11_a_valid_host_passes_as_it_came(through: Through, host: bytes) -> None:
    got = await through(get(host=host))
    assert got.response.status == 200
    assert got.sent.get("host") == host


async def test_11_http_1_0_may_do_without_host(through: Through) -> None:
    got = await through(get(host=None, version=b"HTTP/1.0"))
    assert got.response.status == 200
    assert len(got.sent.all("host")) == 1


@pytest.mark.parametrize(
    ("target", "host", "sent"),
    [
        (b"http://b.test/x?y=1", b"b.test", b"/x?y=1"),
        (b"http://b.test:81/", b"b.test:81", b"/"),
        (b"HTTP://B.test/X", b"B.test", b"/X"),
        (b"http://b.test", b"b.test", b"/"),
        (b"http://b.test/a%2Fb//c;d?", b"b.test", b"/a%2Fb//c;d?"),
        (b"http://[::1]:8/x", b"[::1]:8", b"/x"),
    ],
)
async def test_12_an_absolute_target_replaces_host_and_goes_on_in_origin_form(
    through: Through, target: bytes, host: bytes, sent: bytes
) -> None:
    got = await through(get(target, host=b"a.test"))
    assert (got.sent.target, got.sent.get("host")) == (sent, host)
    assert got.sent.get("x-forwarded-host") == host


async def test_12_the_authority_of_an_absolute_target_decides_the_route(
    gateway: MakeGateway, raw: MakeClient
) -> None:
    routes = [
        {"name": "a", "host": "a.test", "path": "/*", "respond": {"status": 200, "body": "a"}},
        {"name": "b", "host": "b.test", "path": "/*", "respond": {"status": 200, "body": "b"}},
    ]
    client = await raw(await gateway({"routes": routes}))
    got = await client.ask(get(b"http://b.test/x", host=b"a.test"))
    assert got.body == b"b"


@pytest.mark.parametrize(
    "target",
    [b"http:///x", b"http://", b"http://user@b.test/", b"http://u:p@b.test/", b"http://b.test:x/",
     b"ftp://b.test/x", b"//", b"http:/x", b"http://b test/", b"http://b.test#x", b"file:///etc/passwd",
     b"gopher://b.test/"],
)  # fmt: skip
async def test_12_an_absolute_target_that_is_no_http_url_goes_nowhere(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, target: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    got = await client.ask(get(target))
    if target == b"//":  # an origin form with an empty segment
        assert up.only.target == b"//"
    else:
        assert got.status == 400
        assert up.requests == []


async def test_13_the_upstream_is_never_taken_from_the_request(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    configured = await origin(reply(b"configured"))
    other = await origin(reply(b"other"))
    address = other.address.encode()
    client = await raw(await gateway(configured))
    fields = [b"X-Forwarded-Host", b"X-Original-URL", b"X-Rewrite-URL", b"X-Host", b"Forwarded",
              b"X-Forwarded-Server", b"Destination", b"Location", b"X-Upstream"]  # fmt: skip
    for asked in (
        get(host=address),
        get(b"http://" + address + b"/", host=address),
        get(b"http://" + address + b"/"),
        get(b"//" + address + b"/x"),
        get(b"/@" + address),
        get(b"/", *[name + b": http://" + address + b"/" for name in fields]),
    ):
        assert (await client.ask(asked)).body == b"configured", asked
    assert other.connections == []


async def test_13_a_field_does_not_change_the_path(through: Through) -> None:
    got = await through(get(b"/a", b"X-Original-URL: /b", b"X-Rewrite-URL: /c"))
    assert got.sent.target == b"/a"


@pytest.mark.parametrize("target", [b"a.test:443", b"127.0.0.1:22", b"/", b"*", b"http://a.test/"])
async def test_14_connect_opens_no_tunnel(refused: Refused, target: bytes) -> None:
    await refused(get(target, method=b"CONNECT"), 400, 405, 501)


async def test_15_options_asterisk_is_answered_or_forwarded_as_such(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(OK)
    client = await raw(await gateway(up))
    got = await client.ask(get(b"*", method=b"OPTIONS"))
    assert got.status in (200, 204)
    assert [request.target for request in up.requests] in ([], [b"*"])


@pytest.mark.parametrize("method", [b"GET", b"POST", b"DELETE"])
async def test_15_asterisk_is_a_target_of_options_only(refused: Refused, method: bytes) -> None:
    await refused(get(b"*", method=method), 400)


TARGETS = [
    b"/a%2Fb", b"/a%2fb%2F", b"//a//b", b"///", b"/a;x=1;y/b", b"/a?", b"/a??b", b"/a?b?c", b"/a?b=c%20d+e&=&&",
    b"/A%7eb", b"/%E2%82%AC", b"/a/./b/../c", b"/../a", b"/a?x=/../y", b"/!$&'()*+,;=:@-._~", b"/a%25b",
    b"/a%20", b"/a.", b"/a/..", b"/.%2e/", b"/%2e%2e/a", b"/a?x=%00%0d%0a", b"/a%0D%0AX:%20y", b"/a?http://x/",
    b"/%41?%41", b"/a?q=[1]{2}", b"/" + b"a" * 4000, b"/?" + b"b" * 4000,
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
async def test_16_path_and_query_go_on_byte_for_byte(through: Through, target: bytes) -> None:
    got = await through(get(target))
    assert got.response.status == 200, got.response.raw
    assert got.sent.target == target


@pytest.mark.parametrize(
    "target",
    [b'/a"b', b"/a<b>", b"/a^b", b"/a`b", b"/a{b}", b"/a|b", b"/a\\b", b"/%", b"/%zz", b"/a%0"],
)
async def test_16_characters_outside_the_grammar_are_kept_or_refused(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, target: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    got = await client.ask(get(target))
    if got.status == 200:
        assert up.only.target == target
    else:
        assert got.status == 400
        assert up.requests == []


ADMIN_SPELLINGS = [
    b"/admin", b"/admin/x", b"/%61dmin/x", b"/%2561dmin/x", b"/x/../admin/x", b"/x/%2e%2e/admin/x",
    b"/x/%2E./admin/x", b"/x/%252e%252e/admin/x", b"//admin/x", b"/./admin/x", b"/%2fadmin/x", b"/%2Fadmin",
    b"/x%2f..%2fadmin/x", b"/x/..%2fadmin/x", b"/admin;a=b/x", b"/admin%2fx", b"/;x/admin/x", b"/\\admin/x",
    b"/x/..\\admin/x", b"/%5cadmin/x", b"/x%5c..%5cadmin", b"/x/..;/admin/x", b"/admin%3bx/y", b"/x/.;/../admin/y",
    b"/admin/../admin/x", b"///admin//x", b"/x//..//admin/x", b"/x/y/../../admin/x", b"/%61%64%6d%69%6e/x",
]  # fmt: skip


@pytest.mark.parametrize("target", ADMIN_SPELLINGS)
async def test_17_no_spelling_walks_around_a_route(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, target: bytes
) -> None:
    up = await origin()
    routes = [
        {"name": "all", "path": "/*", "to": up.url},
        {"name": "admin", "path": "/admin/*", "respond": {"status": 403, "body": "no"}},
    ]
    client = await raw(await gateway({"routes": routes}))
    got = await client.ask(get(target))
    assert got.status in (400, 403), got.raw
    assert up.requests == []


async def test_18_paths_are_case_sensitive_and_hosts_are_not(
    gateway: MakeGateway, raw: MakeClient
) -> None:
    route = {"host": "a.test", "path": "/Path", "respond": {"status": 200, "body": "x"}}
    client = await raw(await gateway({"routes": [route]}))
    for host in (b"a.test", b"A.TEST", b"a.test:8080", b"a.test.", b"A.test.:1"):
        assert (await client.ask(get(b"/Path", host=host))).status == 200, host
    assert (await client.ask(get(b"/path", host=b"a.test"))).status == 404
    assert (await client.ask(get(b"/Path", host=b"b.test"))).status == 404


REQUEST_LINES = [
    b"GET / HTTP/1.1 ", b" GET / HTTP/1.1", b"GET /a b HTTP/1.1",
    b"GET\t/ HTTP/1.1", b"GET /\tHTTP/1.1", b"GET / HTTP/2.0", b"GET / HTTP/2", b"GET / HTTP/3.0",
    b"GET / HTTP/0.9", b"GET / HTTP/1.10", b"GET / HTTP/01.1", b"GET / HTTP/11", b"GET / HTTP/1.", b"GET / HTTP/.1",
    b"GET / HTTP/1,1", b"GET / http/1.1", b"GET / HTTP/1.1x", b"GET / HTTP/ 1.1", b"GET / HTTP /1.1", b"GET / HTP/1.1",
    b"GET / HTTPS/1.1", b"GET / ICY/1.1", b"GET / HTTP/-1.1", b"GET / HTTP/1.1\t", b"GET / ",
    b"GET /", b"GET", b"/ HTTP/1.1",
    b"GET HTTP/1.1", b"GET /\x00 HTTP/1.1", b"GET /\x7f HTTP/1.1", b"GET /\x01 HTTP/1.1", b"GET /a\rb HTTP/1.1",
    b"GET a HTTP/1.1", b"GET ?x HTTP/1.1", b"GET a.test/x HTTP/1.1", b"GET \\x HTTP/1.1", b"G@T / HTTP/1.1",
    b"G\x00T / HTTP/1.1",
    b"GET: / HTTP/1.1", b'"GET" / HTTP/1.1', b"GE T / HTTP/1.1", b"\x00GET / HTTP/1.1", b"GET / HTTP/1.1\rX: y",
    b"GET /\x0b HTTP/1.1", b"GET / HTTP/1.1\x00", b"\xef\xbb\xbfGET / HTTP/1.1", b"GET\x0b/ HTTP/1.1", b"HTTP/1.1 200 OK",
]  # fmt: skip


@pytest.mark.parametrize("line", REQUEST_LINES)
async def test_19_an_invalid_request_line_is_refused(refused: Refused, line: bytes) -> None:
    await refused(line + b"\r\nHost: a.test\r\n\r\n", 400, 501, 505)


@pytest.mark.parametrize("line", [b"GET  / HTTP/1.1", b"GET /   HTTP/1.1"])
async def test_19_more_than_one_space_in_a_request_line_is_refused_or_goes_on_as_one(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, line: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    await client.send(line + b"\r\nHost: a.test\r\n\r\n")
    got = await client.response()
    if got.status == 200:
        assert up.only.start == b"GET / HTTP/1.1"
    else:
        assert got.status == 400
        assert up.requests == []


async def test_19_an_unknown_version_says_so_or_is_a_bad_request(refused: Refused) -> None:
    await refused(get(version=b"HTTP/2.0"), 400, 505)


@pytest.mark.parametrize("version", [b"HTTP/1.2", b"HTTP/1.9"])
async def test_19_a_higher_minor_version_is_refused_or_goes_on_as_our_own(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, version: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    got = await client.ask(get(version=version))
    assert got.status in (200, 400, 505)
    assert got.start.startswith(b"HTTP/1.1 ")
    assert all(request.start.endswith(b" HTTP/1.1") for request in up.requests)


@pytest.mark.parametrize("ends", [b"\r\n", b"\r\n\r\n"])
async def test_20_an_empty_line_before_a_request_is_ignored(through: Through, ends: bytes) -> None:
    got = await through(ends + get(b"/x"))
    assert (got.response.status, got.sent.target) == (200, b"/x")


async def test_20_an_empty_line_behind_a_body_is_ignored(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    assert (await client.ask(post() + b"\r\n")).status == 200
    assert (await client.ask(get(b"/second"))).status == 200
    assert [request.target for request in up.requests] == [b"/", b"/second"]


@pytest.mark.parametrize(
    "opening",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x20" * 64 + b"\r\n\r\n",
        b"\x80\x2e\x01\x00\x02",
        b"GET /\r\n\r\n",
        b"GET /\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + get(),
        b"\r\n\r\n\r\n\x00\x01\x02\x03\r\n\r\n",
        b"EHLO a.test\r\n",
        b"\x05\x01\x00\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n",
    ],
)  # fmt: skip
async def test_20_what_is_not_http_1_is_refused(refused: Refused, opening: bytes) -> None:
    await refused(opening, 400, 501, 505, 0)


@pytest.mark.parametrize("target", [b"/#", b"/a#b", b"/a?b#c", b"#a", b"/a%23b#"])
async def test_21_a_fragment_is_refused(refused: Refused, target: bytes) -> None:
    await refused(get(target, b"Connection: close"), 400)


@pytest.mark.parametrize("raw_bytes", [b"\xc3\xa9", b"\xff", b"\x80\x81", b"\xe2\x82\xac"])
async def test_21_bytes_outside_ascii_are_kept_encoded_or_refused(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, raw_bytes: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    got = await client.ask(get(b"/a" + raw_bytes))
    encoded = b"".join(b"%%%02X" % byte for byte in raw_bytes)
    if got.status == 200:
        assert up.only.target in (b"/a" + raw_bytes, b"/a" + encoded)
    else:
        assert got.status == 400
        assert up.requests == []


@pytest.mark.parametrize(
    "method",
    [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"PROPFIND", b"REPORT", b"PURGE",
     b"MKCOL", b"SEARCH", b"M-SEARCH", b"LINK"],
)  # fmt: skip
async def test_22_known_methods_go_on_unchanged(through: Through, method: bytes) -> None:
    got = await through(
        get(method=method), reply=reply(b"", length=False) if method == b"HEAD" else OK
    )
    assert got.response.status == 200
    assert got.sent.method == method


@pytest.mark.parametrize(
    "method",
    [b"get", b"Get", b"gET", b"FOO", b"GETS", b"GE", b"FOO-BAR", b"X", b"post", b"A" * 100],
)
async def test_22_methods_are_case_sensitive_and_unknown_ones_are_unchanged_or_refused(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, method: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    await client.send(get(method=method))
    got = await client.response()
    if got.status == 200:
        assert up.only.method == method
    else:
        assert got.status in (501, 405)
        assert up.requests == []


async def test_22_an_unknown_method_is_answered_in_step(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    await client.send(get(b"/a") + get(b"/b", method=b"FOO") + EVIL)
    assert (await client.response()).status == 200
    assert (await client.response()).status in (501, 405, 200)
    assert up.requests[0].target == b"/a"
