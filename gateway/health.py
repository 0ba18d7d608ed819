"""Asking a running gateway, through its admin listener: is it ready, how are its upstreams?

Rules of this file: standard library only, and one request, so that a check every few seconds costs
little.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.config.model import Admin, Bind

_ANY = {None: "127.0.0.1", "": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


class NoAnswer(Exception):
    """Nobody has answered, or not as a gateway does. Its text is for people."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _get(
    bind: Bind, path: str, timeout: float, headers: dict[str, str] | None = None
) -> tuple[str, int, bytes]:
    """(who was asked, status, body). Raises NoAnswer."""
    connection: http.client.HTTPConnection
    if bind.unix:
        connection = _UnixConnection(bind.unix, timeout)
        where = f"unix:{bind.unix}"
    else:
        host = _ANY.get(bind.host, bind.host)
        connection = http.client.HTTPConnection(str(host), bind.port, timeout=timeout)
        where = f"{host}:{bind.port}"
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return where, answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(f"no answer from {where}: {error}") from None
    finally:
        connection.close()


def ask(bind: Bind, timeout: float) -> tuple[bool, str]:
    """Whether the admin listener at `bind` says that it is ready, and what to print."""
    try:
        _, status, _ = _get(bind, "/health/ready", timeout)
    except NoAnswer as error:
        return False, str(error)
    well = status == http.client.OK
    return well, "ready" if well else f"not ready ({status})"


def upstreams(admin: Admin, timeout: float) -> list[dict[str, Any]]:
    """What the gateway with the admin listener `admin` says of its upstreams. Raises NoAnswer."""
    # As the other side compares it: a secret may hold bytes that are no text.
    token = (admin.token or "").encode("utf-8", "surrogateescape").decode("latin-1")
    headers = {"Authorization": f"Bearer {token}"} if admin.token else {}
    try:
        where, status, body = _get(admin.bind, "/upstreams", timeout, headers)
    except NoAnswer as error:
        raise NoAnswer(f"{error}; is a gateway running with this configuration?") from None
    if status == http.client.UNAUTHORIZED:
        raise NoAnswer(f"the gateway at {where} wants another token than admin.token is here")
    try:
        found = json.loads(body)["upstreams"] if status == http.client.OK else None
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, list):
        raise NoAnswer(f"what answers at {where} is no gateway's admin listener (status {status})")
    return found
