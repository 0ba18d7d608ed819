"""What the bodies of one route's requests may be, and how long they may take.

Rules of this file: decided at load; a body is read by `relay.Upload`, and nobody else.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gateway import errors
from gateway.relay import Terms, Upload

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clock import Clock
    from gateway.config import model
    from gateway.exchange import Exchange


class Uploads:
    """Makes the bodies of one route's requests."""

    def __init__(self, policies: model.Policies, limits: model.Limits, clock: Clock) -> None:
        most, idle, unread = policies.body.max, limits.body_idle, policies.timeouts.idle
        self._terms = Terms(
            clock,
            most=math.inf if most is None else most,
            keep=0 if policies.retry is None else policies.retry.replay_body,
            idle=math.inf if idle is None else idle,
            rate=policies.body.min_rate or limits.body_min_rate or 0.0,
            unread=math.inf if unread is None else unread,
            reports=policies.body.mode == "report",
        )

    def __call__(self, exchange: Exchange) -> Upload:
        """The body of this request."""
        return Upload(exchange, self._terms)

    async def gather(
        self, exchange: Exchange, most: int, hold: Callable[[int], None] | None = None
    ) -> bytes:
        """All of the body, which is still sent on, byte for byte. `most`: bytes that are waited for; `hold`: is told of the
        bytes of each piece that has to be waited for, and may raise.

        Raises errors.BodyTooLarge, errors.ClientTimeout, errors.BadRequest.
        """
        if not exchange.has_body:
            return b""
        upload = exchange.upload = exchange.upload or self(exchange)
        if upload.whole is None:
            await upload.gather(most + 1, hold)
        if upload.whole is None or len(upload.whole) > most:
            raise errors.BodyTooLarge(f"more than {most} bytes, and all of it has to be read first")
        return upload.whole
