"""`oidc`: a login at an OpenID provider, and from then on a cookie.

Rules of this file: authorization code with PKCE S256, state and nonce, always (OpenID Connect Core 1.0 section 3.1, RFC
7636, RFC 9700). A login is begun for a navigation only; whatever else comes without a session is told 401. What a login
needs to remember is sealed in a cookie of the browser that began it, so that nobody ends it in another's name: its answer
counts once, within ten minutes, in that browser. After it the browser goes to where it was bound for, on the same host.
A session lasts for `max_age` from the login on, and is not prolonged by use: then the provider is asked again, which most
of the time does not ask the user. While the provider does not answer, sessions go on and logins are 503.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import random
import re
import secrets
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from gateway import errors
from gateway.auth import Taken
from gateway.auth.describing import Describing, words
from gateway.auth.provider import Provider
from gateway.auth.session import Cookie, Seal, Sessions, TooLarge
from gateway.auth.telling import Telling
from gateway.exchange import Reply
from gateway.routing.match import cookie_values, query_values

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from gateway.auth import Tools, Verdict
    from gateway.config import model
    from gateway.exchange import Exchange
    from gateway.identity import Identity

LOGIN = 600.0
"""Seconds that a user has for a login."""
AT_ONCE = 8
"""Logins that one browser may have under way: each has one of so many cookies."""
LONGEST_PATH = 512
"""Characters of the address to come back to; a longer one is forgotten for `/`."""
REMEMBERED = 2048
"""Sessions whose cookies are not opened again."""
_CANDIDATES = 4
"""Cookies of one name that are looked at: a neighbour's host may have planted some."""
_OF_THE_PROTOCOL = frozenset(
    ("iss", "aud", "azp", "exp", "iat", "nbf", "jti", "nonce", "at_hash", "c_hash", "s_hash")
)
"""Claims that say nothing of the user: a cookie has little room."""
_PLAIN = re.compile(r"/(?:[!-.0-\[\]-~][!-~]*)?")
"""A path that a browser can not take for a host: neither `//` nor `/\\` begins it (URL Standard section 4.4)."""
_CLAIM = re.compile(r"\{claim\.([a-z_.0-9-]+)")
_WORD = re.compile(r"[a-z_]{1,64}")
_KEPT = "!#$%&'()*+,/:;=?@[]~"
_PAGE = (
    b'<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=%b">'
    b"<title>Logged in</title>\n"
)
_LATER = b"Cache-Control: no-store\r\n", b"Referrer-Policy: no-referrer\r\n"


def make(name: str, settings: model.Oidc, tools: Tools) -> Oidc:
    """The policy `name`. Raises ValueError without `server.secret`."""
    return Oidc(name, settings, tools)


