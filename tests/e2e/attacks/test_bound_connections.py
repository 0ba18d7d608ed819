"""Upstreams that take a connection for a client: NTLM, and Negotiate as some servers do it (RFC 4559 section 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.conformance.conftest import get
from tests.kit.origin import reply

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Peer


async def ntlm(peer: Peer) -> None:
    """Whoever has answered the challenge of a connection is who asks on it from then on."""
    who, challenge = b"", b"NTLM"
    while True:
        said = (await peer.request()).get("authorization") or b""
        if said == b"NTLM answer-of-ann" and challenge != b"NTLM":
            who = b"ann"
        if who:
            await peer.send(reply(who))
        else:
            challenge = b"ntlm challenge" if said == b"NTLM hello" else b"NTLM"
            await peer.send(reply(b"", b"WWW-Authenticate: " + challenge, status=b"401 No"))


async def negotiate(peer: Peer) -> None:
    """One token is enough, and the answer has one, too."""
    who = b""
    while True:
        said = (await peer.request()).get("authorization") or b""
        if said == b"Negotiate ticket-of-ann":
            who = b"ann"
            await peer.send(reply(who, b"www-authenticate: Negotiate oYG2MIGzoAMKAQA="))
        elif who:
            await peer.send(reply(who))
        else:
            lines = (b"WWW-Authenticate: Basic realm=x", b"WWW-Authenticate: Negotiate")
            await peer.send(reply(b"", *lines, status=b"401 No"))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (ntlm, (b"NTLM hello", b"NTLM answer-of-ann")),
        (negotiate, (b"Negotiate ticket-of-ann",)),
    ],
)
async def test_no_client_is_served_as_another_on_a_connection_that_is_bound_to_it(
    origin: MakeOrigin,
    gateway: MakeGateway,
    raw: MakeClient,
    script: object,
    words: tuple[bytes, ...],
) -> None:
    up = await origin(script)
    running = await gateway(up)
    ann, bob = await raw(running), await raw(running)
    await ann.ask(get(b"/"))
    for word in words:
        await ann.ask(get(b"/", b"Authorization: " + word))
    for _ in range(3):
        answer = await bob.ask(get(b"/"))
        assert (answer.status, answer.body) == (401, b"")


async def test_other_challenges_leave_connections_in_use(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    lines = (b'WWW-Authenticate: Bearer realm="negotiate"', b"WWW-Authenticate: NTLMv9 x")
    up = await origin(reply(b"", *lines, status=b"401 No"))
    client = await raw(await gateway(up))
    for _ in range(3):
        answer = await client.ask(get(b"/"))
        assert [b"WWW-Authenticate: " + one for one in answer.all("www-authenticate")] == [*lines]
    assert len(up.connections) == 1
