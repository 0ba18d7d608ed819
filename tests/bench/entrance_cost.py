"""What it costs each request to be let in: an API key, a token that was verified before, a local limit, in processor time.

Four gateways get the same requests, with a key and a token in each: one asks for nothing, the others for one thing each.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jwt

from tests.bench.pairs import CONNECTIONS, ORIGIN, ROUNDS, TURNS, difference, measure

_KEY, _SECRET = "k" * 43, "s" * 64
_CONFIG = f"""\
listeners: [{{bind: "127.0.0.1:{{port}}"}}]
admin: off
upstreams: {{up: {{targets: ['http://127.0.0.1:{ORIGIN}'], eject: off, retry: off}}}}
"""
_ROUTE = "routes: [{path: /*, to: up, access_log: off, POLICY}]\n"


def main() -> int:
    """Measure and print."""
    claims = {"iss": "bench", "aud": "api", "sub": "ann", "scope": "read write"}
    claims |= {"exp": int(time.time()) + 3600, "roles": ["a", "b"], "pad": "x" * 200}
    token = jwt.encode(claims, _SECRET, algorithm="HS256")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        keys = Path(folder) / "keys.yaml"
        digest = hashlib.sha256(_KEY.encode()).hexdigest()
        keys.write_text(f"keys: [{{id: one, sha256: {digest}, consumer: ann}}]\n")
        policies = {
            "nothing": ("", ""),
            "an API key": (
                f"auth: {{keys: {{api_key: {{header: X-Api-Key, keys_file: {keys}}}}}}}\n",
                "auth: keys",
            ),
            "a token that was verified before": (
                f"auth: {{staff: {{jwt: {{issuer: bench, audience: api, secret: {_SECRET}, algorithms: [HS256]}}}}}}\n",
                "auth: staff",
            ),
            "a local limit": ("", "rate_limit: 1000000/s per client_ip"),
        }
        texts = []
        for section, policy in policies.values():
            route = _ROUTE.replace(", POLICY", f", {policy}" if policy else "")
            texts.append(_CONFIG + section + route)
        fields = f"X-Api-Key: {_KEY}\r\nAuthorization: Bearer {token}\r\n".encode()
        costs = measure(texts, fields)
    for name, cost in list(zip(policies, costs, strict=True))[1:]:
        print(
            f"**{name}**: {difference(costs[0], cost):.1f} µs of processor time a request, beside "
            f"{statistics.median(costs[0]):.1f} µs for a request that is asked for nothing "
            f"({ROUNDS} rounds of {TURNS * CONNECTIONS} requests, {os.cpu_count()} cores)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
