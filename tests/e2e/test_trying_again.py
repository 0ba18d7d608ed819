"""Trying again: what may be sent twice, what never is, and how often at most.

Rules of this file: an upstream is told when to die by the number of its connection or by the path;
every test counts what arrived at the upstream, for that is what a second try costs. What is said
of it in metrics and log is proved here, more requests of each kind in test_retries.py.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conformance.conftest import get, post, problem
from tests.kit.origin import CLOSING, OK, chunk, reply
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin, Peer, Script
    from tests.kit.raw import Client
    from tests.kit.running import Running

CHUNKED = b"Transfer-Encoding: chunked"
KEY = b"Idempotency-Key: 1"
UNAVAILABLE = reply(b"later", b"Connection: close", status=b"503 Service Unavailable")
BODY = b"x" * 3000


async def dies_when_reused(peer: Peer) -> None:
    """The first connection answers one request and ends at the next; all others answer."""
    await peer.request()
    await peer.send(OK)
    while True:
        await peer.request()
        if peer.number == 0:
            return
        await peer.send(OK)


def resets_when_reused(after: bytes) -> Script:
    """As `dies_when_reused`, by a reset, and with these bytes of an answer before it."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        while True:
            await peer.request()
            if peer.number == 0:
                await peer.send(after)
                await asyncio.sleep(0.02)  # the bytes, then the reset: not both at once
                peer.reset()
                return
            await peer.send(OK)

    return script


async def dies(peer: Peer) -> None:
    """Every connection ends when it has read a request."""
    await peer.request()


async def primed(raw: MakeClient, running: Running) -> Client:
    """A client after whose first request a connection to the upstream is at rest."""
    client = await raw(running)
    assert (await client.ask(get(b"/prime"))).body == b"ok"
    return client


def retries(running: Running, reason: str, outcome: str) -> float:
    """How many tries ended so."""
    return running.metric("gateway_retries_total", reason=reason, outcome=outcome, upstream="up")


def sent(up: Origin) -> list[bytes]:
    """Targets of the requests that arrived, in order."""
    return [message.target for message in up.requests]


# ── a connection of the pool that dies when it is used again ──


SAFE = {
    "PUT": [get(b"/a", method=b"PUT", body=BODY)],
    "PUT, body later": [get(b"/a", b"Content-Length: 3000", method=b"PUT"), BODY],
    "PUT, chunked": [get(b"/a", CHUNKED, method=b"PUT"), chunk(BODY), b"0\r\n\r\n"],
    "PUT, as large as the buffer": [get(b"/a", method=b"PUT", body=b"y" * 65536)],
    "POST with a key": [post(KEY, target=b"/a", body=BODY)],
}


@pytest.mark.parametrize("name", SAFE)
async def test_what_may_be_repeated_is_sent_once_more_on_a_fresh_connection(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, name: str
) -> None:
    up = await origin(dies_when_reused)
    running = await gateway(up, route={"retry": {"on": []}})
    client = await primed(raw, running)
    head, *body = SAFE[name]
    await client.send(head)
    for piece in body:
        await asyncio.sleep(0.02)  # it is still to come when the head goes out
        await client.send(piece)
    assert (await client.response(name[:4])).status == 200
    assert sent(up) == [b"/prime", b"/a", b"/a"]
    first, second = up.requests[1:]
    assert first.head == second.head
    assert first.body == second.body
    assert len(first.body) in (0, 3000, 65536)
    assert len(up.connections) == 2
    assert retries(running, "upstream_idle_closed", "success") == 1
    assert running.metric("gateway_retries_total") == 1
    assert [line["attempts"] for line in await running.log(2)] == [1, 2]


