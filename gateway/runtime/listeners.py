"""Bound addresses: TCP and unix sockets, opened before a configuration is swapped in and closed
after.

Rules of this file: sockets are bound here by hand, so that a failure names the listener and says
what to do, so that one name with several addresses gets one port, and so that nothing is accepted
before the swap. A socket whose bind has not changed is never touched by a reload: not one
connection in its queue is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gateway.config import model

BACKLOG = 1024
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class ListenError(OSError):
    """A listener could not be opened. `strerror` says which, why, and what to do."""


def describe(bind: model.Bind) -> str:
    """A bind as it would be written."""
    if bind.unix is not None:
        return f"unix:{bind.unix}"
    return _join(bind.host or "", bind.port or 0)


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Bound:
    """The listening sockets of one bind."""

    def __init__(self, bind: model.Bind, name: str) -> None:
        self.bind = bind
        self.name = name
        self.sockets: list[socket.socket] = []
        self.address = ""
        """Where it really listens, such as `127.0.0.1:41234` or `unix:/run/gateway.sock`."""
        self._servers: list[asyncio.Server] = []
        """uvloop: what create_server returns must be kept, or a unix server is collected."""
        self._inode: tuple[int, int] | None = None

    async def open(self) -> None:
        """Bind and listen; nothing is accepted yet. Raises ListenError."""
        try:
            if self.bind.unix is not None:
                self._open_unix(Path(self.bind.unix), self.bind.mode)
            else:
                await self._open_tcp(self.bind.host or None, self.bind.port or 0)
            for sock in self.sockets:
                sock.listen(BACKLOG)
        except OSError as error:
            self.close()
            if isinstance(error, ListenError):
                raise
            raise self.error(error.errno or errno.EINVAL, _why(error)) from error
        self.address = _address(self.sockets[0])

    async def serve(self, factory: Callable[[], asyncio.Protocol]) -> None:
        """Accept connections, those in the queue first."""
        loop = asyncio.get_running_loop()
        make = loop.create_unix_server if self.bind.unix is not None else loop.create_server
        for sock in self.sockets:
            self._servers.append(await make(factory, sock=sock, backlog=BACKLOG))

    def take(self, name: str, bind: model.Bind) -> None:
        """Another name, another mode for the same socket."""
        if bind.unix is not None and bind.mode is not None and bind.mode != self.bind.mode:
            with contextlib.suppress(OSError):  # somebody has removed the file: nothing to protect
                Path(bind.unix).chmod(int(bind.mode, 8))
        self.name, self.bind = name, bind

    def close(self) -> None:
        """Accept no more. Connections that are there stay."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()
        self._unlink()

    async def _open_tcp(self, host: str | None, port: int) -> None:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        missing: OSError | None = None
        for family, address in sorted({(info[0], info[4]) for info in found}):  # IPv4 first
            if self.sockets and not port:
                address = (address[0], self.sockets[0].getsockname()[1], *address[2:])
            try:
                self.sockets.append(_tcp_socket(family, address))
            except OSError as error:
                # `localhost` has an IPv6 address even where the machine has no IPv6.
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
        if not self.sockets:
            raise missing or OSError(errno.EADDRNOTAVAIL, "the name has no address")

    def _open_unix(self, path: Path, mode: str | None) -> None:
        self._remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        self.sockets.append(sock)
        sock.bind(str(path))
        status = path.stat()
        self._inode = status.st_dev, status.st_ino
        if mode is not None:
            path.chmod(int(mode, 8))  # before listen(): nobody could connect with the former mode

    def _remove_stale(self, path: Path) -> None:
        """Remove what a killed process left behind; never a live socket nor anything that is no
        socket.
        """
        try:
            status = path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(status.st_mode):
            raise self.error(
                errno.EEXIST, "the file exists and is no socket: remove it or choose another path"
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            refused = probe.connect_ex(str(path)) == errno.ECONNREFUSED
        if not refused:
            raise self.error(errno.EADDRINUSE, _IN_USE)
        path.unlink(missing_ok=True)

    def _unlink(self) -> None:
        """Remove our file, unless another process has put its own in that place."""
        inode, self._inode = self._inode, None
        if inode is None or self.bind.unix is None:
            return
        with contextlib.suppress(OSError):
            status = Path(self.bind.unix).lstat()
            if (status.st_dev, status.st_ino) == inode:
                Path(self.bind.unix).unlink()

    def error(self, number: int, why: str) -> ListenError:
        """What to raise if this bind can not be opened."""
        where = describe(self.bind)
        which = where if self.name in ("", where) else f"{self.name} ({where})"
        return ListenError(number, f"{which}: {why}")


_IN_USE = "the address is in use: stop the program that listens there or choose another bind"


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return _IN_USE
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            "not permitted: a port below 1024 needs root or CAP_NET_BIND_SERVICE, "
            "a unix socket a folder that may be written to"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    if isinstance(error, socket.gaierror):
        return "the host name does not resolve"
    return error.strerror or str(error)


def _tcp_socket(family: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        # Connections of the last process that are in TIME_WAIT must not keep this one from
        # starting.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # `[::]` is IPv6 alone, so that it can stand beside `0.0.0.0`.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _address(sock: socket.socket) -> str:
    name = sock.getsockname()
    return _join(name[0], name[1]) if isinstance(name, tuple) else f"unix:{name}"


class Binds:
    """All that is bound; what a new configuration changes of it is first opened, then committed or
    given up.
    """

    def __init__(self) -> None:
        self.bound: list[Bound] = []

    async def open(self, wanted: Sequence[tuple[str, model.Bind]]) -> Change:
        """Open what is new among (name, bind). Raises ListenError, and then nothing has changed."""
        left = list(self.bound)
        change = Change(self)
        try:
            for name, bind in wanted:
                bound = _same(left, name, bind)
                if bound is None:
                    bound = Bound(bind, name)
                    await self._open(bound)
                    change.fresh.append(bound)
                else:
                    left.remove(bound)
                change.bound.append(bound)
        except BaseException:
            change.give_up()
            raise
        change.gone = left
        change.wanted = list(wanted)
        return change

    async def _open(self, fresh: Bound) -> None:
        try:
            await fresh.open()
        except ListenError as error:
            port = fresh.bind.port
            for bound in self.bound:
                # From 127.0.0.1:80 to 0.0.0.0:80: it is we who are in the way.
                if error.errno == errno.EADDRINUSE and port and bound.bind.port == port:
                    raise fresh.error(
                        errno.EADDRINUSE,
                        f"the running configuration listens on {describe(bound.bind)}: a reload can "
                        "not widen or narrow an address in use, so restart, or use another port",
                    ) from error
            raise

    def close(self) -> None:
        """Close everything."""
        for bound in self.bound:
            bound.close()
        self.bound = []


class Change:
    """A set of binds that is open but not in force."""

    def __init__(self, binds: Binds) -> None:
        self._binds = binds
        self.bound: list[Bound] = []
        self.wanted: list[tuple[str, model.Bind]] = []
        self.fresh: list[Bound] = []
        self.gone: list[Bound] = []

    def commit(self) -> None:
        """In force; those that stay bear their new names. `close_gone` is left to do."""
        for bound, (name, bind) in zip(self.bound, self.wanted, strict=True):
            bound.take(name, bind)
        self._binds.bound = self.bound

    def close_gone(self) -> None:
        """Close what is no longer wanted."""
        for bound in self.gone:
            bound.close()

    def give_up(self) -> None:
        """Close what was opened for this change."""
        for bound in self.fresh:
            bound.close()


def _same(left: Iterable[Bound], name: str, bind: model.Bind) -> Bound | None:
    """The open one with this bind; port 0 is another port each time, so there the name decides."""
    for bound in left:
        if bind.unix is not None:
            if bound.bind.unix == bind.unix:
                return bound
        elif bound.bind == bind and (bind.port or bound.name == name):
            return bound
    return None
