"""`body.max`: what a head declares is judged before anything is read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway import errors
from gateway.config import model
from gateway.exchange import Exchange, Handler, Reply
from gateway.middleware import body_limit
from tests.middleware.test_metrics import build
from tests.observe.stand_in import exchange


async def forward(one: Exchange) -> Reply:
    return Reply(200, [], b"forwarded")


def wrapped(most: int | None) -> Handler:
    route = SimpleNamespace(policies=model.Policies(body=model.Body(max=most)))
    return body_limit.wrap(cast("Any", route), forward, build())


def test_a_route_without_a_limit_pays_nothing() -> None:
    assert wrapped(None) is forward


@pytest.mark.parametrize(
    ("most", "length"), [(10, 0), (10, 10), (10, None), (0, 0), (0, None)]
)  # None: it is counted while it streams
async def test_a_body_within_the_limit_is_forwarded(most: int, length: int | None) -> None:
    assert (await wrapped(most)(exchange(length=length))).body == b"forwarded"


@pytest.mark.parametrize(("most", "length"), [(10, 11), (0, 1), (10, 10**17)])
async def test_a_larger_one_is_refused_and_operators_read_both_numbers(
    most: int, length: int
) -> None:
    with pytest.raises(errors.BodyTooLarge) as caught:
        await wrapped(most)(exchange(length=length))
    assert caught.value.status == 413
    assert str(most) in caught.value.detail
    assert str(length) in caught.value.detail
