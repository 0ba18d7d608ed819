"""What the tests of the configuration share."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

from gateway.config import ConfigError, load_text

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.config import effective

ROUTE = "routes:\n  - {name: r, path: /*, to: 'http://h:1'}\n"


def loaded(text: str, base: Path | str = ".") -> effective.Config:
    """The configuration of an indented text."""
    return load_text(textwrap.dedent(text), base=base)


def refused(text: str, base: Path | str = ".") -> list[str]:
    """What is wrong with a text, one line each, without the name of the file."""
    with pytest.raises(ConfigError) as raised:
        loaded(text, base)
    return [line.removeprefix("gateway.yaml:") for line in str(raised.value).splitlines()]


def route(policies: str = "", answer: str = "to: http://h:1", rest: str = "") -> effective.Route:
    """The one route of a configuration, with some more keys in flow style."""
    text = f"{rest}\nroutes:\n  - name: r\n    path: /*\n    {answer}\n"
    for line in textwrap.dedent(policies).splitlines():
        text += f"    {line}\n"
    return load_text(text).routes[0]


def messages(text: str) -> str:
    """All that is wrong with a text, in one string."""
    return "\n".join(refused(text))
