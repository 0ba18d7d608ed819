"""One line for one exchange: the formats of the access log, each compiled once into one function.

Rules of this file: pure text, no writing. Whatever a client can choose is escaped: a line is one
line, its fields end where they seem to end, and no control character reaches a terminal. Secrets
are masked in every format, in the Referer too.
"""

from __future__ import annotations

import json
import re
import time
from json.encoder import encode_basestring_ascii as quote
from typing import TYPE_CHECKING

from multidict import istr

from gateway.observe.masks import MASK, Masks
from gateway.observe.metrics import METHODS
from gateway.routing.template import Template

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.config import model
    from gateway.exchange import Exchange

    Line = Callable[[Exchange], str]
    Text = Callable[[Exchange], str]
    Wall = Callable[[], float]

FIELDS = (
    "time",
    "request_id",
    "trace_id",
    "client_ip",
    "method",
    "host",
    "path",
    "query",
    "protocol",
    "status",
    "source",
    "reason",
    "route",
    "upstream",
    "target",
    "consumer",
    "duration_ms",
    "overhead_ms",
    "upstream_ms",
    "attempts",
    "bytes_in",
    "bytes_out",
    "user_agent",
    "referer",
    "tls",
    "detail",
)
"""The fields of a JSON line, in their order. In a template each is a placeholder too."""

_KNOWN, _LONGEST_KNOWN = 1000, 512
USER_AGENT = istr("User-Agent")
REFERER = istr("Referer")
_PLACEHOLDER = re.compile(r"\{\{|\{([a-z_.0-9-]+)(\|[^{}]*)?\}")


def compile_line(settings: model.AccessLog, wall: Wall) -> Line:
    """The function that makes a line, its newline included. `wall` gives Unix seconds.

    Raises ValueError for an unknown placeholder or an entry of `mask` that is none.
    """
    masks = Masks(settings.fields.mask)
    escape = _readable if settings.format == "json" else escaped  # JSON's own escapes are enough
    added = {
        name: _compile_text(text, masks, wall, escape) for name, text in settings.fields.add.items()
    }
    if settings.format == "json":
        return _with_fields(_json_line(masks, wall), added)
    combined = settings.format == "combined"
    line = (
        _combined_line(masks, wall)
        if combined
        else _compile_text(settings.format, masks, wall, escaped)
    )
    texts = tuple(added.items())

    def made(exchange: Exchange) -> str:
        parts = [line(exchange), *(f'{name}="{text(exchange)}"' for name, text in texts)]
        return " ".join(parts) + "\n"

    return made


# ── JSON ──────────────────────────────────────────────────────────────────────────────────────────


def _json_line(masks: Masks, wall: Wall) -> Line:
    stamp = _stamp(wall)
    mask_query = masks.query
    hide_agent = masks.hides("header.user-agent")
    hide_referer = _all if masks.hides("header.referer") else masks.url
    names: dict[str, str] = {}
    """What the configuration names, quoted once: routes, upstreams, targets. Bounded, since nothing
    else is asked of it.
    """

    def named(name: str) -> str:
        quoted = names[name] = quote(name) if name else "null"
        return quoted

    known: dict[str, str] = {}
    """What many requests say, quoted once: hosts and agents. Bounded, for clients choose them."""

    def text(said: str) -> str:
        quoted = _quoted(said)
        if len(said) <= _LONGEST_KNOWN:
            if len(known) >= _KNOWN:
                known.clear()
            known[said] = quoted
        return quoted

    def line(x: Exchange) -> str:
        get = x.headers.get
        agent, referer, began, head_at = get(USER_AGENT, ""), get(REFERER), x.began, x.head_at
        host = x.host
        if head_at:
            sent_at = x.sent_at
            overhead = f"{(sent_at - began + x.replied_at - head_at) * 1000:.3f}"
            upstream_ms = f"{(head_at - sent_at) * 1000:.3f}"
        else:
            overhead = upstream_ms = "null"
        route, upstream, target = x.route.name, x.upstream, x.target_name
        consumer = "null"
        if x.identity is not None:
            name = x.identity.consumer
            consumer = known.get(name) or text(name)
        return (
            f'{{"time":"{stamp()}"'
            f',"request_id":{_word(x.request_id)}'
            f',"trace_id":{_word(x.trace_id)}'
            f',"client_ip":{_word(x.client_ip)}'
            f',"method":{_METHODS.get(x.method) or _quoted(x.method)}'
            f',"host":{known.get(host) or text(host)}'
            f',"path":{_quoted(x.path)}'
            f',"query":{_quoted(mask_query(x.query)) if x.query else "null"}'
            f',"protocol":{_OLD if x.http10 else _NOW}'
            f',"status":{x.status}'
            f',"source":"{x.source}"'
            f',"reason":{_word(x.reason)}'
            f',"route":{names.get(route) or named(route)}'
            f',"upstream":{names.get(upstream) or named(upstream)}'
            f',"target":{names.get(target) or named(target)}'
            f',"consumer":{consumer}'
            f',"duration_ms":{(x.ended - began) * 1000:.3f}'
            f',"overhead_ms":{overhead}'
            f',"upstream_ms":{upstream_ms}'
            f',"attempts":{x.attempts}'
            f',"bytes_in":{x.bytes_in}'
            f',"bytes_out":{x.bytes_out}'
            f',"user_agent":{_MASKED if hide_agent and agent else known.get(agent) or text(agent)}'
            f',"referer":{_quoted(hide_referer(referer)) if referer else "null"}'
            f',"tls":{"null" if x.tls is None else _word(x.tls.version)}'
            f',"detail":{_quoted(x.detail) if x.detail else "null"}}}\n'
        )

    return line


