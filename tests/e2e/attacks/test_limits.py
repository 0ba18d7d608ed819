"""Ways to get more than a limit allows, or to make it cost the gateway what it should not.

Rules of this file: a table of tricks; each is tried against a limit that lets two in, and none may be let in a third time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.limits.keys import LONGEST
from tests.e2e.conformance.conftest import get

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway

TRUSTED = {"trusted_proxies": ["127.0.0.0/8"]}
ROUTE = {"name": "here", "path": "/*", "respond": {"body": "hi"}}
LIMIT = {"rate": "2/d"}
BY_TENANT = {"rate": "2/d", "key": "header.x-tenant"}

Tries = list[list[bytes]]


def xff(*addresses: str) -> Tries:
    return [[b"X-Forwarded-For: " + address.encode()] for address in addresses]


TRICKS: dict[str, tuple[dict[str, Any], dict[str, Any], Tries]] = {
    "addresses of one IPv6 network in turn": (
        LIMIT, TRUSTED, xff(*(f"2001:db8:1:2:{n:x}::{n:x}" for n in range(1, 60))),
    ),
    "one IPv6 address in many spellings": (
        LIMIT, TRUSTED,
        xff("2001:db8::1", "2001:DB8::1", "2001:0db8:0:0:0:0:0:1", "[2001:db8::1]", "[2001:db8::1]:99"),
    ),
    "an IPv4 address dressed as IPv6": (
        LIMIT, TRUSTED, xff("192.0.2.1", "::ffff:192.0.2.1", "::FFFF:c000:201", "[::ffff:192.0.2.1]:1"),
    ),
    "X-Forwarded-For from nobody who is trusted": (
        LIMIT, {}, xff(*(f"192.0.2.{n}" for n in range(60))),
    ),
    "Forwarded and X-Real-IP from nobody who is trusted": (
        LIMIT, {}, [[b"Forwarded: for=192.0.2.%d" % n, b"X-Real-IP: 192.0.2.%d" % n] for n in range(60)],
    ),
    "addresses put before the one that a trusted proxy has seen": (
        LIMIT, TRUSTED, xff(*(f"198.51.100.{n}, 192.0.2.1" for n in range(60))),
    ),
    "no address at all where a proxy should write one": (
        LIMIT, TRUSTED, xff("", "unknown", "_hidden", "'; --", "999.1.1.1"),
    ),
    "the case of the field's name": (
        BY_TENANT, {}, [[b"X-Tenant: a"], [b"x-tenant: a"], [b"X-TENANT: a"], [b"x-TeNaNt: a"]],
    ),
    "spaces around the value": (
        BY_TENANT, {}, [[b"X-Tenant: a"], [b"X-Tenant:a"], [b"X-Tenant:   a  "], [b"X-Tenant:\ta\t"]],
    ),
    "an underscore in the field's name": (
        BY_TENANT, {}, [[b"X_Tenant: %d" % n] for n in range(30)],
    ),
    "leaving the field out, or empty": (
        BY_TENANT, {}, [[], [b"X-Tenant:"], [b"X-Tenant: "], []],
    ),
    "query and fragments that the route does not look at": (
        LIMIT, {}, [[], [], [], []],
    ),
}  # fmt: skip


@pytest.mark.parametrize("trick", TRICKS)
async def test_no_trick_gets_more_than_the_limit_allows(
    gateway: MakeGateway, raw: MakeClient, trick: str
) -> None:
    limit, server, tries = TRICKS[trick]
    running = await gateway({"routes": [{**ROUTE, "rate_limit": limit}]}, server=server)
    client = await raw(running)
    said = [
        (await client.ask(get(b"/%d?%d" % (number, number), *lines))).status
        for number, lines in enumerate(tries)
    ]
    assert said == [200, 200, *[429] * (len(tries) - 2)]


async def test_a_client_that_closes_and_comes_again_is_the_same(
    gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway({"routes": [{**ROUTE, "rate_limit": LIMIT}]})
    said = [(await (await raw(running)).ask(get(b"/"))).status for _ in range(4)]
    assert said == [200, 200, 429, 429]


async def test_a_flood_of_keys_takes_bounded_memory_and_does_not_reset_who_is_used_up(
    gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway({"routes": [{**ROUTE, "rate_limit": BY_TENANT}]})
    [local] = running.gateway._resources.of("limits")
    local._most = 200
    client = await raw(running)
    mine = get(b"/", b"X-Tenant: attacker")
    assert [(await client.ask(mine)).status for _ in range(3)] == [200, 200, 429]
    for number in range(1000):
        flood = get(b"/", b"X-Tenant: %d %b" % (number, b"x" * 4000))
        assert (await client.ask(flood)).status == 200
    assert len(local) == 200
    [table] = local._tables.values()
    assert max(map(len, table.states)) <= LONGEST, "no key of four thousand characters is kept"
    assert (await client.ask(mine)).status == 429
