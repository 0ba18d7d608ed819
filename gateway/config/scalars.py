"""Values with a unit or a form of their own: text → value, or why not and what to write instead.

Rules of this file: every type takes the text of a file, and the finished value that a program passes (seconds, bytes); a
message names the fix. `off` never arrives here: the model that holds the field has turned it into None. Each type has its
JSON Schema beside it, and any of them may be a text with `${…}` in it, which is why the patterns let `${` through.
"""

from __future__ import annotations

import ipaddress
import math
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from collections.abc import Callable


EXPANDED = r"^.*\$\{.*\}.*$"
"""What a value with `${env:…}` or `${file:…}` in it looks like to an editor."""


class Trap:
    """Stands where a value cannot be read, and says why; no type takes it."""

    __slots__ = ("message",)

    def __init__(self, message: str) -> None:
        self.message = message


class KeyTrap(Trap):
    """The same for a value whose key is the mistake."""

    __slots__ = ()


def refuse(message: str) -> PydanticCustomError:
    """The error of a value that is not what it should be."""
    return PydanticCustomError("value", "{message}", {"message": message})


def text_schema(pattern: str, *examples: str, description: str = "") -> WithJsonSchema:
    """A text that fits a pattern, or holds `${…}`."""
    schema: dict[str, Any] = {
        "anyOf": [{"type": "string", "pattern": pattern}, {"type": "string", "pattern": EXPANDED}],
        "examples": list(examples),
    }
    if description:
        schema["description"] = description
    return WithJsonSchema(schema)


def read_text(value: object, what: str) -> str:
    if isinstance(value, Trap):
        raise refuse(value.message)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (dict, list)):
        raise refuse(
            f"{what} is wanted, not {'a mapping' if isinstance(value, dict) else 'a list'}"
        )
    raise refuse(f"{what} is wanted, not {value!r}")


# ── numbers with a unit ─────────────────────────────────────────────────────────────────────────────────────────────

_QUANTITY = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s?(?P<unit>[A-Za-zµ%]*)")
_TIME = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST = 100 * 365 * 86400.0
_SIZE = {
    "B": 1,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "kB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
}
_SHORT_SIZE = {
    "k": ("KiB", "kB"),
    "K": ("KiB", "kB"),
    "M": ("MiB", "MB"),
    "m": ("MiB", "MB"),
    "G": ("GiB", "GB"),
    "g": ("GiB", "GB"),
}


def parse_duration(written: str) -> float:
    """Seconds of `30s`, `250ms`, `1.5m`, `8h`, `1d`. Raises ValueError with the fix."""
    match = _QUANTITY.fullmatch(written.strip())
    if match is None:
        raise ValueError(_not_a_time(written))
    number, unit = match["number"], match["unit"]
    if not unit:
        raise ValueError(f"a time needs a unit: write {number}s")
    if unit not in _TIME:
        known = {name.lower(): name for name in _TIME}
        wanted = known.get(unit.lower()) or {"sec": "s", "min": "m", "hour": "h", "day": "d"}.get(
            unit.lower().rstrip("s"), "s"
        )
        raise ValueError(
            f"{written} is no time: the units are ms, s, m, h and d: write {number}{wanted}"
        )
    # Multiplying by 0.001 would make 5ms 0.005000000000000001 for some numbers.
    seconds = float(number) / 1000 if unit == "ms" else float(number) * _TIME[unit]
    if seconds > _LONGEST:
        raise ValueError(f"{written} is longer than a hundred years: write off for no limit")
    return seconds


def _not_a_time(written: str) -> str:
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", written)
    if len(parts) > 1 and "".join(a + b for a, b in parts) == written.strip():
        seconds = sum(float(number) * _TIME[unit] for number, unit in parts)
        return f"{written} is no time: one number and one unit: write {seconds:g}s"
    if written.strip().startswith("-"):
        return f"{written} is no time: it cannot be negative"
    return f"{written!r} is no time: a number and a unit (ms s m h d) are wanted, such as 30s"


