"""Times that are written in one go are those that would have been observed one by one."""

from __future__ import annotations

import random
import threading

from prometheus_client import CollectorRegistry, generate_latest

from aigateway.http.metrics.series import STAGE_BUCKETS, Series
from aigateway.http.metrics.stage_times import StageTimes


def test_what_is_written_is_what_observe_would_have_written() -> None:
    chance = random.Random(1)
    times = [0.0, *STAGE_BUCKETS, 100.0, *(chance.expovariate(50) for _ in range(500))]
    gathered, plain = CollectorRegistry(), CollectorRegistry()
    series = Series(plain)
    stage_times = StageTimes(Series(gathered))
    for number, seconds in enumerate(times):
        provider = f"p{number % 2}"
        stages = {"edge": seconds, "relay": 1.0 - seconds}
        stage_times.add(provider, stages, seconds * 2)
        for name, value in stages.items():
            series.stage.labels(provider, name).observe(value)
        series.overhead.labels(provider).observe(seconds * 2)
        if number % 100 == 0:
            stage_times.write()
    stage_times.write()
    stage_times.write()
    assert _numbers(gathered) == _numbers(plain)


def _numbers(registry: CollectorRegistry) -> dict[str, float]:
    lines = [line for line in generate_latest(registry).decode().splitlines() if line[0] != "#"]
    lines = [line for line in lines if "_created" not in line]
    return {
        name: round(float(value), 6) for name, _, value in (line.rpartition(" ") for line in lines)
    }


def test_what_is_added_while_it_is_written_is_not_lost() -> None:
    registry = CollectorRegistry()
    times = StageTimes(Series(registry))

    def add() -> None:
        for _ in range(2000):
            times.add("p", {"edge": 0.001}, 0.001)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        times.write()
    times.write()
    name = "coder_ai_gateway_overhead_seconds_count"
    assert registry.get_sample_value(name, {"provider": "p"}) == 8000
