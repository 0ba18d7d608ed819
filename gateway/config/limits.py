"""How often: rates, the limits that are made of them, and the stores that count.

The rules are those of `model.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
    Tag,
    WithJsonSchema,
)

from gateway.config import placeholders
from gateway.config.addresses import Count
from gateway.config.forms import Model, around
from gateway.config.nodes import Map, Seq, Text
from gateway.config.ranges import Period
from gateway.config.scalars import parse_int, read_text, refuse
from gateway.config.texts import Secret

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import core_schema

MONTH = 30 * 86400.0
"""Seconds; what `month` is worth where a calendar does not count."""
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "month": MONTH}
_RATE = re.compile(r"(\d+)\s?/\s?([A-Za-z]+)")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in a time."""

    count: int
    unit: Literal["s", "m", "h", "d", "month"]
    """`month`: a calendar month in UTC where windows are counted."""

    @property
    def seconds(self) -> float:
        """How long the unit is; a month has thirty days here."""
        return _UNITS[self.unit]

    def __str__(self) -> str:
        return f"{self.count}/{self.unit}"


def parse_quota(written: str) -> Rate:
    """`100/s`, `20/m`, `1000000/month`. Raises ValueError with the fix."""
    word = written.strip()
    match = _RATE.fullmatch(word)
    if match is None:
        fix = f"{word}/s" if word.isdigit() else "100/s"
        raise ValueError(f"{written!r} is no rate: a number, / and a unit are wanted: write {fix}")
    count, unit = int(match[1]), match[2]
    if unit not in _UNITS:
        first = unit[0].lower()
        near = "month" if unit.lower().startswith("mo") else first if first in _UNITS else "s"
        units = ", ".join(_UNITS)
        raise ValueError(f"{written} is no rate: the units are {units}: write {count}/{near}")
    if not 0 < count < 2**53:
        raise ValueError(f"{written}: nobody would be let in; write respond: 403 for that")
    return Rate(count, unit)  # type: ignore[arg-type]


def _rate(value: object) -> Rate | str:
    if isinstance(value, Rate):
        return value
    word = read_text(value, "a rate such as 100/s")
    if "{" in word:
        return word
    try:
        return parse_quota(word)
    except ValueError as error:
        raise refuse(str(error)) from None


def _key(value: object) -> str:
    word = read_text(value, "what is counted by, such as client_ip")
    if "{" not in word and not re.fullmatch(r"[a-z_.0-9-]+", word):
        raise refuse(
            f"{word!r} is nothing to count by: write a placeholder such as client_ip, consumer, "
            "header.x-tenant or route, or a text with {…}"
        )
    return word


def _cost(value: object) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        word = read_text(value, "a number, or a text with {…}")
        if "{" in word:
            return word
        try:
            number = parse_int(word)
        except ValueError as error:
            raise refuse(str(error)) from None
    if number < 0:
        raise refuse(f"{number} is too small: at least 0 is wanted")
    return number


Quota = Annotated[
    Rate | str,
    PlainValidator(_rate),
    PlainSerializer(str),
    WithJsonSchema(
        {
            "type": "string",
            "description": "a number and a unit of s m h d month, or a text that gives one",
            "pattern": r"^\s?\d+\s?/\s?(s|m|h|d|month)\s?$|\{",
            "examples": ["100/s", "20/m", "{claim.plan_rate|10/s}"],
        }
    ),
]
"""A rate, or a text with placeholders that `parse_quota` reads once it is filled in."""
Key = Annotated[str, BeforeValidator(_key)]
Cost = Annotated[
    int | str,
    PlainValidator(_cost),
    WithJsonSchema({"type": ["integer", "string"], "examples": [4, "{header.x-cost|1}"]}),
]


