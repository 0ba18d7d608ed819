"""Active checks against real servers that answer, refuse, hang, lie and never end."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import trustme

from gateway.config import model
from gateway.observe.metrics import Metrics
from gateway.upstream.health import JITTER, MOST_AT_ONCE
from gateway.upstream.upstream import Target, Upstream
from tests.kit.clock import FakeClock
from tests.kit.origin import OK, reply
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.conftest import MakeOrigin
    from tests.kit.origin import Peer

PATH = {"path": "/healthz"}
BROKEN = reply(b"no", status=b"500 Internal Server Error")


async def until(fact: Callable[[], object]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(PATIENCE):
        while not fact():
            await asyncio.sleep(0.005)


class Checked:
    """An upstream whose targets are checked, on a clock that the test moves."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.metrics = Metrics(model.Metrics())
        self.upstream = Upstream("up", self.clock, self.metrics.upstream("up"))
        self.upstream.liveness.checks.uniform = lambda low, high: 1.0
        self.tls = model.UpstreamTls()

    def apply(self, *urls: str, health: dict[str, Any] | None = None, **more: Any) -> None:
        """New settings, `health` as it is written."""
        self.upstream.apply(
            model.Upstream.model_validate(
                {
                    "targets": [{"url": url} for url in urls],
                    "health": health,
                    "tls": self.tls,
                    **more,
                }
            )
        )

    def start(self, *urls: str, health: dict[str, Any] | None = None, **more: Any) -> Target:
        """Settings, and the first checks. Returns the first target."""
        self.apply(*urls, health=health, **more)
        self.upstream.start()
        return self.upstream.targets[0]

    def count(self, *results: str) -> int:
        """Checks of all targets with these results; without any, all."""
        meters = self.upstream.meter.targets.values()
        return sum(
            number
            for meter in meters
            for result, number in meter.checks.items()
            if not results or result in results
        )

    async def round(self, seconds: float = 0.0) -> None:
        """Let time pass, and wait until each check that is due then has ended."""
        before = self.count()
        self.clock.advance(seconds)
        await until(lambda: self.count() >= before + len(self.upstream.targets))
        await asyncio.sleep(0)

    def events(self) -> list[tuple[str, str]]:
        """What was recorded: kind and why."""
        return [(event.kind, event.why) for event in self.metrics.events.select()]


@pytest_asyncio.fixture
async def checked() -> AsyncIterator[Checked]:
    made = Checked()
    yield made
    await made.upstream.aclose()


# ── what is asked ──


async def test_the_first_check_comes_at_once_and_is_a_request_of_its_own(
    checked: Checked, origin: MakeOrigin
) -> None:
    one = await origin()
    target = checked.start(one.url + "/base", health={"path": "/healthz?deep=1"})
    await checked.round()
    request = one.only
    assert request.start == b"GET /healthz?deep=1 HTTP/1.1"
    assert request.get("host") == one.address.encode()
    assert request.get("user-agent") == b"gateway-health-check"
    assert target.healthy
    assert (target.connections.open, target.connections.resting) == (0, [])
    assert await one.connections[0].closed_soon()
    assert checked.count("pass") == 1


async def test_method_fields_and_host_are_those_that_are_written(
    checked: Checked, origin: MakeOrigin
) -> None:
    one = await origin()
    health = {
        "path": "/",
        "method": "HEAD",
        "headers": {"x-probe": "1", "user-agent": "us", "accept-encoding": None},
    }
    checked.start(one.url, health=health, host="app.internal")
    await checked.round()
    request = one.only
    assert request.start == b"HEAD / HTTP/1.1"
    assert request.get("host") == b"app.internal"
    assert request.get("x-probe") == b"1"
    assert request.get("user-agent") == b"us"
    assert request.get("accept-encoding") is None


async def test_a_port_of_its_own_is_asked_in_place_of_the_targets(
    checked: Checked, origin: MakeOrigin
) -> None:
    serving, answering = await origin(BROKEN), await origin()
    target = checked.start(serving.url, health={**PATH, "port": answering.port, "fall": 1})
    await checked.round()
    assert target.healthy
    assert not serving.requests
    assert answering.only.get("host") == answering.address.encode()


