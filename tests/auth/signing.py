"""Signatures as clients and senders of webhooks make them, written anew from what the schemes say."""

from __future__ import annotations

import base64
import hashlib
import hmac
import subprocess

WEBHOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SECRET = "s3cret-of-partners"

Fields = list[tuple[str, str]]


def _hex(secret: str, *pieces: bytes) -> str:
    return hmac.new(secret.encode(), b"".join(pieces), hashlib.sha256).hexdigest()


def standard(
    body: bytes, at: float, *, secret: str = WEBHOOK_SECRET, message: str = "msg_1", family: str = "webhook"
) -> Fields:  # fmt: skip
    """The fields of a standard webhook."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = f"{message}.{int(at)}.".encode() + body
    digest = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return [
        (f"{family}-id", message),
        (f"{family}-timestamp", str(int(at))),
        (f"{family}-signature", f"v1,{digest}"),
    ]


def github(body: bytes, *, secret: str = SECRET) -> Fields:
    """The field of a webhook of GitHub."""
    return [("X-Hub-Signature-256", f"sha256={_hex(secret, body)}")]


def stripe(body: bytes, at: float, *, secret: str = SECRET) -> Fields:
    """The field of a webhook of Stripe."""
    return [("Stripe-Signature", f"t={int(at)},v1={_hex(secret, b'%d.' % int(at), body)}")]


def request(
    body: bytes, at: float, *, secret: str = SECRET, nonce: str = "", method: str = "POST", host: str = "a.test",
    target: str = "/",
) -> Fields:  # fmt: skip
    """The field of a request that a client of the gateway's signs, by openssl, as docs/auth/signatures.md shows it."""
    digest = _openssl(body)
    lines = f"gateway-v1\n{method}\n{host}\n{target}\n{int(at)}\n{nonce}\n{digest}"
    word = f",n={nonce}" if nonce else ""
    return [("X-Signature", f"t={int(at)}{word},v1={_openssl(lines.encode(), '-hmac', secret)}")]


def _openssl(data: bytes, *options: str) -> str:
    done = subprocess.run(
        ["openssl", "dgst", "-sha256", *options, "-r"], input=data, capture_output=True, check=True
    )
    return done.stdout.split()[0].decode()


def lines(fields: Fields) -> list[bytes]:
    """As the tests' requests take them."""
    return [f"{name}: {value}".encode() for name, value in fields]
