"""`rate_limit`, through a whole gateway: who is let in, what clients are told, what is counted."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conformance.conftest import get, problem
from tests.kit.clock import StillClock
from tests.kit.origin import reply

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Peer
    from tests.kit.raw import Client
    from tests.kit.running import Running

TRUSTED = {"trusted_proxies": ["127.0.0.0/8"]}
FAIR = {"fair": {"rate": "3/m"}}


@pytest.fixture
def gateway(gateway: MakeGateway) -> MakeGateway:
    """Gateways for which no time passes by itself, so that seconds can be told exactly."""

    async def make(config: Any, **sections: Any) -> Running:
        return await gateway(config, clock=StillClock(), **sections)

    return make


async def statuses(client: Client, times: int, *lines: bytes, path: bytes = b"/") -> list[int]:
    return [(await client.ask(get(path, *lines))).status for _ in range(times)]


def from_(address: str) -> bytes:
    return b"X-Forwarded-For: " + address.encode()


async def test_beyond_the_rate_a_request_is_429_and_the_upstream_never_sees_it(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, route={"rate_limit": "3/m per client_ip"})
    client = await raw(running)
    assert await statuses(client, 3) == [200, 200, 200]
    refused = await client.ask(get(b"/"))
    assert refused.status == 429
    problem(refused, "rate_limited", 429)
    assert refused.get("retry-after") == b"20"
    assert len(up.requests) == 3
    [*_, line] = await running.log(4)
    assert line["reason"] == "rate_limited"
    running.clock.advance(20)
    assert await statuses(await raw(running), 2) == [200, 429]


async def test_what_is_left_is_told_with_every_answer(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(
        up, rate_limits={"fair": {"rate": "2/m", "burst": 3}}, route={"rate_limit": "fair"}
    )
    client = await raw(running)
    told = [await client.ask(get(b"/")) for _ in range(4)]
    assert [one.all("ratelimit-policy") for one in told] == [[b'"fair";q=2;w=60']] * 4
    assert [one.all("ratelimit") for one in told] == [
        *([b'"fair";r=2;t=30'], [b'"fair";r=1;t=60'], [b'"fair";r=0;t=90']),
        [b'"fair";r=0;t=30'],
    ]
    assert [one.get("retry-after") for one in told] == [None, None, None, b"30"]


async def test_what_an_upstream_says_of_its_own_limits_stays(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(reply(b"ok", b'RateLimit: "own";r=1;t=2'))
    client = await raw(await gateway(up, route={"rate_limit": "3/m"}))
    told = await client.ask(get(b"/"))
    assert told.all("ratelimit") == [b'"own";r=1;t=2', b'"all";r=2;t=20']


async def test_answers_of_the_gateway_itself_tell_it_too(
    gateway: MakeGateway, raw: MakeClient
) -> None:
    route = {"name": "here", "path": "/*", "respond": {"body": "hi"}, "rate_limit": "2/s"}
    client = await raw(await gateway({"routes": [route]}))
    told = await client.ask(get(b"/"))
    assert (told.status, told.get("ratelimit")) == (200, b'"here";r=1;t=1')


async def test_a_limit_with_a_name_is_one_for_all_routes_that_use_it(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    routes = [
        {"name": "a", "path": "/a", "to": up.url, "rate_limit": "fair"},
        {"name": "b", "path": "/b", "to": up.url, "rate_limit": "fair"},
        {"name": "c", "path": "/c", "to": up.url, "rate_limit": "3/m"},
    ]
    running = await gateway({"routes": routes, "rate_limits": FAIR})
    client = await raw(running)
    assert await statuses(client, 2, path=b"/a") == [200, 200]
    assert await statuses(client, 2, path=b"/b") == [200, 429]
    assert await statuses(client, 3, path=b"/c") == [200, 200, 200]


async def test_of_several_limits_the_tightest_is_told_and_one_that_denies_takes_nothing_from_the_others(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    limits = {"wide": {"rate": "10/h"}, "narrow": {"rate": "2/m"}}
    running = await gateway(up, rate_limits=limits, route={"rate_limit": ["wide", "narrow"]})
    client = await raw(running)
    first = await client.ask(get(b"/"))
    assert first.get("ratelimit-policy") == b'"wide";q=10;w=3600, "narrow";q=2;w=60'
    assert first.get("ratelimit") == b'"narrow";r=1;t=30'
    assert await statuses(client, 21) == [200, *[429] * 20]
    refused = await client.ask(get(b"/"))
    assert (refused.get("ratelimit"), refused.get("retry-after")) == (b'"narrow";r=0;t=30', b"30")
    for _ in range(8):
        running.clock.advance(60)
        assert await statuses(await raw(running), 1) == [200]
    running.clock.advance(60)
    said = await (await raw(running)).ask(get(b"/"))
    assert said.status == 200, "two and eight and this one, of ten and those that came back"
    assert (said.get("ratelimit") or b"").startswith(b'"wide";r=0;')
    assert (
        running.metric("gateway_rate_limit_decisions_total", limit="narrow", decision="denied")
        == 21
    )
    assert (
        running.metric("gateway_rate_limit_decisions_total", limit="wide", decision="denied") == 0
    )
    assert (
        running.metric("gateway_rate_limit_decisions_total", limit="wide", decision="allowed") == 11
    )


async def test_clients_are_told_apart_by_address_and_of_ipv6_by_its_network(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, server=TRUSTED, route={"rate_limit": "1/m"})
    client = await raw(running)
    assert await statuses(client, 2, from_("192.0.2.1")) == [200, 429]
    assert await statuses(client, 2, from_("192.0.2.2")) == [200, 429]
    assert await statuses(client, 1, from_("::ffff:192.0.2.2")) == [429]
    assert await statuses(client, 2, from_("2001:db8::1")) == [200, 429]
    assert await statuses(client, 1, from_("2001:db8:0:0:ffff::1")) == [429]
    assert await statuses(client, 1, from_("2001:db8:0:1::1")) == [200]


async def test_a_header_is_a_key_and_without_it_the_address_is(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    limit = {"rate": "1/m", "key": "header.x-tenant"}
    running = await gateway(up, server=TRUSTED, route={"rate_limit": limit})
    client = await raw(running)
    assert await statuses(client, 2, b"X-Tenant: a") == [200, 429]
    assert await statuses(client, 2, b"X-Tenant: b") == [200, 429]
    assert await statuses(client, 2, from_("192.0.2.1")) == [200, 429]
    assert await statuses(client, 1, from_("192.0.2.2")) == [200]


async def test_a_text_is_a_key(origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient) -> None:
    up = await origin()
    limit = {"rate": "1/m", "key": "{client_ip} {query.user}"}
    running = await gateway(up, server=TRUSTED, route={"rate_limit": limit})
    client = await raw(running)
    one, other = from_("192.0.2.1"), from_("192.0.2.2")
    assert await statuses(client, 2, one, path=b"/?user=a") == [200, 429]
    assert await statuses(client, 1, one, path=b"/?user=b") == [200]
    assert await statuses(client, 1, other, path=b"/?user=a") == [200]


async def test_route_is_a_key_of_all_clients_together(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    limit = {"rate": "2/m", "key": "route"}
    client = await raw(await gateway(up, server=TRUSTED, route={"rate_limit": limit}))
    said = [await statuses(client, 1, from_(f"192.0.2.{n}")) for n in range(3)]
    assert said == [[200], [200], [429]]


async def test_a_request_may_cost_more_and_its_cost_may_come_with_it(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    limits = {
        "dear": {"rate": "9/m", "cost": 4},
        "asked": {"rate": "9/m", "cost": "{header.x-cost}"},
    }
    routes = [
        {"name": name, "path": f"/{name}", "to": up.url, "rate_limit": name} for name in limits
    ]
    client = await raw(await gateway({"routes": routes, "rate_limits": limits}))
    assert await statuses(client, 3, path=b"/dear") == [200, 200, 429]
    assert await statuses(client, 1, b"X-Cost: 5", path=b"/asked") == [200]
    assert await statuses(client, 2, b"X-Cost: -100", path=b"/asked") == [200, 200]
    assert await statuses(client, 2, b"X-Cost: 3", path=b"/asked") == [429, 429]
    assert await statuses(client, 3, path=b"/asked") == [200, 200, 429]
    never = await client.ask(get(b"/asked", b"X-Cost: 10"))
    assert (never.status, never.get("retry-after")) == (429, None)


async def test_a_rate_may_come_with_the_request(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    limit = {"rate": "{header.x-plan|2/m}", "key": "header.x-user"}
    client = await raw(await gateway(up, route={"rate_limit": limit}))
    assert await statuses(client, 3, b"X-User: a", b"X-Plan: 1/m") == [200, 429, 429]
    assert await statuses(client, 3, b"X-User: b") == [200, 200, 429]
    assert await statuses(client, 3, b"X-User: c", b"X-Plan: lots") == [200, 200, 429]
    told = await client.ask(get(b"/", b"X-User: d", b"X-Plan: 7/h"))
    assert told.get("ratelimit-policy") == b'"all";q=7;w=3600'


async def test_a_rate_that_nobody_can_tell_lets_nobody_in(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    limit = {"rate": "{header.x-plan}", "key": "client_ip"}
    client = await raw(await gateway(up, route={"rate_limit": limit}))
    assert await statuses(client, 1, b"X-Plan: 1/m") == [200]
    assert await statuses(client, 1, b"X-Plan: lots") == [429]
    assert await statuses(client, 1) == [429]


@pytest.mark.parametrize("store", [False, True])
async def test_in_report_mode_all_pass_and_those_beyond_are_counted(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, store: bool
) -> None:
    up = await origin()
    limit: dict[str, Any] = {"rate": "1/m", "mode": "report"}
    more: dict[str, Any] = {"rate_limits": {"soft": limit}}
    if store:  # one that is not there
        limit["store"] = "gone"
        more["stores"] = {"gone": {"url": "unix:///nowhere.sock", "on_error": "deny"}}
    running = await gateway(up, route={"rate_limit": "soft"}, **more)
    client = await raw(running)
    told = [await client.ask(get(b"/")) for _ in range(3)]
    assert [(one.status, one.get("ratelimit")) for one in told] == [(200, None)] * 3
    beyond = running.metric(
        "gateway_rate_limit_decisions_total", limit="soft", decision="would_deny"
    )
    assert beyond == (0 if store else 2)
    if not store:
        await running.eventually("gateway_would_refuse_total", 2, reason="rate_limited")


@pytest.mark.parametrize(
    ("algorithm", "said"),
    [
        ("gcra", [200, 200, 429, 200, 429]),
        ("token_bucket", [200, 200, 429, 200, 429]),
        ("fixed_window", [200, 200, 429, 200, 200]),
        ("sliding_window", [200, 200, 429, 429, 429]),
    ],
)
async def test_each_algorithm_counts_in_its_way(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, algorithm: str, said: list[int]
) -> None:
    up = await origin()
    limit = {"rate": "2/h", "algorithm": algorithm}
    running = await gateway(up, route={"rate_limit": limit})
    left = 3600 - running.clock.wall() % 3600
    running.clock.advance(left + 1798)
    client = await raw(running)
    found = await statuses(client, 3)
    running.clock.advance(1803)
    assert found + await statuses(await raw(running), 2) == said


async def test_a_monthly_quota_is_back_on_the_first_of_the_month(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    limit = {"rate": "2/month", "algorithm": "fixed_window"}
    running = await gateway(up, route={"rate_limit": limit})
    client = await raw(running)
    assert await statuses(client, 2) == [200, 200]
    refused = await client.ask(get(b"/"))
    assert refused.status == 429
    now = datetime.fromtimestamp(running.clock.wall(), UTC)
    first = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
    wait = int(refused.get("retry-after") or 0)
    assert abs(wait - (first - now).total_seconds()) < 5
    assert refused.get("ratelimit-policy") == b'"all";q=2'
    running.clock.advance(wait)
    assert await statuses(await raw(running), 1) == [200]


async def test_what_was_counted_survives_a_reload_and_a_limit_that_is_gone_is_forgotten(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    routes = [{"name": "all", "path": "/*", "to": up.url, "rate_limit": "fair"}]
    config = {"routes": routes, "rate_limits": FAIR, "listeners": [{"bind": "127.0.0.1:0"}],
              "admin": "off"}  # fmt: skip
    running = await gateway(config)
    client = await raw(running)
    assert await statuses(client, 2) == [200, 200]
    await running.gateway.reload({**config, "rate_limits": {"fair": {"rate": "3/m", "burst": 3}}})
    assert await statuses(client, 2) == [200, 429]
    await running.gateway.reload({**config, "routes": [{**routes[0], "rate_limit": "off"}]})
    assert await statuses(client, 3) == [200, 200, 200]
    await running.gateway.reload(config)
    assert await statuses(client, 4) == [200, 200, 200, 429]


async def test_a_websocket_counts_as_one_request(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def switch(peer: Peer) -> None:
        await peer.head()
        await peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        )
        await peer.rest()

    up = await origin(switch)
    running = await gateway(up, route={"rate_limit": "1/m"})
    ask = get(
        b"/", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )  # fmt: skip
    first, second = await raw(running), await raw(running)
    opened = await first.ask(ask)
    assert (opened.status, opened.get("ratelimit")) == (101, b'"all";r=0;t=60')
    assert (await second.ask(ask)).status == 429
    first.close()


async def test_clients_that_wait_for_an_upstream_take_turns(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    served: list[str] = []
    gate = asyncio.Event()

    async def slow(peer: Peer) -> None:
        while True:
            message = await peer.request()
            served.append((message.get("x-forwarded-for") or b"").decode().partition(",")[0])
            await gate.wait()
            await peer.send(reply())

    up = await origin(slow)
    upstream = {"concurrency": {"per_target": 1, "queue": 10, "queue_timeout": "30s"}}
    running = await gateway(up, server=TRUSTED, upstream=upstream)
    clients = []
    for address in ("192.0.2.1",) * 5 + ("192.0.2.2",) * 2:
        client = await raw(running)
        await client.send(get(b"/", from_(address)))
        clients.append(client)
        await running.eventually("gateway_requests_in_flight", len(clients))
    gate.set()
    for client in clients:
        assert (await client.response()).status == 200
    last = [each.rpartition(".")[2] for each in served]
    assert last == ["1", "1", "2", "1", "2", "1", "1"]


SECRET = "a secret of the test, which is long enough"
STAFF = {
    "staff": {
        "jwt": {"secret": SECRET, "algorithms": ["HS256"], "audience": "api", "consumer": "{claim.sub}"}
    }
}  # fmt: skip


def bearer(**claims: Any) -> bytes:
    import jwt

    claims = {"exp": 4_000_000_000, "aud": "api", **claims}
    return b"Authorization: Bearer " + jwt.encode(claims, SECRET, "HS256").encode()


async def test_consumers_are_counted_apart_and_only_once_it_is_known_who_they_are(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    limits = {
        "plan": {"rate": "{claim.plan_rate|2/d}", "key": "consumer"},
        "door": {"rate": "12/d", "key": "client_ip"},
    }
    route = {"auth": "staff", "rate_limit": ["plan", "door"]}
    running = await gateway(up, auth=STAFF, rate_limits=limits, route=route)
    client = await raw(running)
    ann, bob = bearer(sub="ann"), bearer(sub="bob", plan_rate="4/d")
    assert await statuses(client, 3, ann) == [200, 200, 429]
    assert await statuses(client, 5, bob) == [200, 200, 200, 200, 429]
    told = await client.ask(get(b"/", bob))
    assert told.all("ratelimit-policy") == [b'"door";q=12;w=86400', b'"plan";q=4;w=86400']
    assert told.all("ratelimit") == [b'"plan";r=0;t=21600']
    # Whoever is not known has cost the door only, and soon finds it shut.
    assert await statuses(client, 4) == [401, 401, 401, 429]
    decisions = "gateway_rate_limit_decisions_total"
    assert running.metric(decisions, limit="plan", decision="denied") == 3
    assert running.metric(decisions, limit="door", decision="allowed") == 12
    assert len(up.requests) == 6


async def test_consumers_that_wait_for_an_upstream_take_turns_whatever_their_address(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    served: list[str] = []
    gate = asyncio.Event()

    async def slow(peer: Peer) -> None:
        while True:
            message = await peer.request()
            served.append((message.get("x-who") or b"").decode())
            await gate.wait()
            await peer.send(reply())

    up = await origin(slow)
    upstream = {"concurrency": {"per_target": 1, "queue": 4, "queue_timeout": "30s"}}
    route = {"auth": "staff", "headers": {"request": {"set": {"X-Who": "{consumer}"}}}}
    running = await gateway(up, auth=STAFF, route=route, upstream=upstream)
    clients = []
    for who in ("ann",) * 5 + ("bob",) * 2:
        client = await raw(running)
        await client.send(get(b"/", bearer(sub=who)))
        clients.append(client)
        await running.eventually("gateway_requests_in_flight", min(len(clients), 5))
        await running.eventually(
            "gateway_errors_total", max(len(clients) - 5, 0), reason="queue_full"
        )
    # One is served and four may wait: the two of bob have taken the places of two of ann's.
    gate.set()
    said = [(await client.response()).status for client in clients]
    assert said == [200, 200, 200, 503, 503, 200, 200]
    assert served == ["ann", "ann", "bob", "ann", "bob"]
