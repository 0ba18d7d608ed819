"""The circuit breaker: its table, its trials, its thresholds."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway import errors
from gateway.config import model
from gateway.upstream.breaker import TABLE, Breaker, Cause, Permit, State
from gateway.upstream.window import BUCKETS, Window


def circuit_of(**other: float | str) -> model.Circuit:
    """A `circuit:` with thresholds that a test can count by hand, but for `other`."""
    return model.Circuit(
        **{
            "error_ratio": 0.5,
            "min_requests": 4,
            "window": 10.0,
            "open": 5.0,
            "half_open_requests": 3,
            **other,
        }
    )


@dataclass
class Heard:
    """What a breaker has told."""

    moves: list[tuple[State, State]] = field(default_factory=list)
    calls: int = 0

    def __call__(self, breaker: Breaker, before: State) -> None:
        self.calls += 1
        if breaker.state is not before:
            self.moves.append((before, breaker.state))


RESET = errors.UpstreamReset()


def begin(breaker: Breaker, now: float) -> Permit:
    permit = breaker.admit(now)
    assert permit is not None
    return permit


def closed(circuit: model.Circuit | None = None) -> tuple[Breaker, Heard]:
    heard = Heard()
    return Breaker(circuit or circuit_of(), 0.0, heard), heard


def opened(circuit: model.Circuit | None = None) -> tuple[Breaker, Heard]:
    circuit = circuit or circuit_of()
    breaker, heard = closed(circuit)
    for _ in range(circuit.min_requests):
        begin(breaker, 0.0).failed(RESET, 0.0)
    assert breaker.state is State.OPEN
    return breaker, heard


# ── the table ──


def test_the_table_says_all_that_can_happen() -> None:
    moves = {pair: TABLE.get(pair) for pair in product(State, Cause)}
    assert {pair: after for pair, after in moves.items() if after is not None} == {
        (State.CLOSED, Cause.TRIPPED): State.OPEN,
        (State.OPEN, Cause.WAITED): State.HALF_OPEN,
        (State.HALF_OPEN, Cause.RECOVERED): State.CLOSED,
        (State.HALF_OPEN, Cause.RELAPSED): State.OPEN,
    }


def test_the_states_bear_the_numbers_of_the_metric() -> None:
    assert [int(State.CLOSED), int(State.HALF_OPEN), int(State.OPEN)] == [0, 1, 2]


# ── closed ──


def test_too_many_failures_open_it_and_it_says_how_many() -> None:
    breaker, heard = closed()
    for outcome in "fsf":
        begin(breaker, 1.0).answered(503 if outcome == "f" else 200, 1.0)
    assert breaker.state is State.CLOSED
    begin(breaker, 2.0).failed(RESET, 2.0)
    assert breaker.state is State.OPEN
    assert breaker.since == 2.0
    assert breaker.why == "3 of 4 tries failed in 10 s"
    assert heard.moves == [(State.CLOSED, State.OPEN)]


def test_a_share_of_failures_below_the_ratio_leaves_it_closed() -> None:
    breaker, _ = closed(circuit_of(error_ratio=0.5, min_requests=3))
    for number in range(300):
        begin(breaker, 1.0).answered(503 if number % 3 == 2 else 200, 1.0)
    assert breaker.state is State.CLOSED


def test_failures_that_have_left_the_window_do_not_count() -> None:
    breaker, _ = closed()
    for _ in range(3):
        begin(breaker, 0.0).failed(RESET, 0.0)
    begin(breaker, 10.5).failed(RESET, 10.5)
    assert breaker.state is State.CLOSED


def test_a_verdict_that_nobody_can_give_counts_for_nothing() -> None:
    breaker, _ = closed(circuit_of(min_requests=1))
    begin(breaker, 0.0).lost()
    assert breaker.state is State.CLOSED
    assert not breaker.refuses


def test_what_is_not_the_targets_fault_is_no_failure_and_no_success() -> None:
    breaker, _ = closed(circuit_of(min_requests=1))
    begin(breaker, 0.0).failed(errors.ClientClosed(), 0.0)
    begin(breaker, 0.0).failed(errors.UpstreamIdleClosed(), 0.0)
    begin(breaker, 0.0).failed(errors.PoolTimeout(), 0.0)
    begin(breaker, 0.0).answered(500, 0.0)
    assert breaker.state is State.CLOSED
    begin(breaker, 0.0).answered(504, 0.0)
    assert breaker.why == "1 of 2 tries failed in 10 s"


# ── open ──


def test_nothing_is_let_through_while_it_is_open() -> None:
    breaker, _ = opened()
    assert breaker.refuses
    assert breaker.admit(4.99) is None
    assert breaker.state is State.OPEN


def test_outcomes_of_tries_that_began_before_it_opened_move_nothing() -> None:
    breaker, heard = closed()
    late = [begin(breaker, 0.0) for _ in range(6)]
    for permit in late[:4]:
        permit.failed(RESET, 0.0)
    late[4].failed(RESET, 1.0)
    assert breaker.since == 0.0
    breaker.wake(5.0)
    assert breaker.state is State.HALF_OPEN
    late[5].failed(RESET, 5.0)
    late[5].lost()
    late[5].answered(200, 5.0)
    assert breaker.state is State.HALF_OPEN
    assert heard.moves == [(State.CLOSED, State.OPEN), (State.OPEN, State.HALF_OPEN)]
    assert sum(breaker.admit(5.0) is not None for _ in range(10)) == 3


# ── half-open ──


def test_of_many_tries_at_once_exactly_as_many_as_are_written_get_through() -> None:
    breaker, heard = opened(circuit_of(half_open_requests=3))
    permits = [breaker.admit(5.0) for _ in range(100)]
    assert [permit is not None for permit in permits] == [True] * 3 + [False] * 97
    given = [permit for permit in permits if permit is not None]
    assert breaker.refuses
    calls = heard.calls
    for permit in given:
        assert breaker.state is State.HALF_OPEN
        assert breaker.admit(6.0) is None
        permit.answered(200, 6.0)
    assert breaker.state is State.CLOSED
    assert breaker.why == "3 of 3 trials passed"
    assert not breaker.refuses
    assert heard.calls == calls + 1


def test_one_failed_trial_opens_it_again_for_as_long_and_the_others_are_not_heard() -> None:
    breaker, heard = opened()
    first, second, third = (begin(breaker, 5.0) for _ in range(3))
    first.answered(200, 6.0)
    second.failed(RESET, 6.0)
    assert (breaker.state, breaker.since, breaker.wakes) == (State.OPEN, 6.0, 11.0)
    third.answered(200, 6.0)
    assert breaker.admit(10.9) is None
    assert breaker.admit(11.0) is not None
    assert heard.moves[1:] == [
        (State.OPEN, State.HALF_OPEN),
        (State.HALF_OPEN, State.OPEN),
        (State.OPEN, State.HALF_OPEN),
    ]


def test_a_trial_whose_client_has_left_gives_its_place_to_another() -> None:
    breaker, _ = opened(circuit_of(half_open_requests=1))
    permit = begin(breaker, 5.0)
    assert breaker.refuses
    permit.lost()
    assert not breaker.refuses
    begin(breaker, 5.0).answered(200, 5.0)
    assert breaker.state is State.CLOSED


def test_whoever_is_told_hears_of_every_change_of_what_is_refused() -> None:
    seen: list[bool] = []
    breaker = Breaker(
        circuit_of(min_requests=1, half_open_requests=1),
        0.0,
        lambda breaker, before: seen.append(breaker.refuses),
    )
    begin(breaker, 0.0).failed(RESET, 0.0)
    breaker.wake(5.0)
    begin(breaker, 5.0).lost()
    begin(breaker, 5.0).answered(200, 5.0)
    assert seen == [True, False, True, False, True, False]


# ── other thresholds ──


def test_other_thresholds_hold_at_once_and_the_state_stays() -> None:
    breaker, _ = opened()
    breaker.apply(circuit_of(open=60.0), 1.0)
    assert (breaker.state, breaker.wakes) == (State.OPEN, 60.0)
    breaker.apply(circuit_of(open=1.0), 1.5)
    assert breaker.state is State.HALF_OPEN
    begin(breaker, 1.5).answered(200, 1.5)
    breaker.apply(circuit_of(half_open_requests=1), 2.0)
    assert breaker.state is State.CLOSED


def test_a_lower_ratio_opens_it_with_the_next_failure() -> None:
    breaker, _ = closed(circuit_of(error_ratio=0.9, min_requests=2))
    for _ in range(5):
        begin(breaker, 0.0).answered(200, 0.0)
    breaker.apply(circuit_of(error_ratio=0.1, min_requests=2), 0.0)
    begin(breaker, 0.0).failed(RESET, 0.0)
    assert breaker.state is State.OPEN


def test_more_trials_make_room_and_fewer_take_it() -> None:
    breaker, _ = opened(circuit_of(half_open_requests=1))
    breaker.admit(5.0)
    assert breaker.refuses
    breaker.apply(circuit_of(half_open_requests=2), 5.0)
    assert not breaker.refuses
    breaker.apply(circuit_of(half_open_requests=1), 5.0)
    assert breaker.refuses


# ── all of it, against a model ──


class Machine(RuleBasedStateMachine):
    """Any order of tries, outcomes and waiting: the breaker is where a simple model says."""

    def __init__(self) -> None:
        super().__init__()
        self.circuit = circuit_of()
        self.now = 0.0
        self.heard = Heard()
        self.breaker = Breaker(self.circuit, 0.0, self.heard)
        self.state = State.CLOSED
        self.since = 0.0
        self.under_way: list[Permit] = []
        self.stale: list[Permit] = []
        self.passed = 0
        self.counted: list[tuple[float, bool]] = []

    def move(self, state: State) -> None:
        self.state, self.since = state, self.now
        self.stale += self.under_way
        self.under_way = []
        self.passed = 0
        self.counted = []

    def report(self, permit: Permit, outcome: str) -> None:
        if outcome == "lost":
            permit.lost()
        elif outcome == "failed":
            permit.failed(RESET, self.now)
        else:
            permit.answered(200, self.now)

    @rule()
    def ask(self) -> None:
        if self.state is State.OPEN and self.now >= self.since + self.circuit.open:
            self.move(State.HALF_OPEN)
        room = self.state is State.CLOSED or (
            self.state is State.HALF_OPEN
            and len(self.under_way) + self.passed < self.circuit.half_open_requests
        )
        permit = self.breaker.admit(self.now)
        assert (permit is not None) is room
        if permit is not None:
            self.under_way.append(permit)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), outcome=st.sampled_from(["succeeded", "failed", "lost"]))
    def end(self, data: st.DataObject, outcome: str) -> None:
        at = data.draw(st.integers(0, len(self.under_way) - 1))
        permit = self.under_way.pop(at)
        self.report(permit, outcome)
        if outcome == "lost":
            return
        failed = outcome == "failed"
        if self.state is State.HALF_OPEN:
            self.passed += not failed
            if failed:
                self.move(State.OPEN)
            elif self.passed == self.circuit.half_open_requests:
                self.move(State.CLOSED)
            return
        slot = self.circuit.window / BUCKETS
        self.counted.append((self.now // slot, failed))
        recent = [bad for at, bad in self.counted if at > self.now // slot - BUCKETS]
        if (
            failed
            and len(recent) >= self.circuit.min_requests
            and sum(recent) >= self.circuit.error_ratio * len(recent)
        ):
            self.move(State.OPEN)

    @precondition(lambda self: self.stale)
    @rule(outcome=st.sampled_from(["succeeded", "failed", "lost"]))
    def end_late(self, outcome: str) -> None:
        self.report(self.stale.pop(), outcome)

    @rule(quarters=st.integers(1, 60))
    def wait(self, quarters: int) -> None:
        self.now += quarters / 4

    @rule()
    def wake(self) -> None:
        self.breaker.wake(self.now)
        if self.state is State.OPEN and self.now >= self.since + self.circuit.open:
            self.move(State.HALF_OPEN)

    @invariant()
    def agrees(self) -> None:
        assert self.breaker.state is self.state
        assert self.breaker.since == self.since
        full = len(self.under_way) + self.passed >= self.circuit.half_open_requests
        assert self.breaker.refuses is (
            self.state is State.OPEN or (self.state is State.HALF_OPEN and full)
        )

    @invariant()
    def moves_as_the_table_says(self) -> None:
        possible = {(before, after) for (before, _), after in TABLE.items()}
        assert set(self.heard.moves) <= possible


TestMachine = Machine.TestCase
TestMachine.settings = hypothesis_settings(max_examples=60, stateful_step_count=60, deadline=None)


# ── report mode ──


def test_in_report_mode_an_open_circuit_refuses_nobody_and_gives_no_permit() -> None:
    breaker, heard = opened(circuit_of(mode="report"))
    assert (breaker.reports, breaker.refuses) == (True, False)
    assert breaker.admit(1.0) is None
    assert heard.moves == [(State.CLOSED, State.OPEN)]


def test_in_report_mode_the_first_trials_are_those_that_it_would_have_let_through() -> None:
    breaker, heard = opened(circuit_of(mode="report"))
    trials = [breaker.admit(5.0) for _ in range(5)]
    assert [trial is not None for trial in trials] == [True] * 3 + [False] * 2
    assert not breaker.refuses
    for trial in trials[:3]:
        assert trial is not None
        trial.answered(200, 6.0)
    assert breaker.state is State.CLOSED
    assert heard.calls == 3  # the moves alone: whoever looks at `refuses` need not look again


def test_an_open_circuit_begins_to_refuse_and_ends_with_the_mode() -> None:
    breaker, heard = opened(circuit_of(mode="report"))
    breaker.apply(circuit_of(), 1.0)
    assert breaker.refuses
    assert heard.calls == 2
    breaker.apply(circuit_of(mode="report"), 2.0)
    assert not breaker.refuses
    assert heard.calls == 3
    assert breaker.state is State.OPEN


# ── the window ──


def test_a_window_forgets_after_its_length_and_not_before() -> None:
    window = Window(10.0)
    window.failed(100.0)
    window.succeeded(104.0)
    window.succeeded(108.9)
    assert (window.tries, window.failures) == (3, 1)
    window.succeeded(110.0)
    assert (window.tries, window.failures) == (3, 0)
    window.succeeded(1000.0)
    assert (window.tries, window.failures) == (1, 0)


def test_a_clock_that_steps_back_loses_nothing() -> None:
    window = Window(1.0)
    window.failed(5.0)
    window.failed(4.0)
    assert (window.tries, window.failures) == (2, 2)


@pytest.mark.parametrize(
    ("ratio", "least", "reached"), [(0.5, 2, True), (0.6, 2, False), (0.5, 3, False)]
)
def test_a_share_is_reached_only_with_enough_tries(ratio: float, least: int, reached: bool) -> None:
    window = Window(1.0)
    window.failed(0.0)
    window.succeeded(0.0)
    assert window.reached(ratio, least) is reached
