"""`make autobahn`: the cases of the Autobahn test suite, put to a WebSocket server directly and through the gateway.

Rules of this file: what counts is the difference. A verdict about the server is none about the tunnel; one that is worse
through the gateway ends this with 1. The suite itself needs Python 2; `kosoku` runs its case files on any.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from kosoku import FailureError, run_fuzzingclient
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from gateway.config import load_dict
from gateway.runtime.gateway import Gateway

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

LEAVE_OUT = ("9.3.*", "9.4.*", "12.2.*", "12.3.*", "12.4.*", "12.5.*", "13.[2-7].*")
"""Left out unless cases are named: minutes of one Python server's own time, and no other frames than the rest."""
Verdict = tuple[str, str]
FINE = ("OK", "NON-STRICT", "INFORMATIONAL")


async def echo(end: ServerConnection) -> None:
    """Say everything back."""
    try:
        async for message in end:
            await end.send(message)
    except ConnectionClosed:
        pass


async def verdicts(address: str, cases: list[str]) -> dict[str, Verdict]:
    """What the suite says of each case: of the messages, and of the end."""
    try:
        found = await run_fuzzingclient(
            f"ws://{address}", cases or None, None if cases else LEAVE_OUT
        )
    except FailureError as failed:
        found = failed.results
    return {one.case_id: (one.behavior.value, one.behavior_close.value) for one in found}


async def main(cases: list[str]) -> int:
    """Compare; the exit code."""
    async with serve(echo, "127.0.0.1", 0, max_size=1 << 26, ping_interval=None) as server:
        direct = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        config = {
            "listeners": [{"bind": "127.0.0.1:0", "name": "main"}],
            "admin": "off",
            "observability": {"access_log": "off"},
            "routes": [{"path": "/*", "to": f"http://{direct}"}],
        }
        async with Gateway(load_dict(config)) as gateway:
            expected = await verdicts(direct, cases)
            found = await verdicts(str(gateway.addresses["main"]), cases)
    worse = 0
    for case, verdict in found.items():
        if verdict != expected.get(case):
            worse += any(word not in FINE for word in verdict)
            print(f"{case}: {'/'.join(verdict)}, without the gateway {expected.get(case)}")
    for name, of in (("directly", expected), ("through the gateway", found)):
        fine = sum(all(word in FINE for word in verdict) for verdict in of.values())
        print(f"{name}: {fine} of {len(of)} cases passed")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
