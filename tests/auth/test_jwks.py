"""Where keys come from, when they are looked at again, and what becomes of tokens meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from gateway import errors
from gateway.auth import jwt
from gateway.auth.fetch import LARGEST
from gateway.auth.jwks import COOL_DOWN, LOOK, well_known
from gateway.config.auth import Jwt
from gateway.tasks import spawn
from tests.auth.kit import bearing, kinds, known, outcome, tools
from tests.kit.clock import FakeClock
from tests.kit.issuer import Issuer, jwk, private_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DISCOVERY = "/.well-known/openid-configuration"


class World:
    """A policy, its issuer, and the time."""

    def __init__(self, issuer: Issuer, clock: FakeClock) -> None:
        self.issuer = issuer
        self.clock = clock
        self.tools = tools(clock)
        self.made: list[jwt.Jwt] = []

    def make(self, **settings: Any) -> jwt.Jwt:
        given = {"issuer": self.issuer.url, "audience": ["api"], **settings}
        self.made.append(jwt.make("staff", Jwt(**given), self.tools))
        return self.made[-1]

    async def accepts(self, one: jwt.Jwt, **sign: Any) -> bool:
        return bool(await known(one, bearing(self.issuer.sign(**sign))))

    @property
    def fetched(self) -> int:
        return self.issuer.asked.get("/keys", 0)

    async def quiet(self) -> None:
        """Wait until no look is under way."""
        async with asyncio.timeout(10):
            while any(len(one._ring._single) for one in self.made):
                await asyncio.sleep(0.005)

    @property
    def why(self) -> str:
        return self.tools.events.select()[-1].why


@pytest.fixture
async def world() -> AsyncIterator[World]:
    clock = FakeClock()
    async with Issuer(clock) as issuer:
        made = World(issuer, clock)
        yield made
        for one in made.made:
            await one.aclose()


# ── the first look ──


async def test_fifty_requests_at_the_start_are_one_fetch(world: World) -> None:
    one = world.make()
    asking = [spawn(known(one, bearing(world.issuer.sign(n=n))), "test") for n in range(50)]
    assert all(await asyncio.gather(*asking))
    assert world.issuer.asked == {DISCOVERY: 1, "/keys": 1}
    assert world.tools.meter.refreshes == {"success": 1}
    world.clock.advance(7)
    age = world.tools.meter.keys_age
    assert age is not None
    assert 7 <= age() < 8
    await one.aclose()
    assert world.tools.meter.keys_age is None


async def test_without_keys_nobody_can_tell_and_it_is_tried_again_in_a_while(world: World) -> None:
    await world.issuer.die()
    one = world.make()
    for _ in range(5):
        assert await outcome(one, bearing(world.issuer.sign())) == "auth_unavailable"
    assert world.tools.meter.refreshes == {"failure": 1}
    assert kinds(world.tools) == ["jwks_failed"]
    assert "connection refused; no keys yet" in world.why
    await world.issuer.start()
    assert await outcome(one, bearing(world.issuer.sign())) == "auth_unavailable"
    world.clock.advance(1.1)
    assert await world.accepts(one)
    assert kinds(world.tools) == ["jwks_failed", "jwks_recovered"]
    assert world.tools.meter.refreshes == {"failure": 1, "success": 1}


async def test_an_issuer_that_hangs_costs_the_timeout_once(world: World) -> None:
    world.issuer.gate.clear()
    one = world.make(timeout=3)
    asking = [spawn(outcome(one, bearing(world.issuer.sign())), "test") for _ in range(5)]
    while not world.issuer.asked:
        await asyncio.sleep(0.005)
    world.clock.advance(3.1)
    assert await asyncio.gather(*asking) == ["auth_unavailable"] * 5
    assert "no whole answer within 3 s" in world.why
    assert await outcome(one, bearing(world.issuer.sign())) == "auth_unavailable"
    assert world.issuer.asked == {DISCOVERY: 1}


async def test_both_questions_of_a_discovery_have_the_timeout_together(world: World) -> None:
    world.issuer.gate.clear()
    one = world.make(timeout=3)
    asking = spawn(outcome(one, bearing(world.issuer.sign())), "test")
    while not world.issuer.asked:
        await asyncio.sleep(0.005)
    world.clock.advance(2)
    world.issuer.gate.set()
    while "/keys" not in world.issuer.asked:
        world.issuer.gate.clear()
        await asyncio.sleep(0.005)
    world.clock.advance(1.1)
    assert await asking == "auth_unavailable"
    assert f"{DISCOVERY}: no whole answer within 3 s" in world.why


@pytest.mark.parametrize(
    ("path", "answer", "why"),
    [
        (DISCOVERY, "{}", "another issuer"),
        (DISCOVERY, '{"issuer": "http://127.0.0.1:1/"}', "another issuer"),
        (DISCOVERY, "[]", "no JSON object"),
        (DISCOVERY, b" " * (LARGEST + 1), "larger"),
        ("/keys", "nothing", "no JSON"),
        ("/keys", "{}", "no JWKS"),
        ("/keys", '{"keys": []}', "no key that can be used"),
        ("/keys", '{"keys": [{"kty": "oct", "k": "AAAA"}]}', "key 1: it is a secret"),
        ("/keys", '{"keys": [], "keys": []}', "twice"),
        ("/keys", b" " * (LARGEST + 1), "larger"),
        ("/keys", b"[" * LARGEST, "deeper"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_what_is_no_key_set_is_said(
    world: World, path: str, answer: str | bytes, why: str
) -> None:
    world.issuer.answers[path] = answer
    assert await outcome(world.make(), bearing(world.issuer.sign())) == "auth_unavailable"
    assert why in world.why


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("http://keys.example.com/", "https"),
        ("file:///etc/passwd", "no http or https"),
        (None, "names no jwks_uri"),
        (5, "names no jwks_uri"),
        ("//[", "no URL"),
    ],
)
async def test_an_announced_address_is_not_followed_anywhere(
    world: World, uri: Any, why: str
) -> None:
    world.issuer.announces["jwks_uri"] = uri
    assert await outcome(world.make(), bearing(world.issuer.sign())) == "auth_unavailable"
    assert why in world.why


def test_the_discovery_document_is_below_the_issuer() -> None:
    wanted = "https://a/.well-known/openid-configuration"
    assert well_known("https://a") == well_known("https://a/") == wanted
    assert well_known("https://a/b") == "https://a/b/.well-known/openid-configuration"


# ── while it runs ──


async def test_keys_are_looked_at_again_in_the_background(world: World) -> None:
    one = world.make(refresh=60)
    assert await world.accepts(one)
    world.clock.advance(59)
    assert await world.accepts(one, n=1)
    assert world.fetched == 1
    world.issuer.gate.clear()
    world.clock.advance(2)
    assert one.authenticate(bearing(world.issuer.sign(n=2))).consumer == "ann"  # at once
    world.issuer.gate.set()
    await world.quiet()
    assert world.fetched == 2


async def test_after_a_long_silence_the_keys_are_looked_at_first(world: World) -> None:
    one = world.make(refresh=60)
    old = world.issuer.sign(exp=world.issuer.now() + 9999)
    assert await known(one, bearing(old))
    world.issuer.rotate("two")
    world.clock.advance(300)
    assert await outcome(one, bearing(old)) == "unknown_key"
    assert await world.accepts(one)


async def test_a_key_that_is_withdrawn_counts_no_longer(world: World) -> None:
    one = world.make(refresh=60)
    old = world.issuer.sign(exp=world.issuer.now() + 9999)
    world.issuer.rotate("two", keep=True)
    assert await known(one, bearing(old))
    del world.issuer.keys["one"]
    world.clock.advance(61)
    assert await known(one, bearing(old))  # and a refresh begins
    await world.quiet()
    assert await outcome(one, bearing(old)) == "unknown_key"


async def test_a_new_key_is_asked_for_when_a_token_names_it(world: World) -> None:
    one = world.make()
    assert await world.accepts(one)
    world.clock.advance(COOL_DOWN + 1)
    world.issuer.rotate("two", keep=True)
    assert await world.accepts(one)
    assert world.fetched == 2


async def test_ten_thousand_unknown_keys_are_one_question(world: World) -> None:
    one = world.make()
    assert await world.accepts(one)
    for _ in range(50):
        assert await outcome(one, bearing(world.issuer.sign(kid=os.urandom(4).hex()))) == (
            "unknown_key"
        )
    assert world.fetched == 1, "the first fetch has just been"
    world.clock.advance(COOL_DOWN + 1)
    asking = [
        spawn(outcome(one, bearing(world.issuer.sign(kid=str(n), n=n))), "test") for n in range(500)
    ]
    assert set(await asyncio.gather(*asking)) == {"unknown_key"}
    assert world.fetched == 2
    for number in range(500):
        assert await outcome(one, bearing(world.issuer.sign(kid=f"x{number}"))) == "unknown_key"
    assert world.fetched == 2
    assert await world.accepts(one)


async def test_an_issuer_that_is_down_locks_nobody_out(world: World) -> None:
    one = world.make(refresh=60)
    assert await world.accepts(one)
    await world.issuer.die()
    for minute in range(20):
        world.clock.advance(60)
        assert await world.accepts(one, n=minute)
        await world.quiet()
    assert kinds(world.tools) == ["jwks_failed"]
    assert "keeping 1 key" in world.why
    assert world.tools.meter.refreshes["failure"] == 20
    age = world.tools.meter.keys_age
    assert age is not None
    assert age() >= 1200
    await world.issuer.start()
    world.clock.advance(60)
    assert await world.accepts(one)
    await world.quiet()
    assert kinds(world.tools) == ["jwks_failed", "jwks_recovered"]


async def test_an_issuer_that_hangs_after_a_long_silence_is_waited_for_once(world: World) -> None:
    one = world.make(refresh=60, timeout=3)
    assert await world.accepts(one)
    world.issuer.gate.clear()
    world.clock.advance(300)
    asking = spawn(known(one, bearing(world.issuer.sign(n=1))), "test")
    while world.issuer.asked[DISCOVERY] < 2:
        await asyncio.sleep(0.005)
    world.clock.advance(3.1)
    assert (await asking).consumer == "ann", "the last good keys stay"
    for number in range(2, 5):
        world.clock.advance(COOL_DOWN + 1)
        assert one.authenticate(bearing(world.issuer.sign(n=number))).consumer == "ann"  # at once
    world.issuer.gate.set()
    await world.quiet()
    assert kinds(world.tools) == ["jwks_failed", "jwks_recovered"]


async def test_a_new_key_while_the_issuer_is_down_is_nobodys_fault(world: World) -> None:
    one = world.make()
    assert await world.accepts(one)
    await world.issuer.die()
    world.clock.advance(COOL_DOWN + 1)
    world.issuer.rotate("two")
    for _ in range(3):
        assert await outcome(one, bearing(world.issuer.sign())) == "auth_unavailable"
    assert world.tools.meter.refreshes["failure"] == 1


@pytest.mark.parametrize("answer", ['{"keys": []}', "nothing", '{"keys": [{"kty": "XYZ"}]}'])
async def test_a_key_set_that_is_broken_takes_no_good_key_away(world: World, answer: str) -> None:
    one = world.make(refresh=60)
    assert await world.accepts(one)
    world.issuer.answers["/keys"] = answer
    world.clock.advance(61)
    for number in range(3):
        assert await world.accepts(one, n=number)
        await world.quiet()
    assert kinds(world.tools) == ["jwks_failed"]


async def test_keys_without_a_name_and_of_strange_kinds(world: World) -> None:
    signing = private_key("ES256")
    world.issuer.keys = {"x": ("ES256", signing)}
    world.issuer.published = [
        {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA", "kid": "x"},
        jwk(private_key("ES256"), "x", use="enc"),
        jwk(signing),
    ]
    one = world.make()
    assert await world.accepts(one)
    assert await world.accepts(one, kid=None)
    assert await world.accepts(one, kid="any name")


async def test_what_waits_is_told_when_the_policy_is_gone(world: World) -> None:
    world.issuer.gate.clear()
    one = world.make()
    asking = spawn(outcome(one, bearing(world.issuer.sign())), "test")
    while not world.issuer.asked:
        await asyncio.sleep(0.005)
    await one.aclose()
    assert await asking == "auth_unavailable"


# ── a file ──


def write(file: Path, *keys: dict[str, Any]) -> None:
    file.with_suffix(".new").write_text(json.dumps({"keys": list(keys)}))
    file.with_suffix(".new").rename(file)


async def test_a_file_is_read_again_when_it_has_changed(world: World, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    write(file, jwk(world.issuer.keys["one"][1], "one"))
    one = world.make(jwks=str(file))
    old = world.issuer.sign()
    assert one.authenticate(bearing(old)).consumer == "ann"  # at once, from the first
    world.issuer.rotate("two")
    write(file, jwk(world.issuer.keys["two"][1], "two"))
    world.clock.advance(LOOK + 0.1)
    assert await world.accepts(one)
    assert await outcome(one, bearing(old)) == "unknown_key"
    assert world.issuer.asked == {}
    file.write_text("{")
    world.clock.advance(LOOK + 0.1)
    for number in range(3):
        assert await world.accepts(one, n=number)
        await world.quiet()
    assert kinds(world.tools) == ["jwks_failed"]
    file.unlink()
    world.clock.advance(LOOK + 0.1)
    assert await world.accepts(one, n=9)
    await world.quiet()
    assert "No such file" in world.why


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        ("", "no JSON"),
        ('{"keys": []}', "no key that can be used"),
        ('{"kty": "RSA"}', "no JWKS"),
        (" " * (LARGEST + 1), "larger"),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_a_file_that_can_not_be_used_is_refused_at_load(
    world: World, tmp_path: Path, content: str | None, why: str
) -> None:
    file = tmp_path / "keys.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=why) as caught:
        world.make(jwks=str(file))
    assert str(caught.value).startswith(f"auth.staff.jwt: {file}: ")


async def test_errors_name_the_policy_and_no_token(world: World) -> None:
    await world.issuer.die()
    token = world.issuer.sign()
    with pytest.raises(errors.AuthUnavailable) as caught:
        await known(world.make(), bearing(token))
    assert caught.value.detail.startswith("policy staff: its keys are not known: http://127.0.0.1:")
    assert token not in caught.value.detail
