"""What is read of a client's certificate, and how upstreams are told of it."""

from __future__ import annotations

import base64
import hashlib

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.certificates import ClientCertificate, Encryption

CA = trustme.CA()


def der_of(cert: trustme.LeafCert) -> bytes:
    pem = cert.cert_chain_pems[0].bytes()
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


DER = der_of(
    CA.issue_cert("Billing.test", "ops@example.com", common_name="billing", organization_name="Pay")
)


def test_the_fields_of_a_certificate_are_read() -> None:
    read = ClientCertificate.parse(DER)
    assert "CN=billing" in read.subject.split(",")
    assert read.san_dns == ("billing.test",)
    assert read.san_email == ("ops@example.com",)
    assert read.san_uri == ()
    assert read.fingerprint_sha256 == hashlib.sha256(DER).hexdigest()
    assert int(read.serial, 16) == x509.load_der_x509_certificate(DER).serial_number
    assert read.not_after > 2_000_000_000
    assert read.der == DER


def test_what_is_no_certificate_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        ClientCertificate.parse(b"no certificate")


def test_a_connection_reads_its_certificate_once_and_only_if_there_is_one() -> None:
    with_one = Encryption("TLSv1.3", "X", chain=(DER,))
    assert with_one.certificate is with_one.certificate is not None
    assert Encryption("TLSv1.3", "X").certificate is None
    assert Encryption("TLSv1.3", "X", chain=(b"broken",)).certificate is None


def test_upstreams_are_told_the_certificate_and_its_chain_only_where_the_listener_says_so() -> None:
    assert Encryption("TLSv1.3", "X", chain=(DER,)).lines == b""
    assert Encryption("TLSv1.3", "X", forwards=True).lines == b""
    own = b":" + base64.b64encode(DER) + b":"
    alone = Encryption("TLSv1.3", "X", chain=(DER,), forwards=True)
    assert alone.lines == b"Client-Cert: " + own + b"\r\n"
    chain = Encryption("TLSv1.3", "X", chain=(DER, b"a", b"b"), forwards=True)
    assert chain.lines == alone.lines + b"Client-Cert-Chain: :YQ==:, :Yg==:\r\n"
