"""What the tests of API keys and passwords are made of: tools, exchanges, files."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from hashlib import sha256
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from multidict import CIMultiDict, CIMultiDictProxy

from gateway.auth import Tools
from gateway.observe.entrance import AuthMeter
from gateway.observe.events import Events
from tests.kit.clock import FakeClock

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class World:
    """What an authenticator is given."""

    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.events = Events(self.clock.wall)
        self.tools = Tools(self.clock, AuthMeter("staff"), self.events)

    @property
    def said(self) -> list[tuple[str, str]]:
        return [(event.kind, event.why) for event in self.events.select()]


def asking(*fields: tuple[str, str], client_ip: str = "192.0.2.1", query: str = "") -> Any:
    """As much of an exchange as an authenticator looks at."""
    headers = CIMultiDictProxy(CIMultiDict(fields))
    return SimpleNamespace(headers=headers, query=query, client_ip=client_ip)


def basic(user: str | bytes, password: str | bytes = b"") -> tuple[str, str]:
    """An `Authorization` field."""
    both = [part.encode() if isinstance(part, str) else part for part in (user, password)]
    return "Authorization", "Basic " + base64.b64encode(b":".join(both)).decode()


def digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def keys_file(folder: Path, *entries: str, name: str = "keys.yaml") -> str:
    """A file with these entries, each in the braces of a mapping."""
    path = folder / name
    path.write_text("keys:\n" + "".join(f"  - {{{one}}}\n" for one in entries) or "keys: []\n")
    return str(path)
