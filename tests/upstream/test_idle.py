"""The connections of one target: which are kept, how many there are, who waits."""

from __future__ import annotations

import asyncio
import math
import socket
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from gateway import errors
from gateway.config import model
from gateway.upstream.idle import Connections
from gateway.upstream.pool import Pool
from gateway.upstream.wire import Dialer, Endpoint, Wire
from tests.kit.clock import FakeClock
from tests.kit.origin import OK
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.conftest import MakeOrigin
    from tests.kit.origin import Origin, Peer

    MakeTarget = Callable[..., Awaitable["Target"]]


class Counts:
    def __init__(self) -> None:
        self.opened = 0
        self.reused = 0
        self.waits: list[float] = []

    def waited(self, seconds: float) -> None:
        self.waits.append(seconds)


class Target:
    """An origin, its connections, and what was counted."""

    def __init__(self, up: Origin) -> None:
        self.up = up
        self.clock = FakeClock()
        self.counts = Counts()
        self.pool = Pool(model.UpstreamTls(), encrypted=False)
        dialer = Dialer(lambda: self.pool.session(None), Endpoint(up.url, True, None), self.clock)
        self.connections = Connections(dialer, self.clock, self.counts)
        self.leased: set[Wire] = set()

    async def lease(self, wait: float | None = None, connect: float | None = None) -> Wire:
        wire = self.connections.take() or await self.connections.make(connect, wait)
        self.leased.add(wire)
        return wire

    def give_back(self, wire: Wire) -> None:
        self.leased.discard(wire)
        self.connections.give_back(wire)

    def end(self, wire: Wire) -> None:
        self.leased.discard(wire)
        wire.end()

    async def ask(self, wire: Wire) -> None:
        """One request and its response on `wire`."""
        wire.prepare(head_only=False, trailers=False)
        assert wire.transport is not None
        wire.transport.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        _, payload = await wire.head()
        assert await payload.read() == b"ok"

    async def serve(self) -> Wire:
        """Lease, ask, give back."""
        wire = await self.lease()
        await self.ask(wire)
        self.give_back(wire)
        return wire

    async def queue(self, wait: float | None = None) -> asyncio.Task[Wire]:
        """A request that waits for a connection, once it does."""
        before = len(self.connections.waiting)
        task = asyncio.get_running_loop().create_task(self.lease(wait))
        while len(self.connections.waiting) == before:
            await asyncio.sleep(0)
        return task

    async def aclose(self) -> None:
        for wire in [*self.leased]:
            wire.end()
        self.connections.close()
        await self.pool.aclose()
        assert self.connections.open == 0
        assert not self.connections.waiting
        assert not self.clock.watched


@pytest_asyncio.fixture
async def target(_leak_guard: None, origin: MakeOrigin) -> AsyncIterator[MakeTarget]:
    made: list[Target] = []

    async def make(script: Any = OK, **settings: float) -> Target:
        one = Target(await origin(script))
        one.connections.patience.configure(settings.pop("idle", 4.0))
        for name, value in settings.items():
            setattr(one.connections, name, value)
        made.append(one)
        return one

    yield make
    for one in made:
        await one.aclose()


# ── reuse ──


async def test_a_connection_is_used_again(target: MakeTarget) -> None:
    one = await target()
    wires = [await one.serve() for _ in range(3)]
    assert len(set(wires)) == 1
    assert wires[0].used == 3
    assert (one.counts.opened, one.counts.reused, one.counts.waits) == (1, 2, [])
    assert len(one.up.connections) == 1


async def test_the_last_one_given_back_is_the_first_one_taken(target: MakeTarget) -> None:
    one = await target()
    first, second, third = [await one.lease() for _ in range(3)]
    for wire in (second, third, first):
        await one.ask(wire)
        one.give_back(wire)
    assert [await one.lease() for _ in range(3)] == [first, third, second]


async def test_a_connection_that_rested_for_idle_for_is_ended(target: MakeTarget) -> None:
    one = await target(idle=4.0)
    wire = await one.serve()
    one.clock.advance(3.9)
    assert wire.is_connected()
    one.clock.advance(0.2)
    assert not wire.is_connected()
    assert one.connections.open == 0
    assert one.connections.take() is None


