"""A day of bad luck: everything fails in turn while many clients ask, and the books balance."""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from attrs import define, field
from imitation_provider import (
    Close,
    ReceivedRequest,
    Reset,
    ScriptedProvider,
    Stall,
    Step,
    answer,
    error,
    event,
    head,
    stream,
)
from provider_rig import KEYS, PATIENCE, FakeRecording, Rig, running

from aigateway.actors.actor.tree import ActorTree
from aigateway.actors.providers.breaker import BreakerConfig
from aigateway.actors.providers.request import Opened, Refused
from aigateway.actors.upstream.errors import Quiet, UpstreamCut

EVENTS = [event({"n": number}, "tick") for number in range(5)]
CLIENTS, CALLS = 10, 10
SILENCE = 0.15
"""Seconds of an upstream's silence that count as the end of it."""


@define
class Weather:
    """What the provider does to each request: chosen by dice, noted by request."""

    dice: random.Random
    misfortunes: list[Callable[[ReceivedRequest], list[Step]]]
    dead_keys: frozenset[str] = frozenset()
    lock: threading.Lock = field(factory=threading.Lock)

    def __call__(self, request: ReceivedRequest) -> list[Step]:
        if request.header("X-Api-Key") in self.dead_keys:
            return error(401)
        with self.lock:
            unlucky = self.dice.random() < 0.5
            misfortune = self.dice.choice(self.misfortunes)
        return misfortune(request) if unlucky else good(request)


def good(request: ReceivedRequest) -> list[Step]:
    wanted = json.loads(request.body)
    return stream(EVENTS) if wanted["stream"] else answer({"number": wanted["number"]})


def always(*steps: Step) -> Callable[[ReceivedRequest], list[Step]]:
    return lambda _request: list(steps)


def cut_inside(how: Step) -> Callable[[ReceivedRequest], list[Step]]:
    return always(*stream(EVENTS[:2], end=False), how)


EACH: dict[str, tuple[Callable[[ReceivedRequest], list[Step]], ...]] = {
    "limits": (always(*error(429)), always(*answer("x", 429, [("retry-after-ms", "40")]))),
    "5xx": tuple(always(*error(status)) for status in (500, 502, 503, 504, 529)),
    "resets": (always(Reset()), always(Close()), always(head(200)[:7], Reset())),
    "cuts": (cut_inside(Reset()), cut_inside(Close())),
    "stalls": (lambda _r: [Stall()], lambda _r: [*stream(EVENTS[:1], end=False), Stall()]),
    "rejections": (always(*error(403)),),
    "odd answers": (always(b"SSH-2.0\r\n", Close()), always(*error(413)), always(head(204))),
}
EACH["everything"] = tuple(itertools.chain(*EACH.values()))

SETTINGS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "with retries": {"max_retries": 2},
    "with a breaker": {"breaker": BreakerConfig(failure_threshold=3, timeout=0.05)},
    "with few connections": {"max_connections": 3},
}


@define
class Ledger:
    """What the clients saw."""

    outcomes: Counter[str] = field(factory=Counter)
    lock: threading.Lock = field(factory=threading.Lock)

    def note(self, outcome: str) -> None:
        with self.lock:
            self.outcomes[outcome] += 1


def play(rig: Rig, number: int, ledger: Ledger, dice: random.Random) -> None:
    """One client's call, blocking or streaming; now and then the client leaves."""
    body = json.dumps({"number": number, "stream": number % 2 == 0}).encode()
    result = rig.tell(body=body).get(timeout=PATIENCE)
    if isinstance(result, Refused):
        assert result.status in (429, 502, 503, 504), result
        ledger.note("refused")
        return
    assert isinstance(result, Opened)
    exchange = result.exchange
    if dice.random() < 0.15:
        recording = FakeRecording()
        rig.drain(result, recording)
        assert recording.closed.wait(PATIENCE)
        ledger.note("left")
        return
    exchange.set_quiet(SILENCE)
    data = b""
    try:
        while piece := exchange.read():
            data += piece
    except (UpstreamCut, Quiet):
        ledger.note("cut")
        assert b"".join(EVENTS).startswith(data), "bytes of another answer"
    else:
        ledger.note("whole")
        if exchange.status == 200 and exchange.complete:
            expected = b"".join(EVENTS) if number % 2 == 0 else b'{"number": %d}' % number
            assert data == expected
    if not exchange.reusable:
        exchange.close()
    rig.give_back(result)


