"""`security_headers` and `hsts`, through a whole gateway: what is filled in, what is replaced, and over what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.config.browser import BASIC, PRESETS, STRICT
from tests.e2e.conformance.conftest import get, problem
from tests.kit import secure
from tests.kit.origin import OK, reply
from tests.kit.secure import issue

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.wire import Message

SECURE = b"X-Forwarded-Proto: https"
TRUSTED = {"trusted_proxies": ["127.0.0.0/8"]}


def values(answer: Message, names: dict[str, str]) -> dict[str, list[str]]:
    return {name: [value.decode() for value in answer.all(name.lower())] for name in names}


def once(fields: dict[str, str]) -> dict[str, list[str]]:
    return {name: [value] for name, value in fields.items()}


@pytest.mark.parametrize("preset", ["basic", "strict"])
async def test_a_preset_is_on_every_answer_once(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, preset: str
) -> None:
    up = await origin()
    client = await raw(await gateway(up, route={"security_headers": preset, "body": {"max": "0B"}}))
    fields = PRESETS[preset]
    for _ in range(3):
        answer = await client.ask(get())
        assert answer.status == 200
        assert values(answer, fields) == once(fields)
    answer = await client.ask(b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nx")
    problem(answer, "body_too_large", 413)
    assert values(answer, fields) == once(fields)


async def test_basic_leaves_what_the_upstream_says(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(reply(b"ok", b"x-frame-options: ALLOWALL", b"Server: up", b"X-Powered-By: x"))
    client = await raw(await gateway(up, route={"security_headers": "basic"}))
    answer = await client.ask(get())
    assert values(answer, BASIC) == once({**BASIC, "X-Frame-Options": "ALLOWALL"})
    assert (answer.get("server"), answer.get("x-powered-by")) == (b"up", b"x")


async def test_strict_replaces_all_but_what_only_the_application_knows(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    own = (b"x-frame-options: ALLOWALL", b"Referrer-Policy: unsafe-url", b"Server: up", b"X-Powered-By: x",
           b"Content-Security-Policy: default-src 'nonce-1'")  # fmt: skip
    up = await origin(reply(b"ok", *own))
    client = await raw(await gateway(up, route={"security_headers": "strict"}))
    answer = await client.ask(get())
    assert values(answer, STRICT) == once(
        {**STRICT, "Content-Security-Policy": "default-src 'nonce-1'"}
    )
    assert (answer.get("server"), answer.get("x-powered-by")) == (None, None)


async def test_what_is_written_stands_in_place_of_the_sets(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(reply(b"ok", b"Content-Security-Policy: default-src *"))
    settings = {"preset": "strict", "remove": ["cross-origin-embedder-policy"],
                "set": {"content-security-policy": "default-src 'none'", "X-Robots-Tag": "none"}}  # fmt: skip
    client = await raw(await gateway(up, route={"security_headers": settings}))
    answer = await client.ask(get())
    wanted = once(
        {**STRICT, "Content-Security-Policy": "default-src 'none'", "X-Robots-Tag": "none"}
    )
    wanted["Cross-Origin-Embedder-Policy"] = []
    assert values(answer, {**STRICT, "X-Robots-Tag": ""}) == wanted


async def test_the_routes_own_edits_win_over_the_set(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(reply(b"ok", b"Server: up"))
    edits = {"set": {"X-Frame-Options": "SAMEORIGIN"}, "remove": ["Referrer-Policy"]}
    route = {"security_headers": "strict", "headers": {"response": edits}}
    client = await raw(await gateway(up, route=route))
    answer = await client.ask(get())
    assert answer.all("x-frame-options") == [b"SAMEORIGIN"]
    assert answer.all("referrer-policy") == []
    assert answer.all("server") == []


async def test_a_route_without_it_is_left_alone(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(OK)
    off = {"path": "/off", "to": up.url, "security_headers": "off", "hsts": "off"}
    on = {"path": "/on", "to": up.url}
    defaults = {"security_headers": "basic", "hsts": "365d"}
    client = await raw(await gateway({"routes": [off, on], "defaults": defaults}, server=TRUSTED))
    answer = await client.ask(get(b"/off", SECURE))
    assert not any(answer.all(name.lower()) for name in (*STRICT, "strict-transport-security"))
    answer = await client.ask(get(b"/on", SECURE))
    assert answer.all("x-content-type-options") == [b"nosniff"]
    assert answer.all("strict-transport-security") == [b"max-age=31536000"]


async def test_hsts_is_said_on_https_only_and_replaces_the_upstreams(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(reply(b"ok", b"Strict-Transport-Security: max-age=1"))
    settings = {"max_age": "730d", "subdomains": True, "preload": True}
    client = await raw(
        await gateway(up, route={"hsts": settings, "body": {"max": "0B"}}, server=TRUSTED)
    )
    answer = await client.ask(get(b"/", SECURE))
    wanted = [b"max-age=63072000; includeSubDomains; preload"]
    assert answer.all("strict-transport-security") == wanted
    answer = await client.ask(get())
    assert answer.all("strict-transport-security") == []
    answer = await client.ask(get(b"/", SECURE, body=b"x"))
    assert answer.status == 413
    assert answer.all("strict-transport-security") == wanted


async def test_who_is_not_trusted_can_not_make_the_gateway_speak_of_https(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway(up, route={"hsts": "0s"}))
    answer = await client.ask(get(b"/", SECURE))
    assert answer.all("strict-transport-security") == []


async def test_early_hints_pass_as_they_are(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n" + OK)
    client = await raw(await gateway(up, route={"security_headers": "strict"}))
    answer = await client.ask(get())
    assert [name for one in answer.interim for name in one.all("x-frame-options")] == []
    assert answer.interim[0].get("link") == b"</a>; rel=preload"
    assert answer.all("x-frame-options") == [b"DENY"]


async def test_a_listener_with_tls_is_https(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    up = await origin()
    listeners = [{"bind": "127.0.0.1:0", "tls": {"certificates": [issue(tmp_path, "a.test")]}}]
    running = await gateway(up, route={"hsts": "1d"}, listeners=listeners)
    client = await secure.connect(running.address)
    answer = await client.ask(get())
    client.close()
    assert answer.all("strict-transport-security") == [b"max-age=86400"]
