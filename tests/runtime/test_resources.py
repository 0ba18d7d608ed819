"""Claims, commit and sweep."""

from __future__ import annotations

import pytest

from gateway.runtime.resources import Resources


class Thing:
    def __init__(self) -> None:
        self.closed = False

    async def aclose(self) -> None:
        self.closed = True


def claimed(resources: Resources, generation: int, *keys: str) -> list[Thing]:
    claims = resources.begin(generation)
    things = [claims.claim("thing", key, Thing) for key in keys]
    claims.commit()
    return things


def test_what_is_claimed_again_is_the_same_object() -> None:
    resources = Resources()
    first = claimed(resources, 1, "a", "b")
    assert claimed(resources, 2, "a", "b") == first
    assert len(resources) == 2


def test_the_same_key_of_another_kind_is_another_object() -> None:
    claims = Resources().begin(1)
    one, other = claims.claim("thing", "a", Thing), claims.claim("other", "a", Thing)
    assert one is not other
    assert claims.claim("thing", "a", Thing) is one


def test_a_sweep_takes_what_no_living_generation_claims() -> None:
    resources = Resources()
    a, b = claimed(resources, 1, "a", "b")
    claimed(resources, 2, "a")
    assert resources.sweep(1) == []
    assert resources.sweep(2) == [b]
    assert resources.of("thing") == [a]


def test_what_is_claimed_again_before_the_sweep_lives_on() -> None:
    resources = Resources()
    (a,) = claimed(resources, 1, "a")
    claimed(resources, 2)
    assert claimed(resources, 3, "a") == [a]
    assert resources.sweep(3) == []


async def test_a_compilation_that_fails_leaves_no_trace() -> None:
    resources = Resources()
    (old,) = claimed(resources, 1, "old")
    changes: list[str] = []
    claims = resources.begin(2)
    new = claims.claim("thing", "new", Thing)
    claims.claim("thing", "old", Thing)
    claims.at_commit(lambda: changes.append("changed"))
    await claims.discard()
    assert new.closed
    assert not old.closed
    assert changes == []
    assert resources.of("thing") == [old]
    assert resources.sweep(2) == [old], "an abandoned claim has kept it"


def test_changes_of_settings_wait_for_the_commit() -> None:
    changes: list[str] = []
    claims = Resources().begin(1)
    claims.at_commit(lambda: changes.append("one"))
    claims.at_commit(lambda: changes.append("two"))
    assert changes == []
    claims.commit()
    assert changes == ["one", "two"]


def test_a_value_that_can_not_be_made_is_not_kept() -> None:
    claims = Resources().begin(1)

    def fail() -> Thing:
        raise ValueError("no")

    with pytest.raises(ValueError):
        claims.claim("thing", "a", fail)
    assert isinstance(claims.claim("thing", "a", Thing), Thing)
