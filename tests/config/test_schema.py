"""The JSON Schema that editors use takes what `load` takes, and finds what an editor can find."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from gateway.config.forms import Model
from gateway.config.nodes import Map, Seq, Source, compose
from gateway.config.schema import schema
from gateway.config.written import Document
from tests.config.test_forms import PAIRS, SECTIONS
from tests.config.test_upstreams import OF_ROUTES, OF_UPSTREAMS

OPEN_PAIRS = [
    *((one, "upstream") for pair in OF_UPSTREAMS for one in pair),
    *((one, "route") for pair in OF_ROUTES for one in pair),
]
ROOT = Path(__file__).parents[2]
EXAMPLES = [
    file
    for file in (ROOT / "config" / "examples").rglob("*.yaml")
    if file.parent.name != "credentials"  # what policies read, and no configuration
]
FILES = sorted([*(ROOT / "config").glob("*.yaml"), *EXAMPLES])


def data(text: str) -> object:
    """A text as an editor with YAML 1.2 reads it."""

    def plain(value: object) -> object:
        if isinstance(value, Map):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, Seq):
            return [plain(item) for item in value]
        word = str(value)
        if not getattr(value, "plain", False):
            return word
        try:
            return json.loads(word)
        except ValueError:
            return None if word in ("", "~") else word

    problems: list[object] = []
    made = compose(text, Source("x", Path()), lambda made: made, problems)  # type: ignore[arg-type]
    assert problems == []
    return plain(made)


def faults(text: str) -> list[str]:
    return [error.message for error in Draft202012Validator(schema()).iter_errors(data(text))]


def test_the_committed_schema_is_the_one_that_is_made() -> None:
    made = json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
    assert (ROOT / "config" / "schema.json").read_text() == made, "make schema"


def test_the_schema_is_a_schema_and_takes_every_example() -> None:
    checker = [sys.executable, "-m", "check_jsonschema"]
    file = str(ROOT / "config" / "schema.json")
    for arguments in (["--check-metaschema", file], ["--schemafile", file, *map(str, FILES)]):
        done = subprocess.run([*checker, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("written", [one for pair in PAIRS for one in pair])
def test_the_schema_takes_short_and_full_forms_of_policies(written: str) -> None:
    to = "" if written.startswith("to:") else "to: http://h\n    "
    assert faults(f"routes:\n  - {to}{written}\n") == []


@pytest.mark.parametrize("written", [one for pair in SECTIONS for one in pair])
def test_the_schema_takes_short_and_full_forms_of_sections(written: str) -> None:
    assert faults(written + "\n") == []


@pytest.mark.parametrize(
    "written",
    [
        "routes: [{to: 'http://h', timeouts: {idle: '${env:A}'}, retry: {max: '${env:B:-1}'}}]",
        "routes: [{respond: {status: '${env:A}', headers: {Retry-After: 600}, json: {a: [1]}}}]",
        "x-a: {b: 1}\nroutes: []",
        "tests: [{name: t, request: {get: 'http://h', client_ip: 1.2.3.4}, expect: {status: 404}}]",
        "errors: {pages: {503: a.html, '502': {file: b.html, when_accepts: text/html}}}",
    ],
)
def test_the_schema_takes_what_load_takes(written: str) -> None:
    assert faults(written) == []


def test_the_schema_of_all_keys_takes_all_keys() -> None:
    assert faults((ROOT / "tests" / "golden" / "open-upstreams.yaml").read_text()) == []


@pytest.mark.parametrize(("written", "place"), OPEN_PAIRS)
def test_the_schema_of_all_keys_takes_short_and_full_forms(written: str, place: str) -> None:
    if place == "upstream":
        targets = "" if "targets" in written else "targets: http://h, "
        text = f"upstreams: {{u: {{{targets}{written}}}}}"
    else:
        text = f"routes: [{{to: 'http://h', {written}}}]"
    assert faults(text) == []


@pytest.mark.parametrize(
    "written",
    [
        "balance: hash:client_ip",
        "health: {path: /x, interval: 5}",
        "health: {path: /x, expect: {status: 2000}}",
        "eject: {max_percent: 101}",
        "circuit: {scope: all}",
        "concurrency: {adaptive: on}",
        "hedge: p5",
        "buffer: 5",
        "discover: {dns: a, ports: 5}",
    ],
)
def test_the_schema_of_all_keys_finds_mistakes_in_an_upstream(written: str) -> None:
    assert faults(f"upstreams: {{u: {{targets: http://h, {written}}}}}") != []


@pytest.mark.parametrize(
    "written",
    [
        "routs: []",
        "routes: [{to: 'http://h', timeouts: {idle: 30}}]",
        "routes: [{to: 'http://h', timeouts: {idle: 30sec}}]",
        "routes: [{to: 'http://h', body: 10M}]",
        "routes: [{to: 'http://h', retyr: off}]",
        "routes: [{path: orders, to: 'http://h'}]",
        "upstreams: {u: {targets: [{url: 'http://h', wieght: 1}]}}",
        "upstreams: {u: {targets: ['http://h'], health: {pth: /}}}",
        "server: {forwarded: all}",
        "tests: [{name: t, request: {get: a, post: b}, expect: {status: 404}}]",
    ],
)
def test_the_schema_finds_what_an_editor_can_find(written: str) -> None:
    assert faults(written)


def every_model(kind: type[Model]) -> set[type[Model]]:
    found = {kind}
    for one in kind.__subclasses__():
        found |= every_model(one)
    return found


def test_every_field_has_a_description() -> None:
    assert Document in every_model(Model)
    models = {kind for kind in every_model(Model) if kind.__module__.startswith("gateway.")}
    bare = [
        f"{kind.__name__}.{name}"
        for kind in models
        for name, field in kind.model_fields.items()
        if not field.description
    ]
    assert bare == []
    assert all(kind.__doc__ for kind in models)


ENTRANCE = """
listeners:
  - bind: 0.0.0.0:8443
    tls:
      certificates: [{cert: a.crt, key: a.key}, b.pem]
      min_version: "1.2"
      client_ca: ca.pem
      client_auth: optional
      watch: true
  - {bind: 0.0.0.0:9443, tls: a.pem}
  - {bind: "unix:/run/gateway.sock", proxy_protocol: {from: [unix]}}
