"""Where the limits of one configuration count: this process's memory, and the stores that it names.

Rules of this file: the client of Redis is imported when a configuration wants one, and named where it is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.clock import Clock
    from gateway.config.limits import Store
    from gateway.limits.local import LocalStore
    from gateway.limits.redis import RedisStore
    from gateway.observe.events import Events


@dataclass(frozen=True, slots=True)
class Stores:
    """What a stage of limits asks."""

    local: LocalStore
    shared: Mapping[str, RedisStore]
    """By name under `stores`."""


def make(name: str, settings: Store, clock: Clock, events: Events) -> RedisStore:
    """The store of that name. Raises ValueError, with a sentence for the user, where its client is not installed."""
    try:
        from gateway.limits.redis import RedisStore  # noqa: PLC0415 - only where it is wanted
    except ModuleNotFoundError as missing:
        raise ValueError(
            f"stores.{name}: the client of Redis is not installed: pip install 'gateway[redis]'"
        ) from missing
    return RedisStore(name, settings, clock, events)