def run_day(rig: Rig, seed: int) -> Ledger:
    """All clients' calls at once; raises what any of them met.

    Calls have numbers of their own: no two days have the same ``seed``.
    """
    ledger = Ledger()
    failures: list[BaseException] = []
    numbers = itertools.count(seed * CLIENTS * CALLS)

    def client(dice: random.Random) -> None:
        try:
            for _ in range(CALLS):
                play(rig, next(numbers), ledger, dice)
        except BaseException as ex:
            failures.append(ex)

    threads = [
        threading.Thread(target=client, args=(random.Random(seed + number),))
        for number in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
        assert not thread.is_alive(), "a request hangs"
    if failures:
        raise failures[0]
    assert sum(ledger.outcomes.values()) == CLIENTS * CALLS
    return ledger


class SentAgain:
    """Counts requests that met the close of an idle connection: their attempt arrives twice."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self.count = 0

    def info(self, *_: Any, **__: Any) -> None:
        self.count = next(self._numbers) + 1


def check_books(
    rig: Rig, provider: ScriptedProvider, settings: dict[str, Any], again: int = 0
) -> None:
    """The counters add up to what the provider has seen."""
    state = rig.settle()
    counters = state.counters
    requests = provider.requests
    # Nothing was refused before it was sent, so each attempt is a request that arrived.
    assert counters.attempts - counters.unsent + again == len(requests)
    assert counters.connections_opened == provider.connections
    sent = Counter(json.loads(request.body)["number"] for request in requests)
    extra = sum(sent.values()) - len(sent)
    # What was sent more than once was sent with another key or after a pause, and counted.
    assert extra <= counters.failovers + counters.retries + again
    most = len(KEYS) * (settings.get("max_retries", 0) + 1) * (2 if again else 1)
    assert max(sent.values(), default=0) <= most
    assert (state.busy, state.draining, state.waiting, state.retrying) == (0, 0, 0, 0)
    walks = sum(keys * times for keys, times in counters.keys_tried.items())
    assert walks == counters.attempts


DAYS = [
    *((luck, "as it comes") for luck in EACH),
    *((luck, "with retries") for luck in ("limits", "5xx", "everything")),
    *((luck, "with a breaker") for luck in ("5xx", "everything")),
    *((luck, "with few connections") for luck in ("resets", "everything")),
]


@pytest.mark.parametrize(("luck", "how"), DAYS)
def test_no_request_hangs_and_the_books_balance(luck, how, monkeypatch):
    settings = SETTINGS[how]
    again = SentAgain()
    monkeypatch.setattr("aigateway.actors.upstream.kept.log", again)
    monkeypatch.setattr("aigateway.actors.providers.pauses.FIRST_PAUSE", 0.01)
    monkeypatch.setattr("aigateway.actors.providers.keypool.DEFAULT_REST", 0.05)
    seed = sum(luck.encode())
    weather = Weather(random.Random(seed), list(EACH[luck]))
    with (
        ScriptedProvider(otherwise=weather) as provider,
        running(
            provider.url,
            keys=KEYS,
            first_byte_timeout=SILENCE,
            idle_timeout=SILENCE,
            **settings,
        ) as rig,
    ):
        ledger = run_day(rig, seed)
        check_books(rig, provider, settings, again.count)
        assert ledger.outcomes["whole"] or luck == "rejections"


def test_keys_that_are_refused_one_after_the_other_cost_no_request_while_one_is_left():
    weather = Weather(random.Random(1), [good])
    with ScriptedProvider(otherwise=weather) as provider, running(provider.url, keys=KEYS) as rig:
        for dead in range(len(KEYS) + 1):
            weather.dead_keys = frozenset(KEYS[:dead])
            before = len(provider.requests)
            ledger = run_day(rig, dead)
            new = provider.requests[before:]
            if dead < len(KEYS):
                assert ledger.outcomes["refused"] == 0
                assert [key.state for key in rig.state.keys] == ["temporary"] * dead + ["valid"] * (
                    len(KEYS) - dead
                )
                used = Counter(request.header("X-Api-Key") for request in new)
                assert used[KEYS[dead]] == CLIENTS * CALLS
                # Only those that were under way when it was refused have met the dead key.
                assert sum(used[key] for key in KEYS[:dead]) <= CLIENTS
            else:
                assert ledger.outcomes == {"refused": CLIENTS * CALLS}
        check_books(rig, provider, {})
        assert rig.counters.rests == {"unauthorized": len(KEYS)}
        assert rig.counters.exhaustions == {"auth_failed": CLIENTS * CALLS}
        # They were not dead after all.
        weather.dead_keys = frozenset()
        assert run_day(rig, 99).outcomes["refused"] == 0
        assert [key.state for key in rig.state.keys].count("valid") >= 1


def test_a_region_that_goes_down_and_comes_back_is_bypassed_meanwhile():
    tree = ActorTree()
    with (
        ScriptedProvider(otherwise=good) as region,
        ScriptedProvider(otherwise=good) as other,
        running(region.url, tree=tree, fallback=("spare",)) as rig,
        running(other.url, tree=tree, name="spare") as spare,
    ):
        tree.replace_providers((rig.config, spare.config))
        region.refuse()
        ledger = run_day(rig, 1)
        assert ledger.outcomes["refused"] == 0
        assert rig.settle().counters.fallbacks == CLIENTS * CALLS
        assert spare.settle().counters.attempts == len(other.requests) == CLIENTS * CALLS
        assert region.requests == []
        region.listen()
        run_day(rig, 2)
        assert len(region.requests) == CLIENTS * CALLS
        assert rig.settle().counters.unsent == CLIENTS * CALLS
