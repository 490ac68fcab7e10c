"""Keys that a command says and that do not last: renewed once, without a failed request."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from aws_imitation import aws_gate
from azure_stub import AzureStub, entra_token
from gateway_process import GatewayProcess, Upstream, wait_until
from imitation_provider import ReceivedRequest, ScriptedProvider, Steps, answer, error

from aigateway.actors.providers.said_keys import KeyCommandFailed, SaidKey, said_key

VERSION = "2024-10-21"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "Good morning."}]}


class Command:
    """A program that writes what a file holds, and notes that it ran."""

    def __init__(self, folder: Path) -> None:
        self._said = folder / "said"
        self._runs = folder / "runs"
        self._fails = folder / "fails"
        program = folder / "say.py"
        program.write_text(
            "import pathlib, sys\n"
            f"with open({str(self._runs)!r}, 'a') as runs: runs.write('x')\n"
            f"if pathlib.Path({str(self._fails)!r}).exists(): sys.exit(3)\n"
            f"print(pathlib.Path({str(self._said)!r}).read_text())\n"
        )
        self.line = f"{sys.executable} {program}"

    def says(self, text: str) -> None:
        fresh = self._said.with_suffix(".fresh")
        fresh.write_text(text)
        fresh.replace(self._said)

    def fails(self) -> None:
        self._fails.touch()

    @property
    def runs(self) -> int:
        return self._runs.stat().st_size if self._runs.exists() else 0


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture
def stub() -> AzureStub:
    return AzureStub()


@pytest.fixture
def azure(stub: AzureStub) -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=stub) as provider:
        yield provider


def gateway_for(
    folder: Path, url: str, command: Command, worker_class: str = "gevent", **more: str
) -> GatewayProcess:
    extra = {"BASE_URL": url, "KEY_COMMAND": command.line, **more}
    upstream = Upstream("azure", url, key="", extra=extra)
    return GatewayProcess(folder, [upstream], ["--worker-class", worker_class])


def client_for(gateway: GatewayProcess) -> openai.AzureOpenAI:
    return openai.AzureOpenAI(
        azure_endpoint=f"{gateway.url}/azure",
        api_key=gateway.key(),
        api_version=VERSION,
        max_retries=0,
    )


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_a_token_that_is_refused_is_renewed_once_under_load(
    tmp_path: Path, azure: ScriptedProvider, stub: AzureStub, command: Command, worker_class: str
) -> None:
    command.says(entra_token(3600, name="first"))
    with gateway_for(tmp_path / "gw", azure.url, command, worker_class) as gateway:
        with client_for(gateway) as client:
            client.chat.completions.create(model="prod-chat", **ASK)
            assert (stub.asked[-1][1], command.runs) == ("first", 1)
            command.says(json.dumps({"accessToken": entra_token(3600, name="second")}))
            gone = threading.Event()

            def ask(number: int) -> str:
                if number == 40:
                    stub.revoked.add("first")
                    gone.set()
                done = client.chat.completions.create(model="prod-chat", **ASK)
                return done.choices[0].message.content or ""

            with ThreadPoolExecutor(16) as pool:
                answers = list(pool.map(ask, range(120)))
        assert len(answers) == 120
        assert all(answers)
        assert command.runs == 2
        assert {who for _, who in stub.asked} == {"first", "second"}
        (hint,) = {row["credential_hint"] for row in gateway.rows("SELECT * FROM interceptions")}
        assert hint == "<key command>"
        shown = json.dumps(gateway.logs())
        assert "eyJ" not in shown


def test_a_token_is_renewed_before_it_ends(
    tmp_path: Path, azure: ScriptedProvider, stub: AzureStub, command: Command
) -> None:
    ends = time.time() + 6
    said = {"accessToken": entra_token(6, name="first"), "expires_on": int(ends)}
    command.says(json.dumps(said))
    with (
        gateway_for(tmp_path / "gw", azure.url, command) as gateway,
        client_for(gateway) as client,
    ):
        command.says(entra_token(3600, name="second"))

        def renewed() -> bool:
            client.chat.completions.create(model="prod-chat", **ASK)
            return stub.asked[-1][1] == "second"

        wait_until(renewed, "the second token is used")
        assert command.runs == 2
        assert not [each for each in azure.requests if each.done.is_set() and not each.target]


def test_a_command_that_fails_is_told_and_the_fallback_asked(
    tmp_path: Path, azure: ScriptedProvider, stub: AzureStub, command: Command
) -> None:
    command.says(entra_token(3600, name="first"))
    with gateway_for(tmp_path / "gw", azure.url, command) as gateway:
        with client_for(gateway) as client:
            client.chat.completions.create(model="prod-chat", **ASK)
            stub.revoked.add("first")
            command.fails()
            with pytest.raises(openai.APIStatusError) as caught:
                client.chat.completions.create(model="prod-chat", **ASK)
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == "5"
        said = str(caught.value)
        assert "CODER_AI_GATEWAY_PROVIDER_0_KEY_COMMAND: the command failed with code 3" in said
        assert command.line not in said
        (line, *_) = [row for row in gateway.logs() if "cannot renew" in json.dumps(row)]
        assert command.line not in json.dumps(line)


def test_a_key_that_stays_the_same_is_not_asked_for_again_and_again(
    tmp_path: Path, azure: ScriptedProvider, stub: AzureStub, command: Command
) -> None:
    command.says(entra_token(3600, name="first"))
    stub.revoked.add("first")
    with gateway_for(tmp_path / "gw", azure.url, command) as gateway:
        with client_for(gateway) as client:
            for _ in range(5):
                with pytest.raises(openai.APIStatusError) as caught:
                    client.chat.completions.create(model="prod-chat", **ASK)
                assert caught.value.status_code == 502
        assert command.runs == 2


def test_a_fresh_key_is_hidden_in_what_a_provider_quotes(
    tmp_path: Path, azure: ScriptedProvider, command: Command
) -> None:
    command.says("first-key-0123456789")
    with gateway_for(tmp_path / "gw", azure.url, command) as gateway:
        fresh = "0123456789fedcba0123456789fedcba"
        command.says(fresh)
        azure.play(error(401))
        azure.play(answer({"error": {"code": "x", "message": f"no access with {fresh}"}}, 403))
        with client_for(gateway) as client, pytest.raises(openai.PermissionDeniedError) as caught:
            client.chat.completions.create(model="prod-chat", **ASK)
        assert azure.requests[-1].header("api-key") == fresh
        assert fresh not in str(caught.value)
        assert fresh not in json.dumps(gateway.logs())


def test_bedrocks_short_lived_token_is_renewed(tmp_path: Path, command: Command) -> None:
    valid = ["bedrock-api-key-first"]
    body = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5",
        "content": [{"type": "text", "text": "Hello."}], "stop_reason": "end_turn",
        "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 2},
    }  # fmt: skip

    def script(request: ReceivedRequest) -> Steps:
        return aws_gate(lambda _request: answer(body), tokens=valid)(request)

    command.says(valid[0])
    with ScriptedProvider(otherwise=script) as aws:
        extra = {
            "BEDROCK_BASE_URL": aws.url,
            "BEDROCK_REGION": "us-west-2",
            "BEDROCK_BEARER_TOKEN_COMMAND": command.line,
        }
        upstream = Upstream("bedrock", aws.url, name="aws", key="", extra=extra)
        with GatewayProcess(tmp_path / "gw", [upstream]) as gateway:
            valid[0] = "bedrock-api-key-second"
            command.says(valid[0])
            for _ in range(3):
                answered = requests.post(
                    f"{gateway.url}/aws/v1/messages",
                    json={"model": "claude-x", "max_tokens": 10, **ASK},
                    headers={"x-api-key": gateway.key()},
                    timeout=10,
                )
                assert answered.status_code == 200, answered.text
            assert command.runs == 2


def test_the_check_says_that_a_command_says_the_key(
    tmp_path: Path, azure: ScriptedProvider, command: Command
) -> None:
    command.says(json.dumps({"token": "planted-key-0123456789", "expires_at": 2_000_000_000}))
    gateway = gateway_for(tmp_path / "gw", azure.url, command)
    told = gateway.command("check", "--local", "--json")
    (provider,) = json.loads(told.stdout)["providers"]
    assert provider["credentials"] == "keys plan...6789 by a command, until 2033-05-18T03:33:20Z"


@pytest.mark.parametrize(
    ("text", "said", "end"),
    [
        ("plain", "plain", None),
        ('{"accessToken":"t","expires_on":1800000000}', "t", 1_800_000_000),
        ('{"accessToken":"t","expires_on":"1800000000"}', "t", 1_800_000_000),
        ('{"access_token":"t","expires_in":60}', "t", 1_060),
        ('{"key":"t","expires_at":"2027-01-15T08:00:00Z"}', "t", 1_800_000_000),
        ('{"token":"t","expires_on":"soon"}', "t", None),
        ("eyJub.bm9qc29u.x", "eyJub.bm9qc29u.x", None),
    ],
)
def test_what_a_command_writes_is_a_key_and_its_end(
    text: str, said: str, end: float | None
) -> None:
    found = said_key(text, 1_000)
    assert (found, found.expires_at) == (SaidKey(said), end)


def test_a_token_says_itself_when_it_ends() -> None:
    end = said_key(entra_token(100), 0.0).expires_at
    assert end is not None
    assert abs(end - time.time() - 100) < 10


@pytest.mark.parametrize("text", ["{", '{"expires_on":1}', '{"key":7}'])
def test_json_without_a_key_is_a_failure(text: str) -> None:
    with pytest.raises(KeyCommandFailed) as caught:
        said_key(text, 0.0)
    assert text not in str(caught.value)
