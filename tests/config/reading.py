"""One model from a text, without the rest of a configuration; and the keys that are for later, opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gateway.config import written
from gateway.config.forms import Model
from gateway.config.nodes import Source, compose
from gateway.config.report import Context

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

M = TypeVar("M", bound=Model)


def _read(kind: type[M], text: str) -> tuple[M | None, list[str]]:
    source = Source("x.yaml", Path("/etc/gw"), tuple(text.splitlines()))
    problems: list[Any] = []
    raw = compose(text, source, lambda made: made, problems)
    assert problems == []
    context = Context([])
    made = context.read(kind, raw, "")
    return made, [f"{one.path}: {one.message}".removeprefix(": ") for one in context.problems]


def read(kind: type[M], text: str) -> M:
    """The model of a text that is right."""
    made, problems = _read(kind, text)
    assert problems == []
    assert made is not None
    return made


def wrong(kind: type[Model], text: str) -> str:
    """What is wrong with a text."""
    problems = _read(kind, text)[1]
    assert problems
    return "\n".join(problems)


def kinds(kind: type[Model] = Model) -> Iterator[type[Model]]:
    """Every model there is."""
    for one in kind.__subclasses__():
        yield one
        yield from kinds(one)


def open_all(patch: pytest.MonkeyPatch) -> None:
    """Let every key through that has a model, though its feature is for later."""
    assert issubclass(written.Document, Model)  # all that a document holds is loaded
    for kind, later in [(kind, kind.later) for kind in kinds()]:
        closed = later & {field.alias or name for name, field in kind.model_fields.items()}
        if closed:
            patch.setattr(kind, "later", later - closed)
            patch.setattr(kind, "_readers", None)
