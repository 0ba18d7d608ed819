"""Upstreams: their targets, how one is chosen, and how it is known who answers.

The rules are those of `model.py`. What `null` or `off` means for a key is said by its type: without
`| None` there is nothing to switch off.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from gateway.config.addresses import (
    CookieName,
    Count,
    HeaderName,
    HeaderValue,
    Method,
    RealPort,
    UpstreamHost,
    Url,
)
from gateway.config.forms import Model, around, built_in
from gateway.config.policies import Buffer, Deadline, Hedge, Retry, Timeouts
from gateway.config.ranges import Mode, Percent, Period, Statuses, StatusRange
from gateway.config.scalars import EXPANDED, Duration, Share, read_text, refuse
from gateway.config.texts import FilePath
from gateway.config.words import nearest

if TYPE_CHECKING:
    from gateway.config.nodes import Map, Seq, Text

# ── targets ─────────────────────────────────────────────────────────────────────────────────────


class Target(Model):
    """One address of an upstream."""

    short = "url"

    url: Url = Field(description="http://HOST:PORT, https://HOST or unix:PATH")
    weight: Count = Field(1, description="its share, compared with the others'")
    labels: dict[str, str] = Field(
        default_factory=dict, description="name: text, for branches that take a subset"
    )
    backup: bool = Field(False, description="only for when the others are down")


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _name_server(value: object) -> str:
    word = read_text(value, "the address of a name server")
    try:
        split_name_server(word)
    except ValueError:
        raise refuse(
            f"{word!r} is no address of a name server: write one such as 10.0.0.2, "
            "10.0.0.2:8600 or '[::1]:53'"
        ) from None
    return word


def split_name_server(written: str) -> tuple[str, int]:
    """(address, port) of `10.0.0.2`, `10.0.0.2:8600`, `::1` or `[::1]:5353`. Raises ValueError."""
    found = _NAME_SERVER.fullmatch(written)
    if found is None:
        raise ValueError(written)
    host, port = found[1] or found[2] or found[4], int(found[3] or 53)
    if not 0 < port < 65536:
        raise ValueError(f"{port} is no port")
    return str(ipaddress.ip_address(host)), port


_NAME_SERVER = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::([0-9]{1,5}))?|([0-9A-Fa-f:.]+)")

NameServer = Annotated[
    str,
    BeforeValidator(_name_server),
    WithJsonSchema({"type": "string", "examples": ["10.0.0.2", "127.0.0.1:8600", "[::1]:53"]}),
]


def _name(value: object) -> str:
    name = read_text(value, "a name such as users.svc.local")
    if "://" in name or "/" in name or ":" in name:
        raise refuse(f"{name!r} is no name: write it without scheme and port")
    if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?", name):
        raise refuse(f"{name!r} is no name such as users.svc.local")
    return name


def _variable(value: object) -> str:
    word = read_text(value, "the name of a variable")
    if not _VARIABLE.fullmatch(word):
        raise refuse(f"{word!r} is no name of a variable: write one such as TARGETS")
    return word


DnsName = Annotated[str, BeforeValidator(_name)]
Variable = Annotated[str, BeforeValidator(_variable)]


class Discover(Model):
    """Where targets are found, and found again while the gateway runs. Exactly one of the first four."""

    dns: DnsName | None = Field(None, description="a name; each of its addresses is a target")
    srv: DnsName | None = Field(
        None, description="the name of SRV records, such as _http._tcp.x.local"
    )
    file: FilePath | None = Field(None, description="a JSON or YAML list, as `targets` takes it")
    env: Variable | None = Field(None, description="the name of a variable that holds URLs")
    port: RealPort | None = Field(None, description="of the targets, with dns")
    scheme: Literal["http", "https"] = Field("http", description="of the targets, with dns or srv")
    refresh: Period = Field(
        5.0, description="how often is looked again; DNS sooner, if an answer lives shorter"
    )
    nameservers: tuple[NameServer, ...] = Field(
        (), description="to ask, with dns or srv; built in: those of /etc/resolv.conf"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in SOURCES if getattr(self, key) is not None]
        if len(given) != 1:
            which = "; not " + " and ".join(given) if given else ""
            raise refuse(f"exactly one of {', '.join(SOURCES)} is wanted{which}")
        if self.dns is not None and self.port is None:
            raise refuse(f"port is missing: write {{dns: {self.dns}, port: 8000}}")
        if self.dns is None and self.port is not None:
            raise refuse(f"port goes with dns only: {given[0]} brings its own")
        if self.scheme != "http" and given[0] in ("file", "env"):
            raise refuse(f"scheme goes with dns and srv: {given[0]} holds URLs")
        if self.nameservers and given[0] in ("file", "env"):
            raise refuse("nameservers go with dns and srv")
        return self


SOURCES = ("dns", "srv", "file", "env")


class Pool(Model):
    """Connections that an upstream keeps."""

    short = "max"

    max: Count | None = Field(100, description="connections to one target")
    idle: Duration = Field(4.0, description="an unused one is closed after this")
    max_age: Duration | None = Field(None, description="none is older than this")

    @classmethod
    def off_form(cls, value: Text) -> dict[str, Any]:
        """`off`, `unlimited`: as many connections as are wanted."""
        return {"max": value}


def _server_name(value: object) -> str:
    name = read_text(value, "a name such as orders.internal")
    if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.:-]*[A-Za-z0-9_.])?", name):
        raise refuse(
            f"{name!r} is no name that a certificate bears: write one such as api.internal"
        )
    return name


ServerName = Annotated[str, BeforeValidator(_server_name)]


class UpstreamTls(Model):
    """TLS towards https targets."""

    verify: bool = Field(True, description="whether certificates are checked")
    ca: FilePath | None = Field(None, description="certificates to trust, in place of the system's")
    cert: FilePath | None = Field(None, description="the gateway's own certificate")
    key: FilePath | None = Field(None, description="its key")
    server_name: ServerName | None = Field(None, description="the name to ask for and to check")

    @classmethod
    def off_form(cls, value: Text) -> dict[str, Any]:  # noqa: ARG003 - whatever spells it
        """Refused: it may mean two things, and neither would be done."""
        raise refuse("tls is what https:// in targets says: write http:// there, or verify: off")


# ── choosing ────────────────────────────────────────────────────────────────────────────────────

BALANCES = ("p2c", "round_robin", "random", "least_requests", "ewma")


_WAYS = (*BALANCES, "hash:{client_ip}")
"""With an example where one takes a placeholder."""


def _balance(value: object) -> str:
    ways = ", ".join(_WAYS)
    word = read_text(value, f"one of {ways}")
    kind, colon, key = word.partition(":")
    if kind not in (*BALANCES, "hash") or (colon and kind != "hash"):
        raise refuse(f"{word} is no way to balance{nearest(word, _WAYS)}; there are {ways}")
    if kind == "hash" and "{" not in key:
        fix = f"{{{key}}}" if key else "{client_ip}"
        raise refuse(f"{word} does not say what to hash: write 'hash:{fix}'")
    return word


class _BalanceSchema:
    """A word, or `hash:` and what is hashed."""

    def __get_pydantic_json_schema__(self, *_: object) -> dict[str, object]:
        hashed = {"type": "string", "pattern": r"^hash:.*\{.+\}"}
        expanded = {"type": "string", "pattern": EXPANDED}
        return {"anyOf": [{"enum": [*BALANCES]}, hashed, expanded], "examples": [*_WAYS]}


Balance = Annotated[str, BeforeValidator(_balance), _BalanceSchema()]
"""One of `BALANCES`, or `hash:` and a text with placeholders: see `hash_key`."""


def hash_key(balance: str) -> str | None:
    """The text with placeholders that is hashed; None for the other ways to balance."""
    return balance.removeprefix("hash:") if balance.startswith("hash:") else None


class Sticky(Model):
    """The same client goes to the same target, by a cookie that `server.secret` signs."""

    short = "cookie"

    cookie: CookieName = Field(description="its name")
    ttl: Duration | None = Field(None, description="its age; off: until the browser is closed")
    on_failure: Literal["redistribute", "fail"] = Field(
        "redistribute", description="its target is down: take another one, or 503"
    )

    @model_validator(mode="after")
    def _whole_seconds(self) -> Self:
        if self.ttl is not None and self.ttl < 1:
            raise refuse("ttl: a cookie lives for whole seconds: write 1s or more, or off")
        return self


# ── who answers ─────────────────────────────────────────────────────────────────────────────────


class Expect(Model):
    """What a healthy target answers."""

    short = "status"

    status: Annotated[tuple[Statuses, ...], Field(min_length=1)] = Field(
        (StatusRange(200, 399),), description="statuses and ranges"
    )
    body: str | None = Field(None, description="a text that its first 64 KiB hold")


def _check_path(value: object) -> str:
    path = read_text(value, "a path such as /healthz")
    if not path.startswith("/"):
        fix = "tcp: true" if path == "tcp" else f"/{path}"
        raise refuse(f"{path!r} is no path: write {fix}")
    if not re.fullmatch(r"[!-~]+", path):
        raise refuse(f"{path!r}: blanks and other signs are written with %")
    return path


CheckPath = Annotated[str, BeforeValidator(_check_path)]


class Health(Model):
    """Active checks; there are none without `path` or `tcp`."""

    short = "path"
    exclusive = ("path", "tcp")

    path: CheckPath | None = Field(None, description="asked for over HTTP, with its query")
    tcp: bool = Field(False, description="only connect")
    method: Method = Field("GET", description="of the request")
    port: RealPort | None = Field(None, description="in place of the target's")
    headers: dict[HeaderName, HeaderValue | None] = Field(
        default_factory=dict, description="of the request"
    )
    interval: Period = Field(10.0, description="between two checks, within a tenth")
    interval_down: Period = Field(1.0, description="the same, while the target is down")
    timeout: Period = Field(2.0, description="of one check")
    rise: Count = Field(2, description="checks that pass, and it is up")
    fall: Count = Field(3, description="checks that fail, and it is down")
    expect: Expect = Field(
        default_factory=built_in(Expect), description="statuses; or {status, body}"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.path is not None and self.tcp:
            raise refuse("health has path or tcp, not both")
        return self


def _some(share: float) -> float:
    if share == 0:
        raise refuse("0 is reached without a failure: write more, or off")
    return share


SomeShare = Annotated[Share, AfterValidator(_some)]


class Eject(Model):
    """Targets that fail real requests are left out for a while. On unless it is switched off."""

    short = "consecutive_failures"

    consecutive_failures: Count | None = Field(
        5, description="connect errors, resets, time-outs of the head, 502, 503 and 504 in a row"
    )
    failure_ratio: SomeShare | None = Field(None, description="of the requests in the window")
    min_requests: Count = Field(20, description="in the window, for the ratio to count")
    window: Period = Field(30.0, description="what the ratio is taken of")
    base: Period = Field(10.0, description="the first time out; the n-th is n times as long")
    max: Period = Field(300.0, description="the longest time out")
    max_percent: Percent = Field(
        50.0, description="of the targets are out at most, at least 1 of two or more"
    )


class Circuit(Model):
    """When too much fails, nothing is sent for a while, and then a few requests to try."""

    short = "error_ratio"

    scope: Literal["target", "upstream"] = Field("target", description="what is cut off")
    error_ratio: SomeShare = Field(0.5, description="of the requests in the window")
    min_requests: Count = Field(20, description="in the window, for the ratio to count")
    window: Period = Field(10.0, description="what the ratio is taken of")
    open: Period = Field(10.0, description="how long nothing is sent")
    half_open_requests: Count = Field(3, description="then tried at a time; all must succeed")
    mode: Mode = Field("enforce", description="report: cut nothing off, only show and count")


class Concurrency(Model):
    """How many requests a target has at once; the others wait in the gateway."""

    short = "per_target"

    per_target: Count | None = Field(None, description="under way at once; the most, if adaptive")
    queue: Annotated[int, Field(ge=0)] = Field(
        100, description="requests of the upstream that may wait; beyond it 503 queue_full"
    )
    queue_timeout: Period = Field(1.0, description="how long they may; then 503 queue_timeout")
    adaptive: Literal["off", "report", "enforce"] = Field(
        "off", description="find the limit from latency: only show it, or keep to it"
    )
    mode: Mode = Field("enforce", description="report: let nobody wait, only count")


# ── the upstream ────────────────────────────────────────────────────────────────────────────────


class Upstream(Model):
    """A named group of targets and how one is chosen."""

    short = "targets"
    elsewhere = dict.fromkeys(
        (
            *("body", "headers", "rewrite", "websocket", "upgrade", "access_log", "errors"),
            *("path", "methods", "when", "use", "priority", "mirror", "fault", "importance"),
            *("auth", "allow", "rate_limit", "cors", "security_headers", "hsts", "csrf"),
            "forward_credentials",
        ),
        "write it in the route",
    )

    @classmethod
    def full_form(cls, value: Text | Seq) -> Map:
        """A URL or a list of them."""
        return around(value, {"targets": value})

    targets: Annotated[tuple[Target, ...], Field(min_length=1)] = Field(
        default=(), description="URLs, or mappings with url"
    )
    discover: Discover | None = Field(None, description="find them, in place of targets")
    balance: Balance = Field("p2c", description=f"one of {', '.join(_WAYS)}")
    sticky: Sticky | None = Field(None, description="the same target for the same client")
    slow_start: Duration | None = Field(
        None, description="how long a target that comes back takes to get its whole share"
    )
    health: Health | None = Field(None, description="a path that is asked for, or {tcp: true}")
    eject: Eject | None = Field(
        default_factory=built_in(Eject), description="leave out targets that fail"
    )
    panic: Share | None = Field(
        0.5, description="with a smaller share of targets left, ejections are set aside"
    )
    circuit: Circuit | None = Field(None, description="send nothing while too much fails")
    concurrency: Concurrency | None = Field(None, description="requests that a target has at once")
    pool: Pool = Field(default_factory=built_in(Pool), description="connections")
    host: UpstreamHost = Field("pass", description="the Host it sees: pass, target or a name")
    tls: UpstreamTls = Field(default_factory=built_in(UpstreamTls), description="towards targets")
    timeouts: Timeouts = Field(
        default_factory=built_in(Timeouts), description="how long to wait for what"
    )
    retry: Retry | None = Field(
        default_factory=built_in(Retry), description="when a request is sent again"
    )
    buffer: Buffer = Field(default_factory=built_in(Buffer), description="whole bodies in memory")
    deadline: Deadline | None = Field(None, description="tell it how much time is left")
    hedge: Hedge | None = Field(None, description="a second try before the first has failed")

    @model_validator(mode="after")
    def _targets_from_one_place(self) -> Self:
        if not self.targets and self.discover is None:
            raise refuse("targets is missing: write URLs, or discover: {dns: …}")
        if self.targets and self.discover is not None:
            raise refuse("an upstream has targets or discover, not both")
        return self
