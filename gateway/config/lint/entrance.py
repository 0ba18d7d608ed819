"""Rules G1: who may come in; and G2: what their credentials are worth.

Rules of this file: as those of the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config import effective, model, sign_in
from gateway.config.auth import SYMMETRIC
from gateway.config.lint.rules import Rule
from gateway.config.services import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.config.lint.rules import Note, View

LONGEST_LEEWAY = 120.0
"""Seconds that clocks of machines which ask a time server are never apart."""
LEAST_SECRET = 32
"""Bytes of a secret that cannot be tried out (RFC 7518 section 3.2)."""
_UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})

# ── G1: who may come in ─────────────────────────────────────────────────────────────────────────


def _open_beside_guarded(view: View) -> Iterator[Note]:
    guarded = view.guarded()
    for route in view.routes if guarded else ():
        policies = route.policies
        by_address = policies.allow is not None and bool(policies.allow.ip)
        meant = view.layer(route, "auth") == "route"  # `auth: off` in the route itself
        if policies.auth or by_address or meant or isinstance(route.answer, model.Redirect):
            continue
        sibling = next((one for one in guarded if _siblings(route, one)), None)
        if sibling is not None:
            message = (
                f"everybody may come in, and {sibling.name} beside it asks for {_names(sibling)}"
            )
            yield view.in_route(route, (), message)


def _names(route: effective.Route) -> str:
    return " or ".join(route.policies.auth or ())


def _siblings(one: effective.Route, other: effective.Route) -> bool:
    """Whether two routes share a host and the first segment of their paths, or one is for all paths."""
    hosts, others = set(one.match.host), set(other.match.host)
    if hosts and others and hosts.isdisjoint(others):
        return False
    first, second = _segment(one), _segment(other)
    return first is not None and second is not None and (first == second or second == "*")


def _segment(route: effective.Route) -> str | None:
    """The first segment of a path; None: it is a regex."""
    text = route.match.path.text
    return None if text is None else text.split("/")[1]


def _report_mode(view: View) -> Iterator[Note]:
    for route in view.routes:
        allow = route.policies.allow
        if allow is not None and allow.mode == "report":
            yield view.in_route(route, ("allow", "mode"), "nobody is refused yet, only counted")


def _ambiguous_paths(view: View) -> Iterator[Note]:
    if view.config.server.ambiguous_paths == "keep" and view.guarded():
        message = (
            "a path that the upstream decodes into that of a guarded route may be let in by another"
        )
        yield view.in_section("server", ("ambiguous_paths",), message)


def _guessing(view: View) -> Iterator[Note]:
    basic = {name: policy.basic for name, policy in view.config.auth.items() if policy.basic}
    for route in view.guarded():
        early = any(not limit.of_identity for _, limit in route.rate_limits)
        for name in route.policies.auth or ():
            if name in basic and not early:
                slowed = basic[name].attempts is not None
                message = f"passwords of {name} are checked as often as somebody asks" + (
                    ", but for addresses that have failed too often" if slowed else ""
                )
                severity = "info" if slowed else "warning"
                yield view.in_route(route, ("auth",), message, severity=severity)


def _keys_in_urls(view: View) -> Iterator[Note]:
    for name, entry, policy in view.policies():
        if policy.api_key is not None and policy.api_key.query is not None:
            message = (
                f"keys of {name} stand in URLs, which browsers, proxies and Referer fields keep"
            )
            yield view.in_entry(entry, ("api_key", "query"), message)


def _open_on_error(view: View) -> Iterator[Note]:
    for name, entry, policy in view.policies():
        if policy.forward_auth is not None and policy.forward_auth.on_error == "allow":
            message = f"while the service of {name} does not answer, everybody is let in"
            yield view.in_entry(entry, ("forward_auth", "on_error"), message)


def _plain_credentials(view: View) -> Iterator[Note]:
    if view.config.server.trusted_proxies or not view.guarded():
        return  # TLS may end in front of the gateway
    for index, listener in enumerate(view.config.listeners):
        bind = listener.bind
        plain = listener.tls is None and listener.redirect_to_https is None
        proxied = listener.proxy_protocol is not None
        if plain and not proxied and bind.unix is None and not is_loopback(bind.host or ""):
            message = f"credentials come to {bind} in plain text"
            if index < len(view.parts.listeners):
                yield view.in_entry(view.parts.listeners[index], ("bind",), message)


def _no_csrf(view: View) -> Iterator[Note]:
    logins = {name for name, policy in view.config.auth.items() if policy.oidc is not None}
    for route in view.guarded():
        methods = route.match.methods
        changes = not methods or not _UNSAFE.isdisjoint(methods)
        forwards = isinstance(route.answer, effective.Forward)
        protected = sign_in.protected(route, view.config.auth)
        exposed = (
            protected is not None and logins.intersection(route.policies.auth or ()) - protected
        )
        if exposed and changes and forwards:
            message = "a session's cookie comes along with whatever a page of this site sends"
            yield view.in_route(route, ("auth",), message)


def _underscores(view: View) -> Iterator[Note]:
    writes = [name for name, policy in view.config.auth.items() if policy.settings.forward]
    if view.config.server.underscore_headers == "keep" and writes:
        message = (
            f"X_User passes beside the X-User of {writes[0]}, and many servers take them for one"
        )
        yield view.in_section("server", ("underscore_headers",), message)


# ── G2: what credentials are worth ──────────────────────────────────────────────────────────────


def _no_audience(view: View) -> Iterator[Note]:
    for name, entry, policy in view.policies():
        if policy.jwt is not None and not policy.jwt.audience:
            message = f"{name} takes tokens that the issuer has made for others"
            yield view.in_entry(entry, ("jwt",), message)


def _no_issuer(view: View) -> Iterator[Note]:
    for name, entry, policy in view.policies():
        if policy.jwt is not None and policy.jwt.issuer is None and not policy.jwt.secret:
            message = f"{name} takes tokens of whoever signs with these keys"
            yield view.in_entry(entry, ("jwt",), message)


def _long_leeway(view: View) -> Iterator[Note]:
    for name, entry, policy in view.policies():
        for method, settings in (("jwt", policy.jwt), ("oidc", policy.oidc)):
            if settings is not None and settings.leeway > LONGEST_LEEWAY:
                message = f"{name} takes tokens that are over for {settings.leeway:g}s still"
                yield view.in_entry(entry, (method, "leeway"), message)


def _no_expiry(view: View) -> Iterator[Note]:
    for name, entry, policy in view.policies():
        if policy.jwt is not None and policy.jwt.expiry == "optional":
            message = f"{name} takes tokens that never end"
            yield view.in_entry(entry, ("jwt", "expiry"), message)


def _mixed_algorithms(view: View) -> Iterator[Note]:
    for name, entry, policy in view.policies():
        jwt = policy.jwt
        if jwt is None or "algorithms" not in jwt.model_fields_set:
            continue
        families = sorted({one[:2] for one in jwt.algorithms})
        if len(families) > 1:
            message = f"{name} takes {' and '.join(families)}: the issuer decides which is used"
            yield view.in_entry(entry, ("jwt", "algorithms"), message)


def _shared_secret(view: View) -> Iterator[Note]:
    for name, entry, policy in view.policies():
        jwt = policy.jwt
        if jwt is not None and set(jwt.algorithms) & set(SYMMETRIC):
            message = f"whoever checks tokens of {name} can make them, too"
            yield view.in_entry(entry, ("jwt", "secret"), message)


def _short_secrets(view: View) -> Iterator[Note]:
    for name, entry, policy in view.policies():
        secrets = policy.hmac.secret if policy.hmac is not None else ()
        for index, secret in enumerate(secrets):
            if len(secret.reveal().encode()) < LEAST_SECRET:
                keys = ("hmac", "secret", index)
                yield view.in_entry(entry, keys, f"a secret of {name} can be tried out")
    for index, secret in enumerate(view.config.server.secret):
        if len(secret.reveal().encode()) < LEAST_SECRET:
            yield view.in_section("server", ("secret", index), "the secret can be tried out")


RULES = (
    Rule(
        "G101",
        "warning",
        "A route without authentication beside others that have it",
        "Its host and the first segment of its path are those of a guarded route, or that one is "
        "for all paths. More often "
        "than not `auth` was forgotten. Routes that redirect, or that `allow` certain addresses "
        "only, are left alone.",
        "write auth: NAME, or auth: off in the route to say that it is meant to be open",
        _open_beside_guarded,
    ),
    Rule(
        "G102",
        "info",
        "`allow` that only reports",
        "`mode: report` counts who would be refused, and lets everybody in.",
        'take mode: report away once gateway_auth_decisions_total{outcome="would_deny"} says that nobody is missed',
        _report_mode,
    ),
    Rule(
        "G103",
        "warning",
        "`ambiguous_paths: keep` with authentication",
        "A path such as `/open/..%2forders` is matched as it stands, so by the rules of `/open`, "
        "and decoded by the upstream.",
        "write ambiguous_paths: reject, or resolve",
        _ambiguous_paths,
    ),
    Rule(
        "G104",
        "warning",
        "Passwords without a rate limit",
        "Each attempt costs a slow hash, and the next guess is free. With `attempts` on, which is "
        "built in, addresses that "
        "have failed too often are refused, and this is told as info.",
        "write rate_limit: 10/m per client_ip",
        _guessing,
    ),
    Rule(
        "G105",
        "warning",
        "API keys in URLs",
        "A URL is kept where a header is not: in histories, in logs of other servers, in Referer fields.",
        "write header: X-Api-Key",
        _keys_in_urls,
    ),
    Rule(
        "G106",
        "warning",
        "A service whose failure lets everybody in",
        "`on_error: allow` of `forward_auth`: whoever can stop the service can come in.",
        "write on_error: deny",
        _open_on_error,
    ),
    Rule(
        "G107",
        "warning",
        "Credentials in plain text",
        "A listener without TLS, beyond this machine, and nobody is trusted to have ended TLS in "
        "front of it.",
        "write tls: {certificates: …} or redirect_to_https: true, or name the proxy in "
        "server.trusted_proxies",
        _plain_credentials,
    ),
    Rule(
        "G108",
        "info",
        "Sessions by cookie with `csrf: off`",
        "`SameSite` keeps other sites from sending the cookie with most requests; other hosts of "
        "the same site are not kept.",
        "take csrf: off away: it is on for sessions of logins",
        _no_csrf,
    ),
    Rule(
        "G109",
        "warning",
        "Names with underscores beside fields that tell who somebody is",
        "Servers that follow CGI (WSGI, PHP) read `X_User` and `X-User` as one name; the gateway "
        "removes the second only.",
        "write underscore_headers: drop",
        _underscores,
    ),
    Rule(
        "G201",
        "warning",
        "JWT without an audience",
        "A token that somebody else's service was given opens this one, too (RFC 8725 section 3.9).",
        "write audience: NAME",
        _no_audience,
    ),
    Rule(
        "G202",
        "warning",
        "A secret that can be tried out",
        "Who has one signature can try secrets against it, at home; 32 bytes by chance are out of reach.",
        "write what `openssl rand -hex 32` prints into a file, and ${file:…} here",
        _short_secrets,
    ),
    Rule(
        "G203",
        "warning",
        "A leeway of more than two minutes",
        "It is for clocks that are apart. Tokens that were withdrawn by their end count for as long.",
        "write leeway: 30s",
        _long_leeway,
    ),
    Rule(
        "G204",
        "info",
        "Algorithms of more than one family",
        "Each key is good for its own algorithm only, so this is no hole; but what is not used need "
        "not be accepted (RFC 8725 "
        "section 3.1).",
        "list what the issuer signs with, and nothing else",
        _mixed_algorithms,
    ),
    Rule(
        "G205",
        "warning",
        "Tokens that never end",
        "`expiry: optional` takes tokens without `exp`: one that leaks is good for ever.",
        "take expiry: optional away",
        _no_expiry,
    ),
    Rule(
        "G206",
        "warning",
        "JWT without an issuer",
        "A key set may serve several issuers (RFC 8725 section 3.8).",
        "write issuer: https://…",
        _no_issuer,
    ),
    Rule(
        "G207",
        "info",
        "Tokens with a shared secret",
        "With HS algorithms everybody who can check a token can make one.",
        "let the issuer sign with ES256, and write jwks: in place of secret:",
        _shared_secret,
    ),
)
