"""Which branch of a split a request takes."""

from __future__ import annotations

from collections import Counter
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from gateway.config import model
from gateway.identity import Identity
from gateway.upstream.split import Split

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.upstream.upstream import Upstream


class Standing:
    """Stands for an upstream: remembers which subsets are asked for."""

    def __init__(self, name: str) -> None:
        self.name = name

    def subset(self, labels: dict[str, str], others: list[dict[str, str]]) -> Any:
        rest = [other for other in others if other and other != labels]
        return (self.name, *sorted(labels.items()), *(["rest"] if rest and not labels else []))


def split(*branches: dict[str, Any], route: str = "r", seed: int = 1) -> Split:
    made = [
        model.Branch.model_construct(
            **{"upstream": "up", "weight": 1, "labels": {}, "sticky_by": None, **one}
        )
        for one in branches
    ]
    upstreams = cast("dict[str, Upstream]", {name: Standing(name) for name in ("up", "next")})
    return Split(route, made, upstreams, Random(seed).random)


def asking(ip: str = "", cookie: str = "") -> Exchange:
    fields = CIMultiDict({"Cookie": cookie} if cookie else {})
    return cast("Exchange", SimpleNamespace(client_ip=ip, headers=fields))


def drawn(made: Split, count: int = 4000) -> Counter[Any]:
    return Counter(made.draw(asking(f"10.0.{at >> 8}.{at & 255}")) for at in range(count))


def test_one_branch_is_no_split() -> None:
    assert split({}).only == ("up",)
    assert split({}, {"upstream": "next"}).only is None


@pytest.mark.parametrize("sticky_by", [None, "client_ip"])
def test_branches_are_drawn_by_weight(sticky_by: str | None) -> None:
    seen = drawn(split({"weight": 9}, {"upstream": "next", "sticky_by": sticky_by}))
    assert set(seen) == {("up",), ("next",)}
    assert abs(seen[("next",)] - 400) < 100, "five standard deviations"


def test_a_branch_without_labels_is_told_those_of_the_others_of_its_upstream_only() -> None:
    made = split({}, {"labels": {"v": "2"}}, {"upstream": "next"})
    assert set(drawn(made)) == {("up", "rest"), ("up", ("v", "2")), ("next",)}


@given(st.text(st.characters(categories=["L", "N", "P"]), min_size=1), st.integers(0, 100))
def test_the_same_client_always_takes_the_same_branch(ip: str, seed: int) -> None:
    branches = [{"weight": 5}, {"upstream": "next", "weight": 3, "sticky_by": "client_ip"}]
    assert split(*branches).draw(asking(ip)) == split(*branches, seed=seed).draw(asking(ip))


def test_whoever_is_a_canary_stays_one_while_the_canary_grows() -> None:
    def canaries(weight: int, route: str = "r") -> set[int]:
        branches = {"weight": 100 - weight}, {"upstream": "next", "weight": weight, **by}
        made = split(*branches, route=route)
        return {at for at in range(2000) if made.draw(asking(str(at))) == ("next",)}

    by = {"sticky_by": "client_ip"}
    assert canaries(5) < canaries(10) < canaries(50)
    assert len(canaries(10) & canaries(10, "another")) < 60, "other routes try it on others"


def test_requests_without_the_value_go_by_weight() -> None:
    made = split({"weight": 3}, {"upstream": "next", "sticky_by": "cookie.id"})
    seen = Counter(made.draw(asking(cookie="other=1")) for _ in range(400))
    assert 40 < seen[("next",)] < 160
    assert len({made.draw(asking(cookie="id=7")) for _ in range(20)}) == 1


@pytest.mark.parametrize("key", ["consumer", "claim.tenant"])
def test_the_same_consumer_always_takes_the_same_branch_wherever_it_comes_from(key: str) -> None:
    made = split({"weight": 3}, {"upstream": "next", "sticky_by": key})

    def of(name: str, ip: str) -> Any:
        identity = Identity("keys", name, {"tenant": name})
        return made.draw(cast("Exchange", SimpleNamespace(client_ip=ip, identity=identity)))

    taken = {name: {of(name, f"10.0.0.{at}") for at in range(20)} for name in map(str, range(400))}
    assert all(len(branches) == 1 for branches in taken.values())
    assert 40 < sum(branches == {("next",)} for branches in taken.values()) < 160
    nobody = cast("Exchange", SimpleNamespace(identity=None))
    assert len({made.draw(nobody) for _ in range(200)}) == 2, "nobody is no consumer: by weight"


@given(st.lists(st.integers(1, 100), min_size=2, max_size=5), st.floats(0, 1))
def test_every_draw_is_a_branch(weights: list[int], point: float) -> None:
    made = split(*({"weight": weight} for weight in weights))
    made._random = lambda: point
    assert made.draw(asking()) == ("up",)
