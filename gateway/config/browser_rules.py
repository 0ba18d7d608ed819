"""Rules of what browsers are told: a field that two settings want to write.

Rules of this file: as those of `upstream_rules`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.config import model

CORS_FIELDS = frozenset(
    (
        "access-control-allow-origin",
        "access-control-allow-credentials",
        "access-control-allow-methods",
        "access-control-allow-headers",
        "access-control-expose-headers",
        "access-control-max-age",
        "access-control-allow-private-network",
    )
)
"""Lower-case names of the fields that are the gateway's to write where there is `cors`."""
HSTS_FIELD = "strict-transport-security"


def problems(policies: model.Policies) -> Iterator[tuple[tuple[str, ...], str]]:
    """What cannot be."""
    taken = dict.fromkeys(CORS_FIELDS, "cors") if policies.cors is not None else {}
    if policies.hsts is not None:
        taken[HSTS_FIELD] = "hsts"
    if not taken:
        return
    edits = policies.headers.response
    for key, names in (("set", edits.set), ("add", edits.add)):
        for name in names:
            policy = taken.get(name.lower())
            if policy is not None:
                yield (
                    ("headers", "response", key, name),
                    f"{name} is what {policy} writes: leave it out",
                )
