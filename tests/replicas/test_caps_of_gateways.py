"""Caps that hold: many requests at once, in two gateways with two workers each."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import requests
from gateway_process import GatewayProcess, Upstream, wait_until
from imitation_provider import ScriptedProvider, Send, WaitFor, answer, event, head, stream
from postgres_server import PASSWORD, PostgresServer, postgres_server, without_password

from aigateway.actors.control.local.api_keys import create_key
from aigateway.actors.control.local.opening import open_address
from aigateway.actors.control.local.policies import apply, newest
from aigateway.actors.control.local.schema import Database

CLOCK = Path(__file__).parent / "set_clock"
USD = 10**9
TOKENS = 600_000
"""Of output, $3 of claude-haiku-4-5."""
DAY = 24 * 3600.0

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-4-5",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 0, "output_tokens": TOKENS},
}
EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("message_start", {"message": {**MESSAGE, "content": [], "usage": {"output_tokens": 1}}}),
    ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
    ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "hello"}}),
    ("content_block_stop", {"index": 0}),
    (
        "message_delta",
        {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": TOKENS}},
    ),
    ("message_stop", {}),
]

POLICY = """
contact: "ask #ai-budget"
everybody:
  caps:
    - {usd: 10, every: day}
"""


class Team:
    """Two gateways on one database, and what tests do with them."""

    def __init__(
        self, stack: ExitStack, folder: Path, provider: ScriptedProvider, address: str
    ) -> None:
        self.address = address
        self.database: Database = stack.enter_context(closing(open_address(address)))
        apply(self.database, POLICY, over=newest(self.database).version, who="test")
        self.ahead = 0.0
        self.clock = folder / "ahead"
        self.set_clock(0.0)
        shared = "://" in address
        environ = {
            "CODER_AI_GATEWAY_LOCAL": "true",
            "CODER_AI_GATEWAY_LOCAL_DB": without_password(address) if shared else address,
            "PGPASSWORD": PASSWORD,
            "AHEAD_FILE": str(self.clock),
            "PYTHONPATH": os.pathsep.join([str(CLOCK), os.environ.get("PYTHONPATH", "")]),
        }
        self.gateways = [
            stack.enter_context(
                GatewayProcess(
                    folder / name,
                    [Upstream("anthropic", provider.url), Upstream("openai", provider.url)],
                    ["--max-wait", "60s", "--ai-gateway-allow-byok"],
                    workers=2,
                    local=False,
                    environ=environ,
                )
            )
            for name in ("one", "two")
        ]

    def key(self, user: str) -> str:
        return create_key(self.database, user).token

    def later(self, seconds: float) -> None:
        """Set the gateways' clocks."""
        self.ahead += seconds
        self.set_clock(self.ahead)

    def set_clock(self, seconds: float) -> None:
        """How far the gateways' clocks are ahead."""
        written = self.clock.with_suffix(".new")
        written.write_text(str(seconds))
        written.replace(self.clock)

    def ask(
        self, key: str, number: int = 0, *, streaming: bool = False, **more: Any
    ) -> requests.Response:
        body = {
            "model": "claude-haiku-4-5",
            "max_tokens": TOKENS,
            "stream": streaming,
            "messages": [{"role": "user", "content": "hello"}],
        }
        return requests.post(
            f"{self.gateways[number % 2].url}/anthropic/v1/messages",
            json=body | more.pop("body", {}),
            headers={"Authorization": f"Bearer {key}"} | more.pop("headers", {}),
            timeout=120,
            **more,
        )

    def tills(self, user: str) -> list[tuple[int, int, int]]:
        """Spent, reserved and running, by window."""
        rows = self.database.execute(
            "SELECT spent_nano_usd, reserved_nano_usd, running FROM cap_tills"
            " WHERE name = ? ORDER BY starts_at",
            (user,),
        )
        return [tuple(row) for row in rows.fetchall()]


@pytest.fixture(scope="module")
def provider() -> Iterator[ScriptedProvider]:
    def play(request: Any) -> Any:
        if b'"stream": true' in request.body:
            return stream([event({"type": name, **data}, name) for name, data in EVENTS])
        return answer(MESSAGE)

    with ScriptedProvider(otherwise=play) as provider:
        yield provider


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def team(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    provider: ScriptedProvider,
) -> Iterator[Team]:
    """Its clock only goes on, and each test has a user of its own."""
    folder = tmp_path_factory.mktemp("team")
    address = str(folder / "team.db")
    if request.param == "postgresql":
        address = request.getfixturevalue("server").new_database()
    with ExitStack() as stack:
        yield Team(stack, folder, provider, address)


