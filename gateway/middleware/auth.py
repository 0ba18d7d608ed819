"""`auth`: who asks. A route accepts any of the policies that it names.

Rules of this file: the policies are asked in the order in which the route names them; the first that knows the client
decides who it is. One that can not tell (its provider is down) is not the end: another may know. What a client is told is
that it is not known, and how it could be (RFC 9110 section 15.5.2); why is for the metrics and the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway import errors
from gateway.auth import Inviting
from gateway.identity import NOBODY, Identity
from gateway.middleware.answer_edits import compile_edits
from gateway.middleware.edit_headers import edited

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from gateway.auth import Authenticator, Verdict
    from gateway.config import effective
    from gateway.exchange import Exchange, Handler, Reply
    from gateway.middleware.base import Build
    from gateway.middleware.edit_headers import Edits
    from gateway.observe.entrance import AuthMeter

CHALLENGE = "WWW-Authenticate"


def wrap(route: effective.Route, forward: Handler, build: Build) -> Handler:
    """Let through who is known to one of the policies; `forward` itself where the route has no `auth`."""
    names = route.policies.auth
    if names is None:
        return forward
    policies = [build.authenticators[name] for name in names]
    return Door(policies, forward, build, compile_edits(route.policies))


class _Round:
    """What the policies have said of one request so far."""

    __slots__ = ("answer", "asked", "challenges", "detail", "error")

    def __init__(self) -> None:
        self.asked = 1
        """How many policies have been asked."""
        self.error: errors.GatewayError | None = None
        """Why the client is not known: what is nobody's fault but ours comes first."""
        self.detail = ""
        """The same for operators, with the policy's name."""
        self.answer: Reply | None = None
        """What one of them would have the client told."""
        self.challenges: dict[int, str] = {}
        """By index of the policy: what it says of credentials that are not good."""


class Door:
    """The policies of one route, and what is behind them."""

    def __init__(
        self,
        policies: Sequence[Authenticator],
        forward: Handler,
        build: Build,
        edits: Edits | None = None,
    ) -> None:
        """`edits`: what the route does to its answers, those that a policy makes itself included."""
        self._edits = edits
        self._policies = policies
        self._count = len(policies)
        self._meters = [build.metrics.entrance.policy(policy.name) for policy in policies]
        self._inviting = [policy for policy in policies if isinstance(policy, Inviting)]
        self._forward = forward
        self._first, self._meter = policies[0].authenticate, self._meters[0]

    def __call__(self, exchange: Exchange) -> Awaitable[Reply]:
        """Raises errors.GatewayError: nobody is known. So does what is returned, when it is awaited."""
        so_far = None
        try:
            verdict = self._first(exchange)
        except errors.GatewayError as error:
            so_far, verdict = _Round(), None
            self._note(so_far, error)
        if verdict.__class__ is Identity:  # mostly
            return self._enter(exchange, self._meter, verdict)
        so_far = so_far or _Round()
        if verdict is not None:
            return self._wait(exchange, so_far, verdict)
        return self._go_on(exchange, so_far)

    def _go_on(self, exchange: Exchange, so_far: _Round) -> Awaitable[Reply]:
        """The first policy does not know the client: ask the others."""
        while so_far.asked < self._count:
            verdict = self._ask(exchange, so_far)
            if verdict.__class__ is Identity:
                return self._enter(exchange, self._meters[so_far.asked - 1], verdict)
            if verdict is not None:
                return self._wait(exchange, so_far, verdict)
        return self._refuse(exchange, so_far)

    async def _wait(self, exchange: Exchange, so_far: _Round, verdict: Verdict) -> Reply:
        """Go on from a policy that has to be waited for."""
        while True:
            if verdict is not None and not isinstance(verdict, Identity):
                verdict = await self._awaited(so_far, verdict)
            if isinstance(verdict, Identity):
                return await self._enter(exchange, self._meters[so_far.asked - 1], verdict)
            if so_far.asked == self._count:
                return await self._refuse(exchange, so_far)
            verdict = self._ask(exchange, so_far)

    def _ask(self, exchange: Exchange, so_far: _Round) -> Verdict:
        """The next policy's verdict; None where it does not know the client, or sees no credential."""
        policy = self._policies[so_far.asked]
        so_far.asked += 1
        try:
            return policy.authenticate(exchange)
        except errors.GatewayError as error:
            self._note(so_far, error)
            return None

    async def _awaited(
        self, so_far: _Round, verdict: Awaitable[Identity | Reply | None]
    ) -> Identity | None:
        try:
            said = await verdict
        except errors.GatewayError as error:
            self._note(so_far, error)
            return None
        if said is None or isinstance(said, Identity):
            return said
        so_far.answer = so_far.answer or said
        self._meters[so_far.asked - 1].outcomes["forbidden"] += 1
        return None

    def _enter(self, exchange: Exchange, meter: AuthMeter, identity: Identity) -> Awaitable[Reply]:
        if identity is NOBODY:
            return self._forward(exchange)
        meter.ok += 1
        exchange.identity = identity
        if identity.once:
            exchange.extra += identity.once
        return self._forward(exchange)

    def _note(self, so_far: _Round, error: errors.GatewayError) -> None:
        """Remember why the policy asked last does not let the client in. Raises `error` where it is about something else."""
        meter = self._meters[so_far.asked - 1]
        if isinstance(error, errors.Unauthenticated):
            meter.outcomes[error.outcome] += 1
            for name, value in error.headers:
                if name == CHALLENGE:
                    so_far.challenges[so_far.asked - 1] = value
            if so_far.error is None:
                so_far.error = error
                so_far.detail = (
                    f"{self._policies[so_far.asked - 1].name}: {error.detail or error.outcome}"
                )
            return
        if not isinstance(error, errors.AuthUnavailable | errors.RateLimited | errors.Forbidden):
            raise error
        unavailable = isinstance(error, errors.AuthUnavailable)
        meter.outcomes["provider_error" if unavailable else "forbidden"] += 1
        if so_far.error is None or isinstance(so_far.error, errors.Unauthenticated):
            so_far.error = error

    def _told(self, exchange: Exchange, answer: Awaitable[Reply]) -> Awaitable[Reply]:
        return edited(lambda _: answer, self._edits)(exchange)

    def _refuse(self, exchange: Exchange, so_far: _Round) -> Awaitable[Reply]:
        """Raises errors.GatewayError, unless a policy has an answer of its own."""
        error = so_far.error
        if so_far.answer is not None:
            return self._told(exchange, so_far.answer)
        if error is not None and not isinstance(error, errors.Unauthenticated):
            raise error
        if error is None:
            for meter in self._meters:
                meter.outcomes["missing"] += 1
        for policy in self._inviting:
            invitation = policy.invite(exchange)
            if invitation is not None:
                return self._told(exchange, invitation)
        challenges = [
            (CHALLENGE, challenge)
            for index, policy in enumerate(self._policies)
            if (challenge := so_far.challenges.get(index, policy.challenge))
        ]
        detail = "no credentials" if error is None else so_far.detail
        outcome = "missing" if error is None else error.outcome
        raise errors.Unauthenticated(detail, tuple(challenges), outcome=outcome)
