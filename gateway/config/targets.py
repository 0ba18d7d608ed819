"""A list of targets that stands outside the configuration: in a file of its own, or in a variable.

Rules of this file: the list means what it means under `targets:`, with the same checks, the same
words and `${…}`; it is bounded. JSON is read as the YAML that it is.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config import ConfigError, model
from gateway.config.effective import Place, Problem
from gateway.config.forms import around
from gateway.config.nodes import Seq, Source, compose, sequence, text
from gateway.config.report import Context
from gateway.config.sources import Sources

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BYTES = 1024 * 1024
"""Of a file that holds targets: a thousand with labels take a fifth of it."""


def read_targets(content: str, name: str, folder: Path | str) -> tuple[model.Target, ...]:
    """The targets that a list in YAML or JSON names; `name` and `folder` are those of its file.

    Raises ConfigError with every mistake, an empty list among them.
    """
    content = content.removeprefix("\ufeff")
    source = Source(name, Path(folder).absolute(), tuple(content.splitlines()))
    problems: list[Problem] = []
    written = compose(content, source, Sources().expand, problems)
    if written is None and not problems:
        problems.append(Problem(Place(name, 1, 1), "", f"there is nothing in it: {_WANTED}"))
    elif not problems and not isinstance(written, Seq):
        problems.append(Problem(Place(name, 1, 1), "", _WANTED))
    return _checked(written, problems)


def read_variable(name: str, environment: Mapping[str, str]) -> tuple[model.Target, ...]:
    """The targets of a variable: URLs with commas between them, or a list in YAML or JSON.

    Raises ConfigError with every mistake, a variable that is not set among them.
    """
    place, value = Place(f"${name}", 1, 1), environment.get(name, "").strip()
    if not value:
        raise ConfigError(
            [Problem(place, "", f"the variable {name} is not set: write URLs in it, or a list")]
        )
    if value.startswith(("[", "-")):
        return read_targets(value, f"${name}", ".")
    source = Source(f"${name}", Path.cwd(), (value,))
    urls = [text(one.strip(), source, 0, 0, plain=False) for one in value.split(",")]
    return _checked(sequence([one for one in urls if one], source, 0, 0), [])


def stand_ins(settings: model.Upstream) -> tuple[model.Target, ...]:
    """The targets as far as they can be told without a network: for commands that explain.

    A name stands for the addresses that it will have; a list is read as it is now.
    """
    found = settings.discover
    if found is None:
        return settings.targets
    try:
        if found.file is not None:
            return read_targets(Path(found.file).read_text("utf-8"), found.file, ".")
        if found.env is not None:
            return read_variable(found.env, os.environ)
    except (ConfigError, OSError, UnicodeDecodeError):
        return (model.Target(url=f"http://{_NOTHING}"),)
    host = f"{found.dns}:{found.port}" if found.dns is not None else found.srv
    return (model.Target(url=f"{found.scheme}://{host}"),)


_NOTHING = "not-found-yet"
_WANTED = "a list of targets is wanted, as under targets:, such as [http://10.0.0.1:8000]"


def _checked(written: object, problems: list[Problem]) -> tuple[model.Target, ...]:
    made = None
    if isinstance(written, Seq) and not problems:
        context = Context(problems)
        made = context.read(model.Upstream, around(written, {"targets": written}), "")
    if made is None or problems:
        raise ConfigError(problems)
    return made.targets
