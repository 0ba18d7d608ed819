"""Percentages, periods, ranges of statuses and quantiles: what is written is what is read, and nothing else passes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from gateway.config.ranges import (
    Percent,
    Period,
    Quantile,
    Statuses,
    StatusRange,
    TimeOrQuantile,
    parse_percent,
    parse_status_range,
)

STATUS = st.integers(100, 599)


def read(kind: object, value: object) -> object:
    return TypeAdapter(kind).validate_python(value)


def refusal(kind: object, value: object) -> str:
    with pytest.raises(ValidationError) as raised:
        read(kind, value)
    return raised.value.errors()[0]["msg"]


@given(STATUS, STATUS)
def test_a_range_is_read_as_it_is_shown_and_holds_what_lies_within(one: int, other: int) -> None:
    low, high = sorted((one, other))
    made = StatusRange(low, high)
    assert parse_status_range(str(made)) == made
    assert [status for status in range(90, 610) if status in made] == list(range(low, high + 1))


@given(st.text())
def test_no_text_is_read_as_a_range_that_is_empty_or_beyond_what_there_is(text: str) -> None:
    with contextlib.suppress(ValueError):
        made = parse_status_range(text)
        assert 100 <= made.low <= made.high <= 599


@given(st.floats(0, 100))
def test_a_percentage_is_the_same_with_and_without_its_sign(number: float) -> None:
    written = f"{number:.6f}"
    assert parse_percent(written) == parse_percent(f"{written}%") == float(written)
    assert read(Percent, number) == number


@pytest.mark.parametrize("value", ["101", "-1", "50 per cent", "", 100.5, -1, True, float("nan")])
def test_what_is_no_percentage_is_refused(value: object) -> None:
    assert any(word in refusal(Percent, value) for word in ("percentage", "more than the whole"))


@pytest.mark.parametrize("value", ["0s", "9ms", 0, 0.001])
def test_what_is_done_again_and_again_is_not_done_without_a_pause(value: object) -> None:
    assert "at least 10ms is wanted" in refusal(Period, value)
    assert read(Period, "10ms") == 0.01


@pytest.mark.parametrize(
    ("written", "meaning"),
    [
        ("p95", Quantile(0.95)),
        ("P50", Quantile(0.5)),
        ("p99.9", Quantile(0.999)),
        ("250ms", 0.25),
        (0.25, 0.25),
        (Quantile(0.9), Quantile(0.9)),
    ],
)
def test_a_time_or_a_quantile_is_either(written: object, meaning: object) -> None:
    assert read(TimeOrQuantile, written) == meaning
    if isinstance(meaning, Quantile):
        assert read(TimeOrQuantile, str(meaning)) == meaning


@pytest.mark.parametrize("value", ["p100", "p49", "95", "p", "0ms", 0, True, "fast"])
def test_what_is_neither_is_refused(value: object) -> None:
    assert refusal(TimeOrQuantile, value)


@pytest.mark.parametrize("value", [99, 600, "200-", "2-3", "1xx-2xx", None, True])
def test_what_is_no_status_is_refused(value: object) -> None:
    assert refusal(Statuses, value)
