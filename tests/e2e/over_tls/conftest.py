"""The same gateway and the same client as everywhere, with TLS between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.kit import secure
from tests.kit.running import Running, document

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, _World


@pytest.fixture
def gateway(_world: _World, tmp_path: Path) -> MakeGateway:
    """As everywhere, but that every TCP listener speaks TLS."""
    certificate = secure.issue(tmp_path, "a.test")

    async def make(config: Any, *, clock: Any = None, **sections: Any) -> Running:
        written = document(config, tmp_path / "unused.log", **sections)
        if "observability" not in sections:
            written.pop("observability")
        for listener in written["listeners"]:
            if not str(listener["bind"]).startswith("unix:"):
                listener["tls"] = {"certificates": [certificate]}
        return await _world.gateway(written, clock=clock)

    return make


@pytest.fixture
def raw(_world: _World) -> MakeClient:
    """As everywhere, but encrypted."""

    async def make(address: Any, **where: Any) -> secure.SecureClient:
        client = await secure.connect(
            address.address
            if isinstance(address, Running)
            else f"127.0.0.1:{address}"
            if isinstance(address, int)
            else address,
            **where,
        )
        _world.clients.append(client)
        return client

    return make
