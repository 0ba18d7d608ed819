"""Attacks on signatures: what was signed is changed, used again, moved in time, written twice, or cut off."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.auth.signing import lines
from tests.e2e.conformance.conftest import get, post
from tests.e2e.test_signatures import BODY, SCHEMES, fields, signed
from tests.kit.origin import chunk

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin

each = pytest.mark.parametrize("scheme", SCHEMES)
timed = pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "github"])


@each
@pytest.mark.parametrize(
    "body",
    [
        b"",
        BODY[:-1],
        BODY + b"\0",
        BODY.upper(),
        BODY.replace(b"evt_1", b"evt_2"),
        BODY + BODY,
        b" " + BODY,
    ],
    ids=["empty", "cut", "longer", "case", "changed", "twice", "moved"],
)
async def test_a_body_that_was_tampered_with(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, scheme: str, body: bytes
) -> None:
    up = await origin()
    running = await gateway(up, route={"auth": "hooks"}, auth=signed(scheme))
    client = await raw(running)
    assert (await client.ask(post(*fields(scheme, running), body=body))).status == 401
    answer = await client.ask(
        post(*fields(scheme, running), b"Transfer-Encoding: chunked", body=None)
        + (chunk(body) if body else b"") + b"0\r\n\r\n"
    )  # fmt: skip
    assert answer.status == 401
    assert up.requests == []


@timed
async def test_a_replay_from_many_connections_at_once_is_let_in_once(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, scheme: str
) -> None:
    up = await origin()
    running = await gateway(up, route={"auth": "hooks"}, auth=signed(scheme))
    sent = post(*fields(scheme, running), body=BODY)
    clients = [await raw(running) for _ in range(20)]
    for client in clients:
        await client.send(sent[:-5])
    answers = await asyncio.gather(*(client.ask(sent[-5:], method="POST") for client in clients))
    assert sorted(answer.status for answer in answers) == [200] + [401] * 19
    assert len(up.requests) == 1


@timed
@pytest.mark.parametrize("shift", [-86400, -301, 301, 86400, 10**9])
async def test_a_time_that_is_not_now(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, scheme: str, shift: int
) -> None:
    up = await origin()
    running = await gateway(up, route={"auth": "hooks"}, auth=signed(scheme))
    client = await raw(running)
    sent = lines(SCHEMES[scheme](BODY, running.clock.wall() + shift))
    assert (await client.ask(post(*sent, body=BODY))).status == 401
    assert up.requests == []


@timed
@pytest.mark.parametrize(
    "spelt",
    [
        "{}.0",
        "+{}",
        "0x6553f100",
        "{}e0",
        "{}_0",
        "0{}",
        "-{}",
        "{} {}",
        "NaN",
        "",
        "{}" * 40,
        "\udcff{}",
    ],
)
async def test_a_time_that_is_spelt_otherwise_than_it_was_signed(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, scheme: str, spelt: str
) -> None:
    up = await origin()
    running = await gateway(up, route={"auth": "hooks"}, auth=signed(scheme))
    client = await raw(running)
    now = str(int(running.clock.wall()))
    sent = [
        line.replace(now.encode(), spelt.replace("{}", now).encode("utf-8", "surrogateescape"))
        for line in fields(scheme, running)
    ]
    status = (await client.ask(post(*sent, body=BODY))).status
    assert status == 401
    assert up.requests == []


@each
async def test_each_field_twice_in_either_order(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, scheme: str
) -> None:
    up = await origin()
    running = await gateway(up, route={"auth": "hooks"}, auth=signed(scheme))
    client = await raw(running)
    good = fields(scheme, running)
    for index, line in enumerate(good):
        name = line.partition(b":")[0]
        for other in (line, name + b": x", name.upper() + b":"):
            for twice in ([*good, other], [other, *good], [*good[:index], other, *good[index:]]):
                assert (await client.ask(post(*twice, body=BODY))).status == 401
    assert up.requests == []


@each
async def test_each_field_cut_off_anywhere_or_missing(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, scheme: str
) -> None:
    up = await origin()
    running = await gateway(up, route={"auth": "hooks"}, auth=signed(scheme))
    client = await raw(running)
    good = fields(scheme, running)
    for index, line in enumerate(good):
        name, _, value = line.partition(b": ")
        for end in range(0, len(value), 3):
            cut = [*good[:index], name + b": " + value[:end], *good[index + 1 :]]
            assert (await client.ask(post(*cut, body=BODY))).status == 401
        assert (await client.ask(post(*good[:index], *good[index + 1 :], body=BODY))).status == 401
    assert up.requests == []


@each
@pytest.mark.parametrize("other", SCHEMES)
async def test_a_signature_of_another_scheme_with_the_same_secret(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, scheme: str, other: str
) -> None:
    up = await origin()
    running = await gateway(up, route={"auth": "hooks"}, auth=signed(scheme, header="X-Any"))
    client = await raw(running)
    sent = [
        b"X-Any:" + line.partition(b":")[2] if b"ignature" in line else line
        for line in fields(other, running)
    ]
    assert (await client.ask(post(*sent, body=BODY))).status == (200 if other == scheme else 401)


async def test_a_signature_of_ones_own_for_another_request(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, route={"auth": "hooks"}, auth=signed("request"))
    client = await raw(running)
    sent = fields("request", running, b"", method="GET", target="/orders/1")
    for request in (
        get(b"/orders/2", *sent), get(b"/orders/1?all=1", *sent), get(b"/orders/1?", *sent),
        get(b"/orders/%31", *sent), get(b"/orders//1", *sent), get(b"/orders/1", *sent, method=b"DELETE"),
        get(b"/orders/1", *sent, host=b"b.test"), get(b"/orders/1", *sent, body=b"x"),
    ):  # fmt: skip
        assert (await client.ask(request)).status == 401
    assert up.requests == []
    assert (await client.ask(get(b"/orders/1", *sent, host=b"A.test:8080"))).status == 200


async def test_a_body_larger_than_the_limit_is_neither_read_on_nor_held(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, route={"auth": "hooks"}, auth=signed("github", max_body="64KiB"))
    client = await raw(running)
    sent = fields("github", running)
    huge = b"Content-Length: 1000000000"
    answer = await client.ask(post(*sent, huge, body=None))
    assert (answer.status, answer.get("connection")) == (413, b"close")
    client = await raw(running)
    await client.send(post(*sent, b"Transfer-Encoding: chunked", body=None))
    await client.send_until_full(chunk(b"x" * 65536))
    answer = await client.response()
    assert (answer.status, answer.get("connection")) == (413, b"close")
    assert up.requests == []


async def test_a_follower_behind_a_refused_body_is_not_taken_for_a_request_within_it(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, route={"auth": "hooks"}, auth=signed("github"))
    client = await raw(running)
    evil = b"GET /evil HTTP/1.1\r\nHost: a.test\r\n\r\n"
    good = fields("github", running)
    bad = [good[0][:-4] + b"0000"]
    await client.send(post(*bad, body=evil) + post(*good, body=BODY) + post(*bad, body=BODY))
    assert [(await client.response()).status for _ in range(3)] == [401, 200, 401]
    assert up.only.body == BODY
    chunked = post(*bad, b"Transfer-Encoding: chunked", body=None) + chunk(evil) + b"0\r\n\r\n"
    await client.send(chunked + post(*good, body=BODY))
    assert (await client.response()).status == 401
    assert await client.rest() == b"", "what is pipelined behind a chunked body is not trusted"
    assert [one.target for one in up.requests] == [b"/"]


async def test_a_body_that_stops_half_way_is_given_up(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, route={"auth": "hooks"}, auth=signed("github"))
    client = await raw(running)
    await client.send(post(*fields("github", running), b"Content-Length: 100", body=None) + b"half")
    assert await client.silence(0.05)
    running.clock.advance(31)
    assert (await client.response()).status == 408
    leaving = await raw(running)
    await leaving.send(
        post(*fields("github", running), b"Content-Length: 100", body=None) + b"half"
    )
    await running.eventually("gateway_requests_in_flight", 1)
    leaving.close()
    await running.eventually("gateway_requests_in_flight", 0)
    assert up.requests == []


async def test_many_bodies_that_are_never_finished_do_not_fill_the_memory(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.auth.signed._MOST_HELD", 256 * 1024)
    up = await origin()
    running = await gateway(up, route={"auth": "hooks"}, auth=signed("github", max_body="200KiB"))
    forged = post(b"X-Hub-Signature-256: sha256=" + b"0" * 64, b"Content-Length: 200000", body=None)
    [policy] = running.gateway._resources.of("auth")
    holding = [await raw(running) for _ in range(2)]
    for number, client in enumerate(holding, 1):
        await client.send(forged + b"x" * 120_000)
        async with asyncio.timeout(10):
            while policy._held < number * 120_000:
                await asyncio.sleep(0.01)
    late = await raw(running)
    answer = await late.ask(forged + b"x" * 120_000)
    assert (answer.status, answer.get("retry-after")) == (503, b"1")
    small = await raw(running)
    assert (await small.ask(post(*fields("github", running), body=BODY))).status == 200
    for client in holding:
        client.close()
    async with asyncio.timeout(10):
        while policy._held:
            await asyncio.sleep(0.01)
    late = await raw(running)
    assert (await late.ask(forged + b"x" * 200_000)).status == 401
    assert policy._held == 0
