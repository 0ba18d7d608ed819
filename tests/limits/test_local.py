"""Counters in memory: bounded, and not to be flooded away.

Rules of this file: the clock is moved; keys are made up in great number, so the stores are small.
"""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.algorithms import Algorithm, make
from gateway.limits.local import MOST, LocalStore
from gateway.limits.store import Asked

WORDS = ("gcra", "token_bucket", "fixed_window", "sliding_window")


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def now(self) -> float:
        return self.at

    def wall(self) -> float:
        return self.at


def store(most: int = 100) -> tuple[LocalStore, Clock]:
    clock = Clock()
    return LocalStore(clock, most), clock  # type: ignore[arg-type]


def ask(
    one: LocalStore, key: str, algorithm: Algorithm, cost: float = 1.0, limit: str = "fair"
) -> float:
    return one.take([Asked(f"x/s/{limit}", algorithm, key, cost)])[0][1]


@pytest.mark.parametrize("word", WORDS)
def test_each_key_is_counted_apart(word: str) -> None:
    one, clock = store()
    algorithm = make(word, 2, "m")
    assert [ask(one, "a", algorithm) > 0 for _ in range(3)] == [False, False, True]
    assert ask(one, "b", algorithm) == 0
    clock.at += 70
    assert ask(one, "a", algorithm) == 0


def test_limits_of_the_same_key_are_counted_apart() -> None:
    one, _ = store()
    algorithm = make("gcra", 1, "m")
    assert ask(one, "a", algorithm, limit="x") == 0
    assert ask(one, "a", algorithm, limit="y") == 0
    assert ask(one, "a", algorithm, limit="x") > 0


def test_one_that_denies_takes_nothing_from_the_others() -> None:
    one, _ = store()
    wide, narrow = make("gcra", 10, "m"), make("fixed_window", 1, "m")
    both = [Asked("x/m/wide", wide, "a", 1.0), Asked("x/m/narrow", narrow, "a", 1.0)]
    assert [said[1] for said in one.take(both)] == [0, 0]
    assert [said[1] > 0 for said in one.take(both)] == [False, True]
    assert one.take(both[:1])[0][2] == 8


def test_one_that_only_reports_keeps_nobody_out_and_counts_what_passes() -> None:
    one, _ = store()
    wide, report = make("gcra", 10, "m"), make("gcra", 1, "m", 1)
    both = [Asked("x/m/wide", wide, "a", 1.0), Asked("x/m/report", report, "a", 1.0, False)]
    said = [one.take(both) for _ in range(3)]
    assert [(each[0][2], each[1][1] > 0) for each in said] == [(9, False), (8, True), (7, True)]


def test_what_is_given_back_may_be_taken_again() -> None:
    one, _ = store()
    for word in WORDS:
        asked = [Asked(f"x/m/{word}", make(word, 1, "m"), "a", 1.0)]
        assert one.take(asked)[0][1] == 0
        one.give_back(asked)
        assert one.take(asked)[0][1] == 0
        assert one.take(asked)[0][1] > 0


def test_to_give_back_what_nobody_has_taken_changes_nothing() -> None:
    one, _ = store()
    one.give_back([Asked("x/m/a", make("gcra", 1, "m"), "a", 1.0)])
    assert len(one) == 0


@pytest.mark.parametrize("word", WORDS)
def test_a_flood_of_new_keys_does_not_reset_one_that_is_used_up(word: str) -> None:
    one, _ = store(100)
    algorithm = make(word, 10, "d")
    for _ in range(10):
        assert ask(one, "attacker", algorithm) == 0
    for number in range(20_000):
        ask(one, f"flood {number}", algorithm)
        assert len(one) <= 100
    assert ask(one, "attacker", algorithm) > 0


@pytest.mark.parametrize("word", WORDS)
def test_what_says_nothing_any_more_makes_room_by_itself(word: str) -> None:
    one, clock = store(1000)
    algorithm = make(word, 10, "s")
    for number in range(900):
        ask(one, f"old {number}", algorithm)
    clock.at += 10
    for number in range(600):
        ask(one, f"new {number}", algorithm)
    assert len(one) < 1000
    clock.at += 10
    for number in range(600):
        ask(one, f"newer {number}", algorithm)
    assert len(one) < 900


def test_a_full_table_of_long_keys_is_as_large_as_it_is_said_to_be() -> None:
    clock = Clock()
    one = LocalStore(clock)  # type: ignore[arg-type]
    algorithm = make("gcra", 10, "d")
    tracemalloc.start()
    for number in range(MOST + 1000):
        ask(one, f"{number:064}", algorithm)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(one) == MOST
    assert held < 20 * 2**20


def test_a_limit_that_no_configuration_has_any_more_is_forgotten() -> None:
    one, _ = store()
    algorithm = make("gcra", 1, "d")
    ask(one, "a", algorithm, limit="stays/here")
    ask(one, "a", algorithm, limit="goes")
    one.keep(frozenset({"stays/here"}))
    assert len(one) == 1
    assert ask(one, "a", algorithm, limit="stays/here") > 0
    assert ask(one, "a", algorithm, limit="goes") == 0


@given(
    word=st.sampled_from(WORDS),
    steps=st.lists(st.tuples(st.sampled_from("abcdefghijklmnop"), st.floats(0, 30)), max_size=80),
)
def test_whatever_comes_the_bound_holds_and_nobody_who_is_kept_gets_more(
    word: str, steps: list[tuple[str, float]]
) -> None:
    one, clock = store(5)
    algorithm = make(word, 3, "m")
    for key, gap in steps:
        clock.at += gap
        kept = {
            name: state for table in one._tables.values() for name, state in table.states.items()
        }
        said = one.take([Asked("x/m/fair", algorithm, key, 1.0)])[0]
        assert said[1] == algorithm.take(kept.get(key), clock.at, 1.0)[1]
        for table in one._tables.values():
            assert len(table.states) <= 5
            assert sorted(table.states) == sorted(table._names)
