"""`cors`, through a whole gateway: preflights, what pages may read, and that no answer says it twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conformance.conftest import get, problem
from tests.kit.origin import OK, reply

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.wire import Message

APP = b"https://app.example.com"
CORS = {"origins": [APP.decode()]}


def asks(origin: bytes = APP, method: bytes = b"GET", *lines: bytes, path: bytes = b"/") -> bytes:
    """A preflight."""
    head = b"OPTIONS %b HTTP/1.1\r\nHost: a.test\r\nOrigin: %b\r\n" % (path, origin)
    head += b"Access-Control-Request-Method: %b\r\n" % method
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def of(origin: bytes, path: bytes = b"/") -> bytes:
    return get(path, b"Origin: " + origin)


def told(answer: Message) -> dict[str, bytes]:
    """The fields of the CORS protocol, each of which stands once."""
    found: dict[str, bytes] = {}
    for line in answer.head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b": ")
        word = name.decode().lower()
        if word.startswith("access-control-"):
            assert word not in found, f"{word} stands twice"
            found[word] = value
    return found


def varies(answer: Message) -> list[bytes]:
    return [name.strip().lower() for line in answer.all("vary") for name in line.split(b",")]


async def test_a_page_that_is_allowed_reads_the_answer_and_its_credentials_count(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    cors = {**CORS, "credentials": True, "expose": ["X-Total", "Link"]}
    client = await raw(await gateway(up, route={"cors": cors}))
    answer = await client.ask(of(APP))
    assert (answer.status, answer.body) == (200, b"ok")
    assert told(answer) == {
        "access-control-allow-origin": APP,
        "access-control-allow-credentials": b"true",
        "access-control-expose-headers": b"X-Total, Link",
    }
    assert varies(answer) == [b"origin"]
    assert up.only.get("origin") == APP


@pytest.mark.parametrize(
    "other",
    [
        b"https://evil.com", b"http://app.example.com", b"https://app.example.com:8443", b"null", b"",
        b"https://app.example.com.evil.com", b"https://APP.example.com", b"https://xapp.example.com",
        b"https://app.example.com/", b"*",
    ],
)  # fmt: skip
async def test_another_origin_is_served_and_told_nothing(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, other: bytes
) -> None:
    up = await origin(reply(b"ok", b"Access-Control-Allow-Origin: *"))
    client = await raw(await gateway(up, route={"cors": CORS}))
    answer = await client.ask(of(other))
    assert (answer.status, told(answer), varies(answer)) == (200, {}, [b"origin"])


async def test_what_is_no_request_of_a_page_is_told_only_that_answers_vary(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(reply(b"ok", b"X-Own: 1"))
    client = await raw(await gateway(up, route={"cors": CORS}))
    answer = await client.ask(get())
    assert (told(answer), varies(answer)) == ({}, [b"origin"])
    assert answer.get("x-own") == b"1"


async def test_a_preflight_is_answered_by_the_gateway(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    cors = {**CORS, "methods": ["GET", "PATCH"], "headers": ["X-Tenant"], "credentials": True,
            "max_age": "10m", "expose": ["X-Total"]}  # fmt: skip
    running = await gateway(up, route={"cors": cors})
    client = await raw(running)
    answer = await client.ask(asks(APP, b"PATCH", b"Access-Control-Request-Headers: x-tenant"))
    assert (answer.status, answer.body, answer.all("content-length")) == (204, b"", [])
    assert told(answer) == {
        "access-control-allow-origin": APP,
        "access-control-allow-credentials": b"true",
        "access-control-allow-methods": b"GET, PATCH",
        "access-control-allow-headers": b"X-Tenant",
        "access-control-max-age": b"600",
    }
    assert varies(answer) == [
        b"origin",
        b"access-control-request-method",
        b"access-control-request-headers",
    ]
    assert up.requests == []
    assert (await client.ask(of(APP))).status == 200, "the connection is kept"
    line = (await running.log())[0]
    assert (line["method"], line["status"], line["source"]) == ("OPTIONS", 204, "gateway")


async def test_a_preflight_of_another_origin_is_403_and_counted(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, route={"cors": CORS})
    client = await raw(running)
    answer = await client.ask(asks(b"https://evil.com"))
    problem(answer, "forbidden", 403)
    assert (told(answer), varies(answer)) == ({}, [b"origin"])
    assert b"evil" not in answer.body
    assert up.requests == []
    await running.eventually("gateway_errors_total", 1, reason="forbidden")


async def test_what_a_preflight_asks_for_is_repeated_where_anything_is_allowed(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    cors = {**CORS, "methods": ["*"], "headers": ["*"]}
    client = await raw(await gateway(up, route={"cors": cors}))
    asked = b"Access-Control-Request-Headers: x-a,  X-B"
    answer = told(await client.ask(asks(APP, b"PURGE", asked)))
    assert answer["access-control-allow-methods"] == b"PURGE"
    assert answer["access-control-allow-headers"] == b"x-a, X-B"
    answer = told(await client.ask(asks(APP, b"GET")))
    assert "access-control-allow-headers" not in answer
    answer = told(await client.ask(asks(APP, b"GET", b"Access-Control-Request-Headers: a b, c")))
    assert "access-control-allow-headers" not in answer


async def test_any_origin_is_a_star_which_every_answer_has(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up, route={"cors": "*"}))
    for asked in (of(b"https://a.test"), of(b"null"), get()):
        answer = await client.ask(asked)
        assert told(answer) == {"access-control-allow-origin": b"*"}
        assert varies(answer) == []
    answer = await client.ask(asks(b"https://a.test"))
    assert told(answer)["access-control-allow-origin"] == b"*"


@pytest.mark.parametrize(
    ("written", "asking", "allowed"),
    [
        ("https://*.example.com", b"https://a.example.com", True),
        ("https://*.example.com", b"https://a-1_x.example.com", True),
        ("https://*.example.com", b"https://a.b.example.com", False),
        ("https://*.example.com", b"https://example.com", False),
        ("https://*.example.com", b"https://.example.com", False),
        ("https://*.example.com", b"https://evil.com/.example.com", False),
        ("https://*.example.com", b"https://a.exampleXcom", False),
        ("https://*.example.com", b"https://a.example.com.evil.com", False),
        ("https://*.example.com", b"https://a.example.com:444", False),
        ("https://*.example.com:444", b"https://a.example.com:444", True),
        ("https://app.example.com:443", b"https://app.example.com", True),
        ("http://localhost:80", b"http://localhost", True),
        ("HTTPS://App.Example.COM", b"https://app.example.com", True),
        ("null", b"null", True),
        ({"regex": r"https://[a-z]+\.example\.com"}, b"https://a.example.com", True),
        ({"regex": r"https://[a-z]+\.example\.com"}, b"https://a.example.com.evil.com", False),
        ({"regex": r"https://[a-z]+\.example\.com"}, b"xhttps://a.example.com", False),
        ({"regex": ".*"}, b"null", False),
        ({"regex": ".*"}, b"https://\xc3\xa9.test", False),
        ({"regex": ".*"}, b"https://" + 600 * b"a", False),
    ],
)  # fmt: skip
async def test_origins_are_compared_as_written_or_with_one_label_or_by_a_regex_for_all_of_it(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, written: Any, asking: bytes, allowed: bool
) -> None:  # fmt: skip
    up = await origin()
    client = await raw(await gateway(up, route={"cors": {"origins": [written]}}))
    found = told(await client.ask(of(asking)))
    assert found == ({"access-control-allow-origin": asking} if allowed else {})
    assert (await client.ask(asks(asking))).status == (204 if allowed else 403)


async def test_an_upstreams_own_fields_are_replaced(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    own = (b"access-control-allow-origin: https://evil.com", b"Access-Control-Allow-Credentials: true",
           b"ACCESS-CONTROL-EXPOSE-HEADERS: X-Secret", b"Vary: Accept")  # fmt: skip
    up = await origin(reply(b"ok", *own))
    client = await raw(await gateway(up, route={"cors": CORS}))
    answer = await client.ask(of(APP))
    assert told(answer) == {"access-control-allow-origin": APP}
    assert varies(answer) == [b"accept", b"origin"]
    answer = await client.ask(of(b"https://evil.com"))
    assert told(answer) == {}


async def test_without_cors_the_upstream_decides_preflights_too(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(reply(b"", b"Access-Control-Allow-Origin: https://up.test"))
    client = await raw(await gateway(up))
    answer = await client.ask(asks())
    assert told(answer) == {"access-control-allow-origin": b"https://up.test"}
    assert varies(answer) == []
    assert up.only.start == b"OPTIONS / HTTP/1.1"


async def test_a_preflight_is_routed_by_the_method_that_it_asks_for_and_another_options_is_not(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    read = {
        "name": "read",
        "path": "/x",
        "methods": ["GET"],
        "to": up.url,
        "cors": {"origins": ["https://r.test"]},
    }
    write = {
        "name": "write",
        "path": "/x",
        "methods": ["POST"],
        "to": up.url,
        "cors": {"origins": ["https://w.test"]},
    }
    running = await gateway({"routes": [read, write]})
    client = await raw(running)
    for method, page, status in (
        (b"GET", b"https://r.test", 204), (b"HEAD", b"https://r.test", 204), (b"GET", b"https://w.test", 403),
        (b"POST", b"https://w.test", 204), (b"POST", b"https://r.test", 403),
    ):  # fmt: skip
        answer = await client.ask(asks(page, method, path=b"/x"))
        assert (method, page, answer.status) == (method, page, status)
    for method in (b"PUT", b"get"):
        problem(
            await client.ask(asks(b"https://r.test", method, path=b"/x")), "method_not_allowed", 405
        )
    plain = b"OPTIONS /x HTTP/1.1\r\nHost: a.test\r\n%b\r\n"
    for line in (b"", b"Origin: https://r.test\r\n", b"Access-Control-Request-Method: GET\r\n",
                 b"Origin: https://r.test\r\nAccess-Control-Request-Method: \r\n"):  # fmt: skip
        problem(await client.ask(plain % line), "method_not_allowed", 405)
    assert up.requests == []
    lines = await running.log(2)
    assert [line["route"] for line in lines[:2]] == ["read", "read"]


async def test_an_options_that_is_no_preflight_goes_to_the_upstream(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up, route={"cors": CORS}))
    answer = await client.ask(b"OPTIONS / HTTP/1.1\r\nHost: a.test\r\nOrigin: %b\r\n\r\n" % APP)
    assert (answer.status, answer.body) == (200, b"ok")
    assert told(answer) == {"access-control-allow-origin": APP}


async def test_a_page_can_read_the_gateways_own_failures(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    await up.refuse()
    client = await raw(
        await gateway(up, route={"cors": {**CORS, "credentials": True}, "body": {"max": "1B"}})
    )
    answer = await client.ask(of(APP))
    problem(answer, "connect_refused", 502)
    assert told(answer)["access-control-allow-origin"] == APP
    assert told(answer)["access-control-allow-credentials"] == b"true"
    assert varies(answer) == [b"origin"]
    large = (
        b"POST / HTTP/1.1\r\nHost: a.test\r\nOrigin: %b\r\nContent-Length: 9\r\n\r\n123456789" % APP
    )
    answer = await client.ask(large)
    problem(answer, "body_too_large", 413)
    assert told(answer)["access-control-allow-origin"] == APP


async def test_answers_that_the_route_makes_itself_have_the_fields(
    gateway: MakeGateway, raw: MakeClient
) -> None:
    routes = [{"path": "/r", "respond": {"status": 200, "body": "x"}, "cors": CORS},
              {"path": "/go", "redirect": "https://a.test/", "cors": CORS}]  # fmt: skip
    client = await raw(await gateway({"routes": routes}))
    for path in (b"/r", b"/go"):
        assert told(await client.ask(of(APP, path))) == {"access-control-allow-origin": APP}
        assert (await client.ask(asks(path=path))).status == 204


async def test_an_intercepted_error_of_the_upstream_has_the_fields_once(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(reply(b"no", status=b"503 No"))
    route = {"cors": CORS, "errors": {"intercept": [503]}}
    client = await raw(await gateway(up, route=route))
    answer = await client.ask(of(APP))
    assert answer.status == 503
    assert told(answer) == {"access-control-allow-origin": APP}


async def test_the_same_head_again_and_another_origin_between_are_told_apart(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(OK)
    cors = {"origins": ["https://a.test", "https://b.test"]}
    client = await raw(await gateway(up, route={"cors": cors}))
    for page in (
        b"https://a.test",
        b"https://a.test",
        b"https://b.test",
        b"https://c.test",
        b"https://a.test",
    ):
        found = told(await client.ask(of(page))).get("access-control-allow-origin")
        assert found == (page if page != b"https://c.test" else None)
    assert len(up.connections) == 1


async def test_a_page_can_read_what_a_service_of_ones_own_says_instead_of_401(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up, service = await origin(), await origin(reply(b"log in", status=b"403 No"))
    route = {"cors": CORS, "security_headers": "basic", "auth": "sso"}
    auth = {"sso": {"forward_auth": {"url": f"{service.url}/check"}}}
    client = await raw(await gateway(up, route=route, auth=auth))
    answer = await client.ask(of(APP))
    assert (answer.status, answer.body) == (403, b"log in")
    assert told(answer) == {"access-control-allow-origin": APP}
    assert answer.all("x-content-type-options") == [b"nosniff"]
    assert up.requests == []


async def test_a_preflight_counts_against_no_limit_and_a_page_can_read_a_429(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    cors = {**CORS, "expose": ["Retry-After", "RateLimit"]}
    client = await raw(await gateway(up, route={"cors": cors, "rate_limit": "1/h per client_ip"}))
    for _ in range(3):
        assert (await client.ask(asks())).status == 204
    assert (await client.ask(of(APP))).status == 200
    answer = await client.ask(of(APP))
    problem(answer, "rate_limited", 429)
    assert told(answer)["access-control-allow-origin"] == APP
    assert answer.get("retry-after") is not None
    assert (await client.ask(asks())).status == 204


async def test_an_address_that_may_not_come_in_is_refused_before_a_preflight_is_answered(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    route = {"cors": CORS, "allow": {"deny_ip": ["127.0.0.0/8"]}}
    client = await raw(await gateway(up, route=route))
    problem(await client.ask(asks()), "ip_denied", 403)