async def test_without_path_and_tcp_nothing_is_asked(checked: Checked, origin: MakeOrigin) -> None:
    one = await origin()
    checked.start(one.url, health={"interval": "1s"})
    checked.clock.advance(60.0)
    await asyncio.sleep(0.05)
    assert not one.connections
    assert not checked.count()


# ── what passes ──


@pytest.mark.parametrize(
    ("answer", "expect", "why"),
    [
        (OK, {}, ""),
        (reply(b"", status=b"399 Odd"), {}, ""),
        (BROKEN, {}, "status 500"),
        (reply(status=b"400 Bad Request"), {}, "status 400"),
        (OK, {"status": [204]}, "status 200"),
        (reply(status=b"503 Busy"), {"status": ["200-299", 503]}, ""),
        (reply(b'{"state": "ok"}'), {"body": '"ok"'}, ""),
        (reply(b'{"state": "okay"}'), {"body": '"ok"'}, "the body lacks the text"),
        (reply(b""), {"body": "ok"}, "the body lacks the text"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nhe", {}, ""),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nhe",
            {"body": "hello"},
            "the body was cut short",
        ),
    ],
)
async def test_status_and_body_decide(
    checked: Checked, origin: MakeOrigin, answer: bytes, expect: dict[str, Any], why: str
) -> None:
    one = await origin(answer)
    target = checked.start(one.url, health={**PATH, "fall": 1, "expect": expect})
    await checked.round()
    assert target.healthy is not bool(why)
    assert target.why == (f"{why}, 1 check" if why else "")


async def test_a_redirect_passes_and_is_not_followed(checked: Checked, origin: MakeOrigin) -> None:
    elsewhere = await origin()
    one = await origin(
        reply(b"", b"Location: " + elsewhere.url.encode() + b"/", status=b"302 Found")
    )
    target = checked.start(one.url, health={**PATH, "fall": 1})
    await checked.round()
    assert target.healthy
    assert not elsewhere.connections


