"""Signed requests and webhooks, through a whole gateway: what goes upstream, what is refused, and how it is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.auth import signing
from tests.auth.signing import SECRET, WEBHOOK_SECRET, lines
from tests.e2e.conformance.conftest import get, post, problem
from tests.kit.origin import chunk

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.running import Running

BODY = b'{"id": "evt_1", "text": "\xc3\xa9\x00\r\n"}'
SCHEMES: dict[str, Any] = {
    "standard-webhooks": signing.standard,
    "github": lambda body, at: signing.github(body),
    "stripe": signing.stripe,
    "request": signing.request,
}
each = pytest.mark.parametrize("scheme", SCHEMES)


def signed(scheme: str, **settings: Any) -> dict[str, Any]:
    secret = WEBHOOK_SECRET if scheme == "standard-webhooks" else SECRET
    return {"hooks": {"hmac": {"scheme": scheme, "secret": secret, **settings}}}


def fields(scheme: str, running: Running, body: bytes = BODY, **more: Any) -> list[bytes]:
    return lines(SCHEMES[scheme](body, running.clock.wall(), **more))


@each
async def test_a_signed_body_goes_upstream_byte_for_byte(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, scheme: str
) -> None:
    up = await origin()
    route = {"auth": "hooks", "headers": {"request": {"set": {"X-Consumer": "{consumer}"}}}}
    running = await gateway(up, route=route, auth=signed(scheme))
    client = await raw(running)
    sent = fields(scheme, running)
    answer = await client.ask(post(*sent, body=BODY))
    assert (answer.status, answer.body) == (200, b"ok")
    assert up.only.body == BODY
    assert up.only.get("content-length") == b"%d" % len(BODY)
    assert up.only.get("x-consumer") == b"hooks"
    await running.eventually("gateway_auth_decisions_total", 1, policy="hooks", outcome="ok")
    line = (await running.log())[0]
    assert line["bytes_in"] == len(BODY)


@each
async def test_another_body_does_not_reach_the_upstream(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, scheme: str
) -> None:
    up = await origin()
    running = await gateway(up, route={"auth": "hooks"}, auth=signed(scheme))
    client = await raw(running)
    answer = await client.ask(post(*fields(scheme, running), body=BODY + b" "))
    problem(answer, "unauthenticated", 401)
    assert answer.all("www-authenticate") == [b"Signature"]
    assert b"bad_signature" not in answer.raw, "a stranger is not told why"
    assert up.requests == []
    await running.eventually(
        "gateway_auth_decisions_total", 1, policy="hooks", outcome="bad_signature"
    )
    assert (await client.ask(post(*fields(scheme, running), body=BODY))).status == 200


@each
async def test_a_body_in_chunks_and_in_pieces_is_read_whole_and_stays_chunked(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, scheme: str
) -> None:
    up = await origin()
    running = await gateway(up, route={"auth": "hooks"}, auth=signed(scheme))
    client = await raw(running)
    sent = fields(scheme, running)
    await client.send(post(*sent, b"Transfer-Encoding: chunked", body=None))
    for start in range(0, len(BODY), 7):
        await client.send(chunk(BODY[start : start + 7]))
    assert up.requests == []
    await client.send(b"0\r\n\r\n")
    assert (await client.response()).status == 200
    assert (up.only.body, up.only.framing) == (BODY, "chunked")


async def test_a_webhooks_signature_goes_on_and_our_own_does_not(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    auth = {**signed("request"), "github": signed("github")["hooks"]}
    routes = [
        {"path": "/own", "to": up.url, "auth": "hooks"},
        {"path": "/hub", "to": up.url, "auth": "github"},
    ]
    running = await gateway({"routes": routes}, auth=auth)
    client = await raw(running)
    own = fields("request", running, target="/own")
    assert (await client.ask(post(*own, body=BODY, target=b"/own"))).status == 200
    assert up.requests[-1].get("x-signature") is None
    hub = fields("github", running)
    assert (await client.ask(post(*hub, body=BODY, target=b"/hub"))).status == 200
    assert up.requests[-1].get("x-hub-signature-256") is not None


async def test_a_request_without_a_body_is_signed_too(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, route={"auth": "hooks"}, auth=signed("request"))
    client = await raw(running)
    for number, target in enumerate(("/a?x=1", "/a?x=1", "/%41?", "/")):
        own = fields("request", running, b"", method="GET", target=target, nonce=f"n{number}")
        assert (await client.ask(get(target.encode(), *own))).status == 200
        assert up.requests[-1].target == target.encode()
    own = fields("request", running, b"", method="GET", target="/b")
    problem(await client.ask(get(b"/a", *own)), "unauthenticated", 401)


async def test_a_path_that_was_resolved_is_signed_as_it_was_sent(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    routes = [{"path": "/a/*", "to": up.url, "auth": "hooks"}, {"path": "/b/*", "respond": 200}]
    server = {"ambiguous_paths": "resolve"}
    running = await gateway({"routes": routes}, auth=signed("request"), server=server)
    client = await raw(running)
    own = fields("request", running, b"", method="GET", target="/b/../a/x?y=1")
    assert (await client.ask(get(b"/b/../a/x?y=1", *own))).status == 200
    assert up.only.target == b"/a/x?y=1"


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "github"])
async def test_a_signature_is_used_once_and_grows_old(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, scheme: str
) -> None:
    up = await origin()
    running = await gateway(up, route={"auth": "hooks"}, auth=signed(scheme, tolerance="1m"))
    client = await raw(running)
    sent, later = fields(scheme, running), fields(scheme, running, b"later")
    assert (await client.ask(post(*sent, body=BODY))).status == 200
    problem(await client.ask(post(*sent, body=BODY)), "unauthenticated", 401)
    running.clock.advance(62)
    problem(await client.ask(post(*later, body=b"later")), "unauthenticated", 401)
    assert len(up.requests) == 1
    await running.eventually("gateway_auth_decisions_total", 2, policy="hooks", outcome="expired")


async def test_what_was_seen_is_remembered_over_a_reload(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, route={"auth": "hooks"}, auth=signed("stripe"))
    client = await raw(running)
    sent = fields("stripe", running)
    assert (await client.ask(post(*sent, body=BODY))).status == 200
    await running.gateway.reload(running.gateway.snapshot.config)
    problem(await client.ask(post(*sent, body=BODY)), "unauthenticated", 401)


async def test_secrets_rotate(origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient) -> None:
    up = await origin()
    auth = {"hooks": {"hmac": {"scheme": "stripe", "secret": ["the new one", SECRET]}}}
    running = await gateway(up, route={"auth": "hooks"}, auth=auth)
    client = await raw(running)
    for number, (secret, status) in enumerate(
        ((SECRET, 200), ("the new one", 200), ("the oldest", 401))
    ):
        body = b"%d" % number
        sent = fields("stripe", running, body, secret=secret)
        assert (await client.ask(post(*sent, body=body))).status == status
    both = signing.stripe(BODY, running.clock.wall())[0][1].partition(",")[2]
    sent = fields("stripe", running, secret="the new one")
    sent = [sent[0] + b"," + both.encode()]
    assert [(await client.ask(post(*sent, body=BODY))).status for _ in range(2)] == [200, 401]


async def test_a_body_beyond_the_limit_is_413_and_one_up_to_it_passes(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, route={"auth": "hooks"}, auth=signed("github", max_body="100KiB"))
    most = b"x" * 100 * 1024
    for body, status in ((most, 200), (most + b"x", 413)):
        for chunked in (False, True):
            client = await raw(running)
            sent = fields("github", running, body)
            if chunked:
                framed = (
                    post(*sent, b"Transfer-Encoding: chunked", body=None)
                    + chunk(body)
                    + b"0\r\n\r\n"
                )
            else:
                framed = post(*sent, body=body)
            answer = await client.ask(framed)
            assert (len(body), chunked, answer.status) == (len(body), chunked, status)
            if status == 413:
                problem(answer, "body_too_large", 413)
    assert [len(one.body) for one in up.requests] == [len(most)] * 2


async def test_who_waits_for_100_continue_is_asked_only_where_the_head_is_good(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, route={"auth": "hooks"}, auth=signed("stripe", tolerance="1m"))
    client = await raw(running)
    sent = fields("stripe", running)
    head = post(*sent, b"Expect: 100-continue", b"Content-Length: %d" % len(BODY), body=None)
    await client.send(head)
    assert (await client.head()).status == 100
    await client.send(BODY)
    assert (await client.response()).status == 200
    assert up.only.body == BODY
    running.clock.advance(100)
    answer = await (client := await raw(running)).ask(head)
    assert (answer.status, answer.interim) == (401, [])


async def test_one_of_several_policies_may_be_a_signature(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    auth = {"stripe": signed("stripe")["hooks"], "hub": signed("github")["hooks"]}
    route = {
        "auth": ["stripe", "hub"],
        "headers": {"request": {"set": {"X-Consumer": "{consumer}"}}},
    }
    running = await gateway(up, route=route, auth=auth)
    client = await raw(running)
    for scheme, consumer in (("github", b"hub"), ("stripe", b"stripe")):
        assert (await client.ask(post(*fields(scheme, running), body=BODY))).status == 200
        assert up.requests[-1].get("x-consumer") == consumer
    wrong = [b"Stripe-Signature: t=1,v1=00", *fields("github", running)]
    assert (await client.ask(post(*wrong, body=BODY))).status == 200, "the other knows it"


async def test_a_signed_body_is_sent_once_more_where_that_is_safe(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    gone, up = await origin(), await origin()
    await gone.refuse()
    upstream = {"targets": [gone.url, up.url], "balance": "round_robin"}
    running = await gateway(up, route={"auth": "hooks"}, upstream=upstream, auth=signed("github"))
    client = await raw(running)
    for _ in range(2):
        assert (await client.ask(post(*fields("github", running), body=BODY))).status == 200
    assert [one.body for one in up.requests] == [BODY, BODY]


async def test_a_page_can_read_why_it_was_not_let_in(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    page = "https://app.example.com"
    running = await gateway(up, route={"auth": "hooks", "cors": page}, auth=signed("request"))
    client = await raw(running)
    answer = await client.ask(get(b"/", b"Origin: " + page.encode()))
    problem(answer, "unauthenticated", 401)
    assert answer.get("access-control-allow-origin") == page.encode()
    asks = b"OPTIONS / HTTP/1.1\r\nHost: a.test\r\nOrigin: %b\r\nAccess-Control-Request-Method: GET\r\n\r\n"
    assert (await client.ask(asks % page.encode())).status == 204, "no credentials are asked for"
    assert (await client.ask(asks % b"https://evil.test")).status == 403
    assert up.requests == []


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_copy_of_a_signed_request_has_its_body(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, chunked: bool
) -> None:
    up, other = await origin(), await origin()
    upstreams = {"up": {"targets": [up.url]}, "other": {"targets": [other.url]}}
    route = {"path": "/*", "to": "up", "auth": "hooks", "mirror": {"upstream": "other"}}
    running = await gateway({"routes": [route], "upstreams": upstreams}, auth=signed("github"))
    client = await raw(running)
    sent = fields("github", running)
    if chunked:
        await client.send(post(*sent, b"Transfer-Encoding: chunked", body=None), chunk(BODY))
        await client.send(b"0\r\n\r\n")
    else:
        await client.send(post(*sent, body=BODY)[: -len(BODY)])
        await client.send(BODY)
    assert (await client.response()).status == 200
    await running.eventually("gateway_mirror_requests_total", 1, result="match")
    assert (up.only.body, other.only.body) == (BODY, BODY)


async def test_a_signed_request_goes_to_either_branch_of_a_split_with_its_body(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    one, two = await origin(), await origin()
    upstreams = {
        "one": {"targets": [one.url]},
        "two": {"targets": [two.url], "timeouts": {"total": "9s"}},
    }
    split = [{"upstream": "one", "weight": 1}, {"upstream": "two", "weight": 1}]
    route = {"path": "/*", "split": split, "auth": "hooks"}
    running = await gateway({"routes": [route], "upstreams": upstreams}, auth=signed("github"))
    client = await raw(running)
    for _ in range(20):
        assert (await client.ask(post(*fields("github", running), body=BODY))).status == 200
    assert one.requests
    assert two.requests
    assert {each.body for each in (*one.requests, *two.requests)} == {BODY}
