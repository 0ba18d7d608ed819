"""A real Prometheus server scrapes a real admin listener."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from gateway.admin.api import application
from tests.kit.programs import need
from tests.observe.stand_in import StandIn, exchange

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"


@contextlib.asynccontextmanager
async def listening(gateway: StandIn) -> AsyncIterator[int]:
    runner = web.AppRunner(application(gateway))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def prometheus(folder: Path, target: int) -> AsyncIterator[str]:
    """A server that scrapes `target` twice a second; gives its URL."""
    program = need("prometheus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "prometheus.yml"
    config.write_text(
        "scrape_configs:\n"
        "- job_name: gateway\n"
        "  scrape_interval: 500ms\n"
        f"  static_configs: [{{targets: ['127.0.0.1:{target}']}}]\n"
    )
    process = await asyncio.create_subprocess_exec(
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def value(session: aiohttp.ClientSession, url: str, query: str) -> list[Any]:
    """The answer to an instant query, once there is one."""
    async with asyncio.timeout(40):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                answer = await session.get(f"{url}/api/v1/query", params={"query": query})
                found = (await answer.json()).get("data", {}).get("result", [])
                if answer.status == 200 and found:
                    return list(found)
            await asyncio.sleep(0.1)


async def test_a_prometheus_server_finds_our_series(tmp_path: Path) -> None:
    gateway = StandIn()
    route = gateway.metrics.route("orders")
    for _ in range(3):
        route.begin()
        route.finish(exchange())
    gateway.metrics.loaded(1, "0123456789ab", 1000.0, reload=False)
    async with (
        listening(gateway) as port,
        prometheus(tmp_path, port) as url,
        aiohttp.ClientSession() as session,
    ):
        [series] = await value(session, url, "gateway_requests_total")
        labels = {"route": "orders", "method": "GET", "status": "200", "source": "upstream"}
        assert labels.items() <= series["metric"].items()
        assert series["value"][1] == "3"
        [quantile] = await value(
            session, url, "histogram_quantile(0.5, gateway_request_duration_seconds_bucket)"
        )
        assert 0 < float(quantile["value"][1]) <= 0.005
        [info] = await value(session, url, "gateway_config_info")
        assert (info["metric"]["hash"], info["metric"]["generation"]) == ("0123456789ab", "1")
        [up] = await value(session, url, 'up{job="gateway"} == 1')
        assert up["value"][1] == "1"


async def told(*command: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_the_scrape_configuration_and_the_alerts_are_valid() -> None:
    code, output = await told(need("promtool"), "check", "config", str(DEPLOY / "scrape.yaml"))
    assert code == 0, output
    code, output = await told(need("promtool"), "check", "rules", str(DEPLOY / "alerts.yaml"))
    assert code == 0, output


async def test_each_alert_fires_when_it_should_and_only_then() -> None:
    code, output = await told(need("promtool"), "test", "rules", str(DEPLOY / "alerts_test.yaml"))
    assert code == 0, output


def test_alerts_speak_of_metrics_that_there_are() -> None:
    import re

    import yaml

    from gateway.observe.catalogue import CATALOGUE

    names = {one.name for one in CATALOGUE}
    for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            used = {
                re.sub(r"_(bucket|sum|count)$", "", name) if name not in names else name
                for name in re.findall(r"gateway_[a-z_]+", rule["expr"])
            }
            assert used <= names, json.dumps(rule)


@pytest.mark.parametrize("name", ["alerts.yaml"])
def test_every_alert_is_tested_and_says_what_to_do(name: str) -> None:
    import yaml

    groups = yaml.safe_load((DEPLOY / name).read_text())["groups"]
    rules = {rule["alert"]: rule for group in groups for rule in group["rules"]}
    tests = (DEPLOY / "alerts_test.yaml").read_text()
    for alert, rule in rules.items():
        assert f"alertname: {alert}" in tests, alert
        assert {"summary", "description"} <= rule["annotations"].keys(), alert
        assert rule["labels"]["severity"] in {"page", "ticket"}, alert
