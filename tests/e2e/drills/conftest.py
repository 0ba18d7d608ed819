"""What every drill has: a fleet that is gone when the drill ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio

from tests.kit.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest_asyncio.fixture
async def fleet(_watch: None, tmp_path: Path) -> AsyncIterator[Fleet]:
    """Upstreams and gateways as real processes; see tests/kit/fleet.py."""
    fleet = Fleet(tmp_path)
    yield fleet
    await fleet.close()
