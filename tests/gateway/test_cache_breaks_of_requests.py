"""Cache breaks, from requests of a session to what is shown of a real gateway."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
from gateway_process import GatewayProcess, Upstream, wait_until
from imitation_provider import ScriptedProvider, Steps, answer, event, stream

from aigateway.actors.control.local.schema import read_database
from aigateway.actors.control.local.sessions import sessions_named
from aigateway.actors.control.local.timeline import timeline

SESSION = Path(__file__).with_name("claude_code_session.jsonl")
"""What Claude Code 2.1.197 sent in six turns, its long texts cut to their beginning and a checksum,
and what a provider's cache did: input, read, written.  The second turn begins a subagent, the
fourth and fifth have two tools less, then the conversation is compacted."""

CODEX_SESSION = Path(__file__).with_name("codex_session.jsonl")
"""What Codex 0.171 sent over HTTP in five turns, cut in the same way, with the names alone of its
tools, and what a provider's cache did: input, of it read, output.  The second turn begins a
subagent, which goes on from its conversation, the third waits for that; then the conversation is
compacted."""

MARK = {"type": "ephemeral"}
SYSTEM = [{"type": "text", "text": "be brief", "cache_control": MARK}]


def message(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text, **more}]}


def told(read: int, write: int, fresh: int = 3) -> dict[str, Any]:
    """An answer of Anthropic's that has read and written so many tokens of the cache."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-opus-5",
        "content": [{"type": "text", "text": "yes"}],
        "stop_reason": "end_turn",
        "usage": {
            "input_tokens": fresh,
            "output_tokens": 4,
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": write,
        },
    }


def ask(
    gateway: GatewayProcess,
    provider: ScriptedProvider,
    said: str,
    *,
    read: int = 0,
    write: int = 0,
    session: str = "s-1",
    **body: Any,
) -> str:
    """Ask with a message for each letter; the id of the interception."""
    provider.play(answer(told(read, write)))
    messages = [*map(message, said[:-1]), message(said[-1], cache_control=MARK)]
    document = {"model": "claude-opus-5", "max_tokens": 64, "system": SYSTEM, "messages": messages}
    answered = requests.post(
        f"{gateway.url}/anthropic/v1/messages",
        json={**document, **body},
        headers={
            "Authorization": f"Bearer {gateway.key()}",
            "User-Agent": "claude-cli/2.1",
            **({"X-Claude-Code-Session-Id": session} if session else {}),
        },
        timeout=30,
    )
    assert answered.status_code == 200
    id = answered.headers["X-AI-Gateway-Interception-Id"]
    gateway.records(id)
    return id


def turn(gateway: GatewayProcess, id: str) -> dict[str, Any]:
    """As the gateway has compared it, some seconds after its end."""

    def kept() -> list[dict[str, Any]]:
        return gateway.rows("SELECT * FROM cache_turns WHERE interception_id = ?", id)

    wait_until(kept, "the turn is compared")
    (row,) = kept()
    return row


