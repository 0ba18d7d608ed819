"""A reload: all or nothing, and nobody who is being served notices.

Rules of this file: real sockets; every request is counted.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from typing import TYPE_CHECKING, Any

import pytest

from gateway.config import ConfigError
from gateway.runtime.listeners import ListenError
from tests.kit.origin import chunk, reply

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin, Peer
    from tests.kit.running import Running

GET = b"GET %b HTTP/1.1\r\nHost: test\r\n\r\n"
UPGRADE = (
    b"GET /stream/ws HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
    + base64.b64encode(b"0123456789abcdef")
    + b"\r\n\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: x\r\n\r\n"
)


def changed(running: Running, **sections: Any) -> dict[str, Any]:
    """A configuration as a mapping, with the listener of the one that runs."""
    written: dict[str, Any] = {
        "listeners": [{"bind": "127.0.0.1:0"}],
        "admin": "off",
        "observability": {"access_log": "off"},
    }
    return {**written, **sections}


def routes(**targets: Origin) -> dict[str, Any]:
    """One route for each path /NAME/*, each with an upstream of its own."""
    return {
        "routes": [
            {"name": name, "path": f"/{name}/*", "to": f"{name}-up", "retry": "off"}
            for name in targets
        ],
        "upstreams": {f"{name}-up": {"targets": [origin.url]} for name, origin in targets.items()},
    }


async def test_no_request_of_500_fails_while_ten_reloads_change_one_route_and_leave_another(
    gateway: MakeGateway, origin: MakeOrigin, raw: MakeClient
) -> None:
    same, old, new = await origin(), await origin(reply(b"old")), await origin(reply(b"new"))
    running = await gateway(routes(same=same, changed=old), server={"limits": {"connections": 50}})
    held = len(running.gateway._resources)
    statuses: list[int] = []
    bodies: set[bytes] = set()

    async def ask(path: bytes) -> None:
        client = await raw(running)
        for number in range(50):
            answer = await client.ask(GET % (path + b"/%d" % number))
            statuses.append(answer.status)
            bodies.add(answer.body)

    async def reload() -> None:
        for number in range(10):
            target = new if number % 2 == 0 else old
            await running.gateway.reload(changed(running, **routes(same=same, changed=target)))
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        for number in range(10):
            _ = group.create_task(ask(b"/same" if number % 2 else b"/changed"))
        _ = group.create_task(reload())
    assert statuses == [200] * 500
    assert bodies == {b"ok", b"old", b"new"}
    assert running.gateway.generation == 11
    assert running.metric("gateway_config_reloads_total", result="success") == 10
    assert len(same.connections) <= 5, "the pool of an unchanged upstream did not survive"
    await _let_go(running)
    assert {one.name for one in running.gateway._resources.of("upstream")} == {
        "same-up", "changed-up",
    }  # fmt: skip
    assert len(running.gateway._resources) <= held, "something of an earlier generation is kept"


async def test_a_request_whose_target_leaves_while_it_is_connected_to_is_served_by_it(
    gateway: MakeGateway, origin: MakeOrigin, raw: MakeClient
) -> None:
    go_on = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.request()
        await go_on.wait()
        await peer.send(reply(b"old"))

    old, new = await origin(slow), await origin(reply(b"new"))
    running = await gateway(routes(a=old))
    client = await raw(running)
    await client.send(GET % b"/a/1")
    await old.wait_for_request()
    await running.gateway.reload(changed(running, **routes(a=new)))
    go_on.set()
    assert (await client.response()).body == b"old"
    assert (await client.ask(GET % b"/a/2")).body == b"new"
    assert len(old.requests) == 1


@pytest.mark.parametrize("kept", [True, False], ids=["unchanged", "gone"])
async def test_an_event_stream_survives_a_reload_that_keeps_or_removes_its_route(
    gateway: MakeGateway, origin: MakeOrigin, raw: MakeClient, kept: bool
) -> None:
    go_on = asyncio.Event()

    async def events(peer: Peer) -> None:
        await peer.request()
        await peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"data: 1\n\n")
        )
        await go_on.wait()
        await peer.send(chunk(b"data: 2\n\n"), b"0\r\n\r\n")

    source, other = await origin(events), await origin()
    running = await gateway(routes(stream=source, other=other))
    client = await raw(running)
    await client.send(GET % b"/stream/x")
    assert b"text/event-stream" in await client.until(b"\r\n\r\n")
    await client.until(b"data: 1\n\n\r\n")
    left = routes(stream=source, other=other) if kept else routes(other=other)
    await running.gateway.reload(changed(running, **left))
    running.clock.advance(1)
    go_on.set()
    assert await client.until(b"0\r\n\r\n") == chunk(b"data: 2\n\n") + b"0\r\n\r\n"
    assert (await client.ask(GET % b"/stream/x")).status == (200 if kept else 404)
    client.close()
    if not kept:
        await _let_go(running)
        assert {one.name for one in running.gateway._resources.of("upstream")} == {"other-up"}


@pytest.mark.parametrize("kept", [True, False], ids=["unchanged", "gone"])
async def test_a_websocket_survives_reloads_that_keep_or_remove_its_route(
    gateway: MakeGateway, origin: MakeOrigin, raw: MakeClient, kept: bool
) -> None:
    async def echo(peer: Peer) -> None:
        await peer.request()
        await peer.send(SWITCH)
        while True:
            await peer.send(await peer.exactly(4))

    source, other = await origin(echo), await origin()
    running = await gateway(routes(stream=source, other=other))
    client = await raw(running)
    assert (await client.ask(UPGRADE)).status == 101
    await client.send(b"\x82\x02ab")
    assert await client.exactly(4) == b"\x82\x02ab"
    for _ in range(3):
        left = routes(stream=source, other=other) if kept else routes(other=other)
        await running.gateway.reload(changed(running, **left))
        running.clock.advance(1)
        await client.send(b"\x82\x02cd")
        assert await client.exactly(4) == b"\x82\x02cd"
    client.close()
    await _let_go(running)
    names = {one.name for one in running.gateway._resources.of("upstream")}
    assert names == ({"stream-up", "other-up"} if kept else {"other-up"})


async def _let_go(running: Running) -> None:
    """Wait until nothing of an earlier generation is held any more."""
    for _ in range(200):
        running.clock.scan()
        if not running.gateway._former and not running.gateway._orphans:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("an earlier generation is still held")


async def test_a_configuration_with_a_mistake_changes_nothing_and_says_why(
    tmp_path: Path, origin: MakeOrigin, raw: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    from gateway.runtime.gateway import Gateway

    up = await origin()
    file = tmp_path / "gateway.yaml"
    good = (
        f"admin: off\nobservability: {{access_log: off}}\nlisteners: [{{bind: '127.0.0.1:0'}}]\n"
        f"routes:\n  - path: /*\n    to: {up.url}\n"
    )
    file.write_text(good)
    async with Gateway(file) as gateway:
        address = next(iter(gateway.addresses.values()))
        snapshot, held = gateway.snapshot, len(gateway._resources)
        file.write_text(good + "    tiemouts: {total: 1s}\n")
        with caplog.at_level(logging.ERROR), pytest.raises(ConfigError):
            await gateway.reload()
        assert gateway.snapshot is snapshot
        assert len(gateway._resources) == held
        assert gateway.last_reload.successful is False
        assert "gateway.yaml:7:5" in (gateway.last_reload.error or "")
        assert "tiemouts" in (gateway.last_reload.error or "")
        assert [record.message for record in caplog.records] == ["reload_failed"]
        assert b"gateway_config_last_reload_successful 0.0" in gateway.metrics.exposition(None)[0]
        client = await raw(address)
        assert (await client.ask(GET % b"/")).status == 200
        file.write_text(good)
        await gateway.reload()
        assert gateway.last_reload.successful
        assert gateway.generation == 2
        assert b"gateway_config_last_reload_successful 1.0" in gateway.metrics.exposition(None)[0]
        assert (await client.ask(GET % b"/")).status == 200
        client.close()


async def test_a_file_that_can_not_be_used_at_compilation_leaves_everything_as_it_was(
    gateway: MakeGateway, origin: MakeOrigin, raw: MakeClient, tmp_path: Path
) -> None:
    old, new = await origin(reply(b"old")), await origin(reply(b"new"))
    running = await gateway(routes(a=old))
    authority = tmp_path / "ca.pem"
    authority.write_text("no certificate")
    broken = routes(a=new)
    broken["upstreams"]["b"] = {
        "targets": ["https://127.0.0.1:1"], "tls": {"ca": str(authority)},
    }  # fmt: skip
    held = len(running.gateway._resources)
    with pytest.raises(OSError):
        await running.gateway.reload(changed(running, **broken))
    assert len(running.gateway._resources) == held
    client = await raw(running)
    assert (await client.ask(GET % b"/a/")).body == b"old"
    assert running.metric("gateway_config_reloads_total", result="failure") == 1


async def test_a_new_listener_opens_a_removed_one_closes_and_the_others_keep_their_sockets(
    gateway: MakeGateway, origin: MakeOrigin, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    first, second = tmp_path / "first.sock", tmp_path / "second.sock"
    both = [{"bind": "127.0.0.1:0"}, {"bind": f"unix:{first}"}]
    running = await gateway(routes(a=up), listeners=both)
    stays = running.address
    inode = first.stat().st_ino
    kept = await raw(f"unix:{first}")
    assert (await kept.ask(GET % b"/a/")).status == 200
    more = [*both, {"bind": f"unix:{second}"}]
    await running.gateway.reload(changed(running, **routes(a=up), listeners=more))
    assert list(running.gateway.addresses.values()) == [stays, f"unix:{first}", f"unix:{second}"]
    assert first.stat().st_ino == inode
    for address in running.gateway.addresses.values():
        client = await raw(address)
        assert (await client.ask(GET % b"/a/")).status == 200
    less = [{"bind": "127.0.0.1:0"}, {"bind": f"unix:{second}"}]
    await running.gateway.reload(changed(running, **routes(a=up), listeners=less))
    assert running.address == stays
    assert await kept.closed() == "fin", "an idle connection of a removed listener stayed"
    assert not first.exists()
    with pytest.raises(OSError):
        await raw(f"unix:{first}")


async def test_a_request_in_flight_on_a_removed_listener_is_answered(
    gateway: MakeGateway, origin: MakeOrigin, raw: MakeClient
) -> None:
    go_on = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.request()
        await go_on.wait()
        await peer.send(reply(b"late"))

    up = await origin(slow)
    both = [{"name": "a", "bind": "127.0.0.1:0"}, {"name": "b", "bind": "127.0.0.1:0"}]
    running = await gateway(routes(a=up), listeners=both)
    client = await raw(running.gateway.addresses["b"])
    await client.send(GET % b"/a/")
    await up.wait_for_request()
    await running.gateway.reload(changed(running, **routes(a=up), listeners=both[:1]))
    assert list(running.gateway.addresses) == ["a"]
    go_on.set()
    assert (await client.response()).body == b"late"
    await _let_go(running)
    assert await client.closed() == "fin"


async def test_a_listener_that_can_not_be_opened_fails_the_whole_reload(
    gateway: MakeGateway, origin: MakeOrigin, raw: MakeClient, tmp_path: Path
) -> None:
    old, new = await origin(reply(b"old")), await origin(reply(b"new"))
    running = await gateway(routes(a=old))
    taken = [
        {"bind": "127.0.0.1:0"},
        {"bind": f"unix:{tmp_path}/new.sock"},
        {"bind": f"127.0.0.1:{old.port}"},
    ]
    with pytest.raises(ListenError, match=f"127.0.0.1:{old.port}: the address is in use"):
        await running.gateway.reload(changed(running, **routes(a=new), listeners=taken))
    assert len(running.gateway.addresses) == 1
    assert not (tmp_path / "new.sock").exists()
    client = await raw(running)
    assert (await client.ask(GET % b"/a/")).body == b"old"


async def test_limits_of_connections_and_buckets_of_metrics_change_with_a_reload(
    gateway: MakeGateway, origin: MakeOrigin, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(routes(a=up))
    first = await raw(running)
    assert (await first.ask(GET % b"/a/")).status == 200
    await running.gateway.reload(
        changed(
            running,
            **routes(a=up),
            server={"limits": {"connections": 1}},
            observability={"access_log": "off", "metrics": {"buckets": ["7s"]}},
        )
    )
    second = await raw(running)
    refused = await second.ask(GET % b"/a/")
    assert refused.status == 503
    assert b"too_many_connections" in refused.body
    assert (await first.ask(GET % b"/a/")).status == 200
    await running.eventually("gateway_request_duration_seconds_bucket", 1, le="7.0", route="a")


async def test_two_reloads_at_once_happen_one_after_the_other(
    gateway: MakeGateway, origin: MakeOrigin, raw: MakeClient
) -> None:
    one, two = await origin(reply(b"one")), await origin(reply(b"two"))
    running = await gateway(routes(a=one))
    await asyncio.gather(
        running.gateway.reload(changed(running, **routes(a=two))),
        running.gateway.reload(changed(running, **routes(a=one))),
    )
    assert running.gateway.generation == 3
    client = await raw(running)
    assert (await client.ask(GET % b"/a/")).body == b"one"


async def test_a_reload_is_refused_once_the_gateway_is_draining(
    gateway: MakeGateway, origin: MakeOrigin
) -> None:
    up = await origin()
    running = await gateway(routes(a=up))
    await running.gateway.drain(0)
    with pytest.raises(RuntimeError, match="shutting down"):
        await running.gateway.reload(changed(running, **routes(a=up)))
    assert running.gateway.generation == 1
    assert running.gateway.last_reload.error == "the gateway is shutting down"
