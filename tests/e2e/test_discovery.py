"""Targets that are found while the gateway runs: by a name server, a file and the environment of the test.

Rules of this file: real sockets and real DNS packets; time passes when the test says so, and every
request is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any

import dns.rcode
import pytest
import pytest_asyncio
import trustme

from gateway.config import ConfigError
from tests.e2e.conformance.conftest import get, problem
from tests.kit.dns import NameServer, name_server
from tests.kit.origin import OK, reply
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin, Peer
    from tests.kit.raw import Client
    from tests.kit.running import Running

NAME = "users.test"


@pytest_asyncio.fixture
async def server(_leak_guard: None) -> AsyncIterator[NameServer]:
    async with name_server() as made:
        yield made


def by(discover: dict[str, Any], **words: Any) -> dict[str, Any]:
    """A configuration with one upstream, `up`, whose targets are found."""
    return {
        "routes": [{"name": "all", "path": "/*", "to": "up"}],
        "upstreams": {"up": {"discover": discover, **words}},
    }


def by_name(server: NameServer, port: int, **words: Any) -> dict[str, Any]:
    discover = {"dns": NAME, "port": port, "nameservers": [server.address]}
    return by(discover | words.pop("discover", {}), **words)


def by_service(server: NameServer, **words: Any) -> dict[str, Any]:
    return by({"srv": "_http._tcp.users.test", "nameservers": [server.address]}, **words)


def offered(server: NameServer, *records: tuple[int, int, Origin]) -> None:
    """Say that the service is offered by these: priority, weight, origin."""
    server.records["_http._tcp.users.test", "SRV"] = [
        f"{priority} {weight} {one.port} h{one.port}.test." for priority, weight, one in records
    ]
    for _, _, one in records:
        server.records[f"h{one.port}.test", "A"] = [one.host]


def events(running: Running, kind: str = "") -> list[str]:
    """What has been said, with its kind before it unless only one is wanted."""
    every = running.gateway.events.select(upstream="up")
    if kind:
        return [event.why for event in every if event.kind == kind]
    return [f"{event.kind}: {event.why}" for event in every]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


async def passing(running: Running, condition: Callable[[], object]) -> None:
    """Let time pass until something holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            running.clock.advance(0.5)
            await asyncio.sleep(0.01)


async def found(running: Running, times: int = 1) -> None:
    """Wait until targets have changed so often."""
    await until(lambda: len(events(running, "targets_changed")) == times)


async def looked(running: Running, server: NameServer, seconds: float = 5.0) -> None:
    """Let time pass, and wait until DNS was asked again and its answer was taken."""
    await until(lambda: running.clock.timers)
    asked = len(server.asked)
    running.clock.advance(seconds)
    await until(lambda: len(server.asked) >= asked + 2 and running.clock.timers)


async def bodies(client: Client, times: int) -> set[bytes]:
    """What so many requests, one after the other, were answered."""
    seen = set()
    for _ in range(times):
        answer = await client.ask(get())
        assert answer.status == 200
        seen.add(answer.body)
    return seen


# ── DNS ──


async def test_the_gateway_starts_with_dns_down_and_serves_from_the_first_answer(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, server: NameServer
) -> None:
    up = await origin()
    server.silent = True
    running = await gateway(by_name(server, up.port))
    assert running.gateway.ready, "upstreams do not count"
    client = await raw(running)
    problem(await client.ask(get()), "no_healthy_target", 503)
    await until(lambda: server.asked)
    running.clock.advance(5.0)
    await until(lambda: events(running))
    assert events(running) == [
        f"discovery_failed: dns {NAME}: no answer within 5 s from {server.address}; no targets yet"
    ]
    problem(await client.ask(get()), "no_healthy_target", 503)
    server.silent = False
    server.records[NAME, "A"] = ["127.0.0.1"]
    running.clock.advance(1.0)
    await found(running)
    assert (await client.ask(get())).status == 200
    assert events(running)[1:] == [
        f"targets_changed: +1 -0, new: {up.address}, 1 in all",
        f"discovery_recovered: dns {NAME}: 1 target",
    ]


