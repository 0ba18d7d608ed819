"""Bodies on their way: what is sent, counted, kept for another try, and given up."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from hypothesis import given
from hypothesis import strategies as st

from gateway import errors
from gateway.exchange import Exchange
from gateway.relay import BodyTimeout, Download, Terms, Upload, stream
from tests.kit.clock import FakeClock
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine


class Standing(FakeClock):
    """Nothing passes but what a test lets pass."""

    def now(self) -> float:
        return 1000.0 + self.offset


class Transport:
    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.aborted = False
        self.unread = 0

    def get_write_buffer_size(self) -> int:
        return self.unread

    def get_extra_info(self, _: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def abort(self) -> None:
        self.aborted = True


class Side:
    """A connection as relay.py uses it: a client, or a wire to an upstream."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.transport: Transport | None = Transport()
        self.out = self.transport.sent
        self.writing_paused = False
        self._reading_paused = False
        self.due = math.inf
        self.overdue: type[Exception] = errors.UpstreamHeaderTimeout
        self.failed: list[BaseException] = []
        self.may_write = asyncio.Event()
        self.draining = asyncio.Event()

    def set_exception(self, error: BaseException) -> None:
        self.failed.append(error)

    async def _drain_helper(self) -> None:
        self.draining.set()
        await self.may_write.wait()
        if self.transport is None:
            raise ConnectionResetError

    def translate(self, error: Exception) -> Exception:
        return errors.UpstreamReset(repr(error))


class Case:
    """An upload with everything around it."""

    def __init__(
        self, *, length: int | None = None, before: bytes = b"", ended: bool = False, **words: Any
    ) -> None:
        loop = asyncio.get_running_loop()
        self.clock = Standing()
        self.client, self.wire = Side(self.clock), Side(self.clock)
        connected = BaseProtocol(loop)
        connected.connection_made(asyncio.Transport())
        self.payload = StreamReader(connected, 1 << 20, loop=loop)
        self.exchange = Exchange()
        self.exchange.length = length
        self.exchange.expects = words.pop("expects", False)
        if before:
            self.payload.feed_data(before)
        if ended:
            self.payload.feed_eof()
        given_words = {"most": math.inf, "keep": 10, "idle": 30.0, "rate": 0.0, "unread": 60.0}
        self.exchange.incoming = cast(
            "Any", SimpleNamespace(protocol=self.client, payload=self.payload)
        )
        self.upload = Upload(self.exchange, Terms(self.clock, **{**given_words, **words}))
        self.pumping: asyncio.Task[None] | None = None

    def start(self) -> None:
        work: Coroutine[Any, Any, None] = self.upload.pump(cast("Any", self.wire), 20.0)
        self.pumping = asyncio.get_running_loop().create_task(work)

    async def feed(self, *pieces: bytes, ended: bool = False) -> None:
        for piece in pieces:
            self.payload.feed_data(piece)
            await turn()
        if ended:
            self.payload.feed_eof()
        await turn()

    async def done(self) -> None:
        assert self.pumping is not None
        async with asyncio.timeout(PATIENCE):
            await self.pumping
        assert self.upload not in self.clock.watched

    @property
    def fault(self) -> BaseException:
        [fault] = self.wire.failed
        return fault


async def turn() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


# ── a body that is there already ──


async def test_a_body_that_has_come_is_whole_and_goes_out_behind_the_head() -> None:
    sized = Case(length=3, before=b"abc", ended=True)
    assert (sized.upload.whole, sized.upload.framed()) == (b"abc", b"abc")
    assert sized.upload.replayable
    assert sized.exchange.bytes_in == 3
    chunked = Case(before=b"abcdefghij", ended=True)
    assert chunked.upload.framed() == b"a\r\nabcdefghij\r\n0\r\n\r\n"
    empty = Case(ended=True)
    assert (empty.upload.whole, empty.upload.framed()) == (b"", b"0\r\n\r\n")
    assert empty.upload.replayable


