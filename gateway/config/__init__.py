"""The configuration: files → `effective.Config`, or every mistake in them.

Rules of this package: it knows YAML and pydantic, and nothing of aiohttp or asyncio; nothing is read or checked at import.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from gateway.config import effective, model

__all__ = ["ConfigError", "load", "load_admin", "load_dict", "load_text"]


class ConfigError(Exception):
    """A configuration that is wrong. Its text is one line for each problem: `file:line:column: path: message`."""

    def __init__(self, problems: Iterable[effective.Problem]) -> None:
        self.problems: tuple[effective.Problem, ...] = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Loading makes many objects and no cycles: looking for garbage would double its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def load(path: Path | str) -> effective.Config:
    """Read, merge and check a file and all that it includes. Raises ConfigError with every mistake of all files."""
    from gateway.config.loading import Loading  # noqa: PLC0415 - pydantic is slow to import

    with _no_collection():
        loading = Loading()
        return loading.finish(loading.sources.file(Path(path)))


def load_admin(path: Path | str) -> model.Admin | None:
    """What a file says of the admin listener, though all the rest may be wrong: whoever asks a running gateway may have
    broken the file since. None: it is off. Raises ConfigError.
    """
    from gateway.config.loading import Loading  # noqa: PLC0415

    loading = Loading()
    return loading.admin(loading.sources.file(Path(path)))


def load_text(text: str, name: str = "gateway.yaml", base: Path | str = ".") -> effective.Config:
    """The same for a text; relative paths in it start from the folder `base`. Raises ConfigError."""
    from gateway.config.loading import Loading  # noqa: PLC0415

    with _no_collection():
        loading = Loading()
        return loading.finish(loading.sources.text(text, name, Path(base)))


def load_dict(
    mapping: Mapping[str, Any], name: str = "configuration", base: Path | str = "."
) -> effective.Config:
    """The same for Python data of the same shape as the YAML: `{"routes": [{"path": "/*", …}]}`. Raises ConfigError."""
    from gateway.config.loading import Loading  # noqa: PLC0415

    with _no_collection():
        loading = Loading()
        return loading.finish(loading.sources.data(mapping, name, Path(base)))
