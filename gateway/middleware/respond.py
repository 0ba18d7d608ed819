"""`respond:`: an answer that stands in the configuration.

Rules of this file: what is constant is bytes before the first request. A value from a request is
escaped for the place that it goes to: JSON in `json`, HTML in a body that is sent as HTML, nothing
in plain text.
"""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING

from gateway.exchange import Reply
from gateway.middleware.edit_headers import field
from gateway.routing.template import Template

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config import effective, model
    from gateway.exchange import Exchange, Handler
    from gateway.middleware.base import Build

_PLACEHOLDER = re.compile(r"(\{\{|\{[a-z_.0-9-]+(?:\|[^{}]*)?\})")


def pieces(text: str) -> list[str]:
    """Literal text and placeholders in turn: every second one, from the second, is a placeholder.

    `{{` counts as one: it is a literal brace for Template too.
    """
    return _PLACEHOLDER.split(text)


def escaping(text: str, escape: Callable[[str], str]) -> Callable[[Exchange], str]:
    """`text` as a function that escapes what its placeholders yield, and nothing else.

    Raises ValueError for a placeholder that is unknown.
    """
    parts = pieces(text)
    fixed = parts[::2]
    made = [Template.compile(part, where="text") for part in parts[1::2]]

    def render(exchange: Exchange) -> str:
        texts = [fixed[0]]
        for template, behind in zip(made, fixed[1:], strict=True):
            texts.append(escape(template.render(exchange)))
            texts.append(behind)
        return "".join(texts)

    return render


def answer(
    settings: model.Respond,
    route: effective.Route,  # noqa: ARG001 - every kind of answer is given it
    build: Build,  # noqa: ARG001
) -> Handler:
    """The handler of a route that responds. Raises ValueError for an unknown placeholder."""
    headers = [field(name, value) for name, value in settings.headers.items() if value is not None]
    written = next(
        (value for name, value in settings.headers.items() if name.lower() == "content-type"), None
    )
    body, media_type = _body(settings, (written or "").lower().startswith("text/html"))
    first = [b"Content-Type: %b\r\n" % media_type] if media_type and written is None else []
    status = settings.status

    def respond(exchange: Exchange) -> Reply:
        lines = first[:]
        for prefix, template in headers:
            value = template.render_or_none(exchange)
            if value is not None:
                lines.append(prefix + value.encode("utf-8", "surrogateescape") + b"\r\n")
        return Reply(status, lines, body(exchange))

    if not all(template.constant is not None for _, template in headers):
        return respond
    lines = first + [
        prefix + (template.constant or "").encode("utf-8", "surrogateescape") + b"\r\n"
        for prefix, template in headers
    ]

    def respond_constantly(exchange: Exchange) -> Reply:
        return Reply(status, lines[:], body(exchange))

    return respond_constantly


def _body(settings: model.Respond, as_html: bool) -> tuple[Callable[[Exchange], bytes], bytes]:
    """How the body is made, and its media type, empty where there is no body."""
    if settings.json_ is not None:
        # The dump's own braces are never placeholders: a quote stands behind each.
        text = json.dumps(settings.json_, ensure_ascii=False)
        return _rendered(Template.compile(text, where="json")), b"application/json"
    if settings.body is None:
        return _constant(b""), b""
    template = Template.compile(settings.body, where="text")
    if as_html and template.constant is None:
        page = escaping(settings.body, html.escape)
        return lambda exchange: page(exchange).encode("utf-8", "surrogateescape"), b"text/html"
    return _rendered(template), b"text/plain; charset=utf-8"


def _rendered(template: Template) -> Callable[[Exchange], bytes]:
    if template.constant is not None:
        return _constant(template.constant.encode("utf-8", "surrogateescape"))
    return lambda exchange: template.render(exchange).encode("utf-8", "surrogateescape")


def _constant(body: bytes) -> Callable[[Exchange], bytes]:
    return lambda _: body
