"""What a route asks of a request, compiled: host, path, methods and the entries of `when`.

Rules of this file: pure predicates over a view of the request; no table of routes. What is tested
on the hot path is a set or a closure over constants. Each condition can also say in words what it
wanted and what it found, so that `explain` and `match` can not disagree: they ask the same object.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Literal, Protocol
from urllib.parse import unquote_plus

from gateway.routing.paths import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from multidict import MultiMapping

    from gateway.config import model

Kind = Literal["exact", "template", "prefix", "regex"]
KINDS: tuple[Kind, ...] = ("exact", "template", "prefix", "regex")
"""Classes of path, the one that wins first."""


class Request(Protocol):
    """What matching reads of a request; an `exchange.Exchange` is one."""

    @property
    def method(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def scheme(self) -> str: ...
    @property
    def client_ip(self) -> str: ...
    @property
    def listener(self) -> str: ...
    @property
    def headers(self) -> MultiMapping[str]: ...


# ── paths ───────────────────────────────────────────────────────────────────────────────────────

_CAPTURE = re.compile(r"\{([a-z_][a-z0-9_-]*)(\.\.\.)?\}")


@dataclass(frozen=True, slots=True)
class Path:
    """`path:`, compiled."""

    text: str
    """As written."""
    kind: Kind
    segments: tuple[str | None, ...] = ()
    """Canonical literals, None for `{x}`; the text before the first slash (empty) included; of a
    prefix what stands before `*`.
    """
    names: tuple[tuple[str, int], ...] = ()
    """Captured segments: name and index."""
    rest: str | None = None
    """Name of the capture that takes all behind `segments`."""
    regex: re.Pattern[str] | None = None

    @classmethod
    def compile(cls, pattern: model.PathPattern) -> Path:
        """Raises ValueError, with a sentence for the user, if the pattern is none."""
        if pattern.regex is not None:
            try:
                return cls(pattern.regex, "regex", regex=re.compile(pattern.regex))
            except re.error as error:
                raise ValueError(
                    f"{pattern.regex!r} is not a regular expression: {error}"
                ) from error
        text = pattern.text or "/*"
        if not text.startswith("/"):
            raise ValueError(f"{text!r} does not begin with `/`: write `/{text}`")
        return cls._of_segments(text, text.split("/"))

    @classmethod
    def _of_segments(cls, text: str, parts: list[str]) -> Path:
        prefix, rest = False, None
        last = _CAPTURE.fullmatch(parts[-1])
        if parts[-1] == "*" or (last and last[2]):
            prefix, rest = True, last[1] if last else None
            parts = parts[:-1]
        segments: list[str | None] = []
        names: list[tuple[str, int]] = []
        for index, part in enumerate(parts):
            found = _CAPTURE.fullmatch(part)
            if found is None and (_CAPTURE.search(part) or part == "*"):
                raise ValueError(
                    f"{part!r} in {text!r}: a capture takes a whole segment, and `*` stands only"
                    " at the end; use `path: {regex: …}` for more"
                )
            if found and found[2]:
                raise ValueError(
                    f"{part!r} in {text!r}: `{{{found[1]}...}}` takes the rest,"
                    " so it stands only at the end"
                )
            if found:
                names.append((found[1], index))
            segments.append(None if found else canonical(part))
        known = [name for name, _ in names] + ([rest] if rest else [])
        if len(set(known)) < len(known):
            raise ValueError(f"{text!r} uses one name for two captures")
        kind: Kind = "prefix" if prefix else "template" if names else "exact"
        return cls(text, kind, tuple(segments), tuple(names), rest)

    @property
    def captures(self) -> frozenset[str]:
        """Every name that `{path.NAME}` may have."""
        if self.regex is not None:
            return frozenset(self.regex.groupindex)
        return frozenset([name for name, _ in self.names] + ([self.rest] if self.rest else []))

    def matches(self, path: str) -> bool:
        """Whether a canonical `path` fits. The router asks its tables instead; a test holds both to
        one answer.
        """
        if self.regex is not None:
            return self.regex.search(path) is not None
        segments = path.split("/")
        if len(segments) < len(self.segments) or (
            self.kind != "prefix" and len(segments) > len(self.segments)
        ):
            return False
        return all(
            segment == wanted if wanted is not None else segment
            for segment, wanted in zip(segments, self.segments, strict=False)
        )

    def capturer(self) -> Callable[[str, str], dict[str, str]] | None:
        """What takes captures out of (path as it came, its canonical form); None: there are none.

        Captures are the bytes that came; the canonical form is what the path was matched by.
        """
        if self.regex is not None:
            return _groups_of(self.regex) if self.regex.groupindex else None
        if not self.names and self.rest is None:
            return None
        if self.rest is None and len(self.names) == 1:
            ((name, index),) = self.names
            cuts = index + 1
            return lambda path, _: {name: path.split("/", cuts)[index]}
        return self._capture_segments

    def _capture_segments(self, path: str, _: str) -> dict[str, str]:
        segments = path.split("/", len(self.segments))
        taken = {name: segments[index] for name, index in self.names}
        if self.rest is not None:
            taken[self.rest] = segments[-1] if len(segments) > len(self.segments) else ""
        return taken


def _groups_of(regex: re.Pattern[str]) -> Callable[[str, str], dict[str, str]]:
    def capture(path: str, spelt: str) -> dict[str, str]:
        found = regex.search(path) or regex.search(spelt)
        return {name: text or "" for name, text in found.groupdict().items()} if found else {}

    return capture


# ── hosts ───────────────────────────────────────────────────────────────────────────────────────


def host_pattern(text: str) -> str:
    """`api.example.com`, or `.example.com` for every sub-domain at any depth, however it was
    written.
    """
    return text.removeprefix("*").rstrip(".").lower()


def host_matches(pattern: str, host: str) -> bool:
    """Whether `host` (lower case, no port) fits `pattern`."""
    if pattern.startswith("."):
        return host.endswith(pattern) and len(host) > len(pattern)
    return host == pattern


# ── conditions ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """One entry of `when`."""

    name: str
    """What is looked at, such as `header x-api-version`."""
    wanted: str
    """What it has to be, in words: two conditions of one name and one wish are the same condition.
    """
    test: Callable[[Request], bool]
    show: Callable[[Request], str]
    """What the request has, in words."""

    def why_not(self, view: Request) -> str:
        """Why the test fails: for people."""
        return f"{self.name} is {self.show(view)}, wanted {self.wanted}"


def conditions(when: model.When) -> tuple[Condition, ...]:
    """Every entry of `when`, compiled; cheap ones first."""
    found: list[Condition] = []
    if when.scheme is not None:
        found.append(_scheme(when.scheme))
    if when.listener:
        found.append(_listener(when.listener))
    found.extend(
        _value(f"header {name}", test, _header_reader(name)) for name, test in when.header.items()
    )
    found.extend(
        _value(f"query {name}", test, _query_reader(name)) for name, test in when.query.items()
    )
    found.extend(
        _value(f"cookie {name}", test, _cookie_reader(name)) for name, test in when.cookie.items()
    )
    if when.client_ip:
        found.append(_client_ip(when.client_ip))
    return tuple(found)


def _scheme(scheme: str) -> Condition:
    return Condition("scheme", scheme, lambda view: view.scheme == scheme, lambda view: view.scheme)


def _listener(names: Sequence[str]) -> Condition:
    known = frozenset(names)
    return Condition(
        "listener",
        " or ".join(sorted(known)),
        lambda view: view.listener in known,
        lambda view: view.listener or "unknown",
    )


def _client_ip(networks: Sequence[object]) -> Condition:
    fits = network_test(networks)
    wanted = "in " + " or ".join(sorted(str(network) for network in networks))
    return Condition(
        "client_ip", wanted, lambda view: fits(view.client_ip), lambda view: view.client_ip
    )


def network_test(networks: Iterable[object]) -> Callable[[str], bool]:
    """A test whether an address, as text, lies in one of `networks` (`unix` stands for every peer
    of a unix socket).
    """
    known = tuple(network for network in networks if not isinstance(network, str))
    unix = "unix" in {network for network in networks if isinstance(network, str)}

    def fits(text: str) -> bool:
        if text == "unix":
            return unix
        address = parse_address(text)
        return address is not None and any(address in network for network in known)  # type: ignore[operator]

    return fits


@lru_cache(maxsize=4096)
def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """The address that `text` spells, IPv4-mapped IPv6 folded; None if it spells none. Bounded
    memory.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


