"""From what is written to full form: short forms, switches, lists of one, and words that YAML would have guessed at.

Rules of this file: what a text means is decided by the type of the field that takes it and by nothing else. A value that
cannot be read becomes a `Trap`, so that pydantic reports it at its place together with everything else. Values that a
program passes (no `Text`, no `Map`) are left to pydantic.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterator
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    TypeAlias,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
)

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    PlainValidator,
    model_validator,
)

from gateway.config.nodes import Map, Seq, Text, braces, sequence
from gateway.config.scalars import KeyTrap, Trap, parse_int, refuse
from gateway.config.words import nearest

Reader: TypeAlias = Callable[[Any], Any]

TRUE = frozenset({"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"})
FALSE = frozenset({"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"})
NULL = frozenset({"", "~", "null", "Null", "NULL"})
OFF = FALSE | NULL
OFF_TEXT = NULL | {"off", "Off", "OFF", "false", "False", "FALSE"}
"""Off where a text may stand: `NO` may be a country."""
UNLIMITED = OFF | {"unlimited"}


def is_off(value: object) -> bool:
    """Whether a value as written switches something off."""
    return isinstance(value, Text) and (value in OFF if value.plain or value else False)


class Model(BaseModel):
    """Frozen, and closed: an unknown key is an error that names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    short: ClassVar[str | None] = None
    """The key that a value written in place of the mapping stands for."""
    later: ClassVar[frozenset[str]] = frozenset()
    """Keys of the language that this version does not have, whether a field stands for them or not."""
    exclusive: ClassVar[tuple[str, ...]] = ()
    """Keys of which an inner layer's choice puts the outer layers' aside."""
    elsewhere: ClassVar[dict[str, str]] = {}
    """Keys of other sections that people look for here, with the place where they belong."""
    _readers: ClassVar[dict[str, tuple[str, Reader]] | None] = None

    @classmethod
    def full_form(cls, value: Text | Seq) -> Map:
        """The mapping that a short form stands for. Raises the error that says what is wanted."""
        if isinstance(value, Text) and value in TRUE and (value.plain or value == "on"):
            return around(value, {})
        if is_off(value) and isinstance(value, Text):
            off = cls.off_form(value)
            if off is not None:
                return around(value, off)
        elif cls.short is not None:
            return around(value, {cls.short: value})
        raise refuse(cls._wanted(value))

    @classmethod
    def off_form(cls, value: Text) -> dict[str, Any] | None:  # noqa: ARG003 - for those that do
        """What `off` in place of the mapping means; None: it cannot be switched off."""
        return None if any(field.is_required() for field in cls.model_fields.values()) else {}

    @classmethod
    def _wanted(cls, value: object) -> str:
        keys = ", ".join(cls.table())
        written = "a list" if isinstance(value, Seq) else repr(str(value))
        return f"a mapping is wanted, not {written}; its keys: {keys}"

    @classmethod
    def table(cls) -> dict[str, tuple[str, Reader]]:
        """Key as written → name of the field and how its value is read; without those for later."""
        table = cls.__dict__.get("_readers")
        if table is None:
            table = {}
            for name, field in cls.model_fields.items():
                key = field.alias or name
                if key not in cls.later:
                    table[key] = (name, reader(field.annotation, tuple(field.metadata)))
            cls._readers = table
        return table

    @classmethod
    def unknown(cls, key: str) -> str:
        """What to say about a key that this mapping does not have."""
        if key in cls.later:
            return f"{key} is not supported yet"
        if key in cls.elsewhere:
            return f"{key} does not belong here: {cls.elsewhere[key]}"
        known = [*cls.table()]
        return f"{key!r} is not known here{nearest(key, [*known, *cls.later], known)}"

    @model_validator(mode="before")
    @classmethod
    def _spelled(cls, value: Any) -> Any:
        if isinstance(value, Trap):
            raise refuse(value.message)
        if isinstance(value, Text | Seq):
            value = cls.full_form(value)
        if type(value) is not Map:
            return value
        word = braces(value)
        if word is not None:
            raise refuse(f"a plain {{ starts a mapping in YAML: put it in quotes, '{word}'")
        table = cls.table()
        read: dict[str, Any] = {}
        for key, item in cls.adjusted(value).items():
            entry = table.get(key)
            if entry is None:
                read[key] = KeyTrap(cls.unknown(key))
            else:
                read[key] = entry[1](item)
        return read

    @classmethod
    def adjusted(cls, value: Map) -> Map:
        """A place for forms that change more than one key."""
        return value

    def replaced(self, **changes: Any) -> Self:
        """A copy with other values, without validation; what is given counts as written."""
        values = {**self.__dict__, **changes}
        return made_of(type(self), values, self.model_fields_set | set(changes))