async def test_when_a_name_is_renumbered_requests_go_to_the_new_address_and_none_is_lost(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, server: NameServer
) -> None:
    release = asyncio.Event()

    async def slow(peer: Peer) -> None:
        while True:
            message = await peer.request()
            if message.target == b"/slow":
                await release.wait()
            await peer.send(reply(b"old"))

    old = await origin(slow, host="127.0.0.2")
    new = await origin(reply(b"new"), host="127.0.0.3", port=old.port)
    server.records[NAME, "A"] = [old.host]
    running = await gateway(by_name(server, old.port))
    await found(running)
    client, patient = await raw(running), await raw(running)
    assert await bodies(client, 5) == {b"old"}
    await patient.send(get(b"/slow"))
    await until(lambda: len(old.requests) == 6)
    server.records[NAME, "A"] = [new.host]
    await looked(running, server)
    await found(running, 2)
    assert await bodies(client, 20) == {b"new"}
    release.set()
    assert (await patient.response()).body == b"old", "what was under way is finished"
    assert all([await peer.closed_soon() for peer in old.connections]), "and nothing rests there"
    assert events(running, "targets_changed")[1] == (
        f"+1 -1, new: {new.address}, gone: {old.address}, 1 in all"
    )


async def test_another_order_and_another_neighbour_leave_connections_and_counters_alone(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, server: NameServer
) -> None:
    one = await origin(host="127.0.0.2")
    two = await origin(host="127.0.0.3", port=one.port)
    three = await origin(host="127.0.0.4", port=one.port)
    server.records[NAME, "A"] = [one.host, two.host]
    rests = {"pool": {"idle": "10m"}, "balance": "round_robin"}
    running = await gateway(by_name(server, one.port, **rests))
    await found(running)
    client = await raw(running)
    await bodies(client, 4)
    server.records[NAME, "A"] = [two.host, one.host]
    for _ in range(3):
        await looked(running, server)
    server.records[NAME, "A"] = [three.host, two.host, one.host]
    await looked(running, server)
    await found(running, 2)
    await bodies(client, 6)
    assert [len(up.connections) for up in (one, two, three)] == [1, 1, 1]
    assert running.metric("gateway_upstream_requests_total", target=one.address) == 4


@pytest.mark.parametrize("fault", ["nxdomain", "servfail", "silent", "empty"])
async def test_when_dns_fails_the_last_good_answer_serves_on(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, server: NameServer, fault: str
) -> None:
    up = await origin()
    server.records[NAME, "A"] = ["127.0.0.1"]
    running = await gateway(by_name(server, up.port))
    await found(running)
    match fault:
        case "nxdomain":
            server.records.clear()
        case "servfail":
            server.rcode = {(NAME, kind): dns.rcode.SERVFAIL for kind in ("A", "AAAA")}
        case "silent":
            server.silent = True
        case _:
            server.records[NAME, "A"] = []
    await looked(running, server)
    if fault == "silent":
        running.clock.advance(5.0)
    await until(lambda: events(running, "discovery_failed"))
    assert events(running, "discovery_failed")[0].endswith("; keeping 1 target")
    assert await bodies(await raw(running), 3) == {b"ok"}


async def test_a_truncated_answer_is_fetched_over_tcp(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, server: NameServer
) -> None:
    up = await origin()
    server.truncate = True
    server.records[NAME, "A"] = ["127.0.0.1"]
    running = await gateway(by_name(server, up.port))
    await found(running)
    assert {way for _, _, way in server.asked} == {"udp", "tcp"}
    assert await bodies(await raw(running), 1) == {b"ok"}


async def test_an_alias_and_an_address_of_ipv6_are_targets_too(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, server: NameServer
) -> None:
    up = await origin(host="[::1]")
    server.records[NAME, "CNAME"] = ["real.test."]
    server.records["real.test", "AAAA"] = ["::1"]
    running = await gateway(by_name(server, up.port))
    await found(running)
    assert await bodies(await raw(running), 1) == {b"ok"}
    assert events(running) == [f"targets_changed: +1 -0, new: [::1]:{up.port}, 1 in all"]


async def test_host_target_sends_the_name_and_not_the_address(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, server: NameServer
) -> None:
    up = await origin()
    server.records[NAME, "A"] = ["127.0.0.1"]
    running = await gateway(by_name(server, up.port, host="target"))
    await found(running)
    await bodies(await raw(running), 1)
    assert up.only.get("host") == f"{NAME}:{up.port}".encode()


# ── SRV ──


async def test_a_service_brings_ports_and_weights(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, server: NameServer
) -> None:
    many, few = await origin(), await origin()
    offered(server, (10, 3, many), (10, 1, few))
    running = await gateway(by_service(server, balance="round_robin"))
    await found(running)
    await bodies(await raw(running), 8)
    assert (len(many.requests), len(few.requests)) == (6, 2)


