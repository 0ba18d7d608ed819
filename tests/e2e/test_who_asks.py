"""What goes by who asks: the target (`balance: hash:{consumer}`, `hash:{claim.x}`) and the branch (`sticky_by: consumer`).

Rules of this file: clients are known by their API keys; what they say of themselves says nothing.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from gateway.config import ConfigError, load_dict
from tests.auth.keykit import digest, keys_file
from tests.e2e.conformance.conftest import get
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin
    from tests.kit.running import Running

CLIENTS = 24
"""Consumers, each with two keys."""


def keys(folder: Path) -> str:
    """A file of keys: `key-N-a` and `key-N-b` are consumer `cN`."""
    entries = [
        f'id: k{number}{which}, sha256: "{digest(f"key-{number}-{which}")}", consumer: c{number}'
        for number in range(CLIENTS)
        for which in "ab"
    ]
    return keys_file(folder, *entries)


def guarded(folder: Path, **sections: Any) -> dict[str, Any]:
    return {"auth": {"partners": {"api_key": {"keys_file": keys(folder)}}}, **sections}


async def targets_of(
    raw: MakeClient, running: Running, origins: list[Origin], times: int = 3
) -> dict[int, set[int]]:
    """Which upstreams each consumer's requests have reached."""
    found: dict[int, set[int]] = {}
    client = await raw(running)
    for number in range(CLIENTS):
        for which in "ab" * times:
            before = [len(origin.requests) for origin in origins]
            key = f"X-Api-Key: key-{number}-{which}".encode()
            spoof = b"X-Consumer: c%d" % (number + 1)
            assert (await client.ask(get(b"/", key, spoof))).status == 200
            after = [len(origin.requests) for origin in origins]
            [reached] = [at for at, count in enumerate(after) if count > before[at]]
            found.setdefault(number, set()).add(reached)
        client = await raw(running)
    return found


async def test_a_consumer_has_its_target_whichever_of_its_keys_it_uses(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    origins = [await origin() for _ in range(3)]
    upstream = {"targets": [one.url for one in origins], "balance": "hash:{consumer}"}
    route = {"name": "all", "path": "/*", "to": "up", "auth": "partners"}
    config = guarded(tmp_path, routes=[route], upstreams={"up": upstream})
    found = await targets_of(raw, await gateway(config), origins)
    assert all(len(reached) == 1 for reached in found.values())
    assert set.union(*found.values()) == {0, 1, 2}


async def test_a_claim_may_say_which_target(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    origins = [await origin() for _ in range(3)]
    upstream = {"targets": [one.url for one in origins], "balance": "hash:{claim.id}"}
    route = {"name": "all", "path": "/*", "to": "up", "auth": "partners"}
    config = guarded(tmp_path, routes=[route], upstreams={"up": upstream})
    running = await gateway(config)
    found: dict[str, set[int]] = {}
    client = await raw(running)
    for number in range(CLIENTS):
        for which in "ab" * 3:
            before = [len(one.requests) for one in origins]
            key = f"X-Api-Key: key-{number}-{which}".encode()
            assert (await client.ask(get(b"/", key))).status == 200
            reached = {at for at, one in enumerate(origins) if len(one.requests) > before[at]}
            found.setdefault(f"{number}{which}", set()).update(reached)
    assert all(len(reached) == 1 for reached in found.values())
    pairs = [(found[f"{number}a"], found[f"{number}b"]) for number in range(CLIENTS)]
    assert any(one != other for one, other in pairs), "keys of one consumer have ids of their own"


@pytest.mark.parametrize("same", [True, False])
async def test_a_consumer_stays_with_its_branch_of_a_split(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path, same: bool
) -> None:
    """Also where the branches have settings of their own, so that one is drawn before anything is forwarded."""
    origins = [await origin(), await origin()]
    split = [
        {"upstream": "stable", "weight": 1},
        {"upstream": "next", "weight": 1, "sticky_by": "consumer"},
    ]
    route = {"name": "all", "path": "/*", "split": split, "auth": "partners"}
    upstreams: dict[str, Any] = {
        name: {"targets": [one.url]} for name, one in zip(("stable", "next"), origins, strict=True)
    }
    if not same:
        upstreams["next"]["timeouts"] = {"total": "7s"}
    config = guarded(tmp_path, routes=[route], upstreams=upstreams)
    running = await gateway(config)
    found = await targets_of(raw, running, origins)
    assert all(len(reached) == 1 for reached in found.values())
    assert set.union(*found.values()) == {0, 1}
    split[0]["weight"], split[1]["weight"] = 1, 1000
    here = {"listeners": [{"bind": "127.0.0.1:0"}], "admin": "off"}
    await running.gateway.reload({**here, **config})
    grown = await targets_of(raw, running, origins, times=1)
    assert all(grown[number] == {1} for number, reached in found.items() if reached == {1})


async def test_the_log_tells_a_claim_that_it_is_asked_for(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    file = tmp_path / "access.log"
    fields = {"add": {"key": "{claim.id}", "who": "{consumer}"}}
    routes = [
        {"name": "known", "path": "/known", "to": up.url, "auth": "partners"},
        {"name": "open", "path": "/open", "to": up.url},
    ]
    observability = {"access_log": {"file": str(file), "fields": fields}}
    running = await gateway(guarded(tmp_path, routes=routes), observability=observability)
    client = await raw(running)
    await client.ask(get(b"/known", b"X-Api-Key: key-3-b"))
    await client.ask(get(b"/open"))
    async with asyncio.timeout(PATIENCE):
        while not file.exists() or len(lines := file.read_text().splitlines()) < 2:
            await asyncio.sleep(0.01)
    known, unknown = map(json.loads, lines)
    assert (known["key"], known["who"], known["consumer"]) == ("k3b", "c3", "c3")
    assert not unknown["key"]
    assert not unknown["who"]


@pytest.mark.parametrize("where", ["balance", "split", "header", "log"])
def test_where_nobody_is_known_nothing_can_go_by_who_asks(tmp_path: Path, where: str) -> None:
    route: dict[str, Any] = {"name": "open", "path": "/*", "to": "up"}
    upstream: dict[str, Any] = {"targets": ["http://127.0.0.1:1"]}
    known: dict[str, Any] = {"name": "known", "path": "/known", "to": "up", "auth": "partners"}
    observability: dict[str, Any] = {}
    if where == "balance":
        upstream["balance"] = "hash:{consumer}"
    elif where == "split":
        del route["to"]
        route["split"] = [{"upstream": "up", "weight": 1, "sticky_by": "claim.sub"}]
    elif where == "header":
        route["headers"] = {"request": {"set": {"X-User": "{consumer}"}}}
    else:
        observability = {"access_log": {"fields": {"add": {"who": "{claim.sub}"}}}}
        del known["auth"]
    config = {"upstreams": {"up": upstream}, "observability": observability}
    with pytest.raises(ConfigError, match="there is no `auth` here, so nobody is known"):
        load_dict({**guarded(tmp_path), **config, "routes": [known, route]})
    route["auth"] = known["auth"] = "partners"
    load_dict({**guarded(tmp_path), **config, "routes": [known, route]})
