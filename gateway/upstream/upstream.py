"""An upstream: a named group of targets and the policy for choosing among them. All of it that proxy.py talks to.

Rules of this file: a Target and its connections outlive reloads while its address and TLS settings stay the same; what may
change at a reload is in `apply`. `pick` waits for nothing.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Protocol

from gateway import errors
from gateway.upstream import balance
from gateway.upstream.idle import Connections
from gateway.upstream.liveness import Liveness
from gateway.upstream.pool import Pool, stamps
from gateway.upstream.retry import Budget
from gateway.upstream.wire import Dialer, Endpoint

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping, Sequence

    from gateway.clock import Clock
    from gateway.config import model
    from gateway.exchange import Exchange
    from gateway.observe.metrics import UpstreamMeter
    from gateway.upstream.wire import Wire


class Target:
    """One address of an upstream."""

    def __init__(
        self, url: str, tls: ssl.SSLContext | bool, server_name: str | None, clock: Clock
    ) -> None:
        self.url = url
        self.unix, self.name, self.prefix, endpoint_url = _parts(url)
        """`prefix`: the URL's path without its last slash, put before every forwarded path."""
        self.endpoint = Endpoint(endpoint_url, tls, server_name)
        self.prefix_bytes = self.prefix.encode("ascii")
        self.authority = b"localhost" if self.unix else self.name.encode("ascii")
        self.weight = 1
        self.labels: Mapping[str, str] = {}
        self.backup = False
        self.in_flight = 0
        self.clock = clock
        self.connections: Connections
        self.last_byte: Callable[[float], None]
        """Counts a whole response, by the seconds since its request was written."""

        # ── whether it may be picked: whoever changes one of these calls Upstream.refresh ──
        self.healthy = True
        """What active checks say; True until one says otherwise."""
        self.ejected_until = 0.0
        """Clock seconds; 0.0: not ejected. Time alone ends no ejection: whoever ejects restores."""
        self.draining = False
        self.breaker: Gate | None = None
        """The circuit of this target; None: it has none."""
        self.since = clock.now()
        """Clock seconds: when its state last changed."""
        self.why = ""
        """Why it is in that state, in short words for people."""
        self.started = -math.inf
        """Clock seconds: since when it serves, for slow start; long ago unless it came later than the gateway."""

        # ── what real traffic says ──
        self.ejections = 0
        self.failures = 0
        """Failed tries in a row."""
        self.ewma = 0.0
        """Seconds to a response head, smoothed; 0.0: none was seen, or nobody asks."""
        self.outlier: Watcher | None = None
        self.limit: Watcher | None = None
        """An adaptive limit of concurrency."""
        self.speed: Watcher | None = None
        """Keeps `ewma`, where the balancer asks for it."""

    def __repr__(self) -> str:
        return f"<Target {self.name}: weight {self.weight}, {self.in_flight} in flight, {self.connections.open} open>"

    @property
    def available(self) -> bool:
        """Whether it may be picked for any request."""
        return (
            self.healthy
            and not self.draining
            and not self.ejected_until
            and (self.breaker is None or not self.breaker.refuses)
        )

    def succeeded(self, status: int, seconds: float) -> None:
        """A try was answered with `status`, `seconds` after it was written. Once a try, as `failed`."""
        if self.outlier is not None:
            self.outlier.succeeded(self, status, seconds)
        if self.limit is not None:
            self.limit.succeeded(self, status, seconds)
        if self.speed is not None:
            self.speed.succeeded(self, status, seconds)

    def failed(self, error: errors.GatewayError, seconds: float) -> None:
        """A try has ended without an answer, `seconds` after it began."""
        if self.outlier is not None:
            self.outlier.failed(self, error, seconds)
        if self.limit is not None:
            self.limit.failed(self, error, seconds)
        if self.speed is not None:
            self.speed.failed(self, error, seconds)


class Watcher(Protocol):
    """Something that learns from how tries end."""

    def succeeded(self, target: Target, status: int, seconds: float) -> None: ...

    def failed(self, target: Target, error: errors.GatewayError, seconds: float) -> None: ...


class Gate(Protocol):
    """What choosing sees of a circuit breaker."""

    refuses: bool


