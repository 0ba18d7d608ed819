"""`allow`: addresses before, and everything else after it is known who asks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway import errors
from gateway.config import model
from gateway.config.allow import ClaimTest
from gateway.exchange import Reply
from gateway.identity import Identity
from gateway.middleware import allow
from tests.middleware.test_metrics import build
from tests.observe.stand_in import exchange

ANN = Identity(
    "staff",
    "ann",
    {
        "role": "admin",
        "plans": ["free", "pro"],
        "level": 3,
        "about": "very nice",
        "realm": {"name": "eu"},
    },
    frozenset({"read", "write"}),
    frozenset({"ops"}),
)


def allowed(claims: dict[str, Any] | None = None, **rules: Any) -> model.Allow:
    tests = {
        name: ClaimTest(
            **(
                test
                if isinstance(test, dict)
                else {"one_of" if isinstance(test, list) else "equals": test}
            )
        )
        for name, test in (claims or {}).items()
    }
    return model.Allow(claims=tests, **rules)


def judged(
    identity: Identity | None = ANN, client_ip: str = "10.1.2.3", **rules: Any
) -> dict[str, int]:
    """What is counted. Raises errors.Forbidden."""
    made = build()
    route = cast("Any", SimpleNamespace(policies=SimpleNamespace(allow=allowed(**rules))))
    handler = allow.wrap(route, lambda _: Reply(200, []), made)
    handler = allow.wrap_addresses(route, handler, made)
    asked = exchange(client_ip=client_ip)
    asked.identity = identity
    reply = handler(asked)
    assert isinstance(reply, Reply)
    counted = made.metrics.entrance.policies.values()
    return {f"{meter.name} {word}": n for meter in counted for word, n in meter.outcomes.items()}


@pytest.mark.parametrize(
    "rules",
    [
        {"scopes": ["read"]},
        {"scopes": ["read", "write"]},
        {"claims": {"role": "admin"}},
        {"claims": {"role": ["user", "admin"]}},
        {"claims": {"plans": {"contains": "pro"}}},
        {"claims": {"about": {"contains": "nice"}, "level": "3"}},
        {"claims": {"realm.name": "eu"}},
        {"consumers": ["bob", "ann"]},
        {"groups": ["dev", "ops"]},
        {"ip": ["10.0.0.0/8", "203.0.113.0/24"]},
        {"ip": ["10.0.0.0/8"], "deny_ip": ["10.9.0.0/16"], "consumers": ["ann"]},
        {"deny_ip": ["192.0.2.0/24"]},
    ],
)
def test_who_fulfils_all_rules_passes(rules: dict[str, Any]) -> None:
    assert judged(**rules) == {}


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ({"scopes": ["read", "delete"]}, "scope delete is missing"),
        ({"claims": {"role": "user"}}, "claim role is not user"),
        ({"claims": {"plans": {"contains": "gold"}}}, "claim plans lacks gold"),
        ({"claims": {"plans": "pro"}}, "claim plans is not pro"),
        ({"claims": {"about": {"contains": "ice"}}}, "claim about lacks ice"),
        ({"claims": {"plans": "free,pro"}}, "claim plans is not"),
        ({"claims": {"nothing": "x"}}, "claim nothing"),
        ({"claims": {"role": "admin", "level": "4"}}, "claim level"),
        ({"claims": {"realm": "eu"}}, "claim realm"),
        ({"consumers": ["bob"]}, "allow.consumers"),
        ({"groups": ["dev"]}, "no group"),
        ({"scopes": ["read"], "groups": ["dev"]}, "no group"),
    ],
)
def test_who_breaks_one_is_forbidden_and_the_operator_reads_why(
    rules: dict[str, Any], why: str
) -> None:
    with pytest.raises(errors.Forbidden, match=why):
        judged(**rules)
    assert judged(**rules, mode="report") == {"staff would_deny": 1}


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ({"ip": ["192.0.2.0/24"]}, "not in allow.ip"),
        ({"ip": ["10.0.0.0/8"], "deny_ip": ["10.1.0.0/16"]}, "in allow.deny_ip"),
        ({"deny_ip": ["10.1.2.3/32"], "consumers": ["ann"]}, "in allow.deny_ip"),
    ],
)
def test_an_address_is_denied_before_anybody_is_asked_who_it_is(
    rules: dict[str, Any], why: str
) -> None:
    with pytest.raises(errors.IpDenied, match=why):
        judged(None, **rules)
    assert judged(**rules, mode="report") == {"_address would_deny": 1}


def test_nobody_is_not_somebody_that_is_allowed() -> None:
    with pytest.raises(errors.Forbidden, match="nobody is known"):
        judged(None, consumers=["ann"])
