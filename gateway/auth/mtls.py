"""`mtls`: a client is who its certificate says.

Rules of this file: whether a certificate is good, the handshake has decided (`client_ca` of the listener); here it is only
read, once for each connection, and whether it has run out meanwhile is asked for each request. A certificate without the
name that `consumer` asks for is nobody's: another of its names must not stand in for it.

In the texts of such a policy `{tls.NAME}` and `{claim.NAME}` are the same.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from gateway import errors
from gateway.auth import Taken
from gateway.auth.describing import Describing
from gateway.identity import Identity
from gateway.routing.template import Template

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.auth import Tools
    from gateway.certificates import ClientCertificate, Encryption
    from gateway.config import model
    from gateway.exchange import Exchange


class _Texts:
    """The texts of a policy, for Describing."""

    def __init__(self, settings: model.Mtls) -> None:
        self.consumer = None if settings.consumer is None else _claims(settings.consumer)
        self.groups = settings.groups
        self.forward: Mapping[str, str | None] = {
            name: text and _claims(text) for name, text in settings.forward.items()
        }


def _claims(text: str) -> str:
    return text.replace("{tls.", "{claim.")


class Mtls:
    """One `mtls` policy: see `gateway.auth.Authenticator`."""

    taken = Taken()
    challenge = "Certificate"
    """No registered scheme fits, and a 401 must have one (RFC 9110 section 15.5.2)."""

    def __init__(self, name: str, settings: model.Mtls, tools: Tools) -> None:
        self.name = name
        texts = _Texts(settings)
        self._describing = Describing(name, texts)
        self._consumer = None if texts.consumer is None else Template.compile(texts.consumer)
        self.forwarded = self._describing.forwarded
        self._now = tools.clock.wall
        self._known: WeakKeyDictionary[Encryption, Identity] = WeakKeyDictionary()
        """Of connections that are open."""

    def authenticate(self, exchange: Exchange) -> Identity | None:
        """Whose connection it is. Raises errors.Unauthenticated."""
        tls = exchange.tls
        if tls is None:
            return None
        identity = self._known.get(tls)
        if identity is None:
            certificate = tls.certificate
            if certificate is None:
                return None
            identity = self._known[tls] = self._identity(tls, certificate)
        if identity.expires <= self._now():
            raise errors.Unauthenticated("the client's certificate has run out", outcome="expired")
        return identity

    def _identity(self, tls: Encryption, certificate: ClientCertificate) -> Identity:
        names = (*certificate.san_dns, *certificate.san_uri, *certificate.san_email)
        claims = {
            "subject": certificate.subject,
            "san_dns": certificate.san_dns,
            "san_uri": certificate.san_uri,
            "san_email": certificate.san_email,
            "serial": certificate.serial,
            "fingerprint": certificate.fingerprint_sha256,
            "version": tls.version,
            "cipher": tls.cipher,
            "server_name": tls.server_name,
        }
        consumer: str | None = next(iter(names), certificate.subject)
        if self._consumer is not None:
            view: Any = SimpleNamespace(identity=Identity(self.name, "", claims))
            consumer = self._consumer.render_or_none(view)
        if not consumer:
            raise errors.Unauthenticated(
                "the client's certificate has no name of the kind that `consumer` asks for",
                outcome="unknown_key",
            )
        return self._describing.identity(consumer, claims, expires=certificate.not_after)

    def rehearse(self, exchange: Exchange) -> Identity | None:
        """None: an inline test has no connection."""

    async def aclose(self) -> None:
        """There is nothing to give up."""


def make(name: str, settings: model.Mtls, tools: Tools) -> Mtls:
    """The authenticator of an `mtls` policy."""
    return Mtls(name, settings, tools)
