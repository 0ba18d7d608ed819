"""Every failure that has a name: one class for each reason word of docs/reference/reasons.md.

Rules of this file: a class is data (reason, status, RFC 9209 type, what may be retried); the instance adds the detail that
operators see and clients see only with `expose_reason`. Nothing here knows aiohttp: foreign exceptions are translated
where they are met (`upstream/wire.py`, `relay.py`, `edge.py`). The same word goes into the metric, the access log,
`Proxy-Status` and the body, so there is no other table of words.
"""

from __future__ import annotations

from typing import ClassVar, Literal


class GatewayError(Exception):
    """A request that fails for a known reason. `detail` names targets and addresses: for operators only."""

    reason: ClassVar[str]
    status: ClassVar[int]
    proxy_error: ClassVar[str | None]
    """The RFC 9209 error type, or None where the failure is nobody's error (a client that left)."""
    title: ClassVar[str]
    confidential: ClassVar[bool] = False
    """Whether `expose_reason` shows clients no detail of it: it would teach who tries keys."""

    def __init__(self, detail: str = "", headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers
        """Fields that the answer must carry, such as Allow or Retry-After."""


class ClientError(GatewayError):
    """The request, or the client, is at fault."""

    proxy_error: ClassVar[str | None] = "http_request_error"


class NoRoute(ClientError):
    reason, status, title = "no_route", 404, "No route matches this request"
    proxy_error = "destination_not_found"


class NotFound(ClientError):
    reason, status, title = "not_found", 404, "Not found"
    proxy_error = "destination_not_found"


class MethodNotAllowed(ClientError):
    reason, status, title = "method_not_allowed", 405, "Method not allowed"


class BadRequest(ClientError):
    reason, status, title = "bad_request", 400, "Bad request"


class PlainHttp(BadRequest):
    """Plain HTTP on a listener with TLS."""

    title = "This port speaks HTTPS, and a plain HTTP request came to it"


class UpgradeRequired(BadRequest):
    """A WebSocket handshake in a version that nobody speaks (RFC 6455 section 4.2.2)."""

    status = 426

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, (("Sec-WebSocket-Version", "13"), ("Upgrade", "websocket")))


class BodyTooLarge(ClientError):
    reason, status, title = "body_too_large", 413, "Request body too large"


class UriTooLong(ClientError):
    reason, status, title = "uri_too_long", 414, "Request target too long"


class HeadTooLarge(ClientError):
    reason, status, title = "head_too_large", 431, "Request header fields too large"


class Misdirected(ClientError):
    reason, status, title = "misdirected", 421, "Misdirected request"


class Unauthenticated(ClientError):
    """Nobody is known by these credentials. `outcome` is for operators: a word of `gateway_auth_decisions_total`."""

    reason, status, title = "unauthenticated", 401, "Authentication is required"
    proxy_error = "http_request_denied"
    confidential = True

    def __init__(
        self,
        detail: str = "",
        headers: tuple[tuple[str, str], ...] = (),
        *,
        outcome: str = "missing",
    ) -> None:
        super().__init__(detail, headers)
        self.outcome = outcome


class Forbidden(ClientError):
    reason, status, title = "forbidden", 403, "Not allowed"
    proxy_error = "http_request_denied"
    confidential = True


class IpDenied(Forbidden):
    reason, status, title = "ip_denied", 403, "Not allowed from this address"


class RateLimited(ClientError):
    reason, status, title = "rate_limited", 429, "Too many requests"
    proxy_error = "http_request_denied"


class NotImplementedByGateway(ClientError):
    reason, status, title = "not_implemented", 501, "Not implemented"


class ClientTimeout(ClientError):
    """The client was too slow: head, body idle, body rate, or a reply that it does not read."""

    reason, status, title = "client_timeout", 408, "The client was too slow"


class ClientClosed(ClientError):
    """The client left. 499 stands in logs and metrics only: nobody is there to read it."""

    reason, status, title = "client_closed", 499, "The client left"
    proxy_error = None


class LoopDetected(ClientError):
    reason, status, title = "loop_detected", 508, "Loop detected"
    proxy_error = "proxy_loop_detected"


class Overload(GatewayError):
    """Nothing is wrong with the request; there is no room for it now."""

    proxy_error = "connection_limit_reached"


class TooManyConnections(Overload):
    reason, status, title = "too_many_connections", 503, "Too many connections"


class PoolTimeout(Overload):
    reason, status, title = "pool_timeout", 503, "No connection to the upstream became free in time"


