"""Two gateways behind a real nginx, with the lines that docs/kubernetes/README.md gives."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from gateway_process import GatewayProcess, Upstream, free_port, wait_until
from imitation_provider import ReceivedRequest, ScriptedProvider, WaitFor, event, imitate, stream
from load import Load, ask
from servers import nginx, redis

HELD = [
    {"type": "message_start", "message": {"id": "msg", "usage": {"input_tokens": 3}}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
    {"type": "message_stop"},
]


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=imitate()) as provider:
        yield provider


def _replicas(
    folder: Path, provider: ScriptedProvider, options: list[str]
) -> tuple[GatewayProcess, GatewayProcess]:
    """Two gateways with folders of their own and one control plane, as replicas have."""
    database = folder / "shared.db"
    first, second = (
        GatewayProcess(
            folder / name,
            [Upstream("anthropic", provider.url)],
            ["--local-db", str(database), *options],
            address=f"127.0.0.1:{free_port()}",
        )
        for name in ("first", "second")
    )
    first.database = second.database = database
    return first, second


def _is_held(request: ReceivedRequest) -> bool:
    return b'"held"' in request.body


class _HeldStream:
    """A stream that is running until the provider goes on."""

    def __init__(self, url: str, key: str) -> None:
        self._answer = requests.post(
            f"{url}/anthropic/v1/messages",
            json={"model": "held", "max_tokens": 9, "stream": True, "messages": []},
            headers={"X-Api-Key": key},
            stream=True,
            timeout=60,
        )
        assert self._answer.status_code == 200
        self._pieces = self._answer.iter_content(None)
        self.body = next(self._pieces)

    @property
    def interception_id(self) -> str:
        return self._answer.headers["X-AI-Gateway-Interception-Id"]

    def read_on(self) -> bytes:
        self.body += b"".join(self._pieces)
        return self.body


def _more(load: Load, count: int) -> None:
    goal = len(load.outcomes) + count
    wait_until(lambda: len(load.outcomes) >= goal or load.failed, f"{count} more answers")


def _served(gateway: GatewayProcess) -> int:
    """Requests in the gateway's own log."""
    return sum(line.get("msg") == "request" for line in gateway.logs())


def test_a_replica_that_stops_under_load_fails_no_request_and_loses_no_record(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    first, second = _replicas(tmp_path, provider, [])
    gate = threading.Event()
    for _ in range(4):
        steps = [*stream([event(HELD[0])], end=False), WaitFor(gate)]
        rest = stream([event(each) for each in HELD[1:]])[1:]
        provider.play([*steps, *rest], when=_is_held)
    with first, second:
        addresses = [each.url.removeprefix("http://") for each in (first, second)]
        key = first.key()
        with nginx(tmp_path / "nginx", addresses) as url:
            # nginx names each request, and the gateway calls it the same.
            named = requests.get(f"{url}/nobody", timeout=30)
            assert re.fullmatch("[0-9a-f]{32}", named.headers["X-AI-Gateway-Request-Id"])
            held = [_HeldStream(url, key) for _ in range(4)]
            with Load(url, key) as load:
                _more(load, 60)
                assert _served(first) > 10
                assert _served(second) > 10
                first.process.send_signal(signal.SIGTERM)
                # It drains: half of the held streams are its own.
                _more(load, 60)
                assert first.process.poll() is None
                gate.set()
                for each in held:
                    assert b"message_stop" in each.read_on()
                first.stop(None)
                _more(load, 60)
                first.start()
                served = _served(first)
                wait_until(lambda: _served(first) > served + 10 or load.failed, "it is used again")
            assert not load.failed
        _check_records(second, load, held)


def _check_records(gateway: GatewayProcess, load: Load, held: list[_HeldStream]) -> None:
    """Every answer that a client has seen is recorded once, with its usage and its end."""
    seen = [one.interception_id for one in load.outcomes] + [each.interception_id for each in held]
    assert len(set(seen)) == len(seen)

    def ended() -> set[str]:
        rows = gateway.rows("SELECT id FROM interceptions WHERE ended_at IS NOT NULL")
        return {row["id"] for row in rows}

    wait_until(lambda: ended() >= set(seen), "all interceptions have ended")
    rows = gateway.rows("SELECT id, error_type FROM interceptions")
    assert {row["id"]: row["error_type"] for row in rows} == dict.fromkeys(seen)
    usage = Counter(
        row["interception_id"]
        for row in gateway.rows("SELECT interception_id FROM token_usages WHERE output_tokens > 0")
    )
    assert set(usage) == set(seen)


def test_replicas_with_one_redis_share_the_rate_limit(
    tmp_path: Path, provider: ScriptedProvider
) -> None:
    limit = 8
    with redis(tmp_path / "redis") as storage:
        options = ["--ai-gateway-rate-limit", str(limit), "--rate-limit-storage", storage]
        first, second = _replicas(tmp_path, provider, options)
        with first, second:
            addresses = [each.url.removeprefix("http://") for each in (first, second)]
            with nginx(tmp_path / "nginx", addresses) as url:
                # Each try is another user's, so that none is counted with an earlier one.
                statuses = next(
                    statuses
                    for number in range(20)
                    if (statuses := _burst(url, first.key(f"user{number}"), 3 * limit))
                )
        assert statuses == {200: limit, 429: 2 * limit}
        for each in (first, second):
            # Both were asked: alone each would have let its half through.
            assert _served(each) >= limit


def _burst(url: str, key: str, count: int) -> Counter[int] | None:
    """Statuses of so many requests at once; None when they took longer than a window."""
    with ThreadPoolExecutor(4) as pool, requests.Session() as session:
        began = time.monotonic()
        asked = [pool.submit(ask, session, url, key, streaming=False) for _ in range(count)]
        statuses = Counter(each.result().status for each in asked)
        return statuses if time.monotonic() - began < 0.9 else None
