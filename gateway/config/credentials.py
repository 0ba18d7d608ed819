"""Files of credentials that a configuration names: read when it is checked, for what is wrong with them.

Rules of this file: nothing of what is read is kept: `gateway/auth/files.py` reads it again, with the
same readers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config import ConfigError
from gateway.config.effective import Place, Problem
from gateway.config.htpasswd import read_htpasswd
from gateway.config.keys import read_keys
from gateway.config.services import is_file
from gateway.config.sources import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.config import model

MAX_BYTES = 32 * 1024 * 1024
"""Of one file: two hundred thousand keys."""


def mistakes(policy: model.AuthPolicy) -> tuple[Problem, ...]:
    """Every mistake in the file of a policy. One that cannot be read is told elsewhere."""
    if policy.api_key is not None:
        return _mistakes(policy.api_key.keys_file, read_keys)
    if policy.basic is not None:
        return _mistakes(policy.basic.htpasswd, read_htpasswd)
    if policy.jwt is not None and is_file(policy.jwt.jwks):
        return _mistakes(str(policy.jwt.jwks), _read_jwks)
    return ()


def _mistakes(path: str, read: Callable[[str, str], object]) -> tuple[Problem, ...]:
    name = shown(path)
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError:
        return ()
    if len(content) > MAX_BYTES:
        return (Problem(Place(name, 1, 1), "", f"this is larger than {MAX_BYTES // 1024**2} MiB"),)
    try:
        read(content.decode("utf-8-sig"), name)
    except ConfigError as error:
        return error.problems
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return (Problem(Place(name, line, 1), "", "this is not UTF-8: save the file as UTF-8"),)
    return ()


_JWKS = 'a JWKS is wanted: {"keys": [{"kty": …}, …]}, as the issuer publishes it'


def _read_jwks(content: str, name: str) -> None:
    """What any reader would stumble over; which keys can be used is told by who uses them. Raises ConfigError."""
    try:
        document = json.loads(content)
    except json.JSONDecodeError as error:
        message = f"this is no JSON ({error.msg}): {_JWKS}"
        raise ConfigError([Problem(Place(name, error.lineno, error.colno), "", message)]) from None
    except (ValueError, RecursionError):  # a number without end, or brackets
        raise ConfigError([Problem(Place(name, 1, 1), "", _JWKS)]) from None
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ConfigError([Problem(Place(name, 1, 1), "", _JWKS)])
