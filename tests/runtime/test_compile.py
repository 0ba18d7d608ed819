"""From a configuration to a snapshot, without a loop and without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trustme

from gateway.clock import Clock
from gateway.config import load_dict, model
from gateway.exchange import Exchange, Reply
from gateway.observe.metrics import Metrics
from gateway.proxy import Forward
from gateway.runtime import compile as compiler
from gateway.runtime.resources import Resources

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.runtime.resources import Claims
    from gateway.snapshot import Route, Snapshot

UP = "http://127.0.0.1:9"


def compiled(claims: Claims, **sections: Any) -> Snapshot:
    written = {"observability": {"access_log": "off"}, **sections}
    return compiler.snapshot(load_dict(written), claims, Metrics(model.Metrics()), Clock())


def snapshot_of(**sections: Any) -> Snapshot:
    return compiled(Resources().begin(1), **sections)


def route_of(snapshot: Snapshot, name: str) -> Route:
    return next(entry.value for entry in snapshot.router.entries if entry.value.name == name)


def test_a_layer_that_a_route_does_not_want_costs_it_nothing() -> None:
    snapshot = snapshot_of(
        defaults={"body": {"max": "unlimited"}},
        routes=[
            {"name": "plain", "path": "/a", "to": UP},
            {"name": "timed", "path": "/b", "to": UP, "timeouts": {"total": "1s"}},
            {"name": "bounded", "path": "/c", "to": UP, "body": {"max": "1KiB"}},
        ],
    )
    assert route_of(snapshot, "plain").stack == ("metrics", "forward")
    assert route_of(snapshot, "timed").stack == ("metrics", "timeout", "forward")
    assert route_of(snapshot, "bounded").stack[0] == "metrics"
    assert "body_limit" in route_of(snapshot, "bounded").stack


def test_only_a_split_whose_upstreams_say_different_things_is_compiled_for_each_branch() -> None:
    def upstream(**settings: Any) -> dict[str, Any]:
        return {"targets": [UP], **settings}

    def split(*names: str) -> list[dict[str, Any]]:
        return [{"upstream": name, "weight": 1} for name in names]

    snapshot = snapshot_of(
        defaults={"body": {"max": "unlimited"}},
        upstreams={
            "a": upstream(),
            "b": upstream(),
            "timed": upstream(timeouts={"total": "1s"}),
            "slow": upstream(timeouts={"total": "9s"}),
        },
        routes=[
            {"name": "to", "path": "/a", "to": "timed"},
            {"name": "alike", "path": "/b", "split": split("a", "b")},
            {"name": "apart", "path": "/c", "split": split("a", "timed")},
            {"name": "both", "path": "/d", "split": split("slow", "timed")},
        ],
    )
    assert route_of(snapshot, "to").stack == ("metrics", "timeout", "forward")
    assert route_of(snapshot, "alike").stack == ("metrics", "forward")
    assert route_of(snapshot, "apart").stack == ("metrics", "split", "timeout", "forward")
    assert route_of(snapshot, "both").stack == ("metrics", "split", "timeout", "forward")


def test_each_kind_of_answer_is_compiled(tmp_path: Path) -> None:
    snapshot = snapshot_of(
        routes=[
            {"name": "forward", "path": "/a", "to": UP},
            {"name": "static", "path": "/b/*", "static": {"root": str(tmp_path)}},
            {"name": "redirect", "path": "/c", "redirect": {"to": "https://example.com/"}},
            {"name": "respond", "path": "/d", "respond": {"status": 204}},
        ]
    )
    for name in ("forward", "static", "redirect", "respond"):
        route = route_of(snapshot, name)
        assert route.stack[-1] == name
        assert route.config is not None
        assert route.config.name == name


def test_routes_with_equal_error_settings_share_their_pages() -> None:
    snapshot = snapshot_of(
        errors={"expose_reason": True},
        routes=[
            {"name": "a", "path": "/a", "to": UP},
            {"name": "b", "path": "/b", "to": UP},
            {"name": "c", "path": "/c", "to": UP, "errors": {"intercept": [502]}},
        ],
    )
    a, b, c = (route_of(snapshot, name) for name in "abc")
    assert a.pages is b.pages
    assert a.pages is snapshot.unmatched.pages
    assert a.pages is not c.pages
    assert c.pages.intercepts == {502}


async def test_the_stand_in_answers_what_was_decided_and_is_counted() -> None:
    claims = Resources().begin(1)
    metrics = Metrics(model.Metrics())
    loaded = load_dict({"observability": {"access_log": "off"}, "routes": []})
    unmatched = compiler.snapshot(loaded, claims, metrics, Clock()).unmatched
    assert (unmatched.name, unmatched.config) == ("_none", None)
    exchange = Exchange()
    exchange.method, exchange.began = "OPTIONS", 0.0
    exchange.refusal = Reply(204, [])
    assert await unmatched.handler(exchange) is exchange.refusal
    exchange.status = 204
    for finish in unmatched.at_finish:
        finish(exchange)
    assert metrics.route("_none").cells["OPTIONS", 204, "gateway"].count == 1


def test_what_else_is_to_be_called_at_the_end_is_called_for_every_route() -> None:
    seen: list[Exchange] = []
    loaded = load_dict(
        {"observability": {"access_log": "off"}, "routes": [{"name": "a", "path": "/a", "to": UP}]}
    )
    snapshot = compiler.snapshot(
        loaded, Resources().begin(1), Metrics(model.Metrics()), Clock(), (seen.append,)
    )
    assert seen.append in route_of(snapshot, "a").at_finish
    assert seen.append in snapshot.unmatched.at_finish


def test_an_upstream_is_the_same_object_and_takes_its_settings_at_the_commit_only() -> None:
    resources = Resources()
    routes = [{"name": "a", "path": "/a", "to": "up"}]

    def upstream(generation: int, *targets: str) -> tuple[Claims, Any]:
        claims = resources.begin(generation)
        compiled(claims, routes=routes, upstreams={"up": {"targets": list(targets)}})
        return claims, claims.claim("upstream", "up", lambda: None)

    claims, first = upstream(1, UP)
    claims.commit()
    (kept,) = first.targets
    claims, second = upstream(2, "http://127.0.0.1:8", UP)
    assert second is first
    assert first.targets == (kept,), "a compilation has changed what serves"
    claims.commit()
    assert [target.name for target in first.targets] == ["127.0.0.1:8", "127.0.0.1:9"]
    assert first.targets[1] is kept


def test_equal_settings_of_server_and_log_keep_what_was_made_of_them(tmp_path: Path) -> None:
    resources = Resources()
    routes = [{"name": "a", "path": "/a", "to": UP}]
    first = resources.begin(1)
    one = compiled(first, routes=routes)
    first.commit()
    again = compiled(resources.begin(2), routes=routes)
    renamed = compiled(resources.begin(3), routes=routes, server={"name": "edge"})
    assert one.clients is again.clients
    assert one.clients is not renamed.clients


def test_only_listeners_that_ask_for_it_redirect_to_https() -> None:
    snapshot = snapshot_of(
        routes=[{"name": "a", "host": "example.com", "path": "/*", "to": UP}],
        listeners=[
            {"name": "plain", "bind": "127.0.0.1:8080"},
            {"name": "old", "bind": "127.0.0.1:8081", "redirect_to_https": True},
        ],
    )
    assert list(snapshot.redirects) == ["old"]


@pytest.mark.parametrize("broken", ["page", "authority"])
def test_a_file_that_can_not_be_read_fails_the_compilation(tmp_path: Path, broken: str) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    sections: dict[str, Any] = {"routes": [{"name": "a", "path": "/a", "to": "up"}]}
    if broken == "page":
        sections["errors"] = {"pages": {"503": {"file": str(file)}}}
        sections["upstreams"] = {"up": {"targets": [UP]}}
    else:
        sections["upstreams"] = {
            "up": {"targets": ["https://127.0.0.1:9"], "tls": {"ca": str(file)}}
        }
    loaded = load_dict({"observability": {"access_log": "off"}, **sections})
    if broken == "page":
        file.unlink()
    with pytest.raises(OSError):
        compiler.snapshot(loaded, Resources().begin(1), Metrics(model.Metrics()), Clock())


def test_a_certificate_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    resources, file = Resources(), tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(file))

    def target(generation: int) -> Any:
        claims = resources.begin(generation)
        compiled(
            claims,
            routes=[{"name": "a", "path": "/a", "to": "up"}],
            upstreams={"up": {"targets": ["https://127.0.0.1:9"], "tls": {"ca": str(file)}}},
        )
        claims.commit()
        return resources.of("upstream")[0].targets[0]

    first = target(1)
    assert target(2) is first
    file.unlink()
    trustme.CA().cert_pem.write_to_path(str(file))
    assert target(3) is not first


def test_forwarding_is_innermost() -> None:
    snapshot = snapshot_of(
        defaults={"body": {"max": "unlimited"}}, routes=[{"name": "a", "path": "/a", "to": UP}]
    )
    metrics = route_of(snapshot, "a").handler
    inner = [cell.cell_contents for cell in metrics.__closure__ or ()]  # type: ignore[attr-defined]
    assert any(isinstance(one, Forward) for one in inner)
