"""Claude Code works for six turns, and the gateway tells what it did."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from claude_code_process import ClaudeCode
from gateway_process import GatewayProcess, Upstream
from imitation_provider import ScriptedProvider
from scripted_anthropic import ScriptedAnthropic
from told_session import breaks, kinds, prompts, session, tools, turns

LOOK = 'Look at the file\nCALL Bash {"command":"cat a.txt","description":"look"}'
HELP = (
    "Have a helper count\n"
    'CALL Agent {"description":"count","subagent_type":"general-purpose",'
    '"prompt":"Count the files\\nCALL Bash {\\"command\\":\\"ls\\",\\"description\\":\\"count\\"}"}'
)
WITHOUT = ("--disallowedTools", "NotebookEdit,WebFetch")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    with (
        ScriptedProvider(otherwise=ScriptedAnthropic()) as provider,
        GatewayProcess(tmp_path / "gw", [Upstream("anthropic", provider.url)]) as gateway,
    ):
        yield gateway


def test_six_turns_of_claude_code_are_told_as_they_happened(
    gateway: GatewayProcess, shop: Path, tmp_path: Path
) -> None:
    environ = {
        "ANTHROPIC_BASE_URL": f"{gateway.url}/anthropic",
        "ANTHROPIC_AUTH_TOKEN": gateway.key("ada"),
        "ANTHROPIC_CUSTOM_HEADERS": "X-AI-Gateway-Branch: fix/size",
    }
    model = ("--model", "claude-opus-5")
    with ClaudeCode(tmp_path, shop, environ, *model) as claude:
        for text in (LOOK, HELP, "The third"):
            claude.turn(text)
        id = claude.session_id
    with ClaudeCode(tmp_path, shop, environ, *model, "--resume", id, *WITHOUT) as claude:
        for text in ("With fewer tools", "/compact", "After the compaction", "The last"):
            claude.turn(text)
        assert claude.session_id == id

    told = session(gateway, id)
    main = told["timeline"]
    assert (told["clients"], told["models"]) == (["Claude Code"], ["claude-opus-5"])
    assert (told["branches"], told["errors"], told["agents"]) == (["fix/size"], 0, 1)
    asked = prompts(main)
    assert asked[:4] == ["Look at the file", "Have a helper count", "The third", "With fewer tools"]
    assert asked[5:] == ["After the compaction", "The last"]
    assert kinds(main) == ["user"] * 4 + ["compaction"] + ["user"] * 2
    assert tools(main) == ["Bash", "Agent"]
    assert len(turns(main)) == 9
    (helper,) = main["agents"]
    assert (prompts(helper), kinds(helper)) == (["Count the files"], ["agent"])
    assert tools(helper) == ["Bash"]
    assert breaks(main)["With fewer tools"] == "tools"
    assert set(breaks(main).values()) <= {"tools", "message"}
    assert breaks(helper) == {}
    assert told["cache"]["cost_nano_usd"] > 0
