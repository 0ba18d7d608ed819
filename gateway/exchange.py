"""One request and its response, in flight: what every middleware sees.

Rules of this file: types only, no behaviour that waits. An Exchange is made from a parsed head, belongs to one task and
is finished exactly once. Class-level defaults stand for "has not happened", so that a request pays only for what did.
A Reply is a value until it is sent: a middleware changes it by assignment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import asyncio
    from collections import Counter

    from multidict import CIMultiDictProxy

    from gateway.certificates import Encryption
    from gateway.clock import Watched
    from gateway.errors import GatewayError
    from gateway.identity import Identity
    from gateway.inbound import Known
    from gateway.incoming import Incoming, Sent
    from gateway.middleware.tap import Tap
    from gateway.relay import Upload
    from gateway.snapshot import Route, Snapshot
    from gateway.upstream.breaker import Permit
    from gateway.upstream.concurrency import Limit
    from gateway.upstream.group import Group
    from gateway.upstream.upstream import Target
    from gateway.upstream.wire import Wire

RawFields = tuple[tuple[bytes, bytes], ...]
Source = Literal["upstream", "gateway", "client"]


class Exchange:
    """One request and its response, in flight."""

    # What every request sets has a slot. The rest shares one table of keys between all instances, which CPython gives up
    # for an instance with more than thirty of them: twice as slow.
    __slots__ = (
        "__dict__", "answer", "began", "headers", "incoming", "listener", "method", "path", "peer", "query", "raw_headers",
        "route", "snapshot", "target",
    )  # fmt: skip

    # ── the request, as it came ──
    method: str
    target: str
    """Request target in origin form, byte for byte (surrogate-escaped): `/a%2Fb?x=1`; `*` for `OPTIONS *`."""
    path: str
    """The target up to `?`, undecoded."""
    query: str
    """The target behind `?`, undecoded; empty also where there is no `?` (`target` tells the two apart)."""
    raw_headers: RawFields
    headers: CIMultiDictProxy[str]
    http10: bool = False

    # ── who asks: computed once, from trusted proxies only ──
    authority: str = ""
    """Host as the client wrote it (of an absolute target, else of Host), port included."""
    host: str = ""
    """Host for decisions: lower-case, no port, no trailing dot."""
    scheme: str = "http"
    tls: Encryption | None = None
    """How its connection is encrypted, with the client's certificate; None: it is not."""
    client_ip: str = ""
    """The client behind trusted proxies, IPv4-mapped IPv6 folded; `unix` for a peer on a unix socket."""
    peer: str
    peer_trusted: bool = False
    listener: str
    """Name of the listener."""
    request_id: str = ""
    id_line: bytes = b""
    """The request id as a field, once it was made for the upstream."""
    trace_id: str = ""
    identity: Identity | None = None
    """Who asks, once `auth` has told."""
    report: tuple[str, ...] = ()
    """Reasons for which it would have been refused, were some policy not in report mode."""

    seats: Counter[str] | None = None
    """Where its WebSocket is counted, by consumer."""

    # ── where it goes ──
    snapshot: Snapshot
    route: Route
    captures: dict[str, str] = {}  # noqa: RUF012 - shared and never written: a route without captures costs nothing
    branch: Group | None = None
    """Of a split, where it was drawn before the innermost handler: its branches have settings of their own."""
    upstream: str = ""
    target_name: str = ""
    """host:port of the target as configured."""
    attempts: int = 0
    tap: Tap | None = None
    """Is shown what passes, where the exchange is to be mirrored."""

    # ── what came of it ──
    began: float
    """Monotonic seconds: the head was parsed."""
    sent_at: float = 0.0
    """The last try's head was written."""
    head_at: float = 0.0
    """The upstream's final head was read."""
    replied_at: float = 0.0
    """Our head was written."""
    ended: float = 0.0
    status: int = 0
    """What went out; 499 only if no head did."""
    source: Source = "gateway"
    reason: str = ""
    """Empty, or one word of the closed list."""
    extra: tuple[bytes, ...] = ()
    """Header lines that the answer bears whoever makes it, each `Name: value\\r\\n`: a session's cookie, limits."""
    limit_told: tuple[int, bytes] | None = None
    """Units left, and the line of `extra` that tells them, once a limit was asked."""
    detail: str = ""
    """What exactly has failed, for operators only: it may name targets and policies, but never a secret."""
    bytes_in: int = 0
    bytes_out: int = 0
    upgraded: bool = False

    # ── for proxy.py, relay.py and tunnel.py only ──
    incoming: Incoming
    """The parsed request and its connection; absent in `explain` and inline tests."""
    length: int | None = 0
    """Bytes of the body; 0: none; None: chunked, so not known."""
    known: Known | None = None
    """What its fields come to, where the next request of its connection may have the same."""
    has_body: bool = False
    expects: bool = False
    """The client waits for `100 Continue`."""
    wants_trailers: bool = False
    upgrade: str = ""
    """The protocol that the client asks for and the route lets through, in lower case."""
    close: bool = False
    """This reply ends the connection."""
    refusal: GatewayError | Reply | None = None
    """What the stand-in route answers: no route was found, or the head itself was refused or answered."""
    fault: GatewayError | None = None
    """Why it was given up, where the gateway itself did it."""
    answer: Awaitable[Reply]
    """What its route's handler has returned: a Reply, a try that is under way, or a coroutine."""
    tells: bool = False
    """Whether a callback says when something has come of `answer`."""
    sent: Sent | None = None
    """What was sent without waiting, where something is left to wait for."""
    task: asyncio.Task[Any] | None = None
    """Where the answer is awaited; None while nobody has to."""
    wire: Wire | None = None
    """The connection on lease; `target` counts it."""
    permit: Permit | None = None
    """Of the circuit, for the present try; None: there is none, or it knows already how the try has ended."""
    target_in_use: Target | None = None
    place: Limit[Target] | None = None
    """What counts the present try at its target, where the upstream has `concurrency`."""
    upload: Upload | None = None
    pump: asyncio.Task[None] | None = None
    deadline: Watched | None = None
    """Of `timeouts.total`."""


