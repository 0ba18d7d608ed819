"""Targets by name, asked of a real name server on a loopback port."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dns.name
import dns.nameserver
import dns.rcode
import dns.resolver
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from gateway.tasks import spawn
from gateway.upstream import names
from gateway.upstream.discovery import Found, NotFound
from gateway.upstream.names import Names
from tests.kit.clock import FakeClock
from tests.kit.dns import NameServer, name_server
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NAME = "users.test"


@dataclass(frozen=True)
class Settings:
    """`discover:` as far as names need it."""

    dns: str | None = NAME
    srv: str | None = None
    port: int | None = 8000
    scheme: str = "http"
    nameservers: tuple[str, ...] = ()


@pytest_asyncio.fixture
async def server() -> AsyncIterator[NameServer]:
    async with name_server() as made:
        yield made


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def by_name(server: NameServer, clock: FakeClock, *, scheme: str = "http") -> Names:
    return Names(Settings(scheme=scheme, nameservers=(server.address,)), 30.0, clock)


def by_service(server: NameServer, clock: FakeClock) -> Names:
    settings = Settings(dns=None, srv="_http._tcp.test", port=None, nameservers=(server.address,))
    return Names(settings, 30.0, clock)


async def found(source: Names) -> list[Found]:
    return list((await source.look()).targets)


async def urls(source: Names) -> list[str]:
    return sorted(one.url for one in await found(source))


async def why(source: Names) -> str:
    with pytest.raises(NotFound) as caught:
        await source.look()
    return str(caught.value)


# ── A and AAAA ──


async def test_each_address_of_a_name_is_a_target(server: NameServer, clock: FakeClock) -> None:
    server.records[NAME, "A"] = ["127.0.0.2", "127.0.0.1"]
    assert await urls(by_name(server, clock)) == ["http://127.0.0.1:8000", "http://127.0.0.2:8000"]
    assert sorted(server.asked) == [(NAME, "A", "udp"), (NAME, "AAAA", "udp")]


async def test_an_address_that_was_renumbered_is_seen_at_the_next_look(
    server: NameServer, clock: FakeClock
) -> None:
    source = by_name(server, clock)
    server.records[NAME, "A"] = ["127.0.0.1"]
    assert await urls(source) == ["http://127.0.0.1:8000"]
    server.records[NAME, "A"] = ["127.0.0.7"]
    assert await urls(source) == ["http://127.0.0.7:8000"]


async def test_an_address_of_ipv6_is_a_target(server: NameServer, clock: FakeClock) -> None:
    server.records[NAME, "AAAA"] = ["::1"]
    assert await urls(by_name(server, clock)) == ["http://[::1]:8000"]


async def test_of_two_families_the_one_without_a_route_is_left_out(
    server: NameServer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.records[NAME, "A"] = ["127.0.0.1"]
    server.records[NAME, "AAAA"] = ["2001:db8::1"]
    monkeypatch.setattr(names, "_routed", lambda address, port: ":" not in address)
    assert await urls(by_name(server, clock)) == ["http://127.0.0.1:8000"]
    monkeypatch.setattr(names, "_routed", lambda address, port: True)
    assert len(await urls(by_name(server, clock))) == 2
    monkeypatch.setattr(names, "_routed", lambda address, port: False)
    assert len(await urls(by_name(server, clock))) == 2, "some target is better than none"


def test_a_route_is_known_to_loopback_and_to_no_link_without_its_name() -> None:
    assert names._routed("127.0.0.1", 80)
    assert not names._routed("fe80::1", 80)


async def test_an_alias_is_followed_and_the_shortest_time_to_live_counts(
    server: NameServer, clock: FakeClock
) -> None:
    server.records[NAME, "CNAME"] = ["real.test."]
    server.records["real.test", "A"] = ["127.0.0.1"]
    server.ttl = 7
    answer = await by_name(server, clock).look()
    assert [one.url for one in answer.targets] == ["http://127.0.0.1:8000"]
    assert answer.again == 7.0
    assert answer.targets[0].authority == f"{NAME}:8000", "the name that was written"


@pytest.mark.parametrize(("ttl", "again"), [(0, 1.0), (7, 7.0), (3600, 30.0)])
async def test_it_is_asked_again_when_the_answer_is_old_but_within_bounds(
    server: NameServer, clock: FakeClock, ttl: int, again: float
) -> None:
    server.records[NAME, "A"] = ["127.0.0.1"]
    server.ttl = ttl
    assert (await by_name(server, clock).look()).again == again


async def test_a_shorter_interval_than_a_second_is_obeyed(
    server: NameServer, clock: FakeClock
) -> None:
    server.records[NAME, "A"] = ["127.0.0.1"]
    source = Names(Settings(nameservers=(server.address,)), 0.2, clock)
    assert (await source.look()).again == 0.2


async def test_the_name_stays_for_tls_and_for_the_host_field(
    server: NameServer, clock: FakeClock
) -> None:
    server.records[NAME, "A"] = ["127.0.0.1"]
    (one,) = await found(by_name(server, clock, scheme="https"))
    assert one == Found("https://127.0.0.1:8000", server_name=NAME, authority=f"{NAME}:8000")


async def test_a_name_that_does_not_exist_is_a_failure(
    server: NameServer, clock: FakeClock
) -> None:
    assert await why(by_name(server, clock)) == "the name does not exist (NXDOMAIN)"


async def test_a_name_without_addresses_is_a_failure(server: NameServer, clock: FakeClock) -> None:
    server.records[NAME, "TXT"] = ['"x"']
    assert await why(by_name(server, clock)) == "the name has no address"


async def test_a_server_that_fails_is_named_with_what_it_said(
    server: NameServer, clock: FakeClock
) -> None:
    server.rcode = {(NAME, kind): dns.rcode.REFUSED for kind in ("A", "AAAA")}
    said = await why(by_name(server, clock))
    host, _, port = server.address.partition(":")
    assert said == f"no name server gave an answer: {host} port {port}: REFUSED"


async def test_a_failing_server_is_a_failure(server: NameServer, clock: FakeClock) -> None:
    server.rcode = {(NAME, kind): dns.rcode.SERVFAIL for kind in ("A", "AAAA")}
    assert "SERVFAIL" in await why(by_name(server, clock))


async def test_a_server_that_knows_no_ipv6_does_no_harm(
    server: NameServer, clock: FakeClock
) -> None:
    server.records[NAME, "A"] = ["127.0.0.1"]
    server.rcode = {(NAME, "AAAA"): dns.rcode.SERVFAIL}
    assert await urls(by_name(server, clock)) == ["http://127.0.0.1:8000"]


async def test_a_family_whose_question_fails_keeps_what_is_known_of_it(
    server: NameServer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "_routed", lambda address, port: True)
    source = by_name(server, clock)
    server.records[NAME, "A"] = ["127.0.0.1"]
    server.records[NAME, "AAAA"] = ["::1"]
    await source.look()
    server.rcode = {(NAME, "A"): dns.rcode.SERVFAIL}
    assert await urls(source) == ["http://127.0.0.1:8000", "http://[::1]:8000"]


async def test_a_server_that_is_silent_is_given_up_after_five_seconds(
    server: NameServer, clock: FakeClock
) -> None:
    server.silent = True
    looking = spawn(why(by_name(server, clock)), "look")
    async with asyncio.timeout(PATIENCE):
        while not server.asked:
            await asyncio.sleep(0.01)
    clock.advance(4.9)
    await asyncio.sleep(0)
    assert not looking.done()
    clock.advance(0.1)
    assert await looking == f"no answer within 5 s from {server.address}"
    assert not clock.timers


async def test_an_answer_that_does_not_fit_is_fetched_over_tcp(
    server: NameServer, clock: FakeClock
) -> None:
    server.truncate = True
    server.records[NAME, "A"] = [
        f"127.0.{high}.{low}" for high in range(4) for low in range(1, 101)
    ]
    assert len(await urls(by_name(server, clock))) == 400
    assert (NAME, "A", "tcp") in server.asked


def resolv_conf(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that names the server, and a search list."""

    def read(resolver: dns.resolver.BaseResolver, _: object) -> None:
        host, _, port = server.address.partition(":")
        resolver.nameservers = [dns.nameserver.Do53Nameserver(host, int(port))]
        resolver.search = [dns.name.from_text("svc.test")]

    monkeypatch.setattr(dns.resolver.BaseResolver, "read_resolv_conf", read)


