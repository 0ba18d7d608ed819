"""`oidc`, through a whole gateway: logging in at a provider, being in, and logging out."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from yarl import URL

from gateway.auth.oidc import AT_ONCE  # here, and not while a test's loop waits for it
from tests.kit.login import CLIENT, SECRET, Browser, Provider, program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import MakeGateway, MakeOrigin
    from tests.kit.origin import Origin
    from tests.kit.running import Running

KEY = "the secret that seals the sessions of this test"


def configuration(issuer: str, up: Origin, **oidc: Any) -> dict[str, Any]:
    """One guarded route, one that also takes a key, and one that is open."""
    login = {
        "issuer": issuer,
        "client_id": CLIENT,
        "client_secret": SECRET,
        "session": {"cookie": "gw", "max_age": "1h"},
        "forward": {"X-User": "{claim.sub}", "X-Mail": "{claim.email}", "X-Who": "{consumer}"},
        **oidc,
    }
    return {
        "server": {"secret": KEY},
        "auth": {"login": {"oidc": login}},
        "routes": [
            {"name": "app", "path": "/app/*", "to": up.url, "auth": "login"},
            {"name": "open", "path": "/open/*", "to": up.url},
        ],
    }


def base(running: Running) -> str:
    return f"http://{running.address}"


@pytest_asyncio.fixture
async def provider(_world: Any) -> AsyncIterator[Provider]:
    async with Provider() as made:
        yield made


@pytest_asyncio.fixture
async def browser(_world: Any) -> AsyncIterator[Browser]:
    async with Browser() as made:
        yield made


# ── a provider that other people have written ──


async def test_a_user_logs_in_at_a_real_provider_is_known_and_logs_out(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser
) -> None:
    up = await origin()
    person = json.dumps({"sub": "ann", "email": "ann@example.com", "groups": ["ops", "dev"]})
    async with program("--user-claims", person) as idp:
        running = await gateway(
            configuration(idp.url, up, scopes=["openid", "email"], consumer="{claim.email}")
        )
        form = await browser.go(f"{base(running)}/app/orders?day=2&x=%2F")
        assert b"Authorize Client" in form.body
        assert str(form.url).startswith(idp.url)
        sent = await browser.ask(form.url, "POST", form={"sub": "ann"})
        assert sent.location.path == "/oauth2/callback"
        back = await browser.ask(sent.location)
        assert (back.status, back.headers["Location"]) == (303, "/app/orders?day=2&x=%2F")
        assert (await browser.ask(back.location)).body == b"ok"
        assert up.only.get("x-user") == b"ann"
        assert up.only.get("x-mail") == b"ann@example.com"
        assert up.only.get("cookie") is None
        assert up.only.get("x-who") == b"ann@example.com"
        out = await browser.ask(f"{base(running)}/oauth2/logout")
        assert str(out.location).startswith(f"{idp.url}/oauth2/end_session?client_id=web&")
        assert out.location.query["post_logout_redirect_uri"] == f"{base(running)}/"
        assert (await browser.ask(f"{base(running)}/app/orders")).status == 303
        assert len(up.requests) == 1


async def test_a_real_provider_takes_no_for_an_answer(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser
) -> None:
    up = await origin()
    async with program() as idp:
        running = await gateway(configuration(idp.url, up))
        form = await browser.go(f"{base(running)}/app/")
        sent = await browser.ask(form.url, "POST", form={"action": "deny"})
        back = await browser.ask(sent.location)
        # It leaves out the state that RFC 6749 section 4.1.2.1 wants, so nobody can tell whose login that is.
        assert back.status in (401, 403)
        assert not up.requests


# ── what a provider is asked ──


async def test_a_login_asks_for_a_code_with_pkce_state_and_nonce(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    first = await browser.ask(f"{base(running)}/app/")
    second = await browser.ask(f"{base(running)}/app/")
    assert first.status == 303
    assert first.headers["Cache-Control"] == "no-store"
    asked, again = first.location.query, second.location.query
    assert str(first.location.with_query(None)) == f"{provider.url}authorize"
    assert asked["response_type"] == "code"
    assert asked["client_id"] == CLIENT
    assert asked["scope"] == "openid"
    assert asked["redirect_uri"] == f"{base(running)}/oauth2/callback"
    assert asked["code_challenge_method"] == "S256"
    for name in ("state", "nonce", "code_challenge"):
        assert len(asked[name]) >= 43
        assert asked[name] != again[name]
    assert "app" not in asked["state"]


async def test_the_code_goes_to_the_token_endpoint_with_verifier_and_client_secret(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    step = await browser.ask(f"{base(running)}/app/")
    challenge = step.location.query["code_challenge"]
    assert (await browser.go(step.location)).body == b"ok"
    (form,) = provider.redeemed
    digest = hashlib.sha256(form["code_verifier"].encode()).digest()
    assert base64.urlsafe_b64encode(digest).decode().rstrip("=") == challenge
    assert form["redirect_uri"] == f"{base(running)}/oauth2/callback"
    assert not provider.refusals


async def test_the_provider_may_take_the_secret_in_the_form_only(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider
) -> None:
    provider.announces["token_endpoint_auth_methods_supported"] = ["client_secret_post"]
    running = await gateway(configuration(provider.url, await origin()))
    await browser.go(f"{base(running)}/app/")
    assert provider.redeemed[0]["client_secret"] == SECRET
    assert provider.redeemed[0]["client_id"] == CLIENT


async def test_what_the_provider_announces_is_read_once_and_kept_while_it_is_down(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    for _ in range(3):
        assert (await browser.ask(f"{base(running)}/app/")).status == 303
    assert provider.asked["/.well-known/openid-configuration"] == 1
    await provider.die()
    running.clock.advance(700)
    assert (await browser.ask(f"{base(running)}/app/")).status == 303


async def test_a_provider_that_makes_no_sense_is_asked_once_a_second(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider
) -> None:
    where = "/.well-known/openid-configuration"
    provider.answers[where] = b"no json"
    running = await gateway(configuration(provider.url, await origin()))
    statuses = {(await browser.ask(f"{base(running)}/app/")).status for _ in range(5)}
    assert statuses == {503}
    assert provider.asked[where] == 1
    del provider.answers[where]
    running.clock.advance(1.1)
    assert (await browser.ask(f"{base(running)}/app/")).status == 303
    assert provider.asked[where] == 2


@pytest.mark.parametrize("waits", ["discovery", "token"])
async def test_a_provider_that_hangs_is_waited_for_once_for_all_and_no_longer_than_written(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider, waits: str
) -> None:
    running = await gateway(configuration(provider.url, await origin(), timeout="3s"))
    asked = [f"{base(running)}/app/"] * 3
    if waits == "token":
        asked = [str((await browser.ask((await browser.ask(asked[0])).location)).location)]
    provider.gate.clear()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(browser.ask(one)) for one in asked]
        await asyncio.sleep(0.2)
        assert not any(task.done() for task in tasks)
        running.clock.advance(3)
    assert {task.result().status for task in tasks} == {503}
    assert provider.asked["/.well-known/openid-configuration"] == 1
    provider.gate.set()


# ── who is led to the provider ──


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("GET", {"Sec_Fetch_Mode": "cors"}),
        ("GET", {"Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"}),
        ("GET", {"Sec_Fetch_Dest": "iframe"}),
        ("GET", {"Sec_Purpose": "prefetch"}),
        ("GET", {"Accept": "application/json"}),
        ("GET", {"Accept": "*/*"}),
        ("GET", {"Upgrade": "websocket", "Connection": "upgrade"}),
        ("POST", {}),
        ("DELETE", {}),
        ("OPTIONS", {}),
    ],
)
async def test_what_is_no_navigation_is_told_401_and_begins_no_login(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider,
    method: str, changes: dict[str, str],
) -> None:  # fmt: skip
    up = await origin()
    running = await gateway(configuration(provider.url, up))
    answer = await browser.ask(f"{base(running)}/app/", method, **changes)
    assert answer.status == 401
    assert json.loads(answer.body)["reason"] == "unauthenticated"
    assert answer.headers["WWW-Authenticate"] == 'Cookie realm="gateway"'
    assert not answer.cookies
    assert not up.requests
    assert not provider.asked
    assert running.metric("gateway_auth_decisions_total", policy="login", outcome="missing") == 1


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_browser_without_fetch_metadata_is_led_to_the_provider(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider, method: str
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    async with browser.session.request(
        method, f"{base(running)}/app/", headers={"Accept": "text/html"}, allow_redirects=False
    ) as answer:
        assert answer.status == 303


async def test_a_program_with_a_session_may_do_anything(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    await browser.go(f"{base(running)}/app/")
    for method in ("GET", "POST", "DELETE"):
        answer = await browser.ask(
            f"{base(running)}/app/", method, Accept="*/*", Sec_Fetch_Mode="cors", Sec_Fetch_Site="same-origin"
        )  # fmt: skip
        assert answer.status == 200


# ── sessions ──


async def test_a_session_lasts_for_max_age_however_much_it_is_used(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    await browser.go(f"{base(running)}/app/")
    for _ in range(5):
        running.clock.advance(700)
        answer = await browser.ask(f"{base(running)}/app/")
        assert answer.status == 200
        assert not answer.cookies
    running.clock.advance(200)
    assert (await browser.ask(f"{base(running)}/app/", Sec_Fetch_Mode="cors")).status == 401
    assert (await browser.ask(f"{base(running)}/app/")).status == 303


async def test_sessions_go_on_while_the_provider_is_down_and_logins_are_503(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider
) -> None:
    up = await origin()
    config = configuration(provider.url, up)
    running = await gateway(config)
    await browser.go(f"{base(running)}/app/")
    await provider.die()
    async with Browser() as other:
        answer = await browser.ask(f"{base(running)}/app/")
        assert answer.status == 200
        # The first gateway knows where the provider is; one that has just come up does not.
        fresh = await gateway(config)
        refused = await other.ask(f"{base(fresh)}/app/")
    assert (refused.status, json.loads(refused.body)["reason"]) == (503, "auth_unavailable")
    assert (
        fresh.metric("gateway_auth_decisions_total", policy="login", outcome="provider_error") == 1
    )
    assert (await browser.ask(f"{base(fresh)}/app/")).status == 200


async def test_over_https_cookies_are_bound_to_the_host(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider
) -> None:
    config = configuration(provider.url, await origin())
    config["server"]["trusted_proxies"] = ["127.0.0.0/8"]
    running = await gateway(config)
    front = {"X_Forwarded_Proto": "https", "X_Forwarded_Host": "app.example.com"}
    begun = await browser.ask(f"{base(running)}/app/", **front)
    assert begun.location.query["redirect_uri"] == "https://app.example.com/oauth2/callback"
    ((name, line),) = begun.cookies.items()
    assert name.startswith("__Host-gw_login_")
    assert "; Secure; HttpOnly; SameSite=Lax" in line
    assert "; Path=/;" in line
    sent = await browser.ask(begun.location)
    callback = URL(base(running)).join(URL(sent.location.raw_path_qs, encoded=True))
    back = await browser.ask(callback, Cookie=line.partition(";")[0], **front)
    assert set(back.cookies) == {name, "__Host-gw"}
    assert back.cookies[name].startswith(f"{name}=; Path=/; Max-Age=0; Secure; ")
    session = back.cookies["__Host-gw"].partition(";")[0]
    assert (await browser.ask(f"{base(running)}/app/", Cookie=session, **front)).status == 200
    # The same value under the name without the prefix, which a neighbour could plant, is none.
    bare = session.removeprefix("__Host-")
    assert (await browser.ask(f"{base(running)}/app/", Cookie=bare, **front)).status == 303


async def test_a_strict_cookie_is_left_by_a_page_and_not_by_a_redirect(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider
) -> None:
    settings = {"cookie": "gw", "same_site": "strict"}
    running = await gateway(configuration(provider.url, await origin(), session=settings))
    page = await browser.go(f"{base(running)}/app/x?a=1&b=2")
    assert page.status == 200
    assert b'content="0;url=/app/x?a=1&amp;b=2"' in page.body
    assert "SameSite=Strict" in page.cookies["gw"]
    assert (await browser.ask(f"{base(running)}/app/x")).body == b"ok"


async def test_several_windows_log_in_at_the_same_time(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    steps = [await browser.ask(f"{base(running)}/app/{number}") for number in range(5)]
    assert len(browser.cookies(base(running))) == 5
    for number, step in enumerate(steps):
        sent = await browser.ask(step.location)
        back = await browser.ask(sent.location)
        assert back.headers["Location"] == f"/app/{number}"
    assert set(browser.cookies(base(running))) == {"gw"}


async def test_however_many_logins_a_browser_begins_it_keeps_few_cookies(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    for number in range(30):
        assert (await browser.ask(f"{base(running)}/app/{number}")).status == 303
    assert len(browser.cookies(base(running))) == AT_ONCE
    assert (await browser.go(f"{base(running)}/app/")).body == b"ok"


async def test_a_login_whose_cookie_was_taken_by_another_window_begins_anew(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    begun = await browser.ask(f"{base(running)}/app/mine")
    browser.session.cookie_jar.clear()
    await browser.ask(f"{base(running)}/app/other")
    sent = await browser.ask(begun.location)
    back = await browser.ask(sent.location)
    assert (back.status, back.headers["Location"]) == (303, "/app/mine")
    assert "gw" not in browser.cookies(base(running))
    assert not provider.redeemed
    assert (await browser.go(back.location)).body == b"ok"


# ── where it is answered ──


async def test_callback_and_logout_are_answered_on_the_hosts_of_the_routes_that_use_them(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider
) -> None:
    config = configuration(provider.url, await origin(), callback="/-/in", logout="/-/out")
    config["routes"][0]["host"] = ["one.test", ".two.test"]
    running = await gateway(config)
    for host, status in (("one.test", 401), ("a.two.test", 401), ("three.test", 404)):
        answer = await browser.ask(f"{base(running)}/-/in", Host=host)
        assert answer.status == status, host
    assert (await browser.ask(f"{base(running)}/-/out", Host="one.test")).status == 303
    assert (await browser.ask(f"{base(running)}/-/in", "POST", Host="one.test")).status == 405
    assert (await browser.ask(f"{base(running)}/oauth2/callback", Host="one.test")).status == 404
    begun = await browser.ask(f"{base(running)}/app/", Host="one.test")
    assert begun.location.query["redirect_uri"] == "http://one.test/-/in"


async def test_logging_out_ends_at_the_provider_or_where_the_configuration_says(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin(), after_logout="/open/bye"))
    await browser.go(f"{base(running)}/app/")
    out = await browser.ask(f"{base(running)}/oauth2/logout", "POST", Sec_Fetch_Site="same-origin")
    assert str(out.location.with_query(None)) == f"{provider.url}end"
    assert out.location.query["post_logout_redirect_uri"] == f"{base(running)}/open/bye"
    assert out.cookies["gw"].startswith("gw=; Path=/; Max-Age=0; HttpOnly")
    assert "gw" not in browser.cookies(base(running))


@pytest.mark.parametrize("down", [True, False])
async def test_logging_out_needs_no_provider(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider, *, down: bool
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    if down:
        await provider.die()
    else:
        del provider.announces["end_session_endpoint"]
    out = await browser.ask(f"{base(running)}/oauth2/logout")
    assert (out.status, out.headers["Location"]) == (303, f"{base(running)}/")
    assert out.cookies["gw"].startswith("gw=;")


async def test_a_provider_that_can_not_serve_now_is_503(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    provider.adds = {"error": "temporarily_unavailable", "code": ""}
    answer = await browser.go(f"{base(running)}/app/")
    assert (answer.status, json.loads(answer.body)["reason"]) == (503, "auth_unavailable")
    provider.adds = {"error": "access_denied", "code": ""}
    answer = await browser.go(f"{base(running)}/app/")
    assert (answer.status, json.loads(answer.body)["reason"]) == (403, "forbidden")
    assert set(answer.cookies.values()) == {
        line for line in answer.cookies.values() if "_login_" in line and "Max-Age=0" in line
    }


async def test_nothing_of_a_login_is_in_the_log(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    await browser.go(f"{base(running)}/app/")
    lines = json.dumps(await running.log(3))
    assert "code=" not in lines
    assert "state=" not in lines
    cookie = browser.cookies(base(running))["gw"]
    assert cookie not in lines
    for form in provider.redeemed:
        assert form["code_verifier"] not in lines


async def test_why_a_login_has_failed_is_told_to_the_operator_now_and_then(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    provider.lies = {"aud": "another"}
    for _ in range(3):
        answer = await browser.go(f"{base(running)}/app/")
        assert answer.status == 401
        assert b"audience" not in answer.body
    running.clock.advance(11)
    await browser.go(f"{base(running)}/app/")
    told = [
        one.why for one in running.gateway.metrics.events.select() if one.kind == "login_failed"
    ]
    assert told == [
        "policy login: the ID token: it is for another audience",
        "policy login: the ID token: it is for another audience; 2 more since the last one",
    ]


async def test_sessions_outlive_a_reload_and_a_new_secret_while_the_old_one_stands_behind_it(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider, tmp_path: Any
) -> None:
    from gateway.config import load_dict
    from tests.kit.running import document

    config = configuration(provider.url, await origin())
    running = await gateway(config)
    app = f"{base(running)}/app/"
    begun = await browser.ask(app)
    for secret, status in (
        (KEY, 200),
        (["a new secret, 0123456789", KEY], 200),
        ("another one, 01234567", 303),
    ):
        config["server"]["secret"] = secret
        await running.gateway.reload(load_dict(document(config, tmp_path / "log")))
        if begun is not None:  # a login that was under way ends under the next configuration
            assert (await browser.go(begun.location)).status == 200
            begun = None  # type: ignore[assignment]
        assert (await browser.ask(app)).status == status


async def test_a_session_keeps_the_claims_that_are_listed_and_those_that_the_policy_needs(
    origin: MakeOrigin, gateway: MakeGateway, browser: Browser, provider: Provider
) -> None:
    up = await origin()
    config = configuration(
        provider.url,
        up,
        session={"cookie": "gw", "claims": ["tenant"]},
        groups="{claim.realm.roles}",
    )
    set_ = {
        "X-Tenant": "{claim.tenant}",
        "X-Phone": "{claim.phone}",
        "X-Roles": "{claim.realm.roles}",
    }
    config["routes"][0] |= {"headers": {"request": {"set": set_}}, "allow": {"groups": ["dev"]}}
    running = await gateway(config)
    provider.about |= {
        "tenant": "t1",
        "phone": "123",
        "realm": {"roles": ["ops", "dev"]},
        "groups": [f"group-{number:03}" for number in range(400)],
    }
    assert (await browser.go(f"{base(running)}/app/")).status == 200
    sent = up.only
    assert (sent.get("x-user"), sent.get("x-mail")) == (b"ann", b"ann@example.com")
    assert (sent.get("x-tenant"), sent.get("x-roles")) == (b"t1", b"ops,dev")
    assert sent.get("x-phone") is None
