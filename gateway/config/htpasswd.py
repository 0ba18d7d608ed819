"""Files of `htpasswd`: a name and the hash of a password a line.

Rules of this file: hashes are read and verified by the libraries that made them known (bcrypt, argon2-cffi, libpass), each
imported when a file has one of its kind. A hash that is no defence (plain text, SHA-1, crypt), or whose cost would stop the
gateway, is refused with its line, and no message repeats it. Blocking: `verify` takes as long as the hash was made to take.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.config import ConfigError
from gateway.config.effective import Place, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_BCRYPT_COST = 16
"""Rounds are two to that: about four seconds of one core."""
MAX_ARGON2_MEMORY = 1024 * 1024
"""KiB, of one verification."""
MAX_ARGON2_WORK = 16 * 1024 * 1024
"""KiB times passes: about ten seconds of one core."""
BCRYPT_BYTES = 72
"""bcrypt looks at no more of a password."""

_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_ARGON2 = re.compile(
    r"\$argon2(?:i|id)\$(?:v=\d+\$)?m=\d+,t=\d+,p=\d+\$[+/A-Za-z0-9]{11,}\$[+/A-Za-z0-9]{22,}"
)
_APR1 = re.compile(r"\$apr1\$[./A-Za-z0-9]{1,8}\$[./A-Za-z0-9]{22}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One user's hash, and what verifies a password against it."""

    verify: Callable[[bytes], bool]
    """Whether that is the password; blocking. Of passwords without control characters."""

    def __repr__(self) -> str:
        return "<Entry>"


def read_htpasswd(text: str, name: str) -> dict[str, Entry]:
    """User → entry; `name` is the file's, for messages. Raises ConfigError with every mistake.

    An empty file is one in which nobody is let in.
    """
    users: dict[str, Entry] = {}
    lines: dict[str, int] = {}
    problems: list[Problem] = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.rstrip("\r")
        if not line.strip() or line.startswith("#"):
            continue
        user, colon, rest = line.partition(":")
        hashed = rest.partition(":")[0].strip()  # what follows is a comment, as nginx has them
        try:
            if not colon or not user:
                raise _Wrong("a name, a colon and a hash are wanted, as htpasswd writes them", 1)
            if user in lines:
                raise _Wrong(f"this name stands in line {lines[user]} already", 1)
            lines[user] = number
            users[user] = Entry(_verifier(hashed))
        except _Wrong as wrong:
            place = Place(name, number, wrong.column or len(user) + 2)
            problems.append(Problem(place, "", str(wrong)))
    if problems:
        raise ConfigError(problems)
    return users


class _Wrong(Exception):
    def __init__(self, message: str, column: int = 0) -> None:
        """`column` 0: that of the hash."""
        super().__init__(message)
        self.column = column


def _verifier(hashed: str) -> Callable[[bytes], bool]:
    if hashed.startswith(("$2a$", "$2b$", "$2y$")):
        return _bcrypt(hashed)
    if hashed.startswith(("$argon2i$", "$argon2id$")):
        return _argon2(hashed)
    if hashed.startswith("$apr1$"):
        return _apr1(hashed)
    raise _Wrong(f"{_kind(hashed)}: make the line anew with `htpasswd -B -C 12`")


def _kind(hashed: str) -> str:
    """Why a hash of another kind is refused."""
    if not hashed:
        return "there is no hash"
    if hashed.startswith(("{SHA}", "{SSHA}")):
        return "SHA-1 is tried a thousand million times a second"
    if hashed.startswith("$argon2d$"):
        return "argon2d tells of passwords by its use of memory"
    if hashed.startswith("$2"):
        return "this kind of bcrypt had a mistake in it"
    if hashed.startswith("$"):
        return "this kind of hash is not known here"
    return "neither a password itself nor the hash of crypt is accepted"


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise _Wrong(
            f"this kind of hash needs the package {name.partition('.')[0]}: pip install 'gateway[auth]'"
        ) from None


def _bcrypt(hashed: str) -> Callable[[bytes], bool]:
    found = _BCRYPT.fullmatch(hashed)
    if found is None or int(found[1]) < 4:
        raise _Wrong("this bcrypt hash is damaged: 60 characters are wanted")
    if int(found[1]) > MAX_BCRYPT_COST:
        raise _Wrong(f"a bcrypt cost above {MAX_BCRYPT_COST} takes longer than anybody waits")
    checkpw = _library("bcrypt").checkpw
    wanted = hashed.encode("ascii")

    def verify(password: bytes) -> bool:
        if len(password) <= BCRYPT_BYTES:
            return bool(checkpw(password, wanted))
        # bcrypt would look at the first 72 bytes: whoever knows them would know the password. The
        # work is done all the same, so that the answer takes as long.
        checkpw(b"", wanted)
        return False

    return verify


def _argon2(hashed: str) -> Callable[[bytes], bool]:
    argon2 = _library("argon2")
    low_level = _library("argon2.low_level")
    exceptions = _library("argon2.exceptions")
    if not _ARGON2.fullmatch(hashed):
        raise _Wrong("this argon2 hash is damaged")
    try:
        found = argon2.extract_parameters(hashed)
    except (exceptions.InvalidHashError, ValueError):
        raise _Wrong("this argon2 hash is damaged") from None
    work = found.memory_cost * found.time_cost
    if found.memory_cost > MAX_ARGON2_MEMORY or work > MAX_ARGON2_WORK or found.parallelism > 64:
        raise _Wrong(
            "this argon2 hash takes more memory or time than a gateway has: m at most 1 GiB"
        )
    wanted = hashed.encode("ascii")
    kind, verify_secret = found.type, low_level.verify_secret

    def verify(password: bytes) -> bool:
        try:
            return bool(verify_secret(wanted, password, kind))
        except exceptions.VerificationError:
            return False

    return verify


def _apr1(hashed: str) -> Callable[[bytes], bool]:
    if not _APR1.fullmatch(hashed):
        raise _Wrong("this apr1 hash is damaged")
    check = _library("passlib.hash").apr_md5_crypt.verify

    def verify(password: bytes) -> bool:
        return bool(check(password, hashed))

    return verify
