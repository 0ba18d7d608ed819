"""How many connections clients may hold open, in all and each.

Rules of this file: one count for all listeners of a worker; what is beyond the limits is told so,
what is far beyond is not even read. Limits are replaced by a reload, connections that are there
stay.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config import model


class Admission:
    """How many connections there are, in all and from each address. One for all listeners of a
    worker.
    """

    def __init__(self, limits: model.Limits) -> None:
        self.total = 0
        self.by_address: dict[str, int] = {}
        self.apply(limits)

    def apply(self, limits: model.Limits) -> None:
        """Take new limits; connections that are there stay."""
        self.most = math.inf if limits.connections is None else limits.connections
        self.most_each = (
            math.inf if limits.connections_per_ip is None else limits.connections_per_ip
        )
        # Beyond the limit a connection is told so; beyond this it is not even read.
        self.ceiling = self.most + max(100.0, self.most / 10)

    def enter(self, address: str) -> bool:
        """Count a connection in; whether it is within the limits."""
        self.total += 1
        count = self.by_address.get(address, 0) + 1
        self.by_address[address] = count
        return self.total <= self.most and count <= self.most_each

    def leave(self, address: str) -> None:
        """Count a connection out."""
        self.total -= 1
        count = self.by_address[address] - 1
        if count:
            self.by_address[address] = count
        else:
            del self.by_address[address]
