"""The `tests:` of a configuration, run without a network.

Rules of this file: a request goes through the real code as far as it goes (`rehearsal.py`); a route
that answers by itself really answers; nothing is sent to an upstream. Only what a test names is
compared. A secret that a test finds in a header is not printed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from gateway import errors
from gateway.config import effective, model
from gateway.config.expectations import certain_abort
from gateway.config.targets import stand_ins
from gateway.rehearsal import (
    CannotTell,
    Given,
    Hidden,
    Rehearsal,
    heaviest,
    hidden,
    target_prefix,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.entering import Entering
    from gateway.exchange import Exchange, Handler, Reply
    from gateway.middleware.base import Build


@dataclass(frozen=True)
class Outcome:
    """One test, and what was wrong about it."""

    name: str
    place: effective.Place
    problems: tuple[str, ...]


@dataclass
class _Seen:
    """What a request met. None: nothing of the kind."""

    route: str | None = None
    status: int | None = None
    reason: str | None = None
    upstream: str | None = None
    upstream_paths: tuple[str, ...] = ()
    """One for each target: their URLs may have paths of their own."""
    upstream_headers: dict[str, list[str]] = field(default_factory=dict)
    headers: dict[str, list[str]] = field(default_factory=dict)
    secret: Hidden | None = None
    untold: str = ""
    """Why nobody can tell here what comes behind the route."""


def run(config: effective.Config) -> list[Outcome]:
    """Every test, in the order of the file."""
    if not config.tests:
        return []
    rehearsal = Rehearsal(config)
    nowhere = effective.Place(config.files[0] if config.files else "", 1, 1)
    places = [*config.test_places, *[nowhere] * (len(config.tests) - len(config.test_places))]
    return [
        Outcome(test.name, place, tuple(_problems(rehearsal, test)))
        for test, place in zip(config.tests, places, strict=True)
    ]


def _problems(rehearsal: Rehearsal, test: model.InlineTest) -> list[str]:
    asked = test.request
    try:
        exchange = rehearsal.ask(
            asked.method,
            asked.url,
            asked.headers.items(),
            asked.client_ip,
            (asked.body or "").encode(),
        )
    except ValueError as error:
        return [f"request: {error}"]
    given = None
    if not asked.model_fields_set.isdisjoint(("auth", "claims", "consumer")):
        given = Given(asked.auth, asked.claims, asked.consumer)
    try:
        seen = _walk(rehearsal, exchange, given)
    except (ValueError, OSError) as error:
        return [f"request: {error}"]
    return list(_compare(test.expect, seen))


# ── what happens ────────────────────────────────────────────────────────────────────────────────


def _walk(rehearsal: Rehearsal, exchange: Exchange, given: Given | None) -> _Seen:
    """As far as the request goes without a network. Raises what `Rehearsal.entering` does."""
    config = rehearsal.config
    refusal = exchange.refusal
    if isinstance(refusal, errors.GatewayError):
        return _failed(refusal, exchange, _Seen(), config.errors, config.server.name)
    reply = refusal or rehearsal.redirected(exchange)
    if reply is not None:
        return _answered(reply, _Seen())
    try:
        route = rehearsal.match(exchange)
    except errors.GatewayError as error:
        return _failed(error, exchange, _Seen(), config.errors, config.server.name)
    seen = _Seen(route=route.name)
    try:
        reply = _reply(rehearsal.entering, exchange, route, given)
        if reply is None:
            return _forwarded(rehearsal, exchange, route, seen)
    except CannotTell as error:
        seen.untold = str(error)
        return seen
    except errors.GatewayError as error:
        return _failed(error, exchange, seen, route.policies.errors, config.server.name)
    return _answered(reply, seen)


def _reply(
    entering: Entering, exchange: Exchange, route: effective.Route, given: Given | None
) -> Reply | None:
    """The route's own answer; None where an upstream would be asked. Raises errors.GatewayError."""
    from gateway.middleware import fault  # noqa: PLC0415

    build = entering.build(route, given)
    handler = _handler(route, build)
    abort = certain_abort(route)
    if abort is not None:  # any other share is chance, and a delay is only time
        handler = fault.aborting(abort, handler)
    handler = entering.around(route, handler, build)
    try:
        return _run(handler, exchange)
    finally:
        for finish in build.at_finish:
            finish(exchange)


def _handler(route: effective.Route, build: Build) -> Handler:
    from gateway.middleware import redirect, respond, static  # noqa: PLC0415
    from gateway.middleware.answer_edits import compile_edits  # noqa: PLC0415
    from gateway.middleware.edit_headers import edited  # noqa: PLC0415

    answer = route.answer
    if isinstance(answer, effective.Forward):
        return cast("Handler", _nothing)
    if isinstance(answer, effective.SignIn):
        return _asks_a_provider
    if isinstance(answer, model.Static):
        handler = static.answer(answer, route, build)
    elif isinstance(answer, model.Redirect):
        handler = redirect.answer(answer, route, build)
    else:
        handler = respond.answer(answer, route, build)
    return edited(handler, compile_edits(route.policies))


