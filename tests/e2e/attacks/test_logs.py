"""Credentials in requests that come to nothing: whatever is wrong with a request, no log has what it bore."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.auth.keykit import digest, keys_file

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin

END = b" HTTP/1.1\r\nHost: a.test\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /?sig=S3CRET" + END,
        b"GET /?x=1&s%69g=S3CRET" + END,
        b"GET /?sig=S3CRET#x" + END,
        b"TRACE /?sig=S3CRET" + END,
        b"CONNECT /?sig=S3CRET" + END,
        b"OPTIONS foo?sig=S3CRET" + END,
        b"GET foo?sig=S3CRET" + END,
        b"GET http:///?sig=S3CRET" + END,
        b"GET http://ann:S3CRET@h/?sig=S3CRET" + END,
        b"GET http://h/?sig=S3CRET" + END,
        b"GET /?sig=S3CRET HTTP/1.1\r\n\r\n",
        b"GET /?sig=S3CRET HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET /?sig=S3CRET HTTP/3.0\r\nHost: a.test\r\n\r\n",
        b"GET /?sig=S3CRET HTTP/1.1\r\nHost: a.test\r\nReferer: http://a.test/?sig=S3CRET\r\n\r\n",
        b"GET /?sig=S3CRET HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nAuthorization : Bearer S3CRET\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer\0S3CRET\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer\0\"S3CRET'\r\n\r\n",
        b"G@T /?sig=S3CRET" + END,
    ],
)
async def test_a_head_that_is_refused_leaves_no_credential_in_the_log(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, tmp_path: Path, head: bytes
) -> None:
    up = await origin()
    keys = keys_file(tmp_path, f'id: k1, sha256: "{digest("gw_0123456789")}", consumer: acme')
    running = await gateway(
        up,
        route={"auth": "k"},
        auth={"k": {"api_key": {"keys_file": keys, "query": "sig"}}},
        errors={"expose_reason": True},
    )
    client = await raw(running)
    answer = await client.ask(head)
    assert answer.status >= 400
    [line] = await running.log()
    assert "S3CRET" not in json.dumps(line)
    assert "?" not in line["path"]
    assert b"S3CRET" not in answer.raw
    assert up.requests == []


@pytest.mark.parametrize(
    "broken",
    [
        b"HTTP/1.1 200 OK\r\nSet-Cookie: sid=S3CRET\0\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nSet-Cookie : sid=S3CRET\rX: y\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nS3CRET\r\n",
    ],
)
async def test_nor_does_an_answer_that_is_broken(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, broken: bytes
) -> None:
    up = await origin(broken)
    running = await gateway(up, errors={"expose_reason": True})
    client = await raw(running)
    told = (await client.ask(b"GET /" + END)).raw
    [line] = await running.log()
    assert line["reason"].startswith("upstream_")
    assert line["detail"]
    assert "S3CRET" not in json.dumps(line)
    assert b"S3CRET" not in told
