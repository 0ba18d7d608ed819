"""The same key, the same target: how few keys move, how even it is, and that nobody is overloaded."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.upstream.hashing import EXACT, LOAD, ConsistentHash, branch_of, place

KEYS = [f"user-{number}" for number in range(2000)]
URLS = st.lists(st.integers(0, 10_000), min_size=2, max_size=12, unique=True)
LARGEST = 1.4
"""A target's part of the keys is at most this times what its weight says, with `POINTS` points for each unit of weight."""


@dataclass(eq=False)
class Target:
    url: str
    weight: int = 1
    share: int = 1
    in_flight: int = 0


def made(numbers: list[int], weights: list[int] | None = None) -> list[Target]:
    pairs = zip(numbers, weights or [1] * len(numbers), strict=True)
    return [Target(f"http://10.0.0.{at}:8000", weight, weight) for at, weight in pairs]


def ring(members: list[Target], available: list[Target] | None = None) -> Any:
    balancer: ConsistentHash[Target] = ConsistentHash(lambda key: key)
    balancer.rebuild(members if available is None else available, members)
    return balancer


def owners(balancer: Any) -> dict[str, Target]:
    return {key: balancer.choose(key) for key in KEYS}


# ── which keys move ──


@settings(max_examples=10)
@given(URLS, st.data())
def test_a_target_that_goes_leaves_its_keys_to_others_and_no_other_key_moves(
    numbers: list[int], data: st.DataObject
) -> None:
    targets = made(numbers)
    gone = data.draw(st.sampled_from(targets))
    rest = [one for one in targets if one is not gone]
    before, after = owners(ring(targets)), owners(ring(rest))
    moved = [key for key in KEYS if before[key] is not after[key]]
    assert all(before[key] is gone for key in moved)
    # Fair share, the unevenness of the ring, and five standard deviations of the draw of keys.
    fair = len(KEYS) / len(targets)
    assert len(moved) <= LARGEST * fair + 5 * math.sqrt(fair)


@settings(max_examples=10)
@given(URLS, st.data())
def test_a_target_that_is_down_is_passed_over_and_gets_its_own_keys_back(
    numbers: list[int], data: st.DataObject
) -> None:
    targets = made(numbers)
    down = data.draw(st.sampled_from(targets))
    up = [one for one in targets if one is not down]
    balancer = ring(targets)
    before = owners(balancer)
    balancer.rebuild(up, targets)
    without = owners(balancer)
    assert all(without[key] is before[key] for key in KEYS if before[key] is not down)
    assert without == owners(ring(up)), "gone or down: the same ones take over"
    balancer.rebuild(targets, targets)
    assert owners(balancer) == before


@settings(max_examples=10)
@given(URLS, st.data())
def test_a_heavier_weight_takes_keys_and_gives_none(
    numbers: list[int], data: st.DataObject
) -> None:
    weights = [data.draw(st.integers(1, 4)) for _ in numbers]
    targets = made(numbers, [1, *weights[1:]])  # the unit stays 1
    before = owners(ring(targets))
    heavier = data.draw(st.sampled_from(targets[1:]))
    heavier.weight += 1
    after = owners(ring(targets))
    assert all(after[key] is heavier for key in KEYS if before[key] is not after[key])


def test_among_a_thousand_hardly_more_than_a_fair_share_moves_when_one_goes_or_comes() -> None:
    """Each has fewer points as there are more: what that moves is less than one more share."""
    targets = made(list(range(1000)))
    before, after = owners(ring(targets)), owners(ring(targets[:-1]))
    moved = sum(before[key] is not after[key] for key in KEYS)
    fair = len(KEYS) / 1000
    assert moved <= 2 * fair + 5 * math.sqrt(2 * fair)


def test_the_order_of_targets_means_nothing_and_neither_does_the_process() -> None:
    targets = made([1, 2, 3])
    assert owners(ring(targets)) == owners(ring(targets[::-1]))
    urls = [ring(targets).choose(key).url[-6] for key in ("ann", "bob", "eve", "\udcff", "é")]
    assert urls == ["1", "1", "3", "3", "2"]
    assert place("ann") == 0x8D3ADF6ABF23F3A5


# ── how even it is ──


@settings(max_examples=10)
@given(URLS, st.data())
def test_each_gets_its_weights_part_of_the_keys(numbers: list[int], data: st.DataObject) -> None:
    weights = [data.draw(st.integers(1, 5)) for _ in numbers]
    targets = made(numbers, weights)
    seen = Counter(id(target) for target in owners(ring(targets)).values())
    for target in targets:
        part = len(KEYS) * target.weight / sum(weights)
        assert abs(seen[id(target)] - part) <= (LARGEST - 1) * part + 5 * math.sqrt(part)


