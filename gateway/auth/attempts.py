"""Guessing, made slow: an address that has failed too often is refused before anything is compared.

Rules of this file: what is counted is failures of one address (IPv6 by /64: whoever has one address
of it has them all), whatever name or key they try. An attempt that is under way counts as a failure
until it has succeeded, so that a thousand at once gain nothing. Someone who repeats one wrong
credential is no guesser, and is counted once. A success forgives half, at most once a window, so
that an account of one's own does not pay for guesses at others'. Both tables are bounded, and an
address that is refused is never pushed out by others that merely fail.
"""

from __future__ import annotations

import math
from socket import AF_INET6, inet_pton
from typing import TYPE_CHECKING, Protocol

from gateway import errors

if TYPE_CHECKING:
    from gateway.clock import Clock

ROOM = 10_000
"""Addresses that are remembered as having failed, and as many that are refused: 4 MB when full."""


class Settings(Protocol):
    """What a policy says about failures."""

    @property
    def max(self) -> int: ...
    @property
    def window(self) -> float: ...


class _Record:
    """One address that has failed of late."""

    __slots__ = ("failures", "forgiven", "last", "pending", "since")

    def __init__(self, now: float) -> None:
        self.since = now
        self.failures = 0
        self.pending = 0
        """Attempts under way."""
        self.forgiven = False
        """Once in this window."""
        self.last = b""
        """What was tried last."""


class Attempts:
    """The failures of one policy."""

    def __init__(self, most: int, window: float, clock: Clock, room: int = ROOM) -> None:
        """After `most` failures within `window` seconds an address is refused for `window` seconds."""
        self._most = most
        self._window = window
        self._clock = clock
        self._room = room
        self._records: dict[str, _Record] = {}
        """By address, the one that failed longest ago first."""
        self.refused: dict[str, float] = {}
        """Monotonic seconds until which an address is refused, by address. Empty but for an attack, so
        that nothing else need be looked up."""

    def __repr__(self) -> str:
        return f"<Attempts: {len(self._records)} have failed, {len(self.refused)} are refused>"

    def __len__(self) -> int:
        """Addresses that take up room."""
        return len(self._records) + len(self.refused)

    def check(self, client_ip: str) -> None:
        """Raise errors.RateLimited if the address has failed too often."""
        if self.refused:
            self._check(bucket(client_ip))

    def _check(self, address: str) -> None:
        now = self._clock.now()
        until = self.refused.get(address)
        if until is not None and until > now:
            raise _refusal(until - now)
        # One at a time, so that the table is empty again some requests after an attack.
        first = next(iter(self.refused))
        if self.refused[first] <= now:
            del self.refused[first]

    def failed(self, client_ip: str, tried: bytes = b"") -> None:
        """The address has tried a credential that is not good; `tried`: a digest of it."""
        address = bucket(client_ip)
        record = self._record(address)
        if not tried or tried != record.last:
            record.last = tried
            record.failures += 1
            self._judge(address, record)

    def begin(self, client_ip: str) -> str:
        """An attempt that takes a while: returns what `end` wants. Raises errors.RateLimited."""
        address = bucket(client_ip)
        if self.refused:
            self._check(address)
        record = self._record(address)
        if record.failures + record.pending >= self._most:
            raise _refusal(1.0)  # those that are under way will tell
        record.pending += 1
        return address

    def end(self, address: str, *, failed: bool | None) -> None:
        """What became of it; None: nothing was compared."""
        record = self._records.get(address)
        if record is None:
            record = self._record(address)  # pushed out meanwhile
        record.pending = max(0, record.pending - 1)
        if failed:
            record.failures += 1
            self._judge(address, record)
        elif failed is False and not record.forgiven and record.failures:
            record.forgiven = True
            record.failures //= 2
        if not record.failures and not record.pending:
            self._records.pop(address, None)

    def _record(self, address: str) -> _Record:
        """The record of an address, as the last one to go."""
        now = self._clock.now()
        record = self._records.pop(address, None)
        if record is None:
            record = _Record(now)
            if len(self._records) >= self._room:
                del self._records[next(iter(self._records))]
        elif now - record.since >= self._window:
            record.since, record.failures, record.forgiven = now, 0, False
        self._records[address] = record
        return record

    def _judge(self, address: str, record: _Record) -> None:
        if record.failures < self._most:
            return
        record.failures = 0
        record.last = b""
        now = self._clock.now()
        self.refused.pop(address, None)  # the first ones are those whose time is over first
        if len(self.refused) >= self._room:
            self._make_room(now)
        self.refused[address] = now + self._window
        if not record.pending:
            self._records.pop(address, None)

    def _make_room(self, now: float) -> None:
        """Those whose time is over, else the one that is refused longest: all have the same time."""
        for address, until in [*self.refused.items()]:
            if until > now:
                break
            del self.refused[address]
        if len(self.refused) >= self._room:
            del self.refused[next(iter(self.refused))]


def limiter(settings: Settings | None, clock: Clock) -> Attempts | None:
    """What `attempts:` of a policy asks for; None: it is off."""
    return None if settings is None else Attempts(settings.max, settings.window, clock)


def bucket(client_ip: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 of an IPv6 address."""
    if ":" not in client_ip:
        return client_ip
    try:
        return inet_pton(AF_INET6, client_ip)[:8].hex()
    except (OSError, ValueError):
        return client_ip


def _refusal(seconds: float) -> errors.RateLimited:
    return errors.RateLimited(
        "too many failed logins from this address",
        (("Retry-After", str(max(1, math.ceil(seconds)))),),
    )
