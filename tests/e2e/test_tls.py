"""Listeners with TLS: which certificate is served, what is agreed upon, what changes on disk."""

from __future__ import annotations

import asyncio
import datetime
import os
import ssl
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.config import ConfigError, load, load_dict, model
from gateway.runtime.entrances import LOOK
from gateway.runtime.gateway import Gateway
from tests.e2e.conformance.conftest import get, problem
from tests.kit import secure
from tests.kit.programs import need

if TYPE_CHECKING:
    from gateway.observe.events import Event
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.running import Running

EXAMPLE = Path(__file__).parents[2] / "config" / "examples" / "tls.yaml"
NOW = datetime.datetime.now(datetime.UTC)


def listener(*certificates: dict[str, str], **tls: Any) -> dict[str, Any]:
    return {"bind": "127.0.0.1:0", "name": "web", "tls": {"certificates": [*certificates], **tls}}


async def served(running: Running, name: str | None, **how: Any) -> tuple[str, ...]:
    """The DNS names of the certificate that a client is served who asks for a name."""
    context = secure.trusting(**how)
    context.check_hostname = False
    client = await secure.connect(running.address, context, name)
    found = client.tls.getpeercert() or {}
    client.close()
    return tuple(value for kind, value in found["subjectAltName"] if kind == "DNS")  # type: ignore[misc]


def kinds(running: Running) -> list[str]:
    return [event.kind for event in told(running)]


def told(running: Running) -> list[Event]:
    """Events of certificates: a clock that leaps makes others, too."""
    return [one for one in running.gateway.events.select() if one.kind.startswith("certificate")]


async def openssl(running: Running, *words: str, send: bytes = b"") -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        need("openssl"), "s_client", "-connect", running.address, *words,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(10):
        said, _ = await process.communicate(send)
    return process.returncode or 0, said.decode("latin-1")


# ── what a request sees ──


async def test_a_request_over_tls_is_https_to_routes_upstreams_and_the_log(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    route = {"headers": {"request": {"set": {"X-Tls": "{scheme} {tls.version} {tls.server_name}"}}}}
    running = await gateway(up, route=route, listeners=[listener(secure.issue(tmp_path, "a.test"))])
    client = await secure.connect(running.address)
    for _ in range(2):
        assert (await client.ask(get())).status == 200
    client.close()
    for sent in up.requests:
        assert sent.get("x-forwarded-proto") == b"https"
        assert sent.get("x-forwarded-port") == b"443"
        assert sent.get("x-tls") == b"https TLSv1.3 a.test"
    assert [line["tls"] for line in await running.log(2)] == ["TLSv1.3", "TLSv1.3"]


async def test_a_plain_listener_has_no_tls_to_tell_of(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    route = {"headers": {"request": {"set": {"X-Tls": "{tls.version}", "X-S": "{scheme}"}}}}
    running = await gateway(up, route=route)
    client = await raw(running)
    await client.ask(get(b"/", b"X-Tls: forged"))
    assert up.only.get("x-tls") is None
    assert up.only.get("x-s") == b"http"
    assert (await running.log())[0]["tls"] is None


async def test_the_example_speaks_tls_with_its_own_certificate() -> None:
    config = load(EXAMPLE)
    free = tuple(
        one.model_copy(update={"bind": model.Bind(host="127.0.0.1", port=0)})
        for one in config.listeners
    )
    async with Gateway(replace(config, listeners=free, admin=None)) as running:
        context = ssl.create_default_context(cafile=EXAMPLE.parent / "certificates" / "example.crt")
        for own, said in ((False, b"nobody"), (True, b"CN=for trying only")):
            if own:
                folder = EXAMPLE.parent / "certificates"
                context.load_cert_chain(folder / "example.crt", folder / "example.key")
            client = await secure.connect(running.addresses["web"], context, "localhost")
            answer = await client.ask(get(b"/whoami", host=b"localhost:8443"))
            assert answer.body == b"TLSv1.3, and you are " + said + b"\n"
            client.close()


# ── which certificate ──


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("a.test", ("a.test", "www.a.test")),
        ("WWW.A.test", ("a.test", "www.a.test")),
        ("x.b.test", ("*.b.test",)),
        ("exact.b.test", ("exact.b.test",)),
        ("b.test", ("a.test", "www.a.test")),
        ("y.x.b.test", ("a.test", "www.a.test")),
        ("unknown.test", ("a.test", "www.a.test")),
        (None, ("a.test", "www.a.test")),
    ],
)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_the_name_that_is_asked_for_chooses_exact_then_wildcard_else_the_first(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path,
    asked: str | None, names: tuple[str, ...], version: ssl.TLSVersion,
) -> None:  # fmt: skip
    certificates = [
        secure.issue(tmp_path, *each)
        for each in (("a.test", "www.a.test"), ("*.b.test",), ("exact.b.test",))
    ]
    running = await gateway(await origin(), listeners=[listener(*certificates)])
    assert await served(running, asked, newest=version) == names


