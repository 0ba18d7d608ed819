"""What is sent again, what never is, and that either is counted.

Rules of this file: the upstream's record of requests decides. An upstream that "drops" takes a whole request and ends the
connection without a byte of an answer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conformance.conftest import get, post, problem
from tests.kit.origin import OK, chunk, reply

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin, Peer
    from tests.kit.raw import Client
    from tests.kit.running import Running

KEYED = b"Idempotency-Key: k1"
CHUNKED = b"Transfer-Encoding: chunked"
SMALL = b"x" * 1000
LARGE = b"x" * 70_000


async def drops_reused(peer: Peer) -> None:
    """Answer the first request of the first connection, drop its second; answer everything on other connections."""
    while True:
        await peer.request()
        if peer.number == 0 and len(peer.requests) == 2:
            return
        await peer.send(OK)


async def drops_first(peer: Peer) -> None:
    """Drop the first connection's request; answer on others."""
    await peer.request()
    if peer.number == 0:
        return
    await peer.send(OK)
    await peer.rest()


async def drops_all(peer: Peer) -> None:
    """Never answer anything."""
    await peer.request()


async def warmed(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, script: Any, **sections: Any
) -> tuple[Origin, Running, Client]:
    """A gateway that holds one connection which has been used."""
    up = await origin(script)
    running = await gateway(up, **sections)
    client = await raw(running)
    assert (await client.ask(get(b"/first"))).status == 200
    return up, running, client


REPEATABLE = [
    get(b"/x"),
    get(b"/x", method=b"HEAD"),
    get(b"/x", method=b"OPTIONS"),
    get(b"/x", method=b"DELETE"),
    get(b"/x", method=b"PUT", body=SMALL),
    get(b"/x", method=b"DELETE", body=SMALL),
    post(KEYED, body=SMALL),
    get(b"/x", KEYED, method=b"PATCH", body=SMALL),
    get(b"/x", CHUNKED, method=b"PUT") + chunk(SMALL) + b"0\r\n\r\n",
]


@pytest.mark.parametrize("request_", REPEATABLE, ids=lambda one: one[:12].decode())
async def test_a_connection_that_ended_in_the_pool_costs_a_repeatable_request_nothing(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, request_: bytes
) -> None:
    async def script(peer: Peer) -> None:
        while True:
            message = await peer.request()
            if peer.number == 0 and len(peer.requests) == 2:
                return
            head_only = message.method == b"HEAD"
            await peer.send(reply(b"", length=False) if head_only else OK)

    up, running, client = await warmed(origin, gateway, raw, script)
    assert (await client.ask(request_)).status == 200
    first, second = up.requests[1:]
    assert first.raw == second.raw  # the very same, to the byte
    assert [len(peer.requests) for peer in up.connections] == [2, 1]
    labels = {"reason": "upstream_idle_closed", "outcome": "success"}
    assert running.metric("gateway_retries_total", **labels) == 1
    assert (await running.log(2))[1]["attempts"] == 2


NOT_REPEATABLE = [
    post(body=SMALL),
    post(body=b""),
    get(b"/x", method=b"PATCH", body=SMALL),
    get(b"/x", method=b"POST"),
    get(b"/x", method=b"PUT", body=LARGE),
    post(KEYED, body=LARGE),
]


@pytest.mark.parametrize(
    "request_", NOT_REPEATABLE, ids=["post", "empty", "patch", "bare", "put-large", "keyed-large"]
)
async def test_what_may_have_been_acted_on_is_sent_once(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, request_: bytes
) -> None:
    up, running, client = await warmed(origin, gateway, raw, drops_reused)
    problem(await client.ask(request_), "upstream_reset", 502)
    assert len(up.requests) == 2
    assert running.metric("gateway_errors_total", reason="upstream_reset") == 1
    assert running.metric("gateway_retries_total", outcome="success") == 0


@pytest.mark.parametrize("retry", ["off", False])
async def test_with_retry_off_nothing_is_ever_sent_twice(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, retry: object
) -> None:
    up, _, client = await warmed(origin, gateway, raw, drops_reused, route={"retry": retry})
    problem(await client.ask(get(b"/x")), "upstream_reset", 502)
    assert len(up.requests) == 2


