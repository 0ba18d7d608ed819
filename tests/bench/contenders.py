"""The proxies that are measured: each is a command that listens on PROXY and forwards to ORIGIN, on one core.

Rules of this file: every contender has keep-alive to the origin, no access log, and forwards the client's address; nothing
else is asked of it. A program that is not installed is left out by name, never replaced.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

ORIGIN, PROXY = 9100, 9110
_NGINX_PATHS = " ".join(
    f"{kind}_temp_path {{work}}/{{name}}-{kind};"
    for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)
_BARE = f"""\
listeners: [{{bind: "127.0.0.1:{PROXY}"}}]
admin: off
routes:
  - path: /*
    to: http://127.0.0.1:{ORIGIN}
    access_log: off
    body: unlimited
"""


def naive(_: Path) -> list[str]:
    """The baseline."""
    return [sys.executable, "-m", "tests.bench.naive", str(PROXY), str(ORIGIN)]


def gateway(work: Path) -> list[str]:
    """This gateway on the smallest configuration."""
    return _gateway(work, _BARE)


def production(work: Path) -> list[str]:
    """This gateway with a thousand routes, a JSON access log and all that is on by default."""
    others = "".join(
        f"  - {{name: r{n}, path: /service{n}/items/*, to: main, methods: [GET, POST]}}\n"
        for n in range(1000)
    )
    text = (
        f'listeners: [{{bind: "127.0.0.1:{PROXY}"}}]\nadmin: off\n'
        "server: {forwarded: both}\n"
        f"observability: {{access_log: {{format: json, file: {work}/access.log}}}}\n"
        f"upstreams:\n  main: {{targets: ['http://127.0.0.1:{ORIGIN}']}}\n"
        "defaults:\n  timeouts: {total: 60s}\n  body: unlimited\n"
        "routes:\n"
        "  - {name: all, path: /*, to: main, headers: {response: {remove: [X-Powered-By]}}}\n"
        + others
    )
    return _gateway(work, text)


def _gateway(work: Path, text: str) -> list[str]:
    file = work / "gateway.yaml"
    file.write_text(text)
    return [sys.executable, "-m", "gateway", "run", "-c", str(file)]


def nginx(work: Path) -> list[str]:
    """One worker of nginx."""
    return nginx_with(
        work,
        "proxy",
        f"proxy_request_buffering off; proxy_max_temp_file_size 0; upstream o {{ server 127.0.0.1:{ORIGIN}; keepalive 512;"
        f" keepalive_requests 100000000; }} server {{ listen 127.0.0.1:{PROXY} backlog=4096; location / {{"
        ' proxy_pass http://o; proxy_http_version 1.1; proxy_set_header Connection "";'
        " proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; } }",
    )


def nginx_with(work: Path, name: str, http: str) -> list[str]:
    """An nginx of one worker with what `http` says."""
    file = work / f"{name}.conf"
    paths = _NGINX_PATHS.format(work=work, name=name)
    file.write_text(
        f"worker_processes 1; daemon off; pid {work}/{name}.pid; error_log {work}/{name}.err; user root;\n"
        "events { worker_connections 8192; }\n"
        "http { access_log off; keepalive_requests 100000000; keepalive_timeout 300s; sendfile on;"
        f" client_max_body_size 0; client_body_buffer_size 16m; {paths} {http} }}\n"
    )
    return [_found("nginx"), "-c", str(file)]


def haproxy(work: Path) -> list[str]:
    """One thread of HAProxy."""
    file = work / "haproxy.cfg"
    file.write_text(
        "global\n nbthread 1\n maxconn 8192\ndefaults\n mode http\n timeout client 60s\n timeout server 60s\n"
        " timeout connect 5s\n option http-keep-alive\n http-reuse always\n"
        f"frontend f\n bind 127.0.0.1:{PROXY}\n default_backend o\n"
        f"backend o\n option forwardfor\n server s 127.0.0.1:{ORIGIN} pool-max-conn 512\n"
    )
    return [_found("haproxy"), "-f", str(file)]


def caddy(work: Path) -> list[str]:
    """Caddy on one processor."""
    beside = Path(sys.executable).with_name("caddy")
    program = str(beside) if beside.exists() else _found("caddy")
    file = work / "Caddyfile"
    file.write_text(
        "{\n admin off\n auto_https off\n}\n"
        f"http://127.0.0.1:{PROXY} {{\n bind 127.0.0.1\n reverse_proxy 127.0.0.1:{ORIGIN}\n}}\n"
    )
    return ["env", "GOMAXPROCS=1", program, "run", "--config", str(file), "--adapter", "caddyfile"]


def fast_proxy(work: Path) -> list[str]:
    """Node's fast-proxy, where `npm install --prefix DIR fast-proxy` has put it and FAST_PROXY names DIR."""
    home = os.environ.get("FAST_PROXY", "")
    if not (Path(home) / "node_modules/fast-proxy").is_dir() or not home:
        raise FileNotFoundError("fast-proxy")
    file = work / "proxy.js"
    file.write_text(
        f"const {{ proxy }} = require({str(Path(home).resolve())!r} + '/node_modules/fast-proxy')"
        f"({{ base: 'http://127.0.0.1:{ORIGIN}' }})\n"
        f"require('http').createServer((q, s) => proxy(q, s, q.url, {{}})).listen({PROXY}, '127.0.0.1')\n"
    )
    return [_found("node"), str(file)]


def _found(program: str) -> str:
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        raise FileNotFoundError(program)
    return path


ALL = {
    "naive": naive,
    "gateway": gateway,
    "gateway, 1000 routes, log": production,
    "nginx": nginx,
    "haproxy": haproxy,
    "caddy": caddy,
    "fast-proxy": fast_proxy,
}
