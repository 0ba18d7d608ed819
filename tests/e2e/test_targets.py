"""Where a request goes: branches of a split, targets by weight, and what a target may be.

Rules of this file: what is drawn at random is asked so often that a wrong outcome by luck does not
happen in the lifetime of a project.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from tests.e2e.conformance.conftest import get, post, problem
from tests.kit.origin import OK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin, Peer
    from tests.kit.raw import Client


async def ask_often(client: Client, times: int) -> None:
    """As many requests, one after the other."""
    for _ in range(times):
        assert (await client.ask(get())).status == 200


async def test_a_split_goes_by_weight(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    many, few = await origin(), await origin()
    split = [{"upstream": "many", "weight": 9}, {"upstream": "few", "weight": 1}]
    upstreams = {"many": {"targets": [many.url]}, "few": {"targets": [few.url]}}
    running = await gateway({"routes": [{"path": "/*", "split": split}], "upstreams": upstreams})
    await ask_often(await raw(running), 200)
    # nine of ten: less than half of 200, or none at the other, comes once in a thousand million runs
    assert len(many.requests) > 100
    assert few.requests
    assert len(many.requests) + len(few.requests) == 200


@pytest.mark.parametrize("balance", ["p2c", "round_robin"])
async def test_a_balancer_reaches_all_targets_by_weight(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, balance: str
) -> None:
    many, few = await origin(), await origin()
    targets = [{"url": many.url, "weight": 9}, {"url": few.url}]
    running = await gateway(
        {
            "routes": [{"path": "/*", "to": "up"}],
            "upstreams": {"up": {"targets": targets, "balance": balance}},
        }
    )
    await ask_often(await raw(running), 200)
    counts = (len(many.requests), len(few.requests))
    if balance == "round_robin":
        assert counts == (180, 20)
    assert counts[0] > 100
    assert counts[1] > 0
    for up, count in zip((many, few), counts, strict=True):
        got = running.metric("gateway_upstream_requests_total", target=up.address)
        assert got == count


async def test_p2c_avoids_the_target_that_is_busy(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def hangs(peer: Peer) -> None:
        await peer.request()
        await peer.rest()

    slow, up = await origin(hangs), await origin()
    urls = [slow.url, up.url]
    running = await gateway({"routes": [{"name": "r", "path": "/*", "to": urls}]})
    while not slow.requests:  # by luck which comes first; none is answered by the slow one
        client = await raw(running)
        await client.send(get(b"/"))
        await asyncio.sleep(0.05)
    await ask_often(await raw(running), 50)
    assert len(slow.requests) == 1


async def test_an_unnamed_upstream_has_all_its_urls_and_the_routes_name(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    one, other = await origin(), await origin()
    route = {"name": "pair", "path": "/*", "to": [one.url, other.url]}
    running = await gateway({"routes": [route]})
    await ask_often(await raw(running), 100)
    assert one.requests
    assert other.requests
    assert running.metric("gateway_upstream_requests_total", upstream="pair") == 100
    assert (await running.log(100))[0]["upstream"] == "pair"


@pytest.mark.parametrize("prefix", ["/base", "/base/"])
async def test_the_path_of_a_targets_url_goes_before_the_requests(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, prefix: str
) -> None:
    up = await origin()
    running = await gateway({"routes": [{"path": "/*", "to": up.url + prefix}]})
    client = await raw(running)
    for target in (b"/", b"/x?y=/z", b"/x/"):
        await client.ask(get(target))
    assert [message.target for message in up.requests] == [b"/base/", b"/base/x?y=/z", b"/base/x/"]


async def test_a_target_may_be_a_unix_socket(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin(unix=str(tmp_path / "s"))
    running = await gateway(up)
    client = await raw(running)
    for _ in range(2):
        assert (await client.ask(post())).body == b"ok"
    assert len(up.connections) == 1
    assert running.metric("gateway_upstream_requests_total", target=up.address) == 2


@pytest.fixture
def authority() -> trustme.CA:
    """Who vouches for the upstream's certificate."""
    return trustme.CA()


