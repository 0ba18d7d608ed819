"""aiohttp's parser of request heads: how it is set up, and what it says in our words.

Rules of this file: pure. The whole head is bounded by edge.py; here are the bounds of its lines, and the answers to what
is no request at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import http_exceptions
from aiohttp.http_parser import HttpRequestParser
from aiohttp.web_protocol import MAX_MSG_QUEUE_SIZE, RequestPayloadError

from gateway import errors
from gateway.headers import unquoted

if TYPE_CHECKING:
    import asyncio

    from gateway.config import model

LINGER = 5.0
"""Seconds for which a client that still sends after an early answer is read, so that a reset does not destroy the answer."""
READ_BUFFER = 64 * 1024
_NEVER = 86_400.0 * 365
_PARTS = 16
"""Heads that are told apart in one segment: a client that pipelines more waits for answers first."""


def options(limits: model.Limits) -> dict[str, Any]:
    """Options for aiohttp's RequestHandler. The two line limits are made even and odd: see `named`."""
    return {
        "max_line_size": limits.request_line + limits.request_line % 2,
        "max_field_size": limits.request_head - 1 + limits.request_head % 2,
        "max_headers": limits.headers,
        "keepalive_timeout": _NEVER,
        "lingering_time": LINGER,
        "read_bufsize": READ_BUFFER,
        "auto_decompress": False,
        "access_log": None,
        "tcp_keepalive": True,
    }


def parser(
    protocol: Any, loop: asyncio.AbstractEventLoop, limits: model.Limits
) -> HttpRequestParser:
    """A parser like the one that aiohttp's RequestHandler makes for a connection with these `options`."""
    chosen = options(limits)
    return HttpRequestParser(
        protocol,
        loop,
        chosen["read_bufsize"],
        max_line_size=chosen["max_line_size"],
        max_field_size=chosen["max_field_size"],
        max_headers=chosen["max_headers"],
        payload_exception=RequestPayloadError,
        auto_decompress=False,
        max_msg_queue_size=MAX_MSG_QUEUE_SIZE,
    )


def apart(data: bytes) -> list[bytes]:
    """`data` cut behind its first heads, so that a parser fails at none but the broken one. Nothing is left out."""
    parts: list[bytes] = []
    start = 0
    while len(parts) < _PARTS and (end := data.find(b"\r\n\r\n", start)) >= 0:
        parts.append(data[start : end + 4])
        start = end + 4
    return [*parts, data[start:]] if start < len(data) else parts


def named(error: BaseException) -> errors.GatewayError:
    """What aiohttp's parser says of a head, in our words."""
    if isinstance(error, errors.GatewayError):
        return error
    if isinstance(error, http_exceptions.LineTooLong):
        # A target is bounded by max_line_size, a field by max_field_size, which is made to differ from it.
        return errors.UriTooLong() if int(error.args[1]) % 2 == 0 else errors.HeadTooLarge()
    if isinstance(error, http_exceptions.BadHttpMethod) and _token_then_space(error):
        if "b'PROXY " in str(error):
            return errors.BadRequest("a PROXY header of a peer that `proxy_protocol` does not name")
        return errors.NotImplementedByGateway("the method is unknown")
    if "Too many headers" in str(error):
        return errors.HeadTooLarge()
    if isinstance(error, http_exceptions.InvalidURLError):  # whose text is the URL
        return errors.BadRequest("the request target is not a valid URL")
    return errors.BadRequest(unquoted(error))


def _token_then_space(error: http_exceptions.BadHttpMethod) -> bool:
    # The message quotes the offending line: Bad status line: … \n\n  b'FOO / HTTP/1.1'
    _, _, quoted = str(error).partition("b'")
    word, space, _ = quoted.partition(" ")
    return bool(space) and word.replace("-", "").replace("_", "").isalnum()
