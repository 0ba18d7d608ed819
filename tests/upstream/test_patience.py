"""How long connections rest: lessons at once, recovery slowly, restarts teach nothing."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import TICK
from gateway.upstream import patience
from gateway.upstream.patience import QUIET, Patience

rests = st.floats(0.0, 100.0, allow_nan=False)
events = st.lists(
    st.tuples(st.sampled_from(["learn", "outlived", "configure"]), rests, st.floats(0.0, 5000.0)),
    max_size=60,
)


def hours(one: Patience, target: float, seconds: float, pause: float = 10.0) -> list[float]:
    """Bursts with pauses against a server that ends idle connections after `target` seconds: when
    it was the server who ended one.
    """
    now, early = 0.0, []
    while now < seconds:
        now += pause
        if one.keep_for + TICK >= target:
            early.append(now)
            one.learn(target, now)
        else:
            one.outlived(now)
    return early


@pytest.mark.parametrize(
    ("target", "kept"), [(2.0, 1.5), (5.0, 4.0), (60.0, 30.0), (1.0, 0.5), (0.4, 0.0)]
)
def test_one_early_close_is_enough_to_stay_below_it(target: float, kept: float) -> None:
    one = Patience(30.0)
    assert one.learn(target, 100.0) == pytest.approx(kept)
    assert one.keep_for == pytest.approx(kept)


def test_four_seconds_are_below_uvicorns_five_without_any_lesson() -> None:
    assert hours(Patience(4.0), 5.0, 3600.0) == []


def test_gunicorns_two_seconds_are_learned_at_once_and_hardly_ever_tried_again() -> None:
    early = hours(Patience(4.0), 2.0, 86_400.0)
    assert early[0] == 10.0
    assert len([at for at in early if at < 3600.0]) <= 6
    assert len(early) <= 6 + 24, "less than once an hour in the end"


def test_what_belongs_to_a_response_teaches_nothing() -> None:
    one = Patience(4.0)
    assert one.learn(0.02, 1.0) == 4.0
    assert one.limit is None


def test_a_restart_teaches_nothing_while_longer_rests_are_outlived() -> None:
    one = Patience(4.0)
    one.outlived(10.0)
    for rested in (0.3, 1.7, 3.1, 0.31, 0.33):
        assert one.learn(rested, 20.0) == 4.0, "one incident, however many connections"
    assert one.learn(0.32, 700.0) == 4.0, "another, long after"


def test_a_shorter_patience_is_believed_when_it_is_seen_three_times() -> None:
    one = Patience(4.0)
    one.outlived(10.0)
    assert one.learn(2.0, 20.0) == 4.0
    assert one.learn(2.1, 30.0) == 4.0
    assert one.learn(2.0, 40.0) == 1.5
    assert one.limit == 2.0


def test_two_kinds_of_servers_behind_one_address_are_kept_below_the_shorter() -> None:
    one = Patience(4.0)
    for round_ in range(4):
        one.outlived(10.0 * round_)
        one.learn(1.0, 10.0 * round_ + 5.0)
    assert one.keep_for == 0.5


def test_it_recovers_in_steps_and_only_while_rests_are_outlived() -> None:
    one = Patience(4.0)
    one.learn(2.0, 0.0)
    assert one.outlived(QUIET - 1) == 1.5, "not yet"
    assert one.outlived(QUIET) == pytest.approx(1.875)
    assert one.outlived(QUIET + 1) == pytest.approx(1.875)
    assert one.outlived(2 * QUIET) == pytest.approx(2.34375)
    assert one.outlived(86_400.0) == pytest.approx(2.9296875), "a step, however long it was quiet"


def test_it_recovers_from_no_rest_at_all() -> None:
    one = Patience(4.0)
    one.learn(0.3, 0.0)
    assert one.keep_for == 0.0
    assert hours(one, 90.0, 3600.0) == []
    assert one.keep_for == 4.0
    assert one.limit is None, "what was learned is not true any more"


def test_each_time_that_the_limit_is_met_again_the_next_try_is_later() -> None:
    early = hours(Patience(4.0), 2.0, 40_000.0)
    gaps = [later - sooner for sooner, later in pairwise(early)]
    assert gaps[:4] == sorted(gaps[:4])
    assert gaps[-1] >= patience.LONGEST_QUIET


def test_before_anything_is_known_a_second_is_sure_and_what_was_outlived_makes_more_so() -> None:
    one = Patience(4.0)
    assert one.sure_for == 1.0
    one.outlived(10.0)
    assert one.sure_for == pytest.approx(2.8), "surely less than what was outlived"
    one.outlived(20.0)
    one.learn(2.0, 30.0)
    one.learn(2.0, 40.0)
    one.learn(2.0, 50.0)
    assert one.sure_for == pytest.approx(1.4)


def test_a_server_that_looks_at_its_timers_once_a_second_does_not_make_too_long_a_rest_sure() -> (
    None
):
    one = Patience(4.0)
    one.learn(3.0, 10.0)  # of a patience of 2 s
    assert one.keep_for == pytest.approx(2.4)
    one.outlived(20.0)
    assert one.sure_for + TICK < 2.0


def test_another_setting_keeps_what_is_known() -> None:
    one = Patience(4.0)
    assert one.configure(30.0) == 30.0
    one.learn(5.0, 1.0)
    assert one.configure(10.0) == 4.0
    assert one.configure(2.0) == 2.0


def test_it_shows_what_it_knows() -> None:
    one = Patience(4.0)
    assert repr(one) == "<Patience: rests of 4 s>"
    one.learn(2.0, 1.0)
    assert repr(one) == "<Patience: rests of 1.5 s, the target ends them after 2 s>"


@given(events, st.floats(0.0, 100.0))
def test_it_is_never_above_the_setting_nor_below_nothing_and_only_outliving_raises_it(
    script: list[tuple[str, float, float]], configured: float
) -> None:
    one, now = Patience(configured), 0.0
    for kind, seconds, pause in script:
        now += pause
        before = one.keep_for
        if kind == "learn":
            assert one.learn(seconds, now) <= before
        elif kind == "outlived":
            assert before <= one.outlived(now) <= max(before * 1.25, before + 0.25)
        else:
            one.configure(seconds)
        assert 0.0 <= one.sure_for <= one.keep_for <= one.configured


@given(st.floats(0.1, 100.0), st.floats(0.1, 100.0))
def test_a_lesson_that_is_believed_leaves_room_for_a_late_ticker(
    configured: float, target: float
) -> None:
    one = Patience(configured)
    one.learn(target, 1.0)
    assert one.keep_for == 0.0 or one.keep_for + TICK < target


@given(st.floats(0.75, 60.0), st.floats(0.1, 60.0))
def test_a_day_with_any_patience_sees_few_early_closes(target: float, configured: float) -> None:
    early = hours(Patience(configured), target, 86_400.0, pause=61.0)
    assert len(early) <= 40
