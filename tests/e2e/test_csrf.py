"""`csrf`, through a whole gateway, and by a real browser."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import web

from tests.e2e.conformance.conftest import get, post, problem
from tests.e2e.test_oidc import configuration
from tests.kit.login import Browser, Provider
from tests.kit.origin import reply
from tests.kit.programs import need
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin


@pytest_asyncio.fixture
async def provider(_world: Any) -> AsyncIterator[Provider]:
    async with Provider() as made:
        yield made


@pytest_asyncio.fixture
async def browser(_world: Any) -> AsyncIterator[Browser]:
    async with Browser() as made:
        yield made


# ── by hand ──


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


# ── by Chromium ──


class Evil:
    """A page of another site, which sends a form to where it is told."""

    def __init__(self) -> None:
        self.target = ""
        self.method = "post"
        self.runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Evil:
        application = web.Application()
        application.router.add_get("/", self.page)
        self.runner = web.AppRunner(application)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        # `localhost` and 127.0.0.1 are two sites for a browser.
        self.url = f"http://localhost:{self.runner.addresses[0][1]}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.runner is not None
        await self.runner.cleanup()

    async def page(self, _: web.Request) -> web.Response:
        form = (
            f'<form method="{self.method}" action="{self.target}"><input name="a" value="b"></form>'
        )
        return web.Response(
            text=f"<!doctype html>{form}<script>document.forms[0].submit()</script>",
            content_type="text/html",
        )


async def chromium(folder: Path, url: str) -> str:
    """What the page that a real browser ends at says; its cookies stay in `folder`."""
    process = await asyncio.create_subprocess_exec(
        need("chromium"), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--virtual-time-budget=20000", f"--user-data-dir={folder}", "--dump-dom", url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(4 * PATIENCE):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return out.decode()


async def test_a_real_browser_logs_in_is_known_again_and_another_sites_form_does_nothing(
    origin: MakeOrigin, gateway: MakeGateway, provider: Provider, tmp_path: Path
) -> None:
    up = await origin(reply(b"<p>hello from the app</p>", b"Content-Type: text/html"))
    # The provider is another site than the gateway: its answer is a navigation from elsewhere.
    issuer = provider.url.replace("127.0.0.1", "localhost")
    provider.announces |= {
        "issuer": issuer,
        "jwks_uri": f"{issuer}keys",
        "token_endpoint": f"{issuer}token",
        "authorization_endpoint": f"{issuer}authorize",
        "end_session_endpoint": f"{issuer}end",
    }
    provider.lies = {"iss": issuer}
    running = await gateway(configuration(issuer, up))
    app = f"http://{running.address}/app/"
    folder = tmp_path / "browser"
    assert "hello from the app" in await chromium(folder, app)
    assert provider.asked["/authorize"] == 1
    assert up.requests[-1].get("x-user") == b"ann"
    assert "hello from the app" in await chromium(folder, app)
    assert provider.asked["/authorize"] == 1
    before = len(up.requests)
    async with Evil() as evil:
        evil.target = app
        page = await chromium(folder, evil.url)
    assert '"reason": "unauthenticated"' in page  # the cookie has not even come: SameSite
    assert len(up.requests) == before


async def test_a_real_browser_says_itself_that_another_site_has_begun_it(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    up = await origin(reply(b"done", b"Content-Type: text/html"))
    running = await gateway(up, route={"csrf": "on"})
    async with Evil() as evil:
        evil.target = f"http://{running.address}/"
        page = await chromium(tmp_path / "browser", evil.url)
        assert json.loads(page[page.index("{") : page.rindex("}") + 1])["reason"] == "forbidden"
        assert not [one for one in up.requests if one.head.startswith(b"POST")]
        evil.method = "get"
        assert "done" in await chromium(tmp_path / "browser", evil.url)
