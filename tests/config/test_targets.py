"""Lists of targets outside the configuration, and what stands in for targets that are found later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.config import ConfigError, model
from gateway.config.targets import read_targets, read_variable, stand_ins
from gateway.config.upstreams import split_name_server

if TYPE_CHECKING:
    from pathlib import Path


def urls(targets: tuple[model.Target, ...]) -> list[str]:
    return [one.url for one in targets]


def test_a_list_means_what_it_means_under_targets(tmp_path: Path) -> None:
    content = '["http://a:1", {"url": "http://b:2", "weight": 3}, "unix:app.sock"]'
    found = read_targets(content, "targets.json", tmp_path)
    assert [(one.url, one.weight) for one in found] == [
        ("http://a:1", 1),
        ("http://b:2", 3),
        (f"unix:{tmp_path}/app.sock", 1),
    ]


def test_a_list_may_use_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZONE", "eu")
    assert urls(read_targets("- http://${env:ZONE}.test:80", "t.yaml", tmp_path)) == [
        "http://eu.test:80"
    ]


def test_every_mistake_of_a_list_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_targets("- ftp://a\n- http://b:1\n- {url: http://c, weight: 0}\n", "t.yaml", tmp_path)
    first, second = map(str, caught.value.problems)
    assert first.startswith("t.yaml:1:3: targets[0]")
    assert second.startswith("t.yaml:3:27: targets[2].weight: ")


def test_one_target_may_be_written_without_a_list_in_a_variable() -> None:
    assert urls(read_variable("T", {"T": "http://a:1"})) == ["http://a:1"]


def test_a_variable_that_is_not_set_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="the variable T is not set: write URLs in it"):
        read_variable("T", {})


@pytest.mark.parametrize(
    ("discover", "shown"),
    [
        ({"dns": "users.test", "port": 8000}, ["http://users.test:8000"]),
        ({"srv": "_http._tcp.test", "scheme": "https"}, ["https://_http._tcp.test"]),
        ({"file": "{folder}/there.json"}, ["http://a:1", "http://b:2"]),
        ({"file": "{folder}/missing.json"}, ["http://not-found-yet"]),
        ({"env": "NO_SUCH_VARIABLE"}, ["http://not-found-yet"]),
    ],
)
def test_what_explains_needs_no_network(
    tmp_path: Path, discover: dict[str, str], shown: list[str]
) -> None:
    (tmp_path / "there.json").write_text('["http://a:1", "http://b:2"]')
    if "file" in discover:
        discover = {"file": discover["file"].format(folder=tmp_path)}
    settings = model.Upstream.model_construct(discover=model.Discover.model_validate(discover))
    assert urls(stand_ins(settings)) == shown


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        ("10.0.0.2", ("10.0.0.2", 53)),
        ("10.0.0.2:8600", ("10.0.0.2", 8600)),
        ("::1", ("::1", 53)),
        ("[::1]", ("::1", 53)),
        ("[::1]:5353", ("::1", 5353)),
    ],
)
def test_a_name_server_is_an_address_with_or_without_a_port(
    written: str, parts: tuple[str, int]
) -> None:
    assert split_name_server(written) == parts


@pytest.mark.parametrize("written", ["dns.test", "10.0.0.2:0", "10.0.0.2:x", "10.0.0", "", "[::1"])
def test_anything_else_is_no_name_server(written: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        model.Discover.model_validate({"dns": "a.test", "port": 1, "nameservers": [written]})
