"""A `split` whose upstreams say different things: each branch has time-outs, retries and the like of its own.

Rules of this file: who asks decides the branch (`sticky_by`), so that nothing depends on luck; time is the clock's.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gateway.upstream.hashing import branch_of
from tests.e2e.conformance.conftest import get, post, problem
from tests.kit.origin import OK, reply

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin, Peer
    from tests.kit.running import Running

USERS = [
    b"X-User: %d" % next(n for n in range(100) if branch_of(str(n), [1, 1], "r") == branch)
    for branch in (0, 1)
]
"""Fields of a client that goes to the first branch, and of one that goes to the second."""
LEFT = "x-left"


async def silent(peer: Peer) -> None:
    """Take a request and say nothing."""
    await peer.request()
    await peer.rest()


async def begins(peer: Peer) -> None:
    """Begin a body and never end it."""
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegun")
    await peer.rest()


async def drops_first(peer: Peer) -> None:
    """Drop the first connection's request; answer on others."""
    await peer.request()
    if peer.number == 0:
        return
    await peer.send(OK)
    await peer.rest()


async def start(
    gateway: MakeGateway,
    origins: tuple[Origin, Origin],
    settings: tuple[dict[str, Any], dict[str, Any]],
    *,
    by: str | None = "header.x-user",
    server: dict[str, Any] | None = None,
    **route: Any,
) -> Running:
    """Two upstreams, `first` and `second`, half of the clients for each."""
    upstreams = {
        name: {"targets": [origin.url], "eject": "off", **own}
        for name, origin, own in zip(("first", "second"), origins, settings, strict=True)
    }
    split: list[dict[str, Any]] = [{"upstream": name, "weight": 1} for name in upstreams]
    if by is not None:
        split[0]["sticky_by"] = by
    return await gateway(
        {
            "upstreams": upstreams,
            "routes": [{"name": "r", "path": "/*", "split": split, **route}],
            "server": server or {},
        }
    )


@pytest.mark.parametrize(
    ("key", "reason"), [("first_byte", "upstream_header_timeout"), ("total", "total_timeout")]
)
async def test_each_branch_waits_for_its_own_time(
    origin: MakeOrigin,
    gateway: MakeGateway,
    raw: MakeClient,
    key: str,
    reason: str,
) -> None:
    ups = await origin(silent), await origin(silent)
    running = await start(gateway, ups, ({"timeouts": {key: "5s"}}, {"timeouts": {key: "20s"}}))
    quick, slow = await raw(running), await raw(running)
    for client, up, user in zip((quick, slow), ups, USERS, strict=True):
        await client.send(get(b"/", user))
        await up.wait_for_request()
    running.clock.advance(4.5)
    assert await quick.silence(0.05)
    running.clock.advance(1)
    problem(await quick.response(), reason, 504)
    assert await slow.silence(0.05)
    running.clock.advance(13.5)
    assert await slow.silence(0.05)
    running.clock.advance(1.5)
    problem(await slow.response(), reason, 504)
    lines = await running.log(2)
    assert [(line["upstream"], line["reason"]) for line in lines] == [
        ("first", reason),
        ("second", reason),
    ]


