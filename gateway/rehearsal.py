"""A request that nobody sent, taken through the real code as far as it goes without a network.

Rules of this file: nothing is decided here. Clients, router, rewrites, header edits and answers are
the ones of the data path; what stands here is only what a socket would have given them, and the
order of `proxy.py`. `explain` and the inline tests both use it, so that they can not disagree with
each other, or with what is served.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from multidict import CIMultiDict, CIMultiDictProxy

from gateway import errors, headers, keypairs, outbound, refusals
from gateway.client import Clients
from gateway.exchange import Exchange, Reply
from gateway.hops import address
from gateway.routing.rewrite import compile_host, compile_rewrite
from gateway.routing.router import Router
from gateway.routing.template import percent_encode
from gateway.withheld import Withheld, told

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway.config import effective, model
    from gateway.entering import Entering

_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE | re.DOTALL)
_AUTHORITY = re.compile(r"(?:[^\s:@\[\]/\\]+|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?")
_NOT_SENT = re.compile(r"[^\x21-\x7e]")
_FIELD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True)
class Outgoing:
    """The request that an upstream would get, as far as it is known without choosing a target."""

    method: str
    target: str
    """Path and query behind the target's own path."""
    host: str | None
    """None: the address of the chosen target."""
    fields: tuple[tuple[str, str], ...]
    """Every field but Host, in the order of sending."""

    def named(self, name: str) -> list[str]:
        """All values of a field; names ignore case."""
        return [value for known, value in self.fields if known.lower() == name.lower()]


class CannotTell(Exception):
    """Who this is takes more than is here: a network, a connection, a moment."""

    def __init__(self, policy: str, why: str) -> None:
        super().__init__(f"policy {policy} {why}: say who it is with claims or consumer")


@dataclass(frozen=True)
class Given:
    """Whom a policy is said to have accepted."""

    policy: str | None = None
    """None: the route's first."""
    claims: Mapping[str, Any] = field(default_factory=dict)
    consumer: str | None = None


