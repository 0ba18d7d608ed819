"""Traps of the data path that no item of http.md names: what a gateway says in its log, unix sockets, trailers, rests.

Rules of this file: one test for each row of the trap table that is not proven elsewhere in tests/e2e.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conformance.conftest import get, post, problem
from tests.kit.origin import OK, chunk, reply

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Peer

CHUNKED = b"Transfer-Encoding: chunked"
WANTS = (b"TE: trailers", b"Connection: TE")


# ── noise ──


async def test_faults_of_clients_make_no_noise_in_the_log(
    origin: MakeOrigin,
    gateway: MakeGateway,
    raw: MakeClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.rest()

    caplog.set_level(logging.DEBUG)
    up = await origin(script)
    running = await gateway(up, route={"body": {"max": "1000B"}})
    begun = post(CHUNKED, body=None) + chunk(b"hello")
    for fault in ("leaves", "resets", "bad chunk", "too large", "idle", "half a head", "garbage"):
        client = await raw(running)
        if fault in ("leaves", "resets", "bad chunk", "too large", "idle"):
            seen = len(up.requests)
            await client.send(begun)
            await up.wait_for_request(seen + 1)
        if fault == "leaves":
            client.close()
        elif fault == "resets":
            client.reset()
        elif fault == "bad chunk":
            await client.send(b"zz\r\n")
            await client.rest()
        elif fault == "too large":
            await client.send(chunk(b"x" * 2000))
            await client.response("POST")
            client.close()
        elif fault == "idle":
            running.clock.advance(31)
            await client.response("POST")
            client.close()
        elif fault == "half a head":
            await client.send(b"GET / HT")
            client.close()
        else:
            await client.send(b"\x16\x03\x01garbage\r\n\r\n")
            await client.rest()
        await asyncio.sleep(0.02)
    await running.at_rest()
    loud = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert loud == [], [one.getMessage() for one in loud]
    assert "Traceback" not in caplog.text


async def test_faults_of_upstreams_make_no_tracebacks_in_the_log(
    origin: MakeOrigin,
    gateway: MakeGateway,
    raw: MakeClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers = [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        reply(b"", CHUNKED, length=False) + b"zz\r\n",
        b"",
    ]

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answers[peer.number % len(answers)])
        await asyncio.sleep(0.02)

    running = await gateway(await origin(script), route={"retry": "off"})
    for _ in answers:
        client = await raw(running)
        await client.send(get())
        await client.some()
        client.close()
    await running.at_rest()
    assert "Traceback" not in caplog.text
    assert "never retrieved" not in caplog.text


# ── unix sockets ──


async def test_a_unix_listener_and_a_unix_target_carry_requests(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin(unix=str(tmp_path / "up.sock"))
    socket = tmp_path / "gw.sock"
    running = await gateway(up, listeners=[{"bind": f"unix:{socket}"}])
    gc.collect()  # the listener must be kept by somebody
    client = await raw(f"unix:{socket}")
    for _ in range(2):
        got = await client.ask(get(host=b"a.test"))
        assert (got.status, got.body) == (200, b"ok")
    assert up.requests[0].get("host") == b"a.test"
    assert up.requests[0].get("x-forwarded-for") == b"unix"
    assert len(up.connections) == 1
    assert (await running.log())[0]["client_ip"] == "unix"


async def test_limits_of_the_head_hold_on_unix_listeners_too(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    socket = tmp_path / "gw.sock"
    running = await gateway(await origin(), listeners=[{"bind": f"unix:{socket}"}])
    client = await raw(f"unix:{socket}")
    await client.send(b"GET / HTTP/1.1\r\n")
    await asyncio.sleep(0.02)
    running.clock.advance(10.5)
    problem(await client.response(), "client_timeout", 408)


async def test_a_dead_unix_target_is_refused(
    gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    route = {"path": "/*", "to": f"unix:{tmp_path}/nobody.sock"}
    client = await raw(await gateway({"routes": [route]}))
    got = await client.ask(get())
    problem(got, "connect_refused", 502)
    assert b"nobody" not in got.raw


# ── trailers ──


@pytest.mark.parametrize("pieces", ["one", "two", "bytes"])
async def test_trailers_pass_however_they_are_cut(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, pieces: str
) -> None:
    end = b"0\r\nX-Sum: abc\r\nX-Other:  d e \r\n\r\n"

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply(b"", CHUNKED, b"Trailer: X-Sum", length=False) + chunk(b"hello"))
        parts = {"one": [end], "two": [end[:8], end[8:]], "bytes": [bytes([one]) for one in end]}
        for part in parts[pieces]:
            await peer.send(part)
            await asyncio.sleep(0.002)
        await peer.rest()

    client = await raw(await gateway(await origin(script)))
    got = await client.ask(get(b"/", *WANTS))
    assert (got.body, got.trailers) == (b"hello", end[3:-2])
    assert got.get("trailer") == b"X-Sum"


async def test_a_body_that_looks_like_trailers_is_a_body(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    tricky = b"x\r\n0\r\nX-Evil: 1\r\n\r\n"
    up = await origin(reply(b"", CHUNKED, length=False) + chunk(tricky) + b"0\r\n\r\n")
    client = await raw(await gateway(up))
    for _ in range(2):
        got = await client.ask(get(b"/", *WANTS))
        assert (got.body, got.trailers) == (tricky, b"")


@pytest.mark.parametrize(
    "line", [b"Content-Length: 5", b"Transfer-Encoding: gzip", b"X: a\x00b", b"Bad name: 1"]
)
async def test_a_bad_trailer_never_reaches_the_client(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, line: bytes
) -> None:
    answer = reply(b"", CHUNKED, length=False) + chunk(b"hello") + b"0\r\n" + line + b"\r\n\r\n"
    client = await raw(await gateway(await origin(answer), route={"retry": "off"}))
    await client.send(get(b"/", *WANTS, b"Connection: close"))
    assert line not in await client.rest()


async def test_trailers_of_one_answer_are_not_those_of_the_next(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    first = reply(b"", CHUNKED, length=False) + chunk(b"a") + b"0\r\nX-T: 1\r\n\r\n"
    second = reply(b"", CHUNKED, length=False) + chunk(b"b") + b"0\r\n\r\n"
    client = await raw(await gateway(await origin([first, second])))
    assert (await client.ask(get(b"/", *WANTS))).trailers == b"X-T: 1\r\n"
    got = await client.ask(get(b"/", *WANTS))
    assert (got.body, got.trailers) == (b"b", b"")


async def test_no_trailers_for_http_1_0_or_for_bodies_with_a_length(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    answer = reply(b"", CHUNKED, length=False) + chunk(b"hello") + b"0\r\nX-T: 1\r\n\r\n"
    client = await raw(await gateway(await origin(answer)))
    got = await client.ask(get(b"/", *WANTS, version=b"HTTP/1.0"))
    assert (got.body, b"X-T" in got.raw) == (b"hello", False)


# ── the pool ──


async def test_the_connection_that_rested_last_is_used_first(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up)
    clients = [await raw(running) for _ in range(5)]
    await asyncio.gather(*[client.ask(get()) for client in clients])
    used = len(up.connections)
    before = [len(peer.requests) for peer in up.connections]
    for _ in range(10):
        await clients[0].ask(get())
    after = [len(peer.requests) for peer in up.connections]
    grown = [now - then for now, then in zip(after, before, strict=True) if now != then]
    assert grown == [10]
    assert len(up.connections) == used


async def test_a_rested_connection_ends_after_its_time(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up)
    await (await raw(running)).ask(get())
    running.clock.advance(3.5)
    assert not up.connections[0].ending
    running.clock.advance(1)
    assert await up.connections[0].closed_soon()
    assert running.metric("gateway_upstream_connections") == 0


async def test_a_reply_that_was_not_read_to_its_end_costs_its_connection(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        while True:
            message = await peer.request()
            if message.target == b"/cut":
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            else:
                await peer.send(reply(message.target))

    up = await origin(script)
    running = await gateway(up)
    client = await raw(running)
    await client.send(get(b"/cut"))
    await client.until(b"half")
    client.close()
    assert await up.connections[0].closed_soon()
    assert (await (await raw(running)).ask(get(b"/next"))).body == b"/next"


async def test_an_early_answer_costs_the_upstreams_connection(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(reply(b"early"))
        await peer.rest()

    up = await origin(script)
    running = await gateway(up)
    client = await raw(running)
    await client.send(post(b"Content-Length: 10", body=None) + b"hello")
    assert (await client.response("POST")).body == b"early"
    assert await up.connections[0].closed_soon()
    assert len(up.connections) == 1


# ── an answer of the gateway's own to a request with a body ──


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_fixed_answer_to_an_upload_keeps_the_connection_in_step(
    gateway: MakeGateway, raw: MakeClient, framing: str
) -> None:
    route = {"path": "/*", "respond": {"status": 200, "body": "fixed"}}
    client = await raw(await gateway({"routes": [route]}))
    evil = get(b"/evil")
    sent = (
        post(body=evil)
        if framing == "length"
        else post(CHUNKED, body=None) + chunk(evil) + b"0\r\n\r\n"
    )
    for _ in range(3):
        got = await client.ask(sent)
        assert (got.status, got.body) == (200, b"fixed")
    assert await client.silence(0.05)


async def test_a_fixed_answer_to_half_an_upload_ends_the_connection(
    gateway: MakeGateway, raw: MakeClient
) -> None:
    route = {"path": "/*", "respond": {"status": 200, "body": "fixed"}}
    client = await raw(await gateway({"routes": [route]}))
    await client.send(post(b"Content-Length: 50", body=None) + b"half")
    got = await client.response("POST")
    assert (got.status, got.get("connection")) == (200, b"close")
    await client.send(get(b"/evil"))
    client.half_close()
    assert b"HTTP/1.1" not in await client.rest()


async def test_an_upstreams_answer_is_never_given_to_another_client(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def script(peer: Peer) -> None:
        while True:
            message = await peer.request()
            await asyncio.sleep(0.001 * (hash(message.target) % 5))
            await peer.send(reply(message.target))

    running = await gateway(await origin(script))

    async def asks(number: int) -> None:
        client = await raw(running)
        for turn in range(10):
            path = b"/%d-%d" % (number, turn)
            if (number + turn) % 7 == 0:
                gone = await raw(running)
                await gone.send(get(path + b"-gone"))
                await asyncio.sleep(0.001)
                gone.reset()
            assert (await client.ask(get(path))).body == path

    await asyncio.gather(*[asks(number) for number in range(20)])


async def test_two_hundred_and_odd_answers_in_a_row_stay_in_step(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    kinds = [
        OK,
        reply(b"", CHUNKED, length=False) + chunk(b"ok") + b"0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n',
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK,
        reply(b"x" * 100_000),
    ]
    up = await origin(kinds * 40)
    client = await raw(await gateway(up))
    for turn in range(len(kinds) * 40):
        got = await client.ask(get() if turn % 2 else post(body=b"x" * (turn * 10)))
        expected = kinds[turn % len(kinds)].split(b"\r\n\r\n")[-2 if turn % len(kinds) == 4 else 0]
        assert got.start == expected.split(b"\r\n")[0]
