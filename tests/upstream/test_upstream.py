"""An upstream: the parts of its targets' URLs, what a new configuration changes, who is picked."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from gateway.config import model
from gateway.observe.metrics import Metrics
from gateway.upstream.discovery import Found
from gateway.upstream.upstream import Target, Upstream
from tests.kit.clock import FakeClock
from tests.kit.origin import OK
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.upstream.wire import Wire
    from tests.conftest import MakeOrigin

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def settings(*urls: str | tuple[str, int], **words: Any) -> model.Upstream:
    pairs = [(url, 1) if isinstance(url, str) else url for url in urls]
    targets = tuple(model.Target(url=url, weight=weight) for url, weight in pairs)
    return model.Upstream(targets=targets, **words)


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[Upstream]:
    made = Upstream("up", FakeClock(), Metrics(model.Metrics()).upstream("up"))
    yield made
    await made.aclose()


# ── targets ──


@pytest.mark.parametrize(
    ("url", "name", "prefix", "endpoint", "unix"),
    [
        ("http://a", "a:80", "", "http://a", None),
        ("http://a:8080", "a:8080", "", "http://a:8080", None),
        ("http://a:8080/", "a:8080", "", "http://a:8080", None),
        ("http://a/base", "a:80", "/base", "http://a", None),
        ("http://a:81/base/v1/", "a:81", "/base/v1", "http://a:81", None),
        ("https://a", "a:443", "", "https://a", None),
        ("https://a:8443/x", "a:8443", "/x", "https://a:8443", None),
        ("http://10.0.0.1:9", "10.0.0.1:9", "", "http://10.0.0.1:9", None),
        ("http://[::1]", "[::1]:80", "", "http://[::1]", None),
        ("http://[::1]:8080", "[::1]:8080", "", "http://[::1]:8080", None),
        ("https://[2001:db8::7]/x", "[2001:db8::7]:443", "/x", "https://[2001:db8::7]", None),
        ("unix:/run/app.sock", "unix:/run/app.sock", "", "http://localhost", "/run/app.sock"),
    ],
)
def test_a_targets_url_is_taken_apart(
    url: str, name: str, prefix: str, endpoint: str, unix: str | None
) -> None:
    target = Target(url, True, None, FakeClock())
    assert (target.name, target.prefix, target.unix) == (name, prefix, unix)
    assert target.prefix_bytes == prefix.encode()
    assert target.authority == (b"localhost" if unix else name.encode())
    assert str(target.endpoint.url).rstrip("/") == endpoint


# ── what a new configuration changes ──


async def test_what_stays_keeps_its_target_and_takes_its_new_weight_at_once(
    upstream: Upstream,
) -> None:
    upstream.apply(settings(("http://a", 1), ("http://b", 1)))
    a, b = upstream.targets
    a.in_flight = 3
    upstream.apply(settings(("http://b", 5), ("http://c", 2), ("http://a", 4)))
    assert upstream.targets[0] is b
    assert upstream.targets[2] is a
    assert [target.weight for target in upstream.targets] == [5, 2, 4]
    assert a.in_flight == 3
    assert not a.connections.closed


async def test_what_is_gone_is_closed_and_a_new_one_when_it_comes_back(upstream: Upstream) -> None:
    upstream.apply(settings("http://a", "http://b"))
    a, b = upstream.targets
    upstream.apply(settings("http://b"))
    assert a.connections.closed
    assert upstream.targets == (b,)
    upstream.apply(settings("http://a", "http://b"))
    fresh, same = upstream.targets
    assert same is b
    assert fresh is not a
    assert not fresh.connections.closed


async def test_the_pools_settings_hold_for_targets_that_are_there(upstream: Upstream) -> None:
    upstream.apply(settings("http://a"))
    [target] = upstream.targets
    upstream.apply(settings("http://a", pool=model.Pool(max=7, idle=9.0, max_age=60.0)))
    connections = target.connections
    assert (connections.limit, connections.patience.configured, connections.max_age) == (
        7,
        9.0,
        60.0,
    )
    upstream.apply(settings("http://a", pool=model.Pool(max=None)))
    assert (connections.limit, connections.max_age) == (math.inf, math.inf)


async def test_other_tls_settings_make_other_targets(upstream: Upstream) -> None:
    upstream.apply(settings("https://a"))
    [before] = upstream.targets
    upstream.apply(settings("https://a"))
    assert upstream.targets == (before,)
    upstream.apply(settings("https://a", tls=model.UpstreamTls(server_name="b")))
    [after] = upstream.targets
    assert after is not before
    assert before.connections.closed


async def test_the_first_https_target_gets_a_context_of_its_own(upstream: Upstream) -> None:
    upstream.apply(settings("http://a"))
    plain = upstream.pool_for(settings("http://a"))
    assert plain.context is True
    assert upstream.pool_for(settings("http://b")) is plain
    assert upstream.pool_for(settings("http://a", "https://b")).context is not True


async def test_certificates_that_can_not_be_read_change_nothing(upstream: Upstream) -> None:
    upstream.apply(settings("http://a"))
    [before] = upstream.targets
    with pytest.raises(OSError):
        upstream.pool_for(settings("https://a", tls=model.UpstreamTls(ca="/nowhere/ca.pem")))
    assert upstream.targets == (before,)
    assert not before.connections.closed


@pytest.mark.parametrize(
    ("host", "fixed"), [("pass", None), ("target", None), ("b.example", b"b.example")]
)
async def test_the_host_that_targets_see(
    upstream: Upstream, host: str, fixed: bytes | None
) -> None:
    upstream.apply(settings("http://a", host=host))
    assert (upstream.host, upstream.fixed_host) == (host, fixed)


async def _used(upstream: Upstream, target: Target) -> Wire:
    """A connection that has served a request and rests."""
    async with asyncio.timeout(PATIENCE):
        wire = target.connections.take() or await target.connections.make(3.0, 1.0)
        wire.prepare(head_only=False, trailers=False)
        assert wire.transport is not None
        wire.transport.write(REQUEST)
        _, payload = await wire.head()
        assert await payload.read() == b"ok"
    target.connections.give_back(wire)
    return wire


async def test_connections_of_targets_that_stay_outlive_a_new_configuration(
    origin: MakeOrigin, upstream: Upstream
) -> None:
    near, far = await origin(OK), await origin(OK)
    upstream.apply(settings(near.url, far.url))
    wires = [await _used(upstream, target) for target in upstream.targets]
    upstream.apply(settings((near.url, 3), balance="round_robin"))
    [target] = upstream.targets
    assert await _used(upstream, target) is wires[0]
    assert len(near.connections) == 1
    assert wires[1].transport is None or wires[1].transport.is_closing()
    assert await far.connections[0].closed_soon()


async def test_a_request_under_way_when_its_target_goes_ends_with_its_connection(
    origin: MakeOrigin, upstream: Upstream
) -> None:
    near, far = await origin(OK), await origin(OK)
    upstream.apply(settings(near.url))
    [target] = upstream.targets
    wire = target.connections.take() or await target.connections.make(3.0, 1.0)
    upstream.apply(settings(far.url))
    assert wire.transport is not None
    assert not wire.transport.is_closing()
    target.connections.give_back(wire)
    assert await near.connections[0].closed_soon()
    assert target.connections.open == 0


# ── who is picked ──


async def test_a_single_target_is_picked_even_if_it_was_tried(upstream: Upstream) -> None:
    upstream.apply(settings("http://a"))
    [target] = upstream.targets
    assert upstream.pick() is target
    assert upstream.pick(None, [target]) is target


@pytest.mark.parametrize("balance", ["p2c", "round_robin"])
async def test_what_was_tried_is_not_picked_while_another_remains(
    upstream: Upstream, balance: str
) -> None:
    upstream.apply(settings("http://a", "http://b", "http://c", balance=balance))
    a, b, c = upstream.targets
    assert all(upstream.pick(None, [a, c]) is b for _ in range(20))
    assert {id(upstream.pick(None, [a])) for _ in range(50)} == {id(b), id(c)}
    assert {id(upstream.pick(None, [a, b, c])) for _ in range(100)} == {id(a), id(b), id(c)}


async def test_weights_that_have_changed_hold_at_once(upstream: Upstream) -> None:
    upstream.apply(settings(("http://a", 1), ("http://b", 1), balance="round_robin"))
    for _ in range(3):
        upstream.pick()
    upstream.apply(settings(("http://a", 1), ("http://b", 3), balance="round_robin"))
    seen = Counter(upstream.pick().name for _ in range(40))
    assert seen == {"a:80": 10, "b:80": 30}


async def test_a_new_configuration_goes_on_with_the_round(upstream: Upstream) -> None:
    """So that nobody gains by standing first when something is reloaded often."""
    wanted = settings(("http://a", 3), ("http://b", 1), balance="round_robin")
    upstream.apply(wanted)
    assert [upstream.pick().name for _ in range(2)] == ["a:80", "a:80"]
    upstream.apply(wanted)
    assert [upstream.pick().name for _ in range(4)] == ["b:80", "a:80", "a:80", "a:80"]


async def test_the_gauges_are_read_from_the_upstream_until_it_is_closed() -> None:
    metrics = Metrics(model.Metrics())
    meter = metrics.upstream("up")
    made = Upstream("up", FakeClock(), meter)
    assert meter.source is made
    made.apply(settings("http://a"))
    await made.aclose()
    assert meter.source is None
    assert made.targets[0].connections.closed
    other = Upstream("up", FakeClock(), meter)
    await made.aclose()
    assert meter.source is other, "one that is gone has taken the gauges of its successor away"
    await other.aclose()


# ── targets that are found ──


async def test_a_found_target_bears_the_name_behind_its_address(upstream: Upstream) -> None:
    upstream.apply(settings("http://a"))
    one = Found("https://10.0.0.1:443", 3, {"zone": "b"}, True, "a.test", "a.test")
    upstream.retarget([one])
    (target,) = upstream.targets
    assert (target.name, target.authority) == ("10.0.0.1:443", b"a.test")
    assert target.endpoint.server_hostname == "a.test"
    assert (target.weight, target.labels, target.backup) == (3, {"zone": "b"}, True)
    upstream.retarget([replace(one, weight=1)])
    assert upstream.targets == (target,)


async def test_the_same_address_under_another_name_is_another_target(upstream: Upstream) -> None:
    upstream.apply(settings("http://a"))
    upstream.retarget([Found("https://10.0.0.1:443", server_name="a.test")])
    (before,) = upstream.targets
    upstream.retarget([Found("https://10.0.0.1:443", server_name="b.test")])
    assert upstream.targets != (before,)
    assert before.connections.closed, "no request may use what was verified for another name"


async def test_a_name_that_is_written_is_asked_for_whatever_was_found(upstream: Upstream) -> None:
    upstream.apply(settings("http://a", tls=model.UpstreamTls(server_name="own.test")))
    upstream.retarget([Found("https://10.0.0.1:443", server_name="a.test")])
    assert upstream.targets[0].endpoint.server_hostname == "own.test"
