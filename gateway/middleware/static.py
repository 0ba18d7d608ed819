"""`static:`: files below a root, with ranges, validators and precompressed variants.

Rules of this file: nothing touches the disk on the event loop. A name is decoded once and must then
be plain: no empty or dot segment, no separator, no NUL, no dotfile unless asked for (`/.well-
known/` is). What is opened must lie below the root with every symbolic link followed. What cannot
be had, for whatever reason, is the same 404. A file is opened once, its length and validators are
those of the open file, and it is closed when the exchange has ended at the latest.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import re
import stat
from email.utils import formatdate
from mimetypes import MimeTypes
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from gateway import errors
from gateway.exchange import Reply
from gateway.middleware import conditional
from gateway.routing.rewrite import compile_rewrite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.config import effective, model
    from gateway.exchange import Exchange, Handler
    from gateway.middleware.base import Build

SMALL = 64 * 1024
"""Bytes up to which a file is read in one go with its opening."""
BLOCK = 256 * 1024

SUFFIXES = {"br": ".br", "gzip": ".gz", "zstd": ".zst"}
_ABSENT = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP,
     errno.EINVAL, errno.EILSEQ, errno.ENXIO)
)  # fmt: skip
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY

# The tables inside Python only: a machine's /etc/mime.types must not change what is served.
_TYPES = MimeTypes(filenames=())
for _kind, _suffixes in {
    "text/javascript": ".js .mjs",
    "image/webp": ".webp",
    "image/avif": ".avif",
    "font/woff": ".woff",
    "font/woff2": ".woff2",
    "text/markdown": ".md",
    "application/wasm": ".wasm",
    "application/yaml": ".yaml .yml",
}.items():
    for _suffix in _suffixes.split():
        _TYPES.add_type(_kind, _suffix)


def media_type(name: str) -> bytes:
    """The Content-Type for a file's name."""
    kind, coding = _TYPES.guess_type(name.rpartition("/")[2])
    if coding is not None:
        # It is sent as it is, so it is the archive and not what is inside.
        return b"application/gzip" if coding == "gzip" else b"application/octet-stream"
    kind = kind or "application/octet-stream"
    return f"{kind}; charset=utf-8".encode() if kind.startswith("text/") else kind.encode()


class Directory(Exception):
    """A directory with an index, asked for without its slash."""


