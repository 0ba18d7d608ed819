"""`introspection`: what is asked, what an answer comes to, and how long it is remembered."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from gateway import errors
from gateway.auth import introspection
from gateway.config.auth import Introspection
from gateway.tasks import spawn
from tests.auth.kit import bearing, known, outcome, request, tools
from tests.kit.clock import FakeClock
from tests.kit.issuer import Issuer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Make = Callable[..., Awaitable[introspection.Introspection]]

ASKED = "/introspect"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def issuer(clock: FakeClock) -> AsyncIterator[Issuer]:
    async with Issuer(clock) as one:
        yield one


@pytest.fixture
async def make(clock: FakeClock, issuer: Issuer) -> AsyncIterator[Make]:
    made: list[introspection.Introspection] = []

    async def one(**settings: Any) -> introspection.Introspection:
        given = {"url": f"{issuer.url}introspect", "client_id": "gw", "client_secret": "s:p"}
        model = Introspection(**{**given, **settings})
        made.append(introspection.make("opaque", model, tools(clock)))
        return made[-1]

    yield one
    for each in made:
        await each.aclose()


async def test_the_endpoint_says_who_asks(make: Make, issuer: Issuer) -> None:
    one = await make(consumer="c-{claim.client_id}", forward={"X-User": "{claim.username}"})
    until = issuer.now() + 99
    issuer.active["t-1"] = {
        "scope": "r w", "client_id": "app", "username": "ann", "exp": until, "groups": ["g"],
    }  # fmt: skip
    who = await known(one, bearing("t-1"))
    assert (who.policy, who.consumer, who.scopes) == ("opaque", "c-app", {"r", "w"})
    assert (who.groups, who.lines, who.expires) == ({"g"}, b"X-User: ann\r\n", until)
    assert issuer.bodies == [b"token=t-1&token_type_hint=access_token"]
    assert issuer.credentials == ["Basic Z3c6cyUzQXA="]
    assert one.authenticate(request()) is None
    assert one.taken.headers == {b"authorization"}
    assert one.rehearse(bearing("t-1")) is None


@pytest.mark.parametrize(
    ("said", "consumer"),
    [({"sub": "s", "username": "u"}, "s"), ({"username": "u"}, "u"), ({}, "opaque")],
)
async def test_a_consumer_has_a_name_in_any_case(
    make: Make, issuer: Issuer, said: dict[str, Any], consumer: str
) -> None:
    issuer.active["t"] = said
    assert (await known(await make(), bearing("t"))).consumer == consumer


async def test_an_answer_is_kept_for_a_while_and_never_past_its_end(
    make: Make, issuer: Issuer, clock: FakeClock
) -> None:
    one = await make(cache=30)
    issuer.active = {"long": {"sub": "a"}, "short": {"sub": "b", "exp": issuer.now() + 10}}
    for _ in range(3):
        for token in issuer.active:
            assert await known(one, bearing(token))
    assert issuer.asked[ASKED] == 2
    clock.advance(11)
    assert await outcome(one, bearing("short")) == "expired"
    assert issuer.asked[ASKED] == 3
    issuer.active["long"] = None
    assert await known(one, bearing("long"))
    clock.advance(20)
    assert await outcome(one, bearing("long")) == "inactive"


async def test_nothing_is_kept_where_nothing_should_be(make: Make, issuer: Issuer) -> None:
    one = await make(cache=None)
    issuer.active["t"] = {}
    for _ in range(3):
        assert await known(one, bearing("t"))
        assert await outcome(one, bearing("u")) == "inactive"
    assert issuer.asked[ASKED] == 6


async def test_what_is_not_known_is_asked_again_soon_but_not_each_time(
    make: Make, issuer: Issuer, clock: FakeClock
) -> None:
    one = await make()
    for _ in range(5):
        assert await outcome(one, bearing("t")) == "inactive"
    assert issuer.asked[ASKED] == 1
    issuer.active["t"] = {}
    clock.advance(introspection.NOT_ACTIVE + 0.1)
    assert await known(one, bearing("t"))


async def test_many_bad_tokens_push_no_good_one_out(make: Make, issuer: Issuer) -> None:
    one = await make()
    one._unknown._most = 10
    issuer.active["good"] = {}
    assert await known(one, bearing("good"))
    for number in range(50):
        assert await outcome(one, bearing(f"bad-{number}")) == "inactive"
    assert (len(one._unknown), len(one._known)) == (10, 1)
    asked = issuer.asked[ASKED]
    assert await known(one, bearing("good"))
    assert issuer.asked[ASKED] == asked


async def test_many_requests_with_one_token_are_one_question(make: Make, issuer: Issuer) -> None:
    one = await make()
    issuer.active = {"a": {"sub": "a"}, "b": {"sub": "b"}}
    asking = [spawn(known(one, bearing(t)), "test") for t in ("a", "b") for _ in range(20)]
    who = [each.consumer for each in await asyncio.gather(*asking)]
    assert who == ["a"] * 20 + ["b"] * 20
    assert issuer.asked[ASKED] == 2


@pytest.mark.parametrize(
    ("audience", "said", "wanted"),
    [
        (["api"], {"aud": "api"}, None),
        (["api"], {"aud": ["x", "api"]}, None),
        (["api"], {"aud": "x"}, "wrong_audience"),
        (["api"], {}, "wrong_audience"),
        ([], {"aud": "anything"}, None),
        ([], {}, None),
        ([], {"nbf": 1e10}, "inactive"),
        ([], {"exp": 5}, "expired"),
        ([], {"exp": "soon"}, "auth_unavailable"),
        ([], {"exp": True}, "auth_unavailable"),
        ([], {"exp": None, "nbf": None}, None),
    ],
)
async def test_what_else_an_answer_says_counts(
    make: Make, issuer: Issuer, audience: list[str], said: dict[str, Any], wanted: str | None
) -> None:
    one = await make(audience=audience)
    issuer.active["t"] = said
    if wanted is None:
        assert await known(one, bearing("t"))
    else:
        assert await outcome(one, bearing("t")) == wanted


@pytest.mark.parametrize(
    "answer",
    [
        '{"active": "true"}',
        '{"active": 1}',
        "{}",
        "[true]",
        "true",
        '{"active": false, "active": true}',
        '{"active": true',
        '{"active": true, "x": "' + "x" * 70_000 + '"}',
    ],
    ids=lambda value: value[:40],
)
async def test_what_is_no_answer_lets_nobody_in_and_is_not_remembered(
    make: Make, issuer: Issuer, answer: str
) -> None:
    one = await make()
    issuer.answers[ASKED] = answer
    for _ in range(2):
        assert await outcome(one, bearing("t")) == "auth_unavailable"
    assert issuer.asked[ASKED] == 2


async def test_an_endpoint_that_hangs_or_is_gone_is_503(
    make: Make, issuer: Issuer, clock: FakeClock
) -> None:
    one = await make(timeout=2)
    issuer.gate.clear()
    asking = [spawn(outcome(one, bearing("t")), "test") for _ in range(5)]
    while not issuer.asked:
        await asyncio.sleep(0.005)
    clock.advance(2.1)
    assert await asyncio.gather(*asking) == ["auth_unavailable"] * 5
    assert issuer.asked[ASKED] == 1
    await issuer.die()
    assert await outcome(one, bearing("t")) == "auth_unavailable"
    await issuer.start()
    issuer.active["t"] = {}
    assert await known(one, bearing("t"))


@pytest.mark.parametrize(
    "token", ["", "a b", "a\tb", "é", "\udcff", "x" * 8193], ids=lambda token: ascii(token)[:9]
)
async def test_what_is_no_token_is_not_asked_about(make: Make, issuer: Issuer, token: str) -> None:
    if token in ("a b", "a\tb"):
        token = token.replace(" ", "\x7f").replace("\t", "\x01")
    assert await outcome(await make(), bearing(token)) == "malformed"
    assert issuer.asked == {}


async def test_a_token_can_not_add_to_what_is_asked(make: Make, issuer: Issuer) -> None:
    issuer.active["a"] = {}
    assert await outcome(await make(), bearing("a&token=b&x")) == "inactive"
    assert issuer.bodies == [b"token=a%26token%3Db%26x&token_type_hint=access_token"]


async def test_neither_token_nor_password_is_said_or_kept(
    make: Make, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    one = await make(client_secret="hush-hush")
    issuer.answers[ASKED] = json.dumps({"active": "hush"})
    with pytest.raises(errors.AuthUnavailable) as caught:
        await known(one, bearing("the-token-itself"))
    said = f"{caught.value.detail} {caplog.text} {one!r}"
    assert "the-token-itself" not in said
    assert "hush-hush" not in said


async def test_a_url_that_is_neither_https_nor_here_is_refused() -> None:
    with pytest.raises(ValueError, match="https"):
        Introspection(url="http://idp.example.com/x", client_id="a", client_secret="b")
