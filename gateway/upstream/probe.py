"""One question to one target: are you well?

Rules of this file: a probe has a connection of its own, made for it and closed after it, never one of the pool: what clients
use neither waits for probes nor hides a listener that is gone. No redirect is followed: where it points to is not the
target. Of a body no more is read than may be matched. How often, and what follows from the answers, is `health.py`'s.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import aiohttp
from yarl import URL

from gateway.headers import unquoted
from gateway.upstream.pool import open_session

if TYPE_CHECKING:
    from gateway.config import model
    from gateway.upstream.upstream import Target

MATCHED = 64 * 1024
"""Bytes of a body that are looked through."""
MOST_WORDS = 120
"""Characters of a foreign error message that people are shown."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a probe. `words` say why it did not pass, or what came."""

    result: Literal["pass", "fail", "timeout"]
    words: str


class Probes:
    """Asks the targets of one upstream, with its TLS settings and a session for nothing else."""

    def __init__(self, context: ssl.SSLContext | bool, server_name: str | None) -> None:
        self.context = context
        self.server_name = server_name
        self._sessions: dict[str | None, aiohttp.ClientSession] = {}

    async def ask(self, target: Target, question: model.Health, host: str | None) -> Answer:
        """Ask `target`; `host` is the Host to ask for, None: its own. There is no time limit in here."""
        try:
            if question.tcp:
                return await self._connect(target, question)
            return await self._request(target, question, host)
        except Exception as error:  # noqa: BLE001 - whatever it was: it was no good answer, and no end of checks
            return Answer("fail", words(error))

    async def aclose(self) -> None:
        """Cut what is under way."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def _connect(self, target: Target, question: model.Health) -> Answer:
        loop = asyncio.get_running_loop()
        if target.unix is not None:
            transport, _ = await loop.create_unix_connection(asyncio.Protocol, target.unix)
        else:
            url = target.endpoint.url
            port = question.port or url.port
            assert url.raw_host is not None
            assert port is not None
            transport, _ = await loop.create_connection(asyncio.Protocol, url.raw_host, port)
        transport.abort()
        return Answer("pass", "connected")

    async def _request(self, target: Target, question: model.Health, host: str | None) -> Answer:
        fields = {"User-Agent": "gateway-health-check", "Accept-Encoding": "identity"}
        if host is not None:
            fields["Host"] = host
        for name, value in question.headers.items():
            fields = {key: kept for key, kept in fields.items() if key.lower() != name.lower()}
            if value is not None:
                fields[name] = value
        session = self._sessions.get(target.unix)
        if session is None:
            session = self._sessions[target.unix] = open_session(target.unix)
        async with session.request(
            question.method,
            _url(target, question),
            headers=fields,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            allow_redirects=False,
            ssl=self.context,
            server_hostname=self.server_name,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        ) as response:
            answer = await _judge(response, question.expect)
            response.close()  # or leaving this block would wait for a body that may have no end
            return answer


def _url(target: Target, question: model.Health) -> URL:
    url = target.endpoint.url
    if question.port is not None and target.unix is None:
        url = url.with_port(question.port)
    return URL(f"{url.scheme}://{url.raw_authority}{question.path}", encoded=True)


async def _judge(response: aiohttp.ClientResponse, expect: model.Expect) -> Answer:
    status = response.status
    if not any(status in wanted for wanted in expect.status):
        return Answer("fail", f"status {status}")
    if expect.body is None:
        return Answer("pass", f"status {status}")
    wanted_text = expect.body.encode()
    seen = bytearray()
    async for block in response.content.iter_any():
        seen += block
        del seen[MATCHED:]
        if wanted_text in seen:
            return Answer("pass", f"status {status}")
        if len(seen) == MATCHED:
            return Answer("fail", f"the first {MATCHED // 1024} KiB of the body lack the text")
    return Answer("fail", "the body lacks the text")


def words(error: Exception) -> str:
    """An error of aiohttp's or the system's, as people say it."""
    cause = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error
    for kind, words in _SAID:
        if isinstance(error, kind) or isinstance(cause, kind):
            return words
    if isinstance(error, ssl.SSLError | aiohttp.ClientSSLError):
        return f"TLS: {_short(getattr(cause, 'verify_message', None) or cause)}"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"no valid answer: {_short(unquoted(error))}"
    return _short(getattr(cause, "strerror", None) or str(cause) or repr(cause))


_SAID: tuple[tuple[type[Exception], str], ...] = (
    (ConnectionRefusedError, "connection refused"),
    (aiohttp.ClientConnectorDNSError, "its name is not known"),
    (socket.gaierror, "its name is not known"),
    (FileNotFoundError, "there is no such socket"),
    (aiohttp.ServerDisconnectedError, "the connection was closed without an answer"),
    (ConnectionResetError, "the connection was reset"),
    (aiohttp.ClientPayloadError, "the body was cut short"),
)


def _short(words: object) -> str:
    line = " ".join(str(words).split())
    return line if len(line) <= MOST_WORDS else line[: MOST_WORDS - 1] + "…"