def _all(_: str) -> str:
    return MASK


def _word(word: str) -> str:
    """JSON of what the gateway made or has checked: nothing in it needs an escape."""
    return f'"{word}"' if word else "null"


_METHODS = {method: f'"{method}"' for method in METHODS}
_OLD, _NOW, _MASKED = '"HTTP/1.0"', '"HTTP/1.1"', f'"{MASK}"'


def _quoted(text: str | None) -> str:
    """JSON of what a client sent: pure ASCII, with bytes that are no UTF-8 as `\\xNN`."""
    if not text:
        return "null"
    return quote(_readable(text))


def _readable(text: str) -> str:
    """Text without surrogates: bytes that are no UTF-8 as `\\xNN`."""
    return text if text.isascii() else _repaired(text, "backslashreplace")


def _with_fields(line: Line, added: Mapping[str, Text]) -> Line:
    if not added:
        return line
    if added.keys() & set(FIELDS):
        # A field of ours is replaced: the long way round, since a key must not stand twice.
        def replaced(exchange: Exchange) -> str:
            values = {name: text(exchange) or None for name, text in added.items()}
            return (
                json.dumps({**json.loads(line(exchange)), **values}, separators=(",", ":")) + "\n"
            )

        return replaced
    texts = tuple((f",{quote(name)}:", text) for name, text in added.items())

    def extended(exchange: Exchange) -> str:
        more = "".join([f"{name}{_quoted(text(exchange))}" for name, text in texts])
        return f"{line(exchange)[:-2]}{more}}}\n"

    return extended


# ── Apache's combined ─────────────────────────────────────────────────────────────────────────────


def _combined_line(masks: Masks, wall: Wall) -> Line:
    values = _values(masks, wall)
    agent, referer, consumer = values["user_agent"], values["referer"], values["consumer"]

    def line(x: Exchange) -> str:
        # %t is the time at which the request came.
        came = time.gmtime(wall() - (x.ended - x.began))
        date = f"{came.tm_mday:02d}/{_MONTHS[came.tm_mon - 1]}/{came.tm_year}"
        clock = f"{came.tm_hour:02d}:{came.tm_min:02d}:{came.tm_sec:02d} +0000"
        query = f"?{masks.query(x.query)}" if x.query else ""
        request = f"{x.method} {x.path}{query} {'HTTP/1.0' if x.http10 else 'HTTP/1.1'}"
        user = escaped(consumer(x)).replace(" ", "\\x20") or "-"
        return (
            f"{x.client_ip or '-'} - {user} [{date}:{clock}] "
            f'"{escaped(request)}" {x.status} {x.bytes_out or "-"} '
            f'"{escaped(referer(x)) or "-"}" "{escaped(agent(x)) or "-"}"'
        )

    return line


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
"""Not strftime: the format is English whatever the locale."""


