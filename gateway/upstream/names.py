"""Targets by name: A and AAAA (`discover: {dns: …}`), and SRV (`discover: {srv: …}`).

Rules of this file: packets, search lists, TCP after a truncated answer and the choice among name
servers are dnspython's; what an answer means for targets is decided here. Servers are those of
/etc/resolv.conf, read again for each look, unless the settings name others. Only DNS is asked: the
hosts file is for names in `targets:`. A name that does not exist, or has no address, is a failure
like a server that does not answer: a mistake in a zone takes no service down.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.rcode
import dns.resolver

from gateway.config.upstreams import split_name_server
from gateway.upstream.discovery import MOST, SHORTEST, Answer, Found, NotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from gateway.clock import Clock

LONGEST = 5.0
"""Seconds for one look, over all name servers."""
PER_SERVER = 2.0
"""Seconds for one name server, then the next is asked."""
FINEST = 10_000
"""Into how many parts a weight is dealt at most: hosts with 3, 5, 7, 11 and 13 addresses make no
weights that are too large to be balanced by."""
_AT_ONCE = 10
"""Hosts of an SRV answer that are looked up at the same time."""
_FAMILIES = ("A", "AAAA")


class Settings(Protocol):
    """`discover:` of an upstream, as far as it is about names."""

    @property
    def dns(self) -> str | None: ...
    @property
    def srv(self) -> str | None: ...
    @property
    def port(self) -> int | None: ...
    @property
    def scheme(self) -> str: ...
    @property
    def nameservers(self) -> tuple[str, ...]: ...


@dataclass(slots=True)
class _Host:
    """What is known of a host: the last good addresses of each family, by its record type."""

    addresses: dict[str, list[str]] = field(default_factory=dict)
    problem: str | None = None
    ttl: float = math.inf

    def every(self, port: int) -> list[str]:
        """Its addresses. Of two families one that can not be reached from here is left out."""
        v4, v6 = (self.addresses.get(family, []) for family in _FAMILIES)
        if not v4 or not v6:
            return v4 or v6
        both = [*v4, *v6]
        return [one for one in both if _routed(one, port)] or both


class Names:
    """One name, asked again and again."""

    def __init__(self, settings: Settings, interval: float, clock: Clock) -> None:
        """`interval`: seconds; an answer that lives shorter is asked for again sooner."""
        self._settings = settings
        self._clock = clock
        self._known: dict[str, _Host] = {}
        self.interval = interval
        kind, self._name = ("dns", settings.dns) if settings.dns else ("srv", settings.srv or "")
        self.what = f"{kind} {self._name}"

    async def look(self) -> Answer:
        """Ask DNS. Raises NotFound."""
        try:
            resolver = self._resolver()
            async with self._limited():
                return await (self._hosts if self._settings.dns else self._service)(resolver)
        except TimeoutError:
            raise NotFound(f"no answer within {LONGEST:g} s from {self._servers()}") from None
        except dns.exception.DNSException as error:
            raise NotFound(_words(error)) from None
        except OSError as error:
            raise NotFound(error.strerror or str(error)) from None

    # ── A and AAAA ──

    async def _hosts(self, resolver: dns.asyncresolver.Resolver) -> Answer:
        settings = self._settings
        host = await self._host(resolver, self._name)
        port = settings.port
        assert port is not None
        found = tuple(self._found(address, port, self._name) for address in host.every(port))
        if not found or host.problem is not None:
            raise NotFound(host.problem or "the name has no address")
        return Answer(found, self._again(host.ttl))

    async def _host(self, resolver: dns.asyncresolver.Resolver, name: str) -> _Host:
        """Ask for both families. One that can not be asked for keeps what is known of it."""
        host = self._known.setdefault(name, _Host())
        host.problem, host.ttl = "the name has no address", math.inf
        answers = await asyncio.gather(
            *(_query(resolver, name, family) for family in _FAMILIES), return_exceptions=True
        )
        fresh: dict[str, list[str]] = {}
        problem = None
        for family, answer in zip(_FAMILIES, answers, strict=True):
            if isinstance(answer, dns.resolver.NXDOMAIN):
                problem = problem or _words(answer)
                fresh[family] = []
            elif isinstance(answer, dns.exception.DNSException | OSError):
                problem = _words(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                fresh[family] = [record.address for record in answer]
                if fresh[family]:
                    host.ttl = min(host.ttl, answer.chaining_result.minimum_ttl)
        if any(fresh.values()):
            # A family whose servers fail while the other's answer is kept without a word: name
            # servers that know no AAAA are common, and they say it in many wrong ways.
            host.addresses.update(fresh)
            host.problem = None
        else:
            host.problem = problem or host.problem
        return host

    # ── SRV ──

    async def _service(self, resolver: dns.asyncresolver.Resolver) -> Answer:
        """RFC 2782. The lowest priority takes requests, all others are backups."""
        answer = await _query(resolver, self._name, "SRV")
        records = [record for record in answer if record.target != dns.name.root]
        if not records:
            raise NotFound(
                "the service is not offered" if len(answer) else "there is no SRV record"
            )
        records.sort(key=lambda record: (record.priority, record.port, record.target))
        del records[MOST:]
        hosts = await self._hosts_of(resolver, {_text(record.target) for record in records})
        lists = [hosts[_text(record.target)].every(record.port) for record in records]
        weights = shares([record.weight for record in records], list(map(len, lists)))
        found: list[Found] = []
        for record, addresses, weight in zip(records, lists, weights, strict=True):
            backup = record.priority > records[0].priority
            found.extend(
                self._found(one, record.port, _text(record.target), weight, backup=backup)
                for one in addresses
            )
        problems = [
            f"{name.removesuffix('.')}: {host.problem}"
            for name, host in hosts.items()
            if host.problem
        ]
        if not found:
            raise NotFound(problems[0])
        ttl = min(answer.chaining_result.minimum_ttl, *(host.ttl for host in hosts.values()))
        problem = f"{len(problems)} of {len(hosts)} hosts: {problems[0]}" if problems else None
        return Answer(tuple(found), self._again(ttl), problem)

    async def _hosts_of(
        self, resolver: dns.asyncresolver.Resolver, names: Iterable[str]
    ) -> dict[str, _Host]:
        """Look up every host, by its absolute name; those that are named no more are forgotten."""
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(name: str) -> _Host:
            async with turns:
                return await self._host(resolver, name)

        names = sorted(names)
        hosts = await asyncio.gather(*map(one, names))
        self._known = dict(zip(names, hosts, strict=True))
        return self._known

    # ── both ──

    def _found(
        self, address: str, port: int, name: str, weight: int = 1, *, backup: bool = False
    ) -> Found:
        name = name.removesuffix(".")
        host = f"[{address}]" if ":" in address else address
        scheme = self._settings.scheme
        usual = port == (443 if scheme == "https" else 80)
        return Found(
            url=f"{scheme}://{host}:{port}",
            weight=weight,
            backup=backup,
            server_name=name if scheme == "https" else None,
            authority=name if usual else f"{name}:{port}",
        )

    def _again(self, ttl: float) -> float:
        return min(self.interval, max(SHORTEST, ttl))

    def _resolver(self) -> dns.asyncresolver.Resolver:
        """With what /etc/resolv.conf says now: containers and laptops move."""
        named = self._settings.nameservers
        resolver = dns.asyncresolver.Resolver(configure=not named)
        if named:
            resolver.nameservers = [
                dns.nameserver.Do53Nameserver(*split_name_server(one)) for one in named
            ]
        resolver.use_search_by_default = not named
        resolver.timeout = PER_SERVER
        # The Clock ends a look; dnspython's own limit may not be shorter.
        resolver.lifetime = 10 * LONGEST
        return resolver

    def _servers(self) -> str:
        return ", ".join(self._settings.nameservers) or "the servers of /etc/resolv.conf"

    @asynccontextmanager
    async def _limited(self) -> AsyncIterator[None]:
        """At most `LONGEST` seconds of the Clock. Raises TimeoutError."""
        async with asyncio.timeout(None) as limit:
            timer = self._clock.call_later(LONGEST, limit.reschedule, 0.0)
            try:
                yield
            finally:
                timer.cancel()


async def _query(resolver: dns.asyncresolver.Resolver, name: str, kind: str) -> Any:
    return await resolver.resolve(name, kind, raise_on_no_answer=False)


def _text(name: dns.name.Name) -> str:
    """With the final dot, so that no search list applies: it is whole."""
    return name.to_text()


def shares(weights: Sequence[int], addresses: Sequence[int]) -> list[int]:
    """The weight of each address of hosts with these weights and numbers of addresses.

    A host with two addresses has the share of one host: its weight is dealt out. Weight 0, "a very
    small chance" in RFC 2782, is 1. Whole numbers, as small as they can be.
    """
    whole = math.lcm(*filter(None, addresses))
    if whole > FINEST:
        whole = FINEST
    dealt = [
        max(1, max(1, weight) * whole // (number or 1))
        for weight, number in zip(weights, addresses, strict=True)
    ]
    divisor = math.gcd(*dealt)
    return [weight // divisor for weight in dealt]


def _routed(address: str, port: int) -> bool:
    """Whether this machine knows a way there (RFC 6724, section 5, rule 1). Sends nothing."""
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.setblocking(False)
            probe.connect((address, port))
    except OSError:
        return False
    return True


def _words(error: BaseException) -> str:
    """What DNS has said, for people."""
    if isinstance(error, dns.resolver.NXDOMAIN):
        return "the name does not exist (NXDOMAIN)"
    if isinstance(error, dns.resolver.NoNameservers):
        return f"no name server gave an answer: {_of_servers(error)}"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) or type(error).__name__


def _of_servers(error: dns.resolver.NoNameservers) -> str:
    said = (
        f"{server.removeprefix('Do53:').partition('@')[0]}"
        f"{'' if port == 53 else f' port {port}'}: "
        f"{what if isinstance(what, str) else _words(what)}"
        for server, _, port, what, _ in error.kwargs.get("errors", ())
    )
    return ", ".join(dict.fromkeys(said)) or "there is none"
