"""With `--content none` nothing of what users and models said is kept or told anywhere.

Words are planted in everything that a request and its answer hold, for all three APIs,
blocking and streaming, whole and broken; then all that the gateway wrote is searched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from fake_coderd import FakeCoderd
from gateway_process import GatewayProcess, Upstream, message_of, wait_until
from imitation_provider import (
    ReceivedRequest,
    Reset,
    ScriptedProvider,
    Steps,
    answer,
    event,
    stream,
)
from otlp_collector import Collector

from aigateway.http.cli._bundle_sources import log_tails
from aigateway.http.settings import Settings

KEY = "k1234abcde-0123456789abcdefghij01"
WORD = "plantedword"
PROMPT, SAID, THOUGHT, INPUT, ERROR = (
    f"{WORD}-{what}" for what in ("prompt", "said", "thought", "input", "error")
)
RFC_3339 = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
USAGE = {"input_tokens": 11, "output_tokens": 7}


def message(**more: Any) -> dict[str, Any]:
    return {"id": "m1", "type": "message", "role": "assistant", "model": "m", **more}


BLOCKS = [
    {"type": "thinking", "thinking": THOUGHT, "signature": "s"},
    {"type": "text", "text": SAID},
    {"type": "tool_use", "id": "t1", "name": "look", "input": {"where": INPUT}},
]
CLAUDE = message(content=BLOCKS, usage=USAGE, stop_reason="tool_use")
CALL = {"name": "look", "arguments": json.dumps({"where": INPUT})}
CHAT = {
    "id": "c1", "object": "chat.completion", "model": "m",
    "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {
        "role": "assistant", "content": SAID, "reasoning_content": THOUGHT,
        "tool_calls": [
            {"id": "t1", "type": "function", "function": CALL},
            {"id": "t2", "type": "function",
             "function": {"name": "look", "arguments": f'{{"where": "{INPUT}'}}]}}],
    "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
}  # fmt: skip
RESPONSE = {
    "id": "r1", "object": "response", "status": "completed", "model": "m", "usage": USAGE,
    "output": [
        {"type": "reasoning", "id": "x", "summary": [{"type": "summary_text", "text": THOUGHT}]},
        {"type": "message", "id": "y", "role": "assistant",
         "content": [{"type": "output_text", "text": SAID}]},
        {"type": "function_call", "id": "z", "call_id": "t1", **CALL}],
}  # fmt: skip


def claude_events() -> list[bytes]:
    pieces: list[dict[str, Any]] = [
        {"type": "message_start", "message": message(content=[], usage=USAGE)},
        {"type": "content_block_start", "index": 0, "content_block": {
            "type": "thinking", "thinking": "", "signature": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {
            "type": "thinking_delta", "thinking": THOUGHT}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {
            "type": "tool_use", "id": "t1", "name": "look", "input": {}}},
        {"type": "content_block_delta", "index": 1, "delta": {
            "type": "input_json_delta", "partial_json": json.dumps({"where": INPUT})}},
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": USAGE},
        {"type": "message_stop"},
    ]  # fmt: skip
    return [event(piece, name=piece["type"]) for piece in pieces]


def script(request: ReceivedRequest) -> Steps:
    """A whole answer, or what the model's name asks for."""
    body = json.loads(request.body or b"{}")
    if "refuse" in body.get("model", ""):
        status = int(body["model"].rpartition("-")[2])
        # With an account's id in it: such texts are masked, and the original is logged.
        error = {"type": "some_error", "message": f"{ERROR} in org-1234567890abcdef: {PROMPT}"}
        return answer({"type": "error", "error": error}, status)
    if body.get("stream"):
        events = claude_events()
        if "cut" in body["model"]:
            return [*stream(events[:4], end=False), Reset()]
        return stream(events)
    if request.target.endswith("/messages"):
        return answer(CLAUDE)
    return answer(CHAT if "chat" in request.target else RESPONSE)


def questions() -> Iterator[tuple[str, dict[str, Any]]]:
    said = [{"role": "user", "content": PROMPT}]
    for model in ("m", *(f"m-refuse-{status}" for status in (400, 401, 403, 429, 500, 529))):
        yield "/anthropic/v1/messages", {"model": model, "max_tokens": 5, "messages": said}
        yield "/openai/v1/chat/completions", {"model": model, "messages": said}
        yield "/openai/v1/responses", {"model": model, "input": PROMPT}
    for model in ("m", "m-cut", "m-refuse-400", "m-refuse-500"):
        body = {"model": model, "max_tokens": 5, "messages": said, "stream": True}
        yield "/anthropic/v1/messages", body


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider(otherwise=script) as provider:
        yield provider


def gateway_of(
    coderd: FakeCoderd, provider: ScriptedProvider, folder: Path, *options: str
) -> GatewayProcess:
    coderd.deployment.add_user("alice", KEY)
    upstreams = [Upstream("anthropic", provider.url), Upstream("openai", provider.url)]
    gateway = GatewayProcess(
        folder,
        upstreams,
        ["--url", coderd.url, "--ai-gateway-dump-dir", str(folder / "dumps"), "-l", ".*", *options],
        local=False,
        environ={"CODER_AI_GATEWAY_KEY": "gateway-key"},
    )
    gateway.allowed_errors.append("set aside")
    return gateway


def ask_everything(gateway: GatewayProcess) -> list[str]:
    """Ids of the interceptions."""
    found = []
    for path, body in questions():
        headers = {"Authorization": f"Bearer {KEY}"}
        with requests.post(
            f"{gateway.url}{path}", json=body, headers=headers, stream=True, timeout=30
        ) as got:
            found.append(got.headers["X-AI-Gateway-Interception-Id"])
            try:
                _ = got.content
            except requests.RequestException:
                assert "cut" in body["model"]
    return found


