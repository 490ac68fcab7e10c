"""What a run is made of; every number has an option of the command line."""

from __future__ import annotations

from attrs import field, frozen

from bench.payloads import APIS
from bench.upstream import Behaviour

__all__ = ["Options"]


@frozen(kw_only=True)
class Options:
    """Times in seconds unless the name says otherwise."""

    seconds: float = 10.0
    """Length of each measurement."""
    warm_up: float = 3.0
    """Load before each measurement that is not measured."""
    rounds: int = 3
    workers: int = 2
    """Worker processes of each system that has such."""
    apis: tuple[str, ...] = APIS
    tokens: int = 1000
    """Size of a prompt."""
    answer_bytes: int = 1000
    events: int = 250
    """Content events of a stream."""
    interval_ms: float = 20.0
    """Between two events."""
    think_ms: float = 0.0
    """From a request to the answer's first byte."""
    concurrencies: tuple[int, ...] = (8, 32, 64, 128)
    rates: tuple[float, ...] = (50.0, 500.0)
    """Requests per second of the fixed-rate scenario."""
    streams: tuple[int, ...] = (100, 500, 2000)
    ramp: float = 5.0
    """Over which streams are opened."""
    many_streams: int = 10_000
    """Streams of the scenario with very many."""
    many_interval_ms: float = 2000.0
    """Between two events of each of them."""
    many_ramp: float = 30.0
    prompt_tokens: tuple[int, ...] = (1_000, 10_000, 100_000)
    users: int = 10_000
    """Keys of the key flood."""
    leavers: int = 200
    """Streams at once whose clients hang up."""
    slow_calls: int = 100
    """Requests that a slow provider holds while the fast one is measured."""
    slow_ms: float = 2000.0
    """How long the slow provider takes."""
    agents: tuple[int, ...] = (100,)
    """Coding agents at once."""
    agent_turns: int = 50
    """Requests of one conversation."""
    agent_first_kb: int = 20
    agent_last_kb: int = 600
    """Size of its first and of its last request, in 1,000 bytes."""
    agent_think: float = 1.0
    """Mean seconds from an answer to the next request."""
    agent_events: int = 60
    """Texts of an answer."""
    growth: tuple[str, ...] = ()
    """What becomes more in the growth scenario, by name; empty: each thing in turn."""
    part_events: int = 20_000
    """Texts that a part of the gateway is shown."""
    part_appends: int = 5_000
    """Requests whose records go through a recorder alone."""
    part_times: int = 2_000
    """Repetitions of a small piece of work in each of a part's rounds."""
    part_asks: int = 4_000
    """Questions to a Coder deployment."""
    watched_rate: float = 250.0
    """Requests per second to a gateway that is watched, and to one that is not."""
    soak_minutes: float = 10.0
    soak_rate: float = 50.0
    """Blocking requests per second of the soak."""
    soak_streams: int = 50
    soak_agents: int = 0
    """Coding agents of the soak, in the place of its requests and streams."""
    upstream_processes: int = 1
    seed: int = field(default=1)

    def behaviour(
        self,
        *,
        think_ms: float | None = None,
        events: int | None = None,
        interval_ms: float | None = None,
        agents: bool = False,
    ) -> Behaviour:
        """How the imitation is to answer."""
        think = self.think_ms if think_ms is None else think_ms
        return Behaviour(
            answer_bytes=self.answer_bytes,
            events=self.events if events is None else events,
            interval_us=round((interval_ms or self.interval_ms) * 1000),
            think_us=round(think * 1000),
            agents=int(agents),
        )
