"""pydantic's findings → problems with a place, a path as written, and words for the person who wrote it.

Rules of this file: a finding's `loc` is followed through the data as written as far as it goes;
short forms end it early, and the tags that pydantic adds for unions are skipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from gateway.config.effective import Problem
from gateway.config.forms import build
from gateway.config.nodes import Map, Seq, Text, entry_of
from gateway.config.scalars import KeyTrap, Trap

if TYPE_CHECKING:
    from gateway.config.effective import Place
    from gateway.config.forms import Model
    from gateway.config.loading import Entry

M = TypeVar("M", bound="Model")
_MEANING = frozenset(("targets", "use"))
"""Keys that decide what the others are about."""


class Context:
    """What one loading gathers while values are read: problems, and texts that a comment follows."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        self.warnings: list[Problem] = []
        self.comments: list[Text] = []
        self.left_out: frozenset[str] = frozenset()
        """Keys that the model read last does without: they are wrong."""

    def read(self, kind: type[M], raw: Any, path: str) -> M | None:
        """A model of what is written. What is wrong is among the problems then, and left out of the model, so that the
        rest is checked in the same go; None if nothing can be said without it.
        """
        build(kind)
        made: M | None = None
        self.left_out = frozenset()
        try:
            made = kind.model_validate(raw, context=self)
        except ValidationError as error:
            found: dict[tuple[Place, str], Problem] = {}
            errors = error.errors(include_url=False, include_context=True)
            for one in errors:
                if one["type"] == "too_short" and _has_parts(one["loc"], errors):
                    continue  # its entries are there, but wrong
                if one["type"] == "missing" and isinstance(raw, Map) and "discover" in raw:
                    continue  # discover stands for the targets, and is told of
                problem = _problem(one, raw, path)
                found.setdefault((problem.place, problem.path), problem)
            self.problems.extend(found.values())
            made = self._what_is_right(kind, raw, errors)
        for written in self.comments:
            self._commented(written, raw, path)
        self.comments.clear()
        return made

    def _what_is_right(self, kind: type[M], raw: Any, errors: list[Any]) -> M | None:
        """What is written less the keys that are wrong; None if without them it would mean something else."""
        if not isinstance(raw, Map):
            return None
        wrong = [entry_of(raw, str(one["loc"][0])) if one["loc"] else None for one in errors]
        self.left_out = frozenset(key for key in wrong if key is not None)
        if None in wrong or self.left_out & _MEANING:
            return None
        rest = raw.like({key: value for key, value in raw.items() if key not in self.left_out})
        try:
            return kind.model_validate(rest, context=Context([]))
        except ValidationError:
            return None

    def _commented(self, written: Text, raw: Any, path: str) -> None:
        comment = written.comment or ""
        if len(comment) > 20:
            comment = comment[:20] + "…"
        message = (
            f"{comment!r} after {str(written)!r} is a comment: if it belongs to the value, put both in "
            "quotes; if not, write it in a line of its own"
        )
        where = path + (path_of(raw, written) or "")
        self.warnings.append(Problem(written.place, where.lstrip("."), message))

    def add(self, raw: Any, path: str, keys: tuple[str | int, ...], message: str) -> None:
        """A problem at a key below what is written; at the nearest that exists."""
        self.problems.append(Problem(*locate(raw, path, keys), message))

    def warn(self, raw: Any, path: str, keys: tuple[str | int, ...], message: str) -> None:
        """A warning at a key below what is written."""
        self.warnings.append(Problem(*locate(raw, path, keys), message))


class Once:
    """Tells of effective values at the place where they are written, whatever layer that is; the same inherited
    mistake is told once.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.told: set[Problem] = set()

    @staticmethod
    def layer(origins: Any, keys: tuple[str | int, ...]) -> str:
        """The layer in which `keys` are written; nothing if they are nowhere."""
        found = origins.written(keys)
        return "" if found is None else str(found[0])

    def add(
        self,
        entry: Entry,
        origins: Any,
        keys: tuple[str | int, ...],
        message: str,
        *,
        warning: bool = False,
    ) -> None:
        """A problem, or a warning, with what is written at `keys`; `entry` is the innermost layer."""
        found = origins.written(keys)
        if warning and found is not None and _is_shared(found[0]):
            return  # what does nothing here may do something elsewhere
        place = found[1].place if found is not None else entry.raw.place
        where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
        layer = found[0] if found is not None else "route"
        path = f"{entry.path}{where}" if layer == "route" else f"{_section(layer)}{where}"
        problem = Problem(place, path.lstrip("."), message)
        if problem not in self.told:
            self.told.add(problem)
            (self.context.warnings if warning else self.context.problems).append(problem)


def _is_shared(layer: str) -> bool:
    return layer in ("defaults", "errors") or layer.startswith("profile ")


def _section(layer: str) -> str:
    kind, _, name = layer.partition(" ")
    if kind == "errors":
        return ""
    return f"{kind}s.{name}" if name else kind


def locate(
    raw: Any, path: str, keys: tuple[str | int, ...], *, at_key: bool = False
) -> tuple[Place, str]:
    """The place and the path of the deepest part of `keys` that is written; `at_key`: of its key."""
    here: Any = raw
    place: Place = raw.place
    for key in keys:
        if isinstance(here, Map):
            name = entry_of(here, str(key))
            if name is None:
                continue
            path += f".{name}"
            place = here.key_place(name) if at_key else here[name].place
            here = here[name]
        elif isinstance(here, Seq) and isinstance(key, int) and key < len(here):
            path += f"[{key}]"
            here = here[key]
            place = here.place
    return place, path.lstrip(".")


def path_of(raw: Any, wanted: Text) -> str | None:
    """Where in what is written a text stands."""
    if raw is wanted:
        return ""
    if isinstance(raw, Map):
        for key, item in raw.items():
            below = path_of(item, wanted)
            if below is not None:
                return f".{key}{below}"
    elif isinstance(raw, Seq):
        for index, item in enumerate(raw):
            below = path_of(item, wanted)
            if below is not None:
                return f"[{index}]{below}"
    return None


def _has_parts(loc: tuple[str | int, ...], errors: list[Any]) -> bool:
    return any(len(one["loc"]) > len(loc) and one["loc"][: len(loc)] == loc for one in errors)


def _problem(found: Any, raw: Any, path: str) -> Problem:
    loc: tuple[str | int, ...] = found["loc"]
    if found["type"] == "missing":
        place, where = locate(raw, path, loc[:-1])
        return Problem(place, where, f"{loc[-1]} is missing")
    at_key = isinstance(found["input"], KeyTrap) or loc[-1:] == ("[key]",)
    place, where = locate(raw, path, loc, at_key=at_key)
    return Problem(place, where, _message(found))


def _message(found: Any) -> str:
    value, kind, limits = found["input"], found["type"], found.get("ctx", {})
    if isinstance(value, Trap):
        return value.message
    shown = "off" if value is None else str(value)
    plain = {
        "value": found["msg"],
        "greater_than_equal": f"{shown} is too small: at least {limits.get('ge')} is wanted",
        "less_than_equal": f"{shown} is too large: at most {limits.get('le')} is wanted",
        "too_short": "this list is empty: at least one is wanted",
        "string_type": "a text is wanted",
        "dict_type": "a mapping is wanted",
        "model_type": "a mapping is wanted",
        "tuple_type": "a list is wanted",
        "literal_error": f"{shown!r} is wrong here: {limits.get('expected')} is wanted",
    }
    if kind in plain:
        return str(plain[kind])
    return f"{found['msg']} (written: {shown!r})"
