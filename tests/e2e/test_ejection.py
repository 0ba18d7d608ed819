"""Passive ejection and circuit breakers, driven by real requests that fail."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.e2e.conformance.conftest import get, post, problem
from tests.kit.origin import OK, reply
from tests.kit.wire import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin
    from tests.kit.origin import Origin, Peer
    from tests.kit.raw import Client
    from tests.kit.running import Running

EJECT = {"consecutive_failures": 5, "base": "10s"}
CIRCUIT = {"min_requests": 4, "error_ratio": 0.5, "open": "10s", "half_open_requests": 3}
BUSY = reply(b"", status=b"503 Busy")


class App:
    """An application that fails as it is told."""

    def __init__(self) -> None:
        self.how: bytes | str = OK
        """An answer; `reset`: end the connection without one; `hold`: wait for `release`."""
        self.release = asyncio.Event()
        self.served = 0

    async def __call__(self, peer: Peer) -> None:
        while True:
            await peer.request()
            self.served += 1
            if self.how == "reset":
                peer.reset()
                return
            if self.how == "hold":
                await self.release.wait()
                await peer.send(OK)
            else:
                assert isinstance(self.how, bytes)
                await peer.send(self.how)


def written(*origins: Origin, **upstream: Any) -> dict[str, Any]:
    """A route to these targets that tries each request once."""
    settings = {"targets": [one.url for one in origins], "retry": "off", **upstream}
    return {
        "routes": [{"name": "all", "path": "/*", "to": "up"}],
        "upstreams": {"up": settings},
    }


def told(running: Running) -> list[tuple[str, str]]:
    return [(event.kind, event.why) for event in running.gateway.events.select(upstream="up")]


async def until(fact: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not fact():
            await asyncio.sleep(0.005)


async def statuses(client: Client, times: int) -> list[int]:
    """Of so many requests, one after the other."""
    return [(await client.ask(post())).status for _ in range(times)]


# ── ejection ──


async def test_a_target_that_resets_connections_is_left_out_after_five_and_comes_back(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    app, well = App(), App()
    app.how = "reset"
    one, other = await origin(app), await origin(well)
    running = await gateway(written(one, other, eject=EJECT, balance="round_robin"))
    client = await raw(running)
    assert (await statuses(client, 10)).count(502) == 5
    assert await statuses(client, 20) == [200] * 20
    assert app.served == 5
    assert running.metric("gateway_upstream_target_up", target=one.address) == 0
    assert running.metric("gateway_upstream_ejected", upstream="up") == 1
    assert running.metric("gateway_upstream_ejections_total", target=one.address) == 1

    app.how = OK
    running.clock.advance(10.1)
    assert running.metric("gateway_upstream_ejected", upstream="up") == 0
    assert await statuses(await raw(running), 20) == [200] * 20
    assert app.served == 15
    why = "5 failures in a row, the last one: upstream_reset; for 10 s"
    assert told(running) == [("ejected", why), ("restored", "its time is over")]


async def test_ejection_needs_no_configuration(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    gone, well = await origin(), await origin()
    await gone.refuse()
    running = await gateway(written(gone, well, balance="round_robin"))
    client = await raw(running)
    assert (await statuses(client, 10)).count(502) == 5
    assert await statuses(client, 20) == [200] * 20
    why = "5 failures in a row, the last one: connect_refused; for 10 s"
    assert told(running) == [("ejected", why)]


async def test_with_a_second_try_no_client_sees_a_target_that_is_gone(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    gone, well = await origin(), await origin()
    await gone.refuse()
    eject = {**EJECT, "consecutive_failures": 3}
    running = await gateway(written(gone, well, eject=eject, retry={}, balance="round_robin"))
    assert await statuses(await raw(running), 30) == [200] * 30
    assert running.metric("gateway_retries_total", outcome="success") == 3


async def test_503_is_a_failure_and_500_is_an_answer(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    wrong, busy, well = App(), App(), App()
    wrong.how, busy.how = reply(status=b"500 Oops"), BUSY
    targets = [await origin(one) for one in (wrong, busy, well)]
    running = await gateway(written(*targets, eject=EJECT, balance="round_robin"))
    await statuses(await raw(running), 45)
    assert busy.served == 5
    assert wrong.served == 20


async def test_the_only_target_is_asked_on_whatever_it_answers(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    one = await origin(BUSY)
    running = await gateway(written(one, eject=EJECT))
    assert await statuses(await raw(running), 20) == [503] * 20
    assert len(one.requests) == 20
    assert told(running) == []


async def test_a_client_that_leaves_is_no_failure_of_the_target(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    app = App()
    app.how = "hold"
    one, other = await origin(app), await origin(app)
    running = await gateway(written(one, other, eject={**EJECT, "consecutive_failures": 1}))
    for number in range(4):
        client = await raw(running)
        await client.send(get())
        await until(lambda number=number: app.served > number)
        client.reset()
    await running.eventually("gateway_errors_total", 4, reason="client_closed")
    assert told(running) == []


async def test_a_target_that_hangs_is_left_out_by_its_time_outs(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    app, well = App(), App()
    app.how = "hold"
    one, other = await origin(app), await origin(well)
    config = written(
        one, other, eject={**EJECT, "consecutive_failures": 2}, timeouts={"first_byte": "2s"}
    )
    running = await gateway(config)
    clients = [await raw(running) for _ in range(20)]
    for client in clients:
        await client.send(get())
    await until(lambda: app.served + well.served == 20)
    assert app.served >= 2  # by luck alone, less in one of many thousand runs
    running.clock.advance(2.1)
    for client in clients:
        await client.response()
    before = app.served
    assert await statuses(clients[0], 20) == [200] * 20
    assert app.served == before
    assert told(running)[0][1].startswith(
        "2 failures in a row, the last one: upstream_header_timeout"
    )


async def test_a_rested_connection_that_had_ended_is_no_failure_of_the_target(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def one_answer_each(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.head()  # and no answer: as if its idle time had just been over

    targets = [await origin(one_answer_each) for _ in range(2)]
    eject = {**EJECT, "consecutive_failures": 1}
    circuit = {**CIRCUIT, "min_requests": 1}
    running = await gateway(written(*targets, eject=eject, circuit=circuit, retry={}))
    client = await raw(running)
    for _ in range(20):
        assert (await client.ask(get())).status == 200
    assert running.metric("gateway_retries_total", reason="upstream_idle_closed") > 5
    assert told(running) == []


async def test_an_ejection_survives_a_reload(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    app, well = App(), App()
    app.how = BUSY
    one, other = await origin(app), await origin(well)
    config = written(one, other, eject=EJECT, balance="round_robin")
    running = await gateway(config)
    client = await raw(running)
    await statuses(client, 10)
    listeners = {"listeners": [{"bind": "127.0.0.1:0"}], "admin": "off"}
    await running.gateway.reload({**config, **listeners})
    assert running.metric("gateway_upstream_ejected", upstream="up") == 1
    assert await statuses(await raw(running), 10) == [200] * 10
    await running.gateway.reload({**written(one, other, eject="off"), **listeners})
    assert running.metric("gateway_upstream_ejected", upstream="up") == 0


async def test_a_share_of_failures_ejects_where_rows_are_broken_by_answers(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    sick, well = await origin([OK, BUSY] * 20), await origin()
    eject = {"consecutive_failures": "off", "failure_ratio": 0.5, "min_requests": 10}
    running = await gateway(written(sick, well, eject=eject, balance="round_robin"))
    client = await raw(running)
    await statuses(client, 18)
    assert told(running) == []
    assert (await statuses(client, 40)).count(503) == 1
    assert len(sick.requests) == 10
    [(kind, why)] = told(running)
    assert kind == "ejected"
    assert "5 of 10" in why


async def test_each_ejection_is_longer_and_a_check_that_passes_ends_it(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    async def sick(peer: Peer) -> None:
        while True:
            message = await peer.request()
            await peer.send(OK if message.target == b"/up" else BUSY)

    one, other = await origin(sick), await origin(OK)
    eject = {"consecutive_failures": 1, "base": "10s", "max": "25s"}
    words = {"eject": eject, "balance": "round_robin"}
    running = await gateway(written(one, other, **words))
    client = await raw(running)
    for seconds in (10, 20, 25):
        while running.metric("gateway_upstream_ejected") == 0:
            await client.ask(post())
        assert told(running)[-1][1].endswith(f"for {seconds} s")
        running.clock.advance(seconds - 1)
        assert running.metric("gateway_upstream_ejected") == 1
        running.clock.advance(1.1)
        assert running.metric("gateway_upstream_ejected") == 0
        client = await raw(running)
    assert running.metric("gateway_upstream_ejections_total", target=one.address) == 3

    health = {"path": "/up", "interval": "2s"}
    checked = await gateway(written(one, other, health=health, **words))
    client = await raw(checked)
    await checked.eventually("gateway_health_checks_total", 1, target=one.address)
    while checked.metric("gateway_upstream_ejected") == 0:
        await client.ask(post())
    checked.clock.advance(2.5)
    await checked.eventually("gateway_upstream_ejected", 0)
    assert told(checked)[-1] == ("restored", "a check has passed")


async def test_no_more_targets_are_out_than_their_share_and_never_all(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    targets = [await origin(BUSY) for _ in range(4)]
    eject = {"consecutive_failures": 1, "max_percent": 25}
    running = await gateway(written(*targets, eject=eject, balance="round_robin", panic="off"))
    client = await raw(running)
    for _ in range(20):
        await client.ask(post())
        assert running.metric("gateway_upstream_ejected") <= 1
    assert running.metric("gateway_upstream_ejected") == 1


async def test_who_counts_tries_hears_of_each_how_it_ended_and_how_long_it_took(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    class Heard:
        def __init__(self) -> None:
            self.ends: list[tuple[object, float]] = []

        def succeeded(self, target: object, status: int, seconds: float) -> None:
            self.ends.append((status, seconds))

        def failed(self, target: object, error: Exception, seconds: float) -> None:
            self.ends.append((type(error).__name__, seconds))

    app = App()
    one = await origin(app)
    running = await gateway(written(one))
    (upstream,) = running.gateway._resources.of("upstream")
    heard = upstream.targets[0].speed = Heard()
    client = await raw(running)
    for how in ("reset", OK, BUSY):
        app.how = how
        await client.ask(post())
    await one.refuse()
    await one.hang_up()
    await until(lambda: not upstream.targets[0].connections.open)
    await client.ask(post())
    assert [how for how, _ in heard.ends] == ["UpstreamReset", 200, 503, "ConnectRefused"]
    assert all(0 <= seconds < PATIENCE for _, seconds in heard.ends)


# ── circuits ──


async def trip(client: Client) -> None:
    """Fail as often as `CIRCUIT` takes."""
    assert await statuses(client, 4) == [503] * 4


async def test_an_open_circuit_answers_at_once_and_lets_exactly_three_trials_through(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    app = App()
    app.how = BUSY
    one = await origin(app)
    running = await gateway(written(one, circuit=CIRCUIT))
    client = await raw(running)
    await trip(client)
    problem(await client.ask(post()), "circuit_open", 503)
    assert app.served == 4
    assert running.metric("gateway_circuit_state", target=one.address) == 2

    app.how = "hold"
    running.clock.advance(10.1)
    assert running.metric("gateway_circuit_state", target=one.address) == 1
    clients = [await raw(running) for _ in range(10)]
    async with asyncio.TaskGroup() as group:
        answers = [group.create_task(each.ask(get())) for each in clients]
        await until(lambda: sum(answer.done() for answer in answers) == 7)
        await until(lambda: app.served == 7)
        await asyncio.sleep(0.02)
        assert app.served == 7
        app.release.set()
        app.how = OK
    assert sorted(answer.result().status for answer in answers) == [200] * 3 + [503] * 7
    assert running.metric("gateway_circuit_state", target=one.address) == 0
    assert await statuses(clients[0], 5) == [200] * 5
    assert [kind for kind, _ in told(running)] == [
        "circuit_opened",
        "circuit_half_open",
        "circuit_closed",
    ]


async def test_a_trial_whose_client_leaves_gives_its_place_to_another(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    app = App()
    app.how = BUSY
    one = await origin(app)
    running = await gateway(written(one, circuit={**CIRCUIT, "half_open_requests": 1}))
    await trip(await raw(running))
    app.how = "hold"
    running.clock.advance(10.1)
    first = await raw(running)
    await first.send(get())
    await until(lambda: app.served == 5)
    second = await raw(running)
    problem(await second.ask(get()), "circuit_open", 503)
    first.reset()
    await running.eventually("gateway_errors_total", 1, reason="client_closed")
    app.how = OK
    assert (await second.ask(get())).status == 200
    assert running.metric("gateway_circuit_state", target=one.address) == 0


async def test_a_trial_that_fails_keeps_the_circuit_open(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    app = App()
    app.how = BUSY
    one = await origin(app)
    running = await gateway(written(one, circuit=CIRCUIT))
    await trip(await raw(running))
    running.clock.advance(10.1)
    client = await raw(running)
    assert (await client.ask(get())).status == 503
    problem(await client.ask(get()), "circuit_open", 503)
    assert app.served == 5
    running.clock.advance(10.1)
    assert running.metric("gateway_circuit_state", target=one.address) == 1


async def test_while_one_circuit_is_open_the_others_serve(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    app, well = App(), App()
    app.how = BUSY
    one, other = await origin(app), await origin(well)
    running = await gateway(
        written(one, other, circuit=CIRCUIT, balance="round_robin", eject="off")
    )
    client = await raw(running)
    await statuses(client, 8)
    assert await statuses(client, 20) == [200] * 20
    assert app.served == 4


async def test_the_circuit_of_a_whole_upstream_is_one(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    one, other = await origin(BUSY), await origin(BUSY)
    circuit = {**CIRCUIT, "scope": "upstream"}
    running = await gateway(
        written(one, other, circuit=circuit, balance="round_robin", eject="off")
    )
    client = await raw(running)
    await trip(client)
    problem(await client.ask(post()), "circuit_open", 503)
    assert (len(one.requests), len(other.requests)) == (2, 2)
    assert running.metric("gateway_circuit_state", target="_all") == 2


async def test_requests_that_get_no_connection_leave_no_trial_behind(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    app = App()
    app.how = BUSY
    one = await origin(app)
    running = await gateway(written(one, circuit=CIRCUIT, pool=1, timeouts={"pool_wait": "1s"}))
    await trip(await raw(running))
    app.how = "hold"
    running.clock.advance(10.1)
    clients = [await raw(running) for _ in range(3)]
    async with asyncio.TaskGroup() as group:
        answers = [group.create_task(each.ask(get())) for each in clients]
        await until(lambda: app.served == 5)
        await asyncio.sleep(0.05)
        running.clock.advance(1.1)
        await until(lambda: sum(answer.done() for answer in answers) == 2)
        for answer in answers:
            if answer.done():
                problem(answer.result(), "pool_timeout", 503)
        app.release.set()
        app.how = OK
    assert await statuses(clients[0], 2) == [200] * 2
    assert running.metric("gateway_circuit_state", target=one.address) == 0


async def test_a_circuit_in_report_mode_goes_through_its_states_and_refuses_nobody(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    app = App()
    app.how = BUSY
    one = await origin(app)
    running = await gateway(written(one, circuit={**CIRCUIT, "mode": "report"}))
    client = await raw(running)
    await trip(client)
    assert running.metric("gateway_circuit_state", target=one.address) == 2
    assert running.metric("gateway_upstream_target_up", target=one.address) == 1
    assert await statuses(client, 3) == [503] * 3
    assert app.served == 7
    counted = {"route": "all", "reason": "circuit_open"}
    assert running.metric("gateway_would_refuse_total", **counted) == 3
    assert running.metric("gateway_errors_total", reason="circuit_open") == 0

    app.how = OK
    running.clock.advance(10.1)
    assert await statuses(client, 5) == [200] * 5
    assert running.metric("gateway_circuit_state", target=one.address) == 0
    assert running.metric("gateway_would_refuse_total", **counted) == 3
    kinds = [kind for kind, _ in told(running)]
    assert kinds == ["circuit_opened", "circuit_half_open", "circuit_closed"]


async def test_a_circuit_that_is_open_refuses_as_soon_as_a_reload_says_so(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> None:
    app = App()
    app.how = BUSY
    one = await origin(app)
    config = {"admin": "off", "listeners": [{"bind": "127.0.0.1:0"}]}
    running = await gateway(written(one, circuit={**CIRCUIT, "mode": "report"}))
    client = await raw(running)
    await trip(client)
    assert await statuses(client, 1) == [503]
    served = app.served
    for mode, refused in (("enforce", True), ("report", False)):
        circuit = {**CIRCUIT, "mode": mode}
        await running.gateway.reload({**config, **written(one, circuit=circuit)})
        answer = await client.ask(get())
        if refused:
            problem(answer, "circuit_open", 503)
        assert app.served == served + (not refused)
