"""Files and what comes of them: `NAME.yaml` with `NAME.errors`, or with `NAME.effective`.

Two files are a test. `make golden` (or GATEWAY_GOLDEN=rewrite) writes what comes of every `NAME.yaml`
anew, for review.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gateway.config import ConfigError, load

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
REWRITE = os.environ.get("GATEWAY_GOLDEN") == "rewrite"


def outcome(name: str) -> tuple[str, str]:
    """(errors or effective, the text), with places relative to this folder."""
    try:
        config = load(FOLDER / f"{name}.yaml")
    except ConfigError as error:
        kind, text = "errors", str(error)
    else:
        origins = {
            route.name: {
                path: f"{origin.layer}: {origin.place}" for path, origin in route.origins.items()
            }
            for route in config.routes
        }
        shown = {
            "warnings": [str(warning) for warning in config.warnings],
            **config.masked,
            "origins": origins,
        }
        kind, text = "effective", json.dumps(shown, indent=1, ensure_ascii=False)
    return kind, text.replace(f"{FOLDER}/", "") + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_what_comes_of_a_file_is_what_is_beside_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    monkeypatch.setenv("TARGETS", "http://a:8000")
    kind, text = outcome(name)
    text = text.replace(f"{str(FOLDER).lstrip('/')}/", "")
    expected = FOLDER / f"{name}.{kind}"
    other = FOLDER / f"{name}.{'effective' if kind == 'errors' else 'errors'}"
    if REWRITE:
        expected.write_text(text)
        other.unlink(missing_ok=True)
    assert not other.exists(), f"{name} now gives {kind}"
    assert text == expected.read_text()


def test_no_expectation_is_left_without_its_file() -> None:
    expected = {path.stem for path in FOLDER.iterdir() if path.suffix in (".errors", ".effective")}
    assert expected <= set(NAMES)
    assert len(NAMES) >= 4