@pytest.mark.parametrize(
    ("host", "status"),
    [(b"a.test", 200), (b"www.a.test:8443", 200), (b"c.test", 421), (b"x.b.test", 421), (b"unknown.test", 200)],
)  # fmt: skip
async def test_a_host_of_another_certificate_is_misdirected(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path, host: bytes, status: int
) -> None:
    certificates = [
        secure.issue(tmp_path, *each) for each in (("a.test", "www.a.test"), ("c.test", "*.b.test"))
    ]
    running = await gateway(await origin(), listeners=[listener(*certificates)])
    client = await secure.connect(running.address, name="a.test")
    assert (await client.ask(get())).status == 200
    answer = await client.ask(get(host=host))
    if status == 421:
        problem(answer, "misdirected", 421)
        assert (await client.ask(get())).status == 200, "the connection is still good for its own"
    assert answer.status == status
    client.close()


async def test_without_a_name_or_from_a_trusted_proxy_no_host_is_misdirected(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    certificates = [secure.issue(tmp_path, "a.test"), secure.issue(tmp_path, "c.test")]
    up = await origin()
    running = await gateway(up, listeners=[listener(*certificates)])
    client = await secure.connect(running.address, name=None)
    assert (await client.ask(get(host=b"c.test"))).status == 200
    client.close()
    trusting = {"trusted_proxies": ["127.0.0.0/8"]}
    running = await gateway(up, listeners=[listener(*certificates)], server=trusting)
    client = await secure.connect(running.address, name="a.test")
    assert (await client.ask(get(host=b"c.test"))).status == 200
    client.close()


# ── what is agreed upon ──


async def test_the_oldest_version_and_the_ciphers_are_as_written(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    certificate = secure.issue(tmp_path, "a.test")
    up = await origin()
    new = await gateway(up, listeners=[listener(certificate, min_version="1.3")])
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        await secure.connect(new.address, secure.trusting(newest=ssl.TLSVersion.TLSv1_2))
    await new.eventually("gateway_connections_refused_total", 1, listener="web", reason="handshake")
    cipher = "ECDHE-ECDSA-AES128-GCM-SHA256"
    old = await gateway(up, listeners=[listener(certificate, ciphers=cipher)])
    context = secure.trusting(newest=ssl.TLSVersion.TLSv1_2)
    client = await secure.connect(old.address, context)
    assert (client.tls.cipher() or ("",))[0] == cipher
    assert client.tls.compression() is None
    client.close()
    context.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305")
    with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
        await secure.connect(old.address, context)


async def test_http_1_1_is_what_is_agreed_upon(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    running = await gateway(await origin(), listeners=[listener(secure.issue(tmp_path, "a.test"))])
    context = secure.trusting()
    context.set_alpn_protocols(["h2", "http/1.1"])
    client = await secure.connect(running.address, context)
    assert client.tls.selected_alpn_protocol() == "http/1.1"
    client.close()


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_openssl_resumes_its_session_also_after_a_reload(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path, version: str
) -> None:
    certificates = [secure.issue(tmp_path, "a.test"), secure.issue(tmp_path, "b.test")]
    up = await origin()
    config = {"listeners": [listener(*certificates)], "routes": [{"path": "/*", "to": up.url}]}
    running = await gateway(config)
    kept = str(tmp_path / "session")
    ask = get(b"/", b"Connection: close", host=b"b.test")
    words = (version, "-servername", "b.test", "-ign_eof")
    code, said = await openssl(running, *words, "-sess_out", kept, send=ask)
    assert code == 0
    assert "New, TLS" in said
    again = {**config, "admin": "off", "server": {"name": "other"}}
    await running.gateway.reload(load_dict(again))
    code, said = await openssl(running, *words, "-sess_in", kept, send=ask)
    assert code == 0
    assert "Reused, TLS" in said
    assert "200 OK" in said


async def test_keys_of_tickets_last_a_day(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    running = await gateway(await origin(), listeners=[listener(secure.issue(tmp_path, "a.test"))])
    running.clock.advance(LOOK)
    context = secure.trusting()
    first = await secure.connect(running.address, context)
    assert (await first.ask(get())).status == 200
    session = first.tls.session
    first.close()
    for days, reused in ((0.5, True), (0.6, False)):
        running.clock.advance(days * 86_400)
        again = await secure.connect(running.address, context, session=session)
        assert again.tls.session_reused is reused
        assert (await again.ask(get())).status == 200
        again.close()


async def test_renegotiation_is_refused(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    running = await gateway(await origin(), listeners=[listener(secure.issue(tmp_path, "a.test"))])
    _, said = await openssl(running, "-tls1_2", send=b"R\n")
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said


async def test_a_port_of_https_tells_who_speaks_http_to_it(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    running = await gateway(up, listeners=[listener(secure.issue(tmp_path, "a.test"))])
    client = await raw(running)
    await client.send(get() + get())
    answer = await client.response()
    problem(answer, "bad_request", 400)
    assert b"This port speaks HTTPS" in answer.body
    assert await client.closed() == "fin"
    assert up.requests == []
    assert running.metric("gateway_connections_refused_total", reason="plain_http") == 1


async def test_redirects_to_https_know_the_hosts_of_certificates(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    plain = {"bind": "127.0.0.1:0", "name": "plain", "redirect_to_https": True}
    certificate = secure.issue(tmp_path, "a.test", "*.b.test")
    running = await gateway(await origin(), listeners=[plain, listener(certificate)])
    client = await raw(running.gateway.addresses["plain"])
    for host, status in ((b"a.test", 308), (b"x.b.test", 308), (b"evil.test", 200)):
        answer = await client.ask(get(b"/x?y", host=host))
        assert answer.status == status
        if status == 308:
            assert answer.get("location") == b"https://" + host + b"/x?y"


# ── what changes on disk ──


async def look(running: Running, times: int = 2) -> None:
    for _ in range(times):
        running.clock.advance(LOOK)


async def test_a_new_certificate_is_served_to_new_connections_and_none_is_dropped(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    certificate = secure.issue(tmp_path, "a.test")
    running = await gateway(await origin(), listeners=[listener(certificate)])
    await look(running)
    old = await secure.connect(running.address)
    secure.issue(tmp_path, "a.test", "new.test", stem="a.test")
    await look(running)
    assert await served(running, "a.test") == ("a.test", "new.test")
    assert (await old.ask(get())).status == 200
    old.close()
    assert kinds(running) == ["certificate_reloaded"]
    exposed = running.metric(
        "gateway_tls_certificate_not_after_timestamp_seconds", names="a.test new.test"
    )
    assert exposed > NOW.timestamp()


async def test_links_that_are_swapped_as_kubernetes_does_are_followed(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    def version(number: int, *names: str) -> str:
        folder = tmp_path / f"..{number}"
        folder.mkdir()
        secure.issue(folder, *names, stem="tls")
        return folder.name

    (tmp_path / "..data").symlink_to(version(1, "a.test"))
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    certificate = {"cert": str(tmp_path / "tls.crt"), "key": str(tmp_path / "tls.key")}
    running = await gateway(await origin(), listeners=[listener(certificate)])
    (tmp_path / "..data_tmp").symlink_to(version(2, "a.test", "two.test"))
    os.rename(tmp_path / "..data_tmp", tmp_path / "..data")  # noqa: PTH104 - as kubelet does
    await look(running, 3)
    assert await served(running, "a.test") == ("a.test", "two.test")


async def test_a_broken_file_keeps_the_old_certificate_and_is_said_once(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    certificate = secure.issue(tmp_path, "a.test")
    running = await gateway(await origin(), listeners=[listener(certificate)])
    await look(running)
    other = secure.issue(tmp_path, "other.test")
    cert, key = tmp_path / "a.test.crt", tmp_path / "a.test.key"
    good = cert.read_bytes(), key.read_bytes()
    cert.write_bytes((tmp_path / "other.test.crt").read_bytes())
    await look(running, 4)
    assert await served(running, "a.test") == ("a.test",)
    [event] = told(running)
    assert event.kind == "certificate_failed"
    assert "does not belong to the certificate" in event.why
    assert str(key) in event.why
    key.unlink()
    await look(running, 3)
    assert kinds(running)[1:] == ["certificate_failed"]
    key.write_bytes((tmp_path / "other.test.key").read_bytes())
    await look(running, 3)
    assert kinds(running)[2:] == ["certificate_reloaded"]
    assert await served(running, "a.test") == ("other.test",)
    assert good
    assert other


async def test_files_that_are_not_watched_are_read_by_a_reload(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    certificate = secure.issue(tmp_path, "a.test")
    running = await gateway(await origin(), listeners=[listener(certificate, watch=False)])
    secure.issue(tmp_path, "a.test", "new.test", stem="a.test")
    await look(running, 3)
    assert await served(running, "a.test") == ("a.test",)
    await running.gateway.reload(running.gateway.snapshot.config)
    assert await served(running, "a.test") == ("a.test", "new.test")


async def test_a_reload_with_a_broken_file_is_refused_and_changes_nothing(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    certificate = secure.issue(tmp_path, "a.test")
    running = await gateway(await origin(), listeners=[listener(certificate)])
    (tmp_path / "a.test.key").write_text("no key")
    with pytest.raises(ValueError, match=r"a\.test\.key"):
        await running.gateway.reload(running.gateway.snapshot.config)
    assert running.gateway.generation == 1
    assert await served(running, "a.test") == ("a.test",)


async def test_tls_comes_and_goes_with_a_reload(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    up = await origin()
    certificate = secure.issue(tmp_path, "a.test")
    plain = {"bind": "127.0.0.1:0", "name": "web"}
    config = {"routes": [{"path": "/*", "to": up.url}], "admin": "off"}
    running = await gateway({**config, "listeners": [plain]})
    before = await raw(running)
    assert (await before.ask(get())).status == 200
    address = running.address
    await running.gateway.reload(load_dict({**config, "listeners": [listener(certificate)]}))
    assert running.address == address
    assert (await before.ask(get())).status == 200, "who is in, stays"
    client = await secure.connect(running.address)
    assert (await client.ask(get())).status == 200
    await running.gateway.reload(load_dict({**config, "listeners": [plain]}))
    assert (await client.ask(get())).status == 200
    client.close()
    assert (await (await raw(running)).ask(get())).status == 200


@pytest.mark.parametrize(
    ("days", "said"),
    [(30, None), (20, "ends in 19 days"), (1, "ends in 0 days"), (-1, "has ended")],
)
async def test_a_certificate_that_ends_soon_is_told_at_load_and_every_day(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path, days: int, said: str | None
) -> None:
    end = NOW + datetime.timedelta(days=days)
    start = NOW - datetime.timedelta(days=100)
    certificate = secure.issue(tmp_path, "a.test", not_before=start, not_after=end)
    running = await gateway(await origin(), listeners=[listener(certificate)])
    assert kinds(running) == ([] if said is None else ["certificate_expiring"])
    assert all(said in event.why and "a.test.crt" in event.why for event in told(running) if said)
    exposed = running.metric("gateway_tls_certificate_not_after_timestamp_seconds", names="a.test")
    assert exposed == pytest.approx(end.timestamp(), abs=2)
    for _ in range(4):
        running.clock.advance(86_400 / 2 + 10)
    assert len(told(running)) == (0 if said is None else 3)


# ── what is wrong with files ──


async def test_what_is_wrong_with_a_file_is_said_in_a_sentence_that_names_it(
    tmp_path: Path,
) -> None:
    good, other = secure.issue(tmp_path, "a.test"), secure.issue(tmp_path, "b.test")
    locked = tmp_path / "locked.key"
    words = ["pkey", "-in", good["key"], "-aes128", "-passout", "pass:x", "-out", str(locked)]
    process = await asyncio.create_subprocess_exec(need("openssl"), *words)
    assert await process.wait() == 0
    text = tmp_path / "text"
    text.write_text("nothing")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"certificates": [{"cert": good["cert"], "key": other["key"]}]}, "key .*b.test.key does not belong to"),
        ({"certificates": [{"cert": good["cert"], "key": str(locked)}]}, "key .*locked.key is encrypted.*passphrase"),
        ({"certificates": [{"cert": str(text), "key": good["key"]}]}, "no PEM certificate .*text"),
        ({"certificates": [{"cert": good["cert"], "key": str(text)}]}, "no PEM private key .*text"),
        ({"certificates": [{"cert": good["key"], "key": good["cert"]}]}, r"\[0\].cert: there is no PEM .*a.test.key"),
        ({"certificates": [good["cert"]]}, "no PEM private key .*a.test.crt"),
        ({"certificates": [good], "ciphers": "NONE-SUCH"}, "ciphers: OpenSSL knows none of 'NONE-SUCH'"),
        ({"certificates": [good], "client_ca": str(text), "client_auth": "optional"}, "client_ca: there is no PEM .*text"),
    ]  # fmt: skip
    for tls, sentence in cases:
        config = {
            "listeners": [{"bind": "127.0.0.1:0", "tls": tls}],
            "admin": "off",
            "routes": [{"path": "/*", "respond": {"status": 204}}],
        }
        with pytest.raises(ConfigError, match=sentence):
            load_dict(config)


async def test_a_certificate_and_its_key_may_be_one_file(
    origin: MakeOrigin, gateway: MakeGateway, tmp_path: Path
) -> None:
    pair = secure.issue(tmp_path, "a.test")
    both = tmp_path / "both.pem"
    both.write_bytes(
        (tmp_path / "a.test.crt").read_bytes() + (tmp_path / "a.test.key").read_bytes()
    )
    assert pair
    tls = {"certificates": str(both)}
    running = await gateway(await origin(), listeners=[{"bind": "127.0.0.1:0", "tls": tls}])
    assert await served(running, "a.test") == ("a.test",)