def test_a_break_is_named_with_its_cause_and_its_cost(
    any_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    ask(any_gateway, provider, "a", write=10_000)
    good = ask(any_gateway, provider, "abc", read=10_000, write=5000)
    tools = ask(any_gateway, provider, "abcde", write=16_000, tools=[{"name": "Bash"}])
    assert turn(any_gateway, good)["cause"] is None
    broken = turn(any_gateway, tools)
    assert (broken["cause"], broken["could_tokens"], broken["lost_tokens"]) == (
        "tools",
        15_000,
        15_000,
    )
    # Opus 5 writes at $6.25 a million and reads at $0.50.
    assert broken["cost_nano_usd"] == 15_000 * (6250 - 500)


def send_again(gateway: GatewayProcess, path: str, request: dict[str, Any]) -> None:
    """Send what a client once sent, and wait until it is recorded."""
    body = json.dumps(request["body"], ensure_ascii=False, separators=(",", ":"))
    answered = requests.post(
        f"{gateway.url}/{path}",
        data=body.encode(),
        headers={
            **request["headers"],
            "Authorization": f"Bearer {gateway.key()}",
            "Content-Type": "application/json",
        },
        timeout=30,
    )
    assert answered.status_code == 200
    gateway.records(answered.headers["X-AI-Gateway-Interception-Id"])


def test_a_session_of_claude_code_is_told_as_it_happened(
    any_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    sent = [json.loads(line) for line in SESSION.read_text("utf-8").splitlines()]
    session = sent[0]["headers"]["x-claude-code-session-id"]
    for request in sent:
        fresh, read, write = request["usage"]
        provider.play(answer(told(read, write, fresh)))
        send_again(any_gateway, "anthropic/v1/messages", request)
    with closing(read_database(any_gateway.database)) as database:
        (row,) = sessions_named(database, session)
        tree = timeline(database, (row.user_id, session))
    (helper,) = tree.agents
    assert (len(tree.turns), len(helper.turns), helper.agents) == (8, 1, ())
    assert tree.in_order().index(helper) == 2
    kinds = [prompt.kind for turn in tree.turns for prompt in turn.prompts]
    assert kinds == ["user"] * 5 + ["compaction", "user"]
    found = [(turn.cache.cause, turn.cache.place) for turn in tree.turns if turn.cache]
    nothing = (None, None)
    assert found == [*[nothing] * 4, ("tools", None), nothing, nothing, ("message", 1)]
    assert helper.turns[0].cache is not None
    assert helper.turns[0].cache.cause is None
    assert row.cache.breaks == 2


def responded(whole: int, read: int, made: int) -> Steps:
    """A stream of the Responses API with this usage."""
    usage = {
        "input_tokens": whole,
        "input_tokens_details": {"cached_tokens": read},
        "output_tokens": made,
        "total_tokens": whole + made,
    }
    response = {"id": "resp_1", "status": "completed", "output": [], "usage": usage}
    done = {"type": "response.completed", "response": response}
    return stream([event(done, done["type"])])


def test_a_session_of_codex_is_told_as_it_happened(
    any_gateway: GatewayProcess, provider: ScriptedProvider
) -> None:
    sent = [json.loads(line) for line in CODEX_SESSION.read_text("utf-8").splitlines()]
    session = sent[0]["headers"]["session-id"]
    for request in sent:
        provider.play(responded(*request["usage"]))
        send_again(any_gateway, "openai/v1/responses", request)
    with closing(read_database(any_gateway.database)) as database:
        (row,) = sessions_named(database, session)
        tree = timeline(database, (row.user_id, session))
    assert row.repositories == ("git.example/acme/shop",)
    (helper,) = tree.agents
    assert (len(tree.turns), len(helper.turns), helper.agents) == (9, 1, ())
    assert [prompt.kind for turn in tree.turns for prompt in turn.prompts] == ["user"] * 5
    assert [prompt.kind for prompt in helper.turns[0].prompts] == ["agent"]
    assert [turn.compacts for turn in tree.turns].index(True) == 6
    found = [(turn.cache.cause, turn.cache.place) for turn in tree.turns if turn.cache]
    assert found == [*[(None, None)] * 7, ("message", 1), (None, None)]
    (waited,) = any_gateway.rows(
        "SELECT correlating_tool_call_id AS call FROM interceptions WHERE id = ?",
        tree.turns[5].interception_id,
    )
    assert waited["call"] == sent[6]["body"]["input"][-2]["call_id"]


def test_nothing_of_it_is_text(any_gateway: GatewayProcess, provider: ScriptedProvider) -> None:
    id = ask(any_gateway, provider, "a", write=10_000, session="s-2")
    assert 0 < len(turn(any_gateway, id)["parts"]) < 40


@pytest.mark.parametrize("how", ["no session", "no content"])
def test_who_records_no_content_or_names_no_session_has_no_checksums(
    tmp_path: Path, provider: ScriptedProvider, how: str
) -> None:
    options = ["--content", "none"] if how == "no content" else []
    with GatewayProcess(tmp_path, [Upstream("anthropic", provider.url)], options) as gateway:
        session = "" if how == "no session" else "s-1"
        ask(gateway, provider, "a", write=10_000, session=session)
        assert gateway.rows("SELECT * FROM cache_turns") == []
        assert gateway.rows("SELECT * FROM cache_pending") == []
