"""A gateway with one route that only bearers of tokens may take, its upstream, and who issues the tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.e2e.conformance.conftest import get, problem
from tests.kit.clock import FakeClock

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.issuer import Issuer
    from tests.kit.origin import Origin
    from tests.kit.raw import Client
    from tests.kit.running import Running
    from tests.kit.wire import Message

INVALID = b'Bearer realm="gateway", error="invalid_token"'


class Guarded:
    """Made by a fixture of the test; the gateway comes with `start`."""

    up: Origin
    running: Running
    client: Client

    def __init__(
        self, issuer: Issuer, origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
    ) -> None:
        assert isinstance(issuer.clock, FakeClock)
        self.issuer = issuer
        self.clock = issuer.clock
        self._origin, self._gateway, self._raw = origin, gateway, raw

    def settings(self, **settings: Any) -> dict[str, Any]:
        """The policy: by default keys are discovered."""
        return {"jwt": {"issuer": self.issuer.url, "audience": "api", **settings}}

    async def start(
        self,
        policies: dict[str, Any] | None = None,
        *,
        route: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Guarded:
        """`policies`: all of `auth`; without them one, `staff`, with these settings."""
        self.up = await self._origin()
        self.policies = policies or {"staff": self.settings(**settings)}
        self.running = await self._gateway(
            self.up,
            clock=self.clock,
            auth=self.policies,
            route={"auth": list(self.policies), **(route or {})},
        )
        self.client = await self._raw(self.running)
        return self

    async def connect(self) -> Client:
        """Another client."""
        return await self._raw(self.running)

    async def ask(self, token: str | bytes | None, *lines: bytes) -> Message:
        """One request with this token (surrogate-escaped), on the first client's connection."""
        if isinstance(token, str):
            token = token.encode("utf-8", "surrogateescape")
        fields = () if token is None else (b"Authorization: Bearer " + token,)
        return await self.client.ask(get(b"/", *fields, *lines))

    async def accepted(self, token: str, *lines: bytes) -> None:
        """It is let through."""
        before = len(self.up.requests)
        answer = await self.ask(token, *lines)
        assert answer.status == 200, answer.raw
        assert len(self.up.requests) == before + 1

    async def refused(self, token: str | bytes, outcome: str) -> None:
        """It is not: 401, no word why, nothing at the upstream, and counted as `outcome`."""
        before = len(self.up.requests)
        counted = self.counted(outcome)
        answer = await self.ask(token)
        problem(answer, "unauthenticated", 401)
        assert answer.all("www-authenticate") == [INVALID]
        for word in (b"policy", b"staff", b"signature", b"audience", b"expired", b"key"):
            assert word not in answer.raw.lower()
        assert len(self.up.requests) == before, "it reached the upstream"
        assert self.counted(outcome) == counted + 1

    async def unavailable(self, token: str) -> None:
        """Nobody can tell: 503."""
        problem(await self.ask(token), "auth_unavailable", 503)

    def counted(self, outcome: str, policy: str = "staff") -> float:
        """Decisions so far."""
        return self.running.metric("gateway_auth_decisions_total", policy=policy, outcome=outcome)

    def events(self) -> list[str]:
        """The kinds of what has happened to keys."""
        events = self.running.gateway.metrics.events.select()
        return [event.kind for event in events if event.kind.startswith("jwks_")]
