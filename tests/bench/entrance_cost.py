"""What it costs each request to be let in: an API key, a token that was verified before, a local limit.

First in the loop: a route's handler is called with and without the policy, and nothing else. Then with all that follows from
it (more to read, to write and to keep in caches), in processor time: four gateways get the same requests, with a key and a
token in each; one asks for nothing, the others for one thing each.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jwt
from multidict import CIMultiDict, CIMultiDictProxy

from gateway import Gateway
from gateway.exchange import Exchange
from tests.bench.pairs import CONNECTIONS, ORIGIN, ROUNDS, TURNS, difference, measure

_KEY, _SECRET = "k" * 43, "s" * 64
POLICIES = {
    "nothing": {},
    "an API key": {"auth": ["keys"]},
    "a token that was verified before": {"auth": ["staff"]},
    "a local limit": {"rate_limit": "1000000/s per client_ip"},
}
_CALLS, _TRIES = 20_000, 7


def _policies(folder: str) -> tuple[dict[str, Any], str]:
    """`auth:` with both policies, and a token of the second."""
    keys = Path(folder) / "keys.yaml"
    digest = hashlib.sha256(_KEY.encode()).hexdigest()
    keys.write_text(f"keys: [{{id: one, sha256: {digest}, consumer: ann}}]\n")
    claims = {"iss": "bench", "aud": "api", "sub": "ann", "scope": "read write"}
    claims |= {"exp": int(time.time()) + 3600, "roles": ["a", "b"], "pad": "x" * 200}
    issued = {"issuer": "bench", "audience": "api", "secret": _SECRET, "algorithms": ["HS256"]}
    auth = {
        "keys": {"api_key": {"header": "X-Api-Key", "keys_file": str(keys)}},
        "staff": {"jwt": issued},
    }
    return auth, jwt.encode(claims, _SECRET, algorithm="HS256")


async def layers(auth: dict[str, Any], token: str) -> dict[str, float]:
    """Microseconds that the handler of a route takes more for each of POLICIES: the least of several tries."""
    routes = [
        {"name": name, "path": f"/{at}", "respond": 204, "access_log": "off", **policy}
        for at, (name, policy) in enumerate(POLICIES.items())
    ]
    config = {
        "listeners": [{"bind": "127.0.0.1:0"}],
        "admin": "off",
        "auth": auth,
        "routes": routes,
    }
    fields = CIMultiDict({"Host": "a", "X-Api-Key": _KEY, "Authorization": f"Bearer {token}"})
    best: dict[str, float] = {}
    async with Gateway(config) as gateway:
        for _ in range(_TRIES):
            for at, name in enumerate(POLICIES):
                asked = [_exchange(gateway, f"/{at}", fields) for _ in range(_CALLS + 1)]
                handler = asked[0].route.handler
                await handler(asked.pop())
                began = time.perf_counter()
                for one in asked:
                    handler(one)
                each = (time.perf_counter() - began) / _CALLS * 1e6
                best[name] = min(best.get(name, each), each)
    return {name: each - best["nothing"] for name, each in best.items()}


def _exchange(gateway: Gateway, path: str, fields: CIMultiDict[str]) -> Exchange:
    one = Exchange()
    one.snapshot, one.headers, one.raw_headers = gateway.snapshot, CIMultiDictProxy(fields), ()
    one.method, one.path, one.target, one.query, one.length = "GET", path, path, "", 0
    one.client_ip = one.peer = "192.0.2.1"
    one.host, one.listener, one.began = "a", "a", 0.0
    one.route = gateway.snapshot.router.match(one)[0]
    return one


def whole(auth: dict[str, Any], token: str) -> list[list[float]]:
    """Microseconds of processor time a request for each of POLICIES, in each round."""
    upstreams = {"up": {"targets": [f"http://127.0.0.1:{ORIGIN}"], "eject": "off", "retry": "off"}}
    texts = []
    for policy in POLICIES.values():
        used = {name: one for name, one in auth.items() if name in policy.get("auth", ())}
        route = {"path": "/*", "to": "up", "access_log": "off", **policy}
        config = {"listeners": [{"bind": "127.0.0.1:{port}"}], "admin": "off", "auth": used}
        texts.append(json.dumps({**config, "upstreams": upstreams, "routes": [route]}))
    return measure(texts, f"X-Api-Key: {_KEY}\r\nAuthorization: Bearer {token}\r\n".encode())


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        auth, token = _policies(folder)
        own = asyncio.run(layers(auth, token))
        costs = whole(auth, token)
    for name, cost in list(zip(POLICIES, costs, strict=True))[1:]:
        follows = difference(costs[0], cost)
        print(
            f"**{name}**: {own[name]:.1f} µs itself; {follows:.1f} µs of processor time a request with all that follows, "
            f"beside {statistics.median(costs[0]):.1f} µs for a request that is asked for nothing "
            f"({ROUNDS} rounds of {TURNS * CONNECTIONS} requests, {os.cpu_count()} cores)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
