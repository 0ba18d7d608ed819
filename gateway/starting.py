"""Signals that come while there is no gateway yet to obey them.

Rules of this file: it is imported before anything else is, so it imports nothing. A service manager
may ask for a reload the moment that it has started the process, and the answer to SIGHUP of one that
has said nothing is to end. SIGTERM and SIGINT may do so: there is nothing to drain.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

_came: set[int] = set()


def hold() -> None:
    """From now on SIGHUP and SIGUSR1 are noted; whoever takes them over asks for them."""
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, _note)


def reload_wanted() -> bool:
    """Whether a SIGHUP has come since `hold`; it is forgotten then."""
    wanted = signal.SIGHUP in _came
    _came.clear()
    return wanted


def _note(number: int, _: FrameType | None) -> None:
    _came.add(number)
