"""Copies of requests: what is sent, what is compared, and that everything has a bound."""

from __future__ import annotations

import asyncio
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import pytest_asyncio

from gateway.config import model
from gateway.exchange import Exchange, Reply
from gateway.middleware import mirror as module
from gateway.middleware import tap
from gateway.middleware.compare import Comparison
from gateway.middleware.mirror import IN_FLIGHT, Mirror, Mirrors, ended, mirroring
from gateway.middleware.tap import MOST_BODY
from gateway.observe.metrics import Metrics
from gateway.outbound import Outbound
from gateway.upstream.upstream import Upstream
from tests.kit.clock import FakeClock
from tests.kit.origin import CLOSING, OK, reply
from tests.kit.wire import PATIENCE
from tests.observe.stand_in import exchange
from tests.upstream.test_upstream import settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import MakeOrigin
    from tests.kit.origin import Origin, Peer

JSON = b"Content-Type: application/json"
OK_FIELDS = ((b"Content-Length", b"2"),)


class Case:
    """One route's mirror, and what its data path would do."""

    def __init__(self, comparison: Comparison | None = None) -> None:
        self.clock = FakeClock()
        metrics = Metrics(model.Metrics())
        self.meter = metrics.route("orders")
        self.upstream = Upstream("next", self.clock, metrics.upstream("next"))
        self.mirrors = Mirrors()
        self.mirror = Mirror("orders", self.upstream, comparison, self.meter, self.mirrors)
        self.handler = mirroring(self.mirror, 1.0, forward)

    def point(self, *origins: Origin, **words: Any) -> None:
        self.upstream.apply(settings(*[one.url for one in origins], **words))

    async def begin(self, method: str = "GET", length: int | None = 0, **words: Any) -> Exchange:
        payload = SimpleNamespace(at_eof=lambda: True)
        one = exchange(
            method=method,
            length=length,
            has_body=length != 0,
            incoming=SimpleNamespace(payload=payload),
            **words,
        )
        await self.handler(one)
        return one

    async def run(
        self,
        status: int = 200,
        fields: tuple[tuple[bytes, bytes], ...] = OK_FIELDS,
        answer: bytes = b"ok",
        *,
        method: str = "GET",
        body: bytes = b"",
        chunked: bool = False,
        edits: bytes = b"",
    ) -> None:
        """A whole exchange, then its copy."""
        one = await self.begin(method, None if chunked else len(body))
        shown = one.tap
        if shown is not None:
            framing = b"Transfer-Encoding: chunked\r\n" if chunked else b""
            if body and not chunked:
                framing = b"Content-Length: %d\r\n" % len(body)
            out = Outbound(
                method, "/orders/7?x=%2F", b"api.example.com", framing + b"x-Raw: \xff\r\n"
            )
            shown.on_head(out, edits)
            for at in range(0, len(body), 1000):
                shown.on_request(body[at : at + 1000])
            shown.on_response(status, fields)
            for at in range(0, len(answer), 1000):
                shown.on_body(answer[at : at + 1000])
        ended(one)
        await self.settled()

    async def settled(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.mirrors.running:
                await asyncio.sleep(0.005)
        assert (self.mirror.held, self.mirror.in_flight) == (0, 0)
        assert all(target.in_flight == 0 for target in self.upstream.targets)

    @property
    def results(self) -> dict[str, int]:
        return {word: count for word, count in self.meter.mirrored.items() if count}


async def forward(one: Exchange) -> Reply:
    return Reply(200, [])


@pytest_asyncio.fixture
async def case() -> AsyncIterator[Case]:
    made = Case(Comparison(["header.date"]))
    yield made
    await made.mirrors.aclose()
    await made.upstream.aclose()


# ── what is sent ──


async def test_the_copy_is_the_request_as_the_upstream_got_it_with_the_marker(
    case: Case, origin: MakeOrigin
) -> None:
    upstream = await origin()
    case.point(upstream)
    await case.run(edits=b"X-Tenant: a\r\n")
    assert upstream.only.raw == (
        b"GET /orders/7?x=%2F HTTP/1.1\r\nHost: api.example.com\r\nx-Raw: \xff\r\nX-Tenant: a\r\n"
        b"X-Gateway-Mirror: 1\r\n\r\n"
    )
    assert case.results == {"match": 1}


async def test_the_path_of_the_mirrors_own_url_stands_before_it(
    case: Case, origin: MakeOrigin
) -> None:
    upstream = await origin()
    case.upstream.apply(settings(upstream.url + "/v2"))
    await case.run()
    assert upstream.only.target == b"/v2/orders/7?x=%2F"


@pytest.mark.parametrize("size", [1, 5000, MOST_BODY])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_is_copied_whole_and_framed_as_the_client_framed_it(
    case: Case, origin: MakeOrigin, size: int, chunked: bool
) -> None:
    upstream = await origin()
    case.point(upstream)
    body = Random(1).randbytes(size)
    await case.run(method="POST", body=body, chunked=chunked)
    assert upstream.only.body == body
    assert upstream.only.framing == ("chunked" if chunked else "length")
    assert case.results == {"match": 1}


async def test_an_empty_chunked_body_is_one(case: Case, origin: MakeOrigin) -> None:
    upstream = await origin()
    case.point(upstream)
    await case.run(method="POST", chunked=True)
    assert (upstream.only.framing, upstream.only.body) == ("chunked", b"")
    assert case.results == {"match": 1}


async def test_the_last_try_is_what_is_copied_and_compared(case: Case, origin: MakeOrigin) -> None:
    upstream = await origin()
    case.point(upstream)
    one = await case.begin()
    shown = one.tap
    assert shown is not None
    shown.on_head(Outbound("GET", "/first", b"a", b""), b"")
    shown.on_response(503, ())
    shown.on_body(b"busy")
    shown.on_head(Outbound("GET", "/second", b"a", b""), b"")
    shown.on_response(200, OK_FIELDS)
    shown.on_body(b"ok")
    ended(one)
    await case.settled()
    assert upstream.only.target == b"/second"
    assert case.results == {"match": 1}


async def test_copies_share_a_connection(case: Case, origin: MakeOrigin) -> None:
    upstream = await origin()
    case.point(upstream)
    for _ in range(3):
        await case.run()
    assert (len(upstream.requests), len(upstream.connections)) == (3, 1)
    assert case.results == {"match": 3}


@pytest.mark.parametrize(("method", "result"), [("GET", "match"), ("POST", "failed")])
async def test_a_copy_is_repeated_only_where_its_connection_had_gone_and_it_may_be(
    case: Case, origin: MakeOrigin, method: str, result: str
) -> None:
    async def once_then_gone(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if peer.number == 0:
            await peer.head()  # and closes without an answer

    upstream = await origin(once_then_gone)
    case.point(upstream)
    await case.run(method=method)
    await case.run(method=method)
    assert case.results == ({"match": 2} if result == "match" else {"match": 1, "failed": 1})
    assert len(upstream.requests) == (3 if result == "match" else 2)


# ── what is compared ──


async def test_another_status_field_or_body_is_counted_by_kind_and_kept(
    case: Case, origin: MakeOrigin
) -> None:
    upstream = await origin(
        reply(b'{"id":8}', JSON, b"X-A: 2", b"Date: now", status=b"404 Not Found")
    )
    case.point(upstream)
    await case.run(200, ((b"Content-Type", b"application/json"), (b"X-A", b"1")), b'{"id": 7}')
    assert case.results == {"mismatch": 1}
    assert case.meter.mismatches == {"status": 1, "header": 1, "body": 1}
    [mismatch] = case.mirrors.mismatches
    assert (mismatch.route, mismatch.method, mismatch.path) == ("orders", "GET", "/orders/7")
    assert (mismatch.upstream, mismatch.target) == ("next", upstream.address)
    assert (mismatch.request_id, mismatch.at > 1e9) == ("0" * 32, True)
    assert [tuple(each) for each in mismatch.differences] == [
        ("status", "status", "200", "404"),
        ("header", "header.x-a", "1", "2"),
        ("body", "body.$.id", "7", "8"),
    ]


async def test_what_may_differ_is_no_mismatch(origin: MakeOrigin) -> None:
    case = Case(Comparison(["header.x-a", "body.$.at"]))
    upstream = await origin(reply(b'{"id":7,"at":2}', JSON, b"X-A: 2"))
    case.point(upstream)
    await case.run(
        200, ((b"content-type", b"application/json"), (b"X-A", b"1")), b'{"at":1,"id":7}'
    )
    assert case.results == {"match": 1}
    assert not case.mirrors.mismatches
    await case.upstream.aclose()


async def test_without_compare_any_answer_is_a_match_and_no_response_is_held(
    origin: MakeOrigin,
) -> None:
    case = Case(None)
    upstream = await origin(reply(b"other", status=b"500 Oops"))
    case.point(upstream)
    one = await case.begin()
    assert one.tap is not None
    one.tap.on_head(Outbound("GET", "/", b"a", b""), b"")
    one.tap.on_response(200, ())
    one.tap.on_body(b"x" * 1000)
    assert case.mirror.held == 0
    ended(one)
    await case.settled()
    assert case.results == {"match": 1}
    await case.upstream.aclose()


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", reply(b"", b"Content-Length: 999", length=False)),
        ("GET", reply(b"", b"X-A: 1", status=b"204 No Content", length=False)),
        ("GET", b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK),
        ("GET", CLOSING),
        ("GET", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok"),
    ],
)
async def test_answers_of_every_form_are_read(
    case: Case, origin: MakeOrigin, method: str, answer: bytes
) -> None:
    async def answers(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)

    case.point(await origin(answers))
    empty = method == "HEAD" or b"204" in answer
    fields = ((b"X-A", b"1"),) if b"204" in answer else ()
    await case.run(204 if b"204" in answer else 200, fields, b"" if empty else b"ok", method=method)
    assert case.results == {"match": 1}


# ── bounds ──


async def test_a_larger_request_is_not_mirrored(case: Case, origin: MakeOrigin) -> None:
    upstream = await origin()
    case.point(upstream)
    await case.run(method="POST", body=b"x" * (MOST_BODY + 1))
    await case.run(method="POST", body=b"x" * (MOST_BODY + 1), chunked=True)
    assert case.results == {"dropped": 2}
    assert not upstream.requests


async def test_a_larger_response_is_not_compared_but_its_head_is(
    case: Case, origin: MakeOrigin
) -> None:
    large = b"x" * (MOST_BODY + 1)
    case.point(await origin())
    await case.run(answer=large)
    assert case.results == {"dropped": 1}
    await case.run(201, answer=large)
    assert case.results == {"dropped": 1, "mismatch": 1}
    assert case.meter.mismatches == {"status": 1}


async def test_a_larger_answer_of_the_mirror_is_not_read_to_its_end(
    case: Case, origin: MakeOrigin
) -> None:
    upstream = await origin(reply(b"x" * (MOST_BODY + 1)))
    case.point(upstream)
    await case.run(answer=b"ok")
    assert case.results == {"dropped": 1}
    assert await upstream.connections[0].closed_soon()


async def test_all_that_is_held_has_a_bound(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tap, "MOST_HELD", 1500)
    first, second = await case.begin("POST", None), await case.begin("POST", None)
    assert first.tap is not None
    assert second.tap is not None
    first.tap.on_request(b"x" * 1000)
    second.tap.on_request(b"x" * 1000)
    assert case.mirror.held == 1000
    second.tap.on_head(Outbound("POST", "/", b"a", b""), b"")
    second.tap.on_response(200, ())
    ended(second)
    assert case.results == {"dropped": 1}
    first.reason = "client_closed"
    ended(first)
    assert case.mirror.held == 0


async def test_only_so_many_are_under_way_and_none_delays_a_request(
    case: Case, origin: MakeOrigin
) -> None:
    async def silent(peer: Peer) -> None:
        await peer.request()
        await peer.closed_soon()
        await asyncio.get_running_loop().create_future()

    upstream = await origin(silent)
    case.point(upstream)
    tapped = [await case.begin() for _ in range(IN_FLIGHT + 2)]
    for one in tapped:
        assert one.tap is not None
        one.tap.on_head(Outbound("GET", "/", b"a", b""), b"")
        one.tap.on_response(200, ())
        ended(one)
    assert case.mirror.in_flight == IN_FLIGHT
    assert case.results == {"dropped": 2}
    assert (await case.begin()).tap is None, "not even gathered"
    assert case.results == {"dropped": 3}
    await case.mirrors.aclose()
    await case.settled()
    assert case.results == {"dropped": 3, "failed": IN_FLIGHT}


@pytest.mark.parametrize("timeouts", [{"first_byte": 5}, {"first_byte": None}])
async def test_a_mirror_that_does_not_answer_is_given_up(
    case: Case, origin: MakeOrigin, timeouts: dict[str, Any]
) -> None:
    async def silent(peer: Peer) -> None:
        await peer.request()
        await asyncio.get_running_loop().create_future()

    upstream = await origin(silent)
    case.point(upstream, timeouts=model.Timeouts(**timeouts))
    one = await case.begin()
    assert one.tap is not None
    one.tap.on_head(Outbound("GET", "/", b"a", b""), b"")
    one.tap.on_response(200, ())
    ended(one)
    await upstream.wait_for_request()
    case.clock.advance(4)
    await asyncio.sleep(0.01)
    assert case.mirror.in_flight == 1
    case.clock.advance(1 if timeouts["first_byte"] else module.TAKES)
    await case.settled()
    assert case.results == {"failed": 1}


async def test_a_mirror_that_drips_is_given_up_in_the_end(case: Case, origin: MakeOrigin) -> None:
    drips = asyncio.Event()

    async def dripping(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            await peer.send(b"x")
            drips.set()
            await asyncio.sleep(0.01)

    case.point(await origin(dripping))
    running = asyncio.get_running_loop().create_task(case.run())
    for _ in range(4):
        drips.clear()
        async with asyncio.timeout(PATIENCE):
            await drips.wait()
        await asyncio.sleep(0.05)
        case.clock.advance(module.TAKES / 3)
    await running
    assert case.results == {"failed": 1}


async def test_a_mirror_that_refuses_breaks_off_or_talks_nonsense_has_failed(
    case: Case, origin: MakeOrigin
) -> None:
    async def breaks_off(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")

    case.point(await origin(breaks_off))
    await case.run()
    case.point(await origin(b"SMTP/1.1 what\r\n\r\n"))
    await case.run()
    case.point(await origin(b"HTTP/1.1 100 Continue\r\n\r\n" * 20))
    await case.run()
    gone = await origin()
    case.point(gone)
    await gone.refuse()
    await case.run()
    assert case.results == {"failed": 4}


async def test_a_mirror_without_a_target_that_can_be_used_has_failed(
    case: Case, origin: MakeOrigin
) -> None:
    case.point(await origin())
    case.upstream.targets[0].draining = True
    case.upstream.refresh()
    await case.run()
    assert case.results == {"failed": 1}


# ── which exchanges ──


@pytest.mark.parametrize(
    "what",
    [
        {"reason": "upstream_reset"},
        {"source": "gateway"},
        {"source": "client", "status": 499},
        {"upgraded": True, "status": 101},
        {
            "has_body": True,
            "incoming": SimpleNamespace(payload=SimpleNamespace(at_eof=lambda: False)),
        },
    ],
    ids=lambda what: next(iter(what)),
)
async def test_an_exchange_that_did_not_end_well_is_not_mirrored(
    case: Case, what: dict[str, Any]
) -> None:
    one = await case.begin()
    assert one.tap is not None
    one.tap.on_head(Outbound("GET", "/", b"a", b""), b"")
    one.tap.on_response(200, ())
    one.tap.on_body(b"half")
    for name, value in what.items():
        setattr(one, name, value)
    ended(one)
    assert case.results == {"dropped": 1}
    assert case.mirror.held == 0
    assert not case.mirrors.running
    ended(one)
    assert case.results == {"dropped": 1}, "once"


async def test_an_exchange_that_never_reached_an_upstream_is_not_mirrored(case: Case) -> None:
    one = await case.begin()
    ended(one)
    assert case.results == {"dropped": 1}


async def test_the_share_is_kept_in_the_long_run_and_what_is_not_chosen_pays_nothing(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_random", Random(3).random)
    handler = mirroring(case.mirror, 0.1, forward)
    chosen = 0
    for _ in range(10_000):
        one = exchange(length=0)
        await handler(one)
        chosen += one.tap is not None
    assert 850 < chosen < 1150  # five standard deviations
    never = mirroring(case.mirror, 0.0, forward)
    waiting = cast("Any", never(one := exchange(length=0)))
    assert waiting.cr_code is forward.__code__
    await waiting
    assert one.tap is None
    ended(one)
    assert case.results == {}


async def test_only_the_last_mismatches_are_kept(case: Case, monkeypatch: Any) -> None:
    from collections import deque

    assert case.mirrors.mismatches.maxlen == module.KEPT
    case.mirrors.mismatches = deque(maxlen=2)
    for status in range(200, 205):
        case.mirror._differs(
            cast("Any", SimpleNamespace(method="GET", path="/", request_id=str(status))),
            cast("Any", SimpleNamespace(name="a:80")),
            [],
        )
    assert [each.request_id for each in case.mirrors.mismatches] == ["203", "204"]
