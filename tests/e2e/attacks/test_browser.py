"""Attacks with and on what browsers are told: forged origins, preflights as a way around."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.conformance.conftest import get
from tests.e2e.test_cors import APP, CORS, asks, told
from tests.kit.origin import reply

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin

FORGED = (
    b"https://app.example.com.evil.com",
    b"https://evil.com#https://app.example.com",
    b"https://evil.com?https://app.example.com",
    b"https://app.example.com@evil.com",
    b"https://app.example.com%60.evil.com",
    b"https://app.example.com, https://evil.com",
    b"https://evil.com https://app.example.com",
    b"https://app.example.com\t",
    b"https://app.example.com:443",
    b"https://app.example.com:",
    b"https://app.example.com.",
    b"https://APP.EXAMPLE.COM",
    b"//app.example.com",
    b"app.example.com",
    b"file://",
    b"null",
    b"NULL",
    b"https://\xef\xbc\xa1pp.example.com",
    b"https://a_.example.org.evil.com",
    b"https://a.b.example.org",
    b"https://evil.com/.example.org",
    b"https://evil.com%2f.example.org",
    b"https://" + b"a" * 8000 + b".example.org.",
)


@pytest.mark.parametrize("page", FORGED)
async def test_a_forged_origin_is_never_allowed(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, page: bytes
) -> None:
    up = await origin()
    cors = {"origins": [APP.decode(), "https://*.example.org"], "credentials": True}
    client = await raw(await gateway(up, route={"cors": cors}))
    answer = await client.ask(get(b"/", b"Origin: " + page))
    # Blanks around a value are no part of it (RFC 9110 section 5.5).
    allowed = page.strip() == APP
    assert answer.status == 200
    assert bool(told(answer)) is allowed
    answer = await client.ask(asks(page))
    assert answer.status == (204 if allowed else 403)
    if not allowed:
        assert told(answer) == {}
        assert page.strip() not in answer.raw


@pytest.mark.parametrize("first", [0, 1])
async def test_of_two_origins_no_answer_names_one_that_is_not_allowed(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, first: int
) -> None:
    up = await origin()
    client = await raw(await gateway(up, route={"cors": CORS}))
    pages = [b"Origin: " + APP, b"Origin: https://evil.com"]
    answer = await client.ask(get(b"/", pages[first], pages[1 - first]))
    assert told(answer).get("access-control-allow-origin", APP) == APP
    assert b"evil" not in answer.raw


@pytest.mark.parametrize(
    "asked",
    [
        b"x-a, x b", b"x-a\x80", b"x-a,\xc3\xa9", b'"x"', b"x-a;q=1", b"a" * 5000, b",".join([b"x-a"] * 2000),
        b"x-a\tb", b"x-a:b", b"(x)",
    ],
)  # fmt: skip
async def test_what_is_no_list_of_names_is_not_repeated(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, asked: bytes
) -> None:
    up = await origin()
    client = await raw(
        await gateway(up, route={"cors": {**CORS, "methods": ["*"], "headers": ["*"]}})
    )
    answer = await client.ask(asks(APP, b"PUT", b"Access-Control-Request-Headers: " + asked))
    assert answer.status == 204
    assert "access-control-allow-headers" not in told(answer)
    answer = await client.ask(asks(APP, asked[:100]))
    assert answer.status in (204, 403)
    assert told(answer).get("access-control-allow-methods") in (None, asked[:100])


async def test_a_response_can_not_be_split_by_what_a_preflight_asks_for(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, route={"cors": {**CORS, "headers": ["*"]}})
    for evil in (b"x\r\n Set-Cookie: a=b", b"x\rSet-Cookie: a=b", b"x\nSet-Cookie: a=b", b"x\0"):
        client = await raw(running)
        await client.send(asks(APP, b"GET", b"Access-Control-Request-Headers: " + evil))
        seen = await client.some()
        assert b"set-cookie" not in seen.lower()


async def test_an_upstream_can_not_open_what_the_gateway_keeps_shut(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    own = (b"Access-Control-Allow-Origin: https://evil.com", b"access-control-allow-origin: *",
           b"Access-Control-Allow-Credentials: true", b"Access-Control-Allow-Private-Network: true")  # fmt: skip
    up = await origin(reply(b"ok", *own))
    client = await raw(await gateway(up, route={"cors": CORS}))
    assert told(await client.ask(get(b"/", b"Origin: https://evil.com"))) == {}
    assert told(await client.ask(get())) == {}


PREFLIGHT = (
    b"OPTIONS /p HTTP/1.1\r\nHost: a.test\r\nOrigin: %b\r\nAccess-Control-Request-Method: GET\r\n"
    % APP
)
EVIL = b"GET /evil HTTP/1.1\r\nHost: a.test\r\n\r\n"


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: %d\r\n\r\n%b" % (len(EVIL), EVIL),
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(EVIL), EVIL),
    ],
)
async def test_the_body_of_a_preflight_is_no_request(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, body: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway(up, route={"cors": CORS}))
    answer = await client.ask(PREFLIGHT + body)
    assert answer.status == 204
    assert up.requests == []
