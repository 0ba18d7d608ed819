"""What is remembered of credentials: for how long, how much, and not the credentials."""

from __future__ import annotations

import gc

from gateway.auth.remembered import Remembered, digest


def test_it_is_forgotten_at_its_end() -> None:
    cache: Remembered[str] = Remembered()
    cache.put(b"a", "A", until=10.0, weight=3)
    assert cache.get(b"a", 9.9) == "A"
    assert cache.get(b"a", 10.0) is None
    assert (len(cache), cache.weight) == (0, 0)
    assert cache.get(b"b", 0.0) is None


def test_what_was_used_longest_ago_makes_room() -> None:
    cache: Remembered[int] = Remembered(most=3)
    for number in range(3):
        cache.put(bytes([number]), number, until=10.0, weight=1)
    assert cache.get(b"\0", 0.0) == 0
    cache.put(b"\3", 3, until=10.0, weight=1)
    assert [cache.get(bytes([number]), 0.0) for number in range(4)] == [0, None, 2, 3]


def test_large_ones_are_as_bounded_as_many() -> None:
    cache: Remembered[int] = Remembered(most=1000, heaviest=100)
    for number in range(50):
        cache.put(bytes([number]), number, until=10.0, weight=30)
    assert (len(cache), cache.weight) == (3, 90)
    cache.put(b"x", 1, until=10.0, weight=101)
    assert (len(cache), cache.weight) == (0, 0)
    cache.put(b"x", 1, until=10.0, weight=60)
    cache.put(b"x", 2, until=10.0, weight=70)
    assert (cache.get(b"x", 0.0), cache.weight) == (2, 70)
    cache.clear()
    assert (len(cache), cache.weight) == (0, 0)


def test_no_credential_is_kept() -> None:
    token = "a-token-of-this-test-" + str(len("x"))
    cache: Remembered[int] = Remembered()
    cache.put(digest(token), 1, until=10.0, weight=len(token))
    assert not any(token in one for one in gc.get_referents(cache.__dict__) if isinstance(one, str))
    assert len(digest(token)) == 32
    assert digest("\udcff") != digest("ÿ")
