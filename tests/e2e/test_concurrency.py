"""`concurrency`: how many requests a target has at once, over real sockets.

Rules of this file: an origin that holds its answers says how many requests it has; places that are not
given back would show in the next request.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conformance.conftest import get, problem
from tests.kit.origin import OK

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin, Peer
    from tests.kit.raw import Client, Message
    from tests.kit.running import Running

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class Held:
    """An origin's script: each request waits until it is let go."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0
        self._may = asyncio.Semaphore(0)

    async def __call__(self, peer: Peer) -> None:
        while True:
            await peer.request()
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                await self._may.acquire()
            finally:
                self.now -= 1
            await peer.send(OK)

    def go(self, requests: int = 1) -> None:
        """Answer so many."""
        for _ in range(requests):
            self._may.release()


def limited(**concurrency: Any) -> dict[str, Any]:
    """Sections for an upstream with a limit of one, unless another is said."""
    return {"upstream": {"concurrency": {"per_target": 1, **concurrency}, "retry": "off"}}


async def asked(raw: MakeClient, running: Running, path: str = "/") -> Client:
    """A client that has sent one request."""
    client = await raw(running)
    await client.send(get(path.encode()))
    return client


async def queued(running: Running, number: int) -> None:
    """Wait until so many requests wait in the gateway."""
    await running.eventually("gateway_queue_length", number)


