"""The one way in which authenticators ask an identity provider: bounded in time and size, and never led elsewhere.

Rules of this file: what is asked is an address of the configuration's, or one that a document of the configured issuer
names; a redirect is never followed (it would carry secrets to where it points to). https, or loopback; plain HTTP only where
a setting allows it. One limit of time covers name, connection, TLS and all of the body. Nothing that was sent is in an
error: neither a secret nor a token, nor a URL's query.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote_plus, urlencode

import aiohttp
from yarl import URL

from gateway.auth import documents
from gateway.tasks import spawn, stop
from gateway.upstream.probe import words

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping

    from multidict import CIMultiDictProxy

    from gateway.clock import Clock

TIMEOUT = 5.0
"""Seconds for one question, unless a setting says otherwise."""
LARGEST = 256 * 1024
"""Bytes of an answer. Key sets have 2 to 20 KiB."""
MOST_CONNECTIONS = 64
"""To all providers of one authenticator; more questions wait, within their time."""
MOST_AT_ONCE = 1024
"""Questions under way, each about something else: they go on when those who asked have left."""
_LARGE = 16 * 1024
_KEPT = 4.0
"""Seconds for which a connection rests: servers close theirs after five."""

Key = TypeVar("Key")
Result = TypeVar("Result")


class FetchError(Exception):
    """There is no answer, or none that can be used; its text is a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer, whole."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


class Fetch:
    """Asks; for one authenticator, which closes it."""

    def __init__(
        self,
        clock: Clock,
        *,
        timeout: float = TIMEOUT,
        largest: int = LARGEST,
        plain: bool = False,
        context: ssl.SSLContext | bool = True,
    ) -> None:
        """`timeout` is seconds, `largest` bytes; `plain`: HTTP without TLS is allowed to everywhere."""
        self._clock = clock
        self._timeout = timeout
        self._largest = largest
        self._plain = plain
        self._context = context
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        form: Mapping[str, str] | None = None,
        body: bytes | None = None,
        repeatable: bool = True,
    ) -> Fetched:
        """The answer, whatever its status. `form` is posted; `repeatable`: may be sent again on a new connection, when a
        kept one turns out to be closed. Raises FetchError.
        """
        try:
            where = URL(url)
        except ValueError:
            raise FetchError("an address that is no URL") from None
        if (problem := refused(where, plain=self._plain)) is not None:
            raise FetchError(f"{shown(where)}: {problem}")
        fields = [("Accept", "application/json"), ("Accept-Encoding", "identity")]
        given = list(headers.items() if hasattr(headers, "items") else headers)
        said = {name.lower() for name, _ in given}
        given += [field for field in fields if field[0].lower() not in said]
        if form is not None:
            method, body = "POST", urlencode(form).encode("ascii")
            given.append(("Content-Type", "application/x-www-form-urlencoded"))
        try:
            return await self._limited(where, method, given, body, repeatable)
        except FetchError as error:
            raise FetchError(f"{shown(where)}: {error}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FetchError(f"{shown(where)}: {words(error)}") from None

    async def document(self, url: str, **asked: Any) -> dict[str, Any]:
        """The JSON object at `url`, answered with 200. Arguments as of `ask`. Raises FetchError."""
        answer = await self.ask(url, **asked)
        where = shown(URL(url))
        if answer.status != 200:
            led = " (redirects are not followed)" if 300 <= answer.status < 400 else ""
            raise FetchError(f"{where}: status {answer.status}{led}")
        try:
            if len(answer.body) > _LARGE:  # the loop has other things to do for ten milliseconds
                return await asyncio.to_thread(documents.read, answer.body)
            return documents.read(answer.body)
        except documents.BadDocument as error:
            raise FetchError(f"{where}: no answer that can be used: {error}") from None

    async def aclose(self) -> None:
        """Close its connections; what is under way fails."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _limited(
        self,
        where: URL,
        method: str,
        headers: list[tuple[str, str]],
        body: bytes | None,
        repeatable: bool,
    ) -> Fetched:
        async with self.limit():
            try:
                return await self._exchange(where, method, headers, body)
            except aiohttp.ServerDisconnectedError:
                if not repeatable:
                    raise
            return await self._exchange(where, method, headers, body)

    @asynccontextmanager
    async def limit(self, what: str = "") -> AsyncIterator[None]:
        """All within must be over in the time that one question has. Raises FetchError when it is not: `what`, and why."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as patience:
                timer = self._clock.call_later(
                    self._timeout, lambda: patience.reschedule(loop.time())
                )
                try:
                    yield
                finally:
                    timer.cancel()
        except TimeoutError:
            raise FetchError(f"{what}no whole answer within {self._timeout:g} s") from None

    async def _exchange(
        self, where: URL, method: str, headers: list[tuple[str, str]], body: bytes | None
    ) -> Fetched:
        if self._session is None:
            self._session = session(MOST_CONNECTIONS, _KEPT)
        async with self._session.request(
            method,
            where,
            headers=headers,
            data=body,
            allow_redirects=False,
            ssl=self._context,
            skip_auto_headers=() if body else ("Content-Type",),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        ) as response:
            try:
                return Fetched(response.status, response.headers, await self._body(response))
            except BaseException:
                response.close()  # or leaving this block would wait for a body that may have no end
                raise

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise FetchError("the answer is compressed, though that was not asked for")
        if (response.content_length or 0) > self._largest:
            raise FetchError(f"the answer is larger than {self._largest} bytes")
        body = bytearray()
        async for block in response.content.iter_any():
            body += block
            if len(body) > self._largest:
                raise FetchError(f"the answer is larger than {self._largest} bytes")
        return bytes(body)


def session(most: int, idle: float) -> aiohttp.ClientSession:
    """A session for questions of the gateway's own: `most` connections, each kept for `idle` seconds; close it."""
    connector = aiohttp.TCPConnector(
        limit=most,
        keepalive_timeout=idle,
        ttl_dns_cache=10,
        resolver=aiohttp.ThreadedResolver(),  # an installed aiodns would silently replace the system's
    )
    return aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        headers={"User-Agent": "gateway"},
    )


