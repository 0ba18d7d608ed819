"""Routing over real sockets: what reaches an upstream, and what never does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.conftest import MakeClient, MakeGateway, MakeOrigin


def get(target: str, *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join((f"{method} {target} HTTP/1.1", "Host: h.test", *fields, "", "")).encode()


def routes(url: str) -> list[dict[str, Any]]:
    return [
        {"name": "open", "path": "/*", "to": url},
        {"name": "admin", "path": "/admin/*", "respond": {"status": 403}},
        {
            "name": "user",
            "path": "/users/{id}",
            "to": url,
            "rewrite": {"path": "/v2/{path.id}", "query": {"set": {"u": "{path.id}"}}},
        },
        {"name": "put", "path": "/things", "methods": ["GET", "PUT"], "to": url},
        {
            "name": "file",
            "path": "/files/{rest...}",
            "to": url,
            "rewrite": {"path": "/public/{path.rest}"},
        },
        {"name": "tenant", "path": "/t", "to": url, "rewrite": {"path": "/{header.x-tenant}/home"}},
    ]


@pytest.mark.parametrize(
    "spelling",
    ["/x/../admin/a", "/%2561dmin/a", "/x/..;/admin", "/admin%2Fa", "//admin", "/x/..%5cadmin"],
)
async def test_reject_answers_400_and_the_upstream_hears_nothing(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, spelling: str
) -> None:
    up = await origin()
    client = await raw(await gateway({"routes": routes(up.url)}))
    got = await client.ask(get(spelling))
    assert got.status == 400
    assert b"bad_request" in got.body
    assert up.requests == []


@pytest.mark.parametrize(
    "spelling", ["/x/../admin/a", "/%61dmin%2Fa", "/admin%2Fa", "//admin", "/x/..%5cadmin"]
)
async def test_resolve_gives_the_request_to_the_route_of_the_resolved_path(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, spelling: str
) -> None:
    up = await origin()
    client = await raw(
        await gateway({"routes": routes(up.url)}, server={"ambiguous_paths": "resolve"})
    )
    assert (await client.ask(get(spelling))).status == 403
    assert up.requests == []


async def test_resolve_forwards_the_form_that_it_matched(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(
        await gateway({"routes": routes(up.url)}, server={"ambiguous_paths": "resolve"})
    )
    assert (await client.ask(get("/admin/../x%2Fy?q=%2E"))).status == 200
    assert up.only.target == b"/x/y?q=%2E"


async def test_keep_forwards_what_came(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(
        await gateway({"routes": routes(up.url)}, server={"ambiguous_paths": "keep"})
    )
    assert (await client.ask(get("/x/../admin/a"))).status == 200
    assert up.only.target == b"/x/../admin/a"


@pytest.mark.parametrize(
    "request_",
    [
        get("/files/a/../../secret"),
        get("/files/..%2f..%2fsecret"),
        get("/files/a/..;/x"),
        get("/t", "X-Tenant: .."),
        get("/t", "X-Tenant: %2e%2e"),
    ],
)
async def test_a_rewritten_path_never_climbs(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, request_: bytes
) -> None:
    up = await origin()
    client = await raw(await gateway({"routes": routes(up.url)}))
    assert (await client.ask(request_)).status == 400
    assert up.requests == []


@pytest.mark.parametrize(
    "target",
    ["/../other/x", "/a/../../other", "/%2e%2e/other", "/..%2fother", "/..%5Cother", "/..;/other"],
)
async def test_nobody_climbs_out_of_the_path_of_a_targets_url(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient, target: str
) -> None:
    up = await origin()
    one = {"name": "all", "path": "/*", "to": f"{up.url}/tenant"}
    client = await raw(await gateway({"routes": [one]}))
    assert (await client.ask(get("/x..y/.z?q=/../"))).status == 200
    assert up.only.target == b"/tenant/x..y/.z?q=/../"
    assert (await client.ask(get(target))).status == 400
    assert len(up.requests) == 1


async def test_a_capture_is_one_segment_and_one_parameter(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin()
    client = await raw(await gateway({"routes": routes(up.url)}))
    assert (await client.ask(get("/users/1&admin=1?a=%2f&u=2"))).status == 200
    assert up.only.target == b"/v2/1&admin=1?a=%2f&u=1%26admin%3D1"


async def test_405_lists_the_methods_and_a_head_goes_where_get_goes(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    up = await origin(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    table = [one for one in routes(up.url) if one["name"] == "put"]
    client = await raw(await gateway({"routes": table}))
    got = await client.ask(get("/things", method="DELETE"))
    assert got.status == 405
    assert got.get(b"Allow") == b"GET, HEAD, PUT"
    assert (await client.ask(get("/things", method="HEAD"), method="HEAD")).status == 200
    assert up.only.method == b"HEAD"
