"""The language with every key open whose model stands: what `gateway.config.later` refuses is taken as if it worked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config import later, written
from gateway.config.forms import Model

if TYPE_CHECKING:
    import pytest


def open_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the end of the test."""
    assert issubclass(written.Document, Model)
    monkeypatch.setattr(later, "WAITING", frozenset())
    for kind in _below(Model):
        names = {field.alias or name for name, field in kind.model_fields.items()}
        monkeypatch.setattr(kind, "later", kind.later - names)


def _below(kind: type[Model]) -> set[type[Model]]:
    found = {kind}
    for one in kind.__subclasses__():
        found |= _below(one)
    return found
