"""Who comes next among those that wait: one of each consumer in turn, so that nobody's many keep out another's few.

Rules of this file: a line for each consumer, first come, first served in it; the lines take turns. Where nobody is known,
the client's address stands for the consumer (of IPv6 the first 64 bits: the rest a client chooses itself). The whole queue
is bounded by its owner, and its room is shared in the same way: where it is full, a newcomer takes the place of the last in
the longest line, if that is longer than his own would be.
"""

from __future__ import annotations

from ipaddress import IPv6Network
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.exchange import Exchange


class Waits(Protocol):
    """One that waits."""

    @property
    def who(self) -> str:
        """Whose line it stands in."""


W = TypeVar("W", bound=Waits)


class Lines(Generic[W]):
    """Those that wait, in lines that take turns."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[W, None]] = {}
        """Whose turn comes first stands first; none is empty."""
        self.count = 0
        """How many wait. To be read where `len` would be asked for each request."""

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[W]:
        """All, line by line."""
        return iter([one for line in self._lines.values() for one in line])

    def append(self, one: W) -> None:
        """It waits, as the last in its line."""
        self._lines.setdefault(one.who, {})[one] = None
        self.count += 1

    def discard(self, one: W) -> None:
        """It does not wait any more, if it did."""
        line = self._lines.get(one.who)
        if line is not None and one in line:
            del line[one]
            self.count -= 1
            if not line:
                del self._lines[one.who]

    def pop(self) -> W:
        """The next, which waits no more. Its line comes last from now on. Somebody must be waiting."""
        lines = self._lines
        who = next(iter(lines))
        line = lines.pop(who)
        one = next(iter(line))
        del line[one]
        self.count -= 1
        if line:
            lines[who] = line
        return one

    def take(self, suits: Callable[[W], bool]) -> W | None:
        """The next that suits, which waits no more; None: there is none. Its line comes last from now on."""
        for who, line in self._lines.items():
            for one in line:
                if suits(one):
                    self.discard(one)
                    if line:
                        self._lines[who] = self._lines.pop(who)
                    return one
        return None

    def give_way(self, who: str, suits: Callable[[W], bool]) -> W | None:
        """Who has to go so that one more of `who` may wait, and waits no more; None: nobody has more than that one would."""
        longest = max(self._lines.values(), key=len, default={})
        if len(longest) <= len(self._lines.get(who, ())) + 1:
            return None
        for one in reversed(longest):
            if suits(one):
                self.discard(one)
                return one
        return None


def line_of(exchange: Exchange | None) -> str:
    """In whose line a request waits."""
    if exchange is None:
        return ""
    if exchange.identity is not None:
        return f"consumer {exchange.identity.consumer}"
    address = exchange.client_ip
    if ":" in address:
        try:
            address = str(IPv6Network((address, 64), strict=False).network_address)
        except ValueError:
            return address  # nothing that anybody knows: a line of its own
    return address