# ── bounded loads ──


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.booleans()), max_size=200),
    st.data(),
)
def test_no_target_ever_exceeds_its_bound(
    shares: list[int], events: list[tuple[str, bool]], data: st.DataObject
) -> None:
    """Three keys only, the worst there is: a target takes a request only below LOAD times its part of all, rounded up."""
    targets = made(list(range(len(shares))), shares)
    balancer = ring(targets)
    for key, ends in events:
        flying = [target for target in targets if target.in_flight]
        if ends and flying:
            data.draw(st.sampled_from(flying)).in_flight -= 1
            continue
        target = balancer.choose(key)
        target.in_flight += 1
        total = sum(one.in_flight for one in targets)
        assert target.in_flight <= math.ceil(LOAD * total * target.share / sum(shares))


def test_with_many_targets_the_bound_is_that_of_a_few_requests_ago() -> None:
    targets = made(list(range(10 * EXACT)))
    balancer = ring(targets)
    for at in range(3000):
        balancer.choose("abc"[at % 3]).in_flight += 1
    total = sum(one.in_flight for one in targets)
    assert total == 3000
    assert max(one.in_flight for one in targets) <= math.ceil(LOAD * total / len(targets))


def test_what_would_overload_a_target_goes_to_the_next_one_for_all_of_its_keys() -> None:
    targets = made([1, 2, 3, 4])
    balancer = ring(targets)
    home = balancer.choose("a")
    home.in_flight = 10
    second = balancer.choose("a")
    assert second is not home
    assert balancer.choose("a") is second
    home.in_flight = 0
    assert balancer.choose("a") is home


def test_a_target_that_warms_up_keeps_its_keys_but_not_more_of_them_than_its_share() -> None:
    targets = made([1, 2])
    balancer = ring(targets)
    cold = balancer.choose("a")
    for target in targets:
        target.share = 2 if target is cold else 20
        target.in_flight = 2
    balancer.rebuild(targets, targets)
    assert balancer.choose("a") is not cold
    cold.in_flight = 0
    assert balancer.choose("a") is cold


# ── tries ──


@given(URLS, st.data())
def test_a_further_try_goes_on_along_the_ring(numbers: list[int], data: st.DataObject) -> None:
    targets = made(numbers)
    for target in targets:
        target.in_flight = data.draw(st.integers(0, 5))
    balancer = ring(targets)
    key = data.draw(st.sampled_from(KEYS))
    tried: list[Target] = []
    while len(tried) < len(targets):
        target = balancer.other(key, tried)
        assert target not in tried
        tried.append(target)


def test_a_further_try_does_not_take_more_than_the_bound_while_it_can_be_kept() -> None:
    targets = made([1, 2, 3])
    balancer = ring(targets)
    first = balancer.choose("a")
    second = balancer.other("a", [first])
    second.in_flight = 9
    assert balancer.other("a", [first]) not in (first, second)


@pytest.mark.parametrize("key", [None, ""])
def test_requests_without_a_key_are_spread(key: str | None) -> None:
    """And so is what is no request of a client, such as a copy of one."""
    targets = made([1, 2, 3])
    balancer = ring(targets)
    balancer._key = {"": ""}.__getitem__  # None is not even asked
    assert {id(balancer.choose(key)) for _ in range(100)} == {id(one) for one in targets}
    assert all(balancer.other(key, targets[:2]) is targets[2] for _ in range(20))


# ── branches of a split ──

WEIGHTS = st.lists(st.integers(1, 100), min_size=1, max_size=5)


@settings(max_examples=15)
@given(WEIGHTS)
def test_branches_get_their_weights_part_of_the_keys(weights: list[int]) -> None:
    seen = Counter(branch_of(key, weights) for key in KEYS)
    for at, weight in enumerate(weights):
        part = len(KEYS) * weight / sum(weights)
        assert abs(seen[at] - part) <= 5 * math.sqrt(part)


@settings(max_examples=15)
@given(WEIGHTS, st.integers(1, 100), st.data())
def test_when_a_branch_grows_keys_move_to_it_and_nowhere_else(
    weights: list[int], more: int, data: st.DataObject
) -> None:
    grown = data.draw(st.integers(0, len(weights) - 1))
    after = [weight + more * (at == grown) for at, weight in enumerate(weights)]
    moved = {
        branch_of(key, after) for key in KEYS if branch_of(key, weights) != branch_of(key, after)
    }
    assert moved <= {grown}


@given(WEIGHTS, st.integers(1, 9), st.text())
def test_weights_count_by_their_proportion_alone(weights: list[int], times: int, key: str) -> None:
    assert branch_of(key, weights) == branch_of(key, [times * weight for weight in weights])


def test_another_salt_chooses_other_canaries() -> None:
    one, other = (
        {key for key in KEYS if branch_of(key, [90, 10], salt)} for salt in ("orders", "users")
    )
    assert len(one & other) < len(one) / 4


def test_a_branch_is_a_matter_of_the_key_alone() -> None:
    assert [branch_of(key, [1, 1]) for key in ("ann", "bob", "eve", "\udcff")] == [1, 1, 0, 0]
