"""Algorithms of limits: never more than they say, and what they say of waiting is true.

Rules of this file: no clock: times are numbers that the test makes up.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.algorithms import SLACK, SLOTS, Algorithm, make

WORDS = ("gcra", "token_bucket", "fixed_window", "sliding_window")
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
NOON = datetime(2027, 1, 31, 12, tzinfo=UTC).timestamp()

words = st.sampled_from(WORDS)
units = st.sampled_from([*UNITS])
amounts = st.integers(1, 50)
bursts = st.none() | st.integers(1, 80)
gaps = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1e-4, 0.01, 0.05, 0.1, 0.3, 0.5, 0.95, 1.0, 1.7])
        | st.floats(0, 2, allow_nan=False),
        st.integers(1, 4),
    ),
    min_size=1,
    max_size=120,
)
"""(share of the period that passes, what is asked for)."""


def quota(word: str, amount: float, unit: str, burst: float | None = None) -> Algorithm:
    return make(word, amount, unit, burst if word in ("gcra", "token_bucket") else None)


def let_in(
    algorithm: Algorithm, period: float, asked: list[tuple[float, int]], start: float = NOON
) -> list[tuple[float, float]]:
    """(when, how much) of all that passed."""
    state, now, passed = None, start, []
    for gap, cost in asked:
        now += gap * period
        after, wait, left, back = algorithm.take(state, now, cost)
        assert left >= 0
        assert back >= 0
        if wait == 0:
            state = after
            passed.append((now, cost))
    return passed


def most_within(passed: list[tuple[float, float]], seconds: float) -> float:
    """The most that passed in any time of that length, its end excluded."""
    return max(
        (sum(cost for when, cost in passed if at <= when < at + seconds) for at, _ in passed),
        default=0,
    )


@given(word=st.sampled_from(["gcra", "token_bucket"]), amount=amounts, burst=bursts, unit=units,
       asked=gaps, share=st.floats(0.01, 3))  # fmt: skip
def test_a_bucket_lets_in_no_more_than_its_burst_and_what_came_meanwhile(
    word: str,
    amount: int,
    burst: int | None,
    unit: str,
    asked: list[tuple[float, int]],
    share: float,
) -> None:
    algorithm = quota(word, amount, unit, burst)
    period = UNITS[unit]
    passed = let_in(algorithm, period, asked)
    most = (amount if burst is None else burst) + amount * (share + SLACK / period)
    assert most_within(passed, share * period) <= most + 1e-6


@given(amount=amounts, unit=units, asked=gaps)
def test_a_sliding_window_lets_in_no_more_than_the_rate_in_any_time_of_its_length(
    amount: int, unit: str, asked: list[tuple[float, int]]
) -> None:
    period = UNITS[unit]
    passed = let_in(quota("sliding_window", amount, unit), period, asked)
    assert most_within(passed, period - 2 * SLACK) <= amount


@given(amount=amounts, unit=units, asked=gaps)
def test_a_fixed_window_lets_in_no_more_than_the_rate_in_each_window(
    amount: int, unit: str, asked: list[tuple[float, int]]
) -> None:
    period = UNITS[unit]
    windows: dict[float, float] = {}
    for when, cost in let_in(quota("fixed_window", amount, unit), period, asked):
        number = (when + SLACK) // period
        windows[number] = windows.get(number, 0) + cost
    assert max(windows.values(), default=0) <= amount


@given(word=words, amount=amounts, burst=bursts, unit=units, asked=gaps, cost=st.integers(1, 60))
def test_who_waits_as_long_as_it_is_told_passes_and_who_comes_sooner_does_not(
    word: str, amount: int, burst: int | None, unit: str, asked: list[tuple[float, int]], cost: int
) -> None:
    algorithm = quota(word, amount, unit, burst)
    state, now = None, NOON
    for gap, each in asked:
        now += gap * UNITS[unit]
        after, wait, _, _ = algorithm.take(state, now, each)
        state = after if wait == 0 else state
    _, wait, _, _ = algorithm.take(state, now, cost)
    if cost > algorithm.most:
        assert wait == math.inf
    elif wait > 0:
        assert algorithm.take(state, now + wait, cost)[1] == 0
        if wait > 4 * SLACK:
            assert algorithm.take(state, now + wait - 4 * SLACK, cost)[1] > 0


@given(word=words, amount=amounts, burst=bursts, unit=units, asked=gaps)
def test_what_is_said_to_be_left_is_there_and_not_one_more(
    word: str, amount: int, burst: int | None, unit: str, asked: list[tuple[float, int]]
) -> None:
    algorithm = quota(word, amount, unit, burst)
    state, now = None, NOON
    for gap, cost in asked:
        now += gap * UNITS[unit]
        after, wait, left, _ = algorithm.take(state, now, cost)
        state = after if wait == 0 else state
        assert left <= algorithm.most
        if state is not None:
            assert algorithm.take(state, now, left)[1] == 0
            assert algorithm.take(state, now, left + 1)[1] > 0


@given(word=words, amount=amounts, unit=units, asked=gaps, gap=st.floats(0, 2), cost=amounts)
def test_time_alone_never_takes_anything_away(
    word: str, amount: int, unit: str, asked: list[tuple[float, int]], gap: float, cost: int
) -> None:
    algorithm = quota(word, amount, unit)
    state, now = None, NOON
    for each, much in asked:
        now += each * UNITS[unit]
        after, wait, _, _ = algorithm.take(state, now, much)
        state = after if wait == 0 else state
    if algorithm.take(state, now, cost)[1] == 0:
        assert algorithm.take(state, now + gap * UNITS[unit], cost)[1] == 0


@given(word=words, amount=amounts, unit=units, asked=gaps)
def test_all_is_back_when_it_is_said_to_be_and_then_the_state_can_be_forgotten(
    word: str, amount: int, unit: str, asked: list[tuple[float, int]]
) -> None:
    algorithm = quota(word, amount, unit)
    state, now = None, NOON
    for gap, cost in asked:
        now += gap * UNITS[unit]
        after, wait, _, back = algorithm.take(state, now, cost)
        state = after if wait == 0 else state
        if state is not None:
            assert algorithm.take(state, now + back, algorithm.most)[1] == 0
            assert algorithm.take(state, algorithm.ends(state) + SLACK, algorithm.most)[1] == 0


@given(word=words, amount=amounts, unit=units, asked=gaps, cost=st.integers(1, 4))
def test_what_is_given_back_is_as_if_it_had_not_been_taken(
    word: str, amount: int, unit: str, asked: list[tuple[float, int]], cost: int
) -> None:
    algorithm = quota(word, amount, unit)
    state, now = None, NOON
    for gap, much in asked:
        now += gap * UNITS[unit]
        after, wait, _, _ = algorithm.take(state, now, much)
        state = after if wait == 0 else state
    before = algorithm.take(state, now, 0)[2]
    taken, wait, _, _ = algorithm.take(state, now, cost)
    if wait == 0:
        given_back = algorithm.give_back(taken, now, cost)
        assert algorithm.take(given_back, now, 0)[2] == before


@pytest.mark.parametrize("word", WORDS)
def test_whoever_has_used_more_ranks_higher(word: str) -> None:
    algorithm = quota(word, 10, "m")
    heavy = light = None
    for _ in range(8):
        heavy = algorithm.take(heavy, NOON, 1)[0]
    light = algorithm.take(light, NOON, 1)[0]
    assert algorithm.rank(heavy) > algorithm.rank(light)


def test_a_month_of_a_fixed_window_is_a_page_of_the_calendar() -> None:
    algorithm = make("fixed_window", 2, "month")
    last = datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC).timestamp()
    state, wait, left, _ = algorithm.take(None, last - 20 * 86400, 2)
    assert (wait, left) == (0, 0)
    _, wait, _, _ = algorithm.take(state, last)
    assert wait == 1.0
    assert algorithm.take(state, last + 1)[1] == 0
    december = datetime(2027, 12, 31, 12, tzinfo=UTC).timestamp()
    state = algorithm.take(None, december, 2)[0]
    assert algorithm.take(state, december)[1] == 12 * 3600


@pytest.mark.parametrize("word", ["gcra", "token_bucket", "sliding_window"])
def test_a_month_of_the_others_is_thirty_days(word: str) -> None:
    algorithm = make(word, 1, "month")
    state = algorithm.take(None, NOON)[0]
    days = algorithm.take(state, NOON)[1] / 86400
    assert 30 - 1e-6 <= days <= 30 * (1 + 1 / SLOTS) + 1e-6


def test_a_wall_clock_that_is_set_back_opens_no_window_anew() -> None:
    algorithm = make("fixed_window", 1, "m")
    state = algorithm.take(None, 600.0)[0]
    _, wait, _, _ = algorithm.take(state, 599.9)
    assert wait == pytest.approx(60.1)
    assert algorithm.take(state, 600.0 - 3600)[1] == 0, "an hour back: the state is from nowhere"


@pytest.mark.parametrize(
    ("word", "amount", "burst", "says"),
    [
        ("gcra", 0, None, "more than 0"),
        ("gcra", 5, 0, "at least 1"),
        ("fixed_window", 5, 7, "has no burst"),
        ("sliding_window", 5, 7, "has no burst"),
    ],
)
def test_numbers_without_sense_are_refused(
    word: str, amount: float, burst: float | None, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        make(word, amount, "s", burst)


def test_less_than_one_in_a_unit_still_lets_one_in() -> None:
    algorithm = make("gcra", 0.5, "s")
    state, wait, _, _ = algorithm.take(None, 0.0)
    assert wait == 0
    assert algorithm.take(state, 0.0)[1] == pytest.approx(2.0)
