"""`server.overload`, through a whole gateway: who is refused while the event loop is late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.e2e.conformance.conftest import get, problem

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.raw import Client
    from tests.kit.running import Running

OVERLOAD = {"loop_lag": "250ms", "for": "2s", "shed": ["low", "normal"]}


def routes(to: str) -> list[dict[str, Any]]:
    return [
        {"name": word or "unsaid", "path": f"/{word or 'unsaid'}", "to": to,
         **({"importance": word} if word else {})}
        for word in ("low", "normal", "high", "")
    ]  # fmt: skip


def late(running: Running, seconds: float, lag: float = 0.5) -> None:
    """Let the event loop be late, as the clock sees it."""
    for _ in range(round(seconds / (0.1 + lag))):
        running.clock.advance(0.11 + lag)


async def refused(client: Client) -> list[str]:
    words = []
    for word in ("low", "normal", "high", "unsaid"):
        answer = await client.ask(get(f"/{word}".encode()))
        if answer.status == 503:
            problem(answer, "overloaded", 503)
            assert answer.get("retry-after") == b"2"
            words.append(word)
        else:
            assert answer.status == 200
    return words


async def test_while_the_loop_is_late_the_least_important_are_refused_first(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway({"routes": routes(up.url)}, server={"overload": OVERLOAD})
    client = await raw(running)
    late(running, 1.5)
    assert await refused(client) == []
    late(running, 1.3)
    assert await refused(client) == ["low"]
    late(running, 2.5)
    assert await refused(client) == ["low", "normal", "unsaid"]
    late(running, 10)
    assert await refused(client) == ["low", "normal", "unsaid"]
    assert running.metric("gateway_shed_total", route="low", importance="low") == 3
    assert running.metric("gateway_shed_total", route="unsaid", importance="normal") == 2
    assert running.metric("gateway_errors_total", reason="overloaded") == 7
    late(running, 2.4, lag=0)
    assert await refused(client) == ["low"]
    late(running, 2.4, lag=0)
    assert await refused(client) == []
    kinds = [event.kind for event in running.gateway.events.select()]
    assert kinds == ["shed_on", "shed_on", "shed_off", "shed_off"]


async def test_what_no_route_takes_is_told_so_and_not_that_the_loop_is_late(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway({"routes": routes(up.url)}, server={"overload": OVERLOAD})
    late(running, 6)
    client = await raw(running)
    problem(await client.ask(get(b"/nowhere")), "no_route", 404)
    assert await refused(client) == ["low", "normal", "unsaid"]


async def test_what_is_refused_stays_so_over_a_reload_until_the_setting_goes(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    from gateway.config import load_dict

    up = await origin()
    running = await gateway({"routes": routes(up.url)}, server={"overload": OVERLOAD})
    late(running, 3)
    client = await raw(running)
    assert await refused(client) == ["low"]
    written: dict[str, Any] = {"routes": routes(up.url), "server": {"overload": OVERLOAD}}
    written |= {"listeners": [{"bind": "127.0.0.1:0"}], "admin": "off"}
    written["observability"] = {"access_log": "off"}
    await running.gateway.reload(load_dict(written))
    client = await raw(running)
    assert await refused(client) == ["low"]
    written["server"] = {"overload": "off"}
    await running.gateway.reload(load_dict(written))
    client = await raw(running)
    assert await refused(client) == []
    late(running, 10)
    assert await refused(client) == []


async def test_by_default_only_low_routes_are_refused(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway({"routes": routes(up.url)})
    late(running, 10)
    assert await refused(await raw(running)) == ["low"]
