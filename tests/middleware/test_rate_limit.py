"""`rate_limit`: two stages, and a store that is asked at the same time as what counts here."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from gateway import errors
from gateway.config.limits import RateLimit
from gateway.exchange import Reply
from gateway.identity import Identity
from gateway.limits.local import LocalStore
from gateway.limits.stores import Stores
from gateway.middleware import rate_limit
from tests.kit.clock import StillClock
from tests.middleware.test_metrics import build
from tests.observe.stand_in import exchange

if TYPE_CHECKING:
    from gateway.exchange import Exchange, Handler
    from gateway.limits.algorithms import Taken
    from gateway.limits.store import Asked

OK = Reply(200, [])


class Elsewhere:
    """Stands for a store in Redis: says what it is told to, after a turn of the loop."""

    def __init__(self, *waits: float | None, on_error: str = "local") -> None:
        self.name, self.on_error, self.failed = "elsewhere", on_error, False
        self.waits = [*waits]
        self.asked: list[list[Asked]] = []
        self.hold: asyncio.Event | None = None

    async def take(self, asked: list[Asked]) -> list[Taken] | None:
        self.asked.append(asked)
        if self.hold is not None:
            await self.hold.wait()
        await asyncio.sleep(0)
        wait = self.waits.pop(0) if self.waits else 0.0
        return None if wait is None else [(None, wait, 5, 1.0) for _ in asked]


class Case:
    """The limits of one route around a handler that answers."""

    def __init__(self, *limits: dict[str, Any], elsewhere: Elsewhere | None = None) -> None:
        self.build = build()
        self.clock = StillClock()
        shared: Any = {"elsewhere": elsewhere}
        self.build.limits = Stores(LocalStore(self.clock), shared)
        route: Any = SimpleNamespace(
            rate_limits=[
                (f"l{number}", RateLimit.model_validate(each)) for number, each in enumerate(limits)
            ]
        )
        self.passed = 0

        def forward(exchange: Exchange) -> Reply:
            self.passed += 1
            return OK

        self.bare: Handler = forward
        self.after = rate_limit.by_identity(route, forward, self.build)
        self.handler = rate_limit.by_address(route, self.after, self.build)

    async def ask(self, *lines: tuple[str, str], who: Identity | None = None) -> float:
        """0 for one that passes, else the seconds it is told; infinite where it is told none."""
        self.last = exchange()
        self.last.extra = ()
        self.last.identity = who
        self.last.headers = CIMultiDictProxy(CIMultiDict(lines))
        try:
            assert await self.handler(self.last) is OK
        except errors.RateLimited as refusal:
            self.refusal = refusal
            return float(dict(refusal.headers).get("Retry-After", math.inf))
        return 0.0

    def said(self) -> list[str]:
        return [line.decode().strip() for line in self.last.extra]

    def counts(self, name: str = "l0") -> dict[str, int]:
        meter = self.build.metrics.entrance.limit(name)
        return {"allowed": meter.allowed, **meter.decisions}


def test_a_route_without_limits_costs_nothing() -> None:
    case = Case()
    assert case.handler is case.bare


@pytest.mark.parametrize(
    ("limit", "after"),
    [
        ({"rate": "1/s"}, False),
        ({"rate": "1/s", "key": "header.x-consumer"}, False),
        ({"rate": "1/s", "key": "route"}, False),
        ({"rate": "1/s", "key": "consumer"}, True),
        ({"rate": "1/s", "key": "{route} {claim.tenant}"}, True),
        ({"rate": "{claim.rate|1/s}"}, True),
        ({"rate": "1/s", "cost": "{claim.cost|1}"}, True),
    ],
)
def test_a_limit_counts_before_auth_unless_it_names_who_asks(
    limit: dict[str, Any], after: bool
) -> None:
    case = Case(limit)
    assert (case.after is not case.bare) is after
    assert (case.handler is not case.after) is not after


async def test_what_waits_for_nobody_is_no_coroutine() -> None:
    for limit in ({"rate": "1/s"}, {"rate": "1/s", "mode": "report"}, {"rate": "{header.a|1/s}"}):
        case = Case(limit)
        case.last = exchange()
        assert case.handler(case.last) is OK


async def test_of_two_stages_the_one_with_less_left_is_told_and_all_policies_are() -> None:
    ann = Identity("p", "ann")
    case = Case({"rate": "5/d"}, {"rate": "3/d", "key": "consumer"})
    assert await case.ask(who=ann) == 0
    assert case.said() == [
        'RateLimit-Policy: "l0";q=5;w=86400',
        'RateLimit-Policy: "l1";q=3;w=86400',
        'RateLimit: "l1";r=2;t=28800',
    ]
    for _ in range(2):
        assert await case.ask(who=ann) == 0
    assert await case.ask(who=ann) > 0
    assert [line for line in case.said() if line.startswith("RateLimit: ")] == [
        'RateLimit: "l1";r=0;t=28800'
    ]
    assert await case.ask(who=Identity("p", "bob")) == 0
    assert case.said() == [
        'RateLimit-Policy: "l0";q=5;w=86400',
        'RateLimit: "l0";r=0;t=86400',
        'RateLimit-Policy: "l1";q=3;w=86400',
    ]


async def test_the_last_to_let_in_and_the_longest_to_wait_are_told() -> None:
    case = Case({"rate": "2/m"}, {"rate": "2/h", "key": "header.a"})
    assert await case.ask() == 0
    assert await case.ask() == 0
    assert await case.ask() == 1800
    assert case.said()[1] == 'RateLimit: "l1";r=0;t=1800'
    assert case.counts("l0") == {"allowed": 2, "denied": 1}
    assert case.counts("l1") == {"allowed": 2, "denied": 1}


async def test_other_lines_of_the_answer_stay() -> None:
    case = Case({"rate": "5/d"}, {"rate": "3/d", "key": "consumer"})
    one = exchange()
    one.identity = Identity("p", "ann")
    one.extra = (b"Set-Cookie: a=b\r\n",)
    assert await case.handler(one) is OK
    assert one.extra[0] == b"Set-Cookie: a=b\r\n"
    assert len([line for line in one.extra if line.startswith(b"RateLimit: ")]) == 1


async def test_what_was_counted_here_is_given_back_when_the_store_denies() -> None:
    elsewhere = Elsewhere(0.0, 7.0, 7.0, 7.0, 0.0)
    case = Case({"rate": "2/d"}, {"rate": "1/s", "store": "elsewhere"}, elsewhere=elsewhere)
    assert [await case.ask() for _ in range(5)] == [0, 7, 7, 7, 0]
    assert await case.ask() > 7
    assert len(elsewhere.asked) == 5, "what is denied here is not asked there"
    assert case.counts("l0") == {"allowed": 2, "denied": 1}
    assert case.counts("l1") == {"allowed": 2, "denied": 3}


async def test_what_was_counted_here_is_given_back_when_the_client_leaves_meanwhile() -> None:
    elsewhere = Elsewhere()
    elsewhere.hold = asyncio.Event()
    case = Case({"rate": "1/d"}, {"rate": "1/s", "store": "elsewhere"}, elsewhere=elsewhere)
    for _ in range(3):
        task = asyncio.get_running_loop().create_task(case.ask())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    elsewhere.hold.set()
    assert await case.ask() == 0


async def test_a_store_that_fails_in_the_middle_is_stood_in_for() -> None:
    elsewhere = Elsewhere(None, None, None)
    case = Case({"rate": "2/d", "store": "elsewhere"}, elsewhere=elsewhere)
    assert [await case.ask() == 0 for _ in range(3)] == [True, True, False]
    assert case.counts() == {"allowed": 2, "denied": 1, "store_error": 3}


async def test_a_store_that_has_failed_is_not_asked_and_costs_no_coroutine() -> None:
    elsewhere = Elsewhere(on_error="allow")
    elsewhere.failed = True
    case = Case({"rate": "2/d", "store": "elsewhere"}, elsewhere=elsewhere)
    case.last = exchange()
    assert case.handler(case.last) is OK
    assert not elsewhere.asked
    assert case.counts() == {"allowed": 0, "store_error": 1}


async def test_a_limit_that_only_reports_denies_nobody_when_its_store_fails() -> None:
    limit = {"rate": "1/d", "store": "elsewhere", "mode": "report"}
    for failed in (False, True):
        elsewhere = Elsewhere(None, None, on_error="deny")
        elsewhere.failed = failed
        case = Case(limit, elsewhere=elsewhere)
        assert [await case.ask() for _ in range(2)] == [0, 0]


async def test_what_only_reports_counts_with_those_that_hold() -> None:
    case = Case({"rate": "2/d"}, {"rate": "1/d", "mode": "report", "key": "route"})
    assert [await case.ask() == 0 for _ in range(4)] == [True, True, False, False]
    assert case.counts("l0") == {"allowed": 2, "denied": 2}
    assert case.counts("l1") == {"allowed": 1, "would_deny": 3}
    assert case.said()[0] == 'RateLimit-Policy: "l0";q=2;w=86400'


async def test_a_cost_beyond_all_there_can_be_is_refused_without_a_time() -> None:
    case = Case({"rate": "5/s", "cost": "{header.x-cost}"})
    assert await case.ask(("x-cost", "6")) == math.inf
    assert await case.ask(("x-cost", "5")) == 0
    assert "more than there can ever be" in case.refusal.detail


async def test_the_rate_of_a_plan_is_each_consumers_own() -> None:
    case = Case({"rate": "{claim.plan_rate|1/d}", "key": "consumer"})
    gold, free = Identity("p", "gold", claims={"plan_rate": "3/d"}), Identity("p", "free")
    assert [await case.ask(who=gold) == 0 for _ in range(4)] == [True, True, True, False]
    assert [await case.ask(who=free) == 0 for _ in range(2)] == [True, False]
    upgraded = Identity("p", "free", claims={"plan_rate": "3/d"})
    assert await case.ask(who=upgraded) == 0


async def test_the_key_of_an_identity_is_its_own_and_of_nobody_the_addresses() -> None:
    case = Case({"rate": "1/d", "key": "claim.tenant"})
    one, other = (Identity("p", "a", claims={"tenant": name}) for name in ("x", "y"))
    nobody = Identity("p", "b")
    assert [await case.ask(who=who) == 0 for who in (one, one, other)] == [True, False, True]
    assert [await case.ask(who=who) == 0 for who in (nobody, None)] == [True, False]
