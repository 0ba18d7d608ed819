from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING

import pytest

from gateway.observe.logs import ServiceHandler, setup

if TYPE_CHECKING:
    from collections.abc import Iterator


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    names = ("", "aiohttp.access", "aiohttp.server", "aiohttp.web", "aiohttp.client", "asyncio")
    before = {name: logging.getLogger(name).level for name in names}
    yield
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, ServiceHandler)]:
        root.removeHandler(handler)
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


log = logging.getLogger("gateway.test")


def test_a_record_is_one_json_object_with_its_fields() -> None:
    out = io.StringIO()
    setup(stream=out)
    log.info("listening", extra={"address": "127.0.0.1:8080", "generation": 3})
    [line] = out.getvalue().splitlines()
    told = json.loads(line)
    assert told.pop("time").endswith("Z")
    assert told == {
        "level": "info",
        "logger": "gateway.test",
        "event": "listening",
        "address": "127.0.0.1:8080",
        "generation": 3,
    }


def test_a_traceback_stays_within_its_line() -> None:
    out = io.StringIO()
    setup(stream=out)
    try:
        raise RuntimeError("broken\nin two")
    except RuntimeError:
        log.exception("task_crashed")
    [line] = out.getvalue().splitlines()
    assert "RuntimeError: broken\nin two" in json.loads(line)["exception"]


def test_a_field_can_not_take_the_place_of_ours() -> None:
    out = io.StringIO()
    setup(stream=out)
    log.info("started", extra={"event": "other", "level": 7})
    told = json.loads(out.getvalue())
    assert (told["event"], told["event_"], told["level"], told["level_"]) == (
        "started",
        "other",
        "info",
        7,
    )


def test_a_terminal_is_shown_plain_text_without_control_characters() -> None:
    out = Terminal()
    setup(stream=out)
    log.warning("reload_failed", extra={"error": "bad \x1b[31m value", "generation": 3})
    line = out.getvalue()
    assert line.endswith(
        ' warning  gateway.test: reload_failed error="bad \\x1b[31m value" generation=3\n'
    )


def test_the_level_decides_what_is_told() -> None:
    out = io.StringIO()
    setup("error", stream=out)
    log.warning("unheard")
    log.error("heard")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["heard"]


def test_there_is_one_handler_however_often_it_is_set_up() -> None:
    first, second = io.StringIO(), io.StringIO()
    setup(stream=first)
    setup(stream=second)
    log.info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 1


def test_handlers_of_an_embedding_program_stay() -> None:
    own = logging.NullHandler()
    root = logging.getLogger()
    root.addHandler(own)
    try:
        setup(stream=io.StringIO())
        assert own in root.handlers
    finally:
        root.removeHandler(own)


def test_aiohttp_does_not_tell_each_request_again() -> None:
    out = io.StringIO()
    setup("debug", stream=out)
    logging.getLogger("aiohttp.access").info("GET / 200")
    logging.getLogger("aiohttp.server").error("Error handling request")
    assert out.getvalue() == ""
