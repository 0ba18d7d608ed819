"""The TLS transport, between a client in memory and a socket's transport that only notes what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any, cast

import pytest
import trustme

from gateway.encrypted import Encrypted

if TYPE_CHECKING:
    from collections.abc import Callable

CA = trustme.CA()
OWN = CA.issue_cert("a.test")


class Raw:
    """A socket's transport."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.calls: list[str] = []

    def write(self, data: bytes) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return bool({"close", "abort"} & set(self.calls))

    def get_write_buffer_size(self) -> int:
        return 7

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("192.0.2.1", 1)}.get(name, default)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: self.calls.append(name)


class App(asyncio.Protocol):
    """Whom the connection is for."""

    def __init__(self, *, keeps_half: bool = False) -> None:
        self.got: list[bytes] = []
        self.calls: list[str] = []
        self._keeps_half = keeps_half

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        self.got.append(data)

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self._keeps_half

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")


class Pair:
    """Both sides of a connection."""

    def __init__(self, app: App | None = None, *, verify: bool = False) -> None:
        self.raw, self.app = Raw(), app or App()
        self.failures: list[BaseException | None] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        OWN.configure_cert(context)
        if verify:
            CA.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        self.own = Encrypted(
            context, cast("Any", self.raw), agreed=lambda _: self.app, failed=self.failures.append
        )
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        CA.configure_trust(trusting)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = trusting.wrap_bio(self.incoming, self.outgoing, server_hostname="a.test")

    def carry(self, size: int = 1 << 20) -> None:
        """Bring what each side has written to the other, in pieces of `size`."""
        data = self.outgoing.read()
        for at in range(0, len(data), size):
            self.own.data_received(data[at : at + size])
        self.incoming.write(bytes(self.raw.sent))
        self.raw.sent.clear()

    def shake(self, size: int = 1 << 20) -> Pair:
        for _ in range(4):
            with contextlib.suppress(ssl.SSLWantReadError):
                self.client.do_handshake()
            self.carry(size)
        return self

    def read(self) -> bytes:
        found = b""
        try:
            while piece := self.client.read(1 << 16):
                found += piece
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        return found


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_bytes_pass_both_ways_however_they_are_cut(size: int) -> None:
    pair = Pair().shake(size)
    assert pair.app.calls == ["made"]
    body = bytes(range(256)) * 400
    pair.client.write(body)
    pair.carry(size)
    assert b"".join(pair.app.got) == body
    pair.own.write(body)
    pair.own.write(memoryview(body))
    pair.own.writelines([b"a", bytearray(b"b"), b""])
    pair.own.write(b"")
    pair.carry()
    assert pair.read() == body * 2 + b"ab"


def test_a_segment_of_many_records_is_passed_on_in_one() -> None:
    pair = Pair().shake()
    for _ in range(5):
        pair.client.write(b"x" * 100)
    pair.carry()
    assert pair.app.got == [b"x" * 500]


def test_what_is_asked_of_it_is_the_sockets_own_answer() -> None:
    pair = Pair().shake()
    assert pair.own.get_write_buffer_size() == 7
    pair.own.set_write_buffer_limits(1, 2)
    pair.own.pause_reading()
    pair.own.resume_reading()
    assert pair.raw.calls == ["set_write_buffer_limits", "pause_reading", "resume_reading"]
    assert pair.own.get_extra_info("peername") == ("192.0.2.1", 1)
    assert pair.own.get_extra_info("ssl_object") is pair.own.tls
    assert pair.own.get_extra_info("sslcontext") is pair.own.tls.context
    pair.own.pause_writing()
    pair.own.resume_writing()
    assert pair.app.calls == ["made", "pause", "resume"]


def test_to_close_says_so_to_the_client_and_waits_for_nobody() -> None:
    pair = Pair().shake()
    pair.own.write(b"last")
    pair.own.close()
    pair.own.close()
    pair.own.write(b"too late")
    assert pair.raw.calls == ["close"]
    pair.carry()
    assert pair.client.read(100) == b"last"
    assert pair.client.read(100) == b"", "close_notify: what has come is the whole"


def test_a_cut_says_nothing() -> None:
    pair = Pair().shake()
    pair.own.abort()
    assert pair.raw.calls == ["abort"]
    assert not pair.raw.sent


@pytest.mark.parametrize("keeps_half", [False, True])
def test_the_clients_end_closes_unless_somebody_goes_on_sending(keeps_half: bool) -> None:
    pair = Pair(App(keeps_half=keeps_half)).shake()
    pair.client.write(b"bye")
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.unwrap()
    pair.carry()
    assert (pair.app.got, pair.app.calls) == ([b"bye"], ["made", "eof"])
    assert pair.own.eof_received() is keeps_half
    assert pair.app.calls == ["made", "eof"], "told once"
    assert pair.raw.calls == ([] if keeps_half else ["close"])
    if keeps_half:
        pair.own.write(b"more")
        pair.own.write_eof()
        pair.own.write(b"too late")
        assert pair.raw.calls == ["write_eof"]
        pair.carry()
        assert pair.read() == b"more"


def test_an_end_without_close_notify_is_an_end_too() -> None:
    pair = Pair().shake()
    assert not pair.own.eof_received()
    pair.own.connection_lost(None)
    assert pair.app.calls == ["made", "eof", "lost"]


def test_a_broken_record_cuts_the_connection_behind_what_was_whole() -> None:
    pair = Pair().shake()
    pair.client.write(b"whole")
    whole = pair.outgoing.read()
    pair.client.write(b"broken")
    broken = bytearray(pair.outgoing.read())
    broken[-1] ^= 1
    pair.own.data_received(whole + bytes(broken))
    assert pair.app.got == [b"whole"]
    assert pair.raw.calls == ["abort"]
    pair.own.data_received(whole)
    assert pair.app.got == [b"whole"]


def test_a_failed_handshake_has_written_its_alert_and_passes_nothing_on() -> None:
    pair = Pair(verify=True)
    pair.shake()
    [failure] = pair.failures
    assert isinstance(failure, ssl.SSLError)
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        pair.client.read(100)
    pair.own.data_received(b"more")
    pair.own.close()
    assert pair.app.calls == []
    pair.own.connection_lost(None)
    assert pair.failures == [failure, None]


def test_who_leaves_during_the_handshake_is_told_of() -> None:
    pair = Pair()
    pair.own.data_received(b"\x16\x03")
    pair.own.connection_lost(None)
    assert pair.failures == [None]
