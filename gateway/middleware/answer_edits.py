"""All that a route does to the heads of its answers: `headers.response`, `security_headers`, `hsts` and `cors` in one.

Rules of this file: what is made here is used in three places, by the reader of an upstream's head (attempt.py), by a route
that answers itself (`edited`), and by the page of a failure (proxy.py): a page of another origin can read a 401 as well as
a 200. The order: fields that do not pass, then constants that are missing, then what the route's own edits say, then CORS.
A route without any of it has None, and pays nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway import headers
from gateway.config.browser_rules import HSTS_FIELD
from gateway.middleware.cors import Cors
from gateway.middleware.edit_headers import ResponseEdits
from gateway.middleware.security_headers import SecurityHeaders, hsts

if TYPE_CHECKING:
    from gateway.config import model
    from gateway.exchange import Exchange, Reply
    from gateway.middleware.edit_headers import Edits

_HSTS = HSTS_FIELD.encode("ascii")


def compile_edits(policies: model.Policies) -> Edits | None:
    """The edits of a route's answers, or None where there are none."""
    own = ResponseEdits.compile(
        policies.headers.response,
        strip_prefix=policies.rewrite.strip_prefix or "",
        add_prefix=policies.rewrite.add_prefix or "",
    )
    if policies.cors is None and policies.security_headers is None and policies.hsts is None:
        return own
    return _Edits(policies, own)


class _Edits:
    """As `edit_headers.Edits`, of a route whose answers browsers are told something about."""

    def __init__(self, policies: model.Policies, own: ResponseEdits | None) -> None:
        written = policies.headers.response
        names = (*(name for name, value in written.set.items() if value is not None), *written.add)
        touched = frozenset(name.lower().encode("ascii") for name in (*names, *written.remove))
        self._own = own
        self.dropped = own.dropped if own is not None else frozenset()
        self.filled: tuple[tuple[bytes, bytes], ...] = ()
        self._cors: Cors | None = None
        self._hsts = b""
        if policies.security_headers is not None:
            preset = SecurityHeaders(policies.security_headers, touched)
            self.filled = preset.filled
            self.dropped |= preset.dropped
        if policies.hsts is not None:
            self._hsts = hsts(policies.hsts)
            self.dropped |= {_HSTS}
        if policies.cors is not None:
            self._cors = Cors(policies.cors)
            self.dropped |= self._cors.dropped

    def add(self, exchange: Exchange, reply: Reply) -> None:
        """What is not constant: the rest is in the head by now."""
        if self._own is not None:
            self._own.add(exchange, reply)
        if self._hsts and exchange.scheme == "https":
            reply.lines.append(self._hsts)
        if self._cors is not None:
            reply.lines += self._cors.lines(exchange)

    def apply(self, exchange: Exchange, reply: Reply) -> None:
        """All of it."""
        dropped = self.dropped
        reply.lines = [
            line for line in reply.lines if line.partition(b":")[0].lower() not in dropped
        ]
        headers.fill(reply.lines, self.filled)
        self.add(exchange, reply)
