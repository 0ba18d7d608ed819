"""Exchanges and a gateway that need no gateway: what `observe` and `admin` read, and nothing else.

Rules of this file: real models and real meters; only what is written elsewhere is stood in for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from multidict import CIMultiDict, CIMultiDictProxy

from gateway.clock import Clock
from gateway.config import effective, model
from gateway.exchange import Exchange
from gateway.middleware.mirror import Mirrors
from gateway.observe.metrics import Metrics
from gateway.upstream.patience import Patience

if TYPE_CHECKING:
    from gateway.observe.events import Events
    from gateway.snapshot import Snapshot


def exchange(headers: dict[str, str] | None = None, **attributes: Any) -> Exchange:
    """A GET of /orders/7 that was forwarded and took 3 ms; anything can be set by name."""
    made = Exchange()
    made.method, made.path, made.query, made.target = "GET", "/orders/7", "", "/orders/7"
    made.headers = CIMultiDictProxy(CIMultiDict(headers or {}))
    made.host, made.client_ip, made.request_id = "api.example.com", "10.0.0.1", "0" * 32
    made.route = cast("Any", SimpleNamespace(name=attributes.pop("route", "orders")))
    made.upstream, made.target_name, made.attempts = "orders", "10.0.0.9:8000", 1
    made.status, made.source = 200, "upstream"
    made.began, made.sent_at, made.head_at = 100.0, 100.0001, 100.0021
    made.replied_at, made.ended = 100.0022, 100.003
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def refused(**attributes: Any) -> Exchange:
    """One that the gateway answered itself."""
    words = {"status": 404, "source": "gateway", "reason": "no_route", "route": "_none"}
    nothing = {"sent_at": 0.0, "head_at": 0.0, "upstream": "", "target_name": "", "attempts": 0}
    return exchange(**{**words, **nothing, **attributes})


def configuration(**parts: Any) -> effective.Config:
    """A configuration with one route to one upstream."""
    route = effective.Route(
        name="orders",
        match=model.Match(),
        answer=effective.Forward((model.Branch(upstream="orders", weight=1),)),
        policies=model.Policies(),
        place=effective.Place("gateway.yaml", 3, 5),
        origins={},
    )
    settings = model.Upstream(targets=(model.Target(url="http://10.0.0.9:8000"),))
    given: dict[str, Any] = {
        "server": model.Server(),
        "listeners": (),
        "admin": model.Admin(),
        "observability": model.Observability(),
        "errors": model.Errors(),
        "upstreams": {"orders": effective.Upstream("orders", False, settings, {})},
        "routes": (route,),
        "tests": (),
        "files": ("gateway.yaml",),
        "digest": "0123456789ab",
        "document": lambda: {"admin": {"token": "***"}},
    }
    return effective.Config(**{**given, **parts})


@dataclass(frozen=True)
class LastReload:
    at: float
    successful: bool = True
    error: str | None = None


@dataclass
class StandIn:
    """Has what `gateway.admin.api.Served` names."""

    config: effective.Config = field(default_factory=configuration)
    metrics: Metrics = field(default_factory=lambda: Metrics(model.Metrics()))
    clock: Clock = field(default_factory=Clock)
    generation: int = 7
    last_reload: LastReload = LastReload(1000.5)
    mirrors: Mirrors = field(default_factory=Mirrors)
    ready: bool = True
    draining: bool = False

    @property
    def events(self) -> Events:
        return self.metrics.events

    @property
    def snapshot(self) -> Snapshot:
        return cast("Snapshot", SimpleNamespace(config=self.config, generation=self.generation))


def target(
    name: str = "10.0.0.9:8000", *, opened: int = 3, idle: int = 1, waiting: int = 0, **state: Any
) -> Any:
    """A target as an upstream has it; anything can be set by name."""
    connections = SimpleNamespace(open=opened, resting=[None] * idle, waiting=[None] * waiting)
    connections.patience = Patience(4.0)
    usual: dict[str, Any] = {
        "name": name,
        "url": f"http://{name}",
        "labels": {},
        "backup": False,
        "weight": 2,
        "in_flight": 2,
        "connections": connections,
        "available": True,
        "state": "available",
        "why": "",
        "since": 0.0,
        "ejected_until": 0.0,
        "failures": 0,
        "breaker": None,
        "limit": None,
    }
    return SimpleNamespace(**{**usual, **state})


def source(*targets: Any, breaker: Any = None, waiting: int = 0) -> Any:
    """An upstream as its meter sees it."""
    concurrency = SimpleNamespace(waiting=[None] * waiting)
    return SimpleNamespace(
        targets=targets, breaker=breaker, concurrency=concurrency, discovery=None
    )


def samples(metrics: Metrics) -> dict[str, float]:
    """The exposition as `name{labels}` → value."""
    page = metrics.exposition(None)[0].decode()
    lines = [line for line in page.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
