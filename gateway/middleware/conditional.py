"""What a client's conditions, range and preferences mean for a file: RFC 9110 sections 12 to 14.

Rules of this file: pure functions of header values. A field that breaks its grammar is as if it
were not there, except where that would do what the client wanted prevented: an If-Match that cannot
be read matches nothing.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from multidict import CIMultiDictProxy

_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\U0010ffff]*"')
_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*", re.ASCII | re.IGNORECASE)
_WEIGHT = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


def evaluate(headers: CIMultiDictProxy[str], etag: str, modified: int) -> int:
    """412 or 304 if a precondition says so, else 0; for GET and HEAD, in the order of 13.2.2.

    `etag`: the strong entity tag; `modified`: Unix seconds.
    """
    if "If-Match" in headers:
        if not _matches(headers.getall("If-Match"), etag, weak=False):
            return 412
    else:
        since = _date(headers.get("If-Unmodified-Since"))
        if since is not None and modified > since:
            return 412
    if "If-None-Match" in headers:
        if _matches(headers.getall("If-None-Match"), etag, weak=True):
            return 304
    else:
        since = _date(headers.get("If-Modified-Since"))
        if since is not None and modified <= since:
            return 304
    return 0


def _matches(values: Sequence[str], etag: str, *, weak: bool) -> bool:
    text = ",".join(values)
    if text.strip() == "*":
        return True
    tags = _ETAG.findall(text)
    return etag in tags or (weak and f"W/{etag}" in tags)


def _date(value: str | None) -> int | None:
    """An HTTP-date as Unix seconds (RFC 9110 section 5.6.7); None if it is none."""
    if value is None:
        return None
    try:
        parsed = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return int(parsed.replace(tzinfo=parsed.tzinfo or UTC).timestamp())


def span(headers: CIMultiDictProxy[str], size: int, etag: str, date: str) -> tuple[int, int] | None:
    """(first byte, count) of the range that is asked for; a count of 0 is a 416; None: all of it.

    One range is understood. Several are answered with the whole, as section 14.2 allows: their
    overlaps are a known way to make a server work (section 14.2, RFC 7233 section 6.1).
    """
    given = headers.getall("Range", [])
    found = _RANGE.fullmatch(given[0]) if len(given) == 1 else None
    if found is None or not _if_range(headers.get("If-Range"), etag, date):
        return None
    first, last = found.groups()
    if not first:
        if not last or (size == 0 and int(last)):
            return None
        count = min(int(last), size)
        return size - count, count
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        return 0, 0
    end = min(int(last), size - 1) if last else size - 1
    return int(first), end - int(first) + 1


def _if_range(value: str | None, etag: str, date: str) -> bool:
    """Section 13.1.5: strong comparison, and a date must be the very same."""
    return value is None or value.strip() in (etag, date)


def weights(values: Iterable[str]) -> dict[str, float]:
    """The members of Accept or Accept-Encoding, in lower case, with their weights, 0 to 1."""
    found: dict[str, float] = {}
    for value in values:
        for member in value.lower().split(","):
            name, *parameters = (word.strip() for word in member.split(";"))
            if not name:
                continue
            found[name] = 1.0
            for parameter in parameters:
                key, _, weight = parameter.partition("=")
                if key.strip() == "q":
                    weight = weight.strip()
                    found[name] = float(weight) if _WEIGHT.fullmatch(weight) else 0.0
    return found


def codings(values: Iterable[str], known: Sequence[str]) -> tuple[str, ...]:
    """Those of `known` that the client takes at least as gladly as the plain file, best first.

    Without Accept-Encoding, none: section 12.5.3 allows any then, but the plain one suits
    everybody.
    """
    wanted = weights(values)
    if "x-gzip" in wanted:
        wanted.setdefault("gzip", wanted["x-gzip"])
    others = wanted.get("*", 0.0)
    # The plain file is acceptable unless refused, and not preferred unless named.
    plain = wanted.get("identity", 0.0)
    ranked = [(wanted.get(coding, others), coding) for coding in known]
    ranked.sort(key=lambda pair: -pair[0])  # stable: among equals the order of the configuration
    return tuple(coding for weight, coding in ranked if weight > 0 and weight >= plain)


def takes_html(values: Iterable[str], name: str) -> bool:
    """Whether a client that asks for a missing file can be given a page.

    A browser that goes to an address says `text/html`. `*/*`, or nothing, is also what a script
    or an image is asked for with: then a name with a suffix, such as `app.js`, is not a page.
    """
    wanted = weights(values)
    for kind in ("text/html", "application/xhtml+xml", "text/*"):
        if kind in wanted:
            return wanted[kind] > 0
    return (not wanted or wanted.get("*/*", 0.0) > 0) and "." not in name
