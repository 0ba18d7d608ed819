"""Ejection and circuits of an upstream: what reported tries do to its targets, its events and what is picked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from gateway import errors
from gateway.config import model
from gateway.observe.metrics import Metrics
from gateway.upstream.breaker import State
from gateway.upstream.upstream import Target, Upstream
from tests.kit.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.upstream.breaker import Breaker, Permit

RESET = errors.UpstreamReset("cut")
CIRCUIT = {"min_requests": 4, "open": "5s", "half_open_requests": 2}


class Tried:
    """An upstream of targets that are never spoken to: a test says how its tries end."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.metrics = Metrics(model.Metrics())
        self.upstream = Upstream("up", self.clock, self.metrics.upstream("up"))

    def apply(self, names: str = "abcd", **settings: Any) -> tuple[Target, ...]:
        """New settings, as they are written; a target for each letter."""
        targets = [{"url": f"http://{name}:80"} for name in names]
        written = {"targets": targets, "eject": "off", **settings}
        written = {key: None if value == "off" else value for key, value in written.items()}
        self.upstream.apply(model.Upstream.model_validate(written))
        return self.upstream.targets

    def events(self) -> list[tuple[str, str, str]]:
        """What was recorded: kind, target, why."""
        return [(one.kind, one.target, one.why) for one in self.metrics.events.select()]

    def picked(self) -> str:
        """The names of targets that are drawn."""
        drawn = set()
        for _ in range(200):
            drawn.add(self.upstream.pick().name[0])
        return "".join(sorted(drawn))


@pytest_asyncio.fixture
async def tried() -> AsyncIterator[Tried]:
    made = Tried()
    yield made
    await made.upstream.aclose()
    assert not made.clock.timers


def fail(target: Target, times: int) -> None:
    for _ in range(times):
        target.failed(RESET, 0.01)


# ── ejection ──


async def test_a_target_that_fails_in_a_row_is_left_out_and_comes_back_in_time(
    tried: Tried,
) -> None:
    a, *_ = tried.apply(eject={"consecutive_failures": 5, "base": "10s"})
    fail(a, 4)
    assert tried.picked() == "abcd"
    fail(a, 1)
    assert tried.picked() == "bcd"
    assert a.ejections == 1
    tried.clock.advance(9.9)
    assert tried.picked() == "bcd"
    tried.clock.advance(0.2)
    assert tried.picked() == "abcd"
    assert a.ejected_until == 0.0
    said = "5 failures in a row, the last one: upstream_reset; for 10 s"
    assert tried.events() == [
        ("ejected", "a:80", said),
        ("restored", "a:80", "its time is over"),
    ]
    assert a.why == "its time is over"
    assert tried.upstream.meter.target("a:80").ejections == 1


async def test_ejection_is_on_unless_it_is_switched_off(tried: Tried) -> None:
    targets = [{"url": f"http://{name}:80"} for name in "ab"]
    tried.upstream.apply(model.Upstream.model_validate({"targets": targets}))
    fail(tried.upstream.targets[0], 5)
    assert tried.picked() == "b"
    tried.apply("ab", eject="off")
    assert tried.picked() == "ab"
    fail(tried.upstream.targets[0], 100)
    assert tried.picked() == "ab"


async def test_statuses_of_a_gateway_are_failures_and_500_is_an_answer(tried: Tried) -> None:
    a, b, *_ = tried.apply(eject={"consecutive_failures": 3})
    for _ in range(100):
        a.succeeded(500, 0.01)
    assert tried.picked() == "abcd"
    for status in (502, 503, 504):
        b.succeeded(status, 0.01)
    assert tried.picked() == "acd"
    assert b.why == "3 failures in a row, the last one: status 504; for 10 s"


async def test_an_answer_ends_a_row_and_a_client_that_leaves_does_not(tried: Tried) -> None:
    a, *_ = tried.apply(eject={"consecutive_failures": 3})
    fail(a, 2)
    a.failed(errors.ClientClosed(), 0.01)
    assert a.failures == 2
    a.succeeded(404, 0.01)
    assert a.failures == 0
    fail(a, 2)
    assert tried.picked() == "abcd"


