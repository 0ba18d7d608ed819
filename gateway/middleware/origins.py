"""The origins that `cors` names, and whether one is among them.

Rules of this file: an origin is text and compared as text (RFC 6454 section 5), exactly, or by a pattern that has to match
all of it. `null` is what any page can have, so only its own name allows it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.config import model

ANY = "*"
_LABEL = "[a-z0-9_-]+"
"""What the `*` of `https://*.example.com` stands for."""
_SENT = re.compile(r"[!-~]{1,512}")
"""What a pattern is asked about: a client may write anything, and make it long."""
_PORT = re.compile(r"(?:(http)|https)(://.*):(?(1)80|443)")


class Origins:
    """Those of one route."""

    def __init__(self, written: Iterable[model.Origin]) -> None:
        entries = tuple(written)
        texts = [serialised(one.text) for one in entries if one.text]
        self.any = ANY in texts
        """Whether every page is allowed, so that the others do not count."""
        self.exact = frozenset(text for text in texts if ANY not in text)
        wild = [re.escape(text).replace(r"\*", _LABEL) for text in texts if "://*." in text]
        regexes = [one.regex for one in entries if one.regex is not None]
        self._patterns = tuple(re.compile(one) for one in (*wild, *regexes))

    def matches(self, origin: str) -> bool:
        """Whether a pattern knows it."""
        if not self._patterns or origin == "null" or not _SENT.fullmatch(origin):
            return False
        return any(pattern.fullmatch(origin) for pattern in self._patterns)

    def names(self, origin: str) -> bool:
        """Whether it is written, or a pattern knows it: not because every page is allowed."""
        return origin in self.exact or self.matches(origin)


def serialised(written: str) -> str:
    """An origin as browsers send it: lower-case, without the port that its scheme implies (RFC 6454 section 6.2)."""
    word = written.lower()
    implied = _PORT.fullmatch(word)
    return word.rpartition(":")[0] if implied else word
