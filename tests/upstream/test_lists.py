"""Targets by list: a file that is rewritten in every way that tools know, and the environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from gateway import files
from gateway.upstream import lists
from gateway.upstream.discovery import Answer, NotFound
from gateway.upstream.lists import Environment, File
from tests.kit.clock import FakeClock

if TYPE_CHECKING:
    from pathlib import Path


class Moving(FakeClock):
    """A clock on which every wait is over at once; `meanwhile` happens in it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []
        self.meanwhile: object = None

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        if callable(self.meanwhile):
            self.meanwhile()


@pytest.fixture
def clock() -> Moving:
    return Moving()


def urls(answer: Answer | None) -> list[str]:
    assert answer is not None
    return [one.url for one in answer.targets]


async def test_a_file_is_read_at_the_start_and_when_it_has_changed(
    tmp_path: Path, clock: Moving
) -> None:
    path = tmp_path / "targets.json"
    path.write_text('["http://10.0.0.1:8000"]')
    source = File(str(path), 1.0, clock)
    assert urls(await source.look()) == ["http://10.0.0.1:8000"]
    assert await source.look() is None
    path.write_text('[{"url": "http://10.0.0.2:8000", "weight": 3}, "http://10.0.0.3:8000"]')
    answer = await source.look()
    assert urls(answer) == ["http://10.0.0.2:8000", "http://10.0.0.3:8000"]
    assert answer is not None
    assert [one.weight for one in answer.targets] == [3, 1]
    assert answer.again == 1.0


async def test_yaml_is_read_as_well_and_sockets_lie_beside_the_file(
    tmp_path: Path, clock: Moving
) -> None:
    path = tmp_path / "targets.yaml"
    path.write_text(
        "# made by a tool\n- url: http://10.0.0.1:8000\n  weight: 2\n- https://b:8443\n"
    )
    assert urls(await File(str(path), 1.0, clock).look()) == [
        "http://10.0.0.1:8000",
        "https://b:8443",
    ]


async def test_a_rename_over_the_file_and_a_link_that_is_swapped_are_seen(
    tmp_path: Path, clock: Moving
) -> None:
    for number in (1, 2, 3):
        (tmp_path / f"v{number}").mkdir()
        (tmp_path / f"v{number}" / "targets.json").write_text(f'["http://10.0.0.{number}:8000"]')
    link, path = tmp_path / "data", tmp_path / "targets.json"
    link.symlink_to("v1")
    path.symlink_to("data/targets.json")
    source = File(str(path), 1.0, clock)
    assert urls(await source.look()) == ["http://10.0.0.1:8000"]
    fresh = tmp_path / "fresh"
    fresh.symlink_to("v2")
    fresh.rename(link)
    assert urls(await source.look()) == ["http://10.0.0.2:8000"]
    (tmp_path / "v3" / "targets.json").rename(tmp_path / "v2" / "targets.json")
    assert urls(await source.look()) == ["http://10.0.0.3:8000"]


async def test_a_file_that_is_being_written_is_left_for_the_next_look(
    tmp_path: Path, clock: Moving
) -> None:
    path = tmp_path / "targets.json"
    path.write_text("- http://10.0.0.1:8000\n- http://10.0.0.2:8000\n")
    source = File(str(path), 1.0, clock)
    await source.look()
    path.write_text("- http://10.0.0.1:8000\n")
    clock.meanwhile = lambda: path.write_text("- http://10.0.0.1:8000\n- http://10.0.0.3:8000\n")
    assert await source.look() is None
    assert clock.waits == [files.SETTLE]
    clock.meanwhile = None
    assert urls(await source.look()) == ["http://10.0.0.1:8000", "http://10.0.0.3:8000"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "targets.json:1:1: there is nothing in it: a list of targets is wanted"),
        (b"[]", "targets.json:1:1: targets: this list is empty"),
        (b'{"a": 1}', "targets.json:1:1: a list of targets is wanted, as under targets:"),
        (b'["10.0.0.1:8000"]', "write http://10.0.0.1:8000"),
        (b'["http://a:1", "http://b:1"', "a list or mapping in brackets is not closed"),
        (b"- ftp://a\n- gopher://b\n", "(and 1 more)"),
        (
            b"- {url: http://a:1, wait: 3}\n",
            "targets.json:1:21: targets[0].wait: 'wait' is not known",
        ),
        (b"\xff\xfe", "it is not UTF-8"),
    ],
)
async def test_a_file_that_is_broken_says_what_and_where_once(
    tmp_path: Path, clock: Moving, content: bytes, said: str
) -> None:
    path = tmp_path / "targets.json"
    path.write_bytes(content)
    source = File(str(path), 1.0, clock)
    with pytest.raises(NotFound) as caught:
        await source.look()
    assert said in str(caught.value)
    assert await source.look() is None, "the same mistake is not read again"


async def test_a_file_that_is_not_there_yet_is_read_when_it_comes(
    tmp_path: Path, clock: Moving
) -> None:
    path = tmp_path / "targets.json"
    source = File(str(path), 1.0, clock)
    with pytest.raises(NotFound, match="No such file"):
        await source.look()
    assert await source.look() is None
    path.write_text('["http://10.0.0.1:8000"]')
    assert urls(await source.look()) == ["http://10.0.0.1:8000"]
    away = path.rename(tmp_path / "away")
    with pytest.raises(NotFound, match="No such file"):
        await source.look()
    away.rename(path)
    assert urls(await source.look()) == ["http://10.0.0.1:8000"]


async def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, clock: Moving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "MAX_BYTES", 1024 * 1024)
    path = tmp_path / "targets.json"
    with path.open("wb") as stream:
        stream.truncate(1024 * 1024 + 1)
    with pytest.raises(NotFound, match="larger than 1 MiB"):
        await File(str(path), 1.0, clock).look()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("http://a:1", ["http://a:1"]),
        (" http://a:1 , http://b:2/base,", ["http://a:1", "http://b:2/base"]),
        ('["http://a:1", {"url": "http://b:2", "weight": 5}]', ["http://a:1", "http://b:2"]),
        ("- http://a:1\n- unix:/run/b.sock\n", ["http://a:1", "unix:/run/b.sock"]),
    ],
)
async def test_a_variable_holds_urls_or_a_list(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: list[str]
) -> None:
    monkeypatch.setitem(os.environ, "TARGETS", value)
    source = Environment("TARGETS", 5.0)
    assert urls(await source.look()) == expected
    assert await source.look() is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", r"\$TARGETS:1:1: the variable TARGETS is not set"),
        ("a:1, http://b", r"write http://a:1"),
        (",", r"this list is empty"),
        ("[http://a:1", "is not closed"),
    ],
)
async def test_a_variable_that_is_wrong_says_so(
    monkeypatch: pytest.MonkeyPatch, value: str, said: str
) -> None:
    monkeypatch.setitem(os.environ, "TARGETS", value)
    with pytest.raises(NotFound, match=said):
        await Environment("TARGETS", 5.0).look()
