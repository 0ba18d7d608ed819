"""Requests and routes by hand, for tests that need no file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from multidict import CIMultiDict

from gateway.config import effective, model
from gateway.routing.router import Router

if TYPE_CHECKING:
    from gateway.certificates import Encryption
    from gateway.identity import Identity


@dataclass
class Named:
    name: str = "route"


@dataclass
class View:
    """What routing reads of a request."""

    target: str = "/"
    method: str = "GET"
    host: str = "example.com"
    scheme: str = "http"
    client_ip: str = "203.0.113.9"
    listener: str = "main"
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    captures: dict[str, str] = field(default_factory=dict)
    request_id: str = "0" * 32
    route: Named = field(default_factory=Named)
    upstream: str = ""
    target_name: str = ""
    identity: Identity | None = None
    tls: Encryption | None = None

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]


def view(target: str = "/", method: str = "GET", **rest: Any) -> View:
    headers = CIMultiDict(rest.pop("headers", ()))
    return View(target=target, method=method, headers=headers, **rest)


def route(name: str = "r", path: str | None = "/*", line: int = 1, **rest: Any) -> effective.Route:
    """A route; `regex=`, `host=`, `methods=`, `priority=`, `when=`, `rewrite=` as in the model."""
    regex = rest.pop("regex", None)
    rewrite = rest.pop("rewrite", {})
    pattern = {"regex": regex} if regex is not None else {"text": path}
    return effective.Route(
        name=name,
        match=model.Match.model_validate({"path": pattern, **rest}),
        answer=effective.Forward((model.Branch(upstream=name, weight=1),)),
        policies=model.Policies.model_validate({"rewrite": rewrite}),
        place=effective.Place("gateway.yaml", line, 3),
        origins={},
    )


def router(*routes: effective.Route, ambiguous_paths: str = "reject") -> Router[str]:
    return Router([(one, one.name) for one in routes], ambiguous_paths)


def winner(table: Router[str], target: str, method: str = "GET", **rest: Any) -> str:
    """Name of the route that takes a request, or the reason why none does."""
    from gateway.errors import GatewayError

    try:
        return table.match(view(target, method, **rest))[0]
    except GatewayError as error:
        return error.reason
