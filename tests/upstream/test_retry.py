"""May a failure be tried again: the budget, and the rules of a policy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway import errors
from gateway.clock import Clock
from gateway.config import model
from gateway.exchange import Exchange
from gateway.upstream.retry import Budget, Policy


class Standing(Clock):
    def __init__(self) -> None:
        super().__init__()
        self.at = 1000.0

    def now(self) -> float:
        return self.at


# ── budget ──

STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.0, 0.1, 0.7, 1.0, 3.3, 9.9, 25.0]),  # seconds that pass
        st.integers(0, 30),  # first tries
        st.integers(0, 10),  # extra tries that are wanted
    ),
    max_size=40,
)


@given(STEPS, st.sampled_from([0.0, 0.1, 0.2, 0.35, 1.0]), st.floats(0, 1))
def test_extra_tries_stay_below_their_share_of_any_ten_seconds_or_the_floor(
    steps: list[tuple[float, int, int]], share: float, start: float
) -> None:
    clock = Standing()
    clock.at += start
    budget = Budget(clock)
    firsts: list[int] = []
    extras: list[int] = []
    for passed, first, wanted in steps:
        clock.at += passed
        second = int(clock.at)
        for _ in range(first):
            budget.first(clock.at)
            firsts.append(second)
        for _ in range(wanted):
            granted = budget.spend(share)
            lately = sum(at > second - 10 for at in firsts)
            spent = sum(at > second - 10 for at in extras)
            assert granted == (spent + 1 <= max(3, share * lately))
            if granted:
                extras.append(second)


def test_a_quiet_upstream_has_a_floor_of_three_which_comes_back() -> None:
    clock = Standing()
    budget = Budget(clock)
    assert [budget.spend(0.2) for _ in range(5)] == [True, True, True, False, False]
    clock.at += 9
    assert not budget.spend(0.2)
    clock.at += 1
    assert budget.spend(0.2)


def test_a_fifth_of_a_hundred_requests_may_be_tried_again() -> None:
    clock = Standing()
    budget = Budget(clock)
    for _ in range(100):
        budget.first(clock.at)
    assert sum(budget.spend(0.2) for _ in range(100)) == 20
    assert sum(budget.spend(0.5) for _ in range(100)) == 30


def test_requests_that_began_a_moment_ago_do_not_push_out_what_is_counted() -> None:
    """Heads are parsed in one order and sent on in another."""
    clock = Standing()
    budget = Budget(clock)
    for _ in range(3):
        assert budget.spend(0.0)
    for turn in range(40):
        budget.first(clock.at + (turn % 2) - 1)
    assert not budget.spend(0.0)
    assert budget.spend(0.1)
    assert len(budget._firsts) <= 11


def test_memory_is_bounded_by_the_span() -> None:
    clock = Standing()
    budget = Budget(clock)
    for _ in range(200):
        clock.at += 1
        budget.first(clock.at)
    assert len(budget._firsts) <= 11


# ── policy ──


def exchange(method: str = "GET", **fields: str) -> Exchange:
    made = Exchange()
    made.method = method
    made.headers = cast("Any", CIMultiDict({k.replace("_", "-"): v for k, v in fields.items()}))
    return made


@pytest.mark.parametrize(
    ("method", "repeatable"),
    [
        *((method, True) for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE")),
        *((method, False) for method in ("POST", "PATCH", "LINK", "get")),
    ],
)
def test_only_idempotent_methods_are_repeated_without_being_told(
    method: str, repeatable: bool
) -> None:
    assert Policy(model.Retry()).repeatable(exchange(method)) is repeatable


def test_a_key_makes_any_method_repeatable_where_the_policy_names_it() -> None:
    keyed = exchange("POST", idempotency_key="1")
    assert Policy(model.Retry()).repeatable(keyed)
    assert not Policy(model.Retry(idempotency_key=None)).repeatable(keyed)
    named = Policy(model.Retry(idempotency_key="X-Once"))
    assert not named.repeatable(keyed)
    assert named.repeatable(exchange("POST", x_once="1"))


def test_methods_that_are_listed_replace_the_idempotent_ones() -> None:
    listed = Policy(model.Retry(methods=("GET", "POST")))
    assert listed.repeatable(exchange("POST"))
    assert not listed.repeatable(exchange("PUT"))
    assert Policy(model.Retry(methods="all")).repeatable(exchange("PATCH"))


ALL_ON = Policy(model.Retry(on=("connect", "reset_before_response", "first_byte", "503")))


@pytest.mark.parametrize(
    ("error", "by_default", "by_all"),
    [
        (errors.DnsError, True, True),
        (errors.ConnectRefused, True, True),
        (errors.ConnectTimeout, True, True),
        (errors.TlsError, True, True),
        (errors.UpstreamReset, True, True),
        (errors.UpstreamIdleClosed, True, True),
        (errors.UpstreamHeaderTimeout, False, True),
        (errors.UpstreamBodyTimeout, False, False),
        (errors.UpstreamBadResponse, False, False),
        (errors.ResponseTooLarge, False, False),
        (errors.TotalTimeout, False, False),
    ],
)
def test_a_failure_is_covered_by_its_word(
    error: type[errors.UpstreamError], by_default: bool, by_all: bool
) -> None:
    assert Policy(model.Retry()).covers(error()) is by_default
    assert ALL_ON.covers(error()) is by_all
    assert not Policy(None).covers(error())


@pytest.mark.parametrize(
    ("error", "method", "replayable", "may"),
    [
        (errors.ConnectRefused, "POST", False, True),
        (errors.TlsError, "POST", False, True),
        (errors.UpstreamReset, "GET", True, True),
        (errors.UpstreamReset, "PUT", False, False),
        (errors.UpstreamReset, "POST", True, False),
        (errors.UpstreamHeaderTimeout, "GET", True, True),
        (errors.UpstreamHeaderTimeout, "POST", True, False),
    ],
)
def test_what_may_have_been_acted_on_is_repeated_only_if_that_does_no_harm(
    error: type[errors.UpstreamError], method: str, replayable: bool, may: bool
) -> None:
    policy = Policy(model.Retry())
    asked = exchange(method)
    asked.upload = cast("Any", SimpleNamespace(replayable=replayable, unsent=True))
    assert policy.may_repeat(error(), asked) is may


def test_a_body_that_is_gone_is_not_sent_even_where_nothing_was() -> None:
    asked = exchange("GET")
    asked.upload = cast("Any", SimpleNamespace(replayable=False, unsent=False))
    assert not Policy(model.Retry()).may_repeat(errors.ConnectRefused(), asked)


def test_a_policy_is_its_settings_compiled() -> None:
    policy = Policy(model.Retry(max=4, on=("503", "429"), per_try=2.5, budget=None, replay_body=10))
    assert (policy.off, policy.max, policy.statuses) == (False, 4, {503, 429})
    assert (policy.per_try, policy.share, policy.replay_body) == (2.5, None, 10)
    assert (Policy(None).off, Policy(None).max, Policy(None).statuses) == (True, 0, frozenset())
    assert Policy(None).share is None, "a route without retries costs its upstream no budget"
    assert Policy(model.Retry()).share == 0.2
