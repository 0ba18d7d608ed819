"""Asking an identity provider: bounded in time and size, never led elsewhere, and one question for all who wait."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
from aiohttp import web
from yarl import URL

from gateway.auth.fetch import Fetch, FetchError, Single, client_credentials, refused
from gateway.tasks import spawn
from tests.kit.clock import FakeClock
from tests.kit.origin import reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import MakeOrigin
    from tests.kit.origin import Peer


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def fetch(clock: FakeClock) -> AsyncIterator[Fetch]:
    one = Fetch(clock)
    yield one
    await one.aclose()


async def test_a_document_is_fetched_over_one_connection(fetch: Fetch, origin: MakeOrigin) -> None:
    up = await origin(reply(b'{"a": [1]}'))
    for _ in range(3):
        assert await fetch.document(f"{up.url}/x?token=1") == {"a": [1]}
    assert len(up.connections) == 1
    asked = up.requests[0]
    assert asked.start == b"GET /x?token=1 HTTP/1.1"
    assert asked.get("accept-encoding") == b"identity"
    assert asked.get("content-type") is None


async def test_a_form_is_posted_with_the_clients_credentials(
    fetch: Fetch, origin: MakeOrigin
) -> None:
    up = await origin(reply(b"{}"))
    fields = {"Authorization": client_credentials("a b:c", "p%ä")}
    await fetch.document(f"{up.url}/t", form={"token": "x&y=z"}, headers=fields)
    assert up.only.start == b"POST /t HTTP/1.1"
    assert up.only.body == b"token=x%26y%3Dz"
    assert up.only.get("content-type") == b"application/x-www-form-urlencoded"
    assert up.only.get("authorization") == b"Basic YStiJTNBYzpwJTI1JUMzJUE0"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (reply(b"{}", status=b"500 No"), "status 500"),
        (reply(b"{}", status=b"203 No"), "status 203"),
        (reply(b"", b"Location: http://127.0.0.1:1/", status=b"302 Found"), "not followed"),
        (reply(b"nothing"), "no JSON"),
        (reply(b"[]"), "no JSON object"),
        (reply(gzip.compress(b"{}" * 9), b"Content-Encoding: gzip"), "compressed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{", "larger than 262144"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 300_000, "larger than 262144"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nConnection: close\r\n\r\n{", "cut short"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no valid answer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_no_good_answer_is_said_without_the_query(
    fetch: Fetch, origin: MakeOrigin, answer: bytes, words: str
) -> None:
    async def once(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)

    up = await origin(once)
    with pytest.raises(FetchError, match=words) as caught:
        await fetch.document(f"{up.url}/keys?secret=hush")
    assert str(caught.value).startswith(f"{up.url}/keys: ")
    assert "hush" not in str(caught.value)
    assert len(up.requests) == 1, "a redirect was followed"


async def test_a_server_that_is_not_there_is_said(fetch: Fetch, origin: MakeOrigin) -> None:
    up = await origin()
    await up.refuse()
    with pytest.raises(FetchError, match="connection refused"):
        await fetch.ask(up.url)


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n{"])
async def test_a_server_that_is_slow_is_given_up_at_any_point(
    fetch: Fetch, origin: MakeOrigin, clock: FakeClock, part: bytes
) -> None:
    async def slow(peer: Peer) -> None:
        await peer.request()
        await peer.send(part)
        await peer.rest()

    up = await origin(slow)
    asking = spawn(fetch.ask(up.url), "test")
    await up.wait_for_request()
    await asyncio.sleep(0.02)
    clock.advance(4.5)
    await asyncio.sleep(0)
    assert not asking.done()
    clock.advance(0.6)
    with pytest.raises(FetchError, match="no whole answer within 5 s"):
        await asking


async def test_a_connection_that_was_closed_meanwhile_costs_nothing(
    fetch: Fetch, origin: MakeOrigin
) -> None:
    async def two(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply(b"{}"))
        if peer.number == 0:
            await peer.request()  # and hangs up
        else:
            await peer.rest()

    up = await origin(two)
    await fetch.document(up.url, form={"a": "1"})
    await fetch.document(up.url, form={"a": "2"})
    assert [peer.number for peer in up.connections] == [0, 1]


async def test_no_cookie_is_kept(fetch: Fetch, origin: MakeOrigin) -> None:
    up = await origin(reply(b"{}", b"Set-Cookie: a=b"))
    for _ in range(2):
        await fetch.ask(up.url)
    assert up.requests[1].get("cookie") is None


@pytest.mark.parametrize(
    ("url", "beside", "good"),
    [
        ("https://idp.example.com/x", None, True),
        ("http://127.0.0.1:1/", None, True),
        ("http://[::1]/", None, True),
        ("http://localhost/", None, True),
        ("http://idp.example.com/", None, False),
        ("http://127.0.0.1.example.com/", None, False),
        ("http://localhost.example.com/", None, False),
        ("http://10.0.0.1/", None, False),
        ("https://user:pass@idp.example.com/", None, False),
        ("file:///etc/passwd", None, False),
        ("ftp://idp.example.com/", None, False),
        ("//idp.example.com/", None, False),
        ("keys.json", None, False),
        ("https://127.0.0.1/keys", "https://idp.example.com/", False),
        ("http://localhost/keys", "https://idp.example.com/", False),
        ("http://localhost/keys", "http://127.0.0.1:8000/", True),
        ("https://keys.example.net/", "https://idp.example.com/", True),
    ],
)
def test_who_may_be_asked(url: str, beside: str | None, good: bool) -> None:
    assert (refused(URL(url), beside=None if beside is None else URL(beside)) is None) is good


async def test_plain_http_elsewhere_is_refused_unless_allowed(clock: FakeClock) -> None:
    fetch = Fetch(clock)
    with pytest.raises(FetchError, match="must be https"):
        await fetch.ask("http://idp.example.com/?x=hush")
    assert refused(URL("http://idp.example.com/"), plain=True) is None
    await fetch.aclose()


async def test_a_certificate_is_checked(clock: FakeClock) -> None:
    authority = trustme.CA()
    serving, trusting = (
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
        ssl.create_default_context(),
    )
    authority.issue_cert("localhost").configure_cert(serving)
    authority.configure_trust(trusting)
    runner = web.AppRunner(web.Application())
    await runner.setup()
    site = web.TCPSite(runner, "localhost", 0, ssl_context=serving)
    await site.start()
    port = runner.addresses[0][1]
    strict, knowing = Fetch(clock), Fetch(clock, context=trusting)
    with pytest.raises(FetchError, match="TLS: "):
        await strict.ask(f"https://localhost:{port}/")
    with pytest.raises(FetchError, match="TLS: "):
        await knowing.ask(f"https://127.0.0.1:{port}/")
    assert (await knowing.ask(f"https://localhost:{port}/")).status == 404
    await strict.aclose()
    await knowing.aclose()
    await runner.cleanup()


# ── Single ──


async def test_fifty_who_ask_at_once_are_one_question_and_the_next_is_another() -> None:
    gate, calls = asyncio.Event(), []

    async def work() -> int:
        calls.append(1)
        await gate.wait()
        return len(calls)

    single: Single[str, int] = Single("test")
    asking = [spawn(single.do("k", work), "test") for _ in range(50)]
    await asyncio.sleep(0)
    asking[0].cancel()
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(*asking[1:]) == [1] * 49
    assert asking[0].cancelled()
    assert len(single) == 0
    assert await single.do("k", work) == 2


async def test_a_failure_is_everybodys_and_nobodys_crash(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        raise FetchError("no")

    single: Single[int, int] = Single("test")
    results = await asyncio.gather(*(single.do(1, work) for _ in range(3)), return_exceptions=True)
    assert [str(one) for one in results] == ["no"] * 3
    single.start(1, work)  # nobody waits
    while len(single):
        await asyncio.sleep(0)
    assert not caplog.records


async def test_what_waits_is_told_when_it_is_given_up() -> None:
    async def work() -> int:
        await asyncio.sleep(60)
        return 1

    single: Single[int, int] = Single("test")
    asking = spawn(single.do(1, work), "test")
    await asyncio.sleep(0)
    await single.aclose()
    with pytest.raises(FetchError, match="no longer in force"):
        await asking


async def test_those_who_leave_can_not_pile_up_questions_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.auth.fetch.MOST_AT_ONCE", 3)
    gate = asyncio.Event()

    async def work() -> int:
        await gate.wait()
        return 1

    single: Single[int, int] = Single("test")
    leaving = [spawn(single.do(key, work), "test") for key in range(3)]
    await asyncio.sleep(0)
    for one in leaving:
        one.cancel()
    await asyncio.sleep(0)
    with pytest.raises(FetchError, match="3 other questions"):
        await single.do(3, work)
    assert len(single) == 3
    same = spawn(single.do(2, work), "test")
    await asyncio.sleep(0)
    gate.set()
    assert await same == 1
    assert await single.do(3, work) == 1
