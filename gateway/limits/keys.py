"""By what a limit counts: a text with placeholders becomes the key of a request.

Rules of this file: different requests that are meant to be counted apart have different keys, and nobody can spell himself a
key that is another's: values are put together with a control byte between, which no value has. A client's address counts
without the bits that it can choose itself (`ipv6_prefix`). A request for which the text has no value, such as one
without the header, is counted by its address: neither let through uncounted, nor in one heap with all others of its kind.
A key has a bounded length: what is longer is replaced by its digest.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from ipaddress import IPv6Network
from typing import TYPE_CHECKING, Final

from gateway.config.placeholders import of_identity
from gateway.routing.template import Template

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.identity import Identity
    from gateway.routing.template import View

LONGEST: Final = 64
"""Characters of a key; a digest is shorter."""
REMEMBERED: Final = 4096
_APART: Final = "\x1f"
_UNKNOWN: Final = "\x1f\x1f"
"""Before the address of a request that the text has no value for."""
_PART = re.compile(r"\{\{|\{[a-z_.0-9-]+(?:\|[^{}]*)?\}")
_ADDRESS = re.compile(r"\{client_ip(?:\|[^{}]*)?\}")


class Key:
    """What a limit counts by, compiled."""

    __slots__ = ("_folded", "_known", "_parts", "_prefix", "names", "of")

    def __init__(self, text: str, ipv6_prefix: int = 64) -> None:
        """`text` has placeholders. Raises ValueError, with a sentence for the user, for one that there is not."""
        self._prefix = ipv6_prefix
        self._folded: dict[str, str] = {}
        self._known: dict[Identity, str] = {}
        whole = Template.compile(text, where="text")
        self.names = whole.names
        """Every name that is asked for."""
        self._parts = tuple(self._part(found[0]) for found in _PART.finditer(text))
        self.of: Callable[[View], str] = self._of
        """The key of a request."""
        if _ADDRESS.fullmatch(text):
            self.of = self.address
        elif self.names and all(map(of_identity, self.names)):
            self.of = self._of_identity

    def address(self, exchange: View) -> str:
        """The client's address as far as it counts."""
        address = exchange.client_ip
        if ":" not in address:
            return address
        return self._folded.get(address) or self._fold(address)

    def _of_identity(self, exchange: View) -> str:
        """The same for all requests of one identity."""
        identity = exchange.identity
        if identity is None:
            return self._of(exchange)
        key = self._known.get(identity)
        if key is None:
            key = self._of(exchange)
            if not key.startswith(_UNKNOWN):
                if len(self._known) >= REMEMBERED:
                    self._known.clear()
                self._known[identity] = key
        return key

    def _fold(self, address: str) -> str:
        if len(self._folded) >= REMEMBERED:
            self._folded.clear()
        try:
            network = IPv6Network((address.partition("%")[0], self._prefix), strict=False)
        except ValueError:  # no address that anybody knows: it counts as it is
            return address
        self._folded[address] = folded = str(network.network_address)
        return folded

    def _part(self, text: str) -> Callable[[View], str | None]:
        if _ADDRESS.fullmatch(text):
            return self.address
        # What is written between placeholders is the same for all requests, so it tells none from another.
        return Template.compile(text, where="text").render_or_none

    def _of(self, exchange: View) -> str:
        values = [part(exchange) for part in self._parts]
        if not all(values):
            return _UNKNOWN + self.address(exchange)
        key = _APART.join(values)  # type: ignore[arg-type]
        return key if len(key) <= LONGEST else _digest(key)


def _digest(key: str) -> str:
    return _APART + blake2b(key.encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()
