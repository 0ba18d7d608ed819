"""What every command shares: which file it reads, what it prints and how, and how it ends.

Rules of this file: those of `cli.py`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.config import effective

FAILED, WRONG_CONFIGURATION = 1, 78

LEVELS = ("debug", "info", "warning", "error", "critical")

# ── finding and loading the file ──────────────────────────────────────────────────────────────────


def places() -> list[Path]:
    """Where a configuration is looked for when `-c` names none, in this order."""
    configured = os.environ.get("GATEWAY_CONFIG")
    if configured:
        return [Path(configured)]
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return [
        Path("gateway.yaml"),
        Path(home) / "gateway" / "gateway.yaml",
        Path("/etc/gateway/gateway.yaml"),
    ]


def find(config: str | None) -> Path:
    """The file that `-c`, the environment or the usual places name; without one, exit 78."""
    candidates = [Path(config)] if config else places()
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    named = ", ".join(map(str, candidates))
    hint = "" if config else "; name one with -c FILE or $GATEWAY_CONFIG"
    click.echo(f"gateway: no configuration file at {named}{hint}", err=True)
    sys.exit(WRONG_CONFIGURATION)


def loaded(config: str | None) -> effective.Config:
    """The configuration; ends with 78 and every mistake on standard error when it is wrong."""
    from gateway.config import ConfigError, load

    try:
        return load(find(config))
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(WRONG_CONFIGURATION)


def coloured() -> bool:
    """Colours are for terminals, and for those who have not said no (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def print_json(value: object) -> None:
    """One JSON document, for programs."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def style(text: str, colour: str) -> str:
    """`text` in a colour where colours are wanted."""
    return click.style(text, fg=colour) if coloured() else text


def table(rows: Iterable[tuple[str, ...]]) -> None:
    """Columns as wide as their widest cell; the last one is free."""
    lines = list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(map(str.ljust, line, widths)).rstrip())


config_option = click.option(
    "-c",
    "--config",
    metavar="FILE",
    help="The configuration; without it $GATEWAY_CONFIG, ./gateway.yaml, "
    "$XDG_CONFIG_HOME/gateway/gateway.yaml, /etc/gateway/gateway.yaml.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document, for programs."
)
level_option = click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    help="How much of the service log is written.",
)


def fail(message: str, code: int = FAILED) -> NoReturn:
    """End with one plain line."""
    click.echo(f"gateway: {message}", err=True)
    sys.exit(code)
