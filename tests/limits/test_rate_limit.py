"""The rate limit: who is counted with whom, what is answered, and a storage that is away."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from structlog.testing import capture_logs

from aigateway.actors.codec.headers import HeaderList
from aigateway.http.request.answers import Answer
from aigateway.http.request.inbound import Inbound
from aigateway.http.request.rate_limit import RateLimit, client_key, make_rate_limit
from aigateway.http.settings import Settings, SettingsError, load_from_argv


def inbound(*headers: tuple[str, str], ip: str = "10.0.0.1") -> Inbound:
    return Inbound("POST", "/x", "", HeaderList(headers), ip, "http", "h", {})


BEARER = ("Authorization", "Bearer token-1")


# -- who


def test_requests_are_counted_by_token_and_else_by_address() -> None:
    by_bearer = client_key(inbound(BEARER))
    assert by_bearer == client_key(inbound(("authorization", "bearer  token-1"), ip="10.0.0.2"))
    assert by_bearer == client_key(inbound(BEARER, ("X-Api-Key", "other")))
    assert by_bearer == client_key(inbound(("X-Api-Key", "token-1")))
    assert by_bearer == client_key(inbound(("X-Coder-AI-Governance-Token", "token-1")))
    assert by_bearer != client_key(inbound(("X-Api-Key", "token-2")))
    basic = inbound(("Authorization", "Basic dXNlcg=="))
    assert client_key(basic) == client_key(inbound()) != client_key(inbound(ip="10.0.0.2"))
    assert client_key(inbound(ip="token-1")) != by_bearer


def test_with_a_key_of_its_own_a_client_is_counted_by_that_key() -> None:
    governance = ("X-Coder-AI-Governance-Token", "coder-1")
    assert client_key(inbound(governance, BEARER)) == client_key(inbound(BEARER))


def test_the_key_does_not_show_the_token() -> None:
    assert "token-1" not in client_key(inbound(BEARER))
    assert len(client_key(inbound(("X-Api-Key", "\udcff")))) == 32


# -- how many


def test_no_limit_is_no_object() -> None:
    assert make_rate_limit(Settings()) is None


def test_a_request_over_the_limit_is_told_when_to_come_back() -> None:
    limit = make_rate_limit(Settings(rate_limit=3))
    assert limit is not None
    refused: list[Answer] = []
    # More than fits into two windows, whenever the first one ends.
    for _ in range(7):
        try:
            limit.check(inbound(BEARER))
        except Answer as ex:
            refused.append(ex)
    assert refused
    limit.check(inbound(("X-Api-Key", "somebody else")))
    answer = refused[0]
    assert answer.status == 429
    assert answer.content_type == "application/json; charset=utf-8"
    assert answer.body == b'{"message": "You\'ve been rate limited. Please try again later."}'
    headers = dict(answer.headers)
    assert headers["Retry-After"] == "1"
    assert headers["X-RateLimit-Limit"] == "3"
    assert headers["X-RateLimit-Remaining"] == "0"
    assert abs(int(headers["X-RateLimit-Reset"]) - time.time()) < 5


def test_without_the_redis_client_the_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["--local", "--rate-limit-storage", "redis://127.0.0.1"]
    limited = [*argv, "--ai-gateway-rate-limit", "5"]
    load_from_argv(limited, {})
    monkeypatch.setattr("aigateway.http.settings._checks.find_spec", lambda name: None)
    load_from_argv(argv, {})
    with pytest.raises(SettingsError, match=r"pip install 'aigateway\[redis\]'"):
        load_from_argv(limited, {})


# -- a shared storage


class _Shared:
    """A shared counter that can be away."""

    def __init__(self) -> None:
        self.away = False
        self.asked = 0
        self.counts: Counter[str] = Counter()

    def connect(self) -> Any:
        if self.away:
            raise ConnectionError("refused")
        return self.count

    def count(self, key: str) -> bool:
        self.asked += 1
        if self.away:
            raise TimeoutError("too slow")
        self.counts[key] += 1
        return self.counts[key] <= 2


@pytest.mark.parametrize("away_from_the_start", [True, False])
def test_a_storage_that_is_away_refuses_nobody_and_is_asked_again_later(
    away_from_the_start: bool,
) -> None:
    now = [100.0]
    shared = _Shared()
    shared.away = away_from_the_start
    local: Counter[str] = Counter()

    def count(key: str) -> bool:
        local[key] += 1
        return local[key] <= 3

    limit = RateLimit(2, count, shared.connect, lambda: now[0])
    if not away_from_the_start:
        limit.check(inbound(BEARER))
        assert not local
        shared.away = True
    with capture_logs() as logs:
        limit.check(inbound(BEARER))
        limit.check(inbound(BEARER))
        limit.check(inbound(BEARER))
        with pytest.raises(Answer):
            limit.check(inbound(BEARER))
        now[0] += 6
        local.clear()
        limit.check(inbound(BEARER))
    assert [line["log_level"] for line in logs] == ["warning"]
    assert "per process" in logs[0]["event"]
    shared.away = False
    asked = shared.asked
    limit.check(inbound(BEARER))
    assert shared.asked == asked
    now[0] += 6
    limit.check(inbound(BEARER))
    assert shared.asked == asked + 1
    shared.away = True
    now[0] += 60
    with capture_logs() as logs:
        limit.check(inbound(BEARER))
    assert len(logs) == 1


class _Redis(socketserver.StreamRequestHandler):
    """As much of Redis as counting takes: INCRBY with EXPIRE, in the one script that asks."""

    counts: ClassVar[Counter[bytes]] = Counter()
    silent = threading.Event()

    def handle(self) -> None:
        while (line := self.rfile.readline()).startswith(b"*"):
            words = []
            for _ in range(int(line[1:])):
                size = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(size + 2)[:-2])
            if self.silent.is_set():
                continue
            self.wfile.write(self.answer(words))

    def answer(self, words: list[bytes]) -> bytes:
        match [words[0].upper(), *words[1:]]:
            case [b"EVALSHA", _, b"1", key, _expiry, amount]:
                self.counts[key] += int(amount)
                return b":%d\r\n" % self.counts[key]
            case [b"HELLO", *_]:
                return b"%1\r\n$5\r\nproto\r\n:3\r\n"
            case _:
                return b"+OK\r\n"


@pytest.fixture
def redis() -> Iterator[str]:
    _Redis.counts = Counter()
    _Redis.silent.clear()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Redis) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"redis://user:hunter2-password@127.0.0.1:{server.server_address[1]}/0"
        server.shutdown()
        thread.join()


def test_gateways_that_share_a_redis_count_together(redis: str) -> None:
    settings = Settings(rate_limit=2, rate_limit_storage=redis)
    one, other = make_rate_limit(settings), make_rate_limit(settings)
    assert one is not None
    assert other is not None
    one.check(inbound(BEARER))
    other.check(inbound(BEARER))
    with pytest.raises(Answer):
        one.check(inbound(BEARER))
    (key,) = _Redis.counts
    assert b"aigateway" in key
    assert b"token-1" not in key


def test_a_redis_that_keeps_silent_costs_little(redis: str) -> None:
    _Redis.silent.set()
    limit = make_rate_limit(Settings(rate_limit=100, rate_limit_storage=redis))
    assert limit is not None
    began = time.monotonic()
    with capture_logs() as logs:
        for _ in range(10):
            limit.check(inbound(BEARER))
    assert time.monotonic() - began < 5
    assert len(logs) == 1
    assert "hunter2" not in repr(logs)


def test_a_redis_that_is_not_there_costs_little() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"redis://127.0.0.1:{free.getsockname()[1]}"
        limit = make_rate_limit(Settings(rate_limit=100, rate_limit_storage=address))
        assert limit is not None
        with capture_logs() as logs:
            for _ in range(10):
                limit.check(inbound(BEARER))
    assert len(logs) == 1
