"""Requests in a row, cut anywhere, to targets that answer in every way, with clients that leave: against a model.

Rules of this file: what is random comes from a seed that is in the test's name. However it falls out, each request that is
answered has its own answer and one only, in its place; what is not answered ends with its connection; nothing stays counted.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.kit.origin import chunk, reply
from tests.kit.wire import Ended

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Peer
    from tests.kit.raw import Client
    from tests.kit.running import Running

HOST = b"Host: a.test\r\n"
WAYS = (
    *["whole"] * 4, "halves", "chunked", "whole chunks", "empty", "none", "unmodified", "early hints", "continue",
    "until the end", "close", "reset", "broken", "cut", "surplus", "slow", "large", "trailers",
)  # fmt: skip


class Target:
    """Answers as the path asks: /up/NUMBER/WAY."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.asked: list[bytes] = []

    async def script(self, peer: Peer) -> None:
        while True:
            message = await peer.request()
            _, _, number, way = message.target.split(b"/")
            self.asked.append(number)
            for _ in range(self.dice.randrange(3)):
                await asyncio.sleep(0)
            if not await self.answer(peer, way.decode().replace("-", " "), number):
                return

    async def answer(self, peer: Peer, way: str, number: bytes) -> bool:
        body = b"<%b>" % number
        named = b"X-Number: %b" % number
        whole = reply(body, named)
        length = b"Content-Length: %d\r\n" % len(body)
        head = b"HTTP/1.1 200 OK\r\n%b\r\n" % named
        coded = head + b"Transfer-Encoding: chunked\r\n\r\n"
        pieces: dict[str, list[bytes]] = {
            "whole": [whole],
            "halves": [whole[:-2], whole[-2:]],
            "chunked": [coded, chunk(body), chunk(b"")],
            "whole chunks": [coded + chunk(body) + chunk(b"")],
            "trailers": [coded + chunk(body) + b"0\r\nX-Trailer: 1\r\n\r\n"],
            "empty": [head + b"Content-Length: 0\r\n\r\n"],
            "none": [b"HTTP/1.1 204 No Content\r\n%b\r\n\r\n" % named],
            "unmodified": [b"HTTP/1.1 304 Not Modified\r\n%b\r\n%b\r\n" % (named, length)],
            "early hints": [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", whole],
            "continue": [b"HTTP/1.1 100 Continue\r\n\r\n" + whole],
            "until the end": [head + b"\r\n", body],
            "close": [head + length + b"Connection: close\r\n\r\n" + body],
            "reset": [],
            "broken": [b"HTTP/1.1 2x0 OK\r\n\r\n"],
            "cut": [whole[:-2]],
            "surplus": [whole + b"HTTP/1.1 200 OK\r\nX-Number: none"],
            "large": [head + b"Content-Length: 300000\r\n\r\n", b"x" * 300_000],
            "slow": [whole[:10], whole[10:]],
        }
        for index, piece in enumerate(pieces[way]):
            if index or way == "slow":
                await asyncio.sleep(0.01 if way == "slow" else 0)
            await peer.send(piece)
        if way == "reset":
            peer.reset()
        return way not in ("until the end", "close", "reset", "broken", "cut", "surplus")


def request(dice: random.Random, number: int) -> tuple[str, bytes]:
    """(its method, a request)."""
    where = dice.choice(["up", "up", "up", "up", "here", "tight"])
    method = dice.choice(["GET", "GET", "GET", "HEAD", "POST", "PUT"])
    way = dice.choice(WAYS).replace(" ", "-").encode()
    fields = dice.choice(
        [HOST, HOST, HOST + b"X: 1\r\n", HOST + b"X: 2\r\nTE: trailers\r\nConnection: TE\r\n"]
    )
    if dice.random() < 0.02:
        fields += b"Connection: close\r\n"
    body = b""
    if method in ("POST", "PUT"):
        body = b"b" * dice.choice([0, 1, 50, 3000])
        if dice.random() < 0.5:
            fields += b"Content-Length: %d\r\n" % len(body)
        else:
            fields += b"Transfer-Encoding: chunked\r\n"
            body = (chunk(body) if body else b"") + chunk(b"")
        if dice.random() < 0.1:
            fields += b"Expect: 100-continue\r\n"
    elif dice.random() < 0.05:
        fields += b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    return method, b"%b /%b/%d/%b HTTP/1.1\r\n%b\r\n%b" % (
        method.encode(), where.encode(), number, way, fields, body
    )  # fmt: skip


async def speak(dice: random.Random, client: Client, asked: list[tuple[int, str, bytes]]) -> None:
    """Send the requests in segments that have nothing to do with where they end."""
    data = b"".join(one for _, _, one in asked)
    try:
        while data:
            size = dice.choice([1, 20, 100, 400, 2000, 100_000])
            if dice.random() < 0.3:  # to the end of a request
                size = max(data.find(b"HTTP/1.1\r\n") + 10, 1)
            piece, data = data[:size], data[size:]
            await client.send(piece)
            for _ in range(dice.choice([0, 0, 1, 5])):
                await asyncio.sleep(0)
            if dice.random() < 0.05:
                await asyncio.sleep(0.005)
    except (ConnectionError, OSError):
        pass


async def hear(
    client: Client, asked: list[tuple[int, str, bytes]], most: int
) -> list[tuple[int, int]]:
    """(number, status) of each answer, until the connection ends or `most` have come."""
    heard = []
    for number, method, sent in asked[:most]:
        last = False
        try:
            answer = await client.head()
            while answer.status < 200 and answer.status != 101:
                answer = await client.head()
            last = answer.get(b"Connection") == b"close" and number != asked[-1][0]
            await client.body(answer, method)
        except Ended as ended:
            # Of a last answer the reset for what was sent behind it may take the end (RFC 9112 section 9.6).
            overtaken = last and ended.how == "rst"
            assert overtaken or b"/cut " in sent, f"ended at request {number}: {sent[:200]!r}"
            break
        assert answer.framing != "close" or not answer.body
        mine = answer.get(b"X-Number")
        if mine is not None:
            assert int(mine) == number, f"request {number} was told the answer of {mine!r}"
        if answer.status == 200 and method != "HEAD" and len(answer.body) < 100:
            own = (b"", b"<%d>" % number)
            assert answer.body in own or answer.body.startswith(b"</here/%d/" % number)
        heard.append((number, answer.status))
        if answer.get(b"Connection") == b"close":
            assert await client.rest() == b"", "something came behind the last answer"
            break
    return heard


@pytest.mark.parametrize("seed", range(20))
async def test_each_request_has_one_answer_of_its_own_or_ends_with_its_connection(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, seed: int
) -> None:
    dice = random.Random(seed)
    target = Target(dice)
    up = await origin(target.script)
    running = await gateway(
        {
            "routes": [
                {"name": "up", "path": "/up/*", "to": "up", "timeouts": {"total": "60s"}},
                {"name": "tight", "path": "/tight/*", "to": "tight", "headers": {"response": {"set": {"A": "1"}}}},
                {"name": "here", "path": "/here/*", "respond": {"body": "<{path}>"}},
            ],
            "upstreams": {
                "up": {"targets": [up.url]},
                "tight": {"targets": [up.url], "concurrency": {"per_target": 2}, "pool": {"max": 1},
                          "circuit": {}},
            },
        }
    )  # fmt: skip
    number, posts, answered = 0, set(), 0
    for _ in range(4):
        talks = []
        for _ in range(3):
            asked: list[Any] = []
            for _ in range(dice.randrange(1, 20)):
                number += 1
                asked.append((number, *request(dice, number)))
                if asked[-1][1] == "POST":
                    posts.add(b"%d" % number)
                if b"Connection: close" in asked[-1][2]:
                    break  # to send more would be an error
            client = await raw(running)
            most = len(asked) if dice.random() < 0.7 else dice.randrange(len(asked))
            talks.append(_talk(dice, client, asked, most))
        answered += sum(await asyncio.gather(*talks))
        if dice.random() < 0.2:
            running.clock.advance(61)
    await running.at_rest()
    await running.eventually("gateway_requests_in_flight", 0)
    await running.eventually("gateway_upstream_connections", 0, state="active")
    for name in ("up", "tight"):
        (whole,) = targets(running, name)
        assert (whole.in_flight, len(whole.connections.waiting)) == (0, 0)
        assert whole.limit is None or whole.limit.busy == 0
    assert answered <= running.metric("gateway_requests_total") <= number
    sent = [one for one in target.asked if one in posts]
    assert len(sent) == len(set(sent)), "a POST was sent twice"
    proxy = running.gateway.proxy
    assert (proxy.in_flight, proxy.snapshot.in_flight) == (0, 0)


def targets(running: Running, upstream: str) -> list[Any]:
    source: Any = running.gateway.metrics.upstream(upstream).source
    return [*source.targets]


async def _talk(dice: random.Random, client: Client, asked: list[Any], most: int) -> int:
    """Speak and hear; returns how many answers have come."""
    speaking = asyncio.get_running_loop().create_task(speak(dice, client, asked))
    heard = await hear(client, asked, most)
    if len(heard) == most < len(asked):
        client.close() if dice.random() < 0.5 else client.reset()
    speaking.cancel()
    await asyncio.gather(speaking, return_exceptions=True)
    client.close()
    return len(heard)
