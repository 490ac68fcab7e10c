"""A console that knows nothing but the database which several gateways share."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests
from console_process import ConsoleProcess
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider, WaitFor, answer, event, imitate, stream
from playwright.sync_api import Page, expect
from postgres_server import PASSWORD, PostgresServer, postgres_server, without_password
from waiting import PATIENCE, wait_until

from aigateway.actors.control.local.api_keys import create_key
from aigateway.actors.control.local.opening import open_address


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=imitate()) as running:
        yield running


@pytest.fixture(scope="module")
def address(server: PostgresServer) -> str:
    return server.new_database()


def gateway(folder: Path, provider: ScriptedProvider, address: str) -> GatewayProcess:
    return GatewayProcess(
        folder,
        [Upstream("anthropic", provider.url)],
        workers=1,
        local=False,
        environ={
            "CODER_AI_GATEWAY_LOCAL": "true",
            "CODER_AI_GATEWAY_LOCAL_DB": without_password(address),
            "PGPASSWORD": PASSWORD,
        },
    )


@pytest.fixture(scope="module")
def gateways(
    address: str, provider: ScriptedProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[GatewayProcess]]:
    one = gateway(tmp_path_factory.mktemp("one"), provider, address)
    two = gateway(tmp_path_factory.mktemp("two"), provider, address)
    with one, two:
        yield [one, two]


@pytest.fixture(scope="module")
def key(address: str, gateways: list[GatewayProcess]) -> str:
    with closing(open_address(address)) as database:
        return create_key(database, "grace").token


@pytest.fixture(scope="module")
def console(
    address: str, gateways: list[GatewayProcess], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ConsoleProcess]:
    with ConsoleProcess(tmp_path_factory.mktemp("console"), address) as running:
        yield running


def ask(gateway: GatewayProcess, key: str, model: str) -> int:
    return requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json={
            "model": model,
            "max_tokens": 50,
            "stream": True,
            "messages": [{"role": "user", "content": "Who is running?"}],
        },
        headers={"X-Api-Key": key},
        timeout=PATIENCE,
    ).status_code


def shown_at(gateway: GatewayProcess) -> str:
    return gateway.url.removeprefix("http://")


def test_the_requests_of_all_gateways_are_shown_while_they_run(
    console: ConsoleProcess, gateways: list[GatewayProcess], key: str, provider: ScriptedProvider
) -> None:
    go_on = threading.Event()
    first = {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 7}}}
    begin, end = event(first, "message_start"), event({"type": "message_stop"}, "message_stop")
    asking = []
    for number, each in enumerate(gateways):
        provider.play(stream([begin, WaitFor(go_on), end]))
        asking.append(threading.Thread(target=ask, args=(each, key, f"model-{number}")))
        asking[-1].start()
    try:

        def shown() -> bool:
            page = console.get("/now").text
            return all(
                re.search(rf'model-{number}.*?<span class="pill busy">relay', page, re.DOTALL)
                for number in range(2)
            )

        wait_until(shown, "both requests are shown with their stage")
    finally:
        go_on.set()
        for thread in asking:
            thread.join()


def test_a_key_that_rests_in_one_gateway_is_shown(
    console: ConsoleProcess, gateways: list[GatewayProcess], key: str, provider: ScriptedProvider
) -> None:
    page = console.get("/providers").text
    assert "in 2 of 2 gateways" in page
    assert "serving" in page
    error = {"type": "error", "error": {"type": "rate_limit_error", "message": "later"}}
    provider.play(answer(error, 429, [("Retry-After", "60")]))
    assert ask(gateways[1], key, "of-the-second") == 429
    wait_until(lambda: "model of-the-second" in console.get("/providers").text, "the rest is shown")


def test_actors_are_shown_by_gateway_and_restarted_in_one(
    page: Page, console: ConsoleProcess, gateways: list[GatewayProcess]
) -> None:
    page.goto(f"{console.url}/actors")
    for each in gateways:
        expect(page.get_by_role("heading", name=shown_at(each))).to_be_visible()
    (pid,) = gateways[1].worker_pids()
    # The one that tells of it is no exception.
    for role in ("recorder", "reporter"):
        page.get_by_role("link", name=f"Restart {role} of worker {pid}").click()
        page.get_by_label("Why").fill("It looked tired.")
        page.get_by_role("button", name="Restart").click()
        expect(page.get_by_role("status")).to_have_text("It is started again.")
        page.get_by_role("link", name="See the actors").click()
        section = page.locator("section", has=page.get_by_role("heading", name=f"Worker {pid}"))
        line = section.get_by_role("row", name=re.compile(f"^{role}"))
        expect(line.locator("td.n").nth(1)).to_have_text("1")
    (pid,) = gateways[0].worker_pids()
    other = page.locator("section", has=page.get_by_role("heading", name=f"Worker {pid}"))
    for row in other.get_by_role("row").all()[1:]:
        assert row.locator("td.n").nth(1).inner_text() == "0"


def test_what_a_worker_does_is_shown(
    page: Page, console: ConsoleProcess, gateways: list[GatewayProcess]
) -> None:
    (pid,) = gateways[0].worker_pids()
    page.goto(f"{console.url}/actors")
    page.get_by_role("link", name=re.compile(f"what it does.*{pid}")).click()
    expect(page.get_by_label(f"Trace of worker {pid}")).to_contain_text("stack 0: ")
    console.get("/actors/trace?worker=nobody", status=404)


def test_a_provider_is_tested_by_a_gateway_elsewhere(
    page: Page, console: ConsoleProcess, provider: ScriptedProvider
) -> None:
    provider.play(answer({"data": [{"id": "claude-b"}, {"id": "claude-a"}]}))
    page.goto(f"{console.url}/providers/test?name=anthropic")
    page.get_by_role("button", name="Test it").click()
    expect(page.locator(".models li").first).to_have_text("claude-a")


def test_a_gateway_that_was_killed_is_told_apart_and_one_that_ended_is_gone(
    console: ConsoleProcess, address: str, provider: ScriptedProvider, tmp_path: Path
) -> None:
    folders = [tmp_path / "third", tmp_path / "ended"]
    for folder in folders:
        folder.mkdir()
    third, ended = (gateway(folder, provider, address) for folder in folders)
    for each in (third, ended):
        each.start()
        wait_until(lambda g=each: shown_at(g) in console.get("/actors").text, "it is shown")
    (pid,) = third.worker_pids()
    third.kill()
    ended.stop()

    def silent() -> bool:
        found = re.search(rf"Worker {pid}\s.*?</h3>", console.get("/actors").text, re.DOTALL)
        assert found is not None
        return "no sign of life" in found[0]

    wait_until(silent, "the one that was killed is said to be silent", 20)
    assert shown_at(ended) not in console.get("/actors").text
    wait_until(lambda: f"Worker {pid}" in console.get("/now").text, "it is said there, too", 20)
    assert "in 2 of 2 gateways" not in console.get("/providers").text
    with closing(open_address(address)) as database:
        database.execute("UPDATE gateway_workers SET seen_at = seen_at - 1000")
        database.execute("UPDATE gateway_reports SET seen_at = seen_at - 1000")
    wait_until(lambda: f"Worker {pid}" not in console.get("/actors").text, "it is forgotten")


def test_without_the_database_the_pages_say_so_and_requests_go_on(
    server: PostgresServer, console: ConsoleProcess, gateways: list[GatewayProcess], key: str
) -> None:
    assert ask(gateways[0], key, "before") == 200
    server.kill()
    try:
        for path in ("/now", "/providers", "/actors"):
            wait_until(
                lambda p=path: "the gateways cannot be heard" in console.get(p).text,
                f"{path} says so",
            )
    finally:
        server.start()
    wait_until(
        lambda: shown_at(gateways[0]) in console.get("/actors").text, "they are heard again", 30
    )
    assert ask(gateways[0], key, "after") == 200
