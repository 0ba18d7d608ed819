"""A checked configuration becomes a Snapshot.

Rules of this file: synchronous, and no I/O but reading files that the configuration names (error
pages, certificates). Whatever can fail, fails here; what changes living things (an upstream's
targets) is left with the claims and happens when the snapshot is swapped in. Every name is looked
up here, once: a Snapshot is closures over what was found.
"""

from __future__ import annotations

import functools
import hashlib
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel

from gateway import middleware as middlewares
from gateway.auth import Tools, making
from gateway.client import Clients
from gateway.config import effective, model
from gateway.config.texts import Secret
from gateway.fork import Fork
from gateway.limits import stores
from gateway.limits.local import LocalStore
from gateway.limits.stores import Stores
from gateway.middleware import redirect, respond, static
from gateway.middleware.answer_edits import compile_edits
from gateway.middleware.base import ANSWERS, Build
from gateway.middleware.edit_headers import edited
from gateway.middleware.mirror import Mirrors
from gateway.middleware.shed import Shedding
from gateway.observe.accesslog import AccessLog
from gateway.pages import Pages
from gateway.proxy import Forward, unmatched
from gateway.routing.router import Router
from gateway.runtime import entrances
from gateway.snapshot import Route, Snapshot
from gateway.uploads import Uploads
from gateway.upstream.upstream import Upstream
from gateway.withheld import masks

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.auth import Authenticator
    from gateway.auth.oidc import Oidc
    from gateway.clock import Clock
    from gateway.exchange import Exchange, Finish, Handler, Reply
    from gateway.middleware.base import Layer
    from gateway.observe.metrics import Metrics
    from gateway.runtime.resources import Claims

UNMATCHED = "_none"


def snapshot(
    config: effective.Config,
    claims: Claims,
    metrics: Metrics,
    clock: Clock,
    at_finish: tuple[Finish, ...] = (),
) -> Snapshot:
    """Compile `config` for the generation of `claims`. `at_finish`: called for every exchange, too.

    Raises OSError, ValueError or ssl.SSLError for a file that the configuration names and that can
    not be read or used.
    """
    traceparent = config.observability.traceparent
    clients = claims.claim(
        "clients",
        f"{traceparent} {_digest(config.server)}",
        lambda: Clients(config.server, traceparent=traceparent),
    )
    shedding = claims.claim("shedding", "", lambda: Shedding(clock, metrics.events))
    claims.at_commit(functools.partial(shedding.apply, config.server.overload))
    authenticators = _authenticators(config, claims, metrics, clock)
    build = Build(
        config=config,
        clock=clock,
        metrics=metrics,
        access_log=_access_log(config, authenticators, claims, metrics, clock),
        upstreams={
            name: _upstream(wanted, config.server.secret, claims, metrics, clock)
            for name, wanted in config.upstreams.items()
        },
        shedding=shedding,
        mirrors=claims.claim("mirrors", "", Mirrors),
        authenticators=authenticators,
        limits=_limits(config, claims, metrics, clock),
        seconds=lambda name: claims.claim("seconds", name, lambda: deque(maxlen=ANSWERS)),
    )
    before_http, certificates = entrances.of(config, claims, metrics, clock)
    compiler = _Compiler(build, clients, at_finish)
    routes = [(route, compiler.route(route)) for route in config.routes]
    return Snapshot(
        generation=claims.generation,
        config=config,
        router=Router(routes, config.server.ambiguous_paths),
        clients=clients,
        unmatched=compiler.unmatched(),
        redirects=_redirects(config, certificates.name),
        entrances=before_http,
        server_timing=config.observability.server_timing,
    )


def _digest(*settings: object) -> str:
    """Equal settings, equal text: secrets count with what they are, and can not be read in it."""
    return hashlib.sha256(repr([_revealed(each) for each in settings]).encode()).hexdigest()


def _revealed(value: Any) -> Any:
    """Plain values, to be compared: models that hold mappings have no hash, and secrets print as ***."""
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, BaseModel):
        return [(name, _revealed(each)) for name, each in value]
    if isinstance(value, dict):
        return [(name, _revealed(each)) for name, each in value.items()]
    if isinstance(value, list | tuple):
        return [_revealed(each) for each in value]
    return value


def _authenticators(
    config: effective.Config, claims: Claims, metrics: Metrics, clock: Clock
) -> dict[str, Authenticator]:
    """By name of the policy. One lives on, with what it has learned, while its settings stay the same."""
    secrets = tuple(secret.reveal() for secret in config.server.secret)
    made = {}
    for name, policy in config.auth.items():
        tools = Tools(clock, metrics.entrance.policy(name), metrics.events, secrets)
        made[name] = claims.claim(
            "auth",
            f"{name} {_digest(policy, secrets)}",
            functools.partial(making.make, name, policy, tools),
        )
    return made


def _limits(config: effective.Config, claims: Claims, metrics: Metrics, clock: Clock) -> Stores:
    """Where limits count. What was counted lives on, and so does a store while its settings stay the same."""
    local = claims.claim("limits", "", lambda: LocalStore(clock))
    names = frozenset(name for route in config.routes for name, _ in route.rate_limits)
    claims.at_commit(functools.partial(local.keep, names))
    shared = {
        name: claims.claim(
            "store",
            f"{name} {_digest(settings)}",
            functools.partial(stores.make, name, settings, clock, metrics.events),
        )
        for name, settings in config.stores.items()
    }
    return Stores(local, shared)


