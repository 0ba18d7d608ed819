"""Certificates and keys of a listener, read from their files and made ready for handshakes.

Rules of this file: whatever is wrong with a file is found when it is loaded, and said in a sentence that names it; what is
checked and what is served are loaded by the same code. `cryptography` is imported when there is a certificate to read.
"""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from gateway.certificates import alternative_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cryptography import x509

    from gateway.config import model

Keys: TypeAlias = "tuple[str | int, ...]"

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_ASKS: Final = {
    "off": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}


class Unusable(ValueError):
    """A setting, or a file that it names, can not be used; its text says why, for people."""

    def __init__(self, message: str, *keys: str | int) -> None:
        super().__init__(message)
        self.keys: Keys = keys
        """Where it is written, below `tls`."""


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


def load(settings: model.ListenerTls) -> Loaded:
    """Read every file that is named. Raises Unusable."""
    demands = _demands(settings)
    pairs = [_pair(one, demands, index) for index, one in enumerate(settings.certificates)]
    return Loaded(demands, tuple(pairs), settings.forward_client_cert)


def mistakes(settings: model.ListenerTls) -> Iterator[Unusable]:
    """All that `load` would fail for."""
    try:
        demands = _demands(settings)
    except Unusable as error:
        yield error
        demands = Demands(settings.min_version, None, settings.alpn, "off", "")
    for index, one in enumerate(settings.certificates):
        try:
            _pair(one, demands, index)
        except Unusable as error:
            yield error
            if error.keys[-1:] != ("cert",) or one.key is None:
                continue
            try:  # the certificate is wrong; its key may be missing, too
                _read(Path(one.key), "certificates", index, "key")
            except Unusable as another:
                yield another


def certified(listeners: Iterable[model.Listener]) -> Callable[[str], bool]:
    """Whether a certificate of a listener names a host (lower-case, no port). One that can not be used names none."""
    pairs: list[Pair] = []
    for listener in listeners:
        if listener.tls is not None:
            with contextlib.suppress(Unusable):
                pairs += load(listener.tls).pairs
    return lambda host: any(pair.covers(host) for pair in pairs)


def files(settings: model.ListenerTls) -> list[Path]:
    """Every file that `load` reads."""
    named = [path for one in settings.certificates for path in (one.cert, one.key)]
    return [Path(path) for path in (*named, settings.client_ca) if path]


def context(demands: Demands) -> ssl.SSLContext:
    """A context without a certificate. Raises ssl.SSLError."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = _VERSIONS[demands.min_version]
    made.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    made.set_alpn_protocols(list(demands.alpn))
    if demands.ciphers is not None:
        made.set_ciphers(demands.ciphers)
    if demands.client_ca:
        made.load_verify_locations(cadata=demands.client_ca)
        # Whoever is in the file vouches for clients, be it an authority that another one has certified.
        made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    made.verify_mode = _ASKS[demands.client_auth]
    return made


def _demands(settings: model.ListenerTls) -> Demands:
    ca = settings.client_ca
    text = "" if ca is None else _read(Path(ca), "client_ca").decode("ascii", "replace")
    demands = Demands(
        settings.min_version, settings.ciphers, settings.alpn, settings.client_auth, text
    )
    try:
        context(demands)
    except ssl.SSLError as error:
        if "cipher" in str(error).lower():
            raise Unusable(
                f"OpenSSL knows none of {settings.ciphers!r}: `openssl ciphers` lists them",
                "ciphers",
            ) from None
        raise Unusable(
            f"there is no PEM certificate that can be read in {ca}", "client_ca"
        ) from None
    return demands


def _pair(settings: model.Certificate, demands: Demands, index: int) -> Pair:
    cert = Path(settings.cert)
    key = cert if settings.key is None else Path(settings.key)
    where = ("certificates", index)
    read = _certificate(cert, *where, "cert")
    last = "cert" if settings.key is None else "key"
    _read(key, *where, last)
    made = context(demands)
    try:
        made.load_cert_chain(cert, key, password=_refuse_password(key, *where, last))
    except ssl.SSLError as error:
        raise Unusable(_why_not_loaded(cert, key, error), *where, last) from None
    return Pair(
        str(cert),
        _names(read),
        read.not_valid_before_utc.timestamp(),
        read.not_valid_after_utc.timestamp(),
        made,
    )


def _certificate(path: Path, *keys: str | int) -> x509.Certificate:
    """The first certificate of a file."""
    content = _read(path, *keys)
    try:
        from cryptography import x509  # noqa: PLC0415 - an extra
    except ImportError:
        raise Unusable("cryptography is not installed: pip install 'gateway[tls]'") from None
    try:
        return x509.load_pem_x509_certificates(content)[0]
    except (ValueError, IndexError):
        message = f"there is no PEM certificate that can be read in {path}"
        raise Unusable(message, *keys) from None


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    from cryptography import x509  # noqa: PLC0415 - an extra

    names = alternative_names(certificate)
    hosts = [name.lower().removesuffix(".") for name in names.get_values_for_type(x509.DNSName)]
    return (*hosts, *(str(one) for one in names.get_values_for_type(x509.IPAddress)))


def _read(path: Path, *keys: str | int) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}", *keys) from None


def _refuse_password(key: Path, *keys: str | int) -> Any:
    def refuse() -> str:
        raise Unusable(
            f"the key {key} is encrypted, and nobody is there to type its passphrase: write it without one "
            f"(openssl pkey -in {key.name} -out PLAIN.key) into a file that only the gateway may read",
            *keys,
        )

    return refuse


def _why_not_loaded(cert: Path, key: Path, error: ssl.SSLError) -> str:
    if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
        return (
            f"the key {key} does not belong to the certificate {cert}: "
            "name the key that it was issued for"
        )
    if error.reason and "TOO_SMALL" in error.reason:
        return f"OpenSSL holds the key of {cert} to be too weak: make a new one"
    return f"there is no PEM private key that can be read in {key}"
