"""`rate_limit`: how often. Two stages: what needs nobody to be known counts before `auth`, the rest after it.

Rules of this file: a stage with limits that count in this process is a plain function; only a question to a store is waited
for. All limits of a stage pass or none counts. Of several, the client is told of the one that has least left, or that
makes it wait longest. In report mode all pass, and who would not have is counted.

Where a stage has both kinds, what counts here is taken first and given back when the store denies: asked the other way
round, what is denied here would have counted there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

from gateway import errors
from gateway.limits.keys import Key, names_identity
from gateway.limits.quota import Quota, Rates, cost_of
from gateway.routing.template import Template

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from gateway.config import effective, model
    from gateway.exchange import Exchange, Handler, Reply
    from gateway.limits.algorithms import Taken
    from gateway.limits.redis import RedisStore
    from gateway.limits.store import Asked
    from gateway.limits.stores import Stores
    from gateway.middleware.base import Build
    from gateway.observe.entrance import LimitMeter

Question: TypeAlias = "tuple[Limit, Quota, Asked]"

_LESS_THAN_ANY = -1
_AGAIN = 1
"""Seconds that are told where a store does not answer and `on_error: deny` says that nobody may come in."""


def by_address(route: effective.Route, forward: Handler, build: Build) -> Handler:
    """The limits of the route that count before it is known who asks; `forward` itself where there are none."""
    return _stage(route, forward, build, identity=False)


def by_identity(route: effective.Route, forward: Handler, build: Build) -> Handler:
    """The limits of the route that count once it is known who asks; `forward` itself where there are none."""
    return _stage(route, forward, build, identity=True)


def _stage(route: effective.Route, forward: Handler, build: Build, *, identity: bool) -> Handler:
    limits = [
        Limit(name, settings, build.limits, build.metrics.entrance.limit(name))
        for name, settings in route.rate_limits
        if needs_identity(settings) == identity
    ]
    if not limits:
        return forward
    stage = Stage(limits, forward, build.limits)
    if any(limit.store is not None for limit in limits):
        return stage.shared
    if len(limits) == 1 and limits[0].plain is not None:
        return stage.alone(limits[0].plain)
    return stage.local


def needs_identity(settings: model.RateLimit) -> bool:
    """Whether any text of a limit has a value only once it is known who asks."""
    texts = (settings.rate, settings.template, settings.cost)
    names = [Template.compile(text, where="text").names for text in texts if isinstance(text, str)]
    return any(names_identity(each) for each in names)


class Limit:
    """One limit, compiled."""

    __slots__ = (
        *("_cost", "_cost_of", "_key_of", "_quota", "_rates"),
        *("meter", "name", "plain", "report", "store"),
    )

    def __init__(
        self, name: str, settings: model.RateLimit, stores: Stores, meter: LimitMeter
    ) -> None:
        """Raises ValueError, with a sentence for the user."""
        self.name = name
        self.meter = meter
        self.report = settings.mode == "report"
        self.store: RedisStore | None = None
        if settings.store is not None:
            self.store = stores.shared[settings.store]
        self._key_of = Key(settings.template, settings.ipv6_prefix).of
        self._rates = self._quota = None
        if isinstance(settings.rate, str):
            self._rates = Rates(name, settings, settings.rate)
        else:
            self._quota = Quota(name, settings, settings.rate)
        self._cost_of: Callable[[Exchange], float] | None = None
        self._cost = 1.0
        if isinstance(settings.cost, str):
            self._cost_of = cost_of(settings.cost)
        else:
            self._cost = float(settings.cost)
        self.plain: tuple[Quota, Callable[[Exchange], str], float] | None = None
        """Its rate, key and cost, where nothing else is to be asked."""
        if self._quota is not None and self._cost_of is None and not self.report:
            self.plain = self._quota, self._key_of, self._cost

    def ask(self, exchange: Exchange) -> tuple[Quota, Asked] | None:
        """What is to be asked for a request; None: nobody can tell what is allowed, so nothing is."""
        key = self._key_of(exchange)
        quota = self._quota
        if quota is None:
            assert self._rates is not None
            quota = self._rates.of(exchange)
            if quota is None:
                return None
            key = f"{quota.rate}\x1f{key}"  # another plan begins anew
        cost = self._cost if self._cost_of is None else self._cost_of(exchange)
        return quota, (quota.table, quota.algorithm, key, cost, not self.report)  # type: ignore[return-value]


class Stage:
    """Limits that are asked together, and what is behind them."""

    def __init__(self, limits: Sequence[Limit], forward: Handler, stores: Stores) -> None:
        self._limits = limits
        self._forward = forward
        self._local = stores.local

    def alone(self, plain: tuple[Quota, Callable[[Exchange], str], float]) -> Handler:
        """For one limit that counts here, always the same: without all that needs not be asked."""
        quota, key_of, cost = plain
        table, algorithm, line = quota.table, quota.algorithm, quota.line
        policy = b"RateLimit-Policy: " + quota.policy + b"\r\n"
        [limit], take, forward = self._limits, self._local.take, self._forward
        meter = limit.meter

        def limited(exchange: Exchange) -> Awaitable[Reply]:
            [(_, wait, left, back)] = take(((table, algorithm, key_of(exchange), cost, True),))  # type: ignore[arg-type]
            if wait:
                meter.decisions["denied"] += 1
                _tell(exchange, policy, _LESS_THAN_ANY, line(left, min(wait, back)))
                raise _refusal(limit, wait)
            meter.allowed += 1
            if exchange.extra:
                _tell(exchange, policy, left, line(left, back))
            else:
                exchange.extra = (policy, line(left, back))
            return forward(exchange)

        return limited

    def local(self, exchange: Exchange) -> Awaitable[Reply]:
        """Ask what counts here. Raises errors.RateLimited."""
        questions = self._questions(exchange, self._limits)
        self._settle(exchange, questions, self._local.take([one[2] for one in questions]))
        return self._forward(exchange)

    def shared(self, exchange: Exchange) -> Awaitable[Reply]:
        """Ask what counts elsewhere, too. Raises errors.RateLimited; so does what is returned, when it is awaited."""
        here: list[Limit] = []
        there: dict[RedisStore, list[Limit]] = {}
        for limit in self._limits:
            store = limit.store
            if store is not None and not store.failed:
                there.setdefault(store, []).append(limit)
            elif store is None or self._failed(limit, store):
                here.append(limit)
        questions = self._questions(exchange, here)
        if there:
            asked = [(store, self._questions(exchange, limits)) for store, limits in there.items()]
            return self._wait(exchange, questions, asked)
        self._settle(exchange, questions, self._local.take([one[2] for one in questions]))
        return self._forward(exchange)

    async def _wait(
        self,
        exchange: Exchange,
        here: list[Question],
        there: list[tuple[RedisStore, list[Question]]],
    ) -> Reply:
        taken = self._local.take([one[2] for one in here])
        if _passes(here, taken):
            mine = [one for one, said in zip(here, taken, strict=True) if not said[1]]
            try:
                passes = await self._ask(there, here, taken)
            except BaseException:
                self._local.give_back([one[2] for one in mine])
                raise
            if not passes:
                self._local.give_back([one[2] for one in mine])
        self._settle(exchange, here, taken)
        return await self._forward(exchange)

    async def _ask(
        self,
        there: list[tuple[RedisStore, list[Question]]],
        said: list[Question],
        taken: list[Taken],
    ) -> bool:
        """Ask each store, and add what it says to `said` and `taken`; whether the request passes."""
        passes = True
        for store, questions in there:
            answer = await store.take([one[2] for one in questions])
            if answer is None:
                questions = [one for one in questions if self._failed(one[0], store)]
                answer = self._local.take([one[2] for one in questions])
            said += questions
            taken += answer
            passes = _passes(questions, answer)
            if not passes:
                break
        return passes

    def _failed(self, limit: Limit, store: RedisStore) -> bool:
        """Its store does not answer: whether it counts here instead. Raises errors.RateLimited where nobody may come in."""
        limit.meter.decisions["store_error"] += 1
        if store.on_error == "deny" and not limit.report:
            limit.meter.decisions["denied"] += 1
            raise errors.RateLimited(
                f"{limit.name}: the store {store.name} does not answer, and on_error is deny",
                (("Retry-After", str(_AGAIN)),),
            )
        return store.on_error == "local"

    def _questions(self, exchange: Exchange, limits: Sequence[Limit]) -> list[Question]:
        questions: list[Question] = []
        for limit in limits:
            asked = limit.ask(exchange)
            if asked is not None:
                questions.append((limit, *asked))
            elif limit.report:
                limit.meter.decisions["would_deny"] += 1
            else:
                limit.meter.decisions["denied"] += 1
                raise errors.RateLimited(f"{limit.name}: its text gives no rate for this request")
        return questions

    def _settle(self, exchange: Exchange, questions: list[Question], taken: list[Taken]) -> None:
        """Count what was decided and tell the client. Raises errors.RateLimited."""
        told: tuple[float, int, float, Quota] | None = None
        denies: Limit | None = None
        for (limit, quota, _), (_, wait, left, back) in zip(questions, taken, strict=True):
            if limit.report:
                continue
            if wait:
                limit.meter.decisions["denied"] += 1
            # Who waits longest, then who has least left.
            if told is None or (wait, -left) > (told[0], -told[1]):
                told = (wait, left, min(wait, back) if wait else back, quota)
                denies = limit if wait else None
        for (limit, _, _), one in zip(questions, taken, strict=True):
            if limit.report and one[1]:
                limit.meter.decisions["would_deny"] += 1
            elif denies is None:
                limit.meter.allowed += 1
        if told is not None:
            wait, left, seconds, quota = told
            policies = [one[1].policy for one in questions if not one[0].report]
            policy = b"RateLimit-Policy: " + b", ".join(policies) + b"\r\n"
            line = quota.line(left, seconds)
            if denies is not None:
                _tell(exchange, policy, _LESS_THAN_ANY, line)
                raise _refusal(denies, wait)
            _tell(exchange, policy, left, line)


def _passes(questions: list[Question], taken: list[Taken]) -> bool:
    return not any(
        said[1] and not limit.report for (limit, _, _), said in zip(questions, taken, strict=True)
    )


def _tell(exchange: Exchange, policy: bytes, left: int, line: bytes) -> None:
    """Have the answer bear the fields of this stage: its policies, and `line` unless the stage before has less left."""
    former = [each for each in exchange.extra if each.startswith(b"RateLimit: ")]
    if any(int(each.rpartition(b";r=")[2].partition(b";")[0]) <= left for each in former):
        exchange.extra += (policy,)
    else:
        others = (each for each in exchange.extra if each not in former)
        exchange.extra = (*others, policy, line)


def _refusal(limit: Limit, wait: float) -> errors.RateLimited:
    if wait == math.inf:
        return errors.RateLimited(f"{limit.name}: one request costs more than there can ever be")
    return errors.RateLimited(
        f"{limit.name} is used up for {wait:.3f} s", (("Retry-After", str(math.ceil(wait))),)
    )