def _access_log(
    config: effective.Config,
    authenticators: dict[str, Authenticator],
    claims: Claims,
    metrics: Metrics,
    clock: Clock,
) -> AccessLog | None:
    settings = config.observability.access_log
    if settings is None:
        return None
    hidden = (*settings.fields.mask, *masks(authenticators.values()))
    fields = settings.fields.model_copy(update={"mask": hidden})
    settings = settings.model_copy(update={"fields": fields})
    return claims.claim(
        "access_log", _digest(settings), lambda: AccessLog(settings, clock, metrics)
    )


def _upstream(
    wanted: effective.Upstream,
    secrets: tuple[Secret, ...],
    claims: Claims,
    metrics: Metrics,
    clock: Clock,
) -> Upstream:
    """The upstream of that name, which lives on with its connections; its new settings wait for the
    swap.
    """
    settings = wanted.settings
    revealed = [secret.reveal() for secret in secrets]

    def make() -> Upstream:
        fresh = Upstream(wanted.name, clock, metrics.upstream(wanted.name))
        fresh.apply(settings, secrets=revealed)
        return fresh

    upstream = claims.claim("upstream", wanted.name, make)
    pool = upstream.pool_for(
        settings
    )  # reads certificates: what is wrong with them is found out now
    claims.at_commit(functools.partial(upstream.apply, settings, pool, revealed))
    return upstream


def _redirects(
    config: effective.Config, certified: Callable[[str], bool]
) -> dict[str, Callable[[Exchange], Reply | None]]:
    return {
        listener.name: redirect.https_redirect(config, listener, certified)
        for listener in config.listeners
        if listener.redirect_to_https is not None
    }


def _around(
    layers: tuple[Layer, ...],
    config: effective.Route,
    handler: Handler,
    build: Build,
    stack: list[str],
) -> Handler:
    """`handler` with `layers`, outermost first, around it. Names of those that it wants are added to `stack`, once."""
    for name, wrap in reversed(layers):
        finishers = len(build.at_finish)
        inner, handler = handler, wrap(config, handler, build)
        if (handler is not inner or len(build.at_finish) > finishers) and name not in stack:
            stack.append(name)
    return handler


class _Compiler:
    """Routes into handlers, for one configuration."""

    def __init__(self, build: Build, clients: Clients, at_finish: tuple[Finish, ...]) -> None:
        self._build = build
        self._at_finish = at_finish
        self._clients = clients
        self._server_name = build.config.server.name
        self._pages: list[tuple[model.Errors, Pages]] = []

    def route(self, config: effective.Route) -> Route:
        """A route with its answer and everything around it."""
        build = replace(self._build, at_finish=[])
        kind, answer = self._answer(config, build)
        if kind != "forward":  # a forwarded head is edited when it is read
            answer = edited(answer, compile_edits(config.policies))
        return self._wrapped(config, answer, kind, build, config)

    def unmatched(self) -> Route:
        """The stand-in for requests that no route takes, and for heads that were refused: counted
        and logged as any other.
        """
        config = effective.Route(
            name=UNMATCHED,
            match=model.Match(),
            answer=model.Respond(status=404),
            # Nothing is forwarded, so nothing is limited but what the client's own limits say.
            policies=model.Policies(
                errors=self._build.config.errors, body=model.Body(max=None), importance="high"
            ),
            place=effective.Place("", 1, 1),
            origins={},
        )
        return self._wrapped(config, unmatched, "refuse", replace(self._build, at_finish=[]), None)

    def _wrapped(
        self,
        config: effective.Route,
        answer: Handler,
        kind: str,
        build: Build,
        shown: effective.Route | None,
    ) -> Route:
        stack = [kind]
        handler = _around(middlewares.GUARDED, config, answer, build, stack)
        if isinstance(answer, Fork):  # a branch may be drawn by who asks
            timed = [
                _around(middlewares.TIMED, one, handler, build, stack) for one in config.per_branch
            ]
            handler = answer.drawing(timed)
            stack.append("split")
            handler = _around(middlewares.ADMITTED, config, handler, build, stack)
        else:
            handler = _around(middlewares.ADMITTED, config, handler, build, stack)
            handler = _around(middlewares.TIMED, config, handler, build, stack)
        handler = _around(middlewares.COUNTED, config, handler, build, stack)
        return Route(
            name=config.name,
            handler=handler,
            at_finish=(*build.at_finish, *self._at_finish),
            stack=tuple(reversed(stack)),
            config=shown,
            pages=self._pages_of(config.policies.errors),
            gather=Uploads(config.policies, build.config.server.limits, build.clock).gather,
            edits=compile_edits(config.policies),
        )

    def _answer(self, config: effective.Route, build: Build) -> tuple[str, Handler]:
        match config.answer:
            case effective.Forward() if config.per_branch:
                return "forward", Fork(config, build, self._clients)
            case effective.Forward():
                return "forward", Forward(config, build, self._clients)
            case effective.SignIn(policy, does):
                login = cast("Oidc", build.authenticators[policy])
                return "sign_in", login.callback if does == "callback" else login.logout
            case model.Static():
                return "static", static.answer(config.answer, config, build)
            case model.Redirect():
                return "redirect", redirect.answer(config.answer, config, build)
            case model.Respond():
                return "respond", respond.answer(config.answer, config, build)

    def _pages_of(self, settings: model.Errors) -> Pages:
        """Most routes share the server's pages: each file is read once."""
        for known, pages in self._pages:
            if known == settings:
                return pages
        pages = Pages(settings, self._server_name)
        self._pages.append((settings, pages))
        return pages
