"""Which target is next: weights hold within what is promised, and who is busy or slow is spared."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import errors
from gateway.upstream.balance import (
    DECAY,
    PENALTY,
    PENALTY_CAP,
    SCAN,
    LeastRequests,
    PeakEwma,
    RandomChoice,
    RoundRobin,
    TwoChoices,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(eq=False)
class Target:
    share: int = 1
    in_flight: int = 0
    ewma: float = 0.0
    ewma_at: float = 0.0


SHARES = st.lists(st.integers(1, 20), min_size=1, max_size=6)
MANY = st.lists(st.integers(1, 20), min_size=2, max_size=6)
SEEDS = st.integers(0, 2**32)
PAIRS = st.tuples(st.integers(1, 20), st.integers(0, 9))

RANDOM: list[Callable[[Callable[[], float]], Any]] = [RandomChoice, TwoChoices, PeakEwma]
ALL: list[Callable[[], Any]] = [RandomChoice, TwoChoices, PeakEwma, RoundRobin, LeastRequests]


def among(balancer: Any, targets: list[Target]) -> Any:
    balancer.rebuild(targets, targets)
    return balancer


def turns(balancer: Any, targets: list[Target], count: int) -> list[int]:
    return [targets.index(balancer.choose(None)) for _ in range(count)]


# ── all of them ──


@pytest.mark.parametrize("make", ALL)
@given(data=st.data())
def test_only_those_that_are_there_are_chosen(make: Callable[[], Any], data: st.DataObject) -> None:
    targets = [Target(share, flying) for share, flying in data.draw(st.lists(PAIRS, min_size=1))]
    balancer = make()
    for _ in range(5):
        some = data.draw(st.lists(st.sampled_from(targets), min_size=1, unique_by=id))
        among(balancer, some)
        for _ in range(5):
            assert balancer.choose(None) in some


@pytest.mark.parametrize("make", ALL)
@given(shares=MANY, data=st.data())
def test_what_was_tried_is_not_chosen_again(
    make: Callable[[], Any], shares: list[int], data: st.DataObject
) -> None:
    targets = [Target(share, data.draw(st.integers(0, 3))) for share in shares]
    balancer = among(make(), targets)
    for _ in range(3):
        most = len(targets) - 1
        tried = data.draw(st.lists(st.sampled_from(targets), max_size=most, unique_by=id))
        assert balancer.other(None, tried) not in tried
        balancer.choose(None)


@pytest.mark.parametrize("make", RANDOM)
@pytest.mark.parametrize("shares", [[1, 1], [3, 1], [1, 2, 3, 4], [10, 1, 1], [5, 5, 5]])
def test_idle_targets_are_drawn_by_weight(
    make: Callable[[Callable[[], float]], Any], shares: list[int]
) -> None:
    """20,000 draws: five standard deviations are below 1.8 % of all."""
    targets = [Target(share) for share in shares]
    balancer = among(make(Random(7).random), targets)
    seen = Counter(turns(balancer, targets, 20_000))
    for at, share in enumerate(shares):
        assert abs(seen[at] / 20_000 - share / sum(shares)) < 0.018


@pytest.mark.parametrize("make", RANDOM)
@given(point=st.sampled_from([0.0, 0.5, 1.0 - 2**-53]), shares=SHARES)
def test_every_draw_names_a_target(
    make: Callable[[Callable[[], float]], Any], point: float, shares: list[int]
) -> None:
    targets = [Target(share) for share in shares]
    assert among(make(lambda: point), targets).choose(None) in targets


@pytest.mark.parametrize("make", RANDOM)
def test_the_draws_are_not_the_same_each_time(make: Callable[..., Any]) -> None:
    targets = [Target(), Target()]
    assert set(turns(among(make(), targets), targets, 100)) == {0, 1}


# ── round robin ──


@given(SHARES, st.integers(0, 50))
def test_any_cycle_gives_each_target_exactly_its_weight(shares: list[int], before: int) -> None:
    targets = [Target(share) for share in shares]
    balancer = among(RoundRobin(), targets)
    turns(balancer, targets, before)
    for _ in range(3):
        assert Counter(turns(balancer, targets, sum(shares))) == dict(enumerate(shares))


def _within(seen: Counter[int], shares: list[int], count: int) -> bool:
    part = {at: share / sum(shares) for at, share in enumerate(shares)}
    return all(abs(seen[at] - count * part[at]) <= 1 + len(shares) * part[at] + 1e-9 for at in part)


@given(SHARES, st.integers(1, 100))
def test_at_no_moment_has_a_target_had_much_more_or_less_than_its_part(
    shares: list[int], count: int
) -> None:
    targets = [Target(share) for share in shares]
    assert _within(Counter(turns(among(RoundRobin(), targets), targets, count)), shares, count)


def test_a_heavy_target_does_not_get_its_turns_in_a_row() -> None:
    targets = [Target(3), Target(1)]
    assert turns(among(RoundRobin(), targets), targets, 8) == [0, 0, 1, 0, 0, 0, 1, 0]
    targets = [Target(), Target(), Target()]
    assert turns(among(RoundRobin(), targets), targets, 6) == [0, 1, 2, 0, 1, 2]


@given(SHARES, SHARES, st.integers(0, 50), st.data())
def test_changed_weights_hold_exactly_from_the_next_turn_on(
    before: list[int], after: list[int], count: int, data: st.DataObject
) -> None:
    targets = [Target(share) for share in before]
    balancer = among(RoundRobin(), targets)
    turns(balancer, targets, count)
    targets += [Target() for _ in after]
    some = data.draw(st.permutations(targets))[: len(after)]
    for target, share in zip(some, after, strict=False):
        target.share = share
    among(balancer, some)
    shares = [target.share for target in some]
    assert Counter(turns(balancer, some, sum(shares))) == dict(enumerate(shares))


@given(SHARES, st.integers(1, 60), st.data())
def test_a_round_that_is_begun_anew_again_and_again_is_as_fair_as_one(
    shares: list[int], count: int, data: st.DataObject
) -> None:
    """Health and slow start change something every second: nobody must gain by standing first."""
    targets = [Target(share) for share in shares]
    balancer = among(RoundRobin(), targets)
    seen: Counter[int] = Counter()
    for _ in range(count):
        seen.update(turns(balancer, targets, 1))
        among(balancer, targets)
    assert _within(seen, shares, count)


@pytest.mark.parametrize("make", [RoundRobin, LeastRequests])
def test_a_further_try_costs_nobody_its_turn(make: Callable[[], Any]) -> None:
    """Or else, of two targets, the one that fails would get every first try."""
    targets = [Target(), Target()]
    balancer = among(make(), targets)
    firsts = []
    for _ in range(6):
        firsts += turns(balancer, targets, 1)
        if firsts[-1] == 0:
            assert balancer.other(None, [targets[0]]) is targets[1]
    assert firsts == [0, 1, 0, 1, 0, 1]


def test_further_tries_are_spread_over_all_that_remain() -> None:
    targets = [Target(), Target(), Target()]
    balancer = among(RoundRobin(), targets)
    others = []
    for _ in range(6):
        others.append(targets.index(balancer.other(None, [targets[0]])))
        among(balancer, targets)
    assert others == [1, 2, 1, 2, 1, 2]


# ── two choices ──


@given(
    st.builds(Target, st.integers(1, 9), st.integers(0, 50)),
    st.builds(Target, st.integers(1, 9), st.integers(0, 50)),
    SEEDS,
)
def test_the_busier_of_two_for_its_weight_is_never_chosen(
    first: Target, second: Target, seed: int
) -> None:
    chosen = among(TwoChoices(Random(seed).random), [first, second]).choose(None)
    other = second if chosen is first else first
    assert chosen.in_flight / chosen.share <= other.in_flight / other.share


@given(SHARES.filter(lambda shares: len(shares) > 1), SEEDS)
def test_the_busiest_of_many_is_never_chosen(shares: list[int], seed: int) -> None:
    targets = [Target(share) for share in shares]
    targets[1].in_flight = 1
    assert 1 not in turns(among(TwoChoices(Random(seed).random), targets), targets, 20)


@given(SHARES, SEEDS)
def test_load_that_stays_is_spread_by_weight(shares: list[int], seed: int) -> None:
    """Requests that do not end: no target gets far ahead of another for its weight."""
    targets = [Target(share) for share in shares]
    balancer = among(TwoChoices(Random(seed).random), targets)
    for _ in range(20 * sum(shares)):
        balancer.choose(None).in_flight += 1
    assert max(target.in_flight / target.share for target in targets) < 40


# ── least requests ──


@given(SHARES)
def test_idle_targets_of_least_requests_take_their_turns(shares: list[int]) -> None:
    targets = [Target(share) for share in shares]
    seen = Counter(turns(among(LeastRequests(), targets), targets, 2 * sum(shares)))
    assert seen == {at: 2 * share for at, share in enumerate(shares)}


@given(st.lists(PAIRS, min_size=1, max_size=SCAN + 1), st.integers(0, 5))
def test_nobody_is_less_busy_for_its_weight_than_who_is_chosen(
    pairs: list[tuple[int, int]], before: int
) -> None:
    targets = [Target(share, flying) for share, flying in pairs]
    balancer = among(LeastRequests(), targets)
    turns(balancer, targets, before)
    chosen = balancer.choose(None)
    assert chosen.in_flight / chosen.share == min(one.in_flight / one.share for one in targets)


@given(st.lists(PAIRS, min_size=2, max_size=9), st.data())
def test_of_those_that_remain_the_least_busy_is_next(
    pairs: list[tuple[int, int]], data: st.DataObject
) -> None:
    targets = [Target(share, flying) for share, flying in pairs]
    tried = [data.draw(st.sampled_from(targets))]
    chosen = among(LeastRequests(), targets).other(None, tried)
    rest = [one for one in targets if one not in tried]
    assert chosen.in_flight / chosen.share == min(one.in_flight / one.share for one in rest)


@given(SHARES)
def test_load_that_stays_is_as_equal_as_whole_requests_can_be(shares: list[int]) -> None:
    targets = [Target(share) for share in shares]
    balancer = among(LeastRequests(), targets)
    for _ in range(7 * sum(shares)):
        balancer.choose(None).in_flight += 1
    assert all(abs(target.in_flight - 7 * target.share) <= target.share for target in targets)


def test_of_a_thousand_the_idle_one_that_is_near_is_found() -> None:
    targets = [Target(in_flight=1) for _ in range(1000)]
    balancer = among(LeastRequests(), targets)
    for at in (0, 1, 997):
        turns(balancer, targets, (at - turns(balancer, targets, 1)[0] - 1) % 1000)
        near = targets[(at + SCAN) % 1000]
        near.in_flight = 0
        assert balancer.choose(None) is near
        near.in_flight = 1


# ── latency ──


class Time:
    now = 1000.0


def timed(time: Time, seed: int = 1) -> PeakEwma[Target]:
    return PeakEwma(Random(seed).random, lambda: time.now)


def test_a_slower_answer_counts_at_once_and_is_forgotten_over_time() -> None:
    time, target = Time(), Target()
    speed = timed(time)
    speed.succeeded(target, 200, 0.1)
    assert target.ewma == 0.1
    time.now += 1
    speed.succeeded(target, 200, 2.0)
    assert target.ewma == 2.0
    time.now += DECAY
    speed.succeeded(target, 200, 0.1)
    assert 0.1 < target.ewma < 1.0
    for _ in range(20):
        time.now += DECAY
        speed.succeeded(target, 200, 0.1)
    assert target.ewma == pytest.approx(0.1, rel=0.01)


@given(st.lists(st.tuples(st.floats(0.001, 30), st.floats(0, 100)), min_size=1))
def test_the_average_is_never_above_the_slowest_answer(
    answers: list[tuple[float, float]],
) -> None:
    time, target = Time(), Target()
    speed = timed(time)
    for seconds, wait in answers:
        time.now += wait
        speed.succeeded(target, 200, seconds)
        assert 0 < target.ewma <= max(one for one, _ in answers)


def test_the_slower_of_two_is_left_alone_for_a_while_and_asked_again_later() -> None:
    time = Time()
    speed = timed(time)
    fast, slow = Target(), Target()
    among(speed, [fast, slow])
    speed.succeeded(fast, 200, 0.01)
    speed.succeeded(slow, 200, 1.0)
    assert {id(speed.choose(None)) for _ in range(100)} == {id(fast)}
    for _ in range(10):
        time.now += DECAY
        speed.succeeded(fast, 200, 0.01)
    assert speed.choose(None) is slow


def test_the_faster_one_gets_as_many_at_a_time_as_it_is_faster() -> None:
    time = Time()
    speed = timed(time)
    targets = [Target(), Target()]
    among(speed, targets)
    speed.succeeded(targets[0], 200, 0.1)
    speed.succeeded(targets[1], 200, 0.3)
    for _ in range(40):
        speed.choose(None).in_flight += 1
    assert [target.in_flight for target in targets] == [30, 10]


def test_a_target_that_nobody_knows_is_asked_once() -> None:
    speed = timed(Time())
    known, new = Target(), Target()
    among(speed, [known, new])
    speed.succeeded(known, 200, 0.5)
    assert speed.choose(None) is new
    new.in_flight = 1
    assert {id(speed.choose(None)) for _ in range(50)} == {id(known)}


def test_a_failure_counts_as_slow_however_fast_it_came() -> None:
    time, target = Time(), Target()
    speed = timed(time)
    speed.succeeded(target, 200, 0.001)
    speed.failed(target, errors.UpstreamIdleClosed(), 0.0001)
    assert target.ewma == 0.001, "that is between the pool and its keep-alive time"
    speed.failed(target, errors.ConnectRefused(), 0.0001)
    assert target.ewma == PENALTY
    speed.succeeded(target, 503, 0.0001)
    assert target.ewma == 2 * PENALTY
    for _ in range(10):
        speed.failed(target, errors.ConnectRefused(), 0.0001)
    assert target.ewma == PENALTY_CAP
