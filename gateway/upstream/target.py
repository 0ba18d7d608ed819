"""One address of an upstream, and all that is known of it.

Rules of this file: attributes, plain to read and to write. Whoever changes one that decides whether a target may be picked
calls `Upstream.refresh`. `succeeded` and `failed` are called once for each try; what is switched off costs one comparison.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from gateway.upstream.wire import Endpoint

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from gateway import errors
    from gateway.clock import Clock
    from gateway.observe.metrics import TargetMeter
    from gateway.upstream.breaker import Breaker
    from gateway.upstream.concurrency import Limit
    from gateway.upstream.idle import Connections


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
        """As configured."""
        self.share = 1
        """The weight in force, compared with the others': `refresh` makes it, slow start changes it."""
        self.labels: Mapping[str, str] = {}
        self.backup = False
        self.in_flight = 0
        self.clock = clock
        self.connections: Connections
        self.meter: TargetMeter
        """Counts its tries and checks."""
        self.last_byte: Callable[[float], None]
        """Counts a whole response, by the seconds since its request was written."""

        # ── whether it may be picked: whoever changes one of these calls Upstream.refresh ──
        self.healthy = True
        """What active checks say; True until one says otherwise."""
        self.ejected_until = 0.0
        """Clock seconds; 0.0: not ejected. Time alone ends no ejection: whoever ejects restores."""
        self.draining = False
        self.breaker: Breaker | None = None
        """The circuit that lets tries at this target begin: its own, or the whole upstream's. None: it has none."""
        self.since = clock.now()
        """Clock seconds: when its state last changed. Whoever changes it sets this too: slow start begins then."""
        self.why = ""
        """Why it is in that state, in short words for people."""
        self.started = -math.inf
        """Clock seconds: since when it serves, for slow start; long ago unless it came later than the upstream."""
        self.serving = False
        """Whether it was `available` when `refresh` last looked."""

        # ── what real traffic says ──
        self.ejections = 0
        self.failures = 0
        """Failed tries in a row."""
        self.ewma = 0.0
        """Seconds to a response head, smoothed; 0.0: none was seen, or nobody asks."""
        self.ewma_at = 0.0
        """Clock seconds: when `ewma` was last brought up to date."""
        self.outlier: Watcher | None = None
        self.limit: Limit[Target] | None = None
        """Its places, where the upstream has `concurrency`; an adaptive one learns from the tries."""
        self.speed: Watcher | None = None
        """Keeps `ewma`, where the balancer asks for it."""

    def __repr__(self) -> str:
        return f"<Target {self.name}: weight {self.weight}, {self.in_flight} in flight, {self.connections.open} open>"

    @property
    def available(self) -> bool:
        """Whether it may be picked for any request."""
        # As `usable`, in one go: a refresh asks it of each of a thousand targets.
        return (
            not self.ejected_until
            and self.healthy
            and not self.draining
            and self.weight > 0
            and (self.breaker is None or not self.breaker.refuses)
        )

    @property
    def usable(self) -> bool:
        """Whether it may be picked in a panic, when ejections are set aside."""
        return (
            self.healthy
            and not self.draining
            and self.weight > 0
            and (self.breaker is None or not self.breaker.refuses)
        )

    @property
    def state(self) -> str:
        """One or two words for people: available, down, ejected, draining, cut off (by its circuit), at weight 0."""
        if not self.healthy:
            return "down"
        if self.draining:
            return "draining"
        if self.weight <= 0:
            return "at weight 0"
        if self.breaker is not None and self.breaker.refuses:
            return "cut off"
        return "ejected" if self.ejected_until else "available"

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


class Wanted(Protocol):
    """A target as it is configured, or was found."""

    @property
    def url(self) -> str: ...

    @property
    def weight(self) -> int: ...

    @property
    def labels(self) -> Mapping[str, str]: ...

    @property
    def backup(self) -> bool: ...


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
