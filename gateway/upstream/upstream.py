"""An upstream: a named group of targets and the policy for choosing among them. All of it that proxy.py talks to.

Rules of this file: a Target and its connections outlive reloads while its address and TLS settings stay the same; what may
change at a reload is in `apply`. `pick` waits for nothing.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from gateway.upstream import balance
from gateway.upstream.idle import Connections
from gateway.upstream.pool import Pool, stamps
from gateway.upstream.retry import Budget
from gateway.upstream.wire import Dialer, Endpoint

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from gateway.clock import Clock
    from gateway.config import model
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
        self.in_flight = 0
        self.clock = clock
        self.connections: Connections
        self.last_byte: Callable[[float], None]
        """Counts a whole response, by the seconds since its request was written."""

    def __repr__(self) -> str:
        return f"<Target {self.name}: weight {self.weight}, {self.in_flight} in flight, {self.connections.open} open>"


class Upstream:
    """A named group of targets and the policy for choosing among them."""

    def __init__(self, name: str, clock: Clock, meter: UpstreamMeter) -> None:
        self.name = name
        self.clock = clock
        self.meter = meter
        meter.source = self
        self.targets: tuple[Target, ...] = ()
        self.budget = Budget(clock)
        self.settings: model.Upstream
        self.host = "pass"
        """pass, target, or a fixed name; `fixed_host` is that name, or None."""
        self.fixed_host: bytes | None = None
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
        self.settings = settings
        self.host = settings.host
        self.fixed_host = (
            None if settings.host in ("pass", "target") else settings.host.encode("ascii")
        )
        self._single = targets[0] if len(targets) == 1 else None
        # A round of its own: credits of targets that are gone would stay for ever, and pass to whoever gets their id.
        self._choose = (
            balance.RoundRobin().choose
            if settings.balance == "round_robin"
            else balance.two_choices
        )

    def pick(self, tried: Sequence[Target] = ()) -> Target:
        """The target for the next try: not one of `tried` while another remains."""
        if self._single is not None:
            return self._single
        fresh = (
            [target for target in self.targets if target not in tried] if tried else self.targets
        )
        return self._choose(fresh or self.targets)

    async def lease(self, target: Target, timeouts: model.Timeouts) -> Wire:
        """A connection to `target`, rested or new. Raises errors.PoolTimeout and the connect errors."""
        wire = target.connections.take()
        if wire is None:
            wire = await target.connections.make(timeouts.connect, timeouts.pool_wait)
        return wire

    async def aclose(self) -> None:
        """End every connection at rest now, every other when its request ends; close the session."""
        self.close()
        if self.meter.source is self:
            self.meter.source = None
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
