"""The client sessions of one upstream: names, TLS and happy eyeballs are aiohttp's.

Rules of this file: one ClientSession for all TCP targets of an upstream, one for each unix socket (a connector has one
path). A session's connector only makes connections (`force_close`): which are kept, for how long and how many is
`idle.py`'s. No session here ever sends a request of its own, so aiohttp's hidden resend can not happen.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from gateway.config import model


class Pool:
    """The sessions of one upstream, for one set of TLS settings; each is opened on first use, on the running loop."""

    def __init__(self, tls: model.UpstreamTls, *, encrypted: bool) -> None:
        self.tls = tls
        self.stamps = stamps(tls)
        # Reading the system's authorities takes 20 ms: only where some target asks for TLS.
        self.context: ssl.SSLContext | bool = client_context(tls) if encrypted else True
        self._sessions: dict[str | None, aiohttp.ClientSession] = {}

    def session(self, unix: str | None) -> aiohttp.ClientSession:
        """The session for TCP targets (None), or for the socket at `unix`."""
        session = self._sessions.get(unix)
        if session is None:
            session = self._sessions[unix] = open_session(unix)
        return session

    async def aclose(self) -> None:
        """Close the sessions; connections on lease are cut."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()


def open_session(unix: str | None) -> aiohttp.ClientSession:
    """A session for TCP (None), or for the socket at `unix`, that keeps no connections."""
    return aiohttp.ClientSession(
        connector=_connector(unix),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        raise_for_status=False,
    )


def _connector(unix: str | None) -> aiohttp.BaseConnector:
    if unix is not None:
        return aiohttp.UnixConnector(unix, limit=0, force_close=True)
    return aiohttp.TCPConnector(
        limit=0,
        limit_per_host=0,
        force_close=True,
        # A name may move: it is asked again every ten seconds. The resolver is named since an installed aiodns
        # would silently replace the system's (and with it /etc/hosts order and mDNS).
        ttl_dns_cache=10,
        resolver=aiohttp.ThreadedResolver(),
    )


def stamps(tls: model.UpstreamTls) -> tuple[tuple[int, int, int], ...]:
    """What tells whether a certificate file has been replaced since. Raises OSError for one that is not there."""
    files = [Path(file).stat() for file in (tls.ca, tls.cert, tls.key) if file is not None]
    return tuple((file.st_ino, file.st_size, file.st_mtime_ns) for file in files)


def client_context(tls: model.UpstreamTls) -> ssl.SSLContext:
    """The TLS settings of an upstream as a context: verification is on unless it is switched off by name."""
    context = ssl.create_default_context(cafile=tls.ca)
    context.set_alpn_protocols(["http/1.1"])
    if tls.cert is not None:
        context.load_cert_chain(tls.cert, tls.key)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
