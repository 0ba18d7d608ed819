"""Static files: what is served, what never is, and that no file stays open.

Rules of this file: the handler is called with exchanges made by hand and real files below tmp_path.
"""

from __future__ import annotations

import asyncio
import gzip
import os
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from gateway import errors
from gateway.clock import Clock
from gateway.config import model
from gateway.exchange import Exchange, Reply
from gateway.middleware import static
from gateway.tasks import spawn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BIG = bytes(range(256)) * 4096  # 1 MiB


class Site:
    """A root with files, and a handler for it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "www"
        self.root.mkdir()
        (folder / "secret.txt").write_text("secret")
        (folder / "www-other").mkdir()
        (folder / "www-other" / "secret.txt").write_text("secret")
        self.write("index.html", b"<p>home</p>")
        self.write("a.txt", b"0123456789")
        self.write("docs/index.html", b"docs")
        self.write("empty/x.css", b"")
        self.write(".env", b"secret")
        self.write(".git/config", b"secret")
        self.write(".well-known/security.txt", b"contact")
        self.write("big.bin", BIG)
        self.finish: list[Any] = []

    def write(self, name: str, data: bytes) -> None:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    def handler(self, **settings: Any) -> Any:
        rewrite = model.Rewrite.model_construct(**settings.pop("rewrite", {}))
        build: Any = SimpleNamespace(clock=Clock(), at_finish=[])
        chosen = model.Static.model_construct(root=str(self.root), **settings)
        route: Any = SimpleNamespace(policies=SimpleNamespace(rewrite=rewrite), answer=chosen)
        handler = static.answer(chosen, route, build)
        self.finish = build.at_finish
        return handler

    def end(self, exchange: Exchange) -> None:
        for finish in self.finish:
            finish(exchange)


def asked(target: str, method: str = "GET", **fields: str) -> Exchange:
    exchange = Exchange()
    named = [(name.replace("_", "-"), value) for name, value in fields.items()]
    exchange.headers = CIMultiDictProxy(CIMultiDict(named))
    exchange.method = method
    exchange.target = target
    exchange.path, _, exchange.query = target.partition("?")
    return exchange


def descriptors() -> set[str]:
    """Open descriptors of regular files."""
    found = set()
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - numbers, not paths
        with suppress(OSError):  # the descriptor of this very listing
            found.add(os.readlink(f"/dev/fd/{name}"))  # noqa: PTH115
    return {name for name in found if "/www/" in name or name.endswith("/www")}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    yield Site(tmp_path)
    assert descriptors() == set()


async def body_of(reply: Reply) -> bytes:
    if isinstance(reply.body, bytes):
        return reply.body
    blocks = [block async for block in reply.body.blocks()]
    assert reply.body.length == b"%d" % sum(map(len, blocks))
    return b"".join(blocks)


async def served(site: Site, exchange: Exchange, **settings: Any) -> tuple[Reply, bytes]:
    reply = await site.handler(**settings)(exchange)
    body = await body_of(reply)
    site.end(exchange)
    return reply, body


async def test_a_file_is_served_with_its_type_and_validators(site: Site) -> None:
    os.utime(site.root / "a.txt", ns=(0, 1_000_000_000_123))
    reply, body = await served(site, asked("/a.txt?v=2"), max_age=3600.0)
    assert (reply.status, body) == (200, b"0123456789")
    assert reply.get(b"content-type") == b"text/plain; charset=utf-8"
    assert reply.get(b"etag") == b'"e8d4a5107b-a"'
    assert reply.get(b"last-modified") == b"Thu, 01 Jan 1970 00:16:40 GMT"
    assert reply.get(b"cache-control") == b"max-age=3600"
    assert reply.get(b"accept-ranges") == b"bytes"
    assert reply.get(b"vary") is None
    reply, _ = await served(site, asked("/a.txt"))
    assert reply.get(b"cache-control") is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.html", b"text/html; charset=utf-8"),
        ("x.css", b"text/css; charset=utf-8"),
        ("x.mjs", b"text/javascript; charset=utf-8"),
        ("x.JS", b"text/javascript; charset=utf-8"),
        ("x.json", b"application/json"),
        ("x.svg", b"image/svg+xml"),
        ("x.woff2", b"font/woff2"),
        ("x.tar.gz", b"application/gzip"),
        ("x.txt.br", b"application/octet-stream"),
        ("x.unheard-of", b"application/octet-stream"),
        ("README", b"application/octet-stream"),
        ("dir.html/README", b"application/octet-stream"),
    ],
)
def test_the_type_comes_from_the_name(name: str, kind: bytes) -> None:
    assert static.media_type(name) == kind


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/", b"<p>home</p>"),
        ("/index.html", b"<p>home</p>"),
        ("/docs/", b"docs"),
        ("/%61.txt", b"0123456789"),
        ("/empty/x.css", b""),
        ("/.well-known/security.txt", b"contact"),
    ],
)
async def test_names_are_decoded_and_directories_have_an_index(
    site: Site, target: str, body: bytes
) -> None:
    assert (await served(site, asked(target)))[1] == body


async def test_a_name_outside_ascii_is_found(site: Site) -> None:
    site.write("käse 100%.txt", b"brie")
    assert (await served(site, asked("/k%C3%A4se%20100%25.txt")))[1] == b"brie"


async def test_a_directory_without_its_slash_is_redirected(site: Site) -> None:
    reply, _ = await served(site, asked("/docs?x=1"))
    assert (reply.status, reply.get(b"location")) == (308, b"/docs/?x=1")
    rewrite = {"strip_prefix": "/site"}
    reply, _ = await served(site, asked("/site/docs"), rewrite=rewrite)
    assert reply.get(b"location") == b"/site/docs/"
    assert (await served(site, asked("/site/docs/"), rewrite=rewrite))[1] == b"docs"
    with pytest.raises(errors.NotFound):  # nothing says that it is there
        await served(site, asked("/empty"))
    rewrite = {"path": "/docs"}
    with pytest.raises(errors.NotFound):
        await served(site, asked("//evil.example"), rewrite=rewrite)


ATTACKS = [
    "/../secret.txt", "/..%2fsecret.txt", "/%2e%2e/secret.txt", "/%2e%2e%2fsecret.txt",
    "/docs/../../secret.txt", "/docs/%2e%2e/%2e%2e/secret.txt", "/..%5csecret.txt",
    "/..\\secret.txt", "/docs/..", "/.", "/./a.txt", "/docs/./index.html", "//a.txt", "//", "/docs//",
    "/docs//index.html", "/%2fetc/passwd", "//etc/passwd", "/%00", "/a.txt%00", "/a.txt%00.html",
    "/%252e%252e/secret.txt", "/..%252fsecret.txt", "/..;/secret.txt", "/.env", "/%2eenv",
    "/.git/config", "/docs/.hidden", "/.well-known/../.env", "/.well-known/.env", "/a.txt/",
    "/a.txt/x", "/index.html/", "/docs/index.html/..", "/../www/a.txt", "/../www-other/secret.txt",
    "/%c0%ae%c0%ae/secret.txt", "/%u002e%u002e/secret.txt", "/link.txt", "/linkdir/secret.txt",
    "/loop", "/dangling", "/fifo", "/socket", "/" + "x" * 300, "/" + "x/" * 3000, "/%", "/%zz",
    "/a.txt%0a", "/a.txt%20", "*", "", "/docs%2f", "/docs%2findex.html", "/A.TXT",
]  # fmt: skip


@pytest.mark.parametrize("target", ATTACKS)
async def test_nothing_outside_the_root_or_hidden_is_ever_served(site: Site, target: str) -> None:
    (site.root / "link.txt").symlink_to(site.root.parent / "secret.txt")
    (site.root / "linkdir").symlink_to(site.root.parent / "www-other")
    (site.root / "loop").symlink_to(site.root / "loop")
    (site.root / "dangling").symlink_to(site.root / "nothing")
    os.mkfifo(site.root / "fifo")
    site.write(".well-known/.env", b"secret")
    with pytest.raises(errors.NotFound):
        await served(site, asked(target))


@given(st.text(alphabet="/.\\%2e5cfsecrt0wx-other", min_size=1, max_size=30))
def test_segments_never_climb(path: str) -> None:
    try:
        segments = static.segments_of("/" + path, dotfiles=True)
    except errors.NotFound:
        return
    assert ".." not in segments
    assert not any("/" in name or "\\" in name or "\0" in name for name in segments)


async def test_links_within_the_root_and_a_root_that_is_a_link_work(site: Site) -> None:
    (site.root / "alias.txt").symlink_to("a.txt")
    assert (await served(site, asked("/alias.txt")))[1] == b"0123456789"
    real = site.root.rename(site.root.with_name("release-1"))
    site.root.symlink_to(real)
    assert (await served(site, asked("/a.txt")))[1] == b"0123456789"


async def test_dotfiles_are_served_where_asked_for(site: Site) -> None:
    assert (await served(site, asked("/.git/config"), dotfiles=True))[1] == b"secret"
    with pytest.raises(errors.NotFound):
        await served(site, asked("/../secret.txt"), dotfiles=True)


async def test_what_may_not_be_read_is_missing_and_says_no_more(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(13, "denied")

    monkeypatch.setattr(static.os, "open", denied)
    with pytest.raises(errors.NotFound):
        await served(site, asked("/a.txt"))


async def test_a_machine_without_descriptors_is_an_error_and_no_missing_file(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(static.os, "open", full)
    with pytest.raises(errors.InternalError):
        await served(site, asked("/a.txt"))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_only_get_and_head_are_answered(site: Site, method: str) -> None:
    with pytest.raises(errors.MethodNotAllowed) as caught:
        await served(site, asked("/a.txt", method))
    assert caught.value.headers == (("Allow", "GET, HEAD"),)


async def test_head_says_what_get_would_and_holds_no_file(site: Site) -> None:
    for target, size in (("/a.txt", b"10"), ("/big.bin", b"%d" % len(BIG))):
        exchange = asked(target, "HEAD", Range="bytes=0-1")
        reply = await site.handler()(exchange)
        assert descriptors() == set()
        assert (reply.status, reply.body.length) == (200, size)
        assert reply.get(b"content-range") is None


async def test_a_large_file_comes_in_blocks(site: Site) -> None:
    exchange = asked("/big.bin")
    reply = await site.handler()(exchange)
    blocks = [block async for block in reply.body.blocks()]
    assert b"".join(blocks) == BIG
    assert len(blocks) > 1
    assert max(map(len, blocks)) <= static.BLOCK


@pytest.mark.parametrize(("name", "data"), [("a.txt", b"0123456789"), ("big.bin", BIG)])
async def test_a_range_is_206_with_its_place(site: Site, name: str, data: bytes) -> None:
    for value, first, last in (("2-4", 2, 4), ("-3", len(data) - 3, len(data) - 1)):
        reply, body = await served(site, asked(f"/{name}", Range=f"bytes={value}"))
        assert reply.status == 206
        assert body == data[first : last + 1]
        assert reply.get(b"content-range") == b"bytes %d-%d/%d" % (first, last, len(data))
    reply, body = await served(site, asked(f"/{name}", Range=f"bytes={len(data)}-"))
    assert (reply.status, body) == (416, b"")
    assert reply.get(b"content-range") == b"bytes */%d" % len(data)
    reply, body = await served(site, asked(f"/{name}", Range="bytes=0-1,3-4"))
    assert (reply.status, body) == (200, data)


async def test_if_range_with_an_old_tag_is_answered_with_all_of_it(site: Site) -> None:
    reply, _ = await served(site, asked("/a.txt"))
    tag = (reply.get(b"etag") or b"").decode()
    reply, _ = await served(site, asked("/a.txt", Range="bytes=0-1", If_Range=tag))
    assert reply.status == 206
    site.write("a.txt", b"changed entirely")
    reply, body = await served(site, asked("/a.txt", Range="bytes=0-1", If_Range=tag))
    assert (reply.status, body) == (200, b"changed entirely")


@pytest.mark.parametrize("name", ["a.txt", "big.bin"])
async def test_what_the_client_has_is_not_sent_again(site: Site, name: str) -> None:
    reply, _ = await served(site, asked(f"/{name}"), max_age=60.0)
    tag, date = ((reply.get(field) or b"").decode() for field in (b"etag", b"last-modified"))
    for fields in ({"If_None_Match": tag}, {"If_Modified_Since": date}):
        reply, body = await served(site, asked(f"/{name}", **fields), max_age=60.0)
        assert (reply.status, body) == (304, b"")
        assert (reply.get(b"etag") or b"").decode() == tag
        assert reply.get(b"cache-control") == b"max-age=60"
        assert reply.get(b"content-type") is None
    reply, body = await served(site, asked(f"/{name}", If_Match='"other"'))
    assert (reply.status, body) == (412, b"")


async def test_a_file_of_the_future_is_as_old_as_now(site: Site) -> None:
    os.utime(site.root / "a.txt", (2_000_000_000_0, 2_000_000_000_0))
    reply, _ = await served(site, asked("/a.txt"))
    assert b"2603" not in (reply.get(b"last-modified") or b"2603")


async def test_a_packed_variant_is_sent_to_those_that_take_it(site: Site) -> None:
    packed = gzip.compress(b"0123456789")
    site.write("a.txt.gz", packed)
    site.write("docs/index.html.br", b"br")
    settings: dict[str, Any] = {"precompressed": ("br", "gzip")}
    reply, body = await served(site, asked("/a.txt", Accept_Encoding="gzip, br"), **settings)
    assert body == packed
    assert reply.get(b"content-encoding") == b"gzip"
    assert reply.get(b"content-type") == b"text/plain; charset=utf-8"
    assert reply.get(b"vary") == b"Accept-Encoding"
    tag = reply.get(b"etag")
    reply, body = await served(site, asked("/a.txt"), **settings)
    assert body == b"0123456789"
    assert reply.get(b"content-encoding") is None
    assert reply.get(b"vary") == b"Accept-Encoding"
    assert reply.get(b"etag") != tag
    reply, body = await served(site, asked("/docs/", Accept_Encoding="br"), **settings)
    assert (body, reply.get(b"content-encoding")) == (b"br", b"br")
    reply, body = await served(site, asked("/a.txt", Accept_Encoding="gzip"))
    assert body == b"0123456789"


async def test_a_packed_variant_cannot_lead_out_of_the_root(site: Site) -> None:
    (site.root / "a.txt.gz").symlink_to(site.root.parent / "secret.txt")
    exchange = asked("/a.txt", Accept_Encoding="gzip")
    assert (await served(site, exchange, precompressed=("gzip",)))[1] == b"0123456789"


async def test_a_missing_page_is_answered_with_the_fallback(site: Site) -> None:
    settings = {"fallback": "/index.html"}
    for target in ("/app/route", "/empty/", "/docs/none"):
        reply, body = await served(site, asked(target, Accept="text/html"), **settings)
        assert (reply.status, body) == (200, b"<p>home</p>")
        assert reply.get(b"content-type") == b"text/html; charset=utf-8"
    for target, accept in (("/app/route", "application/json"), ("/app.js", "*/*")):
        with pytest.raises(errors.NotFound):
            await served(site, asked(target, Accept=accept), **settings)
    with pytest.raises(errors.NotFound):
        await served(site, asked("/app/route", Accept="text/html"))


async def test_without_an_index_a_directory_is_missing(site: Site) -> None:
    for target in ("/", "/docs/", "/docs"):
        with pytest.raises(errors.NotFound):
            await served(site, asked(target), index=None)


async def test_a_file_that_shrinks_while_it_is_sent_breaks_the_reply(site: Site) -> None:
    exchange = asked("/big.bin")
    reply = await site.handler()(exchange)
    sent = 0
    with pytest.raises(errors.InternalError):  # noqa: PT012
        async for block in reply.body.blocks():
            sent += len(block)
            os.truncate(site.root / "big.bin", 1000)
    assert sent < len(BIG)


async def test_a_file_that_is_replaced_while_it_is_sent_is_sent_as_it_was(site: Site) -> None:
    exchange = asked("/big.bin")
    reply = await site.handler()(exchange)
    (site.root / "new").write_bytes(b"new")
    (site.root / "new").rename(site.root / "big.bin")
    assert await body_of(reply) == BIG


async def test_a_file_is_closed_when_the_exchange_ends_before_it_was_sent(site: Site) -> None:
    exchange = asked("/big.bin")
    await site.handler()(exchange)
    assert len(descriptors()) == 1
    site.end(exchange)
    assert descriptors() == set()


async def test_a_file_is_closed_when_the_client_leaves_midway(site: Site) -> None:
    exchange = asked("/big.bin")
    reply = await site.handler()(exchange)
    blocks = reply.body.blocks()
    await anext(blocks)
    await blocks.aclose()
    assert descriptors() == set()
    site.end(exchange)


async def test_a_file_that_is_opened_for_a_client_that_has_left_is_closed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    gate = threading.Event()
    opened = threading.Event()
    plain = os.open

    def slow(path: Any, flags: int) -> int:
        gate.wait(5)
        descriptor = plain(path, flags)
        opened.set()
        return descriptor

    handler = site.handler()
    monkeypatch.setattr(static.os, "open", slow)
    task = spawn(handler(asked("/big.bin")), "handler")
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()
    assert await asyncio.to_thread(opened.wait, 5)
    for _ in range(200):
        if not descriptors():
            break
        await asyncio.sleep(0.01)
    assert descriptors() == set()


# ── over a socket ──


@pytest.fixture
async def connection(site: Site, gateway: Any, raw: Any) -> Any:
    """A client of a gateway that serves the site."""
    route = {
        "name": "site",
        "path": "/*",
        "static": {"root": str(site.root), "max_age": "1h", "fallback": "/index.html"},
        "headers": {"response": {"set": {"X-Edited": "yes"}}},
    }
    return await raw(await gateway({"routes": [route]}))


def line(target: str, *fields: str, method: str = "GET") -> bytes:
    head = [f"{method} {target} HTTP/1.1", "Host: www.example.com", *fields, "", ""]
    return "\r\n".join(head).encode()


async def test_files_are_served_over_a_connection_that_stays(connection: Any) -> None:
    message = await connection.ask(line("/a.txt"))
    assert (message.status, message.body) == (200, b"0123456789")
    assert message.all("content-type") == [b"text/plain; charset=utf-8"]
    assert message.all("cache-control") == [b"max-age=3600"]
    assert message.all("x-edited") == [b"yes"]
    assert len(message.all("date")) == 1
    (tag,) = message.all("etag")
    message = await connection.ask(line("/a.txt", f"If-None-Match: {tag.decode()}"))
    assert (message.status, message.body) == (304, b"")
    message = await connection.ask(line("/big.bin"))
    assert (message.status, message.body) == (200, BIG)
    message = await connection.ask(line("/big.bin", "Range: bytes=1000000-"))
    assert (message.status, message.body) == (206, BIG[1_000_000:])
    message = await connection.ask(line("/big.bin", method="HEAD"), method="HEAD")
    assert message.all("content-length") == [b"%d" % len(BIG)]
    message = await connection.ask(line("/a.txt", method="HEAD"), method="HEAD")
    assert message.all("content-length") == [b"10"]
    message = await connection.ask(line("/big.bin", "Range: bytes=9999999-"))
    assert message.all("content-range") == [b"bytes */%d" % len(BIG)]
    message = await connection.ask(line("/docs"))
    assert (message.status, message.all("location")) == (308, [b"/docs/"])
    message = await connection.ask(line("/app/route", "Accept: text/html"))
    assert (message.status, message.body) == (200, b"<p>home</p>")
    message = await connection.ask(line("/a.txt", "Content-Length: 0", method="POST"))
    assert (message.status, message.all("allow")) == (405, [b"GET, HEAD"])
    message = await connection.ask(line("/none.js"))
    assert (message.status, b"not_found" in message.body) == (404, True)


@pytest.mark.parametrize("target", [one for one in ATTACKS if one.startswith("/")])
async def test_no_attack_gets_a_secret_over_a_connection(connection: Any, target: str) -> None:
    message = await connection.ask(line(target.replace("\\", "%5C"), "Accept: text/plain"))
    assert message.status in (400, 404)
    assert b"secret" not in message.body


async def test_a_client_that_leaves_midway_leaves_no_file_open(
    site: Site, connection: Any, gateway: Any
) -> None:
    site.write("huge.bin", BIG * 32)
    await connection.send(line("/huge.bin"))
    await connection.head()
    assert len(descriptors()) == 1
    connection.close()
    for _ in range(300):
        if not descriptors():
            break
        await asyncio.sleep(0.01)
    assert descriptors() == set()


async def test_a_client_sees_that_a_file_was_cut(site: Site, connection: Any) -> None:
    site.write("huge.bin", BIG * 64)
    await connection.send(line("/huge.bin"))
    head = await connection.head()
    os.truncate(site.root / "huge.bin", 10)
    body = await connection.rest()
    assert len(body) < int(head.get("content-length"))