async def test_a_service_that_moves_to_another_port_is_followed(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, server: NameServer
) -> None:
    old, new = await origin(reply(b"old")), await origin(reply(b"new"))
    offered(server, (10, 1, old))
    running = await gateway(by_service(server))
    await found(running)
    client = await raw(running)
    assert await bodies(client, 2) == {b"old"}
    offered(server, (10, 1, new))
    await looked(running, server)
    await found(running, 2)
    assert await bodies(client, 2) == {b"new"}


async def test_a_higher_priority_is_a_backup_that_serves_when_the_first_is_down(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, server: NameServer
) -> None:
    first, second = await origin(reply(b"first")), await origin(reply(b"second"))
    offered(server, (10, 1, first), (20, 99, second))
    health = {"tcp": True, "interval": "1s", "fall": 1}
    running = await gateway(by_service(server, health=health))
    await found(running)
    client = await raw(running)
    assert await bodies(client, 10) == {b"first"}
    await first.refuse()
    await passing(running, lambda: events(running, "target_down"))
    assert await bodies(client, 10) == {b"second"}


async def test_a_target_that_is_found_is_checked(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, server: NameServer
) -> None:
    well, ill = await origin(), await origin(reply(b"", status=b"503 Service Unavailable"))
    offered(server, (10, 1, well))
    health = {"path": "/healthz", "interval": "1s", "fall": 1}
    running = await gateway(by_service(server, health=health))
    await found(running)
    offered(server, (10, 1, well), (10, 1, ill))
    await looked(running, server)
    await until(lambda: ill.requests and events(running, "target_down"))
    assert ill.requests[0].target == b"/healthz"
    assert await bodies(await raw(running), 10) == {b"ok"}


# ── TLS ──