@pytest.mark.timeout(300)
def test_a_burst_spends_the_cap_and_one_request_at_most(team: Team) -> None:
    key = team.key("ada")
    for many in (20, 200):
        team.later(DAY)
        with ThreadPoolExecutor(many) as pool:
            said = list(pool.map(lambda n: team.ask(key, n, streaming=n % 3 == 0), range(many)))
        passed = [each for each in said if each.status_code == 200]
        refused = [each for each in said if each.status_code == 429]
        assert len(passed) == 4
        assert len(refused) == many - 4
        for each in refused:
            assert each.headers["x-should-retry"] == "false"
            assert 0 < int(each.headers["Retry-After"]) <= DAY
            error = each.json()["error"]
            assert error["type"] == "rate_limit_error"
            assert error["message"].startswith(
                "the day's cap of $10.00 for you (everybody.caps[0]) is spent ($12.00) until "
            )
            assert error["message"].endswith("; ask #ai-budget")
        wait_until(lambda: team.tills("ada")[-1] == (12 * USD, 0, 0), "all is settled")
    team.later(DAY)
    assert team.ask(key).status_code == 200


def test_answers_say_that_much_of_a_cap_is_spent(team: Team) -> None:
    key = team.key("grace")
    warnings = []
    for number in range(4):
        said = team.ask(key, number, body={"max_tokens": 1 if number < 3 else TOKENS})
        assert said.status_code == 200
        warnings.append(said.headers.get("X-AI-Gateway-Cap-Warning"))
        spent = (number + 1) * 3 * USD
        wait_until(lambda spent=spent: team.tills("grace") == [(spent, 0, 0)], "it is settled")
    assert warnings[:3] == [None] * 3
    assert warnings[3] is not None
    assert warnings[3].startswith('75; cap="you"; spent="$9.00"; of="$10.00"; every=day; resets=20')


@pytest.mark.parametrize(
    ("spent", "level"), [("7.49", None), ("7.50", "75"), ("9.49", "75"), ("9.50", "95")]
)
def test_the_header_has_two_levels(team: Team, spent: str, level: str | None) -> None:
    user = f"barbara-{spent}"
    key = team.key(user)
    assert team.ask(key).status_code == 200
    wait_until(lambda: team.tills(user) == [(3 * USD, 0, 0)], "it is settled")
    team.database.execute(
        "UPDATE cap_tills SET spent_nano_usd = ? WHERE name = ?", (int(float(spent) * USD), user)
    )
    said = team.ask(key, 1, body={"max_tokens": 1})
    assert said.status_code == 200
    told = said.headers.get("X-AI-Gateway-Cap-Warning")
    if level is None:
        assert told is None
    else:
        assert told is not None
        assert told.startswith(f'{level}; cap="you"; spent="${spent}"; of="$10.00"; every=day;')


def test_what_has_no_price_is_refused_and_a_key_of_ones_own_is_not_capped(team: Team) -> None:
    key = team.key("alan")
    said = team.ask(key, body={"model": "claude-nonesuch-9"})
    assert said.status_code == 403
    assert said.json()["error"]["message"] == (
        "there is no price for claude-nonesuch-9 of anthropic, and your spending has a cap"
        " (everybody.caps[0]): refused until there is one; ask #ai-budget"
    )
    own = {"X-Coder-AI-Governance-Token": key, "x-api-key": "sk-own", "Authorization": ""}
    assert team.ask(key, body={"model": "claude-nonesuch-9"}, headers=own).status_code == 200
    assert team.tills("alan") == []


def test_passed_routes_that_may_cost_money_are_refused_where_caps_hold(team: Team) -> None:
    key = team.key("edsger")
    url = team.gateways[0].url
    headers = {"Authorization": f"Bearer {key}"}
    said = requests.post(f"{url}/openai/v1/models/x/run", json={}, headers=headers, timeout=30)
    assert said.status_code == 403
    assert said.json()["error"]["message"] == (
        "POST /models/ may cost money that is not counted, and your spending has a cap"
        " (everybody.caps[0]): refused until that is changed; ask #ai-budget"
    )
    free = requests.get(f"{url}/openai/v1/models", headers=headers, timeout=30)
    assert free.status_code == 200
    counted = f"{url}/anthropic/v1/messages/count_tokens"
    assert requests.post(counted, json={}, headers=headers, timeout=30).status_code == 200


@pytest.mark.timeout(300)
def test_a_killed_workers_reservations_lapse(team: Team, provider: ScriptedProvider) -> None:
    """It is killed in the middle of an answer; who waits for it begins when that lapses."""
    key, go_on = team.key("kurt"), threading.Event()
    team.gateways[0].allowed_errors.append("Worker (pid:")
    asked = len(provider.requests)
    provider.play([Send(head(200, [("Content-Type", "application/json")])), WaitFor(go_on)])
    try:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(team.ask, key, body={"max_tokens": 2 * TOKENS})
            wait_until(lambda: len(provider.requests) > asked, "it is being answered")
            second = pool.submit(team.ask, key, 1, body={"max_tokens": 2 * TOKENS})
            for pid in team.gateways[0].worker_pids():
                os.kill(pid, signal.SIGKILL)
            assert second.result().status_code == 200
            assert first.exception() is not None
    finally:
        go_on.set()
    wait_until(lambda: team.tills("kurt") == [(3 * USD, 0, 0)], "nothing is reserved")
