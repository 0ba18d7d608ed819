"""PROXY headers in front of HTTP and of TLS: who is believed, and what is believed."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conformance.conftest import get
from tests.kit import secure
from tests.kit.programs import need

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.running import Running

LOOPBACK = {"from": ["127.0.0.1/32"]}
SOURCE = b"203.0.113.7"


def v1(source: bytes = SOURCE) -> bytes:
    family = b"TCP6" if b":" in source else b"TCP4"
    target = b"2001:db8::1" if b":" in source else b"192.0.2.1"
    return b"PROXY %b %b %b 50000 443\r\n" % (family, source, target)


def v2(
    source: str = "203.0.113.7", *, tlv: bytes = b"", command: int = 0x21, family: int = 0
) -> bytes:
    kind = socket.AF_INET6 if ":" in source else socket.AF_INET
    packed = socket.inet_pton(kind, source) * 2 + struct.pack("!HH", 50000, 443) + tlv
    family = family or (0x21 if kind == socket.AF_INET6 else 0x11)
    head = b"\r\n\r\n\0\r\nQUIT\n" + bytes((command, family)) + struct.pack("!H", len(packed))
    return head + packed


def listener(tls: Any = None, **senders: Any) -> list[dict[str, Any]]:
    one: dict[str, Any] = {
        "bind": "127.0.0.1:0",
        "name": "web",
        "proxy_protocol": senders or LOOPBACK,
    }
    if tls is not None:
        one["tls"] = {"certificates": [tls]}
    return [one]


HEADERS = [
    pytest.param(v1(), b"203.0.113.7", id="v1"),
    pytest.param(v1(b"2001:db8::7"), b"2001:db8::7", id="v1-ipv6"),
    pytest.param(v2(), b"203.0.113.7", id="v2"),
    pytest.param(v2("2001:db8::7"), b"2001:db8::7", id="v2-ipv6"),
    pytest.param(v2("::ffff:203.0.113.7"), b"203.0.113.7", id="v2-mapped"),
    pytest.param(v2(tlv=b"\x02\x00\x06a.test"), b"203.0.113.7", id="v2-records"),
    pytest.param(v2(command=0x20), b"127.0.0.1", id="v2-local"),
    pytest.param(v2(family=0x01), b"127.0.0.1", id="v2-unspecified"),
    pytest.param(b"PROXY UNKNOWN\r\n", b"127.0.0.1", id="v1-unknown"),
]


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("pieces", [1, 3, 1000])
@pytest.mark.parametrize(("header", "source"), HEADERS)
async def test_the_source_of_a_trusted_header_is_the_peer_however_it_is_cut(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path,
    header: bytes, source: bytes, pieces: int, encrypted: bool,
) -> None:  # fmt: skip
    up = await origin()
    certificate = secure.issue(tmp_path, "a.test") if encrypted else None
    running = await gateway(up, listeners=listener(certificate))
    size = -(-len(header) // pieces)
    cut = [header[at : at + size] for at in range(0, len(header), size)]
    client: Any
    if encrypted:
        plain = await raw(running)
        for piece in cut[:-1]:
            await plain.send(piece)
            await asyncio.sleep(0.002)
        client = secure.SecureClient(plain.sock, secure.trusting(), "a.test", None)
        client.prefix = cut[-1]  # in the segment of the ClientHello
        await client.shake_hands()
    else:
        client = await raw(running)
        for piece in cut[:-1]:
            await client.send(piece)
            await asyncio.sleep(0.002)
        await client.send(cut[-1] + get())
        assert (await client.response()).status == 200
    assert (await client.ask(get())).status == 200
    assert up.requests[-1].get("x-forwarded-for") == source
    assert [line["client_ip"] for line in await running.log()][-1] == source.decode()


async def test_a_unix_source_is_called_unix(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, listeners=listener())
    client = await raw(running)
    paths = b"/run/a".ljust(216, b"\0")
    await client.send(b"\r\n\r\n\0\r\nQUIT\n\x21\x31" + struct.pack("!H", 216) + paths)
    assert (await client.ask(get())).status == 200
    assert (await running.log())[0]["client_ip"] == "unix"


async def test_peers_of_a_unix_socket_may_be_the_senders(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    bind = f"unix:{tmp_path}/in.sock"
    running = await gateway(up, listeners=[{"bind": bind, "proxy_protocol": {"from": ["unix"]}}])
    client = await raw(running)
    await client.send(v1())
    assert (await client.ask(get())).status == 200
    assert up.only.get("x-forwarded-for") == SOURCE


async def test_all_later_rules_go_by_the_source(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    server = {"trusted_proxies": ["203.0.113.0/24"], "limits": {"connections_per_ip": 1}}
    routes = [
        {"path": "/*", "to": up.url, "when": {"client_ip": ["198.51.100.4/32"]}},
        {"path": "/open", "to": up.url},
    ]
    running = await gateway({"routes": routes, "listeners": listener(), "server": server})
    client = await raw(running)
    await client.send(v1())
    forwarded = b"X-Forwarded-For: 198.51.100.4"
    assert (await client.ask(get(b"/x", forwarded))).status == 200
    assert up.only.get("x-forwarded-for") == b"198.51.100.4, 203.0.113.7"
    another = await raw(running)
    await another.send(v1(b"198.18.0.1"))
    assert (await another.ask(get(b"/x", forwarded))).status == 404, "it is not trusted"
    assert (await another.ask(get(b"/open"))).status == 200
    again = await raw(running)
    await again.send(v1())
    assert (await again.ask(get(b"/open"))).status == 503, "the second of that address"
    counted = running.gateway._admission.by_address
    assert set(counted) == {"203.0.113.7", "198.18.0.1"}


async def test_who_is_not_named_is_taken_for_what_it_sends(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, listeners=listener())
    client = await raw(running, source="127.0.0.2")
    assert (await client.ask(get())).status == 200
    assert up.only.get("x-forwarded-for") == b"127.0.0.2"
    for header in (v1(), v2()):
        client = await raw(running, source="127.0.0.2")
        await client.send(header + get())
        assert b" 400 " in await client.rest()
    assert len(up.requests) == 1


async def test_a_sender_that_does_not_begin_with_a_header_is_let_go(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, listeners=listener())
    for data in (
        get(),
        b"\x16\x03\x01\x02\x00",
        b"PROXY TCP4 nonsense\r\n",
        v2()[:12] + b"\x11\x11\0\0",
    ):
        client = await raw(running)
        await client.send(data)
        assert await client.rest() == b""
    assert up.requests == []
    await running.eventually("gateway_connections_refused_total", 4, reason="proxy_header")
    assert running.gateway._admission.total == 0


async def test_a_listener_without_proxy_protocol_believes_nobody(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway(await origin())
    client = await raw(running)
    await client.send(v1() + get())
    assert b" 400 " in await client.rest()


async def test_haproxy_is_understood_in_both_versions(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    running = await gateway(up, listeners=listener())
    ports = [_free(), _free()]
    fronts = "".join(
        f"listen l{port}\n bind 127.0.0.1:{port}\n server s {running.address} {word}\n"
        for port, word in zip(ports, ("send-proxy", "send-proxy-v2"), strict=True)
    )
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        f"defaults\n mode tcp\n timeout connect 5s\n timeout client 5s\n timeout server 5s\n{fronts}"
    )
    process = await asyncio.create_subprocess_exec(need("haproxy"), "-db", "-f", str(config))
    try:
        for port in ports:
            client = await raw(await _listening(port), source="127.0.0.9")
            assert (await client.ask(get())).status == 200
    finally:
        process.kill()
        await process.wait()
    assert [sent.get("x-forwarded-for") for sent in up.requests] == [b"127.0.0.9"] * 2


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


async def _listening(port: int) -> int:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                await writer.wait_closed()
                return port


async def test_who_comes_and_goes_is_counted_out(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    running: Running = await gateway(
        await origin(), listeners=listener(secure.issue(tmp_path, "a.test"))
    )
    admission = running.gateway._admission
    for sent in (b"", v1()[:9], v1(), v1() + b"\x16\x03\x01"):
        client = await raw(running)
        await client.send(sent)
        async with asyncio.timeout(10):
            while admission.total != 1:
                await asyncio.sleep(0.01)
        client.close()
        async with asyncio.timeout(10):
            while admission.total:
                await asyncio.sleep(0.01)
    assert admission.by_address == {}
    assert [len(server.doors) for server in running.gateway.servers] == [0]