@contextlib.asynccontextmanager
async def _tls(ca: trustme.CA, name: str, *, asks: bool) -> AsyncIterator[int]:
    """The port of an upstream with a certificate for `name`; `asks`: for a client's too."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name).configure_cert(serving)
    if asks:
        ca.configure_trust(serving)
        serving.verify_mode = ssl.CERT_REQUIRED

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(OK)
        writer.close()

    server = await asyncio.start_server(script, "127.0.0.1", 0, ssl=serving)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize(
    ("certified", "tls", "reason"),
    [
        pytest.param(NAME, {"ca": "ca.pem"}, "", id="its-own-name"),
        pytest.param("127.0.0.1", {"ca": "ca.pem"}, "tls_error", id="only-its-address"),
        pytest.param(NAME, {}, "tls_error", id="unknown-authority"),
        pytest.param("b.test", {"ca": "ca.pem", "server_name": "b.test"}, "", id="another-name"),
        pytest.param("b.test", {"verify": False}, "", id="not-verified"),
        pytest.param(
            NAME, {"ca": "ca.pem", "cert": "gw.pem", "key": "gw.key"}, "", id="client-certificate"
        ),
    ],
)
async def test_the_certificate_of_a_found_target_is_verified_by_the_name_that_was_looked_up(
    gateway: MakeGateway,
    raw: MakeClient,
    server: NameServer,
    tmp_path: Path,
    certified: str,
    tls: dict[str, Any],
    reason: str,
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    own = authority.issue_cert("gateway.test")
    own.cert_chain_pems[0].write_to_path(str(tmp_path / "gw.pem"))
    own.private_key_pem.write_to_path(str(tmp_path / "gw.key"))
    files = {key: str(tmp_path / tls[key]) for key in ("ca", "cert", "key") if key in tls}
    server.records[NAME, "A"] = ["127.0.0.1"]
    async with _tls(authority, certified, asks="cert" in tls) as port:
        config = by_name(server, port, tls=tls | files, discover={"scheme": "https"})
        running = await gateway(config)
        await found(running)
        got = await (await raw(running)).ask(get())
        if reason:
            problem(got, reason, 502)
        else:
            assert (got.status, got.body) == (200, b"ok")
        await running.gateway.drain(delay=0)


# ── a file ──


async def test_a_file_that_is_rewritten_changes_targets_and_one_that_is_broken_does_not(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    old, new = await origin(reply(b"old")), await origin(reply(b"new"))
    path = tmp_path / "targets.json"
    path.write_text(f'["{old.url}"]')
    running = await gateway(by({"file": str(path), "refresh": "1s"}))
    await found(running)
    client = await raw(running)
    assert await bodies(client, 2) == {b"old"}

    path.write_text(f'["{new.url}"')
    await passing(running, lambda: events(running, "discovery_failed"))
    assert "targets.json:2:1: a list or mapping in brackets is not closed" in events(running)[-1]
    assert await bodies(client, 2) == {b"old"}
    path.write_text("[]")
    await passing(running, lambda: len(events(running, "discovery_failed")) == 2)
    assert await bodies(client, 2) == {b"old"}
    path.write_text(f'[{{"url": "{new.url}", "weight": 2}}]')
    await passing(running, lambda: events(running, "discovery_recovered"))
    assert await bodies(client, 2) == {b"new"}
    assert len(old.connections) == 1


async def test_a_file_may_name_unix_sockets_and_paths(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin(unix=str(tmp_path / "app.sock"))
    (tmp_path / "targets.yaml").write_text("- unix:app.sock\n")
    running = await gateway(by({"file": str(tmp_path / "targets.yaml")}))
    await found(running)
    assert await bodies(await raw(running), 1) == {b"ok"}
    assert len(up.requests) == 1


# ── the environment ──


async def test_a_variable_names_targets(
    origin: MakeOrigin,
    gateway: MakeGateway,
    raw: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, two = await origin(reply(b"one")), await origin(reply(b"two"))
    monkeypatch.setenv("TARGETS", f"{one.url}, {two.url}/base")
    running = await gateway(by({"env": "TARGETS"}, balance="round_robin"))
    await found(running)
    assert await bodies(await raw(running), 4) == {b"one", b"two"}
    assert two.requests[0].target == b"/base/"


async def test_a_variable_that_is_not_set_is_a_mistake_of_the_configuration(
    gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TARGETS", raising=False)
    with pytest.raises(ConfigError, match=r"upstreams\.up\.discover\.env: .*TARGETS is not set"):
        await gateway(by({"env": "TARGETS"}))


# ── reloads ──


async def test_a_reload_keeps_what_was_found_while_dns_is_down(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, server: NameServer
) -> None:
    up = await origin()
    server.records[NAME, "A"] = ["127.0.0.1"]
    running = await gateway(by_name(server, up.port))
    await found(running)
    client = await raw(running)
    await bodies(client, 2)
    server.silent = True
    same = {"listeners": [{"bind": "127.0.0.1:0"}], "admin": "off"}
    await running.gateway.reload(same | by_name(server, up.port, pool={"max": 7}))
    assert await bodies(client, 2) == {b"ok"}
    other = by_name(server, up.port, discover={"refresh": "1s"})
    await running.gateway.reload(same | other)
    assert await bodies(client, 2) == {b"ok"}
    assert len(up.connections) == 1
    assert len(events(running, "targets_changed")) == 1


async def test_a_reload_to_another_name_serves_from_the_old_one_until_the_new_one_is_found(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, server: NameServer
) -> None:
    old, new = await origin(reply(b"old")), await origin(reply(b"new"))
    running = await gateway(
        {"routes": [{"path": "/*", "to": "up"}], "upstreams": {"up": {"targets": [old.url]}}}
    )
    client = await raw(running)
    same = {"listeners": [{"bind": "127.0.0.1:0"}], "admin": "off"}
    await running.gateway.reload(same | by_name(server, new.port))
    await until(lambda: events(running, "discovery_failed"))
    assert await bodies(client, 2) == {b"old"}
    server.records[NAME, "A"] = ["127.0.0.1"]
    await until(lambda: running.clock.timers)
    running.clock.advance(1.0)
    await found(running)
    assert await bodies(client, 2) == {b"new"}


async def test_a_reload_that_writes_targets_ends_the_looking(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, server: NameServer
) -> None:
    found_up, written = await origin(reply(b"found")), await origin(reply(b"written"))
    server.records[NAME, "A"] = ["127.0.0.1"]
    running = await gateway(by_name(server, found_up.port))
    await found(running)
    client = await raw(running)
    assert await bodies(client, 2) == {b"found"}
    routes = [{"path": "/*", "to": "up"}]
    same = {"listeners": [{"bind": "127.0.0.1:0"}], "admin": "off", "routes": routes}
    await running.gateway.reload(same | {"upstreams": {"up": {"targets": [written.url]}}})
    assert await bodies(client, 2) == {b"written"}
    asked = len(server.asked)
    running.clock.advance(100.0)
    await asyncio.sleep(0.05)
    assert len(server.asked) == asked


async def test_a_reload_that_fails_leaves_no_discovery_behind(
    origin: MakeOrigin, gateway: MakeGateway, server: NameServer
) -> None:
    up = await origin()
    running = await gateway(up)
    listeners = [{"bind": "127.0.0.1:0"}, {"bind": "203.0.113.1:80"}]
    wrong = by_name(server, up.port) | {"listeners": listeners, "admin": "off"}
    with pytest.raises(OSError, match=r"203\.0\.113\.1"):
        await running.gateway.reload(wrong)
    assert server.asked == []