async def test_a_text_is_found_across_the_pieces_of_a_body(
    checked: Checked, origin: MakeOrigin
) -> None:
    async def in_pieces(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n")
        await asyncio.sleep(0.05)
        await peer.send(b"2\r\nlo\r\n0\r\n\r\n")

    one = await origin(in_pieces)
    target = checked.start(one.url, health={**PATH, "fall": 1, "expect": {"body": "hello"}})
    await checked.round()
    assert target.healthy


@pytest.mark.parametrize("sought", [None, "needle"])
async def test_of_a_body_without_end_only_the_beginning_is_read(
    checked: Checked, origin: MakeOrigin, sought: str | None
) -> None:
    async def endless(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        sent.append(await peer.send_until_full(most=most))

    sent: list[int] = []
    most = 64 << 20
    one = await origin(endless)
    target = checked.start(one.url, health={**PATH, "fall": 1, "expect": {"body": sought}})
    await checked.round()
    if sought is None:
        assert target.healthy
    else:
        assert target.why == "the first 64 KiB of the body lack the text, 1 check"
    await until(lambda: sent)
    assert sent[0] < most


# ── what fails, and how it is said ──


async def test_three_refusals_in_a_row_take_a_target_out_and_two_answers_bring_it_back(
    checked: Checked, origin: MakeOrigin
) -> None:
    one, other = await origin(), await origin()
    target = checked.start(one.url, other.url, health=PATH)
    await checked.round()
    await one.refuse()
    for _ in range(2):
        await checked.round(10.0)
    assert target.healthy
    await checked.round(10.0)
    assert not target.healthy
    assert target.why == "connection refused, 3 checks in a row"
    assert target.since == pytest.approx(checked.clock.now(), abs=2.0)
    assert all(checked.upstream.pick() is not target for _ in range(50))

    one.bind()
    down = checked.upstream.liveness.checks.of(target)
    assert down is not None
    checked.clock.advance(1.0)  # while it is down it is asked every second
    await until(lambda: down.passes == 1)
    assert not target.healthy
    checked.clock.advance(1.0)
    await until(lambda: target.healthy)
    assert target.why == "2 checks in a row passed"
    assert target.started == target.since
    assert checked.events() == [
        ("target_down", "connection refused, 3 checks in a row"),
        ("target_up", "2 checks in a row passed"),
    ]
    assert {checked.upstream.pick() for _ in range(200)} == set(checked.upstream.targets)


async def test_one_good_answer_between_bad_ones_begins_a_new_row(
    checked: Checked, origin: MakeOrigin
) -> None:
    one = await origin([OK, BROKEN, BROKEN, OK, BROKEN, BROKEN, OK])
    target = checked.start(one.url, health=PATH)
    await checked.round()
    for _ in range(6):
        await checked.round(10.0)
        assert target.healthy
    assert not checked.events()
    assert checked.count("fail") == 4


async def test_a_target_that_hangs_is_given_up_after_the_timeout(
    checked: Checked, origin: MakeOrigin
) -> None:
    async def silent(peer: Peer) -> None:
        await peer.head()
        await peer.closed_soon()

    one = await origin(silent)
    target = checked.start(one.url, health={**PATH, "timeout": "2s", "fall": 1})
    await until(lambda: one.requests)
    checked.clock.advance(1.9)
    await asyncio.sleep(0.05)
    assert not checked.count()
    await checked.round(0.2)
    assert not target.healthy
    assert target.why == "no answer within 2 s, 1 check"
    assert checked.count("timeout") == 1
    assert await one.connections[0].closed_soon()


async def test_a_head_that_drips_does_not_outlast_the_timeout(
    checked: Checked, origin: MakeOrigin
) -> None:
    async def drip(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\n")
        while not peer.ending:
            await peer.send(b"X-More: 1\r\n")
            if await peer.closed_soon():
                return

    one = await origin(drip)
    target = checked.start(one.url, health={**PATH, "timeout": "2s", "fall": 1})
    await until(lambda: one.requests)
    await checked.round(2.1)
    assert target.why == "no answer within 2 s, 1 check"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "the connection was closed without an answer"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "no valid answer: "),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", "no valid answer: "),
    ],
)
async def test_what_is_no_answer_is_said_in_words(
    checked: Checked, origin: MakeOrigin, answer: bytes, why: str
) -> None:
    async def once(peer: Peer) -> None:
        await peer.head()
        await peer.send(answer)

    one = await origin(once)
    target = checked.start(one.url, health={**PATH, "fall": 1})
    await checked.round()
    assert target.why.startswith(why)
    assert target.why.endswith(", 1 check")
    assert len(target.why) < 150


async def test_a_name_that_is_not_known_is_said_so(checked: Checked) -> None:
    target = checked.start("http://nowhere.invalid:8000", health={**PATH, "fall": 1})
    await checked.round()
    assert target.why == "its name is not known, 1 check"


# ── other ways to a target ──


async def test_tcp_only_connects(checked: Checked, origin: MakeOrigin) -> None:
    one, gone = await origin(), await origin()
    await gone.refuse()
    target = checked.start(one.url, gone.url, health={"tcp": True, "fall": 1})
    await checked.round()
    assert target.healthy
    assert not checked.upstream.targets[1].healthy
    assert checked.upstream.targets[1].why == "connection refused, 1 check"
    await until(lambda: one.connections)
    assert not one.requests


@pytest.mark.parametrize("tcp", [False, True])
async def test_a_unix_socket_is_asked_like_any_other(
    checked: Checked, origin: MakeOrigin, tmp_path: Path, tcp: bool
) -> None:
    one = await origin(unix=str(tmp_path / "app"))
    gone = f"unix:{tmp_path}/gone"
    health = {"tcp": True} if tcp else PATH
    target = checked.start(one.url, gone, health={**health, "fall": 1})
    await checked.round()
    assert target.healthy
    assert checked.upstream.targets[1].why == "there is no such socket, 1 check"
    assert tcp or one.only.get("host") == b"localhost"


