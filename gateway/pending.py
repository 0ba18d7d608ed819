"""How much of what was written the peer has not taken yet.

Rules of this file: it asks the kernel, so it is for the moment before somebody is cut off, never for each write. A
transport says only that its buffer is full or is not: behind it the kernel holds megabytes, and reports room only when a
third of that is free, so a peer that reads a kilobyte a second looks still for a quarter of an hour.
"""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING

try:
    import fcntl
    import termios
except ImportError:  # no Unix: what the transport itself holds must do
    _ASK = None
else:
    _ASK = getattr(termios, "TIOCOUTQ", None)

if TYPE_CHECKING:
    import asyncio


def pending(transport: asyncio.Transport) -> int:
    """Bytes that were written to `transport` and not acknowledged: its own buffer's and the kernel's."""
    size = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if _ASK is not None and sock is not None:
        with contextlib.suppress(OSError, ValueError):  # it has just been closed
            size += struct.unpack("i", fcntl.ioctl(sock.fileno(), _ASK, bytes(4)))[0]
    return size
