"""Rules across fields of who may come in and how fast: each with the place and the fix that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trustme

from gateway.config import entrance_rules, load_text, model
from tests.config.kit import loaded, refused

if TYPE_CHECKING:
    from pathlib import Path


AUTH = "auth: {staff: {jwt: 'https://i/'}, sso: {forward_auth: 'http://a/'}}\n"
LIMITS = "rate_limits: {fair: 100/s per client_ip, plan: {rate: 1/s, key: consumer}}\n"
USED = "  - {path: /u, to: 'http://h', auth: [staff, sso], rate_limit: [fair, plan]}\n"


def one(text: str, base: Path | str = ".") -> str:
    """The only thing that is wrong."""
    lines = refused(text, base)
    assert len(lines) == 1, lines
    return lines[0]


def warned(text: str) -> list[str]:
    return [str(one).removeprefix("gateway.yaml:") for one in loaded(text).warnings]


def with_route(policies: str, rest: str = "") -> str:
    return f"{AUTH}{LIMITS}{rest}routes:\n{USED}  - {{path: /r, to: 'http://h', {policies}}}\n"


def test_effective_routes_have_their_policies_and_limits() -> None:
    config = loaded(
        with_route("name: r, auth: staff, rate_limit: [fair, 5/m per consumer, 1/s], csrf: on")
    )
    route = config.routes[1]
    assert route.policies.auth == ("staff",)
    assert route.policies.csrf
    assert [(name, str(limit.rate)) for name, limit in route.rate_limits] == [
        ("fair", "100/s"),
        ("r", "5/m"),
        ("r-2", "1/s"),
    ]
    assert config.auth["staff"].jwt is not None
    assert config.rate_limits["fair"] is route.rate_limits[0][1]


def test_a_profile_may_hold_the_policies_and_a_route_replaces_or_merges_them() -> None:
    config = loaded(
        f"{AUTH}{LIMITS}"
        "profiles: {p: {auth: [staff, sso], rate_limit: [fair, plan], allow: {scopes: a}, "
        "cors: 'https://a.example', security_headers: strict, hsts: 30d}}\n"
        "routes:\n"
        "  - {path: /a, to: 'http://h', use: p}\n"
        "  - {path: /b, to: 'http://h', use: p, auth: off, allow: off, rate_limit: off, cors: off}\n"
        "  - {path: /c, to: 'http://h', use: p, auth: sso, allow: {mode: report}, cors: {credentials: on}}\n"
    )
    first, second, third = (route.policies for route in config.routes)
    assert (first.auth, first.rate_limit) == (("staff", "sso"), ("fair", "plan"))
    assert (second.auth, second.allow, second.rate_limit, second.cors) == (None, None, (), None)
    assert third.auth == ("sso",)
    assert third.allow is not None
    assert (third.allow.scopes, third.allow.mode) == (("a",), "report")
    assert third.cors is not None
    assert (third.cors.credentials, len(third.cors.origins)) == (True, 1)


def test_included_files_may_hold_auth_limits_and_stores(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text(
        "auth: {keys: {api_key: keys.yaml}}\nstores: {redis: 'redis://r'}\n"
        "rate_limits: {fair: {rate: 1/s, store: redis}}\n"
    )
    (tmp_path / "keys.yaml").write_text("keys: []\n")
    text = "include: more.yaml\nroutes: [{path: /, to: 'http://h', auth: keys, rate_limit: fair}]"
    config = load_text(text, base=tmp_path)
    assert config.auth["keys"].api_key is not None
    assert config.auth["keys"].api_key.keys_file == str(tmp_path / "keys.yaml")
    assert config.rate_limits["fair"].store == "redis"
    assert str(config.stores["redis"].url) == "redis://r"


@pytest.mark.parametrize(
    ("policies", "line"),
    [
        ("auth: stafff", "there is no auth policy 'stafff': did you mean staff?"),
        ("auth: [staff, oso]", "there is no auth policy 'oso': did you mean sso?"),
        ("auth: [staff, staff]", "staff is written twice"),
        ("auth: []", "nobody is accepted: write the names of policies, or off"),
        ("rate_limit: [fair, fare]", "there is no rate limit 'fare': did you mean fair?"),
        ("rate_limit: [fair, fair]", "fair is written twice"),
        ("rate_limit: {rate: 1/s, store: redis}", "there is no store 'redis'"),
        ("name: fair, rate_limit: 1/s", "give the route another name"),
        ("rate_limit: plan", "on the route /r, {consumer}: there is no `auth` here"),
        ("rate_limit: 1/s per consumer", "{consumer}: there is no `auth` here, so nobody is known"),
        ("rate_limit: 1/s per claim.sub", "{claim.sub}: there is no `auth` here"),
        ("rate_limit: 1/s per path.id", "the path has no capture 'id'"),
        ("rate_limit: 1/s per upstream", "{upstream} is not chosen yet where limits are counted"),
        ("rate_limit: 1/s per client", "there is no placeholder {client}: did you mean client_ip?"),
        ("rate_limit: {rate: 1/s, cost: '{nope}'}", "there is no placeholder {nope}"),
        ("rate_limit: {rate: 3/s, cost: 4}", "a request takes 4 and there are never more than 3"),
        ("rate_limit: {rate: 9/s, burst: 3, cost: 4}", "there are never more than 3: none would"),
        ("rate_limit: {rate: 9/s, burst: 9, algorithm: fixed_window}", "fixed_window has no burst"),
        ("rate_limit: {rate: 9/s, burst: 9, algorithm: sliding_window}", "has no burst: leave it"),
        ("rate_limit: '{query.a|lots}'", "have no value, 'lots' is no rate"),
        ("headers: {request: {set: {X: '{consumer}'}}}", "{consumer}: there is no `auth` here"),
        ("headers: {request: {set: {X: '{claim.a|b}'}}}", "{claim.a}: there is no `auth` here"),
        ("allow: {scopes: a}", "there is no `auth` here, so nobody has scopes: write auth: NAME"),
        ("allow: {mode: report}", "nobody is refused: write scopes, claims"),
        ("cors: {credentials: on}", "origins is missing: write one such as"),
        ("cors: {origins: '*', credentials: on}", "would let every page on the web act"),
        (
            "cors: {origins: 'https://a', credentials: on, headers: '*'}",
            "browsers take * for a name where there are credentials: list headers",
        ),
        ("hsts: {preload: on}", "subdomains: on and a max_age of 365d or more"),
        ("hsts: {preload: on, subdomains: on, max_age: 30d}", "a max_age of 365d or more"),
        ("security_headers: {set: {Connection: x}}", "is made by the gateway"),
    ],
)  # fmt: skip
def test_what_cannot_be_on_a_route_is_told(policies: str, line: str) -> None:
    assert line in one(with_route(policies))


@pytest.mark.parametrize(
    "policies",
    [
        "auth: staff, headers: {request: {set: {X: '{consumer} {claim.realm.roles}'}}}",
        "auth: staff, allow: {scopes: a, claims: {role: admin}, consumers: b, groups: c}",
        "allow: {ip: 10.0.0.0/8}",
        "auth: staff, rate_limit: [plan, '{claim.rate|10/s} per consumer', 1/s per header.x-a]",
        "cors: {origins: ['https://a', 'https://*.b'], credentials: on}",
        "cors: '*'",
        "hsts: {preload: on, subdomains: on}",
    ],
)
def test_what_may_be_is_taken(policies: str) -> None:
    assert load_text(with_route(policies)).routes


def test_a_split_sticks_to_a_client_that_is_known() -> None:
    split = "split: [{upstream: u, weight: 1, sticky_by: consumer}]"
    text = (
        f"{AUTH}upstreams: {{u: 'http://h'}}\nroutes: [{{path: /a, auth: [staff, sso], {split}}}]"
    )
    assert load_text(text).routes
    assert "there is no `auth`" in one(
        f"upstreams: {{u: 'http://h'}}\nroutes: [{{path: /a, {split}}}]"
    )


def test_a_hash_of_the_client_is_checked_on_each_route() -> None:
    up = "upstreams: {u: {targets: 'http://h', balance: 'hash:{claim.sub}'}}\n"
    text = (
        f"{AUTH}{up}routes: [{{path: /a, to: u, auth: [staff, sso]}}, {{name: b, path: /b, to: u}}]"
    )
    assert "on the route b, {claim.sub}: there is no `auth` here" in one(text)


def test_the_access_log_may_name_claims_where_there_is_a_policy() -> None:
    log = "observability: {access_log: {fields: {add: {tenant: '{claim.tenant}'}}}}\n"
    assert load_text(log + with_route("auth: off")).routes
    assert "there is no `auth`" in one(log + "routes: [{path: /a, to: 'http://h'}]")


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        ("{jwt: {issuer: 'https://i/', consumer: '{header.x}'}}", "{header.x} is not known of a client: claim.NAME may"),
        ("{jwt: {issuer: 'https://i/', consumer: '{consumer}'}}", "{consumer} is not known of a client"),
        ("{jwt: {issuer: 'https://i/', forward: {X-A: '{path}'}}}", "claim.NAME, consumer may stand here"),
        ("{jwt: {issuer: 'https://i/', forward: {Host: a}}}", "Host is made by the gateway"),
        ("{jwt: {issuer: 'https://i/', forward: {X-A: '{tls.subject}'}}}", "not known of a client"),
        ("{jwt: {jwks: nowhere.json}}", "nowhere.json cannot be read: No such file"),
        ("{api_key: nowhere.yaml}", "nowhere.yaml cannot be read: No such file"),
        ("{basic: nowhere}", "nowhere cannot be read: No such file"),
        ("{oidc: {issuer: 'https://i/', client_id: a}}", "oidc needs server: {secret: …}"),
        ("{}", "exactly one of jwt"),
        ("{mtls: {consumer: '{tls.san_dsn}'}}", "there is no {tls.san_dsn}: did you mean san_dns?"),
        ("{mtls: {forward: {X-A: '{tls.foo}'}}}", "there is no {tls.foo}; known are cipher, fingerprint"),
    ],
)  # fmt: skip
def test_what_cannot_be_of_a_policy_is_told(policy: str, line: str) -> None:
    found = one(f"auth: {{p: {policy}}}\nroutes: [{{path: /a, to: 'http://h', auth: p}}]")
    assert line in found
    assert "auth.p" in found


def test_a_policy_for_certificates_may_name_what_tls_tells() -> None:
    text = "auth: {m: {mtls: {consumer: '{tls.san_dns}'}}}\nroutes: [{path: /a, to: 'http://h', auth: m}]"
    assert [line for line in warned(text) if "certificates" in line] == [
        "1:18: auth.m.mtls: no listener asks clients for certificates: write tls: {client_auth: optional, …}"
    ]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("<html>", "keys.json:1:1: this is no JSON (Expecting value): a JWKS is wanted"),
        ('{"keys": [\n  {"kty": "EC" 1}]}', "keys.json:2:16: this is no JSON"),
        ("[]", "keys.json:1:1: a JWKS is wanted"),
        ('{"keys": {}}', "keys.json:1:1: a JWKS is wanted"),
        ("[" * 100_000, "keys.json:1:1: a JWKS is wanted"),
    ],
)
def test_a_file_that_is_no_jwks_is_told_with_all_else(
    tmp_path: Path, content: str, line: str
) -> None:
    (tmp_path / "keys.json").write_text(content)
    found = refused(
        "auth: {p: {jwt: {jwks: keys.json}}}\nroutes: [{path: /a, to: 'http://h', auth: q}]",
        tmp_path,
    )
    assert len(found) == 2
    assert "there is no auth policy 'q'" in str(found)
    assert line in "\n".join(found)


@pytest.mark.parametrize(
    ("key", "where"),
    [
        ("cors: '*'", "write it in a route, in a profile, or in defaults for all routes"),
        ("rate_limit: 5/s", "write it in a route"),
        ("jwt: {issuer: a}", "write auth: {NAME: {jwt: …}}"),
        ("tls: {certificates: a}", "write it in one of listeners"),
        ("trusted_proxies: [10.0.0.0/8]", "write it in server"),
        ("health: /x", "write it in an upstream, or in defaults for all"),
    ],
)
def test_what_stands_at_the_top_and_belongs_elsewhere_is_told_where(key: str, where: str) -> None:
    assert f"does not belong here: {where}" in one(f"{key}\nroutes: [{{path: /a, to: 'http://h'}}]")


@pytest.mark.parametrize(
    ("keys", "others", "told"),
    [
        ("header: Authorization", "staff", True),
        ("header: authorization", "opaque", True),
        ("header: Authorization, attempts: off", "staff", False),
        ("header: X-Api-Key", "staff", False),
        ("header: Authorization", "elsewhere", False),
    ],
)
def test_tokens_that_would_be_taken_for_wrong_keys_are_warned_of(
    tmp_path: Path, keys: str, others: str, told: bool
) -> None:
    (tmp_path / "keys.yaml").write_text("keys: []\n")
    text = (
        f"auth:\n  keys: {{api_key: {{keys_file: keys.yaml, {keys}}}}}\n  staff: {{jwt: 'https://i/'}}\n"
        "  elsewhere: {jwt: {issuer: 'https://i/', header: X-Token}}\n"
        "  opaque: {introspection: {url: 'https://i/', client_id: a, client_secret: b}}\n"
        f"routes: [{{path: /a, to: 'http://h', auth: [keys, {others}]}}]"
    )
    warnings = [str(one) for one in load_text(text, base=tmp_path).warnings]
    assert (
        any(f"keys takes each token of {others} for a wrong key" in one for one in warnings) is told
    )


@pytest.mark.parametrize(
    ("policies", "groups", "told"),
    [
        ("[signed]", "", ["scopes: signed tell", "groups: signed tell"]),
        ("[signed, machines]", "", ["scopes: signed and machines tell", "groups: signed and machines tell"]),
        ("[signed, staff]", "", []),
        ("[sso]", "", ["scopes: sso tell"]),
        ("[machines]", "groups: '{claim.subject}'", ["scopes: machines tell"]),
    ],
)  # fmt: skip
def test_what_no_policy_tells_can_not_be_asked_for(
    policies: str, groups: str, told: list[str]
) -> None:
    text = (
        f"auth:\n  machines: {{mtls: {{{groups}}}}}\n  signed: {{hmac: {{secret: {'s' * 32}}}}}\n"
        "  staff: {jwt: 'https://i/'}\n  sso: {forward_auth: 'http://a/'}\n"
        f"routes: [{{path: /a, to: 'http://h', auth: {policies}, allow: {{scopes: [x], groups: [y]}}}}]"
    )
    found = [line.partition("allow.")[2] for line in warned(text) if "nobody is let in" in line]
    assert [line.partition(" no ")[0] for line in found] == told


def test_what_nobody_uses_is_a_warning() -> None:
    text = f"{AUTH}{LIMITS}stores: {{s: 'redis://r'}}\nroutes: [{{path: /a, to: 'http://h'}}]"
    assert [line.partition(": ")[2] for line in warned(text)] == [
        "auth.staff: no route uses the auth policy staff",
        "auth.sso: no route uses the auth policy sso",
        "rate_limits.fair: no route uses the rate limit fair",
        "rate_limits.plan: no route uses the rate limit plan",
        "stores.s: no limit uses the store s",
    ]
    assert "forward_credentials has no effect without auth" in str(
        warned("routes: [{path: /a, to: 'http://h', forward_credentials: on}]")
    )


def test_an_extra_that_is_not_installed_is_told_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entrance_rules, "find_spec", lambda name: None)
    (tmp_path / "c.pem").write_text("")
    tls = "listeners: [{bind: 127.0.0.1:1, tls: c.pem}]\n"
    text = f"{tls}{AUTH}stores: {{s: 'redis://r'}}\nroutes: [{{path: /a, to: 'http://h', auth: staff}}]"
    assert [line.partition(": ")[2] for line in refused(text, tmp_path)] == [
        "listeners[0].tls: cryptography is not installed: pip install 'gateway[tls]'",
        "auth.staff.jwt: jwt is not installed: pip install 'gateway[auth]'",
        "stores.s: redis is not installed: pip install 'gateway[redis]'",
    ]


@pytest.mark.parametrize(
    ("listener", "line"),
    [
        ("{bind: 127.0.0.1:1, tls: {certificates: [{cert: no.crt, key: no.key}]}}", "no.crt cannot be read"),
        ("{bind: 127.0.0.1:1, proxy_protocol: {from: unix}}", "nobody comes here by a unix socket"),
        ("{bind: 'unix:/s', proxy_protocol: {from: 10.0.0.0/8}}", "write from: unix"),
    ],
)  # fmt: skip
def test_what_cannot_be_of_a_listener_is_told(listener: str, line: str) -> None:
    lines = refused(f"listeners: [{listener}]\nroutes: [{{path: /a, to: 'http://h'}}]")
    assert line in lines[0]


@pytest.mark.parametrize(
    ("tls", "place", "told"),
    [
        ("client_auth: required", "client_auth", "required needs client_ca: who vouches for clients"),
        ("client_ca: no.pem", "client_ca", "nobody is asked: write client_auth: optional, or required"),
        ("forward_client_cert: on", "forward_client_cert", "nobody is asked: write client_auth and client_ca"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_hides_no_other_mistake(tls: str, place: str, told: str) -> None:
    found = refused(
        f"listeners: [{{bind: 127.0.0.1:1, tls: {{certificates: no.crt, {tls}}}}}]\n"
        "routes: [{path: /a, to: 'http://h'}]"
    )
    assert any(f"listeners[0].tls.{place}: {told}" in line for line in found)
    assert any("no.crt cannot be read" in line for line in found)


def test_a_certificate_and_its_key_that_are_missing_are_told_at_once() -> None:
    pairs = "[{cert: no.crt, key: no.key}, {cert: other.crt}]"
    found = refused(
        f"listeners: [{{bind: 127.0.0.1:1, tls: {{certificates: {pairs}}}}}]\nroutes: [{{path: /a, to: 'http://h'}}]"
    )
    assert [line.partition(" cannot")[0].rpartition("/")[2] for line in found] == [
        "no.crt",
        "no.key",
        "other.crt",
    ]


def test_who_speaks_https_is_not_sent_there(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_bytes(
        trustme.CA().issue_cert("h").private_key_and_cert_chain_pem.bytes()
    )
    text = (
        "listeners: [{bind: 127.0.0.1:1, tls: c.pem, redirect_to_https: on}]\n"
        "routes: [{path: /a, host: h, to: 'http://h'}]"
    )
    assert "speaks https already" in one(text, tmp_path)


def test_secrets_are_masked_wherever_they_stand(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://:whole@r")
    config = loaded(
        "server: {secret: a-secret-of-the-gateway}\n"
        "auth:\n"
        "  h: {hmac: {secret: [top1, top2]}}\n"
        "  o: {oidc: {issuer: 'https://i/', client_id: c, client_secret: top3}}\n"
        "  i: {introspection: {url: 'https://i/', client_id: c, client_secret: top4}}\n"
        "  j: {jwt: {secret: top5-and-as-long-as-its-hash-is-}}\n"
        "stores: {s: 'redis://ann:top6@r:1/0', t: '${file:url}'}\n"
        "rate_limits: {a: {rate: 1/s, store: s}, b: {rate: 1/s, store: t}}\n"
        "routes: [{path: /a, to: 'http://h', auth: [h, o, i, j], rate_limit: [a, b]}]",
        tmp_path,
    )
    shown: dict[str, dict[str, dict[str, object]]] = config.masked  # type: ignore[assignment]
    assert "top" not in repr(shown)
    assert "whole" not in repr(shown)
    assert "top" not in repr(config)
    assert shown["auth"]["h"]["hmac"]["secret"] == ["***", "***"]  # type: ignore[index]
    assert shown["stores"]["s"]["url"] == "redis://ann:***@r:1/0"
    assert shown["stores"]["t"]["url"] == "***"
    assert isinstance(config.auth["j"].settings, model.Jwt)
