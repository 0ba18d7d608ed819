"""What a request would meet, and why: every route considered, the winner, each setting with its
place, the request sent on.

Rules of this file: it asks the code that serves (`rehearsal.py`) and describes what it hears; it
never decides. One answer for the command line and the admin listener, as text for people and as
plain data for programs. What came from a secret file is shown as ***.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway import errors
from gateway.config import effective, masking, model
from gateway.explain_settings import Setting, settings_of
from gateway.pipeline import pipeline, shown, size
from gateway.rehearsal import (
    CannotTell,
    Outgoing,
    Rehearsal,
    heaviest,
    hidden,
    target_prefix,
)
from gateway.routing import paths
from gateway.routing.match import asked_method

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from gateway.exchange import Exchange, Reply
    from gateway.rehearsal import Given
    from gateway.routing.router import Entry

__all__ = ["Considered", "Explanation", "Setting", "explain", "pipeline"]


@dataclass(frozen=True)
class Considered:
    """One route, and what became of it."""

    route: str
    place: str
    outcome: str
    """wins, outranked (it fits, and ranks lower) or refused."""
    failed: str = ""
    """The first condition that failed, such as `methods` or `header x-version`."""
    why: str = ""


@dataclass(frozen=True)
class Explanation:
    """What a request would meet."""

    request: dict[str, str]
    considered: tuple[Considered, ...]
    route: str = ""
    place: str = ""
    captures: dict[str, str] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    """Status, reason and detail, if the gateway answers by itself that it will not."""
    answer: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)
    """Who asks, where the route's `auth` knows; `unknown`: why nobody can tell here."""
    sent: dict[str, Any] | None = None
    """The request that the upstream would get."""
    retry: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()
    pipeline: tuple[tuple[str, str], ...] = ()

    @property
    def matched(self) -> bool:
        """Whether a route takes the request."""
        return self.route != ""

    def json(self) -> dict[str, Any]:
        """Plain data, ready for `json.dumps`."""
        return {
            "request": self.request,
            "matched": self.matched,
            "route": self.route or None,
            "place": self.place or None,
            "error": self.error,
            "considered": [vars(one) for one in self.considered],
            "captures": self.captures,
            "answer": self.answer,
            "client": self.client,
            "sent": self.sent,
            "retry": list(self.retry),
            "settings": [vars(one) for one in self.settings],
            "pipeline": [{"stage": stage, "does": does} for stage, does in self.pipeline],
        }

    def text(self, colour: bool = False) -> str:
        """For people."""
        from gateway.explain_text import render  # noqa: PLC0415 - for people only

        return render(self, colour=colour)


def explain(
    config: effective.Config,
    method: str,
    url: str,
    headers: Iterable[tuple[str, str]] = (),
    client_ip: str = "127.0.0.1",
    given: Given | None = None,
) -> Explanation:
    """What `config` makes of a request for `url` from a peer at `client_ip`; `given`: whom a policy is said to have
    accepted, whatever the credentials.

    Raises ValueError, with a sentence for the user, if that is no request, or the route would accept nobody so.
    """
    rehearsal = _rehearsal(config)
    exchange = rehearsal.ask(method, url, headers, client_ip)
    request = {
        "method": method,
        "url": url,
        "host": exchange.host,
        "target": exchange.target,
        "scheme": exchange.scheme,
        "client_ip": exchange.client_ip,
        "listener": exchange.listener,
    }
    refusal = exchange.refusal
    if isinstance(refusal, errors.GatewayError):
        return Explanation(request, (), error=_error(refusal))
    if refusal is not None:
        answer = {"kind": "options", "status": refusal.status, "allow": _field(refusal, b"Allow")}
        return Explanation(request, (), answer=answer)
    redirect = rehearsal.redirected(exchange)
    if redirect is not None:
        answer = {
            "kind": "redirect_to_https",
            "status": redirect.status,
            "to": _field(redirect, b"Location"),
        }
        return Explanation(request, (), answer=answer)
    try:
        route = rehearsal.match(exchange)
    except errors.GatewayError as error:
        considered = tuple(_considered(rehearsal, exchange, None))
        return Explanation(
            request, considered, error=_error(error, _readings(rehearsal, exchange, error))
        )
    return _matched(rehearsal, exchange, route, request, given)


_last: list[Rehearsal] = []


def _rehearsal(config: effective.Config) -> Rehearsal:
    """The tables of the configuration that was asked last are kept: a page may ask often."""
    if not _last or _last[0].config is not config:
        _last[:] = [Rehearsal(config)]
    return _last[0]


