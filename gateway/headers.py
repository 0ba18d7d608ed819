"""Header bytes, from one side to the other.

Rules of this file: pure functions and tables; bytes in, bytes out. A field passes as it came, byte for byte, unless an
intermediary must change it (RFC 9110 section 7.6.1), or the configuration says so. What to do with a name is decided the
first time that the name is seen and remembered in a table, one table a route and direction, so that a request pays one
dictionary lookup a field. Values are not looked at one by one: `clean` scans the finished head once.
"""

from __future__ import annotations

import re

DROP = 0
"""Never passed on: hop-by-hop, or the configuration removes it."""
(
    CONNECTION,
    HOST,
    LENGTH,
    CODING,
    TE,
    UPGRADE,
    EXPECT,
    MAX_FORWARDS,
    DATE,
    REJECT,
    TRAILER,
    COOKIE,
    CHALLENGE,
) = range(1, 14)
"""Fields that decide something: the reader of the head acts on them."""

HOP_BY_HOP = {
    b"connection": CONNECTION,
    b"keep-alive": DROP,
    b"proxy-connection": DROP,
    b"transfer-encoding": CODING,
    b"upgrade": UPGRADE,
    # For the proxy that asks for them: a gateway that does not, drops them (RFC 9110 section 11.7).
    b"proxy-authenticate": DROP,
    b"proxy-authorization": DROP,
    b"proxy-authentication-info": DROP,
}
REQUEST = HOP_BY_HOP | {
    b"host": HOST,
    b"content-length": LENGTH,
    b"te": TE,
    b"expect": EXPECT,
    b"max-forwards": MAX_FORWARDS,
    # Request trailers are not forwarded, so neither is their announcement.
    b"trailer": DROP,
    # Only a front that has checked a certificate may say these (RFC 9440 section 3).
    b"client-cert": DROP,
    b"client-cert-chain": DROP,
    # An upgrade to h2c is a way around every rule of this gateway (RFC 9113 section 3.1 has withdrawn it).
    b"http2-settings": DROP,
}
RESPONSE = HOP_BY_HOP | {
    b"content-length": LENGTH,
    b"te": DROP,
    b"trailer": TRAILER,
    b"date": DATE,
    b"www-authenticate": CHALLENGE,
}

PROTECTED = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"authorization", b"cookie", b"set-cookie", b"content-type",
     b"content-encoding", b"content-range", b"location", b"cache-control", b"forwarded", b"via", b"x-real-ip",
     b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-prefix")
)  # fmt: skip
"""What `Connection` can not name away: a client could hide from the upstream who it is (CVE-2022-31813)."""

_END_TO_END = frozenset((b"cookie", b"max-forwards", b"www-authenticate"))
"""Special fields that do not pass where they are dropped: they frame no message."""
TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
CONTROLS = bytes([*range(9), *range(10, 32), 127])
_QUOTED = re.compile(r"(?:\bb|Bad status line )['\"]")
_REMEMBERED = 2_000
"""Names that one table remembers: a client that invents names must not grow memory."""


class FieldTable(dict[bytes, "bytes | int"]):
    """From a field's name, as spelt on the wire, to its prepared `Name: `, or to the number of what to do with it.

    `special` maps lower-case names to numbers, `dropped` holds further lower-case names that must not pass. A name that
    is no token maps to REJECT; one with an underscore is dropped or rejected if `underscores` says so. `filled` are lines
    that a head gets which has none of that (lower-case) name.
    """

    def __init__(
        self,
        special: dict[bytes, int],
        dropped: frozenset[bytes] = frozenset(),
        underscores: str = "keep",
        cookies: frozenset[bytes] = frozenset(),
        filled: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__()
        self.cookies = cookies
        """Names of cookies that must not pass, where `special` has COOKIE."""
        self.special = special
        self.dropped = dropped
        self.underscores = underscores
        self.filled = filled

    def __missing__(self, name: bytes) -> bytes | int:
        lower = name.lower()
        known: bytes | int
        if TOKEN.fullmatch(name) is None:
            known = REJECT
        elif lower in self.special and not (lower in _END_TO_END and lower in self.dropped):
            known = self.special[lower]
        elif (
            lower in self.dropped or lower.replace(b"_", b"-") in self.dropped
        ):  # one to CGI and WSGI
            known = DROP
        elif b"_" in name and self.underscores != "keep":
            known = DROP if self.underscores == "drop" else REJECT
        else:
            known = name + b": "
        if len(self) < _REMEMBERED:
            self[name] = known
        return known


def clean(head: bytes, lines: int) -> bool:
    """Whether a finished head of `lines` lines holds no control byte but its own line ends.

    One pass over all of it: a stray CR, LF or NUL in any value is found here, and nothing leaves the gateway unseen
    (RFC 9110 section 5.5, RFC 9112 section 2.2).
    """
    return len(head) - len(head.translate(None, CONTROLS)) == 2 * lines


def tokens(value: bytes) -> list[bytes]:
    """The members of a comma-separated list of tokens, in lower case."""
    return [token for part in value.lower().split(b",") if (token := part.strip(b" \t"))]


def without_cookies(value: bytes, names: frozenset[bytes]) -> bytes:
    """A Cookie field less the cookies of these names; the others stay as they were written."""
    parts = value.split(b";")
    left = [part for part in parts if part.partition(b"=")[0].strip(b" \t") not in names]
    return value if len(left) == len(parts) else b";".join(left).strip(b" \t")


def fill(lines: list[bytes], filled: tuple[tuple[bytes, bytes], ...]) -> None:
    """Append those of `filled`, (lower-case name, line), whose names stand in none of `lines`."""
    there = {line.partition(b":")[0].lower() for line in lines}
    lines += [line for name, line in filled if name not in there]


def without_named(lines: list[bytes], named: list[bytes]) -> list[bytes]:
    """`lines` less the fields that `Connection` named, except those that it may not name (RFC 9110 section 7.6.1)."""
    banned = {name for name in named if name not in PROTECTED}
    return [line for line in lines if line.partition(b":")[0].lower() not in banned]


def content_length(value: bytes) -> int | None:
    """The length that a Content-Length field gives: 1*DIGIT and nothing else, below 2^63; None if it is anything else.

    `int()` alone would take `+5`, `1_0` and digits of other scripts (RFC 9112 section 6.3).
    """
    if value.isdigit() and len(value) <= 18:
        return int(value)
    return None


def unquoted(error: BaseException) -> str:
    """What a parser says of a head or a body, less the bytes that it quotes: what is logged must hold no credential."""
    said = str(getattr(error, "message", "") or error)
    found = _QUOTED.search(said)
    return " ".join((said if found is None else said[: found.start()]).split()).rstrip(": ")
