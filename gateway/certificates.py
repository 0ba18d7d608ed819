"""What TLS has told about a connection: how it is encrypted, for which name, and who the client is by its certificate.

Rules of this file: values, made once for each connection and never changed. `cryptography` reads a certificate when somebody
asks for its fields, not before. Nothing here decides whether a certificate is good: the handshake has, or there is none.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from cryptography import x509

log = logging.getLogger("gateway.tls")


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The fields of a client's certificate, whose chain up to `client_ca` the handshake has verified."""

    subject: str
    """Its distinguished name as RFC 4514 writes it, such as `CN=billing,O=Example`; empty where it has none."""
    san_dns: tuple[str, ...]
    """Host names among its subject alternative names, in lower case."""
    san_uri: tuple[str, ...]
    """URIs among them, such as `spiffe://example.com/billing`."""
    san_email: tuple[str, ...]
    serial: str
    """Lower-case hexadecimal digits."""
    fingerprint_sha256: str
    """SHA-256 of the whole certificate, 64 lower-case hexadecimal digits."""
    not_after: float
    """Unix seconds."""
    der: bytes

    @classmethod
    def parse(cls, der: bytes) -> ClientCertificate:
        """Raises ValueError for what is no certificate, or has fields that can not be read."""
        from cryptography import x509  # noqa: PLC0415 - only where somebody asks

        certificate = x509.load_der_x509_certificate(der)
        names = alternative_names(certificate)
        return cls(
            subject=certificate.subject.rfc4514_string(),
            san_dns=tuple(name.lower() for name in names.get_values_for_type(x509.DNSName)),
            san_uri=tuple(names.get_values_for_type(x509.UniformResourceIdentifier)),
            san_email=tuple(names.get_values_for_type(x509.RFC822Name)),
            serial=f"{certificate.serial_number:x}",
            fingerprint_sha256=hashlib.sha256(der).hexdigest(),
            not_after=certificate.not_valid_after_utc.timestamp(),
            der=der,
        )


def alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    """The subject alternative names (RFC 5280 section 4.2.1.6); none where the extension is missing. Raises ValueError."""
    from cryptography import x509  # noqa: PLC0415 - only where somebody asks

    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return x509.SubjectAlternativeName([])


class Encryption:
    """What a handshake has agreed upon. One for each encrypted connection, shared by its requests."""

    def __init__(
        self,
        version: str,
        cipher: str,
        *,
        server_name: str = "",
        misdirected: Callable[[str], bool] = lambda _host: False,
        chain: tuple[bytes, ...] = (),
        forwards: bool = False,
    ) -> None:
        self.version = version
        """Such as `TLSv1.3`."""
        self.cipher = cipher
        """OpenSSL's name of the cipher suite, such as `TLS_AES_256_GCM_SHA384`."""
        self.server_name = server_name
        """The name that the client asked for (SNI), in lower case; empty: none."""
        self.misdirected = misdirected
        """Whether a request for a host (lower case, no port) came over the wrong connection (RFC 9110 section 15.5.20)."""
        self.chain = chain
        """DER of the client's certificate, then of what it was verified with where Python tells; empty: it sent none."""
        self._forwards = forwards

    @classmethod
    def of(cls, ssl_object: ssl.SSLObject) -> Encryption:
        """The same of a connection that somebody else's server has encrypted."""
        own = ssl_object.getpeercert(binary_form=True)
        return cls(
            ssl_object.version() or "",
            (ssl_object.cipher() or ("",))[0],
            chain=() if own is None else (own,),
        )

    @cached_property
    def certificate(self) -> ClientCertificate | None:
        """The client's certificate; None: it has sent none."""
        if not self.chain:
            return None
        try:
            return ClientCertificate.parse(self.chain[0])
        except ValueError as error:
            log.warning("client_certificate_unreadable", extra={"error": str(error)})
            return None

    @cached_property
    def lines(self) -> bytes:
        """`Client-Cert` and `Client-Cert-Chain` for upstreams (RFC 9440 section 2), where the listener passes them."""
        if not self._forwards or not self.chain:
            return b""
        own, *others = (b":%b:" % base64.b64encode(der) for der in self.chain)
        line = b"Client-Cert: %b\r\n" % own
        return line + b"Client-Cert-Chain: %b\r\n" % b", ".join(others) if others else line