# ── values of headers, query and cookies ────────────────────────────────────────────────────────


def _value(name: str, test: model.ValueTest, read: Callable[[Request], list[str]]) -> Condition:
    wanted, fits = value_test(test)

    def show(view: Request) -> str:
        values = read(view)
        return " and ".join(repr(value) for value in values) if values else "absent"

    return Condition(name, wanted, lambda view: fits(read(view)), show)


def value_test(test: model.ValueTest) -> tuple[str, Callable[[list[str]], bool]]:
    """In words, and as a test over all values of the name: of repeated values any may fit."""
    if test.regex is not None:
        search = re.compile(test.regex).search
        return f"/{test.regex}/", lambda values: any(search(value) for value in values)
    if test.one_of is not None:
        known = frozenset(test.one_of)
        return " or ".join(map(repr, sorted(known))), lambda values: not known.isdisjoint(values)
    if test.equals is not None:
        text = test.equals
        return repr(text), lambda values: text in values
    if test.present:
        return "present", bool
    return "absent", lambda values: not values


def _header_reader(name: str) -> Callable[[Request], list[str]]:
    nothing: list[str] = []
    return lambda view: view.headers.getall(name, nothing)


def _query_reader(name: str) -> Callable[[Request], list[str]]:
    return lambda view: query_values(view.query, name)


