"""What the policies of an upstream cost each request: balancing, circuits, ejection and retries, in processor time.

One gateway sends to a single target and tries nothing twice, the other has three targets, two random choices, ejection, a
circuit for each target and retries.
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
_ONE = f"targets: ['http://127.0.0.1:{ORIGIN}'], eject: off, retry: off"
_THREE = (
    "targets: [" + ", ".join(f"'http://127.0.0.{n}:{ORIGIN}'" for n in (1, 2, 3)) + "], "
    "balance: p2c, eject: {consecutive_failures: 5}, circuit: {scope: target}, retry: {max: 1}"
)


def main() -> int:
    """Measure and print."""
    bare, full = measure([_CONFIG.replace("UPSTREAM", upstream) for upstream in (_ONE, _THREE)])
    print(
        f"**balancing, circuits, ejection and retries**: {difference(bare, full):.1f} µs of processor time a request, "
        f"beside {statistics.median(bare):.1f} µs for a request to one target without them "
        f"({ROUNDS} pairs of {TURNS * CONNECTIONS} requests, {os.cpu_count()} cores)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
