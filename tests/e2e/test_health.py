"""Active checks through a whole gateway: who gets requests, what clients are told, what a reload keeps."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conformance.conftest import get, post, problem
from tests.kit.origin import OK, reply
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin, Peer
    from tests.kit.running import Running

CHECK = {"path": "/healthz", "interval": "10s", "interval_down": "1s", "rise": 2, "fall": 3}


class App:
    """An application that answers requests always and checks as it is told."""

    def __init__(self) -> None:
        self.well = True
        self.served = 0
        self.checked: list[bytes] = []
        """Paths that checks asked for."""

    async def __call__(self, peer: Peer) -> None:
        while True:
            message = await peer.request()
            if message.get("user-agent") == b"gateway-health-check":
                self.checked.append(message.target)
                await peer.send(OK if self.well else reply(status=b"503 Starting"))
            else:
                self.served += 1
                await peer.send(OK)


def written(*origins: Origin, **upstream: Any) -> dict[str, Any]:
    """A route to these targets."""
    return {
        "routes": [{"name": "all", "path": "/*", "to": "up"}],
        "upstreams": {"up": {"targets": [one.url for one in origins], **upstream}},
    }


async def until(fact: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not fact():
            await asyncio.sleep(0.005)


async def checks(running: Running, seconds: float, app: App, times: int = 1) -> None:
    """Let time pass, again and again, until `app` was asked so often and its answers were heard."""
    for _ in range(times):
        await asyncio.sleep(0.02)
        before = len(app.checked)
        running.clock.advance(seconds)
        await until(lambda before=before: len(app.checked) > before)
        await asyncio.sleep(0.02)


async def test_a_target_that_its_checks_call_down_gets_no_request_until_they_call_it_up(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    ill, well = App(), App()
    one, other = await origin(ill), await origin(well)
    running = await gateway(written(one, other, health=CHECK))
    await until(lambda: ill.checked and well.checked)
    await asyncio.sleep(0.02)
    ill.well = False
    await checks(running, 11.0, ill, times=3)
    client = await raw(running)
    for _ in range(40):
        assert (await client.ask(post())).status == 200
    assert (ill.served, well.served) == (0, 40)
    assert running.metric("gateway_upstream_target_up", target=one.address) == 0
    assert running.metric("gateway_upstream_target_up", target=other.address) == 1
    assert running.metric("gateway_health_checks_total", target=one.address, result="fail") == 3

    ill.well = True
    await checks(running, 1.2, ill, times=2)
    await running.eventually("gateway_upstream_target_up", 1, target=one.address)
    for _ in range(40):
        assert (await client.ask(post())).status == 200
    assert ill.served
    told = [(event.kind, event.why) for event in running.gateway.events.select(upstream="up")]
    assert told == [
        ("target_down", "status 503, 3 checks in a row"),
        ("target_up", "2 checks in a row passed"),
    ]


async def test_when_all_targets_are_down_clients_are_told_so_and_nobody_is_asked(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    app = App()
    app.well = False
    one = await origin(app)
    running = await gateway(written(one, health={**CHECK, "fall": 1}))
    await running.eventually("gateway_upstream_target_up", 0, target=one.address)
    client = await raw(running)
    answer = await client.ask(get())
    problem(answer, "no_healthy_target", 503)
    assert b"destination_unavailable" in (answer.get("proxy-status") or b"")
    assert app.served == 0
    assert (await running.log())[0]["reason"] == "no_healthy_target"


async def test_the_short_form_is_a_path(origin: MakeOrigin, gateway: MakeGateway) -> None:
    app = App()
    one = await origin(app)
    await gateway(written(one, health="/up?deep=1"))
    await until(lambda: app.checked)
    assert app.checked == [b"/up?deep=1"]


async def test_a_verdict_and_its_timing_survive_a_reload(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    from gateway.config import load_dict

    app, fine = App(), App()
    one, other = await origin(app), await origin(fine)
    app.well = False
    config = written(one, other, health={**CHECK, "fall": 1})
    running = await gateway(config)
    await running.eventually("gateway_upstream_target_up", 0, target=one.address)
    asked = len(app.checked)

    def reloaded(**health: Any) -> Any:
        settings = {**CHECK, **health}
        return load_dict(
            {
                **written(one, other, health=settings),
                "listeners": [{"bind": "127.0.0.1:0"}],
                "admin": "off",
            }
        )

    await running.gateway.reload(reloaded(fall=2))
    assert running.metric("gateway_upstream_target_up", target=one.address) == 0
    await asyncio.sleep(0.05)
    assert len(app.checked) == asked

    await running.gateway.reload(reloaded(path="/other"))
    await until(lambda: app.checked[-1] == b"/other")
    assert len(app.checked) == asked + 1


async def test_checks_end_with_their_upstream_and_begin_with_a_new_one(
    origin: MakeOrigin, gateway: MakeGateway
) -> None:
    from gateway.config import load_dict

    old, new = App(), App()
    one, other = await origin(old), await origin(new)
    running = await gateway(written(one, health=CHECK))
    await until(lambda: old.checked)
    config = {
        "routes": [{"path": "/*", "to": "next"}],
        "upstreams": {"next": {"targets": [other.url], "health": CHECK}},
        "listeners": [{"bind": "127.0.0.1:0"}],
        "admin": "off",
    }
    await running.gateway.reload(load_dict(config))
    await until(lambda: new.checked)
    asked = len(old.checked)
    await checks(running, 11.0, new, times=2)
    assert len(old.checked) == asked


async def test_a_broken_configuration_leaves_the_checks_as_they_are(
    origin: MakeOrigin, gateway: MakeGateway
) -> None:
    app = App()
    one = await origin(app)
    running = await gateway(written(one, health=CHECK))
    await until(lambda: app.checked)
    with pytest.raises(OSError):
        await running.gateway.reload(
            {
                **written(one, health={"path": "/changed"}),
                "listeners": [{"bind": "127.0.0.1:0"}, {"bind": one.address}],
                "admin": "off",
            }
        )
    await checks(running, 11.0, app)
    assert set(app.checked) == {b"/healthz"}
