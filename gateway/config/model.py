"""The whole file format as frozen models: a field's description is its documentation.

Rules of this file and of `policies.py`, `upstreams.py` and `answers.py`, which it shows as one: names and meanings
are those that users type. Nothing here reads a file, merges layers or looks at another section:
`loading` does the first, `merge` the second, `check` the third. `None` means `off` or `unlimited`;
what was written is told from what is built in by `model_fields_set`. Seconds are floats, sizes are
bytes. Defaults are shared between all instances: nobody changes a value of a model.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from gateway.config import addresses
from gateway.config.addresses import Count, HeaderName, Port, RealPort
from gateway.config.allow import Allow, ClaimTest
from gateway.config.answers import (
    Branch,
    InlineTest,
    Match,
    PathPattern,
    Redirect,
    Respond,
    Static,
    TestExpect,
    TestRequest,
    ValueTest,
    When,
)
from gateway.config.auth import (
    ApiKey,
    AuthPolicy,
    Basic,
    ForwardAuth,
    Hmac,
    Introspection,
    Jwt,
    Mtls,
    Oidc,
    Session,
)
from gateway.config.auth import Method as AuthMethod
from gateway.config.browser import Cors, Hsts, Origin, SecurityHeaders
from gateway.config.forms import Model, around, built_in
from gateway.config.limits import Limited, Rate, RateLimit, Store, parse_quota
from gateway.config.policies import (
    Abort,
    Body,
    Buffer,
    Compare,
    Deadline,
    Delay,
    Errors,
    Fault,
    HeaderEdits,
    Headers,
    Hedge,
    Mirror,
    Page,
    Policies,
    QueryEdits,
    RegexRewrite,
    ResponseHeaderEdits,
    Retry,
    Rewrite,
    Timeouts,
    WebSocket,
)
from gateway.config.ranges import Period, Quantile, StatusRange
from gateway.config.scalars import ByteRate, Duration, Network, Share, Size, refuse
from gateway.config.texts import FilePath, Secret
from gateway.config.tls import Certificate, ListenerTls, ProxyProtocol
from gateway.config.upstreams import (
    Balance,
    Circuit,
    Concurrency,
    Discover,
    Eject,
    Expect,
    Health,
    Pool,
    Sticky,
    Target,
    Upstream,
    UpstreamTls,
    hash_key,
)

if TYPE_CHECKING:
    from gateway.config.nodes import Map, Seq, Text

__all__ = [
    "Abort",
    "AccessLog",
    "Admin",
    "Allow",
    "ApiKey",
    "AuthMethod",
    "AuthPolicy",
    "Balance",
    "Basic",
    "Bind",
    "Body",
    "Branch",
    "Buffer",
    "Certificate",
    "Circuit",
    "ClaimTest",
    "Compare",
    "Concurrency",
    "Cors",
    "Deadline",
    "Delay",
    "Discover",
    "Eject",
    "Errors",
    "Expect",
    "Fault",
    "ForwardAuth",
    "HeaderEdits",
    "Headers",
    "Health",
    "Hedge",
    "Hmac",
    "Hsts",
    "InlineTest",
    "Introspection",
    "Jwt",
    "Limited",
    "Limits",
    "Listener",
    "ListenerTls",
    "LogFields",
    "Match",
    "Metrics",
    "Mirror",
    "Model",
    "Mtls",
    "Observability",
    "Oidc",
    "Origin",
    "Overload",
    "Page",
    "PathPattern",
    "Policies",
    "Pool",
    "ProxyProtocol",
    "Quantile",
    "QueryEdits",
    "Rate",
    "RateLimit",
    "Redirect",
    "RedirectToHttps",
    "RegexRewrite",
    "RequestId",
    "Respond",
    "ResponseHeaderEdits",
    "Retry",
    "Rewrite",
    "Sample",
    "SecurityHeaders",
    "Server",
    "Session",
    "Shutdown",
    "Static",
    "StatusRange",
    "Sticky",
    "Store",
    "Target",
    "TestExpect",
    "TestRequest",
    "Timeouts",
    "Upstream",
    "UpstreamTls",
    "ValueTest",
    "WebSocket",
    "When",
    "hash_key",
    "parse_quota",
]


# ── server ──────────────────────────────────────────────────────────────────────────────────────


class RequestId(Model):
    """The id that every request bears, in logs and upstream."""

    short = "header"

    header: HeaderName = Field("X-Request-Id", description="the field that carries it")
    trust: Literal["trusted_proxies", "all", "none"] = Field(
        "trusted_proxies", description="whose ids are taken over"
    )
    echo: bool = Field(True, description="whether the answer carries it too")


class Limits(Model):
    """What one client, or all of them, may use."""

    connections: Count | None = Field(10_000, description="open connections in all")
    request_head: Size = Field(16 * 1024, description="request line and fields together (431)")
    request_line: Size = Field(8 * 1024, description="the request target: path and query (414)")
    headers: Count = Field(100, description="number of fields (431)")
    connections_per_ip: Count | None = Field(None, description="open connections of one address")
    requests_per_connection: Count | None = Field(None, description="then it is closed")
    header_timeout: Duration | None = Field(10.0, description="for a whole request head")
    body_idle: Duration | None = Field(30.0, description="between two pieces of a request body")
    body_min_rate: ByteRate | None = Field(None, description="the slowest body that is read")
    keepalive_idle: Duration | None = Field(75.0, description="between two requests")


class Shutdown(Model):
    """How the gateway goes down."""

    ready_delay: Duration = Field(5.0, description="accepting still, while ready says no")
    grace: Duration = Field(30.0, description="for requests under way")
    websocket_grace: Duration | None = Field(None, description="for WebSockets; off: as grace")


def _one(value: int) -> int:
    if value > 1:
        raise refuse("more than one worker is not supported yet: write 1")
    return value


Workers = Annotated[Count, AfterValidator(_one)]


class Overload(Model):
    """When the gateway itself is too slow, requests of little importance are answered 503."""

    loop_lag: Period = Field(0.25, description="how late the event loop may be")
    for_: Duration = Field(2.0, alias="for", description="for how long, before it counts")
    shed: tuple[Literal["low", "normal"], ...] = Field(
        ("low",), description="routes of which importance, lowest first"
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.shed:
            raise refuse("shed: nothing is refused: write overload: off")
        return self


SHORTEST_SECRET = 16
"""Characters: what is shorter can be guessed by who has seen one signature."""


def _long(secret: Secret) -> Secret:
    if len(secret) < SHORTEST_SECRET:
        raise refuse(
            f"at least {SHORTEST_SECRET} characters are wanted: write what `openssl rand -hex 32` "
            "prints into a file, and ${file:…} here"
        )
    return secret


class Server(Model):
    """What holds for all requests."""

    later = frozenset({"reload"})

    name: str = Field("gateway", description="in Proxy-Status, Via and Server")
    workers: Workers = Field(1, description="processes; 1 is supported")
    trusted_proxies: tuple[Network, ...] = Field((), description="who may set X-Forwarded-*")
    forwarded: Literal["x-forwarded", "rfc7239", "both", "off"] = Field(
        "x-forwarded", description="which fields tell upstreams about the client"
    )
    request_id: RequestId | None = Field(
        default_factory=built_in(RequestId), description="the id of a request"
    )
    ambiguous_paths: Literal["reject", "resolve", "keep"] = Field(
        "reject", description="what to do with a path that can be read two ways"
    )
    underscore_headers: Literal["keep", "drop", "reject"] = Field(
        "drop", description="what to do with fields such as X_Y"
    )
    secret: tuple[Annotated[Secret, AfterValidator(_long)], ...] = Field(
        (), description="signs cookies; of a list the first signs and each is accepted"
    )
    overload: Overload | None = Field(
        default_factory=built_in(Overload), description="which requests are refused when it lags"
    )
    limits: Limits = Field(default_factory=built_in(Limits), description="of clients")
    shutdown: Shutdown = Field(default_factory=built_in(Shutdown), description="how it ends")

    @model_validator(mode="after")
    def _one_word(self) -> Self:
        if not addresses.is_token(self.name):
            raise refuse(f"name: {self.name!r} must be one word of letters, digits, - and .")
        return self


class RedirectToHttps(Model):
    """Answer 308 to the same host and target over https."""

    short = "port"

    port: RealPort = Field(443, description="of the https listener, as clients see it")


class Bind(Model):
    """Where a listener listens: `host` and `port`, or `unix`."""

    host: str | None = Field(None, description="an address, or a name of this machine")
    port: Port | None = Field(None, description="0 takes a free one")
    unix: FilePath | None = Field(None, description="the path of a unix socket")
    mode: str | None = Field(None, description='of the unix socket, octal, such as "0660"')

    @classmethod
    def full_form(cls, value: Text | Seq) -> Map:
        """`host:port` or `unix:/path`."""
        if not isinstance(value, str):
            raise refuse("an address such as 127.0.0.1:8080 is wanted, not a list")
        try:
            parts = addresses.split_bind(value)
        except ValueError as error:
            raise refuse(str(error)) from None
        return around(value, {key: value.derive(part) for key, part in parts.items()})

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.unix is None) == (self.port is None):
            raise refuse("bind takes host and port, or unix: such as 127.0.0.1:8080")
        if self.unix is None and self.host is None:
            raise refuse(f"host is missing: write 127.0.0.1:{self.port} or 0.0.0.0:{self.port}")
        if self.unix is not None and self.host is not None:
            raise refuse("a unix socket has no host")
        if self.mode is not None and self.unix is None:
            raise refuse("mode is for unix sockets only")
        if self.mode is not None and not re.fullmatch(r"0?[0-7]{3}", self.mode):
            raise refuse(f"mode {self.mode!r} is not octal: write '0660'")
        return self

    def __str__(self) -> str:
        """The short form."""
        if self.unix is not None:
            return f"unix:{self.unix}"
        host = self.host or ""
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


class Listener(Model):
    """Where clients connect."""

    short = "bind"

    bind: Bind = Field(description="HOST:PORT or unix:PATH")
    name: str = Field("", description="for `when: {listener: …}`; default: the address as written")
    redirect_to_https: RedirectToHttps | None = Field(
        None, description="send everyone to the same place over https"
    )
    tls: ListenerTls | None = Field(None, description="certificates, and who is asked for one")
    proxy_protocol: ProxyProtocol | None = Field(
        None, description="who may say whose a connection is"
    )


class Admin(Model):
    """Where metrics, health and state are read."""

    short = "bind"
    later = frozenset({"write"})

    bind: Bind = Field(
        default_factory=built_in(Bind, host="127.0.0.1", port=9901),
        description="HOST:PORT or unix:PATH",
    )
    token: Secret | None = Field(None, description="asked for as a Bearer token")
    metrics_token: bool = Field(False, description="whether /metrics asks for it too")


# ── observability ───────────────────────────────────────────────────────────────────────────────


class Metrics(Model):
    """What Prometheus reads."""

    buckets: tuple[Duration, ...] = Field(
        (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        description="upper bounds of the histograms of times",
    )
    max_label_values: Count = Field(200, description="values of one label; then _other")

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if not self.buckets or list(self.buckets) != sorted(set(self.buckets)):
            raise refuse("buckets: each must be longer than the one before")
        return self


class Sample(Model):
    """Which requests are written to the access log."""

    success: Share = Field(1.0, description="of requests that were answered below 400")
    errors: Share = Field(1.0, description="of the others")
    slower_than: Duration | None = Field(None, description="slower ones are always written")


class LogFields(Model):
    """What is added to a line of the access log, and hidden in it."""

    add: dict[str, str] = Field(default_factory=dict, description="name: text with placeholders")
    mask: tuple[str, ...] = Field((), description="such as header.x-token, cookie.sid, query.sig")


class AccessLog(Model):
    """One line for each request."""

    short = "format"

    format: str = Field("json", description="json, combined, or a text with placeholders")
    file: FilePath | None = Field(None, description="default: standard output")
    sample: Sample = Field(default_factory=built_in(Sample), description="which requests")
    fields: LogFields = Field(default_factory=built_in(LogFields), description="add and mask")


class Observability(Model):
    """What is seen of the gateway's work."""

    later = frozenset({"tracing"})

    metrics: Metrics = Field(default_factory=built_in(Metrics), description="what is counted")
    access_log: AccessLog | None = Field(
        default_factory=built_in(AccessLog), description="one line for each request"
    )
    server_timing: Literal["off", "trusted", "all"] = Field(
        "off", description="who is told in Server-Timing where the time went"
    )
    traceparent: Literal["pass", "create"] = Field(
        "pass", description="whether a trace is begun where the client has none"
    )
