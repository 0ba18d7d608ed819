"""What a head is refused for by itself: the same answer in a rehearsal as on a connection."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway import errors, refusals
from gateway.config import load_dict
from gateway.explain import explain
from gateway.rehearsal import Rehearsal
from tests.kit.running import document

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeClient, MakeGateway

Fields = tuple[tuple[str, str], ...]

LIMITS = {"request_line": "99B", "request_head": "1024B", "headers": 5}
CONFIG: dict[str, Any] = {
    "server": {"limits": LIMITS},
    "routes": [{"name": "all", "path": "/*", "respond": {"status": 200, "body": "ok"}}],
}


@dataclass
class Head:
    """A head that a client may send."""

    method: str = "GET"
    target: str = "/"
    fields: Fields = ()
    host: str | None = "a.example"

    @property
    def wire(self) -> bytes:
        """As sent; a chunked body follows if it is announced."""
        lines = [f"{self.method} {self.target} HTTP/1.1"]
        if self.host is not None:
            lines.append(f"Host: {self.host}")
        lines += [f"{name}: {value}" for name, value in self.fields]
        return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()

    def __str__(self) -> str:
        return ascii(self.wire.decode())[:60]


def fields(*pairs: tuple[str, str], method: str = "POST") -> Head:
    return Head(method, fields=pairs)


CODINGS = (
    "chunked", "Chunked", "", "gzip", "gzip, chunked", "chunked, gzip", "chunked, chunked",
    "identity", "xchunked",
)  # fmt: skip
LENGTHS = ("0", "00", "+1", "-1", "1,1", "1, 1", "a", "", "1_0", "9" * 19, "9" * 25)
HOSTS = (
    "", "a b", "a,b", "a:65535", "a:65536", "a:", "a:x", "ä", "[::1]", "[::1]:8", "[x]", "a/b", "u@a",
    "a..b", "-", "a_b", "~", "*", "a.", ".a", "a'b",
)  # fmt: skip
METHODS = (
    # All that llhttp knows.
    "DELETE", "GET", "HEAD", "POST", "PUT", "CONNECT", "OPTIONS", "TRACE", "COPY", "LOCK", "MKCOL", "MOVE",
    "PROPFIND", "PROPPATCH", "SEARCH", "UNLOCK", "BIND", "REBIND", "UNBIND", "ACL", "REPORT", "MKACTIVITY",
    "CHECKOUT", "MERGE", "M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE", "PATCH", "PURGE", "MKCALENDAR",
    "LINK", "UNLINK", "SOURCE", "PRI", "DESCRIBE", "ANNOUNCE", "SETUP", "PLAY", "PAUSE", "TEARDOWN",
    "GET_PARAMETER", "SET_PARAMETER", "REDIRECT", "RECORD", "FLUSH", "QUERY",
    # And what nobody knows.
    "FOO", "get", "X-Y", "F_O", "F!O", "POSTS",
)  # fmt: skip
NAMES = (
    "Content-Location", "Content-Range", "Content-Type", "ETag", "Max-Forwards", "Server", "User-Agent",
    "Location", "Expect", "Upgrade", "Connection", "Cookie", "Accept", "Authorization", "Via", "Origin",
)  # fmt: skip
HEADS = [
    *(fields(("Transfer-Encoding", coding)) for coding in CODINGS),
    *(fields(("Content-Length", length)) for length in LENGTHS),
    fields(("Content-Length", "0"), ("Content-Length", "0")),
    fields(("Content-Length", "0"), ("Content-Length", "1")),
    fields(("Content-Length", "0"), ("Transfer-Encoding", "chunked")),
    fields(("Transfer-Encoding", "chunked"), ("Content-Length", "0")),
    fields(("Transfer-Encoding", "gzip"), ("Transfer-Encoding", "chunked")),
    fields(("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")),
    *(Head(host=host) for host in HOSTS),
    *(Head(method) for method in METHODS),
    *(fields((name, "1"), (name.lower(), "1"), method="GET") for name in NAMES),
    fields(("host", "a.example"), method="GET"),
    *(Head(target="/" + "a" * (length - 1)) for length in (99, 100, 101)),
    *(fields(*(("X", "1"),) * count, method="GET") for count in (4, 5)),
    *(fields(("X", "a" * (1024 - 43 + more)), method="GET") for more in (0, 1)),
    *(fields(("X", "a" * 500), ("Y", "a" * (519 - 43 + more))) for more in (0, 1)),
    *(fields(("Max-Forwards", hops), method="OPTIONS") for hops in ("0", "00", "1", "a", "")),
    fields(("Max-Forwards", "0"), method="GET"),
]


def rehearsed(head: Head, config: dict[str, Any]) -> tuple[int, str]:
    """Status and reason word that a rehearsal says."""
    rehearsal = Rehearsal(load_dict(config))
    given = head.fields if head.host is None else (("Host", head.host), *head.fields)
    refusal = rehearsal.ask(head.method, f"http://a.example{head.target}", given).refusal
    if isinstance(refusal, errors.GatewayError):
        return refusal.status, refusal.reason
    return (200, "-") if refusal is None else (refusal.status, "-")


async def test_a_rehearsal_refuses_what_a_connection_is_refused_for_and_nothing_else(
    gateway: MakeGateway, raw: MakeClient, tmp_path: Path
) -> None:
    config = document(CONFIG, tmp_path / "log")
    running = await gateway(CONFIG)
    different = []
    for head in HEADS:
        client = await raw(running)
        end = b"0\r\n\r\n" if b"ransfer-encoding: chunked" in head.wire.lower() else b""
        answer = await client.ask(head.wire + end, method=head.method)
        said = json.loads(answer.body)["reason"] if answer.body.startswith(b"{") else "-"
        told = rehearsed(head, config)
        if told != (answer.status, said):
            different.append(f"{head}: rehearsal {told}, connection {(answer.status, said)}")
        client.close()
    assert different == []


def test_every_kind_of_refusal_is_among_those_that_are_compared(tmp_path: Path) -> None:
    config = document(CONFIG, tmp_path / "log")
    found = {rehearsed(head, config) for head in HEADS}
    assert found == {
        (200, "-"),
        (204, "-"),
        (400, "bad_request"),
        (405, "method_not_allowed"),
        (414, "uri_too_long"),
        (431, "head_too_large"),
        (501, "not_implemented"),
    }


def test_explain_says_what_a_head_is_refused_for() -> None:
    config = load_dict(CONFIG)
    told = explain(config, "TRACE", "http://a.example/")
    assert not told.matched
    assert told.error is not None
    assert (told.error["status"], told.error["headers"]) == (405, [["Allow", refusals.FORWARDABLE]])
    assert "✗ 405 method_not_allowed: TRACE is never forwarded" in told.text()
    told = explain(config, "GET", "http://a.example/", [("Host", "a b")])
    assert "✗ 400 bad_request: the Host field is not a host" in told.text()


def test_explain_says_that_an_options_goes_no_further() -> None:
    told = explain(load_dict(CONFIG), "OPTIONS", "http://a.example/", [("Max-Forwards", "0")])
    assert told.answer == {"kind": "options", "status": 204, "allow": refusals.FORWARDABLE}
    assert "→ 204, Allow: GET, HEAD" in told.text()


def test_explain_knows_a_body_that_says_it_is_too_large() -> None:
    config = load_dict({"routes": [{"path": "/*", "body": "4B", "to": "http://a.example"}]})
    told = explain(config, "POST", "http://a.example/", [("Content-Length", "5")])
    assert told.matched
    assert told.error is not None
    assert (told.error["status"], told.error["reason"]) == (413, "body_too_large")
    assert explain(config, "POST", "http://a.example/", [("Content-Length", "4")]).error is None


async def test_the_log_of_a_refusal_names_the_host_that_was_asked(
    gateway: MakeGateway, raw: MakeClient
) -> None:
    running = await gateway(CONFIG)
    heads = [
        Head("TRACE"),
        Head("CONNECT"),
        fields(("X", "a" * 490), ("Y", "a" * 490)),
        Head(host="a b"),
    ]
    for head in heads:
        client = await raw(running)
        await client.ask(head.wire, method=head.method)
        client.close()
    lines = await running.log(len(heads))
    assert [line["host"] for line in lines] == [*["a.example"] * 3, None]