M = TypeVar("M", bound=Model)


def made_of(kind: type[M], values: dict[str, Any], written: set[str]) -> M:
    """A model of finished values, each field among them; `written`: those that somebody wrote.

    `model_construct` does the same and looks for aliases and defaults of every field, which is a tenth of the
    time of a large file.
    """
    made = kind.__new__(kind)
    object.__setattr__(made, "__dict__", values)
    object.__setattr__(made, "__pydantic_fields_set__", written)
    object.__setattr__(made, "__pydantic_extra__", None)
    object.__setattr__(made, "__pydantic_private__", None)
    return made


def build(kind: type[Model]) -> None:
    """Make the validator of a model, those of the models in it first.

    pydantic builds a model at its first use, and with it, again, every model in it that is not built
    yet: with `Policies` in routes, profiles, defaults and upstreams that was most of the time of a check.
    """
    if kind.__pydantic_complete__:
        return
    for field in kind.model_fields.values():
        for one in _models(field.annotation):
            build(one)
    kind.model_rebuild()


def _models(annotation: Any) -> Iterator[type[Model]]:
    if _is_model(annotation):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def built_in(kind: type[M], **values: Any) -> Callable[[], M]:
    """The default of a field: made when it is first wanted, and shared by all that have it.

    pydantic would copy a default for each instance, which is most of the time of a large file.
    """
    made: list[M] = []

    def default() -> M:
        if not made:
            made.append(cast("M", kind.model_construct(set(), **values)))
        return made[0]

    return default


def around(value: Text | Seq, items: dict[str, Any]) -> Map:
    """A mapping in the place of a short form."""
    made = Map(items)
    made.source, made.line, made.column = value.source, value.line, value.column
    made.keys_at = dict.fromkeys(items, (value.source, value.line, value.column))
    made.flow = False
    return made


