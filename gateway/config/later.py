"""Keys of the language that this version does not have yet: one line for each.

Rules of this file: a key that stands here is refused as "not supported yet", and neither the schema nor what is told of a
configuration shows it, even where its model is there. Whoever makes a feature work takes its line out, then runs
`make golden schema`.
"""

from __future__ import annotations

DOCUMENT = frozenset(("plugins",))
"""Of the top level, of included files too."""

POLICIES = frozenset(
    (
        "compress",
        "cache",
        "validate",
        "slo",
        "plugins",
    )
)
"""Of routes, profiles and `defaults`."""
