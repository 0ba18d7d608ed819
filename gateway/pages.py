"""How a failure looks to a client: problem+json, a page, and the fields that say whose failure it
is.

Rules of this file: everything that can be read or compiled is at load. A client is told the
reason's word and title; the detail, which may name a target, only with `expose_reason`. What a
client wrote is escaped before it is shown. Answers of the gateway are `no-store`: RFC 9111 section
4.2.2 would let a cache keep a 404 or a 501 that ends with the next reload.
"""

from __future__ import annotations

import html
import json
import re
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.exchange import Reply
from gateway.middleware import conditional, respond, static
from gateway.routing.template import Template

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config import model
    from gateway.errors import GatewayError
    from gateway.exchange import Exchange

PROBLEM = b"application/problem+json"
HTML = b"text/html; charset=utf-8"
KEPT = frozenset((b"retry-after", b"www-authenticate", b"allow", b"set-cookie"))
"""What stays of an upstream's error whose page is replaced."""

_PHRASES = {int(status): status.phrase for status in HTTPStatus}
_TOKEN = re.compile(r"[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*")
_OWN = frozenset(("status", "title", "reason", "detail", "type"))
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{status} {title}</title>
<style>body{{font:16px/1.5 sans-serif;margin:15vh auto;max-width:36em;padding:0 1em}</style>
</head><body><h1>{status}</h1><p>{title}</p><p>{detail}</p><p><small>{reason}
{request_id}</small></p> </body></html>
"""


class Pages:
    """The error answers of a route, or of the server.

    Raises OSError for a page that cannot be read, ValueError for a placeholder that is unknown.
    """

    def __init__(self, errors: model.Errors, server_name: str) -> None:
        self._exposes = errors.expose_reason
        self._docs = errors.docs_url
        self._name = server_name if _TOKEN.fullmatch(server_name) else _quoted(server_name)
        self.intercepts = frozenset(errors.intercept)
        """Statuses of upstreams whose bodies are replaced by `intercepted`."""
        self._pages = {
            int(status): (
                Path(page.file).read_bytes(),
                static.media_type(page.file),
                page.when_accepts.lower() if page.when_accepts else None,
            )
            for status, page in errors.pages.items()
        }
        self._body: Callable[[dict[str, Any], Exchange], bytes] = _problem
        self._type = PROBLEM
        if errors.format == "html":
            self._body, self._type = _compile(_PAGE, html.escape), HTML
        elif errors.format == "template":
            if errors.template is None:
                raise ValueError("errors.format: template needs errors.template, a file")
            self._type = static.media_type(errors.template)
            escape = html.escape if self._type.startswith(b"text/html") else str
            self._body = _compile(Path(errors.template).read_text("utf-8"), escape)

    def render(self, error: GatewayError, exchange: Exchange) -> Reply:
        """The answer for a failure of the gateway's own, or that it found."""
        kind = f"; error={error.proxy_error}" if error.proxy_error else ""
        status = f'{self._name}{kind}; details="{error.reason}"'
        fields: dict[str, Any] = {
            "type": f"{self._docs}#{error.reason}" if self._docs else "about:blank",
            "title": error.title,
            "status": error.status,
            "reason": error.reason,
        }
        if self._exposes and error.detail and not error.confidential:
            fields["detail"] = error.detail
        reply = self._reply(fields, exchange, status)
        for name, value in error.headers:
            reply.add(name.encode("ascii"), value.encode("utf-8", "surrogateescape"))
        return reply

    def intercepted(self, upstream: Reply, exchange: Exchange) -> Reply:
        """The answer in place of an upstream's error; the caller ends the upstream's body."""
        code = upstream.status
        title = _PHRASES.get(code, "Error")
        fields: dict[str, Any] = {"type": "about:blank", "title": title, "status": code}
        reply = self._reply(fields, exchange, f"{self._name}; received-status={code}")
        reply.lines += [line for line in upstream.lines if line.partition(b":")[0].lower() in KEPT]
        return reply

    def _reply(self, fields: dict[str, Any], exchange: Exchange, proxy_status: str) -> Reply:
        if exchange.request_id:
            fields["request_id"] = exchange.request_id
        body, media_type = self._shown(fields, exchange)
        lines = [
            b"Content-Type: %b\r\n" % media_type,
            b"Cache-Control: no-store\r\n",
            b"Proxy-Status: %b\r\n" % proxy_status.encode("ascii", "replace"),
        ]
        return Reply(fields["status"], lines, body)

    def _shown(self, fields: dict[str, Any], exchange: Exchange) -> tuple[bytes, bytes]:
        page = self._pages.get(fields["status"])
        if page is not None:
            body, media_type, wanted = page
            if wanted is None or accepts(exchange.headers.getall("Accept", ()), wanted):
                return body, media_type
        return self._body(fields, exchange), self._type


def accepts(values: list[str] | tuple[()], media_type: str) -> bool:
    """Whether Accept asks for `media_type` (lower-case): by its name or its `type/*`.

    `*/*` asks for nothing in particular: programs send it, and problem+json serves them better.
    """
    wanted = conditional.weights(values)
    wildcard = media_type.partition("/")[0] + "/*"
    return wanted.get(media_type, wanted.get(wildcard, 0.0)) > 0


def _problem(fields: dict[str, Any], exchange: Exchange) -> bytes:  # noqa: ARG001 - as templates
    """RFC 9457; escapes are ASCII, so a detail with stray bytes is still JSON."""
    return json.dumps(fields).encode("ascii") + b"\n"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _compile(
    text: str, escape: Callable[[str], str]
) -> Callable[[dict[str, Any], Exchange], bytes]:
    """A page with placeholders: the request's, and `status title reason detail type`."""
    parts: list[str | Callable[[dict[str, Any], Exchange], str]] = []
    for index, piece in enumerate(respond.pieces(text)):
        name, _, default = piece.strip("{}").partition("|")
        if index % 2 == 0:
            parts.append(piece)
        elif name in _OWN:
            parts.append(_own(name, default))
        else:
            parts.append(_of_request(Template.compile(piece, where="text")))

    def page(fields: dict[str, Any], exchange: Exchange) -> bytes:
        shown = [
            part if isinstance(part, str) else escape(part(fields, exchange)) for part in parts
        ]
        return "".join(shown).encode("utf-8", "replace")

    return page


def _own(name: str, default: str) -> Callable[[dict[str, Any], Exchange], str]:
    return lambda fields, _: str(fields.get(name, default))


def _of_request(template: Template) -> Callable[[dict[str, Any], Exchange], str]:
    return lambda _, exchange: template.render(exchange)
