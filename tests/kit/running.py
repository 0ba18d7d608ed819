"""A Gateway in the test's own event loop, with everything that a test looks at.

Rules of this file: the gateway runs on a clock that the test moves, on ports that the system
chooses; its access log goes to a file of the test.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

from tests.kit.origin import Origin
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gateway.runtime.gateway import Gateway
    from tests.kit.clock import FakeClock

_SAMPLE = re.compile(r"^(?P<name>[a-z_:]+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


def document(
    config: str | Mapping[str, Any] | Origin, log: Path, **sections: Any
) -> dict[str, Any]:
    """The configuration as a mapping: as written, with a port, a log file and no admin if unsaid.

    An Origin stands for one route of all paths to it; `route={...}`, `upstream={...}` and sections
    of the file such as `server={...}` go on top.
    """
    import yaml

    if isinstance(config, Origin):
        route = {"name": "all", "path": "/*", "to": "up", **sections.pop("route", {})}
        upstream = {"targets": [config.url], **sections.pop("upstream", {})}
        written: dict[str, Any] = {"routes": [route], "upstreams": {"up": upstream}}
    else:
        written = dict(yaml.safe_load(config) if isinstance(config, str) else config)
    written.update(sections)
    written.setdefault("listeners", [{"bind": "127.0.0.1:0"}])
    written.setdefault("admin", "off")
    observability = dict(written.get("observability") or {})
    observability.setdefault("access_log", {"file": str(log)})
    written["observability"] = observability
    return written


class Running:
    """A gateway that runs, and what it says of itself."""

    def __init__(self, gateway: Gateway, clock: FakeClock, log: Path) -> None:
        self.gateway = gateway
        self.clock = clock
        self._log = log

    @property
    def address(self) -> str:
        """The first listener's address, as `raw` takes it."""
        return str(next(iter(self.gateway.addresses.values())))

    @property
    def port(self) -> int:
        """The first listener's port."""
        return int(self.address.rpartition(":")[2])

    @property
    def admin(self) -> str:
        """The admin listener's address."""
        address = self.gateway.admin_address
        assert address is not None, "this gateway runs without admin"
        return str(address)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of a metric that bear these labels; 0.0 without any."""
        exposition, _ = self.gateway.metrics.exposition(None)
        total = 0.0
        for line in exposition.decode().splitlines():
            found = _SAMPLE.match(line)
            if found is None or found["name"] != name:
                continue
            present = dict(_LABEL.findall(found["labels"] or ""))
            if all(present.get(key) == value for key, value in labels.items()):
                total += float(found["value"])
        return total

    async def eventually(self, name: str, value: float, **labels: str) -> None:
        """Wait until a metric has this value: some are counted a moment after the last byte."""
        async with asyncio.timeout(PATIENCE):
            while self.metric(name, **labels) != value:
                await asyncio.sleep(0.01)

    async def log(self, lines: int = 1) -> list[dict[str, Any]]:
        """The access log, once it has so many lines."""
        found: list[str] = []
        async with asyncio.timeout(PATIENCE):
            while len(found) < lines:
                found = self._log.read_text().splitlines() if self._log.exists() else []
                await asyncio.sleep(0.01)
        return [json.loads(line) for line in found]

    async def at_rest(self) -> None:
        """Wait until nothing is watched by the clock but connections that rest in the pool."""
        busy = self.busy()
        for _ in range(300):
            busy = self.busy()
            if not busy:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"still watched by the clock: {busy}")

    def busy(self) -> list[object]:
        """What is watched and is no resting connection."""
        return [one for one in self.clock.watched if not getattr(one, "resting", False)]
