"""What the connections of a listener are encrypted with: which certificate, and what is agreed upon.

Rules of this file: one context for each listener makes its handshakes, and keeps the keys of session tickets, for a day and
for as long as what it demands of clients stays the same; the certificates are in contexts of their own, replaced as a whole.
What a listener demands of clients never depends on the name that they ask for.
"""

from __future__ import annotations

import logging
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any

from gateway import keypairs
from gateway.certificates import Encryption

if TYPE_CHECKING:
    import sys
    from collections.abc import Callable

    from gateway.keypairs import Loaded, Pair

log = logging.getLogger("gateway.tls")


class _Session(ssl.SSLObject):
    """One side of a handshake, with what was chosen in it."""

    server_name = ""
    served: Pair | None = None


class Handshakes:
    """What the connections of one listener are encrypted with."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.context: ssl.SSLContext
        self.renew()

    def take(self, loaded: Loaded) -> None:
        """Use these from the next handshake on. Tickets stay good unless the demands have changed."""
        former, self.loaded = self.loaded, loaded
        if loaded.demands != former.demands:
            self.renew()

    def renew(self) -> None:
        """Begin with new keys for tickets: who has them can read what they were given for, in TLS 1.2."""
        self.context = keypairs.context(self.loaded.demands)
        self.context.sslobject_class = _Session
        self.context.sni_callback = self._choose

    def pair_for(self, name: str) -> Pair:
        """By that very name, then by `*.`, else the first."""
        pairs = self.loaded.pairs
        for pair in pairs:
            if name in pair.names:
                return pair
        for pair in pairs:
            if pair.covers(name):
                return pair
        return pairs[0]

    def _choose(self, session: Any, name: str | None, _context: ssl.SSLContext) -> None:
        """OpenSSL asks, for each handshake, resumed ones and those without a name too."""
        session.server_name = (name or "").lower().removesuffix(".")
        session.served = pair = self.pair_for(session.server_name)
        session.context = pair.context

    def agreed(self, ssl_object: ssl.SSLObject) -> Encryption:
        """What a handshake that is over has agreed upon."""
        assert isinstance(ssl_object, _Session)
        served = ssl_object.served
        encryption = Encryption(
            ssl_object.version() or "",
            (ssl_object.cipher() or ("",))[0],
            server_name=ssl_object.server_name,
            chain=() if self.loaded.demands.client_auth == "off" else _chain(ssl_object),
            forwards=self.loaded.forwards,
        )
        if encryption.server_name and served is not None and len(self.loaded.pairs) > 1:
            encryption.misdirected = partial(self._misdirected, served)
        return encryption

    def _misdirected(self, served: Pair, host: str) -> bool:
        """Whether a host is for another certificate than the one that was served."""
        return not served.covers(host) and any(pair.covers(host) for pair in self.loaded.pairs)


def hushed(
    hook: Callable[[sys.UnraisableHookArgs], object],
) -> Callable[[sys.UnraisableHookArgs], object]:
    """`hook` but for one message, for `sys.unraisablehook`.

    Where a client asks for a name that is not ASCII, the interpreter ends the handshake as it should, but prints what it was
    asked for to standard error, for each such connection: strangers must not be able to fill a log.
    """

    def only_others(unraisable: sys.UnraisableHookArgs) -> None:
        if (
            isinstance(unraisable.exc_value, UnicodeDecodeError)
            and type(unraisable.object) is bytes
        ):
            log.debug("server_name_not_ascii", extra={"asked": repr(unraisable.object[:255])})
        else:
            hook(unraisable)

    return only_others


def _chain(ssl_object: ssl.SSLObject) -> tuple[bytes, ...]:
    own = ssl_object.getpeercert(binary_form=True)
    if own is None:
        return ()
    verified = getattr(ssl_object, "get_verified_chain", None)  # Python 3.13
    others = (verified() or [])[1:] if verified is not None else []
    return (own, *others)