async def test_a_target_never_has_more_requests_than_it_may_and_all_are_served_in_order(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    held = Held()
    up = await origin(held)
    running = await gateway(up, **limited(per_target=2))
    clients = []
    for number in range(8):
        clients.append(await asked(raw, running, f"/{number}"))
        await queued(running, max(0, number - 1))
        if number < 2:
            await up.wait_for_request(number + 1)
    held.go(8)
    answers = [await client.response() for client in clients]
    assert [answer.status for answer in answers] == [200] * 8
    assert held.most == 2
    paths = [request.start.split()[1] for request in up.requests]
    assert paths == [b"/%d" % number for number in range(8)]
    await queued(running, 0)


async def test_one_more_than_may_wait_is_told_queue_full_at_once(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    held = Held()
    up = await origin(held)
    running = await gateway(up, **limited(queue=1))
    first = await asked(raw, running)
    await up.wait_for_request()
    second = await asked(raw, running)
    await queued(running, 1)
    refused = await (await asked(raw, running)).response()
    problem(refused, "queue_full", 503)
    held.go(2)
    for client in (first, second):
        assert (await client.response()).status == 200
    assert running.metric("gateway_errors_total", reason="queue_full") == 1
    assert len(up.requests) == 2


async def test_who_waits_for_too_long_is_told_queue_timeout(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    held = Held()
    up = await origin(held)
    running = await gateway(up, **limited(queue_timeout="3s"))
    first = await asked(raw, running)
    await up.wait_for_request()
    second = await asked(raw, running)
    await queued(running, 1)
    running.clock.advance(3.1)
    late = await second.response()
    problem(late, "queue_timeout", 503)
    held.go()
    assert (await first.response()).status == 200
    assert len(up.requests) == 1


async def test_a_client_that_leaves_the_queue_takes_no_place(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    held = Held()
    up = await origin(held)
    running = await gateway(up, **limited())
    first = await asked(raw, running)
    await up.wait_for_request()
    second = await asked(raw, running)
    await queued(running, 1)
    third = await asked(raw, running)
    await queued(running, 2)
    second.close()
    await queued(running, 1)
    held.go(2)
    for client in (first, third):
        assert (await client.response()).status == 200
    assert len(up.requests) == 2


async def test_a_client_that_leaves_while_it_is_served_gives_its_place_back(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    held = Held()
    up = await origin(held)
    running = await gateway(up, **limited())
    first = await asked(raw, running)
    await up.wait_for_request()
    second = await asked(raw, running)
    await queued(running, 1)
    first.close()
    await up.wait_for_request(2)
    held.go(2)
    assert (await second.response()).status == 200


async def answers(raw: MakeClient, running: Running, number: int) -> list[Message]:
    client = await raw(running)
    return [await client.ask(get()) for _ in range(number)]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(OK, id="answered"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", id="empty"),
        pytest.param(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", id="503"),
        pytest.param(b"nonsense\r\n\r\n", id="nonsense"),
    ],
)
async def test_each_end_of_a_try_gives_its_place_back(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, script: bytes
) -> None:
    up = await origin(script)
    sections = limited(queue=0)
    sections["upstream"]["retry"] = {"max": 1, "on": ["connect", "503"]}
    running = await gateway(up, **sections)
    found = await answers(raw, running, 5)
    assert not any(b"queue_full" in answer.raw for answer in found)


async def test_refused_connections_and_further_tries_give_their_places_back(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    await up.refuse()
    running = await gateway(up, upstream={"concurrency": {"per_target": 1, "queue": 0}})
    found = await answers(raw, running, 4)
    for answer in found:
        problem(answer, "connect_refused", 502)


async def test_a_websocket_has_its_place_for_as_long_as_it_is_open(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def switches(peer: Peer) -> None:
        message = await peer.request()
        if message.get("upgrade"):
            await peer.send(SWITCH)
            await peer.rest()
        else:
            await peer.send(OK)

    up = await origin(switches)
    running = await gateway(up, **limited(queue=0))
    tunnel = await raw(running)
    assert (await tunnel.ask(UPGRADE)).status == 101
    refused = await (await asked(raw, running)).response()
    problem(refused, "queue_full", 503)
    tunnel.close()
    await running.eventually("gateway_websockets_in_flight", 0)
    assert (await (await asked(raw, running)).response()).status == 200


async def pair(origin: MakeOrigin, gateway: MakeGateway, **more: Any) -> tuple[Any, ...]:
    """A gateway before two targets that hold, with one place each."""
    helds = (Held(), Held())
    ups: list[Origin] = [await origin(held) for held in helds]
    upstream = {
        "targets": [up.url for up in ups],
        "concurrency": {"per_target": 1},
        "retry": "off",
        **more,
    }
    config = {"routes": [{"path": "/*", "to": "up"}], "upstreams": {"up": upstream}}
    return await gateway(config), *helds, *ups


async def test_a_request_goes_where_there_is_room_and_waits_for_whoever_is_free_first(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    running, one, other, first_up, second_up = await pair(origin, gateway, balance="round_robin")
    clients = [await asked(raw, running) for _ in range(2)]
    await first_up.wait_for_request()
    await second_up.wait_for_request()
    clients += [await asked(raw, running) for _ in range(4)]
    await queued(running, 4)
    other.go(5)  # one of them is slow: all others are served by the other one
    await second_up.wait_for_request(5)
    one.go()
    assert [(await client.response()).status for client in clients] == [200] * 6
    assert (one.most, other.most) == (1, 1)
    assert len(first_up.requests) + len(second_up.requests) == 6


async def test_a_reload_with_more_places_lets_in_whoever_waits(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    held = Held()
    up = await origin(held)
    running = await gateway(up, **limited())
    clients = [await asked(raw, running) for _ in range(3)]
    await queued(running, 2)
    await running.gateway.reload(
        {
            "listeners": [{"bind": "127.0.0.1:0"}],
            "admin": "off",
            "observability": {"access_log": "off"},
            "routes": [{"name": "all", "path": "/*", "to": "up"}],
            "upstreams": {"up": {"targets": [up.url], "concurrency": {"per_target": 3}}},
        }
    )
    await up.wait_for_request(3)
    held.go(3)
    assert [(await client.response()).status for client in clients] == [200] * 3
    assert held.most == 3


async def test_an_enforced_adaptive_limit_begins_small_and_grows_while_answers_stay_quick(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    held = Held()
    up = await origin(held)
    running = await gateway(up, upstream={"concurrency": {"adaptive": "enforce"}})
    assert running.metric("gateway_concurrency_limit") == 3
    clients = [await raw(running) for _ in range(3)]
    for _ in range(8):
        for client in clients:
            await client.send(get())
        async with asyncio.timeout(10):
            while held.now < 3:
                await asyncio.sleep(0.01)
        held.go(3)
        for client in clients:
            assert (await client.response()).status == 200
        running.clock.advance(0.3)
    assert held.most == 3
    assert running.metric("gateway_concurrency_limit") > 3


async def test_in_report_mode_nobody_waits_and_who_would_be_refused_is_counted(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    held = Held()
    up = await origin(held)
    running = await gateway(up, **limited(per_target=2, queue=1, mode="report"))
    clients = [await asked(raw, running) for _ in range(5)]
    await up.wait_for_request(5)
    assert held.now == 5
    assert running.metric("gateway_queue_length") == 0
    assert running.metric("gateway_concurrency_limit") == 2
    held.go(5)
    assert [(await client.response()).status for client in clients] == [200] * 5
    # Two had places and one would have waited.
    await running.eventually("gateway_would_refuse_total", 2, reason="queue_full")
    held.go()
    assert (await clients[0].ask(get())).status == 200
    assert running.metric("gateway_would_refuse_total") == 2
