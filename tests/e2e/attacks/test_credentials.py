"""Attacks on keys and passwords, through a whole gateway: each ends in a refusal, and none costs more than it is worth.

Rules of this file: time is counted in hashes, not in seconds.
"""

from __future__ import annotations

import asyncio
import base64
import threading
from typing import TYPE_CHECKING, Any

import bcrypt
import pytest

from gateway.config.htpasswd import Entry
from tests.auth.keykit import digest, keys_file
from tests.e2e.conformance.conftest import get, problem

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.auth.basic import Basic
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.running import Running

KEY = "gw_0123456789abcdefghijklmnopqrstuvwxyz"
LONG = "p" * 72
PROXY = {"trusted_proxies": ["127.0.0.0/8"]}
"""So that a test can come from any address."""


def field(raw: bytes) -> bytes:
    return b"Authorization: Basic " + base64.b64encode(raw)


ANN = field(b"ann:annann")


@pytest.fixture
def users(tmp_path: Path) -> dict[str, Any]:
    """Policies and routes: `/key`, `/query`, `/cookie` and `/basic`."""
    hashed = {"ann": "annann", "long": LONG, "bob": "bobbob"}
    lines = [
        f"{name}:{bcrypt.hashpw(word.encode(), bcrypt.gensalt(4)).decode()}\n"
        for name, word in hashed.items()
    ]
    (tmp_path / "htpasswd").write_text("".join(lines))
    keys = keys_file(tmp_path, f'id: k1, sha256: "{digest(KEY)}", consumer: acme')
    forward = {"X-User": "{consumer}", "X-Role": "{claim.role}"}
    return {
        "key": {"api_key": {"keys_file": keys, "forward": forward}},
        "query": {"api_key": {"keys_file": keys, "query": "api_key", "forward": forward}},
        "cookie": {"api_key": {"keys_file": keys, "cookie": "sid", "forward": forward}},
        "basic": {"basic": {"htpasswd": str(tmp_path / "htpasswd"), "forward": forward}},
    }


async def start(gateway: MakeGateway, up: Any, users: dict[str, Any], **sections: Any) -> Running:
    routes = [{"path": f"/{name}/*", "to": up.url, "auth": name} for name in users]
    return await gateway({"auth": users, "routes": routes, "server": PROXY, **sections})


def policy(running: Running, name: str) -> Any:
    [found] = [one for one in running.gateway._resources.of("auth") if one.name == name]
    return found


# ── who can not be somebody else ──


@pytest.mark.parametrize(
    ("path", "credential"),
    [
        (b"/key/", b"X-Api-Key: " + KEY.encode()),
        (b"/query/?api_key=" + KEY.encode(), b"Accept: x"),
        (b"/cookie/", b"Cookie: sid=" + KEY.encode()),
        (b"/basic/", ANN),
    ],
)
@pytest.mark.parametrize(
    "forged",
    [
        (b"X-User: root", b"X-Role: admin"),
        (b"x-user: root", b"x-role: admin"),
        (b"X-User: root", b"X-User: root", b"X-Role: admin"),
        (b"X_User: root", b"X_Role: admin"),
        (b"X-User:root", b"X-Role:\tadmin"),
        (b"Connection: X-User, X-Role", b"X-User: root"),
    ],
)
async def test_a_client_writes_no_field_that_a_policy_writes(
    origin: MakeOrigin,
    gateway: MakeGateway,
    raw: MakeClient,
    users: dict[str, Any],
    path: bytes,
    credential: bytes,
    forged: tuple[bytes, ...],
) -> None:
    up = await origin()
    client = await raw(await start(gateway, up, users))
    assert (await client.ask(get(path, credential, *forged))).status == 200
    assert up.only.all("x-user") in ([b"acme"], [b"ann"])
    assert b"root" not in up.only.head
    assert b"admin" not in up.only.head


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        # a credential in another policy's place
        (b"/key/?api_key=%b", ()),
        (b"/key/", (b"Cookie: sid=%b",)),
        (b"/key/", (b"Authorization: Bearer %b",)),
        (b"/query/", (b"X-Api-Key: %b",)),
        (b"/query/?API_KEY=%b", ()),
        (b"/query/;api_key=%b", ()),
        (b"/query/?x=1;api_key=%b", ()),
        (b"/query/%%3fapi_key=%b", ()),
        (b"/cookie/", (b"X-Api-Key: %b",)),
        (b"/cookie/", (b"Cookie: SID=%b",)),
        (b"/cookie/", (b"Cookie: x=sid=%b",)),
        (b"/basic/", (b"X-Api-Key: %b",)),
        # one beside another: whichever an upstream would read, the gateway takes neither
        (b"/key/", (b"X-Api-Key: %b", b"X-Api-Key: x")),
        (b"/key/", (b"X-Api-Key: x", b"X-Api-Key: %b")),
        (b"/key/", (b"X-Api-Key: %b, x",)),
        (b"/query/?api_key=%b&api_key=x", ()),
        (b"/query/?api_key=x&%%61pi_key=%b", ()),
        (b"/cookie/", (b"Cookie: sid=%b; sid=x",)),
        (b"/cookie/", (b"Cookie: sid=%b", b"Cookie: sid=x")),
        # not the key, but what stands in the file, or nearly it
        (b"/key/", (b"X-Api-Key: " + digest(KEY).encode(),)),
        (b"/key/", (b"X-Api-Key: ",)),
        (b"/key/", (b"X_Api_Key: %b",)),
        (b"/key/", (b'X-Api-Key: "%b"',)),
        (b"/key/", (b"X-Api-Key: %bx",)),
        (b"/key/", (b"X-Api-Key: %b\xc2\xa0",)),
    ],
)
async def test_a_key_counts_in_its_one_place_and_once(
    origin: MakeOrigin,
    gateway: MakeGateway,
    raw: MakeClient,
    users: dict[str, Any],
    path: bytes,
    fields: tuple[bytes, ...],
) -> None:
    up = await origin()
    client = await raw(await start(gateway, up, users))
    key = KEY.encode()
    target = path % key if b"%b" in path else path
    lines = [one % key if b"%b" in one else one for one in fields]
    answer = await client.ask(get(target, *lines))
    assert answer.status in (401, 404), answer.raw
    assert up.requests == []


