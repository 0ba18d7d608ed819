"""`hmac`: requests that bear a signature made with a shared secret, webhooks above all.

Rules of this file: a signature covers the body, so all of it is read first, up to `max_body`; what was read is what goes
upstream, byte for byte. What can be refused by the head alone is refused before a byte of the body is asked for. Everything
is compared in constant time, every signature with every secret. A field that stands twice is malformed, for two readers
could take it for two things. Only HMAC-SHA256, whatever a scheme knows besides.

Replays: a signature with a time counts for `tolerance` before and after it, and once. What was accepted is remembered until
it would be too old anyway, by its digest, of all policies' requests at most `_REMEMBERED`; only who has the secret can fill
that memory, and then the oldest is forgotten first. It is per worker. GitHub signs no time, so that a replay can not be
told from a redelivery: there is no tolerance for it, and no memory.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import math
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gateway import errors
from gateway.auth import Taken
from gateway.auth.describing import Describing
from gateway.config.auth import hmac_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.auth import Tools, Verdict
    from gateway.config import model
    from gateway.exchange import Exchange
    from gateway.identity import Identity

_REMEMBERED = 65_536
"""Signatures of one policy."""
_OFFERED = 16
"""Signatures that one request may bear, old secrets' among them."""
_MOST_HELD = 128 * 1024 * 1024
"""Bytes of bodies that one policy reads at once: whoever sends them has proved nothing yet."""
_LARGE = 256 * 1024
"""Bytes of a body that are digested on the loop; more would hold it for longer than a request may."""
_SECONDS = re.compile(r"[0-9]{1,12}")
_HEX = re.compile(r"[0-9a-fA-F]{64}")
_WORD = re.compile(r"[!-+\--~]{1,256}")
"""What an id or a nonce may be: visible ASCII but `,`."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What a request bears as its proof."""

    offered: tuple[bytes, ...]
    """Digests, one of which has to be right."""
    content: Callable[[bytes], Sequence[bytes]]
    """What was signed, in pieces, given the body."""
    at: int | None = None
    """When, in Unix seconds; None: the scheme signs no time."""


class Scheme(Protocol):
    """How a signature is written, and what it is of."""

    def read(self, exchange: Exchange, written: str) -> Proof:
        """`written`: the value of the signature's field. Raises errors.Unauthenticated."""


class _StandardWebhooks:
    """https://www.standardwebhooks.com: `webhook-id`, `webhook-timestamp`, `webhook-signature: v1,BASE64 v1,BASE64`."""

    def __init__(self, header: str) -> None:
        # Svix, from which it comes, has names of its own.
        family = "svix" if header.lower() == "svix-signature" else "webhook"
        self._id, self._timestamp = f"{family}-id", f"{family}-timestamp"

    def read(self, exchange: Exchange, written: str) -> Proof:
        message = _one(exchange, self._id)
        if message is None or not _WORD.fullmatch(message):
            raise _malformed(f"{self._id} is missing, or no id")
        moment = _one(exchange, self._timestamp) or ""
        versions = [word.partition(",") for word in written.split(" ") if word]
        offered = [_base64(value) for version, _, value in versions if version == "v1"]
        at = _seconds(moment)  # first: what is no number may be no UTF-8 either
        before = f"{message}.{moment}.".encode("ascii")
        return Proof(_digests(offered), lambda body: (before, body), at)


class _GitHub:
    """`X-Hub-Signature-256: sha256=HEX`, of the body alone."""

    def read(self, exchange: Exchange, written: str) -> Proof:  # noqa: ARG002 - as every scheme
        kind, _, value = written.partition("=")
        offered = [_hex(value)] if kind == "sha256" else []
        return Proof(_digests(offered), lambda body: (body,))


class _Stripe:
    """`Stripe-Signature: t=SECONDS,v1=HEX,v1=HEX`, of time and body."""

    def read(self, exchange: Exchange, written: str) -> Proof:  # noqa: ARG002 - as every scheme
        moment, offered, _ = _listed(written)
        at = _seconds(moment)
        before = f"{moment}.".encode("ascii")
        return Proof(_digests(offered), lambda body: (before, body), at)