def _asks_a_provider(_: Exchange) -> Reply:
    raise errors.AuthUnavailable("a login takes its provider, which no test asks")


async def _nothing(_: Exchange) -> None:
    """Stands for an upstream."""


def _run(handler: Handler, exchange: Exchange) -> Reply | None:
    """The result of a handler: files are read in a loop of their own, all else never waits."""
    import asyncio  # noqa: PLC0415
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    async def wait() -> Reply | None:
        return await handler(exchange)

    # A thread, since the caller may be in a loop already.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, wait()).result()


def _forwarded(
    rehearsal: Rehearsal, exchange: Exchange, route: effective.Route, seen: _Seen
) -> _Seen:
    answer = cast("effective.Forward", route.answer)
    name = heaviest(answer).upstream
    outgoing = rehearsal.outgoing(exchange, route, name)
    targets = stand_ins(rehearsal.config.upstreams[name].settings)
    seen.upstream = name
    seen.upstream_paths = tuple(target_prefix(one.url) + outgoing.target for one in targets)
    for field_name, value in (("Host", outgoing.host or exchange.target_name), *outgoing.fields):
        seen.upstream_headers.setdefault(field_name.lower(), []).append(value)
    seen.secret = hidden(route)
    return seen


def _answered(reply: Reply, seen: _Seen) -> _Seen:
    seen.status = reply.status
    for line in reply.lines:
        name, _, value = line.decode("utf-8", "surrogateescape").partition(":")
        seen.headers.setdefault(name.lower(), []).append(value.strip())
    return seen


def _failed(
    error: errors.GatewayError,
    exchange: Exchange,
    seen: _Seen,
    settings: model.Errors,
    server_name: str,
) -> _Seen:
    from gateway.pages import Pages  # noqa: PLC0415

    seen.reason = error.reason
    return _answered(Pages(settings, server_name).render(error, exchange), seen)


# ── what was expected ───────────────────────────────────────────────────────────────────────────


def _compare(expect: model.TestExpect, seen: _Seen) -> Iterator[str]:
    if seen.untold and expect.model_fields_set - {"route"}:
        yield f"request: {seen.untold}"
        return
    for name in ("route", "reason", "upstream"):
        wanted, found = getattr(expect, name), getattr(seen, name)
        if wanted is not None and wanted != found:
            yield f"{name} is {_shown(found)}, expected {wanted}"
    yield from _compare_status(expect, seen)
    if expect.upstream_path is not None and expect.upstream_path not in seen.upstream_paths:
        paths = [seen.secret.target(path) if seen.secret else path for path in seen.upstream_paths]
        found = " or ".join(dict.fromkeys(paths)) or None
        yield f"upstream_path is {_shown(found)}, expected {expect.upstream_path}"
    yield from _compare_upstream_headers(expect, seen)
    yield from _compare_headers(expect, seen)


def _compare_status(expect: model.TestExpect, seen: _Seen) -> Iterator[str]:
    if expect.status is None:
        return
    if seen.upstream is not None:
        yield (
            f"status can not be known: upstream {seen.upstream} answers, and no upstream is asked;"
            " expect upstream or upstream_path instead"
        )
    elif expect.status != seen.status:
        yield f"status is {_told(seen)}, expected {expect.status}"


def _compare_upstream_headers(expect: model.TestExpect, seen: _Seen) -> Iterator[str]:
    if expect.upstream_headers and seen.upstream is None:
        yield f"upstream_headers: the answer is {_told(seen)}, so no upstream is asked"
        return
    for name, wanted in expect.upstream_headers.items():
        values = seen.upstream_headers.get(name.lower(), [])
        if ", ".join(values) != wanted:
            shown = [seen.secret.header(name, value) if seen.secret else value for value in values]
            yield f"upstream header {name} is {_shown(', '.join(shown))}, expected {wanted}"


def _compare_headers(expect: model.TestExpect, seen: _Seen) -> Iterator[str]:
    wanted = dict(expect.headers)
    if expect.location is not None:
        wanted["location"] = expect.location
    if wanted and seen.upstream is not None:
        yield f"{' and '.join(wanted)} can not be known: upstream {seen.upstream} answers"
        return
    for name, value in wanted.items():
        values = seen.headers.get(name.lower(), [])
        if ", ".join(values) != value:
            yield f"{name} is {_shown(', '.join(values))}, expected {value}"


def _told(seen: _Seen) -> str:
    return f"{seen.status} {seen.reason}" if seen.reason else str(seen.status)


def _shown(value: str | None) -> str:
    return value or "none"
