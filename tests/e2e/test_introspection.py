"""`introspection`, through a whole gateway: the endpoint decides, and what happens while it does not."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from gateway.auth.fetch import MOST_CONNECTIONS
from gateway.auth.introspection import NOT_ACTIVE
from gateway.tasks import spawn
from tests.e2e.conformance.conftest import get, problem
from tests.kit.clock import FakeClock
from tests.kit.guarded import Guarded
from tests.kit.issuer import Issuer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin

ASKED = "/introspect"


@pytest.fixture
async def guarded(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> AsyncIterator[Guarded]:
    async with Issuer(FakeClock()) as issuer:
        yield Guarded(issuer, origin, gateway, raw)


def policy(guarded: Guarded, **settings: Any) -> dict[str, Any]:
    url = f"{guarded.issuer.url}introspect"
    return {
        "staff": {"introspection": {"url": url, "client_id": "gw", "client_secret": "hush-hush", **settings}}
    }  # fmt: skip


async def test_who_is_known_to_the_endpoint_is_let_in(guarded: Guarded) -> None:
    guarded.issuer.active["t-1"] = {"sub": "ann", "scope": "r w", "client_id": "app"}
    await guarded.start(policy(guarded, forward={"X-User": "{claim.sub}"}))
    for _ in range(3):
        await guarded.accepted("t-1", b"X-User: root")
    assert [each.all("x-user") for each in guarded.up.requests] == [[b"ann"]] * 3
    assert all(each.get("authorization") is None for each in guarded.up.requests)
    assert guarded.issuer.asked == {ASKED: 1}
    assert guarded.counted("ok") == 3


async def test_who_is_not_is_told_no_more_than_that(guarded: Guarded) -> None:
    await guarded.start(policy(guarded))
    for _ in range(3):
        await guarded.refused("t-1", "inactive")
    assert guarded.issuer.asked == {ASKED: 1}
    guarded.issuer.active["t-1"] = {}
    guarded.clock.advance(NOT_ACTIVE + 0.1)
    await guarded.accepted("t-1")
    answer = await guarded.ask(None)
    problem(answer, "unauthenticated", 401)
    assert answer.all("www-authenticate") == [b'Bearer realm="gateway"']


async def test_a_token_that_is_revoked_counts_no_longer_than_the_cache(guarded: Guarded) -> None:
    guarded.issuer.active = {"t": {}, "short": {"exp": guarded.issuer.now() + 5}}
    await guarded.start(policy(guarded, cache="20s"))
    await guarded.accepted("t")
    await guarded.accepted("short")
    guarded.issuer.active.clear()
    guarded.clock.advance(6)
    await guarded.accepted("t")
    await guarded.refused("short", "inactive")
    guarded.clock.advance(15)
    await guarded.refused("t", "inactive")


async def test_many_clients_with_one_token_are_one_question(guarded: Guarded) -> None:
    guarded.issuer.active["t"] = {}
    await guarded.start(policy(guarded))
    guarded.issuer.gate.clear()
    clients = [await guarded.connect() for _ in range(10)]
    for client in clients:
        await client.send(get(b"/", b"Authorization: Bearer t"))
    while not guarded.issuer.asked:
        await asyncio.sleep(0.005)
    assert await clients[1].silence(0.05)
    clients[0].reset()  # the one that was first, and leaves
    guarded.issuer.gate.set()
    for client in clients[1:]:
        assert (await client.response()).status == 200
    assert guarded.issuer.asked == {ASKED: 1}


async def test_made_up_tokens_are_no_flood_for_the_endpoint(guarded: Guarded) -> None:
    await guarded.start(policy(guarded))
    guarded.issuer.gate.clear()
    clients = [await guarded.connect() for _ in range(MOST_CONNECTIONS + 30)]
    for number, client in enumerate(clients):
        await client.send(get(b"/", b"Authorization: Bearer made-up-%d" % number))
    async with asyncio.timeout(10):
        while guarded.issuer.asked.get(ASKED, 0) < MOST_CONNECTIONS:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert guarded.issuer.asked == {ASKED: MOST_CONNECTIONS}
    guarded.issuer.gate.set()
    for client in clients:
        problem(await client.response(), "unauthenticated", 401)


async def test_an_endpoint_that_hangs_is_503_after_its_timeout(guarded: Guarded) -> None:
    guarded.issuer.active["t"] = {}
    await guarded.start(policy(guarded, timeout="2s"))
    guarded.issuer.gate.clear()
    asking = spawn(guarded.ask("t"), "test")
    while not guarded.issuer.asked:
        await asyncio.sleep(0.005)
    guarded.clock.advance(1.5)
    await asyncio.sleep(0.02)
    assert not asking.done()
    guarded.clock.advance(0.6)
    problem(await asking, "auth_unavailable", 503)
    assert guarded.counted("provider_error") == 1
    guarded.issuer.gate.set()
    await guarded.accepted("t")


async def test_an_endpoint_that_dies_lets_in_only_whom_it_has_just_known(guarded: Guarded) -> None:
    guarded.issuer.active = {"t": {}, "u": {}}
    await guarded.start(policy(guarded, cache="30s"))
    await guarded.accepted("t")
    await guarded.issuer.die()
    await guarded.accepted("t")
    await guarded.unavailable("u")
    guarded.clock.advance(31)
    await guarded.unavailable("t")
    await guarded.issuer.start()
    await guarded.accepted("t")
    await guarded.accepted("u")


@pytest.mark.parametrize("how", ["redirect", "huge", "401", "500", "html", "true"])
async def test_an_endpoint_that_misbehaves_lets_nobody_in(guarded: Guarded, how: str) -> None:
    elsewhere = await guarded._origin()
    answers: dict[str, Any] = {
        "redirect": web.Response(status=307, headers={"Location": f"{elsewhere.url}/introspect"}),
        "huge": b'{"active": true, "x": "' + b"x" * 5_000_000 + b'"}',
        "401": web.json_response({"active": True}, status=401),
        "500": web.json_response({"active": True}, status=500),
        "html": "<html>active: true</html>",
        "true": '{"active": "true"}',
    }
    await guarded.start(policy(guarded))
    guarded.issuer.answers[ASKED] = answers[how]
    await guarded.unavailable("t")
    assert elsewhere.connections == [], "the secret and the token were sent elsewhere"
    del guarded.issuer.answers[ASKED]
    guarded.issuer.active["t"] = {}
    await guarded.accepted("t")


async def test_a_route_may_take_both_kinds_of_token(guarded: Guarded) -> None:
    guarded.issuer.active["opaque"] = {"sub": "bob"}
    forward = {"X-Who": "{claim.sub}"}
    both = {"signed": guarded.settings(forward=forward), **policy(guarded, forward=forward)}
    await guarded.start(both)
    await guarded.accepted(guarded.issuer.sign())
    await guarded.accepted("opaque")
    assert [each.get("x-who") for each in guarded.up.requests] == [b"ann", b"bob"]
    answer = await guarded.ask("neither")
    problem(answer, "unauthenticated", 401)
    assert guarded.counted("malformed", "signed") == 2
    assert guarded.counted("inactive") == 1


async def test_neither_token_nor_password_is_in_logs_metrics_or_what_is_shown(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    guarded.issuer.active["token-of-ann"] = {}
    await guarded.start(policy(guarded))
    await guarded.accepted("token-of-ann")
    await guarded.refused("token-of-eve", "inactive")
    await guarded.issuer.die()
    await guarded.unavailable("token-of-bob")
    said = caplog.text + json.dumps(await guarded.running.log(3))
    said += guarded.running.gateway.metrics.exposition(None)[0].decode()
    said += json.dumps(guarded.running.gateway.snapshot.config.masked)
    for secret in ("token-of", "hush-hush"):
        assert secret not in said