def reader(annotation: Any, metadata: tuple[Any, ...] = ()) -> Reader:
    """How a value is read for a field of this type."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *extra = get_args(annotation)
        return reader(inner, (*metadata, *extra))
    custom = any(isinstance(item, _CUSTOM) for item in metadata)
    if origin in (Union, types.UnionType) and not custom:
        return _union(get_args(annotation))
    if origin is Literal and not custom:
        return _literal(get_args(annotation))
    if origin is tuple:
        return _list(reader(get_args(annotation)[0]))
    if origin is dict:
        return _dict(_entry_reader(get_args(annotation)[1]))
    if annotation is Any:
        return plain_json
    if annotation is str:
        return _str
    return {bool: _bool, int: _same if custom else _int}.get(annotation, _same)


_CUSTOM = (BeforeValidator, PlainValidator, Discriminator)


def _same(value: Any) -> Any:
    return value


def _str(value: Any) -> Any:
    if isinstance(value, Text):
        if value.plain and (value in TRUE or value in FALSE):
            return Trap(f"{value} is a switch in YAML, and a text is wanted: write '{value}'")
        if value.plain and value in NULL:
            return Trap("a text is wanted, and there is none")
    elif isinstance(value, Map):
        word = braces(value)
        if word is not None:
            return Trap(f"a plain {{ starts a mapping in YAML: put it in quotes, '{word}'")
        return Trap("a text is wanted, not a mapping")
    elif isinstance(value, Seq):
        return Trap("a text is wanted, not a list")
    return value


def _int(value: Any) -> Any:
    if isinstance(value, Text):
        if value in OFF:
            return Trap(f"a whole number is wanted; {value or 'nothing'} is none")
        try:
            return parse_int(value)
        except ValueError as error:
            return Trap(str(error))
    return Trap("a whole number is wanted") if isinstance(value, Map | Seq) else value


def _bool(value: Any) -> Any:
    if isinstance(value, Text):
        if value in TRUE:
            return True
        if value in OFF:
            return False
        return Trap(f"on or off is wanted, not {str(value)!r}")
    return Trap("on or off is wanted") if isinstance(value, Map | Seq) else value


def _literal(words: tuple[Any, ...]) -> Reader:
    numbers = all(isinstance(word, int) for word in words)
    listed = ", ".join(str(word) for word in words)

    def literal(value: Any) -> Any:
        if isinstance(value, Map | Seq):
            return Trap(f"one of {listed} is wanted")
        if not isinstance(value, Text):
            return value
        if value.plain and value in OFF and "off" in words:
            return "off"
        if numbers and value.isascii() and value.isdigit() and int(value) in words:
            return int(value)
        if value in words:
            return str(value)
        return Trap(f"{str(value)!r} is none of {listed}{nearest(value, words)}")

    return literal


def _list(item: Reader) -> Reader:
    def many(value: Any) -> Any:
        if isinstance(value, Seq):
            return [item(one) for one in value]
        if isinstance(value, Text):
            return [] if value.plain and value in OFF else [item(value)]
        return [item(value)] if isinstance(value, Map) else value

    return many


def _dict(item: Reader) -> Reader:
    def entries(value: Any) -> Any:
        if isinstance(value, Map):
            return {key: item(one) for key, one in value.items()}
        if isinstance(value, Text) and value.plain and value in OFF:
            return {}
        return Trap("a mapping is wanted") if isinstance(value, Text | Seq) else value

    return entries


def _union(members: tuple[Any, ...]) -> Reader:
    rest = [member for member in members if member is not type(None)]
    inner = reader(rest[0]) if len(rest) == 1 else _either(rest)
    if len(rest) == len(members):
        return inner
    if inner is _str:

        def text(value: Any) -> Any:
            off = isinstance(value, Text) and value.plain and value in OFF_TEXT
            return None if off else inner(value)

        return text
    words = OFF if _is_model(rest[0]) else NULL if rest[0] is bool else UNLIMITED

    def optional(value: Any) -> Any:
        off = isinstance(value, Text) and value in words and (value.plain or value != "")
        return None if off else inner(value)

    return optional


def _entry_reader(annotation: Any) -> Reader:
    """Of an entry of a map of free text only null takes an inherited one away."""
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ()
    if type(None) not in members:
        return reader(annotation)
    inner = reader(members[0])

    def entry(value: Any) -> Any:
        none = isinstance(value, Text) and value.plain and value in NULL
        return None if none else inner(value)

    return entry


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Model)


def _either(members: list[Any]) -> Reader:
    """A word or a list: a list is read as one, a scalar as the word, or else as a list of one."""
    words = [
        word for member in members if get_origin(member) is Literal for word in get_args(member)
    ]
    many = next(reader(member) for member in members if get_origin(member) is tuple)

    def either(value: Any) -> Any:
        if isinstance(value, Text):
            if value in words or any(reader(member) is _str for member in members):
                return _str(value)
            return many(value)
        return many(value)

    return either


def plain_json(value: Any) -> Any:
    """Free data (`json:`): scalars by the rules of YAML 1.2, which are those of JSON."""
    if isinstance(value, Map):
        return {key: plain_json(item) for key, item in value.items()}
    if isinstance(value, Seq):
        return [plain_json(item) for item in value]
    if not isinstance(value, Text) or not value.plain:
        return str(value) if isinstance(value, Text) else value
    if value in NULL:
        return None
    if value in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return value.lower() == "true"
    return _json_number(value)


_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def _json_number(value: Text) -> Any:
    if value in TRUE or value in FALSE:
        return Trap(f"{value} can be read two ways: write '{value}', or true or false")
    if re.fullmatch(r"[-+]?0[0-9_]+", value):
        return Trap(f"{value} has a leading zero: write '{value}' for a text, or no zero")
    if re.fullmatch(r"[-+]?[0-9]+", value):
        return int(value)
    return float(value) if _FLOAT.fullmatch(value) else str(value)


def listed(value: Any) -> Seq | None:
    """A list as written, or a list of the one value."""
    if isinstance(value, Seq):
        return value
    if isinstance(value, Text | Map):
        return sequence([value], value.source, value.line, value.column)
    return None
