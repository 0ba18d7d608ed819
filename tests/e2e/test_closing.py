"""The end of a connection whose client reads nothing: what the kernel is told, and for how long it counts.

Rules of this file: a gateway that runs, real sockets; the option is read from the socket that was accepted.
"""

from __future__ import annotations

import asyncio
import gc
import socket
from typing import TYPE_CHECKING, Any

import pytest

from gateway.edge import ClientConnection
from tests.e2e.conformance.conftest import get
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway
    from tests.kit.raw import Client
    from tests.kit.running import Running

BODY = 10_000
ROUTES = [{"name": "all", "path": "/*", "respond": {"status": 200, "body": "x" * BODY}}]
OPTION = getattr(socket, "TCP_USER_TIMEOUT", 18)


def accepted(running: Running) -> Any:
    """The transport of the one connection that the gateway has accepted."""
    (connection,) = (
        one
        for one in gc.get_objects()
        if type(one) is ClientConnection and one.transport is not None
    )
    assert str(connection.server.listener) in running.gateway.addresses
    return connection.transport


async def _fill(client: Client, transport: Any, least: int) -> None:
    """Ask, and read nothing, until the kernel takes no more and `least` bytes wait in the transport."""
    async with asyncio.timeout(PATIENCE):
        while transport.get_write_buffer_size() < least:
            await client.send(get(b"/"))
            await asyncio.sleep(0.001)


async def _counted(running: Running, connections: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while running.gateway._admission.total != connections:
            await asyncio.sleep(0.005)


async def test_a_closing_connection_that_is_not_read_is_bounded_and_counts_until_it_is_gone(
    gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway({"routes": ROUTES})
    client = await raw(running, receive_buffer=4096)
    await client.ask(get(b"/"))
    transport = accepted(running)
    sock = transport.get_extra_info("socket")
    await _fill(client, transport, 2 * BODY)
    assert sock.getsockopt(socket.IPPROTO_TCP, OPTION) == 0, "a client may pause between requests"
    await client.send(get(b"/", b"Connection: close"))
    async with asyncio.timeout(PATIENCE):
        while not transport.is_closing():
            await asyncio.sleep(0.005)
    assert sock.getsockopt(socket.IPPROTO_TCP, OPTION) == 30_000
    # It has a descriptor and a buffer for as long as it is not gone: so it counts.
    assert running.gateway._admission.total == 1
    client.close()
    await _counted(running, 0)


@pytest.mark.parametrize("lines", [[b"Connection: close"], [b"Transfer-Encoding: gzip"]])
async def test_a_closing_connection_that_the_kernel_takes_whole_is_counted_out_at_once(
    gateway: MakeGateway, raw: MakeClient, lines: list[bytes]
) -> None:
    running = await gateway({"routes": ROUTES})
    client = await raw(running, receive_buffer=4096)
    await client.send(get(b"/", *lines))
    await running.log()
    await _counted(running, 0)
    assert not client.buffer, "the client has not read a byte yet"


async def test_one_address_can_not_hold_more_by_not_reading(
    gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway({"routes": ROUTES, "server": {"limits": {"connections_per_ip": 1}}})
    client = await raw(running, receive_buffer=4096)
    await client.ask(get(b"/"))
    await _fill(client, accepted(running), 2 * BODY)
    await client.send(get(b"/", b"Connection: close"))
    await asyncio.sleep(0.05)
    other = await raw(running)
    assert (await other.ask(get(b"/"))).status == 503
    other.close()
    client.close()
    await _counted(running, 0)
    assert (await (await raw(running)).ask(get(b"/"))).status == 200
