"""`check --lint`: each rule finds what it is for, at its place, and leaves alone what is meant."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner

from gateway.cli import main
from gateway.config import load, load_dict, load_text
from gateway.config.lint import browsers, entrance, network, page, texts
from gateway.config.lint.explosive import explosive

ROOT = Path(__file__).parents[2]
RULES = (*entrance.RULES, *network.RULES, *browsers.RULES, *texts.RULES)
TO = "to: 'http://127.0.0.1:1'"
ROUTE = f"routes: [{{name: r, path: /a, {TO}}}]\n"
LIMITED = f"routes: [{{name: r, path: /a, {TO}, rate_limit: l}}]\n"
SECRET = "a-secret-of-thirty-two-characters-or-more"
GUARD = f"{{name: g, path: /b/*, {TO}, auth: p}}"
LOCAL = "listeners: 127.0.0.1:1\n"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.setenv("STORE", "redis://:hunter2@10.0.0.1/0")


def found(text: str, base: Path | str = ".") -> list[str]:
    """Findings as `LINE:COLUMN severity CODE path`."""
    config = load_text(text, base=base)
    return [
        f"{one.place.line}:{one.place.column} {one.severity} {one.code} {one.path}"
        for one in config.findings()
    ]


def codes(text: str, base: Path | str = ".") -> list[str]:
    """`CODE severity`, in order."""
    return [f"{one.code} {one.severity}" for one in load_text(text, base=base).findings()]


def policy(settings: str, route: str = GUARD, rest: str = "") -> str:
    return f"{rest}auth: {{p: {settings}}}\nroutes: [{route}]\n"


JWT = "jwt: {issuer: 'https://i/', audience: a"

CASES = [
    ("G101", f"{LOCAL}{policy(f'{{{JWT}}}}}', GUARD + f', {{name: o, path: /b/c, {TO}}}')}"),
    ("G102", ROUTE.replace("path: /a", "path: /a, allow: {ip: 10.0.0.0/8, mode: report}")),
    ("G103", policy(f"{{{JWT}}}}}", rest="server: {ambiguous_paths: keep}\n")),
    ("G104", policy("{basic: {htpasswd: f, attempts: off}}")),
    ("G105", policy("{api_key: {query: key, keys_file: k}}")),
    ("G106", policy("{forward_auth: {url: 'http://a/', on_error: allow}}")),
    ("G107", policy(f"{{{JWT}}}}}", rest="listeners: 0.0.0.0:8080\n")),
    (
        "G108",
        policy(
            "{oidc: {issuer: 'https://i/', client_id: c}}",
            rest="server: {secret: '${env:SECRET}'}\ndefaults: {csrf: off}\n",
        ),
    ),
    (
        "G109",
        policy(
            f"{{{JWT}, forward: {{X-User: '{{claim.sub}}'}}}}}}",
            rest="server: {underscore_headers: keep}\n",
        ),
    ),
    ("G201", policy("{jwt: 'https://i/'}")),
    ("G202", policy("{hmac: {secret: '${env:SHORT}'}}")),
    ("G203", policy(f"{{{JWT}, leeway: 10m}}}}")),
    ("G204", policy(f"{{{JWT}, algorithms: [RS256, ES256]}}}}")),
    ("G205", policy(f"{{{JWT}, expiry: optional}}}}")),
    ("G206", policy("{jwt: {jwks: 'https://i/k', audience: a}}")),
    ("G207", policy("{jwt: {secret: '${env:SECRET}', audience: a}}")),
    ("G301", f"server: {{trusted_proxies: [10.0.0.0/8, 0.0.0.0/0]}}\n{ROUTE}"),
    ("G302", f"listeners: [{{bind: 0.0.0.0:1, proxy_protocol: {{from: '::/0'}}}}]\n{ROUTE}"),
    ("G303", f"admin: 0.0.0.0:9901\n{ROUTE}"),
    (
        "G304",
        policy(
            f"{{{JWT}}}}}",
            "{name: r, path: /a, to: 'http://api.example.com', auth: p, forward_credentials: on}",
        ),
    ),
    (
        "G305",
        "upstreams: {u: {targets: 'https://h', tls: {verify: off}}}\nroutes: [{path: /, to: u}]\n",
    ),
    ("G306", policy("{forward_auth: 'http://authz.example.com/'}")),
    (
        "G307",
        f"stores: {{s: 'redis://r.example.com'}}\nrate_limits: {{l: {{rate: 1/s, store: s}}}}\n{LIMITED}",
    ),
    ("G308", f"listeners: [{{bind: 127.0.0.1:1, tls: {{certificates: pem, ciphers: 'HIGH:RC4-SHA:!MD5'}}}}]\n{ROUTE}"),
    ("G401", ROUTE.replace("path: /a", "path: /a, cors: '*'")),
    ("G402", ROUTE.replace("path: /a", "path: /a, cors: ['null']")),
    ("G403", ROUTE.replace("path: /a", "path: /a, cors: [{regex: 'https://a.example'}]")),
    ("G404", ROUTE.replace("path: /a", "path: /a, cors: {origins: 'https://*.a.example', credentials: on}")),
    ("G405", ROUTE.replace("path: /a", "path: /a, cors: {origins: 'http://a.example', credentials: on}")),
    ("G501", f"routes: [{{name: r, path: {{regex: '^/(a+)+$'}}, {TO}}}]\n"),
    ("G502", f"server: {{secret: {SECRET}}}\n{ROUTE}"),
    ("G503", ROUTE.replace("path: /a", "path: /a, headers: {request: {set: {Authorization: Bearer abc}}}")),
    ("G504", f"errors: {{expose_reason: on}}\n{ROUTE}"),
    ("G505", f"observability: {{server_timing: all}}\n{ROUTE}"),
]  # fmt: skip


def test_each_rule_has_a_case() -> None:
    assert sorted(code for code, _ in CASES) == sorted(rule.code for rule in RULES)
    assert len({rule.code for rule in RULES}) == len(RULES)


@pytest.mark.parametrize(("code", "text"), CASES, ids=[code for code, _ in CASES])
def test_a_rule_finds_what_it_is_for(
    code: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_text("")
    (tmp_path / "k").write_text("keys: []")
    certificate = trustme.CA().issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "pem"))
    monkeypatch.setenv("SHORT", "short-secret")
    (finding,) = load_text(text, base=tmp_path).findings()
    rule = next(one for one in RULES if one.code == code)
    assert finding.code == code
    assert finding.severity in ("info", "warning", "error")
    assert finding.fix
    assert rule.why.endswith(".")
    line = text.splitlines()[finding.place.line - 1]
    assert 0 < finding.place.column <= len(line)


@pytest.mark.parametrize(
    "name", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name
)
def test_the_files_that_we_ship_have_no_finding_that_counts(
    name: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEMO_ORIGIN", "http://127.0.0.1:9000")
    # The sample tells in full what failed: it is there to try things.
    counting = [one for one in load(name).findings() if one.counts and one.code != "G504"]
    assert counting == []


@pytest.mark.parametrize(
    "open_route",
    [
        f"{{name: o, path: /b/c, {TO}, auth: off}}",
        f"{{name: o, path: /b/c, {TO}, allow: {{ip: 10.0.0.0/8}}}}",
        f"{{name: o, path: /c, {TO}}}",
        f"{{name: o, path: /b/c, host: other.example, {TO}}}",
        "{name: o, path: /b/c, redirect: /d}",
        f"{{name: o, path: /b/c, {TO}, auth: p}}",
    ],
)
def test_a_route_that_is_meant_to_be_open_is_left_alone(open_route: str) -> None:
    guard = GUARD.replace("path:", "host: own.example, path:")
    assert codes(f"{LOCAL}{policy(f'{{{JWT}}}}}', f'{guard}, {open_route}')}") == []


def test_a_finding_stands_where_the_value_is_written() -> None:
    text = (
        "profiles:\n"
        "  p: {cors: ['https://a.example', 'null']}\n"
        "routes:\n"
        f"  - {{name: r, path: /a, {TO}, use: p}}\n"
        f"  - {{name: s, path: /b, {TO}, use: p}}\n"
        "server: {trusted_proxies: ['::/0', 8.0.0.0/6, 10.0.0.0/8, unix]}\n"
    )
    assert found(text) == [
        "2:35 warning G402 profile p: cors.origins[1]",
        "6:28 error G301 server.trusted_proxies[0]",
        "6:36 warning G301 server.trusted_proxies[1]",
    ]


@pytest.mark.parametrize(
    ("change", "severity"),
    [
        ("cors: '*'", ["G401 info"]),
        ("cors: '*', allow: {ip: 10.0.0.0/8}", ["G401 warning"]),
        ("cors: {origins: 'null', credentials: on}", ["G402 error"]),
        (r"cors: [{regex: '^https://a\.example'}]", []),
        (r"cors: [{regex: 'https://.*example\.com'}]", ["G403 warning"]),
        (r"cors: [{regex: 'https://.+\.example\.com'}]", []),
        (r"cors: [{regex: '^https://a.example$'}]", ["G403 warning"]),
        (r"cors: [{regex: '^https://[a-z.]+\.a\.example$'}]", []),
        ("cors: {origins: ['http://localhost:3000'], credentials: on}", []),
        ("cors: 'https://*.a.example'", []),
        ("headers: {request: {set: {Authorization: 'Bearer {cookie.t}'}}}", []),
        ("headers: {request: {set: {Authorization: '${env:SECRET}'}}}", []),
        ("errors: {expose_reason: on}", ["G504 warning"]),
    ],
)
def test_how_bad_it_is_depends(change: str, severity: list[str]) -> None:
    assert codes(ROUTE.replace("path: /a", f"path: /a, {change}")) == severity


def test_passwords_with_attempts_are_slowed_and_a_limit_is_enough(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    basic = LOCAL + policy("{basic: f}")
    assert codes(basic, tmp_path) == ["G104 info"]
    assert codes(basic.replace("auth: p}]", "auth: p, rate_limit: 5/m}]"), tmp_path) == []
    late = basic.replace("auth: p}]", "auth: p, rate_limit: 5/m per consumer}]")
    assert codes(late, tmp_path) == ["G104 info"]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("http://api.example.com", ["G304 info"]),
        ("http://8.8.8.8:80", ["G304 info"]),
        ("https://api.example.com", []),
        ("http://10.0.0.1", []),
        ("http://orders:8000", []),
        ("http://orders.svc.cluster.local", []),
        ("http://[::1]:80", []),
        ("unix:/run/a.sock", []),
    ],
)
def test_what_is_inside_may_be_asked_in_plain_text(target: str, expected: list[str]) -> None:
    assert codes(f"routes: [{{name: r, path: /a, to: '{target}'}}]") == expected


def test_a_secret_from_elsewhere_is_no_finding_and_none_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    text = (
        "server: {{secret: [{0}]}}\nadmin: {{token: {0}}}\nauth:\n"
        "  o: {{oidc: {{issuer: 'https://i/', client_id: c, client_secret: {0}}}}}\n"
        "  h: {{hmac: {{secret: {0}}}}}\n"
        "stores: {{s: {1}}}\nrate_limits: {{l: {{rate: 1/s, store: s}}}}\n"
        f"routes: [{{{{name: r, path: /a, {TO}, auth: [o, h], csrf: on, rate_limit: l}}}}]\n"
    )
    assert codes(text.format("'${file:secret}'", "'${env:STORE}'"), tmp_path) == []
    assert codes(text.format("'${env:SECRET}'", "'${env:STORE}'"), tmp_path) == []
    config = load_text(text.format(SECRET, "redis://:hunter2@10.0.0.1/0"), base=tmp_path)
    findings = config.findings()
    assert [one.path for one in findings if one.code == "G502"] == [
        "server.secret[0]",
        "admin.token",
        "auth.o.oidc.client_secret",
        "auth.h.hmac.secret",
        "stores.s",
    ]
    assert SECRET not in str([str(one) for one in findings])
    assert "hunter2" not in str([str(one) for one in findings])


@pytest.mark.parametrize(
    "regex",
    [
        r"(a+)+$", r"([a-z]+)*", r"(\w+\s?)*$", r"(a|aa)+$", r"(.*)*", r"(x+x+)+y", r"(a|a?)+$",
        r"^(([a-z])+.)+[A-Z]([a-z])+$", r"(?i)(A+a)*b", r"^/(\d+|\w)+$", r"(.*a){20}", r"([^/]*|x)*z",
    ],
)  # fmt: skip
def test_a_regex_that_can_share_a_text_in_many_ways_is_found(regex: str) -> None:
    assert explosive(regex) is not None
    re.compile(regex)


@pytest.mark.parametrize(
    "regex",
    [
        r"^/v\d+/", r"(/[a-z]+)*", r"^/(?:foo|bar)+$", r"[a-z]+\d+", r"(?:\d{1,3}\.){3}\d{1,3}",
        r"^/a/(.*)/(.*)$", r"(a+b)+", r"(?:[a-z0-9-]+\.)+example\.com", r"(ab|cd)*", r"(?>a+)+", r"(a++)+",
        r"^/(?P<x>\w+)(?:;[^;]*)*$", r"^(?!/a).*$", r"(?P<a>x)(?P=a)",
    ],
)  # fmt: skip
def test_a_regex_that_is_only_nested_is_left_alone(regex: str) -> None:
    assert explosive(regex) is None


def test_regexes_are_found_wherever_they_stand() -> None:
    bad = "'^(a+)+$'"
    text = (
        f"routes: [{{name: r, path: /a, {TO}, when: {{header: {{x: {{regex: {bad}}}}}}}, "
        f"rewrite: {{regex: {{match: {bad}, replace: b}}}}, cors: [{{regex: {bad}}}]}}]"
    )
    assert [line.split()[-1] for line in found(text) if "G501" in line] == [
        "when.header.x.regex",
        "rewrite.regex.match",
        "cors.origins[0].regex",
    ]


def test_the_page_of_all_rules_is_the_one_that_is_made() -> None:
    file = ROOT / "docs" / "lint.md"
    if os.environ.get("GATEWAY_GOLDEN") == "rewrite":
        file.write_text(page.page())
    assert file.read_text() == page.page(), "python -m gateway.config.lint.page docs/lint.md"


def test_the_command_tells_findings_and_strict_fails_for_those_that_count(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        ROUTE.replace("path: /a", "path: /a, cors: ['null']")
        + "server: {trusted_proxies: 0.0.0.0/0}\n"
    )
    ask = ["check", "-c", str(file)]
    runner = CliRunner()
    plain = runner.invoke(main, ask)
    assert (plain.exit_code, "G402" in plain.output) == (0, False)
    linted = runner.invoke(main, [*ask, "--lint"])
    assert linted.exit_code == 0
    assert f"{file}:1:37: warning: G402: route r: cors" in linted.output
    assert "2 findings" in linted.output
    assert runner.invoke(main, [*ask, "--strict"]).exit_code == 0
    assert runner.invoke(main, [*ask, "--lint", "--strict"]).exit_code == 1
    left_out = [*ask, "--lint", "--strict", "--ignore", "G402", "--ignore", "G301"]
    assert runner.invoke(main, left_out).exit_code == 0
    told = json.loads(runner.invoke(main, [*ask, "--lint", "--json"]).output)
    assert told["ok"]
    assert [one["code"] for one in told["findings"]] == ["G402", "G301"]
    assert set(told["findings"][1]) == {
        *("code", "severity", "file", "line", "column", "path", "message", "fix")
    }
    assert told["findings"][1]["severity"] == "error"


def test_information_is_no_failure(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(ROUTE.replace("path: /a", "path: /a, cors: '*'"))
    done = CliRunner().invoke(main, ["check", "-c", str(file), "--lint", "--strict"])
    assert done.exit_code == 0
    assert "info: G401" in done.output


def test_what_a_file_gave_is_in_no_message(tmp_path: Path) -> None:
    (tmp_path / "regex").write_text("^/(a+)+$")
    config = load_text(
        f"routes: [{{name: r, path: {{regex: '${{file:regex}}'}}, {TO}}}]", base=tmp_path
    )
    (finding,) = config.findings()
    assert finding.code == "G501"
    assert "(a+)+" not in str(finding)


def test_findings_come_in_the_order_of_files_and_lines(tmp_path: Path) -> None:
    (tmp_path / "z.yaml").write_text(
        f"include: a.yaml\nroutes: [{{name: r, path: /a, {TO}, cors: '*'}}]\nserver: {{trusted_proxies: '::/0'}}\n"
    )
    (tmp_path / "a.yaml").write_text(f"routes: [{{name: s, path: /b, {TO}, cors: '*'}}]\n")
    findings = load(tmp_path / "z.yaml").findings()
    assert [(Path(one.place.file).name, one.place.line) for one in findings] == [
        ("z.yaml", 2),
        ("z.yaml", 3),
        ("a.yaml", 1),
    ]


def test_a_configuration_from_a_program_has_no_text_for_secrets_to_stand_in() -> None:
    config = load_dict(
        {
            "server": {"secret": SECRET, "trusted_proxies": ["0.0.0.0/0"]},
            "routes": [{"path": "/", "to": "http://127.0.0.1:1"}],
        }
    )
    assert [one.code for one in config.findings()] == ["G301"]
