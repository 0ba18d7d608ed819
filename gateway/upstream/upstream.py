"""An upstream: a named group of targets and the policy for choosing among them. All of it that proxy.py talks to.

Rules of this file: a Target, its connections and its state outlive reloads while its address and TLS settings stay the
same; what may change at a reload is in `apply`. Whoever changes the state of a target calls `refresh`; `pick` waits for
nothing.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Literal
from weakref import WeakValueDictionary

from gateway.upstream import discovery
from gateway.upstream.balance import PeakEwma
from gateway.upstream.concurrency import Concurrency
from gateway.upstream.discovery import Discovery, Found
from gateway.upstream.group import Group, balancer
from gateway.upstream.idle import Connections
from gateway.upstream.liveness import Liveness
from gateway.upstream.pool import Pool, stamps
from gateway.upstream.retry import Budget
from gateway.upstream.sticky import Sticky
from gateway.upstream.target import Target
from gateway.upstream.wire import Dialer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.clock import Clock, Timer
    from gateway.config import model
    from gateway.exchange import Exchange
    from gateway.observe.metrics import UpstreamMeter
    from gateway.upstream.breaker import Breaker
    from gateway.upstream.target import Wanted

__all__ = ["Target", "Upstream"]

WARM = 20
"""Steps in which a target that has come gets its whole share, over `slow_start` seconds."""
COLD = 2
"""Steps that it begins with: a tenth."""


class Upstream:
    """A named group of targets and the policy for choosing among them."""

    def __init__(self, name: str, clock: Clock, meter: UpstreamMeter) -> None:
        self.name = name
        self.clock = clock
        self.meter = meter
        meter.source = self
        self.targets: tuple[Target, ...] = ()
        self.budget = Budget(clock)
        self.breaker: Breaker | None = None
        """The circuit of the whole upstream; None: it has none."""
        self.liveness = Liveness(self, meter)
        self.concurrency: Concurrency[Target] = Concurrency(clock, self._admits)
        self.discovery: Discovery | None = None
        """What finds the targets; None: they are written."""
        self.settings: model.Upstream
        self.host = "pass"
        """pass, target, or a fixed name; `fixed_host` is that name, or None."""
        self.fixed_host: bytes | None = None
        self.sticky: Sticky[Target] | None = None
        """Who serves whom, by cookie: `set_cookie` gives the line for an answer. None: nobody is bound."""
        self.only: Target | None = None
        """The one target that a first try can go to: what `pick` would return. None: ask `pick`."""
        self._all = Group(self, {}, ())
        self._subsets: WeakValueDictionary[object, Group] = WeakValueDictionary()
        """Kept by the branches that draw from them."""
        self._balance = ""
        self._speed: PeakEwma[Target] = PeakEwma(now=clock.now)
        self._found_by: model.Discover | None = None
        self._wanted: Sequence[Wanted] = ()
        self._ramp: Timer | None = None
        self._pool: Pool | None = None
        self._former: list[Pool] = []
        """Pools of earlier TLS settings: their sessions close when the upstream does, for requests may be on them."""

    def __repr__(self) -> str:
        flying = sum(target.in_flight for target in self.targets)
        return f"<Upstream {self.name}: {len(self.targets)} targets, {flying} in flight>"

    def pool_for(self, settings: model.Upstream) -> Pool:
        """The pool for new settings: the present one, or a new one that is not in use yet.

        Raises OSError, ssl.SSLError for certificates that can not be read.
        """
        if settings.discover is not None:
            discovery.prepare(settings.discover)
        encrypted = _encrypted(settings)
        if (
            self._pool is None
            or self._pool.tls != settings.tls
            or self._pool.stamps != stamps(settings.tls)
            or (encrypted and self._pool.context is True)
        ):
            return Pool(settings.tls, encrypted=encrypted)
        return self._pool

    def apply(
        self, settings: model.Upstream, pool: Pool | None = None, secrets: Sequence[str] = ()
    ) -> None:
        """Take new settings, with what `pool_for` has returned for them: then it can not fail.

        Connections to targets that stay, with the same TLS settings, stay open. `secrets`: `server.secret`, which sticky
        cookies need.
        """
        pool = pool or self.pool_for(settings)
        if pool is not self._pool:
            self.close()
            self._pool, former = pool, self._pool
            if former is not None:
                self._former.append(former)
        self.settings = settings
        self.host = settings.host
        self.fixed_host = (
            None if settings.host in ("pass", "target") else settings.host.encode("ascii")
        )
        self.sticky = (
            None
            if settings.sticky is None
            else Sticky(settings.sticky, secrets, self.name, self.clock)
        )
        anew = settings.balance != self._balance
        self._balance = settings.balance
        for group in self._groups():
            self._equip(group, anew=anew)
        self._look_at(settings.discover)
        # Targets stay until a discovery says otherwise, those of another discovery too.
        self.retarget(settings.targets if settings.discover is None else self._wanted)

    def retarget(self, wanted: Sequence[Wanted]) -> None:
        """From now on these are the targets. Those that stay keep connections, state and counters; those that go finish
        what they have begun.
        """
        settings = self.settings
        known = {
            (target.url, target.endpoint.server_hostname): target
            for target in self.targets
            if not target.connections.closed
        }
        targets = []
        for one in wanted:
            target = known.pop((one.url, self._server_name(one)), None)
            if target is None:
                target = self._make(one)
                target.serving = not self.targets  # slow start is for those that come later
            target.weight = one.weight
            target.labels = one.labels
            target.backup = one.backup
            if isinstance(one, Found) and one.authority is not None:
                target.authority = one.authority.encode("ascii")
            target.speed = self._speed if settings.balance == "ewma" else None
            connections = target.connections
            connections.limit = math.inf if settings.pool.max is None else settings.pool.max
            connections.patience.configure(settings.pool.idle)
            connections.max_age = (
                math.inf if settings.pool.max_age is None else settings.pool.max_age
            )
            targets.append(target)
        for gone in known.values():
            gone.connections.close()
        self._wanted = wanted
        self.targets = tuple(targets)
        if self.sticky is not None:
            self.sticky.rebuild(targets)
        self.meter.present(target.name for target in targets)
        limits = self.concurrency.apply(settings.concurrency, targets)
        for target in targets:
            target.limit = limits.get(target)
            target.meter = self.meter.target(target.name)
        assert self._pool is not None
        self.liveness.apply(settings, self._pool.context)
        self.refresh()

    def start(self) -> None:
        """Begin what goes on without requests, such as health checks. Idempotent; needs the running loop."""
        self.liveness.start()
        if self.discovery is not None:
            self.discovery.start()

    async def first_look(self) -> None:
        """Begin to find targets, and wait until it was tried once."""
        if self.discovery is not None:
            self.discovery.start()
            await self.discovery.looked.wait()

    def _look_at(self, settings: model.Discover | None) -> None:
        """Find targets where `settings` says, from `start` on; a discovery that looks there already goes on."""
        if self.discovery is not None:
            # A variable is read once for each configuration.
            if self._found_by == settings and (settings is None or settings.env is None):
                return
            self.discovery.stop()
            self.discovery = None
        self._found_by = settings
        if settings is not None:
            looked_at = discovery.source(settings, self.clock)
            self.discovery = Discovery(self, looked_at, self.clock, self.meter.events)

    def refresh(self) -> None:
        """Find out anew from whom `pick` draws. To be called after any change of a target's state, weight or labels."""
        self._warm_up()
        for group in self._groups():
            before = group.panic
            group.refresh(self.targets)
            if group.panic is not before:
                ready = sum(target.serving for target in group.members)
                why = f"{ready} of {len(group.members)} targets of {group.name} are available"
                kind: Literal["panic_on", "panic_off"] = "panic_on" if group.panic else "panic_off"
                self.meter.events.record(kind, upstream=self.name, why=why)
        self.only = self._all.only
        self.concurrency.wake()

    def pick(self, exchange: Exchange | None = None, tried: Sequence[Target] = ()) -> Target:
        """The target for the next try: not one of `tried` while another remains. `exchange`: for its key or cookie.

        Raises errors.NoHealthyTarget, errors.CircuitOpen.
        """
        return self._all.pick(exchange, tried)

    def subset(self, labels: Mapping[str, str], others: Sequence[Mapping[str, str]] = ()) -> Group:
        """The targets for one branch of a split, which outlives reloads as long as somebody holds it.

        Those that bear all `labels`; with none, those that bear no set of labels in `others`, the other branches' of this
        upstream.
        """
        others = [] if labels else [other for other in others if other]
        if not labels and not others:
            return self._all
        key = (_frozen(labels), frozenset(map(_frozen, others)))
        group = self._subsets.get(key)
        if group is None:
            group = self._subsets[key] = Group(self, labels, others)
            self._equip(group, anew=True)
            group.refresh(self.targets)
        return group

    def _admits(self, target: Target) -> bool:
        """Whether `target` may be given to a request that has waited."""
        return target.available or any(target in group.drawn for group in self._groups())

    def _groups(self) -> list[Group]:
        return [self._all, *self._subsets.values()]

    def _equip(self, group: Group, *, anew: bool) -> None:
        way = balancer(self._balance, self.clock) if anew else None
        group.apply(way, self.sticky, self.settings.panic)

    def _warm_up(self) -> None:
        """Give each target its share: less while it is new or has just come back, so that it is not hit while cold."""
        for target in self.targets:
            available = target.available
            if available is not target.serving:
                target.serving = available
                if available:
                    target.started = target.since
        if self._ramp is not None:
            self._ramp.cancel()
            self._ramp = None
        ramp, steps = self.settings.slow_start, [WARM]
        if ramp:
            now = self.clock.now()
            warm = [min(1.0, (now - target.started) / ramp) for target in self.targets]
            steps = [max(COLD, int(part * WARM)) for part in warm]
        if min(steps, default=WARM) == WARM:
            for target in self.targets:
                target.share = target.weight
        elif ramp:
            for target, step in zip(self.targets, steps, strict=True):
                target.share = target.weight * step
            self._ramp = self.clock.call_later(ramp / WARM, self.refresh)

    async def aclose(self) -> None:
        """End every connection at rest now, every other when its request ends; close the session."""
        self.close()
        if self.discovery is not None:
            await self.discovery.aclose()
        await self.liveness.aclose()
        if self.meter.source is self:
            self.meter.source = None
            self.meter.present(())
        for pool in [*self._former, self._pool]:
            if pool is not None:
                await pool.aclose()

    def close(self) -> None:
        """End every connection at rest now, every other when its request ends."""
        if self._ramp is not None:
            self._ramp.cancel()
            self._ramp = None
        for target in self.targets:
            target.connections.close()

    def _server_name(self, one: Wanted) -> str | None:
        """What is asked for and checked in TLS, if it is not the host of the URL."""
        written = self.settings.tls.server_name
        return one.server_name if written is None and isinstance(one, Found) else written

    def _make(self, one: Wanted) -> Target:
        assert self._pool is not None
        pool = self._pool
        target = Target(one.url, pool.context, self._server_name(one), self.clock)
        dialer = Dialer(functools.partial(pool.session, target.unix), target.endpoint, self.clock)
        target.connections = Connections(dialer, self.clock, self.meter)
        target.last_byte = self.meter.last_byte
        return target


def _encrypted(settings: model.Upstream) -> bool:
    """Whether some target is, or may be found to be, spoken to over TLS."""
    found = settings.discover
    if found is not None and (found.scheme == "https" or found.file or found.env):
        return True
    return any(target.url.startswith("https:") for target in settings.targets)


def _frozen(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())
