"""`attempts`: who guesses is slowed, who does not is not, and no crowd fills the memory."""

from __future__ import annotations

import tracemalloc

import pytest

from gateway import errors
from gateway.auth.attempts import Attempts, bucket, limiter
from gateway.config.auth import Attempts as Settings
from tests.kit.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def after(refused: pytest.ExceptionInfo[errors.RateLimited]) -> int:
    [(name, value)] = refused.value.headers
    assert name == "Retry-After"
    return int(value)


def test_after_so_many_failures_an_address_is_refused_for_a_window(clock: FakeClock) -> None:
    attempts = Attempts(3, 60.0, clock)
    for number in range(3):
        attempts.check("192.0.2.1")
        attempts.failed("192.0.2.1", b"%d" % number)
    with pytest.raises(errors.RateLimited) as refused:
        attempts.check("192.0.2.1")
    assert after(refused) == 60
    attempts.check("192.0.2.2")
    clock.advance(59)
    with pytest.raises(errors.RateLimited) as refused:
        attempts.check("192.0.2.1")
    assert after(refused) == 1
    clock.advance(2)
    attempts.check("192.0.2.1")
    assert not attempts.refused


def test_after_an_attack_the_table_is_empty_again(clock: FakeClock) -> None:
    attempts = Attempts(1, 60.0, clock)
    for number in range(5):
        attempts.failed(f"192.0.2.{number}")
    clock.advance(61)
    for _ in range(6):
        attempts.check("198.51.100.1")
    assert not attempts.refused


def test_failures_that_are_older_than_the_window_do_not_count(clock: FakeClock) -> None:
    attempts = Attempts(3, 60.0, clock)
    attempts.failed("192.0.2.1", b"a")
    attempts.failed("192.0.2.1", b"b")
    clock.advance(61)
    attempts.failed("192.0.2.1", b"c")
    attempts.check("192.0.2.1")


def test_one_wrong_credential_again_and_again_is_no_guessing(clock: FakeClock) -> None:
    attempts = Attempts(3, 60.0, clock)
    for _ in range(100):
        attempts.failed("192.0.2.1", b"an old key")
    attempts.check("192.0.2.1")


def test_attempts_that_are_under_way_count_so_that_many_at_once_gain_nothing(
    clock: FakeClock,
) -> None:
    attempts = Attempts(3, 60.0, clock)
    begun = [attempts.begin("192.0.2.1") for _ in range(3)]
    with pytest.raises(errors.RateLimited) as refused:
        attempts.begin("192.0.2.1")
    assert after(refused) == 1
    attempts.end(begun[0], failed=False)
    begun[0] = attempts.begin("192.0.2.1")
    for one in begun:
        attempts.end(one, failed=True)
    with pytest.raises(errors.RateLimited) as refused:
        attempts.begin("192.0.2.1")
    assert after(refused) == 60


def test_what_was_never_compared_is_no_failure(clock: FakeClock) -> None:
    attempts = Attempts(1, 60.0, clock)
    attempts.end(attempts.begin("192.0.2.1"), failed=None)
    attempts.end(attempts.begin("192.0.2.1"), failed=None)
    assert len(attempts) == 0


def test_a_success_forgives_half_but_an_account_of_ones_own_pays_for_no_more(
    clock: FakeClock,
) -> None:
    attempts = Attempts(8, 60.0, clock)

    def attempt(*, failed: bool) -> None:
        attempts.end(attempts.begin("192.0.2.1"), failed=failed)

    guesses = 0
    for number in range(60):
        if attempts.refused:
            break
        attempt(failed=number % 3 != 2)
        guesses += number % 3 != 2
    assert 8 < guesses <= 12


def test_in_another_window_a_success_forgives_again(clock: FakeClock) -> None:
    attempts = Attempts(4, 60.0, clock)

    def attempt(*, failed: bool) -> None:
        attempts.end(attempts.begin("192.0.2.1"), failed=failed)

    for _ in range(2):
        for failed in (True, True, False, True, True):  # 2, then 1, then 3
            attempt(failed=failed)
        clock.advance(61)
    assert not attempts.refused


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("unix", "unix", True),
    ],
)
def test_an_ipv6_address_stands_for_its_64(one: str, other: str, same: bool) -> None:
    assert (bucket(one) == bucket(other)) is same


def test_whoever_has_a_64_can_not_rotate_through_it(clock: FakeClock) -> None:
    attempts = Attempts(5, 60.0, clock)
    for number in range(5):
        attempts.failed(f"2001:db8::{number:x}", b"%d" % number)
    with pytest.raises(errors.RateLimited):
        attempts.check("2001:db8::ffff")


def test_twenty_thousand_addresses_fill_no_memory_and_free_nobody(clock: FakeClock) -> None:
    attempts = Attempts(3, 60.0, clock, room=1_000)
    for number in range(3):
        attempts.failed("192.0.2.1", b"%d" % number)
    tracemalloc.start()
    try:
        for number in range(20_000):
            attempts.failed(f"2001:db8:{number >> 8:x}:{number & 255:x}::1", b"x")
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(attempts) <= 2_000
    assert used < 2_000_000
    with pytest.raises(errors.RateLimited):
        attempts.check("192.0.2.1")


def test_those_that_are_refused_are_bounded_too_and_who_is_free_by_now_goes_first(
    clock: FakeClock,
) -> None:
    attempts = Attempts(1, 60.0, clock, room=10)
    attempts.failed("192.0.2.1", b"x")
    clock.advance(61)
    for number in range(10):
        attempts.failed(f"198.51.100.{number}", b"x")
    assert len(attempts.refused) == 10
    assert "192.0.2.1" not in attempts.refused
    attempts.failed("198.51.100.99", b"x")
    assert len(attempts.refused) == 10


def test_who_fails_while_refused_is_not_taken_for_the_one_that_is_refused_longest(
    clock: FakeClock,
) -> None:
    attempts = Attempts(1, 60.0, clock, room=3)
    attempts.failed("192.0.2.1")
    clock.advance(1)
    attempts.failed("192.0.2.2")
    clock.advance(1)
    attempts.failed("192.0.2.1")
    clock.advance(59.5)
    attempts.failed("192.0.2.3")
    attempts.failed("192.0.2.4")
    with pytest.raises(errors.RateLimited):
        attempts.check("192.0.2.1")


def test_one_that_was_pushed_out_while_it_was_under_way_still_counts(clock: FakeClock) -> None:
    attempts = Attempts(1, 60.0, clock, room=1)
    begun = attempts.begin("192.0.2.1")
    attempts.failed("192.0.2.2")
    attempts.end(begun, failed=True)
    with pytest.raises(errors.RateLimited):
        attempts.check("192.0.2.1")


def test_off_is_no_limiter(clock: FakeClock) -> None:
    assert limiter(None, clock) is None
    made = limiter(Settings(max=1, window=2.0), clock)
    assert made is not None
    made.failed("192.0.2.1")
    with pytest.raises(errors.RateLimited):
        made.check("192.0.2.1")
