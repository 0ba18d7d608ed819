"""What lies between two tries: a pause of chance length, or the one that the upstream asks for.

Rules of this file: the clock of the gateway notes each pause; nobody waits for long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.conformance.conftest import get
from tests.kit.clock import FakeClock
from tests.kit.origin import OK, reply

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin

BUSY = reply(b"", status=b"503 Busy")


class Noting(FakeClock):
    """Notes each pause, and does not make it."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await super().sleep(0)


async def test_pauses_are_drawn_from_nothing_up_to_a_bound_that_doubles(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up, clock = await origin(BUSY), Noting()
    retry = {"on": ["503"], "max": 5, "budget": "off"}
    running = await gateway(up, clock=clock, route={"retry": retry}, upstream={"eject": "off"})
    client = await raw(running)
    for _ in range(60):
        assert (await client.ask(get())).status == 503
    assert len(clock.pauses) == 60 * 5
    for number, bound in enumerate((0.05, 0.1, 0.2, 0.25, 0.25)):
        pauses = clock.pauses[number::5]
        assert all(0 <= pause <= bound for pause in pauses)
        # among sixty are short and long ones, but for one run in 10 to the 17th
        assert min(pauses) < bound / 2
        assert max(pauses) > bound / 4


@pytest.mark.parametrize(("asked", "pause"), [(b"1", 1.0), (b"0", 0.0)])
async def test_a_short_retry_after_is_honoured(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, asked: bytes, pause: float
) -> None:
    busy = reply(b"", b"Retry-After: " + asked, status=b"503 Busy")
    up, clock = await origin([busy, OK]), Noting()
    running = await gateway(up, clock=clock, route={"retry": {"on": ["503"]}})
    assert (await (await raw(running)).ask(get())).status == 200
    if pause:
        assert clock.pauses == [pause]
    else:
        assert clock.pauses[0] <= 0.05


@pytest.mark.parametrize("asked", [b"2", b"120", b"Fri, 31 Dec 2027 23:59:59 GMT", b"soon", b"-1"])
async def test_a_longer_retry_after_is_not_waited_for(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, asked: bytes
) -> None:
    busy = reply(b"", b"Retry-After: " + asked, status=b"503 Busy")
    up, clock = await origin([busy, OK]), Noting()
    running = await gateway(up, clock=clock, route={"retry": {"on": ["503"]}})
    assert (await (await raw(running)).ask(get())).status == 200
    [pause] = clock.pauses
    assert pause <= 0.05
