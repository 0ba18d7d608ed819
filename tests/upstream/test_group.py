"""From whom is picked: health, ejection, drain, circuits, backups, panic, slow start, subsets, cookies."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway import errors
from gateway.config import model
from gateway.identity import Identity
from gateway.observe.metrics import Metrics
from gateway.upstream.upstream import Target, Upstream
from tests.kit.clock import FakeClock

if TYPE_CHECKING:
    from gateway.exchange import Exchange

SECRET = "a secret that is long enough for it"
WORDS = ["p2c", "round_robin", "random", "least_requests", "ewma", "hash:{header.x-key}"]


class Circuit:
    def __init__(self) -> None:
        self.refuses = True


def made(*targets: Any, **words: Any) -> Upstream:
    """An upstream with targets a, b, c …: `targets` are numbers of them or what each is given beside its URL."""
    given = [dict(one) for one in targets] if len(targets) != 1 else [{}] * targets[0]
    wanted = tuple(
        model.Target(url=f"http://{chr(97 + at)}", **one) for at, one in enumerate(given)
    )
    upstream = Upstream("up", FakeClock(), Metrics(model.Metrics()).upstream("up"))
    upstream.apply(model.Upstream(targets=wanted).replaced(**words), secrets=[SECRET])
    return upstream


def asking(key: str = "k", cookie: str = "") -> Exchange:
    fields = CIMultiDict({"X-Key": key, "Cookie": cookie})
    return cast("Exchange", SimpleNamespace(headers=fields, captures={"id": key}, scheme="http"))


def known(value: str) -> Identity:
    return Identity("keys", value, {"tenant": value, "realm": {"team": value}})


def names(upstream: Any, count: int = 60, tried: Any = ()) -> Counter[str]:
    return Counter(upstream.pick(asking(str(at)), tried).name[0] for at in range(count))


def clock_of(upstream: Upstream) -> FakeClock:
    assert isinstance(upstream.clock, FakeClock)
    return upstream.clock


def eject(upstream: Upstream, *targets: Target) -> None:
    for target in targets:
        target.ejected_until = upstream.clock.now() + 10
    upstream.refresh()


def down(upstream: Upstream, *targets: Target) -> None:
    for target in targets:
        target.healthy = False
    upstream.refresh()


def panics(upstream: Upstream) -> list[tuple[str, str]]:
    return [(event.kind, event.why) for event in upstream.meter.events.select()]


# ── what holds whatever happens ──

STATES = st.fixed_dictionaries(
    {
        "healthy": st.booleans(),
        "draining": st.booleans(),
        "ejected_until": st.sampled_from([0.0, 1e9]),
        "breaker": st.sampled_from([None, Circuit()]),
        "backup": st.booleans(),
        "in_flight": st.integers(0, 5),
        "weight": st.integers(0, 3),
    }
)


@pytest.mark.parametrize("balance", WORDS)
@given(states=st.lists(STATES, min_size=1, max_size=6), data=st.data())
def test_what_can_not_be_used_is_never_picked(
    balance: str, states: list[dict[str, Any]], data: st.DataObject
) -> None:
    upstream = made(*[{}] * len(states) if len(states) > 1 else [1], balance=balance)
    for target, state in zip(upstream.targets, states, strict=True):
        vars(target).update(state)
    upstream.refresh()
    usable = [target for target in upstream.targets if target.usable]
    available = [target for target in usable if not target.ejected_until]
    primary = [target for target in available if not target.backup]
    tried = data.draw(st.lists(st.sampled_from(upstream.targets), unique_by=id))
    if not usable:
        kind = errors.CircuitOpen if "cut off" in states_of(upstream) else errors.NoHealthyTarget
        with pytest.raises(kind):
            upstream.pick(asking(), tried)
        return
    for key in "abc":
        first, again = upstream.pick(asking(key)), upstream.pick(asking(key), tried)
        assert {first, again} <= set(usable)
        if primary:
            assert not first.backup
        if not upstream.subset({}).panic:
            assert first in available
            assert again in available or set(available) <= set(tried)
        drawn = primary or available
        if any(target not in tried for target in drawn):
            assert again not in tried
        if upstream.only is not None:
            assert first is upstream.only


def states_of(upstream: Upstream) -> list[str]:
    return [target.state for target in upstream.targets]


def test_whoever_can_not_be_picked_is_named_in_the_refusal() -> None:
    upstream = made(3)
    a, b, c = upstream.targets
    a.healthy = b.healthy = False
    c.draining = True
    upstream.refresh()
    with pytest.raises(errors.NoHealthyTarget) as refused:
        upstream.pick(asking())
    assert refused.value.detail == "targets of up: 2 down, 1 draining"
    c.draining = False
    c.breaker = Circuit()
    upstream.refresh()
    with pytest.raises(errors.CircuitOpen):
        upstream.pick(asking())


@pytest.mark.parametrize("balance", WORDS)
def test_who_comes_back_is_picked_again(balance: str) -> None:
    upstream = made(3, balance=balance)
    before = names(upstream)
    target = upstream.targets[1]
    down(upstream, target)
    assert set(names(upstream)) == {"a", "c"}
    target.healthy = True
    upstream.refresh()
    assert set(names(upstream)) == {"a", "b", "c"}
    if balance.startswith("hash"):
        assert names(upstream) == before


# ── backups ──


def test_backups_are_for_when_no_primary_is_available() -> None:
    upstream = made({}, {}, {"backup": True}, {"backup": True})
    a, b, *_ = upstream.targets
    assert set(names(upstream)) == {"a", "b"}
    eject(upstream, a)
    assert set(names(upstream)) == {"b"}
    down(upstream, b)
    assert set(names(upstream)) == {"c", "d"}
    b.healthy = True
    upstream.refresh()
    assert set(names(upstream)) == {"b"}


def test_a_backup_takes_a_further_try_when_all_primaries_were_tried() -> None:
    upstream = made({}, {}, {"backup": True})
    a, b, c = upstream.targets
    assert upstream.pick(asking(), [a]) is b
    assert upstream.pick(asking(), [a, b]) is c
    assert set(names(upstream, tried=[a, b, c])) == {"a", "b"}
    down(upstream, b)
    assert upstream.only is a
    assert upstream.pick(asking(), [a]) is c


def test_an_ejected_target_takes_a_further_try_when_all_others_were_tried() -> None:
    upstream = made({}, {}, {}, {"backup": True}, panic=None)
    a, b, c, backup = upstream.targets
    eject(upstream, a)
    assert names(upstream) == {"b": pytest.approx(30, abs=29), "c": pytest.approx(30, abs=29)}
    assert upstream.pick(asking(), [b]) is c
    assert upstream.pick(asking(), [b, c]) is backup
    assert upstream.pick(asking(), [b, c, backup]) is a
    assert upstream.pick(asking(), [b, c, backup, a]) in (b, c)
    down(upstream, a)
    assert upstream.pick(asking(), [b, c, backup]) in (b, c)


def test_backups_alone_are_an_upstream_too() -> None:
    upstream = made({"backup": True}, {"backup": True})
    assert set(names(upstream)) == {"a", "b"}


# ── panic ──


def test_with_too_few_left_ejections_are_set_aside_and_that_is_an_event() -> None:
    upstream = made(4, panic=0.5)
    a, b, _, d = upstream.targets
    down(upstream, d)
    eject(upstream, a)
    assert set(names(upstream)) == {"b", "c"}, "half of them is not fewer than half"
    eject(upstream, b)
    assert set(names(upstream)) == {"a", "b", "c"}, "never one that is down"
    a.ejected_until = 0.0
    upstream.refresh()
    assert set(names(upstream)) == {"a", "c"}
    assert panics(upstream) == [
        ("panic_on", "1 of 4 targets of up are available"),
        ("panic_off", "2 of 4 targets of up are available"),
    ]


def test_who_drains_does_not_count_towards_panic() -> None:
    upstream = made(4, panic=0.5)
    a, b, c, _ = upstream.targets
    a.draining = b.draining = True
    eject(upstream, c)
    assert set(names(upstream)) == {"d"}


def test_without_panic_ejections_hold_to_the_last() -> None:
    upstream = made(2, panic=None)
    a, b = upstream.targets
    eject(upstream, a)
    assert set(names(upstream)) == {"b"}
    eject(upstream, b)
    with pytest.raises(errors.NoHealthyTarget):
        upstream.pick(asking())


def test_a_backup_that_can_be_used_comes_before_a_panic() -> None:
    upstream = made({}, {}, {"backup": True}, panic=0.5)
    a, b, c = upstream.targets
    eject(upstream, a, b)
    assert set(names(upstream)) == {"c"}
    down(upstream, c)
    assert set(names(upstream)) == {"a", "b"}
    down(upstream, a, b)
    c.healthy = True
    eject(upstream, c)
    assert set(names(upstream)) == {"c"}, "an ejected backup is better than nobody"


# ── slow start ──


def test_a_target_that_comes_back_gets_its_share_bit_by_bit() -> None:
    upstream = made({"weight": 2}, {"weight": 2}, slow_start=30.0, balance="round_robin")
    clock = clock_of(upstream)
    target = upstream.targets[1]
    assert names(upstream) == {"a": 30, "b": 30}, "a start is no coming back"

    async def ramp() -> list[int]:
        down(upstream, target)
        target.healthy, target.since = True, clock.now()
        upstream.refresh()
        found = []
        for _ in range(4):
            found.append(names(upstream, 110)["b"])
            clock.advance(7.5)
        found.append(names(upstream, 110)["b"])
        upstream.close()
        return found

    import asyncio

    first, *rest, last = asyncio.run(ramp())
    assert 9 <= first <= 11, "a tenth of the other's"
    assert rest == sorted(rest)
    assert first < rest[0] < rest[-1] < last
    assert last == 55
    assert [one.share for one in upstream.targets] == [2, 2]


async def test_a_new_target_warms_up_and_those_that_are_there_do_not() -> None:
    upstream = made(1, slow_start=30.0, balance="round_robin")
    wanted = tuple(model.Target(url=f"http://{name}") for name in "ab")
    upstream.apply(upstream.settings.replaced(targets=wanted))
    assert names(upstream, 55) == {"a": 50, "b": 5}
    await upstream.aclose()


async def test_slow_start_that_is_switched_off_ends_at_once() -> None:
    upstream = made(1, slow_start=30.0, balance="round_robin")
    wanted = tuple(model.Target(url=f"http://{name}") for name in "ab")
    upstream.apply(upstream.settings.replaced(targets=wanted))
    upstream.apply(upstream.settings.replaced(slow_start=None))
    assert names(upstream) == {"a": 30, "b": 30}
    await upstream.aclose()


# ── hash keys ──


@pytest.mark.parametrize(
    "key",
    [
        "{header.x-key}", "{cookie.id}", "{client_ip}", "{path.id}", "{host}/{header.x-key}",
        "{consumer}", "{claim.tenant}", "{claim.realm.team}",
    ],
)  # fmt: skip
def test_the_same_key_goes_to_the_same_target(key: str) -> None:
    upstream = made(4, balance=f"hash:{key}")

    def view(value: str) -> Exchange:
        fields = CIMultiDict({"X-Key": value, "Cookie": f"id={value}"})
        return cast(
            "Exchange",
            SimpleNamespace(
                headers=fields, captures={"id": value}, client_ip=value, host="h",
                identity=known(value),
            ),
        )  # fmt: skip

    for value in ("ann", "bob", "eve"):
        assert len({upstream.pick(view(value)) for _ in range(20)}) == 1
    assert len({upstream.pick(view(str(at))) for at in range(100)}) == 4


@pytest.mark.parametrize("key", ["{consumer}", "{claim.tenant}"])
def test_requests_of_nobody_are_spread(key: str) -> None:
    upstream = made(4, balance=f"hash:{key}")
    nobody = cast("Exchange", SimpleNamespace(identity=None))
    assert len({upstream.pick(nobody) for _ in range(200)}) == 4


def test_requests_without_the_header_are_spread() -> None:
    upstream = made(4, balance="hash:{header.x-other}")
    assert set(names(upstream, 200)) == {"a", "b", "c", "d"}


# ── subsets ──

V1, V2 = {"labels": {"version": "v1", "zone": "a"}}, {"labels": {"version": "v2"}}


def test_a_branch_takes_who_bears_its_labels_and_one_without_takes_the_rest() -> None:
    upstream = made(V1, V2, V2, {})
    canary = upstream.subset({"version": "v2"})
    rest = upstream.subset({}, [{"version": "v2"}, {}])
    assert set(names(canary)) == {"b", "c"}
    assert set(names(rest)) == {"a", "d"}
    assert set(names(upstream.subset({"version": "v1", "zone": "a"}))) == {"a"}
    assert set(names(upstream)) == {"a", "b", "c", "d"}
    assert upstream.subset({}) is upstream.subset({}, [{}])


def test_a_subset_is_the_same_as_long_as_somebody_holds_it() -> None:
    upstream = made(V1, V2)
    held = upstream.subset({"version": "v2"})
    assert upstream.subset({"version": "v2"}) is held
    assert held.upstream is upstream


def test_a_subset_follows_health_and_new_settings() -> None:
    upstream = made(V1, V2, V2)
    canary = upstream.subset({"version": "v2"})
    down(upstream, upstream.targets[1])
    assert canary.only is upstream.targets[2]
    targets = (*upstream.settings.targets, model.Target(url="http://d", **V2))
    upstream.apply(upstream.settings.replaced(targets=targets, balance="round_robin"))
    assert names(canary) == {"c": 30, "d": 30}


def test_a_subset_that_nobody_belongs_to_is_refused_by_its_name() -> None:
    nobody = made(V1, V2).subset({"version": "v3"})
    with pytest.raises(errors.NoHealthyTarget) as refused:
        nobody.pick(asking())
    assert refused.value.detail == "targets of up (version=v3): none"


def test_a_subset_panics_by_itself() -> None:
    upstream = made(V1, V1, V1, V2, V2, V2, panic=0.5)
    canary = upstream.subset({"version": "v2"})
    eject(upstream, *upstream.targets[3:5])
    assert canary.panic
    assert not upstream.subset({}).panic
    assert panics(upstream) == [("panic_on", "1 of 3 targets of up (version=v2) are available")]


# ── cookies ──


def bound(on_failure: str, *targets: Any, **words: Any) -> Upstream:
    sticky = model.Sticky(cookie="gw", on_failure=on_failure)
    return made(*(targets or (3,)), sticky=sticky, **words)


def client_of(upstream: Upstream, target: Target) -> Exchange:
    assert upstream.sticky is not None
    return asking(cookie=f"gw={upstream.sticky.value(target)}")


@pytest.mark.parametrize("on_failure", ["redistribute", "fail"])
@pytest.mark.parametrize("balance", WORDS)
def test_a_client_with_a_cookie_goes_where_it_was(balance: str, on_failure: str) -> None:
    upstream = bound(on_failure, balance=balance)
    for target in upstream.targets:
        target.in_flight = 7
        client = client_of(upstream, target)
        assert all(upstream.pick(client) is target for _ in range(20))
    assert len(names(upstream, 100)) == 3, "those without a cookie are spread"


@pytest.mark.parametrize("hinder", [down, eject])
def test_a_client_whose_target_fails_is_sent_to_another(hinder: Any) -> None:
    upstream = bound("redistribute")
    a, b, c = upstream.targets
    client = client_of(upstream, b)
    assert upstream.pick(client, [b]) in (a, c)
    hinder(upstream, b)
    assert {upstream.pick(client) for _ in range(50)} == {a, c}


@pytest.mark.parametrize("hinder", [down, eject])
def test_a_client_whose_target_fails_is_told_so_where_that_is_wanted(hinder: Any) -> None:
    upstream = bound("fail", panic=None)
    a, b, c = upstream.targets
    client = client_of(upstream, b)
    assert upstream.pick(client, [b]) is b, "nobody else has its session"
    hinder(upstream, b)
    with pytest.raises(errors.NoHealthyTarget) as refused:
        upstream.pick(client)
    assert refused.value.detail.startswith("b:80, which this client's cookie names, is ")
    hinder(upstream, a)
    assert upstream.only is None, "it would take clients of others in"
    assert upstream.pick(asking()) is c
    with pytest.raises(errors.NoHealthyTarget):
        upstream.pick(client)


def test_a_client_whose_target_is_gone_for_good_gets_a_new_one() -> None:
    upstream = bound("fail")
    client = client_of(upstream, upstream.targets[2])
    upstream.apply(
        upstream.settings.replaced(targets=upstream.settings.targets[:2]), secrets=[SECRET]
    )
    assert upstream.pick(client).name[0] in "ab"


def test_cookies_outlive_a_reload_with_another_secret_in_front() -> None:
    upstream = bound("redistribute")
    client = client_of(upstream, upstream.targets[1])
    upstream.apply(upstream.settings, secrets=["another secret that is long enough", SECRET])
    assert all(upstream.pick(client) is upstream.targets[1] for _ in range(20))


def test_a_client_bound_to_a_target_of_another_branch_gets_one_of_this() -> None:
    upstream = bound("fail", V1, V2)
    client = client_of(upstream, upstream.targets[0])
    assert upstream.subset({"version": "v2"}).pick(client) is upstream.targets[1]


def test_a_client_bound_to_a_backup_stays_there_if_it_must_and_goes_home_if_it_may() -> None:
    for on_failure, wanted in (("fail", "b"), ("redistribute", "a")):
        upstream = bound(on_failure, {}, {"backup": True})
        client = client_of(upstream, upstream.targets[1])
        assert upstream.pick(client).name[0] == wanted


# ── latency ──


def test_latency_is_kept_where_the_balancer_asks_for_it() -> None:
    upstream = made(2, balance="ewma")
    a, b = upstream.targets
    a.succeeded(200, 0.010)
    b.succeeded(200, 0.500)
    assert set(names(upstream)) == {"a"}
    a.failed(errors.ConnectRefused(), 0.001)
    assert set(names(upstream)) == {"b"}
    upstream.apply(upstream.settings.replaced(balance="p2c"))
    assert (a.speed, b.speed) == (None, None)


@pytest.mark.parametrize("balance", ["p2c", "round_robin", "hash:{header.x-key}"])
def test_a_target_that_was_down_when_it_left_is_forgotten(balance: str) -> None:
    upstream = made(3, balance=balance)
    gone = weakref.ref(upstream.targets[2])
    down(upstream, upstream.targets[2])
    assert set(names(upstream)) == {"a", "b"}
    upstream.apply(upstream.settings.replaced(targets=upstream.settings.targets[:2]))
    gc.collect()
    assert gone() is None
