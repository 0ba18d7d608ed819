"""Ways around a prefix that asks who somebody is: spellings of its path and of its host, and holes that were to be small.

Rules of this file: the upstream serves whatever reaches it, so what must not be read has to stop at the gateway. Beside the
guarded prefix is a route that lets everybody in, for without one there is nothing to slip through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.auth.keykit import digest, keys_file
from tests.e2e.conformance.conftest import get
from tests.e2e.conformance.test_target import ADMIN_SPELLINGS
from tests.routing.test_paths import SPELLINGS_OF_ADMIN

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin
    from tests.kit.running import Running

KEY = "gw_0123456789abcdefghijklmnopqrstuvwxyz"
WITH_KEY = f"X-Api-Key: {KEY}".encode()
SPELLINGS = sorted({*ADMIN_SPELLINGS, *(one.encode() for one in SPELLINGS_OF_ADMIN)})
INTO_THE_HOLE = [
    b"/admin/health/../x", b"/admin/health/%2e%2e/x", b"/admin/health/..%2fx", b"/admin/health%2f..%2fx",
    b"/admin/health/..;/x", b"/admin/health/..\\x", b"/admin/health/%252e%252e/x", b"/admin/health/./../x",
    b"/admin/health//../../x", b"/admin/health/.;/../x",
]  # fmt: skip


async def guarded(
    gateway: MakeGateway, up: Origin, folder: Path, ambiguous_paths: str = "reject"
) -> Running:
    """`/admin/*` and all of the host vault.test want a key; `/admin/health/*`, `/*` of other hosts want none."""
    keys = keys_file(folder, f'id: k1, sha256: "{digest(KEY)}", consumer: acme')
    routes = [
        {"name": "all", "path": "/*", "to": up.url},
        {"name": "admin", "path": "/admin/*", "to": up.url, "auth": "key"},
        {"name": "health", "path": "/admin/health/*", "to": up.url, "auth": "off"},
        {"name": "vault", "host": "vault.test", "path": "/*", "to": up.url, "auth": "key"},
    ]
    server = {"ambiguous_paths": ambiguous_paths}
    return await gateway({"server": server, "auth": {"key": {"api_key": keys}}, "routes": routes})


@pytest.mark.parametrize("ambiguous_paths", ["reject", "resolve"])
async def test_no_spelling_of_a_guarded_path_gets_in_without_a_key(
    origin: MakeOrigin,
    gateway: MakeGateway,
    raw: MakeClient,
    tmp_path: Path,
    ambiguous_paths: str,
) -> None:
    up = await origin()
    running = await guarded(gateway, up, tmp_path, ambiguous_paths)
    for target in (*SPELLINGS, *INTO_THE_HOLE):
        for method in (b"GET", b"HEAD", b"POST", b"OPTIONS"):
            client = await raw(running)
            got = await client.ask(get(target, method=method))
            client.close()
            if got.status != 200:
                assert got.status in (400, 401), (target, got.raw)
                assert up.requests == [], target
                continue
            # It was resolved to another path, and that one has gone on in place of what came.
            assert ambiguous_paths == "resolve", target
            sent = up.requests.pop().target
            outside = not (sent + b"/").startswith(b"/admin/")
            assert outside or sent.startswith(b"/admin/health/"), (target, sent)
            assert b".." not in sent, (target, sent)


async def test_with_the_key_the_plain_spelling_gets_in_and_the_hole_stays_open(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    client = await raw(await guarded(gateway, up, tmp_path))
    for target, fields, status in (
        (b"/admin/x", (WITH_KEY,), 200),
        (b"/admin/x", (), 401),
        (b"/admin", (), 401),
        (b"/admin/health/x", (), 200),
        (b"/administrator", (), 200),
        (b"/x", (), 200),
    ):
        assert (await client.ask(get(target, *fields))).status == status, target


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (b"/x", b"VAULT.test"),
        (b"/x", b"vault.test."),
        (b"/x", b"vault.test:80"),
        (b"/x", b"vault.TEST.:8080"),
        (b"http://vault.test/x", b"other.test"),
        (b"http://VAULT.TEST./x", b"other.test"),
        (b"http://vault.test:1/x", b"vault.test"),
    ],
)
async def test_no_spelling_of_a_guarded_host_gets_in_without_a_key(
    origin: MakeOrigin,
    gateway: MakeGateway,
    raw: MakeClient,
    tmp_path: Path,
    target: bytes,
    host: bytes,
) -> None:
    up = await origin()
    client = await raw(await guarded(gateway, up, tmp_path))
    assert (await client.ask(get(target, host=host))).status in (400, 401)
    assert up.requests == []


async def test_a_host_that_a_client_says_it_was_asked_for_opens_and_shuts_nothing(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    client = await raw(await guarded(gateway, up, tmp_path))
    for field in (
        b"X-Forwarded-Host: other.test",
        b"Forwarded: host=other.test",
        b"X-Host: other.test",
    ):
        assert (await client.ask(get(b"/x", field, host=b"vault.test"))).status == 401, field
    for field in (b"X-Original-URL: /x", b"X-Rewrite-URL: /x", b"X-HTTP-Method-Override: OPTIONS"):
        assert (await client.ask(get(b"/admin/x", field))).status == 401, field
    assert up.requests == []
