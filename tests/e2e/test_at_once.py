"""Requests that are answered without a task, and what is remembered from one to the next on a connection.

Rules of this file: what is fast must not be otherwise different. Each test has a twin path that waits.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.kit.origin import OK, reply

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Peer

HOST = b"Host: a.test\r\n"


def ask(fields: bytes = HOST, path: bytes = b"/", method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, path, fields)


async def test_an_answer_that_comes_whole_makes_no_task(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    await client.ask(ask())
    loop = asyncio.get_running_loop()
    made: list[object] = []

    def factory(
        loop: asyncio.AbstractEventLoop, coro: object, **options: object
    ) -> asyncio.Task[object]:
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **options)  # type: ignore[arg-type]

    loop.set_task_factory(factory)  # type: ignore[arg-type]
    try:
        for _ in range(5):
            assert (await client.ask(ask())).status == 200
    finally:
        loop.set_task_factory(None)
    names = [getattr(coro, "__qualname__", "") for coro in made]
    assert not [name for name in names if "RequestHandler" in name or "Proxy" in name], names


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (HOST + b"X: 1\r\n", HOST + b"X: 2\r\n"),
        (HOST + b"X: 1\r\n", HOST),
        (HOST, HOST + b"X: 1\r\n"),
        (HOST + b"A: 1\r\nB: 2\r\n", HOST + b"B: 2\r\nA: 1\r\n"),
        (HOST + b"X: 1\r\n", HOST + b"x: 1\r\n"),
        (HOST + b"X: 1\r\nConnection: X\r\n", HOST + b"X: 1\r\n"),
        (b"Host: a.test\r\n", b"Host: b.test\r\n"),
    ],
)
async def test_what_is_remembered_of_a_head_is_never_told_of_another(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, first: bytes, second: bytes
) -> None:
    up = await origin()
    running = await gateway(up)
    client = await raw(running)
    for fields in (first, first, second, second, first):
        await client.ask(ask(fields))
    told = [_less_numbers(message.fields) for message in up.requests]
    fresh = []
    for fields in (first, second):
        other = await raw(running)
        await other.ask(ask(fields))
        fresh.append(_less_numbers(up.requests[-1].fields))
    assert told == [fresh[0], fresh[0], fresh[1], fresh[1], fresh[0]]


def _less_numbers(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [pair for pair in fields if pair[0].lower() != b"x-request-id"]


async def test_a_request_has_an_id_of_its_own_though_its_fields_are_those_of_the_one_before(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    for _ in range(3):
        await client.ask(ask())
    assert len({message.get(b"X-Request-Id") for message in up.requests}) == 3


async def test_a_whole_url_does_not_change_what_its_fields_mean_later(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    for path in (b"http://other.test/x", b"/x", b"http://other.test/x", b"/x"):
        await client.ask(ask(path=path))
    hosts = [message.get(b"Host") for message in up.requests]
    assert hosts == [b"other.test", b"a.test", b"other.test", b"a.test"]


async def test_the_same_fields_go_to_another_route_by_its_rules(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(
        {"routes": [
            {"name": "bare", "path": "/bare/*", "to": up.url},
            {"name": "edited", "path": "/edited/*", "to": up.url,
             "rewrite": {"strip_prefix": "/edited"}, "headers": {"request": {"remove": ["X"], "set": {"Y": "1"}}}},
        ]}
    )  # fmt: skip
    client = await raw(running)
    for path in (b"/bare/a", b"/edited/a", b"/bare/b", b"/edited/b"):
        await client.ask(ask(HOST + b"X: 1\r\n", path))
    seen = [(m.get(b"X"), m.get(b"Y"), m.get(b"X-Forwarded-Prefix")) for m in up.requests]
    assert seen == [(b"1", None, None), (None, b"1", b"/edited")] * 2


async def test_a_reload_forgets_what_was_remembered(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    from tests.e2e.test_reload import changed, routes

    up = await origin()
    running = await gateway(routes(same=up, changed=up))
    client = await raw(running)
    await client.ask(ask(HOST + b"X: 1\r\n", b"/same/a"))
    await client.ask(ask(HOST + b"X: 1\r\n", b"/same/a"))
    document = changed(running, **routes(same=up, changed=up))
    for route in document["routes"]:
        route["headers"] = {"request": {"remove": ["X"]}}
    await running.gateway.reload(document)
    await client.ask(ask(HOST + b"X: 1\r\n", b"/same/a"))
    assert [message.get(b"X") for message in up.requests] == [b"1", b"1", None]


async def test_heads_of_answers_that_differ_by_a_byte_are_told_apart(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    numbers = iter([1, 1, 2, 1, 3, 3])

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            number = next(numbers)
            await peer.send(reply(b"x" * number, b"X-Number: %d" % number))

    client = await raw(await gateway(await origin(script)))
    for number in (1, 1, 2, 1, 3, 3):
        answer = await client.ask(ask())
        assert (answer.get(b"X-Number"), answer.body) == (b"%d" % number, b"x" * number)


async def test_pipelined_requests_are_answered_in_their_order(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        while True:
            message = await peer.request()
            await peer.send(reply(message.target))

    up = await origin(script)
    running = await gateway(
        {
            "routes": [
                {"name": "up", "path": "/up/*", "to": up.url},
                {"name": "here", "path": "/here/*", "respond": {"body": "{path}"}},
            ]
        }
    )
    client = await raw(running)
    paths = [b"/%b/%d" % (b"here" if number % 3 else b"up", number) for number in range(40)]
    await client.send(b"".join(ask(path=path) for path in paths))
    assert [(await client.response()).body for _ in paths] == paths


@pytest.mark.parametrize("leaves", ["closes", "resets"])
async def test_a_client_that_leaves_before_its_answer_ends_the_try(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, leaves: str
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.rest()

    up = await origin(script)
    running = await gateway(up)
    client = await raw(running)
    await client.ask(ask())
    await client.send(ask())
    await up.wait_for_request(2)
    client.close() if leaves == "closes" else client.reset()
    await running.eventually("gateway_errors_total", 1, route="all", reason="client_closed")
    await running.at_rest()
    assert running.metric("gateway_requests_in_flight", route="all") == 0


async def test_a_target_that_dies_at_a_request_under_way_is_told_as_ever(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Le")
        peer.reset()

    client = await raw(await gateway(await origin(script)))
    assert (await client.ask(ask())).status == 200
    answer = await client.ask(ask())
    assert answer.status == 502
    assert b"upstream_reset" in answer.body


async def test_a_time_out_of_a_request_under_way_is_told_as_ever(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.rest()

    up = await origin(script)
    for key, reason in (("first_byte", b"upstream_header_timeout"), ("total", b"total_timeout")):
        running = await gateway(up, route={"timeouts": {key: "5s"}, "retry": "off"})
        client = await raw(running)
        await client.ask(ask())
        seen = len(up.requests)
        await client.send(ask())
        await up.wait_for_request(seen + 1)
        running.clock.advance(6)
        answer = await client.response()
        assert (answer.status, reason in answer.body) == (504, True)


@pytest.mark.parametrize("framing", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_bodies_with_the_same_fields_are_bodies_of_their_own(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, framing: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway(up))
    bodies = [b"%d-abc" % number for number in range(4)]
    for number, body in enumerate(bodies):
        framed = body if b"Length" in framing else b"5\r\n%b\r\n0\r\n\r\n" % body
        head = ask(HOST + framing, b"/%d" % number, b"POST")
        if number % 2:  # in two segments, so that it is awaited
            await client.send(head)
            await client.send(framed)
        else:
            await client.send(head + framed)
        assert (await client.response("POST")).status == 200
    assert [message.body for message in up.requests] == bodies
    assert len({message.get(b"Content-Length") for message in up.requests}) == 1


async def test_a_body_too_large_is_refused_though_its_fields_are_known(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(
        {
            "routes": [
                {"name": "wide", "path": "/wide", "to": up.url},
                {"name": "narrow", "path": "/narrow", "to": up.url, "body": "4B"},
            ]
        }
    )
    client = await raw(running)
    statuses = []
    for path in (b"/wide", b"/wide", b"/narrow"):
        await client.send(ask(HOST + b"Content-Length: 5\r\n", path, b"POST") + b"hello")
        statuses.append((await client.response("POST")).status)
    assert statuses == [200, 200, 413]
    assert len(up.requests) == 2