def _matched(
    rehearsal: Rehearsal,
    exchange: Exchange,
    route: effective.Route,
    request: dict[str, str],
    given: Given | None,
) -> Explanation:
    sent, error = None, None
    client: dict[str, Any] = {}
    retry: tuple[str, ...] = ()
    answer = _answer(route, rehearsal.config)
    try:
        client, reply = _entered(rehearsal, exchange, route, given)
        if reply is not None:
            answer = {"kind": "admitted", "status": reply.status, "headers": _lines(reply)}
        elif isinstance(route.answer, effective.Forward):
            retry = _tried_again(route, exchange)
            sent = _sent(rehearsal.outgoing(exchange, route, answer["upstream"]), route, answer)
    except errors.GatewayError as refused:
        error = _error(refused)
    return Explanation(
        request,
        tuple(_considered(rehearsal, exchange, route)),
        route.name,
        str(route.place),
        dict(exchange.captures),
        error,
        answer,
        client,
        sent,
        retry,
        tuple(settings_of(route, rehearsal.config.upstreams.get(answer.get("upstream", "")))),
        pipeline(route, rehearsal.config),
    )


_ENTRANCE = frozenset({"auth", "allow", "cors", "csrf"})
"""Policies that look at a request before the route's answer does."""


def _entered(
    rehearsal: Rehearsal, exchange: Exchange, route: effective.Route, given: Given | None
) -> tuple[dict[str, Any], Reply | None]:
    """Who asks, and what is answered in place of the route's answer. Raises errors.GatewayError and ValueError."""
    if given is None and route.policies.model_fields_set.isdisjoint(_ENTRANCE):
        rehearsal.limit(exchange, route)
        return {}, None
    try:
        reply = rehearsal.entering.admit(exchange, route, given)
    except CannotTell as error:
        return {"unknown": str(error)}, None
    except OSError as error:
        raise ValueError(str(error)) from None
    identity = exchange.identity
    if identity is None:
        return {}, reply
    known = {"policy": identity.policy, "consumer": identity.consumer}
    return known | {
        "claims": dict(identity.claims),
        "scopes": sorted(identity.scopes),
        "groups": sorted(identity.groups),
    }, reply


def _lines(reply: Reply) -> list[list[str]]:
    """The fields of a reply."""
    told = [line.decode("utf-8", "surrogateescape").partition(":") for line in reply.lines]
    return [[name, value.strip()] for name, _, value in told]


# ── which route ─────────────────────────────────────────────────────────────────────────────────


def _considered(
    rehearsal: Rehearsal, exchange: Exchange, winner: effective.Route | None
) -> Iterator[Considered]:
    """The routes whose host and path fit, best first; then all others in the order of names."""
    path = "/" if exchange.path == "*" else exchange.path
    if winner is not None and exchange.target.partition("?")[0] != exchange.path:
        path = exchange.target.partition("?")[0]  # `ambiguous_paths: resolve`
    path = paths.canonical(path)
    near = list(rehearsal.router.candidates(exchange.host, path))
    seen = set(map(id, near))
    rest = [entry for entry in rehearsal.router.entries if id(entry) not in seen]
    rest.sort(key=lambda entry: entry.route.name)
    for entry in near + rest:
        yield _judged(entry, exchange, path, winner)


def _judged(
    entry: Entry[effective.Route], exchange: Exchange, path: str, winner: effective.Route | None
) -> Considered:
    name, place = entry.route.name, str(entry.route.place)
    failed = entry.why_not(exchange, path)
    if failed is not None:
        return Considered(name, place, "refused", *failed)
    if entry.route is winner:
        return Considered(name, place, "wins")
    if winner is None:
        return Considered(name, place, "refused", "path", "it fits one reading of the path only")
    return Considered(name, place, "outranked", "", f"it fits too; {winner.name} ranks higher")


def _readings(rehearsal: Rehearsal, exchange: Exchange, error: errors.GatewayError) -> list[str]:
    """For a path that can be read two ways: which reading leads where."""
    if not isinstance(error, errors.BadRequest):
        return []
    found = []
    for form in paths.readings(exchange.path):
        method = asked_method(exchange)
        taker = next(
            (
                entry.route.name
                for entry in rehearsal.router.candidates(exchange.host, form)
                if (entry.methods is None or method in entry.methods) and entry.passes(exchange)
            ),
            "no route",
        )
        found.append(f"{form} leads to {taker}")
    return found


def _error(error: errors.GatewayError, readings: Iterable[str] = ()) -> dict[str, Any]:
    return {
        "status": error.status,
        "reason": error.reason,
        "detail": error.detail or error.title,
        "headers": [list(pair) for pair in error.headers],
        "readings": list(readings),
    }


def _field(reply: Reply, name: bytes) -> str:
    value = reply.get(name) or b""
    return value.decode("utf-8", "surrogateescape")


# ── what answers ────────────────────────────────────────────────────────────────────────────────


