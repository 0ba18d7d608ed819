"""API keys, as `keys_file` of an `api_key` policy lists them: by their SHA-256, never themselves.

Rules of this file: every mistake at once, each at its place; no message repeats a value, for whoever
mistakes the file may have written the key itself into it. There is no `${…}` here, and no include.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from gateway.config import ConfigError
from gateway.config.effective import Place, Problem
from gateway.config.forms import NULL, Model, around
from gateway.config.nodes import Map, Seq, Source, Text, compose
from gateway.config.report import Context
from gateway.config.scalars import Trap, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator

_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:\d\d)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_WORD = re.compile(r"[!-~]+")
_RESERVED = ("id", "scopes", "groups")
"""Claims that have keys of their own."""


def _text(value: object, what: str) -> str:
    if isinstance(value, Trap):
        raise refuse(f"{what} is wanted")  # the trap's own words repeat what is written
    if not isinstance(value, str) or not value:
        raise refuse(f"{what} is wanted")
    if _CONTROL.search(value):
        raise refuse(f"{what} is wanted, without control characters")
    return str(value)


def _name(value: object) -> str:
    return _text(value, "a name")


def _word(value: object) -> str:
    word = _text(value, "a word")
    if not _WORD.fullmatch(word):
        raise refuse("a word without spaces is wanted (RFC 6749 section 3.3)")
    return word


def _digest(value: object) -> bytes:
    word = _text(value, "the SHA-256 of a key, in hex,")
    if not _DIGEST.fullmatch(word):
        raise refuse(
            "the SHA-256 of a key is wanted, in 64 hex digits: `gateway hash-key --stdin` makes it from "
            "a key"
        )
    return bytes.fromhex(word)


def parse_expiry(written: str) -> float:
    """Unix seconds from which on a key counts no more. A date is good to the end of that day, UTC.

    Raises ValueError.
    """
    if re.fullmatch(r"\d{4}-\d\d-\d\d", written):
        day = date.fromisoformat(written)
        end = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
        return end.timestamp()
    if not _MOMENT.fullmatch(written):
        raise ValueError("it is neither a date nor a moment with its zone")
    return datetime.fromisoformat(written.upper()).timestamp()


def _expiry(value: object) -> float | None:
    if value is None or (isinstance(value, Text) and value.plain and value in NULL):
        return None
    try:
        return parse_expiry(_text(value, "a date"))
    except (ValueError, OverflowError):
        raise refuse(
            "a date such as 2027-01-31 is wanted (good to the end of that day, UTC), or a moment such as "
            "2027-01-31T12:00:00Z"
        ) from None


def _plain(value: object) -> object:
    """Refuses what could be read two ways; free data has no type that would."""
    if isinstance(value, Trap):
        raise refuse(value.message)
    for one in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        _plain(one)
    return value


class Key(Model):
    """One key."""

    id: Annotated[str, BeforeValidator(_name)] = Field(description="what logs may call it")
    sha256: Annotated[bytes, BeforeValidator(_digest)] = Field(description="of the key, in hex")
    consumer: Annotated[str, BeforeValidator(_name)] | None = Field(
        None, description="whose it is; built in: its id"
    )
    expires: Annotated[float | None, BeforeValidator(_expiry)] = Field(
        None, description="a date, good to its end in UTC, or a moment"
    )
    scopes: tuple[Annotated[str, BeforeValidator(_word)], ...] = Field((), description="what for")
    groups: tuple[Annotated[str, BeforeValidator(_name)], ...] = Field((), description="of whom")
    claims: Annotated[dict[str, Any], BeforeValidator(_plain)] = Field(
        default_factory=dict, description="what else is known of it"
    )

    @classmethod
    def full_form(cls, value: Text | Seq) -> Map:  # noqa: ARG003 - it may be the key itself
        """There is no short form."""
        raise refuse("a mapping is wanted, such as {id: …, sha256: …, consumer: …}")


class _Keys(Model):
    """The whole file."""

    keys: tuple[Key, ...] = Field(description="all that are accepted")


def read_keys(content: str, name: str) -> tuple[Key, ...]:
    """The keys of a file; `name` is the file's, for messages. Raises ConfigError with every mistake."""
    source = Source(name, Path().absolute(), tuple(content.splitlines()))
    problems: list[Problem] = []
    written = compose(content, source, _as_it_is, problems)
    if written is None and not problems:
        problems.append(Problem(Place(name, 1, 1), "", f"there is nothing in it: {_WANTED}"))
    if isinstance(written, Seq):
        written = around(written, {"keys": written})  # the list alone
    if isinstance(written, Text):
        problems.append(Problem(written.place, "", _WANTED))
    if not isinstance(written, Map):
        raise ConfigError(replace(one, message=_unquoted(one.message)) for one in problems)
    context = Context(problems)
    made = context.read(_Keys, written, "")
    problems.extend(_twice(written))
    problems.extend(_misnamed(written))
    if made is None or problems:
        problems = [replace(one, message=_unquoted(one.message)) for one in problems]
        raise ConfigError(sorted(problems, key=lambda one: (one.place.line, one.place.column)))
    return made.keys


_WANTED = "a list of keys is wanted, such as keys: [{id: …, sha256: …}]; keys: [] for none"


def _as_it_is(written: Text) -> Text:
    return written


def _unquoted(message: str) -> str:
    """Without what is quoted of the file, but for short words: those are names of keys."""
    return re.sub(r"'(?![a-z0-9_]{1,12}')[^']*'", "'…'", message)


def _entries(written: Map) -> Iterator[tuple[int, Map]]:
    listed = written.get("keys")
    if isinstance(listed, Seq):
        yield from ((at, one) for at, one in enumerate(listed) if isinstance(one, Map))


def _twice(written: Map) -> Iterator[Problem]:
    """The same id, or the same key, in two entries."""
    seen: dict[tuple[str, str], Text] = {}
    for at, entry in _entries(written):
        for field in ("id", "sha256"):
            value = entry.get(field)
            if not isinstance(value, Text) or not value:
                continue
            known = value.lower() if field == "sha256" else str(value)
            first = seen.setdefault((field, known), value)
            if first is not value:
                said = "this id" if field == "id" else "this key"
                where = f"keys[{at}].{field}"
                yield Problem(value.place, where, f"{said} stands in line {first.line + 1} already")


def _misnamed(written: Map) -> Iterator[Problem]:
    """Claims that would hide what the entry itself says."""
    for at, entry in _entries(written):
        claims = entry.get("claims")
        if not isinstance(claims, Map):
            continue
        for name in _RESERVED:
            if name in claims:
                message = f"{name} is no claim of your own: write it beside claims"
                yield Problem(claims.key_place(name), f"keys[{at}].claims.{name}", message)
