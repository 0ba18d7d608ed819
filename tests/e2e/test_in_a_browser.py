"""Logins and `csrf`, with a real browser: what its rules for cookies and origins make of ours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest_asyncio
from aiohttp import web

from tests.e2e.test_oidc import configuration
from tests.kit import secure
from tests.kit.chromium import visit
from tests.kit.login import Provider
from tests.kit.origin import reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.conftest import MakeGateway, MakeOrigin


@pytest_asyncio.fixture
async def provider(_world: Any) -> AsyncIterator[Provider]:
    async with Provider() as made:
        yield made


def elsewhere(provider: Provider) -> str:
    """Have it speak of itself as `localhost`: for a browser that is another site than 127.0.0.1."""
    issuer = provider.url.replace("127.0.0.1", "localhost")
    provider.announces |= {
        "issuer": issuer,
        "jwks_uri": f"{issuer}keys",
        "token_endpoint": f"{issuer}token",
        "authorization_endpoint": f"{issuer}authorize",
        "end_session_endpoint": f"{issuer}end",
    }
    provider.lies = {"iss": issuer}
    return issuer


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


async def test_a_real_browser_logs_in_is_known_again_and_another_sites_form_does_nothing(
    origin: MakeOrigin, gateway: MakeGateway, provider: Provider, tmp_path: Path
) -> None:
    up = await origin(reply(b"<p>hello from the app</p>", b"Content-Type: text/html"))
    # The provider is another site than the gateway: its answer is a navigation from elsewhere.
    issuer = elsewhere(provider)
    running = await gateway(configuration(issuer, up))
    app = f"http://{running.address}/app/"
    folder = tmp_path / "browser"
    assert "hello from the app" in await visit(folder, app)
    assert provider.asked["/authorize"] == 1
    assert up.requests[-1].get("x-user") == b"ann"
    assert "hello from the app" in await visit(folder, app)
    assert provider.asked["/authorize"] == 1
    before = len(up.requests)
    async with Evil() as evil:
        evil.target = app
        page = await visit(folder, evil.url)
    assert '"reason": "unauthenticated"' in page  # the cookie has not even come: SameSite
    assert len(up.requests) == before


async def test_a_real_browser_says_itself_that_another_site_has_begun_it(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    up = await origin(reply(b"done", b"Content-Type: text/html"))
    running = await gateway(up, route={"csrf": "on"})
    async with Evil() as evil:
        evil.target = f"http://{running.address}/"
        page = await visit(tmp_path / "browser", evil.url)
        assert json.loads(page[page.index("{") : page.rindex("}") + 1])["reason"] == "forbidden"
        assert not [one for one in up.requests if one.head.startswith(b"POST")]
        evil.method = "get"
        assert "done" in await visit(tmp_path / "browser", evil.url)


async def test_a_real_browser_keeps_the_cookies_of_https_that_are_bound_to_the_host(
    origin: MakeOrigin, gateway: MakeGateway, provider: Provider, tmp_path: Path
) -> None:
    up = await origin(reply(b"<p>hello from the app</p>", b"Content-Type: text/html"))
    config = configuration(elsewhere(provider), up)
    config["routes"][0]["forward_credentials"] = True
    certificate = secure.issue(tmp_path, "127.0.0.1")
    config["listeners"] = [{"bind": "127.0.0.1:0", "tls": {"certificates": [certificate]}}]
    running = await gateway(config)
    app, folder = f"https://{running.address}/app/", tmp_path / "browser"
    for _ in range(2):
        assert "hello from the app" in await visit(folder, app, "--ignore-certificate-errors")
        assert (up.requests[-1].get("cookie") or b"").startswith(b"__Host-gw=")
    assert provider.asked["/authorize"] == 1


async def test_a_real_browser_is_led_out_of_the_login_with_a_strict_cookie(
    origin: MakeOrigin, gateway: MakeGateway, provider: Provider, tmp_path: Path
) -> None:
    up = await origin(reply(b"<p>hello from the app</p>", b"Content-Type: text/html"))
    settings = {"cookie": "gw", "same_site": "strict"}
    running = await gateway(configuration(elsewhere(provider), up, session=settings))
    page = await visit(tmp_path / "browser", f"http://{running.address}/app/")
    assert "hello from the app" in page
    assert provider.asked["/authorize"] == 1
