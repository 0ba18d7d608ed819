"""nginx in place of the gateway: what another proxy makes of the conformance cases.

Rules of this file: a configuration that does what the gateway does by itself, and no more. What only the gateway can be
asked (its clock, its log, its metrics, settings of its own) skips the case.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from tests.kit.origin import Origin
from tests.kit.programs import need
from tests.kit.running import Running
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off; server_tokens off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  map $http_upgrade $hop {{ default upgrade; '' ''; }}
  upstream up {{ server 127.0.0.1:{origin}; keepalive 32; }}
  server {{
    listen 127.0.0.1:{port};
    client_max_body_size 10m;
    location / {{
      proxy_pass http://up; proxy_http_version 1.1;
      proxy_buffering off; proxy_request_buffering off;
      proxy_set_header Host $http_host; proxy_set_header Connection $hop;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $http_host;
    }}
  }}
}}
"""


class Reference(Running):
    """nginx, as far as a case may look at it: its address."""

    def __init__(self, port: int, process: asyncio.subprocess.Process) -> None:
        self._port = port
        self.process = process

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def __getattr__(self, name: str) -> NoReturn:
        pytest.skip(f"asks the gateway itself ({name})")

    def metric(self, *_: Any, **__: Any) -> NoReturn:
        pytest.skip("asks the gateway itself (metrics)")

    async def eventually(self, *_: Any, **__: Any) -> NoReturn:
        self.metric()

    async def log(self, *_: Any) -> NoReturn:
        pytest.skip("asks the gateway itself (log)")


async def start(origin: object, folder: Path, **sections: Any) -> Reference:
    """nginx in front of an origin; skips the case where the gateway would be configured further."""
    if not isinstance(origin, Origin) or origin.unix or sections:
        pytest.skip("is about settings of the gateway")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = folder / f"nginx-{port}.conf"
    file.write_text(CONFIG.format(folder=folder, port=port, origin=origin.port))
    process = await asyncio.create_subprocess_exec(
        need("nginx"), "-c", file, "-p", folder, "-e", folder / "error.log",
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE):
        while True:
            assert process.returncode is None, (folder / "error.log").read_text()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                await writer.wait_closed()
                return Reference(port, process)
