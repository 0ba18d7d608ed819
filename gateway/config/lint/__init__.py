"""`gateway check --lint`: what is allowed, and still a mistake more often than not.

Rules of this package: a rule has a code that never changes, a severity, and a fix; it looks at effective values, and
tells of them where they are written. What must never be is no rule here: `check` refuses it. Nothing here reads a network,
and nothing is imported until somebody asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config import effective
    from gateway.config.lint.rules import Finding
    from gateway.config.loading import Parts

__all__ = ["findings"]


def findings(config: effective.Config, parts: Parts) -> tuple[Finding, ...]:
    """Everything that the rules find, in the order of files and lines."""
    from gateway.config.lint import browsers, entrance, network, texts  # noqa: PLC0415
    from gateway.config.lint.rules import View  # noqa: PLC0415

    view = View(config, parts)
    found = [
        finding
        for rules in (entrance.RULES, network.RULES, browsers.RULES, texts.RULES)
        for rule in rules
        for finding in view.told(rule)
    ]
    order = {name: number for number, name in enumerate(config.files)}
    found.sort(
        key=lambda one: (
            order.get(one.place.file, len(order)),
            one.place.file,
            one.place.line,
            one.place.column,
            one.code,
        )
    )
    return tuple(dict.fromkeys(found))
