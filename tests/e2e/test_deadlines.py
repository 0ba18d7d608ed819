"""`deadline`, through a whole gateway: what upstreams are told, whom it is heard from, and when it is over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conformance.conftest import get, post, problem
from tests.kit.origin import NO_CONTENT, OK, reply

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin, Peer

NAME = "x-request-timeout-ms"
TRUSTED = {"trusted_proxies": ["127.0.0.0/8"]}


def told(origin: Origin, number: int = -1) -> int:
    value = origin.requests[number].get(NAME)
    assert value is not None
    return int(value)


def with_limit(milliseconds: int | bytes) -> bytes:
    return get(b"/", b"X-Request-Timeout-Ms: %b" % str(milliseconds).encode() if isinstance(milliseconds, int)
               else b"X-Request-Timeout-Ms: " + milliseconds)  # fmt: skip


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.rest()


async def test_the_upstream_is_told_what_is_left_of_the_total(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    route = {"deadline": {}, "timeouts": {"total": "20s"}}
    client = await raw(await gateway(up, route=route))
    await client.ask(post(body=b"abc"))
    assert 15_000 < told(up) <= 20_000


async def test_without_any_end_nothing_is_told_and_a_clients_own_header_never_passes(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up, route={"deadline": {}}))
    assert (await client.ask(with_limit(0))).status == 200
    assert up.only.get(NAME) is None


async def test_without_deadline_the_header_is_like_any_other(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up, route={"timeouts": {"total": "20s"}}, server=TRUSTED))
    assert (await client.ask(with_limit(0))).status == 200
    assert told(up) == 0


@pytest.mark.parametrize(("asked", "most"), [(5_000, 5_000), (99_000, 20_000)])
async def test_a_trusted_callers_limit_is_honoured_when_shorter(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, asked: int, most: int
) -> None:
    up = await origin(silent)
    route = {"deadline": {}, "timeouts": {"total": "20s", "first_byte": "60s"}}
    running = await gateway(up, route=route, server=TRUSTED)
    client = await raw(running)
    await client.send(with_limit(asked))
    await up.wait_for_request()
    assert most - 3_000 < told(up) <= most
    running.clock.advance(most / 1000 - 1)
    assert await client.silence(0.05)
    running.clock.advance(1.2)
    problem(await client.response(), "total_timeout", 504)
    await running.eventually("gateway_errors_total", 1, reason="total_timeout")


async def test_a_limit_that_is_over_is_answered_without_calling_the_upstream(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, route={"deadline": {}}, server=TRUSTED)
    client = await raw(running)
    for _ in range(2):
        problem(await client.ask(with_limit(0)), "total_timeout", 504)
    assert (await client.ask(with_limit(b"soon"))).status == 200
    assert len(up.requests) == 1
    await running.eventually("gateway_upstream_requests_total", 1)


async def test_another_header_and_everybody_or_nobody_may_be_trusted(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    everybody = {"path": "/all", "to": up.url, "deadline": {"header": "X-Left", "trust": "all"}}
    nobody = {"path": "/none", "to": up.url, "deadline": {"header": "X-Left", "trust": "none"}}
    routes = [everybody, {**nobody, "timeouts": {"total": "20s"}}]
    client = await raw(await gateway({"routes": routes}, server=TRUSTED))
    await client.ask(get(b"/all", b"X-Left: 5000"))
    assert 2_000 < int(up.requests[-1].get("x-left") or b"0") <= 5_000
    problem(await client.ask(get(b"/all", b"x-left: 0")), "total_timeout", 504)
    await client.ask(get(b"/none", b"X-Left: 0"))
    assert 15_000 < int(up.requests[-1].get("x-left") or b"0") <= 20_000


async def test_every_try_is_told_what_is_left_then(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    busy = asyncio.Event()

    async def busy_first(peer: Peer) -> None:
        while True:
            await peer.request()
            if len(peer.origin.requests) == 1:
                await busy.wait()
                await peer.send(reply(b"", status=b"503 Busy"))
            else:
                await peer.send(OK)

    up = await origin(busy_first)
    route: dict[str, Any] = {"deadline": {}, "timeouts": {"total": "20s"}, "retry": {"on": ["503"]}}
    running = await gateway(up, route=route)
    client = await raw(running)
    await client.send(get())
    await up.wait_for_request()
    running.clock.advance(10)
    busy.set()
    assert (await client.response()).status == 200
    assert 15_000 < told(up, 0) <= 20_000
    assert 5_000 < told(up, 1) <= 10_000


async def test_an_exchange_that_has_ended_leaves_no_deadline_behind(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(NO_CONTENT)
    running = await gateway(up, route={"deadline": {}}, server=TRUSTED)
    client = await raw(running)
    for _ in range(3):
        assert (await client.ask(with_limit(5_000))).status == 204
    await running.at_rest()
    running.clock.advance(10)
    assert (await client.ask(get())).status == 204
