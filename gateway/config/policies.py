"""Policies, which may stand in `defaults`, upstreams (some), profiles and routes; and upstreams.

The rules are those of `model.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from gateway.config.addresses import (
    Count,
    HeaderName,
    HeaderValue,
    Method,
    Status,
    Token,
    UpstreamHost,
    Url,
    is_token,
)
from gateway.config.forms import Model, around, built_in
from gateway.config.scalars import ByteRate, Duration, Share, Size, refuse
from gateway.config.texts import FilePath, Regex, Watched
from gateway.config.words import nearest

if TYPE_CHECKING:
    from gateway.config.nodes import Map, Seq, Text


class Page(Model):
    """A page of your own for a status."""

    short = "file"

    file: FilePath = Field(description="the page, sent as it is")
    when_accepts: str | None = Field(None, description="only for clients that accept this type")


class Errors(Model):
    """What failures look like."""

    short = "format"

    format: Literal["problem+json", "html", "template"] = Field(
        "problem+json", description="the form of the body"
    )
    template: FilePath | None = Field(None, description="a file, for format: template")
    expose_reason: bool = Field(
        False, description="whether clients read what failed, addresses included"
    )
    docs_url: str | None = Field(None, description="where `type` points, with #reason")
    pages: dict[str, Page] = Field(default_factory=dict, description="status: a page of your own")
    intercept: tuple[Status, ...] = Field(
        (), description="statuses of upstreams that get the gateway's page"
    )


class Timeouts(Model):
    """How long to wait for what."""

    @classmethod
    def off_form(cls, value: Text) -> dict[str, Any]:
        """Every limit off."""
        return dict.fromkeys(cls.model_fields, value)

    pool_wait: Duration | None = Field(1.0, description="for a connection to be free")
    connect: Duration | None = Field(3.0, description="name, TCP and TLS of one try")
    first_byte: Duration | None = Field(30.0, description="request written to response head")
    idle: Duration | None = Field(
        60.0,
        description="the gap between bytes in either direction; built in: 5m for event streams",
    )
    total: Duration | None = Field(None, description="everything, over all tries")


_RETRY_WORDS = ("connect", "reset_before_response", "first_byte")


def _retry_on(value: object) -> str:
    word = str(value)
    if word in _RETRY_WORDS:
        return word
    if word.isascii() and word.isdigit():
        if 400 <= int(word) <= 599:
            return word
        raise refuse(f"{word}: only statuses from 400 to 599 can be tried again")
    raise refuse(f"{word!r} is nothing to try again on{nearest(word, _RETRY_WORDS, _RETRY_WORDS)}")


RetryOn = Annotated[str, BeforeValidator(_retry_on)]


class Retry(Model):
    """When a request is sent again."""

    short = "max"

    max: Annotated[int, Field(ge=0, le=10)] = Field(1, description="extra tries")
    on: tuple[RetryOn, ...] = Field(
        ("connect", "reset_before_response"),
        description='connect, reset_before_response, first_byte, or statuses such as "503"',
    )
    per_try: Duration | None = Field(None, description="one try, connect to head")
    budget: Share | None = Field(0.2, description="extra tries, as a share of first tries")
    methods: Literal["idempotent", "all"] | tuple[Method, ...] = Field(
        "idempotent", description="which methods may be sent again"
    )
    idempotency_key: HeaderName | None = Field(
        "Idempotency-Key", description="a field that makes any method repeatable"
    )
    replay_body: Size = Field(64 * 1024, description="bodies up to this size can be sent again")


class Body(Model):
    """The request's body."""

    short = "max"
    later = frozenset({"mode"})

    max: Size | None = Field(10 * 1024 * 1024, description="the largest (413)")
    min_rate: ByteRate | None = Field(None, description="the slowest, in place of the server's")

    @classmethod
    def full_form(cls, value: Text | Seq) -> Map:
        """`10MiB`, `unlimited`, `off`: the largest body."""
        if not isinstance(value, str):
            raise refuse("a size such as 10MiB is wanted, not a list")
        return around(value, {"max": value})


class HeaderEdits(Model):
    """What is changed in a head."""

    set: dict[HeaderName, HeaderValue | None] = Field(
        default_factory=dict, description="name: value; null takes an inherited entry away"
    )
    add: dict[HeaderName, HeaderValue | tuple[HeaderValue, ...]] = Field(
        default_factory=dict, description="name: value or values, beside what is there"
    )
    remove: tuple[HeaderName, ...] = Field((), description="names")


class ResponseHeaderEdits(HeaderEdits):
    """What is changed in the response's head."""

    rewrite_location: bool = Field(
        False, description="whether Location is put back under what clients asked for"
    )


class Headers(Model):
    """What is changed in either head."""

    request: HeaderEdits = Field(
        default_factory=built_in(HeaderEdits), description="on the way to the upstream"
    )
    response: ResponseHeaderEdits = Field(
        default_factory=built_in(ResponseHeaderEdits), description="on the way to the client"
    )


class QueryEdits(Model):
    """What is changed in the query."""

    set: dict[str, str] = Field(default_factory=dict, description="name: the only value")
    add: dict[str, str | tuple[str, ...]] = Field(
        default_factory=dict, description="name: value or values, beside what is there"
    )
    remove: tuple[str, ...] = Field((), description="names")


class RegexRewrite(Model):
    """The part of the path that matches is replaced."""

    match: Regex = Field(description="what to look for, anchored as written")
    replace: Watched = Field(description=r"what to put there; \1 is the first group")


