"""Basic authentication, through a whole gateway: files of the real htpasswd, curl as client."""

from __future__ import annotations

import asyncio
import json
import subprocess
from typing import TYPE_CHECKING, Any

import argon2
import pytest

from gateway.auth.files import INTERVAL
from gateway.config import ConfigError
from tests.auth.keykit import basic
from tests.e2e.conformance.conftest import get, problem
from tests.e2e.test_api_keys import decided, passing
from tests.kit.programs import need

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.running import Running


def htpasswd(file: Path, user: str, password: str, *options: str) -> str:
    """Write a line with the real thing."""
    create = () if file.exists() else ("-c",)
    words = (need("htpasswd"), "-b", *create, *options, str(file), user, password)
    subprocess.run(words, check=True, capture_output=True)
    return str(file)


def policies(file: str, **settings: Any) -> dict[str, Any]:
    return {"auth": {"legacy": {"basic": {"htpasswd": file, **settings}}}}


def bearing(user: str, password: str) -> bytes:
    name, value = basic(user, password)
    return f"{name}: {value}".encode()


async def curl(running: Running, *words: str) -> bytes:
    """The status that curl is given."""
    made = await asyncio.create_subprocess_exec(
        *(need("curl"), "-sS", "-o", "/dev/null", "-w", "%{http_code}", *words),
        f"http://{running.address}/",
        stdout=subprocess.PIPE,
    )
    return (await made.communicate())[0]


async def test_users_of_a_real_file_are_let_in_whatever_its_hashes(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    file = tmp_path / "htpasswd"
    htpasswd(file, "ann", "ännann", "-B", "-C", "4")
    htpasswd(file, "bob", "bobbob", "-m")
    with file.open("a") as stream:
        stream.write(f"cid:{argon2.PasswordHasher(1, 8, 1).hash('cidcid')}\n")
    running = await gateway(
        up, route={"auth": "legacy"}, **policies(str(file), forward={"X-User": "{consumer}"})
    )
    client = await raw(running)
    for user, password in (("ann", "ännann"), ("bob", "bobbob"), ("cid", "cidcid")):
        for _ in range(2):
            answer = await client.ask(get(b"/", bearing(user, password), b"X-User: root"))
            assert answer.status == 200
            assert up.requests[-1].all("x-user") == [user.encode()]
            assert up.requests[-1].get("authorization") is None
        assert await curl(running, "-u", f"{user}:{password}") == b"200"
        assert await curl(running, "-u", f"{user}:{password}x") == b"401"
    assert {line["consumer"] for line in await running.log(6)} >= {"ann"}
    await decided(running, "ok", 9, "legacy")
    await decided(running, "unknown_key", 3, "legacy")


async def test_a_client_without_a_password_is_asked_for_one(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    file = htpasswd(tmp_path / "htpasswd", "ann", "annann", "-B", "-C", "4")
    running = await gateway(up, route={"auth": "legacy"}, **policies(file, realm="old things"))
    client = await raw(running)
    challenge = b'Basic realm="old things", charset="UTF-8"'
    bodies = set()
    for fields in (
        (),
        (bearing("ann", "x"),),
        (bearing("eve", "x"),),
        (b"Authorization: Basic ?",),
    ):
        answer = await client.ask(get(b"/", *fields))
        problem(answer, "unauthenticated", 401)
        assert answer.all("www-authenticate") == [challenge]
        bodies.add(json.dumps({**json.loads(answer.body), "request_id": ""}))
    assert len(bodies) == 1
    assert await curl(running, "--anyauth", "-u", "ann:annann") == b"200"
    await decided(running, "malformed", 1, "legacy")


async def test_credentials_go_on_where_a_route_says_so(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    file = htpasswd(tmp_path / "htpasswd", "ann", "annann", "-B", "-C", "4")
    route = {"auth": "legacy", "forward_credentials": True}
    client = await raw(await gateway(up, route=route, **policies(file)))
    assert (await client.ask(get(b"/", bearing("ann", "annann")))).status == 200
    assert up.only.get("authorization") == bearing("ann", "annann").partition(b": ")[2]


async def test_a_password_that_is_changed_counts_within_seconds(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    file = tmp_path / "htpasswd"
    htpasswd(file, "ann", "annann", "-B", "-C", "4")
    running = await gateway(up, route={"auth": "legacy"}, **policies(str(file)))
    client = await raw(running)
    assert (await client.ask(get(b"/", bearing("ann", "annann")))).status == 200
    htpasswd(file, "ann", "another", "-B", "-C", "4")
    await passing(running, "auth_file_reloaded")
    problem(await client.ask(get(b"/", bearing("ann", "annann"))), "unauthenticated", 401)
    assert (await client.ask(get(b"/", bearing("ann", "another")))).status == 200
    assert INTERVAL <= 2


async def test_while_a_slow_hash_is_computed_others_are_served(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    file = htpasswd(tmp_path / "htpasswd", "ann", "annann", "-B", "-C", "12")
    routes = [
        {"path": "/open", "to": up.url},
        {"path": "/*", "to": up.url, "auth": "legacy"},
    ]
    running = await gateway({"routes": routes, **policies(file)})
    slow, other = await raw(running), await raw(running)
    await slow.send(get(b"/", bearing("ann", "annann")))
    served = 0
    async with asyncio.timeout(10):
        while not any(request.target == b"/" for request in up.requests):
            assert (await other.ask(get(b"/open"))).status == 200
            served += 1
    assert served > 3, "a hash of that cost takes a quarter of a second"
    assert (await slow.response()).status == 200


@pytest.mark.parametrize("option", ["-s", "-d", "-p"])
async def test_a_file_with_hashes_that_are_no_defence_is_refused_at_the_start(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path, option: str
) -> None:
    file = htpasswd(tmp_path / "htpasswd", "ann", "annann12", option)
    up = await origin()
    with pytest.raises(ConfigError, match=r"htpasswd:1:5: .*htpasswd -B") as refused:
        await gateway(up, route={"auth": "legacy"}, **policies(file))
    assert (tmp_path / "htpasswd").read_text().strip().partition(":")[2] not in str(refused.value)