@pytest.mark.parametrize(("size", "replayable"), [(10, True), (11, False)])
async def test_a_whole_body_is_sent_again_up_to_the_size_that_is_kept(
    size: int, replayable: bool
) -> None:
    case = Case(before=b"x" * size, ended=True)
    assert case.upload.whole == b"x" * size
    assert case.upload.replayable is replayable
    assert case.upload.unsent, "without a connection nothing of it has gone"


async def test_without_a_replay_buffer_only_an_empty_body_is_sent_again() -> None:
    assert Case(ended=True, keep=0).upload.replayable
    assert not Case(before=b"x", ended=True, keep=0).upload.replayable


async def test_a_body_that_is_there_and_too_large_is_refused() -> None:
    with pytest.raises(errors.BodyTooLarge):
        Case(before=b"abcd", ended=True, most=3)
    assert Case(before=b"abc", ended=True, most=3).upload.whole == b"abc"


# ── one that comes while it is sent ──


async def test_a_body_that_no_byte_was_taken_of_can_be_sent_later() -> None:
    case = Case(before=b"abc")
    assert case.upload.whole is None
    assert case.upload.replayable
    assert case.upload.unsent
    case.start()
    await turn()
    assert case.upload.begun
    assert not case.upload.replayable, "half of it is on its way"
    assert not case.upload.unsent
    await case.feed(b"def", ended=True)
    await case.done()
    assert case.upload.whole == b"abcdef"
    assert case.upload.replayable


async def test_a_streamed_body_larger_than_what_is_kept_is_not_kept() -> None:
    case = Case()
    case.start()
    await case.feed(b"x" * 6, b"y" * 6, b"z", ended=True)
    await case.done()
    assert case.upload.whole is None
    assert case.upload._kept is None
    assert not case.upload.replayable


async def test_pieces_pass_as_they_come_and_by_reference() -> None:
    sized, chunked = Case(length=6), Case()
    pieces = (b"abc", b"def")
    for case in (sized, chunked):
        case.start()
        await case.feed(*pieces, ended=True)
        await case.done()
        assert case.exchange.bytes_in == 6
        assert not case.wire.failed
    assert sized.wire.out == [b"abc", b"def"]
    assert all(out is piece for out, piece in zip(sized.wire.out, pieces, strict=True))
    assert chunked.wire.out == [b"3\r\nabc\r\n", b"3\r\ndef\r\n", b"0\r\n\r\n"]


async def test_the_wait_for_the_answer_begins_when_the_body_has_gone() -> None:
    case = Case()
    case.start()
    await case.feed(b"x")
    assert case.wire.due == math.inf
    case.clock.advance(5)
    await case.feed(ended=True)
    await case.done()
    assert case.wire.due == case.clock.now() + 20


async def test_continue_is_said_to_a_client_that_waits_for_it() -> None:
    waiting = Case(expects=True)
    waiting.start()
    await turn()
    assert waiting.client.out == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    await waiting.feed(b"x", ended=True)
    await waiting.done()
    hasty = Case(expects=True, before=b"x")
    hasty.start()
    await hasty.feed(ended=True)
    await hasty.done()
    assert hasty.client.out == []


# ── limits of a client ──


async def test_a_body_that_grows_too_large_is_given_up_before_it_is_passed_on() -> None:
    case = Case(most=5)
    case.start()
    await case.feed(b"abc", b"def")
    await case.done()
    assert type(case.fault) is errors.BodyTooLarge
    assert case.wire.out == [b"3\r\nabc\r\n"], "a body that breaks off must not look whole"


async def test_a_client_that_sends_nothing_is_given_up_in_time() -> None:
    case = Case()
    case.start()
    await turn()
    case.clock.advance(29)
    await case.feed(b"x")
    case.clock.advance(29)
    await turn()
    assert not case.wire.failed
    case.clock.advance(1)
    await case.done()
    assert isinstance(case.fault, errors.ClientTimeout)
    assert case.wire.out == [b"1\r\nx\r\n"]


async def test_a_client_that_is_too_slow_on_the_whole_is_given_up() -> None:
    case = Case(rate=10.0)
    case.start()
    await turn()
    for _ in range(5):
        case.clock.advance(1)
        await case.feed(b"x")
    assert not case.wire.failed, "the first seconds are not judged"
    case.clock.advance(1)
    await case.feed(b"x")
    await case.done()
    assert isinstance(case.fault, BodyTimeout)


