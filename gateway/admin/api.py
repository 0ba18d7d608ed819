"""The admin listener: what the gateway knows of itself, over HTTP and read-only.

Rules of this file: it asks a gateway and changes nothing. Everything but the index and the metrics
is JSON, errors too. A token guards all but `/metrics` and `/health*`; it is read for each request,
so that a reload changes it at once. Nothing here is ever reachable through a listener of the gateway.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import math
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from gateway import listing
from gateway.explain import explain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.clock import Clock
    from gateway.middleware.mirror import Mirrors, Mismatch
    from gateway.observe.events import Event, Events
    from gateway.observe.metrics import Metrics
    from gateway.snapshot import Snapshot
    from gateway.upstream.breaker import Breaker
    from gateway.upstream.concurrency import Limit
    from gateway.upstream.target import Target
    from gateway.upstream.upstream import Upstream

    Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class LastReload(Protocol):
    """How the last attempt to load a configuration ended."""

    @property
    def at(self) -> float: ...
    @property
    def successful(self) -> bool: ...
    @property
    def error(self) -> str | None: ...


class Served(Protocol):
    """What is read of a Gateway."""

    clock: Clock

    @property
    def snapshot(self) -> Snapshot: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def events(self) -> Events: ...
    @property
    def mirrors(self) -> Mirrors: ...
    @property
    def generation(self) -> int: ...
    @property
    def last_reload(self) -> LastReload: ...
    @property
    def ready(self) -> bool: ...
    @property
    def draining(self) -> bool: ...


log = logging.getLogger("gateway.admin")

GATEWAY = web.AppKey("gateway", Served)
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_ENDPOINTS = (
    ("/metrics", "Prometheus text, or OpenMetrics where Accept prefers it"),
    ("/health", "generation, last reload and its error"),
    ("/health/live", "200 while the process answers"),
    ("/health/ready", "200 while it takes requests, 503 while it starts or drains"),
    ("/config", "the configuration that serves, secrets masked"),
    ("/routes", "routes in the order of the file, and what is under way on each"),
    ("/upstreams", "targets: their state, why and since when, requests in flight, connections"),
    ("/events", "what has changed lately, newest last; ?since=TIME, ?upstream=NAME"),
    ("/mirrors", "copies whose answers differed, and where, newest last; ?route=NAME"),
    ("/explain?method=GET&url=http://example.com/", "which route takes a request, and why"),
)


def application(gateway: Served) -> web.Application:
    """The admin listener's application."""
    app = web.Application(middlewares=[_in_json, _guard])
    app[GATEWAY] = gateway
    app.router.add_get("/", index)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/health", health)
    app.router.add_get("/health/live", live)
    app.router.add_get("/health/ready", ready)
    app.router.add_get("/config", config)
    app.router.add_get("/routes", routes)
    app.router.add_get("/upstreams", upstreams)
    app.router.add_get("/events", events)
    app.router.add_get("/mirrors", mirrors)
    app.router.add_get("/explain", explained)
    return app


def _answer(body: object, status: int = 200, **headers: str) -> web.Response:
    text = json.dumps(body, indent=2, default=str) + "\n"
    return web.Response(
        text=text, status=status, content_type="application/json", headers={**_HEADERS, **headers}
    )


def _refusal(status: int, detail: str, **headers: str) -> web.Response:
    title = HTTPStatus(status).phrase
    return _answer({"status": status, "title": title, "detail": detail}, status, **headers)


# ── around every endpoint ───────────────────────────────────────────────────────────────────────


@web.middleware
async def _in_json(request: web.Request, handler: Answer) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPNotFound:
        return _refusal(404, f"there is no {request.path}; / lists what there is")
    except web.HTTPMethodNotAllowed as error:
        allow = ", ".join(sorted(error.allowed_methods))
        return _refusal(405, f"{request.path} takes {allow}", Allow=allow)
    except Exception:
        # A mistake here is told by us, in JSON: aiohttp's own page and log line are neither.
        log.exception("admin_failed", extra={"path": request.path})
        return _refusal(500, "a mistake in the gateway; its service log has the traceback")


@web.middleware
async def _guard(request: web.Request, handler: Answer) -> web.StreamResponse:
    admin = request.app[GATEWAY].snapshot.config.admin
    if admin is None or admin.token is None or _open(request, guarded=admin.metrics_token):
        return await handler(request)
    given = request.headers.getall("Authorization", [])
    scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    expected = admin.token.encode("utf-8", "surrogateescape")
    same = hmac.compare_digest(token.strip().encode("utf-8", "surrogateescape"), expected)
    if scheme.lower() == "bearer" and same:
        return await handler(request)
    return _refusal(
        401,
        "send the token of admin.token: Authorization: Bearer TOKEN",
        **{"WWW-Authenticate": 'Bearer realm="gateway admin"'},
    )