class QueueFull(Overload):
    reason, status, title = "queue_full", 503, "Too many requests wait for the upstream"


class QueueTimeout(Overload):
    reason, status, title = "queue_timeout", 503, "No room at the upstream in time"


class ShuttingDown(Overload):
    reason, status, title = "shutting_down", 503, "The gateway is shutting down"
    proxy_error = "destination_unavailable"


class Overloaded(Overload):
    """The event loop is late, and requests of this importance are refused first (`server.overload`)."""

    reason, status, title = "overloaded", 503, "The gateway is overloaded"
    proxy_error = "destination_unavailable"


Retry = Literal["connect", "reset_before_response", "first_byte"]


class AuthUnavailable(GatewayError):
    """Who asks can not be told now: an identity provider, or a store, does not answer."""

    reason, status, title = "auth_unavailable", 503, "Authentication is not available now"
    proxy_error = "destination_unavailable"
    confidential = True


class UpstreamError(GatewayError):
    """The upstream, or the way to it, is at fault."""

    retry: ClassVar[Retry | None] = None
    """The word of `retry.on` that covers this failure; None: never tried again."""


class NoHealthyTarget(UpstreamError):
    """Every target is down, ejected or draining: nobody was asked."""

    reason, status, title = "no_healthy_target", 503, "No target of the upstream can be used now"
    proxy_error = "destination_unavailable"


class CircuitOpen(UpstreamError):
    """Too many tries have failed of late: nobody was asked."""

    reason, status, title = "circuit_open", 503, "The upstream is given time to recover"
    proxy_error = "destination_unavailable"


class DnsError(UpstreamError):
    reason, status, title = "dns_error", 502, "The upstream's name could not be resolved"
    proxy_error, retry = "dns_error", "connect"


class ConnectRefused(UpstreamError):
    reason, status, title = "connect_refused", 502, "The upstream refused the connection"
    proxy_error, retry = "connection_refused", "connect"


class ConnectTimeout(UpstreamError):
    reason, status, title = (
        "connect_timeout",
        504,
        "The upstream did not accept the connection in time",
    )
    proxy_error, retry = "connection_timeout", "connect"


class TlsError(UpstreamError):
    reason, status, title = "tls_error", 502, "The TLS handshake with the upstream failed"
    proxy_error, retry = "tls_protocol_error", "connect"


class UpstreamReset(UpstreamError):
    reason, status, title = "upstream_reset", 502, "The upstream closed the connection"
    proxy_error, retry = "connection_terminated", "reset_before_response"


class UpstreamIdleClosed(UpstreamReset):
    """A reused connection ended before any response byte. A client is told `upstream_reset`."""


class UpstreamHeaderTimeout(UpstreamError):
    reason, status, title = "upstream_header_timeout", 504, "The upstream did not answer in time"
    proxy_error, retry = "http_response_timeout", "first_byte"


class TotalTimeout(UpstreamError):
    reason, status, title = "total_timeout", 504, "The request took too long"
    proxy_error = "http_response_timeout"


class UpstreamBodyTimeout(UpstreamError):
    reason, status, title = "upstream_body_timeout", 504, "The upstream stopped sending"
    proxy_error = "http_response_incomplete"


class UpstreamBadResponse(UpstreamError):
    reason, status, title = "upstream_bad_response", 502, "The upstream sent an invalid response"
    proxy_error = "http_protocol_error"


class ResponseTooLarge(UpstreamError):
    reason, status, title = "response_too_large", 502, "The upstream sent too large a response head"
    proxy_error = "http_response_header_section_size"


class WebSocketTimeout(GatewayError):
    """A WebSocket that was idle or old; never a status, only a close."""

    reason, status, title = "websocket_timeout", 101, "The WebSocket was idle or too old"
    proxy_error = None


class FaultInjected(GatewayError):
    """Nothing failed: `fault.abort` of the route says so. Its status is the configured one, see `middleware/fault.py`."""

    reason, status, title = "fault_injected", 503, "A fault was injected"
    proxy_error = None


class InternalError(GatewayError):
    reason, status, title = "internal_error", 500, "Internal error"
    proxy_error = "proxy_internal_error"


def reasons() -> dict[str, type[GatewayError]]:
    """Every reason word with its class, walked from the classes themselves."""
    found: dict[str, type[GatewayError]] = {}
    todo: list[type[GatewayError]] = [GatewayError]
    while todo:
        kind = todo.pop()
        todo.extend(kind.__subclasses__())
        if "reason" in vars(kind):
            found[kind.reason] = kind
    return found
