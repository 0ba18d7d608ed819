"""Certificates of clients: who has to have one, what is told of it, and to whom."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ssl
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from aiohttp import web

import gateway as package
from tests.e2e.conformance.conftest import get
from tests.kit import secure
from tests.kit.programs import need

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.running import Running

PARTNERS = trustme.CA(organization_name="Partners")
BOTH = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


def listeners(folder: Path, auth: str = "optional", **tls: Any) -> list[dict[str, Any]]:
    settings = {
        "certificates": [secure.issue(folder, "a.test")],
        "client_ca": secure.write_authority(folder, PARTNERS, "partners"),
        "client_auth": auth,
        **tls,
    }
    return [{"bind": "127.0.0.1:0", "name": "web", "tls": settings}]


def partner(folder: Path, *names: str, ca: trustme.CA = PARTNERS, **more: Any) -> dict[str, str]:
    return secure.issue(
        folder, *(names or ("billing.partner.test",)), ca=ca, stem="partner", **more
    )


def der(certificate: dict[str, str]) -> bytes:
    with open(certificate["cert"]) as stream:  # noqa: PTH123
        return ssl.PEM_cert_to_DER_cert(
            stream.read().partition("-----END")[0] + "-----END CERTIFICATE-----\n"
        )


async def ask(running: Running, context: ssl.SSLContext, session: Any = None) -> int:
    client = await secure.connect(running.address, context, session=session)
    try:
        return (await client.ask(get())).status
    finally:
        client.close()


async def refused(running: Running, context: ssl.SSLContext, session: Any = None) -> str:
    """The alert that a client is told: in TLS 1.3 its handshake is over before the gateway's."""
    with pytest.raises((ssl.SSLError, ConnectionError)) as caught:
        await ask(running, context, session)
    assert isinstance(caught.value, ssl.SSLError), "an alert, not a reset"
    return caught.value.reason or ""


