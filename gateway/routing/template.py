"""Text with placeholders, such as `/v2/{path.id}`, compiled once and rendered for each request.

Rules of this file: `{name}` with a name of `[a-z_.0-9-]` is a placeholder, `{name|text}` gives a
default, `{{` is a literal `{`, every other brace is text. A value never carries more than text:
control bytes are dropped, and it is escaped for the place that it goes to. Where it says who a
client is they are U+FFFD instead: nobody becomes `admin` by the name `ad` NUL `min`. Text without
placeholders is a constant and costs nothing.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from urllib.parse import quote

from gateway.routing import match

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.certificates import Encryption
    from gateway.identity import Identity

Where = Literal["header", "path", "query", "json", "text"]

SIMPLE: Final = frozenset(
    (
        "client_ip",
        "host",
        "scheme",
        "method",
        "path",
        "query",
        "route",
        "upstream",
        "target",
        "request_id",
    )
)
KEYED: Final = frozenset(("path", "query", "header", "cookie"))
IDENTITY: Final = frozenset(("consumer", "claim"))
"""What is known of the client once `auth` has accepted it: `{consumer}`, `{claim.NAME}`."""
TLS: Final = frozenset(
    (
        "version", "cipher", "server_name", "subject", "serial", "fingerprint", "san_dns", "san_uri",
        "san_email",
    )
)  # fmt: skip
"""What a connection with TLS tells: `{tls.NAME}`; all behind `server_name` is of the client's certificate."""

_PLACEHOLDER = re.compile(r"\{\{|\{([a-z_.0-9-]+)(?:\|([^{}]*))?\}")
_CONTROLS: Final = dict.fromkeys([*range(32), 127])
_MARKED: Final = dict.fromkeys([*range(32), 127], "\N{REPLACEMENT CHARACTER}")
_SEPARATORS = re.compile(r"[&=+;#]")
_NOT_IN_URLS = re.compile(r"[^A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]")


class Named(Protocol):
    """Something with a name: a route."""

    @property
    def name(self) -> str: ...


class View(match.Request, Protocol):
    """What a template reads of a request that has been routed; an `exchange.Exchange` is one."""

    @property
    def captures(self) -> Mapping[str, str]: ...
    @property
    def request_id(self) -> str: ...
    @property
    def route(self) -> Named: ...
    @property
    def upstream(self) -> str: ...
    @property
    def target_name(self) -> str: ...
    @property
    def tls(self) -> Encryption | None: ...
    @property
    def identity(self) -> Identity | None: ...


class Template:
    """Text with placeholders, compiled."""

    __slots__ = ("_parts", "constant", "names", "text")

    def __init__(
        self,
        text: str,
        parts: tuple[str | Callable[[View], str | None], ...],
        names: frozenset[str],
    ) -> None:
        self.text = text
        """As written."""
        self._parts = parts
        self.names = names
        """Every name that is asked for, such as `path.id`."""
        self.constant: str | None = (
            "".join(part for part in parts if isinstance(part, str)) if not names else None
        )
        """The whole text, where nothing in it depends on the request."""

    def __repr__(self) -> str:
        return f"<Template {self.text!r}>"

    @classmethod
    def compile(cls, text: str, *, where: Where = "header") -> Template:
        """Raises ValueError, with a sentence for the user, for a name that there is not."""
        parts: list[str | Callable[[View], str | None]] = []
        names: set[str] = set()
        literal = _literal_for(where)
        end = 0
        for found in _PLACEHOLDER.finditer(text):
            parts.append(literal(text[end : found.start()]))
            end = found.end()
            if found[1] is None:
                parts.append(literal("{"))
                continue
            names.add(found[1])
            default = None if found[2] is None else literal(found[2])
            parts.append(_escaped(_getter(found[1]), _escape_for(found[1], where), default))
        parts.append(literal(text[end:]))
        return cls(text, tuple(part for part in parts if part != ""), frozenset(names))

    def render(self, view: View) -> str:
        """The text for this request; a placeholder without a value is empty."""
        if self.constant is not None:
            return self.constant
        return "".join(part if isinstance(part, str) else part(view) or "" for part in self._parts)

    def render_or_none(self, view: View) -> str | None:
        """As `render`, but None where a placeholder has neither a value nor a default: such a
        header is not set.
        """
        if self.constant is not None:
            return self.constant
        texts = []
        for part in self._parts:
            text = part if isinstance(part, str) else part(view)
            if text is None:
                return None
            texts.append(text)
        return "".join(texts)


# ── values ──────────────────────────────────────────────────────────────────────────────────────


