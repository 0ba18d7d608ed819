"""Basic authentication (RFC 7617): a name and a password in every request, against a file of htpasswd's.

Rules of this file: no hash is computed on the loop, nor for an address that has failed too often. Whether a name is in the
file can not be told by time: for a name that is not, somebody's hash is computed, always the same one's for the same name.
A password is taken as a whole or not at all: one with a control character in it is malformed (NUL above all: bcrypt repeats
a password behind a NUL, so that `a` NUL `a` would be `a`), and one that is longer than bcrypt looks is wrong. Who was
verified is known for five minutes without another slow hash, by a keyed hash of what was sent; what is remembered goes
when the file changes.
"""

from __future__ import annotations

import asyncio
import binascii
import re
import secrets
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar

from multidict import istr

from gateway import errors
from gateway.auth import Taken
from gateway.auth.attempts import limiter
from gateway.auth.describing import Describing
from gateway.auth.files import Credentials
from gateway.auth.hashing import Verifier, busy
from gateway.config.htpasswd import Entry, read_htpasswd

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from gateway.auth import Tools
    from gateway.config import model
    from gateway.exchange import Exchange
    from gateway.identity import Identity

LONGEST = 1024
"""Bytes of a name, and of a password."""
KEPT = 300.0
"""Seconds for which a credential that was verified is known."""
ROOM = 10_000
"""Credentials that are known; 3 MB when full."""
ROOM_WRONG = 1_000
"""Credentials that are known to be wrong: who repeats one costs nothing."""
_ENCODED = -(-(2 * LONGEST + 1) // 3) * 4

T = TypeVar("T")

_SCHEME = ("basic", "basic ")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_NOTHING: list[str] = []
_AUTHORIZATION = istr("Authorization")


class Basic:
    """One policy."""

    def __init__(self, name: str, settings: model.Basic, tools: Tools) -> None:
        """Raises ValueError with every mistake in the file, OSError if there is none."""
        self.name = name
        self.challenge = f'Basic realm="{_quoted(settings.realm)}", charset="UTF-8"'
        self.taken = Taken(headers=frozenset((b"authorization",)))
        self._describing = Describing(name, settings)
        self.forwarded = self._describing.forwarded
        self._now = tools.clock.now
        self._attempts = limiter(settings.attempts, tools.clock)
        self._refused: Mapping[str, float] = (
            {} if self._attempts is None else self._attempts.refused
        )
        self._secret = secrets.token_bytes(32)
        self._users: dict[str, Entry] = {}
        self._decoys: tuple[Entry, ...] = ()
        self._known: dict[bytes, tuple[Identity, float]] = {}
        """Keyed hash of a credential → who that is, and monotonic seconds until which it is known."""
        self._wrong: dict[bytes, float] = {}
        self._under_way: dict[bytes, asyncio.Future[bool]] = {}
        """Keyed hash of a credential → its verification, for all who bring it meanwhile."""
        self.verifier = Verifier()
        self._file = Credentials(name, settings.htpasswd, read_htpasswd, self._take, tools)

    def __repr__(self) -> str:
        return f"<Basic {self.name}: {len(self._users)} users, {len(self._known)} known>"

    def _take(self, users: dict[str, Entry]) -> str:
        self._users = users
        self._decoys = tuple(users.values())
        self._known, self._wrong, self._under_way = {}, {}, {}
        return f"{len(users)} user{'' if len(users) == 1 else 's'}"

    # ── at once ──

    def authenticate(self, exchange: Exchange) -> Identity | Coroutine[None, None, Identity] | None:
        """Who that is: at once if it was verified of late. None: there is no such field.

        Raises errors.Unauthenticated, errors.RateLimited for an address that has failed too often, and
        errors.AuthUnavailable if too many passwords wait to be verified; so does what is returned.
        """
        fields = exchange.headers.getall(_AUTHORIZATION, _NOTHING)
        if not fields or not _is_basic(fields):
            return None
        if self._refused and self._attempts is not None:
            self._attempts.check(exchange.client_ip)
        mark = _keyed(self._secret, fields[0].encode("utf-8", "surrogateescape"))
        known = self._known.get(mark)
        if known is None or len(fields) > 1:
            return self._slowly(exchange.client_ip, fields, mark)
        identity, until = known
        if self._now() < until:
            return identity
        del self._known[mark]
        return self._slowly(exchange.client_ip, fields, mark)

    # ── in a thread ──

    def _slowly(
        self, client_ip: str, fields: list[str], mark: bytes
    ) -> Coroutine[None, None, Identity]:
        try:
            user, password = credentials(fields)
        except ValueError as error:
            if self._attempts is not None:
                self._attempts.failed(client_ip, mark)
            raise errors.Unauthenticated(str(error), outcome="malformed") from None
        if self._wrong.get(mark, 0.0) > self._now():
            raise _wrong()
        future = self._under_way.get(mark) or self._begin(client_ip, user, password, mark)
        return self._outcome(user, mark, future)

    def _begin(
        self, client_ip: str, user: str, password: bytes, mark: bytes
    ) -> asyncio.Future[bool]:
        verify = self._verification(user)
        attempts = self._attempts
        address = "" if attempts is None else attempts.begin(client_ip)
        try:
            future = self.verifier.run(verify, password)
        except errors.AuthUnavailable:
            if attempts is not None:
                attempts.end(address, failed=None)
            raise
        users = self._users
        self._under_way[mark] = future

        def ended(future: asyncio.Future[bool]) -> None:
            """Before any who wait for it."""
            whole = not future.cancelled() and future.exception() is None
            good = future.result() if whole else None
            if attempts is not None:
                attempts.end(address, failed=None if good is None else not good)
            if users is self._users:  # else the file has changed, and with it all that was known
                del self._under_way[mark]
                if good is not None:
                    self._remember(mark, user, good=good)

        future.add_done_callback(ended)
        return future

    def _verification(self, user: str) -> Callable[[bytes], bool]:
        """What verifies a password of `user`, who may not exist. Raises errors.Unauthenticated if nobody does."""
        entry = self._users.get(user)
        if entry is not None:
            return entry.verify
        if not self._decoys:
            raise _wrong()
        drawn = _keyed(self._secret, user.encode())
        decoy = self._decoys[int.from_bytes(drawn[:8], "big") % len(self._decoys)]

        def never(password: bytes) -> bool:
            decoy.verify(password)
            return False

        return never

    def _remember(self, mark: bytes, user: str, *, good: bool) -> None:
        until = self._now() + KEPT
        if good:
            _bounded(self._known, ROOM)[mark] = (self._identity(user), until)
        else:
            _bounded(self._wrong, ROOM_WRONG)[mark] = until

    def _identity(self, user: str) -> Identity:
        return self._describing.identity(user, {"sub": user})

    async def _outcome(self, user: str, mark: bytes, future: asyncio.Future[bool]) -> Identity:
        try:
            good = await asyncio.shield(future)  # others may wait for it, and it counts in any case
        except asyncio.CancelledError:
            if future.cancelled():  # the policy was closed
                raise busy() from None
            raise
        if not good:
            raise _wrong()
        known = self._known.get(mark)
        return self._identity(user) if known is None else known[0]

    # ── for a configuration's tests ──

    def rehearse(self, exchange: Exchange) -> Identity | None:
        """The same in this thread, without limits, and with nothing remembered."""
        fields = exchange.headers.getall(_AUTHORIZATION, _NOTHING)
        if not fields or not _is_basic(fields):
            return None
        try:
            user, password = credentials(fields)
        except ValueError as error:
            raise errors.Unauthenticated(str(error), outcome="malformed") from None
        if not self._verification(user)(password):
            raise _wrong()
        return self._identity(user)

    async def aclose(self) -> None:
        """Watch the file no longer, and end the threads."""
        await self._file.aclose()
        await self.verifier.aclose()


def make(name: str, settings: model.Basic, tools: Tools) -> Basic:
    """The policy `name`. Raises ValueError or OSError for its file."""
    return Basic(name, settings, tools)


def credentials(fields: list[str]) -> tuple[str, bytes]:
    """Name and password, UTF-8, of the `Authorization` fields. Raises ValueError, which says why, for operators.

    What is not UTF-8 is read as Latin-1, which browsers sent before RFC 7617.
    """
    if len(fields) != 1:
        raise ValueError("more than one Authorization field")
    token = fields[0][6:].strip(" ")
    if len(token) > _ENCODED:
        raise ValueError("a name or password that is too long")
    try:
        raw = binascii.a2b_base64(token.encode("ascii"), strict_mode=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("no base64") from None
    if _CONTROL.search(raw):
        raise ValueError("a control character in a name or password")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    user, colon, password = text.partition(":")
    if not colon:
        raise ValueError("no colon between name and password")
    secret = password.encode()
    if len(secret) > LONGEST or len(user.encode()) > LONGEST:
        raise ValueError("a name or password that is too long")
    return user, secret


def _is_basic(fields: list[str]) -> bool:
    """Whether one of the `Authorization` fields is ours; then the others are our business, too."""
    return fields[0][:6].lower() in _SCHEME or any(
        field[:6].lower() in _SCHEME for field in fields[1:]
    )


def _keyed(secret: bytes, content: bytes) -> bytes:
    """BLAKE2b with a key (RFC 7693) is as good as an HMAC, and twice as fast."""
    return blake2b(content, key=secret, digest_size=32).digest()


def _bounded(table: dict[bytes, T], room: int) -> dict[bytes, T]:
    """The table, with room for one more."""
    while len(table) >= room:
        del table[next(iter(table))]
    return table


def _wrong() -> errors.Unauthenticated:
    """The same for a name that is not in the file as for a wrong password: pages may show it."""
    return errors.Unauthenticated("wrong name or password", outcome="unknown_key")


def _quoted(text: str) -> str:
    """As it stands in a quoted-string (RFC 9110 section 5.6.4)."""
    return text.replace("\\", "\\\\").replace('"', '\\"')
