"""Models of authentication, limits, TLS and what browsers are told: forms, bounds, and what is said of mistakes."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from gateway.config import model
from gateway.config.limits import StoreUrl
from tests.config.reading import read, wrong

if TYPE_CHECKING:
    from gateway.config.forms import Model


@pytest.mark.parametrize(
    ("kind", "short", "full"),
    [
        (model.RateLimit, "100/s", "{rate: 100/s, key: client_ip}"),
        (model.RateLimit, "100/s per consumer", "{rate: 100/s, key: consumer}"),
        (model.RateLimit, "20 / m per {claim.t}:{route}", "{rate: 20/m, key: '{claim.t}:{route}'}"),
        (model.AuthPolicy, "{jwt: 'https://i/'}", "{jwt: {issuer: 'https://i/', jwks: discover}}"),
        (
            model.AuthPolicy,
            "{api_key: k.yaml}",
            "{api_key: {header: X-Api-Key, keys_file: k.yaml}}",
        ),
        (model.AuthPolicy, "{basic: f}", "{basic: {htpasswd: f}}"),
        (model.AuthPolicy, "mtls", "{mtls: {}}"),
        (model.AuthPolicy, "{mtls: on}", "{mtls: {}}"),
        (model.AuthPolicy, "{forward_auth: 'http://a/'}", "{forward_auth: {url: 'http://a/'}}"),
        (model.Allow, "{scopes: a, ip: 10.0.0.0/8}", "{scopes: [a], ip: [10.0.0.0/8]}"),
        (model.Allow, "{claims: {a: b}}", "{claims: {a: {equals: b}}}"),
        (model.Allow, "{claims: {a: [b, c]}}", "{claims: {a: {one_of: [b, c]}}}"),
        (model.Allow, "{claims: {a: true}}", "{claims: {a: {equals: 'true'}}}"),
        (model.Cors, "https://a.example", "{origins: [{text: 'https://a.example'}]}"),
        (model.Cors, "[HTTPS://A.example]", "{origins: 'https://a.example'}"),
        (model.SecurityHeaders, "strict", "{preset: strict}"),
        (model.SecurityHeaders, "on", "{preset: basic}"),
        (model.Hsts, "on", "{max_age: 365d}"),
        (model.Hsts, "30d", "{max_age: 30d, subdomains: off}"),
        (model.ListenerTls, "a.pem", "{certificates: [{cert: a.pem}]}"),
        (model.ListenerTls, "[{cert: a, key: b}]", "{certificates: {cert: a, key: b}}"),
        (
            model.ListenerTls,
            "{certificates: a, min_version: 1.3}",
            "{certificates: a, min_version: '1.3'}",
        ),
        (model.ProxyProtocol, "unix", "{from: [unix]}"),
        (model.Store, "redis://r:6379/0", "{url: 'redis://r:6379/0', on_error: local}"),
    ],
)
def test_a_short_form_is_its_full_form(kind: type[Model], short: str, full: str) -> None:
    assert read(kind, short) == read(kind, full)


def test_what_a_jwt_policy_does_not_say_is_filled_in() -> None:
    jwt = read(model.Jwt, "{issuer: 'https://i/', audience: api}")
    assert (jwt.jwks, jwt.algorithms) == ("discover", ("RS256", "PS256", "ES256", "EdDSA"))
    assert (jwt.audience, jwt.expiry, jwt.leeway, jwt.header) == (
        ("api",),
        "required",
        30.0,
        "Authorization",
    )
    secrets = ["first-secret-of-thirty-two-bytes", "second-secret-of-thirty-two-byte"]
    shared = read(model.Jwt, f"{{secret: [{', '.join(secrets)}]}}")
    assert (shared.jwks, shared.algorithms) == (None, ("HS256",))
    assert [each.reveal() for each in shared.secret] == secrets


def test_files_are_relative_to_the_file_that_names_them() -> None:
    assert read(model.Jwt, "{jwks: keys.json}").jwks == "/etc/gw/keys.json"
    assert read(model.Jwt, "{jwks: 'https://i/keys'}").jwks == "https://i/keys"
    assert read(model.ApiKey, "keys.yaml").keys_file == "/etc/gw/keys.yaml"
    assert read(model.Basic, "htpasswd").htpasswd == "/etc/gw/htpasswd"
    tls = read(
        model.ListenerTls,
        "{certificates: [{cert: a.crt, key: /b}], client_ca: ca, client_auth: required}",
    )
    assert (tls.certificates[0].cert, tls.certificates[0].key) == ("/etc/gw/a.crt", "/b")
    assert tls.client_ca == "/etc/gw/ca"


def test_a_policy_knows_its_method_and_settings() -> None:
    policy = read(model.AuthPolicy, "{hmac: {secret: s, scheme: github}}")
    assert policy.method == "hmac"
    assert policy.settings is policy.hmac
    assert policy.hmac is not None
    assert policy.hmac.header == "X-Hub-Signature-256"


@pytest.mark.parametrize(
    ("written", "count", "seconds"),
    [("100/s", 100, 1), ("20/m", 20, 60), ("5/h", 5, 3600), ("1/d", 1, 86400), ("9/month", 9, 30 * 86400)],
)  # fmt: skip
def test_a_rate_is_a_number_and_a_unit(written: str, count: int, seconds: float) -> None:
    rate = model.parse_quota(written)
    assert (rate.count, rate.seconds, str(rate)) == (count, seconds, written)


def test_a_limit_may_be_filled_in_for_each_request() -> None:
    limit = read(
        model.RateLimit, "{rate: '{claim.plan_rate|10/s}', key: consumer, cost: '{header.x|1}'}"
    )
    assert (limit.rate, limit.template, limit.cost) == (
        "{claim.plan_rate|10/s}",
        "{consumer}",
        "{header.x|1}",
    )
    assert (
        read(model.RateLimit, "{rate: 1/s, key: '{host}{path}', cost: 4}").template
        == "{host}{path}"
    )


def test_a_routes_limits_are_names_or_limits_of_its_own() -> None:
    class Holder(model.Model):
        of: tuple[model.Limited, ...] = ()

    made = read(Holder, "{of: [fair, 100/s per consumer, {rate: 20/m, key: consumer}]}").of
    assert made == (
        "fair",
        read(model.RateLimit, "100/s per consumer"),
        read(model.RateLimit, "{rate: 20/m, key: consumer}"),
    )
    assert read(Holder, "{of: fair}").of == ("fair",)
    assert read(Holder, "{of: off}").of == ()
    assert "write 100/s" in wrong(Holder, "{of: [fair, 100/sec]}")
    assert wrong(Holder, "{of: {rate: 1/s, brust: 2}}").startswith("of.brust: 'brust' is not known")


def test_the_url_of_a_store_is_shown_without_its_password() -> None:
    store = read(
        model.Store, "{url: 'redis://ann:hunter2@r:6379/0', timeout: 20ms, on_error: deny}"
    )
    assert str(store.url) == repr(store.url) == f"{store.url}" == "redis://ann:***@r:6379/0"
    assert store.url.reveal() == "redis://ann:hunter2@r:6379/0"
    assert "hunter2" not in repr(store)
    assert str(StoreUrl("redis://r/0")) == "redis://r/0"


def test_a_browser_that_has_logged_out_goes_to_a_path_or_a_whole_url() -> None:
    for there in ("/", "/bye?x=1#top", "https://www.example.com/#/bye"):
        oidc = read(model.Oidc, f"{{{ISSUER}, client_id: a, after_logout: '{there}'}}")
        assert oidc.after_logout == there


def test_networks_of_allow_and_proxy_protocol_are_networks() -> None:
    allow = read(model.Allow, "{ip: [10.0.0.0/8, 203.0.113.7], deny_ip: 'fd00::/8'}")
    assert allow.ip == (ip_network("10.0.0.0/8"), ip_network("203.0.113.7"))
    assert (allow.of_address, allow.of_identity) == (True, False)
    assert read(model.ProxyProtocol, "{from: [unix, 10.0.0.0/8]}").from_[0] == "unix"


ISSUER = "issuer: 'https://i/'"


@pytest.mark.parametrize(
    ("kind", "text", "fix"),
    [
        (model.AuthPolicy, "{}", "exactly one of jwt, api_key, basic"),
        (model.AuthPolicy, "{basic: f, api_key: k}", "not api_key and basic: give each a policy of its own"),
        (model.AuthPolicy, "{jwtt: {}}", "'jwtt' is not known here: did you mean jwt?"),
        (model.AuthPolicy, "[a]", "a mapping is wanted"),
        (model.Jwt, "{audience: api}", "jwks is missing: write a URL or a file, or issuer: https://…"),
        (model.Jwt, "{issuer: idp, audience: api}", "idp is no URL, so its keys cannot be looked up: write https://idp,"),
        (model.Jwt, "{jwks: discover}", "needs issuer"),
        (model.Jwt, "{issuer: 'http://i.example/'}", "write https://i.example/"),
        (model.Jwt, "{jwks: 'http://i.example/keys'}", "write https://i.example/keys"),
        (model.Jwt, "{jwks: 'ftp://i.example/keys'}", "is no URL"),
        (model.Jwt, "{jwks: k, secret: s}", "not both: a public key must never serve as a secret"),
        (model.Jwt, f"{{{ISSUER}, algorithms: [RS256, HS256]}}", "HS256 takes secret: …, never a JWKS"),
        (model.Jwt, "{secret: s, algorithms: [RS256]}", "RS256 takes a public key"),
        (model.Jwt, f"{{secret: {'x' * 31}}}", "it has 31 bytes, and HS256 wants 32"),
        (model.Jwt, f"{{secret: [{'x' * 64}, {'x' * 63}], algorithms: [HS256, HS512]}}", "63 bytes, and HS512 wants 64"),
        (model.Jwt, f"{{{ISSUER}, algorithms: none}}", "'none' is none of RS256"),
        (model.Jwt, f"{{{ISSUER}, groups: '{{claim.a}}-x'}}", "groups are a claim, and nothing beside it"),
        (model.Jwt, f"{{{ISSUER}, groups: roles}}", "write '{claim.roles}'"),
        (model.Jwt, f"{{{ISSUER}, forward: {{'X Y': a}}}}", "is no name of a header"),
        (model.ApiKey, "{header: X-A, query: a, keys_file: k}", "one place, not in header and query"),
        (model.ApiKey, "{header: X-A}", "keys_file is missing"),
        (model.Introspection, "{url: 'https://u:p@i/', client_id: a, client_secret: b}", "no user and no password"),
        (model.Introspection, "{url: 'https://i/', client_id: a}", "client_secret is missing"),
        (model.Oidc, f"{{{ISSUER}, client_id: a, scopes: profile}}", "without openid there is no login"),
        (model.Oidc, f"{{{ISSUER}, client_id: a, callback: /x, logout: /x}}", "give them two"),
        (model.Oidc, f"{{{ISSUER}, client_id: a, callback: 'oauth'}}", "is no path"),
        (model.Oidc, f"{{{ISSUER}, client_id: a, after_logout: bye}}", "neither a path of this host, such as /bye"),
        (model.Oidc, f"{{{ISSUER}, client_id: a, after_logout: //a.test/}}", "neither a path of this host"),
        (model.Oidc, f"{{{ISSUER}, client_id: a, after_logout: 'javascript://a/'}}", "is no URL"),
        (model.Oidc, "{issuer: 'http://i.example/', client_id: a}", "write https://i.example/"),
        (model.ForwardAuth, "{url: authz}", "'authz' is no URL"),
        (model.ForwardAuth, "{url: 'http://a/', on_error: permit}", "none of deny, allow"),
        (model.Hmac, "{header: X-S}", "secret is missing"),
        (model.Hmac, "{secret: []}", "at least one is wanted"),
        (model.Hmac, "{secret: s, scheme: svix}", "none of request, standard-webhooks, github, stripe"),
        (model.Allow, "{claims: {a: []}}", "nobody would be let in"),
        (model.Allow, "{claims: {a: {equals: b, contains: c}}}", "exactly one of equals, one_of and contains"),
        (model.Allow, "{ip: 10.0.0.1/8}", "write 10.0.0.0/8, or 10.0.0.1"),
        (model.Allow, "{mode: log}", "none of report, enforce"),
        (model.RateLimit, "100", "write 100/s"),
        (model.RateLimit, "{rate: 100/sec}", "the units are s, m, h, d, month: write 100/s"),
        (model.RateLimit, "{rate: 100/months}", "write 100/month"),
        (model.RateLimit, "{rate: 0/s}", "nobody would be let in"),
        (model.RateLimit, "{rate: 1/s, key: client-IP}", "write a placeholder such as client_ip"),
        (model.RateLimit, "{rate: 1/s, cost: -1}", "-1 is too small"),
        (model.RateLimit, "{rate: 1/s, cost: much}", "no whole number"),
        (model.RateLimit, "{rate: 1/s, ipv6_prefix: 129}", "at most 128"),
        (model.RateLimit, "{rate: 1/s, burst: 0}", "at least 1"),
        (model.Store, "memcached://r", "a URL such as redis://HOST:6379/0"),
        (model.Store, "redis://", "names no host"),
        (model.Store, "redis://r/0?db=1", "no ? and no #"),
        (model.Store, "redis://r/first", "the number of a database, such as /0"),
        (model.Store, '"redis://:a\\tb@r/0"', "a blank or a control character"),
        (model.Cors, "app.example.com", "write https://app.example.com"),
        (model.Cors, "https://app.example.com/", "has no path: write https://app.example.com"),
        (model.Cors, "https://app.*.com", "write https://*.example.com"),
        (model.Cors, "{origins: {regex: '('}}", "this regular expression is wrong"),
        (model.SecurityHeaders, "harsh", "none of basic, strict"),
        (model.ListenerTls, "{certificates: []}", "this list is empty"),
        (model.ListenerTls, "{certificates: a, min_version: 1.1}", "none of 1.2, 1.3"),
        (model.ListenerTls, "{certificates: a, alpn: h2}", "none of http/1.1"),
        (model.ProxyProtocol, "{from: []}", "this list is empty"),
        (model.ProxyProtocol, "{from: lb.internal}", "is no network"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_fix(kind: type[Model], text: str, fix: str) -> None:
    assert fix in wrong(kind, text)


@pytest.mark.parametrize("host", ["127.0.0.1:9000", "localhost", "[::1]:80", "idp.localhost"])
def test_this_machine_may_be_asked_without_tls(host: str) -> None:
    assert read(model.Jwt, f"{{issuer: 'http://{host}/'}}").jwks == "discover"


def test_a_password_is_in_no_message() -> None:
    assert "hunter2" not in wrong(model.Store, "redis://:hunter2@r/0?x=1")
    assert "hunter2" not in wrong(model.Store, "redis://:hunter2@r:port/0")
    for sign in "/#?":  # it ends the host, and what is before it looks like a port
        told = wrong(model.Store, f"redis://:hunter2{sign}3@r/0")
        assert "hunter2" not in told
        assert "%2F for /" in told
