"""The nearest known word, for messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(word: str, candidates: Iterable[Any], known: Iterable[Any] | None = None) -> str:
    """`: did you mean x?`, or the words there are when none is near and they are few, or nothing."""
    import difflib  # noqa: PLC0415 - needed for a mistake only

    words = {str(candidate).lower(): str(candidate) for candidate in candidates}
    close = difflib.get_close_matches(str(word).lower(), list(words), n=1, cutoff=0.6)
    if close:
        return f": did you mean {words[close[0]]}?"
    listed = [str(item) for item in (known or ())]
    return f"; known are {', '.join(listed)}" if 0 < len(listed) <= 30 else ""
