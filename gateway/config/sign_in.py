"""Routes that nobody has written: where a login at a provider comes back to, and where it ends.

Rules of this file: a policy `oidc` that some route uses has its `callback` and `logout` on the hosts of those routes. They
are routes like any other: matched, listed, explained, and in conflict with one that is written for the same path. What
`defaults` says holds for them, but for whatever would guard, copy or disturb them: who has not logged in must reach them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from gateway.config import effective, model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_METHODS: Mapping[Literal["callback", "logout"], tuple[str, ...]] = {
    "callback": ("GET",),
    "logout": ("GET", "POST"),
}
_OPEN: dict[str, Any] = {
    "auth": None,
    "allow": None,
    "rate_limit": (),
    "cors": None,
    "csrf": False,
    "mirror": None,
    "fault": None,
}


def routes(
    auth: Mapping[str, model.AuthPolicy],
    places: Mapping[str, effective.Place],
    written: Sequence[effective.Route],
    policies: model.Policies,
) -> Iterator[effective.Route]:
    """The routes that the logins among `auth` need. `policies`: those of a route that says nothing itself."""
    for name, policy in auth.items():
        users = [route for route in written if name in (route.policies.auth or ())]
        if policy.oidc is None or not users:
            continue
        everywhere = any(not route.match.host for route in users)
        hosts = () if everywhere else tuple(dict.fromkeys(h for r in users for h in r.match.host))
        for does, methods in _METHODS.items():
            path = getattr(policy.oidc, does)
            match = model.Match()
            yield effective.Route(
                name=f"auth.{name}.{does}",
                match=match.replaced(
                    host=hosts, path=match.path.replaced(text=path), methods=methods
                ),
                answer=effective.SignIn(name, does),
                policies=policies.replaced(**_OPEN),
                place=places[name],
                origins={},
            )
