"""The gateway inside somebody else's program: as an aiohttp Application, or as an AppRunner with
our own server.

Rules of this file: the embedding program owns sockets, signals and logging; a Gateway starts and
stops with the application. It opens no listener, and the admin listener only where the
configuration writes one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from gateway.config import effective, load, load_dict
from gateway.guest import MISSING, Answered, Guest, Presence, is_cancelled_by_its_server
from gateway.heads import options
from gateway.runtime.gateway import Gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.runtime.gateway import Source

log = logging.getLogger("gateway.runtime")

GATEWAY: web.AppKey[Gateway] = web.AppKey("gateway", Gateway)
"""Where an application keeps its Gateway, for `reload` and `metrics`: `app[GATEWAY]`."""


def application(config: Source) -> web.Application:
    """The gateway as an aiohttp application: for `web.run_app`, gunicorn, `add_subapp`,
    `aiohttp_client`.

    Routes match the whole path as the client sent it, below a prefix too. Raises ConfigError for a
    wrong configuration. Whoever can should use `runner`: a plain server lacks what the log line
    `foreign_server` names.
    """
    loaded = _load(config)
    gateway = Gateway(loaded, listen=False)
    limits = loaded.server.limits
    app = web.Application(
        handler_args={
            **options(limits),
            "handler_cancellation": True,
            "keepalive_timeout": limits.keepalive_idle or 0,
        }
    )
    app[GATEWAY] = gateway
    app.cleanup_ctx.append(_run)
    app.on_shutdown.append(_drain)
    answer = _Handler(gateway).answer
    app.router.add_route("*", "/{path:.*}", answer, expect_handler=_expect)
    app.router.add_route(
        "*", "", answer, expect_handler=_expect
    )  # below a prefix: the prefix itself
    return app


def runner(config: Source, **arguments: Any) -> web.AppRunner:
    """The gateway as an AppRunner whose server is our own, with every deadline and limit.

    `arguments` are AppRunner's. For gunicorn, whose worker takes an AppRunner from an async
    function only: `async def serve(): return gateway.runner("gateway.yaml")`. Raises ConfigError.
    """
    return Runner(application(config), **arguments)


class Runner(web.AppRunner):
    """Serves an application that `application` has made without going through it."""

    async def _make_server(self) -> web.Server:
        await super()._make_server()  # starts the application, and with it the Gateway
        return self._app[GATEWAY].guest_server("runner")


class _Handler:
    """Answers every request of the application."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._said = False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer with the snapshot that serves now."""
        if not self._said:
            self._said = True
            # In words: the handlers are somebody else's and may not show the fields of a record.
            log.warning("foreign_server: %s", MISSING)
        guest = Guest(request)
        if is_cancelled_by_its_server(request):
            sent = await self._gateway.proxy.handle(guest)
        else:
            clock = self._gateway.clock
            presence = Presence(guest, clock)
            clock.watched.add(presence)
            try:
                sent = await self._gateway.proxy.handle(guest)
            finally:
                clock.watched.discard(presence)
        return Answered(guest, keep=sent.keep_alive)


async def _expect(request: web.Request) -> None:
    """Nothing: `100 Continue` is sent when the body is wanted, and aiohttp would send it now."""


async def _run(app: web.Application) -> AsyncIterator[None]:
    gateway = app[GATEWAY]
    await gateway.start()
    yield
    await gateway.aclose()


async def _drain(app: web.Application) -> None:
    await app[GATEWAY].drain(0)


def _load(source: Source) -> effective.Config:
    if isinstance(source, effective.Config):
        return source
    return load_dict(source) if isinstance(source, Mapping) else load(source)
