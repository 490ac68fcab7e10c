"""What the console learns from the gateway of its machine."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from html import unescape
from pathlib import Path

import pytest
import requests
from console_process import ConsoleProcess
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider, WaitFor, answer, event, imitate, stream
from waiting import PATIENCE, wait_until

REFUSAL = {"type": "error", "error": {"type": "rate_limit_error", "message": "later"}}
ASKED = {
    "model": "claude-of-the-test",
    "max_tokens": 50,
    "stream": True,
    "messages": [{"role": "user", "content": "Who is running?"}],
}


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=imitate()) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(
    provider: ScriptedProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gateway")
    with GatewayProcess(folder, [Upstream("anthropic", provider.url)], workers=2) as running:
        running.key("grace")
        yield running


@pytest.fixture(scope="module")
def console(
    gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ConsoleProcess]:
    folder = tmp_path_factory.mktemp("console")
    with ConsoleProcess(folder, gateway.database, gateway.runtime_dir) as running:
        yield running


def ask(gateway: GatewayProcess) -> requests.Response:
    return requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json=ASKED,
        headers={"X-Api-Key": gateway.key("grace"), "User-Agent": "claude-cli/9.9"},
        timeout=PATIENCE,
    )


def fragments(console: ConsoleProcess) -> Generator[str]:
    """What a page that is open is told."""
    with console.get("/now/events", stream=True) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        data: list[str] = []
        for line in answer.iter_lines(decode_unicode=True):
            if line.startswith("data: "):
                data.append(line.removeprefix("data: "))
            elif not line and data:
                yield unescape("\n".join(data))
                data = []


def test_a_request_is_seen_while_it_runs_and_when_it_has_ended(
    console: ConsoleProcess, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    go_on = threading.Event()
    first = {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 7}}}
    begin, end = event(first, "message_start"), event({"type": "message_stop"}, "message_stop")
    provider.play(stream([begin, WaitFor(go_on), end]))
    seen = fragments(console)
    assert "claude-of-the-test" not in next(seen)
    asking = threading.Thread(target=ask, args=(gateway,))
    asking.start()
    try:
        running = next(part for part in seen if "claude-of-the-test" in part and "relay" in part)
    finally:
        go_on.set()
        asking.join()
    assert "grace" in running
    assert "Claude Code" in running
    assert '<span class="pill busy">relay</span>' in running
    ended = next(part for part in seen if "Nothing runs at this moment" in part)
    assert "Who is running?" in ended
    seen.close()


def test_a_key_that_rests_is_shown_with_its_reason(
    console: ConsoleProcess, gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    assert "serving" in console.get("/providers").text
    provider.play(answer(REFUSAL, 429, [("Retry-After", "60")]))
    assert ask(gateway).status_code == 429
    page = wait_until(
        lambda: text if "rests" in (text := console.get("/providers").text) else None,
        "the key is said to rest",
    )
    assert "1 of 1 keys rest" in page
    assert "rate limited" in page
    assert "model claude-of-the-test" in page
    assert "sk-upstream-secret-key" not in page
    assert provider.url in page


def test_the_actors_of_each_worker_are_shown(
    console: ConsoleProcess, gateway: GatewayProcess
) -> None:
    page = console.get("/actors").text
    for pid in gateway.worker_pids():
        assert f"Worker {pid}" in page
    for role in ("supervisor", "control-plane", "recorder", "provider/anthropic"):
        assert page.count(f"<bdi>{role}</bdi>") == 2


def test_a_console_with_open_pages_stops_all_the_same(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    console = ConsoleProcess(tmp_path, gateway.database, gateway.runtime_dir).start()
    pages = [fragments(console) for _ in range(3)]
    assert all("Running" in next(page) for page in pages)
    assert console.stop() == 0
    # Each stream ended as a whole answer does.
    assert all(isinstance(part, str) for page in pages for part in page)
