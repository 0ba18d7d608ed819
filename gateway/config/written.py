"""The document as people write it: sections, and routes whose match, answer and policies stand side by side.

Rules of this file: only what `load` takes apart; nothing after `merge` sees these models. The JSON Schema is made from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from gateway.config import later, model
from gateway.config.addresses import Method, check_url, looks_like_url
from gateway.config.auth import METHODS
from gateway.config.forms import Model, built_in
from gateway.config.nodes import Seq, Text, sequence
from gateway.config.policies import UPSTREAM_ONLY
from gateway.config.scalars import Duration, HostPattern, Share, Trap
from gateway.config.texts import Watched

if TYPE_CHECKING:
    from gateway.config.nodes import Map

ANSWERS = ("to", "split", "static", "redirect", "respond")
LATER_ANSWERS = frozenset({"compose"})
MATCH = ("host", "path", "methods", "when", "priority")


def _url(written: Any) -> Any:
    if not isinstance(written, Text):
        return Trap("a URL is wanted; weights are written in an upstream, under targets")
    try:
        check_url(written)
    except ValueError as error:
        return Trap(str(error))
    return written


class Profile(model.Policies):
    """A named set of policies that routes `use:`."""

    elsewhere: ClassVar[dict[str, str]] = {
        **model.Policies.elsewhere,
        **dict.fromkeys(
            ("name", "use", *MATCH, *ANSWERS, "compose", "host"),
            "profiles hold policies only; write it in the route",
        ),
    }


class Defaults(model.Policies):
    """Policies of every route, and what upstreams have in common."""

    later: ClassVar[frozenset[str]] = model.Policies.later
    elsewhere: ClassVar[dict[str, str]] = {
        **dict.fromkeys(
            ("name", "use", *MATCH, *ANSWERS, "compose"),
            "defaults hold policies only; write it in the route",
        ),
        **dict.fromkeys(("targets", "discover"), "write it in an upstream"),
    }

    balance: model.Balance = Field("p2c", description="how upstreams choose a target")
    sticky: model.Sticky | None = Field(None, description="the same target for the same client")
    slow_start: Duration | None = Field(
        None, description="how long a target that comes back takes to get its whole share"
    )
    health: model.Health | None = Field(
        None, description="checks of upstreams, and how often; a path that is asked for"
    )
    eject: model.Eject | None = Field(
        default_factory=built_in(model.Eject), description="leave out targets that fail"
    )
    panic: Share | None = Field(
        0.5, description="with a smaller share of targets left, ejections are set aside"
    )
    circuit: model.Circuit | None = Field(None, description="send nothing while too much fails")
    concurrency: model.Concurrency | None = Field(
        None, description="requests that a target has at once"
    )
    pool: model.Pool = Field(
        default_factory=built_in(model.Pool), description="connections that upstreams keep"
    )
    host: str = Field("pass", description="the Host that upstreams see: pass, target or a name")
    tls: model.UpstreamTls = Field(
        default_factory=built_in(model.UpstreamTls), description="TLS towards upstreams"
    )


class Route(model.Policies):
    """Which requests, what answers them, and the policies around it."""

    later: ClassVar[frozenset[str]] = model.Policies.later | LATER_ANSWERS

    @classmethod
    def adjusted(cls, value: Map) -> Map:
        """The URLs of `to:` are checked here, where every other mistake of the route is."""
        to = value.get("to")
        if isinstance(to, Seq):
            urls: list[Any] = [_url(item) for item in to]
            return value.like({**value, "to": sequence(urls, to.source, to.line, to.column)})
        if isinstance(to, Text) and looks_like_url(to):
            return value.like({**value, "to": _url(to)})
        return value

    name: str | None = Field(
        None, description="shown in logs and metrics; default HOST/PATH METHODS"
    )
    host: tuple[HostPattern, ...] = Field((), description="host names; none: any")
    path: model.PathPattern = Field(
        default_factory=built_in(model.PathPattern, text="/*"),
        description="a path, a prefix, a template or a regex",
    )
    methods: tuple[Method, ...] = Field((), description="methods; none: any")
    when: model.When = Field(default_factory=built_in(model.When), description="further conditions")
    priority: int = Field(0, description="the highest wins before anything else is compared")
    use: tuple[str, ...] = Field((), description="profiles, in this order")
    to: Annotated[tuple[Watched, ...], Field(min_length=1)] | None = Field(
        None, description="a URL, URLs, or an upstream's name"
    )
    split: Annotated[tuple[model.Branch, ...], Field(min_length=1)] | None = Field(
        None, description="upstreams by weight"
    )
    static: model.Static | None = Field(None, description="files")
    redirect: model.Redirect | None = Field(None, description="another address")
    respond: model.Respond | None = Field(None, description="a fixed answer")


class Document(Model):
    """A configuration file."""

    later: ClassVar[frozenset[str]] = later.DOCUMENT
    elsewhere: ClassVar[dict[str, str]] = {
        **dict.fromkeys(model.Server.model_fields, "write it in server"),
        **dict.fromkeys(UPSTREAM_ONLY, "write it in an upstream, or in defaults for all"),
        **dict.fromkeys(
            model.Policies.model_fields,
            "write it in a route, in a profile, or in defaults for all routes",
        ),
        **dict.fromkeys(("tls", "proxy_protocol"), "write it in one of listeners"),
        **{name: f"write auth: {{NAME: {{{name}: …}}}}" for name in METHODS},
    }

    version: Literal[1] = Field(1, description="of the language")
    include: tuple[str, ...] = Field((), description="further files: names or globs")
    server: model.Server = Field(
        default_factory=built_in(model.Server), description="what holds for all requests"
    )
    listeners: tuple[model.Listener, ...] = Field((), description="where clients connect")
    admin: model.Admin | None = Field(
        default_factory=built_in(model.Admin), description="metrics, health and state"
    )
    observability: model.Observability = Field(
        default_factory=built_in(model.Observability), description="what is seen"
    )
    errors: model.Errors = Field(
        default_factory=built_in(model.Errors), description="what failures look like"
    )
    upstreams: dict[str, model.Upstream] = Field(
        default_factory=dict, description="named groups of targets"
    )
    auth: dict[str, model.AuthPolicy] = Field(
        default_factory=dict, description="ways to be known, by name"
    )
    rate_limits: dict[str, model.RateLimit] = Field(
        default_factory=dict, description="limits, by name"
    )
    stores: dict[str, model.Store] = Field(
        default_factory=dict, description="where several gateways count together, by name"
    )
    profiles: dict[str, Profile] = Field(default_factory=dict, description="named sets of policies")
    defaults: Defaults = Field(
        default_factory=built_in(Defaults), description="policies of every route"
    )
    routes: tuple[Route, ...] = Field((), description="which requests go where")
    tests: tuple[model.InlineTest, ...] = Field((), description="what `gateway check` tries")


INCLUDABLE = frozenset(
    {"upstreams", "auth", "rate_limits", "stores", "profiles", "routes", "tests"}
)
