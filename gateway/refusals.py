"""What a request's head is refused for by itself, whatever the routes say.

Rules of this file: pure, and nothing of aiohttp, so that `explain` and the inline tests can ask. The socket is answered by
aiohttp's parser, by `edge.py`, and by `inbound.py`, which asks here what the parser does not know; tests/test_refusals.py
sends every rule that stands here over a connection and compares, so none can learn a rule without the others.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway import errors
from gateway.exchange import Reply
from gateway.headers import content_length

if TYPE_CHECKING:
    from gateway.config import model
    from gateway.exchange import RawFields

FORWARDABLE = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
"""What Allow says where a method is refused for itself."""
NEVER = frozenset(("CONNECT", "TRACE"))
_KNOWN = frozenset(
    ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "ACL", "BIND",
     "CHECKOUT", "COPY", "LINK", "LOCK", "M-SEARCH", "MERGE", "MKACTIVITY", "MKCALENDAR",
     "MKCOL", "MOVE", "NOTIFY", "PROPFIND", "PROPPATCH", "PURGE", "REBIND", "REPORT",
     "SEARCH", "SOURCE", "SUBSCRIBE", "UNBIND", "UNLINK", "UNLOCK", "UNSUBSCRIBE", "CONNECT",
     "TRACE")
)  # fmt: skip
_OF_OTHER_PROTOCOLS = frozenset(
    ("PRI", "DESCRIBE", "ANNOUNCE", "SETUP", "PLAY", "PAUSE", "TEARDOWN", "GET_PARAMETER",
     "SET_PARAMETER", "REDIRECT", "RECORD", "FLUSH")
)  # fmt: skip
"""Of HTTP/2's preface and of RTSP: the parser knows them, and that HTTP/1.1 has none of them."""
_NAMED = re.compile(r"[A-Za-z0-9_-]+")
_ONCE = frozenset(
    b"content-length content-location content-range content-type etag host max-forwards server transfer-encoding"
    b" user-agent".split()
)
"""Fields that aiohttp's parser takes once at most."""
_HOST = re.compile(
    r"(?:[A-Za-z0-9_~-]+(?:\.[A-Za-z0-9_~-]+)*\.?|\[[0-9A-Fa-f:.]+\])(?::([0-9]{0,5}))?"
)


def check(method: str, target: str, fields: RawFields, limits: model.Limits) -> None:
    """Refuse a head that the gateway would refuse unseen by any route.

    `target`: in origin form, as sent. Raises errors.ClientError.
    """
    _sizes(method, target, fields, limits)
    _method(method)
    _once(fields)
    named = {name.lower(): value for name, value in fields}
    _framing(named)
    if method in NEVER:
        raise never_forwarded(method)
    if not is_host(named.get(b"host", b"").decode("utf-8", "surrogateescape")):
        raise errors.BadRequest("the Host field is not a host")
    coding = named.get(b"transfer-encoding", b"").strip(b" \t").lower()
    if coding not in (b"", b"chunked"):
        raise errors.NotImplementedByGateway("a transfer coding other than chunked")


def never_forwarded(method: str) -> errors.MethodNotAllowed:
    """What is said to one of the methods that are `NEVER` forwarded."""
    return errors.MethodNotAllowed(f"{method} is never forwarded", (("Allow", FORWARDABLE),))


def options() -> Reply:
    """The answer to an OPTIONS that is for the gateway itself (RFC 9110 section 9.3.7)."""
    return Reply(204, [b"Allow: %b\r\n" % FORWARDABLE.encode()])


def is_host(authority: str) -> bool:
    """Whether a Host field is a host, with a port or without (RFC 9112 section 3.2)."""
    found = _HOST.fullmatch(authority)
    return found is not None and int(found[1] or 0) <= 65_535


def goes_no_further(method: str, hops: str) -> bool:
    """Whether Max-Forwards ends an OPTIONS here, so that it is answered 204 (RFC 9110 section 7.6.2)."""
    # Not by int(): it takes digits of other scripts, and raises for very long ones.
    return method == "OPTIONS" and hops != "" and not hops.strip("0")


def _sizes(method: str, target: str, fields: RawFields, limits: model.Limits) -> None:
    length = len(target.encode("utf-8", "surrogateescape"))
    most = limits.request_line + limits.request_line % 2  # as heads.options tells the parser
    if length > most:
        raise errors.UriTooLong(f"the target has {length} bytes, {most} are allowed")
    size = len(method) + length + 14 + sum(len(name) + len(value) + 4 for name, value in fields)
    if size > limits.request_head:
        raise errors.HeadTooLarge(f"the head has {size} bytes, {limits.request_head} are allowed")
    if len(fields) > limits.headers:
        raise errors.HeadTooLarge(f"{len(fields)} fields, {limits.headers} are allowed")


def _method(method: str) -> None:
    if method in _KNOWN:
        return
    if method in _OF_OTHER_PROTOCOLS or not _NAMED.fullmatch(method):
        raise errors.BadRequest(f"{method} is no method of HTTP")
    raise errors.NotImplementedByGateway(f"the method {method} is unknown")


def _once(fields: RawFields) -> None:
    seen: set[bytes] = set()
    for name, _ in fields:
        lower = name.lower()
        if lower in seen:
            raise errors.BadRequest(f"{name.decode('latin-1')} stands twice")
        if lower in _ONCE:
            seen.add(lower)


def _framing(named: dict[bytes, bytes]) -> None:
    """RFC 9112 section 6: what two readers could cut at two places."""
    length, coding = named.get(b"content-length"), named.get(b"transfer-encoding")
    if length is not None and content_length(length.strip(b" \t")) is None:
        raise errors.BadRequest("the Content-Length is not a number")
    if not coding:
        return
    if length is not None:
        raise errors.BadRequest("both a Content-Length and a transfer coding")
    codings = [one.strip() for one in coding.lower().split(b",")]
    if codings[-1] != b"chunked" or codings.count(b"chunked") != 1:
        raise errors.BadRequest(
            "the last transfer coding is not chunked, or it is not the only one"
        )
