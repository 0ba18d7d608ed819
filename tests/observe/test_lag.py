from __future__ import annotations

from gateway.config import model
from gateway.observe.lag import EVERY, LoopLag
from gateway.observe.metrics import Metrics
from tests.kit.clock import FakeClock


async def test_the_lag_of_the_loop_is_sampled_until_it_is_stopped() -> None:
    clock, metrics = FakeClock(), Metrics(model.Metrics())
    lag = LoopLag(clock, metrics)
    lag.start()
    lag.start()
    assert len(clock.timers) == 1
    clock.advance(EVERY + 0.3)
    counts, total = metrics.loop_lag.read()
    assert sum(counts) == 1
    assert 0.3 <= total < 2
    clock.advance(EVERY)
    assert sum(metrics.loop_lag.read()[0]) == 2
    lag.stop()
    lag.stop()
    clock.advance(10)
    assert sum(metrics.loop_lag.read()[0]) == 2
    assert not clock.timers


async def test_the_running_loop_is_named_in_the_build_info() -> None:
    import asyncio

    metrics = Metrics(model.Metrics())
    lag = LoopLag(FakeClock(), metrics)
    lag.start()
    lag.stop()
    module = type(asyncio.get_running_loop()).__module__
    assert metrics.loop == ("uvloop" if "uvloop" in module else "asyncio")
    assert f'loop="{metrics.loop}"' in metrics.exposition(None)[0].decode()


async def test_whoever_acts_on_the_lag_hears_every_sample() -> None:
    clock, heard = FakeClock(), list[float]()
    lag = LoopLag(clock, Metrics(model.Metrics()))
    lag.heard = heard.append
    lag.start()
    clock.advance(EVERY + 0.3)
    clock.advance(EVERY)
    lag.stop()
    assert len(heard) == 2
    assert heard[0] >= 0.3
