"""The content level full: answers, and all that was sent, each part of it once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
from gateway_process import GatewayProcess, Upstream, all_stopped, wait_until
from imitation_provider import Reset, ScriptedProvider, WaitFor, answer, event, stream
from postgres_server import PostgresServer, postgres_server

from aigateway.actors.control.local.api_keys import create_key
from aigateway.actors.control.local.content import parts_of
from aigateway.actors.control.local.opening import open_address, read_address

Row = dict[str, Any]


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


class Gateway:
    """One that records all, with its database of either kind."""

    def __init__(self, process: GatewayProcess, address: str, provider: ScriptedProvider) -> None:
        self.process = process
        self.address = address
        self.provider = provider
        with closing(open_address(address)) as database:
            self.key = create_key(database, "ada").token

    def rows(self, table: str, id: str = "") -> list[Row]:
        """Those of a table, of one interception once it has ended."""
        if id:
            ended = "SELECT id FROM interceptions WHERE id = ? AND ended_at IS NOT NULL"
            wait_until(lambda: self._query(ended, id), f"{id} ends")
        where = " WHERE interception_id = ?" if id else ""
        return self._query(f"SELECT * FROM {table}{where}", *([id] if id else []))

    def _query(self, sql: str, *values: Any) -> list[Row]:
        with closing(read_address(self.address)) as database:
            found = database.execute(sql, values)
            names = [each[0] for each in found.description or ()]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def answers(self, id: str) -> list[str]:
        return [row["content"] for row in self.rows("model_answers", id)]

    def parts(self, id: str) -> list[Any]:
        """All that was sent with a request, by kind and as JSON."""
        self.rows("model_answers", id)
        with closing(read_address(self.address)) as database:
            return [(part.kind, json.loads(part.content)) for part in parts_of(database, id)]

    def post(self, path: str, body: Any, **headers: str) -> requests.Response:
        return requests.post(
            f"{self.process.url}{path}",
            data=json.dumps(body, separators=(",", ":")).encode(),
            headers={
                "Authorization": f"Bearer {self.key}",
                "Content-Type": "application/json",
                "X-Claude-Code-Session-Id": "s-1",
                **headers,
            },
            timeout=30,
        )

    def ask(self, path: str, body: Any, **headers: str) -> str:
        """The id of a request that went well."""
        answered = self.post(path, body, **headers)
        assert answered.status_code == 200, answered.text
        return answered.headers["X-AI-Gateway-Interception-Id"]


Start = Callable[..., Gateway]


@pytest.fixture(params=["sqlite", "postgresql"])
def start(
    request: pytest.FixtureRequest, tmp_path: Path, provider: ScriptedProvider
) -> Iterator[Start]:
    with all_stopped() as running:

        def start(*options: str, level: str = "full", **more: Any) -> Gateway:
            address = str(tmp_path / "gateway.db")
            if request.param == "postgresql":
                server: PostgresServer = request.getfixturevalue("postgres")
                address = server.new_database()
            upstreams = [
                Upstream("anthropic", provider.url),
                Upstream("openai", provider.url),
                Upstream("gemini", provider.url),
            ]
            options = ("--local-db", address, "--content", level, *options)
            gateway = GatewayProcess(tmp_path, upstreams, options, **more)
            running.append(gateway)
            return Gateway(gateway.start(), address, provider)

        yield start


def messages(*said: Any, **more: Any) -> Row:
    return {
        "model": "claude-x",
        "max_tokens": 64,
        "system": [{"type": "text", "text": "be brief"}],
        "tools": [{"name": "Bash", "input_schema": {"type": "object"}}],
        "messages": list(said),
        **more,
    }


def user(text: str) -> Row:
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def told(text: str, *more: Row) -> Row:
    """An answer of Anthropic's."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [{"type": "text", "text": text}, *more],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 2},
    }


def message_events(*texts: str, end: bool = True) -> list[bytes]:
    begun = {"id": "msg_1", "model": "claude-x", "usage": {"input_tokens": 1, "output_tokens": 1}}
    block = {"type": "text", "text": ""}
    events: list[Row] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": text},
            }
            for text in texts
        ),
    ]
    if end:
        stop = {"stop_reason": "end_turn"}
        events += [
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": stop, "usage": {"output_tokens": 9}},
            {"type": "message_stop"},
        ]
    return [event(each, each["type"]) for each in events]