class Rewrite(Model):
    """What becomes of the path, the query and the host on the way to the upstream."""

    strip_prefix: Watched | None = Field(None, description="taken off the path")
    add_prefix: Watched | None = Field(None, description="put before the path")
    path: Watched | None = Field(None, description="the new path; placeholders are filled in")
    regex: RegexRewrite | None = Field(None, description="replace a part of the path")
    host: str | None = Field(None, description="the Host that the upstream sees")
    query: QueryEdits = Field(default_factory=built_in(QueryEdits), description="parameters")


class WebSocket(Model):
    """WebSocket tunnels."""

    later = frozenset({"per_consumer", "max_message"})

    idle: Duration | None = Field(300.0, description="without a byte in either direction")
    max_age: Duration | None = Field(None, description="then it is closed")


class Policies(Model):
    """What a route may set for itself or inherit."""

    later = frozenset(
        (
            *("auth", "allow", "rate_limit", "cors", "security_headers", "hsts", "csrf"),
            *("compress", "cache", "hedge", "deadline", "buffer", "validate", "mirror"),
            *("importance", "slo", "fault", "plugins", "forward_credentials"),
        )
    )
    elsewhere: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("balance", "pool", "tls", "targets"), "write it in an upstream"),
        **dict.fromkeys(
            ("sticky", "slow_start", "health", "eject", "panic", "circuit", "concurrency"),
            "it belongs to upstreams, where it is not supported yet",
        ),
        "discover": "it belongs to upstreams, where it is not supported yet",
        "upstream": "write to: NAME",
    }

    timeouts: Timeouts = Field(
        default_factory=built_in(Timeouts), description="how long to wait for what"
    )
    retry: Retry | None = Field(
        default_factory=built_in(Retry), description="when a request is sent again"
    )
    body: Body = Field(default_factory=built_in(Body), description="the request's body")
    headers: Headers = Field(default_factory=built_in(Headers), description="edits of heads")
    rewrite: Rewrite = Field(default_factory=built_in(Rewrite), description="path and query")
    websocket: WebSocket | None = Field(
        default_factory=built_in(WebSocket), description="off: not let through"
    )
    upgrade: tuple[Token, ...] = Field((), description="other protocols to let through")
    access_log: bool = Field(True, description="whether requests are logged")
    errors: Errors = Field(default_factory=built_in(Errors), description="what failures look like")


# ── upstreams ───────────────────────────────────────────────────────────────────────────────────


class Target(Model):
    """One address of an upstream."""

    short = "url"
    later = frozenset({"labels", "backup"})

    url: Url = Field(description="http://HOST:PORT, https://HOST or unix:PATH")
    weight: Count = Field(1, description="its share, compared with the others'")


class Pool(Model):
    """Connections that an upstream keeps."""

    short = "max"

    max: Count | None = Field(100, description="connections to one target")
    idle: Duration = Field(4.0, description="an unused one is closed after this")
    max_age: Duration | None = Field(None, description="none is older than this")


class UpstreamTls(Model):
    """TLS towards https targets."""

    verify: bool = Field(True, description="whether certificates are checked")
    ca: FilePath | None = Field(None, description="certificates to trust, in place of the system's")
    cert: FilePath | None = Field(None, description="the gateway's own certificate")
    key: FilePath | None = Field(None, description="its key")
    server_name: str | None = Field(None, description="the name to ask for and to check")


_LATER_BALANCE = ("random", "least_requests", "ewma")


def _balance(value: object) -> object:
    word = str(value)
    if word in ("p2c", "round_robin"):
        return word
    if word in _LATER_BALANCE or word.startswith("hash:"):
        raise refuse(f"{word} is not supported yet: write p2c or round_robin")
    raise refuse(f"{word} is no way to balance: write p2c or round_robin")


Balance = Annotated[Literal["p2c", "round_robin"], BeforeValidator(_balance)]


class Upstream(Model):
    """A named group of targets and how one is chosen."""

    short = "targets"
    later = frozenset(
        (
            *("sticky", "slow_start", "health", "eject", "panic", "circuit", "concurrency"),
            *("discover", "buffer", "deadline", "hedge"),
        )
    )
    elsewhere = dict.fromkeys(
        (
            *("body", "headers", "rewrite", "websocket", "upgrade", "access_log", "errors"),
            *("path", "methods", "when", "use", "priority"),
        ),
        "write it in the route",
    )

    @classmethod
    def full_form(cls, value: Text | Seq) -> Map:
        """A URL or a list of them."""
        return around(value, {"targets": value})

    targets: Annotated[tuple[Target, ...], Field(min_length=1)] = Field(
        description="URLs, or {url, weight}"
    )
    balance: Balance = Field("p2c", description="p2c or round_robin")
    pool: Pool = Field(default_factory=built_in(Pool), description="connections")
    host: UpstreamHost = Field("pass", description="the Host it sees: pass, target or a name")
    tls: UpstreamTls = Field(default_factory=built_in(UpstreamTls), description="towards targets")
    timeouts: Timeouts = Field(
        default_factory=built_in(Timeouts), description="how long to wait for what"
    )
    retry: Retry | None = Field(
        default_factory=built_in(Retry), description="when a request is sent again"
    )


def upgrade_problem(name: str) -> str | None:
    """Why a protocol cannot be let through by `upgrade:`; None: it can."""
    if name.lower() == "h2c":
        return "h2c is never let through: it would hide requests from the gateway"
    if name.lower() == "websocket":
        return "websocket is let through already: `websocket: off` is its switch"
    return None if is_token(name) else f"{name!r} is no name of a protocol"
