"""Where keys come from, and when they are looked at again.

Rules of this file: keys come from where the configuration says, never from a token. Those that were good once stay until
others are: an issuer that is down locks nobody out. However many tokens name unknown keys, the issuer is asked once in a
while. Nobody waits for a refresh, except where there are no keys yet, where a token names an unknown one, or where those
that there are have not been looked at for long because nothing was asked for. Time is the Clock's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

from yarl import URL

from gateway import errors
from gateway.auth import documents
from gateway.auth.fetch import LARGEST, Fetch, FetchError, Single, refused, shown
from gateway.auth.keys import Ring, read
from gateway.files import Unreadable, Watched

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.auth import Tools
    from gateway.auth.keys import Key
    from gateway.clock import Clock

WELL_KNOWN = ".well-known/openid-configuration"
COOL_DOWN = 10.0
"""Seconds between two questions that unknown keys give rise to, and the longest pause after a failure."""
LOOK = 2.0
"""Seconds between two looks at the stamp of a file."""


class Source(Protocol):
    """Where a JWKS is."""

    what: str
    """For people."""

    async def load(self) -> dict[str, Any] | None:
        """The document; None: it has not changed. Raises FetchError, or ValueError."""

    async def aclose(self) -> None:
        """Give up what it holds."""


class Web:
    """A JWKS at a URL, or where an issuer's discovery document says."""

    def __init__(self, fetch: Fetch, *, url: str | None = None, issuer: str = "") -> None:
        """`url` of the JWKS; None: as `issuer` announces."""
        self._fetch = fetch
        self._url = url
        self._issuer = issuer
        self.what = shown(URL(url or well_known(issuer)))

    async def load(self) -> dict[str, Any]:
        """Fetch it. Raises FetchError."""
        if self._url is not None:
            return await self._fetch.document(self._url)
        async with self._fetch.limit(f"{self.what}: "):  # of both together
            document = await discover(self._fetch, self._issuer)
            return await self._fetch.document(announced(document, "jwks_uri", self._issuer))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._fetch.aclose()


class File:
    """A JWKS in a file, which is read again when it has changed."""

    def __init__(self, path: str, clock: Clock) -> None:
        self._file = Watched(path, _document, clock, most=LARGEST)
        self.what = path

    def first(self) -> dict[str, Any]:
        """Read it now. Raises ValueError."""
        try:
            return self._file.first()
        except Unreadable as error:
            raise ValueError(f"{self.what}: {error}") from None

    async def load(self) -> dict[str, Any] | None:
        """Read it, off the loop, if it has changed. Raises ValueError, once for each state of the file."""
        try:
            return await self._file.look()
        except Unreadable as error:
            raise ValueError(f"{self.what}: {error}") from None

    async def aclose(self) -> None:
        """Nothing is held."""


def _document(content: bytes) -> dict[str, Any]:
    try:
        return documents.read(content)
    except documents.BadDocument as error:
        raise Unreadable(str(error)) from None


def well_known(issuer: str) -> str:
    """Where an issuer says what it has (OpenID Connect Discovery 1.0 section 4)."""
    return issuer.rstrip("/") + "/" + WELL_KNOWN


async def discover(fetch: Fetch, issuer: str) -> dict[str, Any]:
    """What `issuer` announces. Raises FetchError, also if it is somebody else's document (section 4.3 there)."""
    where = well_known(issuer)
    document = await fetch.document(where)
    if document.get("issuer") != issuer:
        raise FetchError(
            f"{shown(URL(where))}: it is the document of another issuer: "
            f"{str(document.get('issuer'))[:120]!r}, not {issuer!r}"
        )
    return document


def announced(document: dict[str, Any], name: str, issuer: str) -> str:
    """The URL that a discovery document gives as `name`. Raises FetchError for one that may not be asked."""
    url = document.get(name)
    where = shown(URL(well_known(issuer)))
    if not isinstance(url, str):
        raise FetchError(f"{where}: it names no {name}")
    try:
        problem = refused(URL(url), beside=URL(issuer))
    except ValueError:
        problem = "it is no URL"
    if problem is not None:
        raise FetchError(f"{where}: its {name} is not to be used: {problem}")
    return url