async def test_a_client_at_the_rate_is_not_given_up() -> None:
    case = Case(rate=10.0)
    case.start()
    for _ in range(20):
        case.clock.advance(1)
        await case.feed(b"x" * 10)
    await case.feed(ended=True)
    await case.done()
    assert not case.wire.failed


async def test_time_that_the_upstream_takes_is_not_the_clients() -> None:
    case = Case(rate=10.0)
    case.wire.writing_paused = True
    case.start()
    await case.feed(b"x")
    await case.wire.draining.wait()
    assert case.upload.due == math.inf
    case.clock.advance(50)
    assert not case.wire.failed
    case.wire.may_write.set()
    await case.feed(b"y", ended=True)
    await case.done()
    assert not case.wire.failed


async def _unread(case: Case) -> Transport:
    """Wait until the upstream does not read the upload."""
    case.wire.writing_paused = True
    case.start()
    await case.feed(b"x")
    await case.wire.draining.wait()
    assert case.wire.transport is not None
    case.wire.transport.unread = 1000
    return case.wire.transport


async def test_an_upstream_that_reads_a_little_is_not_given_up_until_it_stops() -> None:
    case = Case()
    transport = await _unread(case)
    for _ in range(100):
        transport.unread -= 1
        case.clock.advance(59)
    assert not case.wire.failed
    case.clock.advance(59)
    assert not case.wire.failed
    case.clock.advance(1)
    assert type(case.fault) is errors.UpstreamHeaderTimeout
    case.clock.advance(1000)
    assert len(case.wire.failed) == 1
    case.wire.may_write.set()
    await case.feed(ended=True)
    await case.done()


async def test_an_upstream_that_answers_need_not_read_what_it_does_not_want() -> None:
    case = Case()
    await _unread(case)
    case.wire.overdue = errors.UpstreamBodyTimeout
    case.clock.advance(1000)
    assert not case.wire.failed, "its answer has an idle time of its own"
    case.wire.may_write.set()
    await case.feed(ended=True)
    await case.done()


# ── ends ──


async def test_a_client_that_left_is_told_to_whoever_waits_for_the_answer() -> None:
    case = Case()
    case.start()
    await turn()
    case.payload.set_exception(errors.ClientClosed("gone"))
    await case.done()
    assert type(case.fault) is errors.ClientClosed


async def test_an_upstream_that_is_gone_ends_the_upload() -> None:
    silent = Case()
    silent.start()
    await turn()
    silent.wire.transport = None
    await silent.feed(b"x")
    await silent.done()
    assert not silent.wire.failed, "its answer, if there is one, is read by another"
    reset = Case()

    def lose(_: object) -> None:
        raise ConnectionResetError("lost")

    reset.wire.transport.write = lose  # type: ignore[union-attr,method-assign]
    reset.start()
    await reset.feed(b"x")
    await reset.done()
    assert type(reset.fault) is errors.UpstreamReset


async def test_an_upload_that_is_cancelled_is_watched_no_more() -> None:
    case = Case()
    case.start()
    await turn()
    assert case.upload in case.clock.watched
    assert case.pumping is not None
    case.pumping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await case.done()
    assert case.upload not in case.clock.watched
    assert not case.wire.failed


@given(st.lists(st.binary(min_size=1, max_size=8), max_size=6), st.integers(0, 20))
def test_what_is_replayed_is_what_was_sent(pieces: list[bytes], keep: int) -> None:
    async def run() -> None:
        case = Case(keep=keep)
        case.start()
        await case.feed(*pieces, ended=True)
        await case.done()
        body = b"".join(pieces)
        assert case.exchange.bytes_in == len(body)
        assert case.upload.replayable is (len(body) <= keep or not pieces)
        if case.upload.replayable and pieces:
            assert case.upload.whole == body

    asyncio.run(run())


# ── downloads ──


def download(case: Case, **words: Any) -> Download:
    return Download(cast("Any", case.wire), case.payload, None, 60.0, **{"empty": False, **words})


