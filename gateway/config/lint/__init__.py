"""`gateway check --lint`: what is allowed, and still a mistake more often than not.

Rules of this package: a rule has a code that never changes, a severity, and a fix; it looks at effective values, and
tells of them where they are written. What must never be is no rule here: `check` refuses it. Nothing here reads a network,
and nothing is imported until somebody asks.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config import effective
    from gateway.config.lint.rules import Finding
    from gateway.config.loading import Parts

__all__ = ["findings"]


def findings(
    config: effective.Config, parts: Parts, hidden: Callable[[str], str]
) -> tuple[Finding, ...]:
    """Everything that the rules find, in the order of files and lines. `hidden` takes secrets out of a message."""
    from gateway.config.lint import browsers, entrance, network, texts  # noqa: PLC0415
    from gateway.config.lint.rules import View  # noqa: PLC0415

    view = View(config, parts)
    found = [
        replace(finding, message=hidden(finding.message))
        for rules in (entrance.RULES, network.RULES, browsers.RULES, texts.RULES)
        for rule in rules
        for finding in view.told(rule)
    ]
    order = {name: number for number, name in enumerate(config.files)}

    def key(one: Finding) -> tuple[int, str, int, int, str]:
        number = order.get(str(Path(one.place.file).absolute()), len(order))
        return number, one.place.file, one.place.line, one.place.column, one.code

    return tuple(sorted(dict.fromkeys(found), key=key))
