"""Keys of the language that this version does not have yet: one line for each.

Rules of this file: a key that stands here is refused as "not supported yet", and neither the schema nor `gateway config`
shows it, though its model is there. Whoever makes a feature work takes its line out, then `make golden schema`.
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

METHODS: frozenset[str] = frozenset()
"""Of a policy of `auth`."""

LISTENER: frozenset[str] = frozenset()
