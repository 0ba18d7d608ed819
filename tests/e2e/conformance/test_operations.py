"""http.md 104 to 109, as far as it is built: who reaches what, and what is said of it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conformance.conftest import get

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.e2e.conformance.conftest import Through

ADMIN = [
    b"/metrics",
    b"/health",
    b"/health/live",
    b"/health/ready",
    b"/config",
    b"/routes",
    b"/upstreams",
    b"/explain",
]


@pytest.mark.parametrize("path", ADMIN)
async def test_104_the_admin_listeners_pages_are_not_on_the_listeners(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, path: bytes
) -> None:
    up = await origin()
    running = await gateway(up, admin={"bind": "127.0.0.1:0"})
    client = await raw(running)
    assert (await client.ask(get(path))).body == b"ok"  # the upstream's
    assert up.only.target == path
    host = running.admin.encode()
    assert (await client.ask(get(path, host=host))).body == b"ok"
    assert (await client.ask(get(b"http://" + host + path))).body == b"ok"


async def test_104_without_a_route_there_is_nothing(gateway: MakeGateway, raw: MakeClient) -> None:
    route = {"path": "/x", "respond": {"status": 200, "body": "x"}}
    client = await raw(await gateway({"routes": [route]}, admin={"bind": "127.0.0.1:0"}))
    for path in ADMIN:
        assert (await client.ask(get(path))).status == 404


async def test_105_control_characters_are_escaped_in_the_log(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    running = await gateway(await origin())
    client = await raw(running)
    await client.ask(
        get(
            b"/a%0d%0aevil?x=%1b[31m",
            b"User-Agent: \xc2\x85\xe2\x80\xa8\xff\t",
            b"Referer: \xc2\x9b",
        )
    )
    await running.log()
    text = (tmp_path / "access-0.log").read_bytes()
    assert text.count(b"\n") == 1
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", text)
    for unprintable in (b"\xc2\x85", b"\xe2\x80\xa8", b"\xc2\x9b"):
        assert unprintable not in text
    json.loads(text)


async def test_105_control_characters_are_escaped_in_the_combined_log(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    log = tmp_path / "combined.log"
    running = await gateway(
        await origin(), observability={"access_log": {"format": "combined", "file": str(log)}}
    )
    client = await raw(running)
    await client.ask(get(b'/a"b', b'User-Agent: "x\xff', b"Referer: a\tb"))
    await running.gateway.__aexit__(None, None, None)
    text = log.read_bytes()
    assert text.count(b"\n") == 1
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f-\xff]", text)


async def test_105_secrets_are_not_logged(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    log = tmp_path / "secret.log"
    fields = {
        "add": {"a": "{header.authorization}", "c": "{header.cookie}"},
        "mask": ["query.token"],
    }
    running = await gateway(
        await origin(), observability={"access_log": {"file": str(log), "fields": fields}}
    )
    client = await raw(running)
    lines = [b"Authorization: Bearer s3cret", b"Cookie: s=s3cret", b"Proxy-Authorization: s3cret"]
    await client.ask(get(b"/x?token=s3cret&a=1", *lines))
    await running.gateway.__aexit__(None, None, None)
    text = log.read_text()
    assert "s3cret" not in text
    assert json.loads(text)["path"] == "/x"


def test_106_an_unknown_key_is_refused_with_its_place() -> None:
    from gateway.config import ConfigError, load_text

    with pytest.raises(ConfigError, match=r"gateway\.yaml:2:\d+: .*did you mean|pathh"):
        load_text("routes:\n  - pathh: /*\n    to: http://127.0.0.1:1\n")


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['true']",
        "!!python/name:os.system",
        "!!python/object:object {}",
    ],
)
def test_106_yaml_can_not_make_objects(text: str) -> None:
    from gateway.config import ConfigError, load_text

    with pytest.raises(ConfigError):
        load_text(f"routes:\n  - path: /*\n    to: {text}\n")


async def test_106_a_reload_is_atomic(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    from gateway.config import ConfigError, load_dict

    running = await gateway(await origin())
    client = await raw(running)
    before = running.gateway.generation
    with pytest.raises(ConfigError):
        await running.gateway.reload(load_dict({"routes": [{"path": "/x", "too": "y"}]}))
    assert running.gateway.generation == before
    assert (await client.ask(get())).body == b"ok"


@pytest.mark.parametrize("claimed", [b"10.0.0.1", b"127.0.0.2", b"10.0.0.1, 10.0.0.2"])
async def test_108_rules_for_addresses_see_the_trusted_address_only(
    gateway: MakeGateway, raw: MakeClient, claimed: bytes
) -> None:
    routes = [
        {"name": "in", "path": "/*", "when": {"client_ip": ["10.0.0.0/8", "127.0.0.2/32"]},
         "respond": {"status": 200, "body": "in"}},
        {"name": "out", "path": "/*", "respond": {"status": 403, "body": "out"}},
    ]  # fmt: skip
    client = await raw(await gateway({"routes": routes}))
    lines = [b"X-Forwarded-For: " + claimed, b"X-Real-IP: " + claimed, b"Forwarded: for=" + claimed]
    for line in (*lines, b"Client-IP: " + claimed, b"True-Client-IP: " + claimed):
        assert (await client.ask(get(b"/", line))).body == b"out"


ODD_IDS = [
    b"a b",
    b"",
    b"x" * 129,
    b"<script>",
    b"a\tb",
    b"caf\xc3\xa9",
    b'"',
    b"a,b",
    b"{client_ip}",
]


@pytest.mark.parametrize("given", ODD_IDS)
async def test_109_a_request_id_is_taken_only_if_it_is_well_formed(
    through: Through, given: bytes
) -> None:
    got = await through(
        get(b"/", b"X-Request-Id: " + given), server={"trusted_proxies": ["127.0.0.1"]}
    )
    assert re.fullmatch(rb"[0-9a-f]{32}", got.sent.get("x-request-id") or b"")
    assert got.response.get("x-request-id") == got.sent.get("x-request-id")


@pytest.mark.parametrize("given", [b"abc-123", b"A._~+/=-9", b"x" * 128])
async def test_109_a_well_formed_one_of_a_trusted_proxy_is_kept(
    through: Through, given: bytes
) -> None:
    line = b"X-Request-Id: " + given
    got = await through(get(b"/", line), server={"trusted_proxies": ["127.0.0.1"]})
    assert got.sent.get("x-request-id") == given
    assert got.response.get("x-request-id") == given
    assert (await got.gateway.log())[0]["request_id"] == given.decode()


async def test_109_one_of_an_untrusted_client_is_replaced(through: Through) -> None:
    got = await through(get(b"/", b"X-Request-Id: forged", b"x-request-id: twice"))
    assert re.fullmatch(rb"[0-9a-f]{32}", got.sent.get("x-request-id") or b"")


async def test_109_two_ids_of_a_trusted_proxy_never_become_two(through: Through) -> None:
    lines = [b"X-Request-Id: one", b"X-Request-Id: two"]
    got = await through(get(b"/", *lines), server={"trusted_proxies": ["127.0.0.1"]})
    assert len(got.sent.all("x-request-id")) == 1