class _Request:
    """Requests of one's own: `X-Signature: t=SECONDS,n=NONCE,v1=HEX`, of method, host, target, time, nonce and body.

    What is signed are seven lines with a line feed between each two: `gateway-v1`, the method, the host in lower case
    without port, path and query as sent, SECONDS, NONCE (empty if there is none), and the SHA-256 of the body in
    lower-case hexadecimal digits.
    """

    def read(self, exchange: Exchange, written: str) -> Proof:
        moment, offered, nonce = _listed(written)
        # As sent: `target` may have been resolved by now.
        target = exchange.path + ("?" + exchange.query if "?" in exchange.target else "")
        lines = ("gateway-v1", exchange.method, exchange.host, target, moment, nonce, "")
        before = "\n".join(lines).encode("utf-8", "surrogateescape")

        def content(body: bytes) -> Sequence[bytes]:
            return before, hashlib.sha256(body).hexdigest().encode("ascii")

        return Proof(_digests(offered), content, _seconds(moment))


def _scheme(settings: model.Hmac) -> Scheme:
    match settings.scheme:
        case "standard-webhooks":
            return _StandardWebhooks(settings.header or "")
        case "github":
            return _GitHub()
        case "stripe":
            return _Stripe()
        case "request":
            return _Request()


# ── reading ─────────────────────────────────────────────────────────────────────────────────────


def _malformed(detail: str) -> errors.Unauthenticated:
    return errors.Unauthenticated(detail, outcome="malformed")


def _one(exchange: Exchange, name: str) -> str | None:
    """The value of a field that stands at most once. Raises errors.Unauthenticated."""
    values = exchange.headers.getall(name, [])
    if len(values) > 1:
        raise _malformed(f"{name} stands {len(values)} times")
    return values[0] if values else None


def _listed(written: str) -> tuple[str, list[bytes | None], str]:
    """Of `t=…,n=…,v1=…`: the time, the signatures, the nonce. Raises errors.Unauthenticated."""
    times, nonces, offered = [], [], []
    for part in written.split(","):
        name, _, value = part.strip(" \t").partition("=")
        if name == "t":
            times.append(value)
        elif name == "n":
            nonces.append(value)
        elif name == "v1":
            offered.append(_hex(value))
    if len(times) != 1:
        raise _malformed("the signature has no time t, or two")
    if len(nonces) > 1 or not all(_WORD.fullmatch(nonce) for nonce in nonces):
        raise _malformed("the nonce n of the signature is no word, or there are two")
    return times[0], offered, "".join(nonces)


def _seconds(text: str) -> int:
    # Not int() alone: it takes signs, blanks and digits of other scripts.
    if not _SECONDS.fullmatch(text):
        raise _malformed("the time of the signature is no number of seconds")
    return int(text)


def _hex(text: str) -> bytes | None:
    # Not fromhex() alone: it takes blanks.
    return bytes.fromhex(text) if _HEX.fullmatch(text) else None


def _base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _digests(offered: list[bytes | None]) -> tuple[bytes, ...]:
    """Those that have the form of a signature. Raises errors.Unauthenticated where there is none, or too many."""
    found = tuple(one for one in offered if one is not None and len(one) == 32)
    if not found:
        raise _malformed("there is no signature of this scheme")
    if len(offered) > _OFFERED:
        raise _malformed(f"there are {len(offered)} signatures")
    return found


# ── the policy ──────────────────────────────────────────────────────────────────────────────────


class Seen:
    """Digests that have been accepted, until they would be too old anyway."""

    def __init__(self, most: int = _REMEMBERED) -> None:
        self._most = most
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def add(self, digest: bytes, until: float, now: float) -> bool:
        """Remember it. False: it is remembered already."""
        known = self._until
        if known.get(digest, -math.inf) >= now:
            return False
        while known and (len(known) >= self._most or next(iter(known.values())) < now):
            known.popitem(last=False)
        known[digest] = until
        return True