def give_up(exchange: Exchange, fault: GatewayError) -> None:
    """End it because of `fault`, wherever it is: its client is told if no head is out, else its connection breaks."""
    exchange.fault = fault
    if exchange.task is not None:
        exchange.task.cancel()
    elif isinstance(exchange.answer, Pending):
        exchange.answer.fail(fault)


def would_refuse(exchange: Exchange, reason: str) -> None:
    """Note that a policy in `mode: report` lets pass what it would refuse for `reason`; once for each."""
    if reason not in exchange.report:
        exchange.report = (*exchange.report, reason)


@runtime_checkable
class Pending(Protocol):
    """An answer that nobody awaits yet."""

    def call(self, arrived: Callable[[], None]) -> None:
        """Call `arrived` once, when something has come of it."""

    def at_hand(self) -> Reply | None:
        """The answer, if it is there and nothing is left to decide; else None: it has to be awaited."""

    def fail(self, error: GatewayError) -> None:
        """End it: whoever awaits it is told `error`."""


class Reply:
    """A response as a value, not yet sent. To await it is to have it: a handler that need not wait returns one."""

    def __init__(
        self, status: int, lines: list[bytes], body: bytes | Any = b"", start: bytes = b""
    ) -> None:
        self.status = status
        self.start = start
        """The status line, of an answer that is passed on; empty: it is made of `status`."""
        self.lines = lines
        """Header lines as they go out, each `Name: value\\r\\n`; framing fields are made by `send`, not here."""
        self.body = body
        """Bytes, or what `relay.py` streams: an upstream's response, a file, a tunnel."""

    def __await__(self) -> Generator[Any, None, Reply]:
        yield from ()
        return self

    def get(self, name: bytes) -> bytes | None:
        """The first value of the field `name`, or None."""
        prefix = name.lower() + b":"
        for line in self.lines:
            if line[: len(prefix)].lower() == prefix:
                return line[len(prefix) :].strip()
        return None

    def remove(self, name: bytes) -> None:
        """Take every field `name` away."""
        prefix = name.lower() + b":"
        self.lines = [line for line in self.lines if line[: len(prefix)].lower() != prefix]

    def add(self, name: bytes, value: bytes) -> None:
        """Append a field. Values are trusted to be free of control bytes: `send` checks the joined head anyway."""
        self.lines.append(b"%b: %b\r\n" % (name, value))

    def set(self, name: bytes, value: bytes) -> None:
        """Replace every field `name` by one."""
        self.remove(name)
        self.add(name, value)


Handler = Callable[[Exchange], Awaitable[Reply]]
"""What answers: a plain function where it need not wait, so that no task is made for its request."""
Finish = Callable[[Exchange], None]
"""Called once when an exchange has ended: metrics, access log."""
