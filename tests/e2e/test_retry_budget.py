"""The budget of extra tries: a share of what clients ask for, so that a brown-out stays one.

Rules of this file: no connection is used twice, for a resend after one that was is outside the
budget.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.conformance.conftest import get
from tests.kit.origin import CLOSING, reply

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Peer
    from tests.kit.raw import Client
    from tests.kit.running import Running

UNAVAILABLE = reply(b"later", b"Connection: close", status=b"503 Service Unavailable")


def retries(running: Running, reason: str, outcome: str) -> float:
    """How many tries ended so."""
    return running.metric("gateway_retries_total", reason=reason, outcome=outcome, upstream="up")


async def dies_if_told(peer: Peer) -> None:
    """Answers each request on a connection of its own, but not /bad."""
    message = await peer.request()
    if message.target != b"/bad":
        await peer.send(CLOSING)


async def _ask(client: Client, target: bytes, times: int) -> None:
    for _ in range(times):
        await client.ask(get(target))


async def test_a_budget_has_three_extra_tries_in_ten_seconds_at_least(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(dies_if_told)
    running = await gateway(up)
    client = await raw(running)
    await _ask(client, b"/bad", 5)
    assert len(up.requests) == 5 + 3
    assert retries(running, "upstream_reset", "failure") == 3
    assert retries(running, "upstream_reset", "no_budget") == 2
    assert running.metric("gateway_retry_budget_exhausted_total", upstream="up") == 2
    running.clock.advance(11)
    await _ask(client, b"/bad", 1)
    assert len(up.requests) == 8 + 2


async def test_a_budget_is_a_share_of_the_first_tries(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(dies_if_told)
    running = await gateway(up)
    client = await raw(running)
    await _ask(client, b"/good", 25)
    await _ask(client, b"/bad", 8)
    # 33 first tries, of which a fifth is 6.6: the seventh was begun below it, the eighth was not
    assert len(up.requests) == 33 + 7
    assert running.metric("gateway_retry_budget_exhausted_total", upstream="up") == 1


async def test_a_budget_can_be_switched_off(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(dies_if_told)
    running = await gateway(up, route={"retry": {"budget": "off"}})
    await _ask(await raw(running), b"/bad", 5)
    assert len(up.requests) == 10


async def test_a_budget_bounds_statuses_too(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(UNAVAILABLE)
    running = await gateway(up, route={"retry": {"on": ["503"]}})
    await _ask(await raw(running), b"/", 4)
    assert len(up.requests) == 4 + 3
    assert retries(running, "503", "no_budget") == 1
