"""`allow`, `forward_credentials` and what is limited by consumer, through a whole gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conformance.conftest import get, problem
from tests.kit.clock import FakeClock
from tests.kit.guarded import Guarded
from tests.kit.issuer import Issuer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Peer

SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


@pytest.fixture
async def guarded(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> AsyncIterator[Guarded]:
    async with Issuer(FakeClock()) as issuer:
        yield Guarded(issuer, origin, gateway, raw)


RULES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"scopes": ["orders", "read"]}, {"scope": "read orders more"}, {"scope": "orders"}),
    ({"claims": {"role": "admin"}}, {"role": "admin"}, {"role": "user"}),
    ({"claims": {"plan": ["free", "pro"]}}, {"plan": "pro"}, {"plan": "gold"}),
    ({"claims": {"roles": {"contains": "ops"}}}, {"roles": ["dev", "ops"]}, {"roles": ["opsx"]}),
    ({"consumers": ["ann"]}, {"sub": "ann"}, {"sub": "bob"}),
    ({"groups": ["staff"]}, {"groups": ["x", "staff"]}, {"groups": []}),
]


@pytest.mark.parametrize(("rules", "good", "bad"), RULES)
async def test_who_is_known_must_be_allowed_too(
    guarded: Guarded, rules: dict[str, Any], good: dict[str, Any], bad: dict[str, Any]
) -> None:
    await guarded.start(route={"allow": rules})
    await guarded.accepted(guarded.issuer.sign(**good))
    answer = await guarded.ask(guarded.issuer.sign(**bad))
    problem(answer, "forbidden", 403)
    for word in (*rules, *map(str, rules.values())):
        assert word.encode() not in answer.raw
    assert len(guarded.up.requests) == 1
    assert guarded.counted("forbidden") == 1
    problem(await guarded.ask(None), "unauthenticated", 401)


@pytest.mark.parametrize(("rules", "good", "bad"), RULES)
async def test_in_report_mode_all_pass_and_who_would_not_have_is_counted(
    guarded: Guarded, rules: dict[str, Any], good: dict[str, Any], bad: dict[str, Any]
) -> None:
    await guarded.start(route={"allow": {**rules, "mode": "report"}})
    await guarded.accepted(guarded.issuer.sign(**good))
    assert guarded.counted("would_deny") == 0
    await guarded.accepted(guarded.issuer.sign(**bad))
    assert guarded.counted("would_deny") == 1


async def test_an_address_is_judged_before_anybody_is_asked_who_it_is(guarded: Guarded) -> None:
    await guarded.start(route={"allow": {"ip": ["192.0.2.0/24"]}})
    answer = await guarded.ask(guarded.issuer.sign())
    problem(answer, "ip_denied", 403)
    assert answer.get("www-authenticate") is None
    assert guarded.issuer.asked == {}
    assert guarded.counted("forbidden", "_address") == 1


async def test_a_denied_address_is_the_one_behind_a_trusted_proxy(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    route = {"allow": {"ip": ["10.0.0.0/8"], "deny_ip": ["10.66.0.0/16", "2001:db8::/32"]}}
    running = await gateway(up, route=route, server={"trusted_proxies": ["127.0.0.1"]})
    client = await raw(running)
    for address, status in [
        (b"10.1.2.3", 200),
        (b"10.66.1.1", 403),
        (b"::ffff:10.66.1.1", 403),
        (b"11.0.0.1", 403),
        (b"2001:db8::1", 403),
        (b"10.66.1.1, 10.1.2.3", 200),  # what stands before the first untrusted one is hearsay
    ]:
        assert (await client.ask(get(b"/", b"X-Forwarded-For: " + address))).status == status
    untrusted = await gateway(up, route=route)
    answer = await (await raw(untrusted)).ask(get(b"/", b"X-Forwarded-For: 10.1.2.3"))
    problem(answer, "ip_denied", 403)


async def test_credentials_go_on_only_where_the_route_says_so(guarded: Guarded) -> None:
    await guarded.start(
        route={"forward_credentials": True}, forward={"X-User": "{claim.sub}"}, audience="api"
    )
    token = guarded.issuer.sign()
    await guarded.accepted(token, b"X-User: root")
    assert guarded.up.only.get("authorization") == b"Bearer " + token.encode()
    assert guarded.up.only.all("x-user") == [b"ann"]


async def test_a_public_route_does_not_pass_on_what_only_identities_write(
    guarded: Guarded, raw: MakeClient, gateway: MakeGateway, origin: MakeOrigin
) -> None:
    up = await origin()
    running = await gateway(
        {
            "auth": {"staff": guarded.settings(forward={"X-User": "{claim.sub}"})},
            "routes": [
                {"name": "open", "path": "/open", "to": up.url},
                {"name": "shut", "path": "/shut", "to": up.url, "auth": "staff"},
            ],
        },
        clock=guarded.clock,
    )
    client = await raw(running)
    forged = (b"X-User: root", b"x-uSeR: root", b"X_User: root")
    assert (await client.ask(get(b"/open", *forged))).status == 200
    assert b"root" not in up.only.raw
    assert (await client.ask(get(b"/open", b"Connection: X-User", *forged))).status == 200
    assert b"root" not in up.requests[-1].raw
    token = guarded.issuer.sign().encode()
    shut = get(b"/shut", b"Authorization: Bearer " + token, b"Connection: X-User", *forged)
    assert (await client.ask(shut)).status == 200
    assert up.requests[-1].all("x-user") == [b"ann"]


async def test_a_consumer_has_so_many_websockets(
    guarded: Guarded, origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def switch(peer: Peer) -> None:
        await peer.head()
        await peer.send(SWITCHED)
        await peer.rest()

    up = await origin(switch)
    running = await gateway(
        up,
        clock=guarded.clock,
        auth={"staff": guarded.settings()},
        route={"auth": "staff", "websocket": {"per_consumer": 2}},
    )

    def opening(name: str) -> bytes:
        token = b"Authorization: Bearer " + guarded.issuer.sign(sub=name).encode()
        return get(b"/", token, b"Upgrade: websocket", b"Connection: Upgrade",
                   b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")  # fmt: skip

    clients = [await raw(running) for _ in range(4)]
    for client in clients[:2]:
        await client.send(opening("ann"))
        assert (await client.head()).status == 101
    problem(await clients[2].ask(opening("ann")), "too_many_connections", 503)
    await clients[3].send(opening("bob"))
    assert (await clients[3].head()).status == 101
    clients[0].close()
    await running.eventually("gateway_websockets_in_flight", 2)
    again = await raw(running)
    await again.send(opening("ann"))
    assert (await again.head()).status == 101


async def test_a_refusal_is_explained_in_the_log_and_to_nobody_else(guarded: Guarded) -> None:
    await guarded.start(
        {"staff": guarded.settings(), "keys": {"jwt": {"issuer": "x", "secret": "s" * 32}}},
        route={"allow": {"scopes": ["read"]}, "errors": {"expose_reason": True}},
    )
    for token in (None, guarded.issuer.sign(exp=1), guarded.issuer.sign()):
        answer = await guarded.ask(token)
        assert answer.status in (401, 403)
        assert b"detail" not in answer.body
    told = [line["detail"] for line in await guarded.running.log(3)]
    assert told[0] == "no credentials"
    assert told[1].startswith("staff: ")
    assert "expired" in told[1]
    assert told[2] == "ann: scope read is missing"
