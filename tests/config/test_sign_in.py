"""Routes that a login brings about: where they are, what holds for them, and what shows them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from gateway import explain, listing
from gateway.config import ConfigError, effective, load_dict
from gateway.pipeline import pipeline

OIDC = {"issuer": "https://idp.test/", "client_id": "web", "client_secret": "x"}


def loaded(text: str, *, auth: dict[str, Any] | None = None, **sections: Any) -> effective.Config:
    routes = yaml.safe_load(text)
    return load_dict(
        {
            "server": {"secret": "0123456789abcdef0123456789abcdef"},
            "auth": auth or {"login": {"oidc": OIDC}},
            "routes": [{"to": "http://127.0.0.1:1", **route} for route in routes],
            **sections,
        }
    )


def found(config: effective.Config) -> dict[str, effective.Route]:
    return {
        route.name: route for route in config.routes if isinstance(route.answer, effective.SignIn)
    }


def test_a_login_that_a_route_uses_has_its_two_routes_on_the_hosts_of_those_that_use_it() -> None:
    routes = found(
        loaded("""
        - {path: /a/*, host: [one.test, .two.test], auth: login}
        - {path: /b/*, host: one.test, auth: [login]}
        - {path: /c/*, host: three.test}
        """)
    )
    assert set(routes) == {"auth.login.callback", "auth.login.logout"}
    callback, logout = routes["auth.login.callback"].match, routes["auth.login.logout"].match
    assert callback.host == logout.host == ("one.test", ".two.test")
    assert (callback.path.text, callback.methods) == ("/oauth2/callback", ("GET",))
    assert (logout.path.text, logout.methods) == ("/oauth2/logout", ("GET", "POST"))


def test_a_route_for_any_host_has_them_on_any_host() -> None:
    config = loaded("[{path: /a/*, host: one.test, auth: login}, {path: /b/*, auth: login}]")
    assert all(route.match.host == () for route in found(config).values())


def test_a_login_that_nobody_uses_has_none_and_neither_has_another_method() -> None:
    auth = {"login": {"oidc": OIDC}, "sso": {"forward_auth": "http://127.0.0.1:2"}}
    assert not found(loaded("[{path: /a/*}]"))
    assert not found(loaded("[{path: /a/*, auth: sso}]", auth=auth))


def test_what_defaults_guard_does_not_guard_them_and_the_rest_holds() -> None:
    config = loaded(
        "[{path: /a/*}]",
        defaults={"auth": "login", "csrf": "on", "access_log": "off", "hsts": "1h",
                  "fault": {"abort": {"status": 503, "percent": 100}}},
    )  # fmt: skip
    assert len(found(config)) == 2
    for route in found(config).values():
        policies = route.policies
        assert (policies.auth, policies.csrf, policies.fault) == (None, False, None)
        assert policies.access_log is False
        assert policies.hsts is not None


@pytest.mark.parametrize("key", ["callback", "logout"])
def test_two_logins_with_one_path_on_one_host_are_told_to_differ(key: str) -> None:
    apart = {"callback": "/x/in", "logout": "/x/out"}
    auth = {"one": {"oidc": OIDC}, "two": {"oidc": {**OIDC, **apart, key: f"/oauth2/{key}"}}}
    text = "[{path: /a/*, auth: one}, {path: /b/*, auth: two}]"
    with pytest.raises(ConfigError) as raised:
        loaded(text, auth=auth)
    (told,) = raised.value.problems
    assert f"auth.one.{key}" in told.message
    assert told.message.endswith(f"; write another {key} in auth.{told.path.split('.')[1]}")
    assert told.path in (f"auth.one.oidc.{key}", f"auth.two.oidc.{key}")
    loaded(text, auth={**auth, "two": {"oidc": {**OIDC, **apart}}})
    loaded(
        "[{path: /a/*, host: a.test, auth: one}, {path: /b/*, host: b.test, auth: two}]", auth=auth
    )


def test_logins_that_would_overwrite_each_others_cookies_are_warned_of() -> None:
    apart = {**OIDC, "callback": "/x/in", "logout": "/x/out"}
    named = {**apart, "session": "other"}
    text = "[{path: /a/*, host: a.test, auth: one}, {path: /b/*, host: %s, auth: two}]"
    for host, settings, warned in (
        ("a.test", apart, True),
        ("b.test", apart, False),
        ("a.test", named, False),
    ):
        auth = {"one": {"oidc": OIDC}, "two": {"oidc": settings}}
        warnings = [str(one) for one in loaded(text % host, auth=auth).warnings]
        assert any("session of this name" in one for one in warnings) is warned, warnings


def test_a_route_that_is_written_for_the_very_same_is_a_conflict() -> None:
    with pytest.raises(
        ConfigError, match=r"auth\.login\.callback.*write another callback in auth\.login"
    ):
        loaded("[{path: /a/*, auth: login}, {path: /oauth2/callback, methods: GET}]")


def test_lists_explanations_and_pipelines_show_them() -> None:
    config = loaded("[{name: app, path: /a/*, auth: login}]")
    rows = {row["name"]: row for row in listing.routes(config)}
    assert rows["auth.login.callback"]["answer"] == "callback of auth.login"
    told = explain.explain(config, "GET", "https://a.test/oauth2/callback?code=x")
    assert told.matched
    assert told.json()["answer"] == {"kind": "sign_in", "sign_in": {"callback": "auth.login"}}
    assert "auth.login" in told.text()
    route = found(config)["auth.login.logout"]
    assert ("answer", "logout of auth.login") in pipeline(route, config)


def test_the_document_in_full_form_has_no_routes_that_nobody_has_written() -> None:
    config = loaded("[{name: app, path: /a/*, auth: login}]")
    assert [route["name"] for route in config.masked["routes"]] == ["app"]  # type: ignore[attr-defined]


def test_an_inline_test_reaches_them_and_asks_no_provider() -> None:
    from gateway import inline_tests

    config = loaded(
        "[{name: app, path: /a/*, auth: login}]",
        tests=[
            {
                "name": "t",
                "request": {"get": "http://a.test/oauth2/callback"},
                "expect": {"route": "auth.login.callback", "status": 503},
            }
        ],
    )
    (outcome,) = inline_tests.run(config)
    assert outcome.problems == ()


def test_a_pipeline_says_for_whom_csrf_is() -> None:
    config = loaded("""
    - {name: login, path: /a/*, auth: login}
    - {name: "on", path: /b/*, csrf: "on"}
    - {name: "off", path: /c/*, auth: login, csrf: "off"}
    """)
    words = {route.name: dict(pipeline(route, config)).get("csrf", "") for route in config.routes}
    assert "with a session of login" in words["login"]
    assert words["on"].startswith("what other sites make")
    assert words["off"] == ""