def ended(coderd: FakeCoderd, ids: list[str]) -> bool:
    there = {
        record.interception_id for record in coderd.deployment.stored("RecordInterceptionEnded")
    }
    return set(ids) <= there


def files_below(folder: Path) -> str:
    return "\n".join(
        path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file()
    )


def test_with_content_off_tokens_are_recorded_and_no_word(
    provider: ScriptedProvider, tmp_path: Path
) -> None:
    options = ("--content", "none", "--ai-gateway-structured-logging-source", "both")
    with FakeCoderd() as coderd, Collector() as collector:
        options += ("--trace", "--trace-endpoint", collector.url, "--trace-logs", "--trace-gen-ai")
        with gateway_of(coderd, provider, tmp_path, *options) as gateway:
            # Records stay in the spool, where they are looked at.
            coderd.faults.hang("RecordTokenUsage")
            ids = ask_everything(gateway)
            assert WORD not in files_below(tmp_path / "state")
            coderd.faults.clear()
            coderd.cut_connections()
            wait_until(lambda: ended(coderd, ids), "all is recorded")
        assert sum(span.name == "Intercept" for span in collector.spans) == len(ids)
        assert len(collector.events) == len(ids)
        assert WORD not in repr(collector.spans) + repr(collector.events)
        stored = coderd.deployment.stored()
        assert WORD not in repr([record.message for record in stored])
        assert not coderd.deployment.stored("RecordPromptUsage")
        assert not coderd.deployment.stored("RecordModelThought")
        tokens: list[Any] = [r.message for r in coderd.deployment.stored("RecordTokenUsage")]
        assert {(t.input_tokens, t.output_tokens) for t in tokens} >= {(11, 7)}
        tools: list[Any] = [r.message for r in coderd.deployment.stored("RecordToolUsage")]
        assert {(t.tool, t.input) for t in tools} == {("look", "{}")}
        failures: list[Any] = [
            r.message for r in coderd.deployment.stored("RecordInterceptionEnded")
        ]
        assert "bad_request" in {failure.error_type for failure in failures}
        assert not (tmp_path / "dumps").exists()
        # Logs, standard error, what is left of the spool.
        assert WORD not in files_below(tmp_path)
        (warning,) = [x for x in gateway.logs() if "nothing is dumped" in message_of(x)]
        assert warning["fields"]["env"] == "--ai-gateway-dump-dir"


def test_by_default_the_same_words_are_recorded_and_dumped(
    provider: ScriptedProvider, tmp_path: Path
) -> None:
    # Else the test above could not fail.
    with FakeCoderd() as coderd:
        with gateway_of(coderd, provider, tmp_path) as gateway:
            ids = ask_everything(gateway)
            wait_until(lambda: ended(coderd, ids), "all is recorded")
        stored = repr([record.message for record in coderd.deployment.stored()])
        for word in (PROMPT, THOUGHT, INPUT, ERROR):
            assert word in stored
        assert SAID in files_below(tmp_path / "dumps")
        logged = gateway.log_file.read_text()
        assert ERROR in logged, "an original that was masked"
        assert SAID not in logged
        assert THOUGHT not in logged


def test_records_are_lines_of_the_log_each_once_also_while_coderd_is_away(
    provider: ScriptedProvider, tmp_path: Path
) -> None:
    options = ("--ai-gateway-structured-logging-source", "gateway")
    with Collector() as collector, FakeCoderd() as coderd:
        options += ("--trace", "--trace-endpoint", collector.url, "--trace-logs")
        with gateway_of(coderd, provider, tmp_path, *options) as gateway:
            coderd.faults.hang("RecordTokenUsage")
            ids = ask_everything(gateway)

            def lines() -> list[dict[str, Any]]:
                found = [x for x in gateway.logs() if message_of(x) == "interception log"]
                return [line["fields"] for line in found]

            def ends() -> set[str]:
                found = [x for x in lines() if x["record_type"] == "interception_end"]
                return {line["interception_id"] for line in found}

            wait_until(lambda: ends() == set(ids), "all lines are there")
            assert not ended(coderd, ids), "the deployment does not have them yet"
            before = lines()
            coderd.faults.clear()
            coderd.cut_connections()
            wait_until(lambda: ended(coderd, ids), "all is recorded")
            assert lines() == before, "a record that is sent again is no line again"
            first = [line for line in before if line["interception_id"] == ids[0]]
            kinds = [line["record_type"] for line in first]
            assert kinds[0] == "interception_start"
            assert kinds[-1] == "interception_end"
            assert sorted(kinds[1:-1]) == [
                "model_thought", "prompt_usage", "token_usage", "tool_usage",
            ]  # fmt: skip
            by_kind = {line["record_type"]: line for line in first}
            assert by_kind["prompt_usage"]["prompt"] == PROMPT
            assert by_kind["token_usage"]["input_tokens"] == 11
            assert json.loads(by_kind["tool_usage"]["input"]) == {"where": INPUT}
            assert by_kind["interception_start"]["provider"] == "anthropic"
            times = [line[name] for line in first for name in line if name.endswith("ed_at")]
            assert len(times) == len(first)
            assert all(re.fullmatch(RFC_3339, each) for each in times)
        # Neither a trace nor an archive for a bug report holds such lines.
        tail = log_tails(Settings(log_json=str(gateway.log_file)), 100_000)["logs/json.log"]
        for text in (tail, repr(collector.spans)):
            assert text
            assert THOUGHT not in text
            assert INPUT not in text
