"""What a server of our own asks for answers, made of two functions of a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.exchange import Exchange

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.errors import GatewayError
    from gateway.incoming import Incoming, Sent


class Answers:
    """Every answer is awaited."""

    def __init__(
        self,
        handle: Callable[[Incoming], Awaitable[Sent]],
        refuse: Callable[[Incoming, GatewayError], Awaitable[Sent]],
    ) -> None:
        self._handle = handle
        self.refuse = refuse

    def begin(self, incoming: Incoming, arrived: Callable[[], None] | None = None) -> Exchange:
        exchange = Exchange()
        exchange.incoming = incoming
        return exchange

    def at_once(self, exchange: Exchange) -> Sent | None:
        return None

    def answer(self, exchange: Exchange) -> Awaitable[Sent]:
        return self._handle(exchange.incoming)

    def abandon(self, exchange: Exchange) -> None:
        pass

    def end(self, exchange: Any) -> None:
        pass