def _getter(name: str) -> Callable[[View], str | None]:
    if name in SIMPLE:
        return _simple(name)
    kind, _, key = name.partition(".")
    if name == "consumer":
        return lambda view: None if view.identity is None else _marked(view.identity.consumer)
    if kind == "claim" and key:
        return lambda view: (
            None if view.identity is None else _marked(claim_text(view.identity.claim(key)))
        )
    if kind == "tls" and key in TLS:
        of_tls = _of_tls(key)
        return lambda view: _marked(of_tls(view))
    if kind not in KEYED or not key:
        known = ", ".join(
            sorted(
                SIMPLE
                | {"consumer", "claim.NAME"}
                | {f"{kind}.NAME" for kind in KEYED}
                | {f"tls.{name}" for name in TLS}
            )
        )
        raise ValueError(
            f"there is no placeholder {{{name}}}; known are {known};"
            " a literal brace is written {{"
        )
    return _keyed(kind, key)


def _simple(name: str) -> Callable[[View], str | None]:
    if name == "route":
        return lambda view: view.route.name
    attribute = "target_name" if name == "target" else name
    # Empty means "not chosen yet" or "not known" for these, never a value.
    if name in ("upstream", "target", "request_id", "client_ip", "host"):
        return lambda view: getattr(view, attribute) or None
    return lambda view: str(getattr(view, attribute))


def _keyed(kind: str, key: str) -> Callable[[View], str | None]:
    if kind == "path":
        return lambda view: view.captures.get(key)
    if kind == "header":
        return lambda view: _joined(view.headers.getall(key, []))
    if kind == "query":
        return lambda view: _joined(match.query_values(view.query, key))
    return lambda view: _joined(match.cookie_values(view.headers, key))


def _of_tls(key: str) -> Callable[[View], str | None]:
    if key in ("version", "cipher", "server_name"):
        return lambda view: (None if view.tls is None else getattr(view.tls, key)) or None
    attribute = "fingerprint_sha256" if key == "fingerprint" else key

    def value(view: View) -> str | None:
        certificate = None if view.tls is None else view.tls.certificate
        if certificate is None:
            return None
        found = getattr(certificate, attribute)
        return (found or None) if isinstance(found, str) else _joined(list(found))

    return value


def _marked(text: str | None) -> str | None:
    """A name, so that it stays different from what it would be without its control bytes."""
    return text if text is None or text.isprintable() else text.translate(_MARKED)


def claim_text(value: Any) -> str | None:
    """A claim as text: lists join with `,`, true and false are JSON's words, a mapping has no text."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple):
        texts = [claim_text(each) for each in value]
        return _joined([text for text in texts if text is not None])
    return None


def _joined(values: list[str]) -> str | None:
    if len(values) == 1:
        return values[0]
    return ",".join(values) if values else None


# ── escaping ────────────────────────────────────────────────────────────────────────────────────


def _escaped(
    get: Callable[[View], str | None], escape: Callable[[str], str], default: str | None
) -> Callable[[View], str | None]:
    def value(view: View) -> str | None:
        text = get(view)
        return default if text is None else escape(text.translate(_CONTROLS))

    return value


def _literal_for(where: Where) -> Callable[[str], str]:
    """The operator is trusted: in a path it may hold URL syntax, in a query it is text."""
    if where == "query":
        return percent_encode
    if where == "path":
        return lambda text: _NOT_IN_URLS.sub(lambda found: percent_encode(found[0]), text)
    return _as_it_came


def _escape_for(name: str, where: Where) -> Callable[[str], str]:
    if where == "json":
        return _json
    if where not in ("path", "query"):
        return _as_it_came
    if name == "query":
        return _as_it_came
    if name == "path" or name.startswith("path."):
        # They are percent-encoded already. In a query they must not become a separator:
        # `/users/1&admin=1` holds one segment, not a second parameter.
        return _as_it_came if where == "path" else _kept_apart
    if name == "host":
        return lambda text: quote(_bytes(text), safe="[]:")
    return percent_encode


def percent_encode(text: str) -> str:
    """Every byte but the unreserved ones of RFC 3986 as `%XX`."""
    return quote(_bytes(text), safe="")


def _as_it_came(text: str) -> str:
    return text


def _kept_apart(text: str) -> str:
    return _SEPARATORS.sub(lambda found: f"%{ord(found[0]):02X}", text)


def _json(text: str) -> str:
    # Bytes that are no UTF-8 have no JSON spelling: they become U+FFFD.
    return json.dumps(_bytes(text).decode("utf-8", "replace"), ensure_ascii=False)[1:-1]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
