"""Files: reading them, what they include, and what `${env:…}` and `${file:…}` stand for.

Rules of this file: nothing read here is interpreted but the `include` key; every text that counts
goes into the digest; what cannot be read is a problem with a place, and reading goes on. Inputs
are bounded, so that a wrong path cannot fill the memory.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.config.effective import Place, Problem
from gateway.config.forms import listed
from gateway.config.nodes import Map, Source, Text, compose, plain_data

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_FILE = 32 * 1024 * 1024
MAX_VALUE = 1024 * 1024
MAX_FILES = 1000

_PART = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Sources:
    """All that is read for one configuration."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self.environment = os.environ if environment is None else environment
        self.files: list[str] = []
        self.problems: list[Problem] = []
        self._hash = hashlib.sha256()
        self._secrets: set[str] = set()
        self._unread: set[tuple[Place, str]] = set()
        """Of texts whose `${…}` stands for nothing: their place, and why."""

    @property
    def digest(self) -> str:
        """Twelve hex digits of all that was read."""
        return self._hash.hexdigest()[:12]

    def file(self, path: Path, wanted_by: Text | None = None) -> Map | None:
        """The document of a file; None if there is none, which is among the problems then."""
        name = shown(path)
        place = wanted_by.place if wanted_by is not None else Place(name, 1, 1)
        raw = b""
        try:
            raw = self._bytes(path, MAX_FILE)
            content = raw.decode("utf-8-sig")
        except OSError as error:
            self._problem(place, "", f"{name} cannot be read: {error.strerror or error}")
            return None
        except UnicodeDecodeError as error:
            line = raw[: error.start].count(b"\n") + 1
            column = error.start - raw.rfind(b"\n", 0, error.start)
            self._problem(
                Place(name, line, column), "", "this is not UTF-8: save the file as UTF-8"
            )
            return None
        except ValueError as error:
            self._problem(place, "", f"{name} cannot be read: {error}")
            return None
        self.files.append(str(path.absolute()))
        return self.text(content, name, path.absolute().parent)

    def text(self, content: str, name: str, folder: Path) -> Map | None:
        """The document of a text."""
        content = content.removeprefix("\ufeff")
        self._hash.update(content.encode("utf-8", "surrogatepass"))
        source = Source(name, folder.absolute(), tuple(content.splitlines()))
        found = len(self.problems)
        value = compose(content, source, self.expand, self.problems)
        if isinstance(value, Map):
            return value
        if value is None and len(self.problems) == found:
            self._problem(source.place(0, 0), "", "this file is empty: write routes: to begin with")
        elif value is not None:
            self._problem(value.place, "", "a configuration is a mapping: write routes: …")
        return None

    def data(self, data: Mapping[str, Any], name: str, folder: Path) -> Map | None:
        """The document that a program passes."""
        source = Source(name, folder.absolute())
        self._hash.update(repr(data).encode("utf-8", "surrogatepass"))

        def expand(made: Text) -> Text:
            try:
                return self.expand(made)
            except ValueError as error:
                self._problem(made.place, "", str(error))
                return made

        value = plain_data(dict(data), source, expand)
        return value if isinstance(value, Map) else None

    def included(self, document: Map) -> Iterator[Map]:
        """The documents that a document includes, in order."""
        seen = set(self.files)
        for index, pattern in enumerate(listed(document.get("include")) or ()):
            if not isinstance(pattern, Text):
                place = pattern.place
                self._problem(place, f"include[{index}]", "the name of a file or a glob is wanted")
                continue
            for path in self._matching(pattern, index):
                if str(path.absolute()) in seen:
                    continue
                seen.add(str(path.absolute()))
                if len(seen) > MAX_FILES:
                    self._problem(
                        pattern.place, f"include[{index}]", f"more than {MAX_FILES} files"
                    )
                    return
                included = self.file(path, pattern)
                if included is not None:
                    yield included

    def _matching(self, pattern: Text, index: int) -> list[Path]:
        whole = os.path.join(pattern.source.folder, pattern)  # noqa: PTH118 - a glob is no path
        if glob.has_magic(pattern):
            found = sorted(glob.glob(whole, recursive=True))  # noqa: PTH207 - absolute patterns too
            return [Path(name) for name in found if Path(name).is_file()]
        if not Path(whole).exists():
            self._problem(pattern.place, f"include[{index}]", f"there is no file {pattern}")
            return []
        return [Path(whole)]

    def expand(self, made: Text) -> Text:
        """Put in what `${…}` stands for. Raises ValueError with the fix."""
        try:
            return self._expanded(made)
        except ValueError as error:
            self._unread.add((made.place, str(error)))
            raise

    def _expanded(self, made: Text) -> Text:
        from_file = False

        def value(match: re.Match[str]) -> str:
            nonlocal from_file
            if match[0] == "$${":
                return "${"
            if match[1] is None:
                raise ValueError("${ is not closed: write ${env:NAME}, or $${ for the text ${")
            kind, colon, rest = match[1].partition(":")
            if kind == "env" and colon:
                return self._variable(rest)
            if kind == "file" and colon:
                from_file = True
                return self._content(rest, made)
            raise ValueError(
                f"{match[0]} is not known: write ${{env:NAME}}, ${{env:NAME:-default}}, "
                "${file:PATH}, or $${ for the text ${"
            )

        return made.derive(_PART.sub(value, made), from_file=from_file)

    def _variable(self, written: str) -> str:
        name, default, otherwise = written.partition(":-")
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a variable: write ${{env:NAME}}")
        value = self.environment.get(name)
        if value is None or (default and not value):
            if not default:
                raise ValueError(
                    f"the variable {name} is not set: set it, or write ${{env:{name}:-default}}"
                )
            value = otherwise
        self._hash.update(f"\0{name}={value}".encode("utf-8", "surrogateescape"))
        return value

    def _content(self, name: str, made: Text) -> str:
        path = Path(made.source.folder, name)
        if not name:
            raise ValueError("${file:} names no file: write ${file:/run/secrets/name}")
        try:
            content = self._bytes(path, MAX_VALUE).decode()
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not UTF-8 text") from None
        self._hash.update(b"\0" + content.encode())
        content = content.removesuffix("\n").removesuffix("\r")
        if content:
            self._secrets |= {content, repr(content)[1:-1]}
        return content

    def told(self) -> Iterator[Problem]:
        """The problems, without secrets, and without what else is wrong with a text whose `${…}` stands for nothing: that
        is not what was meant to stand there.
        """
        first = {one for one in self.problems if (one.place, one.message) in self._unread}
        places = {one.place for one in first if one.path}
        for problem in self.problems:
            # A rule of the mapping around it begins with the key.
            key = f"{problem.path}.{problem.message.partition(':')[0]}"
            of_it = any(one.path == key or one.path.startswith(f"{key}[") for one in first)
            if problem in first or not (problem.place in places or of_it):
                yield self.without_secrets(problem)

    def without_secrets(self, problem: Problem) -> Problem:
        """The problem without anything in its message that a `${file:…}` gave."""
        message = self.hidden(problem.message)
        return problem if message == problem.message else replace(problem, message=message)

    def hidden(self, message: str) -> str:
        """A message without anything that a `${file:…}` gave."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            if secret in message:
                message = message.replace(secret, "***")
        return message

    @staticmethod
    def _bytes(path: Path, most: int) -> bytes:
        with path.open("rb") as stream:
            content = stream.read(most + 1)
        if len(content) > most:
            raise ValueError(f"{path} is larger than {most // 1024} KiB")
        return content

    def _problem(self, place: Place, path: str, message: str) -> None:
        self.problems.append(Problem(place, path, message))


def shown(path: Path | str) -> str:
    """A path as a person would type it from here."""
    absolute = Path(path).absolute()
    try:
        return str(absolute.relative_to(Path.cwd()))
    except ValueError:
        return str(absolute)
