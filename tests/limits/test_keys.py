"""By what limits count, and at which rate.

Rules of this file: requests are plain objects with what a template reads.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from multidict import CIMultiDict

from gateway.config.limits import RateLimit
from gateway.identity import Identity
from gateway.limits.keys import LONGEST, Key
from gateway.limits.quota import REMEMBERED, Quota, Rates, cost_of, quote


def request(
    *headers: tuple[str, str], client_ip: str = "192.0.2.1", identity: Identity | None = None
) -> Any:
    return SimpleNamespace(
        client_ip=client_ip, headers=CIMultiDict(headers), identity=identity, path="/a", query="q=1",
        captures={}, route=SimpleNamespace(name="orders"), request_id="1", method="GET", host="h",
        scheme="http", upstream="", target_name="", target="/a?q=1", listener="",
    )  # fmt: skip


ANN = Identity("staff", "ann", claims={"plan_rate": "50/s", "tenant": "t1"})


@pytest.mark.parametrize(
    ("prefix", "one", "other", "same"),
    [
        (64, "2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", True),
        (64, "2001:db8:0:1::1", "2001:db8:0:2::1", False),
        (48, "2001:db8:0:1::1", "2001:db8:0:2::1", True),
        (128, "2001:db8::1", "2001:db8::2", False),
        (64, "192.0.2.1", "192.0.2.2", False),
        (1, "192.0.2.1", "192.0.2.2", False),
        (64, "fe80::1%eth0", "fe80::2%eth1", True),
        (64, "not:an:address", "not:an:address", True),
    ],
)
def test_of_an_ipv6_address_only_the_prefix_counts(
    prefix: int, one: str, other: str, same: bool
) -> None:
    for text in ("{client_ip}", "{client_ip|none}", "{client_ip} on {route}"):
        key = Key(text, prefix)
        assert (key.of(request(client_ip=one)) == key.of(request(client_ip=other))) is same


@pytest.mark.parametrize(
    ("text", "one", "other"),
    [
        ("{header.a}:{header.b}", [("a", "x:y"), ("b", "z")], [("a", "x"), ("b", "y:z")]),
        ("{header.a}{header.b}", [("a", "xy"), ("b", "z")], [("a", "x"), ("b", "yz")]),
        ("{header.a}", [("a", "x")], [("a", "X")]),
        ("{header.a}", [("a", "%41")], [("a", "A")]),
        ("{header.a}", [("a", "v" * 500)], [("a", "v" * 501)]),
        ("{header.a}", [("a", "\udcff")], [("a", "\udcfe")]),
    ],
)
def test_different_values_never_have_the_same_key(
    text: str, one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    key = Key(text)
    assert key.of(request(*one)) != key.of(request(*other))


def test_the_case_of_a_fields_name_makes_no_other_key() -> None:
    key = Key("{header.x-tenant}")
    assert key.of(request(("X-TENANT", "a"))) == key.of(request(("x-tenant", "a")))


@pytest.mark.parametrize("text", ["{header.x-tenant}", "{consumer}", "{claim.tenant}", "{query.z}"])
def test_a_request_without_the_value_is_counted_by_its_address(text: str) -> None:
    key = Key(text)
    nobody = key.of(request())
    assert nobody == key.of(request(("x-tenant", "")))
    assert nobody == key.of(request(client_ip="192.0.2.1"))
    assert nobody != key.of(request(client_ip="192.0.2.2"))
    assert nobody not in ("", "192.0.2.1")
    assert key.of(request(client_ip="2001:db8::1")) == key.of(request(client_ip="2001:db8::2"))


def test_a_default_is_a_value_that_all_without_one_share() -> None:
    key = Key("{header.x-tenant|nobody}")
    assert key.of(request(client_ip="192.0.2.1")) == key.of(request(client_ip="192.0.2.2"))


def test_a_key_is_never_long() -> None:
    key = Key("{header.x}")
    assert len(key.of(request(("x", "v" * 10_000)))) <= LONGEST


def test_consumers_and_claims_are_keys() -> None:
    assert Key("{consumer}").of(request(identity=ANN)) == "ann"
    assert Key("{claim.tenant}").of(request(identity=ANN)) == "t1"


def limit(**settings: Any) -> RateLimit:
    return RateLimit.model_validate({"rate": "10/s", **settings})


def rates(text: str) -> Rates:
    return Rates("plan", limit(rate=text), text)


@pytest.mark.parametrize(
    ("text", "claims", "rate"),
    [
        ("{claim.plan_rate|10/s}", {"plan_rate": "50/m"}, "50/m"),
        ("{claim.plan_rate|10/s}", {}, "10/s"),
        ("{claim.plan_rate|10/s}", {"plan_rate": "a lot"}, "10/s"),
        ("{claim.plan_rate|10/s}", {"plan_rate": "0/s"}, "10/s"),
        ("{claim.plan_rate|10/s}", {"plan_rate": "-1/s"}, "10/s"),
        ("{claim.plan_rate|10/s}", {"plan_rate": "9" * 400 + "/s"}, "10/s"),
        ("{claim.n|3}/{claim.unit|m}", {"n": 7}, "7/m"),
        ("{claim.plan_rate}", {"plan_rate": "5/d"}, "5/d"),
        ("{claim.plan_rate}", {"plan_rate": "five"}, None),
        ("{claim.plan_rate}", {}, None),
    ],
)
def test_a_text_gives_a_rate_or_its_default_or_none(
    text: str, claims: dict[str, Any], rate: str | None
) -> None:
    one = rates(text)
    for _ in range(2):
        quota = one.of(request(identity=Identity("p", "ann", claims=claims)))
        assert (None if quota is None else quota.rate) == rate


def test_a_text_is_read_once_and_no_more_are_remembered_than_are_bounded() -> None:
    one = rates("{header.x-rate|10/s}")
    first = one.of(request(("x-rate", "5/s")))
    assert one.of(request(("x-rate", "5/s"))) is first
    for number in range(1, REMEMBERED + 50):
        one.of(request(("x-rate", f"{number}/s")))
    one.of(request(("x-rate", "x" * 10_000)))
    assert len(one._known) <= REMEMBERED
    assert max(map(len, one._known)) < 100


@pytest.mark.parametrize(
    ("value", "cost"),
    [
        *[("4", 4.0), ("0", 0.0), ("007", 7.0)],
        *[
            ("", 1.0),
            ("-5", 1.0),
            ("nan", 1.0),
            ("1e9", 1.0),
            ("+3", 1.0),
            ("٣", 1.0),
            ("1.5", 1.0),
        ],
        ("9" * 30, math.inf),
    ],
)
def test_a_cost_that_is_no_number_is_one(value: str, cost: float) -> None:
    assert cost_of("{header.x-cost}")(request(("x-cost", value))) == cost


def test_what_clients_are_told_is_a_structured_field() -> None:
    rate = limit().rate
    assert not isinstance(rate, str)
    quota = Quota('a "b" \\ é\n', limit(), rate)
    assert quota.policy == rb'"a \"b\" \\ ??";q=10;w=1'
    assert quota.line(3, 1.01) == rb'RateLimit: "a \"b\" \\ ??";r=3;t=2' + b"\r\n"
    assert quote("fair") == '"fair"'


def test_a_name_with_a_percent_is_told_as_it_is() -> None:
    rate = limit().rate
    assert not isinstance(rate, str)
    assert Quota("50% off", limit(), rate).line(3, 1) == b'RateLimit: "50% off";r=3;t=1\r\n'
