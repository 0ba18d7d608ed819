"""What every conformance test does: send exact bytes through a gateway to an origin, and look at
both ends.

Rules of this file: a request is `get(...)` or bytes written out in the test; `through` sends it and
returns what came of it; `refused` also proves that the upstream heard nothing and that nothing
behind the request was taken for another one. With GATEWAY_REFERENCE=nginx (`make conformance-nginx`)
the same cases are put to nginx, and what it does otherwise is listed.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import pytest_asyncio

from tests.kit import reference
from tests.kit.origin import OK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin, Script
    from tests.kit.raw import Client
    from tests.kit.running import Running
    from tests.kit.wire import Message

EVIL = b"GET /evil HTTP/1.1\r\nHost: evil.test\r\n\r\n"
"""What an attacker hopes to have taken for a request of its own."""
REFERENCE = os.environ.get("GATEWAY_REFERENCE", "")


if REFERENCE:
    assert REFERENCE == "nginx", f"GATEWAY_REFERENCE={REFERENCE}: nginx is the only one"

    @pytest_asyncio.fixture
    async def gateway(_leak_guard: None, tmp_path: Path) -> AsyncIterator[MakeGateway]:
        """`await gateway(origin)`: the reference in front of it."""
        running: list[reference.Reference] = []

        async def make(config: Any, **sections: Any) -> Running:
            running.append(await reference.start(config, tmp_path, **sections))
            return running[-1]

        yield make
        for one in running:
            one.process.kill()
            await one.process.wait()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What the reference does otherwise: a line for each test, with its first case."""
    if not REFERENCE:
        return
    stats = terminalreporter.stats
    differ: dict[str, list[Any]] = {}
    for report in (*stats.get("failed", ()), *stats.get("error", ())):
        if report.when != "teardown":
            test = report.nodeid.partition("conformance/")[2].partition("[")[0]
            differ.setdefault(test, []).append(report)
    terminalreporter.section(f"what {REFERENCE} does otherwise")
    for test, reports in sorted(differ.items()):
        said = reports[0].longrepr.reprcrash.message.splitlines()[0]
        terminalreporter.write_line(f"{len(reports):4}  {test}: {said[:100]}")
    terminalreporter.write_line(
        f"{len(stats.get('passed', ()))} cases as the gateway, {sum(map(len, differ.values()))} otherwise, "
        f"{len(stats.get('skipped', ()))} are about the gateway alone"
    )


@dataclass
class Outcome:
    """What came of one request."""

    response: Message
    origin: Origin
    gateway: Running
    client: Client

    @property
    def sent(self) -> Message:
        """The one request that the upstream received."""
        return self.origin.only


class Through(Protocol):
    """`await through(request, reply=…, route=…, server=…)`."""

    async def __call__(
        self, *pieces: bytes, reply: bytes | Sequence[bytes] | Script = OK, **sections: Any
    ) -> Outcome: ...


class Refused(Protocol):
    """`await refused(request, 400, …)`: one of these statuses, or silence if 0 is among them."""

    async def __call__(self, request: bytes, *statuses: int, **sections: Any) -> int: ...


@pytest.fixture
def through(origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient) -> Through:
    """Send one request and read its response."""

    async def send(
        *pieces: bytes, reply: bytes | Sequence[bytes] | Script = OK, **sections: Any
    ) -> Outcome:
        up = await origin(reply)
        running = await gateway(up, **sections)
        client = await raw(running)
        response = await client.ask(*pieces)
        return Outcome(response, up, running, client)

    return send


@pytest.fixture
def refused(origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient) -> Refused:
    """Send a request that must not pass, with an evil one behind it, and read until the
    connection ends.
    """

    async def send(request: bytes, *statuses: int, **sections: Any) -> int:
        up = await origin()
        running = await gateway(up, **sections)
        client = await raw(running)
        await client.send(request + EVIL)
        seen = await client.rest()
        assert up.requests == [], f"reached the upstream: {bytes(up.connections[0].received)!r}"
        if not seen:
            assert 0 in statuses, "silence"
            return 0
        status = one_refusal(seen)
        assert status in statuses, seen
        return status

    return send


def one_refusal(seen: bytes) -> int:
    """The status of the one answer that `seen` consists of; it must be a whole problem document."""
    assert seen.startswith(b"HTTP/1."), seen
    head, _, body = seen.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    )
    assert len(body) == length, f"more than one answer: {seen!r}"
    status = int(head.split(b" ")[1])
    if REFERENCE:
        return status
    problem = json.loads(body)
    assert problem["status"] == status
    assert b'details="%b"' % problem["reason"].encode() in head, head
    return status


def problem(message: Message, reason: str, status: int) -> None:
    """`message` is the gateway's own answer for `reason`: in status, Proxy-Status and body
    alike.
    """
    assert message.status == status, message.raw
    if REFERENCE:
        return
    assert b'details="%b"' % reason.encode() in (message.get("proxy-status") or b""), message.head
    assert message.get("content-type") == b"application/problem+json"
    body = json.loads(message.body)
    assert (body["status"], body["reason"]) == (status, reason)


def get(
    target: bytes = b"/",
    *lines: bytes,
    method: bytes = b"GET",
    host: bytes | None = b"a.test",
    version: bytes = b"HTTP/1.1",
    body: bytes | None = None,
) -> bytes:
    """A request with these field lines; with `body`, also Content-Length and the body."""
    head = method + b" " + target + b" " + version + b"\r\n"
    if host is not None:
        head += b"Host: " + host + b"\r\n"
    head += b"".join(line + b"\r\n" for line in lines)
    if body is None:
        return head + b"\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def post(*lines: bytes, body: bytes | None = b"hello", target: bytes = b"/") -> bytes:
    """A POST; `body=None` leaves framing to `lines` and what the test sends after it."""
    return get(target, *lines, method=b"POST", body=body)
