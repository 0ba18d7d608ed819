"""API keys, through a whole gateway: who is let in, what the upstream is told, and what changes without a reload."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.auth.files import INTERVAL
from gateway.config import load_dict
from tests.auth.keykit import digest, keys_file
from tests.e2e.conformance.conftest import get, problem
from tests.kit.programs import need
from tests.kit.running import document
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.running import Running

ROOT = Path(__file__).parent.parent.parent
KEY = b"gw_0123456789abcdefghijklmnopqrstuvwxyz"
WITH_KEY = b"X-Api-Key: " + KEY


def entry(
    key: bytes = KEY, more: str = "consumer: acme, scopes: [orders]", name: str = "k1"
) -> str:
    return f'id: {name}, sha256: "{digest(key.decode())}", {more}'


def policies(file: str, **settings: Any) -> dict[str, Any]:
    return {"auth": {"partners": {"api_key": {"keys_file": file, **settings}}}}


async def decided(running: Running, outcome: str, number: float, policy: str = "partners") -> None:
    await running.eventually("gateway_auth_decisions_total", number, policy=policy, outcome=outcome)


async def test_a_key_lets_in_and_stays_with_the_gateway(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    forward = {"X-User": "{consumer}", "X-Key": "{claim.id}"}
    running = await gateway(
        up, route={"auth": "partners"}, **policies(keys_file(tmp_path, entry()), forward=forward)
    )
    client = await raw(running)
    answer = await client.ask(get(b"/", WITH_KEY, b"X-User: root", b"x-key: k0"))
    assert answer.status == 200
    assert up.only.all("x-user") == [b"acme"]
    assert up.only.all("x-key") == [b"k1"]
    assert up.only.get("x-api-key") is None
    await decided(running, "ok", 1)
    [line] = await running.log()
    assert line["consumer"] == "acme"
    assert KEY.decode() not in json.dumps(line)


async def test_without_a_good_key_nothing_reaches_the_upstream_and_operators_know_why(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    file = keys_file(tmp_path, entry(), entry(b"an-expired-key", "expires: 2020-01-31", "k2"))
    running = await gateway(up, route={"auth": "partners"}, **policies(file))
    client = await raw(running)
    bodies = set()
    for fields in (
        (),
        (b"X-Api-Key: wrong",),
        (b"X-Api-Key: an-expired-key",),
        (WITH_KEY, WITH_KEY),
    ):
        answer = await client.ask(get(b"/", *fields))
        problem(answer, "unauthenticated", 401)
        assert answer.all("www-authenticate") == [b"ApiKey"]
        bodies.add(json.dumps({**json.loads(answer.body), "request_id": ""}))
    assert len(bodies) == 1, "a client is told the same, whatever is wrong"
    assert up.requests == []
    for outcome in ("missing", "unknown_key", "expired", "malformed"):
        await decided(running, outcome, 1)
    await running.eventually("gateway_errors_total", 4, reason="unauthenticated")


async def test_scopes_and_consumers_of_the_file_count_in_allow(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    other = entry(
        b"another", "consumer: other, scopes: [read], groups: [gold], claims: {plan: pro}", "k2"
    )
    routes = [
        {"path": "/orders", "allow": {"scopes": ["orders"]}},
        {"path": "/read", "allow": {"scopes": ["read"], "consumers": ["other"]}},
        {"path": "/gold", "allow": {"groups": ["gold"], "claims": {"plan": "pro"}}},
    ]
    config = {"routes": [{**route, "to": up.url, "auth": "partners"} for route in routes]}
    running = await gateway({**config, **policies(keys_file(tmp_path, entry(), other))})
    client = await raw(running)
    seen = {}
    for key in (KEY, b"another"):
        for route in routes:
            path = route["path"]
            assert isinstance(path, str)
            answer = await client.ask(get(path.encode(), b"X-Api-Key: " + key))
            seen[key, path] = answer.status
    assert seen == {
        (KEY, "/orders"): 200,
        (KEY, "/read"): 403,
        (KEY, "/gold"): 403,
        (b"another", "/orders"): 403,
        (b"another", "/read"): 200,
        (b"another", "/gold"): 200,
    }


async def test_keys_of_a_query_and_a_cookie_are_taken_out_and_the_rest_is_left(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    file = keys_file(tmp_path, entry())
    auth = {
        "query": {"api_key": {"query": "api_key", "keys_file": file}},
        "cookie": {"api_key": {"cookie": "sid", "keys_file": file}},
    }
    routes = [
        {"path": "/q/*", "to": up.url, "auth": "query"},
        {"path": "/c/*", "to": up.url, "auth": "cookie"},
        {"path": "/kept/*", "to": up.url, "auth": "query", "forward_credentials": True},
    ]
    running = await gateway({"auth": auth, "routes": routes})
    client = await raw(running)
    asked = (
        (b"/q/?a=1&%61pi_key=" + KEY + b"&b=%20", b"Accept: x"),
        (b"/c/", b"Cookie: a=1; sid=" + KEY + b"; b=2"),
        (b"/kept/?api_key=" + KEY, b"Accept: x"),
    )
    for target, field in asked:
        assert (await client.ask(get(target, field))).status == 200
    assert up.requests[0].target == b"/q/?a=1&b=%20"
    assert up.requests[1].get("cookie") == b"a=1; b=2"
    assert up.requests[2].target == b"/kept/?api_key=" + KEY
    lines = await running.log(3)
    assert KEY.decode() not in json.dumps(lines)


async def test_a_route_takes_any_of_its_policies(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    first = keys_file(tmp_path, entry(more="consumer: first"), name="a.yaml")
    second = keys_file(tmp_path, entry(b"another", "consumer: second"), name="b.yaml")
    auth = {
        "a": {"api_key": {"keys_file": first, "forward": {"X-User": "{consumer}"}}},
        "b": {
            "api_key": {
                "keys_file": second,
                "header": "Authorization",
                "forward": {"X-User": "{consumer}"},
            }
        },
    }
    route = {"name": "all", "path": "/*", "to": up.url, "auth": ["a", "b"]}
    client = await raw(await gateway({"auth": auth, "routes": [route]}))
    for fields in (
        (WITH_KEY,),
        (b"Authorization: Bearer another",),
        (b"X-Api-Key: wrong", b"Authorization: bearer another"),
    ):
        assert (await client.ask(get(b"/", *fields))).status == 200
    assert [one.all("x-user") for one in up.requests] == [[b"first"], [b"second"], [b"second"]]
    answer = await client.ask(get(b"/"))
    assert answer.all("www-authenticate") == [b"ApiKey", b"Bearer"]


async def test_a_withdrawn_key_is_refused_within_seconds_and_a_broken_file_changes_nothing(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    running = await gateway(
        up, route={"auth": "partners"}, **policies(keys_file(tmp_path, entry()))
    )
    client = await raw(running)
    assert (await client.ask(get(b"/", WITH_KEY))).status == 200
    (tmp_path / "keys.yaml").write_text("keys: [{id: broken")
    await passing(running, "auth_file_failed")
    assert (await client.ask(get(b"/", WITH_KEY))).status == 200
    keys_file(tmp_path, entry(b"another"))
    await passing(running, "auth_file_reloaded")
    problem(await client.ask(get(b"/", WITH_KEY)), "unauthenticated", 401)
    assert (await client.ask(get(b"/", b"X-Api-Key: another"))).status == 200
    assert running.gateway.generation == 1, "nothing was reloaded"


async def passing(running: Running, kind: str) -> None:
    """Let time pass until something has happened."""
    async with asyncio.timeout(PATIENCE):
        while not any(event.kind == kind for event in running.gateway.events.select()):
            running.clock.advance(INTERVAL / 10)
            await asyncio.sleep(0.01)


async def test_a_reload_takes_other_settings_and_a_broken_file_refuses_it_as_a_whole(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    file = keys_file(tmp_path, entry())
    running = await gateway(up, route={"auth": "partners"}, **policies(file))
    client = await raw(running)
    assert (await client.ask(get(b"/", WITH_KEY))).status == 200
    moved = policies(file, header="X-Other")
    again = load_dict(document(up, tmp_path / "log", route={"auth": "partners"}, **moved))
    await running.gateway.reload(again)
    problem(await client.ask(get(b"/", WITH_KEY)), "unauthenticated", 401)
    assert (await client.ask(get(b"/", b"X-Other: " + KEY))).status == 200
    other = policies(keys_file(tmp_path, entry(), name="other.yaml"))
    wrong = load_dict(document(up, tmp_path / "log", route={"auth": "partners"}, **other))
    keys_file(tmp_path, "id: x", name="other.yaml")  # broken behind the back of the check
    with pytest.raises(ValueError, match=r"other\.yaml:2:5: keys\[0\]: sha256 is missing"):
        await running.gateway.reload(wrong)
    assert (await client.ask(get(b"/", b"X-Other: " + KEY))).status == 200


async def test_what_hash_key_prints_lets_curl_in(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    made = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "hash-key", "--consumer", "acme", "--scopes", "orders"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    shown = (await made.communicate())[0].decode()
    [key] = [line.strip() for line in shown.splitlines() if line.startswith("    gw_")]
    (tmp_path / "keys.yaml").write_text("keys:\n" + shown[shown.index("  - id") :])
    up = await origin()
    running = await gateway(
        up,
        route={"auth": "partners", "allow": {"scopes": ["orders"]}},
        **policies(str(tmp_path / "keys.yaml")),
    )
    url = f"http://{running.address}/"
    for words, status in ((("-H", f"X-Api-Key: {key}"), b"200"), ((), b"401")):
        curl = await asyncio.create_subprocess_exec(
            *(need("curl"), "-sS", "-o", "/dev/null", "-w", "%{http_code}", *words, url),
            stdout=subprocess.PIPE,
        )
        assert (await curl.communicate())[0] == status
