"""Clients that ask at a given pace and count what becomes of every single request.

Rules of this file: nothing is ever sent twice, nothing is left uncounted; the number of requests
and the time that one may take are bounded. The pace is kept whatever the answers do, as clients of
the world keep it: a slow answer does not slow down who comes next. A connection is used again as
long as the gateway lets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

PATIENCE = 10.0
"""Seconds after which a client gives a request up; it is counted as `late`."""
MOST = 10_000
"""Requests that one load may send."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to send again and again."""

    method: str = "GET"
    path: str = "/"
    keyed: bool = False
    """With an Idempotency-Key of its own."""
    body: bytes = b""

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent twice (RFC 9110 section 9.2.2, or by its key)."""
        return self.keyed or self.method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS")

    def to(self, path: str) -> Ask:
        """The same for another path."""
        return replace(self, path=path)


GET = Ask()
PUT = Ask("PUT", body=b"put")
POST = Ask("POST", body=b"post")
KEYED = Ask("POST", keyed=True, body=b"keyed")
MIX = (GET, POST, GET, KEYED, GET, PUT)
"""A bit of everything."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request."""

    number: str
    """As the upstream was told in X-Drill."""
    ask: Ask
    began: float
    """Seconds of the event loop's clock."""
    took: float
    word: str
    """The status, with the gateway's own reason behind it if there is one; `cut`: the answer began
    and did not end; `refused`, `closed`: there was none; `late`; `crossed`: it was another request's."""
    origin: str
    """Which upstream answered."""


