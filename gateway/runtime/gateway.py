"""Gateway: the owner of the current snapshot, of what outlives it, and of every listening socket.

Rules of this file: a configuration is loaded, compiled and its new sockets are bound while the old
one serves; then one step without an `await` swaps it in; then what is gone is let go. Whatever
fails, fails before that step and changes nothing. Exchanges keep the snapshot that they began with,
so streams and WebSockets never notice. Signals, logging set-up and the process belong to
`serve.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from gateway import errors, guest
from gateway.admission import Admission
from gateway.clock import Clock
from gateway.config import effective, load, load_dict
from gateway.observe.events import Events
from gateway.observe.lag import LoopLag
from gateway.observe.metrics import UNMATCHED, Metrics
from gateway.proxy import Proxy
from gateway.runtime import compile as compiler
from gateway.runtime import resources
from gateway.runtime.drain import LOOK, Drain
from gateway.runtime.listeners import Binds, describe
from gateway.server import Server
from gateway.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from gateway.config import model
    from gateway.middleware.mirror import Mirrors
    from gateway.runtime.listeners import Bound, Change
    from gateway.snapshot import Snapshot
    from gateway.upstream.upstream import Upstream

log = logging.getLogger("gateway.runtime")

ADMIN = "admin"
"""The name of the admin listener."""
FIRST_LOOK = 2.0
"""Seconds that a start, or a reload, waits for targets to be found; then it goes on without them."""
PATIENCE = 2.0
"""Seconds for connections that are being closed to deliver their last bytes."""

Source = effective.Config | Mapping[str, Any] | Path | str


@dataclass(frozen=True, slots=True)
class LastReload:
    """What came of the last reload, or of the start."""

    at: float
    """Unix seconds."""
    successful: bool
    generation: int
    """The generation that serves since, or still."""
    error: str | None = None
    """Why it failed, as a person should read it."""


class Gateway:
    """A reverse proxy in the running event loop: `async with Gateway(config) as gateway: …`.

    `config`: a path, a mapping as YAML would give it, or what `gateway.load` returned. Starting
    raises ConfigError for a wrong configuration and OSError for an address that can not be bound.
    Leaving the block ends at once; `await drain()` first for a graceful end.
    """

    def __init__(self, config: Source, *, clock: Clock | None = None, listen: bool = True) -> None:
        """`listen=False`: open no listeners, and admin only if the configuration writes it:
        somebody else accepts.
        """
        self.clock = clock or Clock()
        self.events = Events(self.clock.wall)
        """What has changed lately."""
        self._source: Source = config
        self._listen = listen
        self._resources = resources.Resources()
        self._binds = Binds()
        self._servers: dict[Bound, Server] = {}
        self._guests: list[Server] = []
        """Servers whose sockets are somebody else's."""
        self._former: list[Snapshot] = []
        """Earlier snapshots with exchanges in flight."""
        self._orphans: list[Server] = []
        """Servers of listeners that are gone, with connections that are still open."""
        self._admin: web.AppRunner | None = None
        self._reloading = asyncio.Lock()
        self._drain: Drain | None = None
        self._lag: LoopLag | None = None
        self._letting_go = _LettingGo(self)
        self._background: set[asyncio.Task[None]] = set()
        self._started = self._closed = False
        self.ready = False
        """Listening, and not draining."""
        self.generation = 0
        self.last_reload: LastReload
        self.metrics: Metrics
        self.proxy: Proxy
        self._admission: Admission

    # ── what others look at ──

    @property
    def snapshot(self) -> Snapshot:
        """The configuration that serves, compiled."""
        return self.proxy.snapshot

    @property
    def draining(self) -> bool:
        """`drain` was called."""
        return self._drain is not None

    @property
    def mirrors(self) -> Mirrors:
        """Copies of requests under way, and the last whose answers differed."""
        mirrors: Mirrors = self._resources.of("mirrors")[0]
        return mirrors

    @property
    def addresses(self) -> dict[str, str]:
        """Where each listener listens, by its name: `127.0.0.1:41234`, `[::1]:8080` or
        `unix:/path`.
        """
        return {bound.name: bound.address for bound in self._servers}

    @property
    def admin_address(self) -> str | None:
        """Where the admin listener listens; None without one."""
        for bound in self._binds.bound:
            if bound not in self._servers:
                return bound.address
        return None

    @property
    def servers(self) -> list[Server]:
        """Every server that has, or may have, clients."""
        return [*self._servers.values(), *self._guests, *self._orphans]

    # ── from start to end ──

    async def __aenter__(self) -> Gateway:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Load, compile, listen. Raises ConfigError, OSError; then nothing is left open."""
        if self._started:
            raise RuntimeError("a Gateway starts once: make another")
        config = await _load(self._source)
        self._started = True
        self.metrics = Metrics(config.observability.metrics, self.events)
        self.proxy = Proxy(self.clock)
        self._admission = Admission(config.server.limits)
        self._lag = LoopLag(self.clock, self.metrics)
        self.clock.start()
        try:
            await self._apply(config)
        except BaseException:
            await self.aclose()
            raise
        [shedding] = self._resources.of("shedding")
        self._lag.heard = shedding.sample
        self._lag.start()
        self._loaded(config, reload=False)
        self.ready = True

    async def aclose(self) -> None:
        """Stop listening, cut what is under way, close everything. Idempotent."""
        if self._closed or not self._started:
            return
        self._closed = True
        self.ready = False
        self._binds.close()
        self.proxy.ending = errors.ShuttingDown("the gateway was stopped")
        for tunnel in [*self.proxy.tunnels.open]:
            tunnel.cut()
        for server in self.servers:
            await server.end(PATIENCE)
        if self._admin is not None:
            await self._admin.cleanup()
        if self._lag is not None:
            self._lag.stop()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._former.clear()
        await resources.close(self._resources.sweep(self.generation + 1))
        self.clock.stop()

    async def drain(self, delay: float | None = None) -> None:
        """End gracefully: see `drain.py`. `delay`: seconds instead of `shutdown.ready_delay`.

        Returns when nothing is under way any more; then leave the block, or `aclose()`. Another
        call waits for the same end.
        """
        if self._drain is None:
            self.ready = False
            shutdown = self.snapshot.config.server.shutdown
            self.events.record("draining", why=f"requests in flight: {self.proxy.in_flight}")
            self._drain = Drain(self, shutdown, shutdown.ready_delay if delay is None else delay)
        await self._drain.run()

    def stop_listening(self) -> None:
        """Accept no more clients; the admin listener stays, so that health and metrics can be read
        to the end.
        """
        for bound in self._servers:
            bound.close()

    def reopen_logs(self) -> None:
        """Open the access log's file again, after a rotation has renamed it."""
        for access_log in self._resources.of("access_log"):
            access_log.reopen()

    # ── reload ──

    async def reload(self, config: Source | None = None) -> None:
        """Take another configuration, or read the same files again. All or nothing.

        Raises ConfigError, OSError or ValueError with the old configuration serving on (RuntimeError
        if the gateway is shutting down), and says why in the log, in `last_reload` and in
        `gateway_config_last_reload_successful`.
        """
        async with self._reloading:
            source = self._again() if config is None else config
            try:
                loaded = await _load(source)
                await self._apply(loaded)
            except Exception as error:
                self._reload_failed(error)
                raise
            self._source = source
            self._loaded(loaded, reload=True)

    def _again(self) -> Source:
        source = self._source
        if isinstance(source, effective.Config) and source.files:
            return source.files[0]
        return source

    async def _apply(self, config: effective.Config) -> None:
        """Compile, bind, swap, let go."""
        claims = self._resources.begin(self.generation + 1)
        change: Change | None = None
        try:
            snapshot = compiler.snapshot(
                config, claims, self.metrics, self.clock, () if self._listen else (guest.note,)
            )
            change = await self._binds.open(self._wanted(config))
            admin = await self._make_admin(config)
            await _look_first(claims.made("upstream"))
            if self.draining or self._closed:  # meanwhile
                raise RuntimeError("the gateway is shutting down")
        except BaseException:
            if change is not None:
                change.give_up()
            await claims.discard()
            raise
        # From here to the next `await` is the swap. It can not fail.
        claims.commit()
        self.generation = claims.generation
        self.metrics.apply(config.observability.metrics)
        self._admission.apply(config.server.limits)
        if former := getattr(self.proxy, "snapshot", None):
            self._former.append(former)
        self.proxy.snapshot = snapshot
        self._admin, former_admin = admin, self._admin
        self._rebind(change, config.server.limits)
        try:
            for bound in change.fresh:
                await bound.serve(self._factory(bound))
            for upstream in self._resources.of("upstream"):
                upstream.start()
            if change.gone:
                await asyncio.sleep(LOOK)  # whoever is in their queues is accepted
        finally:
            change.close_gone()
            self._let_go()
        if former_admin is not None and former_admin is not admin:
            self._in_background(former_admin.cleanup(), "former admin")

    def _wanted(self, config: effective.Config) -> list[tuple[str, model.Bind]]:
        wanted: list[tuple[str, model.Bind]] = []
        if self._listen:
            wanted += [(one.name or describe(one.bind), one.bind) for one in config.listeners]
        if admin := self._admin_of(config):
            wanted.append((ADMIN, admin.bind))
        return wanted

    def _admin_of(self, config: effective.Config) -> model.Admin | None:
        """The admin listener's settings. Inside somebody else's program it must be asked for."""
        admin = config.admin
        return admin if admin is not None and (self._listen or admin.model_fields_set) else None

    def _rebind(self, change: Change, limits: model.Limits) -> None:
        """Put the change of listeners in force, and the limits for connections to come."""
        change.commit()
        for bound in change.gone:
            if server := self._servers.pop(bound, None):
                self._orphans.append(server)
        listeners = change.bound[: len(change.bound) - (self._admin is not None)]
        servers = {
            bound: self._servers.get(bound) or self._make_server(bound.name, limits)
            for bound in listeners
        }
        self._servers = servers
        for bound, server in servers.items():
            server.listener = bound.name
            server.entrance = self.snapshot.entrances.get(bound.name)
        for server in (*servers.values(), *self._guests):
            server.limits = limits

    def _make_server(self, listener: str, limits: model.Limits) -> Server:
        return Server(
            self.proxy,
            listener=listener,
            limits=limits,
            clock=self.clock,
            admission=self._admission,
            on_dropped=self._dropped,
        )

    def _dropped(self) -> None:
        """A connection far above the limit was closed unread: no exchange will ever count it."""
        self.metrics.route(UNMATCHED).errors[errors.TooManyConnections.reason] += 1

    def guest_server(self, listener: str) -> Server:
        """A server for sockets that somebody else has opened, such as gunicorn."""
        server = self._make_server(listener, self.snapshot.config.server.limits)
        self._guests.append(server)
        return server

    def _factory(self, bound: Bound) -> Callable[[], asyncio.Protocol]:
        return self._servers.get(bound) or self._admin_protocol

    def _admin_protocol(self) -> asyncio.Protocol:
        server = self._admin.server if self._admin is not None else None
        if server is None:
            raise ConnectionAbortedError("the admin listener is closing")
        return server()

    async def _make_admin(self, config: effective.Config) -> web.AppRunner | None:
        """The admin application: the same one as long as there is any, for it asks us each time."""
        if self._admin_of(config) is None:
            return None
        if self._admin is not None:
            return self._admin
        from gateway.admin.api import application  # noqa: PLC0415 - a layer above: it looks at us

        runner = web.AppRunner(application(self), access_log=None, shutdown_timeout=PATIENCE)
        await runner.setup()
        return runner

    # ── what came of it ──

    def _loaded(self, config: effective.Config, *, reload: bool) -> None:
        now = self.clock.wall()
        self.last_reload = LastReload(now, successful=True, generation=self.generation)
        self.metrics.loaded(self.generation, config.digest, now, reload=reload)
        event = "reloaded" if reload else "loaded"
        if reload:
            self.events.record("reloaded", why=f"generation {self.generation} serves")
        log.info(event, extra={"generation": self.generation, "digest": config.digest})
        for warning in config.warnings:
            log.warning(
                "config_warning",
                extra={"place": str(warning.place), "path": warning.path, "text": warning.message},
            )

    def _reload_failed(self, error: Exception) -> None:
        words = (isinstance(error, OSError) and error.strerror) or str(error) or repr(error)
        self.last_reload = LastReload(
            self.clock.wall(), successful=False, generation=self.generation, error=words
        )
        self.metrics.reload_failed()
        self.events.record("reload_failed", why=words)
        log.error("reload_failed", extra={"generation": self.generation, "error": words})

    # ── what earlier generations hold ──

    def _in_background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = spawn(work, name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _let_go(self) -> None:
        """Close what no exchange in flight can need any more; if something is left, look again at
        the next tick.
        """
        self._former = [snapshot for snapshot in self._former if snapshot.in_flight]
        oldest = min([snapshot.generation for snapshot in self._former] + [self.generation])
        if gone := self._resources.sweep(oldest):
            self._in_background(resources.close(gone), "retire")
        for server in self._orphans:
            server.pre_shutdown()
        self._orphans = [server for server in self._orphans if not server.deserted]
        if self._former or self._orphans:
            self.clock.watched.add(self._letting_go)
        else:
            self.clock.watched.discard(self._letting_go)


class _LettingGo:
    """Asks the ticker to look again."""

    due = 0.0

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def expire(self) -> None:
        self._gateway._let_go()


async def _look_first(upstreams: list[Upstream]) -> None:
    """Give discoveries that are new the time for a first answer, so that no request comes before it; not for ever."""
    try:
        async with asyncio.timeout(FIRST_LOOK):
            await asyncio.gather(*(upstream.first_look() for upstream in upstreams))
    except TimeoutError:
        log.warning("discovery_slow", extra={"waited": FIRST_LOOK})


async def _load(source: Source) -> effective.Config:
    if isinstance(source, effective.Config):
        return source
    if isinstance(source, Mapping):
        return load_dict(source)
    # Files, and YAML of any size, while others are served: not on the loop.
    return await asyncio.to_thread(load, source)
