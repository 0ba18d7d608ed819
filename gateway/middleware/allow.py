"""`allow`: what a client's address, and a client that is known, must be to be let through.

Rules of this file: everything that is written must hold; of a list, one entry, but every scope. Addresses are judged before
anybody is asked for a credential, the rest once it is known who asks. In report mode all pass, and who would not have is
counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway import errors
from gateway.auth import bearer
from gateway.auth.describing import words
from gateway.exchange import would_refuse
from gateway.routing.match import network_test
from gateway.routing.template import claim_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from gateway.config import effective, model
    from gateway.exchange import Exchange, Handler, Reply
    from gateway.identity import Identity
    from gateway.middleware.base import Build

ADDRESS = "_address"
"""Stands for the policy in `gateway_auth_decisions_total` where an address was refused: nobody was known yet."""


def wrap_addresses(route: effective.Route, forward: Handler, build: Build) -> Handler:
    """Judge the client's address; `forward` itself where `allow` says nothing of addresses."""
    allow = route.policies.allow
    if allow is None or not allow.of_address:
        return forward
    inside = network_test(allow.ip) if allow.ip else None
    denied = network_test(allow.deny_ip) if allow.deny_ip else None
    meter, report = build.metrics.entrance.policy(ADDRESS), allow.mode == "report"

    def addresses(exchange: Exchange) -> Awaitable[Reply]:
        address = exchange.client_ip
        if denied is not None and denied(address):
            why = f"{address} is in allow.deny_ip"
        elif inside is not None and not inside(address):
            why = f"{address} is not in allow.ip"
        else:
            return forward(exchange)
        if not report:
            meter.outcomes["forbidden"] += 1
            raise errors.IpDenied(why)
        meter.outcomes["would_deny"] += 1
        would_refuse(exchange, errors.IpDenied.reason)
        return forward(exchange)

    return addresses


def wrap(route: effective.Route, forward: Handler, build: Build) -> Handler:
    """Judge who asks; `forward` itself where `allow` says nothing of that."""
    allow = route.policies.allow
    rules = () if allow is None else tuple(_rules(allow))
    if allow is None or not rules:
        return forward
    policy, report = build.metrics.entrance.policy, allow.mode == "report"
    bearers = frozenset(
        name for name, one in build.authenticators.items() if one.challenge == bearer.CHALLENGE
    )
    of_scopes = rules[0] if allow.scopes else None

    def told(identity: Identity, broken: object) -> tuple[tuple[str, str], ...]:
        """What a token that has too little is answered (RFC 6750 section 3.1); which scopes it lacks is for operators."""
        if broken is of_scopes and identity.policy in bearers:
            return (("WWW-Authenticate", bearer.TOO_LITTLE),)
        return ()

    def authorise(exchange: Exchange) -> Awaitable[Reply]:
        identity = exchange.identity
        if identity is None:
            if not report:
                raise errors.Forbidden("nobody is known, and allow asks who it is")
            would_refuse(exchange, errors.Forbidden.reason)
            return forward(exchange)
        for broken in rules:
            why = broken(identity)
            if not why:
                continue
            if not report:
                policy(identity.policy).outcomes["forbidden"] += 1
                raise errors.Forbidden(f"{identity.consumer}: {why}", told(identity, broken))
            policy(identity.policy).outcomes["would_deny"] += 1
            would_refuse(exchange, errors.Forbidden.reason)
            break
        return forward(exchange)

    return authorise


def _rules(allow: model.Allow) -> Sequence[Callable[[Identity], str]]:
    """For each rule: why an identity breaks it; empty, where it does not."""
    rules: list[Callable[[Identity], str]] = []
    if allow.scopes:
        rules.append(_scopes(frozenset(allow.scopes)))
    if allow.consumers:
        rules.append(_consumers(frozenset(allow.consumers)))
    if allow.groups:
        rules.append(_groups(frozenset(allow.groups)))
    rules += [_claim(name, test) for name, test in allow.claims.items()]
    return rules


def _scopes(wanted: frozenset[str]) -> Callable[[Identity], str]:
    def broken(identity: Identity) -> str:
        missing = wanted - identity.scopes
        return f"scope {' '.join(sorted(missing))} is missing" if missing else ""

    return broken


def _consumers(wanted: frozenset[str]) -> Callable[[Identity], str]:
    return lambda identity: "" if identity.consumer in wanted else "not in allow.consumers"


def _groups(wanted: frozenset[str]) -> Callable[[Identity], str]:
    return lambda identity: (
        "in no group of allow.groups" if wanted.isdisjoint(identity.groups) else ""
    )


def _claim(name: str, test: model.ClaimTest) -> Callable[[Identity], str]:
    if test.contains is not None:
        return _contains(name, test.contains)
    wanted = frozenset(test.one_of or (test.equals,))

    def broken(identity: Identity) -> str:
        value = identity.claim(name)
        # A list is no text, though it could be written as one.
        if not isinstance(value, list | tuple) and claim_text(value) in wanted:
            return ""
        return f"claim {name} is not {' or '.join(sorted(filter(None, wanted)))}"

    return broken


def _contains(name: str, wanted: str) -> Callable[[Identity], str]:
    def broken(identity: Identity) -> str:
        return "" if wanted in words(identity.claim(name)) else f"claim {name} lacks {wanted}"

    return broken
