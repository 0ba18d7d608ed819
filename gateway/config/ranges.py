"""Values with bounds of their own: percentages, periods, ranges of statuses, quantiles.

The rules are those of `scalars.py`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)

from gateway.config.scalars import EXPANDED, Duration, parse_duration, read_text, refuse

Mode = Literal["report", "enforce"]
"""Of what refuses: whether it only says what it would have refused, or does it."""
SHORTEST = 0.01
"""Seconds: what happens again and again does not happen more often than this."""


def _not_too_short(value: float) -> float:
    if value < SHORTEST:
        raise refuse(f"{value * 1000:g}ms is too short here: at least 10ms is wanted")
    return value


Period = Annotated[Duration, AfterValidator(_not_too_short)]
"""A time that cannot be 0, because something is done once in it."""


def parse_percent(written: str) -> float:
    """0 to 100 of `50`, `50%` or `0.5%`. Raises ValueError with the fix."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s?%?", written.strip())
    if match is None:
        raise ValueError(f"{written!r} is no percentage: write one such as 50, or 50%")
    if float(match[1]) > 100:
        raise ValueError(f"{written} is more than the whole: at most 100 is wanted")
    return float(match[1])


def _percent(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not (math.isfinite(value) and 0 <= value <= 100):
            raise refuse(f"a percentage from 0 to 100 is wanted, not {value}")
        return float(value)
    try:
        return parse_percent(read_text(value, "a percentage such as 50"))
    except ValueError as error:
        raise refuse(str(error)) from None


Percent = Annotated[
    float,
    BeforeValidator(_percent),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 100},
                {"type": "string", "pattern": r"^\d+(\.\d+)?\s?%?$"},
                {"type": "string", "pattern": EXPANDED},
            ],
            "examples": [50, "50%"],
            "description": "0 to 100",
        }
    ),
]
"""0 to 100, not 0 to 1: `max_percent: 1` is a hundredth."""


@dataclass(frozen=True, slots=True)
class StatusRange:
    """Statuses from `low` to `high`, both included."""

    low: int
    high: int

    def __contains__(self, status: object) -> bool:
        return isinstance(status, int) and self.low <= status <= self.high

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


def parse_status_range(written: str) -> StatusRange:
    """`200`, `200-299` or `2xx`. Raises ValueError with the fix."""
    word = written.strip()
    classes = re.fullmatch(r"([1-5])[xX]{2}", word)
    if classes is not None:
        return StatusRange(int(classes[1]) * 100, int(classes[1]) * 100 + 99)
    match = re.fullmatch(r"([1-5]\d\d)(?:\s?-\s?([1-5]\d\d))?", word)
    if match is None:
        raise ValueError(f"{written!r} is no status: write one such as 200, or 200-299")
    low, high = int(match[1]), int(match[2] or match[1])
    if high < low:
        raise ValueError(f"{word} is empty: write {high}-{low}")
    return StatusRange(low, high)


def _status_range(value: object) -> StatusRange:
    if isinstance(value, StatusRange):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    try:
        return parse_status_range(read_text(value, "a status such as 200, or 200-299"))
    except ValueError as error:
        raise refuse(str(error)) from None


Statuses = Annotated[
    StatusRange,
    PlainValidator(_status_range),
    PlainSerializer(str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 100, "maximum": 599},
                {"type": "string", "pattern": r"^[1-5](\d\d(\s?-\s?[1-5]\d\d)?|[xX]{2})$"},
                {"type": "string", "pattern": EXPANDED},
            ],
            "examples": [200, "200-299"],
            "description": "a status, or a range of them",
        }
    ),
]


@dataclass(frozen=True, slots=True)
class Quantile:
    """`p95`: the time that a share (0 to 1) of requests stay below."""

    share: float

    def __str__(self) -> str:
        return f"p{self.share * 100:g}"


def _time_or_quantile(value: object) -> float | Quantile:
    if isinstance(value, Quantile):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not (math.isfinite(value) and value >= SHORTEST / 10):
            raise refuse(f"a time such as 200ms is wanted, or p95, not {value}")
        return float(value)
    word = read_text(value, "a time such as 200ms, or p95").strip()
    match = re.fullmatch(r"[pP](\d{1,2}(?:\.\d+)?)", word)
    if match is not None:
        if not 50 <= float(match[1]) < 100:
            raise refuse(f"{word}: from p50 to p99.9 is wanted")
        return Quantile(round(float(match[1]) / 100, 6))
    try:
        seconds = parse_duration(word)
    except ValueError as error:
        share = re.fullmatch(r"(\d{1,2}(?:\.\d+)?)\s?%", word)
        raise refuse(
            f"{error}; or p95" if share is None else f"{word} of answers: write p{share[1]}"
        ) from None
    if seconds < SHORTEST / 10:
        raise refuse(f"{word} is too short here: at least 1ms is wanted")
    return seconds


TimeOrQuantile = Annotated[
    float | Quantile,
    PlainValidator(_time_or_quantile),
    PlainSerializer(str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^[pP][5-9]\d(\.\d+)?$"},
                {"type": "string", "pattern": r"^\d+(\.\d+)?\s?(ms|s|m|h|d)$"},
                {"type": "string", "pattern": EXPANDED},
            ],
            "examples": ["p95", "200ms"],
            "description": "a time, or a quantile of the times so far",
        }
    ),
]