async def test_a_reset_of_a_used_connection_is_no_different(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(resets_when_reused(b""))
    running = await gateway(up, route={"retry": {"on": []}})
    client = await primed(raw, running)
    assert (await client.ask(get())).status == 200
    assert retries(running, "upstream_idle_closed", "success") == 1


async def test_the_resend_counts_neither_for_max_nor_for_the_budget(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 1:
            return  # the resend of /a: its own failure is the one that `max` and budget count
        await peer.send(OK)
        await peer.request()

    up = await origin(script)
    running = await gateway(up, route={"retry": {"max": 1}})
    client = await primed(raw, running)
    assert (await client.ask(get(b"/a"))).status == 200
    assert sent(up) == [b"/prime", b"/a", b"/a", b"/a"]
    assert retries(running, "upstream_idle_closed", "failure") == 1
    assert retries(running, "upstream_reset", "success") == 1
    assert (await running.log(2))[1]["attempts"] == 3


NEVER: dict[str, tuple[list[bytes], Any, str]] = {
    "POST": ([post(target=b"/a")], {}, "not_replayable"),
    "PATCH": ([get(b"/a", method=b"PATCH", body=b"x")], {}, "not_replayable"),
    "larger than the buffer": (
        [get(b"/a", method=b"PUT", body=BODY)],
        {"replay_body": "2KiB"},
        "not_replayable",
    ),
    "larger than the buffer, streamed": (
        [get(b"/a", CHUNKED, method=b"PUT"), chunk(BODY), b"0\r\n\r\n"],
        {"replay_body": "2KiB"},
        "not_replayable",
    ),
    "larger than the buffer, with a key": (
        [post(KEY, target=b"/a", body=BODY)],
        {"replay_body": "2KiB"},
        "not_replayable",
    ),
    "retry off": ([get(b"/a")], "off", ""),
    "another key": ([post(KEY, target=b"/a")], {"idempotency_key": "X-Key"}, "not_replayable"),
}


@pytest.mark.parametrize("name", NEVER)
async def test_what_may_have_been_acted_on_is_never_sent_twice(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, name: str
) -> None:
    pieces, retry, outcome = NEVER[name]
    up = await origin(dies_when_reused)
    running = await gateway(up, route={"retry": retry})
    client = await primed(raw, running)
    for piece in pieces:
        await client.send(piece)
        await asyncio.sleep(0.02)
    problem(await client.response(), "upstream_reset", 502)
    assert sent(up) == [b"/prime", b"/a"]
    counted = retries(running, "upstream_idle_closed", outcome) if outcome else 1
    assert counted == 1
    assert running.metric("gateway_retries_total") == (1 if outcome else 0)
    assert (await running.log(2))[1]["attempts"] == 1
    assert running.metric("gateway_errors_total", reason="upstream_reset") == 1


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize(
    "answer", [b"H", b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 102 Processing\r\n\r\n"]
)
async def test_after_a_byte_of_an_answer_nothing_is_sent_twice(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, answer: bytes, used: bool
) -> None:
    async def fresh(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)
        await asyncio.sleep(0.02)
        peer.reset()

    up = await origin(resets_when_reused(answer) if used else fresh)
    running = await gateway(up)
    client = await primed(raw, running) if used else await raw(running)
    problem(await client.ask(get(b"/a")), "upstream_reset", 502)
    assert sent(up)[-2:] == ([b"/prime", b"/a"] if used else [b"/a"])
    assert running.metric("gateway_retries_total") == 0


# ── another try, by `retry:` ──


def two(*origins: Origin, **route: Any) -> dict[str, Any]:
    """A configuration with these origins as targets of `up`, in the order of turns."""
    upstream = {"targets": [one.url for one in origins], "balance": "round_robin"}
    return {
        "routes": [{"name": "all", "path": "/*", "to": "up", **route}],
        "upstreams": {"up": upstream},
    }


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([get()], id="GET"),
        pytest.param([post(body=BODY)], id="POST"),
        pytest.param([post(CHUNKED, body=None), chunk(BODY), b"0\r\n\r\n"], id="chunked"),
        pytest.param([post(b"Content-Length: 200000", body=None), b"x" * 200_000], id="large"),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"replay_body": "1KiB"}])
async def test_a_refused_connection_is_no_harm_to_any_method(
    origin: MakeOrigin,
    gateway: MakeGateway,
    raw: MakeClient,
    pieces: list[bytes],
    settings: dict[str, Any],
) -> None:
    gone, up = await origin(), await origin()
    await gone.refuse()
    running = await gateway(two(gone, up, retry=settings))
    client = await raw(running)
    got = await client.ask(*pieces)
    assert (got.status, got.body) == (200, b"ok")
    assert len(up.only.body) in (0, 3000, 200_000)
    assert retries(running, "connect_refused", "success") == 1
    (line,) = await running.log()
    assert (line["attempts"], line["target"]) == (2, up.address)


