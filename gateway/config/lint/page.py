"""docs/lint.md, made from the rules.

Rules of this file: no word about a single rule stands here. `python -m gateway.config.lint.page FILE` writes the page; a
test holds it against what stands in docs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config.lint import browsers, entrance, network, texts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.config.lint.rules import Rule

GROUPS = (
    ("Who may come in", "G1", entrance.RULES),
    ("What credentials are worth", "G2", entrance.RULES),
    ("Whom the gateway believes, and what it says in plain text", "G3", network.RULES),
    ("Pages of other origins", "G4", browsers.RULES),
    ("Texts", "G5", texts.RULES),
)
_HEAD = """\
# What `gateway check --lint` finds

<!-- Made by `python -m gateway.config.lint.page docs/lint.md`; do not edit. -->

`gateway check` refuses what cannot be. `gateway check --lint` also tells what is allowed, and a mistake more often than not.
Each finding has a code, a severity (`info`, `warning`, `error`), the place where the value is written, and what to write
instead. `--json` prints them for programs, under `findings`. With `--strict` a warning or an error ends with 1; otherwise
findings change no exit code. `--ignore CODE`, as often as you like, leaves a rule out. Nothing is asked over a network.

| code | severity | finding |
|---|---|---|
"""


def page() -> str:
    """The whole page."""
    return "".join(_lines())


def _lines() -> Iterator[str]:
    yield _HEAD
    for _, group, rules in GROUPS:
        for rule in _of(group, rules):
            yield f"| [{rule.code}](#{rule.code.lower()}) | {rule.severity} | {rule.title} |\n"
    for title, group, rules in GROUPS:
        yield f"\n## {title}\n"
        for rule in _of(group, rules):
            yield f"\n### {rule.code}\n\n**{rule.title}** ({rule.severity}). {rule.why}\n"
            yield f"\nWhat to do: {rule.fix}.\n"


def _of(group: str, rules: tuple[Rule, ...]) -> list[Rule]:
    return [rule for rule in rules if rule.code.startswith(group)]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), "utf-8")
