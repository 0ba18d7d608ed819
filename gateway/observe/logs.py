"""The service log: what the gateway itself has to say, on standard error.

Rules of this file: the message of a record is an event's name, everything else is a field
(`extra=`). A terminal gets plain text, everything else one JSON object a line. Only the command
line sets this up: a program that embeds the gateway has its own handlers.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import IO, Any

from gateway.observe.lines import escaped

LEVELS = ("debug", "info", "warning", "error", "critical")
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_QUIET = {
    # Its records about requests repeat what the access log says, without our words for it.
    "aiohttp.access": logging.CRITICAL + 1,
    "aiohttp.server": logging.CRITICAL,
    "aiohttp.web": logging.ERROR,
    "aiohttp.client": logging.ERROR,
    "asyncio": logging.WARNING,
}


class ServiceHandler(logging.StreamHandler[Any]):
    """The one handler of the service log; its class tells it from those of an embedding program."""


def setup(level: str = "info", stream: IO[str] | None = None) -> None:
    """Send all records from `level` (a word of LEVELS) on to `stream`, standard error if None. May
    be called again.
    """
    target = sys.stderr if stream is None else stream
    handler = ServiceHandler(target)
    handler.setFormatter(PlainFormatter() if target.isatty() else JsonFormatter())
    root = logging.getLogger()
    for former in [known for known in root.handlers if isinstance(known, ServiceHandler)]:
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What was given as `extra=`."""
    return {name: value for name, value in vars(record).items() if name not in _OWN}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, the fields, and the traceback if there is
    one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        for name, value in fields(record).items():
            line[f"{name}_" if name in line else name] = value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class PlainFormatter(logging.Formatter):
    """For people: time, level, event, `name=value`; a traceback below."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline."""
        told = " ".join(f"{name}={_shown(value)}" for name, value in fields(record).items())
        event = escaped_text(record.getMessage())
        line = f"{_time(record)} {record.levelname.lower():<8} {record.name}: {event}"
        line = f"{line} {told}" if told else line
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def escaped_text(text: str) -> str:
    """Prose with its control characters escaped; quotes may stand in it."""
    return text if text.isprintable() else escaped(text)


def _shown(value: object) -> str:
    text = str(value)
    safe = escaped(text)
    return f'"{safe}"' if safe != text or " " in text or not text else text


def _time(record: logging.LogRecord) -> str:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{moment}.{int(record.msecs):03d}Z"