@pytest.mark.parametrize(
    "fields",
    [
        (ANN, ANN),
        (field(b"eve:x"), ANN),
        (ANN, b"Authorization: Bearer x"),
        (b"Authorization: Bearer x", ANN),
        (ANN + b", Basic x",),
        (ANN + b" ,",),
        (b"Authorization: Basic",),
        (b"Authorization: Basic  ",),
        (b"Authorization: BasicYW5uOmFubmFubg==",),
        (ANN[:-2],),
        (ANN + b"AAAA",),
        (b"Proxy-" + ANN,),
        (field(b"ann"),),
        (field(b"ann:annann\0"),),
        (field(b"ann:annann\0annann"),),
        (field(b"ann:annann\n"),),
        (field(b"ann\0:annann"),),
        (field(b"ann\r\nX-User: root:annann"),),
        (field(b"Ann:annann"),),
        (field(b" ann:annann"),),
        (field(b"ann :annann"),),
        (field(b"ann:"),),
        (field(b":annann"),),
        (field(b":"),),
        (field("ann\N{ZERO WIDTH SPACE}:annann".encode()),),
        (field(b"long:" + LONG.encode() + b"x"),),
        (field(b"long:" + LONG.encode() + b"p"),),
        (field(b"long:" + LONG.encode()[:-1]),),
        (field(b"long:" + LONG.encode() + b"\0"),),
        (field(b"ann:" + b"annann\0" * 11),),
        (field(b"#ann:annann"),),
        (field(b"ann:$2b$04$"),),
        (field(b"ann:" + b"x" * 4000),),
    ],
)
async def test_nothing_but_the_very_name_and_password_is_taken(
    origin: MakeOrigin,
    gateway: MakeGateway,
    raw: MakeClient,
    users: dict[str, Any],
    fields: tuple[bytes, ...],
) -> None:
    up = await origin()
    client = await raw(await start(gateway, up, users))
    problem(await client.ask(get(b"/basic/", *fields)), "unauthenticated", 401)
    assert up.requests == []


async def test_the_hash_of_a_password_is_no_password(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, users: dict[str, Any], tmp_path: Path
) -> None:
    up = await origin()
    client = await raw(await start(gateway, up, users))
    for line in (tmp_path / "htpasswd").read_bytes().splitlines():
        problem(await client.ask(get(b"/basic/", field(line))), "unauthenticated", 401)
    assert up.requests == []


# ── what guessing costs ──


async def test_stuffing_from_one_address_is_refused_after_ten_and_costs_ten_hashes(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, users: dict[str, Any]
) -> None:
    up = await origin()
    running = await start(gateway, up, users)
    client = await raw(running)
    seen = []
    for number in range(60):
        answer = await client.ask(get(b"/basic/", field(b"user%d:leaked%d" % (number, number))))
        seen.append(answer.status)
        if answer.status == 429:
            assert 1 <= int(answer.get("retry-after") or b"0") <= 60
    assert seen == [401] * 10 + [429] * 50
    assert policy(running, "basic").verifier.done == 10
    problem(await client.ask(get(b"/basic/", ANN)), "rate_limited", 429)
    elsewhere = await client.ask(get(b"/basic/", ANN, b"X-Forwarded-For: 192.0.2.7"))
    assert elsewhere.status == 200
    running.clock.advance(61)
    assert (await client.ask(get(b"/basic/", ANN))).status == 200
    await running.eventually("gateway_errors_total", 51, reason="rate_limited")


async def test_stuffing_over_many_connections_at_once_gains_nothing(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, users: dict[str, Any]
) -> None:
    up = await origin()
    running = await start(gateway, up, users)
    clients = [await raw(running) for _ in range(40)]
    asked = (
        client.ask(get(b"/basic/", field(b"ann:guess%d" % number)))
        for number, client in enumerate(clients)
    )
    statuses = [answer.status for answer in await asyncio.gather(*asked)]
    assert sorted(statuses) == [401] * 10 + [429] * 30
    assert policy(running, "basic").verifier.done == 10


