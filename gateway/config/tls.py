"""What listeners speak below HTTP: TLS, and the PROXY protocol.

The rules are those of `model.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.config.forms import Model
from gateway.config.scalars import Network
from gateway.config.texts import FilePath


class Certificate(Model):
    """A certificate with its chain, and its key. Which one a client gets is told by the names inside."""

    short = "cert"

    cert: FilePath = Field(description="PEM, the chain behind it")
    key: FilePath | None = Field(None, description="PEM; off: it is in the same file")


class ListenerTls(Model):
    """TLS towards clients."""

    short = "certificates"

    certificates: Annotated[tuple[Certificate, ...], Field(min_length=1)] = Field(
        description="files, or mappings with cert and key; the first is for clients without SNI"
    )
    min_version: Literal["1.2", "1.3"] = Field("1.2", description="the oldest that is spoken")
    ciphers: str | None = Field(None, description="for TLS 1.2, as OpenSSL writes them")
    alpn: Annotated[tuple[Literal["http/1.1"], ...], Field(min_length=1)] = Field(
        ("http/1.1",), description="what is offered"
    )
    client_ca: FilePath | None = Field(None, description="who vouches for clients' certificates")
    client_auth: Literal["off", "optional", "required"] = Field(
        "off", description="whether clients are asked for a certificate"
    )
    forward_client_cert: bool = Field(
        False, description="whether upstreams get Client-Cert and Client-Cert-Chain (RFC 9440)"
    )
    watch: bool = Field(True, description="whether files that change are read again")


class ProxyProtocol(Model):
    """Who may say, in front of a connection, whose it is (PROXY protocol, versions 1 and 2)."""

    short = "from"

    from_: Annotated[tuple[Network, ...], Field(min_length=1)] = Field(
        alias="from", description="networks, or unix for every peer of a unix socket"
    )