class RateLimit(Model):
    """How often something may be asked for."""

    rate: Quota = Field(description="such as 100/s; or a text such as '{claim.plan_rate|10/s}'")
    burst: Count | None = Field(None, description="at once; built in: the number of the rate")
    key: Key = Field(
        "client_ip", description="what is counted by: a placeholder's name, or a text with them"
    )
    algorithm: Literal["gcra", "token_bucket", "sliding_window", "fixed_window"] = Field(
        "gcra", description="how it is counted"
    )
    cost: Cost = Field(1, description="what one request takes: a number, or a text")
    ipv6_prefix: Annotated[int, Field(ge=1, le=128)] = Field(
        64, description="addresses that share so many bits are one client"
    )
    mode: Literal["report", "enforce"] = Field(
        "enforce", description="report: count what would be refused, and let it in"
    )
    store: str | None = Field(None, description="the name of a store; off: this machine's memory")

    @classmethod
    def full_form(cls, value: Text | Seq) -> Map:
        """`100/s`, or `100/s per client_ip`."""
        if not isinstance(value, Text):
            raise refuse("a rate such as 100/s per client_ip is wanted, not a list")
        rate, per, key = value.partition(" per ")
        items = {"rate": value.derive(rate.strip())}
        if per:
            items["key"] = value.derive(key.strip())
        return around(value, items)

    @property
    def of_identity(self) -> bool:
        """Whether it has to be known who asks before it can be counted."""
        texts = (self.rate, self.template, self.cost)
        named = [
            name for text in texts if isinstance(text, str) for name in placeholders.names(text)
        ]
        return any(map(placeholders.of_identity, named))

    @property
    def template(self) -> str:
        """`key` as a text with placeholders."""
        return self.key if "{" in self.key else f"{{{self.key}}}"


def is_inline(word: str) -> bool:
    """Whether a text of `rate_limit:` is a limit of its own and not the name of one."""
    return "/" in word or "{" in word or word[:1].isdigit()


def _form(value: object) -> str:
    text = isinstance(value, str) and not is_inline(value)
    return "name" if text else "limit"


class _Either:
    """For the schema: a text may be a name or a short form, which `oneOf` would not take."""

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: Any) -> Any:
        made: JsonSchemaValue = handler(schema)
        return {"anyOf": made["oneOf"]} if "oneOf" in made else made


Limited = Annotated[
    Annotated[str, Tag("name")] | Annotated[RateLimit, Tag("limit")],
    Discriminator(_form),
    _Either(),
]
"""The name of a limit, or one of the route's own."""


# ── stores ──────────────────────────────────────────────────────────────────────────────────────


_ESCAPES = "in a password write %2F for /, %23 for #, %3F for ?, %40 for @"


class StoreUrl(Secret):
    """A URL that prints without its password."""

    __slots__ = ()

    def __repr__(self) -> str:
        url = self.reveal()
        scheme, mark, rest = url.partition("://")
        user, at, place = rest.rpartition("@")
        name = user.partition(":")[0]
        return f"{scheme}{mark}{name}:***@{place}" if at else url

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    @classmethod
    def _read(cls, value: object) -> StoreUrl:
        # Messages do not show the URL: its password is in it.
        url = super()._read(value).reveal()
        scheme = url.partition("://")[0]
        if scheme not in ("redis", "rediss", "unix") or "://" not in url:
            raise refuse("a URL such as redis://HOST:6379/0, rediss://… or unix:///PATH is wanted")
        if re.search(r"[\x00-\x20\x7f]", url):
            raise refuse("this URL holds a blank or a control character")
        try:
            parts = urlsplit(url)
            place = parts.path if scheme == "unix" else parts.hostname
            _ = parts.port
        except ValueError:  # its text may quote a part of the password
            raise refuse(f"the host or the port in this URL is none: {_ESCAPES}") from None
        if parts.query or parts.fragment:
            raise refuse(
                f"the URL of a store has no ? and no #: its settings have keys of their own; {_ESCAPES}"
            )
        if not place:
            raise refuse("this URL names no host: write one such as redis://redis:6379/0")
        if scheme != "unix" and not re.fullmatch(r"(/\d*)?", parts.path):
            raise refuse("behind the host of a store is the number of a database, such as /0")
        return cls(url)


class Store(Model):
    """Where several gateways count together."""

    short = "url"

    url: StoreUrl = Field(description="redis://HOST:6379/0, rediss://… (TLS) or unix:///PATH")
    timeout: Period = Field(0.05, description="of one question")
    on_error: Literal["local", "allow", "deny"] = Field(
        "local", description="count here, let in, or refuse, while it does not answer"
    )