async def test_an_account_of_ones_own_does_not_pay_for_guesses(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, users: dict[str, Any]
) -> None:
    up = await origin()
    running = await start(gateway, up, users)
    client = await raw(running)
    guesses = 0
    for number in range(60):
        await client.ask(get(b"/basic/", field(b"bob:bobbob")))
        answer = await client.ask(get(b"/basic/", field(b"ann:guess%d" % number)))
        guesses += answer.status == 401
    assert guesses <= 15


async def test_rotating_through_a_64_gains_nothing(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, users: dict[str, Any]
) -> None:
    up = await origin()
    running = await start(gateway, up, users)
    client = await raw(running)
    seen = []
    for number in range(40):
        source = b"X-Forwarded-For: 2001:db8:0:1:%x::%x" % (number, number)
        guess = field(b"ann:guess%d" % number)
        seen.append((await client.ask(get(b"/basic/", guess, source))).status)
    assert seen == [401] * 10 + [429] * 30


async def test_guessed_keys_are_refused_too_and_an_old_key_again_and_again_is_not(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, users: dict[str, Any]
) -> None:
    up = await origin()
    running = await start(gateway, up, users)
    client = await raw(running)
    for _ in range(40):
        assert (await client.ask(get(b"/key/", b"X-Api-Key: withdrawn"))).status == 401
    assert (await client.ask(get(b"/key/", b"X-Api-Key: " + KEY.encode()))).status == 200
    seen = [
        (await client.ask(get(b"/key/", b"X-Api-Key: guess%d" % number))).status
        for number in range(20)
    ]
    assert seen == [401] * 9 + [429] * 11
    problem(await client.ask(get(b"/key/", b"X-Api-Key: " + KEY.encode())), "rate_limited", 429)


async def test_a_flood_of_keys_and_names_from_everywhere_fills_no_table(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, users: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("gateway.auth.attempts.Attempts.__init__.__defaults__", (50,))
    monkeypatch.setattr("gateway.auth.basic.ROOM_WRONG", 20)
    up = await origin()
    running = await start(gateway, up, users)
    client = await raw(running)
    for number in range(150):
        source = b"X-Forwarded-For: 2001:db8:%x::1" % number
        key = await client.ask(get(b"/key/", b"X-Api-Key: flood%d" % number, source))
        word = await client.ask(get(b"/basic/", field(b"u%d:x" % number), source))
        assert {key.status, word.status} == {401}
    keys, words = policy(running, "key"), policy(running, "basic")
    assert len(keys._attempts) <= 100
    assert len(words._attempts) <= 100
    assert len(words._wrong) <= 20
    assert (words._known, words._under_way, words.verifier.waiting) == ({}, {}, 0)


# ── what can be told from how long it takes ──


async def test_names_can_not_be_told_by_the_hashes_they_cost(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, users: dict[str, Any]
) -> None:
    users["basic"]["basic"]["attempts"] = "off"
    up = await origin()
    running = await start(gateway, up, users)
    basic: Basic = policy(running, "basic")
    client = await raw(running)
    costs = {}
    for name in (b"ann", b"bob", b"eve", b"nobody", b"\xff"):
        before = basic.verifier.done
        for number in range(5):
            answer = await client.ask(get(b"/basic/", field(b"%b:%d" % (name, number))))
            problem(answer, "unauthenticated", 401)
        costs[name] = basic.verifier.done - before
    assert set(costs.values()) == {5}


# ── what one client can not take from others ──


async def test_while_passwords_are_guessed_from_everywhere_who_is_known_is_served(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, users: dict[str, Any]
) -> None:
    up = await origin()
    running = await start(gateway, up, users)
    basic: Basic = policy(running, "basic")
    client = await raw(running)
    assert (await client.ask(get(b"/basic/", ANN))).status == 200
    go = threading.Event()

    def slow(_password: bytes) -> bool:
        go.wait(20)
        return False

    for name in basic._users:
        basic._users[name] = Entry(slow)
    basic._decoys = (Entry(slow),)
    crowd = [await raw(running) for _ in range(80)]
    try:
        for number, one in enumerate(crowd):
            source = b"X-Forwarded-For: 198.51.100.%d" % number
            await one.send(get(b"/basic/", field(b"ann:guess%d" % number), source))
        await running.eventually("gateway_errors_total", 16, reason="auth_unavailable")
        assert basic.verifier.waiting == 64
        for _ in range(20):
            assert (await client.ask(get(b"/basic/", ANN))).status == 200
            assert (await client.ask(get(b"/key/", b"X-Api-Key: " + KEY.encode()))).status == 200
        fresh = await client.ask(get(b"/basic/", field(b"bob:bobbob")))
        problem(fresh, "auth_unavailable", 503)
        assert fresh.get("retry-after") == b"1"
    finally:
        go.set()
    for one in crowd:
        assert (await one.response()).status in (401, 503)
