from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from gateway.clock import Clock
from gateway.config import model
from gateway.exchange import Exchange, Reply
from gateway.middleware import access_log
from gateway.observe.accesslog import AccessLog
from gateway.observe.metrics import Metrics
from tests.middleware.test_metrics import build

if TYPE_CHECKING:
    from pathlib import Path


async def forward(one: Exchange) -> Reply:
    return Reply(200, [])


def route(*, logged: bool) -> Any:
    return SimpleNamespace(name="orders", policies=model.Policies(access_log=logged))


async def test_a_route_is_logged_at_the_end_of_an_exchange(tmp_path: Path) -> None:
    settings = model.AccessLog(file=str(tmp_path / "access.log"))
    log = AccessLog(settings, Clock(), Metrics(model.Metrics()))
    made = build(log)
    assert access_log.wrap(route(logged=True), forward, made) is forward
    assert made.at_finish == [log.record]
    await log.aclose()


@pytest.mark.parametrize(("logged", "there"), [(False, True), (True, False)])
def test_nothing_is_registered_where_nothing_is_logged(logged: bool, there: bool) -> None:
    log = cast("Any", SimpleNamespace(record=None)) if there else None
    made = build(log)
    assert access_log.wrap(route(logged=logged), forward, made) is forward
    assert made.at_finish == []