CHAT = {"model": "gpt-x", "messages": [{"role": "user", "content": "hi, chat"}]}
RESPONSE = {"model": "gpt-x", "input": [{"role": "user", "content": "hi, response"}]}
GEMINI = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
SAID = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "hello you"}],
}
COMPLETED = {"id": "resp_1", "status": "completed", "output": [SAID], "usage": {"input_tokens": 1}}


def chat_events() -> list[bytes]:
    deltas = [{"index": 0, "delta": {"content": text}} for text in ("hello", " you")]
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    return [event({"id": "c-1", "choices": [each]}) for each in (*deltas, end)] + [event("[DONE]")]


def response_events() -> list[bytes]:
    begun = {"id": "resp_1", "status": "in_progress", "output": []}
    events: list[Row] = [
        {"type": "response.created", "response": begun},
        {"type": "response.output_text.delta", "output_index": 0, "delta": "hello"},
        {"type": "response.output_text.delta", "output_index": 0, "delta": " you"},
        {"type": "response.output_item.done", "output_index": 0, "item": SAID},
        {"type": "response.completed", "response": COMPLETED},
    ]
    return [event(each, each["type"]) for each in events]


def candidate(text: str, **more: Any) -> Row:
    content = {"role": "model", "parts": [{"text": text}]}
    return {"candidates": [{"index": 0, "content": content, **more}], "responseId": "r-1"}


CASES: dict[str, tuple[str, Row, Sequence[Any]]] = {
    "messages": ("/anthropic/v1/messages", messages(user("hi")), answer(told("hello you"))),
    "messages streamed": (
        "/anthropic/v1/messages",
        messages(user("hi"), stream=True),
        stream(message_events("hello", " you")),
    ),
    "chat": (
        "/openai/v1/chat/completions",
        CHAT,
        answer({"id": "c-1", "choices": [{"index": 0, "finish_reason": "stop",
                "message": {"role": "assistant", "content": "hello you"}}]}),
    ),
    "chat streamed": (
        "/openai/v1/chat/completions", {**CHAT, "stream": True}, stream(chat_events())
    ),
    "responses": ("/openai/v1/responses", RESPONSE, answer(COMPLETED)),
    "responses streamed": (
        "/openai/v1/responses", {**RESPONSE, "stream": True}, stream(response_events())
    ),
    "gemini": (
        "/gemini/v1beta/models/gemini-x:generateContent",
        GEMINI,
        answer(candidate("hello you", finishReason="STOP")),
    ),
    "gemini streamed": (
        "/gemini/v1beta/models/gemini-x:streamGenerateContent?alt=sse",
        GEMINI,
        stream([event(candidate("hello")), event(candidate(" you", finishReason="STOP"))]),
    ),
}  # fmt: skip


def test_answers_and_what_was_sent_are_recorded_of_each_api(start: Start) -> None:
    gateway = start()
    for name, (path, body, script) in CASES.items():
        gateway.provider.play(script)
        id = gateway.ask(path, body)
        assert gateway.answers(id) == ["hello you"], name
        sent = body.get("messages") or body.get("input") or body.get("contents")
        assert ("message", sent[-1]) in gateway.parts(id), name
    logged = gateway.process.stderr() + gateway.process.log_file.read_text()
    assert "hello you" not in logged


def test_a_cut_stream_records_what_was_sent_until_then(start: Start) -> None:
    gateway = start()
    seen = threading.Event()
    *begun, last = message_events("hel", "lo", end=False)
    gateway.provider.play(stream([*begun, last, WaitFor(seen), Reset()], end=False))
    with requests.post(
        f"{gateway.process.url}/anthropic/v1/messages",
        json=messages(user("hi"), stream=True),
        headers={"Authorization": f"Bearer {gateway.key}"},
        stream=True,
        timeout=30,
    ) as answered:
        id = answered.headers["X-AI-Gateway-Interception-Id"]
        lines = answered.iter_lines()
        assert any(b'"lo"' in line for line in lines)
        seen.set()
        assert any(b"error" in line for line in lines)
    (row,) = gateway.rows("model_answers", id)
    assert row["content"] == "hello"
    assert json.loads(row["metadata"]) == {"truncated": True}
    assert gateway.parts(id)[-1] == ("message", user("hi"))


def test_what_a_killed_gateway_has_recorded_is_there_when_it_starts_again(start: Start) -> None:
    gateway = start()
    long = "x" * 100_000
    gateway.provider.play(answer(told("hello you")))
    id = gateway.ask("/anthropic/v1/messages", messages(user(long)))
    gateway.process.kill()
    gateway.process.start()
    assert gateway.answers(id) == ["hello you"]
    assert gateway.parts(id)[-1] == ("message", user(long))
    # Another process does not know what this one has told: it is stored once all the same.
    gateway.provider.play(answer(told("hello again")))
    again = gateway.ask("/anthropic/v1/messages", messages(user(long)))
    assert gateway.parts(again) == gateway.parts(id)
    assert len(gateway.rows("content_parts")) == 3


