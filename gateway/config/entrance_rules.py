"""Rules of who may come in and how fast: named policies, limits and stores, and what routes make of them.

Rules of this file: as those of `upstream_rules`. What a limit with a name asks for is told where the limit is written, with
the route that cannot give it.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeAlias

from gateway import keypairs
from gateway.config import model, placeholders, sign_in
from gateway.config.addresses import FRAMING
from gateway.config.effective import Problem
from gateway.config.limits import parse_quota
from gateway.config.services import is_file
from gateway.config.upstream_rules import unreadable
from gateway.config.words import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gateway.config import effective
    from gateway.config.loading import Entry, Parts
    from gateway.config.report import Context

Found: TypeAlias = "Iterator[tuple[tuple[str | int, ...], str]]"

EXTRAS = {
    "jwt": ("auth", ("jwt", "cryptography")),
    "oidc": ("auth", ("jwt", "cryptography")),
}
"""Method → the extra that it needs, and the modules that come with it. What `basic` needs, its file's hashes say."""
TLS = ("tls", ("cryptography",))
REDIS = ("redis", ("redis",))
_FILES = {"jwt": ("jwks",), "api_key": ("keys_file",), "basic": ("htpasswd",)}
_UNKNOWN_YET = frozenset({"upstream", "target"})
_YEAR = 365 * 86400.0


def missing(extra: str, modules: tuple[str, ...]) -> str | None:
    """What to say where a module of an extra is not installed; nothing is imported."""
    for name in modules:
        if find_spec(name) is None:
            return f"{name} is not installed: pip install 'gateway[{extra}]'"
    return None


# ── policies, limits and stores with a name ─────────────────────────────────────────────────────


def check_named(parts: Parts, context: Context, *, has_secret: bool) -> None:
    """What `auth`, `rate_limits` and `stores` say about themselves."""
    for entry in _right(parts.auth):
        for keys, message in _policy(entry.values, has_secret=has_secret):
            context.add(entry.raw, entry.path, keys, message)
        context.problems.extend(_in_files(entry.values))
    for entry in _right(parts.rate_limits):
        for keys, message in limit_problems(entry.values, None, known=True):
            context.add(entry.raw, entry.path, keys, message)
    found = missing(*REDIS) if parts.stores else None
    for entry in _right(parts.stores) if found is not None else ():
        context.add(entry.raw, entry.path, (), str(found))
    for entries in (parts.auth, parts.rate_limits, parts.stores):
        for name, entry in entries.items():
            if not name.isprintable() or not name or name.startswith("_"):
                message = f"{name!r} cannot be a name"
                context.problems.append(Problem(entry.key_place, entry.path, message))


def _in_files(policy: model.AuthPolicy) -> tuple[Problem, ...]:
    from gateway.config import credentials  # noqa: PLC0415 - most files have no policies

    return credentials.mistakes(policy)


def one_cookie(config: effective.Config, parts: Parts, context: Context) -> None:
    """Logins that take each other's session away."""
    for name, other in sign_in.shared_cookies(config):
        entry, keys = parts.auth[name], ("oidc", "session", "cookie")
        message = (
            f"{other} has a session of this name on the same host: who logs in here is out there: "
            "give each a name"
        )
        context.warn(entry.raw, entry.path, keys, message)


def _right(entries: dict[str, Entry]) -> list[Entry]:
    return [entry for entry in entries.values() if entry.values is not None]


def _policy(policy: model.AuthPolicy, *, has_secret: bool) -> Found:
    method, settings = policy.method, policy.settings
    if method in EXTRAS:
        found = missing(*EXTRAS[method])
        if found is not None:
            yield (method,), found
    for key in _FILES.get(method, ()):
        file = getattr(settings, key)
        why = unreadable(file) if is_file(file) else None
        if why is not None:
            yield (method, key), why
    if method == "oidc" and not has_secret:
        yield ("oidc",), "oidc needs server: {secret: …}, which seals its sessions"
    for keys, message in _texts(settings, certificates=method == "mtls"):
        yield (method, *keys), message


