"""What listeners ask for before HTTP, kept up to date: certificates that change on disk, certificates that end.

Rules of this file: files are looked at by their stamps, through the links that Kubernetes and certbot swap, and read when
all of a listener's have stood still for one look, for a certificate and its key are written one after the other. What is
broken then is said once, and the former certificates serve on. A new certificate counts from the next handshake; connections
are left alone.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, TypeAlias

from gateway import keypairs
from gateway.door import Entrance
from gateway.proxy_protocol import Senders
from gateway.runtime import tls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.clock import Clock
    from gateway.config import effective, model
    from gateway.observe.metrics import Metrics
    from gateway.runtime.resources import Claims

log = logging.getLogger("gateway.tls")

LOOK = 2.0
"""Seconds between two looks at the files."""
DAY = 86_400.0
SOON = 21 * DAY
"""Before its end a certificate is called due for so long."""

_Stamps = tuple[tuple[int, int, int] | None, ...]
_Wanted: TypeAlias = "tuple[model.ListenerTls, keypairs.Loaded, _Stamps, tls.Handshakes]"


class _Listener:
    """One listener with TLS."""

    def __init__(
        self, settings: model.ListenerTls, handshakes: tls.Handshakes, stamps: _Stamps
    ) -> None:
        self.settings = settings
        self.handshakes = handshakes
        self.read = self.seen = stamps
        """Stamps of what was read last, and of the last look."""


class Certificates:
    """Every certificate that listeners serve, of all generations. Watched by the clock."""

    def __init__(self, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self._listeners: dict[str, _Listener] = {}
        self._next_day = 0.0
        self.due = 0.0
        self.resting = True
        """To look is no work that has to be waited for."""

    def handshakes(self, name: str, loaded: keypairs.Loaded) -> tls.Handshakes:
        """Those of a listener, the same for every generation; for one that is new, made of `loaded`."""
        known = self._listeners.get(name)
        return tls.Handshakes(loaded) if known is None else known.handshakes

    def take(self, wanted: Mapping[str, _Wanted]) -> None:
        """A configuration is in force that has these listeners with TLS."""
        self._listeners = {}
        for name, (settings, loaded, stamps, handshakes) in wanted.items():
            handshakes.take(loaded)
            self._listeners[name] = _Listener(settings, handshakes, stamps)
        self._tell()
        if self._listeners:
            self._clock.watched.add(self)
        else:
            self._clock.watched.discard(self)

    def name(self, host: str) -> bool:
        """Whether a certificate that is served names a host (lower case, no port)."""
        return any(pair.covers(host) for pair in self._pairs())

    def expire(self) -> None:
        """The ticker: look at the files, and once a day at the ends."""
        self.due = self._clock.now() + LOOK
        for name, listener in self._listeners.items():
            if listener.settings.watch:
                self._look(name, listener)
        if self._clock.now() >= self._next_day:
            self._tell()
            for listener in self._listeners.values():
                listener.handshakes.renew()

    async def aclose(self) -> None:
        """Look no more."""
        self._clock.watched.discard(self)

    def _look(self, name: str, listener: _Listener) -> None:
        stamps = _stamps(listener.settings)
        settled = stamps == listener.seen
        listener.seen = stamps
        if not settled or stamps == listener.read:
            return
        listener.read = stamps
        try:
            loaded = keypairs.load(listener.settings)
        except keypairs.Unusable as error:
            self._metrics.events.record("certificate_failed", why=f"{name}: {error}")
            return
        listener.handshakes.take(loaded)
        served = "; ".join(_label(pair) for pair in loaded.pairs)
        self._metrics.events.record("certificate_reloaded", why=f"{name}: {served}")
        self._tell()

    def _pairs(self) -> list[keypairs.Pair]:
        return [pair for one in self._listeners.values() for pair in one.handshakes.loaded.pairs]

    def _tell(self) -> None:
        """When the certificates end: to metrics always, in an event where it is soon."""
        self._next_day = self._clock.now() + DAY
        ends: dict[str, float] = {}
        now = self._clock.wall()
        for pair in {pair.path: pair for pair in self._pairs()}.values():
            label = _label(pair)
            ends[label] = min(pair.not_after, ends.get(label, pair.not_after))
            left = pair.not_after - now
            if pair.not_before > now:
                why = f"{label} ({pair.path}) is not valid yet: is the clock right?"
                self._metrics.events.record("certificate_expiring", why=why)
            elif left < SOON:
                when = f"ends in {int(left // DAY)} days" if left > 0 else "has ended"
                self._metrics.events.record(
                    "certificate_expiring", why=f"{label} ({pair.path}) {when}: renew it"
                )
        self._metrics.entrance.certificates = ends


def of(
    config: effective.Config, claims: Claims, metrics: Metrics, clock: Clock
) -> tuple[dict[str, Entrance], Certificates]:
    """What each listener that asks for something asks for, by its name; and all certificates.

    Raises ValueError for a file that can not be used.
    """
    certificates = claims.claim("certificates", "", lambda: Certificates(clock, metrics))
    wanted: dict[str, _Wanted] = {}
    entrances: dict[str, Entrance] = {}
    for listener in config.listeners:
        shakes = None
        if listener.tls is not None:
            stamps = _stamps(
                listener.tls
            )  # of before: what changes meanwhile is seen by the next look
            loaded = _loaded(listener.name, listener.tls)
            shakes = certificates.handshakes(listener.name, loaded)
            wanted[listener.name] = listener.tls, loaded, stamps, shakes
        senders = (
            None if listener.proxy_protocol is None else Senders(listener.proxy_protocol.from_)
        )
        if shakes is not None or senders is not None:
            failed = functools.partial(metrics.entrance.not_let_in, listener.name)
            entrances[listener.name] = Entrance(shakes, senders, failed)
    claims.at_commit(functools.partial(certificates.take, wanted))
    return entrances, certificates


def _loaded(name: str, settings: model.ListenerTls) -> keypairs.Loaded:
    try:
        return keypairs.load(settings)
    except keypairs.Unusable as error:
        where = ".".join(map(str, ("tls", *error.keys)))
        raise ValueError(f"listener {name}: {where}: {error}") from None


def _stamps(settings: model.ListenerTls) -> _Stamps:
    found: list[tuple[int, int, int] | None] = []
    for path in keypairs.files(settings):
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


def _label(pair: keypairs.Pair) -> str:
    """The names of a certificate in one word, of a length that a label may have."""
    return " ".join(pair.names)[:200] or pair.path
