"""Rules G3: whom the gateway believes, and what it says to others in plain text.

Rules of this file: as those of the package.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gateway.config import effective
from gateway.config.lint.rules import Rule
from gateway.config.services import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.config import model
    from gateway.config.lint.rules import Note, Severity, View
    from gateway.config.scalars import AnyNetwork

WIDE = {4: 8, 6: 32}
"""Shorter prefixes than these, by version of IP, are no network of one's own."""
_INSIDE = (
    *(".local", ".internal", ".svc", ".cluster.local", ".lan", ".home.arpa", ".localhost"),
    *(".intranet", ".corp", ".private", ".docker", ".test"),
)
"""Ends of names that are not looked up on the internet."""
_WEAK = re.compile(
    r"(?<![!\-A-Za-z])(?:[ae]?NULL|RC4|3?DES|EXP|EXPORT|MD5|LOW|ADH|AECDH|SEED|IDEA)(?![A-Za-z])"
)
_AUTHORIZATION = "authorization"


def _trusted(view: View) -> Iterator[Note]:
    for index, network in enumerate(view.config.server.trusted_proxies):
        found = _width(network)
        if found is not None:
            severity, words = found
            message = f"{words} may say whose a request is, and over what it came"
            keys = ("trusted_proxies", index)
            yield view.in_section("server", keys, message, severity=severity)


def _width(network: AnyNetwork) -> tuple[Severity, str] | None:
    """(how bad, who that is) of a network that is too wide."""
    if isinstance(network, str):
        return None
    if network.prefixlen == 0:
        return "error", "everybody"
    if network.prefixlen < WIDE[network.version]:
        return "warning", f"each of 2^{network.max_prefixlen - network.prefixlen} addresses"
    return None


def _proxy_protocol(view: View) -> Iterator[Note]:
    for index, entry in enumerate(one for one in view.parts.listeners if one.values is not None):
        proxied = view.config.listeners[index].proxy_protocol
        for place, network in enumerate(proxied.from_ if proxied is not None else ()):
            found = _width(network)
            if found is not None:
                message = f"{found[1]} may say whose a connection is"
                keys = ("proxy_protocol", "from", place)
                yield view.in_entry(entry, keys, message, severity=found[0])


def _admin(view: View) -> Iterator[Note]:
    admin = view.config.admin
    if admin is None or admin.bind.unix is not None or is_loopback(admin.bind.host or ""):
        return
    if admin.token is None:
        message = f"whoever reaches {admin.bind} reads configuration, routes and upstreams"
        yield view.in_section("admin", ("bind",), message)
    elif not admin.metrics_token:
        message = f"whoever reaches {admin.bind} reads /metrics"
        fix = "write metrics_token: true"
        yield view.in_section("admin", ("bind",), message, severity="info", fix=fix)