async def test_a_response_that_has_come_is_at_hand_and_another_is_not() -> None:
    assert download(Case(before=b"abc", length=0)).at_hand() is None
    there = Case(length=0)
    await there.feed(b"abc", ended=True)
    assert download(there).at_hand() == b"abc"
    empty = Case(length=0)
    await empty.feed(ended=True)
    assert download(empty).at_hand() == b""


async def test_a_response_is_passed_block_by_block_and_its_silence_is_bounded() -> None:
    case = Case(length=0)
    blocks = download(case).blocks()
    await case.feed(b"abc")
    assert await anext(blocks) == b"abc"
    assert case.wire.due == math.inf, "the client's time is not the upstream's"
    assert case.wire.overdue is errors.UpstreamBodyTimeout
    waiting = asyncio.get_running_loop().create_task(anext(blocks))
    await turn()
    assert case.wire.due == case.clock.now() + 60
    case.payload.set_exception(ConnectionResetError("lost"))
    with pytest.raises(errors.UpstreamReset):
        await waiting


# ── to the client ──


async def _blocks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def _stream(case: Case, *pieces: bytes, chunked: bool = False) -> None:
    await stream(
        case.exchange, case.client, _blocks(*pieces), case.clock, chunked=chunked, idle=30.0
    )


@pytest.mark.parametrize(
    ("chunked", "out"), [(False, [b"abc", b"d"]), (True, [b"3\r\nabc\r\n", b"1\r\nd\r\n"])]
)
async def test_blocks_go_out_as_they_come(chunked: bool, out: list[bytes]) -> None:
    case = Case(length=0)
    await _stream(case, b"abc", b"d", chunked=chunked)
    assert case.client.out == out
    assert case.exchange.bytes_out == 4


async def test_a_client_that_is_gone_ends_the_stream() -> None:
    case = Case(length=0)
    case.client.transport = None
    with pytest.raises(errors.ClientClosed):
        await _stream(case, b"abc")
    assert case.exchange.bytes_out == 0


async def test_a_client_that_does_not_read_is_cut_off_in_time() -> None:
    case = Case(length=0)
    transport = case.client.transport
    assert transport is not None
    case.client.writing_paused = True
    streaming = asyncio.get_running_loop().create_task(_stream(case, b"abc", b"def"))
    await case.client.draining.wait()
    case.clock.advance(29)
    assert not transport.aborted
    case.clock.advance(1)
    assert transport.aborted
    case.client.transport = None
    case.client.may_write.set()
    with pytest.raises(errors.ClientTimeout):
        await streaming
    assert isinstance(case.exchange.fault, errors.ClientTimeout)
    assert case.client.out == [b"abc"]
    assert not case.clock.watched


async def test_a_client_that_reads_a_little_is_not_cut_off_until_it_stops() -> None:
    case = Case(length=0)
    transport = case.client.transport
    assert transport is not None
    case.client.writing_paused = True
    streaming = asyncio.get_running_loop().create_task(_stream(case, b"abc", b"def"))
    await case.client.draining.wait()
    transport.unread = 1000
    for _ in range(100):
        transport.unread -= 1
        case.clock.advance(29)
    assert not transport.aborted
    for _ in range(29):
        case.clock.advance(1)
    assert not transport.aborted
    case.clock.advance(1)
    assert transport.aborted
    case.client.transport = None
    case.client.may_write.set()
    with pytest.raises(errors.ClientTimeout):
        await streaming


async def test_a_client_that_reads_again_is_served_and_has_all_its_time_again() -> None:
    case = Case(length=0)
    case.client.writing_paused = True
    streaming = asyncio.get_running_loop().create_task(_stream(case, b"abc", b"def"))
    for _ in range(2):
        await case.client.draining.wait()
        case.clock.advance(29)
        case.client.draining.clear()
        case.client.may_write.set()
        await asyncio.sleep(0)
        case.client.may_write.clear()
    await turn()
    case.client.may_write.set()
    await streaming
    assert case.client.out == [b"abc", b"def"]
    assert not case.clock.watched
    assert case.exchange.fault is None