class Oidc:
    """One provider, for one client of it."""

    challenge = 'Cookie realm="gateway"'
    """No scheme is registered for cookies, and a 401 must name one (RFC 9110 section 15.5.2): browsers pass over it."""

    def __init__(self, name: str, settings: model.Oidc, tools: Tools) -> None:
        self.name = name
        self._settings = settings
        self._meter = tools.meter
        self._clock = tools.clock
        self._describing = Describing(name, settings)
        self.forwarded = self._describing.forwarded
        # Who logs in elsewhere, or as another client, is somebody else.
        whose = (name, settings.issuer, settings.client_id)
        session = settings.session
        self._sessions = Sessions(
            tools.secrets,
            tools.clock,
            *whose,
            cookie=session.cookie,
            max_age=session.max_age,
            same_site=session.same_site,
        )
        self._wanted = None if session.claims is None else _wanted(session.claims, settings)
        self._states = Seal(tools.secrets, tools.clock, "state", *whose)
        self._logins = Seal(tools.secrets, tools.clock, "login", *whose)
        self._slots = tuple(Cookie(f"{session.cookie}_login_{n}") for n in range(AT_ONCE))
        cookies = (self._sessions.cookie, *self._slots)
        self.taken = Taken(cookies=frozenset().union(*(each.names for each in cookies)))
        self._names = {each: self._sessions.cookie.called(secure=each) for each in (True, False)}
        self._known: dict[bytes, Identity] = {}
        self._provider = Provider(name, settings, tools)
        self._telling = Telling(name, "login_failed", tools)

    # ── requests for what is guarded ──

    def authenticate(self, exchange: Exchange) -> Verdict:
        """Whose session it is; None without one that counts."""
        return self.rehearse(exchange)

    def rehearse(self, exchange: Exchange) -> Identity | None:
        """The same: no network is needed."""
        name = self._names[exchange.scheme == "https"]
        for value in cookie_values(exchange.headers, name)[:_CANDIDATES]:
            identity = self._identity(value)
            if identity is not None:
                return identity
        return None

    def invite(self, exchange: Exchange) -> Awaitable[Reply] | None:
        """The way to the provider, for a user who goes somewhere; None for any other request."""
        return self._begin(exchange) if navigates(exchange) else None

    def _identity(self, value: str) -> Identity | None:
        digest = hashlib.sha256(value.encode("utf-8", "surrogateescape")).digest()
        identity = self._known.get(digest)
        if identity is None:
            session = self._sessions.open(value)
            if session is None:
                return None
            identity = self._describing.identity(
                str(session.claims.get("sub", "")),
                session.claims,
                scopes=words(session.claims.get("scope")),
                expires=session.expires,
            )
            if len(self._known) >= REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[digest] = identity
        elif identity.expires <= self._clock.wall():
            del self._known[digest]
            return None
        return identity

    # ── logging in ──

    async def _begin(self, exchange: Exchange) -> Reply:
        """Send the browser to the provider (Core 1.0 section 3.1.2.1)."""
        try:
            where = await self._provider.metadata()
        except errors.AuthUnavailable as error:
            raise self._noted(error) from None
        secure = exchange.scheme == "https"
        word, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        redirect = self._own(exchange, self._settings.callback)
        login = {"w": word, "n": nonce, "v": verifier, "r": redirect}
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode("ascii")).digest())
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self._settings.client_id,
                "redirect_uri": redirect,
                "scope": " ".join(self._settings.scopes),
                "state": self._states.close([word, back_to(exchange.target)]),
                "nonce": nonce,
                "code_challenge": challenge.decode("ascii").rstrip("="),
                "code_challenge_method": "S256",
            }
        )
        slot = self._free(exchange, secure=secure)
        return _redirect(
            where.authorization + ("&" if "?" in where.authorization else "?") + query,
            slot.line(self._logins.close(login), LOGIN, secure=secure),
        )

    def _free(self, exchange: Exchange, *, secure: bool) -> Cookie:
        """A cookie that this browser's other logins do not use; by chance, for tabs that open at once."""
        free = [
            slot
            for slot in self._slots
            if not cookie_values(exchange.headers, slot.called(secure=secure))
        ]
        return random.choice(free or self._slots)  # noqa: S311 - nothing hangs on it

    async def callback(self, exchange: Exchange) -> Reply:
        """The provider has sent the browser back (Core 1.0 section 3.1.2.5). Raises errors.GatewayError."""
        try:
            return await self._end(exchange)
        except errors.Unauthenticated as error:
            self._meter.outcomes[error.outcome] += 1
            raise
        except errors.Forbidden:
            self._meter.outcomes["forbidden"] += 1
            raise

    async def _end(self, exchange: Exchange) -> Reply:
        secure = exchange.scheme == "https"
        given = {name: _single(exchange.query, name) for name in ("state", "code", "error", "iss")}
        exchange.query, exchange.target = "", exchange.path  # no log needs a code
        held = self._states.open(given["state"], LOGIN)
        if held is None:
            raise errors.Unauthenticated(
                "the login was not begun here, or too long ago", outcome="malformed"
            )
        word, back = held
        slot, login = self._login(exchange, word, secure=secure)
        if login is None:
            if self.rehearse(exchange) is None and not self._login_cookies(exchange, secure=secure):
                raise errors.Unauthenticated(
                    "the browser has not brought the cookie of its login: it was begun in another "
                    "one, has ended already, or cookies are off",
                    outcome="malformed",
                )
            # Another login of the same browser took its place, or it has ended: begin anew from where it was bound for.
            return _redirect(back)
        over = slot.line("", 0, secure=secure)
        try:
            claims = await self._claims(given, login)
            session = self._session_line(claims, secure=secure)
        except errors.GatewayError as error:
            error.headers += (("Set-Cookie", over.decode("ascii")[12:-2]),)
            raise self._noted(error) from None
        if self._settings.session.same_site == "strict":
            return _page(back, over, session)
        return _redirect(back, over, session)

    def _noted(self, error: errors.GatewayError) -> errors.GatewayError:
        """Tell the operator of a login that was under way."""
        if isinstance(error, errors.AuthUnavailable):
            self._meter.outcomes["provider_error"] += 1
        self._telling.tell(error.detail)
        return error

    def _login(
        self, exchange: Exchange, word: str, *, secure: bool
    ) -> tuple[Cookie, dict[str, str] | None]:
        """(cookie, what it holds) of the login that a state is of; None: this browser has not begun it."""
        for slot in self._slots:
            for value in cookie_values(exchange.headers, slot.called(secure=secure))[:_CANDIDATES]:
                login = self._logins.open(value, LOGIN)
                if login is not None and hmac.compare_digest(login["w"], word):
                    return slot, login
        return self._slots[0], None

    def _login_cookies(self, exchange: Exchange, *, secure: bool) -> bool:
        """Whether there are any: so cookies do come."""
        return any(
            self._logins.open(value, LOGIN) is not None
            for slot in self._slots
            for value in cookie_values(exchange.headers, slot.called(secure=secure))[:_CANDIDATES]
        )

    async def _claims(
        self, given: Mapping[str, str], login: Mapping[str, str]
    ) -> Mapping[str, Any]:
        """What the provider says of the user."""
        where = await self._provider.metadata()
        # RFC 9207: an answer of another provider than the one that was asked.
        if given["iss"] != self._settings.issuer and (given["iss"] or where.names_itself):
            raise errors.Unauthenticated("the answer is another issuer's", outcome="malformed")
        if given["error"]:
            raise _denied(given["error"])
        if not given["code"]:
            raise errors.Unauthenticated("the answer holds no code", outcome="malformed")
        tokens = await self._provider.redeem(given["code"], login["v"], login["r"])
        return await self._provider.verified(tokens, login["n"])

    def _session_line(self, claims: Mapping[str, Any], *, secure: bool) -> bytes:
        try:
            return self._sessions.line(self._kept(claims), secure=secure)
        except TooLarge as error:
            raise errors.AuthUnavailable(
                f"{error}: list in session.claims of the policy {self.name} those that are read"
            ) from None

    def _kept(self, claims: Mapping[str, Any]) -> dict[str, Any]:
        """What a session holds of them."""
        wanted = self._wanted
        if wanted is None:
            return {name: held for name, held in claims.items() if name not in _OF_THE_PROTOCOL}
        return {name: held for name, held in claims.items() if name in wanted}

    # ── logging out ──

    async def logout(self, exchange: Exchange) -> Reply:
        """End the session here and, where it can be told to, at the provider (RP-Initiated Logout 1.0 section 2)."""
        if exchange.headers.get("Sec-Fetch-Site") == "cross-site":
            raise errors.Forbidden("another site may not log a user out")
        over = self._sessions.cookie.line("", 0, secure=exchange.scheme == "https")
        after = self._settings.after_logout
        if after.startswith("/"):
            after = self._own(exchange, after)
        try:
            end = (await self._provider.metadata()).end_session
        except errors.AuthUnavailable:
            end = None  # the user wants to be out: that must not fail
        if end is None:
            return _redirect(after, over)
        query = urlencode(
            {"client_id": self._settings.client_id, "post_logout_redirect_uri": after}
        )
        return _redirect(f"{end}{'&' if '?' in end else '?'}{query}", over)

    async def aclose(self) -> None:
        """Give up what is asked of the provider."""
        await self._provider.aclose()

    @staticmethod
    def _own(exchange: Exchange, path: str) -> str:
        """The URL of a path of the host that was asked."""
        return f"{exchange.scheme}://{exchange.authority}{path}"