async def test_a_share_of_failures_ejects(tried: Tried) -> None:
    a, *_ = tried.apply(eject={"failure_ratio": "50%", "min_requests": 20})
    for _ in range(10):
        a.succeeded(200, 0.01)
        fail(a, 1)
    assert a.why.startswith("10 of 20 requests failed in 30 s, the last one: upstream_reset")
    assert tried.picked() == "bcd"


async def test_at_most_half_of_the_targets_are_out_at_a_time(tried: Tried) -> None:
    a, b, c, _ = tried.apply(eject={"consecutive_failures": 1}, panic="off")
    for target in (a, b, c):
        fail(target, 10)
    assert tried.picked() == "cd"
    tried.clock.advance(10.1)
    assert tried.picked() == "abcd"
    fail(c, 1)
    assert tried.picked() == "abd"


async def test_what_fails_now_takes_the_place_of_what_was_ejected_longest_ago(
    tried: Tried,
) -> None:
    a, b, c, _ = tried.apply(eject={"consecutive_failures": 2, "base": "10s"})
    fail(a, 2)
    tried.clock.advance(0.5)
    fail(b, 2)
    fail(c, 2)
    assert tried.picked() == "cd", "none has been out for a second: targets do not take turns"
    tried.clock.advance(0.6)
    fail(c, 1)
    assert tried.picked() == "ad"
    assert tried.events()[-2:] == [
        ("restored", "a:80", "c:80 fails now"),
        ("ejected", "c:80", "3 failures in a row, the last one: upstream_reset; for 10 s"),
    ]
    tried.clock.advance(9.5)
    assert tried.picked() == "abd", "its own time is over"


async def test_of_two_the_one_that_is_back_serves_when_the_other_fails(tried: Tried) -> None:
    a, b = tried.apply("ab", eject={"consecutive_failures": 5}, panic="off")
    fail(a, 5)
    tried.clock.advance(2)
    fail(b, 4)
    assert tried.picked() == "b"
    fail(b, 1)
    assert tried.picked() == "a"


async def test_who_is_down_or_drains_gives_its_place_to_nobody(tried: Tried) -> None:
    a, b = tried.apply("ab", eject={"consecutive_failures": 5})
    fail(a, 5)
    tried.clock.advance(2)
    for word, value in (("healthy", False), ("draining", True)):
        setattr(a, word, value)
        tried.upstream.refresh()
        fail(b, 20)
        assert tried.picked() == "b"
        assert a.ejected_until
        setattr(a, word, not value)


async def test_the_only_target_is_never_ejected(tried: Tried) -> None:
    (a,) = tried.apply("a", eject={"consecutive_failures": 1, "max_percent": 100})
    fail(a, 100)
    assert tried.upstream.pick() is a


async def test_an_ejection_that_follows_another_takes_longer(tried: Tried) -> None:
    a, *_ = tried.apply(eject={"consecutive_failures": 1, "base": "10s", "max": "15s"})
    for seconds in (10.0, 15.0, 15.0):
        fail(a, 1)
        tried.clock.advance(seconds - 0.1)
        assert a.ejected_until
        tried.clock.advance(0.2)
        assert not a.ejected_until


async def test_other_thresholds_hold_at_once_and_ejections_stay(tried: Tried) -> None:
    a, b, *_ = tried.apply(eject={"consecutive_failures": 5, "base": "60s"})
    fail(a, 5)
    fail(b, 2)
    tried.apply(eject={"consecutive_failures": 3, "base": "60s"})
    assert tried.picked() == "bcd"
    fail(b, 1)
    assert tried.picked() == "cd"
    tried.apply(eject={"consecutive_failures": 3, "base": "1s", "max": "2s"})
    tried.clock.advance(2.1)
    assert tried.picked() == "abcd"


async def test_tries_at_a_target_that_has_left_are_not_heard(tried: Tried) -> None:
    a, *_ = tried.apply(eject={"consecutive_failures": 1}, circuit={**CIRCUIT, "min_requests": 1})
    permit = permit_of(a.breaker, tried)
    tried.apply("bcd", eject={"consecutive_failures": 1}, circuit={**CIRCUIT, "min_requests": 1})
    fail(a, 5)
    permit.failed(RESET, tried.clock.now())
    assert not tried.events()
    assert not tried.clock.timers