def _texts(settings: model.AuthMethod, *, certificates: bool) -> Found:
    """The texts that are rendered once for each client: they may name what is known of it, and nothing of a request."""
    kinds = {"claim"} | ({"tls"} if certificates else set())
    if settings.consumer is not None:
        for name in placeholders.names(settings.consumer):
            if not _is_of(name, kinds):
                yield ("consumer",), _only(name, kinds)
    for header, text in settings.forward.items():
        if header.lower() in (*FRAMING, "host"):
            yield ("forward", header), f"{header} is made by the gateway for each request"
        for name in placeholders.names(text or ""):
            if name != "consumer" and not _is_of(name, kinds):
                yield ("forward", header), _only(name, kinds | {"consumer"})


def _is_of(name: str, kinds: set[str]) -> bool:
    kind, _, key = name.partition(".")
    return kind in kinds and (key in placeholders.TLS if kind == "tls" else bool(key))


def _only(name: str, kinds: set[str]) -> str:
    if name.startswith("tls.") and "tls" in kinds:
        key = name.removeprefix("tls.")
        return f"there is no {{{name}}}{nearest(key, placeholders.TLS, sorted(placeholders.TLS))}"
    known = ", ".join(kind if kind == "consumer" else f"{kind}.NAME" for kind in sorted(kinds))
    return f"{{{name}}} is not known of a client: {known} may stand here"


def limit_problems(limit: model.RateLimit, paths: frozenset[str] | None, *, known: bool) -> Found:
    """Names in a limit's texts that have no value where it counts, and numbers that let nobody in."""
    yield from _limit_numbers(limit)
    for key, text in (("rate", limit.rate), ("key", limit.template), ("cost", limit.cost)):
        if not isinstance(text, str):
            continue
        names = list(placeholders.names(text))
        if not names:
            yield (key,), f"{text!r} names no placeholder: write one such as {{client_ip}}"
        for name in names:
            if name in _UNKNOWN_YET:
                yield (key,), f"{{{name}}} is not chosen yet where limits are counted"
                continue
            found = placeholders.problem(name, paths, known=known)
            if found is not None:
                yield (key,), found


def _limit_numbers(limit: model.RateLimit) -> Found:
    most = limit.burst
    if most is not None and limit.algorithm in ("fixed_window", "sliding_window"):
        yield ("burst",), f"{limit.algorithm} has no burst: leave it out, or write algorithm: gcra"
    elif most is None and not isinstance(limit.rate, str):
        most = limit.rate.count
    if most is not None and not isinstance(limit.cost, str) and limit.cost > most:
        yield (
            ("cost",),
            f"a request takes {limit.cost} and there are never more than {most}: none would pass",
        )
    if isinstance(limit.rate, str):
        text = placeholders.defaults(limit.rate)
        if text:
            try:
                parse_quota(text)
            except ValueError as error:
                yield ("rate",), f"where its placeholders have no value, {error}"


# ── listeners ───────────────────────────────────────────────────────────────────────────────────


def check_listener(entry: Entry, context: Context) -> None:
    """TLS and the PROXY protocol of one."""
    listener: model.Listener = entry.values
    tls, proxied = listener.tls, listener.proxy_protocol
    if tls is not None:
        found = missing(*TLS)
        if found is not None:
            context.add(entry.raw, entry.path, ("tls",), found)
        for key, message in _clients(tls):
            context.add(entry.raw, entry.path, ("tls", key), message)
        for error in keypairs.mistakes(tls) if found is None else ():
            context.add(entry.raw, entry.path, ("tls", *error.keys), str(error))
        if listener.redirect_to_https is not None:
            message = "who comes here speaks https already: write it in the listener without tls"
            context.add(entry.raw, entry.path, ("redirect_to_https",), message)
    if proxied is not None:
        unix = "unix" in proxied.from_
        if unix and listener.bind.unix is None:
            message = "unix: nobody comes here by a unix socket: write networks such as 10.0.0.0/8"
            context.add(entry.raw, entry.path, ("proxy_protocol", "from"), message)
        if not unix and listener.bind.unix is not None:
            message = "the peers of a unix socket have no address: write from: unix"
            context.add(entry.raw, entry.path, ("proxy_protocol", "from"), message)


