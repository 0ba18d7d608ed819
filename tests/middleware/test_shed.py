"""`server.overload`: who is refused while the event loop is late, and for how long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import errors
from gateway.clock import Clock
from gateway.config import model
from gateway.exchange import Exchange, Reply
from gateway.middleware import shed
from gateway.middleware.shed import Shedding
from gateway.observe.events import Events
from tests.middleware.test_metrics import build
from tests.observe.stand_in import exchange

LISTED = ("low", "normal")


def overload(**words: Any) -> model.Overload:
    """250 ms for 2 s; low first, then normal."""
    return model.Overload(**{"shed": LISTED, **words})


class Hand(Clock):
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 100.0
        self.now = lambda: self.time  # type: ignore[method-assign]


class Case:
    def __init__(self, settings: model.Overload | None) -> None:
        self.clock = Hand()
        self._events = Events(self.clock.wall)
        self.shedding = Shedding(self.clock, self._events)
        self.shedding.apply(settings)

    @property
    def events(self) -> list[tuple[str, str]]:
        return [(event.kind, event.why) for event in self._events.select()]

    def feed(self, lag: float, seconds: float, every: float = 0.1) -> None:
        for _ in range(round(seconds / every)):
            self.clock.time += every
            self.shedding.sample(lag)

    @property
    def refused(self) -> list[str]:
        return [name for name, gate in self.shedding.gates.items() if gate.shut]


def test_a_lag_above_the_limit_for_long_enough_refuses_the_lowest_first() -> None:
    case = Case(overload())
    case.feed(0.3, 1.8)
    assert case.refused == []
    case.feed(0.3, 0.4)
    assert case.refused == ["low"]
    case.feed(0.3, 1.7)
    assert case.refused == ["low"]
    case.feed(0.3, 0.4)
    assert case.refused == ["low", "normal"]
    case.feed(0.3, 60)
    assert case.refused == ["low", "normal"], "high is not listed"
    assert [kind for kind, _ in case.events] == ["shed_on", "shed_on"]
    assert case.events[0][1] == "importance low: the event loop is 300 ms late"


def test_a_lag_at_the_limit_is_no_overload() -> None:
    case = Case(overload())
    case.feed(0.25, 60)
    assert case.refused == []


def test_one_long_pause_is_no_overload_however_long() -> None:
    case = Case(overload())
    case.feed(30.0, 30.0, every=30.0)
    case.feed(0.0, 5)
    assert case.refused == []
    assert case.events == []


def test_a_loop_that_turns_once_a_second_is_overloaded_all_the_same() -> None:
    case = Case(overload())
    case.feed(0.9, 3, every=1.0)
    assert case.refused == ["low"]


def test_a_short_dip_does_not_begin_the_wait_anew() -> None:
    case = Case(overload())
    case.feed(0.3, 1.5)
    case.feed(0.2, 0.1)
    case.feed(0.3, 0.9)
    assert case.refused == ["low"]


def test_a_lag_that_is_above_every_other_time_never_refuses() -> None:
    case = Case(overload())
    for _ in range(200):
        case.feed(0.3, 0.1)
        case.feed(0.2, 0.1)
    assert case.refused == []


def test_it_is_let_in_again_the_highest_first_once_the_lag_is_half_of_the_limit() -> None:
    case = Case(overload())
    case.feed(0.5, 4.3)
    assert case.refused == ["low", "normal"]
    case.feed(0.2, 60)
    assert case.refused == ["low", "normal"], "below the limit is not yet calm"
    case.feed(0.1, 2.1)
    assert case.refused == ["low"]
    case.feed(0.1, 2.1)
    assert case.refused == []
    assert [kind for kind, _ in case.events] == ["shed_on", "shed_on", "shed_off", "shed_off"]
    case.feed(0.1, 60)
    assert len(case.events) == 4


def test_changed_settings_count_at_once_and_what_may_still_be_refused_stays() -> None:
    case = Case(overload())
    case.feed(0.5, 4.3)
    case.shedding.apply(overload(shed=("normal",)))
    assert case.refused == ["normal"]
    case.shedding.apply(overload(loop_lag=1.0))
    assert case.refused == ["low"], "one step, the lowest"
    case.feed(0.4, 2.1)
    assert case.refused == []
    case.feed(2.0, 2.2)
    case.shedding.apply(None)
    assert case.refused == []
    case.feed(9.0, 60)
    assert case.refused == []


@given(
    st.lists(
        st.tuples(st.floats(0, 5), st.floats(0.1, 5)),
        max_size=60,
    )
)
def test_no_sequence_of_samples_refuses_out_of_order(samples: list[tuple[float, float]]) -> None:
    case = Case(overload(shed=("normal", "low")))
    before = 0
    for lag, every in samples:
        case.feed(lag, every, every)
        assert case.refused in ([], ["low"], ["low", "normal"])
        assert abs(len(case.refused) - before) <= 1
        before = len(case.refused)


def wrapped(importance: str, settings: model.Overload | None) -> Any:
    made = build(overload=settings)
    route = SimpleNamespace(name="a", policies=model.Policies(importance=importance))
    handler = shed.wrap(cast("Any", route), forward, made)
    return SimpleNamespace(
        handler=handler, gates=made.shedding.gates, meter=made.metrics.route("a")
    )


async def forward(one: Exchange) -> Reply:
    return Reply(200, [])


@pytest.mark.parametrize(("importance", "settings"), [("high", overload()), ("low", None)])
def test_a_route_that_is_never_shed_pays_nothing(
    importance: str, settings: model.Overload | None
) -> None:
    assert wrapped(importance, settings).handler is forward


async def test_a_refusal_says_when_to_come_again_and_is_counted() -> None:
    case = wrapped("low", overload())
    waiting = case.handler(exchange())
    assert waiting.cr_code is forward.__code__, "no coroutine of its own"
    await waiting
    case.gates["low"].shut = True
    with pytest.raises(errors.Overloaded) as found:
        case.handler(exchange())
    assert (found.value.status, found.value.reason) == (503, "overloaded")
    assert found.value.headers == (("Retry-After", "2"),)
    assert case.meter.shed == {"low": 1}


async def test_another_importance_is_served_meanwhile() -> None:
    case = wrapped("normal", overload())
    case.gates["low"].shut = True
    assert (await case.handler(exchange())).status == 200
