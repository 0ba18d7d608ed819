"""Lines that take turns: nobody's many keep out another's few.

Rules of this file: who waits is a pair of a name and a number; nothing here waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity import Identity
from gateway.upstream.fairness import Lines, line_of

if TYPE_CHECKING:
    from gateway.exchange import Exchange


@dataclass(frozen=True, eq=False)
class One:
    who: str
    number: int


def anybody(_: One) -> bool:
    return True


def lines_of(words: str) -> Lines[One]:
    lines: Lines[One] = Lines()
    for number, who in enumerate(words):
        lines.append(One(who, number))
    return lines


def drained(lines: Lines[One]) -> str:
    order = ""
    while (one := lines.take(anybody)) is not None:
        order += one.who
    return order


def test_lines_take_turns() -> None:
    assert drained(lines_of("aaaaabbc")) == "abcabaaa"


def test_within_a_line_the_first_is_first() -> None:
    lines = lines_of("ababab")
    numbers = [one.number for _ in range(6) if (one := lines.take(anybody)) is not None]
    assert numbers == [0, 1, 2, 3, 4, 5]


def test_who_comes_back_waits_for_the_others_first() -> None:
    lines = lines_of("aab")
    lines.take(anybody)
    lines.append(One("c", 9))
    assert drained(lines) == "bac"


def test_one_that_does_not_suit_is_passed_over_and_keeps_its_turn() -> None:
    lines = lines_of("abab")
    found = lines.take(lambda one: one.who == "b")
    assert found is not None
    assert found.number == 1
    assert drained(lines) == "aba"


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("come"), st.sampled_from("abcd")),
            st.tuples(st.just("serve"), st.just("")),
        ),
        max_size=80,
    )
)
def test_who_waits_is_served_before_anybody_else_is_served_twice(
    steps: list[tuple[str, str]],
) -> None:
    lines: Lines[One] = Lines()
    waiting: dict[str, list[int]] = {}
    since: dict[str, set[str]] = {}
    """By who waits: whom he has seen served since he began to wait."""
    for number, (what, who) in enumerate(steps):
        if what == "come":
            lines.append(One(who, number))
            if not waiting.get(who):
                since[who] = set()
            waiting.setdefault(who, []).append(number)
            continue
        served = lines.take(anybody)
        if served is None:
            assert not any(waiting.values())
            continue
        assert waiting[served.who].pop(0) == served.number
        for other, line in waiting.items():
            if other != served.who and line:
                assert served.who not in since[other], "twice, while another waited"
                since[other].add(served.who)
        since[served.who] = set()
    assert len(lines) == sum(map(len, waiting.values())) == len([*lines])


@given(st.text("abcdef", max_size=200), st.integers(1, 20))
def test_the_room_of_a_full_queue_is_shared(words: str, room: int) -> None:
    lines: Lines[One] = Lines()
    asked: dict[str, int] = {}
    for number, who in enumerate(words):
        asked[who] = asked.get(who, 0) + 1
        if len(lines) < room or lines.give_way(who, anybody) is not None:
            lines.append(One(who, number))
        assert len(lines) <= room
    counts = {who: sum(one.who == who for one in lines) for who in asked}
    assert len(lines) == min(room, len(words))
    for who, count in counts.items():
        if count < asked[who]:
            assert max(counts.values()) <= count + 1, "somebody has more, and this one was refused"


def test_the_longest_line_loses_its_last() -> None:
    lines = lines_of("aaab")
    gone = lines.give_way("b", anybody)
    assert gone is not None
    assert (gone.who, gone.number) == ("a", 2)


def test_nobody_gives_way_to_his_equal() -> None:
    assert lines_of("aabb").give_way("a", anybody) is None
    assert lines_of("aabb").give_way("b", anybody) is None
    assert lines_of("aab").give_way("b", anybody) is None, "two and one would become one and two"


@pytest.mark.parametrize(
    ("address", "consumer", "line"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::", "", "2001:db8:1:2::"),
        ("unix", "", "unix"),
        ("fe80::1%eth0", "", "fe80::"),
        ("2001:db8::1", "ann", "consumer ann"),
    ],
)
def test_a_line_is_a_consumers_or_an_addresses(address: str, consumer: str, line: str) -> None:
    identity = Identity("p", consumer) if consumer else None
    one = cast("Exchange", SimpleNamespace(client_ip=address, identity=identity))
    assert line_of(one) == line
    nobody: Any = None
    assert line_of(nobody) == ""
