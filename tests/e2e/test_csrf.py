"""`csrf`, through a whole gateway; `test_in_a_browser` asks a real browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.e2e.conformance.conftest import get, post, problem
from tests.e2e.test_oidc import configuration
from tests.kit.login import Browser, Provider
from tests.kit.origin import reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin


@pytest_asyncio.fixture
async def provider(_world: Any) -> AsyncIterator[Provider]:
    async with Provider() as made:
        yield made


@pytest_asyncio.fixture
async def browser(_world: Any) -> AsyncIterator[Browser]:
    async with Browser() as made:
        yield made


async def test_what_another_site_begins_is_refused_before_the_upstream_is_asked(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    running = await gateway(up, route={"csrf": "on"})
    client = await raw(running)
    problem(await client.ask(post(b"Sec-Fetch-Site: cross-site")), "forbidden", 403)
    problem(await client.ask(post(b"Origin: https://evil.test")), "forbidden", 403)
    assert not up.requests
    assert (await client.ask(post(b"Origin: https://a.test"))).status == 200
    assert (await client.ask(post())).status == 200
    assert (await client.ask(get(b"/", b"Sec-Fetch-Site: cross-site"))).status == 200
    assert running.metric("gateway_errors_total", reason="forbidden") == 2


async def test_a_websocket_of_another_site_is_refused(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up, route={"csrf": "on"}))
    handshake = (
        b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Origin: https://evil.test",
    )  # fmt: skip
    problem(await client.ask(get(b"/", *handshake)), "forbidden", 403)
    assert not up.requests


async def test_origins_of_cors_with_credentials_are_trusted(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    cors = {"origins": ["https://app.test"], "methods": ["POST"], "credentials": True}
    client = await raw(await gateway(await origin(), route={"csrf": "on", "cors": cors}))
    cross = b"Sec-Fetch-Site: cross-site"
    answer = await client.ask(post(b"Origin: https://app.test", cross))
    assert answer.status == 200
    assert answer.get("access-control-allow-credentials") == b"true"
    problem(await client.ask(post(b"Origin: https://evil.test", cross)), "forbidden", 403)


@pytest.mark.parametrize(
    ("written", "status"), [({}, 403), ({"csrf": "on"}, 403), ({"csrf": "off"}, 200)]
)
async def test_sessions_of_a_login_are_protected_unless_it_is_off(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider,
    written: dict[str, str], status: int,
) -> None:  # fmt: skip
    config = configuration(provider.url, await origin())
    config["routes"][0] |= written
    running = await gateway(config)
    app = f"http://{running.address}/app/"
    assert (await browser.go(app)).status == 200
    assert (await browser.ask(app, "POST", Sec_Fetch_Site="cross-site")).status == status
    assert (await browser.ask(app, "POST", Sec_Fetch_Site="same-origin")).status == 200
    assert (await browser.ask(app, Sec_Fetch_Site="cross-site")).status == 200


async def test_a_key_beside_a_login_is_no_cookie_and_needs_no_protection(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider
) -> None:
    service = await origin(reply(b"", b"X-User: robot"))
    config = configuration(provider.url, await origin())
    config["auth"]["sso"] = {"forward_auth": {"url": service.url, "copy": ["X-User"]}}
    config["routes"][0]["auth"] = ["login", "sso"]
    running = await gateway(config)
    answer = await browser.ask(
        f"http://{running.address}/app/",
        "POST",
        Authorization="Bearer t",
        Sec_Fetch_Site="cross-site",
    )
    assert answer.status == 200
