"""aiohttp's parser of request heads: how it is set up, and what it says in our words.

Rules of this file: pure. The whole head is bounded by edge.py; here are the bounds of its lines, and the answers to what
is no request at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import http_exceptions

from gateway import errors

if TYPE_CHECKING:
    from gateway.config import model

LINGER = 5.0
"""Seconds for which a client that still sends after an early answer is read, so that a reset does not destroy the answer."""
READ_BUFFER = 64 * 1024
_NEVER = 86_400.0 * 365


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


def named(error: BaseException) -> errors.GatewayError:
    """What aiohttp's parser says of a head, in our words."""
    if isinstance(error, errors.GatewayError):
        return error
    if isinstance(error, http_exceptions.LineTooLong):
        # A target is bounded by max_line_size, a field by max_field_size, which is made to differ from it.
        return errors.UriTooLong() if int(error.args[1]) % 2 == 0 else errors.HeadTooLarge()
    if isinstance(error, http_exceptions.BadHttpMethod) and _token_then_space(error):
        return errors.NotImplementedByGateway("the method is unknown")
    if "Too many headers" in str(error):
        return errors.HeadTooLarge()
    return errors.BadRequest(str(error))


def _token_then_space(error: http_exceptions.BadHttpMethod) -> bool:
    # The message quotes the offending line: Bad status line: … \n\n  b'FOO / HTTP/1.1'
    _, _, quoted = str(error).partition("b'")
    word, space, _ = quoted.partition(" ")
    return bool(space) and word.replace("-", "").replace("_", "").isalnum()