class Signed:
    """One `hmac` policy: see `gateway.auth.Authenticator`."""

    challenge = "Signature"
    """No registered scheme fits, and a 401 must have one (RFC 9110 section 15.5.2); who signs need not be told how."""

    def __init__(self, name: str, settings: model.Hmac, tools: Tools) -> None:
        assert settings.header is not None
        self.name = name
        self._header = settings.header
        self._scheme = _scheme(settings)
        self._keys = tuple(hmac_key(settings.scheme, one.reveal()) for one in settings.secret)
        self._tolerance = settings.tolerance
        self._most = settings.max_body
        self._now = tools.clock.wall
        self._seen = Seen()
        self._held = 0
        """Bytes of bodies that are read now."""
        describing = Describing(name, settings)
        self.forwarded = describing.forwarded
        self._identity = describing.identity(name)
        # A webhook's signature is of use to the application, which may check it once more; ours is ours.
        own = settings.scheme == "request"
        self.taken = Taken(
            frozenset({self._header.lower().encode("ascii")}) if own else frozenset()
        )

    def authenticate(self, exchange: Exchange) -> Verdict:
        """Who has signed. Raises errors.Unauthenticated, errors.BodyTooLarge."""
        written = _one(exchange, self._header)
        if written is None:
            return None
        proof = self._scheme.read(exchange, written)
        if proof.at is not None and abs(self._now() - proof.at) > self._tolerance:
            raise errors.Unauthenticated(
                f"signed at {proof.at}, which is not within {self._tolerance:g} s of now",
                outcome="expired",
            )
        if not exchange.has_body:
            return self._judge(proof, b"")
        if exchange.length is not None and exchange.length > self._most:
            raise errors.BodyTooLarge(
                f"the body has {exchange.length} bytes, {self._most} are read for a signature"
            )
        return self._with_body(exchange, proof)

    async def _with_body(self, exchange: Exchange, proof: Proof) -> Identity:
        mine = 0

        def hold(size: int) -> None:
            nonlocal mine
            if self._held + size > max(_MOST_HELD, self._most):
                raise errors.AuthUnavailable(
                    f"{self._held} bytes of bodies are held already, whose signatures are not checked yet",
                    (("Retry-After", "1"),),
                )
            self._held += size
            mine += size

        try:
            body = await exchange.route.gather(exchange, self._most, hold)
            if len(body) <= _LARGE:
                return self._judge(proof, body)
            expected = await asyncio.to_thread(self._expected, proof, body)
            return self._verdict(proof, expected)
        finally:
            self._held -= mine

    def _judge(self, proof: Proof, body: bytes) -> Identity:
        return self._verdict(proof, self._expected(proof, body))

    def _expected(self, proof: Proof, body: bytes) -> list[bytes]:
        """What each secret makes of it, in their order."""
        pieces = proof.content(body)
        if len(body) <= _LARGE:  # in one call, which is worth a copy
            content = b"".join(pieces)
            return [hmac.digest(key, content, "sha256") for key in self._keys]
        digests = []
        for key in self._keys:
            digest = hmac.new(key, digestmod=hashlib.sha256)
            for piece in pieces:
                digest.update(piece)
            digests.append(digest.digest())
        return digests

    def _verdict(self, proof: Proof, expected: list[bytes]) -> Identity:
        good = False
        for wanted in expected:
            for offered in proof.offered:
                good |= hmac.compare_digest(wanted, offered)
        if not good:
            raise errors.Unauthenticated(
                "the signature is not of this request", outcome="bad_signature"
            )
        # By the first secret's digest, so that one request with two good signatures counts once.
        if proof.at is not None and not self._seen.add(
            expected[0], proof.at + self._tolerance, self._now()
        ):
            raise errors.Unauthenticated("the signature was used before", outcome="expired")
        return self._identity

    def rehearse(self, exchange: Exchange) -> Identity | None:
        """None: an inline test has neither a body nor the time of its signature."""

    async def aclose(self) -> None:
        """There is nothing to give up."""


def make(name: str, settings: model.Hmac, tools: Tools) -> Signed:
    """The authenticator of an `hmac` policy."""
    return Signed(name, settings, tools)
