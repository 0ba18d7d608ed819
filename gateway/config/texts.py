"""Texts with a meaning: secrets, paths of files, regexes, and what a comment behind may have been part of.

Rules of this file: as those of `scalars`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import core_schema

from gateway.config.nodes import Map, Seq, Text, braces
from gateway.config.scalars import Trap, read_text, refuse

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
    from pydantic.json_schema import JsonSchemaValue


class Secret(str):
    """A text that prints as ***. `reveal()` is the text itself; comparing and encoding work on it too."""

    __slots__ = ()

    def reveal(self) -> str:
        """The text as a plain `str`."""
        return "".join(self)

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._read, serialization=core_schema.plain_serializer_function_ser_schema(repr)
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "examples": ["${file:/run/secrets/token}", "${env:TOKEN}"]}

    @classmethod
    def _read(cls, value: object) -> Secret:
        # Not str(value): that of another Secret is ***.
        read_text(value, "a text")
        word = "".join(value)  # type: ignore[arg-type]
        if not word:
            raise refuse("a secret cannot be empty")
        return cls(word)


# ── texts with a meaning ────────────────────────────────────────────────────────────────────────────────────────────


def _file(value: object) -> str:
    if isinstance(value, dict | list):
        value = Trap("the path of a file is wanted")
    word = read_text(value, "the path of a file")
    if not word or "\0" in word:
        raise refuse("the path of a file is wanted")
    if isinstance(value, Text):
        return str(Path(value.source.folder, word))
    return word


FilePath = Annotated[
    str,
    BeforeValidator(_file),
    WithJsonSchema(
        {"type": "string", "description": "a path, relative to the file that it is written in"}
    ),
]


def watched(value: object, info: ValidationInfo) -> object:
    """A request path, a URL or a regex: a comment right behind it may have been meant as its end."""
    word = braces(value) if isinstance(value, Map) else None
    if word is not None:
        raise refuse(f"a plain {{ starts a mapping in YAML: put it in quotes, '{word}'")
    if isinstance(value, Map | Seq):
        raise refuse("a text is wanted, not a list or a mapping")
    if isinstance(value, Text) and info.context is not None and value.comment is not None:
        info.context.comments.append(value)
    return value


Watched = Annotated[str, BeforeValidator(watched)]
"""A text whose end matters: warned about when a comment follows it."""


def _regex(value: object, info: ValidationInfo) -> object:
    value = watched(value, info)
    word = read_text(value, "a regular expression")
    try:
        re.compile(word)
    except re.error as error:
        at = f" at character {error.pos + 1}" if error.pos is not None else ""
        raise refuse(f"this regular expression is wrong{at}: {error.msg}") from None
    return value


Regex = Annotated[
    str,
    BeforeValidator(_regex),
    WithJsonSchema({"type": "string", "format": "regex", "description": "a regular expression"}),
]
