"""Passive ejection: who is set aside, for how long, and who never is."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import errors
from gateway.config.model import Eject
from gateway.upstream.outlier import FAILURES, Record, is_failure, may_eject


@dataclass(eq=False)
class Target:
    healthy: bool = True
    draining: bool = False
    weight: int = 1
    failures: int = 0
    ejections: int = 0
    ejected_until: float = 0.0

    @property
    def usable(self) -> bool:
        return self.healthy and not self.draining and self.weight > 0


def fail(record: Record, target: Target, eject: Eject, times: int, now: float = 0.0) -> str:
    why = ""
    for _ in range(times):
        why = record.failed(target, eject, now)
    return why


# ── what a failure is ──


def test_what_tells_against_a_target() -> None:
    words = {reason for reason, kind in errors.reasons().items() if is_failure(kind())}
    assert words == {
        "dns_error",
        "connect_refused",
        "connect_timeout",
        "tls_error",
        "upstream_reset",
        "upstream_header_timeout",
    }
    assert {502, 503, 504} == FAILURES


def test_the_end_of_an_idle_connection_tells_nothing() -> None:
    assert is_failure(errors.UpstreamReset())
    assert not is_failure(errors.UpstreamIdleClosed())


# ── failures in a row ──


def test_failures_in_a_row_eject_and_one_answer_begins_a_new_row() -> None:
    record, target, eject = Record(), Target(), Eject()
    assert fail(record, target, eject, 4) == ""
    record.succeeded(target, 0.0)
    assert fail(record, target, eject, 4) == ""
    assert fail(record, target, eject, 1) == "5 failures in a row"


def test_failures_that_are_far_apart_are_no_row() -> None:
    record, target, eject = Record(), Target(), Eject(consecutive_failures=2, window=30.0)
    assert fail(record, target, eject, 1, now=100.0) == ""
    assert fail(record, target, eject, 1, now=131.0) == ""
    assert fail(record, target, eject, 1, now=160.0) == "2 failures in a row"


def test_rows_may_be_off() -> None:
    assert fail(Record(), Target(), Eject(consecutive_failures=None), 1000) == ""


# ── the share of failures ──


def test_a_share_of_failures_ejects_although_there_is_no_row() -> None:
    record, target = Record(), Target()
    eject = Eject(failure_ratio=0.5, min_requests=10)
    record.begin(eject.window, share=True)
    why = ""
    for _ in range(4):
        assert not why
        record.succeeded(target, 0.0)
        why = record.failed(target, eject, 0.0)
    record.succeeded(target, 0.0)
    assert record.failed(target, eject, 0.0) == "5 of 10 requests failed in 30 s"


def test_too_few_requests_make_no_share() -> None:
    record, target = Record(), Target()
    eject = Eject(consecutive_failures=None, failure_ratio=0.5, min_requests=10)
    record.begin(eject.window, share=True)
    assert fail(record, target, eject, 9) == ""
    assert fail(record, target, eject, 1) == "10 of 10 requests failed in 30 s"


def test_other_settings_begin_another_window_and_the_same_keep_it() -> None:
    record = Record()
    record.begin(30.0, share=True)
    window = record.window
    record.begin(30.0, share=True)
    assert record.window is window
    record.begin(20.0, share=True)
    assert record.window is not None
    assert record.window.span == 20.0
    record.begin(20.0, share=False)
    assert record.window is None


# ── for how long ──


def test_each_ejection_in_short_order_takes_longer_up_to_the_longest() -> None:
    record, target, eject = Record(), Target(), Eject(base=10.0, max=25.0)
    now, taken = 0.0, []
    for _ in range(4):
        taken.append(record.eject(target, eject, now))
        assert target.ejected_until == now + taken[-1]
        now = target.ejected_until
        record.restore(target, now)
        assert target.ejected_until == 0.0
    assert taken == [10.0, 20.0, 25.0, 25.0]


def test_good_behaviour_is_remembered_an_ejection_for_each_window() -> None:
    record, target, eject = Record(), Target(), Eject(base=10.0, window=30.0)
    for _ in range(4):
        record.eject(target, eject, 0.0)
        record.restore(target, 0.0)
    assert record.eject(target, eject, 65.0) == 30.0
    record.restore(target, 100.0)
    assert record.eject(target, eject, 1000.0) == 10.0


def test_who_is_ejected_is_not_ejected_again_by_what_was_on_its_way() -> None:
    record, target, eject = Record(), Target(), Eject()
    record.eject(target, eject, 0.0)
    assert fail(record, target, eject, 20, now=1.0) == ""
    record.restore(target, 10.0)
    assert fail(record, target, eject, 4, now=10.0) == ""
    assert fail(record, target, eject, 1, now=10.0) == "5 failures in a row"


def test_who_is_restored_begins_with_an_empty_window() -> None:
    record, target = Record(), Target()
    eject = Eject(consecutive_failures=None, failure_ratio=0.5, min_requests=4)
    record.begin(eject.window, share=True)
    assert fail(record, target, eject, 4)
    record.eject(target, eject, 0.0)
    record.restore(target, 10.0)
    assert fail(record, target, eject, 3, now=10.0) == ""


# ── how many ──


def ejected_of(count: int, percent: float, targets: list[Target] | None = None) -> int:
    """How many are ejected if each is tried in turn."""
    targets = targets or [Target() for _ in range(count)]
    for target in targets:
        if may_eject(target, targets, percent):
            target.ejected_until = 1.0
    return sum(bool(target.ejected_until) for target in targets)


@pytest.mark.parametrize(
    ("count", "percent", "ejected"),
    [
        (1, 50, 0),
        (1, 100, 0),
        (2, 50, 1),
        (2, 10, 1),
        (2, 100, 1),
        (3, 50, 1),
        (4, 50, 2),
        (5, 50, 2),
        (10, 33, 3),
        (10, 0, 1),
        (10, 100, 9),
    ],
)
def test_the_share_of_ejected_targets_is_capped(count: int, percent: float, ejected: int) -> None:
    assert ejected_of(count, percent) == ejected


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=8), st.floats(0, 100))
def test_one_that_could_serve_is_always_left(
    states: list[tuple[bool, bool]], percent: float
) -> None:
    targets = [Target(healthy=healthy, draining=draining) for healthy, draining in states]
    able = [one for one in targets if one.healthy and not one.draining]
    ejected_of(len(targets), percent, targets)
    assert not able or any(not one.ejected_until for one in able)


def test_the_last_one_that_active_checks_call_well_is_not_ejected() -> None:
    well, down = Target(), Target(healthy=False)
    assert not may_eject(well, [well, down], 50)


@pytest.mark.parametrize("gone", [Target(draining=True), Target(weight=0)])
def test_who_was_taken_out_on_purpose_does_not_count(gone: Target) -> None:
    one, other, third = Target(), Target(), Target()
    assert not may_eject(one, [one, gone], 100)
    assert may_eject(one, [one, other, gone], 50)
    assert may_eject(one, [one, other, third, gone], 34)
    other.ejected_until = 1.0
    assert not may_eject(one, [one, other, third, gone], 50)
