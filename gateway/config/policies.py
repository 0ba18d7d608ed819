"""Policies, which may stand in `defaults`, upstreams (some), profiles and routes.

The rules are those of `model.py`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from gateway.config import later
from gateway.config.addresses import (
    Count,
    HeaderName,
    HeaderValue,
    Method,
    Status,
    Token,
    is_token,
)
from gateway.config.allow import Allow
from gateway.config.browser import Cors, Hsts, SecurityHeaders
from gateway.config.forms import TRUE, Model, around, built_in
from gateway.config.limits import Limited
from gateway.config.nodes import Map, Seq, Text
from gateway.config.ranges import Mode, Percent, Period, Quantile, TimeOrQuantile
from gateway.config.scalars import ByteRate, Duration, Share, Size, Trap, read_text, refuse
from gateway.config.texts import FilePath, Regex, Watched
from gateway.config.words import nearest

UPSTREAM_ONLY = (
    *("balance", "sticky", "slow_start", "health", "eject", "panic", "circuit", "concurrency"),
    *("pool", "tls", "targets", "discover"),
)
"""Keys of upstreams that no route, profile or policy has."""


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


_RETRY_METHODS = ("idempotent", "all")


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

    @field_validator("methods", mode="before")
    @classmethod
    def _no_other_word(cls, value: object) -> object:
        """A word that is misspelt would be taken for a method that nobody asks with."""
        for word in value if isinstance(value, list | tuple) else (value,):
            if isinstance(word, str) and word.islower() and word not in _RETRY_METHODS:
                raise refuse(
                    f"{word!r} is neither {' nor '.join(_RETRY_METHODS)}, nor a method such as GET"
                    f"{nearest(word, _RETRY_METHODS)}"
                )
        return value


class Body(Model):
    """The request's body."""

    short = "max"

    max: Size | None = Field(10 * 1024 * 1024, description="the largest (413)")
    min_rate: ByteRate | None = Field(None, description="the slowest, in place of the server's")
    mode: Mode = Field("enforce", description="report: refuse no larger one, only count")

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

    later = frozenset({"max_message"})

    idle: Duration | None = Field(300.0, description="without a byte in either direction")
    max_age: Duration | None = Field(None, description="then it is closed")
    per_consumer: Count | None = Field(
        None, description="open at once for each client that `auth` knows, on this route"
    )


class Buffer(Model):
    """Whole bodies in memory, so that a slow client does not hold a worker of the upstream."""

    request: Size | None = Field(
        None, description="gathered up to this size before a target is chosen"
    )
    response: Size | None = Field(None, description="read ahead of a slow client up to this size")

    @classmethod
    def full_form(cls, value: Text | Seq) -> Map:
        """One size for both ways."""
        if not isinstance(value, Text) or (value in TRUE and value.plain):
            raise refuse("a size such as 1MiB is wanted, or {request: 1MiB, response: 1MiB}")
        return around(value, {"request": value, "response": value})

    @classmethod
    def adjusted(cls, value: Map) -> Map:
        """Here the absence of a limit would not be the same as off."""
        endless = {
            key: Trap("a buffer has a size: write one such as 1MiB, or off")
            for key, item in value.items()
            if key in cls.model_fields and isinstance(item, Text) and item == "unlimited"
        }
        return value.like({**value, **endless}) if endless else value


class Deadline(Model):
    """The time that is left of `timeouts.total`, in a field of the request."""

    short = "header"

    header: HeaderName = Field(
        "X-Request-Timeout-Ms", description="carries milliseconds, from trusted callers and on"
    )
    trust: Literal["trusted_proxies", "all", "none"] = Field(
        "trusted_proxies", description="whose own deadline is kept when it is shorter"
    )


class Hedge(Model):
    """A second try beside the first, for requests that may be repeated; the first answer counts."""

    short = "after"

    after: TimeOrQuantile = Field(
        Quantile(0.95), description="how long the first may take: a time, or p95 of late"
    )
    max: Annotated[int, Field(ge=1, le=5)] = Field(1, description="tries beside the first")