class Rehearsal:
    """One configuration, ready to be asked."""

    def __init__(self, config: effective.Config) -> None:
        self.config = config
        self.router = Router(
            ((route, route) for route in config.routes), config.server.ambiguous_paths
        )
        self._clients = Clients(config.server, traceparent=config.observability.traceparent)
        self._entering: Entering | None = None

    @property
    def entering(self) -> Entering:
        """Its policies. Raises ValueError or OSError, with a sentence for the user, for a file that one cannot use."""
        if self._entering is None:
            # By name: what has no `auth` is explained without clocks and loops.
            self._entering = importlib.import_module("gateway.entering").Entering(self.config)
        return self._entering

    # ── who asks ──

    def ask(
        self,
        method: str,
        url: str,
        fields: Iterable[tuple[str, str]] = (),
        client_ip: str = "127.0.0.1",
        body: bytes = b"",
    ) -> Exchange:
        """The exchange of such a request from such a peer, identified.

        What the gateway answers before it looks at routes is its `refusal`: an error, or the Reply
        to an OPTIONS that goes no further. Raises ValueError for what is no request.
        """
        scheme, authority, target = _split(url)
        if not _FIELD.fullmatch(method):
            raise ValueError(f"{method!r} is not a method")
        if client_ip != "unix" and address(client_ip) is None:
            raise ValueError(f"{client_ip!r} is not an IP address")
        given = list(fields)
        for name, value in given:
            if not _FIELD.fullmatch(name) or not headers.clean(_raw(value), 0):
                raise ValueError(f"the header {name!r} is not valid")
        own = next((value for name, value in given if name.lower() == "host"), authority)
        if not any(name.lower() == "host" for name, _ in given):
            given.insert(0, ("Host", own))
        exchange = Exchange()
        exchange.method, exchange.target = method, target
        exchange.path, _, exchange.query = target.partition("?")
        exchange.scheme, exchange.peer = scheme, client_ip
        exchange.route = cast("Any", SimpleNamespace(name="_none"))
        exchange.listener = self._listener(scheme, authority).name
        self._read(exchange, given, body)
        if refusals.is_host(own):
            exchange.authority = own
        try:
            self._clients.identify(exchange)
        except errors.LoopDetected as error:
            exchange.refusal = exchange.refusal or error
        return exchange

    def _read(self, exchange: Exchange, given: list[tuple[str, str]], body: bytes) -> None:
        """Fields and framing, as a socket would have told them."""
        raw = tuple((_raw(name), _raw(value)) for name, value in given)
        try:
            refusals.check(exchange.method, exchange.target, raw, self.config.server.limits)
        except errors.GatewayError as error:
            exchange.refusal = error
        named = CIMultiDict(given)
        if body and "Transfer-Encoding" not in named:
            # The body that is there decides, whatever length was written.
            named.popall("Content-Length", None)
            named.add("Content-Length", str(len(body)))
            raw = tuple((_raw(name), _raw(value)) for name, value in named.items())
        exchange.raw_headers, exchange.headers = raw, CIMultiDictProxy(named)
        if named.get("Transfer-Encoding"):
            exchange.length, exchange.has_body = None, True
        else:
            length = headers.content_length(_raw(named.get("Content-Length", "0")))
            exchange.length, exchange.has_body = length or 0, bool(length)
        if exchange.refusal is None and refusals.goes_no_further(
            exchange.method, named.get("Max-Forwards", "")
        ):
            exchange.refusal = refusals.options()

    def _listener(self, scheme: str, authority: str) -> model.Listener:
        """The listener that such a URL leads to: by its port, else the first that fits its
        scheme.
        """
        found = _AUTHORITY.fullmatch(authority)
        port = int(found[1]) if found and found[1] else 443 if scheme == "https" else 80
        listeners = self.config.listeners
        for listener in listeners:
            if listener.bind.port == port:
                return listener
        plain = scheme == "http"
        fitting = [one for one in listeners if (one.tls is None) == plain] or listeners
        return next(
            (one for one in fitting if (one.redirect_to_https is not None) == plain), fitting[0]
        )

    # ── what becomes of it ──

    def redirected(self, exchange: Exchange) -> Reply | None:
        """The answer of a listener with `redirect_to_https`, which comes before any route."""
        listener = next(one for one in self.config.listeners if one.name == exchange.listener)
        if listener.redirect_to_https is None:
            return None
        from gateway.middleware.redirect import https_redirect  # noqa: PLC0415 - rarely needed

        certified = keypairs.certified(self.config.listeners)
        return https_redirect(self.config, listener, certified)(exchange)

    def match(self, exchange: Exchange) -> effective.Route:
        """Route it: fills in route, captures and target as the data path does.

        Raises errors.NoRoute, errors.MethodNotAllowed, errors.BadRequest.
        """
        route, exchange.captures, exchange.target = self.router.match(exchange)
        exchange.route = cast("Any", SimpleNamespace(name=route.name))
        return route

    @staticmethod
    def limit(exchange: Exchange, route: effective.Route) -> None:
        """Raises errors.BodyTooLarge for a body that says it is larger than the route takes."""
        from gateway.middleware import body_limit  # noqa: PLC0415 - imports all of it

        unused: Any = None
        _ = body_limit.wrap(route, cast("Any", lambda _: None), unused)(exchange)

    def outgoing(self, exchange: Exchange, route: effective.Route, upstream: str) -> Outgoing:
        """What the upstream would be sent. Raises errors.BadRequest."""
        from gateway.middleware.edit_headers import RequestEdits  # noqa: PLC0415 - imports all of it

        settings = self.config.upstreams[upstream].settings
        policies = route.policies
        exchange.upstream = upstream
        # Who is found while the gateway runs, is not known here.
        exchange.target_name = (
            target_name(settings.targets[0].url) if settings.targets else "{target}"
        )
        exchange.upgrade = _upgrade(exchange, policies)
        edits = RequestEdits.compile(policies.headers.request)
        authenticators = self.entering.authenticators if self.config.auth else {}
        withheld = Withheld(route, authenticators)
        gone = self._clients.dropped(exchange.peer_trusted) | withheld.fields
        edited = edits.dropped if edits else frozenset()
        gone |= edited
        table = headers.FieldTable(
            withheld.special, gone, self.config.server.underscore_headers, withheld.cookies
        )
        lines = outbound.request_fields(exchange, table)
        rewrite = compile_rewrite(route, self.config.upstreams)
        target = withheld.target(exchange.target) if withheld.parameters else exchange.target
        target = target if rewrite is None else rewrite(exchange, target)
        prefix = (policies.rewrite.strip_prefix or "").encode()
        lines += self._clients.forwarding(exchange, prefix)
        if exchange.identity is not None:
            lines += told(exchange.identity, edited)
        if edits is not None:
            lines += edits.lines(exchange)
        host = compile_host(route)
        shown: str | None
        if host is not None:
            shown = host.render(exchange)
        elif settings.host == "pass":
            shown = exchange.authority
        else:
            shown = None if settings.host == "target" else settings.host
        return Outgoing(exchange.method, target, shown, _fields(lines))


