"""The whole file format as frozen models: a field's description is its documentation.

Rules of this file: names and meanings are those that users type. Nothing here reads a file, merges layers or looks at
another section: `load` does the first, `effective` the second, `check` the third. `None` means `off` or `unlimited`;
what was written is told from what is built in by `model_fields_set`. Seconds are floats, sizes are bytes.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from gateway.config import addresses
from gateway.config.addresses import PathText, Method, Port, Url
from gateway.config.forms import NULL, Model, around
from gateway.config.nodes import Map, Seq, Text

# The scalar types live in scalars.py; here only their Python side matters to readers:
#   Duration = float seconds, Size = int bytes, ByteRate = float bytes a second, Share = float 0..1,
#   Network = IPv4Network | IPv6Network | Literal["unix"], HostPattern = str, Secret = a str that prints as ***
from gateway.config.scalars import (
    ByteRate,
    Duration,
    FilePath,
    HostPattern,
    Network,
    Regex,
    Secret,
    Share,
    Size,
    Watched,
    refuse,
)


# ── server ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class RequestId(Model):
    short = "header"

    header: str = "X-Request-Id"
    trust: Literal["trusted_proxies", "all", "none"] = "trusted_proxies"
    echo: bool = True


class Limits(Model):
    connections: int | None = 10_000
    request_head: Size = 16 * 1024
    request_line: Size = 8 * 1024
    headers: int = 100
    connections_per_ip: int | None = None
    requests_per_connection: int | None = None
    header_timeout: Duration | None = 10.0
    body_idle: Duration | None = 30.0
    body_min_rate: ByteRate | None = None
    keepalive_idle: Duration | None = 75.0


class Shutdown(Model):
    ready_delay: Duration = 5.0
    grace: Duration = 30.0
    websocket_grace: Duration | None = None  # None: as long as grace


class Server(Model):
    name: str = "gateway"
    workers: Literal[1] = 1
    trusted_proxies: tuple[Network, ...] = ()
    forwarded: Literal["x-forwarded", "rfc7239", "both", "off"] = "x-forwarded"
    request_id: RequestId | None = RequestId()
    ambiguous_paths: Literal["reject", "resolve", "keep"] = "reject"
    underscore_headers: Literal["keep", "drop", "reject"] = "drop"
    limits: Limits = Limits()
    shutdown: Shutdown = Shutdown()


class RedirectToHttps(Model):
    short = "port"

    port: Annotated[int, Field(ge=1, le=65535)] = 443


class Bind(Model):
    """Where a listener listens: `host` and `port`, or `unix`."""

    host: str | None = None
    port: Port | None = None
    unix: FilePath | None = None
    mode: str | None = None  # of the unix socket, octal, such as "0660"

    @classmethod
    def full_form(cls, value: Text | Seq) -> Map:
        """`host:port` or `unix:/path`."""
        if isinstance(value, Seq):
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
        if self.mode is not None and not re.fullmatch(r"0?[0-7]{3}", self.mode):
            raise refuse(f"mode {self.mode!r} is not octal: write '0660'")
        if self.mode is not None and self.unix is None:
            raise refuse("mode is for unix sockets only")
        return self

    def __str__(self) -> str:
        """As written in short form."""
        if self.unix is not None:
            return f"unix:{self.unix}"
        host = self.host or ""
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


class Listener(Model):
    short = "bind"
    later = frozenset({"tls", "proxy_protocol"})

    bind: Bind
    name: str = ""  # filled in by load: the bind as written
    redirect_to_https: RedirectToHttps | None = None


class Admin(Model):
    short = "bind"
    later = frozenset({"write"})

    bind: Bind = Bind(host="127.0.0.1", port=9901)
    token: Secret | None = None
    metrics_token: bool = False


# ── observability ───────────────────────────────────────────────────────────────────────────────────────────────────


class Metrics(Model):
    buckets: tuple[Duration, ...] = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
    max_label_values: int = 200


class Sample(Model):
    success: Share = 1.0
    errors: Share = 1.0
    slower_than: Duration | None = None


class LogFields(Model):
    add: dict[str, str] = {}
    mask: tuple[str, ...] = ()


class AccessLog(Model):
    short = "format"

    format: str = "json"  # json | combined | a template
    file: FilePath | None = None
    sample: Sample = Sample()
    fields: LogFields = LogFields()


class Observability(Model):
    metrics: Metrics = Metrics()
    access_log: AccessLog | None = AccessLog()
    server_timing: Literal["off", "trusted", "all"] = "off"
    traceparent: Literal["pass", "create"] = "pass"


class Page(Model):
    short = "file"

    file: FilePath
    when_accepts: str | None = None


class Errors(Model):
    short = "format"

    format: Literal["problem+json", "html", "template"] = "problem+json"
    template: FilePath | None = None  # a file with placeholders, for format: template
    expose_reason: bool = False
    docs_url: str | None = None
    pages: dict[str, Page] = {}
    intercept: tuple[int, ...] = ()


# ── policies: may stand in defaults, profiles, upstreams (some) and routes ──────────────────────────────────────────


class Timeouts(Model):
    @classmethod
    def off_form(cls, value: Text) -> dict[str, Any]:
        """Every limit off."""
        return dict.fromkeys(cls.model_fields, value)

    pool_wait: Duration | None = 1.0
    connect: Duration | None = 3.0
    first_byte: Duration | None = 30.0
    idle: Duration | None = (
        60.0  # built in: 5 min for text/event-stream; a written value holds for both
    )
    total: Duration | None = None


class Retry(Model):
    short = "max"

    max: Annotated[int, Field(ge=0, le=10)] = 1
    on: tuple[str, ...] = ("connect", "reset_before_response")
    per_try: Duration | None = None
    budget: Share | None = 0.2
    methods: Literal["idempotent", "all"] | tuple[str, ...] = "idempotent"
    idempotency_key: str | None = "Idempotency-Key"
    replay_body: Size = 64 * 1024


class Body(Model):
    short = "max"
    later = frozenset({"mode"})

    @classmethod
    def full_form(cls, value: Text | Seq) -> Map:
        """`10MiB`, `unlimited`, `off`: the largest body."""
        if isinstance(value, Seq):
            raise refuse("a size such as 10MiB is wanted, not a list")
        return around(value, {"max": value})

    max: Size | None = 10 * 1024 * 1024
    min_rate: ByteRate | None = None


class HeaderEdits(Model):
    set: dict[str, str | None] = {}
    add: dict[str, str | tuple[str, ...]] = {}
    remove: tuple[str, ...] = ()


class ResponseHeaderEdits(HeaderEdits):
    rewrite_location: bool = False


class Headers(Model):
    request: HeaderEdits = HeaderEdits()
    response: ResponseHeaderEdits = ResponseHeaderEdits()


class QueryEdits(Model):
    set: dict[str, str] = {}
    add: dict[str, str | tuple[str, ...]] = {}
    remove: tuple[str, ...] = ()


class RegexRewrite(Model):
    match: Regex
    replace: Watched


class Rewrite(Model):
    strip_prefix: Watched | None = None
    add_prefix: Watched | None = None
    path: Watched | None = None
    regex: RegexRewrite | None = None
    host: str | None = None
    query: QueryEdits = QueryEdits()


class WebSocket(Model):
    later = frozenset({"per_consumer", "max_message"})

    idle: Duration | None = 300.0
    max_age: Duration | None = None


class Policies(Model):
    """What a route may set for itself or inherit. Effective values: built in, defaults, upstream, profiles, route."""

    later = frozenset(
        "auth allow rate_limit cors security_headers hsts csrf compress cache hedge deadline buffer validate mirror "
        "importance slo fault plugins forward_credentials".split()
    )
    elsewhere = dict.fromkeys(
        "balance sticky slow_start health eject panic circuit concurrency pool tls targets discover".split(),
        "write it in an upstream",
    )

    timeouts: Timeouts = Timeouts()
    retry: Retry | None = Retry()
    body: Body = Body()
    headers: Headers = Headers()
    rewrite: Rewrite = Rewrite()
    websocket: WebSocket | None = WebSocket()
    upgrade: tuple[str, ...] = ()
    access_log: bool = True
    errors: Errors = Errors()


# ── upstreams ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Target(Model):
    short = "url"
    later = frozenset({"labels", "backup"})

    url: Url
    weight: Annotated[int, Field(ge=1)] = 1


class Pool(Model):
    short = "max"

    max: int | None = 100
    idle: Duration = 4.0
    max_age: Duration | None = None


class UpstreamTls(Model):
    verify: bool = True
    ca: FilePath | None = None
    cert: FilePath | None = None
    key: FilePath | None = None
    server_name: str | None = None


_LATER_BALANCE = ("random", "least_requests", "ewma")


def _balance(value: object) -> object:
    if isinstance(value, str) and (value in _LATER_BALANCE or value.startswith("hash:")):
        raise refuse(f"balance: {value!s} is not supported yet: write p2c or round_robin")
    if value not in ("p2c", "round_robin"):
        raise refuse(f"{value!s} is no way to balance: write p2c or round_robin")
    return str(value)


Balance = Annotated[Literal["p2c", "round_robin"], BeforeValidator(_balance)]


class Upstream(Model):
    later = frozenset(
        "sticky slow_start health eject panic circuit concurrency discover buffer deadline hedge".split()
    )
    elsewhere = dict.fromkeys(
        "body headers rewrite websocket upgrade access_log errors path host_match methods when use".split(),
        "write it in the route, a profile or defaults",
    )

    targets: Annotated[tuple[Target, ...], Field(min_length=1)]
    balance: Balance = "p2c"
    pool: Pool = Pool()
    host: str = "pass"  # pass | target | a fixed name
    tls: UpstreamTls = UpstreamTls()
    timeouts: Timeouts = Timeouts()
    retry: Retry | None = Retry()


# ── routes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class PathPattern(Model):
    """`path:` in full form: text (exact, template or prefix), or a regex."""

    short = "text"

    text: PathText | None = None
    regex: Regex | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.text is None) == (self.regex is None):
            raise refuse("a path is a text such as /a/*, or {regex: '^/v1/'}")
        return self


class ValueTest(Model):
    """One entry of `when`: exactly one of these."""

    equals: str | None = None
    one_of: tuple[str, ...] | None = None
    present: bool | None = None  # False: must be absent
    regex: Regex | None = None

    @classmethod
    def full_form(cls, value: Text | Seq) -> Map:
        """`present`, `absent`, a text that must be equal, or a list of them."""
        if isinstance(value, Seq):
            return around(value, {"one_of": value})
        if value in ("present", "absent"):
            word = value.derive("true" if value == "present" else "false")
            return around(value, {"present": word})
        if value.plain and value in NULL:
            raise refuse("a text, a list, present, absent or {regex: …} is wanted")
        return around(value, {"equals": value})

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1 or None in (
            getattr(self, n) for n in self.model_fields_set
        ):
            raise refuse("exactly one of equals, one_of, present and regex is wanted")
        if self.one_of == ():
            raise refuse("this list is empty: nothing would match")
        return self


class When(Model):
    header: dict[str, ValueTest] = {}
    query: dict[str, ValueTest] = {}
    cookie: dict[str, ValueTest] = {}
    client_ip: tuple[Network, ...] = ()
    scheme: Literal["http", "https"] | None = None
    listener: tuple[str, ...] = ()


class Match(Model):
    """Which requests a route takes."""

    host: tuple[HostPattern, ...] = ()  # empty: any
    path: PathPattern = PathPattern(text="/*")
    methods: tuple[Method, ...] = ()  # empty: any
    when: When = When()
    priority: int = 0


class Branch(Model):
    """One arm of a `split`."""

    later = frozenset({"labels", "sticky_by"})

    upstream: str
    weight: Annotated[int, Field(ge=1)]


class Static(Model):
    short = "root"

    root: FilePath
    index: str | None = "index.html"
    fallback: str | None = None
    precompressed: tuple[Literal["br", "gzip", "zstd"], ...] = ()
    max_age: Duration | None = None
    dotfiles: bool = False


class Redirect(Model):
    short = "to"

    to: Watched
    status: Literal[301, 302, 303, 307, 308] = 308


class Respond(Model):
    short = "status"

    status: Annotated[int, Field(ge=200, le=599)] = 200
    headers: dict[str, str | None] = {}
    body: str | None = None
    json_: Any = Field(default=None, alias="json")


# ── inline tests ────────────────────────────────────────────────────────────────────────────────────────────────────


_VERBS = ("get", "head", "post", "put", "patch", "delete", "options")


class TestRequest(Model):
    __test__ = False
    later = frozenset({"auth", "claims", "consumer"})

    method: str
    url: str
    headers: dict[str, str] = {}
    body: str | None = None
    client_ip: str = "127.0.0.1"

    @classmethod
    def adjusted(cls, value: Map) -> Map:
        """`get: URL` is `method: GET` and `url: URL`."""
        asked = [key for key in value if key in _VERBS]
        if len(asked) != 1 or "method" in value or "url" in value:
            if asked or not {"method", "url"} <= value.keys():
                raise refuse(f"a request has exactly one of {' '.join(_VERBS)}, such as get: URL")
            return value
        items: dict[str, Any] = {key: item for key, item in value.items() if key != asked[0]}
        url = value[asked[0]]
        if not isinstance(url, Text):
            raise refuse(f"{asked[0]} takes a URL")
        items |= {"method": url.derive(asked[0].upper()), "url": url}
        return value.like(items)


class TestExpect(Model):
    __test__ = False
    route: str | None = None
    status: int | None = None
    reason: str | None = None
    upstream: str | None = None
    upstream_path: str | None = None
    upstream_headers: dict[str, str] = {}
    headers: dict[str, str] = {}
    location: str | None = None


class InlineTest(Model):
    name: str
    request: TestRequest
    expect: TestExpect
