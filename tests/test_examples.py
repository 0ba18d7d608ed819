"""Every example loads, explains itself by inline tests, and can be served.

Rules of this file: a new file in config/examples/ is tested because it is there.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from gateway import inline_tests
from gateway.config import load, load_text
from gateway.config.model import Bind, Listener
from gateway.explain import explain
from gateway.runtime.gateway import Gateway

CONFIG = Path(__file__).parent.parent / "config"
FILES = [
    CONFIG / "gateway.yaml",
    CONFIG.parent / "deploy" / "gateway.yaml",
    *sorted((CONFIG / "examples").glob("*.yaml")),
]

each = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONFIG.parent)))


@each
def test_an_example_loads_without_a_warning_and_its_inline_tests_pass(file: Path) -> None:
    config = load(file)
    assert not config.warnings
    outcomes = inline_tests.run(config)
    assert outcomes, "an example shows by inline tests what it does"
    assert [(outcome.name, outcome.problems) for outcome in outcomes if outcome.problems] == []


@each
def test_an_example_says_at_its_top_what_it_shows(file: Path) -> None:
    assert file.read_text().startswith("# ")


@each
async def test_an_example_can_be_served(file: Path) -> None:
    config = load(file)
    free = tuple(
        Listener(bind=Bind(host="127.0.0.1", port=0), name=listener.name)
        for listener in config.listeners
    )
    async with Gateway(replace(config, listeners=free, admin=None)) as gateway:
        assert set(gateway.addresses) == {listener.name for listener in config.listeners}


def test_the_readme_shows_what_explain_says_of_its_own_example() -> None:
    readme = (CONFIG.parent / "README.md").read_text()
    yaml, shown = re.search(
        r"```yaml\n(.*?)```.*?\$ gateway explain \S+ \S+\n(.*?)```", readme, re.DOTALL
    ).groups()  # type: ignore[union-attr]
    config = load_text(yaml)
    assert [outcome.problems for outcome in inline_tests.run(config)] == [()]
    said = explain(config, "GET", "http://localhost/orders/7").text().splitlines()
    assert [line for line in shown.splitlines() if line.strip() != "…" and line not in said] == []