def _open(request: web.Request, *, guarded: bool) -> bool:
    # By what answers, not by path: that has one spelling.
    asked = request.match_info.handler
    return asked in (health, live, ready) or (asked is metrics and not guarded)


# ── the endpoints ───────────────────────────────────────────────────────────────────────────────


async def index(_: web.Request) -> web.Response:
    """What there is, as a page."""
    rows = "".join(
        f'<li><a href="{path.replace("&", "&amp;")}">{path.partition("?")[0]}</a>: {what}</li>'
        for path, what in _ENDPOINTS
    )
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>gateway</title>'
        f"<h1>gateway</h1><ul>{rows}</ul></html>\n"
    )
    return web.Response(text=text, content_type="text/html", headers=_HEADERS)


async def metrics(request: web.Request) -> web.Response:
    """What a scraper reads. Made in a thread: a large page takes a tenth of a second."""
    exposition = request.app[GATEWAY].metrics.exposition
    accept = ",".join(request.headers.getall("Accept", []))
    body, content_type = await asyncio.to_thread(exposition, accept)
    return web.Response(body=body, headers={**_HEADERS, "Content-Type": content_type})


async def health(request: web.Request) -> web.Response:
    """The state in words; always 200, for it is told to people."""
    gateway = request.app[GATEWAY]
    last = gateway.last_reload
    told = {
        "at": _moment(last.at, "seconds"),
        "successful": last.successful,
        "error": last.error,
    }
    return _answer(
        {
            "status": _state(gateway),
            "generation": gateway.generation,
            "config": gateway.snapshot.config.digest,
            "last_reload": told,
        }
    )


