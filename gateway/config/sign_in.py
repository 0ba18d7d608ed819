"""What a login at a provider brings about though nobody has written it: two routes, and protection from other sites.

Rules of this file: a policy `oidc` that some route uses has its `callback` and `logout` on the hosts of those routes. They
are routes like any other: matched, listed, explained, and in conflict with one that is written for the same path. What
`defaults` says holds for them, but for whatever would guard, copy or disturb them: who has not logged in must reach them.
"""

from __future__ import annotations

import itertools
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


def protected(
    route: effective.Route, auth: Mapping[str, model.AuthPolicy]
) -> frozenset[str] | None:
    """The policies of `auth` whose clients `csrf` is for on a route: maybe none; None: it is for everybody.

    Where `csrf` is not written it is on for logins: theirs are the cookies that a browser adds by itself.
    """
    if route.policies.csrf:
        return None
    if "csrf" in route.origins:  # it is off, by somebody's word
        return frozenset()
    names = route.policies.auth or ()
    return frozenset(name for name in names if name in auth and auth[name].oidc is not None)


def shared_cookies(config: effective.Config) -> Iterator[tuple[str, str]]:
    """(policy, one before it) of logins whose sessions have one name on one host: the later login ends the other's."""
    hosts = {
        route.answer.policy: frozenset(route.match.host)
        for route in config.routes
        if isinstance(route.answer, effective.SignIn)
    }
    logins = [(name, places, config.auth[name].oidc) for name, places in hosts.items()]
    for (other, theirs, first), (name, mine, second) in itertools.combinations(logins, 2):
        assert first is not None
        assert second is not None
        apart = mine and theirs and mine.isdisjoint(theirs)
        if first.session.cookie == second.session.cookie and not apart:
            yield name, other
