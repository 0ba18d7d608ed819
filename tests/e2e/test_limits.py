"""Every limit: what is within passes, what is beyond is told so with its own word and counted.

Rules of this file: a limit is set small and tried at the border.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conformance.conftest import get, post, problem
from tests.kit.origin import chunk

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin

CHUNKED = b"Transfer-Encoding: chunked"


def of_size(size: int) -> bytes:
    """A request whose head has exactly `size` bytes."""
    start = get(b"/", b"X: ")
    return get(b"/", b"X: " + b"a" * (size - len(start)))


async def test_a_head_of_just_the_limit_passes_and_a_longer_one_is_431(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, server={"limits": {"request_head": "2KiB"}})
    client = await raw(running)
    assert len(of_size(2048)) == 2048
    assert (await client.ask(of_size(2048 - 32))).status == 200
    await client.send(of_size(2049))
    got = await client.response()
    problem(got, "head_too_large", 431)
    assert got.get("connection") == b"close"
    assert len(up.requests) == 1
    assert running.metric("gateway_errors_total", reason="head_too_large") == 1


@pytest.mark.parametrize("segments", ["one", "lines", "bytes"])
async def test_many_short_fields_are_a_long_head(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, segments: str
) -> None:
    up = await origin()
    running = await gateway(up, server={"limits": {"request_head": "1KiB"}})
    client = await raw(running)
    head = get(b"/", *[b"X-%02d: %b" % (number, b"a" * 20) for number in range(40)])
    pieces = {
        "one": [head],
        "lines": [line + b"\r\n" for line in head[:-4].split(b"\r\n")] + [b"\r\n"],
        "bytes": [head[at : at + 1] for at in range(1100)],
    }[segments]
    for piece in pieces:
        await client.send(piece)
        if segments != "one":
            await asyncio.sleep(0)
    problem(await client.response(), "head_too_large", 431)
    assert up.requests == []


async def test_a_head_that_never_ends_is_431_before_it_does(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway(await origin())
    client = await raw(running)
    await client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\n")
    for number in range(20):
        await client.send(b"X-%d: %b\r\n" % (number, b"a" * 1000))
        await asyncio.sleep(0)
    problem(await client.response(), "head_too_large", 431)


async def test_the_limit_of_a_head_counts_for_each_of_a_connection(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, server={"limits": {"request_head": "2KiB"}})
    client = await raw(running)
    for _ in range(5):
        assert (await client.ask(of_size(1500))).status == 200
    await client.send(of_size(1500) * 5)
    for _ in range(5):
        assert (await client.response()).status == 200


async def test_a_long_body_is_no_long_head(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway(await origin(), server={"limits": {"request_head": "2KiB"}})
    client = await raw(running)
    for _ in range(3):
        assert (await client.ask(post(body=b"x" * 100_000))).status == 200
    head = post(CHUNKED, body=None)
    assert (await client.ask(head, chunk(b"x" * 100_000), b"0\r\n\r\n")).status == 200


@pytest.mark.parametrize("part", [b"/", b"/?"])
async def test_a_target_beyond_the_limit_is_414(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, part: bytes
) -> None:
    up = await origin()
    running = await gateway(up, server={"limits": {"request_line": "1KiB"}})
    client = await raw(running)
    assert (await client.ask(get(part + b"a" * 900))).status == 200
    await client.send(get(part + b"a" * 1100))
    problem(await client.response(), "uri_too_long", 414)
    assert len(up.requests) == 1
    assert running.metric("gateway_errors_total", reason="uri_too_long") == 1


@pytest.mark.parametrize("method", [b"GET", b"PROPPATCH"])
async def test_of_a_request_line_the_target_alone_counts(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, method: bytes
) -> None:
    running = await gateway(await origin(), server={"limits": {"request_line": "100B"}})
    for length, status in ((100, 200), (101, 414)):
        client = await raw(running)
        line = b"%b /%b HTTP/1.1\r\n" % (method, b"a" * (length - 1))
        assert (await client.ask(line + b"Host: a\r\n\r\n")).status == status


async def test_fields_beyond_the_count_are_431(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, server={"limits": {"headers": 10}})
    client = await raw(running)
    assert (await client.ask(get(b"/", *[b"X: 1"] * 8))).status == 200
    await client.send(get(b"/", *[b"X: 1"] * 11))
    problem(await client.response(), "head_too_large", 431)
    assert len(up.requests) == 1


async def test_a_body_limit_holds_to_the_byte(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, route={"body": {"max": "100B"}})
    for framing in ("length", "chunked"):
        for size, status in ((100, 200), (101, 413)):
            client = await raw(running)
            if framing == "length":
                await client.send(post(body=b"x" * size))
            else:
                await client.send(post(CHUNKED, body=None), chunk(b"x" * size), b"0\r\n\r\n")
            assert (await client.response("POST")).status == status
    await running.eventually("gateway_errors_total", 2, reason="body_too_large")


async def test_a_body_limit_in_report_mode_lets_all_through_and_counts(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    body = {"max": "100B", "mode": "report"}
    running = await gateway(up, route={"name": "all", "body": body})
    client = await raw(running)
    for size in (100, 101):
        assert (await client.ask(post(body=b"x" * size))).status == 200
        await client.send(post(CHUNKED, body=None), *[chunk(b"x" * size)] * 3, b"0\r\n\r\n")
        assert (await client.response("POST")).status == 200
    sizes = [len(request.body) for request in up.requests]
    assert sizes == [100, 300, 101, 303]
    counted = {"route": "all", "reason": "body_too_large"}
    await running.eventually("gateway_would_refuse_total", 3, **counted)
    assert running.metric("gateway_errors_total") == 0


async def test_a_body_limit_of_nothing_refuses_all_bodies(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway(await origin(), route={"body": {"max": "0B"}})
    client = await raw(running)
    assert (await client.ask(get())).status == 200
    assert (await client.ask(post(body=b""))).status == 200
    problem(await client.ask(post(body=b"x")), "body_too_large", 413)


async def test_the_default_body_limit_is_ten_mebibytes(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway(await origin())
    client = await raw(running)
    await client.send(post(b"Content-Length: %d" % (10 * 1024 * 1024 + 1), body=None))
    problem(await client.response("POST"), "body_too_large", 413)


async def test_a_body_limit_can_be_lifted(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, route={"body": {"max": "unlimited"}})
    client = await raw(running)
    await client.send(post(b"Content-Length: 11000000", body=None))
    for _ in range(11):
        await client.send(b"x" * 1_000_000)
    assert (await client.response("POST")).status == 200
    assert len(up.only.body) == 11_000_000


async def test_connections_beyond_the_limit_are_told_so(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway(await origin(), server={"limits": {"connections": 2}})
    first, second = await raw(running), await raw(running)
    assert (await first.ask(get())).status == 200
    assert (await second.ask(get())).status == 200
    third = await raw(running)
    got = await third.ask(get())
    problem(got, "too_many_connections", 503)
    assert got.get("connection") == b"close"
    assert running.metric("gateway_errors_total", reason="too_many_connections") == 1
    first.close()
    await asyncio.sleep(0.05)
    third.close()
    assert (await (await raw(running)).ask(get())).status == 200
    assert (await second.ask(get())).status == 200


async def test_connections_far_beyond_the_limit_are_not_even_read(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, server={"limits": {"connections": 2}})
    clients = [await raw(running) for _ in range(110)]
    await asyncio.sleep(0.05)
    ends = []
    for client in clients[103:]:
        await client.send(get())
        ends.append(await client.rest())
    assert ends == [b""] * len(ends)
    assert (await clients[0].ask(get())).status == 200


async def test_connections_are_limited_for_each_address(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway(await origin(), server={"limits": {"connections_per_ip": 2}})
    mine = [await raw(running) for _ in range(2)]
    for client in mine:
        assert (await client.ask(get())).status == 200
    problem(await (await raw(running)).ask(get()), "too_many_connections", 503)
    other = await raw(running, source="127.0.0.2")
    assert (await other.ask(get())).status == 200


async def test_a_connection_has_so_many_requests(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, server={"limits": {"requests_per_connection": 3}})
    client = await raw(running)
    said = [(await client.ask(get())).get("connection") for _ in range(3)]
    assert said == [None, None, b"close"]
    assert await client.closed() == "fin"
    assert len(up.connections) == 1
    client = await raw(running)
    await client.send(get() * 5)
    for _ in range(3):
        assert (await client.response()).status == 200
    assert await client.closed() in ("fin", "rst")
    assert len(up.requests) == 6


async def test_one_target_has_so_many_connections(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, upstream={"pool": {"max": 3}, "timeouts": {"pool_wait": "off"}})
    clients = [await raw(running) for _ in range(20)]
    answers = await asyncio.gather(*[client.ask(get()) for client in clients])
    assert [got.status for got in answers] == [200] * 20
    assert len(up.connections) <= 3


async def test_a_pool_keeps_a_connection_only_so_long(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, upstream={"pool": {"idle": "10s", "max_age": "15s"}})
    client = await raw(running)
    await client.ask(get())
    running.clock.advance(9)
    await client.ask(get())
    assert len(up.connections) == 1
    running.clock.advance(8)  # 17 s old: ends with the next answer
    await client.ask(get())
    await client.ask(get())
    assert len(up.connections) == 2
    running.clock.advance(11)
    assert await up.connections[1].closed_soon()
