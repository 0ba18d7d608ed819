"""One model from a text, without the rest of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from gateway.config.forms import Model
from gateway.config.nodes import Source, compose
from gateway.config.report import Context

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
