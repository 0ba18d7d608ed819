"""Attacks on logins and on the sessions that they leave (RFC 9700 sections 4.1 to 4.7, RFC 6265 section 8)."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from yarl import URL

from gateway.auth.session import Seal, Sessions
from tests.kit.login import CLIENT, SECRET, Browser, Provider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import MakeGateway, MakeOrigin
    from tests.kit.login import Answer
    from tests.kit.origin import Origin
    from tests.kit.running import Running

KEY = "the secret that seals the sessions of this test"
CALLBACK = "/oauth2/callback"


def configuration(issuer: str, up: Origin, **sections: Any) -> dict[str, Any]:
    def login(cookie: str, path: str) -> dict[str, Any]:
        return {
            "issuer": issuer,
            "client_id": CLIENT,
            "client_secret": SECRET,
            "session": {"cookie": cookie},
            "callback": path,
            "logout": path + "-out",
            "forward": {"X-User": "{claim.sub}"},
        }

    return {
        "server": {"secret": KEY},
        "auth": {
            "login": {"oidc": login("gw", CALLBACK)},
            "staff": {"oidc": login("st", "/staff/in")},
        },
        "routes": [
            {"name": "app", "path": "/app/*", "to": up.url, "auth": "login"},
            {"name": "staff", "path": "/staff/*", "to": up.url, "auth": "staff"},
            {"name": "all", "path": "/*", "to": up.url, "auth": "login"},
        ],
        **sections,
    }


@pytest_asyncio.fixture
async def provider(_world: Any) -> AsyncIterator[Provider]:
    async with Provider() as made:
        yield made


@pytest_asyncio.fixture
async def victim(_world: Any) -> AsyncIterator[Browser]:
    async with Browser() as made:
        yield made


@pytest_asyncio.fixture
async def attacker(_world: Any) -> AsyncIterator[Browser]:
    async with Browser() as made:
        yield made


def base(running: Running) -> str:
    return f"http://{running.address}"


def refused(answer: Answer, *statuses: int) -> None:
    """No session came of it, and the answer says no more than what everybody may know."""
    assert answer.status in (statuses or (401,)), answer.body
    assert not any("_login_" not in name for name in answer.cookies), answer.cookies
    body = json.loads(answer.body)
    assert set(body) <= {"type", "title", "status", "reason", "request_id"}


async def half_way(browser: Browser, running: Running, path: str = "/app/") -> tuple[URL, URL]:
    """(what the provider was asked, where it sends the browser back to)."""
    begun = await browser.ask(base(running) + path)
    sent = await browser.ask(begun.location)
    return begun.location, sent.location


async def session(
    browser: Browser, running: Running, path: str = "/app/", cookie: str = "gw"
) -> str:
    assert (await browser.go(base(running) + path)).status == 200
    return browser.cookies(base(running))[cookie]


# ── the answer of the provider: state, code, nonce ──


async def test_login_csrf_an_attackers_answer_in_a_victims_browser_logs_nobody_in(
    origin: MakeOrigin, gateway: MakeGateway, victim: Browser, attacker: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    provider.user = "mallory"
    _, back = await half_way(attacker, running)
    refused(await victim.ask(back))
    await half_way(victim, running)  # nor where the victim has a login of its own under way
    answer = await victim.ask(back)
    assert (answer.status, answer.headers["Location"]) == (303, "/app/")
    assert "gw" not in answer.cookies
    assert not provider.redeemed


async def test_an_answer_counts_once(
    origin: MakeOrigin, gateway: MakeGateway, victim: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    _, back = await half_way(victim, running)
    assert "gw" in (await victim.ask(back)).cookies
    again = await victim.ask(back)  # the user goes back in its history: it is in already
    assert (again.status, again.headers["Location"]) == (303, "/app/")
    assert not again.cookies
    victim.session.cookie_jar.clear()
    refused(await victim.ask(back))
    assert len(provider.redeemed) == 1


async def test_who_keeps_the_login_cookie_and_replays_all_of_it_meets_a_code_that_is_spent(
    origin: MakeOrigin, gateway: MakeGateway, victim: Browser, attacker: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    _, back = await half_way(victim, running)
    kept = victim.cookies(base(running))
    await victim.ask(back)
    attacker.put(base(running), **kept)
    refused(await attacker.ask(back))
    assert provider.refusals == ["the code"]


@pytest.mark.parametrize("what", ["code", "code and state"])
async def test_code_injection_a_stolen_code_is_worth_nothing_in_another_login(
    origin: MakeOrigin, gateway: MakeGateway, victim: Browser, attacker: Browser, provider: Provider, what: str
) -> None:  # fmt: skip
    running = await gateway(configuration(provider.url, await origin()))
    _, stolen = await half_way(victim, running)
    provider.user = "mallory"
    _, own = await half_way(attacker, running)
    query = {"code": stolen.query["code"], "state": own.query["state"]}
    if what == "code and state":
        query["state"] = stolen.query["state"]
    answer = await attacker.ask(own.with_query(query))
    if what == "code":
        refused(answer)
        assert provider.refusals == ["code_verifier"]
    else:
        assert "gw" not in answer.cookies
        assert not provider.redeemed


async def test_an_id_token_of_another_login_is_refused_though_its_code_is_good(
    origin: MakeOrigin, gateway: MakeGateway, victim: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    first, _ = await half_way(victim, running)
    provider.lies = {"nonce": first.query["nonce"]}
    _, back = await half_way(victim, running)
    refused(await victim.ask(back))
    outcome = {"policy": "login", "outcome": "malformed"}
    assert running.metric("gateway_auth_decisions_total", **outcome) == 1


@pytest.mark.parametrize(
    ("lies", "outcome"),
    [
        ({"nonce": None}, "malformed"),
        ({"nonce": ""}, "malformed"),
        ({"nonce": 1}, "malformed"),
        ({"iss": "https://evil.test/"}, "wrong_audience"),
        ({"iss": None}, "malformed"),
        ({"aud": "another"}, "wrong_audience"),
        ({"aud": None}, "malformed"),
        ({"aud": [CLIENT, "another"]}, "wrong_audience"),
        ({"aud": [CLIENT, "another"], "azp": "another"}, "wrong_audience"),
        ({"azp": "another"}, "wrong_audience"),
        ({"exp": 1}, "expired"),
        ({"exp": None}, "malformed"),
        ({"iat": 9_999_999_999}, "inactive"),
        ({"sub": None}, "malformed"),
        ({"sub": ""}, "malformed"),
        ({"sub": 7}, "malformed"),
        ({"at_hash": "of-another-token"}, "malformed"),
    ],
    ids=str,
)
async def test_an_id_token_that_is_not_for_this_login_is_refused(
    origin: MakeOrigin, gateway: MakeGateway, victim: Browser, provider: Provider,
    lies: dict[str, Any], outcome: str,
) -> None:  # fmt: skip
    running = await gateway(configuration(provider.url, await origin()))
    provider.lies = lies
    answer = await victim.go(f"{base(running)}/app/")
    refused(answer)
    assert "gw" not in victim.cookies(base(running))
    assert running.metric("gateway_auth_decisions_total", policy="login", outcome=outcome) == 1


async def test_an_id_token_that_is_for_several_and_says_it_is_for_us_is_taken(
    origin: MakeOrigin, gateway: MakeGateway, victim: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    provider.lies = {"aud": [CLIENT, "another"], "azp": CLIENT}
    assert (await victim.go(f"{base(running)}/app/")).status == 200


@pytest.mark.parametrize("how", ["unsigned", "another key", "the secret", "no token", "garbage"])
async def test_an_id_token_that_the_provider_has_not_signed_is_refused(
    origin: MakeOrigin, gateway: MakeGateway, victim: Browser, provider: Provider, how: str
) -> None:
    from tests.kit.issuer import compact, private_key

    running = await gateway(configuration(provider.url, await origin()))
    begun, back = await half_way(victim, running)
    claims = provider.claims(aud=CLIENT, nonce=begun.query["nonce"])
    kid = next(iter(provider.keys))
    made: dict[str, Any] = {
        "unsigned": compact({"alg": "none"}, claims, None, "none"),
        "another key": compact({"alg": "ES256", "kid": kid}, claims, private_key("ES256"), "ES256"),
        "the secret": compact({"alg": "HS256", "kid": kid}, claims, SECRET * 2, "HS256"),
        "no token": None,
        "garbage": "a.b.c",
    }
    provider.tokens = {"id_token": made[how]}
    refused(await victim.ask(back), 401, 503)
    assert "gw" not in victim.cookies(base(running))


@pytest.mark.parametrize(
    "query",
    [
        "",
        "code=x",
        "state=x",
        "code=x&state=x",
        "code=x&code=y&state={state}",
        "code={code}&state={state}&state={state}",
        "error=access_denied",
        "code={code}&state={cut}",
        "code={code}&state={state}&iss=https%3A%2F%2Fevil.test%2F",
        "state={state}",
        "code=" + "x" * 3000 + "&state={state}",
        "code=%00%0d%0aX:%20y&state={state}",
    ],
)
async def test_an_answer_that_is_not_as_it_should_be_logs_nobody_in(
    origin: MakeOrigin, gateway: MakeGateway, victim: Browser, provider: Provider, query: str
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    _, back = await half_way(victim, running)
    given = dict(part.split("=", 1) for part in back.raw_query_string.split("&"))
    text = query.format(**given, cut=given["state"][:-4])
    answer = await victim.ask(f"{base(running)}{CALLBACK}?{text}")
    assert "gw" not in answer.cookies
    assert answer.status in (401, 403)
    assert not victim.cookies(base(running)).keys() & {"gw"}


async def test_mix_up_where_the_provider_names_itself_it_must_do_so(
    origin: MakeOrigin, gateway: MakeGateway, victim: Browser, provider: Provider
) -> None:
    provider.announces["authorization_response_iss_parameter_supported"] = True
    running = await gateway(configuration(provider.url, await origin()))
    refused(await victim.go(f"{base(running)}/app/"))
    provider.adds = {"iss": provider.url}
    assert (await victim.go(f"{base(running)}/app/")).status == 200


async def test_a_login_takes_ten_minutes_at_most(
    origin: MakeOrigin, gateway: MakeGateway, victim: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    _, back = await half_way(victim, running)
    running.clock.advance(601)
    refused(await victim.ask(back))


@pytest.mark.parametrize("other", ["https://evil.test/", "http://10.0.0.1/", "ftp://x/", "x"])
@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint", "jwks_uri", "issuer"])
async def test_a_document_that_leads_astray_begins_no_login(
    origin: MakeOrigin,
    gateway: MakeGateway,
    victim: Browser,
    provider: Provider,
    name: str,
    other: str,
) -> None:
    if name != "issuer" and other.startswith("https"):
        other = "http://evil.test/"
    provider.announces[name] = other
    running = await gateway(configuration(provider.url, await origin()))
    answer = await victim.go(f"{base(running)}/app/")
    refused(answer, 503, 401)


# ── where a login leads ──


@pytest.mark.parametrize(
    "target",
    ["//evil.test/", "///evil.test/", "/\\evil.test/", "//evil.test\\@x", "/%5cevil.test", "/%2fevil.test",
     "/\t/evil.test", "/.//evil.test", "/x?next=https://evil.test/", "/" + "a" * 3000, "/caf\u00e9"],
)  # fmt: skip
async def test_open_redirect_after_a_login_the_browser_stays_on_this_host(
    origin: MakeOrigin,
    gateway: MakeGateway,
    victim: Browser,
    provider: Provider,
    raw: Any,
    target: str,
) -> None:
    config = configuration(provider.url, await origin())
    config["server"]["ambiguous_paths"] = "keep"
    running = await gateway(config)
    client = await raw(running)
    head = f"GET {target} HTTP/1.1\r\nHost: {running.address}\r\nAccept: text/html\r\n\r\n"
    begun = await client.ask(head.encode())
    if begun.status != 303:
        assert begun.status == 400
        return
    name, value = begun.get("set-cookie").decode().split(";")[0].split("=", 1)
    sent = await victim.ask(URL(begun.get("location").decode(), encoded=True))
    back = await victim.ask(sent.location, Cookie=f"{name}={value}")
    assert back.status == 303
    location = back.headers["Location"]
    assert re.match(r"/(?![/\\])", location), location
    assert back.location.host == "127.0.0.1"


async def test_the_state_can_not_be_made_to_lead_elsewhere(
    origin: MakeOrigin, gateway: MakeGateway, victim: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    await half_way(victim, running)
    seal = Seal(
        ("another secret, of the attacker's",),
        running.clock,
        "state",
        "login",
        provider.url,
        CLIENT,
    )
    forged = seal.close(["word", "https://evil.test/"])
    refused(await victim.ask(f"{base(running)}{CALLBACK}?code=x&state={forged}"))


# ── cookies ──


async def test_a_session_in_place_before_the_login_is_not_the_one_after_it(
    origin: MakeOrigin, gateway: MakeGateway, victim: Browser, attacker: Browser, provider: Provider
) -> None:
    up = await origin()
    running = await gateway(configuration(provider.url, up))
    provider.user = "mallory"
    planted = await session(attacker, running)
    provider.user = "ann"
    victim.put(base(running), gw="fixed-by-the-attacker")
    own = await session(victim, running)
    assert own not in (planted, "fixed-by-the-attacker")
    assert up.requests[-1].get("x-user") == b"ann"


async def test_cookie_tampering_is_as_no_cookie(
    origin: MakeOrigin, gateway: MakeGateway, victim: Browser, attacker: Browser, provider: Provider
) -> None:
    up = await origin()
    running = await gateway(configuration(provider.url, up))
    good = await session(victim, running)
    sealed = base64.urlsafe_b64decode(good + "=" * (-len(good) % 4))
    bad = [
        good[:-1],
        good[: len(good) // 2],
        good[1:],
        good + "A",
        good.swapcase(),
        "",
        "A" * len(good),
        base64.urlsafe_b64encode(sealed[:9] + bytes(16) + sealed[25:]).decode(),
        base64.urlsafe_b64encode(b"\x81" + sealed[1:]).decode(),
        base64.urlsafe_b64encode(sealed[:1] + bytes(8) + sealed[9:]).decode(),
        base64.urlsafe_b64encode(b'{"b":0,"e":9999999999,"c":{"sub":"root"}}').decode(),
        "x" * 6000,
    ]
    before = len(up.requests)
    for value in bad:
        answer = await attacker.ask(
            f"{base(running)}/app/", Cookie=f"gw={value}", Sec_Fetch_Mode="cors"
        )
        refused(answer)
    assert len(up.requests) == before
    ok = await attacker.ask(f"{base(running)}/app/", Cookie=f"gw={good}")
    assert ok.status == 200


async def test_a_session_of_another_policy_is_as_none(
    origin: MakeOrigin, gateway: MakeGateway, victim: Browser, attacker: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    value = await session(victim, running)
    for cookie in (f"st={value}", f"gw={value}", f"st={value}; gw={value}"):
        refused(await attacker.ask(f"{base(running)}/staff/", Cookie=cookie, Accept="*/*"))


@pytest.mark.parametrize("change", ["issuer", "client_id", "secret", "name"])
async def test_a_session_of_another_gateway_is_as_none(
    origin: MakeOrigin, gateway: MakeGateway, attacker: Browser, provider: Provider, change: str
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    whose = {"secret": KEY, "name": "login", "issuer": provider.url, "client_id": CLIENT}
    for kept in (True, False):
        if not kept:
            whose[change] += " of another one"
        made = Sessions(
            (whose["secret"],), running.clock, whose["name"], whose["issuer"], whose["client_id"],
            cookie="gw", max_age=3600.0,
        )  # fmt: skip
        line = made.line({"sub": "root"}, secure=False).decode()
        cookie = line.removeprefix("Set-Cookie: ").partition(";")[0]
        answer = await attacker.ask(f"{base(running)}/app/", Cookie=cookie, Accept="*/*")
        assert answer.status == (200 if kept else 401)


async def test_a_login_under_way_is_no_session(
    origin: MakeOrigin, gateway: MakeGateway, attacker: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    begun, _ = await half_way(attacker, running)
    sealed = [*attacker.cookies(base(running)).values(), begun.query["state"]]
    assert len(sealed) == 2
    for value in sealed:
        refused(await attacker.ask(f"{base(running)}/app/", Cookie=f"gw={value}", Accept="*/*"))


async def test_a_good_cookie_behind_planted_ones_is_found_and_many_cost_nothing(
    origin: MakeOrigin, gateway: MakeGateway, victim: Browser, attacker: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    good = await session(victim, running)
    few = "; ".join(["gw=planted"] * 3 + [f"gw={good}"])
    assert (await attacker.ask(f"{base(running)}/app/", Cookie=few)).status == 200
    many = "; ".join(["gw=planted"] * 300 + [f"gw={good}"])
    refused(await attacker.ask(f"{base(running)}/app/", Cookie=many, Accept="*/*"))


async def test_a_user_with_more_claims_than_a_cookie_holds_is_refused_and_the_operator_told_why(
    origin: MakeOrigin, gateway: MakeGateway, victim: Browser, provider: Provider
) -> None:
    config = configuration(provider.url, await origin())
    running = await gateway(config)
    provider.about = {"groups": [f"group-{number:03}" for number in range(400)]}
    answer = await victim.go(f"{base(running)}/app/")
    assert answer.status == 503
    assert b"browsers" not in answer.body
    detail = next(line["detail"] for line in await running.log(2) if line["status"] == 503)
    assert "browsers keep 4096" in detail
    assert "groups" in detail
    assert "group-001" not in detail
    assert "gw" not in victim.cookies(base(running))


# ── header forging ──


async def test_what_a_client_writes_in_the_sessions_fields_never_passes(
    origin: MakeOrigin, gateway: MakeGateway, victim: Browser, provider: Provider
) -> None:
    up = await origin()
    running = await gateway(configuration(provider.url, up))
    await victim.go(f"{base(running)}/app/")
    for name in ("X-User", "x-user", "X_User"):
        answer = await victim.ask(f"{base(running)}/app/", **{name: "root"})
        assert answer.status == 200
        assert up.requests[-1].all("x-user") == [b"ann"]
        assert up.requests[-1].get("x_user") is None
        assert up.requests[-1].get("cookie") is None


async def test_a_forged_scheme_or_host_of_an_untrusted_client_changes_nothing(
    origin: MakeOrigin, gateway: MakeGateway, attacker: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    begun = await attacker.ask(
        f"{base(running)}/app/", X_Forwarded_Proto="https", X_Forwarded_Host="evil.test", Forwarded="host=evil.test"
    )  # fmt: skip
    assert begun.location.query["redirect_uri"] == f"{base(running)}{CALLBACK}"


async def test_logout_csrf_another_site_logs_nobody_out(
    origin: MakeOrigin, gateway: MakeGateway, victim: Browser, provider: Provider
) -> None:
    running = await gateway(configuration(provider.url, await origin()))
    await session(victim, running)
    for method in ("GET", "POST"):
        answer = await victim.ask(
            f"{base(running)}{CALLBACK}-out", method, Sec_Fetch_Site="cross-site"
        )
        assert answer.status == 403
        assert not answer.cookies
    assert (await victim.ask(f"{base(running)}/app/")).status == 200