def _moment(wall: float, precision: str) -> str:
    """RFC 3339, UTC."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def _state(gateway: Served) -> str:
    if gateway.draining:
        return "draining"
    return "ready" if gateway.ready else "starting"


async def live(_: web.Request) -> web.Response:
    """The process answers."""
    return _answer({"status": "live"})


async def ready(request: web.Request) -> web.Response:
    """Whether requests should be sent here: upstreams do not count, for all would fail together."""
    gateway = request.app[GATEWAY]
    takes = gateway.ready and not gateway.draining
    return _answer({"status": _state(gateway)}, 200 if takes else 503)


async def config(request: web.Request) -> web.Response:
    """The configuration in full form."""
    snapshot = request.app[GATEWAY].snapshot
    return _answer(
        {
            "generation": snapshot.generation,
            "digest": snapshot.config.digest,
            "files": snapshot.config.files,
            # Made when it is asked for, and large where there are many routes: not on the loop.
            "config": await asyncio.to_thread(lambda: snapshot.config.masked),
        }
    )


async def routes(request: web.Request) -> web.Response:
    """Every route, and what is under way on it."""
    gateway = request.app[GATEWAY]
    rows: list[dict[str, Any]] = []
    for row in listing.routes(gateway.snapshot.config):
        meter = gateway.metrics.route(row["name"])
        flying = {"requests_in_flight": meter.in_flight, "websockets_in_flight": meter.websockets}
        rows.append({**row, **flying})
    return _answer({"generation": gateway.snapshot.generation, "routes": rows})


async def upstreams(request: web.Request) -> web.Response:
    """Every upstream with its targets: what `gateway upstreams` prints."""
    gateway = request.app[GATEWAY]
    rows = []
    for name, upstream in gateway.snapshot.config.upstreams.items():
        meter = gateway.metrics.upstream(name)
        row: dict[str, Any] = {
            "name": name,
            "anonymous": upstream.anonymous,
            "balance": upstream.settings.balance,
            "connections_opened": meter.opened,
            "connections_reused": meter.reused,
            "waiting": 0,
            "circuit": None,
            "discovery": None,
            "targets": [],
        }
        if meter.source is not None:
            row |= _upstream(meter.source, gateway.clock)
        rows.append(row)
    return _answer({"generation": gateway.snapshot.generation, "upstreams": rows})


def _upstream(upstream: Upstream, clock: Clock) -> dict[str, Any]:
    whole, found = upstream.breaker, upstream.discovery
    return {
        "waiting": len(upstream.concurrency.waiting),
        "circuit": None if whole is None else _circuit(whole, clock),
        "discovery": None if found is None else {"from": found.what, "problem": found.problem},
        "targets": [_target(target, whole, clock) for target in upstream.targets],
    }


def _target(target: Target, whole: Breaker | None, clock: Clock) -> dict[str, Any]:
    """`whole`: the circuit of the upstream, which is not the target's own.

    `rest`: for how many seconds an unused connection is kept, and after how many the target was seen to end one.
    """
    connections = target.connections
    idle = len(connections.resting)
    limit, circuit = target.limit, target.breaker
    why, since = target.why, target.since
    if target.state == "cut off" and circuit is not None and circuit is whole:
        why, since = whole.why, whole.since
    return {
        "name": target.name,
        "url": target.url,
        "labels": dict(target.labels),
        "backup": target.backup,
        "state": target.state,
        "why": why or None,
        **_since(since, clock),
        "weight": target.weight,
        "in_flight": target.in_flight,
        "connections": {"active": connections.open - idle, "idle": idle},
        "rest": {
            "kept_for": round(connections.patience.keep_for, 3),
            "ended_after": _rounded(connections.patience.limit),
        },
        "waiting": len(connections.waiting),
        "failures": target.failures,
        "circuit": None if circuit is None or circuit is whole else _circuit(circuit, clock),
        "concurrency": None if limit is None else {"busy": limit.busy, "limit": _finite(limit)},
    }


def _circuit(circuit: Breaker, clock: Clock) -> dict[str, Any]:
    state = circuit.state.name.lower()
    return {"state": state, "why": circuit.why or None, **_since(circuit.since, clock)}


def _since(then: float, clock: Clock) -> dict[str, Any]:
    """`then`, in seconds of the clock, as a moment and as the seconds since."""
    seconds = max(0.0, clock.now() - then)
    return {"since": _moment(clock.wall() - seconds, "seconds"), "seconds": round(seconds, 1)}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _finite(limit: Limit[Target]) -> float | None:
    return limit.shown if math.isfinite(limit.shown) else None


async def events(request: web.Request) -> web.Response:
    """What has changed, newest last; `since` and `upstream` choose among it."""
    asked = request.query
    try:
        since = _parsed(asked["since"]) if "since" in asked else None
    except ValueError:
        return _refusal(
            400, f"since={asked['since']!r}: write seconds since 1970, or 2027-01-31T12:00:00Z"
        )
    found = request.app[GATEWAY].events.select(since=since, upstream=asked.get("upstream"))
    return _answer({"events": [_event(event) for event in found]})


def _parsed(text: str) -> float:
    """Unix seconds of either form; a time without a zone is UTC. Raises ValueError."""
    try:
        seconds = float(text)
    except ValueError:
        # A `+` that was not escaped has become a space (WHATWG URL, urlencoded parsing).
        moment = datetime.fromisoformat(text.strip().replace(" ", "+"))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(seconds):
        raise ValueError(text)
    return seconds


def _event(event: Event) -> dict[str, Any]:
    return {
        "number": event.number,
        "at": _moment(event.at, "microseconds"),
        "kind": event.kind,
        "upstream": event.upstream or None,
        "target": event.target or None,
        "why": event.why or None,
    }


async def mirrors(request: web.Request) -> web.Response:
    """The last copies whose answers differed, newest last; `route` chooses among them."""
    kept, route = request.app[GATEWAY].mirrors, request.query.get("route")
    found = [one for one in kept.mismatches if route is None or one.route == route]
    return _answer(
        {"under_way": len(kept.running), "mismatches": [_mismatch(each) for each in found]}
    )


def _mismatch(mismatch: Mismatch) -> dict[str, Any]:
    return {
        "at": _moment(mismatch.at, "microseconds"),
        "route": mismatch.route,
        "method": mismatch.method,
        "path": mismatch.path,
        "request_id": mismatch.request_id,
        "upstream": mismatch.upstream,
        "target": mismatch.target,
        "differences": [difference._asdict() for difference in mismatch.differences],
    }


async def explained(request: web.Request) -> web.Response:
    """`gateway explain`, asked of the configuration that serves."""
    asked = request.query
    headers = []
    for line in asked.getall("header", []):
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            return _refusal(400, f"header={line!r}: write header=NAME:VALUE")
        headers.append((name.strip(), value.strip()))
    if "url" not in asked:
        return _refusal(400, "name a request: /explain?method=GET&url=http://example.com/path")
    try:
        # It compiles every route first: not on the loop.
        found = await asyncio.to_thread(
            explain,
            request.app[GATEWAY].snapshot.config,
            asked.get("method", "GET"),
            asked["url"],
            headers,
            client_ip=asked.get("client_ip", "127.0.0.1"),
        )
    except ValueError as error:
        return _refusal(400, str(error))
    return _answer(found.json())