def heaviest(answer: effective.Forward) -> model.Branch:
    """The branch that stands for a split where only one can be shown."""
    return max(answer.branches, key=lambda branch: branch.weight)


def target_name(url: str) -> str:
    """`host:port` of a target, as metrics and logs call it."""
    scheme, _, rest = url.partition("://")
    if not rest:
        return url
    authority = rest.partition("/")[0]
    found = _AUTHORITY.fullmatch(authority)
    return authority if found and found[1] else f"{authority}:{443 if scheme == 'https' else 80}"


def target_prefix(url: str) -> str:
    """The path of a target's URL, which is put before every forwarded path."""
    _, _, rest = url.partition("://")
    _, slash, path = rest.partition("/")
    return (slash + path).rstrip("/")


def _split(url: str) -> tuple[str, str, str]:
    """(scheme, authority, target) of a URL as a client would send it."""
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError(f"{url!r} is not a URL such as http://example.com/path")
    scheme, authority, target = found[1].lower(), found[2], found[3]
    if not _AUTHORITY.fullmatch(authority):
        raise ValueError(f"{url!r} has no host that could be asked")
    if not target.startswith("/"):
        target = "/" + target
    # Clients percent-encode what may not be sent.
    return scheme, authority, _NOT_SENT.sub(lambda char: percent_encode(char[0]), target)


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _upgrade(exchange: Exchange, policies: model.Policies) -> str:
    name = exchange.headers.get("Upgrade", "").strip().lower()
    websocket = name == "websocket" and policies.websocket is not None
    wanted = {one.lower() for one in policies.upgrade}
    return name if websocket or (name in wanted and name != "h2c") else ""


def _fields(lines: bytes) -> tuple[tuple[str, str], ...]:
    """Finished header lines as names and values."""
    found = []
    for line in lines.split(b"\r\n"):
        if line:
            name, _, value = line.decode("utf-8", "surrogateescape").partition(":")
            found.append((name, value.strip()))
    return tuple(found)


@dataclass(frozen=True)
class Hidden:
    """What of an outgoing request came from a secret file, and is never shown."""

    headers: frozenset[str]
    """Names in lower case."""
    query: frozenset[str]
    path: bool

    def header(self, name: str, value: str) -> str:
        """The value as it may be shown."""
        return "***" if name.lower() in self.headers else value

    def target(self, target: str) -> str:
        """The target as it may be shown."""
        path, mark, query = target.partition("?")
        if self.path:
            path = "/***"
        if self.query:
            parts = [part.partition("=") for part in query.split("&")]
            query = "&".join(
                f"{name}=***" if name in self.query else name + equals + value
                for name, equals, value in parts
            )
        return path + mark + query


def hidden(route: effective.Route) -> Hidden:
    """What must not be shown of a request that this route sends on."""
    from gateway.config import masking  # noqa: PLC0415 - rarely needed

    shown: dict[str, Any] = masking.route(route)
    edits, rewrite = shown["headers"]["request"], shown["rewrite"]
    return Hidden(
        frozenset(name.lower() for name in _masked({**edits["add"], **edits["set"]})),
        frozenset(
            percent_encode(name)
            for name in _masked({**rewrite["query"]["add"], **rewrite["query"]["set"]})
        ),
        any(_masked({"path": rewrite["path"], "prefix": rewrite["add_prefix"]})),
    )


def _masked(values: dict[str, Any]) -> list[str]:
    return [name for name, value in values.items() if "***" in (value, *_members(value))]


def _members(value: object) -> list[object]:
    return value if isinstance(value, list) else []