def _ignored(value: object) -> str:
    word = read_text(value, "a part of the answer such as header.date")
    kind, _, name = word.partition(".")
    if word in ("status", "body") or (kind == "header" and is_token(name)):
        return f"header.{name.lower()}" if name else word
    if kind == "body" and re.fullmatch(r"\$(\.[^.\[\]\s]+|\[(\d+|\*)\])+", name):
        return word
    raise refuse(
        f"{word!r} is no part of an answer: write status, body, header.NAME or body.$.KEY.KEY"
    )


class Compare(Model):
    """Whether the mirror's answer is the same as the one that the client got."""

    short = "ignore"

    ignore: tuple[Annotated[str, BeforeValidator(_ignored)], ...] = Field(
        (), description="what may differ: status, body, header.NAME, body.$.KEY, body.$.LIST[*]"
    )


class Mirror(Model):
    """Copies of requests to another upstream, whose answers nobody waits for."""

    short = "upstream"

    upstream: str = Field(description="its name")
    percent: Percent = Field(100.0, description="of the requests")
    compare: Compare | None = Field(None, description="count answers that differ")


class Delay(Model):
    """Requests that wait first."""

    short = "time"

    time: Period = Field(description="how long")
    percent: Percent = Field(100.0, description="of the requests")


class Abort(Model):
    """Requests that fail."""

    short = "status"

    status: Annotated[int, Field(ge=400, le=599)] = Field(description="of the answer")
    percent: Percent = Field(100.0, description="of the requests")


class Fault(Model):
    """Delays and failures on purpose, to see what others make of them."""

    delay: Delay | None = Field(None, description="a time, or {time, percent}")
    abort: Abort | None = Field(None, description="a status, or {status, percent}")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise refuse("nothing happens: write delay: 2s, or abort: 503")
        return self


class Policies(Model):
    """What a route may set for itself or inherit."""

    later = later.POLICIES
    elsewhere: ClassVar[dict[str, str]] = {
        **dict.fromkeys(UPSTREAM_ONLY, "write it in an upstream"),
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
    buffer: Buffer = Field(default_factory=built_in(Buffer), description="whole bodies in memory")
    deadline: Deadline | None = Field(None, description="tell upstreams how much time is left")
    hedge: Hedge | None = Field(None, description="a second try before the first has failed")
    mirror: Mirror | None = Field(None, description="copies of requests to another upstream")
    fault: Fault | None = Field(None, description="delays and failures on purpose")
    importance: Literal["low", "normal", "high"] = Field(
        "normal", description="what is shed first when the gateway is overloaded"
    )
    auth: tuple[str, ...] | None = Field(
        None, description="names of policies, any of which lets in; off: everybody may"
    )
    allow: Allow | None = Field(None, description="who may, and from where")
    rate_limit: tuple[Limited, ...] = Field(
        (), description="names of limits, or limits of its own such as 100/s per client_ip"
    )
    cors: Cors | None = Field(None, description="which pages of other origins may read answers")
    security_headers: SecurityHeaders | None = Field(
        None, description="basic, strict, or {preset, set, remove}"
    )
    hsts: Hsts | None = Field(None, description="browsers use https only")
    csrf: bool = Field(
        False, description="refuse what pages of other sites make a browser send with its cookies"
    )
    forward_credentials: bool = Field(
        False, description="whether the upstream gets the credentials that `auth` has read"
    )


def upgrade_problem(name: str) -> str | None:
    """Why a protocol cannot be let through by `upgrade:`; None: it can."""
    if name.lower() == "h2c":
        return "h2c is never let through: it would hide requests from the gateway"
    if name.lower() == "websocket":
        return "websocket is let through already: `websocket: off` is its switch"
    return None if is_token(name) else f"{name!r} is no name of a protocol"