# ── circuits ──


def permit_of(breaker: Breaker | None, tried: Tried) -> Permit:
    assert breaker is not None
    permit = breaker.admit(tried.clock.now())
    assert permit is not None
    return permit


def trip(target: Target, tried: Tried) -> None:
    """Fail so often that the circuit opens."""
    for _ in range(CIRCUIT["min_requests"]):  # type: ignore[call-overload]
        permit_of(target.breaker, tried).failed(RESET, tried.clock.now())


async def test_without_circuit_there_is_nothing_to_ask(tried: Tried) -> None:
    a, *_ = tried.apply()
    assert a.breaker is None


async def test_a_target_whose_circuit_is_open_is_left_out_and_tried_after_a_while(
    tried: Tried,
) -> None:
    a, *_ = tried.apply(circuit=CIRCUIT)
    trip(a, tried)
    assert tried.picked() == "bcd"
    tried.clock.advance(4.9)
    assert tried.picked() == "bcd"
    tried.clock.advance(0.2)
    assert a.breaker is not None
    assert a.breaker.state is State.HALF_OPEN
    assert tried.picked() == "abcd"
    trials = [permit_of(a.breaker, tried) for _ in range(2)]
    assert tried.picked() == "bcd"
    trials[0].lost()
    assert tried.picked() == "abcd"
    trials[0] = permit_of(a.breaker, tried)
    for trial in trials:
        trial.answered(200, tried.clock.now())
    assert a.breaker.state is State.CLOSED
    assert tried.picked() == "abcd"
    assert tried.events() == [
        ("circuit_opened", "a:80", "4 of 4 tries failed in 10 s"),
        ("circuit_half_open", "a:80", "open for 5 s"),
        ("circuit_closed", "a:80", "2 of 2 trials passed"),
    ]


async def test_the_circuit_of_an_upstream_cuts_off_all_its_targets(tried: Tried) -> None:
    a, b, *_ = tried.apply(circuit={**CIRCUIT, "scope": "upstream"})
    assert a.breaker is b.breaker is tried.upstream.breaker
    for target in (a, b, a, b):
        permit_of(target.breaker, tried).failed(RESET, tried.clock.now())
    with pytest.raises(errors.CircuitOpen):
        tried.upstream.pick()
    tried.clock.advance(5.1)
    assert tried.picked() == "abcd"
    permit_of(a.breaker, tried).failed(RESET, tried.clock.now())
    with pytest.raises(errors.CircuitOpen):
        tried.upstream.pick()
    assert [(kind, target) for kind, target, _ in tried.events()] == [
        ("circuit_opened", ""),
        ("circuit_half_open", ""),
        ("circuit_opened", ""),
    ]


async def test_when_every_circuit_is_open_the_answer_says_so(tried: Tried) -> None:
    for target in tried.apply("ab", circuit=CIRCUIT):
        trip(target, tried)
    with pytest.raises(errors.CircuitOpen):
        tried.upstream.pick()


async def test_an_open_circuit_outlives_a_reload_with_its_new_thresholds(tried: Tried) -> None:
    a, *_ = tried.apply(circuit={**CIRCUIT, "open": "60s"})
    trip(a, tried)
    breaker = a.breaker
    tried.apply(circuit=CIRCUIT)
    assert a.breaker is breaker
    assert tried.picked() == "bcd"
    tried.clock.advance(5.1)
    assert tried.picked() == "abcd"


async def test_another_scope_or_none_begins_anew(tried: Tried) -> None:
    a, *_ = tried.apply(circuit=CIRCUIT)
    trip(a, tried)
    tried.apply(circuit={**CIRCUIT, "scope": "upstream"})
    assert tried.picked() == "abcd"
    late = permit_of(a.breaker, tried)
    tried.apply(circuit="off")
    assert a.breaker is None
    for _ in range(10):
        late.failed(RESET, tried.clock.now())
    assert tried.picked() == "abcd"
    assert [kind for kind, *_ in tried.events()] == ["circuit_opened"]