def refused(url: URL, *, plain: bool = False, beside: URL | None = None) -> str | None:
    """Why `url` is not to be asked, for people; None: it may be.

    `beside` is the address of a document that names `url`: one from elsewhere may not send us to our own machine.
    """
    if url.scheme not in ("http", "https") or not url.host:
        return "it is no http or https URL"
    if url.user is not None or url.password is not None or url.fragment:
        return "a user or a fragment has no place in it"
    local = loopback(url.host)
    if local and beside is not None and not loopback(beside.host or ""):
        return "it leads to this machine, and the document that names it is not from here"
    if url.scheme == "http" and not local and not plain:
        return "it must be https: what it answers decides who may come in"
    return None


def loopback(host: str) -> bool:
    """Whether a host is this machine by its very spelling."""
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def shown(url: URL) -> str:
    """A URL as operators may see it: without user and query."""
    try:
        return str(url.with_user(None).with_query(None).with_fragment(None))
    except ValueError:
        return str(url.with_query(None))


def client_credentials(client_id: str, client_secret: str) -> str:
    """The value of `Authorization` of an OAuth client, each part encoded first (RFC 6749 section 2.3.1)."""
    pair = f"{quote_plus(client_id)}:{quote_plus(client_secret)}"
    return "Basic " + base64.b64encode(pair.encode("ascii")).decode("ascii")


class Single(Generic[Key, Result]):
    """For each key one piece of work at a time: whoever asks meanwhile waits for that one.

    It ends even if everybody who waits for it leaves, and so must have a limit of its own.
    """

    def __init__(self, name: str) -> None:
        """`name` is for people: what tasks are called."""
        self._name = name
        self._flights: dict[Key, asyncio.Task[Result | _Failed]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def start(self, key: Key, work: Callable[[], Coroutine[Any, Any, Result]]) -> None:
        """Have it done, if it is not under way, without waiting for it."""
        if key not in self._flights:
            flight = self._flights[key] = spawn(_caught(work), self._name)
            flight.add_done_callback(lambda _: self._flights.pop(key, None))

    async def do(self, key: Key, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """What comes of it. Raises what it raises, or FetchError when this is closed meanwhile, or has too much to do."""
        if len(self._flights) >= MOST_AT_ONCE and key not in self._flights:
            raise FetchError(f"{MOST_AT_ONCE} other questions are under way")
        self.start(key, work)
        flight = self._flights[key]
        try:
            result = await asyncio.shield(flight)
        except asyncio.CancelledError:
            if flight.cancelled():
                raise FetchError("given up: these settings are no longer in force") from None
            raise
        if isinstance(result, _Failed):
            raise result.error.with_traceback(None)
        return result

    async def aclose(self) -> None:
        """Give up what is under way."""
        await stop(*self._flights.values())


@dataclass(frozen=True, slots=True)
class _Failed:
    error: Exception


async def _caught(work: Callable[[], Coroutine[Any, Any, Result]]) -> Result | _Failed:
    """A failure as a value: whoever waits is told; that nobody does is no crash of a task."""
    try:
        return await work()
    except Exception as error:  # noqa: BLE001 - raised again, in `do`
        return _Failed(error)
