"""The spellings of a path: when two mean the same, and what else a server could read in one.

Rules of this file: pure functions over text. Patterns and requests are compared in *canonical*
form: what RFC 3986 section 6.2.2 calls equal is spelt equally (`%7e` is `~`, `%c3` is `%C3`, a byte
that a path may not hold is percent-encoded), and nothing else is touched. What goes to the upstream
is the path as it came, or what `resolve` makes of it.
"""

from __future__ import annotations

import re
import string
from typing import Final
from urllib.parse import quote, unquote_to_bytes

SAFE: Final = "/!$&'()*+,;=:@"
"""What a path may hold besides unreserved characters (RFC 3986 section 3.3)."""

plain_characters = re.compile(r"/[A-Za-z0-9/_.~!$&'()+,=:@-]*").fullmatch
_STRAY = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SPELT_OTHERWISE = re.compile(
    # Triplets of unreserved characters, and those with a small hex digit; what a path
    # may not hold. The triplets that are canonical already are passed over: a path may be full of
    # them.
    r"%(?:2[DEde]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff]|7[Ee]|[0-9A-Fa-f][a-f]|[a-f][0-9A-F])"
    r"|[^A-Za-z0-9/_.~!$&'()*+,;=:@%-]"
)
_TRIPLETS = {
    f"%{high}{low}": quote(bytes([int(high + low, 16)]), safe="")
    for high in string.hexdigits
    for low in string.hexdigits
}
_PARAMETERS = re.compile(r";[^/]*")
_SLASHES = re.compile(r"//+")


def is_plain(path: str) -> bool:
    """Whether `path` can be read in one way only: no escape, backslash, `;`, `//` or leading dot in
    a segment.

    One run over a character class and two substring searches: this is asked for every request. A
    rare character more (`*`, or `OPTIONS *`) only means that the longer way is gone.
    """
    return plain_characters(path) is not None and "//" not in path and "/." not in path


def canonical(path: str) -> str:
    """The spelling that stands for all spellings that RFC 3986 section 6.2.2 calls equal. A stray
    `%` is `%25`.
    """
    if "%" in path:
        path = _STRAY.sub("%25", path)  # without a call for each: a path may be full of them
    return _SPELT_OTHERWISE.sub(_same, path)


def _same(found: re.Match[str]) -> str:
    text = found[0]
    return _TRIPLETS.get(text) or quote(text.encode("utf-8", "surrogateescape"), safe="")


def readings(path: str) -> list[str]:
    """Every form, canonical, that some server may make of `path`; the first one is the path as it
    came.

    Decoded not at all, once and twice; each of them with and without: backslash read as slash,
    `;parameters` dropped, `//` merged, dot segments resolved. Servers do any subset of these, so
    every subset is tried, but only where it changes something: `%41` costs nothing, and no path has
    more than a few dozen forms.
    """
    raw = canonical(path)
    once = _decode(raw)
    found = dict.fromkeys((raw, once, _decode(once)))
    for read in (_backslashes, _without_parameters, _merge):
        for form in tuple(found):
            found[read(form)] = None
    for form in tuple(found):
        resolved = without_dots(form)
        if resolved != form:
            found[resolved] = None
            # RFC 3986 leaves a slash where a last dot segment was, file systems leave nothing.
            found[resolved.rstrip("/") or "/"] = None
    return list(found)


def resolve(path: str) -> str:
    """`path` decoded once, backslash, `//` and dot segments resolved, percent-encoded again."""
    plain = unquote_to_bytes(path.encode("utf-8", "surrogateescape")).replace(b"\\", b"/")
    text = without_dots(_merge("/" + plain.decode("latin-1").lstrip("/")))
    return quote(text.encode("latin-1"), safe=SAFE)


def holds_dot_segment(path: str) -> bool:
    """Whether some server may find a dot segment in `path`: encoded up to twice, behind
    backslashes, before `;`.
    """
    if "%" not in path and "\\" not in path:
        if "/." not in path:
            return False
        forms = [path]
    else:
        raw = canonical(path)
        forms = [raw, _decode(raw), _decode(_decode(raw))]
    return any(
        segment.partition(";")[0] in (".", "..")
        for form in forms
        for segment in _backslashes(form).split("/")
    )


def without_dots(path: str) -> str:
    """Dot segments resolved as in RFC 3986 section 5.2.4; above the root is the root."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            if kept:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _decode(path: str) -> str:
    if "%" not in path:
        return path
    return canonical(quote(unquote_to_bytes(path), safe=SAFE + "%"))


def _backslashes(path: str) -> str:
    return path.replace("%5C", "/").replace("\\", "/")


def _without_parameters(path: str) -> str:
    return _PARAMETERS.sub("", path) if ";" in path else path


def _merge(path: str) -> str:
    return _SLASHES.sub("/", path)