async def test_the_resend_is_made_once_and_outside_of_the_number_of_tries(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 0:
            await peer.send(OK)
            await peer.request()

    up, _, client = await warmed(origin, gateway, raw, script, route={"retry": {"max": 0}})
    problem(await client.ask(get(b"/x")), "upstream_reset", 502)
    assert len(up.requests) == 3


async def test_the_resend_goes_out_on_a_fresh_connection(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        if peer.number < 4:
            return  # every connection of the pool is stale
        await peer.send(OK)

    up = await origin(script)
    running = await gateway(up)
    clients = [await raw(running) for _ in range(4)]
    await asyncio.gather(*[client.ask(get(b"/warm")) for client in clients])
    rested = len(up.connections)
    assert (await clients[0].ask(get(b"/x"))).status == 200
    assert len(up.connections) == rested + 1
    assert [request.target for request in up.requests].count(b"/x") == 2


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_an_answer_that_has_begun_is_not_asked_for_again(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, how: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nX-Begun")
        await asyncio.sleep(0.02)
        if how == "rst":
            peer.reset()

    up, _, client = await warmed(origin, gateway, raw, script, route={"retry": {"max": 0}})
    problem(await client.ask(get(b"/x")), "upstream_reset", 502)
    assert len(up.requests) == 2


async def test_a_reset_on_a_fresh_connection_is_tried_once_more(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(drops_first)
    running = await gateway(up)
    assert (await (await raw(running)).ask(get())).status == 200
    assert len(up.requests) == 2
    labels = {"reason": "upstream_reset", "outcome": "success"}
    assert running.metric("gateway_retries_total", **labels) == 1
    assert running.metric("gateway_errors_total") == 0


async def test_an_upstream_that_always_drops_is_tried_twice(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(drops_all)
    running = await gateway(up)
    problem(await (await raw(running)).ask(get()), "upstream_reset", 502)
    assert len(up.requests) == 2
    labels = {"reason": "upstream_reset", "outcome": "failure"}
    assert running.metric("gateway_retries_total", **labels) == 1
    assert running.metric("gateway_errors_total") == 1
    assert running.metric("gateway_upstream_requests_total", status_class="none") == 2


@pytest.mark.parametrize("request_", [post(), get(method=b"PUT", body=LARGE)])
async def test_a_reset_on_a_fresh_connection_is_not_tried_again_for_every_request(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, request_: bytes
) -> None:
    up = await origin(drops_first)
    running = await gateway(up)
    problem(await (await raw(running)).ask(request_), "upstream_reset", 502)
    assert len(up.requests) == 1
    labels = {"reason": "upstream_reset", "outcome": "not_replayable"}
    assert running.metric("gateway_retries_total", **labels) == 1


@pytest.mark.parametrize("request_", [get(), post(), post(body=LARGE)])
async def test_a_connection_that_can_not_be_made_is_tried_elsewhere_for_any_request(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, request_: bytes
) -> None:
    dead, up = await origin(), await origin()
    await dead.refuse()
    upstream = {"targets": [dead.url, up.url], "balance": "round_robin"}
    running = await gateway(up, upstream=upstream)
    client = await raw(running)
    for _ in range(4):
        assert (await client.ask(request_)).status == 200
    assert len(up.requests) == 4
    assert running.metric("gateway_retries_total", reason="connect_refused", outcome="success") >= 1


async def test_a_method_list_says_what_may_be_repeated(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(drops_first)
    running = await gateway(up, route={"retry": {"methods": "all"}})
    assert (await (await raw(running)).ask(post())).status == 200
    assert [request.body for request in up.requests] == [b"hello", b"hello"]


async def test_the_replay_buffer_can_be_set(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(drops_first)
    running = await gateway(up, route={"retry": {"replay_body": "100KiB"}})
    request = get(method=b"PUT", body=LARGE)
    assert (await (await raw(running)).ask(request)).status == 200
    assert [request.body for request in up.requests] == [LARGE, LARGE]


async def test_a_body_that_came_in_pieces_is_replayed_whole(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(drops_first)
    client = await raw(await gateway(up))
    await client.send(get(b"/", b"Content-Length: 6", method=b"PUT") + b"abc")
    await up.wait_for_request()
    await client.send(b"def")
    assert (await client.response("PUT")).status == 200
    assert [request.body for request in up.requests] == [b"abcdef", b"abcdef"]


async def test_an_upload_that_still_runs_is_not_repeated(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.exactly(3)

    up = await origin(script)
    client = await raw(await gateway(up))
    await client.send(get(b"/", b"Content-Length: 6", method=b"PUT") + b"abc")
    problem(await client.response("PUT"), "upstream_reset", 502)
    assert len(up.requests) == 1


# ── statuses ──


@pytest.mark.parametrize(
    ("request_", "tries"),
    [(get(), 2), (post(), 1), (post(KEYED), 2), (get(method=b"PUT", body=b"x"), 2)],
)
async def test_a_status_is_tried_again_only_where_it_is_written(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, request_: bytes, tries: int
) -> None:
    busy = reply(b"busy", status=b"503 Service Unavailable")
    up = await origin([busy, OK])
    running = await gateway(up, route={"retry": {"on": ["503"]}})
    got = await (await raw(running)).ask(request_)
    assert got.status == (200 if tries == 2 else 503)
    assert len(up.requests) == tries

    up = await origin([busy, OK])
    got = await (await raw(await gateway(up))).ask(request_)
    assert (got.status, got.body) == (503, b"busy")
    assert len(up.requests) == 1


async def test_the_last_answer_is_the_clients(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    answers = [reply(b"%d" % number, status=b"503 Service Unavailable") for number in range(5)]
    up = await origin(answers)
    running = await gateway(up, route={"retry": {"on": ["503"], "max": 2}})
    got = await (await raw(running)).ask(get())
    assert (got.status, got.body) == (503, b"2")
    assert len(up.requests) == 3
    assert running.metric("gateway_retries_total", reason="503", outcome="failure") == 2
    assert running.metric("gateway_retries_total") == 2


async def test_a_failed_try_leaves_no_connection_half_read(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    busy = reply(b"x" * 500_000, status=b"503 Service Unavailable")
    up = await origin([busy, reply(b"one"), reply(b"two")])
    client = await raw(await gateway(up, route={"retry": {"on": ["503"]}}))
    assert (await client.ask(get())).body == b"one"
    assert (await client.ask(get())).body == b"two"


# ── the budget ──


async def test_the_budget_keeps_a_failing_upstream_from_being_asked_twice_as_much(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(drops_all)
    running = await gateway(up)
    client = await raw(running)
    for _ in range(100):
        assert (await client.ask(get())).status == 502
    assert 100 <= len(up.requests) <= 120
    assert running.metric("gateway_retry_budget_exhausted_total") >= 80
    assert running.metric("gateway_retries_total", outcome="no_budget") >= 80


async def test_a_few_retries_are_always_allowed(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(drops_all)
    running = await gateway(up)
    client = await raw(running)
    for _ in range(3):
        await client.ask(get())
    assert len(up.requests) == 6
    running.clock.advance(11)
    await client.ask(get())
    assert len(up.requests) == 8


async def test_the_budget_can_be_switched_off(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(drops_all)
    client = await raw(await gateway(up, route={"retry": {"budget": "off"}}))
    for _ in range(10):
        await client.ask(get())
    assert len(up.requests) == 20


async def test_nothing_is_tried_again_once_the_client_has_the_head(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await asyncio.sleep(0.02)

    up = await origin(script)
    client = await raw(await gateway(up))
    await client.send(get())
    await client.rest()
    assert len(up.requests) == 1


async def test_a_client_that_leaves_ends_the_tries(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(0.1)

    up = await origin(script)
    running = await gateway(up, route={"retry": {"max": 5, "budget": "off"}})
    client = await raw(running)
    await client.send(get())
    await up.wait_for_request()
    client.close()
    await asyncio.sleep(0.3)
    assert len(up.requests) == 1
