"""Whether a connection may speak another protocol from now on (RFC 9110 section 7.8).

Rules of this file: judged once before the first try, and once when the upstream has said 101. The bytes that follow are
tunnel.py's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gateway import errors

if TYPE_CHECKING:
    from gateway.config import effective
    from gateway.exchange import Exchange, Finish
    from gateway.middleware.base import Build
    from gateway.upstream.wire import Wire


class Switch:
    """The body of a 101: an upstream connection that speaks another protocol from now on."""

    def __init__(self, wire: Wire, idle: float, max_age: float, counted: Finish) -> None:
        self.wire = wire
        self.counted = counted
        """To be called once the 101 is out: a tunnel counts when it opens, not when it ends."""
        self.idle = idle
        self.max_age = max_age


class Upgrades:
    """What one route lets through."""

    def __init__(self, route: effective.Route, build: Build) -> None:
        policies = route.policies
        self._names = frozenset(name.lower() for name in policies.upgrade)
        self._websocket = policies.websocket
        self._idle = math.inf if policies.timeouts.idle is None else policies.timeouts.idle
        meter = build.metrics.route(route.name)
        self._counted = meter.upgraded
        self._seats = meter.seats
        self._per_consumer = None if self._websocket is None else self._websocket.per_consumer
        if self._per_consumer is not None:
            build.at_finish.append(_leave)

    def judge(self, exchange: Exchange) -> None:
        """Let an upgrade through, or go on with an ordinary request.

        Raises errors.BadRequest or errors.UpgradeRequired for a WebSocket handshake that is none.
        """
        fields = exchange.headers
        name = fields.get("Upgrade", "").strip().lower()
        # Bytes behind an upgrade that aiohttp does not know are lost, so nothing may follow on this connection.
        exchange.close = exchange.close or name != "websocket"
        websocket = name == "websocket" and self._websocket is not None
        if (
            exchange.has_body
            or exchange.http10
            or getattr(exchange.incoming.protocol, "bytes_lost", False)
            or not (websocket or (name in self._names and name != "h2c"))
        ):
            exchange.close = True
            return
        if name == "websocket":
            if exchange.method != "GET":
                exchange.close = True
                return
            if not fields.get("Sec-WebSocket-Key"):
                raise errors.BadRequest("the WebSocket handshake has no key")
            if fields.get("Sec-WebSocket-Version", "").strip() != "13":
                raise errors.UpgradeRequired("the WebSocket version is not 13")
            if self._per_consumer is not None and exchange.identity is not None:
                self._sit_down(exchange, exchange.identity.consumer, self._per_consumer)
        exchange.upgrade = name

    def _sit_down(self, exchange: Exchange, consumer: str, most: int) -> None:
        """Count it until it has ended, from here on: handshakes that are under way count as well."""
        if self._seats[consumer] >= most:
            raise errors.TooManyConnections(
                f"{consumer} has {most} WebSockets open (websocket.per_consumer)"
            )
        self._seats[consumer] += 1
        exchange.seats = self._seats

    def switch(self, exchange: Exchange, wire: Wire) -> Switch:
        """The tunnel that the upstream has agreed to."""
        settings = self._websocket
        if exchange.upgrade == "websocket" and settings is not None:
            idle = math.inf if settings.idle is None else settings.idle
            max_age = math.inf if settings.max_age is None else settings.max_age
            return Switch(wire, idle, max_age, self._counted)
        return Switch(wire, self._idle, math.inf, self._counted)


def _leave(exchange: Exchange) -> None:
    seats, exchange.seats = exchange.seats, None
    if seats is not None and exchange.identity is not None:
        seats[exchange.identity.consumer] -= 1
        if not seats[exchange.identity.consumer]:
            del seats[exchange.identity.consumer]
