"""Attacks before HTTP begins: on handshakes, PROXY headers, names, and on what is told of certificates."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from gateway.runtime.tls import hushed
from tests.e2e.conformance.conftest import get, problem
from tests.e2e.test_client_certificates import ask, listeners, partner
from tests.e2e.test_proxy_protocol import listener, v1, v2
from tests.kit import secure

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.running import Running


def web(*certificates: dict[str, str], **tls: Any) -> list[dict[str, Any]]:
    return [{"bind": "127.0.0.1:0", "name": "web", "tls": {"certificates": [*certificates], **tls}}]


def hello(name: str = "zzzzz.test") -> bytes:
    """A ClientHello that asks for a name."""
    outgoing = ssl.MemoryBIO()
    shake = secure.trusting().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        shake.do_handshake()
    return outgoing.read()


async def nobody_is_left(running: Running) -> None:
    async with asyncio.timeout(10):
        while running.gateway._admission.total:
            await asyncio.sleep(0.01)
    assert running.gateway._admission.by_address == {}
    assert [server.doors for server in running.gateway.servers] == [set()]


# ── the name that was asked for, and the host ──


@pytest.mark.parametrize(
    "request_",
    [
        get(host=b"c.test"),
        get(host=b"C.TEST"),
        get(host=b"c.test."),
        get(host=b"c.test:443"),
        get(b"https://c.test/", host=b"a.test"),
        get(b"http://c.test/", host=b"a.test"),
        get(host=b"c.test", version=b"HTTP/1.0"),
        get(b"/", b"X-Forwarded-Host: a.test", host=b"c.test"),
        get(b"/", b"Forwarded: host=a.test", host=b"c.test"),
    ],
)
async def test_no_spelling_of_another_certificates_host_gets_through(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path, request_: bytes
) -> None:
    up = await origin()
    pairs = secure.issue(tmp_path, "a.test"), secure.issue(tmp_path, "c.test")
    running = await gateway(up, listeners=web(*pairs))
    client = await secure.connect(running.address)
    problem(await client.ask(request_), "misdirected", 421)
    client.close()
    assert up.requests == []


@pytest.mark.parametrize(
    "name", [b"\xffzzzz.test", b"zz\0zz.test", b"z\r\nzz.test", b"..........", b"127.0.0.01"]
)
async def test_a_name_that_is_none_does_no_harm_and_fills_no_log(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path,
    name: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "unraisablehook", hushed(sys.unraisablehook))
    running = await gateway(await origin(), listeners=web(secure.issue(tmp_path, "a.test")))
    with caplog.at_level(logging.INFO):
        client = await raw(running)
        await client.send(hello().replace(b"zzzzz.test", name))
        seen = await client.some()
        assert seen[:1] in (b"\x15", b"\x16"), (
            "an alert, or the certificate of those who ask for none"
        )
        client.close()
        await nobody_is_left(running)
    assert caplog.records == []
    assert await ask(running, secure.trusting()) == 200


def test_other_failures_of_the_interpreter_are_still_told() -> None:
    told: list[object] = []
    hook = hushed(told.append)
    for value, where in (
        (ValueError("x"), b"name"),
        (UnicodeDecodeError("ascii", b"", 0, 1, ""), "text"),
    ):
        hook(cast("Any", SimpleNamespace(exc_value=value, object=where)))
    assert len(told) == 2


# ── certificates of clients ──


@pytest.mark.parametrize(
    "lines",
    [
        [b"Client-Cert: :Zm9yZ2Vk:"],
        [b"client-cert: :Zm9yZ2Vk:", b"CLIENT-CERT: :Zm9yZ2Vk:"],
        [b"Client-Cert-Chain: :Zm9yZ2Vk:"],
        [b"Client_Cert: :Zm9yZ2Vk:"],
        [b"Connection: Client-Cert, Client-Cert-Chain"],
        [b"Connection: close, client-cert", b"Client-Cert: :Zm9yZ2Vk:"],
    ],
)
@pytest.mark.parametrize("trusted", [False, True])
async def test_nobody_can_forge_nor_take_away_what_upstreams_are_told_of_a_certificate(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path, lines: list[bytes], trusted: bool
) -> None:
    up = await origin()
    server = {"trusted_proxies": ["127.0.0.0/8"]} if trusted else {}
    own = listeners(tmp_path, forward_client_cert=True)
    running = await gateway(up, listeners=own, server=server)
    shown = await secure.connect(running.address, secure.trusting(own=partner(tmp_path)))
    await shown.ask(get(b"/", *lines))
    bare = await secure.connect(running.address)
    await bare.ask(get(b"/", *lines))
    shown.close()
    bare.close()
    with_one, without = up.requests
    assert len(with_one.all("client-cert")) == 1
    for sent in (with_one, without):
        assert b"Zm9yZ2Vk" not in sent.raw
    assert not without.all("client-cert")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_of_a_listener_that_asks_nobody_is_none_where_a_certificate_is_required(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    up = await origin()
    [strict] = listeners(tmp_path, "required")
    [lax] = web(secure.issue(tmp_path, "a.test"))
    running = await gateway(up, listeners=[{**strict, "name": "strict"}, {**lax, "name": "lax"}])
    context = secure.trusting(newest=version)
    client = await secure.connect(running.gateway.addresses["lax"], context)
    assert (await client.ask(get())).status == 200
    session = client.tls.session
    client.close()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await _ask_at(running.gateway.addresses["strict"], context, session)
    assert len(up.requests) == 1


async def _ask_at(address: str, context: ssl.SSLContext, session: Any) -> None:
    client = await secure.connect(address, context, session=session)
    try:
        await client.ask(get())
    finally:
        client.close()


# ── time and number ──


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("sent", ["nothing", "half a header", "half a hello"])
async def test_who_is_slow_before_http_is_shut_out_in_time_however_it_drips(
    origin: MakeOrigin,
    gateway: MakeGateway,
    raw: MakeClient,
    tmp_path: Path,
    sent: str,
    encrypted: bool,
) -> None:
    certificate = secure.issue(tmp_path, "a.test") if encrypted else None
    running = await gateway(
        await origin(),
        listeners=listener(certificate),
        server={"limits": {"header_timeout": "10s"}},
    )
    first = {"nothing": b"", "half a header": v2()[:20], "half a hello": v1() + hello()[:50]}[sent]
    if sent == "half a hello" and not encrypted:
        first = v1()[:10]
    client = await raw(running)
    await client.send(first)
    await asyncio.sleep(0.05)
    for _ in range(3):
        running.clock.advance(3)
        await client.send(first[:0])
    assert await client.silence(0.05)
    running.clock.advance(1.5)
    assert await client.rest() == b""
    await nobody_is_left(running)
    reason = "handshake" if sent == "half a hello" and encrypted else "proxy_header"
    assert running.metric("gateway_connections_refused_total", reason=reason) == 1


async def test_those_before_the_door_count_as_connections(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    certificate = secure.issue(tmp_path, "a.test")
    running = await gateway(
        await origin(), listeners=web(certificate), server={"limits": {"connections": 2}}
    )
    waiting = [await raw(running) for _ in range(102)]
    for client in waiting:
        await client.send(b"\x16\x03")
    async with asyncio.timeout(10):
        while running.gateway._admission.total < 102:
            await asyncio.sleep(0.01)
    beyond = await raw(running)
    assert await beyond.rest() == b""
    assert running.metric("gateway_errors_total", reason="too_many_connections") == 1
    client_ = waiting.pop()
    client_.close()
    polite = await secure.connect(running.address)
    problem(await polite.ask(get()), "too_many_connections", 503)
    polite.close()


async def test_a_drain_does_not_wait_for_those_before_the_door(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    running = await gateway(await origin(), listeners=web(secure.issue(tmp_path, "a.test")))
    client = await raw(running)
    await client.send(b"\x16\x03")
    async with asyncio.timeout(10):
        while not running.gateway._admission.total:
            await asyncio.sleep(0.01)
    running.clock.advance(2)
    async with asyncio.timeout(5):
        await running.gateway.drain(0)
    assert await client.rest() == b""


# ── size and nonsense ──


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff" + bytes(70_000),
        b"PROXY UNKNOWN " + b"x" * 70_000,
        b"PROXY TCP4 " + b"1" * 70_000,
        v1() + b"\x16\x03\x01\xff\xff" + bytes(70_000),
        v1() + b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(70_000),
        v1() + bytes(70_000),
        v1() + b"\x80\x2e\x01\x03\x01" + bytes(100),
        v1() + v1() + hello(),
    ],
)
async def test_what_is_too_long_or_nonsense_is_ended_at_once_and_nothing_is_kept(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path, data: bytes
) -> None:
    up = await origin()
    running = await gateway(up, listeners=listener(secure.issue(tmp_path, "a.test")))
    client = await raw(running)
    await client.send(data)
    seen = await client.rest()
    assert seen[:1] in (b"", b"\x15", b"H")
    assert b" 200 " not in seen
    running.clock.advance(2)
    await nobody_is_left(running)
    assert up.requests == []


async def test_random_bytes_end_in_nothing_worse_than_an_alert(
    origin: MakeOrigin,
    gateway: MakeGateway,
    raw: MakeClient,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    draw = random.Random(7)
    up = await origin()
    running = await gateway(up, listeners=listener(secure.issue(tmp_path, "a.test")))
    good = hello("a.test")
    with caplog.at_level(logging.INFO):
        for number in range(60):
            data = bytearray(draw.choice((v1(), v2(), b"")) + good)
            for _ in range(draw.randrange(1, 8)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            if not data.isascii() or number % 2:
                client = await raw(running)
                await client.send(bytes(data[: draw.randrange(1, len(data))]))
                client.close() if number % 3 else client.reset()
        await nobody_is_left(running)
    assert [record for record in caplog.records if record.levelno >= logging.INFO] == []
    client = await secure.connect(running.address, prefix=v1())
    assert (await client.ask(get())).status == 200
    client.close()


async def test_a_proxy_header_inside_tls_or_behind_another_is_a_bad_request(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    running = await gateway(up, listeners=listener(secure.issue(tmp_path, "a.test")))
    client = await secure.connect(running.address, prefix=v1())
    await client.send(v1(b"198.18.0.1") + get())
    problem(await client.response(), "bad_request", 400)
    client.close()
    plain = await gateway(up, listeners=listener())
    twice = await raw(plain)
    await twice.send(v1() + v1(b"198.18.0.1") + get())
    problem(await twice.response(), "bad_request", 400)
    assert up.requests == []


async def test_a_record_that_was_changed_on_its_way_ends_the_connection(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    up = await origin()
    running = await gateway(up, listeners=web(secure.issue(tmp_path, "a.test")))
    client = await secure.connect(running.address)
    assert (await client.ask(get())).status == 200
    client.tls.write(get(b"/second"))
    record = bytearray(client._outgoing.read())
    record[-1] ^= 1
    await asyncio.get_running_loop().sock_sendall(client.sock, bytes(record))
    with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
        await client.rest()
    client.close()
    assert len(up.requests) == 1
