"""What the tests of single authenticators share: tools, requests, and what a verdict comes to."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from gateway import errors
from gateway.auth import Tools
from gateway.identity import Identity
from gateway.observe.entrance import AuthMeter
from gateway.observe.events import Events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.kit.clock import FakeClock


def tools(clock: FakeClock, *secrets: str) -> Tools:
    """Those of one policy."""
    return Tools(clock, AuthMeter("staff"), Events(clock.wall), secrets)


def request(*fields: tuple[str, str]) -> Any:
    """A request with these fields."""
    return SimpleNamespace(headers=CIMultiDictProxy(CIMultiDict(fields)), query="", path="/")


def bearing(token: str) -> Any:
    """A request with this bearer token."""
    return request(("Host", "x"), ("Authorization", f"Bearer {token}"))


async def known(one: Any, exchange: Any) -> Identity:
    """Who that is; waits where the authenticator has to."""
    verdict = one.authenticate(exchange)
    if inspect.isawaitable(verdict):
        verdict = await verdict
    assert isinstance(verdict, Identity), verdict
    return verdict


async def outcome(one: Any, exchange: Any) -> str:
    """What becomes of a credential that is not good."""
    with pytest.raises(errors.GatewayError) as caught:
        await known(one, exchange)
    error = caught.value
    if isinstance(error, errors.Unauthenticated):
        assert error.outcome != "missing"
        return error.outcome
    return error.reason


def kinds(made: Tools) -> Sequence[str]:
    """The events so far."""
    return [event.kind for event in made.events.select()]
