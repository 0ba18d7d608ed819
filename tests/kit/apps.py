"""What runs in the upstreams of the drills: one ASGI and one WSGI application, and a server that misbehaves on command.

Rules of this file: each process appends one line for each request to the file that DRILL_JOURNAL
names, before it answers: what it was asked is known even when it is killed. Nothing of the gateway
is imported. `python -m tests.kit.apps HOST PORT` runs the server that misbehaves; its commands come on
standard input, one a line, see `Raw.obey`.

Paths: `/ready` answers at once and is not written down; `/wait/MS` answers after so many
milliseconds; `/large/BYTES`, of the WSGI application only, has a body of that size; any other answers at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

NAME = os.environ.get("DRILL_NAME", "")
READY = "/ready"


class Journal:
    """The lines that this process, and those forked from it, have to write down."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if path else -1

    def note(self, *words: str) -> None:
        """Append one line, whole even when several processes write."""
        if self._file >= 0:
            os.write(self._file, " ".join(words).encode() + b"\n")


journal = Journal(os.environ.get("DRILL_JOURNAL", ""))


def _pause(path: str) -> float:
    """Seconds that the path asks to wait."""
    _, found, milliseconds = path.partition("/wait/")
    return int(milliseconds) / 1000 if found else 0.0


# ── ASGI: for uvicorn ──


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """Answer `ok`, with the name of this upstream and the number of the request."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    path, number = scope["path"], dict(scope["headers"]).get(b"x-drill", b"-")
    if path != READY:
        journal.note("request", number.decode(), scope["method"], path)
    while (await receive()).get("more_body"):
        pass
    if pause := _pause(path):
        await asyncio.sleep(pause)
    fields = [(b"content-length", b"2"), (b"x-origin", NAME.encode()), (b"x-drill", number)]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": b"ok"})


async def _lifespan(
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


# ── WSGI: for gunicorn ──


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer `ok`, with the name of this upstream and the number of the request."""
    path, number = environ["PATH_INFO"], environ.get("HTTP_X_DRILL", "-")
    if path != READY:
        journal.note("request", number, environ["REQUEST_METHOD"], path)
    environ["wsgi.input"].read()
    if pause := _pause(path):
        time.sleep(pause)
    _, found, size = path.partition("/large/")
    body = b"x" * int(size) if found else b"ok"
    fields = [("Content-Length", str(len(body))), ("X-Origin", NAME), ("X-Drill", number)]
    start_response("200 OK", fields)
    return [body]


# ── the one that misbehaves ──


class Raw:
    """Answers as it was last told to; writes down every connection as well as every request."""

    def __init__(self) -> None:
        self.manner: list[str] = ["ok"]
        self.status = b"200 OK"
        self.delay = 0.0

    def obey(self, command: str) -> None:
        """Take one command.

        `ok`: whole answers. `delay SECONDS`: before each answer, whatever the manner. `status CODE`:
        of whole answers. `slam`: reset each connection as soon as it is made. `truncate length |
        chunked | reset`: half of a body, then the end of the connection. `trickle BYTES SECONDS`: a
        body of so many bytes, one at a time. `stall BYTES`: so many bytes, then silence. `large
        BYTES`: a body of that size.
        """
        word, *rest = command.split()
        if word == "delay":
            self.delay = float(rest[0])
        elif word == "status":
            self.status = rest[0].encode() + b" Said"
        else:
            self.manner = [word, *rest]
        journal.note("obeyed", *command.split())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        journal.note("connection", str(time.monotonic()))  # noqa: TID251 - the machine's own clock
        try:
            if self.manner[0] == "slam":
                _reset(writer)
                return
            while number := await self._request(reader):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._answer(writer, number)
        except (asyncio.IncompleteReadError, ConnectionError):
            journal.note("lost")  # the other side has gone
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _request(self, reader: asyncio.StreamReader) -> str:
        """The number of the next request; empty at the end of the connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            return ""
        line, *lines = head.split("\r\n")
        fields = {
            name.lower(): value.strip() for name, _, value in (f.partition(":") for f in lines)
        }
        method, path, _ = line.split(" ")
        number = fields.get("x-drill", "-")
        if path != READY:
            journal.note("request", number, method, path)
        await reader.readexactly(int(fields.get("content-length", "0")))
        return number

    async def _answer(self, writer: asyncio.StreamWriter, number: str) -> None:
        word, *rest = self.manner
        if word == "truncate":
            await self._truncate(writer, rest[0])
        size = int(rest[0]) if word in ("trickle", "stall", "large") else 2
        writer.write(
            b"HTTP/1.1 %b\r\nX-Origin: %b\r\nX-Drill: %b\r\nContent-Length: %d\r\n\r\n"
            % (
                self.status,
                NAME.encode(),
                number.encode(),
                size * 2 if word == "stall" else size,
            )
        )
        if word == "ok":
            writer.write(b"ok")
        elif word == "trickle":
            for _ in range(size):
                writer.write(b"x")
                await asyncio.sleep(float(rest[1]))
        else:
            await self._much(writer, size)
        await writer.drain()
        if word == "stall":
            await asyncio.get_running_loop().create_future()

    async def _much(self, writer: asyncio.StreamWriter, size: int) -> None:
        block = b"x" * 65536
        while size > 0:
            writer.write(block[:size])
            size -= len(block)
            await writer.drain()

    async def _truncate(self, writer: asyncio.StreamWriter, how: str) -> None:
        framing = {
            "length": b"Content-Length: 1000\r\n",
            "chunked": b"Transfer-Encoding: chunked\r\n",
            "reset": b"Connection: close\r\n",
        }[how]
        half = b"1f4\r\n" + b"x" * 500 + b"\r\n" if how == "chunked" else b"x" * 500
        writer.write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n" + half)
        await writer.drain()
        await asyncio.sleep(0.05)  # what was written is on its way before the connection ends
        if how == "reset":
            _reset(writer)
        raise ConnectionAbortedError


def _reset(writer: asyncio.StreamWriter) -> None:
    """End with a reset: an abort alone sends an ordinary FIN where everything has been read."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _main(host: str, port: int) -> None:
    raw = Raw()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), lambda: _commands(raw))
    server = await asyncio.start_server(raw.serve, host, port, backlog=1024)
    journal.note("listening")
    async with server:
        await server.serve_forever()


def _commands(raw: Raw) -> None:
    data = os.read(sys.stdin.fileno(), 65536)
    if not data:
        os._exit(0)  # the test has gone
    for line in data.decode().splitlines():
        raw.obey(line)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2])))
