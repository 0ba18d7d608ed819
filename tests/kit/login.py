"""What a login needs in a test: providers, and a browser that keeps cookies.

Rules of this file: two providers, each on a real socket. `program` runs oidc-provider-mock, which other people have written.
`Provider` asks its users nothing, checks all that a strict provider would, and lies as it is told to. The Browser follows
redirects by itself only when it is told to, and shows each step.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote_plus, urlencode

import aiohttp
from aiohttp import web
from yarl import URL

from gateway.tasks import spawn
from tests.kit.issuer import Issuer
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

CLIENT, SECRET = "web", "s3cr:et of & the client"
NAVIGATION = {
    "Accept": "text/html,application/xhtml+xml,*/*;q=0.8",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
}


@dataclass
class Answer:
    """One answer, read whole."""

    status: int
    headers: Any
    body: bytes
    url: URL

    @property
    def location(self) -> URL:
        """Where it leads, made absolute."""
        return self.url.join(URL(self.headers["Location"], encoded=True))

    @property
    def cookies(self) -> dict[str, str]:
        """Name → the whole `Set-Cookie`."""
        lines = self.headers.getall("Set-Cookie", [])
        return {line.partition("=")[0]: line for line in lines}


class Browser:
    """Keeps cookies, for hosts that are addresses too. Use it as `async with`."""

    def __init__(self) -> None:
        self.session = aiohttp.ClientSession(
            cookie_jar=aiohttp.CookieJar(unsafe=True, quote_cookie=False),
            connector=aiohttp.TCPConnector(force_close=True),
            timeout=aiohttp.ClientTimeout(total=PATIENCE),
        )

    async def __aenter__(self) -> Browser:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def ask(
        self,
        url: str | URL,
        method: str = "GET",
        *,
        form: Mapping[str, str] | None = None,
        **headers: str,
    ) -> Answer:
        """One request; `X_Y="…"` adds or replaces a field, and redirects are shown, not followed."""
        fields = NAVIGATION | {name.replace("_", "-"): value for name, value in headers.items()}
        where = URL(url, encoded=True) if isinstance(url, str) else url
        async with self.session.request(
            method, where, headers=fields, data=form, allow_redirects=False
        ) as response:
            return Answer(response.status, response.headers, await response.read(), response.url)

    async def go(self, url: str | URL, **headers: str) -> Answer:
        """A navigation, redirects followed."""
        answer = await self.ask(url, **headers)
        for _ in range(10):
            if answer.status not in (301, 302, 303, 307, 308):
                return answer
            answer = await self.ask(answer.location, **headers)
        raise AssertionError(f"led in circles: {answer.url}")

    def cookies(self, url: str | URL) -> dict[str, str]:
        """Name → value of those that it would send there."""
        return {
            name: one.value
            for name, one in self.session.cookie_jar.filter_cookies(URL(url)).items()
        }

    def put(self, url: str | URL, **cookies: str) -> None:
        """Cookies that somebody has planted."""
        self.session.cookie_jar.update_cookies(cookies, URL(url))


@dataclass
class Grant:
    """What a code is worth."""

    asked: dict[str, str]
    """The parameters of the authorization request."""
    user: str


class Provider(Issuer):
    """An OpenID provider whose users are logged in already. Use it as `async with`."""

    def __init__(self, clock: Any = None) -> None:
        super().__init__(clock)
        self.user = "ann"
        """Who sits in front of the browser."""
        self.about: dict[str, Any] = {"email": "ann@example.com", "groups": ["ops"]}
        """Further claims."""
        self.lies: dict[str, Any] = {}
        """Claims of ID tokens that are other than they should be; None: left out."""
        self.adds: dict[str, str] = {}
        """Further parameters of what the browser is sent back with."""
        self.grants: dict[str, Grant] = {}
        self.redeemed: list[dict[str, str]] = []
        """The forms that were posted to the token endpoint."""
        self.refusals: list[str] = []
        """Why a code was not redeemed."""
        self.tokens: dict[str, Any] = {}
        """Members of the token endpoint's answer that are other than they should be."""
        self._codes = 0

    async def start(self) -> None:
        """Listen."""
        await super().start()
        self.announces = {
            "authorization_endpoint": f"{self.url}authorize",
            "token_endpoint": f"{self.url}token",
            "end_session_endpoint": f"{self.url}end",
            **self.announces,
        }

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/authorize" and request.path not in self.answers:
            self.asked["/authorize"] = self.asked.get("/authorize", 0) + 1
            return self._authorize(dict(request.query))
        if request.path == "/token" and request.path not in self.answers:
            self.asked["/token"] = self.asked.get("/token", 0) + 1
            form = dict(parse_qsl((await request.read()).decode()))
            await self.gate.wait()
            return self._redeem(request, form)
        return await super()._answer(request)

    def code(self, asked: dict[str, str], user: str = "") -> str:
        """A code for an authorization request, whoever has made it."""
        self._codes += 1
        code = f"code {self._codes} &=?"
        self.grants[code] = Grant(asked, user or self.user)
        return code

    def _authorize(self, asked: dict[str, str]) -> web.Response:
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert "openid" in asked["scope"].split()
        assert len(asked["nonce"]) >= 32
        assert asked["client_id"] == CLIENT
        back = {"code": self.code(asked), "state": asked["state"], **self.adds}
        query = urlencode({name: value for name, value in back.items() if value})
        return web.Response(status=302, headers={"Location": f"{asked['redirect_uri']}?{query}"})

    def _redeem(self, request: web.Request, form: dict[str, str]) -> web.Response:
        self.redeemed.append(form)
        problem = self._problem(request, form)
        if problem:
            self.refusals.append(problem)
            return web.json_response({"error": "invalid_grant"}, status=400)
        grant = self.grants.pop(form["code"])
        access = "an access token"
        half = hashlib.sha256(access.encode()).digest()[:16]
        claims = {
            "aud": CLIENT,
            "sub": grant.user,
            "nonce": grant.asked["nonce"],
            "at_hash": base64.urlsafe_b64encode(half).decode().rstrip("="),
            **self.about,
            **self.lies,
        }
        answer = {"token_type": "Bearer", "access_token": access, "id_token": self.sign(**claims)}
        return web.json_response({**answer, **self.tokens})

    def _problem(self, request: web.Request, form: dict[str, str]) -> str:
        """What is wrong with a request for tokens (RFC 6749 section 4.1.3, RFC 7636 section 4.6)."""
        kind, _, pair = request.headers.get("Authorization", "").partition(" ")
        name, _, word = base64.b64decode(pair).decode().partition(":")
        if (kind, unquote_plus(name), unquote_plus(word)) != ("Basic", CLIENT, SECRET):
            return "the client's secret"
        grant = self.grants.get(form.get("code", ""))
        if grant is None:
            return "the code"
        if form.get("redirect_uri") != grant.asked["redirect_uri"]:
            return "redirect_uri"
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if base64.urlsafe_b64encode(digest).decode().rstrip("=") != grant.asked["code_challenge"]:
            return "code_verifier"
        return "" if form.get("grant_type") == "authorization_code" else "grant_type"


@dataclass
class Program:
    """oidc-provider-mock, running."""

    url: str
    lines: list[str] = field(default_factory=list)
    """Its log."""


@asynccontextmanager
async def program(*arguments: str) -> AsyncIterator[Program]:
    """Run oidc-provider-mock on a port of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "oidc_provider_mock", "-p", "0", "--require-nonce", "true", *arguments,
        stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stderr is not None
    made = Program("")
    ready = asyncio.Event()

    async def read() -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            made.lines.append(line.decode())
            found = re.search(r"running on (http://127\.0\.0\.1:[0-9]+)", line.decode())
            if found:
                made.url = found[1]
                ready.set()

    reading = spawn(read(), "what the provider says")
    try:
        async with asyncio.timeout(3 * PATIENCE):
            await ready.wait()
        yield made
    finally:
        process.terminate()
        await process.wait()
        await reading