class Upstream:
    """A named group of targets and the policy for choosing among them."""

    def __init__(self, name: str, clock: Clock, meter: UpstreamMeter) -> None:
        self.name = name
        self.clock = clock
        self.meter = meter
        meter.source = self
        self.targets: tuple[Target, ...] = ()
        self.budget = Budget(clock)
        self.liveness = Liveness(self, meter.events)
        self.settings: model.Upstream
        self.host = "pass"
        """pass, target, or a fixed name; `fixed_host` is that name, or None."""
        self.fixed_host: bytes | None = None
        self.only: Target | None = None
        """The one target that can be picked; None: there are several, or none. `pick` would return it."""
        self._open: tuple[Target, ...] = ()
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
        encrypted = any(target.url.startswith("https:") for target in settings.targets)
        if (
            self._pool is None
            or self._pool.tls != settings.tls
            or self._pool.stamps != stamps(settings.tls)
            or (encrypted and self._pool.context is True)
        ):
            return Pool(settings.tls, encrypted=encrypted)
        return self._pool

    def apply(self, settings: model.Upstream, pool: Pool | None = None) -> None:
        """Take new settings, with what `pool_for` has returned for them: then it can not fail.

        Connections to targets that stay, with the same TLS settings, stay open.
        """
        pool = pool or self.pool_for(settings)
        if pool is not self._pool:
            self.close()
            self._pool, former = pool, self._pool
            if former is not None:
                self._former.append(former)
        known = {target.url: target for target in self.targets if not target.connections.closed}
        targets = []
        for wanted in settings.targets:
            target = known.pop(wanted.url, None) or self._make(wanted.url)
            target.weight = wanted.weight
            target.labels = getattr(wanted, "labels", {})
            target.backup = getattr(wanted, "backup", False)
            connections = target.connections
            connections.limit = math.inf if settings.pool.max is None else settings.pool.max
            connections.idle_for = settings.pool.idle
            connections.max_age = (
                math.inf if settings.pool.max_age is None else settings.pool.max_age
            )
            targets.append(target)
        for gone in known.values():
            gone.connections.close()
        self.targets = tuple(targets)
        self.meter.present(target.name for target in targets)
        self.settings = settings
        self.host = settings.host
        self.fixed_host = (
            None if settings.host in ("pass", "target") else settings.host.encode("ascii")
        )
        # A round of its own: credits of targets that are gone would stay for ever, and pass to whoever gets their id.
        self._choose = (
            balance.RoundRobin().choose
            if settings.balance == "round_robin"
            else balance.two_choices
        )
        self.liveness.apply(settings, pool.context)
        self.refresh()

    def start(self) -> None:
        """Begin what goes on without requests, such as health checks. Idempotent; needs the running loop."""
        self.liveness.start()

    def refresh(self) -> None:
        """Find out anew from whom `pick` draws. To be called after any change of a target's state, weight or labels."""
        self._open = tuple(target for target in self.targets if target.available)
        self.only = self._open[0] if len(self._open) == 1 else None

    def pick(
        self, exchange: Exchange | Sequence[Target] | None = None, tried: Sequence[Target] = ()
    ) -> Target:
        """The target for the next try: not one of `tried` while another remains.

        Raises errors.NoHealthyTarget.
        """
        if self.only is not None:
            return self.only
        if isinstance(exchange, (list, tuple)):
            tried = exchange
        if not self._open:
            raise errors.NoHealthyTarget(f"none of the targets of {self.name} can be used")
        fresh = [target for target in self._open if target not in tried] if tried else self._open
        return self._choose(fresh or self._open)

    async def lease(self, target: Target, timeouts: model.Timeouts) -> Wire:
        """A connection to `target`, rested or new. Raises errors.PoolTimeout and the connect errors."""
        wire = target.connections.take()
        if wire is None:
            wire = await target.connections.make(timeouts.connect, timeouts.pool_wait)
        return wire

    async def aclose(self) -> None:
        """End every connection at rest now, every other when its request ends; close the session."""
        self.close()
        await self.liveness.aclose()
        if self.meter.source is self:
            self.meter.source = None
            self.meter.present(())
        for pool in [*self._former, self._pool]:
            if pool is not None:
                await pool.aclose()

    def close(self) -> None:
        """End every connection at rest now, every other when its request ends."""
        for target in self.targets:
            target.connections.close()

    def _make(self, url: str) -> Target:
        assert self._pool is not None
        pool = self._pool
        target = Target(url, pool.context, pool.tls.server_name, self.clock)
        dialer = Dialer(functools.partial(pool.session, target.unix), target.endpoint, self.clock)
        target.connections = Connections(dialer, self.clock, self.meter)
        target.last_byte = self.meter.last_byte
        return target


def _parts(url: str) -> tuple[str | None, str, str, str]:
    """(unix socket path or None, name for people, path prefix, URL for the connector) of a target's URL."""
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        return path, url, "", "http://localhost"
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    host, _, port = authority.rpartition(":") if _has_port(authority) else (authority, "", "")
    name = f"{host}:{port or (443 if scheme == 'https' else 80)}"
    return None, name, (slash + path).rstrip("/"), f"{scheme}://{authority}"


def _has_port(authority: str) -> bool:
    return authority.rpartition(":")[2].isdigit() and (
        authority.count(":") == 1 or "]:" in authority
    )