def _cookie_reader(name: str) -> Callable[[Request], list[str]]:
    return lambda view: cookie_values(view.headers, name)


def query_values(query: str, name: str) -> list[str]:
    """Every value of `name` in a raw query, decoded; a name without `=` has the empty value."""
    if not query:
        return []
    if "%" in query or "+" in query:
        return [_decoded(found[1] or "") for found in _parameter(name).finditer(query)]
    found = []
    for part in query.split("&"):
        key, _, value = part.partition("=")
        if part and key == name:
            found.append(value)
    return found


@lru_cache(maxsize=1024)
def _parameter(name: str) -> re.Pattern[str]:
    """Finds a parameter however its name is spelt: a query of two thousand names would cost six milliseconds to decode."""
    spelt = "".join(map(_spelt, name))
    return re.compile(f"(?:^|(?<=&)){spelt}(?:=([^&]*))?(?=&|$)")


_AS_IT_IS = {" ": r"\+|\ |", "+": "", "%": "%(?![0-9A-Fa-f]{2})|"}


def _spelt(character: str) -> str:
    encoded = "".join(f"%{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
    # In a query a `+` is a space, and a `%` that begins a triplet is none.
    plain = _AS_IT_IS.get(character, re.escape(character) + "|")
    return f"(?:{plain}(?i:{encoded}))"


def _decoded(part: str) -> str:
    """Most values have nothing to decode."""
    return unquote_plus(part) if "%" in part or "+" in part else part


def cookie_values(headers: MultiMapping[str], name: str) -> list[str]:
    """Every value of the cookie `name`, without its quotes (RFC 6265 section 4.1.1)."""
    found = []
    for field in headers.getall("Cookie", ()):
        for text in _cookies(name)(field):
            value = text.rstrip(" \t")
            quoted = len(value) > 1 and value[0] == value[-1] == '"'
            found.append(value[1:-1] if quoted else value)
    return found


@lru_cache(maxsize=1024)
def _cookies(name: str) -> Callable[[str], list[str]]:
    """Finds a cookie: a field of ten thousand `;` is not cut into as many pieces."""
    return re.compile(f"(?:^|;)[ \t]*{re.escape(name)}=([^;]*)").findall


# ── methods ─────────────────────────────────────────────────────────────────────────────────────


def methods_taken(methods: Sequence[str]) -> frozenset[str] | None:
    """Every method that `methods` lets through; None: any. HEAD matches where GET does (RFC 9110
    section 9.3.2).
    """
    if not methods:
        return None
    return frozenset(methods) | ({"HEAD"} if "GET" in methods else frozenset())


def asked_method(view: Request) -> str:
    """The method that a request is routed by: of a CORS preflight the one that it asks for."""
    if view.method == "OPTIONS" and "Origin" in view.headers:
        asked: str = view.headers.get("Access-Control-Request-Method", "")
        return asked or view.method
    return view.method