def _answer(route: effective.Route, config: effective.Config) -> dict[str, Any]:
    answer = route.answer
    if not isinstance(answer, effective.Forward):
        kind = "sign_in"
        if not isinstance(answer, effective.SignIn):
            kind = type(answer).__name__.lower()
        shown = masking.route(route)[kind]
        return {"kind": kind, kind: shown}
    chosen = heaviest(answer)
    settings = config.upstreams[chosen.upstream].settings
    found: dict[str, Any] = {
        "kind": "forward",
        "upstream": chosen.upstream,
        "balance": settings.balance,
        "targets": list(_targets(settings.targets, chosen, answer.branches)),
    }
    if chosen.labels:
        found["labels"] = dict(chosen.labels)
    if settings.discover is not None:
        found["discover"] = _discovered(settings.discover)
    if len(answer.branches) > 1:
        weights = sum(branch.weight for branch in answer.branches)
        found["split"] = [
            {
                "upstream": branch.upstream,
                "share": round(branch.weight / weights, 4),
                **({"labels": dict(branch.labels)} if branch.labels else {}),
            }
            for branch in answer.branches
        ]
        key = next((branch.sticky_by for branch in answer.branches if branch.sticky_by), None)
        if key is not None:
            found["sticky_by"] = key
    return found


def _targets(
    targets: tuple[model.Target, ...], chosen: model.Branch, branches: Iterable[model.Branch]
) -> Iterator[dict[str, Any]]:
    """Those with the branch's labels; without labels, those that no other branch takes. A backup has no share while
    the others are up.
    """
    taken = [one for one in targets if _bears(one, chosen.labels)]
    if not chosen.labels:
        others = [one.labels for one in branches if one.labels and one.upstream == chosen.upstream]
        taken = [one for one in taken if not any(_bears(one, labels) for labels in others)]
    total = sum(one.weight for one in taken if not one.backup)
    for one in taken:
        share = round(one.weight / total, 4) if total and not one.backup else 0
        told = {"url": one.url, "weight": one.weight, "share": share}
        if one.labels:
            told["labels"] = dict(one.labels)
        if one.backup:
            told["backup"] = True
        yield told


def _bears(target: model.Target, labels: Mapping[str, str]) -> bool:
    return labels.items() <= target.labels.items()


def _discovered(settings: model.Discover) -> str:
    """Where targets are looked for: nobody is asked here."""
    if settings.dns is not None:
        return f"addresses of {settings.dns}, port {settings.port}"
    if settings.srv is not None:
        return f"SRV records of {settings.srv}"
    if settings.file is not None:
        return f"the file {settings.file}"
    return f"the environment's {settings.env}"


def _sent(outgoing: Outgoing, route: effective.Route, answer: dict[str, Any]) -> dict[str, Any]:
    secret = hidden(route)
    prefixes = {target_prefix(target["url"]) for target in answer["targets"]}
    if answer.get("discover", "").startswith(("addresses", "SRV")):
        prefixes = {""}  # what a name server finds has no path
    prefix = prefixes.pop() if len(prefixes) == 1 else "{target's path}"
    return {
        "method": outgoing.method,
        "target": prefix + secret.target(outgoing.target),
        "host": outgoing.host,
        "headers": [[name, secret.header(name, value)] for name, value in outgoing.fields],
    }


def _tried_again(route: effective.Route, exchange: Exchange) -> tuple[str, ...]:
    """What would be tried again, for each branch where they differ."""
    told = {name: tuple(_retry(one, exchange)) for name, one in route.variants().items()}
    if len(set(told.values())) == 1:
        return next(iter(told.values()))
    return tuple(f"{name}: {line}" for name, lines in told.items() for line in lines)


def _retry(route: effective.Route, exchange: Exchange) -> Iterator[str]:
    """What would be tried again, in sentences."""
    from gateway.upstream.retry import Policy  # noqa: PLC0415 - only forwarding routes need it

    settings = route.policies.retry
    if settings is None:
        yield "nothing is ever sent twice (retry: off)"
        return
    repeatable = Policy(settings).repeatable(exchange)
    tries = f"{settings.max} more {'try' if settings.max == 1 else 'tries'}"
    for word in settings.on if settings.max else ():
        if word == "connect":
            yield f"connect: {tries}, whatever the method, since nothing was sent"
        elif repeatable:
            yield f"{word}: {tries}"
        else:
            yield f"{word}: no, {_why_once(settings, exchange)}"
    if not settings.max:
        yield "no failure is tried again (max: 0)"
    again = "sent again on a fresh one" if repeatable else "not sent again"
    yield f"a rested connection that ends before any answer: the request is {again}"
    yield f"a body counts only if all of it has arrived and is at most {size(settings.replay_body)}"
    if settings.per_try is not None:
        again = (
            "" if "first_byte" in settings.on else "; that is the end, for `on` has no first_byte"
        )
        yield f"one try has {shown('retry.per_try', settings.per_try)} from connecting to the head{again}"
    if settings.max:
        yield "before a further try: a pause of up to 250ms, drawn by chance; Retry-After: 1 is obeyed"
    if settings.budget is not None:
        yield f"at most {settings.budget:.0%} of the first tries of the last 10 s, at least 3"


def _why_once(settings: model.Retry, exchange: Exchange) -> str:
    if settings.idempotency_key is None:
        return f"{exchange.method} is not among `methods`"
    return f"{exchange.method} is not among `methods` and has no {settings.idempotency_key}"