class Found:
    """An open file. `data` holds all of it where that is little; then it is closed already."""

    def __init__(self, descriptor: int, status: os.stat_result, name: str, coding: str) -> None:
        self._descriptor = descriptor
        self.size = status.st_size
        self.modified = int(status.st_mtime)
        self.name = name
        self.coding = coding
        variant = f"-{coding}" if coding else ""
        self.etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}{variant}"'.encode()
        self.data: bytes | None = None

    def read(self, count: int, offset: int) -> bytes:
        """Up to `count` bytes from `offset`. Runs in a thread."""
        return os.pread(self._descriptor, count, offset)

    def load(self) -> None:
        """Read all of it and close it. Runs in a thread."""
        try:
            self.data = self.read(self.size, 0)
        finally:
            self.close()
        if len(self.data) != self.size:
            raise errors.InternalError(f"{self.name} was cut while it was read")

    def close(self) -> None:
        """Close it. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Body:
    """A part of an open file, on its way to the client."""

    def __init__(self, found: Found, first: int, count: int) -> None:
        self._found = found
        self._first = first
        self._count = count
        self.length = b"%d" % count
        """Content-Length."""

    async def blocks(self) -> AsyncIterator[bytes]:
        """The bytes, in blocks. Raises errors.InternalError if the file has become shorter."""
        run = asyncio.get_running_loop().run_in_executor
        at, end = self._first, self._first + self._count
        try:
            while at < end:
                data = await run(None, self._found.read, min(BLOCK, end - at), at)
                if not data:
                    raise errors.InternalError(f"{self._found.name} was cut while it was sent")
                at += len(data)
                yield data
        finally:
            self._found.close()


class Files:
    """The disk side of a route: everything here runs in a thread."""

    def __init__(self, settings: model.Static) -> None:
        self._root = settings.root
        self._index = settings.index
        self._fallback = [part for part in (settings.fallback or "").split("/") if part]
        self._variants = settings.precompressed

    def find(
        self, segments: list[str], codings: tuple[str, ...], *, whole: bool, fallback: bool
    ) -> Found:
        """Open the file that answers. A path that ends in a slash has an empty last segment.

        `codings`: the content codings that the client takes rather than none, the best first.
        `whole`: read a small one at once. Raises Directory, errors.NotFound, errors.InternalError.
        """
        root = os.path.realpath(self._root)
        try:
            found = self._asked(root, segments, codings)
            if found is None and fallback and self._fallback:
                found = self._open(root, self._fallback, codings)
            if found is None:
                raise errors.NotFound
            if whole and found.size <= SMALL:
                found.load()
        except OSError as error:
            raise errors.InternalError(repr(error)) from error
        return found

    def _asked(self, root: str, segments: list[str], codings: tuple[str, ...]) -> Found | None:
        if segments[-1]:
            found = self._open(root, segments, codings)
            if found is not None or self._index is None:
                return found
            index = self._open(root, [*segments, self._index], ())
            if index is not None:
                index.close()
                raise Directory
            return None
        if self._index is None:
            return None
        return self._open(root, [*segments[:-1], self._index], codings)

    def _open(self, root: str, segments: list[str], codings: tuple[str, ...]) -> Found | None:
        """The file, or its best variant; None if it is no regular file below the root."""
        name = "/".join(segments)
        plain = _opened(root, name)
        if plain is None:
            return None
        for coding in codings:
            packed = _opened(root, name + SUFFIXES[coding])
            if packed is not None:
                os.close(plain[0])
                return Found(*packed, name, coding)
        return Found(*plain, name, "")


def _opened(root: str, name: str) -> tuple[int, os.stat_result] | None:
    real = os.path.realpath(os.path.join(root, name))  # noqa: PTH118 - on the hot path
    if not real.startswith(root.rstrip("/") + "/"):
        return None
    try:
        # The path holds no link any more: O_NOFOLLOW refuses one that has been put there since. A
        # FIFO would block without O_NONBLOCK.
        descriptor = os.open(real, _FLAGS)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        return None
    return descriptor, status


def segments_of(path: str, *, dotfiles: bool) -> list[str]:
    """The names in a request's path, decoded once; a trailing slash gives an empty last one.

    Raises errors.NotFound for what is no plain name.
    """
    segments = []
    for part in path[1:].split("/"):
        name = unquote_to_bytes(part.encode("utf-8", "surrogateescape"))
        if re.search(rb"[/\\\0]", name) or name in (b".", b".."):
            raise errors.NotFound("the path is not plain")
        segments.append(os.fsdecode(name))
    if not path.startswith("/") or "" in segments[:-1]:
        raise errors.NotFound("the path is not plain")
    hidden = segments[1:] if segments[0] == ".well-known" else segments
    if not dotfiles and any(name.startswith(".") for name in hidden):
        raise errors.NotFound("dotfiles are not served")
    return segments


def answer(settings: model.Static, route: effective.Route, build: Build) -> Handler:
    """The handler of a route that serves files."""
    files = Files(settings)
    rewrite = compile_rewrite(route)
    clock = build.clock
    held: dict[int, Found] = {}
    fixed = [b"Accept-Ranges: bytes\r\n"]
    if settings.max_age is not None:
        fixed.append(b"Cache-Control: max-age=%d\r\n" % settings.max_age)
    if settings.precompressed:
        fixed.append(b"Vary: Accept-Encoding\r\n")

    def finish(exchange: Exchange) -> None:
        """Close what was never streamed: a client that left, a reply that was replaced."""
        found = held.pop(id(exchange), None)
        if found is not None:
            found.close()

    async def static(exchange: Exchange) -> Reply:
        if exchange.method not in ("GET", "HEAD"):
            raise errors.MethodNotAllowed(headers=(("Allow", "GET, HEAD"),))
        target = exchange.target if rewrite is None else rewrite(exchange, exchange.target)
        segments = segments_of(target.partition("?")[0], dotfiles=settings.dotfiles)
        headers = exchange.headers
        codings: tuple[str, ...] = ()
        if settings.precompressed:
            offered = headers.getall("Accept-Encoding", ())
            codings = conditional.codings(offered, settings.precompressed)
        find = functools.partial(
            files.find, segments, codings,
            whole=exchange.method == "GET",
            fallback=conditional.takes_html(headers.getall("Accept", ()), segments[-1]),
        )  # fmt: skip
        try:
            found = await _in_thread(find)
        except Directory:
            return _with_slash(exchange)
        if found.data is None:
            held[id(exchange)] = found
        return _reply(found, exchange, fixed, clock.wall())

    build.at_finish.append(finish)
    return static


async def _in_thread(find: functools.partial[Found]) -> Found:
    """Run `find` off the loop; what it opens for a client that has left is closed."""
    work = asyncio.get_running_loop().run_in_executor(None, find)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        work.add_done_callback(_forget)
        raise


def _forget(work: asyncio.Future[Found]) -> None:
    if not work.cancelled() and work.exception() is None:
        work.result().close()


def _with_slash(exchange: Exchange) -> Reply:
    """To the directory itself, so that relative links in its index lead where they should."""
    path = exchange.path
    if path.endswith("/") or path[1:2] in ("/", "\\"):
        raise errors.NotFound("the path is not plain")
    location = path + "/" + ("?" + exchange.query if exchange.query else "")
    return Reply(308, [b"Location: %b\r\n" % location.encode("utf-8", "surrogateescape")])


def _reply(found: Found, exchange: Exchange, fixed: list[bytes], now: float) -> Reply:
    """Conditions first, then the range, as RFC 9110 section 13.2.2 orders them."""
    # A time to come would not be a validator (RFC 9110 section 8.8.2.1).
    modified = min(found.modified, int(now))
    date = formatdate(modified, usegmt=True).encode("ascii")
    lines = [b"ETag: %b\r\n" % found.etag, b"Last-Modified: %b\r\n" % date, *fixed]
    status = conditional.evaluate(exchange.headers, found.etag.decode("ascii"), modified)
    if status:
        found.close()
        return Reply(status, lines)
    lines.append(b"Content-Type: %b\r\n" % media_type(found.name))
    if found.coding:
        lines.append(b"Content-Encoding: %b\r\n" % found.coding.encode("ascii"))
    if exchange.method == "HEAD":
        found.close()
        return Reply(200, lines, Body(found, 0, found.size))
    span = conditional.span(
        exchange.headers, found.size, found.etag.decode("ascii"), date.decode("ascii")
    )
    if span is None:
        return Reply(200, lines, _part(found, 0, found.size))
    first, count = span
    if not count:
        found.close()
        return Reply(416, [*lines[:2], b"Content-Range: bytes */%d\r\n" % found.size])
    lines.append(b"Content-Range: bytes %d-%d/%d\r\n" % (first, first + count - 1, found.size))
    return Reply(206, lines, _part(found, first, count))


def _part(found: Found, first: int, count: int) -> bytes | Body:
    if found.data is not None:
        return found.data[first : first + count]
    return Body(found, first, count)
