"""Frames of a WebSocket, as a test sends them."""

from __future__ import annotations

import struct

KEY = b"\x01\x02\x03\x04"


def frame(payload: bytes, opcode: int = 2, *, fin: bool = True, mask: bool, rsv: int = 0) -> bytes:
    """One frame; masked payloads are sent as they are given, for nothing here unmasks them."""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    bit = 0x80 if mask else 0
    if len(payload) < 126:
        head += bytes([bit | len(payload)])
    elif len(payload) < 65536:
        head += bytes([bit | 126]) + struct.pack(">H", len(payload))
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", len(payload))
    return head + (KEY if mask else b"") + payload
