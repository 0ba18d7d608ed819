"""What never stands in a log.

Rules of this file: pure functions from text to text. Credentials are masked without being asked
for: by header name, by query parameter name. `fields.mask` adds names to the built-in ones, it can
not take one away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MASK = "***"
HEADERS = frozenset(
    (
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "x-api-key",
        "api-key",
        "apikey",
        "x-auth-token",
    )
)
QUERY = frozenset(
    (
        "access_token",
        "refresh_token",
        "id_token",
        "token",
        "api_key",
        "apikey",
        "api-key",
        "x-api-key",
        "client_secret",
        "secret",
        "password",
    )
)


class Masks:
    """Which headers, cookies and query parameters are secret: the built-in ones and those of
    `fields.mask`.
    """

    def __init__(self, wanted: Iterable[str] = ()) -> None:
        """`wanted`: words such as header.x-token, cookie.sid, query.sig. Raises ValueError for any
        other form.
        """
        self.names: dict[str, set[str]] = {
            "header": set(HEADERS),
            "cookie": set(),
            "query": set(QUERY),
        }
        for word in wanted:
            kind, dot, name = word.partition(".")
            if not dot or not name or kind not in self.names:
                raise ValueError(f"{word!r}: write header.NAME, cookie.NAME or query.NAME")
            self.names[kind].add(name.lower())
        self.query = _query_masker(frozenset(self.names["query"]))
        """Masks the values of secret parameters in a raw query."""

    def hides(self, placeholder: str) -> bool:
        """Whether `header.x`, `cookie.y` or `query.z` is secret. Header names are case-blind, and
        so is this.
        """
        kind, _, name = placeholder.partition(".")
        return name.lower() in self.names.get(kind, ())

    def url(self, url: str) -> str:
        """A URL with the secrets of its query masked: a Referer holds that of the page before."""
        base, mark, query = url.partition("?")
        return base + mark + self.query(query) if mark else url


def _query_masker(names: frozenset[str]) -> Callable[[str], str]:
    def masked(pair: str) -> str:
        # Decoded, since a name may be written `%74oken`, and the upstream reads it as `token`.
        name, equals, _ = pair.partition("=")
        return f"{name}={MASK}" if equals and unquote_plus(name).lower() in names else pair

    def mask(query: str) -> str:
        pairs = query.split("&")
        if "%" not in query and ";" not in query and "+" not in query:
            for pair in pairs:
                if pair.partition("=")[0].lower() in names:
                    break
            else:
                return query  # nearly every request
        # Some servers take `;` for a separator too.
        return "&".join([";".join([masked(part) for part in pair.split(";")]) for pair in pairs])

    return mask