def is_inside(host: str) -> bool:
    """Whether a host is this machine, or of a network that is one's own; a name without a dot is."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(_INSIDE)
    return address.is_loopback or address.is_private or address.is_link_local


def _is_plain(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_inside(parts.hostname or "")


def _plain_upstreams(view: View) -> Iterator[Note]:
    for route in view.routes:
        if not isinstance(route.answer, effective.Forward):
            continue
        found = _passes_on(route)
        if found is None:
            continue
        keys, severity, what = found
        names = dict.fromkeys(branch.upstream for branch in route.answer.branches)
        for name in names:
            targets = view.config.upstreams[name].settings.targets
            url = next((one.url for one in targets if _is_plain(one.url)), None)
            if url is not None:
                message = f"{what} to {url} in plain text"
                yield view.in_route(route, keys, message, severity=severity)


def _passes_on(route: effective.Route) -> tuple[tuple[str, ...], Severity, str] | None:
    """(where it is said, how bad, what goes on) of a route that sends credentials to its upstream."""
    policies = route.policies
    edits = policies.headers.request
    for key, names in (("set", edits.set), ("add", edits.add)):
        for name in names:
            if name.lower() == _AUTHORIZATION:
                return ("headers", "request", key, name), "warning", "credentials go"
    if policies.auth and policies.forward_credentials:
        return (
            ("forward_credentials",),
            "warning",
            "what clients have proved who they are with goes",
        )
    removed = any(name.lower() == _AUTHORIZATION for name in edits.remove)
    if not policies.auth and not removed:
        return ("to",), "info", "what clients send in Authorization and Cookie goes"
    return None


def _unverified(view: View) -> Iterator[Note]:
    for name, upstream in view.config.upstreams.items():
        settings: model.Upstream = upstream.settings
        entry = view.parts.upstreams.get(name)
        if not settings.tls.verify and entry is not None:
            message = f"whoever is between here and {name} can read and change everything"
            yield view.in_entry(entry, ("tls", "verify"), message)


def _plain_services(view: View) -> Iterator[Note]:
    for name, entry, policy in view.policies():
        for method in ("introspection", "forward_auth"):
            settings = getattr(policy, method)
            if settings is not None and _is_plain(settings.url):
                message = f"credentials that {name} asks about go to {settings.url} in plain text"
                yield view.in_entry(entry, (method, "url"), message)


def _plain_stores(view: View) -> Iterator[Note]:
    for name, entry in view.parts.stores.items():
        url = view.config.stores[name].url.reveal()
        parts = urlsplit(url)
        if parts.scheme == "redis" and not is_inside(parts.hostname or ""):
            message = f"what {name} is asked, its password too, goes over the network in plain text"
            yield view.in_entry(entry, ("url",), message)


def _weak_ciphers(view: View) -> Iterator[Note]:
    for index, entry in enumerate(one for one in view.parts.listeners if one.values is not None):
        tls = view.config.listeners[index].tls
        found = _WEAK.search(tls.ciphers or "") if tls is not None else None
        if found is not None:
            message = f"{found[0]} has been broken"
            yield view.in_entry(entry, ("tls", "ciphers"), message)


RULES = (
    Rule(
        "G301",
        "warning",
        "Trusted proxies that are not one's own",
        "Whoever comes from `server.trusted_proxies` decides what the client's address, host and "
        "scheme are, and so gets past "
        "`allow.ip` and every limit by address. All addresses (`0.0.0.0/0`, `::/0`) are an error, "
        "networks wider than /8 "
        "(IPv6: /32) a warning.",
        "name the addresses of the proxies in front, and nothing else",
        _trusted,
    ),
    Rule(
        "G302",
        "warning",
        "The PROXY protocol from everybody",
        "A PROXY header says whose a connection is, before anything else is known.",
        "name the addresses of the balancers in front, and nothing else",
        _proxy_protocol,
    ),
    Rule(
        "G303",
        "error",
        "The admin listener in the open",
        "It is bound beyond this machine, and asks for no token. With a token but without "
        "`metrics_token` this is told as info.",
        "write bind: 127.0.0.1:9901, or token: ${file:/run/secrets/admin_token}",
        _admin,
    ),
    Rule(
        "G304",
        "warning",
        "Credentials to an upstream in plain text",
        "A target that is `http://`, and neither this machine nor in a private network, gets what "
        "can be used in place of a "
        "password: what the gateway writes into `Authorization`, or what `forward_credentials` "
        "leaves in. That fields of "
        "routes without `auth` pass as they come is told as info.",
        "write https:// in the target",
        _plain_upstreams,
    ),
    Rule(
        "G305",
        "warning",
        "TLS that checks nothing",
        "With `verify: off` everybody can be the upstream.",
        "write tls: {ca: FILE} with the certificate that vouches for it",
        _unverified,
    ),
    Rule(
        "G306",
        "warning",
        "Credentials to a service in plain text",
        "What `introspection` and `forward_auth` ask about is what can be used to come in.",
        "write https:// in url",
        _plain_services,
    ),
    Rule(
        "G307",
        "warning",
        "A store in plain text",
        "Redis is asked with its password, and its answers decide who is let in.",
        "write rediss:// in url",
        _plain_stores,
    ),
    Rule(
        "G308",
        "warning",
        "Ciphers that have been broken",
        "`ciphers` names families that no client of the last ten years needs.",
        "leave ciphers out: OpenSSL's own choice is good",
        _weak_ciphers,
    ),
)
