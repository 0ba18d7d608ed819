"""The aiohttp proxy of every tutorial: what all ratios are relative to. `python -m tests.bench.naive PORT ORIGIN_PORT`."""

from __future__ import annotations

import sys

import uvloop
from aiohttp import ClientSession, web

HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host"}


async def handle(request: web.Request) -> web.StreamResponse:
    """Forward one request with the public API of aiohttp."""
    kept = [(k, v) for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP]
    body = request.content if request.body_exists else None
    session = request.app["session"]
    async with session.request(
        request.method,
        request.app["origin"] + request.path_qs,
        headers=kept,
        data=body,
        allow_redirects=False,
    ) as answer:
        fields = [(k, v) for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP]
        reply = web.StreamResponse(status=answer.status)
        reply.headers.extend(fields)
        await reply.prepare(request)
        async for chunk in answer.content.iter_any():
            await reply.write(chunk)
        await reply.write_eof()
        return reply


async def application(origin: int) -> web.Application:
    """The application, with one session for all requests."""
    app = web.Application(client_max_size=1 << 30)
    app["origin"] = f"http://127.0.0.1:{origin}"
    app["session"] = ClientSession(auto_decompress=False)
    app.router.add_route("*", "/{path:.*}", handle)

    async def close(app: web.Application) -> None:
        await app["session"].close()

    app.on_cleanup.append(close)
    return app


if __name__ == "__main__":
    uvloop.install()
    web.run_app(
        application(int(sys.argv[2])),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=None,
        print=None,
    )
