"""Which target is next: weights hold, and who is busy is spared."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.balance import RoundRobin, two_choices


@dataclass(eq=False)
class Target:
    weight: int = 1
    in_flight: int = 0


WEIGHTS = st.lists(st.integers(1, 20), min_size=1, max_size=6)


def turns(balancer: RoundRobin, targets: list[Target], count: int) -> list[int]:
    return [targets.index(balancer.choose(targets)) for _ in range(count)]


# ── round robin ──


@given(WEIGHTS, st.integers(0, 50))
def test_any_round_gives_each_target_exactly_its_weight(weights: list[int], before: int) -> None:
    targets = [Target(weight) for weight in weights]
    balancer = RoundRobin()
    turns(balancer, targets, before)
    assert Counter(turns(balancer, targets, sum(weights))) == dict(enumerate(weights))


@given(WEIGHTS, st.integers(1, 100))
def test_at_no_moment_has_a_target_had_much_more_or_less_than_its_share(
    weights: list[int], count: int
) -> None:
    targets = [Target(weight) for weight in weights]
    seen = Counter(turns(RoundRobin(), targets, count))
    for at, weight in enumerate(weights):
        assert abs(seen[at] - count * weight / sum(weights)) < len(weights)


def test_a_heavy_target_does_not_get_its_turns_in_a_row() -> None:
    assert turns(RoundRobin(), [Target(3), Target(1)], 8) == [0, 0, 1, 0, 0, 0, 1, 0]
    assert turns(RoundRobin(), [Target(), Target(), Target()], 6) == [0, 1, 2, 0, 1, 2]


def test_a_weight_that_has_changed_holds_from_the_next_round() -> None:
    targets = [Target(1), Target(1)]
    balancer = RoundRobin()
    turns(balancer, targets, 2)
    targets[1].weight = 3
    assert Counter(turns(balancer, targets, 4)) == {0: 1, 1: 3}


@given(WEIGHTS, st.data())
def test_a_target_that_is_left_out_is_never_chosen(weights: list[int], data: st.DataObject) -> None:
    targets = [Target(weight) for weight in weights]
    balancer = RoundRobin()
    for _ in range(20):
        some = data.draw(st.lists(st.sampled_from(targets), min_size=1, unique_by=id))
        assert balancer.choose(some) in some


# ── two choices ──


@pytest.mark.parametrize("weights", [[1, 1], [3, 1], [1, 2, 3, 4], [10, 1, 1]])
def test_idle_targets_are_chosen_by_weight(weights: list[int]) -> None:
    """20,000 draws: five standard deviations are below 1.8 % of all."""
    targets = [Target(weight) for weight in weights]
    random = Random(7).random
    seen = Counter(targets.index(two_choices(targets, random)) for _ in range(20_000))
    for at, weight in enumerate(weights):
        assert abs(seen[at] / 20_000 - weight / sum(weights)) < 0.018


@given(
    st.builds(Target, st.integers(1, 9), st.integers(0, 50)),
    st.builds(Target, st.integers(1, 9), st.integers(0, 50)),
    st.integers(0, 2**32),
)
def test_the_busier_of_two_for_its_weight_is_never_chosen(
    first: Target, second: Target, seed: int
) -> None:
    chosen = two_choices([first, second], Random(seed).random)
    other = second if chosen is first else first
    assert chosen.in_flight / chosen.weight <= other.in_flight / other.weight


@given(WEIGHTS.filter(lambda weights: len(weights) > 2), st.integers(0, 2**32))
def test_the_busiest_of_many_is_never_chosen(weights: list[int], seed: int) -> None:
    targets = [Target(weight) for weight in weights]
    targets[1].in_flight = 1
    random = Random(seed).random
    assert all(two_choices(targets, random) is not targets[1] for _ in range(20))


@given(WEIGHTS, st.integers(0, 2**32))
def test_load_that_stays_is_spread_by_weight(weights: list[int], seed: int) -> None:
    """Requests that do not end: no target gets far ahead of another for its weight."""
    targets = [Target(weight) for weight in weights]
    random = Random(seed).random
    for _ in range(20 * sum(weights)):
        two_choices(targets, random).in_flight += 1
    assert max(target.in_flight / target.weight for target in targets) < 40


@given(st.floats(0, 1, exclude_max=True), WEIGHTS)
def test_every_draw_names_a_target(point: float, weights: list[int]) -> None:
    targets = [Target(weight) for weight in weights]
    assert two_choices(targets, lambda: point) in targets
    assert two_choices(targets, lambda: 1.0) in targets, "rounding may reach the very end"


def test_the_draws_are_not_the_same_each_time() -> None:
    targets = [Target(), Target()]
    assert {id(two_choices(targets)) for _ in range(100)} == {id(target) for target in targets}
