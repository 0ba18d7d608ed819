"""A name server on a loopback port, with records that a test writes and faults that it asks for.

Rules of this file: packets are dnspython's; UDP and TCP share a port. An answer is in the order in
which the records were written.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import dns.asyncresolver  # the gateway's, when it is first wanted; here no guard watches the loop
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class NameServer(asyncio.DatagramProtocol):
    """Answers from `records`: `{("users.test", "A"): ["127.0.0.1"]}`."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self.ttl = 60
        self.rcode: dict[tuple[str, str], dns.rcode.Rcode] = {}
        """An answer that says so in place of records, by name and type."""
        self.silent = False
        """Take questions and say nothing."""
        self.truncate = False
        """Over UDP say only that it does not fit."""
        self.asked: list[tuple[str, str, str]] = []
        """Name, type, and `udp` or `tcp`, in the order in which they came."""
        self.address = ""
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self.answer(data, "udp")
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, addr)

    def answer(self, data: bytes, way: str) -> bytes | None:
        """The answer to a packet; None: silence."""
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind, way))
        if self.silent:
            return None
        response = dns.message.make_response(query)
        if self.truncate and way == "udp":
            response.flags |= dns.flags.TC
            return response.to_wire()
        self._fill(response, name, kind)
        return response.to_wire(max_size=65535 if way == "tcp" else 0)

    def _fill(self, response: dns.message.Message, name: str, kind: str) -> None:
        if (name, kind) in self.rcode:
            response.set_rcode(self.rcode[name, kind])
            return
        while (name, kind) not in self.records and (name, "CNAME") in self.records:
            name = self._add(response, name, "CNAME").rstrip(".")
        if (name, kind) in self.records:
            self._add(response, name, kind)
        elif not any(known == name for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)

    def _add(self, response: dns.message.Message, name: str, kind: str) -> str:
        values = self.records[name, kind]
        if values:
            rrset = dns.rrset.from_text(dns.name.from_text(name), self.ttl, "IN", kind, *values)
            response.answer.append(rrset)
        return values[0] if values else ""

    async def over_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: questions and answers with their lengths before them."""
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(2), "big")
                answer = self.answer(await reader.readexactly(length), "tcp")
                if answer is not None:
                    writer.write(len(answer).to_bytes(2, "big") + answer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def name_server() -> AsyncIterator[NameServer]:
    """A name server at `server.address`, for `nameservers: [...]`."""
    loop = asyncio.get_running_loop()
    server = NameServer()
    for _ in range(20):  # the same number must be free for both
        transport, _protocol = await loop.create_datagram_endpoint(
            lambda: server, local_addr=("127.0.0.1", 0)
        )
        port = transport.get_extra_info("sockname")[1]
        try:
            tcp = await asyncio.start_server(server.over_tcp, "127.0.0.1", port)
            break
        except OSError:
            transport.close()
    else:
        raise OSError("no port is free for both UDP and TCP")
    server.address = f"127.0.0.1:{port}"
    try:
        yield server
    finally:
        transport.close()
        tcp.close()
        await tcp.wait_closed()
