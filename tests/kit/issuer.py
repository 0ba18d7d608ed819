"""An issuer of tokens that does as it is told: publishes keys, rotates them, is slow, leads astray, dies.

Rules of this file: it listens on a real socket, and counts what it is asked. Tokens are made by hand from their parts where
a library would refuse to make them so wrong.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import get_default_algorithms

if TYPE_CHECKING:
    from tests.kit.clock import FakeClock

# Made when this file is imported: finding primes would hold a test's loop.
RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
SMALL_RSA = rsa.generate_private_key(65537, 1024)
SECRET = "a secret of this test that is long enough for any of the hashes: 64 bytes"

_CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}


def private_key(alg: str) -> Any:
    """A key for `alg`; the RSA one is always the same."""
    if alg in _CURVES:
        return ec.generate_private_key(_CURVES[alg]())
    if alg == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if alg == "Ed448":
        return ed448.Ed448PrivateKey.generate()
    return RSA


def jwk(key: Any, kid: str | None = None, **members: Any) -> dict[str, Any]:
    """The public half of a key as a JWK."""
    name = "EdDSA"
    if isinstance(key, ec.EllipticCurvePrivateKey):
        name = next(alg for alg, curve in _CURVES.items() if isinstance(key.curve, curve))
    elif isinstance(key, rsa.RSAPrivateKey):
        name = "RS256"
    made = json.loads(get_default_algorithms()[name].to_jwk(key.public_key()))
    made.pop("key_ops", None)
    if kid is not None:
        made["kid"] = kid
    return {**made, **members}


def b64(data: bytes | str) -> str:
    """base64url without padding."""
    raw = data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def compact(
    header: dict[str, Any] | bytes, claims: dict[str, Any] | bytes, key: Any, alg: str
) -> str:
    """A token of exactly this header and these claims, signed as `alg` does; `none`: not signed."""
    parts = [
        one if isinstance(one, bytes) else json.dumps(one).encode() for one in (header, claims)
    ]
    signed = ".".join(b64(part) for part in parts)
    if alg == "none":
        return signed + "."
    algorithm = get_default_algorithms()[alg]
    return f"{signed}.{b64(algorithm.sign(signed.encode(), algorithm.prepare_key(key)))}"


class Issuer:
    """Use it as `async with`."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock
        self.keys: dict[str, tuple[str, Any]] = {}
        """kid → (alg, private key) of what it signs with; the last one is used."""
        self.published: list[dict[str, Any]] | None = None
        """The JWKS's entries; None: those of `keys`."""
        self.asked: dict[str, int] = {}
        """Path → how often."""
        self.bodies: list[bytes] = []
        """What was posted."""
        self.credentials: list[str | None] = []
        self.announces: dict[str, Any] = {}
        """Members of the discovery document that are other than they should be."""
        self.answers: dict[str, web.StreamResponse | str | bytes] = {}
        """Path → what is answered in place of what should be."""
        self.active: dict[str, dict[str, Any] | None] = {}
        """Opaque token → what introspection says of it."""
        self.gate = asyncio.Event()
        """Nothing is answered before it is set; it is at first."""
        self.gate.set()
        self._runner: web.AppRunner | None = None
        self._port = 0
        self.rotate("one")

    @property
    def url(self) -> str:
        """Its name, with a slash at the end, as many have it."""
        return f"http://127.0.0.1:{self._port}/"

    def now(self) -> int:
        """Unix seconds, of the test's clock."""
        return int(self.clock.wall() if self.clock else time.time())  # noqa: TID251

    def rotate(self, kid: str, alg: str = "ES256", *, keep: bool = False) -> None:
        """Sign with a new key from now on; those before are no longer published unless `keep`."""
        if not keep:
            self.keys.clear()
        self.keys[kid] = (alg, private_key(alg))

    def claims(self, **more: Any) -> dict[str, Any]:
        """Those of a good token; a claim that is None is left out."""
        now = self.now()
        made = {"iss": self.url, "aud": "api", "sub": "ann", "iat": now, "exp": now + 600, **more}
        return {name: value for name, value in made.items() if value is not None}

    def sign(
        self, *, kid: str | None = "", header: dict[str, Any] | None = None, **claims: Any
    ) -> str:
        """A token, signed with the newest key; `kid`: another name in the header, None: none."""
        name, (alg, key) = list(self.keys.items())[-1]
        fields: dict[str, Any] = {"kid": kid or name, **(header or {})}
        if kid is None:
            del fields["kid"]
        return jwt.encode(self.claims(**claims), key, algorithm=alg, headers=fields)

    async def __aenter__(self) -> Issuer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.die()

    async def start(self) -> None:
        """Listen, on the port that it had before."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()
        self._port = self._runner.addresses[0][1]

    async def die(self) -> None:
        """Listen no more, and cut what is open. Idempotent."""
        if self._runner is not None:
            self.gate.set()
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked[request.path] = self.asked.get(request.path, 0) + 1
        body = await request.read()
        await self.gate.wait()
        other = self.answers.get(request.path)
        if other is not None:
            if isinstance(other, web.StreamResponse):
                return other
            return web.Response(body=other, content_type="application/json")
        if request.path == "/.well-known/openid-configuration":
            announced = {"issuer": self.url, "jwks_uri": f"{self.url}keys", **self.announces}
            return web.json_response(announced)
        if request.path == "/keys":
            return web.json_response({"keys": self._jwks()})
        if request.path == "/introspect":
            return self._introspect(request, body)
        return web.Response(status=404)

    def _jwks(self) -> list[dict[str, Any]]:
        if self.published is not None:
            return self.published
        return [jwk(key, kid, alg=alg, use="sig") for kid, (alg, key) in self.keys.items()]

    def _introspect(self, request: web.Request, body: bytes) -> web.Response:
        self.bodies.append(body)
        self.credentials.append(request.headers.get("Authorization"))
        known = self.active.get(dict(parse_qsl(body.decode())).get("token", ""))
        return web.json_response({"active": False} if known is None else {"active": True, **known})
