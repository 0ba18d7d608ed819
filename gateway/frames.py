"""Frames of a WebSocket as far as a tunnel must know them: where they end, and a Close of its own.

Rules of this file: pure, and nothing is checked or changed; heads of frames are read, payloads are skipped by their length.
"""

from __future__ import annotations

import os

_CLOSE = 8


class Frames:
    """Where the frames of one direction end: heads are read, payload is skipped by its length (RFC
    6455 section 5.2).

    Nothing is checked: a head that makes no sense leads to an end that never comes, and then the
    connection is closed without a Close.
    """

    __slots__ = ("_head", "_left", "closed")

    def __init__(self) -> None:
        self._left = 0
        self._head = b""
        self.closed = False
        """The head of a Close has passed."""

    @property
    def between(self) -> bool:
        """Whether the last byte was the last of a frame."""
        return not self._left and not self._head

    def feed(self, data: bytes, *, stop: bool = False) -> int:
        """Count `data`, with `stop` only up to the first end of a frame. Returns how many bytes were counted."""
        at, size = 0, len(data)
        while at < size:
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
            else:
                at += self._read_head(data[at : at + 10])
            if self.between:
                if stop:
                    break
                at = self._skip_short(data, at, size)
        return at

    def _skip_short(self, data: bytes, at: int, size: int) -> int:
        """Past the short frames that begin at `at` and are whole: thousands fit into one segment."""
        while at + 1 < size:
            second = data[at + 1]
            length = second & 0x7F
            end = at + 2 + length + (4 if second > 0x7F else 0)
            if length > 125 or end > size:
                break
            if data[at] & 0x0F == _CLOSE:
                self.closed = True
            at = end
        return at

    def _read_head(self, data: bytes) -> int:
        held = len(self._head)
        head = self._head + data
        if len(head) < 2:
            self._head = head
            return len(data)
        length = head[1] & 0x7F
        whole = {126: 4, 127: 10}.get(length, 2)
        if len(head) < whole:
            self._head = head
            return len(data)
        self._head = b""
        if whole > 2:
            length = int.from_bytes(head[2:whole], "big")
        # The key of a masked frame, four bytes, is skipped together with what it masks.
        self._left = length + (4 if head[1] & 0x80 else 0)
        if head[0] & 0x0F == _CLOSE:
            self.closed = True
        return whole - held


def close_frame(payload: bytes, *, mask: bool) -> bytes:
    """A Close frame; masked, with a fresh key, where it plays the client's part (RFC 6455 section
    5.3).
    """
    if not mask:
        return bytes((0x80 | _CLOSE, len(payload))) + payload
    key = os.urandom(4)
    masked = bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))
    return bytes((0x80 | _CLOSE, 0x80 | len(payload))) + key + masked
