"""Fixtures of the configuration's tests."""

from __future__ import annotations

import pytest

from tests.kit.opened import open_all


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key whose model stands is open; `$TARGETS` names a target."""
    open_all(monkeypatch)
    monkeypatch.setenv("TARGETS", "http://a:8000")