auth:
  staff:
    jwt:
      issuer: https://idp.example.com/
      jwks: discover
      audience: api
      algorithms: [RS256, ES256]
      leeway: 30s
      require: [sub]
      consumer: "{claim.sub}"
      forward: {X-User: "{claim.sub}"}
  partners: {api_key: {header: X-Api-Key, keys_file: keys.yaml}}
  others: {api_key: keys.yaml}
  legacy: {basic: {htpasswd: htpasswd}}
  opaque: {introspection: {url: "https://i/", client_id: gw, client_secret: "${env:S}", cache: off}}
  login: {oidc: {issuer: "https://i/", client_id: web, session: {cookie: gw, max_age: 8h}}}
  sso: {forward_auth: {url: "http://a/", send: cookie, copy: [x-user], cache: 10s, on_error: deny}}
  signed: {hmac: {header: X-S, secret: "${env:S}", scheme: standard-webhooks, tolerance: 5m}}
  machines: {mtls: {consumer: "{tls.san_dns}"}}
  more: mtls
rate_limits:
  fair: {rate: 100/s, burst: 200, key: client_ip, algorithm: gcra}
  plan: {rate: "{claim.plan_rate|10/s}", key: consumer, store: redis}
  short: 100/s per client_ip
stores: {redis: {url: "redis://redis:6379/0", timeout: 20ms, on_error: local}, other: "redis://r"}
profiles:
  public: {cors: "https://a", security_headers: strict, hsts: 30d, csrf: on, rate_limit: fair}
routes:
  - path: /a
    to: http://h
    auth: [staff, partners]
    allow: {scopes: a, claims: {role: admin, plan: [free, pro], x: {contains: y}, z: true, n: 3}, ip: [10.0.0.0/8]}
    rate_limit: [fair, 100/s per consumer, {rate: 20/m, key: consumer, cost: 4}]
    cors: {origins: ["https://a", {regex: "^https://b$"}], credentials: true, max_age: 10m}
    security_headers: {preset: basic, set: {X-A: b}, remove: X-B}
    hsts: {max_age: 365d, subdomains: on, preload: on}
    forward_credentials: false
  - {path: /b, to: "http://h", auth: off, allow: off, rate_limit: off, cors: off, hsts: off}
tests:
  - name: t
    request: {get: "http://h/a", auth: staff, claims: {sub: a, scopes: [b]}, consumer: c}
    expect: {route: a}
"""


def test_the_schema_takes_every_form_of_who_may_come_in_and_how_fast() -> None:
    assert faults(ENTRANCE) == []
    for wrong in ("auth: {a: {}}", "auth: {a: {hmac: {}}}", "rate_limits: {a: {rate: 5}}"):
        assert faults(wrong) != [], wrong
