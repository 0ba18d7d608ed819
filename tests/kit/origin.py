"""An upstream that does as it is told, byte for byte, and remembers every byte that it was sent.

Rules of this file: a script is bytes (the same answer to every request), a list of bytes (one for
each request in turn, the last one again and again), or a coroutine function that is given each
connection. A script that fails, fails the test.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from tests.kit.wire import Ended, Message, Wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Script = Callable[["Peer"], Awaitable[Any]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
CLOSING = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def reply(
    body: bytes = b"ok", *lines: bytes, status: bytes = b"200 OK", length: bool = True
) -> bytes:
    """A response with these field lines (no line ends) and, if wanted, its Content-Length."""
    head = b"HTTP/1.1 " + status + b"\r\n" + b"".join(line + b"\r\n" for line in lines)
    if length:
        head += b"Content-Length: %d\r\n" % len(body)
    return head + b"\r\n" + body


def chunk(data: bytes) -> bytes:
    """`data` as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Peer(Wire):
    """One connection of the gateway to this upstream."""

    def __init__(self, sock: socket.socket, origin: Origin) -> None:
        super().__init__(sock)
        self.origin = origin
        self.number = len(origin.connections)
        """0 for the first connection."""
        self.requests: list[Message] = []

    async def head(self) -> Message:
        """The next request's head; its body stays unread."""
        head = await self.until(b"\r\n\r\n")
        message = Message(raw=head, head=head)
        if message.all("transfer-encoding"):
            message.framing = "chunked"
        elif message.all("content-length"):
            message.framing = "length"
        self.requests.append(message)
        self.origin.requests.append(message)
        self.origin.seen.set()
        return message

    async def body(self, message: Message) -> bytes:
        """Read the body of a request whose head was read."""
        if message.framing == "chunked":
            raw, message.body, message.trailers = await self.chunked()
            message.raw += raw
        elif message.framing == "length":
            message.body = await self.exactly(int(message.get("content-length") or b"0"))
            message.raw += message.body
        return message.body

    async def request(self) -> Message:
        """The next request, whole."""
        message = await self.head()
        await self.body(message)
        return message

    async def closed_soon(self) -> bool:
        """Whether the gateway has ended this connection, or does within a moment."""
        for _ in range(200):
            if self.ending or self.sock.fileno() < 0:
                return True
            await asyncio.sleep(0.01)
        return False


class Origin:
    """A listening upstream."""

    def __init__(
        self,
        script: bytes | Sequence[bytes] | Script = OK,
        *,
        unix: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.script = script
        self.connections: list[Peer] = []
        self.requests: list[Message] = []
        """Every request whose head arrived, over all connections, in order of arrival."""
        self.failures: list[BaseException] = []
        self.seen = asyncio.Event()
        """Set whenever a head arrives; a test clears it."""
        self.host = host
        self.port = port
        self.unix = unix
        self._listening: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._answered = 0

    @property
    def address(self) -> str:
        """host:port, as metrics name the target."""
        return f"unix:{self.unix}" if self.unix else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """As `to:` takes it."""
        return self.address if self.unix else f"http://{self.address}"

    def bind(self) -> None:
        """Take a port (again, after `refuse`) and accept."""
        if self.unix:
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(self.unix)
        else:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            listening = socket.socket(family)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((self.host.strip("[]"), self.port))
            self.port = listening.getsockname()[1]
        listening.listen(1024)
        listening.setblocking(False)
        self._listening = listening
        self._accepting = asyncio.get_running_loop().create_task(self._accept(listening))

    async def refuse(self) -> None:
        """Stop listening: connections to the port are refused. Those that are open stay."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
            self._accepting = None
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listening)
            peer = Peer(sock, self)
            self.connections.append(peer)
            task = loop.create_task(self._serve(peer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, peer: Peer) -> None:
        try:
            if callable(self.script):
                await self.script(peer)
            else:
                await self._answer(peer, self.script)
        except (Ended, ConnectionError):
            pass  # the gateway closed an idle connection, or gave a request up
        except Exception as error:  # told to the test, when it ends
            self.failures.append(error)
        finally:
            peer.close()

    async def _answer(self, peer: Peer, script: bytes | Sequence[bytes]) -> None:
        while True:
            while not peer.buffer:  # between requests there is no hurry
                if not await peer._more():
                    return
            await peer.request()
            answer = (
                script
                if isinstance(script, bytes)
                else script[min(self._answered, len(script) - 1)]
            )
            self._answered += 1
            await peer.send(answer)
            if b"\r\nConnection: close\r\n" in answer:
                return

    async def wait_for_request(self, number: int = 1) -> Message:
        """The `number`-th head that arrived (1 for the first), once it has."""
        async with asyncio.timeout(10):
            while len(self.requests) < number:
                self.seen.clear()
                await self.seen.wait()
        return self.requests[number - 1]

    @property
    def only(self) -> Message:
        """The one request that arrived; an error if there were more or none."""
        assert len(self.requests) == 1, [message.start for message in self.requests]
        return self.requests[0]

    async def hang_up(self) -> None:
        """End the scripts that still run, and with them their connections."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def aclose(self) -> None:
        """Stop, close what is open, and raise what went wrong in the script."""
        await self.refuse()
        await self.hang_up()
        for peer in self.connections:
            peer.close()
        if self.failures:
            raise self.failures[0]
