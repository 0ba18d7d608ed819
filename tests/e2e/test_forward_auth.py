"""`forward_auth`, through a whole gateway: what a service is asked, and what its word does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conformance.conftest import get, post, problem
from tests.kit.origin import chunk, reply

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin, Peer

YES = reply(b"", b"X-User: ann", b"X-Groups: ops,Domain Users", b"X-Secret: no")


def configuration(service: Origin, up: Origin, **settings: Any) -> dict[str, Any]:
    asks = {
        "url": f"{service.url}/check",
        "copy": ["X-User", "X-Groups"],
        "timeout": "500ms",
        **settings,
    }
    return {
        "auth": {"sso": {"forward_auth": asks}},
        "routes": [
            {"name": "app", "path": "/app/*", "to": up.url, "auth": "sso"},
            {"name": "open", "path": "/open/*", "to": up.url},
        ],
    }


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.rest()


# ── what is asked, and what is passed on ──


async def test_the_service_is_told_what_is_asked_and_the_fields_that_are_listed(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    service, up = await origin(YES), await origin()
    config = configuration(service, up, send=["authorization", "cookie", "x-tenant"])
    client = await raw(await gateway(config))
    fields = (b"Authorization: Bearer t", b"Cookie: a=1; b=2", b"X-Tenant: one", b"X-Other: no")
    forged = (b"X-Forwarded-Method: GET", b"X-Forwarded-Uri: /open/", b"X-Forwarded-For: 9.9.9.9")
    answer = await client.ask(post(*fields, *forged, body=b"abc", target=b"/app/a%2Fb?x=1&y=%20"))
    assert answer.status == 200
    asked = service.only
    assert asked.head.startswith(b"GET /check HTTP/1.1\r\n")
    told = {
        "x-forwarded-method": b"POST",
        "x-forwarded-proto": b"http",
        "x-forwarded-uri": b"/app/a%2Fb?x=1&y=%20",
        "x-forwarded-for": b"127.0.0.1",
        "x-forwarded-host": b"a.test",
        "authorization": b"Bearer t",
        "cookie": b"a=1; b=2",
        "x-tenant": b"one",
    }
    assert {name: asked.all(name) for name in told} == {name: [text] for name, text in told.items()}
    assert asked.get("x-other") is None
    assert asked.body == b""


async def test_the_listed_fields_of_its_answer_go_on_and_no_others(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    service, up = await origin(YES), await origin()
    client = await raw(await gateway(configuration(service, up)))
    await client.ask(get(b"/app/", b"Authorization: Bearer t", b"Cookie: a=1"))
    assert up.only.all("x-user") == [b"ann"]
    assert up.only.all("x-groups") == [b"ops,Domain Users"]
    assert up.only.get("x-secret") is None
    assert up.only.get("authorization") is None  # a credential, that was for the service
    assert up.only.get("cookie") == b"a=1"  # which of them is one, only the service knows


async def test_it_may_give_the_upstream_a_credential_in_place_of_the_clients(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    service, up = await origin(reply(b"", b"Authorization: Bearer inside")), await origin()
    client = await raw(await gateway(configuration(service, up, copy=["Authorization"])))
    assert (await client.ask(get(b"/app/", b"Authorization: Bearer outside"))).status == 200
    assert service.only.get("authorization") == b"Bearer outside"
    assert up.only.all("authorization") == [b"Bearer inside"]


async def test_where_credentials_are_forwarded_the_upstream_gets_them_too(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    service, up = await origin(YES), await origin()
    config = configuration(service, up)
    config["routes"][0]["forward_credentials"] = True
    client = await raw(await gateway(config))
    await client.ask(get(b"/app/", b"Authorization: Bearer t", b"X-User: root"))
    assert up.only.get("authorization") == b"Bearer t"
    assert up.only.all("x-user") == [b"ann"]


async def test_what_it_says_is_who_that_is(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    service, up = await origin(YES), await origin()
    config = configuration(
        service,
        up,
        consumer="{claim.x-user}",
        groups="{claim.x-groups}",
        forward={"X-Who": "{consumer}!"},
    )
    config["routes"][0]["allow"] = {"consumers": ["ann"], "groups": ["Domain Users"]}
    running = await gateway(config)
    client = await raw(running)
    assert (await client.ask(get(b"/app/"))).status == 200
    assert up.only.get("x-who") == b"ann!"
    assert (await running.log())[0]["consumer"] == "ann"
    assert running.metric("gateway_auth_decisions_total", policy="sso", outcome="ok") == 1


@pytest.mark.parametrize("path", [b"/app/", b"/open/"])
async def test_what_a_client_writes_itself_in_copied_fields_never_passes(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, path: bytes
) -> None:
    service, up = await origin(reply(b"")), await origin()
    client = await raw(await gateway(configuration(service, up)))
    forged = (b"X-User: root", b"x-groups: admin", b"X-GROUPS: admin", b"Connection: x-user")
    assert (await client.ask(get(path, *forged))).status == 200
    assert up.only.get("x-user") is None
    assert up.only.get("x-groups") is None


async def test_a_cookie_that_the_service_sets_goes_to_the_client(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    service = await origin(reply(b"", b"Set-Cookie: s=new; Path=/", b"X-User: ann"))
    client = await raw(await gateway(configuration(service, await origin(), cache="10s")))
    for _ in range(2):  # and nobody else's
        answer = await client.ask(get(b"/app/"))
        assert answer.all("set-cookie") == [b"s=new; Path=/"]
    assert len(service.requests) == 2


# ── refusals ──


@pytest.mark.parametrize(
    ("status", "lines"),
    [
        (b"401 Unauthorized", (b'WWW-Authenticate: Bearer realm="x"',)),
        (b"403 Forbidden", ()),
        (b"302 Found", (b"Location: https://sso.test/login?rd=%2Fapp", b"Set-Cookie: n=1; Secure")),
        (b"307 Temporary Redirect", (b"Location: /login",)),
    ],
)
async def test_its_refusal_is_the_clients_answer(
    origin: MakeOrigin,
    gateway: MakeGateway,
    raw: MakeClient,
    status: bytes,
    lines: tuple[bytes, ...],
) -> None:
    up = await origin()
    said = reply(
        b"<h1>no</h1>", *lines, b"Content-Type: text/html", b"X-Internal: 1", status=status
    )
    running = await gateway(configuration(await origin(said), up))
    answer = await (await raw(running)).ask(get(b"/app/"))
    assert answer.status == int(status[:3])
    assert answer.body == b"<h1>no</h1>"
    assert answer.get("content-type") == b"text/html"
    assert answer.get("x-internal") is None
    assert answer.get("cache-control") == b"no-store"
    for line in lines:
        name, _, value = line.partition(b": ")
        assert answer.get(name.decode()) == value
    assert not up.requests
    assert running.metric("gateway_auth_decisions_total", policy="sso", outcome="forbidden") == 1


async def test_a_refusal_of_a_head_request_has_no_body(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    service = await origin(reply(b"no", status=b"403 Forbidden"))
    client = await raw(await gateway(configuration(service, await origin())))
    answer = await client.ask(get(b"/app/").replace(b"GET", b"HEAD", 1), method="HEAD")
    assert (answer.status, answer.get("content-length"), answer.body) == (403, b"2", b"")
    assert (await client.ask(get(b"/app/"))).status == 403


@pytest.mark.parametrize("on_error", ["deny", "allow"])
@pytest.mark.parametrize("length", [True, False])
async def test_a_refusal_that_is_too_large_is_503_and_never_a_yes(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, on_error: str, *, length: bool
) -> None:
    up = await origin()
    said = reply(b"x" * 70_000, b"Connection: close", status=b"403 Forbidden", length=length)

    async def speak(peer: Peer) -> None:
        await peer.request()
        await peer.send(said)
        peer.close()

    running = await gateway(configuration(await origin(speak), up, on_error=on_error))
    problem(await (await raw(running)).ask(get(b"/app/")), "auth_unavailable", 503)
    assert not up.requests


# ── no word at all ──


def failing(how: str) -> Any:
    if how == "silent":
        return silent
    if how == "500":
        return reply(b"oops", status=b"500 Internal Server Error")
    if how == "garbage":
        return b"SSH-2.0-x\r\n\r\n"

    async def end(peer: Peer) -> None:
        await peer.request()
        peer.close()

    return end


@pytest.mark.parametrize("how", ["silent", "500", "garbage", "ends", "refuses"])
@pytest.mark.parametrize("on_error", ["deny", "allow"])
async def test_without_its_word_on_error_decides(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, how: str, on_error: str
) -> None:
    service, up = await origin(failing(how)), await origin()
    config = configuration(service, up, on_error=on_error, cache="10s")
    if how == "refuses":
        await service.aclose()
    running = await gateway(config)
    client = await raw(running)
    for count in (1, 2):  # nothing of it is kept
        answer = await client.ask(get(b"/app/", b"X-User: root", b"Cookie: a=1"))
        if on_error == "deny":
            problem(answer, "auth_unavailable", 503)
        else:
            assert answer.status == 200
        outcome = {"policy": "sso", "outcome": "provider_error"}
        assert running.metric("gateway_auth_decisions_total", **outcome) == count
    assert len(up.requests) == (0 if on_error == "deny" else 2)
    for request in up.requests:
        assert request.get("x-user") is None


@pytest.mark.parametrize(
    "status", [b"400 Bad Request", b"404 Not Found", b"431 Too Large", b"429 No"]
)
async def test_what_a_client_may_have_caused_is_no_failure_of_the_service(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, status: bytes
) -> None:
    up = await origin()
    running = await gateway(configuration(await origin(reply(status=status)), up, on_error="allow"))
    problem(await (await raw(running)).ask(get(b"/app/")), "auth_unavailable", 503)
    assert not up.requests


async def test_a_refusal_that_stalls_is_no_yes(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def stall(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 10\r\n\r\nno")
        await peer.rest()

    up = await origin()
    running = await gateway(configuration(await origin(stall), up, on_error="allow"))
    problem(await (await raw(running)).ask(get(b"/app/")), "auth_unavailable", 503)
    assert not up.requests


async def test_a_yes_whose_body_stalls_is_a_yes(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def stall(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nX-User: ann\r\n\r\nyes")
        await peer.rest()

    up = await origin()
    client = await raw(await gateway(configuration(await origin(stall), up)))
    assert (await client.ask(get(b"/app/"))).status == 200
    assert up.only.get("x-user") == b"ann"


async def test_a_yes_is_a_yes_however_much_is_behind_it(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    said = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunk(b"x" * 70_000)
        + b"0\r\n\r\n"
    )
    long = reply(b"x" * 70_000)
    client = await raw(
        await gateway(configuration(await origin([said, long, YES]), await origin()))
    )
    for _ in range(3):
        assert (await client.ask(get(b"/app/"))).status == 200


async def test_with_nobody_known_allow_lets_nobody_in_and_limits_know_no_consumer(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    service = await origin(reply(status=b"503 Busy"))
    config = configuration(service, up, on_error="allow", forward={"X-Who": "{consumer}"})
    config["routes"][0] |= {"path": "/app/*"}
    config["routes"].append(
        {
            "name": "strict",
            "path": "/strict/*",
            "to": up.url,
            "auth": "sso",
            "allow": {"consumers": ["ann"]},
        }
    )
    running = await gateway(config)
    client = await raw(running)
    assert (await client.ask(get(b"/app/", b"X-Who: root"))).status == 200
    assert up.only.get("x-who") is None
    problem(await client.ask(get(b"/strict/")), "forbidden", 403)
    lines = await running.log(2)
    assert [line["consumer"] for line in lines] == [None, None]
    assert running.metric("gateway_auth_decisions_total", policy="sso", outcome="ok") == 0


async def test_those_who_wait_for_an_answer_that_does_not_come_wait_once(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    service, up = await origin(silent), await origin()
    running = await gateway(
        configuration(service, up, on_error="allow", cache="10s", timeout="300ms")
    )
    clients = [await raw(running) for _ in range(5)]
    for client in clients:
        await client.send(get(b"/app/"))
    assert [(await client.response()).status for client in clients] == [200] * 5
    assert len(service.requests) == 1
    outcome = {"policy": "sso", "outcome": "provider_error"}
    assert running.metric("gateway_auth_decisions_total", **outcome) == 5


async def test_the_operator_is_told_why_now_and_then_and_the_client_is_not(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    service = await origin(reply(status=b"500 Oops"))
    asked = f"{service.url}/check?key=secret-word"
    running = await gateway(configuration(service, await origin(), url=asked))
    client = await raw(running)
    for _ in range(5):
        answer = await client.ask(get(b"/app/", b"Authorization: Bearer secret-word"))
        assert b"check" not in answer.raw
    running.clock.advance(11)
    await client.ask(get(b"/app/"))
    told = [
        one.why
        for one in running.gateway.metrics.events.select()
        if one.kind == "auth_service_failed"
    ]
    assert told == [
        f"policy sso: {service.url}/check: status 500",
        f"policy sso: {service.url}/check: status 500; 4 more since the last one",
    ]


async def test_a_field_that_can_not_be_sent_on_is_the_clients_fault(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    service, up = await origin(YES), await origin()
    running = await gateway(configuration(service, up, on_error="allow", cache="10s"))
    problem(
        await (await raw(running)).ask(get(b"/app/", b"Cookie: a=\xff\xfe")), "unauthenticated", 401
    )
    assert not service.requests
    assert not up.requests
    assert running.metric("gateway_auth_decisions_total", policy="sso", outcome="malformed") == 1


# ── what is kept ──


async def test_a_yes_is_kept_for_the_very_same_request(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    service, up = await origin(YES), await origin()
    running = await gateway(configuration(service, up, cache="10s"))
    client = await raw(running)
    for _ in range(3):
        await client.ask(get(b"/app/a", b"Cookie: a=1"))
    assert len(service.requests) == 1
    assert len(up.requests) == 3
    running.clock.advance(11)
    await client.ask(get(b"/app/a", b"Cookie: a=1"))
    assert len(service.requests) == 2


@pytest.mark.parametrize(
    "other",
    [
        get(b"/app/b", b"Cookie: a=1"),
        get(b"/app/a?x=1", b"Cookie: a=1"),
        get(b"/app/a", b"Cookie: a=2"),
        get(b"/app/a", b"Cookie: a=1", b"Authorization: x"),
        get(b"/app/a"),
        post(b"Cookie: a=1", body=b"", target=b"/app/a"),
        get(b"/app/a", b"Cookie: a=1").replace(b"a.test", b"other.test"),
    ],
)
async def test_one_requests_verdict_never_serves_another(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, other: bytes
) -> None:
    service, up = await origin([YES, reply(status=b"403 Forbidden")]), await origin()
    client = await raw(await gateway(configuration(service, up, cache="10s")))
    assert (await client.ask(get(b"/app/a", b"Cookie: a=1"))).status == 200
    assert (await client.ask(other)).status == 403
    assert (await client.ask(get(b"/app/a", b"Cookie: a=1"))).status == 200
    assert len(up.requests) == 2


@pytest.mark.parametrize(
    "said",
    [
        reply(b"", b"Cache-Control: private, no-store"),
        reply(status=b"401 Unauthorized"),
        reply(status=b"302 Found").replace(b"\r\n\r\n", b"\r\nLocation: /x\r\n\r\n", 1),
    ],
)
async def test_a_no_and_what_forbids_it_is_not_kept(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, said: bytes
) -> None:
    service = await origin(said)
    client = await raw(await gateway(configuration(service, await origin(), cache="10s")))
    for _ in range(2):
        await client.ask(get(b"/app/"))
    assert len(service.requests) == 2


async def test_requests_that_are_alike_ask_once_at_a_time(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    gate = asyncio.Event()

    async def later(peer: Peer) -> None:
        while True:
            await peer.request()
            await gate.wait()
            await peer.send(YES)

    service, up = await origin(later), await origin()
    running = await gateway(configuration(service, up, cache="10s", timeout="30s"))
    clients = [await raw(running) for _ in range(5)]
    for client in clients:
        await client.send(get(b"/app/", b"Cookie: a=1"))
    await service.wait_for_request()
    await asyncio.sleep(0.1)
    gate.set()
    assert [(await client.response()).status for client in clients] == [200] * 5
    assert len(service.requests) == 1


async def test_an_answer_with_a_cookie_is_for_one_of_those_that_wait_for_it(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    gate = asyncio.Event()
    counted = 0

    async def later(peer: Peer) -> None:
        nonlocal counted
        while True:
            await peer.request()
            await gate.wait()
            counted += 1
            await peer.send(
                reply(b"", b"Location: /in", b"Set-Cookie: n=%d" % counted, status=b"302 Found")
            )

    service = await origin(later)
    running = await gateway(configuration(service, await origin(), cache="10s", timeout="30s"))
    clients = [await raw(running) for _ in range(3)]
    for client in clients:
        await client.send(get(b"/app/"))
    await service.wait_for_request()
    await asyncio.sleep(0.1)
    gate.set()
    cookies = [(await client.response()).get("set-cookie") for client in clients]
    assert len(set(cookies)) == 3


async def test_what_is_kept_is_bounded(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gateway.auth import forward_auth

    monkeypatch.setattr(forward_auth, "KEPT", 5)
    service = await origin(YES)
    client = await raw(await gateway(configuration(service, await origin(), cache="1h")))
    for number in range(20):
        await client.ask(get(b"/app/%d" % number))
    await client.ask(get(b"/app/19"))
    assert len(service.requests) == 20
    await client.ask(get(b"/app/3"))
    assert len(service.requests) == 21


async def test_connections_to_the_service_are_used_again(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    service = await origin([YES, reply(b"no", status=b"403 Forbidden"), reply(b"x" * 500)])
    client = await raw(await gateway(configuration(service, await origin())))
    statuses = [(await client.ask(get(b"/app/"))).status for _ in range(4)]
    assert statuses == [200, 403, 200, 200]
    assert len(service.connections) == 1


# ── beside other policies ──


async def test_where_another_policy_knows_the_client_the_services_refusal_does_not_count(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    no, yes, up = await origin(reply(status=b"401 Unauthorized")), await origin(YES), await origin()
    config = configuration(no, up)
    config["auth"]["other"] = {"forward_auth": {"url": yes.url, "copy": ["X-User"]}}
    config["routes"][0]["auth"] = ["sso", "other"]
    client = await raw(await gateway(config))
    assert (await client.ask(get(b"/app/"))).status == 200
    assert up.only.get("x-user") == b"ann"


async def test_a_field_that_frames_a_message_can_not_be_copied(
    origin: MakeOrigin, gateway: MakeGateway
) -> None:
    one = await origin()
    with pytest.raises(Exception, match="Content-Length"):
        await gateway(configuration(one, one, copy=["Content-Length"]))


@pytest.mark.parametrize(
    "name",
    ["X-Forwarded-Uri", "x-forwarded-for", "Host", "Expect", "Transfer-Encoding", "Content-Length"],
)
async def test_a_field_of_the_question_itself_can_not_be_sent_by_clients_too(
    origin: MakeOrigin, gateway: MakeGateway, name: str
) -> None:
    one = await origin()
    with pytest.raises(Exception, match=f"{name} is made by the gateway"):
        await gateway(configuration(one, one, send=["authorization", name]))


@pytest.mark.parametrize("status", [b"200 OK", b"302 Found", b"401 Unauthorized"])
@pytest.mark.parametrize(
    "field",
    [
        b"X-User: ann\x01",
        b"X-User: ann\x7f",
        b"X-User: ann\x1b[2J",
        b"X-User: ann\rX-Role: admin",
        b"X-User: ann\0",
        b"X-User: " + b"a" * 9000,
        b"Set-Cookie: a=\x0b",
        b"Location: /login?next=" + b"a" * 9000,
    ],
)
async def test_an_answer_that_can_not_be_passed_on_is_no_yes_and_no_failure(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, field: bytes, status: bytes
) -> None:
    service = await origin(reply(b"", field, b"Location: /login", status=status))
    up = await origin()
    client = await raw(await gateway(configuration(service, up, on_error="allow")))
    answer = await client.ask(get(b"/app/"))
    problem(answer, "auth_unavailable", 503)
    assert not up.requests
