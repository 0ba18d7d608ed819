"""Values with a unit: every spelling of the language, and the fix in every refusal."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import model, scalars, texts
from gateway.config.texts import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
BYTES = {
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
}


@given(st.integers(0, 30_000), st.sampled_from(sorted(SECONDS)))
def test_a_time_is_a_number_and_a_unit(number: int, unit: str) -> None:
    assert scalars.parse_duration(f"{number}{unit}") == pytest.approx(number * SECONDS[unit])


@given(st.decimals(0, 1000, places=3), st.sampled_from(sorted(SECONDS)))
def test_a_time_may_have_decimals(number: object, unit: str) -> None:
    seconds = scalars.parse_duration(f"{number}{unit}")
    assert seconds == pytest.approx(float(str(number)) * SECONDS[unit])


@given(st.integers(0, 2**32), st.sampled_from(sorted(BYTES)))
def test_a_size_is_exact(number: int, unit: str) -> None:
    assert scalars.parse_size(f"{number}{unit}") == number * BYTES[unit]


def attempt(parse: Callable[[str], float], text: str) -> tuple[float | None, str]:
    """The value, or the refusal."""
    try:
        return parse(text), ""
    except ValueError as error:
        return None, str(error)


@given(st.text(max_size=12))
def test_any_text_is_a_time_or_a_refusal_that_is_a_sentence(text: str) -> None:
    for parse in (
        scalars.parse_duration,
        scalars.parse_size,
        scalars.parse_rate,
        scalars.parse_share,
        scalars.parse_int,
    ):
        value, refusal = attempt(parse, text)
        assert len(refusal) > 10 if value is None else (value >= 0 or parse is scalars.parse_int)


@pytest.mark.parametrize(
    ("written", "fix"),
    [
        ("30", "a time needs a unit: write 30s"),
        ("1.5", "a time needs a unit: write 1.5s"),
        ("30 sec", "write 30s"),
        ("5min", "write 5m"),
        ("5M", "write 5m"),
        ("1h30m", "one number and one unit: write 5400s"),
        ("-1s", "it cannot be negative"),
        ("", "a number and a unit (ms s m h d) are wanted"),
        ("12:30:00", "a number and a unit (ms s m h d) are wanted"),
        ("1e3", "no time"),
        ("99999999999d", "write off for no limit"),
    ],
)
def test_a_wrong_time_is_refused_with_the_fix(written: str, fix: str) -> None:
    with pytest.raises(ValueError) as raised:
        scalars.parse_duration(written)
    assert fix in str(raised.value)


@pytest.mark.parametrize(
    ("written", "fix"),
    [
        ("10", "a size needs a unit: write 10B, 10KiB or 10MiB"),
        ("10M", "10MiB (1024) or 10MB (1000)"),
        ("10k", "10KiB (1024) or 10kB (1000)"),
        ("10mib", "write 10MiB"),
        ("10KB", "write 10kB"),
        ("1e3", "no size"),
        ("-1B", "no size"),
        ("99999999999999999999GiB", "write unlimited"),
    ],
)
def test_a_wrong_size_is_refused_with_the_fix(written: str, fix: str) -> None:
    with pytest.raises(ValueError) as raised:
        scalars.parse_size(written)
    assert fix in str(raised.value)


def test_a_rate_is_a_size_in_a_time() -> None:
    assert scalars.parse_rate("1KiB/s") == 1024
    assert scalars.parse_rate("6kB/m") == 100
    for written, fix in (("1KiB", "write 1KiB/s"), ("1KiB/fortnight", "s, m, h and d")):
        with pytest.raises(ValueError, match=fix):
            scalars.parse_rate(written)


def test_a_share_is_a_percentage_or_a_number_up_to_one() -> None:
    assert scalars.parse_share("20%") == 0.2
    assert scalars.parse_share("0.2") == 0.2
    assert scalars.parse_share("1") == 1
    assert scalars.parse_share("0") == 0
    for written, fix in (("20", "write 20%"), ("120%", "more than the whole"), ("x", "20%")):
        with pytest.raises(ValueError, match=fix):
            scalars.parse_share(written)


@pytest.mark.parametrize(
    ("written", "fix"),
    [
        ("017", "leading zero: write 17"),
        ("0x1F", "digits only"),
        ("1_000", "write 1000"),
        ("1e3", "digits only"),
        ("1.0", "digits only"),
        ("١", "digits only"),
    ],
)
def test_a_whole_number_is_decimal_and_nothing_else(written: str, fix: str) -> None:
    with pytest.raises(ValueError, match=fix):
        scalars.parse_int(written)


def test_networks_are_addresses_prefixes_or_unix() -> None:
    parse = scalars.parse_network
    assert parse("10.0.0.0/8") == ipaddress.ip_network("10.0.0.0/8")
    assert parse("10.1.2.3") == ipaddress.ip_network("10.1.2.3/32")
    assert parse("fd00::/8") == ipaddress.ip_network("fd00::/8")
    assert parse("::ffff:10.0.0.0/104") == ipaddress.ip_network("10.0.0.0/8")
    assert parse("unix") == "unix"
    with pytest.raises(ValueError, match=r"write 10\.0\.0\.0/8, or 10\.0\.0\.1"):
        parse("10.0.0.1/8")
    with pytest.raises(ValueError, match="no network"):
        parse("localhost")


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("API.Example.com", "api.example.com"),
        ("api.example.com.", "api.example.com"),
        ("api.example.com:8443", "api.example.com"),
        (".example.com", ".example.com"),
        ("*.example.com", ".example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        (".BÜCHER.example", ".xn--bcher-kva.example"),
        ("10.0.0.1", "10.0.0.1"),
        ("[2001:DB8::0:1]:80", "[2001:db8::1]"),
    ],
)
def test_hosts_are_compared_in_one_form(written: str, host: str) -> None:
    assert scalars.parse_host_pattern(written) == host


@pytest.mark.parametrize(
    ("written", "fix"),
    [
        ("*", "leave host out"),
        ("api.*.com", "in front only"),
        ("http://api", "the name alone"),
        ("a b", "no host"),
        ("", "no host"),
        ("-a.example", "no host"),
        ("[::x]", "no host"),
        ("a..b", "no host"),
    ],
)
def test_a_wrong_host_is_refused_with_the_fix(written: str, fix: str) -> None:
    with pytest.raises(ValueError) as raised:
        scalars.parse_host_pattern(written)
    assert fix in str(raised.value)


def test_a_secret_prints_as_stars_and_is_itself_where_it_counts() -> None:
    secret = Secret("open sesame")
    assert f"{secret} {secret!r} {secret!s} {secret:>5}" == "*** *** ***   ***"
    assert secret == "open sesame"
    assert secret.encode() == b"open sesame"
    assert type(secret.reveal()) is str
    assert secret.reveal() == "open sesame"
    admin = model.Admin(token=secret)
    assert "sesame" not in repr(admin)
    assert "sesame" not in admin.model_dump_json()
    assert admin.token is not None
    assert admin.token.reveal() == "open sesame"


def test_programs_may_pass_finished_values() -> None:
    assert model.Timeouts(idle=5, total=None).idle == 5.0
    assert model.Body(max=10).max == 10
    assert model.Static(root="files").root == "files"
    for wrong in (-1, float("nan"), float("inf"), True, [], {}):
        with pytest.raises(ValueError):
            model.Timeouts(idle=wrong)  # type: ignore[arg-type]


def test_the_end_of_a_regex_is_shown_where_it_is_wrong() -> None:
    assert texts.Regex is not None
    with pytest.raises(ValueError, match="at character 2"):
        model.PathPattern(regex="a(")