async def test_tls_targets_are_asked_with_the_upstreams_own_settings(
    checked: Checked, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("app.internal").configure_cert(context)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        target = checked.start(url, health={**PATH, "fall": 1})
        await checked.round()
        assert target.why.startswith("TLS: ")
        checked.tls = model.UpstreamTls(ca=str(tmp_path / "ca.pem"), server_name="app.internal")
        checked.apply(url, health={**PATH, "fall": 1})
        await checked.round()
        assert checked.upstream.targets[0].healthy
        assert checked.count("pass") == 1


# ── when ──


async def test_checks_come_an_interval_after_the_last_one_within_a_tenth(
    checked: Checked, origin: MakeOrigin
) -> None:
    bounds: list[tuple[float, float]] = []

    def latest(low: float, high: float) -> float:
        bounds.append((low, high))
        return high

    checked.upstream.liveness.checks.uniform = latest
    one = await origin()
    checked.start(one.url, health={**PATH, "interval": "10s"})
    await checked.round()
    checked.clock.advance(10.9)
    await asyncio.sleep(0.05)
    assert len(one.requests) == 1
    await checked.round(0.2)
    assert len(one.requests) == 2
    assert set(bounds) == {(1 - JITTER, 1 + JITTER)}


async def test_nothing_is_asked_before_the_start_and_nothing_after_the_end(
    checked: Checked, origin: MakeOrigin
) -> None:
    one = await origin()
    checked.apply(one.url, health=PATH)
    checked.clock.advance(60.0)
    await asyncio.sleep(0.02)
    assert not one.connections
    checked.upstream.start()
    checked.upstream.start()
    await checked.round()
    assert len(one.requests) == 1
    await checked.upstream.aclose()
    checked.clock.advance(60.0)
    await asyncio.sleep(0.02)
    assert len(one.requests) == 1
    assert not checked.clock.timers


async def test_no_more_targets_are_asked_at_once_than_the_bound(
    checked: Checked, origin: MakeOrigin
) -> None:
    async def slow(peer: Peer) -> None:
        await peer.head()
        await release.wait()
        await peer.send(OK)

    release = asyncio.Event()
    one = await origin(slow)
    urls = [f"http://127.0.0.1:{one.port}/{number}" for number in range(MOST_AT_ONCE + 10)]
    checked.start(*urls, health=PATH)
    await until(lambda: len(one.requests) == MOST_AT_ONCE)
    await asyncio.sleep(0.1)
    assert len(one.requests) == MOST_AT_ONCE
    release.set()
    await until(lambda: checked.count("pass") == len(urls))


# ── another configuration ──


async def test_other_thresholds_hold_at_once_and_the_verdict_stays(
    checked: Checked, origin: MakeOrigin
) -> None:
    one, other = await origin([OK, BROKEN]), await origin()
    urls = (one.url, other.url)
    target = checked.start(*urls, health={**PATH, "interval": "60s"})
    await checked.round()
    await checked.round(60.0)
    assert target.healthy
    checked.apply(*urls, health={**PATH, "interval": "60s", "fall": 1})
    assert not target.healthy
    assert target.why == "status 500, 1 check"
    assert checked.count() == 4
    checked.apply(*urls, health={**PATH, "interval": "5s", "interval_down": "30s", "fall": 1})
    assert not target.healthy
    checked.clock.advance(5.0)
    await until(lambda: len(other.requests) == 3)
    await asyncio.sleep(0.02)
    assert len(one.requests) == 2
    checked.clock.advance(25.0)
    await until(lambda: len(one.requests) == 3)


async def test_another_question_makes_the_verdict_unknown_and_is_asked_at_once(
    checked: Checked, origin: MakeOrigin
) -> None:
    async def by_path(peer: Peer) -> None:
        while True:
            message = await peer.request()
            await peer.send(BROKEN if message.target == b"/wrong" else OK)

    one = await origin(by_path)
    target = checked.start(one.url, health={"path": "/wrong", "fall": 1})
    await checked.round()
    assert not target.healthy
    checked.apply(one.url, health={"path": "/right", "fall": 1})
    assert target.healthy
    await checked.round()
    assert [message.target for message in one.requests] == [b"/wrong", b"/right"]
    assert checked.events() == [
        ("target_down", "status 500, 1 check"),
        ("target_up", "the check is another one now, and has not been made yet"),
    ]


async def test_an_answer_to_the_former_question_is_not_heard(
    checked: Checked, origin: MakeOrigin
) -> None:
    async def slow(peer: Peer) -> None:
        message = await peer.head()
        if message.target == b"/new":
            await peer.send(OK)
        else:
            await peer.closed_soon()

    one = await origin(slow)
    target = checked.start(one.url, health={"path": "/old", "fall": 1, "timeout": "2s"})
    await until(lambda: one.requests)
    checked.apply(one.url, health={"path": "/new", "fall": 1, "timeout": "2s"})
    await checked.round()
    checked.clock.advance(3.0)
    await asyncio.sleep(0.05)
    assert target.healthy
    assert checked.count("timeout", "fail") == 0


async def test_a_target_that_is_not_checked_any_more_counts_as_well(
    checked: Checked, origin: MakeOrigin
) -> None:
    one = await origin(BROKEN)
    target = checked.start(one.url, health={**PATH, "fall": 1})
    await checked.round()
    assert not target.healthy
    checked.apply(one.url)
    assert target.healthy
    assert checked.upstream.pick() is target
    assert checked.events()[-1] == ("target_up", "it is not checked any more")
    checked.clock.advance(60.0)
    await asyncio.sleep(0.02)
    assert len(one.requests) == 1


async def test_targets_that_come_are_asked_at_once_and_those_that_go_no_more(
    checked: Checked, origin: MakeOrigin
) -> None:
    one, other = await origin(), await origin()
    checked.start(one.url, health=PATH)
    await checked.round()
    checked.apply(other.url, health=PATH)
    await checked.round()
    assert (len(one.requests), len(other.requests)) == (1, 1)
    await checked.round(10.0)
    assert (len(one.requests), len(other.requests)) == (1, 2)


async def test_a_target_that_leaves_while_it_is_down_is_not_called_up(
    checked: Checked, origin: MakeOrigin
) -> None:
    one, other = await origin(BROKEN), await origin()
    checked.start(one.url, other.url, health={**PATH, "fall": 1})
    await checked.round()
    checked.apply(other.url, health={**PATH, "fall": 1})
    assert checked.events() == [("target_down", "status 500, 1 check")]


# ── checks and ejection ──


async def test_a_passing_check_ends_an_ejection(checked: Checked, origin: MakeOrigin) -> None:
    one, other = await origin(), await origin()
    target = checked.start(one.url, other.url, health={**PATH, "interval": "9s"})
    await checked.round()
    checked.upstream.liveness.set_aside(target, "5 failures in a row")
    assert all(checked.upstream.pick() is not target for _ in range(50))
    await checked.round(9.0)
    await until(lambda: not target.ejected_until)
    assert checked.events() == [
        ("ejected", "5 failures in a row; for 10 s"),
        ("restored", "a check has passed"),
    ]


async def test_a_check_that_began_before_the_ejection_does_not_end_it(
    checked: Checked, origin: MakeOrigin
) -> None:
    async def held(peer: Peer) -> None:
        await peer.head()
        await release.wait()
        await peer.send(OK)

    release = asyncio.Event()
    one, other = await origin(held), await origin(held)
    target = checked.start(one.url, other.url, health=PATH)
    await until(lambda: one.requests)
    checked.upstream.liveness.set_aside(target, "5 failures in a row")
    release.set()
    await until(lambda: checked.count("pass") == 2)
    await asyncio.sleep(0.02)
    assert target.ejected_until
    assert [kind for kind, _ in checked.events()] == ["ejected"]