async def test_a_fresh_connection_that_is_reset_is_tried_on_the_other_target(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    bad, up = await origin(dies), await origin()
    running = await gateway(two(bad, up))
    client = await raw(running)
    assert (await client.ask(get(b"/a", method=b"PUT", body=BODY))).status == 200
    assert (len(bad.requests), up.only.body) == (1, BODY)
    assert retries(running, "upstream_reset", "success") == 1


async def test_the_extra_try_goes_to_a_target_that_was_not_tried(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    gone, up = await origin(), await origin()
    await gone.refuse()
    targets = [{"url": gone.url, "weight": 99}, {"url": up.url}]  # nearly all first tries fail
    upstream = {"targets": targets, "eject": "off"}
    running = await gateway(up, upstream=upstream, route={"retry": {"budget": "off"}})
    client = await raw(running)
    for _ in range(20):
        assert (await client.ask(get())).status == 200
    assert retries(running, "connect_refused", "success") > 10


async def test_there_is_one_extra_try_unless_max_says_more(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    three = [await origin(dies) for _ in range(3)]
    running = await gateway(two(*three))
    problem(await (await raw(running)).ask(get()), "upstream_reset", 502)
    assert sum(len(one.requests) for one in three) == 2
    running = await gateway(two(*three, retry={"max": 2}))
    problem(await (await raw(running)).ask(get()), "upstream_reset", 502)
    assert sum(len(one.requests) for one in three) == 5
    assert min(len(one.requests) for one in three) >= 1
    assert (await running.log())[0]["attempts"] == 3


@pytest.mark.parametrize("retry", ["off", {"max": 0}, {"on": ["reset_before_response"]}])
async def test_what_retry_does_not_name_is_not_tried_again(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, retry: Any
) -> None:
    gone, up = await origin(), await origin()
    await gone.refuse()
    running = await gateway(two(gone, up, retry=retry))
    problem(await (await raw(running)).ask(get()), "connect_refused", 502)
    assert up.requests == []
    assert running.metric("gateway_retries_total") == 0


async def test_a_status_is_tried_again_where_it_is_named(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin([UNAVAILABLE, OK])
    running = await gateway(up, route={"retry": {"on": ["503"]}})
    assert (await (await raw(running)).ask(get())).body == b"ok"
    assert retries(running, "503", "success") == 1
    (line,) = await running.log()
    assert (line["status"], line["attempts"], line["reason"]) == (200, 2, None)
    assert running.metric("gateway_upstream_requests_total", status_class="5xx") == 1


async def test_the_last_answer_is_passed_on_as_it_is(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(UNAVAILABLE)
    running = await gateway(up, route={"retry": {"on": ["503"], "max": 2}})
    client = await raw(running)
    got = await client.ask(get())
    assert (got.status, got.body, len(up.requests)) == (503, b"later", 3)
    got = await client.ask(post())
    assert (got.status, got.body, len(up.requests)) == (503, b"later", 4)
    assert retries(running, "503", "not_replayable") == 1


async def silent_at_first(peer: Peer) -> None:
    """The first connection never answers."""
    await peer.request()
    if peer.number == 0:
        await peer.rest()
        return
    await peer.send(CLOSING)


@pytest.mark.parametrize(("words", "status"), [(["first_byte"], 200), (["connect"], 504)])
async def test_silence_is_tried_again_where_first_byte_is_named(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, words: list[str], status: int
) -> None:
    up = await origin(silent_at_first)
    route = {"retry": {"on": words}, "timeouts": {"first_byte": "3s"}}
    running = await gateway(up, route=route)
    client = await raw(running)
    await client.send(get())
    await up.wait_for_request()
    running.clock.advance(3.5)
    assert (await client.response()).status == status
    assert len(up.requests) == (2 if status == 200 else 1)
    outcome = retries(running, "upstream_header_timeout", "success")
    assert outcome == (1 if status == 200 else 0)
    assert await up.connections[0].closed_soon()


@pytest.mark.parametrize(("words", "status"), [(["first_byte"], 200), (["connect"], 504)])
async def test_per_try_bounds_one_try(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, words: list[str], status: int
) -> None:
    up = await origin(silent_at_first)
    running = await gateway(up, route={"retry": {"on": words, "per_try": "200ms"}})
    got = await (await raw(running)).ask(get())
    assert got.status == status
    if status == 504:
        problem(got, "upstream_header_timeout", 504)
    assert len(up.requests) == (2 if status == 200 else 1)


async def test_a_post_is_sent_again_where_all_methods_may_be(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(dies_when_reused)
    running = await gateway(up, route={"retry": {"methods": "all"}})
    client = await primed(raw, running)
    assert (await client.ask(post(target=b"/a"))).status == 200
    assert sent(up) == [b"/prime", b"/a", b"/a"]


# ── the budget ──


async def dies_if_told(peer: Peer) -> None:
    """Answers each request on a connection of its own, but not /bad."""
    message = await peer.request()
    if message.target != b"/bad":
        await peer.send(CLOSING)


async def _ask(client: Client, target: bytes, times: int) -> None:
    for _ in range(times):
        await client.ask(get(target))


async def test_a_budget_is_a_share_of_the_first_tries(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(dies_if_told)
    running = await gateway(up)
    client = await raw(running)
    await _ask(client, b"/good", 25)
    await _ask(client, b"/bad", 8)
    # a fifth of 33 first tries is 6.6: six extra ones are no more than that
    assert len(up.requests) == 33 + 6
    assert retries(running, "upstream_reset", "no_budget") == 2
    assert running.metric("gateway_retry_budget_exhausted_total", upstream="up") == 2


async def test_a_budget_bounds_statuses_too(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(UNAVAILABLE)
    running = await gateway(up, route={"retry": {"on": ["503"]}})
    await _ask(await raw(running), b"/", 4)
    assert len(up.requests) == 4 + 3
    assert retries(running, "503", "no_budget") == 1


async def test_a_client_is_told_what_its_last_try_failed_of_though_no_target_is_left(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def dies(peer: Peer) -> None:
        await peer.request()
        peer.reset()

    up = await origin(dies)
    circuit = {"min_requests": 1, "error_ratio": 0.5}
    running = await gateway(up, upstream={"circuit": circuit, "eject": "off"})
    client = await raw(running)
    answer = await client.ask(get())
    assert (answer.status, b"upstream_reset" in answer.body) == (502, True)
    answer = await (await raw(running)).ask(get())
    assert (answer.status, b"circuit_open" in answer.body) == (503, True)


async def test_a_try_that_got_no_connection_costs_no_budget(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    dead, alive = await origin(), await origin()
    await dead.refuse()
    upstream = {"targets": [dead.url, alive.url], "balance": "round_robin", "eject": "off"}
    running = await gateway({"upstreams": {"up": upstream}, "routes": [{"path": "/*", "to": "up"}]})
    client = await raw(running)
    assert [(await client.ask(get())).status for _ in range(20)] == [200] * 20
    assert retries(running, "connect_refused", "success") == 10
    assert running.metric("gateway_retry_budget_exhausted_total", upstream="up") == 0


async def test_per_try_stands_still_while_the_client_is_waited_for(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    retry = {"per_try": "1s", "on": ["first_byte"]}
    running = await gateway(up, route={"retry": retry}, upstream={"circuit": {"min_requests": 1}})
    client = await raw(running)
    await client.send(post(b"Content-Length: 4", body=None) + b"ab")
    async with asyncio.timeout(PATIENCE):
        while not up.connections:
            await asyncio.sleep(0.005)
    running.clock.advance(5)
    await asyncio.sleep(0.02)
    await client.send(b"cd")
    assert (await client.response("POST")).status == 200
    assert len(up.requests) == 1
    assert running.metric("gateway_circuit_state", upstream="up") == 0


async def test_per_try_does_not_count_the_wait_for_a_connection(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def waits(peer: Peer) -> None:
        await peer.request()
        await peer.rest()

    up = await origin(waits)
    running = await gateway(
        up,
        route={"retry": {"per_try": "1s"}, "timeouts": {"pool_wait": "3s", "first_byte": "60s"}},
        upstream={"pool": {"max": 1}, "circuit": {"min_requests": 1}},
    )
    first, second = await raw(running), await raw(running)
    await first.send(post(b"Content-Length: 4", body=None) + b"ab")
    async with asyncio.timeout(PATIENCE):
        while not up.connections:
            await asyncio.sleep(0.005)
    await second.send(get())
    await asyncio.sleep(0.02)
    running.clock.advance(2)
    assert await second.silence(0.05), "it waits for a connection, not for the target"
    running.clock.advance(2)
    problem(await second.response(), "pool_timeout", 503)
    assert running.metric("gateway_circuit_state", upstream="up") == 0
    first.close()


async def test_an_answer_is_passed_on_where_there_is_no_time_for_the_pause_that_it_asks_for(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(reply(b"busy", b"Retry-After: 1", status=b"503 Busy"))
    route = {"retry": {"on": ["503"]}, "timeouts": {"total": "500ms"}}
    got = await (await raw(await gateway(up, route=route))).ask(get())
    assert (got.status, got.body) == (503, b"busy")
    assert len(up.requests) == 1
