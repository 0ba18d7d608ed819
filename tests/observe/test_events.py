from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from gateway.config import ConfigError
from gateway.observe.events import Events
from gateway.observe.logs import fields

if TYPE_CHECKING:
    from tests.conftest import MakeGateway


def test_an_event_says_when_what_where_and_why() -> None:
    event = Events(lambda: 1000.5).record("ejected", upstream="u", target="t:80", why="resets")
    assert (event.at, event.kind, event.upstream) == (1000.5, "ejected", "u")
    assert (event.target, event.why) == ("t:80", "resets")


def test_the_ring_keeps_the_last_ones_and_numbers_tell_what_is_gone() -> None:
    events = Events(lambda: 0.0, most=3)
    for turn in range(5):
        events.record("ejected", target=str(turn))
    assert [(event.number, event.target) for event in events.select()] == [
        (3, "2"),
        (4, "3"),
        (5, "4"),
    ]


def test_events_are_selected_from_a_moment_on_and_by_upstream() -> None:
    times = iter([1.0, 2.0, 3.0])
    events = Events(lambda: next(times))
    for upstream in ("a", "b", "a"):
        events.record("target_up", upstream=upstream)
    assert [event.number for event in events.select(since=2.0)] == [2, 3]
    assert [event.number for event in events.select(upstream="a")] == [1, 3]
    assert [event.number for event in events.select(since=2.0, upstream="a")] == [3]


def test_a_change_for_the_worse_is_a_warning_in_the_service_log_and_its_end_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "gateway.events")
    events = Events(lambda: 0.0)
    events.record("ejected", upstream="u", target="t:80", why="5 failures in a row")
    events.record("restored", upstream="u", target="t:80")
    worse, better = caplog.records
    assert (worse.getMessage(), worse.levelname) == ("ejected", "WARNING")
    assert fields(worse) == {"upstream": "u", "target": "t:80", "why": "5 failures in a row"}
    assert (better.getMessage(), better.levelname) == ("restored", "INFO")
    assert fields(better) == {"upstream": "u", "target": "t:80"}


async def test_reloads_and_the_drain_of_a_gateway_are_events(gateway: MakeGateway) -> None:
    routes = {"routes": [{"path": "/*", "respond": {"status": 204}}]}
    running = (await gateway(routes)).gateway
    assert running.events.select() == []
    listeners = {"listeners": [{"bind": "127.0.0.1:0"}], "admin": "off"}
    await running.reload({**listeners, **routes})
    with pytest.raises(ConfigError, match="nonsense"):
        await running.reload({"nonsense": 1})
    await running.drain(0)
    told = [(event.kind, event.why) for event in running.events.select()]
    assert [kind for kind, _ in told] == ["reloaded", "reload_failed", "draining"]
    assert told[0][1] == "generation 2 serves"
    assert "nonsense" in told[1][1]
    assert told[2][1] == "requests in flight: 0"