class Load:
    """Requests to one address, and their outcomes."""

    def __init__(self, address: str, *, most: int = MOST, patience: float = PATIENCE) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host, int(port)
        self._patience = patience
        self._most = most
        self._tasks: set[asyncio.Task[None]] = set()
        self._pacing: asyncio.Task[None] | None = None
        self._resting: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.sent = 0
        self.outcomes: list[Outcome] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.settle()
        tasks = [task for task in (self._pacing, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _, writer in self._resting:
            await _close(writer)
        self._resting.clear()

    # ── asking ──

    def at(self, rate: float, asks: Sequence[Ask] = (GET,)) -> None:
        """Send `rate` requests a second, these in turn, until `settle`, or until told otherwise."""
        self._stop_pacing()
        self._pacing = asyncio.get_running_loop().create_task(self._pace(rate, asks))

    async def burst(self, count: int, asks: Sequence[Ask] = (GET,)) -> None:
        """Send so many at once, and wait for all of them."""
        await asyncio.gather(*(self._begin(asks[each % len(asks)]) for each in range(count)))

    async def settle(self) -> None:
        """Begin no further request; wait until all that were begun have an outcome."""
        self._stop_pacing()
        while self._tasks:
            await asyncio.gather(*self._tasks)
            # From Python 3.12 on gather() does not yield where every task is done, and what is done
            # leaves the set by a callback of the loop: without this the loop never comes to it.
            await asyncio.sleep(0)
        assert len(self.outcomes) == self.sent, "a request without an outcome"

    def _stop_pacing(self) -> None:
        if self._pacing is not None:
            self._pacing.cancel()
            self._pacing = None

    async def _pace(self, rate: float, asks: Sequence[Ask]) -> None:
        loop = asyncio.get_running_loop()
        began, count = loop.time(), 0
        while True:
            _ = self._begin(asks[count % len(asks)])
            count += 1
            await asyncio.sleep(max(0.0, began + count / rate - loop.time()))

    def _begin(self, ask: Ask) -> asyncio.Task[None]:
        assert self.sent < self._most, f"more than {self._most} requests"
        self.sent += 1
        task = asyncio.get_running_loop().create_task(self._ask(ask, str(self.sent)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _ask(self, ask: Ask, number: str) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        origin = ""
        try:
            async with asyncio.timeout(self._patience):
                word, origin = await self._exchange(ask, number)
        except TimeoutError:
            word = "late"
        self.outcomes.append(Outcome(number, ask, began, loop.time() - began, word, origin))

    async def _exchange(self, ask: Ask, number: str) -> tuple[str, str]:
        """Word and origin."""
        reader, writer = await self._connection()
        if writer is None or reader is None:
            return "refused", ""
        whole = False
        try:
            key = f"Idempotency-Key: {number}\r\n" if ask.keyed else ""
            length = f"Content-Length: {len(ask.body)}\r\n" if ask.body else ""
            writer.write(
                f"{ask.method} {ask.path} HTTP/1.1\r\nHost: drill\r\nX-Drill: {number}\r\n"
                f"{key}{length}\r\n".encode()
                + ask.body
            )
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            except (asyncio.IncompleteReadError, ConnectionError):
                return "closed", ""
            start, fields = _parsed(head)
            try:
                await _skip_body(reader, fields)
            except (asyncio.IncompleteReadError, ConnectionError):
                return "cut", fields.get("x-origin", "")
            whole = fields.get("connection", "") != "close"
            origin = fields.get("x-origin", "")
            if origin and fields.get("x-drill") != number:
                return "crossed", origin
            return _word(start, fields), origin
        finally:
            if whole:
                self._resting.append((reader, writer))
            else:
                await _close(writer)

    async def _connection(
        self,
    ) -> tuple[asyncio.StreamReader | None, asyncio.StreamWriter | None]:
        while self._resting:
            reader, writer = self._resting.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            await _close(writer)
        try:
            return await asyncio.open_connection(self._host, self._port)
        except OSError:
            return None, None

    # ── counting ──

    @property
    def counts(self) -> Counter[str]:
        """How many requests had each outcome."""
        return Counter(outcome.word for outcome in self.outcomes)

    def failed(self, *, repeatable: bool | None = None) -> list[Outcome]:
        """Every outcome but 200; of those only that may, or may not, be sent twice."""
        return [
            outcome
            for outcome in self.outcomes
            if outcome.word != "200" and repeatable in (None, outcome.ask.repeatable)
        ]

    def sent_twice(self, arrivals: Counter[str]) -> list[str]:
        """Of what may not be sent twice: the numbers that have arrived more than once."""
        once = {outcome.number for outcome in self.outcomes if not outcome.ask.repeatable}
        return [number for number, times in arrivals.items() if times > 1 and number in once]

    def since(self, moment: float) -> list[Outcome]:
        """The outcomes of requests that began at or after this moment of the loop's clock."""
        return [outcome for outcome in self.outcomes if outcome.began >= moment]

    def __repr__(self) -> str:
        return f"<Load: {self.sent} sent, {dict(self.counts)}>"


def peak(outcomes: Sequence[Outcome]) -> int:
    """How many of these requests were under way at once, at most."""
    turns = [(outcome.began, 1) for outcome in outcomes]
    turns += [(outcome.began + outcome.took, -1) for outcome in outcomes]
    return max(accumulate(step for _, step in sorted(turns)), default=0)


def quantile(outcomes: Sequence[Outcome], share: float) -> float:
    """Seconds within which `share` of these requests were answered."""
    times = sorted(outcome.took for outcome in outcomes)
    assert times, "no request in that time"
    return times[min(len(times) - 1, math.ceil(share * len(times)) - 1)]


def _parsed(head: str) -> tuple[str, dict[str, str]]:
    start, *lines = head.split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return start, {name.lower(): value.strip() for name, _, value in pairs}


def _word(start: str, fields: dict[str, str]) -> str:
    status = start.split(" ")[1]
    reason = fields.get("proxy-status", "").partition('details="')[2].rstrip('"')
    return f"{status} {reason}" if reason else status


async def _skip_body(reader: asyncio.StreamReader, fields: dict[str, str]) -> None:
    if fields.get("transfer-encoding") != "chunked":
        if "content-length" not in fields:
            await reader.read()
            return
        await reader.readexactly(int(fields["content-length"]))
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        await reader.readexactly(size + 2)
    await reader.readuntil(b"\r\n")


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