async def test_a_leased_connection_is_not_ended_for_its_earlier_rest(target: MakeTarget) -> None:
    one = await target(idle=4.0)
    await one.serve()
    wire = await one.lease()
    one.clock.advance(100)
    assert wire.due == math.inf
    await one.ask(wire)


async def test_a_connection_past_max_age_is_ended_when_given_back(target: MakeTarget) -> None:
    one = await target(max_age=60.0)
    wire = await one.lease()
    await one.ask(wire)
    one.clock.advance(61)
    one.give_back(wire)
    assert not wire.is_connected()
    assert one.connections.open == 0


@pytest.mark.parametrize("ending", ["fin", "rst", "bytes"])
async def test_a_connection_that_ends_at_rest_is_not_handed_over(
    target: MakeTarget, ending: str
) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await go.wait()
        if ending == "bytes":
            await peer.send(OK)
            await peer.rest()
        elif ending == "rst":
            peer.reset()

    one = await target(script)
    await one.serve()
    go.set()
    async with asyncio.timeout(PATIENCE):
        while one.connections.open:
            await asyncio.sleep(0.005)
    assert one.connections.take() is None
    assert not one.connections.resting


async def test_a_target_that_ends_connections_at_rest_teaches_how_long_they_may(
    target: MakeTarget,
) -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await go.wait()

    one = await target(script, idle=30.0)
    await one.serve()
    one.clock.advance(5.0)
    go.set()
    async with asyncio.timeout(PATIENCE):
        while one.connections.open:
            await asyncio.sleep(0.005)
    assert one.connections.patience.keep_for == pytest.approx(4.0, abs=0.2)
    go.clear()
    wire = await one.serve()
    one.clock.advance(4.5)
    assert not wire.is_connected(), "it rests no longer than the target lets it"
    go.set()


async def test_where_no_connection_may_rest_each_request_has_its_own(target: MakeTarget) -> None:
    one = await target(idle=0.0)
    first = await one.serve()
    assert not first.is_connected()
    assert (await one.serve()) is not first
    assert one.connections.open == 0


