"""Certificates and keys of a listener become what its handshakes are made with.

Rules of this file: whatever is wrong with a file is found when it is loaded, and said in a sentence that names it. One
context for each listener makes its handshakes, and keeps the keys of session tickets, for as long as what it demands of
clients stays the same; the certificates are in contexts of their own, replaced as a whole. What a listener demands of
clients never depends on the name that they ask for.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gateway.certificates import Encryption, alternative_names

if TYPE_CHECKING:
    import sys
    from collections.abc import Callable

    from cryptography import x509

    from gateway.config import model

log = logging.getLogger("gateway.tls")

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_ASKS: Final = {
    "off": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
_MISSING = (
    "a listener with tls needs the package cryptography: pip install 'gateway[tls]' installs it"
)


@dataclass(frozen=True, slots=True)
class Demands:
    """What a listener asks of clients. Sessions of one are none for another."""

    min_version: str
    ciphers: str | None
    alpn: tuple[str, ...]
    client_auth: str
    client_ca: str
    """PEM text; empty: none."""


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A certificate with its key, ready for handshakes."""

    path: str
    names: tuple[str, ...]
    """Host names and addresses in it, in lower case, `*.` included."""
    not_before: float
    not_after: float
    """Unix seconds."""
    context: ssl.SSLContext

    def covers(self, host: str) -> bool:
        """Whether it is for a host: by that very name, or by `*.` for its first label (RFC 9525 section 6.3)."""
        if host in self.names:
            return True
        _, dot, rest = host.partition(".")
        return bool(dot) and f"*.{rest}" in self.names


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """The files of one listener, read."""

    demands: Demands
    pairs: tuple[Pair, ...]
    forwards: bool
    """Whether upstreams are told the client's certificate."""


class _Session(ssl.SSLObject):
    """One side of a handshake, with what was chosen in it."""

    server_name = ""
    served: Pair | None = None


class Handshakes:
    """What the connections of one listener are encrypted with."""

    def __init__(self, loaded: Loaded) -> None:
        self._demands: Demands | None = None
        self.context: ssl.SSLContext
        self.take(loaded)

    def take(self, loaded: Loaded) -> None:
        """Use these from the next handshake on. Tickets stay good unless the demands have changed."""
        self.loaded = loaded
        if loaded.demands != self._demands:
            self._demands = loaded.demands
            self.context = _context(loaded.demands)
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


def load(settings: model.ListenerTls) -> Loaded:
    """Read every file that is named. Raises ValueError with a sentence for the user, and OSError."""
    ca = settings.client_ca
    demands = Demands(
        settings.min_version,
        settings.ciphers,
        settings.alpn,
        settings.client_auth,
        _read(Path(ca), "client_ca").decode("ascii", "replace") if ca else "",
    )
    try:
        _context(demands)
    except ssl.SSLError as error:
        raise ValueError(_why_not_demanded(settings, error)) from None
    pairs = [_pair(one, demands) for one in settings.certificates]
    return Loaded(demands, tuple(pairs), settings.forward_client_cert)


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


def files(settings: model.ListenerTls) -> list[Path]:
    """Every file that `load` reads."""
    named = [path for one in settings.certificates for path in (one.cert, one.key)]
    return [Path(path) for path in (*named, settings.client_ca) if path]


def _context(demands: Demands) -> ssl.SSLContext:
    """A context without a certificate. Raises ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[demands.min_version]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(demands.alpn))
    if demands.ciphers is not None:
        context.set_ciphers(demands.ciphers)
    if demands.client_ca:
        context.load_verify_locations(cadata=demands.client_ca)
        # Whoever is in the file vouches for clients, be it an authority that another one has certified.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_mode = _ASKS[demands.client_auth]
    return context


def _why_not_demanded(settings: model.ListenerTls, error: ssl.SSLError) -> str:
    if "cipher" in str(error).lower():
        return (
            f"tls.ciphers: OpenSSL knows none of {settings.ciphers!r}: `openssl ciphers` lists them"
        )
    return (
        f"tls.client_ca: {settings.client_ca}: there is no PEM certificate that can be read in it"
    )


def _pair(settings: model.Certificate, demands: Demands) -> Pair:
    cert = Path(settings.cert)
    key = cert if settings.key is None else Path(settings.key)
    read = _certificate(cert)
    _read(key, "key")
    context = _context(demands)
    try:
        context.load_cert_chain(cert, key, password=_refuse_password(key))
    except ssl.SSLError as error:
        raise ValueError(_why_not_loaded(cert, key, error)) from None
    return Pair(
        str(cert),
        _names(read),
        read.not_valid_before_utc.timestamp(),
        read.not_valid_after_utc.timestamp(),
        context,
    )


def _certificate(path: Path) -> x509.Certificate:
    """The first certificate of a file. Raises ValueError."""
    try:
        from cryptography import x509  # noqa: PLC0415 - an extra
    except ImportError:
        raise ValueError(_MISSING) from None

    content = _read(path, "cert")
    try:
        return x509.load_pem_x509_certificates(content)[0]
    except (ValueError, IndexError):
        raise ValueError(
            f"tls.certificates: {path}: there is no PEM certificate that can be read in it"
        ) from None


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    from cryptography import x509  # noqa: PLC0415 - an extra

    names = alternative_names(certificate)
    hosts = [name.lower().removesuffix(".") for name in names.get_values_for_type(x509.DNSName)]
    return (*hosts, *(str(one) for one in names.get_values_for_type(x509.IPAddress)))


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OSError(error.errno, f"tls: the {what} {path}: {error.strerror}") from None


def _refuse_password(key: Path) -> Any:
    def refuse() -> str:
        raise ValueError(
            f"tls.certificates: the key {key} is encrypted, and nobody is there to type its passphrase: "
            f"write it without one (openssl pkey -in {key.name} -out PLAIN.key) into a file that only the gateway "
            "may read"
        )

    return refuse


def _why_not_loaded(cert: Path, key: Path, error: ssl.SSLError) -> str:
    if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
        return (
            f"tls.certificates: the key {key} does not belong to the certificate {cert}: "
            "name the key that it was issued for"
        )
    if error.reason and "TOO_SMALL" in error.reason:
        return f"tls.certificates: {cert}: OpenSSL holds its key to be too weak: make a new one"
    return f"tls.certificates: there is no PEM private key that can be read in {key}"


def _chain(ssl_object: ssl.SSLObject) -> tuple[bytes, ...]:
    own = ssl_object.getpeercert(binary_form=True)
    if own is None:
        return ()
    verified = getattr(ssl_object, "get_verified_chain", None)  # Python 3.13
    others = (verified() or [])[1:] if verified is not None else []
    return (own, *others)
