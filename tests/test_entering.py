"""Who may come in, rehearsed: inline tests and explanations of routes with `auth` and `allow`."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.config import load_text
from gateway.explain import explain
from gateway.inline_tests import run
from gateway.pipeline import pipeline
from gateway.rehearsal import Given

if TYPE_CHECKING:
    from pathlib import Path

KEY = "gw_a-key-of-ann-that-nobody-guesses"
CONFIG = """
server: {secret: a-secret-of-the-gateway}
auth:
  keys: {api_key: {keys_file: keys.yaml, forward: {X-Who: "{consumer}"}}}
  staff:
    jwt:
      issuer: https://idp.example.com/
      consumer: "{claim.sub}"
      forward: {X-User: "{claim.sub}", X-Roles: "{claim.roles}"}
  login: {oidc: {issuer: "https://idp.example.com/", client_id: web}}
  sso: {forward_auth: {url: "http://127.0.0.1:1/", copy: [X-Team]}}
  signed: {hmac: {secret: a-secret-that-is-long-enough-for-us}}
  other: {jwt: {secret: a-secret-that-is-long-enough-for-hs256}}
routes:
  - name: orders
    path: /orders/*
    to: http://127.0.0.1:1
    auth: [keys, staff]
    allow: {scopes: orders, deny_ip: 203.0.113.0/24}
    rate_limit: [100/s, 5/s per consumer]
    headers: {request: {set: {X-Tenant: "{claim.tenant}"}}}
  - name: kept
    path: /kept
    to: http://127.0.0.1:1
    auth: [keys, other]
    forward_credentials: true
  - {name: page, path: /page, to: 'http://127.0.0.1:1', auth: login, csrf: on, cors: "https://a.example"}
  - {name: asked, path: /asked, to: 'http://127.0.0.1:1', auth: [staff, keys, sso]}
  - {name: hook, path: /hook, to: 'http://127.0.0.1:1', auth: signed}
  - {name: open, path: /open, to: 'http://127.0.0.1:1'}
  - {name: own, path: /own, respond: 204, allow: {ip: 10.0.0.0/8, mode: report}}
"""
KEYS = f"""
keys:
  - {{id: k1, sha256: {hashlib.sha256(KEY.encode()).hexdigest()}, consumer: ann, scopes: [orders]}}
  - {{id: k2, sha256: {hashlib.sha256(b"another").hexdigest()}, consumer: bob, scopes: []}}
"""


@pytest.fixture(autouse=True)
def _keys(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text(KEYS)


def problems(folder: Path, request: str, expect: str) -> list[str]:
    """What is wrong about one inline test."""
    test = f"tests: [{{name: t, request: {{{request}}}, expect: {{{expect}}}}}]\n"
    (outcome,) = run(load_text(CONFIG + test, base=folder))
    return list(outcome.problems)


@pytest.mark.parametrize(
    ("request_", "expect"),
    [
        ("get: 'http://h/orders/7'", "route: orders, status: 401, reason: unauthenticated"),
        ("get: 'http://h/orders/7', client_ip: 203.0.113.9", "status: 403, reason: ip_denied"),
        ("get: 'http://h/orders/7', headers: {X-Api-Key: wrong}", "reason: unauthenticated"),
        ("get: 'http://h/orders/7', headers: {X-Api-Key: another}", "status: 403, reason: forbidden"),
        (
            f"get: 'http://h/orders/7', headers: {{X-Api-Key: {KEY}}}",
            "upstream: orders, upstream_headers: {x-who: ann, x-api-key: ''}",
        ),
        (
            f"get: 'http://h/kept', headers: {{X-Api-Key: {KEY}}}",
            f"upstream: kept, upstream_headers: {{x-who: ann, x-api-key: {KEY}}}",
        ),
        (
            "get: 'http://h/orders/7', auth: staff, claims: {sub: bob, scope: a orders, tenant: t1, roles: [x, y]}",
            "upstream: orders, upstream_headers: {x-user: bob, x-roles: 'x,y', x-tenant: t1}",
        ),
        ("get: 'http://h/orders/7', claims: {sub: bob}", "reason: forbidden"),
        ("get: 'http://h/orders/7', claims: {scp: orders}, consumer: carl", "upstream_headers: {x-who: carl}"),
        ("get: 'http://h/open', headers: {X-User: forged}", "upstream_headers: {x-user: ''}"),
        ("get: 'http://h/own', client_ip: 192.0.2.1", "status: 204"),
        ("post: 'http://h/page'", "route: page, reason: unauthenticated"),
        ("post: 'http://h/hook'", "route: hook, reason: unauthenticated"),
        ("get: 'http://h/asked'", "route: asked"),
        ("get: 'http://h/asked', auth: sso, claims: {x-team: blue}", "upstream_headers: {x-team: blue}"),
        (f"get: 'http://h/asked', headers: {{X-Api-Key: {KEY}, Authorization: Bearer a.b.c}}", "upstream: asked"),
        ("get: 'http://h/orders/7', headers: {Authorization: Basic abc}", "reason: unauthenticated"),
        ("get: 'http://h/page', consumer: ann", "upstream: page"),
        (
            "options: 'http://h/page', headers: {Origin: 'https://a.example', Access-Control-Request-Method: GET}",
            "route: page, status: 204, headers: {Access-Control-Allow-Origin: 'https://a.example'}",
        ),
    ],
)  # fmt: skip
def test_a_client_is_let_in_or_refused_as_it_would_be(
    tmp_path: Path, request_: str, expect: str
) -> None:
    assert problems(tmp_path, request_, expect) == []


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        ("get: 'http://h/open', claims: {sub: a}", "the route open has no auth, so nobody is known there"),
        ("get: 'http://h/orders/7', auth: other", "does not accept the policy other: it accepts keys, staff"),
        (
            "get: 'http://h/orders/7', headers: {Authorization: Bearer a.b.c}",
            "policy staff asks others who this is, and nobody is asked here: say who it is with claims or consumer",
        ),
        (
            "get: 'http://h/page', headers: {Sec-Fetch-Mode: navigate, Sec-Fetch-Dest: document, Accept: text/html}",
            "policy login sends who is not known to a provider, and nobody is asked here",
        ),
        ("get: 'http://h/asked'", "policy sso asks others who this is"),
        ("post: 'http://h/hook', headers: {X-Signature: abc}", "policy signed wants the moment of a signature"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_without_a_network_is_no_guess(
    tmp_path: Path, request_: str, problem: str
) -> None:
    (found,) = problems(tmp_path, request_, "status: 401")
    assert problem in found


def test_a_file_that_cannot_be_used_is_told_by_each_test(tmp_path: Path) -> None:
    test = "tests: [{name: t, request: {get: 'http://h/orders/7'}, expect: {status: 401}}]\n"
    config = load_text(CONFIG + test, base=tmp_path)
    (tmp_path / "keys.yaml").write_text("keys: {}")
    (outcome,) = run(config)
    assert "keys.yaml" in str(outcome.problems)


def test_a_policy_that_a_test_names_must_exist(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="there is no auth policy 'stafff': did you mean staff"):
        problems(tmp_path, "get: 'http://h/orders/7', auth: stafff", "status: 401")


def test_many_wrong_keys_in_tests_make_nobody_wait(tmp_path: Path) -> None:
    test = "{name: t, request: {get: 'http://h/kept', headers: {X-Api-Key: wrong}}, expect: {status: 401}}"
    outcomes = run(load_text(f"{CONFIG}tests: [{', '.join([test] * 60)}]\n", base=tmp_path))
    assert [outcome.problems for outcome in outcomes] == [()] * 60


def test_an_explanation_says_who_asks_and_what_the_upstream_is_told(tmp_path: Path) -> None:
    config = load_text(CONFIG, base=tmp_path)
    found = explain(config, "GET", "http://h/orders/7", [("X-Api-Key", KEY)])
    assert found.client["policy"] == "keys"
    assert (found.client["consumer"], found.client["scopes"]) == ("ann", ["orders"])
    assert found.sent is not None
    names = {name.lower(): value for name, value in found.sent["headers"]}
    assert names["x-who"] == "ann"
    assert "x-api-key" not in names
    assert "consumer" in found.text()


def test_an_explanation_says_why_a_client_is_refused(tmp_path: Path) -> None:
    config = load_text(CONFIG, base=tmp_path)
    found = explain(config, "GET", "http://h/orders/7", [("X-Api-Key", "no")])
    assert found.error is not None
    assert (found.error["status"], found.error["reason"]) == (401, "unauthenticated")
    assert found.sent is None
    assert found.matched
    given = Given("staff", {"sub": "bob"})
    found = explain(config, "GET", "http://h/orders/7", given=given)
    assert found.error is not None
    assert found.error["detail"] == "bob: scope orders is missing"


def test_an_explanation_says_what_it_cannot_know(tmp_path: Path) -> None:
    config = load_text(CONFIG, base=tmp_path)
    found = explain(config, "GET", "http://h/orders/7", [("Authorization", "Bearer a.b.c")])
    assert "policy staff asks others" in found.client["unknown"]
    assert found.error is None
    with pytest.raises(ValueError, match="has no auth"):
        explain(config, "GET", "http://h/open", given=Given())


def test_the_command_takes_claims(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    file = str(tmp_path / "gateway.yaml")
    asked = ["explain", "-c", file, "--json", "GET", "http://h/orders/7"]
    runner = CliRunner()
    claims = '{"sub": "bob", "scopes": ["orders"]}'
    done = runner.invoke(main, [*asked, "--auth", "staff", "--claims", claims])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["client"]["consumer"] == "bob"
    done = runner.invoke(main, [*asked, "--claims", "[1]"])
    assert done.exit_code == 2
    assert "a JSON object is wanted" in done.output
    done = runner.invoke(main, [*asked, "--claims", "{sub: bob}"])
    assert "is no JSON" in done.output


def test_the_pipeline_has_what_needs_no_credentials_first(tmp_path: Path) -> None:
    stages = dict(pipeline(load_text(CONFIG, base=tmp_path).routes[0]))
    names = [
        name
        for name in stages
        if name in ("ip rules", "auth", "authorise", "credentials", "request transform")
        or name.startswith("rate")
    ]
    assert names == [
        "ip rules",
        "rate limit by address",
        "auth",
        "authorise",
        "rate limit by identity",
        "credentials",
        "request transform",
    ]
    assert stages["ip rules"] == "not from 203.0.113.0/24"
    assert stages["auth"] == "keys or staff"
    assert stages["rate limit by identity"] == "orders-2: 5/s per consumer"


def test_the_list_of_routes_says_who_is_asked_for_what(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    done = CliRunner().invoke(main, ["routes", "-c", str(tmp_path / "gateway.yaml")])
    heading, first, *_ = done.output.splitlines()
    assert heading.split() == ["NAME", "METHODS", "HOST", "PATH", "AUTH", "ANSWER", "PLACE"]
    assert "keys or staff" in first
    (tmp_path / "gateway.yaml").write_text("routes: [{path: /, respond: 204}]")
    done = CliRunner().invoke(main, ["routes", "-c", str(tmp_path / "gateway.yaml")])
    assert "AUTH" not in done.output
