"""`jwt`, through a whole gateway: who is let in, what upstream and client are told, and an issuer that misbehaves."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from gateway.auth.jwks import COOL_DOWN, LOOK
from gateway.tasks import spawn
from tests.e2e.conformance.conftest import get, post, problem
from tests.kit.clock import FakeClock
from tests.kit.guarded import Guarded
from tests.kit.issuer import SECRET, Issuer, jwk
from tests.kit.login import program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin

DISCOVERY = "/.well-known/openid-configuration"


@pytest.fixture
async def guarded(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> AsyncIterator[Guarded]:
    async with Issuer(FakeClock()) as issuer:
        yield Guarded(issuer, origin, gateway, raw)


async def test_a_good_token_is_let_in_and_does_not_reach_the_upstream(guarded: Guarded) -> None:
    await guarded.start(forward={"X-User": "{claim.sub}", "X-Roles": "{claim.realm.roles}"})
    forged = (b"x-user: root", b"X-Roles: admin", b"X_Roles: admin")
    await guarded.accepted(guarded.issuer.sign(realm={"roles": ["a", "b"]}), *forged)
    asked = guarded.up.only
    assert asked.get("authorization") is None
    assert asked.all("x-user") == [b"ann"]
    assert asked.all("x-roles") == [b"a,b"]
    assert b"root" not in asked.raw
    assert b"admin" not in asked.raw
    assert guarded.counted("ok") == 1
    assert guarded.issuer.asked == {DISCOVERY: 1, "/keys": 1}


async def test_a_claim_can_not_add_a_field_of_its_own(guarded: Guarded) -> None:
    await guarded.start(forward={"X-User": "{claim.sub}", "X-Name": "{claim.name}"})
    evil = "ann\r\nX-Admin: yes\r\n\r\nGET /evil HTTP/1.1"
    await guarded.accepted(guarded.issuer.sign(sub=evil, name="Änn\0"))
    assert guarded.up.only.get("x-admin") is None
    assert (
        guarded.up.only.get("x-user")
        == "ann??X-Admin: yes????GET /evil HTTP/1.1".replace(
            "?", "\N{REPLACEMENT CHARACTER}"
        ).encode()
    )
    assert guarded.up.only.get("x-name") == "Änn\N{REPLACEMENT CHARACTER}".encode()


@pytest.mark.parametrize("name", ["ad\0min", "admin\n", "\tadmin", "ad\x7fmin"])
async def test_a_name_with_control_characters_is_nobody_elses(guarded: Guarded, name: str) -> None:
    await guarded.start(
        consumer="{claim.sub}",
        forward={"X-User": "{claim.sub}", "X-Consumer": "{consumer}"},
        route={
            "allow": {"consumers": ["admin"], "mode": "report"},
            "headers": {"request": {"set": {"X-Sub": "{claim.sub}", "X-Who": "{consumer}"}}},
        },
    )
    await guarded.accepted(guarded.issuer.sign(sub=name))
    for field in ("x-user", "x-consumer", "x-sub", "x-who"):
        assert guarded.up.only.get(field) not in (b"admin", None)
    assert guarded.counted("would_deny") == 1


async def test_no_token_is_told_what_is_wanted_and_no_error(guarded: Guarded) -> None:
    await guarded.start()
    for lines in ((), (b"Authorization: Basic YTpi",)):
        answer = await guarded.client.ask(get(b"/", *lines))
        problem(answer, "unauthenticated", 401)
        assert answer.all("www-authenticate") == [b'Bearer realm="gateway"']
    assert guarded.counted("missing") == 2
    assert guarded.up.requests == []
    assert guarded.issuer.asked == {}


@pytest.mark.parametrize(
    ("claims", "outcome"),
    [
        ({"exp": 1}, "expired"),
        ({"exp": None}, "malformed"),
        ({"nbf": 9_999_999_999}, "inactive"),
        ({"aud": "other"}, "wrong_audience"),
        ({"iss": "http://127.0.0.1:1/"}, "wrong_audience"),
    ],
)
async def test_a_refusal_is_counted_for_operators_and_says_nothing_to_clients(
    guarded: Guarded, claims: dict[str, Any], outcome: str
) -> None:
    await guarded.start()
    await guarded.refused(guarded.issuer.sign(**claims), outcome)
    await guarded.accepted(guarded.issuer.sign())


async def test_a_refused_body_leaves_the_connection_in_step(guarded: Guarded) -> None:
    await guarded.start()
    problem(await guarded.client.ask(post(body=b"x" * 1000)), "unauthenticated", 401)
    await guarded.accepted(guarded.issuer.sign())
    await guarded.client.send(post(body=b"GET /evil HTTP/1.1\r\nHost: x\r\n\r\n") + get(b"/"))
    for _ in range(2):
        problem(await guarded.client.response(), "unauthenticated", 401)
    assert len(guarded.up.requests) == 1


async def test_two_credentials_are_400(guarded: Guarded) -> None:
    await guarded.start()
    good = guarded.issuer.sign()
    answer = await guarded.ask(good, b"authorization: Bearer " + good.encode())
    problem(answer, "bad_request", 400)
    assert answer.get("www-authenticate") == b'Bearer realm="gateway", error="invalid_request"'
    assert guarded.counted("malformed") == 1
    assert guarded.up.requests == []


async def test_a_token_that_has_too_little_is_403_and_told_so(guarded: Guarded) -> None:
    allow = {"scopes": ["write"], "groups": ["ops"]}
    await guarded.start(route={"allow": allow})
    answer = await guarded.ask(guarded.issuer.sign(scope="read", groups=["ops"]))
    problem(answer, "forbidden", 403)
    told = b'Bearer realm="gateway", error="insufficient_scope"'
    assert answer.all("www-authenticate") == [told]
    assert b"write" not in answer.raw
    answer = await guarded.ask(guarded.issuer.sign(scope="read write", groups=["x"]))
    problem(answer, "forbidden", 403)
    assert answer.all("www-authenticate") == []
    await guarded.accepted(guarded.issuer.sign(scope="read write", groups=["ops"]))
    assert guarded.counted("forbidden") == 2


async def test_many_first_requests_wait_for_one_fetch(guarded: Guarded) -> None:
    await guarded.start()
    guarded.issuer.gate.clear()
    clients = [await guarded.connect() for _ in range(10)]
    for number, client in enumerate(clients):
        token = guarded.issuer.sign(n=number).encode()
        await client.send(get(b"/", b"Authorization: Bearer " + token))
    while not guarded.issuer.asked:
        await asyncio.sleep(0.005)
    assert await clients[0].silence(0.05)
    clients[3].reset()  # who leaves takes the fetch from nobody
    guarded.issuer.gate.set()
    for client in clients[:3] + clients[4:]:
        assert (await client.response()).status == 200
    assert guarded.issuer.asked == {DISCOVERY: 1, "/keys": 1}
    assert guarded.running.metric("gateway_jwks_refresh_total", result="success") == 1
    assert guarded.running.metric("gateway_jwks_age_seconds", policy="staff") < 10


async def test_keys_rotate_while_requests_come(guarded: Guarded) -> None:
    await guarded.start(refresh="60s")
    await guarded.accepted(guarded.issuer.sign())  # else the connection is too long without a head
    for number in range(5):
        guarded.issuer.rotate(f"key-{number}", keep=True)
        guarded.clock.advance(COOL_DOWN + 1)
        old = guarded.issuer.sign(exp=guarded.issuer.now() + 9999)
        await guarded.accepted(old)
        guarded.issuer.rotate(f"new-{number}")
        guarded.clock.advance(COOL_DOWN + 1)
        await guarded.accepted(guarded.issuer.sign())
        await guarded.refused(old, "unknown_key")
    assert guarded.events() == []


async def test_an_issuer_that_dies_locks_nobody_out(guarded: Guarded) -> None:
    await guarded.start(refresh="60s")
    await guarded.accepted(guarded.issuer.sign())
    await guarded.issuer.die()
    for minute in range(1, 6):
        guarded.clock.advance(61)
        await guarded.accepted(guarded.issuer.sign(n=minute))
        await guarded.running.eventually("gateway_jwks_refresh_total", minute, result="failure")
    assert guarded.running.metric("gateway_jwks_age_seconds") >= 305
    await guarded.refused(guarded.issuer.sign(aud="x"), "wrong_audience")
    assert guarded.events() == ["jwks_failed"]
    await guarded.issuer.start()
    guarded.clock.advance(61)
    await guarded.accepted(guarded.issuer.sign(n=9))
    await guarded.running.eventually("gateway_jwks_refresh_total", 2, result="success")
    assert guarded.events() == ["jwks_failed", "jwks_recovered"]


async def test_an_issuer_that_was_never_there_is_503_and_comes_up_later(guarded: Guarded) -> None:
    url = guarded.issuer.url
    await guarded.issuer.die()
    assert guarded.issuer.url == url
    await guarded.start()
    for _ in range(3):
        await guarded.unavailable(guarded.issuer.sign())
    assert guarded.counted("provider_error") == 3
    assert guarded.running.metric("gateway_jwks_refresh_total", result="failure") == 1
    await guarded.issuer.start()
    guarded.clock.advance(1.1)
    await guarded.accepted(guarded.issuer.sign())


async def test_an_issuer_that_hangs_holds_a_request_no_longer_than_its_timeout(
    guarded: Guarded,
) -> None:
    await guarded.start(timeout="2s", refresh="60s")
    guarded.issuer.gate.clear()
    asking = spawn(guarded.ask(guarded.issuer.sign()), "test")
    while not guarded.issuer.asked:
        await asyncio.sleep(0.005)
    guarded.clock.advance(2.1)
    problem(await asking, "auth_unavailable", 503)
    guarded.issuer.gate.set()
    guarded.clock.advance(1.1)
    await guarded.accepted(guarded.issuer.sign())
    guarded.issuer.gate.clear()
    guarded.clock.advance(61)
    await guarded.accepted(guarded.issuer.sign(n=1))  # while the refresh hangs
    guarded.issuer.gate.set()


@pytest.mark.parametrize("path", [DISCOVERY, "/keys"])
@pytest.mark.parametrize("how", ["redirect", "huge", "endless", "broken"])
async def test_an_issuer_that_misbehaves_is_503_and_nothing_else_suffers(
    guarded: Guarded, path: str, how: str
) -> None:
    await guarded.start(timeout="3s")
    elsewhere = await guarded._origin()
    answers: dict[str, Any] = {
        "redirect": web.Response(status=302, headers={"Location": elsewhere.url}),
        "huge": b'{"keys": [' + b" " * 50_000_000 + b"]}",
        "endless": web.Response(body=_endless(), content_type="application/json"),
        "broken": '{"keys": ',
    }
    guarded.issuer.answers[path] = answers[how]
    await guarded.unavailable(guarded.issuer.sign())
    assert elsewhere.connections == []
    del guarded.issuer.answers[path]
    guarded.clock.advance(1.1)
    await guarded.accepted(guarded.issuer.sign())
    assert guarded.events() == ["jwks_failed", "jwks_recovered"]


async def _endless() -> AsyncIterator[bytes]:
    while True:
        yield b" " * 4096


async def test_what_was_learned_outlives_a_reload_that_leaves_the_policy_alone(
    guarded: Guarded,
) -> None:
    await guarded.start()
    token = guarded.issuer.sign()
    await guarded.accepted(token)
    written = {
        "listeners": [{"bind": "127.0.0.1:0"}],
        "admin": "off",
        "auth": guarded.policies,
        "upstreams": {"up": {"targets": [guarded.up.url]}},
        "routes": [{"name": "all", "path": "/*", "to": "up", "auth": "staff"}],
        "observability": {"access_log": "off"},
    }
    from gateway.config import load_dict

    await guarded.running.gateway.reload(load_dict(written))
    await guarded.accepted(token)
    assert guarded.issuer.asked["/keys"] == 1
    written["auth"] = {"staff": guarded.settings(audience="other")}
    await guarded.running.gateway.reload(load_dict(written))
    await guarded.refused(token, "wrong_audience")
    assert guarded.issuer.asked["/keys"] == 2


async def test_keys_from_a_file_follow_the_file(guarded: Guarded, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [jwk(guarded.issuer.keys["one"][1], "one")]}))
    await guarded.start(jwks=str(file))
    old = guarded.issuer.sign()
    await guarded.accepted(old)
    guarded.issuer.rotate("two")
    new = tmp_path / "new.json"
    new.write_text(json.dumps({"keys": [jwk(guarded.issuer.keys["two"][1], "two")]}))
    new.rename(file)
    guarded.clock.advance(LOOK + 0.1)
    await guarded.accepted(guarded.issuer.sign())
    await guarded.refused(old, "unknown_key")
    assert guarded.issuer.asked == {}


async def test_a_shared_secret_needs_no_network(guarded: Guarded) -> None:
    guarded.issuer.keys = {"k": ("HS256", SECRET)}
    await guarded.start(secret=SECRET)
    await guarded.accepted(guarded.issuer.sign())
    guarded.issuer.keys = {"k": ("HS256", SECRET + "!")}
    await guarded.refused(guarded.issuer.sign(), "bad_signature")
    assert guarded.issuer.asked == {}


async def test_of_several_issuers_each_vouches_for_its_own(
    guarded: Guarded, origin: MakeOrigin
) -> None:
    async with Issuer(guarded.clock) as other:
        ours = guarded.settings(consumer="ours")
        theirs = {"jwt": {"issuer": other.url, "audience": "api", "consumer": "theirs"}}
        forward = {"forward": {"X-Who": "{consumer}"}}
        await guarded.start(
            {"a": {"jwt": ours["jwt"] | forward}, "b": {"jwt": theirs["jwt"] | forward}}
        )
        for one in (guarded.issuer, other):
            await guarded.accepted(one.sign())
            await guarded.accepted(one.sign())
        assert [each.get("x-who") for each in guarded.up.requests] == [b"ours"] * 2 + [
            b"theirs"
        ] * 2
        answer = await guarded.ask(other.sign(iss=guarded.issuer.url))
        problem(answer, "unauthenticated", 401)
        assert len(answer.all("www-authenticate")) == 2


async def test_no_token_is_in_logs_or_metrics(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    await guarded.start()
    good, bad = guarded.issuer.sign(), guarded.issuer.sign(aud="x")
    await guarded.accepted(good)
    await guarded.refused(bad, "wrong_audience")
    said = caplog.text + json.dumps(await guarded.running.log(2))
    said += guarded.running.gateway.metrics.exposition(None)[0].decode()
    for token in (good, bad):
        for part in token.split(".")[1:]:
            assert part not in said


async def test_a_token_of_a_real_provider(
    guarded: Guarded, origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    """oidc-provider-mock signs with a library that is not ours, and publishes its keys in its own way."""
    async with program() as provider, aiohttp.ClientSession() as browser:
        asked = {
            "client_id": "web", "redirect_uri": "http://localhost/", "response_type": "code",
            "scope": "openid", "nonce": "n",
        }  # fmt: skip
        there = f"{provider.url}/oauth2/authorize"
        async with browser.post(
            there, params=asked, data={"sub": "ann"}, allow_redirects=False
        ) as sent:
            code = URL(sent.headers["Location"]).query["code"]
        form = {
            "grant_type": "authorization_code", "code": code, "client_id": "web",
            "client_secret": "any", "redirect_uri": asked["redirect_uri"],
        }  # fmt: skip
        async with browser.post(f"{provider.url}/oauth2/token", data=form) as got:
            token = (await got.json())["id_token"]
        async with browser.get(f"{provider.url}/.well-known/openid-configuration") as document:
            issuer = (await document.json())["issuer"]
        jwt = {"issuer": issuer, "audience": "web", "forward": {"X-User": "{claim.sub}"}}
        await guarded.start({"staff": {"jwt": jwt}})
        await guarded.accepted(token)
        assert guarded.up.only.get("x-user") == b"ann"
        head, claims, signature = token.split(".")
        await guarded.refused(f"{head}.{claims}.{signature[::-1]}", "bad_signature")
        await guarded.refused(guarded.issuer.sign(iss=issuer, aud="web"), "unknown_key")
