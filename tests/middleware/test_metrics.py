from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from gateway.clock import Clock
from gateway.config import model
from gateway.exchange import Exchange, Reply
from gateway.limits.local import LocalStore
from gateway.limits.stores import Stores
from gateway.middleware import metrics
from gateway.middleware.base import Build
from gateway.middleware.mirror import Mirrors
from gateway.middleware.shed import Shedding
from gateway.observe.metrics import Metrics
from tests.observe.stand_in import configuration, exchange

if TYPE_CHECKING:
    from gateway.observe.accesslog import AccessLog


def build(access_log: AccessLog | None = None, **server: Any) -> Build:
    """What a middleware is given; `server` are settings of that section."""
    clock, metrics = Clock(), Metrics(model.Metrics())
    return Build(
        config=configuration(server=model.Server(**server)),
        clock=clock,
        metrics=metrics,
        access_log=access_log,
        upstreams={},
        shedding=Shedding(clock, metrics.events),
        mirrors=Mirrors(),
        authenticators={},
        limits=Stores(LocalStore(clock), {}),
    )


async def test_a_request_is_in_flight_from_the_handlers_call_to_the_exchanges_end() -> None:
    made = build()
    meter = made.metrics.route("orders")
    seen = []

    async def forward(one: Exchange) -> Reply:
        seen.append(meter.in_flight)
        return Reply(200, [])

    handler = metrics.wrap(cast("Any", SimpleNamespace(name="orders")), forward, made)
    one = exchange()
    reply = await handler(one)
    assert (reply.status, seen, meter.in_flight) == (200, [1], 1)
    [finish] = made.at_finish
    finish(one)
    assert meter.in_flight == 0
    assert sum(cell.count for cell in meter.cells.values()) == 1


async def test_counting_adds_no_coroutine_of_its_own() -> None:
    made = build()

    async def forward(one: Exchange) -> Reply:
        return Reply(200, [])

    handler = metrics.wrap(cast("Any", SimpleNamespace(name="orders")), forward, made)
    waiting = cast("Any", handler(exchange()))
    assert waiting.cr_code is forward.__code__
    await waiting
