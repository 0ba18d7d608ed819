"""Limits of concurrency on an upstream's targets: who may be given whose place, and what reloads change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from gateway import errors
from gateway.config import model
from gateway.observe.metrics import Metrics
from gateway.tasks import spawn
from gateway.upstream.upstream import Upstream
from tests.kit.clock import FakeClock
from tests.observe.stand_in import exchange, samples

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.upstream.concurrency import Limit
    from gateway.upstream.target import Target

    Task = asyncio.Task[Limit[Target]]


def settings(*targets: model.Target | str, limit: int | None = 1, **words: Any) -> model.Upstream:
    made = tuple(one if isinstance(one, model.Target) else model.Target(url=one) for one in targets)
    concurrency = None if limit is None else model.Concurrency(per_target=limit)
    return model.Upstream(targets=made, **{"concurrency": concurrency, **words})


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(model.Metrics())


@pytest_asyncio.fixture
async def upstream(metrics: Metrics) -> AsyncIterator[Upstream]:
    made = Upstream("up", FakeClock(), metrics.upstream("up"))
    yield made
    await made.aclose()


def full(upstream: Upstream) -> None:
    """Every target has all that it may have."""
    for target in upstream.targets:
        assert target.limit is not None
        target.limit.busy = int(target.limit.most)


def leave(target: Target) -> None:
    assert target.limit is not None
    target.limit.leave()


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def waits(upstream: Upstream, target: Target, tried: tuple[Target, ...] = ()) -> Task:
    task = spawn(upstream.subset({}).enter(exchange(), target, tried), "waits")
    await turn()
    return task


async def test_targets_have_places_where_it_is_written_and_none_elsewhere(
    upstream: Upstream,
) -> None:
    upstream.apply(settings("http://a", limit=None))
    assert upstream.targets[0].limit is None
    upstream.apply(settings("http://a", limit=7))
    limit = upstream.targets[0].limit
    assert limit is not None
    assert limit.most == 7
    limit.busy = 3
    upstream.apply(settings("http://b", "http://a", limit=2))
    assert upstream.targets[1].limit is limit
    assert (limit.busy, limit.most) == (3, 2)


async def test_another_target_with_room_is_taken_in_place_of_one_that_has_none(
    upstream: Upstream,
) -> None:
    upstream.apply(settings("http://a", "http://b"))
    a, b = upstream.targets
    full(upstream)
    leave(b)
    taken = await upstream.subset({}).enter(exchange(), a)
    assert taken.target is b


async def test_one_that_was_tried_is_not_taken(upstream: Upstream) -> None:
    upstream.apply(settings("http://a", "http://b"))
    a, b = upstream.targets
    full(upstream)
    leave(b)
    task = await waits(upstream, a, (b,))
    assert not task.done()
    leave(a)
    await turn()
    assert task.result().target is a


async def test_a_backup_is_not_taken_while_the_others_are_only_busy(upstream: Upstream) -> None:
    upstream.apply(settings("http://a", model.Target(url="http://b", backup=True)))
    a, b = upstream.targets
    full(upstream)
    leave(b)
    task = await waits(upstream, a)
    assert not task.done()
    leave(a)
    await turn()
    assert task.result().target is a


async def test_hashing_waits_for_its_own_target(upstream: Upstream) -> None:
    hashing = {"balance": "hash:{client_ip}"}
    upstream.apply(settings("http://a", "http://b").model_copy(update=hashing))
    a, b = upstream.targets
    full(upstream)
    leave(b)
    task = await waits(upstream, a)
    assert not task.done()
    leave(a)
    await turn()
    assert task.result().target is a


async def test_a_branch_with_labels_waits_for_its_own_targets(upstream: Upstream) -> None:
    upstream.apply(settings("http://a", model.Target(url="http://b", labels={"v": "2"})))
    a, b = upstream.targets
    group = upstream.subset({"v": "2"})
    full(upstream)
    leave(a)
    task = spawn(group.enter(exchange(), b), "waits")
    await turn()
    assert not task.done()
    leave(b)
    await turn()
    assert task.result().target is b


async def test_a_target_that_goes_down_is_given_to_nobody_and_one_that_comes_back_is(
    upstream: Upstream,
) -> None:
    upstream.apply(settings("http://a", "http://b", panic=None))
    a, b = upstream.targets
    full(upstream)
    task = await waits(upstream, a)
    b.healthy = False
    upstream.refresh()
    leave(b)
    await turn()
    assert not task.done()
    b.healthy = True
    upstream.refresh()
    await turn()
    assert task.result().target is b


async def test_when_all_go_down_nobody_waits_any_longer(upstream: Upstream) -> None:
    upstream.apply(settings("http://a", "http://b"))
    full(upstream)
    task = await waits(upstream, upstream.targets[0])
    for target in upstream.targets:
        target.healthy = False
    upstream.refresh()
    await turn()
    with pytest.raises(errors.NoHealthyTarget):
        task.result()


async def test_in_a_panic_ejected_targets_are_given_too(upstream: Upstream) -> None:
    upstream.apply(settings("http://a", "http://b", panic=1.0))
    a, _ = upstream.targets
    full(upstream)
    for target in upstream.targets:
        target.ejected_until = 1e9
    upstream.refresh()
    task = await waits(upstream, a)
    leave(a)
    await turn()
    assert task.result().target is a


async def test_a_reload_that_takes_the_limit_away_lets_everybody_in(upstream: Upstream) -> None:
    upstream.apply(settings("http://a"))
    full(upstream)
    task = await waits(upstream, upstream.targets[0])
    upstream.apply(settings("http://a", limit=None))
    await turn()
    task.result().leave()  # counted nowhere any more, and no error


async def test_who_waits_is_in_the_queue_length_and_the_limit_is_told(
    upstream: Upstream, metrics: Metrics
) -> None:
    upstream.apply(settings("http://a", limit=3))
    full(upstream)
    task = await waits(upstream, upstream.targets[0])
    page = samples(metrics)
    assert page['gateway_queue_length{upstream="up"}'] == 1
    assert page['gateway_concurrency_limit{target="a:80",upstream="up"}'] == 3
    leave(upstream.targets[0])
    await task
    assert samples(metrics)['gateway_queue_length{upstream="up"}'] == 0


async def test_tries_teach_an_adaptive_limit(upstream: Upstream) -> None:
    concurrency = model.Concurrency(adaptive="enforce")
    upstream.apply(settings("http://a", concurrency=concurrency))
    [target] = upstream.targets
    limit, clock = target.limit, upstream.clock
    assert limit is not None
    assert isinstance(clock, FakeClock)
    before = limit.most
    full(upstream)
    for _ in range(20):
        clock.advance(0.1)
        target.succeeded(200, 0.01)
    assert limit.most > before
