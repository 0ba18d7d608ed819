"""What an upstream, or another host, is told of a client, where two parts of a configuration have a say in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.auth.keykit import digest, keys_file
from tests.e2e.conformance.conftest import get

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin

KEY = "gw_0123456789abcdefghijklmnopqrstuvwxyz"
FIELD = b"X-Api-Key: " + KEY.encode()


def keys(folder: Path, **settings: Any) -> dict[str, Any]:
    listed = keys_file(folder, f'id: k1, sha256: "{digest(KEY)}", consumer: acme')
    return {"k": {"api_key": {"keys_file": listed, **settings}}}


@pytest.mark.parametrize(
    ("edits", "user", "role"),
    [
        ({"set": {"X-User": "someone"}}, [b"someone"], [b"acme"]),
        ({"set": {"x-user": "{header.x-none}"}}, [], [b"acme"]),
        ({"set": {"X-User": "{consumer}!"}}, [b"acme!"], [b"acme"]),
        ({"remove": ["X-User"]}, [], [b"acme"]),
        ({"remove": ["X-USER", "X-Role"]}, [], []),
        ({"set": {"X-Other": "1"}}, [b"acme"], [b"acme"]),
    ],
)
async def test_a_field_of_an_identity_that_the_route_sets_or_removes_is_the_routes(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path,
    edits: dict[str, Any], user: list[bytes], role: list[bytes],
) -> None:  # fmt: skip
    up = await origin()
    forward = {"X-User": "{consumer}", "X-Role": "{consumer}"}
    running = await gateway(
        up,
        route={"auth": "k", "headers": {"request": edits}},
        auth=keys(tmp_path, forward=forward),
    )
    client = await raw(running)
    for _ in range(2):  # the second one's fields are remembered
        assert (await client.ask(get(b"/", FIELD, b"X-User: root"))).status == 200
        assert up.requests[-1].all("x-user") == user
        assert up.requests[-1].all("x-role") == role
        assert b"root" not in up.requests[-1].head


@pytest.mark.parametrize(
    ("edits", "forward", "left"),
    [
        ({}, {}, [b"a=1"]),
        ({"remove": ["Cookie"]}, {}, []),
        ({"set": {"Cookie": "b=2"}}, {}, [b"b=2"]),
        ({}, {"Cookie": "user={consumer}"}, [b"user=acme"]),
        ({"remove": ["Cookie"]}, {"Cookie": "user={consumer}"}, []),
    ],
)
async def test_cookies_that_the_route_or_the_policy_writes_are_not_the_clients(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path,
    edits: dict[str, Any], forward: dict[str, str], left: list[bytes],
) -> None:  # fmt: skip
    up = await origin()
    running = await gateway(
        up,
        route={"auth": "k", "headers": {"request": edits}},
        auth=keys(tmp_path, cookie="sid", forward=forward),
    )
    client = await raw(running)
    cookies = b"Cookie: a=1; sid=" + KEY.encode()
    assert (await client.ask(get(b"/", cookies))).status == 200
    assert up.only.all("cookie") == left


@pytest.mark.parametrize("underscores", ["drop", "keep"])
@pytest.mark.parametrize("name", ["X_User", "X-User_Id", "X-User-Id"])
async def test_a_field_that_an_identity_writes_can_not_be_forged_with_hyphens_for_underscores(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path,
    name: str, underscores: str,
) -> None:  # fmt: skip
    up = await origin()
    auth = keys(tmp_path, forward={name: "{consumer}"})
    running = await gateway(
        {
            "auth": auth,
            "server": {"underscore_headers": underscores},
            "routes": [
                {"path": "/shut", "to": up.url, "auth": "k"},
                {"path": "/open", "to": up.url},
            ],
        }
    )
    client = await raw(running)
    spelt = (name, name.replace("_", "-"), name.replace("-", "_"), name.lower(), "X_User-Id")
    forged = [f"{one}: root".encode() for one in spelt]
    if name == "X_User":
        forged.pop()
    for path in (b"/shut", b"/open"):
        assert (await client.ask(get(path, FIELD, *forged))).status == 200
        assert b"root" not in up.requests[-1].head
    assert up.requests[0].all(name.lower()) == [b"acme"]


@pytest.mark.parametrize("to", ["https://other.test/b", "/b", "{path}/b"])
async def test_a_redirect_does_not_carry_a_key_to_another_host(
    gateway: MakeGateway, raw: MakeClient, tmp_path: Path, to: str
) -> None:
    redirect = {"path": "/a", "redirect": {"to": to}, "auth": "k"}
    running = await gateway({"auth": keys(tmp_path, query="sig"), "routes": [redirect]})
    client = await raw(running)
    key = KEY.encode()
    for query, left in (
        (b"sig=" + key, b""),
        (b"x=1&s%69g=" + key + b"&y=%20", b"?x=1&y=%20"),
    ):
        answer = await client.ask(get(b"/a?" + query))
        assert answer.status == 308
        assert answer.get("location") == to.replace("{path}", "/a").encode() + left
        assert key not in answer.raw
