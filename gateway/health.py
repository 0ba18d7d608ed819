"""Asking a running gateway whether it is ready, for containers and scripts.

Rules of this file: standard library only, and one request, so that a check every few seconds costs
little.
"""

from __future__ import annotations

import http.client
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.config.model import Bind

_ANY = {None: "127.0.0.1", "": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(bind: Bind, timeout: float) -> tuple[bool, str]:
    """Whether the admin listener at `bind` says that it is ready, and what to print."""
    connection: http.client.HTTPConnection
    if bind.unix:
        connection = _UnixConnection(bind.unix, timeout)
        where = f"unix:{bind.unix}"
    else:
        host = _ANY.get(bind.host, bind.host)
        connection = http.client.HTTPConnection(str(host), bind.port, timeout=timeout)
        where = f"{host}:{bind.port}"
    try:
        connection.request("GET", "/health/ready")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return False, f"no answer from {where}: {error}"
    finally:
        connection.close()
    return (
        status == http.client.OK,
        "ready" if status == http.client.OK else f"not ready ({status})",
    )