def parse_size(written: str) -> int:
    """Bytes of `64KiB`, `10MiB`, `1.5GB`, `0B`. Raises ValueError with the fix."""
    match = _QUANTITY.fullmatch(written.strip())
    if match is None:
        raise ValueError(
            f"{written!r} is no size: a number and a unit (B KiB MiB GiB kB MB GB) are wanted, "
            "such as 10MiB"
        )
    number, unit = match["number"], match["unit"]
    if not unit:
        raise ValueError(f"a size needs a unit: write {number}B, {number}KiB or {number}MiB")
    if unit in _SHORT_SIZE:
        binary, decimal = (number + name for name in _SHORT_SIZE[unit])
        raise ValueError(
            f"{written} can be read two ways: write {binary} (1024) or {decimal} (1000)"
        )
    if unit not in _SIZE:
        known = {name.lower(): name for name in _SIZE}
        wanted = known.get(unit.lower(), "MiB")
        raise ValueError(
            f"{written} is no size: the units are B KiB MiB GiB and kB MB GB: write {number}{wanted}"
        )
    size = float(number) * _SIZE[unit]
    if not size < 2**63:
        raise ValueError(f"{written} is too large: write unlimited for no limit")
    if "." not in number:
        return int(number) * _SIZE[unit]
    return round(size)


def parse_rate(written: str) -> float:
    """Bytes a second of `1KiB/s`. Raises ValueError with the fix."""
    size, slash, unit = written.partition("/")
    if not slash:
        raise ValueError(f"a rate is a size and a time: write {written.strip()}/s")
    unit = unit.strip()
    if unit not in ("s", "m", "h", "d"):
        raise ValueError(
            f"{written} is no rate: the units of time are s, m, h and d: write {size.strip()}/s"
        )
    return parse_size(size) / _TIME[unit]


def parse_share(written: str) -> float:
    """0 to 1 of `20%` or `0.2`. Raises ValueError with the fix."""
    match = _QUANTITY.fullmatch(written.strip())
    if match is None or match["unit"] not in ("", "%"):
        raise ValueError(f"{written!r} is no share: write a percentage such as 20%, or 0.2")
    number = float(match["number"])
    share = number / 100 if match["unit"] else number
    if share > 1:
        fix = f": write {number:g}%" if not match["unit"] and number <= 100 else ""
        raise ValueError(f"{written} is more than the whole{fix}")
    return share


def _number(
    parse: Callable[[str], float], what: str, cast: Callable[[Any], Any]
) -> BeforeValidator:
    def read(value: object) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if not (math.isfinite(value) and value >= 0):
                raise refuse(f"{what} is wanted, not {value}")
            return cast(value)
        try:
            return parse(read_text(value, what))
        except ValueError as error:
            raise refuse(str(error)) from None

    return BeforeValidator(read)


Duration = Annotated[
    float,
    _number(parse_duration, "a time such as 30s", float),
    text_schema(r"^\d+(\.\d+)?\s?(ms|s|m|h|d)$", "30s", "250ms", "5m", description="a time"),
]
Size = Annotated[
    int,
    _number(parse_size, "a size such as 10MiB", int),
    text_schema(
        r"^\d+(\.\d+)?\s?(B|KiB|MiB|GiB|kB|MB|GB)$", "10MiB", "64KiB", description="a size"
    ),
]
ByteRate = Annotated[
    float,
    _number(parse_rate, "a rate such as 1KiB/s", float),
    text_schema(
        r"^\d+(\.\d+)?\s?(B|KiB|MiB|GiB|kB|MB|GB)\s?/\s?[smhd]$",
        "16KiB/s",
        description="bytes in a time",
    ),
]
Share = Annotated[
    float,
    _number(parse_share, "a share such as 20%", float),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 1},
                {"type": "string", "pattern": r"^\d+(\.\d+)?\s?%?$"},
                {"type": "string", "pattern": EXPANDED},
            ],
            "examples": ["20%", 0.2],
            "description": "a share of the whole",
        }
    ),
]

_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")


def parse_int(written: str) -> int:
    """A whole number in decimal. Raises ValueError with the fix: no other base is ever guessed."""
    word = written.strip()
    if _INTEGER.fullmatch(word) and len(word) < 19:
        return int(word)
    if re.fullmatch(r"-?0[0-9]+", word):
        raise ValueError(f"{word} has a leading zero: write {word.lstrip('-0') or '0'}")
    if re.fullmatch(r"-?[0-9][0-9_,']*", word):
        raise ValueError(f"{word} is no whole number: write {re.sub('[_,]', '', word)}")
    raise ValueError(f"{word!r} is no whole number: digits only, such as 100")


