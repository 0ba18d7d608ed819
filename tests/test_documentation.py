"""What the pages of the documentation show can be copied: every configuration in them is read as a user's would be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.config import ConfigError, load_text
from gateway.config.written import Document

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
NOT_HERE = re.compile(
    r"cannot be read: No such file|the variable \w+ is not set|there is no upstream"
    r"|there is no auth policy|there is no route"
)
"""What a page leaves to its reader: files, variables, and what its other examples have defined."""


def shown(page: Path) -> Iterator[tuple[int, str]]:
    """(line, configuration) of each block of YAML; of policies alone, each as defaults."""
    text = page.read_text()
    for block in re.finditer(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        line = text.count("\n", 0, block.start()) + 2
        first = re.search(r"^(\w+):", block[1], re.MULTILINE)
        if first is None or first[1] in Document.model_fields:
            yield line, block[1]
            continue
        for one in re.split(r"^(?=[a-z])", block[1], flags=re.MULTILINE):
            if one:
                yield line, "defaults:\n" + re.sub("^", "  ", one, flags=re.MULTILINE)


CASES = [
    pytest.param(text, id=f"{page.relative_to(ROOT)}:{line}:{number}")
    for page in PAGES
    for number, (line, text) in enumerate(shown(page))
]


@pytest.mark.parametrize("text", CASES)
def test_what_a_page_shows_is_a_configuration(text: str, tmp_path: Path) -> None:
    try:
        load_text(text, base=tmp_path)
    except ConfigError as error:
        wrong = [str(one) for one in error.problems if not NOT_HERE.search(one.message)]
    else:
        wrong = []
    assert not wrong


def test_the_page_of_each_subject_shows_some() -> None:
    pages = {case.id.partition(":")[0] for case in CASES if case.id}
    methods = {f"docs/auth/{page.name}" for page in (ROOT / "docs" / "auth").iterdir()}
    assert pages > {"README.md", "docs/limits.md", "docs/tls.md", "docs/browser.md", *methods}


def test_links_lead_to_pages_and_headings_that_are_there() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            path, _, heading = target.partition("#")
            if "://" in path:
                continue
            there = (page.parent / path).resolve() if path else page
            if not there.exists() or (heading and heading not in headings(there)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


def headings(page: Path) -> set[str]:
    """What GitHub makes of the headings of a page, to be linked to."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in found}
