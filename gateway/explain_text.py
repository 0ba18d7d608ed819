"""An explanation as text for people: aligned, in colour only when asked.

Rules of this file: what is shown is in the Explanation; here is only how it looks.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gateway.explain import Considered, Explanation, Setting

MOST_FAR_ROUTES = 40
"""Routes that fail on their host or path: ten thousand lines would hide the ones that matter."""

_COLOURS = {"wins": "32", "outranked": "33", "refused": "31", "title": "1", "dim": "2"}


class _Paint:
    """ANSI colours, or nothing."""

    def __init__(self, on: bool) -> None:
        self._on = on

    def __call__(self, text: str, what: str) -> str:
        return f"\x1b[{_COLOURS[what]}m{text}\x1b[0m" if self._on and text else text


def render(explanation: Explanation, *, colour: bool) -> str:
    """The whole text; it ends with a newline."""
    paint = _Paint(colour)
    lines = list(_verdict(explanation, paint))
    for title, rows in _sections(explanation, paint):
        if rows:
            lines += ["", paint(title, "title"), *(f"  {row}".rstrip() for row in rows)]
    return "".join(f"{_printable(line, keep_colours=colour)}\n" for line in lines)


def _printable(line: str, *, keep_colours: bool) -> str:
    """What came from a request or a file can not move the cursor (terminal escapes)."""
    allowed = "\x1b" if keep_colours else ""
    return "".join(c if c.isprintable() or c in allowed else f"\\x{ord(c):02x}" for c in line)


def _verdict(explanation: Explanation, paint: _Paint) -> Iterator[str]:
    request = explanation.request
    asker = f" from {request['client_ip']}" if "client_ip" in request else ""
    yield f"{request['method']} {request['url']}{asker}"
    if explanation.matched:
        yield f"{paint('→ route ' + explanation.route, 'wins')} ({explanation.place})"
    if explanation.error is not None:
        error = explanation.error
        yield paint(f"✗ {error['status']} {error['reason']}", "refused") + f": {error['detail']}"
        yield from (f"  {name}: {value}" for name, value in error["headers"])
        yield from (f"  {reading}" for reading in error["readings"])
    answer = explanation.answer
    if answer.get("kind") == "options":
        yield f"→ {answer['status']}, Allow: {answer['allow']} (Max-Forwards: it goes no further)"
    if answer.get("kind") == "redirect_to_https":
        yield f"→ {answer['status']} to {answer['to']} (redirect_to_https of the listener)"


def _sections(explanation: Explanation, paint: _Paint) -> Iterator[tuple[str, list[str]]]:
    yield "Routes considered", list(_considered(explanation.considered, paint))
    yield "Captures", _aligned(explanation.captures.items())
    yield "Client", _aligned(_client(explanation.client))
    yield "Answer", list(_answer(explanation.answer))
    yield "Request to the upstream", list(_sent(explanation.sent))
    yield "Tried again", list(explanation.retry)
    settings = (
        (_key(one), one.value, paint(f"{one.place or 'built in'}{_layer(one.layer)}", "dim"))
        for one in explanation.settings
    )
    yield "Settings", _aligned(settings)
    yield "Pipeline", _aligned(explanation.pipeline)


def _key(setting: Setting) -> str:
    return f"{setting.key} of {setting.upstream}" if setting.upstream else setting.key


def _layer(layer: str) -> str:
    return "" if layer in ("built in", "route") else f" ({layer})"


def _considered(routes: Sequence[Considered], paint: _Paint) -> Iterator[str]:
    near = [one for one in routes if one.failed not in ("host", "path")]
    far = [one for one in routes if one.failed in ("host", "path")]
    rows = _aligned(
        (one.outcome, one.route, one.place, one.why) for one in near + far[:MOST_FAR_ROUTES]
    )
    for one, row in zip(near + far, rows, strict=False):
        yield paint(one.outcome, one.outcome) + row[len(one.outcome) :]
    if len(far) > MOST_FAR_ROUTES:
        yield f"… and {len(far) - MOST_FAR_ROUTES} more that fail on their host or path (--json has all)"


def _answer(answer: dict[str, Any]) -> Iterator[str]:
    kind = answer.get("kind")
    if kind == "forward":
        labels = _pairs(answer.get("labels", {}))
        subset = f" (targets with {labels})" if labels else ""
        yield f"upstream {answer['upstream']}{subset}, balance {answer['balance']}"
        if "discover" in answer:
            yield f"targets: {answer['discover']}"
        yield from _aligned(map(_target, answer["targets"]))
        for branch in answer.get("split", ()):
            labels = _pairs(branch.get("labels", {}))
            which = f"{branch['upstream']} with {labels}" if labels else branch["upstream"]
            yield f"split: {which} gets {branch['share'] * 100:.4g}%"
        if "sticky_by" in answer:
            yield f"split: the same {answer['sticky_by']} always goes the same way"
    elif kind == "admitted":
        yield f"{answer['status']} before anything else"
        yield from _aligned(answer["headers"])
    elif kind in ("static", "redirect", "respond", "sign_in"):
        yield kind
        yield from _aligned((key, str(value)) for key, value in answer[kind].items() if value)


def _client(client: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in client.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{name}", _told(one)) for name, one in value.items())
        elif value:
            yield key, _told(value)


def _told(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _target(target: dict[str, Any]) -> tuple[str, str, str]:
    share = "backup" if target.get("backup") else f"{target['share']:.0%}"
    labels = _pairs(target.get("labels", {}))
    return target["url"], f"weight {target['weight']}", f"{share}  {labels}" if labels else share


def _pairs(labels: dict[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in labels.items())


def _sent(sent: dict[str, Any] | None) -> Iterator[str]:
    if sent is not None:
        yield f"{sent['method']} {sent['target']} HTTP/1.1"
        yield f"Host: {sent['host'] or '(address of the target)'}"
        yield from (f"{name}: {value}" for name, value in sent["headers"])


def _aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell; the last one is free."""
    rows = list(rows)
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    ]
