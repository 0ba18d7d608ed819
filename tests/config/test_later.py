"""Keys whose models stand and that are not open: refused, unseen, and with their built-in values in effect."""

from __future__ import annotations

import json

import pytest

from gateway.config import ConfigError, effective, later, load_dict, model
from gateway.config.schema import schema
from tests.config.kit import ROUTE, loaded, refused

WHERE = {
    "server": ("server",),
    "upstream": ("upstreams.u", "defaults"),
    "target": ("upstreams.u.targets.0",),
    "branch": ("routes.0.split.0",),
    "policies": ("routes.0", "profiles.p", "defaults"),
}
ALSO_OF_UPSTREAMS = ("buffer", "deadline", "hedge")
KINDS = {
    "server": model.Server,
    "upstream": model.Upstream,
    "target": model.Target,
    "branch": model.Branch,
    "policies": model.Policies,
    "discover": model.Discover,
}


def places() -> list[tuple[str, str]]:
    found = []
    for entry in sorted(later.WAITING):
        section, _, key = entry.partition(".")
        where = WHERE.get(section, ())
        if key == "discover":
            where = ("upstreams.u",)
        if key in ALSO_OF_UPSTREAMS:
            where = (*where, "upstreams.u")
        found += [(place, key) for place in where]
    return found


def problems(place: str, key: str, value: object) -> list[effective.Problem]:
    document: dict[str, object] = {
        "server": {},
        "defaults": {},
        "profiles": {"p": {}},
        "upstreams": {"u": {"targets": [{"url": "http://h"}]}},
        "routes": [{"split": [{"upstream": "u", "weight": 1}], "use": ["p"]}],
    }
    load_dict(document)
    here: object = document
    for part in place.split("."):
        here = here[int(part)] if part.isdigit() else here[part]  # type: ignore[index]
    here[key] = value  # type: ignore[index]
    with pytest.raises(ConfigError) as raised:
        load_dict(document)
    return list(raised.value.problems)


@pytest.mark.parametrize("value", ["off", {"a": 1}, [1], 5], ids=str)
def test_a_key_that_waits_is_refused_whatever_its_value(value: object) -> None:
    for place, key in places():
        (problem,) = problems(place, key, value)
        assert problem.message == f"{key} is not supported yet"
        assert problem.path.endswith(f".{key}")


def test_a_key_that_waits_is_told_at_the_key() -> None:
    waiting = sorted(later.keys("server"))
    for key in waiting:
        assert refused(f"server: {{{key}: 5}}\n{ROUTE}") == [
            f"1:10: server.{key}: {key} is not supported yet"
        ]


def test_a_way_to_balance_that_waits_is_refused() -> None:
    for word in later.keys("balance"):
        written = "hash:{client_ip}" if word == "hash" else word
        upstream = f"{{targets: 'http://h', balance: '{written}'}}"
        (line,) = refused(f"upstreams: {{u: {upstream}}}\n{ROUTE}")
        assert f"{written} is not supported yet; there are p2c" in line


def test_every_key_that_waits_stands_for_a_field_that_nobody_sees() -> None:
    shown = json.dumps(loaded(ROUTE).masked) + json.dumps(schema())
    for entry in later.WAITING:
        section, _, key = entry.partition(".")
        if section == "balance":
            assert f'"{key}"' not in shown
            continue
        kind = KINDS[section]
        assert key in kind.model_fields, entry
        assert key in kind.later, entry
        elsewhere = key == "scheme"  # of `when`
        assert elsewhere or f'"{key}":' not in shown, entry


def test_what_is_built_in_is_in_effect_before_a_key_is_open() -> None:
    config = loaded(ROUTE)
    settings = config.upstreams["r"].settings
    assert settings.eject == model.Eject()
    assert settings.panic == 0.5
    assert settings.health is settings.circuit is settings.concurrency is settings.sticky is None
    assert config.routes[0].policies.importance == "normal"
    assert config.routes[0].policies.buffer == model.Buffer()
    assert config.server.overload == model.Overload()
    assert config.server.secret == ()
