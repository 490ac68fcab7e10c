"""coderd away under load, and back: what was admitted is recorded, exactly once.

The outages are short; ``AIGATEWAY_TEST_OUTAGE=30`` makes them as long (in seconds), and ``-n 0 -s``
shows what came twice.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anthropic
import openai
import pytest
import requests
from any_coderd import (
    USUAL,
    AnyCoderd,
    Start,
    all_ended,
    doubled,
    interception_of,
    per_interception,
)
from gateway_process import GatewayProcess, wait_until
from imitation_provider import ScriptedProvider, WaitFor, stream
from sdk_clients import closed_later
from test_lost_actors import DELTA, START, STOP

OUTAGE = float(os.environ.get("AIGATEWAY_TEST_OUTAGE", "0.3"))
"""Seconds."""
IN_FLIGHT = 32
"""Records on their way per worker, at most: these may be there twice (docs/coderd.md)."""
WORKERS = 2
ID = "x-ai-gateway-interception-id"
PROMPT = {"role": "user", "content": "tell me about outages"}


class Load:
    """Clients made with the SDKs, blocking and streaming, one request after the other."""

    def __init__(self, gateway: GatewayProcess, key: str) -> None:
        self._claude = closed_later(
            anthropic.Anthropic(
                base_url=f"{gateway.url}/anthropic", api_key=key, max_retries=0, timeout=100
            )
        )
        self._gpt = closed_later(
            openai.OpenAI(
                base_url=f"{gateway.url}/openai/v1", api_key=key, max_retries=0, timeout=100
            )
        )
        self.served: dict[str, tuple[float, Counter[str]]] = {}
        """For each answer that came to its end: when it was asked for, and its records."""
        self.refused = 0
        """How often "ask later" was the answer."""
        self.refusals = Counter[str]()
        """With which words, and after how long."""
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        kinds = (self._message, self._streamed_message, self._response, self._streamed_chat)
        self._threads = [threading.Thread(target=self._run, args=(kind,)) for kind in kinds * 4]

    def _run(self, kind: Callable[[], tuple[str, Counter[str]]]) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                interception, records = kind()
            except (anthropic.APIStatusError, openai.APIStatusError) as ex:
                if ex.status_code == 503:
                    self.refused += 1
                    self.refusals[f"{ex.message[:120]} after {time.monotonic() - began:.0f} s"] += 1
                    continue
                self.errors.append(ex)
                return
            except BaseException as ex:
                self.errors.append(ex)
                return
            self.served[interception] = began, records

    def _message(self) -> tuple[str, Counter[str]]:
        raw = self._claude.messages.with_raw_response.create(
            model="claude", max_tokens=100, messages=[PROMPT]
        )
        raw.parse()
        return raw.headers[ID], USUAL

    def _streamed_message(self) -> tuple[str, Counter[str]]:
        with self._claude.messages.stream(
            model="claude", max_tokens=100, messages=[PROMPT]
        ) as running:
            running.get_final_message()
            return running.response.headers[ID], USUAL

    def _response(self) -> tuple[str, Counter[str]]:
        raw = self._gpt.responses.with_raw_response.create(model="gpt", input="outages")
        raw.parse()
        return raw.headers[ID], USUAL

    def _streamed_chat(self) -> tuple[str, Counter[str]]:
        with self._gpt.chat.completions.with_streaming_response.create(
            model="gpt", messages=[PROMPT], stream=True
        ) as raw:
            assert "data: [DONE]" in list(raw.iter_lines())
            return raw.headers[ID], USUAL

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def wait_for_more(self, count: int = 40) -> None:
        seen = len(self.served)
        wait_until(
            lambda: self.errors or len(self.served) >= seen + count, "requests are served", 90
        )
        assert not self.errors


def check(coderd: AnyCoderd, load: Load, *, back: float) -> Counter[str]:
    """Count; return which records came twice."""
    wait_until(lambda: all_ended(coderd, list(load.served)), "all records have arrived", 90)
    counts = per_interception(coderd.stored())
    twice = Counter[str]()
    for one, (began, wanted) in load.served.items():
        assert doubled(counts[one], wanted) <= 1, f"{one}: {counts[one]}"
        assert counts[one] == wanted or began < back, "recorded after the outage"
        twice += counts[one] - wanted
    assert twice.total() <= IN_FLIGHT * WORKERS
    # A coderd recognises this one.
    assert not twice["RecordInterception"]
    # If the answer to its first record was too late for a request, there is nothing but that.
    others = [found for one, found in counts.items() if one not in load.served]
    assert all(found == Counter(RecordInterception=1) for found in others)
    assert len(others) <= load.refused
    return twice


@pytest.mark.timeout(120 + 4 * OUTAGE)
@pytest.mark.parametrize("how", ["reset", "closed", "stalled"])
def test_what_was_admitted_in_an_outage_is_recorded_once(
    start: Start, coderd: AnyCoderd, how: str
) -> None:
    gateway = start(workers=WORKERS)
    load = Load(gateway, coderd.add_alice())
    with load.running():
        load.wait_for_more()
        if how == "stalled":
            coderd.stall()
        else:
            coderd.go_away(politely=how == "closed")
        threading.Event().wait(OUTAGE)
        back = time.monotonic()
        coderd.come_back()
        load.wait_for_more()
    assert not load.errors
    assert not load.refusals
    twice = check(coderd, load, back=back)
    sys.stdout.write(f"{len(load.served)} requests, {load.refused} refused, twice: {dict(twice)}\n")
    sys.stdout.writelines(f"  {count} x {words}\n" for words, count in load.refusals.items())


def test_a_stream_goes_on_without_coderd(
    start: Start, coderd: AnyCoderd, own_provider: ScriptedProvider
) -> None:
    key = coderd.add_alice()
    gateway = start()
    go_on = threading.Event()
    own_provider.play(stream([START, WaitFor(go_on), DELTA, STOP]))
    streamed = requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json={"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]},
        headers={"X-Api-Key": key},
        stream=True,
        timeout=60,
    )
    pieces = streamed.iter_content(None)
    next(pieces)
    coderd.go_away()
    wait_until(lambda: not gateway.is_ready(), "the gateway noticed")
    assert requests.get(f"{gateway.url}/healthz", timeout=5).status_code == 200
    go_on.set()
    assert b"message_stop" in b"".join(pieces)
    coderd.come_back()
    one = interception_of(streamed)
    wait_until(lambda: all_ended(coderd, [one]), "all records have arrived")
    assert per_interception(coderd.stored())[one] == USUAL


def test_a_recorder_that_is_restarted_repeats_nothing(start: Start, coderd: AnyCoderd) -> None:
    gateway = start()
    load = Load(gateway, coderd.add_alice())
    folder = ["--runtime-dir", str(gateway.runtime_dir)]
    with load.running():
        for _ in range(3):
            load.wait_for_more(20)
            assert gateway.command("actors", *folder, "restart", "recorder").returncode == 0
        back = time.monotonic()
        load.wait_for_more(20)
    assert not check(coderd, load, back=back)
    assert not load.refused
