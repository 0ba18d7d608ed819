"""A first try that is under way, and that no task waits for: its request is written, or waits for a connection.

Rules of this file: whoever has one may ask what is at hand, or await it and have the answer, however many tries that takes;
not both. Where something has to be decided that takes time, nothing is decided here: it is awaited.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gateway import errors
from gateway.upstream.fairness import line_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from gateway.exchange import Exchange, Reply
    from gateway.forward import Forward
    from gateway.outbound import Outbound
    from gateway.upstream.group import Group
    from gateway.upstream.idle import Connections
    from gateway.upstream.wire import Wire


class Begun:
    """A first try whose request is written."""

    __slots__ = ("_exchange", "_forward", "_group", "_request", "_wire")

    def __init__(
        self,
        forward: Forward,
        exchange: Exchange,
        group: Group,
        request: Outbound,
        wire: Wire | None,
    ) -> None:
        self._forward = forward
        self._exchange = exchange
        self._group = group
        self._request = request
        self._wire = wire
        """None while it waits for one."""

    def call(self, arrived: Callable[[], None]) -> None:
        """Call `arrived` once, when the answer's head, or a failure, has come."""
        assert self._wire is not None
        self._wire.on_answer = arrived

    def at_hand(self) -> Reply | None:
        """The answer, if it has arrived whole and nothing is left to decide; else None: it has to be awaited."""
        wire = self._wire
        if wire is None or not wire._buffer:
            return None
        waiting = wire._buffer
        message, payload = waiting[0][0]
        if (
            not payload.is_eof()
            or message.code < 200
            or message.code in self._forward.again_on
            or self._exchange.fault is not None
        ):
            return None
        try:
            reply = self._forward.attempt.judge(
                self._exchange, wire, self._group.upstream, message, payload
            )
        except errors.GatewayError:
            return None  # judged again, and maybe tried again, by whoever awaits it
        waiting.popleft()
        return reply

    def fail(self, error: errors.GatewayError) -> None:
        """End it: whoever awaits it is told `error`."""
        wire = self._wire
        if wire is not None and self._exchange.wire is wire:
            wire.set_exception(error)

    def leave(self) -> None:
        """Nobody is going to await it. What it has leased, the exchange gives back."""

    def __await__(self) -> Generator[None, None, Reply]:
        if self._wire is not None:
            self._wire.on_answer = None
        return self._forward.tries(
            self._exchange, self._group, self._request, self._wire
        ).__await__()


class Queued(Begun):
    """A first try that waits for its turn: its target has as many connections as it may have, and all are in use.

    It is what `Connections.waiting` holds: `done` and `set_result` are those of a future.
    """

    __slots__ = ("_arrived", "_began", "_connections", "_error", "_room", "_waits", "due", "who")

    def __init__(
        self,
        forward: Forward,
        exchange: Exchange,
        group: Group,
        request: Outbound,
        connections: Connections,
    ) -> None:
        super().__init__(forward, exchange, group, request, None)
        self._connections = connections
        self._arrived: Callable[[], None] | None = None
        self._error: Exception | None = None
        self._room = False
        """There is room for one more connection: it is counted, and has to be made."""
        self._waits = True
        self.who = line_of(exchange)
        wait, self._began = forward.pool_wait, forward.clock.now()
        self.due = math.inf if wait is None else self._began + wait
        forward.clock.watched.add(self)
        connections.waiting.append(self)

    def call(self, arrived: Callable[[], None]) -> None:
        """Call `arrived` once, when something has come of it."""
        self._arrived = arrived

    # ── its turn ──

    def done(self) -> bool:
        """Whether it waits no more."""
        return not self._waits

    def set_result(self, wire: Wire | None) -> None:
        """It is its turn: with a connection that another has given back, or with room for one that has to be made."""
        self._stop()
        if wire is None:
            self._room = True
            self._tell()
            return
        exchange, target = self._exchange, self._exchange.target_in_use
        assert target is not None
        self._wire = wire
        try:
            self._forward.attempt.write(exchange, wire, target, self._request)
        except Exception as error:  # noqa: BLE001 - told to whoever awaits it, and not to who gave the connection back
            self._error = error
            self._tell()
            return
        wire.on_answer, self._arrived = self._arrived, None

    def expire(self) -> None:
        """It has waited for as long as it may."""
        wait = self._forward.pool_wait
        self._quit(errors.PoolTimeout(f"no connection became free within {wait:g} s"))

    # ── the end ──

    def fail(self, error: errors.GatewayError) -> None:
        """End it: whoever awaits it is told `error`."""
        if self._waits:
            self._quit(error)
        elif self._wire is None:
            self._error = self._error or error
        else:
            super().fail(error)

    def leave(self) -> None:
        """Nobody is going to await it."""
        if self._waits:
            self._connections.waiting.discard(self)
            self._stop()
        self._give_room_back()

    def __await__(self) -> Generator[None, None, Reply]:
        if self._error is not None:
            self._give_room_back()
            raise self._error
        if self._room:
            self._room = False
            # Counted again where it is made, before anybody else is asked.
            self._connections.open -= 1
        elif self._waits:
            self.leave()
        return (yield from super().__await__())

    def _quit(self, error: errors.GatewayError) -> None:
        self._error = error
        self._connections.waiting.discard(self)
        self._stop()
        self._tell()

    def _stop(self) -> None:
        self._waits = False
        self.due = math.inf
        self._forward.clock.watched.discard(self)
        self._connections.waited(self._began)

    def _give_room_back(self) -> None:
        if self._room:
            self._room = False
            self._connections.made_none()

    def _tell(self) -> None:
        arrived, self._arrived = self._arrived, None
        if arrived is not None:
            arrived()