async def test_a_total_of_one_branch_is_none_of_the_other(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    ups = await origin(silent), await origin()
    settings = (
        {"timeouts": {"total": "5s", "first_byte": "off"}},
        {"timeouts": {"first_byte": "off"}},
    )
    running = await start(gateway, ups, settings)
    client, other = await raw(running), await raw(running)
    assert (await client.ask(get(b"/", USERS[1]))).status == 200
    assert not running.busy(), "nothing is watched for a branch without a total"
    await other.send(get(b"/", USERS[0]))
    await ups[0].wait_for_request()
    running.clock.advance(5.5)
    problem(await other.response(), "total_timeout", 504)


async def test_a_total_runs_while_a_fault_delays_the_request(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    ups = await origin(), await origin()
    running = await start(
        gateway,
        ups,
        ({"timeouts": {"total": "5s"}}, {"timeouts": {"total": "60s"}}),
        fault={"delay": {"time": "30s", "percent": 100}},
    )
    client, patient = await raw(running), await raw(running)
    await client.send(get(b"/", USERS[0]))
    await patient.send(get(b"/", USERS[1]))
    await asyncio.sleep(0.05)
    running.clock.advance(5.5)
    problem(await client.response(), "total_timeout", 504)
    assert await patient.silence(0.05)
    running.clock.advance(25)
    assert (await patient.response()).status == 200
    assert not ups[0].requests


async def test_each_branch_has_its_own_idle(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    ups = await origin(begins), await origin(begins)
    running = await start(
        gateway, ups, ({"timeouts": {"idle": "5s"}}, {"timeouts": {"idle": "20s"}})
    )
    quick, slow = await raw(running), await raw(running)
    for client, user in zip((quick, slow), USERS, strict=True):
        await client.send(get(b"/", user))
        await client.until(b"begun")
    running.clock.advance(5.5)
    assert await quick.closed() in ("fin", "rst")
    assert await slow.silence(0.05)
    running.clock.advance(15)
    assert await slow.closed() in ("fin", "rst")
    await running.eventually("gateway_errors_total", 2, reason="upstream_body_timeout")


async def test_each_branch_tries_again_as_its_own_upstream_says(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    ups = await origin(drops_first), await origin(drops_first)
    running = await start(gateway, ups, ({"retry": "off"}, {}))
    client = await raw(running)
    problem(await client.ask(get(b"/", USERS[0])), "upstream_reset", 502)
    assert len(ups[0].requests) == 1
    other = await raw(running)
    assert (await other.ask(get(b"/", USERS[1]))).status == 200
    assert len(ups[1].requests) == 2


async def test_statuses_are_tried_again_for_the_branch_that_says_so(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    bad = reply(b"no", status=b"503 Service Unavailable")
    ups = await origin([bad, OK]), await origin([bad, OK])
    running = await start(gateway, ups, ({"retry": {"on": ["503"]}}, {}))
    client = await raw(running)
    await client.send(get(b"/", USERS[0]))
    await ups[0].wait_for_request(1)
    async with asyncio.timeout(5):
        while len(ups[0].requests) < 2:
            running.clock.advance(0.3)
            await asyncio.sleep(0.01)
    assert (await client.response()).status == 200
    assert (await client.ask(get(b"/", USERS[1]))).status == 503
    assert len(ups[1].requests) == 1


async def test_the_deadline_is_told_to_the_branch_that_wants_it_and_is_like_any_field_for_the_other(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    ups = await origin(), await origin()
    deadline = {"header": "X-Left", "trust": "trusted_proxies"}
    running = await start(
        gateway,
        ups,
        ({"deadline": deadline, "timeouts": {"total": "20s"}}, {"timeouts": {"total": "60s"}}),
        server={"trusted_proxies": ["127.0.0.0/8"]},
    )
    client = await raw(running)
    for user in (*USERS, *USERS):
        assert (await client.ask(get(b"/", user, b"X-Left: 9000"))).status == 200
    for request in ups[0].requests:
        assert 5_000 < int(request.get(LEFT) or 0) <= 9_000
    assert [request.get(LEFT) for request in ups[1].requests] == [b"9000", b"9000"]


async def test_the_same_fields_from_the_same_connection_go_to_each_branch_as_it_wants_them(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    """What fields become is remembered for a connection's next request, which may take the other branch."""
    ups = await origin(), await origin()
    own = {"deadline": {"header": "X-Left", "trust": "none"}}
    running = await start(gateway, ups, (own, {}), by="query.user")
    users = [user.removeprefix(b"X-User: ") for user in USERS]
    client = await raw(running)
    for user in (*users, *users):
        assert (await client.ask(get(b"/?user=" + user, b"X-Left: 9000"))).status == 200
    assert [request.get(LEFT) for request in ups[0].requests] == [None, None]
    assert [request.get(LEFT) for request in ups[1].requests] == [b"9000", b"9000"]


async def test_what_is_drawn_by_weight_is_drawn_once(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    """A second draw would send half of the requests to the other branch than their settings are of."""
    ups = await origin(), await origin()
    own = {"deadline": {"header": "X-Left"}, "timeouts": {"total": "20s"}}
    running = await start(gateway, ups, (own, {}), by=None)
    client = await raw(running)
    for _ in range(40):
        assert (await client.ask(get(b"/", b"X-Left: 9000"))).status == 200
    # One of them takes all 40 requests once in five hundred thousand million runs.
    assert ups[0].requests
    assert ups[1].requests
    assert all(9_000 < int(request.get(LEFT) or 0) <= 20_000 for request in ups[0].requests)
    assert all(request.get(LEFT) == b"9000" for request in ups[1].requests)


async def test_a_branch_gathers_bodies_if_its_upstream_says_so(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    ups = await origin(), await origin()
    running = await start(gateway, ups, ({"buffer": {"request": "1KiB"}}, {}))
    gathered, streamed = await raw(running), await raw(running)
    for client, user in zip((gathered, streamed), USERS, strict=True):
        await client.send(post(b"Content-Length: 5", user, body=None) + b"hell")
    async with asyncio.timeout(5):
        while not ups[1].connections:
            await asyncio.sleep(0.01)
    assert not ups[0].connections, "nobody is asked before the body is there"
    for client in (gathered, streamed):
        assert (await client.ask(b"o", method="POST")).status == 200


async def test_a_branch_hedges_if_its_upstream_says_so(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    plain, slow, quick = await origin(silent), await origin(silent), await origin()
    both = {"targets": [slow.url, quick.url], "balance": "round_robin", "hedge": {"after": "1s"}}
    running = await start(gateway, (plain, slow), ({}, both))
    hedged, waits = await raw(running), await raw(running)
    await hedged.send(get(b"/", USERS[1]))
    await waits.send(get(b"/", USERS[0]))
    await slow.wait_for_request()
    await plain.wait_for_request()
    running.clock.advance(1.1)
    assert (await hedged.response()).status == 200
    assert await waits.silence(0.05)
    await running.eventually("gateway_hedges_total", 1, upstream="second", outcome="won")


async def test_a_request_counts_once_and_ends_whole_on_any_branch(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    ups = await origin(), await origin()
    running = await start(
        gateway, ups, ({"timeouts": {"total": "5s"}}, {"timeouts": {"total": "6s"}})
    )
    client = await raw(running)
    for user in USERS:
        assert (await client.ask(get(b"/", user))).status == 200
    await running.eventually("gateway_requests_total", 2)
    assert [line["upstream"] for line in await running.log(2)] == ["first", "second"]
    assert not running.busy(), "no total is watched any more"
