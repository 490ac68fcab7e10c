"""Codex works over HTTP and over a WebSocket, and the gateway tells what it did."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import pytest
from codex_process import Codex
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider
from scripted_responses import ScriptedResponses
from socket_provider import SocketProvider
from told_session import breaks, kinds, prompts, session, tools

ROADS = ["http", "websocket"]
BRANCH = '{"X-AI-Gateway-Branch"="AIGATEWAY_BRANCH"}'

Start: TypeAlias = Callable[..., Codex]


@pytest.fixture(params=ROADS)
def road(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def gateway(road: str, tmp_path: Path) -> Iterator[GatewayProcess]:
    """In front of a provider that has WebSockets, or has none."""
    with ExitStack() as stack:
        script = ScriptedResponses()
        provider: ScriptedProvider | SocketProvider
        if road == "http":
            provider = stack.enter_context(ScriptedProvider(otherwise=script))
        else:
            provider = stack.enter_context(SocketProvider(script.socket))
        upstreams = [Upstream("openai", provider.url)]
        yield stack.enter_context(GatewayProcess(tmp_path / "gw", upstreams))


@pytest.fixture
def name() -> str:
    """What Codex calls its provider: one that is called OpenAI has compactions of its own."""
    return "aigateway"


@pytest.fixture
def start(gateway: GatewayProcess, shop: Path, tmp_path: Path, name: str) -> Start:
    """Starts Codex in the repository, with these options of its file."""
    home = tmp_path / "codex"
    home.mkdir()
    (home / "config.toml").write_text(f"""\
model_provider = "aigateway"
approval_policy = "never"
sandbox_mode = "danger-full-access"

[model_providers.aigateway]
name = "{name}"
base_url = "{gateway.url}/openai/v1"
env_key = "AIGATEWAY_KEY"
supports_websockets = true

[projects."{shop}"]
trust_level = "trusted"
""")
    environ = {"AIGATEWAY_KEY": gateway.key("ada"), "AIGATEWAY_BRANCH": "fix/size"}
    told = f"model_providers.aigateway.env_http_headers={BRANCH}"

    def start(*options: str) -> Codex:
        return Codex(
            home, shop, environ, *(part for each in (told, *options) for part in ("-c", each))
        )

    return start


def commit(folder: Path) -> str:
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def roads(gateway: GatewayProcess) -> set[str]:
    """By which its requests came."""
    methods = {line["fields"].get("method") for line in gateway.logs()}
    return {
        {"POST": "http", "WEBSOCKET": "websocket"}[each] for each in methods & {"POST", "WEBSOCKET"}
    }


def test_six_turns_of_codex_are_told_as_they_happened(
    gateway: GatewayProcess, shop: Path, start: Start, road: str
) -> None:
    with start() as codex:
        id = codex.begin("gpt-5.5")
        codex.turn(id, 'Look at the file\nCALL function_call exec_command {"cmd":"cat a.txt"}')
        spawn = '{"message":"Count the files"}'
        codex.turn(
            id, f"Have a helper count\nCALL function_call multi_agent_v1/spawn_agent {spawn}"
        )
        patch = "*** Begin Patch *** End Patch"
        codex.turn(id, f"Mend it\nCALL custom_tool_call apply_patch {patch}")
        codex.compact(id)
        codex.turn(id, "After the compaction")
        codex.turn(id, "The fifth")
    with start('web_search="disabled"') as codex:
        codex.ask("thread/resume", threadId=id)
        codex.turn(id, "With fewer tools")

    assert roads(gateway) == {road}
    told = session(gateway, id)
    main = told["timeline"]
    assert (told["clients"], told["models"]) == (["Codex"], ["gpt-5.5"])
    assert (told["errors"], told["agents"]) == (0, 1)
    assert (told["repositories"], told["branches"]) == (["git.example/acme/shop"], ["fix/size"])
    known = {turn["commit"] for turn in main["turns"] if turn["prompts"]}
    # Codex looks for it beside its first request.
    assert known - {None} == {commit(shop)}
    assert prompts(main) == [
        "Look at the file",
        "Have a helper count",
        "Mend it",
        "You are performing a CONTEXT CHECKPOINT COMPACTION. Create a handoff summary for another"
        " LLM that will resume the task.",
        "After the compaction",
        "The fifth",
        "With fewer tools",
    ]
    assert kinds(main) == ["user"] * 3 + ["compaction"] + ["user"] * 3
    assert tools(main) == ["exec_command", "multi_agent_v1__spawn_agent", "apply_patch"]
    (helper,) = main["agents"]
    assert (prompts(helper), kinds(helper)) == (["Count the files"], ["agent"])
    found = breaks(main)
    assert found["With fewer tools"] == "tools"
    assert found["After the compaction"] == "message"
    assert told["cache"]["cost_nano_usd"] > 0


@pytest.mark.parametrize("name", ["aigateway", "OpenAI"])
def test_a_model_whose_tools_are_in_items_is_told_as_it_worked(
    gateway: GatewayProcess, start: Start, name: str
) -> None:
    with start() as codex:
        id = codex.begin("gpt-5.6-sol")
        code = 'text((await tools.exec_command({cmd: "cat a.txt"})).output)'
        codex.turn(id, f"Look at the file\nCALL custom_tool_call functions/exec {code}")
        spawn = '{"task_name":"helper","message":"Count the files"}'
        codex.turn(id, f"Have a helper count\nCALL function_call collaboration/spawn_agent {spawn}")
        codex.turn(id, "Wait for it\nCALL function_call collaboration/wait_agent {}")
        codex.compact(id)
        codex.turn(id, "After the compaction")

    told = session(gateway, id)
    main = told["timeline"]
    asked_for = ["compaction"] if name == "aigateway" else []
    assert kinds(main) == ["user"] * 3 + asked_for + ["user"]
    assert [turn["compacts"] for turn in main["turns"]].count(True) == 1 - len(asked_for)
    assert tools(main) == [
        "functions__exec",
        "collaboration__spawn_agent",
        "collaboration__wait_agent",
    ]
    (helper,) = main["agents"]
    assert kinds(helper) == ["agent"]
    assert helper["turns"][-1]["prompts"][0]["text"].startswith("Message Type: NEW_TASK")
    # Its tools and its instructions were read again.
    assert breaks(main) == {"After the compaction": "message"}
