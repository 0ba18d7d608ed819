"""Requests made up to show something: one that two matches both take.

Rules of this file: for load time only. What comes out is a view that the router can be given;
whoever uses it as a proof gives it to the router. None where the conditions exclude each other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Literal

from multidict import CIMultiDict

from gateway.routing import paths
from gateway.routing.match import methods_taken, value_test
from gateway.routing.overlap import PRINTABLE, witness
from gateway.routing.template import percent_encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gateway.config import model
    from gateway.routing.match import Path

Network = IPv4Network | IPv6Network

_PLAIN = re.compile(r"^(/[A-Za-z0-9_~-][A-Za-z0-9._~!$&'()+,=:@-]*)*/?$")
_ANY = re.compile("^/")


@dataclass
class Example:
    """A request that nobody sent; `str` of it is for people."""

    method: str
    path: str
    host: str = ""
    query: str = ""
    scheme: str = "http"
    client_ip: str = "192.0.2.1"
    listener: str = ""
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    notes: list[str] = field(default_factory=list)

    @property
    def target(self) -> str:
        return self.path + ("?" + self.query if self.query else "")

    def __str__(self) -> str:
        shown = [f"{self.method} {self.scheme}://{self.host or 'any.host'}{self.target}"]
        shown += [f"with {name}: {value}" for name, value in self.headers.items()]
        return " ".join([*shown, *self.notes])


def path_of(path: Path) -> str:
    """A path that fits an exact path, a template or a prefix: `{id}` becomes `x`."""
    return "/".join("x" if segment is None else segment for segment in path.segments) or "/"


def path_of_regexes(regexes: Sequence[re.Pattern[str]]) -> tuple[str | None, bool]:
    """(a path that all of them find something in, or None; whether that is certain)."""
    plain, _ = witness([*regexes, _PLAIN])
    if plain is not None and all(regex.search(plain) for regex in regexes):
        return plain, True
    found, certain = witness([*regexes, _ANY])
    if found is not None:
        spelt = paths.canonical(found)
        if all(regex.search(spelt) for regex in regexes):
            return spelt, True
        return None, False
    return None, certain


def request(one: model.Match, two: model.Match, host: str, path: str) -> Example | None:
    """A request for `path` that fits the methods and the `when` of both, at a host pattern."""
    method = _method(one.methods, two.methods)
    if method is None:
        return None
    example = Example(method, path, "any" + host if host.startswith(".") else host)
    fits = (
        _fill_values(example, one.when, two.when)
        and _fill_place(example, one.when, two.when)
        and _fill_address(example, one.when.client_ip, two.when.client_ip)
    )
    return example if fits else None


def _method(one: Sequence[str], two: Sequence[str]) -> str | None:
    first, second = methods_taken(one), methods_taken(two)
    if first is None or second is None:
        return next((m for m in ("GET", "POST") if m in (first or second or (m,))), None) or min(
            first or second or ("GET",)
        )
    both = sorted(first & second, key=lambda method: (method != "GET", method))
    # A written HEAD beats the implied one, so HEAD ties only where both write it or neither does.
    return next((m for m in both if m != "HEAD" or ("HEAD" in one) == ("HEAD" in two)), None)


def _fill_place(example: Example, one: model.When, two: model.When) -> bool:
    schemes = {when.scheme for when in (one, two) if when.scheme is not None}
    if len(schemes) > 1:
        return False
    example.scheme = next(iter(schemes), "http")
    wanted = [frozenset(when.listener) for when in (one, two) if when.listener]
    if wanted:
        names = wanted[0].intersection(*wanted)
        if not names:
            return False
        example.listener = min(names)
        example.notes.append(f"at listener {example.listener}")
    return True


def _fill_values(example: Example, one: model.When, two: model.When) -> bool:
    cookies = []
    for name, value in _values(_lower(one.header), _lower(two.header), PRINTABLE).items():
        if value is None:
            return False
        if value.text is not None:
            example.headers.add(name, value.text)
    queries = _values(one.query, two.query, PRINTABLE)
    pairs = _values(one.cookie, two.cookie, PRINTABLE.replace(" ", ""))
    if None in queries.values() or None in pairs.values():
        return False
    cookies = [f"{name}={v.text}" for name, v in pairs.items() if v and v.text is not None]
    example.query = "&".join(
        f"{percent_encode(name)}={percent_encode(v.text)}"
        for name, v in queries.items()
        if v and v.text is not None
    )
    if cookies:
        example.headers.add("Cookie", "; ".join(cookies))
    return True


@dataclass(frozen=True)
class _Value:
    """A value that fits; None: that there is none fits."""

    text: str | None


def _lower(tests: Mapping[str, model.ValueTest]) -> dict[str, model.ValueTest]:
    return {name.lower(): test for name, test in tests.items()}


def _values(
    one: Mapping[str, model.ValueTest], two: Mapping[str, model.ValueTest], alphabet: str
) -> dict[str, _Value | None]:
    """For each name a value that fits both; None where there is none."""
    names = dict.fromkeys([*one, *two])
    return {
        name: _value([tests[name] for tests in (one, two) if name in tests], alphabet)
        for name in names
    }


def _value(tests: list[model.ValueTest], alphabet: str) -> _Value | None:
    candidates: Iterable[str | None] = ["1", None]
    for test in tests:
        if test.equals is not None:
            candidates = [test.equals]
        elif test.one_of is not None:
            candidates = test.one_of
    if not any(test.equals is not None or test.one_of is not None for test in tests):
        regexes = [re.compile(test.regex) for test in tests if test.regex is not None]
        if regexes:
            candidates = [witness(regexes, alphabet)[0]]
    fits = [value_test(test)[1] for test in tests]
    for text in candidates:
        if all(fit([] if text is None else [text]) for fit in fits):
            return _Value(text)
    return None


def _fill_address(
    example: Example,
    one: Sequence[Network | Literal["unix"]],
    two: Sequence[Network | Literal["unix"]],
) -> bool:
    if not one and not two:
        return True
    text = _address(one or two, two or one)
    if text is None:
        return False
    example.client_ip = text
    example.notes.append(f"from {text}")
    return True


def _address(
    one: Sequence[Network | Literal["unix"]], two: Sequence[Network | Literal["unix"]]
) -> str | None:
    for first in one:
        for second in two:
            if isinstance(first, str) or isinstance(second, str):
                if first == second:
                    return str(first)
            elif _overlap(first, second):
                inner = max(first, second, key=lambda network: network.prefixlen)
                return str(inner.network_address)
    return None


def _overlap(one: Network, two: Network) -> bool:
    if isinstance(one, IPv4Network):
        return isinstance(two, IPv4Network) and one.overlaps(two)
    return isinstance(two, IPv6Network) and one.overlaps(two)
