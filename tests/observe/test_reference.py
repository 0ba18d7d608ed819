from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.errors import reasons
from gateway.observe.catalogue import CATALOGUE
from gateway.observe.events import KINDS
from gateway.observe.reference import ADVICE, EVENT_HELP, PAGES

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", PAGES)
def test_a_reference_page_is_what_the_code_declares(name: str) -> None:
    current = (REFERENCE / name).read_text(encoding="utf-8")
    assert current == PAGES[name](), "run: python -m gateway.observe.reference docs/reference"


def test_every_reason_has_advice_and_an_anchor_of_its_name() -> None:
    assert set(ADVICE) == set(reasons())
    page = PAGES["reasons.md"]()
    assert all(page.count(f"### {word}\n") == 1 for word in reasons())


def test_every_metric_is_on_the_page() -> None:
    page = PAGES["metrics.md"]()
    assert all(page.count(f"| `{one.name}` |") == 1 for one in CATALOGUE)


def test_every_kind_of_event_is_told() -> None:
    assert set(EVENT_HELP) == set(KINDS)
    page = PAGES["events.md"]()
    assert all(page.count(f"| `{kind}` |") == 1 for kind in KINDS)


def test_the_command_writes_the_pages(tmp_path: Path) -> None:
    folder = tmp_path / "docs" / "reference"
    command = [sys.executable, "-m", "gateway.observe.reference", str(folder)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        name: page() for name, page in PAGES.items()
    }
