"""The whole file format as frozen models: a field's description is its documentation.

Rules of this file: names and meanings are those that users type. Nothing here reads a file, merges layers or looks at
another section: `load` does the first, `effective` the second, `check` the third. `None` means `off` or `unlimited`;
what was written is told from what is built in by `model_fields_set`. Seconds are floats, sizes are bytes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

# The scalar types live in scalars.py; here only their Python side matters to readers:
#   Duration = float seconds, Size = int bytes, ByteRate = float bytes a second, Share = float 0..1,
#   Network = IPv4Network | IPv6Network | Literal["unix"], HostPattern = str, Secret = a str that prints as ***
from gateway.config.scalars import (
    ByteRate,
    Duration,
    HostPattern,
    Network,
    Secret,
    Share,
    Size,
)


class Model(BaseModel):
    """Frozen, and closed: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# ── server ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class RequestId(Model):
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
    port: int = 443


class Bind(Model):
    """Where a listener listens: `host` and `port`, or `unix`."""

    host: str | None = None
    port: int | None = None
    unix: str | None = None
    mode: str | None = None  # of the unix socket, octal, such as "0660"


class Listener(Model):
    bind: Bind
    name: str = ""  # filled in by load: the bind as written
    redirect_to_https: RedirectToHttps | None = None


class Admin(Model):
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
    format: str = "json"  # json | combined | a template
    file: str | None = None
    sample: Sample = Sample()
    fields: LogFields = LogFields()


class Observability(Model):
    metrics: Metrics = Metrics()
    access_log: AccessLog | None = AccessLog()
    server_timing: Literal["off", "trusted", "all"] = "off"
    traceparent: Literal["pass", "create"] = "pass"


class Page(Model):
    file: str
    when_accepts: str | None = None


class Errors(Model):
    format: Literal["problem+json", "html", "template"] = "problem+json"
    template: str | None = None  # a file with placeholders, for format: template
    expose_reason: bool = False
    docs_url: str | None = None
    pages: dict[str, Page] = {}
    intercept: tuple[int, ...] = ()


# ── policies: may stand in defaults, profiles, upstreams (some) and routes ──────────────────────────────────────────


class Timeouts(Model):
    pool_wait: Duration | None = 1.0
    connect: Duration | None = 3.0
    first_byte: Duration | None = 30.0
    idle: Duration | None = 60.0  # built in: 5 min for text/event-stream; a written value holds for both
    total: Duration | None = None


class Retry(Model):
    max: int = 1
    on: tuple[str, ...] = ("connect", "reset_before_response")
    per_try: Duration | None = None
    budget: Share | None = 0.2
    methods: Literal["idempotent", "all"] | tuple[str, ...] = "idempotent"
    idempotency_key: str | None = "Idempotency-Key"
    replay_body: Size = 64 * 1024


class Body(Model):
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
    match: str
    replace: str


class Rewrite(Model):
    strip_prefix: str | None = None
    add_prefix: str | None = None
    path: str | None = None
    regex: RegexRewrite | None = None
    host: str | None = None
    query: QueryEdits = QueryEdits()


class WebSocket(Model):
    idle: Duration | None = 300.0
    max_age: Duration | None = None


class Policies(Model):
    """What a route may set for itself or inherit. Effective values: built in, defaults, upstream, profiles, route."""

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
    url: str
    weight: Annotated[int, Field(ge=1)] = 1


class Pool(Model):
    max: int | None = 100
    idle: Duration = 4.0
    max_age: Duration | None = None


class UpstreamTls(Model):
    verify: bool = True
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    server_name: str | None = None


class Upstream(Model):
    targets: tuple[Target, ...]
    balance: Literal["p2c", "round_robin"] = "p2c"
    pool: Pool = Pool()
    host: str = "pass"  # pass | target | a fixed name
    tls: UpstreamTls = UpstreamTls()
    timeouts: Timeouts = Timeouts()
    retry: Retry | None = Retry()


# ── routes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class PathPattern(Model):
    """`path:` in full form: text (exact, template or prefix), or a regex."""

    text: str | None = None
    regex: str | None = None


class ValueTest(Model):
    """One entry of `when`: exactly one of these."""

    equals: str | None = None
    one_of: tuple[str, ...] | None = None
    present: bool | None = None  # False: must be absent
    regex: str | None = None


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
    methods: tuple[str, ...] = ()  # empty: any
    when: When = When()
    priority: int = 0


class Branch(Model):
    """One arm of a `split`."""

    upstream: str
    weight: Annotated[int, Field(ge=1)]


class Static(Model):
    root: str
    index: str | None = "index.html"
    fallback: str | None = None
    precompressed: tuple[Literal["br", "gzip", "zstd"], ...] = ()
    max_age: Duration | None = None
    dotfiles: bool = False


class Redirect(Model):
    to: str
    status: Literal[301, 302, 303, 307, 308] = 308


class Respond(Model):
    status: Annotated[int, Field(ge=200, le=599)] = 200
    headers: dict[str, str | None] = {}
    body: str | None = None
    json_: Any = Field(default=None, alias="json")


# ── inline tests ────────────────────────────────────────────────────────────────────────────────────────────────────


class TestRequest(Model):
    method: str
    url: str
    headers: dict[str, str] = {}
    body: str | None = None
    client_ip: str = "127.0.0.1"


class TestExpect(Model):
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
