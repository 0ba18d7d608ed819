"""What holds for the repository as a whole: sizes, docstrings, public names, complete documents.

Rules of this file: it reads files; layers are checked by import-linter (`make check`).
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "gateway").rglob("*.py"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_is_and_is_at_most_450_lines_long(module: Path) -> None:
    text = module.read_text()
    assert ast.get_docstring(ast.parse(text)), "no docstring"
    assert len(text.splitlines()) <= 450


def test_the_package_exports_what_embedding_needs() -> None:
    import gateway

    for name in ("Gateway", "application", "runner", "__version__"):
        assert hasattr(gateway, name), name
        assert name in gateway.__all__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == gateway.__version__


def test_every_reason_is_documented() -> None:
    from gateway.errors import reasons

    page = (ROOT / "docs" / "reference" / "reasons.md").read_text()
    assert [reason for reason in reasons() if f"`{reason}`" not in page] == []


def keys(schema: object) -> set[str]:
    """Every property name in a JSON Schema."""
    found: set[str] = set()
    if isinstance(schema, dict):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            found.update(properties)
        for value in schema.values():
            found |= keys(value)
    elif isinstance(schema, list):
        for value in schema:
            found |= keys(value)
    return found


def test_every_key_of_the_configuration_is_documented() -> None:
    schema = json.loads((ROOT / "config" / "schema.json").read_text())
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    words = set(re.findall(r"[A-Za-z_0-9]+", " ".join(re.findall(r"`+[^`]+`+", page))))
    assert sorted(keys(schema) - words) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
    local = [link for link in links if not link.startswith(("http://", "https://"))]
    assert [link for link in local if not (document.parent / link).exists()] == []


def test_what_is_made_into_an_image_is_there() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile, re.MULTILINE):
        for name in line.split():
            assert (ROOT / name).exists(), name


def test_make_knows_every_target_that_the_documents_name() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {
        target
        for document in DOCUMENTS
        for target in re.findall(r"`make ([a-z-]+)", document.read_text())
    }
    assert named
    assert named <= targets
