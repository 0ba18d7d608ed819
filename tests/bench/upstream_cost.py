"""What the policies of an upstream cost each request: balancing, circuits, ejection and retries, in processor time.

One gateway sends to a single target and tries nothing twice; one spreads what comes over three without looking; one has the
same three, two random choices, ejection, a circuit for each target and retries. Of what the third takes more than the first,
a part is nobody's policy: three targets have three times the connections, in the kernel and in the caches.
"""

from __future__ import annotations

import os
import statistics
import sys

from tests.bench.pairs import CONNECTIONS, ORIGIN, ROUNDS, TURNS, difference, measure

_CONFIG = """\
listeners: [{bind: "127.0.0.1:{port}"}]
admin: off
upstreams: {up: {UPSTREAM}}
routes: [{path: /*, to: up, access_log: off}]
"""
_OFF = "eject: off, retry: off"
_TARGETS = "targets: [" + ", ".join(f"'http://127.0.0.{n}:{ORIGIN}'" for n in (1, 2, 3)) + "]"
_SIDES = (
    f"targets: ['http://127.0.0.1:{ORIGIN}'], {_OFF}",
    f"{_TARGETS}, balance: random, {_OFF}",
    f"{_TARGETS}, balance: p2c, eject: {{consecutive_failures: 5}}, circuit: {{scope: target}}, retry: {{max: 1}}",
)


def main() -> int:
    """Measure and print."""
    one, three, full = measure([_CONFIG.replace("UPSTREAM", side) for side in _SIDES])
    policies, everything = difference(three, full), difference(one, full)
    print(
        f"**two random choices, circuits, ejection and retries**: {policies:.1f} µs of processor time a request, beside "
        f"{statistics.median(three):.1f} µs for a request to one of three targets at random without them; three targets "
        f"included, {everything:.1f} µs beside {statistics.median(one):.1f} µs for a request to a single one "
        f"({ROUNDS} rounds of {TURNS * CONNECTIONS} requests, {os.cpu_count()} cores)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