@BOTH
async def test_required_lets_nobody_in_without_a_good_one_and_says_why(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    up = await origin()
    running = await gateway(up, listeners=listeners(tmp_path, "required"))
    nobody = await refused(running, secure.trusting(newest=version))
    assert nobody in ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE")
    stranger = partner(tmp_path, ca=trustme.CA())
    assert (
        await refused(running, secure.trusting(own=stranger, newest=version))
        == "TLSV1_ALERT_UNKNOWN_CA"
    )
    assert up.requests == []
    await running.eventually("gateway_connections_refused_total", 2, reason="client_certificate")
    client = await secure.connect(
        running.address, secure.trusting(own=partner(tmp_path), newest=version)
    )
    assert (await client.ask(get())).status == 200
    client.close()
    assert running.gateway._admission.total <= 1


@BOTH
async def test_optional_lets_in_without_one_but_not_with_a_bad_one(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    up = await origin()
    route = {"headers": {"request": {"set": {"X-Who": "{tls.san_dns|nobody}"}}}}
    running = await gateway(up, route=route, listeners=listeners(tmp_path))
    client = await secure.connect(running.address, secure.trusting(newest=version))
    assert (await client.ask(get())).status == 200
    client.close()
    context = secure.trusting(own=partner(tmp_path), newest=version)
    client = await secure.connect(running.address, context)
    assert (await client.ask(get())).status == 200
    client.close()
    assert [sent.get("x-who") for sent in up.requests] == [b"nobody", b"billing.partner.test"]
    stranger = secure.trusting(own=partner(tmp_path, ca=trustme.CA()), newest=version)
    assert await refused(running, stranger) == "TLSV1_ALERT_UNKNOWN_CA"


@BOTH
async def test_a_resumed_session_is_still_that_clients(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    up = await origin()
    route = {"headers": {"request": {"set": {"X-Who": "{tls.san_dns|nobody}"}}}}
    running = await gateway(up, route=route, listeners=listeners(tmp_path, "required"))
    context = secure.trusting(own=partner(tmp_path), newest=version)
    first = await secure.connect(running.address, context)
    assert (await first.ask(get())).status == 200
    second = await secure.connect(running.address, context, session=first.tls.session)
    assert second.tls.session_reused
    assert (await second.ask(get())).status == 200
    first.close()
    second.close()
    assert [sent.get("x-who") for sent in up.requests] == [b"billing.partner.test"] * 2


async def test_another_authority_ends_the_sessions_of_the_former(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    running = await gateway(await origin(), listeners=listeners(tmp_path, "required"))
    context = secure.trusting(own=partner(tmp_path))
    first = await secure.connect(running.address, context)
    assert (await first.ask(get())).status == 200
    kept = first.tls.session
    first.close()
    secure.write_authority(tmp_path, trustme.CA(), "partners")
    for _ in range(3):
        running.clock.advance(2)
    assert await refused(running, context, kept) == "TLSV1_ALERT_UNKNOWN_CA"


async def test_the_fields_of_a_certificate_have_placeholders(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    up = await origin()
    fields = ("subject", "san_dns", "san_email", "serial", "fingerprint", "san_uri")
    wanted = {f"X-{name}": f"{{tls.{name}}}" for name in fields}
    route = {
        "headers": {
            "request": {"set": {key.replace("_", "-"): value for key, value in wanted.items()}}
        }
    }
    running = await gateway(up, route=route, listeners=listeners(tmp_path))
    own = partner(
        tmp_path, "a.partner.test", "b.partner.test", "ops@partner.test", common_name="billing"
    )
    client = await secure.connect(running.address, secure.trusting(own=own))
    await client.ask(get(b"/", b"X-San-Uri: spiffe://forged"))
    client.close()
    sent = up.only
    assert b"CN=billing" in (sent.get("x-subject") or b"")
    assert sent.get("x-san-dns") == b"a.partner.test,b.partner.test"
    assert sent.get("x-san-email") == b"ops@partner.test"
    assert sent.get("x-fingerprint") == hashlib.sha256(der(own)).hexdigest().encode()
    assert sent.get("x-serial")
    assert sent.get("x-san-uri") is None, "there is none, and a forged one does not take its place"


@pytest.mark.parametrize("forward", [False, True])
async def test_upstreams_are_told_the_certificate_as_rfc_9440_says_and_only_if_asked(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path, forward: bool
) -> None:
    up = await origin()
    running = await gateway(up, listeners=listeners(tmp_path, forward_client_cert=forward))
    own = partner(tmp_path, ca=PARTNERS.create_child_ca())
    client = await secure.connect(running.address, secure.trusting(own=own))
    for _ in range(2):
        await client.ask(get(b"/", b"Client-Cert: :Zm9yZ2Vk:", b"client-cert-chain: :Zm9yZ2Vk:"))
    client.close()
    for sent in up.requests:
        expected = b":" + base64.b64encode(der(own)) + b":"
        assert sent.get("client-cert") == (expected if forward else None)
        if not forward or sys.version_info < (3, 13):
            assert sent.get("client-cert-chain") is None
        else:
            assert len((sent.get("client-cert-chain") or b"").split(b", ")) == 2


async def test_what_a_client_says_of_a_certificate_is_dropped_on_every_listener(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    plain = {"bind": "127.0.0.1:0", "name": "plain"}
    both = [plain, *listeners(tmp_path, forward_client_cert=True)]
    running = await gateway(up, listeners=both, server={"trusted_proxies": ["127.0.0.0/8"]})
    forged = get(b"/", b"Client-Cert: :Zm9yZ2Vk:", b"CLIENT-CERT-CHAIN: :Zm9yZ2Vk:")
    client = await raw(running.gateway.addresses["plain"])
    assert (await client.ask(forged)).status == 200
    bare = await secure.connect(running.gateway.addresses["web"])
    assert (await bare.ask(forged)).status == 200
    bare.close()
    for sent in up.requests:
        assert not {b"client-cert", b"client-cert-chain"} & set(sent.names)


async def test_curl_shows_its_certificate(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    up = await origin()
    route = {"headers": {"request": {"set": {"X-Who": "{tls.san_dns}"}}}}
    running = await gateway(up, route=route, listeners=listeners(tmp_path, "required"))
    own, ca = partner(tmp_path), secure.write_authority(tmp_path)
    words = [need("curl"), "-sS", "--cacert", ca, "--resolve", f"a.test:{running.port}:127.0.0.1"]
    url = f"https://a.test:{running.port}/"

    async def curl(*more: str) -> tuple[int, bytes, bytes]:
        process = await asyncio.create_subprocess_exec(
            *words, *more, url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(10):
            out, err = await process.communicate()
        return process.returncode or 0, out, err

    assert await curl("--cert", own["cert"], "--key", own["key"]) == (0, b"ok", b"")
    assert up.only.get("x-who") == b"billing.partner.test"
    code, _, why = await curl()
    assert code
    assert b"alert" in why


async def test_somebody_elses_server_may_end_tls_and_ask_for_certificates(
    origin: MakeOrigin, tmp_path: Path
) -> None:
    up = await origin()
    told = {"X-Tls": "{scheme} {tls.version} {tls.san_dns}"}
    route = {"path": "/*", "to": up.url, "headers": {"request": {"set": told}}}
    runner = package.runner({"routes": [route], "observability": {"access_log": "off"}})
    own = secure.issue(tmp_path, "a.test")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(own["cert"], own["key"])
    PARTNERS.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        address = f"127.0.0.1:{runner.addresses[0][1]}"
        client = await secure.connect(address, secure.trusting(own=partner(tmp_path)))
        assert (await client.ask(get(b"/", b"Client-Cert: :Zm9yZ2Vk:"))).status == 200
        client.close()
    finally:
        await runner.cleanup()
    assert up.only.get("x-tls") == b"https TLSv1.3 billing.partner.test"
    assert up.only.get("client-cert") is None
