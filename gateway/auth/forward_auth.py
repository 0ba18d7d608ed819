"""`forward_auth`: a service of one's own is asked about each request, and says who may come in.

Rules of this file: the service decides by its status and nothing else. 2xx lets the request in, with those fields of the
answer that are listed. 401, 403 and redirects are the service's answer to the client. Whatever else it says, and silence,
is no verdict: `on_error` says what becomes of the request then, and what a client can bring about by what it sends (a field
that can not be sent on, an answer such as 400 or 431) never counts as one. A verdict is kept, and shared by requests that
are under way at once, for the very request that it was given for: fields, method, address, client. What bears a cookie, or
forbids to be kept, is for one request alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import quote

import aiohttp
from yarl import URL

from gateway import errors
from gateway.auth import Taken
from gateway.auth.describing import Describing
from gateway.auth.fetch import FetchError, Single, session, shown
from gateway.auth.telling import Telling
from gateway.config.addresses import FRAMING
from gateway.exchange import Reply
from gateway.identity import NOBODY, Identity
from gateway.upstream.probe import words

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

    from gateway.auth import Tools, Verdict
    from gateway.config import model
    from gateway.exchange import Exchange

KEPT = 4096
"""Verdicts that are kept at most."""
MOST_CONNECTIONS = 256
_IDLE = 4.0
"""Seconds for which a connection rests: servers close theirs after five."""
_PASSED = (
    "WWW-Authenticate",
    "Location",
    "Set-Cookie",
    "Content-Type",
    "Cache-Control",
    "Retry-After",
)
"""Fields of a refusal that the client is given."""
_OWN = (
    "host",
    "expect",
    "x-forwarded-method",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-uri",
    "x-forwarded-for",
)
"""Fields of the question, which a client must not write as well."""
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search
_STRAY = re.compile("[\ud800-\udfff]").search
"""A byte that is no UTF-8, in a text that was decoded with it."""

Fields = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class _Said:
    """What the service has said of one request."""

    identity: Identity | None = None
    reply: tuple[int, tuple[bytes, ...], bytes] | None = None
    """Status, lines and body of a refusal."""
    shared: bool = False
    """Whether it holds for every request of the same kind."""


@dataclass(slots=True)
class _Question:
    """One question under way, and what has come of it so far."""

    fields: Fields
    said: _Said | None = None
    """It has let the request in."""
    refused: bool = False


def make(name: str, settings: model.ForwardAuth, tools: Tools) -> ForwardAuth:
    """The policy `name`. Raises ValueError for a field that can not be copied."""
    return ForwardAuth(name, settings, tools)


class ForwardAuth:
    """One service that is asked."""

    challenge = ""
    """What is to be said, the service says."""

    def __init__(self, name: str, settings: model.ForwardAuth, tools: Tools) -> None:
        self.name = name
        self._settings = settings
        self._shown = shown(URL(settings.url))
        self._meter = tools.meter
        self._clock = tools.clock
        self._describing = Describing(name, settings)
        for field in settings.copy_:
            if field.lower() in (*FRAMING, "host"):
                raise ValueError(
                    f"auth.{name}: {field} is made by the gateway: it can not be copied"
                )
        for field in settings.send:
            if field.lower() in (*FRAMING, *_OWN):
                raise ValueError(
                    f"auth.{name}: {field} is made by the gateway: take it out of send"
                )
        written = self._describing.forwarded
        self._copied = tuple(
            (field, f"{field}: ".encode("ascii"))
            for field in settings.copy_
            if field.lower().encode("ascii") not in written
        )
        self.forwarded = written | {field.lower().encode("ascii") for field in settings.copy_}
        # Which of the cookies is a credential, only the service knows.
        sent = {field.lower() for field in settings.send}
        self.taken = Taken(headers=frozenset({b"authorization"} if "authorization" in sent else ()))
        self._groups = (settings.groups or "{claim.groups}")[1:-1].removeprefix("claim.")
        self._telling = Telling(name, "auth_service_failed", tools)
        self._kept: dict[bytes, tuple[Identity, float]] = {}
        self._single: Single[bytes, _Said] = Single(f"forward_auth {name}")
        self._session: aiohttp.ClientSession | None = None

    def authenticate(self, exchange: Exchange) -> Verdict:
        """Who that is, as the service has said, or will."""
        fields = self._fields(exchange)
        if self._settings.cache is None:
            return self._alone(fields)
        key = hashlib.sha256(json.dumps(fields).encode("ascii")).digest()
        kept = self._kept.get(key)
        if kept is not None:
            identity, until = kept
            if self._clock.now() < until:
                return identity
            del self._kept[key]
        return self._together(key, fields)

    def rehearse(self, exchange: Exchange) -> Identity | None:  # noqa: ARG002 - nobody is asked
        """Only the service can tell."""
        return None

    async def aclose(self) -> None:
        """Close the connections to the service; what is under way fails."""
        await self._single.aclose()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _fields(self, exchange: Exchange) -> Fields:
        """What the service is told: all that its answer can depend on.

        Raises errors.Unauthenticated for a field that is no UTF-8: aiohttp would leave out those bytes without a word, and
        the service would judge another value than the upstream reads.
        """
        told = [
            ("X-Forwarded-Method", exchange.method),
            ("X-Forwarded-Proto", exchange.scheme),
            ("X-Forwarded-Host", exchange.authority),
            ("X-Forwarded-Uri", quote(exchange.target, safe=_PRINTABLE, errors="surrogateescape")),
            ("X-Forwarded-For", exchange.client_ip),
        ]
        headers = exchange.headers
        for name in self._settings.send:
            told += [(name, value) for value in headers.getall(name, ())]
        if any(map(_STRAY, (value for _, value in told))):
            raise errors.Unauthenticated(
                "a field that the service is to judge is no UTF-8", outcome="malformed"
            )
        return told

    async def _alone(self, fields: Fields) -> Identity | Reply:
        return self._told(await self._ask(fields))

    async def _together(self, key: bytes, fields: Fields) -> Identity | Reply:
        """One question for all that have the same one now."""
        asked = False

        async def ask() -> _Said:
            nonlocal asked
            asked = True
            said = await self._ask(fields)
            if said.shared and said.identity is not None and said.identity is not NOBODY:
                self._keep(key, said.identity)
            return said

        try:
            said = await self._single.do(key, ask)
        except FetchError as error:
            raise errors.AuthUnavailable(str(error)) from None
        if not asked and not said.shared:
            said = await self._ask(fields)
        return self._told(said)

    def _keep(self, key: bytes, identity: Identity) -> None:
        if len(self._kept) >= KEPT:
            del self._kept[next(iter(self._kept))]
        assert self._settings.cache is not None
        self._kept[key] = identity, self._clock.now() + self._settings.cache

    def _told(self, said: _Said) -> Identity | Reply:
        if said.identity is NOBODY:
            self._meter.outcomes["provider_error"] += 1
        if said.identity is not None:
            return said.identity
        assert said.reply is not None
        status, lines, body = said.reply
        # One for each request: what is around it may edit it.
        return Reply(status, list(lines), body)

    # ── asking ──

    async def _ask(self, fields: Fields) -> _Said:
        """The service's word. Raises errors.AuthUnavailable without one, errors.Unauthenticated for a request that can not
        be asked about.
        """
        question = _Question(fields)
        try:
            return await self._limited(question)
        except TimeoutError:
            why = f"{self._shown}: no answer within {self._settings.timeout:g} s"
        except aiohttp.ClientResponseError as error:
            why = f"{self._shown}: {words(error)}"
            # It answers, and a field that is too long or no text may repeat what the client has sent.
            question.refused = not error.message.startswith("Bad status line")
        except (aiohttp.ClientError, OSError) as error:
            why = f"{self._shown}: {words(error)}"
        except ValueError:
            raise errors.Unauthenticated(
                "a field of the request can not be sent on", outcome="malformed"
            ) from None
        if question.said is not None:  # only the rest of its body has failed, which nobody reads
            return question.said
        return self._without(why, refused=question.refused)

    def _without(self, why: str, *, refused: bool = False) -> _Said:
        """What becomes of a request without a verdict. One that was `refused` is not let in by `on_error`."""
        self._telling.tell(why)
        if refused or self._settings.on_error == "deny":
            raise errors.AuthUnavailable(why)
        return _Said(NOBODY, shared=True)  # or those who wait for it would wait for their own, too

    async def _limited(self, question: _Question) -> _Said:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as patience:
            timer = self._clock.call_later(
                self._settings.timeout, lambda: patience.reschedule(loop.time())
            )
            try:
                return await self._exchange(question)
            finally:
                timer.cancel()

    async def _exchange(self, question: _Question) -> _Said:
        if self._session is None:
            self._session = session(MOST_CONNECTIONS, _IDLE)
        async with self._session.get(
            self._settings.url,
            headers=question.fields,
            allow_redirects=False,
            skip_auto_headers=("Accept", "Accept-Encoding"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        ) as response:
            try:
                return await self._understood(response, question)
            finally:
                if not response.content.at_eof():
                    response.close()  # or leaving this block would wait for a body that nobody reads

    async def _understood(self, response: aiohttp.ClientResponse, question: _Question) -> _Said:
        status = response.status
        if any(map(_CONTROL, response.headers.values())):
            # The service may have it from the client: so that is not for `on_error`.
            return self._without(f"{self._shown}: a field with a control byte", refused=True)
        if 200 <= status < 300:
            question.said = self._let_in(response.headers)
            await self._body(response)  # so that the connection can be used again
            return question.said
        if status >= 500:
            return self._without(f"{self._shown}: status {status}")
        question.refused = True
        if status in (401, 403) or (status in _REDIRECTS and "Location" in response.headers):
            body = await self._body(response)
            if body is None:
                told = f"{self._shown}: a refusal larger than {self._settings.max_body} bytes"
                return self._without(told, refused=True)
            return self._refusal(response, body)
        return self._without(f"{self._shown}: status {status}", refused=True)

    def _let_in(self, headers: CIMultiDictProxy[str]) -> _Said:
        values = {name: headers.getall(name, []) for name, _ in self._copied}
        claims = {
            name.lower(): ", ".join(headers.getall(name))
            for name in self._settings.copy_
            if name in headers
        }
        identity = self._describing.identity(self.name, claims)
        lines = [
            b"%b%b\r\n" % (prefix, value.encode("utf-8", "surrogateescape"))
            for name, prefix in self._copied
            for value in values[name]
        ]
        once = tuple(_lines(headers, ("Set-Cookie",)))
        identity = replace(
            identity,
            lines=identity.lines + b"".join(lines),
            once=once,
            groups=_members(claims.get(self._groups, "")),
        )
        return _Said(identity, shared=not once and "no-store" not in _caching(headers))

    @staticmethod
    def _refusal(response: aiohttp.ClientResponse, body: bytes) -> _Said:
        headers = response.headers
        lines = _lines(headers, _PASSED)
        if "Cache-Control" not in headers:
            lines.append(b"Cache-Control: no-store\r\n")
        shared = response.status in (401, 403) and "Set-Cookie" not in headers
        return _Said(reply=(response.status, tuple(lines), body), shared=shared)

    async def _body(self, response: aiohttp.ClientResponse) -> bytes | None:
        """All of it; None: it is more than is allowed."""
        most, body = self._settings.max_body, bytearray()
        if (response.content_length or 0) > most:
            return None
        async for block in response.content.iter_any():
            body += block
            if len(body) > most:
                return None
        return bytes(body)


def _members(value: str) -> frozenset[str]:
    """Groups as services write them into a field: with commas or bars between, since names hold spaces."""
    return frozenset(name for part in re.split("[,|]", value) if (name := part.strip()))


def _lines(headers: CIMultiDictProxy[str], names: tuple[str, ...]) -> list[bytes]:
    return [
        f"{name}: {value}\r\n".encode("utf-8", "surrogateescape")
        for name in names
        for value in headers.getall(name, ())
    ]


def _caching(headers: CIMultiDictProxy[str]) -> str:
    return ",".join(headers.getall("Cache-Control", ())).lower()