class Keys:
    """The keys of one policy, as its source says."""

    def __init__(
        self, policy: str, algorithms: frozenset[str], tools: Tools, source: Source, refresh: float
    ) -> None:
        """`refresh`: seconds after which keys are looked at again."""
        self._policy = policy
        self._algorithms = algorithms
        self._clock = tools.clock
        self._meter = tools.meter
        self._events = tools.events
        self._source = source
        self._refresh = refresh
        self._cool_down = min(COOL_DOWN, refresh)
        self._single: Single[None, None] = Single(f"keys of {policy}")
        self._failures = 0
        self._looked = -math.inf
        """Monotonic seconds of the last look that went well."""
        self._again = -math.inf
        """Nothing is asked before that, whatever tokens say."""
        self.ring = Ring()
        self.problem: str | None = None
        """Why the last look has failed; None: all is well."""

    def __repr__(self) -> str:
        return f"<Keys {self._source.what}: {len(self.ring)}, {self.problem or 'well'}>"

    def age(self) -> float:
        """Seconds since they were looked at."""
        return self._clock.now() - self._looked

    def take(self, document: dict[str, Any]) -> None:
        """From now on these are the keys. Raises ValueError if there is none among them that can be used."""
        try:
            keys, problems = read(document, self._algorithms)
        except ValueError as error:
            raise ValueError(f"{self._source.what}: {error}") from None
        if not keys:
            told = "; ".join(["it holds no key that can be used", *problems[:3]])
            raise ValueError(f"{self._source.what}: {told}")
        self.ring = self.ring.replaced(keys)

    def find(self, kid: str | None, alg: str) -> tuple[Key, ...] | None:
        """Those that may have signed a token, at once; None: `wait` for them. Begins a refresh that is due. Needs a loop."""
        now = self._clock.now()
        age = now - self._looked
        may_ask = now >= self._again
        if age >= self._refresh:
            if may_ask:
                self._single.start(None, self._look)
            if age >= 2 * self._refresh and self.problem is None:
                return None  # nothing was asked for long: whether they still count is to be known first
        found = self.ring.find(kid, alg)
        if found is None:
            if may_ask or len(self._single):
                return None
            return self._unknown()
        return found

    async def wait(self, kid: str | None, alg: str) -> tuple[Key, ...]:
        """The same, after a look. Raises errors.AuthUnavailable if there are none, and nobody can say whether there are."""
        try:
            if len(self._single) or self._clock.now() >= self._again:
                await self._single.do(None, self._look)
        except FetchError as error:
            raise errors.AuthUnavailable(f"policy {self._policy}: {error}") from None
        found = self.ring.find(kid, alg)
        return self._unknown() if found is None else found

    def _unknown(self) -> tuple[Key, ...]:
        if self.problem is None:
            return ()
        raise errors.AuthUnavailable(
            f"policy {self._policy}: its keys are not known: {self.problem}"
        )

    async def aclose(self) -> None:
        """Look no more."""
        await self._single.aclose()
        await self._source.aclose()
        if self._meter.keys_age == self.age:
            self._meter.keys_age = None

    async def _look(self) -> None:
        """Look once. Never fails: what is wrong is in `problem`."""
        try:
            document = await self._source.load()
            if document is None:
                self._unchanged()
                return
            self.take(document)
        except (FetchError, ValueError) as error:
            self._failed(str(error))
            return
        self._meter.refreshes["success"] += 1
        self.looked()
        if self.problem is not None:
            self.problem = None
            self._record("jwks_recovered", f"{self._source.what}: {_number(len(self.ring))}")

    def looked(self) -> None:
        """They are as their source has them now."""
        now = self._clock.now()
        self._failures = 0
        self._looked = now
        self._again = now + self._cool_down
        self._meter.keys_age = self.age

    def _unchanged(self) -> None:
        """A file is what it was: good, or what was wrong with it."""
        if self.problem is None:
            self.looked()
        else:
            self._again = self._clock.now() + self._cool_down

    def _failed(self, why: str) -> None:
        self._meter.refreshes["failure"] += 1
        pause = min(self._cool_down, 2.0 ** min(self._failures, 10))
        self._failures += 1
        self._again = self._clock.now() + pause
        kept = len(self.ring)
        problem = f"{why}; {f'keeping {_number(kept)}' if kept else 'no keys yet'}"
        if problem != self.problem:
            self.problem = problem
            self._record("jwks_failed", problem)

    def _record(self, kind: Any, why: str) -> None:
        self._events.record(kind, why=f"policy {self._policy}: {why}")


def _number(count: int) -> str:
    return "1 key" if count == 1 else f"{count} keys"


class Fixed:
    """Keys that never change: secrets."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.ring = Ring(keys)

    def find(self, kid: str | None, alg: str) -> tuple[Key, ...]:
        """Those that may have signed a token."""
        return self.ring.find(kid, alg) or ()

    async def wait(self, kid: str | None, alg: str) -> tuple[Key, ...]:
        """The same."""
        return self.find(kid, alg)

    async def aclose(self) -> None:
        """Nothing is held."""
