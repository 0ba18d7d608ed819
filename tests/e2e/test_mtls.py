"""`mtls`, over real handshakes: who a client is by its certificate, and who comes without one."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from tests.e2e.conformance.conftest import get, problem
from tests.kit import secure
from tests.kit.programs import need
from tests.kit.secure import authority, issue, trusting, write_authority

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeGateway, MakeOrigin
    from tests.kit.origin import Origin
    from tests.kit.running import Running

FORWARD = {"X-Machine": "{tls.san_dns}", "X-Who": "{consumer}"}


async def guarded(
    gateway: MakeGateway, up: Origin, folder: Path, asked: str = "optional", **settings: Any
) -> Running:
    """A gateway whose listener asks for certificates, and whose route wants one."""
    tls = {
        "certificates": [issue(folder, "a.test")],
        "client_ca": write_authority(folder),
        "client_auth": asked,
    }
    return await gateway(
        up,
        route={"auth": "machines"},
        auth={"machines": {"mtls": {"forward": FORWARD, **settings}}},
        listeners=[{"bind": "127.0.0.1:0", "tls": tls}],
    )


async def once(running: Running, own: dict[str, str]) -> int:
    """The status of one request. With TLS 1.3 a client is told of a refusal behind the handshake only."""
    client = await secure.connect(running.address, trusting(own=own))
    try:
        return (await client.ask(get())).status
    finally:
        client.close()


async def test_a_client_is_who_its_certificate_says(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    up = await origin()
    running = await guarded(gateway, up, tmp_path, consumer="{tls.san_dns}")
    own = issue(tmp_path, "Billing.internal", common_name="billing")
    client = await secure.connect(running.address, trusting(own=own))
    for _ in range(2):
        answer = await client.ask(get(b"/", b"X-Machine: forged", b"x-who: forged"))
        assert (answer.status, answer.body) == (200, b"ok")
        assert up.requests[-1].all("x-machine") == [b"billing.internal"]
        assert up.requests[-1].all("x-who") == [b"billing.internal"]
    client.close()
    await running.eventually("gateway_auth_decisions_total", 2, policy="machines", outcome="ok")


async def test_without_a_certificate_it_is_401_and_forged_fields_do_not_count(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    up = await origin()
    running = await guarded(gateway, up, tmp_path)
    client = await secure.connect(running.address)
    forged = (
        b"Client-Cert: :YQ==:",
        b"X-SSL-Client-Verify: SUCCESS",
        b"X-Client-Cert-Dn: CN=billing",
    )
    answer = await client.ask(get(b"/", *forged))
    problem(answer, "unauthenticated", 401)
    assert answer.get("www-authenticate") == b"Certificate"
    client.close()
    assert up.requests == []
    await running.eventually(
        "gateway_auth_decisions_total", 1, policy="machines", outcome="missing"
    )


@pytest.mark.parametrize("asked", ["optional", "required"])
async def test_a_certificate_of_another_authority_ends_the_handshake(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path, asked: str
) -> None:
    up = await origin()
    running = await guarded(gateway, up, tmp_path, asked)
    own = issue(tmp_path, "billing.internal", ca=trustme.CA(), stem="stranger")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await once(running, own)
    assert up.requests == []


async def test_a_certificate_without_the_name_that_is_asked_for_is_nobodys(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    up = await origin()
    running = await guarded(gateway, up, tmp_path, consumer="{tls.san_dns}")
    own = issue(tmp_path, "billing@example.com", common_name="billing.internal", stem="mail")
    client = await secure.connect(running.address, trusting(own=own))
    problem(await client.ask(get()), "unauthenticated", 401)
    client.close()
    assert up.requests == []
    await running.eventually(
        "gateway_auth_decisions_total", 1, policy="machines", outcome="unknown_key"
    )


async def test_a_session_that_is_resumed_has_its_certificate(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    up = await origin()
    running = await guarded(gateway, up, tmp_path)
    context = trusting(own=issue(tmp_path, "billing.internal"), newest=ssl.TLSVersion.TLSv1_2)
    first = await secure.connect(running.address, context)
    assert (await first.ask(get())).status == 200
    session = first.tls.session
    first.close()
    again = await secure.connect(running.address, context, session=session)
    assert again.tls.session_reused
    assert (await again.ask(get())).status == 200
    again.close()
    assert [one.get("x-who") for one in up.requests] == [b"billing.internal"] * 2


async def test_curl_and_openssl_come_in_with_their_certificates(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    up = await origin()
    running = await guarded(gateway, up, tmp_path)
    own, ca = issue(tmp_path, "billing.internal"), write_authority(tmp_path, authority(), "trusted")
    curl = need("curl")
    where = [
        "--cacert",
        ca,
        "--resolve",
        f"a.test:{running.port}:127.0.0.1",
        "-sS",
        "-w",
        "%{http_code}",
    ]
    for shown, said in (((), b"401"), (("--cert", own["cert"], "--key", own["key"]), b"200")):
        done = await asyncio.to_thread(
            subprocess.run, [curl, *where, *shown, f"https://a.test:{running.port}/"], capture_output=True, check=True
        )  # fmt: skip
        assert done.stdout.endswith(said), done
    assert up.only.get("x-who") == b"billing.internal"


async def test_a_signature_may_stand_in_where_there_is_no_certificate(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    from tests.auth import signing

    up = await origin()
    tls = {
        "certificates": [issue(tmp_path, "a.test")],
        "client_ca": write_authority(tmp_path),
        "client_auth": "optional",
    }
    auth = {"machines": {"mtls": {}}, "signed": {"hmac": {"secret": signing.SECRET}}}
    route = {
        "auth": ["machines", "signed"],
        "headers": {"request": {"set": {"X-Consumer": "{consumer}"}}},
    }
    listeners = [{"bind": "127.0.0.1:0", "tls": tls}]
    running = await gateway(up, route=route, auth=auth, listeners=listeners)
    client = await secure.connect(running.address)
    sent = signing.lines(signing.request(b"", running.clock.wall(), method="GET"))
    assert (await client.ask(get(b"/", *sent))).status == 200
    client.close()
    client = await secure.connect(running.address, trusting(own=issue(tmp_path, "b.internal")))
    assert (await client.ask(get())).status == 200
    client.close()
    assert [one.get("x-consumer") for one in up.requests] == [b"signed", b"b.internal"]
