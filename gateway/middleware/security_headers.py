"""`security_headers` and `hsts`: what browsers are told not to do with a route's answers.

Rules of this file: every value is a constant, made into lines at load; they become part of a head when it is read, so that
the same head once more costs nothing more. Values follow the OWASP Secure Headers Project.

Who wins: a field that the route itself sets, adds or removes under `headers.response` is left to it. Otherwise `basic`
fills in what the upstream has not said; `strict` puts its own in the upstream's place, but for the two that only the
application can know (`Content-Security-Policy`, `Permissions-Policy`), and takes away the fields that tell what software
answers. `hsts` is a promise about a host for a long time, so no preset makes it; what it says replaces the upstream's own,
and is said on https only (RFC 6797 section 7.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config.browser import PRESETS
from gateway.routing.template import Template

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.config import model

_THE_APPLICATIONS = frozenset((b"content-security-policy", b"permissions-policy"))
"""Also with `strict` an upstream's own wins: what a page loads, only its author can know."""
TELLING = frozenset(
    b"server powered-by x-powered-by x-powered-by-plesk x-powered-cms x-aspnet-version"
    b" x-aspnetmvc-version x-generator".split()
)
"""Lower-case names of fields that `strict` takes away: they tell an attacker what to try."""


class SecurityHeaders:
    """A route's preset, compiled."""

    def __init__(self, settings: model.SecurityHeaders, own: frozenset[bytes]) -> None:
        """`own`: lower-case names of fields that the route's `headers.response` deals with.

        Raises ValueError for a value that is not constant.
        """
        strict = settings.preset == "strict"
        values = _values(settings)
        written = {name.lower().encode("ascii") for name in settings.set}
        lines = {name.lower().encode("ascii"): _line(name, value) for name, value in values.items()}
        self.filled = tuple((name, line) for name, line in lines.items() if name not in own)
        """(lower-case name, line) of fields for heads that have none of that name."""
        self.dropped: frozenset[bytes] = frozenset()
        """Lower-case names of fields whose copies from the upstream do not pass."""
        if strict:
            replaced = frozenset(lines) - (_THE_APPLICATIONS - written)
            self.dropped = (replaced | TELLING) - own


def _values(settings: model.SecurityHeaders) -> Mapping[str, str]:
    """Name and value of what is to be there."""
    values = dict(PRESETS[settings.preset])
    spelled = {name.lower(): name for name in values}
    for name in settings.remove:
        values.pop(spelled[name.lower()], None)
    for name, value in settings.set.items():
        values.pop(spelled.get(name.lower(), name), None)
        values[name] = value
    return values


def _line(name: str, value: str) -> bytes:
    constant = Template.compile(value, where="header").constant
    if constant is None:
        raise ValueError(f"security_headers: the value of {name} is not constant")
    return b"%b: %b\r\n" % (name.encode("ascii"), constant.encode("utf-8", "surrogateescape"))


def hsts(settings: model.Hsts) -> bytes:
    """The line of `Strict-Transport-Security` (RFC 6797 section 6.1)."""
    value = f"max-age={settings.max_age:.0f}"
    if settings.subdomains:
        value += "; includeSubDomains"
    if settings.preload:
        value += "; preload"
    return b"Strict-Transport-Security: %b\r\n" % value.encode("ascii")
