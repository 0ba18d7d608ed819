"""Files of credentials that a configuration names: read when it is checked, for what is wrong with them.

Rules of this file: nothing of what is read is kept: `gateway/auth/files.py` reads it again, with the
same readers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config import ConfigError
from gateway.config.effective import Place, Problem
from gateway.config.htpasswd import read_htpasswd
from gateway.config.keys import read_keys

if TYPE_CHECKING:
    from gateway.config import model

MAX_BYTES = 32 * 1024 * 1024
"""Of one file: two hundred thousand keys."""


def mistakes(policy: model.AuthPolicy) -> tuple[Problem, ...]:
    """Every mistake in the file of `api_key` or `basic`. One that cannot be read is told elsewhere."""
    if policy.api_key is not None:
        return _mistakes(policy.api_key.keys_file, keys=True)
    if policy.basic is not None:
        return _mistakes(policy.basic.htpasswd, keys=False)
    return ()


def _mistakes(path: str, *, keys: bool) -> tuple[Problem, ...]:
    name = shown(path)
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError:
        return ()
    if len(content) > MAX_BYTES:
        return (Problem(Place(name, 1, 1), "", f"this is larger than {MAX_BYTES // 1024**2} MiB"),)
    try:
        text = content.decode("utf-8-sig")
        if keys:
            read_keys(text, name)
        else:
            read_htpasswd(text, name)
    except ConfigError as error:
        return error.problems
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return (Problem(Place(name, line, 1), "", "this is not UTF-8: save the file as UTF-8"),)
    return ()


def shown(path: str) -> str:
    """A path as a person would type it from here."""
    absolute = Path(path).absolute()
    try:
        return str(absolute.relative_to(Path.cwd()))
    except ValueError:
        return str(absolute)