@contextlib.asynccontextmanager
async def _tls(ca: trustme.CA, clients: trustme.CA | None = None) -> AsyncIterator[int]:
    """The port of an upstream with a certificate for `localhost`; it wants one of `clients`."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(serving)
    if clients is not None:
        serving.verify_mode = ssl.CERT_REQUIRED
        clients.configure_trust(serving)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(OK)
        writer.close()

    server = await asyncio.start_server(script, "127.0.0.1", 0, ssl=serving)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize(
    ("name", "tls", "reason"),
    [
        pytest.param("localhost", {"ca": "ca.pem"}, "", id="own-authority"),
        pytest.param("localhost", {}, "tls_error", id="unknown-authority"),
        pytest.param("127.0.0.1", {"ca": "ca.pem"}, "tls_error", id="another-name"),
        pytest.param("127.0.0.1", {"ca": "ca.pem", "server_name": "localhost"}, "", id="named"),
        pytest.param("127.0.0.1", {"verify": False}, "", id="not-verified"),
    ],
)
async def test_the_certificate_of_an_upstream_is_verified(
    gateway: MakeGateway,
    raw: MakeClient,
    authority: trustme.CA,
    tmp_path: Path,
    name: str,
    tls: dict[str, Any],
    reason: str,
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    if "ca" in tls:
        tls = {**tls, "ca": str(tmp_path / "ca.pem")}
    async with _tls(authority) as port:
        upstream = {"targets": [f"https://{name}:{port}"], "tls": tls}
        routes = [{"path": "/*", "to": "up", "retry": "off"}]
        running = await gateway({"routes": routes, "upstreams": {"up": upstream}})
        got = await (await raw(running)).ask(get())
        if reason:
            problem(got, reason, 502)
        else:
            assert (got.status, got.body) == (200, b"ok")
        await running.gateway.drain(delay=0)


@pytest.mark.parametrize("own", [True, False])
async def test_the_gateway_shows_its_own_certificate_to_requests_and_checks_alike(
    gateway: MakeGateway, raw: MakeClient, authority: trustme.CA, tmp_path: Path, own: bool
) -> None:
    partners = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    shown = partners.issue_cert("gateway")
    shown.private_key_pem.write_to_path(str(tmp_path / "gw.key"))
    shown.cert_chain_pems[0].write_to_path(str(tmp_path / "gw.pem"))
    tls = {"ca": str(tmp_path / "ca.pem")}
    if own:
        tls |= {"cert": str(tmp_path / "gw.pem"), "key": str(tmp_path / "gw.key")}
    async with _tls(authority, partners) as port:
        upstream = {
            "targets": [f"https://localhost:{port}"],
            "tls": tls,
            "health": {"path": "/up", "fall": 1, "rise": 1},
        }
        routes = [{"path": "/*", "to": "up", "retry": "off"}]
        running = await gateway({"routes": routes, "upstreams": {"up": upstream}})
        await running.eventually("gateway_health_checks_total", 1, result="pass" if own else "fail")
        got = await (await raw(running)).ask(get())
        if own:
            assert (got.status, got.body) == (200, b"ok")
        else:
            problem(got, "no_healthy_target", 503)
        await running.gateway.drain(delay=0)


HOSTS: dict[str, tuple[dict[str, Any], dict[str, Any], Callable[[Origin], bytes]]] = {
    "pass": ({}, {}, lambda _: b"a.test:99"),
    "target": ({}, {"host": "target"}, lambda up: up.address.encode()),
    "fixed": ({}, {"host": "fixed.test"}, lambda _: b"fixed.test"),
    "rewritten": ({"rewrite": {"host": "r-{header.x-t}.test"}}, {}, lambda _: b"r-7.test"),
    "rewritten over fixed": (
        {"rewrite": {"host": "r.test"}},
        {"host": "fixed.test"},
        lambda _: b"r.test",
    ),
}


@pytest.mark.parametrize("name", HOSTS)
async def test_the_host_that_the_upstream_is_told(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, name: str
) -> None:
    route, upstream, wanted = HOSTS[name]
    up = await origin()
    running = await gateway(up, route=route, upstream=upstream)
    await (await raw(running)).ask(get(b"/", b"X-T: 7", host=b"a.test:99"))
    assert up.only.get("host") == wanted(up)
    assert up.only.get("x-forwarded-host") == b"a.test:99"
