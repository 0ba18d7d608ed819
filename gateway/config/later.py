"""Keys of the language whose models stand, and which are refused until what they ask for is there.

To open a key: delete its line here, in the commit that makes it work, then `make schema golden` and
read the difference. That is all: the models, the checks, the defaults and the texts are in place. A
key that is listed is refused as "not supported yet", is missing from the schema and from what
`fmt --expand` shows; its built-in value is in the effective settings all the same.

Rules of this file: one key a line, `SECTION.KEY`, under a line that says what it is for (so that two
branches that open neighbours do not conflict). A section is the `section` of a model in `upstreams`,
`policies`, `answers` or `model`; `balance` lists words, not keys.
"""

from __future__ import annotations

WAITING: frozenset[str] = frozenset(())


def keys(section: str) -> frozenset[str]:
    """The keys of a section that are refused for now."""
    start = f"{section}."
    return frozenset(key.removeprefix(start) for key in WAITING if key.startswith(start))
