"""Whether two answers to the same request are the same: status, fields, body; less what may differ.

Rules of this file: pure; works on what the two servers sent, before any edit. Fields of the connection and of framing never
count. A JSON body is compared as a value (order of keys, spaces and `1` or `1.0` do not count), anything else byte by byte;
gzip and deflate are undone first, up to a bound. Neither depth nor size of what a server sends can harm: what can not be
read is compared as bytes, and the list of differences ends after MOST.

What may be ignored: `status`, `body`, `header.NAME`, and `body.` with a path. Of JSONPath (RFC 9535) there are `$`, `.name`,
`.*`, `[n]` and `[*]`; no filters, slices, unions, negative indexes or `..`.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.observe.masks import HEADERS, MASK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MOST = 10
"""Differences that are told of one pair of answers."""
MOST_DECODED = 1024 * 1024
"""Bytes up to which a compressed body is undone."""
_SHOWN = 120
"""Characters of a value that are shown."""
_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade",
     b"transfer-encoding", b"content-length")
)  # fmt: skip
_SEGMENT = re.compile(r"\.([^.\[\]\s]+)|\[(\d+|\*)\]")
_ANY = object()
"""Stands in a rule for every member or element."""
_NOTHING = object()
"""Stands for a member that is not there."""

Rule = tuple[object, ...]


class Answer(NamedTuple):
    """What a server has answered, as it came."""

    status: int
    fields: Sequence[tuple[bytes, bytes]]
    body: bytes | None
    """None: not known whole, so it is not compared."""


class Difference(NamedTuple):
    """One thing that is not the same in both."""

    kind: str
    """status, header or body."""
    where: str
    """As an ignore rule would name it: `status`, `header.x-a`, `body.$.items[3].price`, `body`."""
    sent: str
    """What the client got, shortened."""
    mirrored: str
    """What the mirror answered, shortened."""


class Comparison:
    """Compares answers; `ignore` are rules as in the head of this file.

    Raises ValueError for what is no rule.
    """

    def __init__(self, ignore: Iterable[str] = ()) -> None:
        self._status = self._body = True
        self._ignored: set[bytes] = set()
        rules: list[Rule] = []
        for word in ignore:
            kind, _, rest = word.partition(".")
            if word == "status":
                self._status = False
            elif word in ("body", "body.$"):
                self._body = False
            elif kind == "header" and rest:
                self._ignored.add(rest.lower().encode("latin-1", "replace"))
            elif kind == "body":
                rules.append(_rule(rest))
            else:
                raise ValueError(f"{word!r} is no status, header.NAME, body or body.$.PATH")
        self._rules = tuple(rules)

    @property
    def reads_body(self) -> bool:
        """Whether bodies are looked at."""
        return self._body

    def differences(self, sent: Answer, mirrored: Answer) -> list[Difference]:
        """What is not the same, at most MOST things; `sent` is what the client got."""
        found: list[Difference] = []
        if self._status and sent.status != mirrored.status:
            found.append(Difference("status", "status", str(sent.status), str(mirrored.status)))
        found += self._fields(_by_name(sent.fields), _by_name(mirrored.fields))
        if self._body and sent.body is not None and mirrored.body is not None:
            found += self._bodies(sent, mirrored)
        return found[:MOST]

    def _fields(
        self, sent: dict[bytes, list[bytes]], mirrored: dict[bytes, list[bytes]]
    ) -> Iterator[Difference]:
        for name in sorted(sent.keys() | mirrored.keys()):
            values, others = sent.get(name), mirrored.get(name)
            if values != others and name not in self._ignored:
                shown = name.decode("latin-1")
                yield Difference(
                    "header", f"header.{shown}", _field(shown, values), _field(shown, others)
                )

    def _bodies(self, sent: Answer, mirrored: Answer) -> list[Difference]:
        if sent.body == mirrored.body:
            return []
        mine, other = _plain(sent), _plain(mirrored)
        if mine == other:
            return []
        if _is_json(sent.fields) and _is_json(mirrored.fields):
            try:
                return self._values(_parsed(mine), _parsed(other))
            except (ValueError, RecursionError):
                pass  # one of them is no JSON, or is nested too deeply to be worth it
        at = next(
            (i for i, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b),
            min(len(mine), len(other)),
        )
        words = [
            f"{len(body)} bytes, from byte {at}: {body[at : at + 40]!r}" for body in (mine, other)
        ]
        return [Difference("body", "body", *words)]

    def _values(self, sent: Any, mirrored: Any) -> list[Difference]:
        for rule in self._rules:
            _drop(sent, rule)
            _drop(mirrored, rule)
        # Where 64 KiB are the same, the walk would hold the loop for 6 ms more.
        if json.dumps(sent, sort_keys=True) == json.dumps(mirrored, sort_keys=True):
            return []
        return _walk(sent, mirrored, self._rules)


def _rule(path: str) -> Rule:
    """The steps of `$.a[0].*`. Raises ValueError."""
    steps: list[object] = []
    at = 1
    while path[:1] == "$" and at < len(path) and (step := _SEGMENT.match(path, at)):
        name, index = step[1], step[2]
        if "*" in (name, index):
            steps.append(_ANY)
        else:
            steps.append(name if index is None else int(index))
        at = step.end()
    if not steps or at < len(path):
        raise ValueError(f"{path!r} is no path such as $.items[*].id")
    return tuple(steps)


def _by_name(fields: Iterable[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]]:
    named: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        if (lower := name.lower()) not in _HOP:
            named.setdefault(lower, []).append(value.strip(b" \t"))
    return named


def _field(name: str, values: list[bytes] | None) -> str:
    if values is None:
        return "absent"
    return MASK if name in HEADERS else _short(b", ".join(values).decode("utf-8", "replace"))


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _first(fields: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes:
    return next((value.strip().lower() for name, value in fields if name.lower() == wanted), b"")


def _is_json(fields: Iterable[tuple[bytes, bytes]]) -> bool:
    kind = _first(fields, b"content-type").partition(b";")[0].strip()
    return kind in (b"application/json", b"text/json") or kind.endswith(b"+json")


def _plain(answer: Answer) -> bytes:
    """The body without gzip or deflate; as it is, where that can not be done."""
    body = answer.body or b""
    if _first(answer.fields, b"content-encoding") not in (b"gzip", b"x-gzip", b"deflate"):
        return body
    decoder = zlib.decompressobj(wbits=47)  # gzip or zlib, whichever it is
    try:
        plain = decoder.decompress(body, MOST_DECODED)
    except zlib.error:
        return body
    return plain if decoder.eof else body


def _parsed(body: bytes) -> Any:
    # NaN differs from itself; as a text it does not.
    return json.loads(body, parse_constant=str)


def _drop(value: Any, rule: Rule) -> None:
    """Take what `rule` names out of `value`; of a list, the element stays as null, so that others keep their place."""
    todo: list[tuple[Any, int]] = [(value, 0)]
    last = len(rule) - 1
    here: Any
    while todo:
        here, at = todo.pop()
        step = rule[at]
        if isinstance(here, dict | list) and step is _ANY:
            if at == last:
                here.clear()
            inner = here.values() if isinstance(here, dict) else here
            todo += [(each, at + 1) for each in inner]
        elif not _holds(here, step):
            continue
        elif at < last:
            todo.append((here[step], at + 1))
        elif isinstance(here, dict):
            del here[step]
        else:
            here[step] = None


def _holds(value: Any, step: object) -> bool:
    if isinstance(value, list):
        return isinstance(step, int) and step < len(value)
    return isinstance(value, dict) and step in value


def _walk(sent: Any, mirrored: Any, rules: tuple[Rule, ...]) -> list[Difference]:
    found: list[Difference] = []
    todo = [("$", sent, mirrored, rules)]
    while todo and len(found) < MOST:
        path, mine, other, left = todo.pop()
        if isinstance(mine, dict) and isinstance(other, dict):
            steps: Iterable[tuple[object, str, Any, Any]] = (
                (key, f".{key}", mine.get(key, _NOTHING), other.get(key, _NOTHING))
                for key in sorted(mine.keys() | other.keys())
            )
        elif isinstance(mine, list) and isinstance(other, list):
            longest = max(len(mine), len(other))
            steps = ((at, f"[{at}]", _at(mine, at), _at(other, at)) for at in range(longest))
        else:
            if not _same(mine, other):
                found.append(Difference("body", f"body.{path}", _value(mine), _value(other)))
            continue
        deeper = []
        for step, shown, one, another in steps:
            beyond = tuple(rule[1:] for rule in left if rule[0] is _ANY or rule[0] == step)
            if () not in beyond:
                deeper.append((path + shown, one, another, beyond))
        todo += reversed(deeper)
    return found


def _at(values: list[Any], index: int) -> Any:
    return values[index] if index < len(values) else _NOTHING


def _same(one: Any, other: Any) -> bool:
    """As JSON knows values: true is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _value(value: Any) -> str:
    if value is _NOTHING:
        return "absent"
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    return _short(json.dumps(value, ensure_ascii=False))