def test_a_session_of_sixty_turns_takes_about_its_own_size(start: Start) -> None:
    gateway = start(workers=2)
    # Two fifths of each turn's 6.6 KB is the model's, whose client sends it back.
    said: list[Row] = []
    for number in range(60):
        text = f"{number} " + "".join(f"word{number * n % 997} " for n in range(400))[:2600]
        result = f"{number} " + "".join(f"{number + n:x};" for n in range(1000))[:4000]
        said.append(user(f"question {number}"))
        if number:
            said[-1]["content"].insert(
                0, {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": result}
            )
        call = {"type": "tool_use", "id": f"toolu_{number + 1}", "name": "Read", "input": {}}
        gateway.provider.play(answer(told(text, call)))
        body = messages(*said)
        body["messages"][-1] = {**said[-1], "content": [dict(each) for each in said[-1]["content"]]}
        body["messages"][-1]["content"][-1]["cache_control"] = {"type": "ephemeral"}
        id = gateway.ask("/anthropic/v1/messages", body, **{"User-Agent": "claude-cli/2.1"})
        said.append({"role": "assistant", "content": told(text, call)["content"]})
    size = len(json.dumps(messages(*said), separators=(",", ":")))
    assert 380_000 < size < 420_000
    assert gateway.parts(id)[2:] == [("message", each) for each in said[:-1]]
    stored = sum(len(row["content"]) for row in gateway.rows("content_parts"))
    assert stored <= size
    assert len(gateway.rows("content_parts")) == 2 + 119
    assert len(gateway.rows("content_links")) == 2 + 119
    assert len(gateway.rows("content_turns")) == 60
    answers = sum(len(row["content"]) for row in gateway.rows("model_answers"))
    assert stored + answers < 1.4 * size
    shown = gateway.process.command("session", "s-1", "--local-db", gateway.address)
    lines = [line.split(":")[0].strip() for line in shown.stdout.splitlines()]
    assert (lines.count("answer"), lines.count("tool"), lines.count("tool result")) == (60, 60, 59)
    if "://" not in gateway.address:
        gateway.process.stop()
        empty = gateway.process.folder / "empty.db"
        open_address(str(empty)).close()
        grown = Path(gateway.address).stat().st_size - empty.stat().st_size
        # Answers come on top, pages that are not full, the search; all that was sent is 12 MB.
        assert grown < 3 * size


def test_a_policy_lowers_the_level_for_its_users(start: Start) -> None:
    gateway = start()
    policy = gateway.process.folder / "policy.yaml"
    done = []
    for level in ("prompts", "none"):
        policy.write_text(f"users:\n  ada: {{content: {level}}}\n")
        applied = gateway.process.command(
            "policy", "apply", "--yes", "--local-db", gateway.address, str(policy)
        )
        assert applied.returncode == 0, applied.stderr

        def lowered() -> str:
            gateway.provider.play(answer(told("a secret")))
            id = gateway.ask("/anthropic/v1/messages", messages(user("hi")))
            return "" if gateway.answers(id) else id

        if level == "prompts":
            id = wait_until(lowered, "the policy is in force")
        else:
            id = wait_until(
                lambda: (id := lowered()) and not gateway.rows("user_prompts", id) and id,
                "the policy is in force",
            )
        done.append(id)
        assert gateway.rows("content_turns", id) == []
    assert gateway.rows("user_prompts", done[0])


def test_with_prompts_nothing_more_is_recorded(start: Start) -> None:
    gateway = start(level="prompts")
    for path, body, script in CASES.values():
        gateway.provider.play(script)
        gateway.rows("model_answers", gateway.ask(path, body))
    for table in ("model_answers", "content_parts", "content_links", "content_turns"):
        assert gateway.rows(table) == []
    assert len(gateway.rows("user_prompts")) == len(CASES)


def test_full_needs_a_database_of_our_own(tmp_path: Path) -> None:
    gateway = GatewayProcess(
        tmp_path, [], ["--url", "http://127.0.0.1:9", "--content", "full"], local=False,
        environ={"CODER_AI_GATEWAY_KEY": "k" * 64},
    )  # fmt: skip
    done = gateway.command("start", *gateway._options)
    assert done.returncode == 2
    assert "--content full needs --local" in done.stderr
