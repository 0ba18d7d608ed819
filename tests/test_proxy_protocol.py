"""What a PROXY header says, byte by byte."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy_protocol import LONGEST, Header, Malformed, Senders, read

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def v2(
    rest: bytes = b"", *, command: int = 0x21, family: int = 0x11, length: int | None = None
) -> bytes:
    size = len(rest) if length is None else length
    return SIGNATURE + bytes((command, family)) + struct.pack("!H", size) + rest


def inet(source: str, target: str = "192.0.2.9") -> bytes:
    return socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!HH", 4000, 443)


def inet6(source: str, target: str = "2001:db8::9") -> bytes:
    family = socket.AF_INET6
    packed = socket.inet_pton(family, source) + socket.inet_pton(family, target)
    return packed + struct.pack("!HH", 4000, 443)


TLV = b"\x01\x00\x05alpn1\x03\x00\x04abcd"

GOOD = [
    pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.9 4000 443\r\n", "192.0.2.1", id="v1-ipv4"),
    pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.9 0 65535\r\n", "192.0.2.1", id="v1-ports"),
    pytest.param(b"PROXY TCP6 2001:DB8::1 2001:db8::9 4000 443\r\n", "2001:db8::1", id="v1-ipv6"),
    pytest.param(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 4000 443\r\n", "192.0.2.1", id="v1-mapped"),
    pytest.param(b"PROXY UNKNOWN\r\n", None, id="v1-unknown"),
    pytest.param(b"PROXY UNKNOWN ffff:f...f 1 2 3\r\n", None, id="v1-unknown-with-words"),
    pytest.param(v2(inet("192.0.2.1")), "192.0.2.1", id="v2-ipv4"),
    pytest.param(v2(inet("192.0.2.1") + TLV), "192.0.2.1", id="v2-records"),
    pytest.param(v2(inet6("2001:db8::1"), family=0x21), "2001:db8::1", id="v2-ipv6"),
    pytest.param(v2(inet6("::ffff:192.0.2.1"), family=0x21), "192.0.2.1", id="v2-mapped"),
    pytest.param(v2(b"/run/a".ljust(216, b"\0"), family=0x31), "unix", id="v2-unix"),
    pytest.param(v2(family=0x00), None, id="v2-unspecified"),
    pytest.param(v2(TLV, family=0x00), None, id="v2-unspecified-records"),
    pytest.param(v2(inet("192.0.2.1"), family=0x12), None, id="v2-datagram"),
    pytest.param(v2(command=0x20), None, id="v2-local-without-addresses"),
    pytest.param(v2(inet("192.0.2.1"), command=0x20), None, id="v2-local"),
    pytest.param(v2(bytes(LONGEST - 16), family=0x00), None, id="v2-longest"),
]

BAD = [
    pytest.param(b"GET / HTTP/1.1\r\n", id="http"),
    pytest.param(b"POST / HTTP/1.1\r\n", id="http-with-a-p"),
    pytest.param(b"PRI * HTTP/2.0\r\n", id="http2"),
    pytest.param(b"\x16\x03\x01", id="tls"),
    pytest.param(b"proxy TCP4 192.0.2.1 192.0.2.9 4000 443\r\n", id="small-letters"),
    pytest.param(b"PROXY TCP4  192.0.2.1 192.0.2.9 4000 443\r\n", id="two-spaces"),
    pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.9 4000\r\n", id="a-port-missing"),
    pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.9 4000 443 \r\n", id="a-space-behind"),
    pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.9 4000 65536\r\n", id="a-port-too-high"),
    pytest.param(b"PROXY TCP4 192.0.2.1 192.0.2.9 04000 443\r\n", id="a-port-with-zero"),
    pytest.param(b"PROXY TCP4 192.0.2.01 192.0.2.9 4000 443\r\n", id="an-octet-with-zero"),
    pytest.param(b"PROXY TCP4 2001:db8::1 2001:db8::9 4000 443\r\n", id="ipv6-as-tcp4"),
    pytest.param(b"PROXY TCP6 192.0.2.1 192.0.2.9 4000 443\r\n", id="ipv4-as-tcp6"),
    pytest.param(b"PROXY TCP6 fe80::1%eth0 fe80::2 4000 443\r\n", id="a-zone"),
    pytest.param(b"PROXY UDP4 192.0.2.1 192.0.2.9 4000 443\r\n", id="udp"),
    pytest.param(b"PROXY \r\n", id="nothing"),
    pytest.param(b"PROXY TCP4 192.0.2.1\n192.0.2.9 4000 443\r\n", id="a-newline"),
    pytest.param(b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n", id="too-long"),
    pytest.param(b"PROXY TCP4 " + b"1" * 200, id="endless"),
    pytest.param(v2(inet("192.0.2.1"), command=0x11), id="v2-of-version-1"),
    pytest.param(v2(inet("192.0.2.1"), command=0x22), id="v2-command"),
    pytest.param(v2(inet("192.0.2.1"), family=0x41), id="v2-family"),
    pytest.param(v2(inet("192.0.2.1"), family=0x13), id="v2-transport"),
    pytest.param(v2(inet("192.0.2.1")[:11]), id="v2-cut-off"),
    pytest.param(v2(inet6("2001:db8::1")[:12], family=0x21), id="v2-ipv6-cut-off"),
    pytest.param(v2(length=LONGEST - 15), id="v2-too-long"),
    pytest.param(v2(length=0xFFFF, command=0x20), id="v2-local-too-long"),
]


@pytest.mark.parametrize(("data", "source"), GOOD)
def test_a_header_names_the_source_and_where_the_client_begins(
    data: bytes, source: str | None
) -> None:
    assert read(data) == Header(source, len(data))
    assert read(data + b"GET / HTTP/1.1\r\n\r\n") == Header(source, len(data))


@pytest.mark.parametrize(("data", "source"), GOOD)
def test_a_header_that_is_cut_anywhere_asks_for_more(data: bytes, source: str | None) -> None:
    for end in range(len(data)):
        assert read(data[:end]) is None


@pytest.mark.parametrize("data", BAD)
def test_what_is_no_header_is_malformed_at_the_latest_when_all_of_it_is_there(data: bytes) -> None:
    with pytest.raises(Malformed):
        read(data)


@given(st.binary(max_size=300), st.booleans())
def test_whatever_comes_is_read_refused_or_waited_for(data: bytes, signed: bool) -> None:
    data = SIGNATURE + data if signed else data
    try:
        header = read(data)
    except Malformed:
        return
    if header is None:
        assert len(data) < LONGEST
    else:
        assert header.size <= len(data)
        assert header.source in (None, "unix") or str(ip_address(header.source)) == header.source


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 65535), st.integers(0, 300))
def test_both_versions_name_the_address_that_was_written(
    source: object, target: object, port: int, cut: int
) -> None:
    one, other = ip_address(str(source)), ip_address(str(target))
    if one.version != other.version:
        return
    line = f"PROXY TCP{one.version} {one} {other} {port} 1\r\n".encode()
    rest = one.packed + other.packed + struct.pack("!HH", port, 1)
    binary = v2(rest, family=0x11 if one.version == 4 else 0x21)
    expected = str(getattr(one, "ipv4_mapped", None) or one)
    for data in (line, binary):
        assert read(data) == Header(expected, len(data))
        assert cut >= len(data) or read(data[:cut]) is None


def test_only_those_who_are_named_may_send_one() -> None:
    some = Senders([ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")])
    assert some.trust("10.1.2.3")
    assert some.trust("::ffff:10.1.2.3")
    assert some.trust("2001:db8::1%eth0")
    assert not some.trust("192.0.2.1")
    assert not some.trust("unix")
    assert not some.trust("")
    assert Senders(["unix"]).trust("unix")
    assert not Senders(["unix"]).trust("10.1.2.3")