def _clients(tls: model.ListenerTls) -> Iterator[tuple[str, str]]:
    asks = tls.client_auth != "off"
    if asks and tls.client_ca is None:
        yield "client_auth", f"{tls.client_auth} needs client_ca: who vouches for clients"
    if not asks and tls.client_ca is not None:
        yield "client_ca", "nobody is asked: write client_auth: optional, or required"
    if not asks and tls.forward_client_cert:
        yield "forward_client_cert", "nobody is asked: write client_auth and client_ca"


# ── routes ──────────────────────────────────────────────────────────────────────────────────────

LOOKED_AT = frozenset(
    (
        *("auth", "allow", "rate_limit", "cors", "security_headers", "hsts", "csrf"),
        "forward_credentials",
    )
)


def problems(route: effective.Route, *, path_known: bool, client_known: bool) -> Found:
    """What cannot be."""
    policies = route.policies
    if policies.model_fields_set.isdisjoint(LOOKED_AT):
        return
    yield from _names(policies)
    yield from _allow(policies, known=client_known)
    yield from _cors(policies.cors)
    yield from _headers(policies)
    paths = placeholders.of_path(route.match.path) if path_known else None
    for index, limit in enumerate(policies.rate_limit):
        if isinstance(limit, model.RateLimit):
            for keys, message in limit_problems(limit, paths, known=client_known):
                yield ("rate_limit", index, *keys), message


def _names(policies: model.Policies) -> Found:
    if policies.auth == ():
        yield ("auth",), "nobody is accepted: write the names of policies, or off"
    for key, names in (("auth", policies.auth or ()), ("rate_limit", policies.rate_limit)):
        for index, name in enumerate(names):
            if isinstance(name, str) and name in names[:index]:
                yield (key, index), f"{name} is written twice"


def _allow(policies: model.Policies, *, known: bool) -> Found:
    allow = policies.allow
    if allow is None:
        return
    if not (allow.of_identity or allow.of_address):
        yield (
            ("allow",),
            "nobody is refused: write scopes, claims, consumers, groups, ip or deny_ip",
        )
    if allow.of_identity and not known:
        key = next(
            one for one in ("scopes", "claims", "consumers", "groups") if getattr(allow, one)
        )
        yield (
            ("allow", key),
            f"there is no `auth` here, so nobody has {key}: write auth: NAME",
        )


def _cors(cors: model.Cors | None) -> Found:
    if cors is not None and not cors.origins:
        yield (
            ("cors",),
            "origins is missing: write one such as https://app.example.com, or cors: off",
        )
    if cors is None or not cors.credentials:
        return
    for index, origin in enumerate(cors.origins):
        if origin.text == "*":
            yield (
                ("cors", "origins", index),
                "* with credentials would let every page on the web act for your users: name the origins",
            )
    for key in ("methods", "headers", "expose"):
        if "*" in getattr(cors, key):
            yield (
                ("cors", key),
                f"browsers take * for a name where there are credentials: list {key}",
            )


def _headers(policies: model.Policies) -> Found:
    hsts, security = policies.hsts, policies.security_headers
    if hsts is not None and hsts.preload and (not hsts.subdomains or hsts.max_age < _YEAR):
        yield (
            ("hsts", "preload"),
            "browsers preload only what has subdomains: on and a max_age of 365d or more",
        )
    for name in security.set if security is not None else ():
        if name.lower() in FRAMING:
            yield (
                ("security_headers", "set", name),
                f"{name} is made by the gateway for each connection",
            )


def warnings(route: effective.Route) -> Found:
    """What has no effect."""
    policies = route.policies
    if policies.forward_credentials and not policies.auth:
        yield ("forward_credentials",), "forward_credentials has no effect without auth"


