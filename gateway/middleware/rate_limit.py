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
from gateway.exchange import would_refuse
from gateway.limits.algorithms import SLACK
from gateway.limits.keys import Key
from gateway.limits.quota import Quota, Rates, cost_of, policy_line

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
        if settings.of_identity == identity
    ]
    if not limits:
        return forward
    stage = Stage(limits, forward, build.limits)
    if any(limit.store is not None for limit in limits):
        return stage.shared
    if len(limits) == 1 and limits[0].plain is not None:
        return stage.alone(limits[0], *limits[0].plain)
    return stage.local


class Limit:
    """One limit, compiled."""

    __slots__ = ("ask", "meter", "name", "plain", "report", "store")

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
        key_of = Key(settings.template, settings.ipv6_prefix).of
        rate, cost = settings.rate, settings.cost
        self.ask: Callable[[Exchange], Question | None]
        """What is to be asked for a request; None: nobody can tell what is allowed, so nothing is."""
        self.plain: tuple[Quota, Callable[[Exchange], str], float] | None = None
        """Its rate, key and cost, where nothing else is to be asked."""
        if isinstance(rate, str) or isinstance(cost, str):
            self.ask = self._asking(name, settings, key_of)
        else:
            plain = (Quota(name, settings, rate), key_of, float(cost))
            self.ask = self._always(*plain)
            if not self.report:
                self.plain = plain

    def _always(
        self, quota: Quota, key_of: Callable[[Exchange], str], cost: float
    ) -> Callable[[Exchange], Question]:
        """The same question for all requests, but for the key."""
        table, algorithm, binding = quota.table, quota.algorithm, not self.report
        # A plain tuple for an Asked: one is made for each request.
        return lambda exchange: (self, quota, (table, algorithm, key_of(exchange), cost, binding))  # type: ignore[return-value]

    def _asking(
        self, name: str, settings: model.RateLimit, key_of: Callable[[Exchange], str]
    ) -> Callable[[Exchange], Question | None]:
        """A question whose rate or cost comes with the request."""
        rate, cost = settings.rate, settings.cost
        rates = Rates(name, settings, rate) if isinstance(rate, str) else None
        always = None if isinstance(rate, str) else Quota(name, settings, rate)
        costs = cost_of(cost) if isinstance(cost, str) else None
        same = 0.0 if isinstance(cost, str) else float(cost)
        binding = not self.report

        def ask(exchange: Exchange) -> Question | None:
            quota = always if rates is None else rates.of(exchange)
            if quota is None:
                return None
            key = key_of(exchange)
            if rates is not None:  # another plan begins anew
                key = f"{quota.rate}\x1f{key}"
            much = same if costs is None else costs(exchange)
            return self, quota, (quota.table, quota.algorithm, key, much, binding)  # type: ignore[return-value]

        return ask


class Stage:
    """Limits that are asked together, and what is behind them."""

    def __init__(self, limits: Sequence[Limit], forward: Handler, stores: Stores) -> None:
        self._limits = limits
        self._forward = forward
        self._local = stores.local

    def alone(
        self, limit: Limit, quota: Quota, key_of: Callable[[Exchange], str], cost: float
    ) -> Handler:
        """As `local` for the usual case, a third cheaper: one limit that is always the same."""
        table, algorithm, policy, line = quota.table, quota.algorithm, quota.alone, quota.line
        take, forward, meter = self._local.take_one, self._forward, limit.meter

        def limited(exchange: Exchange) -> Awaitable[Reply]:
            _, wait, left, back = take(table, algorithm, key_of(exchange), cost)
            if wait:
                meter.decisions["denied"] += 1
                _tell(exchange, [quota], _LESS_THAN_ANY, line(left, min(wait, back)))
                raise _refusal(limit, wait)
            meter.allowed += 1
            if exchange.extra:
                _tell(exchange, [quota], left, line(left, back))
            else:
                exchange.limit_told = told = left, line(left, back)
                exchange.extra = (policy, told[1])
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
            question = limit.ask(exchange)
            if question is not None:
                questions.append(question)
            elif limit.report:
                _would_deny(exchange, limit)
            else:
                limit.meter.decisions["denied"] += 1
                raise errors.RateLimited(f"{limit.name}: its text gives no rate for this request")
        return questions

    def _settle(self, exchange: Exchange, questions: list[Question], taken: list[Taken]) -> None:
        """Count what was decided and tell the client. Raises errors.RateLimited."""
        if len(questions) == 1 and not taken[0][1] and not questions[0][0].report:
            limit, quota, _ = questions[0]
            limit.meter.allowed += 1
            _tell(exchange, [quota], taken[0][2], quota.line(taken[0][2], taken[0][3]))
            return
        least = -1
        line = b""
        for (limit, quota, _), (_, wait, left, back) in zip(questions, taken, strict=True):
            if wait or limit.report:
                self._judge(exchange, questions, taken)
                return
            if left < least or least < 0:
                least, line = left, quota.line(left, back)
        for question in questions:
            question[0].meter.allowed += 1
        if line:
            _tell(exchange, [question[1] for question in questions], least, line)

    def _judge(self, exchange: Exchange, questions: list[Question], taken: list[Taken]) -> None:
        """As `_settle`, where not all have passed or some only report."""
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
                _would_deny(exchange, limit)
            elif denies is None:
                limit.meter.allowed += 1
        if told is None:
            return
        wait, left, seconds, quota = told
        quotas = [one[1] for one in questions if not one[0].report]
        if denies is None:
            _tell(exchange, quotas, left, quota.line(left, seconds))
            return
        _tell(exchange, quotas, _LESS_THAN_ANY, quota.line(left, seconds))
        raise _refusal(denies, wait)


def _would_deny(exchange: Exchange, limit: Limit) -> None:
    limit.meter.decisions["would_deny"] += 1
    would_refuse(exchange, errors.RateLimited.reason)


def _passes(questions: list[Question], taken: list[Taken]) -> bool:
    return not any(
        said[1] and not limit.report for (limit, _, _), said in zip(questions, taken, strict=True)
    )


def _tell(exchange: Exchange, quotas: list[Quota], left: int, line: bytes) -> None:
    """Have the answer bear the fields of this stage: its policies, and `line` unless the stage before has less left."""
    policy = quotas[0].alone if len(quotas) == 1 else policy_line(quotas)
    told = exchange.limit_told
    if told is not None and told[0] <= left:
        exchange.extra += (policy,)
        return
    others = exchange.extra
    if told is not None:
        others = tuple([each for each in others if each is not told[1]])
    exchange.extra = (*others, policy, line)
    exchange.limit_told = left, line


def _refusal(limit: Limit, wait: float) -> errors.RateLimited:
    if wait == math.inf:
        return errors.RateLimited(f"{limit.name}: one request costs more than there can ever be")
    return errors.RateLimited(
        f"{limit.name} is used up for {wait:.3f} s",
        (("Retry-After", str(max(1, math.ceil(wait - SLACK)))),),
    )
