"""Where the frames of a WebSocket end, however their bytes are cut."""

from __future__ import annotations

import sys
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.frames import Frames, close_frame
from tests.kit.frames import frame


def test_a_long_message_costs_a_handful_of_calls() -> None:
    message = frame(b"x" * (1 << 20), mask=True)
    calls = 0

    def count(frame: Any, event: str, arg: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    frames = Frames()
    sys.setprofile(count)
    try:
        frames.feed(message)
    finally:
        sys.setprofile(None)
    assert frames.between
    assert calls < 20


lengths = st.one_of(st.integers(0, 130), st.sampled_from([125, 126, 127, 65535, 65536, 66000]))
frames_of = st.lists(
    st.builds(
        lambda size, opcode, mask, fin: frame(b"\x88" * size, opcode, fin=fin, mask=mask),
        lengths, st.sampled_from([0, 1, 2, 9, 10]), st.booleans(), st.booleans(),
    ),
    min_size=1, max_size=6,
)  # fmt: skip


@settings(deadline=None)  # a busy machine is no finding
@given(frames_of, st.lists(st.integers(1, 70_000), max_size=8))
def test_frame_ends_are_found_however_the_bytes_are_cut(sent: list[bytes], cuts: list[int]) -> None:
    ends = set()
    total = 0
    for one in sent:
        total += len(one)
        ends.add(total)
    data = b"".join(sent)
    points = sorted({cut for cut in cuts if cut < total} | {total})
    frames, at = Frames(), 0
    for point in points:
        assert frames.feed(data[at:point]) == point - at
        at = point
        assert frames.between == (at in ends)
    assert not frames.closed


@settings(deadline=None)
@given(frames_of, st.integers(0, 300))
def test_feeding_with_stop_halts_at_the_first_end(sent: list[bytes], first: int) -> None:
    data = b"".join(sent)
    first = min(first, len(sent[0]) - 1)
    frames = Frames()
    frames.feed(data[:first])
    assert frames.feed(data[first:], stop=True) == len(sent[0]) - first
    assert frames.between


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=20))
def test_no_bytes_upset_the_counting(blocks: list[bytes]) -> None:
    frames = Frames()
    for block in blocks:
        assert frames.feed(block) == len(block)


@settings(deadline=None)
@given(st.binary(max_size=125), st.booleans())
def test_a_close_of_ours_is_one_whole_frame(payload: bytes, mask: bool) -> None:
    frames = Frames()
    data = close_frame(payload, mask=mask)
    assert frames.feed(data) == len(data)
    assert frames.between
    assert frames.closed


@settings(deadline=None)
@given(st.integers(0, 4), st.booleans(), st.integers(1, 30))
def test_a_close_is_noticed_wherever_it_stands(before: int, mask: bool, cut: int) -> None:
    data = frame(b"ping", 9, mask=mask) * before + close_frame(b"\x03\xe8", mask=mask)
    frames = Frames()
    for at in range(0, len(data), cut):
        frames.feed(data[at : at + cut])
    assert frames.closed
    assert frames.between
