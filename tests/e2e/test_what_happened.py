"""What became of a target can be read off: at /upstreams, at /events and in the metrics, in the same words.

Rules of this file: a real gateway with its admin listener; the clock is moved from check to check.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from gateway.config import ConfigError
from tests.e2e.conformance.conftest import get
from tests.kit.origin import OK, reply

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Peer
    from tests.kit.running import Running

SICK = reply(b"sick", status=b"503 Service Unavailable")


async def told(raw: MakeClient, running: Running, path: str) -> dict[str, Any]:
    """What the admin listener says."""
    answer = await (await raw(running.admin)).ask(get(path.encode()))
    assert answer.status == 200, answer.raw
    found: dict[str, Any] = json.loads(answer.body)
    return found


async def until(running: Running, up: int) -> None:
    """Move the clock from check to check until the target is up (1) or down (0)."""
    async with asyncio.timeout(20):
        while running.metric("gateway_upstream_target_up") != up:
            running.clock.advance(1.2)
            await asyncio.sleep(0.02)


async def test_a_target_that_goes_down_and_comes_back_is_told_with_why_and_since(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    well = True

    async def checked(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(OK if well else SICK)

    up = await origin(checked)
    running = await gateway(
        up,
        admin={"bind": "127.0.0.1:0"},
        upstream={"health": {"path": "/up", "interval": "1s", "fall": 3, "rise": 2}},
    )
    [row] = (await told(raw, running, "/upstreams"))["upstreams"]
    assert row["targets"][0]["state"] == "available"

    well = False
    await until(running, 0)
    [row] = (await told(raw, running, "/upstreams"))["upstreams"]
    [target] = row["targets"]
    assert (target["name"], target["state"]) == (up.address, "down")
    assert "3 checks in a row" in target["why"]
    assert 0 <= target["seconds"] < 60
    [event] = (await told(raw, running, "/events?upstream=up"))["events"]
    assert (event["kind"], event["target"], event["why"]) == (
        "target_down",
        up.address,
        target["why"],
    )
    assert running.metric("gateway_health_checks_total", result="fail") >= 3

    well = True
    await until(running, 1)
    [row] = (await told(raw, running, "/upstreams"))["upstreams"]
    assert row["targets"][0]["state"] == "available"
    later = await told(raw, running, f"/events?upstream=up&since={event['at']}")
    assert [one["kind"] for one in later["events"]] == ["target_down", "target_up"]


async def test_a_reload_and_one_that_fails_are_told_beside_the_targets(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, admin={"bind": "127.0.0.1:0"})
    served = {
        "listeners": [{"bind": "127.0.0.1:0"}],
        "admin": {"bind": "127.0.0.1:0"},
        "observability": {"access_log": "off"},
        "routes": [{"name": "all", "path": "/*", "to": "up"}],
        "upstreams": {"up": {"targets": [up.url, "http://127.0.0.2:9"]}},
    }
    await running.gateway.reload(served)
    with pytest.raises(ConfigError, match="up"):
        await running.gateway.reload({**served, "upstreams": {}})
    events = (await told(raw, running, "/events"))["events"]
    assert [one["kind"] for one in events][-2:] == ["reloaded", "reload_failed"]
    assert "up" in events[-1]["why"]
    [row] = (await told(raw, running, "/upstreams"))["upstreams"]
    assert [target["name"] for target in row["targets"]] == [up.address, "127.0.0.2:9"]


async def test_where_targets_come_from_is_told_and_what_is_wrong_with_it(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    path = tmp_path / "targets.json"
    path.write_text(f'["{up.url}"]')
    discover = {"file": str(path), "refresh": "1s"}
    running = await gateway(
        {
            "admin": {"bind": "127.0.0.1:0"},
            "routes": [{"name": "all", "path": "/*", "to": "up"}],
            "upstreams": {"up": {"discover": discover}},
        }
    )
    [row] = (await told(raw, running, "/upstreams"))["upstreams"]
    assert row["discovery"] == {"from": f"file {path}", "problem": None}
    path.write_text("[")
    async with asyncio.timeout(20):
        while row["discovery"]["problem"] is None:
            running.clock.advance(1.2)
            await asyncio.sleep(0.02)
            [row] = (await told(raw, running, "/upstreams"))["upstreams"]
    assert "targets.json:2:1: this is not YAML" in row["discovery"]["problem"]
    assert [target["name"] for target in row["targets"]] == [up.address]


async def test_how_long_a_target_lets_connections_rest_is_told_once_it_is_known(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def rest(running: Running) -> dict[str, Any]:
        [row] = (await told(raw, running, "/upstreams"))["upstreams"]
        learned: dict[str, Any] = row["targets"][0]["rest"]
        return learned

    up = await origin()
    running = await gateway(up, admin={"bind": "127.0.0.1:0"})
    assert (await (await raw(running)).ask(get())).status == 200
    assert await rest(running) == {"kept_for": 4.0, "ended_after": None}
    running.clock.advance(2)
    await up.hang_up()
    async with asyncio.timeout(20):
        while (learned := await rest(running))["ended_after"] is None:
            await asyncio.sleep(0.02)
    assert 2 <= learned["ended_after"] < 4
    assert learned["kept_for"] < learned["ended_after"]