async def test_without_name_servers_the_systems_are_asked_with_their_search_list(
    server: NameServer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolv_conf(server, monkeypatch)
    server.records["users.svc.test", "A"] = ["127.0.0.1"]
    source = Names(Settings(dns="users"), 30.0, clock)
    assert await urls(source) == ["http://127.0.0.1:8000"]
    monkeypatch.undo()
    async with name_server() as other:
        resolv_conf(other, monkeypatch)
        other.records["users.svc.test", "A"] = ["127.0.0.2"]
        assert await urls(source) == ["http://127.0.0.2:8000"], "it is read for each look"


async def test_without_a_server_it_is_said_that_there_is_none(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise dns.resolver.NoResolverConfiguration("no nameservers")

    monkeypatch.setattr(dns.resolver.BaseResolver, "read_resolv_conf", missing)
    assert await why(Names(Settings(), 30.0, clock)) == "no nameservers"


# ── SRV ──


async def test_a_service_names_hosts_ports_weights_and_priorities(
    server: NameServer, clock: FakeClock
) -> None:
    server.records["_http._tcp.test", "SRV"] = [
        "20 1 8003 c.test.",
        "10 60 8001 a.test.",
        "10 20 8002 b.test.",
    ]
    for number, host in enumerate("abc", 1):
        server.records[f"{host}.test", "A"] = [f"127.0.0.{number}"]
    assert await found(by_service(server, clock)) == [
        Found("http://127.0.0.1:8001", 60, authority="a.test:8001"),
        Found("http://127.0.0.2:8002", 20, authority="b.test:8002"),
        Found("http://127.0.0.3:8003", 1, backup=True, authority="c.test:8003"),
    ]


async def test_a_host_with_two_addresses_has_the_share_of_one_host(
    server: NameServer, clock: FakeClock
) -> None:
    server.records["_http._tcp.test", "SRV"] = ["1 10 80 a.test.", "1 10 80 b.test."]
    server.records["a.test", "A"] = ["127.0.0.1", "127.0.0.2"]
    server.records["b.test", "A"] = ["127.0.0.3"]
    weights = {one.url: one.weight for one in await found(by_service(server, clock))}
    assert weights == {"http://127.0.0.1:80": 1, "http://127.0.0.2:80": 1, "http://127.0.0.3:80": 2}


async def test_a_weight_of_nothing_is_the_smallest_share(
    server: NameServer, clock: FakeClock
) -> None:
    server.records["_http._tcp.test", "SRV"] = ["1 0 80 a.test.", "1 9 80 b.test."]
    server.records["a.test", "A"] = ["127.0.0.1"]
    server.records["b.test", "A"] = ["127.0.0.2"]
    assert [one.weight for one in await found(by_service(server, clock))] == [1, 9]


async def test_a_service_that_is_not_offered_is_a_failure(
    server: NameServer, clock: FakeClock
) -> None:
    server.records["_http._tcp.test", "SRV"] = ["0 0 0 ."]
    assert await why(by_service(server, clock)) == "the service is not offered"
    server.records["_http._tcp.test", "SRV"] = []
    assert await why(by_service(server, clock)) == "there is no SRV record"


async def test_a_host_that_can_not_be_found_is_said_and_the_others_serve(
    server: NameServer, clock: FakeClock
) -> None:
    server.records["_http._tcp.test", "SRV"] = ["1 1 80 a.test.", "1 1 80 b.test."]
    server.records["a.test", "A"] = ["127.0.0.1"]
    source = by_service(server, clock)
    answer = await source.look()
    assert [one.url for one in answer.targets] == ["http://127.0.0.1:80"]
    assert answer.problem == "1 of 2 hosts: b.test: the name does not exist (NXDOMAIN)"
    server.records["b.test", "A"] = ["127.0.0.2"]
    assert (await source.look()).problem is None
    server.rcode = {("b.test", kind): dns.rcode.SERVFAIL for kind in ("A", "AAAA")}
    assert len((await source.look()).targets) == 2, "its last good address stays"


@given(
    st.lists(st.tuples(st.integers(0, 65535), st.integers(1, 4)), min_size=1, max_size=20),
)
def test_every_host_has_its_share_however_many_addresses_it_has(
    hosts: list[tuple[int, int]],
) -> None:
    dealt = names.shares([weight for weight, _ in hosts], [number for _, number in hosts])
    totals = [each * number for each, (_, number) in zip(dealt, hosts, strict=True)]
    wanted = [max(1, weight) for weight, _ in hosts]
    assert all(
        one * wanted[0] == totals[0] * want for one, want in zip(totals, wanted, strict=True)
    )


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 1000)), min_size=1, max_size=99))
def test_weights_are_whole_and_no_answer_makes_them_huge(hosts: list[tuple[int, int]]) -> None:
    dealt = names.shares([weight for weight, _ in hosts], [number for _, number in hosts])
    assert all(1 <= weight <= 65535 * names.FINEST for weight in dealt)


async def test_hosts_of_a_service_are_whole_names_and_no_search_list_applies(
    server: NameServer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolv_conf(server, monkeypatch)
    server.records["_http._tcp.test", "SRV"] = ["1 1 80 a."]
    server.records["a", "A"] = ["127.0.0.1"]
    server.records["a.svc.test", "A"] = ["127.0.0.9"]
    settings = Settings(dns=None, srv="_http._tcp.test", port=None)
    assert await urls(Names(settings, 30.0, clock)) == ["http://127.0.0.1:80"]


async def test_hosts_that_are_named_no_more_are_forgotten(
    server: NameServer, clock: FakeClock
) -> None:
    source = by_service(server, clock)
    for number in range(1, 5):
        server.records["_http._tcp.test", "SRV"] = [f"1 1 80 h{number}.test."]
        server.records[f"h{number}.test", "A"] = [f"127.0.0.{number}"]
        await source.look()
    assert list(source._known) == ["h4.test."]
