"""The adaptive limit against simulated servers.

Rules of this file: time is a number that the simulation moves; nothing waits.
"""

from __future__ import annotations

import heapq
import math
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.adaptive import LEAST, MOST, REMEASURE, Gradient

if TYPE_CHECKING:
    from collections.abc import Callable


class Simulated:
    """A server with so many workers and a queue without end, and clients that keep it busy.

    Each of `clients` sends again as soon as it is answered; those beyond the limit wait at the
    gateway if it is enforced, else at the server.
    """

    def __init__(
        self, *, workers: int, service: float, clients: int, enforced: bool = True
    ) -> None:
        self.now = 0.0
        self.workers, self.service, self.clients = workers, service, clients
        self._random = Random(7)
        self.enforced = enforced
        self.gradient = Gradient(lambda: self.now, enforced=enforced, random=self._random.random)
        self.in_flight = 0
        self.served = 0
        self.limits: list[float] = []
        self._serving: list[tuple[float, float]] = []
        self._queue: list[float] = []

    def run(self, seconds: float) -> None:
        """Go on for so long."""
        end = self.now + seconds
        self.limits.clear()
        while self.now < end:
            room = math.floor(self.gradient.limit) if self.enforced else math.inf
            while self.in_flight < min(self.clients, room):
                self._arrive()
            if not self._serving:  # nobody asks
                self.now = end
                return
            self.now, began = heapq.heappop(self._serving)
            self.served += 1
            self.gradient.answered(self.now - began, self.in_flight)
            self.in_flight -= 1
            self.limits.append(self.gradient.limit)
            while self._queue and len(self._serving) < self.workers:
                self._serve(self._queue.pop(0))

    def _arrive(self) -> None:
        self.in_flight += 1
        if len(self._serving) < self.workers:
            self._serve(self.now)
        else:
            self._queue.append(self.now)

    def _serve(self, arrived: float) -> None:
        took = self.service * (0.8 + 0.4 * self._random.random())
        heapq.heappush(self._serving, (self.now + took, arrived))


@pytest.mark.parametrize(("workers", "service"), [(4, 0.05), (16, 0.1), (40, 0.02), (100, 0.1)])
def test_the_limit_settles_near_what_a_saturated_server_can_do(
    workers: int, service: float
) -> None:
    server = Simulated(workers=workers, service=service, clients=workers * 5)
    server.run(120)
    server.served = 0
    server.run(120)
    usual = sorted(server.limits)
    assert workers <= usual[len(usual) // 20], "the server is kept busy"
    assert usual[-len(usual) // 20] <= 2 * workers + 4, "few wait at the server"
    assert server.served >= 0.95 * 120 * workers / service


def test_without_a_limit_the_same_clients_wait_at_the_server() -> None:
    server = Simulated(workers=16, service=0.1, clients=160, enforced=False)
    server.run(20)
    assert server.in_flight >= 150


def test_a_report_finds_the_limit_without_throttling() -> None:
    server = Simulated(workers=16, service=0.1, clients=10, enforced=False)
    server.run(20)
    server.clients = 100  # a rush that nobody holds back
    server.run(60)
    assert 16 <= server.gradient.limit <= 40
    assert server.in_flight >= 90


def test_a_brown_out_lowers_the_limit_and_its_end_raises_it_again() -> None:
    server = Simulated(workers=20, service=0.05, clients=100)
    server.run(60)
    before = server.gradient.limit
    assert before >= 20
    server.workers = 2  # a tenth of its capacity
    server.run(30)
    assert server.gradient.limit <= 8
    server.workers = 20
    server.run(30)
    assert server.gradient.limit >= 20
    assert server.gradient.limit == pytest.approx(before, rel=0.4)


def test_a_server_that_stays_slower_is_measured_anew_and_not_starved() -> None:
    server = Simulated(workers=20, service=0.05, clients=100)
    server.run(60)
    server.service = 0.2  # a new release: slower, and able to do as many at once
    server.run(2 * REMEASURE * 1.15)
    server.served = 0
    server.run(60)
    assert server.gradient.unloaded == pytest.approx(0.2, rel=0.3)
    assert server.served >= 0.9 * 60 * 20 / 0.2


def test_an_idle_server_shows_nothing_so_its_limit_stays() -> None:
    server = Simulated(workers=20, service=0.05, clients=3)
    server.run(60)
    assert server.gradient.limit <= 2 * 6
    before = server.gradient.limit
    server.run(600)
    assert server.gradient.limit == before


def test_time_outs_lower_the_limit_where_nothing_answers_at_all() -> None:
    server = Simulated(workers=20, service=0.05, clients=100)
    server.run(60)
    gradient, before = server.gradient, server.gradient.limit
    for _ in range(300):
        server.now += 0.1
        gradient.timed_out(30)
    assert gradient.limit < before / 4


def test_the_unloaded_time_is_measured_with_half_the_limit_for_one_window() -> None:
    server = Simulated(workers=4, service=0.05, clients=50)
    server.run(50)
    usual = server.gradient.limit
    server.run(REMEASURE)
    lowest = min(server.limits)
    assert lowest == pytest.approx(usual / 2, rel=0.35)
    assert sum(limit < usual * 0.7 for limit in server.limits) < len(server.limits) / 10


def test_other_settings_keep_what_was_learnt() -> None:
    server = Simulated(workers=20, service=0.05, clients=100)
    server.run(60)
    learnt = (server.gradient.limit, server.gradient.unloaded)
    server.gradient.apply(enforced=False)
    assert (server.gradient.limit, server.gradient.unloaded) == learnt
    server.gradient.apply(enforced=True, most=10)
    assert server.gradient.limit == 10


Event = tuple[str, float, float, int]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["answered", "timed_out", "apply"]),
            st.floats(0, 100),
            st.floats(0, 5),
            st.integers(0, 5000),
        ),
        max_size=400,
    ),
    st.sampled_from([1.0, 2.0, 50.0, MOST]),
)
def test_whatever_comes_the_limit_stays_within_its_bounds(events: list[Event], most: float) -> None:
    now = 0.0
    clock: Callable[[], float] = lambda: now  # noqa: E731
    gradient = Gradient(clock, enforced=True, most=most, random=lambda: 0.5)
    for kind, seconds, passed, in_flight in events:
        now += passed
        before = gradient.limit
        if kind == "apply":
            gradient.apply(enforced=in_flight % 2 == 0, most=most)
            changed = gradient.limit != before
        elif kind == "answered":
            changed = gradient.answered(seconds, in_flight)
        else:
            changed = gradient.timed_out(in_flight)
        assert changed == (gradient.limit != before)
        assert min(LEAST, most) <= gradient.limit <= most
