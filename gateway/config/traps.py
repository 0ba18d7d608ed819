"""What people write when YAML means something else, and what to tell them.

Rules of this file: one entry for each trap, with the text that gives it away and the fix in the message. Whatever is not in
the table keeps the parser's own words.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import yaml

ODD_KEY = "a key must be a text; a value that starts with { or [ needs quotes, such as path: '{id}'"

# What the parser says, what stands in the line from the mark on, what to say instead.
_TRAPS: tuple[tuple[str, str, str], ...] = (
    (
        "alphabetic or numeric|undefined alias",
        r"\*\.(?P<rest>[^\s,\]}]*)",
        "a plain * starts an alias in YAML: write .{rest} (every sub-domain), or '*.{rest}'",
    ),
    (
        "alphabetic or numeric|undefined alias",
        r"(?P<word>\*[^\s,\]}]*)",
        "a plain * starts an alias in YAML: put it in quotes, '{word}'",
    ),
    (
        "alphabetic or numeric",
        r"(?P<word>&[^\s,\]}]*)",
        "a plain & starts an anchor in YAML: put it in quotes, '{word}'",
    ),
    (
        "",
        r"(?P<word>\[[0-9A-Fa-f:.]*\]:\d+)",
        "a plain [ starts a list in YAML: put it in quotes, '{word}'",
    ),
    (
        "expected ',' or",
        r"(?<!\})(?P<word>/(?:[^\s,{}\[\]]*\{[^{}\s]*\})+[^\s,{}\[\]]*)",
        "inside [ ] and {{ }} a path with a {{ needs quotes: '{word}'",
    ),
    (
        "expected key|expected ',' or|node content|mapping values",
        r"(?P<word>\{[^{}\s]*\}[^\s,\]}]+)",
        "a plain {{ starts a mapping in YAML: put it in quotes, '{word}'",
    ),
    (
        "expected ',' or",
        r"(?P<word>\$\{[^{}]*\})",
        "inside [ ] and {{ }} this needs quotes: '{word}'",
    ),
    (
        "unknown escape",
        r'"(?P<word>[^"]*)"',
        "a backslash in double quotes is an escape in YAML: use single quotes, '{word}'",
    ),
    ("cannot start any token|tab character|mapping values", r"\t", "indent with spaces, not tabs"),
    (
        "cannot start any token|directive",
        r"(?P<word>[@`%].*?)\s*(?:#.*)?$",
        "a plain text cannot start with @, ` or %: put it in quotes, '{word}'",
    ),
    ("another document", "", "one document a file: remove what follows ---, or include it"),
    ("control characters", "", "a control character stands in this file: remove it"),
    (
        "unexpected end of stream",
        "",
        "a quote is opened and never closed",
    ),
    (
        "expected ',' or",
        "",
        "a list or mapping in brackets is not closed, or a comma is missing",
    ),
    (
        "mapping values are not allowed",
        "",
        "a second `: ` in one line, or wrong indentation: quote the value or indent it as its siblings",
    ),
    (
        "expected '-' indicator|expected <block end>|expected key",
        "",
        "wrong indentation: this line fits neither the list or mapping above nor what holds it",
    ),
)


def explain(error: yaml.YAMLError, lines: Sequence[str]) -> tuple[int, int, str]:
    """Line and column (from 0) and the message for what the parser refuses."""
    said = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        line, column = _offset(getattr(error, "position", 0), lines)
    else:
        line, column = mark.line, mark.column
    here = lines[line] if line < len(lines) else ""
    for words, written, message in _TRAPS:
        if not re.search(words, said):
            continue
        found = _found(written, here, column)
        if found is not None:
            at, groups = found
            return line, at, message.format(**groups)
    return line, column, f"this is not YAML: {said.splitlines()[0]}"


def _found(written: str, here: str, column: int) -> tuple[int, dict[str, str]] | None:
    """Where a trap stands in the line: at the mark, or else anywhere as a value of its own."""
    if not written:
        return column, {}
    match = re.compile(written).match(here, column)
    if match is None:
        match = re.search(r"(?:^|[\s:,\[-])(?=" + written + ")", here)
        if match is None:
            return None
        match = re.compile(written).match(here, match.end())
    return (match.start(), match.groupdict()) if match else None


def _offset(position: int, lines: Sequence[str]) -> tuple[int, int]:
    for number, line in enumerate(lines):
        if position <= len(line):
            return number, position
        position -= len(line) + 1
    return max(len(lines) - 1, 0), 0