# ── templates ─────────────────────────────────────────────────────────────────────────────────────


def _compile_text(text: str, masks: Masks, wall: Wall, escape: Callable[[str], str]) -> Text:
    """A template as one function; every value in it is escaped and, if it is secret, masked."""
    values = _values(masks, wall)
    pieces: list[str | Text] = []
    end = 0
    for found in _PLACEHOLDER.finditer(text):
        pieces.append(text[end : found.start()])
        end = found.end()
        if found[0] == "{{":
            pieces.append("{")
        else:
            value = values.get(found[1]) or _value(found[1], masks)
            pieces.append(_or_default(value, (found[2] or "|")[1:], escape))
    pieces.append(text[end:])
    compiled = [piece for piece in pieces if piece != ""]

    def render(exchange: Exchange) -> str:
        return "".join([piece if isinstance(piece, str) else piece(exchange) for piece in compiled])

    return render


def _or_default(value: Text, default: str, escape: Callable[[str], str]) -> Text:
    def text(exchange: Exchange) -> str:
        return escape(value(exchange)) or default

    return text


def _value(name: str, masks: Masks) -> Text:
    """A placeholder of the configuration language."""
    render = Template.compile(f"{{{name}}}", where="text").render
    if not masks.hides(name):
        return render
    return lambda exchange: MASK if render(exchange) else ""


def _values(masks: Masks, wall: Wall) -> dict[str, Text]:
    """The placeholders that only a log has, and those that must be masked as a whole."""
    stamp = _stamp(wall)

    def header(name: istr) -> Text:
        if masks.hides(f"header.{name}"):
            return lambda x: MASK if x.headers.get(name) else ""
        if name is REFERER:
            return lambda x: masks.url(x.headers.get(name, ""))
        return lambda x: x.headers.get(name, "")

    return {
        "time": lambda _: stamp(),
        "trace_id": lambda x: x.trace_id,
        "path": lambda x: x.path,
        "query": lambda x: masks.query(x.query),
        "protocol": lambda x: "HTTP/1.0" if x.http10 else "HTTP/1.1",
        "status": lambda x: str(x.status),
        "source": lambda x: x.source,
        "reason": lambda x: x.reason,
        "consumer": lambda x: "" if x.identity is None else x.identity.consumer,
        "tls": lambda x: "" if x.tls is None else x.tls.version,
        "detail": lambda x: x.detail,
        "duration_ms": lambda x: f"{(x.ended - x.began) * 1000:.3f}",
        "overhead_ms": lambda x: _milliseconds(x, x.sent_at - x.began + x.replied_at - x.head_at),
        "upstream_ms": lambda x: _milliseconds(x, x.head_at - x.sent_at),
        "attempts": lambda x: str(x.attempts),
        "bytes_in": lambda x: str(x.bytes_in),
        "bytes_out": lambda x: str(x.bytes_out),
        "user_agent": header(USER_AGENT),
        "referer": header(REFERER),
        "header.referer": header(REFERER),
    }


def _milliseconds(exchange: Exchange, seconds: float) -> str:
    return f"{seconds * 1000:.3f}" if exchange.head_at else ""


def _stamp(wall: Wall) -> Callable[[], str]:
    """RFC 3339 with milliseconds, in UTC; the date is made once a second."""
    second, prefix = -1, ""

    def stamp() -> str:
        nonlocal second, prefix
        whole, milliseconds = divmod(int(wall() * 1000), 1000)
        if whole != second:
            second, prefix = whole, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
        return prefix + _MILLISECONDS[milliseconds]

    return stamp


_MILLISECONDS = tuple(f".{number:03d}Z" for number in range(1000))


# ── escaping ──────────────────────────────────────────────────────────────────────────────────────


def escaped(text: str) -> str:
    """Text that can not end its line or its quotes, nor speak to a terminal."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return "".join([_escaped(character) for character in _repaired(text, "surrogateescape")])


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _repaired(text: str, rest: str) -> str:
    """Heads are read as ASCII with surrogates for other bytes: what is UTF-8 becomes characters
    again.
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", rest)