_WITHOUT = {
    "scopes": frozenset({"basic", "forward_auth", "hmac", "mtls"}),
    "groups": frozenset({"basic", "hmac", "mtls"}),
}
"""What `allow` may ask for, and the methods that never tell it; groups, unless `groups` names the claim."""


def between(route: effective.Route, auth: Mapping[str, model.AuthPolicy]) -> Found:
    """What a route's policies are to each other, and to its `allow`."""
    names = route.policies.auth or ()
    if names and all(name in auth for name in names):
        yield from _taken_for_keys({name: auth[name] for name in names})
        yield from _nobody_has(route, auth)


def _taken_for_keys(policies: Mapping[str, model.AuthPolicy]) -> Found:
    """Keys behind `Bearer`, where tokens stand there, too: each token is a failed guess at a key."""
    tokens = [
        name
        for name, policy in policies.items()
        if policy.introspection is not None
        or (policy.jwt is not None and policy.jwt.header.lower() == "authorization")
    ]
    for name, policy in policies.items():
        keys = policy.api_key
        if not tokens or keys is None or keys.attempts is None:
            continue
        if (keys.header or "").lower() == "authorization":
            message = (
                f"{name} takes each token of {' and '.join(tokens)} for a wrong key, and refuses its address "
                f"after {keys.attempts.max}: give keys a field of their own, or write attempts: off in {name}"
            )
            yield ("auth",), message


def _nobody_has(route: effective.Route, auth: Mapping[str, model.AuthPolicy]) -> Found:
    """What `allow` asks for and no policy of the route ever tells."""
    allow, names = route.policies.allow, route.policies.auth or ()
    if allow is None:
        return
    for key, methods in _WITHOUT.items():
        silent = all(
            auth[name].method in methods and (key != "groups" or auth[name].settings.groups is None)
            for name in names
        )
        if getattr(allow, key) and silent:
            yield (
                ("allow", key),
                f"{' and '.join(names)} tell no {key}, so nobody is let in: ask for consumers or claims",
            )


class NamedLimits:
    """Limits with a name on the routes that they count for; each mistake is told once for each limit."""

    def __init__(self, parts: Parts, context: Context) -> None:
        self.parts = parts
        self.context = context
        self.told: set[tuple[str, tuple[str | int, ...]]] = set()

    def check(self, entry: Entry, route: effective.Route) -> None:
        """One route."""
        policies = route.policies
        for name, limit in route.rate_limits:
            named = self.parts.rate_limits.get(name)
            if any(limit is one for one in policies.rate_limit):  # it is the route's own
                if named is not None:
                    message = (
                        f"the limit of this route would be called {name!r}, as the one at "
                        f"{named.key_place} is: give the route another name"
                    )
                    self.context.add(entry.raw, entry.path, ("name",), message)
                continue
            if named is None:
                continue
            paths = None if "path" in entry.left_out else placeholders.of_path(route.match.path)
            known = placeholders.knows_who_asks(route, entry.left_out)
            for keys, message in limit_problems(limit, paths, known=known):
                if (name, keys) not in self.told and not _told_already(limit, keys):
                    self.told.add((name, keys))
                    text = f"on the route {route.name}, {message}"
                    self.context.add(named.raw, named.path, keys, text)


def _told_already(limit: model.RateLimit, keys: tuple[str | int, ...]) -> bool:
    """Whether it is wrong wherever the limit counts."""
    return any(found == keys for found, _ in limit_problems(limit, None, known=True))


def without_certificates(config: effective.Config, parts: Parts, context: Context) -> None:
    """A policy for certificates that nobody is asked for."""
    asked = any(one.tls is not None and one.tls.client_auth != "off" for one in config.listeners)
    for entry in _right(parts.auth):
        if entry.values.mtls is not None and not asked:
            message = (
                "no listener asks clients for certificates: write tls: {client_auth: optional, …}"
            )
            context.warn(entry.raw, entry.path, ("mtls",), message)
