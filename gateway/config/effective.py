"""What counts after every layer has been merged: the types that the rest of the gateway is compiled from.

Rules of this file: everything is frozen and complete; nobody after this looks at `defaults`, profiles or short forms.
Each effective value knows where it was written (`origins`), so that `explain` and `check` can point at it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.config import model
    from gateway.config.lint.rules import Finding


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was written. Lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an effective value comes from: its layer, and its place unless it is built in."""

    layer: str  # "built in", "defaults", "upstream orders", "profile public", "route"
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake or one warning, with its place."""

    place: Place
    path: str  # such as routes[2].timeouts.idle
    message: str  # what is wrong, what was expected, the nearest known word

    def __str__(self) -> str:
        return (
            f"{self.place}: {self.path}: {self.message}"
            if self.path
            else f"{self.place}: {self.message}"
        )


@dataclass(frozen=True, slots=True)
class Upstream:
    """A named or anonymous group of targets (an anonymous one bears its route's name)."""

    name: str
    anonymous: bool
    settings: model.Upstream
    origins: Mapping[str, Origin]


@dataclass(frozen=True, slots=True)
class Forward:
    """`to:` or `split:`, in full form: names of upstreams with weights; one branch for `to`."""

    branches: tuple[model.Branch, ...]


@dataclass(frozen=True, slots=True)
class SignIn:
    """Where a login at a provider comes back to, or where it ends: nobody has written such a route."""

    policy: str
    does: Literal["callback", "logout"]

    def __str__(self) -> str:
        return f"{self.does} of auth.{self.policy}"


Answer = "Forward | SignIn | model.Static | model.Redirect | model.Respond"


@dataclass(frozen=True, slots=True)
class Route:
    """One route, complete. `policies` of a forwarding one have those of its upstream merged in: of its first branch's, where
    `per_branch` says more.
    """

    name: str
    match: model.Match
    answer: Forward | SignIn | model.Static | model.Redirect | model.Respond
    policies: model.Policies
    place: Place
    origins: Mapping[str, Origin]  # "timeouts.idle" → where it was written; absent: built in
    per_branch: tuple[Route, ...] = ()
    """This route as each branch of its split has it, in their order, where their upstreams say different things."""
    rate_limits: tuple[tuple[str, model.RateLimit], ...] = ()
    """What `policies.rate_limit` means: (name, limit); one of the route's own bears the route's name."""

    @property
    def idle_written(self) -> bool:
        """Whether somebody has written `timeouts.idle`: then it holds for event streams, too."""
        origin = self.origins.get("timeouts.idle")
        return origin is not None and origin.place is not None

    def variants(self) -> Mapping[str, Route]:
        """This route as its branches have it, by upstream; where all have the same, it itself, without a name."""
        if not self.per_branch or not isinstance(self.answer, Forward):
            return {"": self}
        names = (branch.upstream for branch in self.answer.branches)
        return dict(zip(names, self.per_branch, strict=True))


@dataclass(frozen=True, slots=True)
class Config:
    """One configuration, loaded and checked. Relative paths in it are absolute by now."""

    server: model.Server
    listeners: tuple[model.Listener, ...]
    admin: model.Admin | None
    observability: model.Observability
    errors: model.Errors
    upstreams: Mapping[str, Upstream]
    routes: tuple[Route, ...]
    tests: tuple[model.InlineTest, ...]
    files: tuple[str, ...]
    digest: str  # of all text that was read: 12 hex digits
    auth: Mapping[str, model.AuthPolicy] = field(default_factory=dict)
    rate_limits: Mapping[str, model.RateLimit] = field(default_factory=dict)
    stores: Mapping[str, model.Store] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()
    test_places: tuple[Place, ...] = ()
    auth_places: Mapping[str, Place] = field(default_factory=dict)
    document: Callable[[], Mapping[str, object]] = dict
    findings: Callable[[], tuple[Finding, ...]] = tuple
    """What `gateway check --lint` tells, looked for when asked."""

    @property
    def masked(self) -> Mapping[str, object]:
        """The whole document in full form, made when asked: secrets and what `${file:…}` gave are ***."""
        return self.document()