def navigates(exchange: Exchange) -> bool:
    """Whether a user goes to an address, in a window of its own: such a request may be led to a login.

    By Fetch Metadata where a browser tells; a prefetch, a frame or a script's request would begin logins that nobody ends.
    """
    headers = exchange.headers
    if exchange.method not in ("GET", "HEAD") or "Upgrade" in headers or not exchange.authority:
        return False
    if headers.get("Sec-Fetch-Mode", "navigate") != "navigate":
        return False
    if headers.get("Sec-Fetch-Dest", "document") != "document" or "Sec-Purpose" in headers:
        return False
    return "text/html" in headers.get("Accept", "").lower()


def back_to(target: str) -> str:
    """The path to come back to after a login: of this very host, whatever a browser makes of it."""
    if len(target) > LONGEST_PATH or not _PLAIN.fullmatch(target):
        return "/"
    return target


def _wanted(listed: tuple[str, ...], settings: model.Oidc) -> frozenset[str]:
    """Names of claims that a session keeps where `session.claims` says which: those that the policy's texts need, too."""
    texts = (settings.consumer, settings.groups, *settings.forward.values())
    named = [name for text in texts for name in _CLAIM.findall(text or "")]
    names = {"sub", *listed, *named}
    return frozenset(names | {name.partition(".")[0] for name in named})


def _single(query: str, name: str) -> str:
    """A parameter's value; empty without one. Raises errors.Unauthenticated for two (RFC 6749 section 3.1)."""
    values = query_values(query, name)
    if len(values) > 1:
        raise errors.Unauthenticated(f"{name} stands twice in the answer", outcome="malformed")
    return values[0] if values else ""


def _denied(error: str) -> errors.GatewayError:
    """What a provider's refusal means (RFC 6749 section 4.1.2.1)."""
    word = error if _WORD.fullmatch(error) else "an error that is no word"
    if word in ("server_error", "temporarily_unavailable"):
        return errors.AuthUnavailable(f"the provider says {word}")
    return errors.Forbidden(f"the provider says {word}")


def _redirect(to: str, *lines: bytes) -> Reply:
    location = b"Location: %b\r\n" % quote(to, safe=_KEPT).encode("ascii")
    return Reply(303, [location, *_LATER, *lines])


def _page(to: str, *lines: bytes) -> Reply:
    """As a redirect, but by a page of this host: a browser sends a `Strict` cookie only where one of its own leads.

    (RFC 6265bis section 5.2: a redirect from elsewhere makes the whole way cross-site.)
    """
    body = _PAGE % html.escape(to).encode("ascii")
    return Reply(200, [b"Content-Type: text/html; charset=utf-8\r\n", *_LATER, *lines], body)