# ── addresses, names ────────────────────────────────────────────────────────────────────────────────────────────────

AnyNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network | Literal["unix"]


def parse_network(written: str) -> AnyNetwork:
    """`10.0.0.0/8`, one address, or `unix`. Raises ValueError with the fix."""
    word = written.strip()
    if word == "unix":
        return "unix"
    try:
        network = ipaddress.ip_network(word)
    except ValueError:
        pass
    else:
        return _folded(network)
    try:
        loose = ipaddress.ip_network(word, strict=False)
    except ValueError:
        raise ValueError(
            f"{word!r} is no network: write an address such as 10.1.2.3, a network such as "
            "10.0.0.0/8 or fd00::/8, or unix"
        ) from None
    raise ValueError(
        f"{word} has bits set after the prefix: write {loose}, or {word.split('/')[0]}"
    )


def _folded(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> AnyNetwork:
    """::ffff:10.0.0.0/104 is 10.0.0.0/8: peers are compared in their IPv4 form."""
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


def _network(value: object) -> AnyNetwork:
    if isinstance(value, (ipaddress.IPv4Network, ipaddress.IPv6Network)):
        return value
    try:
        return parse_network(read_text(value, "a network such as 10.0.0.0/8"))
    except ValueError as error:
        raise refuse(str(error)) from None


Network = Annotated[
    AnyNetwork,
    PlainValidator(_network),
    PlainSerializer(str),
    WithJsonSchema(
        {
            "type": "string",
            "description": "an address, a network or unix",
            "examples": ["10.0.0.0/8", "192.0.2.7", "fd00::/8", "unix"],
        }
    ),
]

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")


def parse_host_pattern(written: str) -> str:
    """`api.example.com`, `.example.com`; lower case, punycode, without port. Raises ValueError."""
    word = written.strip()
    if word.startswith("["):
        return _ipv6_host(word)
    name, colon, port = word.partition(":")
    if colon and ("/" in port or "/" in name):
        raise ValueError(f"{word} is a URL: a host is the name alone, such as api.example.com")
    if colon and not port.isdigit():
        raise ValueError(f"{word!r} is no host: write a name such as api.example.com or [::1]")
    if name in ("*", "."):
        raise ValueError("leave host out to take every host")
    suffix = name.startswith((".", "*."))
    bare = name.removeprefix("*").removeprefix(".") if suffix else name
    if "*" in bare:
        raise ValueError(f"{word}: a * may stand in front only: write .example.com or a full name")
    bare = _ascii_name(bare.rstrip("."), word)
    if not bare or not all(_LABEL.fullmatch(label) for label in bare.split(".")):
        raise ValueError(f"{word!r} is no host: write a name such as api.example.com")
    return f".{bare}" if suffix else bare


def _ascii_name(name: str, word: str) -> str:
    lowered = name.lower()
    if lowered.isascii():
        return lowered
    import idna  # noqa: PLC0415 - slow to import, and few names need it

    try:
        return idna.encode(lowered, uts46=True).decode()
    except idna.IDNAError as error:
        raise ValueError(f"{word!r} is no host name: {error}") from None


def _ipv6_host(word: str) -> str:
    match = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::\d+)?", word)
    try:
        return f"[{ipaddress.IPv6Address(match[1] if match else word)}]"
    except ValueError:
        raise ValueError(f"{word!r} is no host: write an IPv6 address as [::1]") from None


def _host_pattern(value: object) -> str:
    try:
        return parse_host_pattern(read_text(value, "a host such as api.example.com"))
    except ValueError as error:
        raise refuse(str(error)) from None


HostPattern = Annotated[
    str,
    BeforeValidator(_host_pattern),
    WithJsonSchema(
        {
            "type": "string",
            "description": "a host name; .example.com is every sub-domain",
            "examples": ["api.example.com", ".example.com"],
        }
    ),
]
