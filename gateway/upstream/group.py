"""The targets that one branch may use, and which of them a request gets.

Rules of this file: `refresh` decides, once for each change of a target's state, from whom `pick` draws; a request pays for
the draw alone. Primary targets come first; backups are for when no primary is available, and for a further try when all
primaries were tried. Panic sets ejections aside and nothing else: who is down by active checks, draining or cut off by its
circuit is never picked. Who is ejected gets no first try, but a further one when all others were tried.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway import errors
from gateway.routing.template import Template
from gateway.upstream import balance
from gateway.upstream.fairness import line_of
from gateway.upstream.hashing import ConsistentHash

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gateway.clock import Clock
    from gateway.exchange import Exchange
    from gateway.upstream.balance import Balancer
    from gateway.upstream.concurrency import Limit
    from gateway.upstream.sticky import Sticky
    from gateway.upstream.target import Target
    from gateway.upstream.upstream import Upstream


class Group:
    """Targets of one upstream, selected by their labels."""

    def __init__(
        self, upstream: Upstream, labels: Mapping[str, str], others: Sequence[Mapping[str, str]]
    ) -> None:
        """Who bears all `labels`, and none of the sets of labels in `others`."""
        self.upstream = upstream
        self._labels = labels
        self._others = others
        self.only: Target | None = None
        """The one target that a first try can go to; None: there are several, or none, or a cookie decides."""
        self.panic = False
        """So few are available that ejections are set aside."""
        self.members: tuple[Target, ...] = ()
        """All of them, whatever their state."""
        self.drawn: tuple[Target, ...] = ()
        """From whom a first try is drawn."""
        self._shares: list[int] = []
        self._reserve: tuple[Target, ...] = ()
        self._balancer: Balancer[Target]
        self._sticky: Sticky[Target] | None = None
        self._least = 0.0
        self._choose: Callable[[Any], Target] = self._nobody
        self.first: Callable[[Any], Target] = self._nobody
        """What `pick` does for a first try, without asking what there is to ask."""
        self._refusal: errors.GatewayError = errors.NoHealthyTarget()

    def __repr__(self) -> str:
        return f"<Group {self.name}: {len(self.drawn)} of {len(self.members)} targets>"

    @property
    def name(self) -> str:
        """For people: the upstream's name, and the labels."""
        words = [f"{key}={value}" for key, value in self._labels.items()]
        if self._others:
            words.append("the rest")
        return f"{self.upstream.name} ({', '.join(words)})" if words else self.upstream.name

    def apply(
        self, balancer: Balancer[Target] | None, sticky: Sticky[Target] | None, panic: float | None
    ) -> None:
        """Take new settings; None for `balancer`: the present one goes on. To be followed by `refresh`.

        `panic`: the share of targets, from 0 to 1, below which ejections are set aside.
        """
        if balancer is not None:
            self._balancer = balancer
            self.drawn = ()
        self._sticky = sticky
        self._least = 0.0 if panic is None else panic

    def refresh(self, targets: tuple[Target, ...]) -> None:
        """Find out anew from whom is drawn."""
        if self._labels or self._others:
            targets = tuple(target for target in targets if self._selects(target))
        changed, self.members = self.members != targets, targets
        drawn, self._reserve, self.panic = self._tiers()
        shares = [target.share for target in drawn]
        if len(drawn) > 1 and (changed or drawn != self.drawn or shares != self._shares):
            self._balancer.rebuild(drawn, self.members)
        self.drawn, self._shares = drawn, shares
        alone = len(drawn) == 1 and not (self._sticky is not None and self._sticky.fail)
        self.only = drawn[0] if alone else None
        if len(drawn) > 1:
            self._choose = self._balancer.choose
        elif drawn:
            self._choose = self._the_one
        else:
            self._choose = self._nobody
            self._refusal = self._said()
        self.first = self._choose if self._sticky is None else self.pick

    def pick(self, exchange: Exchange | None = None, tried: Sequence[Target] = ()) -> Target:
        """The target for the next try: not one of `tried` while another remains.

        Raises errors.NoHealthyTarget, errors.CircuitOpen.
        """
        if tried or self._sticky is not None:
            return self._pick(exchange, tried)
        return self._choose(exchange)

    async def enter(
        self, exchange: Exchange | None, target: Target, tried: Sequence[Target] = ()
    ) -> Limit[Target]:
        """A place at `target`, which was picked and has none free; or at another that would do as well, if one of them has
        room sooner. Whoever hashing or a cookie sends to `target` waits for that one.

        Raises errors.QueueFull, errors.QueueTimeout, errors.NoHealthyTarget.
        """
        wanted = target.limit
        assert wanted is not None
        sticky = self._sticky
        bound = isinstance(self._balancer, ConsistentHash) or (
            sticky is not None and exchange is not None and sticky.target_of(exchange) is target
        )
        others = () if bound else self.drawn
        limits = [
            one.limit
            for one in others
            if one is not target and one not in tried and one.limit is not None
        ]
        return await self.upstream.concurrency.enter(wanted, limits, line_of(exchange))

    def _pick(self, exchange: Exchange | None, tried: Sequence[Target]) -> Target:
        kept = self._kept(exchange, tried)
        if kept is not None:
            return kept
        if not tried:
            return self._choose(exchange)
        if any(target not in tried for target in self.drawn):
            # The balancer knows of several only.
            return self.drawn[0] if len(self.drawn) == 1 else self._balancer.other(exchange, tried)
        fresh = [target for target in self._reserve if target not in tried]
        if fresh:
            return min(fresh, key=lambda one: (one.ejected_until, one.in_flight / one.share))
        return self._choose(exchange)

    def _kept(self, exchange: Exchange | None, tried: Sequence[Target]) -> Target | None:
        """The target that the client's cookie names, if it can be used."""
        sticky = self._sticky
        if sticky is None or exchange is None:
            return None
        target = sticky.target_of(exchange)
        if target is None or target not in self.members:
            return None
        if not sticky.fail:
            return target if target in self.drawn and target not in tried else None
        if target in self.drawn or (target in self._reserve and not target.ejected_until):
            return target  # once more, if it was tried: nobody else has this client's session
        raise errors.NoHealthyTarget(
            f"{target.name}, which this client's cookie names, is {target.state}"
        )

    def _selects(self, target: Target) -> bool:
        return _bears(target, self._labels) and not any(
            _bears(target, labels) for labels in self._others
        )

    def _tiers(self) -> tuple[tuple[Target, ...], tuple[Target, ...], bool]:
        """(from whom is drawn, who is for when all of those were tried, whether ejections are set aside)."""
        primary = [target for target in self.members if not target.backup]
        backups = [target for target in self.members if target.backup]
        tier = primary
        drawn = [target for target in primary if target.serving]
        reserve = [target for target in backups if target.serving]
        if not drawn and reserve:
            tier, drawn, reserve = backups, reserve, []
        if self._least and (not drawn or len(drawn) < self._least * len(tier)):
            # Those that somebody has taken out on purpose are not missed.
            counted = sum(not target.draining and target.weight > 0 for target in tier)
            for wider in (tier, backups) if not drawn or len(drawn) < self._least * counted else ():
                usable = [target for target in wider if target.usable]
                if usable:
                    return tuple(usable), tuple(reserve), usable != drawn
        # A target that was ejected may serve again by now; one that this request has tried has just shown that it does not.
        reserve += [target for target in tier if target.ejected_until and target.usable]
        return tuple(drawn), tuple(reserve), False

    def _said(self) -> errors.GatewayError:
        """Why nobody can be picked."""
        states = [target.state for target in self.members]
        if "cut off" in states:
            return errors.CircuitOpen(f"the circuit of {self.name} is open")
        counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
        return errors.NoHealthyTarget(f"targets of {self.name}: {', '.join(counts) or 'none'}")

    def _the_one(self, _: object) -> Target:
        return self.drawn[0]

    def _nobody(self, _: object) -> Target:
        refusal = self._refusal
        raise type(refusal)(refusal.detail)


def _bears(target: Target, labels: Mapping[str, str]) -> bool:
    return all(target.labels.get(key) == value for key, value in labels.items())


def balancer(word: str, clock: Clock) -> balance.Balancer[Target]:
    """What a word of `balance:` stands for."""
    if word.startswith("hash:"):
        return ConsistentHash(Template.compile(word.removeprefix("hash:")).render_or_none)
    match word:
        case "round_robin":
            return balance.RoundRobin()
        case "least_requests":
            return balance.LeastRequests()
        case "random":
            return balance.RandomChoice()
        case "ewma":
            return balance.PeakEwma(now=clock.now)
        case _:
            return balance.TwoChoices()
