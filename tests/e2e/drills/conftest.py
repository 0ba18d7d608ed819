"""What every drill has: a fleet that is gone when the drill ends, and the count of what was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio

from tests.kit.fleet import Fleet, arrivals

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.kit.fleet import Gateway, Origin
    from tests.kit.load import Load


@pytest_asyncio.fixture
async def fleet(_watch: None, tmp_path: Path) -> AsyncIterator[Fleet]:
    """Upstreams and gateways as real processes; see tests/kit/fleet.py."""
    fleet = Fleet(tmp_path)
    yield fleet
    await fleet.close()


async def only_what_could_not_be_saved_is_lost(
    load: Load, gateway: Gateway, origins: list[Origin]
) -> None:
    """Nothing has failed but a POST without a key that was on its way; that is counted, and told as it was."""
    assert load.failed(repeatable=True) == []
    lost = load.failed(repeatable=False)
    assert {outcome.word for outcome in lost} <= {"502 upstream_reset"}
    assert len(lost) == await gateway.metric("gateway_errors_total", reason="upstream_reset")
    assert load.sent_twice(arrivals(origins)) == []
