"""Fixtures of the configuration's tests."""

from __future__ import annotations

import pytest


@pytest.fixture
def discoverable(monkeypatch: pytest.MonkeyPatch) -> None:
    """`$TARGETS` names a target."""
    monkeypatch.setenv("TARGETS", "http://a:8000")