async def test_a_response_that_ends_the_connection_leaves_nothing_at_rest(
    target: MakeTarget,
) -> None:
    one = await target(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
    await one.serve()
    assert (one.connections.open, one.connections.resting) == (0, [])


async def test_half_a_response_is_never_given_to_the_next(target: MakeTarget) -> None:
    one = await target(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    wire = await one.lease()
    wire.prepare(head_only=False, trailers=False)
    assert wire.transport is not None
    wire.transport.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    await wire.head()
    one.give_back(wire)
    assert not wire.is_connected()
    assert one.connections.take() is None


# ── the limit and the queue ──


async def test_nobody_gets_a_connection_over_the_limit(target: MakeTarget) -> None:
    one = await target(limit=2)
    held = [await one.lease() for _ in range(2)]
    waiting = await one.queue()
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert one.connections.open == 2
    await one.ask(held[0])
    one.give_back(held[0])
    assert await waiting is held[0]
    assert one.counts.opened == 2
    assert len(one.counts.waits) == 1


async def test_who_came_first_is_served_first(target: MakeTarget) -> None:
    one = await target(limit=1)
    wire = await one.lease()
    queue = [await one.queue() for _ in range(3)]
    for number, turn in enumerate(queue):
        await one.ask(wire)
        one.give_back(wire)
        assert await turn is wire
        assert not any(later.done() for later in queue[number + 1 :])


async def test_who_waits_too_long_is_told_pool_timeout(target: MakeTarget) -> None:
    one = await target(limit=1)
    await one.lease()
    waiting = await one.queue(1.0)
    one.clock.advance(0.9)
    await asyncio.sleep(0)
    assert not waiting.done()
    one.clock.advance(0.2)
    with pytest.raises(errors.PoolTimeout):
        await waiting
    assert not one.connections.waiting
    assert not one.clock.timers


async def test_a_connection_that_ends_makes_room(target: MakeTarget) -> None:
    one = await target(limit=1)
    wire = await one.lease()
    waiting = await one.queue()
    one.end(wire)
    fresh = await waiting
    assert fresh is not wire
    assert one.connections.open == 1


async def test_a_newcomer_does_not_take_the_room_of_one_that_waits(target: MakeTarget) -> None:
    one = await target(limit=1)
    wire = await one.lease()
    waiting = await one.queue()
    one.end(wire)
    newcomer = asyncio.get_running_loop().create_task(one.lease())
    got = await waiting
    await asyncio.sleep(0.05)
    assert one.connections.open == 1
    assert len(one.up.connections) <= 2
    assert not newcomer.done()
    await one.ask(got)
    one.give_back(got)
    assert await newcomer is got


async def test_who_stops_waiting_leaves_no_trace(target: MakeTarget) -> None:
    one = await target(limit=1)
    wire = await one.lease()
    waiting = await one.queue(5.0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not one.connections.waiting
    assert not one.clock.timers
    await one.ask(wire)
    one.give_back(wire)
    assert one.connections.take() is wire
    one.leased.add(wire)


@pytest.mark.parametrize("way", ["given-back", "ended"])
async def test_who_leaves_in_the_very_moment_passes_its_turn_on(
    target: MakeTarget, way: str
) -> None:
    one = await target(limit=1)
    wire = await one.lease()
    leaving, staying = await one.queue(), await one.queue()
    await one.ask(wire)
    if way == "given-back":
        one.give_back(wire)
    else:
        one.end(wire)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    async with asyncio.timeout(PATIENCE):
        got = await staying
    assert (got is wire) == (way == "given-back")
    assert one.connections.open == 1


async def test_a_connection_that_dies_on_its_way_to_a_waiter_is_replaced(
    target: MakeTarget,
) -> None:
    one = await target(limit=1)
    wire = await one.lease()
    waiting = await one.queue()
    await one.ask(wire)
    one.give_back(wire)
    wire.data_received(b"H")  # between being handed over and being used
    got = await waiting
    assert got is not wire
    assert one.connections.open == 1
    await one.ask(got)


async def test_a_failed_connection_gives_its_place_back(target: MakeTarget) -> None:
    one = await target(limit=1)
    await one.up.refuse()
    for _ in range(3):
        with pytest.raises(errors.ConnectRefused):
            await one.lease(wait=0.0)
    assert one.connections.open == 0
    assert one.counts.opened == 0


async def test_connecting_for_too_long_is_a_connect_timeout(
    target: MakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await target(limit=1)

    async def never(self: Dialer) -> Wire:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr(Dialer, "dial", never)
        with pytest.raises(errors.ConnectTimeout):
            await one.lease(connect=0.05)
    assert one.connections.open == 0
    await one.lease()


async def test_cancelling_a_connection_that_is_being_made_gives_its_place_back(
    target: MakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await target(limit=1)
    begun = asyncio.Event()

    async def never(self: Dialer) -> Wire:
        begun.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    monkeypatch.setattr(Dialer, "dial", never)
    task = asyncio.get_running_loop().create_task(one.lease())
    await begun.wait()
    assert one.connections.open == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert one.connections.open == 0


# ── closing ──


async def test_closing_ends_what_rests_at_once_and_what_is_leased_when_given_back(
    target: MakeTarget,
) -> None:
    one = await target()
    busy, resting = await one.lease(), await one.lease()
    await one.ask(resting)
    one.give_back(resting)
    one.connections.close()
    assert not resting.is_connected()
    assert busy.is_connected()
    await one.ask(busy)
    one.give_back(busy)
    assert not busy.is_connected()
    assert one.connections.open == 0


# ── servers that end resting connections ──


async def lost(one: Target, *wires: Wire) -> None:
    """The target ends the connections of these; wait until that is known here."""
    for wire in wires:
        assert wire.transport is not None
        local = wire.transport.get_extra_info("sockname")
        (peer,) = (peer for peer in one.up.connections if _remote(peer) == local)
        peer.sock.shutdown(socket.SHUT_RDWR)  # its script ends, and closes it
    async with asyncio.timeout(PATIENCE):
        while any(wire.resting for wire in wires):
            await asyncio.sleep(0.01)


def _remote(peer: Peer) -> Any:
    return peer.sock.getpeername() if peer.sock.fileno() >= 0 else None


async def test_a_target_that_ends_a_resting_connection_is_not_let_to_do_so_again(
    target: MakeTarget,
) -> None:
    one = await target(idle=4.0)
    wire = await one.serve()
    one.clock.advance(2.0)
    await lost(one, wire)
    assert 1.4 < one.connections.patience.keep_for <= 1.6
    again = await one.serve()
    one.clock.advance(1.8)
    assert not again.is_connected(), "it was ended by us, before the target would have"


async def test_connections_that_rest_already_are_ended_sooner_too(target: MakeTarget) -> None:
    one = await target(idle=4.0)
    first, second = await one.lease(), await one.lease()
    await one.ask(first)
    await one.ask(second)
    one.give_back(first)
    one.clock.advance(1.0)
    one.give_back(second)
    one.clock.advance(1.0)
    await lost(one, first)
    one.clock.advance(0.8)
    assert not second.is_connected()


async def test_a_connection_that_we_end_is_no_lesson(target: MakeTarget) -> None:
    one = await target(idle=4.0)
    for seconds in (4.1, 3.0):
        await one.serve()
        one.clock.advance(seconds)
    one.connections.close()
    assert one.connections.patience.keep_for == 4.0
    assert one.connections.patience.limit is None


async def test_a_connection_that_is_lost_with_a_request_on_it_is_no_lesson(
    target: MakeTarget,
) -> None:
    one = await target(idle=4.0)
    await one.serve()
    one.clock.advance(2.0)
    wire = await one.lease()
    await one.up.hang_up()
    async with asyncio.timeout(PATIENCE):
        while wire.is_connected():
            await asyncio.sleep(0.01)
    one.end(wire)
    assert one.connections.patience.keep_for == 4.0


async def test_where_nothing_may_rest_nothing_does_until_it_is_tried_again(
    target: MakeTarget,
) -> None:
    one = await target(idle=4.0)
    wire = await one.serve()
    one.clock.advance(0.4)
    await lost(one, wire)
    assert one.connections.patience.keep_for == 0.0
    assert not (await one.serve()).resting
    one.clock.advance(61)
    await one.serve()
    assert (await one.serve()).resting


async def test_another_setting_keeps_what_the_target_has_taught(target: MakeTarget) -> None:
    one = await target(idle=4.0)
    wire = await one.serve()
    one.clock.advance(2.0)
    await lost(one, wire)
    learned = one.connections.patience.keep_for
    one.connections.patience.configure(30.0)
    assert one.connections.patience.keep_for == learned


def never(_: object) -> bool:
    """A request that can not be sent twice."""
    return False


async def test_a_request_that_can_not_be_sent_twice_takes_no_connection_that_rested_long(
    target: MakeTarget,
) -> None:
    one = await target(idle=4.0)
    wire = await one.serve()
    one.clock.advance(0.9)
    assert one.connections.take(never) is wire
    one.give_back(wire)
    one.clock.advance(1.1)
    assert one.connections.take(never) is None
    assert wire.resting
    assert one.connections.take(lambda _: True) is wire, "another request takes it"
    one.give_back(wire)


async def test_there_is_room_for_the_new_connection_that_it_takes_instead(
    target: MakeTarget,
) -> None:
    one = await target(idle=4.0, limit=2)
    first, second = await one.lease(), await one.lease()
    for wire in (first, second):
        await one.ask(wire)
        one.give_back(wire)
    one.clock.advance(1.1)
    assert one.connections.take(never) is None
    assert (first.resting, second.resting) == (False, True), (
        "the one that rested longest makes room"
    )
    fresh = await one.connections.make(None, 0.0)
    assert one.connections.open == 2
    assert one.connections.patience.keep_for == 4.0, "nor is that a lesson"
    fresh.end()


async def test_what_was_outlived_makes_longer_rests_sure(target: MakeTarget) -> None:
    one = await target(idle=4.0)
    await one.serve()
    one.clock.advance(4.1)
    wire = await one.serve()
    one.clock.advance(2.7)
    assert one.connections.take(never) is wire
    one.give_back(wire)
