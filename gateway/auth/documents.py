"""JSON that a stranger has written: claims of a token, key sets, answers of an identity provider.

Rules of this file: what two readers could read differently is refused, not repaired: duplicate members, NaN, text that is
no UTF-8 or holds half a character (RFC 8259 sections 4, 6, 8). Bounded in size by the caller, in depth here.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

DEEPEST = 32
"""Levels of a document. Claims and key sets need four."""


class BadDocument(ValueError):
    """It is not what it should be; its text says why, for people, and quotes nothing of it."""


def read(data: bytes) -> dict[str, Any]:
    """The object that `data` is. Raises BadDocument."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise BadDocument("it is not UTF-8") from None
    try:
        value = _parse(text)
    except BadDocument:
        raise
    except RecursionError:
        raise BadDocument(f"it is deeper than {DEEPEST} levels") from None
    except ValueError:  # among them: a number of more than 4300 digits
        raise BadDocument("it is no JSON") from None
    if not isinstance(value, dict):
        raise BadDocument("it is no JSON object")
    if text.count("{") + text.count("[") > DEEPEST:
        _measure(value)
    if "\\u" in text:
        _spell(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise BadDocument("a member stands twice in it")
    return made


def _constant(_: str) -> Any:
    raise BadDocument("it holds a number that JSON has not")


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise BadDocument("it holds a number that is too large")
    return value


_parse = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_float=_float
).decode


def _measure(value: Any) -> None:
    """Refuse what is too deep. One level after another, so that depth costs no stack."""
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        level = [inner for one in level for inner in _inner(one)]
        if not level:
            return
    raise BadDocument(f"it is deeper than {DEEPEST} levels")


def _inner(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _spell(value: Any) -> None:
    """Refuse half a character: `\\ud800` alone is no text, and would be an error where it is written."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise BadDocument("it holds half a character") from None
