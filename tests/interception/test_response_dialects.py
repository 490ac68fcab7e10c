"""Streams and answers of the Responses API as clients and vendors of 2026 write them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from interception_answers import (
    CALL_ITEM,
    REASONING_ITEM,
    RESPONSE_BODY,
    RESPONSE_CREATED,
    RESPONSE_USAGE,
    RESPONSES_REQUEST,
    RESPONSES_STREAM,
    RESPONSES_TEXT,
    item_done,
    response,
)
from interception_driver import JSON, Exchange, begin, event, exchange, finish, open_one

both = pytest.mark.parametrize("streaming", [True, False], ids=["stream", "blocking"])


def stream(*events: bytes, end: str = "framed", **request: Any) -> Exchange:
    return exchange("responses", {**RESPONSES_REQUEST, **request}, b"".join(events), end=end)


def ask(streaming: bool, request: dict[str, Any] | None = None, **answer: Any) -> Exchange:
    """One whole answer, as a stream whose items come as events and again at its end."""
    request = {**RESPONSES_REQUEST, "stream": streaming, **(request or {})}
    whole = {**response(usage=RESPONSE_USAGE), **answer}
    if not streaming:
        return exchange("responses", request, json.dumps(whole).encode(), content_type=JSON)
    done = b"".join(item_done(place, item) for place, item in enumerate(whole["output"]))
    last = event(f"response.{whole['status']}", response=whole)
    return exchange("responses", request, RESPONSE_CREATED + done + last)


def names_apart(events: bytes) -> bytes:
    """A blank line between the name of an event and its data, which makes the name nothing."""
    return events.replace(b"\ndata: ", b"\n\ndata: ")


def once(result: Exchange) -> None:
    assert [(t.input_tokens, t.output_tokens) for t in result.tokens] == [(36, 20)]
    assert [t.tool for t in result.tools] == ["weather"]
    assert [t.content for t in result.thoughts] == ["They ask about Ghent."]
    assert len(result.prompts) == 1


# -- events


def test_a_name_without_data_is_no_event() -> None:
    result = stream(names_apart(RESPONSES_STREAM))
    assert result.client == names_apart(RESPONSES_STREAM)
    once(result)
    assert result.interception.complete


def test_a_name_without_data_is_no_end() -> None:
    result = stream(RESPONSES_TEXT, b"event: response.completed\n\n", end="unframed")
    assert result.interception.cut
    assert not result.interception.complete
    assert [t.metadata for t in result.tokens] == [{"usage_complete": False}]


def test_the_type_in_the_data_counts_whatever_the_event_is_called() -> None:
    lines = RESPONSES_STREAM.splitlines(keepends=True)
    renamed = b"".join(b"event: message\n" if x.startswith(b"event:") else x for x in lines)
    once(stream(renamed))


@pytest.mark.parametrize("last", ["completed", "done", "cancelled", "incomplete"])
def test_each_way_to_say_the_last_event_is_an_end(last: str) -> None:
    result = stream(RESPONSES_TEXT, event(f"response.{last}", response=RESPONSE_BODY))
    assert result.interception.complete
    assert not result.interception.cut
    once(result)


def test_a_last_event_that_comes_twice_counts_once() -> None:
    last = event("response.completed", response=RESPONSE_BODY)
    once(stream(RESPONSES_TEXT, last, last, event("response.done", response=RESPONSE_BODY)))


def test_usage_may_come_with_the_second_of_two_last_events() -> None:
    first = event("response.completed", response=response(output=[CALL_ITEM]))
    result = stream(RESPONSES_TEXT, first, event("response.done", response=RESPONSE_BODY))
    once(result)


@pytest.mark.parametrize(("end", "cut"), [("framed", False), ("unframed", True), ("cut", True)])
def test_a_status_in_an_unknown_event_needs_a_framed_end(end: str, cut: bool) -> None:
    told = event("response.finished", response=RESPONSE_BODY)
    result = stream(RESPONSES_TEXT, told, end=end)
    assert result.interception.cut is cut
    once(result)
    assert (result.outcome.error_type is None) is not cut


def test_the_mark_of_another_api_is_no_end() -> None:
    assert stream(RESPONSES_TEXT, b"data: [DONE]\n\n").interception.cut
    whole = stream(RESPONSES_STREAM, b"data: [DONE]\n\n")
    assert "unread_events" not in whole.outcome.metadata


def test_what_cannot_be_read_is_counted() -> None:
    result = stream(RESPONSE_CREATED, b"data: {broken\n\n", RESPONSES_STREAM)
    assert result.outcome.metadata["unread_events"] == 1


# -- usage


def test_every_usage_is_a_running_total() -> None:
    def so_far(**usage: Any) -> bytes:
        return event("response.in_progress", response=response(status="in_progress", usage=usage))

    result = stream(
        RESPONSE_CREATED,
        so_far(input_tokens=100, output_tokens=30, input_tokens_details={"cached_tokens": 60}),
        so_far(output_tokens=25, total_tokens=None),
        event("response.completed", response=response(usage={"output_tokens": 20})),
    )
    (tokens,) = result.tokens
    assert (tokens.input_tokens, tokens.cache_read_input_tokens) == (40, 60)
    assert tokens.output_tokens == 20


@pytest.mark.parametrize("end", ["unframed", "cut", "left"])
def test_what_a_cut_answer_has_cost_so_far_is_known(end: str) -> None:
    usage = {"input_tokens": 9, "output_tokens": 3}
    progress = response(status="in_progress", usage=usage, service_tier="flex")
    result = stream(RESPONSE_CREATED, event("response.in_progress", response=progress), end=end)
    (tokens,) = result.tokens
    assert (tokens.input_tokens, tokens.output_tokens) == (9, 3)
    assert tokens.metadata == {"usage_complete": False, "service_tier": "flex"}


def test_an_error_in_the_middle_leaves_what_was_used() -> None:
    progress = response(status="in_progress", usage={"input_tokens": 9})
    events = event("response.in_progress", response=progress) + event("error", message="No")
    (tokens,) = stream(RESPONSE_CREATED, events).tokens
    assert tokens.input_tokens == 9
    assert tokens.metadata["usage_complete"] is False


@both
@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        # Reasoning beside the output, which the total shows, and within it.
        ((100, 0, 0, 20, 50, 170), (100, 0, 0, 70)),
        ((100, 0, 0, 70, 50, 170), (100, 0, 0, 70)),
        ((100, 0, 0, 20, 50, 0), (100, 0, 0, 20)),
        ((25612, 0, 25600, 9, 0, 25621), (12, 0, 25600, 9)),
        ((25612, 20000, 5600, 9, 0, 25621), (12, 20000, 5600, 9)),
    ],
)
def test_tokens_are_told_apart(
    streaming: bool, usage: tuple[int, ...], counts: tuple[int, ...]
) -> None:
    given, cached, written, made, reasoning, total = usage
    document = {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": total,
    }
    (tokens,) = ask(streaming, usage=document).tokens
    assert counts == (
        tokens.input_tokens,
        tokens.cache_read_input_tokens,
        tokens.cache_write_input_tokens,
        tokens.output_tokens,
    )
    assert tokens.extra_token_types == {"output_reasoning": reasoning, "total_tokens": total}


@both
def test_how_long_a_cache_is_kept_is_told(streaming: bool) -> None:
    ttl = {"ttl_30m_tokens": 3, "ttl_12h_tokens": 1}
    details = {"cache_write_tokens": 4, "cache_write_tokens_details": ttl}
    (tokens,) = ask(streaming, usage={"input_tokens": 10, "input_tokens_details": details}).tokens
    assert tokens.extra_token_types["cache_ephemeral_30m_input"] == 3
    assert tokens.extra_token_types["cache_ephemeral_12h_input"] == 1


@both
def test_who_answered_and_why_it_ended_is_in_the_metadata(streaming: bool) -> None:
    details = {"reason": "content_filter"}
    result = ask(
        streaming,
        model="gpt-imaginary-2026-10-01",
        service_tier="priority",
        status="incomplete",
        incomplete_details=details,
    )
    told = {
        "provider_model": "gpt-imaginary-2026-10-01",
        "service_tier": "priority",
        "stop_reason": "content_filter",
    }
    assert result.outcome.metadata == told
    assert [t.metadata for t in result.tokens] == [told]
    same = ask(streaming, model="gpt-imaginary")
    assert "provider_model" not in same.outcome.metadata


@both
def test_an_answer_without_usage_says_that_it_has_none(streaming: bool) -> None:
    (tokens,) = ask(streaming, usage=None).tokens
    assert (tokens.input_tokens, tokens.output_tokens) == (0, 0)
    assert tokens.metadata["usage_complete"] is False


@both
def test_a_failed_answer_has_its_usage(streaming: bool) -> None:
    error = {"code": "server_error", "message": "Sorry"}
    result = ask(streaming, status="failed", error=error)
    once_failed = [(t.input_tokens, t.metadata["stop_reason"]) for t in result.tokens]
    assert once_failed == [(36, "failed")]
    assert result.outcome.error_type == "server_error"


# -- calls


def calls(result: Exchange) -> list[tuple[str, str, Any, dict[str, Any]]]:
    return [(t.tool, t.tool_call_id, json.loads(t.input), dict(t.metadata)) for t in result.tools]


@both
@pytest.mark.parametrize(
    ("namespace", "name", "tool"),
    [
        ("mcp__github", "create_issue", "mcp__github__create_issue"),
        ("mcp__github__", "create_issue", "mcp__github__create_issue"),
        ("mcp__github", "mcp__github__create_issue", "mcp__github__create_issue"),
        ("multi_agent_v1", "spawn_agent", "multi_agent_v1__spawn_agent"),
    ],
)
@pytest.mark.parametrize("kind", ["function_call", "custom_tool_call"])
def test_a_name_in_a_namespace_is_recorded_whole(
    streaming: bool, namespace: str, name: str, tool: str, kind: str
) -> None:
    asked = "arguments" if kind == "function_call" else "input"
    item = {"type": kind, "id": "i1", "call_id": "c1", "namespace": namespace, "name": name}
    (call,) = calls(ask(streaming, output=[{**item, asked: '"x"'}]))
    given = "x" if kind == "function_call" else '"x"'
    assert call == (tool, "c1", given, {"namespace": namespace})


SEARCH = {"type": "search", "query": "tides", "queries": ["tides", "moon"]}
EXEC = {"type": "exec", "command": ["ls", "-l"], "env": {}}
PATCH = {"type": "update_file", "path": "a.py", "diff": "@@\n-a\n+b\n"}


@both
@pytest.mark.parametrize(
    ("kind", "fields", "asked"),
    [
        ("web_search_call", {"action": SEARCH}, SEARCH),
        ("code_interpreter_call", {"code": "print(1)", "outputs": [{"logs": "1"}]}, "print(1)"),
        ("file_search_call", {"queries": ["a", "b"], "results": [{"text": "c"}]}, ["a", "b"]),
        ("image_generation_call", {"revised_prompt": "A cat", "action": "generate"}, "A cat"),
        ("local_shell_call", {"action": EXEC}, EXEC),
        ("shell_call", {"action": {"commands": ["ls"]}}, {"commands": ["ls"]}),
        ("apply_patch_call", {"operation": PATCH}, PATCH),
        ("computer_call", {"action": {"type": "wait"}}, {"type": "wait"}),
        ("computer_call", {"action": None, "actions": [{"type": "wait"}]}, [{"type": "wait"}]),
        (
            "tool_search_call",
            {"arguments": {"query": "mail"}, "execution": "server"},
            {"query": "mail"},
        ),
        ("mcp_list_tools", {"tools": [{"name": "x"}]}, None),
        ("program", {"code": "await tools.x()", "fingerprint": "f"}, "await tools.x()"),
        ("x_search_call", {"arguments": '{"query":"y"}'}, {"query": "y"}),
        ("openrouter:web_search", {"query": "y"}, "y"),
        ("telepathy_call", {"input": {"a": 1}}, {"a": 1}),
        ("telepathy_call", {"unheard_of": 1}, None),
    ],
)
def test_every_call_is_recorded_with_what_it_was_asked(
    streaming: bool, kind: str, fields: dict[str, Any], asked: Any
) -> None:
    item = {"type": kind, "id": "x1", "call_id": "c1", "status": "completed", **fields}
    result = ask(streaming, output=[item])
    assert calls(result) == [(kind, "c1", asked, {"type": kind})]
    assert [(t.item_id, t.invocation_error) for t in result.tools] == [("x1", None)]


@both
def test_requests_of_tools_that_are_paid_by_the_request_are_counted(streaming: bool) -> None:
    def item(kind: str, **fields: object) -> dict[str, Any]:
        return {"type": kind, "id": "x", "status": "completed", **fields}

    output = [
        item("web_search_call", action=SEARCH),
        item("web_search_call", action={"type": "open_page", "url": "https://a/"}),
        item("web_search_call", action=SEARCH),
        item("web_search_call"),
        item("web_search_call", action=SEARCH, status="failed"),
        item("file_search_call", queries=["a"]),
        item("function_call", name="web_search_call", arguments="{}"),
    ]
    (tokens,) = ask(streaming, output=output).tokens
    assert tokens.extra_token_types["web_search_requests"] == 3
    assert tokens.extra_token_types["file_search_requests"] == 1


@both
@pytest.mark.parametrize("kind", ["mcp_call", "mcp_approval_request"])
def test_calls_of_remote_servers_name_the_server(streaming: bool, kind: str) -> None:
    item = {
        "type": kind,
        "id": "mcp_1",
        "server_label": "github",
        "name": "create_issue",
        "arguments": '{"title":"Tide"}',
        "output": "a secret result",
    }
    result = ask(streaming, output=[item])
    metadata = {"server_label": "github", "type": kind}
    assert calls(result) == [("create_issue", "", {"title": "Tide"}, metadata)]
    assert "secret" not in repr(result.records)


@both
@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"error": "no such repository"}, "no such repository"),
        ({"error": {"type": "http_error", "code": 503, "message": "Busy"}}, "Busy"),
        (
            {"error": {"type": "mcp_tool_execution_error", "content": ["x"]}},
            '{"type":"mcp_tool_execution_error","content":["x"]}',
        ),
        ({"status": "failed"}, "failed"),
        ({"error": None, "status": "completed"}, None),
    ],
)
def test_a_call_that_failed_says_why(
    streaming: bool, fields: dict[str, Any], error: str | None
) -> None:
    item = {"type": "mcp_call", "id": "m", "name": "x", "arguments": "{}", **fields}
    (tool,) = ask(streaming, output=[item]).tools
    assert (tool.invocation_error or "").replace(" ", "") == (error or "").replace(" ", "")


@both
def test_results_and_messages_are_no_calls(streaming: bool) -> None:
    output = [
        {"type": "shell_call_output", "call_id": "c", "output": []},
        {"type": "tool_search_output", "call_id": "c", "tools": []},
        {"type": "program_output", "call_id": "c", "result": "1"},
        {"type": "compaction", "encrypted_content": "abc"},
        {"type": "message", "role": "assistant", "content": []},
    ]
    assert ask(streaming, output=output).tools == []


def test_items_are_known_again_whatever_their_ids() -> None:
    """Some give an item another id in each event."""
    other = {**CALL_ITEM, "id": "another", "call_id": "call_2"}
    last = event("response.completed", response=response(output=[other], usage=RESPONSE_USAGE))
    result = stream(RESPONSE_CREATED, item_done(0, CALL_ITEM), last)
    assert [t.tool_call_id for t in result.tools] == ["call_2"]


def test_items_that_the_last_event_leaves_out_are_recorded() -> None:
    message = {"type": "message", "role": "assistant", "content": []}
    last = event("response.completed", response=response(output=[message]))
    result = stream(RESPONSES_TEXT, last)
    assert [t.tool for t in result.tools] == ["weather"]
    assert [t.content for t in result.thoughts] == ["They ask about Ghent."]


def test_what_the_last_event_leaves_out_of_an_item_is_recorded() -> None:
    bare = {"type": "function_call", "id": "fc_1", "arguments": "", "name": None}
    last = event("response.completed", response=response(output=[bare]))
    result = stream(RESPONSE_CREATED, item_done(0, CALL_ITEM), last)
    assert [(t.tool, t.input) for t in result.tools] == [("weather", '{"city":"Ghent"}')]


def test_two_calls_of_one_tool_are_two() -> None:
    output = [CALL_ITEM, {**CALL_ITEM, "id": "fc_2", "call_id": "call_2"}]
    result = ask(True, output=output)
    assert [t.tool_call_id for t in result.tools] == ["call_1", "call_2"]


# -- thoughts


def thoughts(result: Exchange) -> list[tuple[str, Any]]:
    return [(t.content, t.metadata["source"]) for t in result.thoughts]


OPEN = {"type": "reasoning", "id": "rs_1", "summary": []}
SAID = {"type": "reasoning_text", "text": "Water is wet."}
SUMMED = {"type": "summary_text", "text": "On water."}


@both
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"content": [SAID]}, [("Water is wet.", "reasoning_text")]),
        ({"content": "Water is wet."}, [("Water is wet.", "reasoning_text")]),
        (
            {"content": [SAID], "summary": [SUMMED]},
            [("Water is wet.", "reasoning_text"), ("On water.", "reasoning_summary")],
        ),
        # The same text in both places.
        (
            {"content": [SAID], "summary": [{**SUMMED, "text": "Water is wet."}]},
            [("Water is wet.", "reasoning_text")],
        ),
        ({"encrypted_content": "abc"}, []),
    ],
)
def test_thoughts_of_open_models_are_recorded(
    streaming: bool, fields: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert thoughts(ask(streaming, output=[{**OPEN, **fields}])) == expected


def delta(text: str, kind: str = "reasoning_text", **fields: Any) -> bytes:
    return event(f"response.{kind}.delta", delta=text, output_index=0, **fields)


COMPLETED = event("response.completed", response=response(usage=RESPONSE_USAGE))
DONE = event("response.reasoning_text.done", output_index=0, text="Water is wet.")
NAMELESS = b"".join(
    line for line in delta("Water is wet.").splitlines(keepends=True) if b"event:" not in line
)


@pytest.mark.parametrize(
    "events",
    [
        [delta("Water "), delta("is wet.")],
        [delta("Water "), delta("is wet."), DONE],
        [DONE],
        [DONE, item_done(0, OPEN)],
        [delta("Water is wet."), item_done(0, OPEN)],
        [delta("Water is wet."), DONE, item_done(0, {**OPEN, "content": [SAID]})],
        [NAMELESS],
        [delta("Water is wet.").replace(b"\n", b"\r\n")],
    ],
)
@pytest.mark.parametrize("end", ["framed", "cut"])
def test_thoughts_that_only_a_stream_tells_are_recorded_once(events: list[bytes], end: str) -> None:
    last = COMPLETED if end == "framed" else b""
    result = stream(RESPONSE_CREATED, *events, last, end=end)
    assert thoughts(result) == [("Water is wet.", "reasoning_text")]


def delta_of(place: int, text: str, kind: str = "reasoning_text", **fields: Any) -> bytes:
    return event(f"response.{kind}.delta", output_index=place, **fields, delta=text)


@pytest.mark.parametrize(
    "told",
    [
        event("response.reasoning_text.done", output_index=1, text="It flows."),
        item_done(1, {**OPEN, "id": "rs_2", "content": [{**SAID, "text": "It flows."}]}),
    ],
)
@pytest.mark.parametrize("first", ["Water ", 'Water "output_index":1, '])
@pytest.mark.parametrize("spaced", [False, True])
def test_what_is_told_of_one_thought_takes_nothing_from_another(
    told: bytes, first: str, spaced: bool
) -> None:
    deltas = [delta_of(0, first), delta_of(1, "It "), delta_of(0, "is wet."), delta_of(1, "flows.")]
    if spaced:
        deltas = [each.replace(b'output_index":0', b'output_index": 0') for each in deltas]
        deltas = [each.replace(b'output_index":1,"', b'output_index": 1,"') for each in deltas]
    result = stream(RESPONSE_CREATED, *deltas, told, COMPLETED)
    assert sorted(thoughts(result)) == [
        ("It flows.", "reasoning_text"),
        (f"{first}is wet.", "reasoning_text"),
    ]


def test_what_is_told_of_one_part_of_a_thought_takes_nothing_from_another() -> None:
    summary = "reasoning_summary_text"
    result = stream(
        RESPONSE_CREATED,
        delta_of(0, "On water.", summary, summary_index=0),
        delta_of(0, "On ", summary, summary_index=1),
        delta_of(0, "Water is wet.", content_index=0),
        event(f"response.{summary}.done", output_index=0, summary_index=1, text="On floods."),
        COMPLETED,
    )
    assert sorted(thoughts(result)) == [
        ("On floods.", "reasoning_summary"),
        ("On water.", "reasoning_summary"),
        ("Water is wet.", "reasoning_text"),
    ]


MANY = [f"{number} drops, " for number in range(20_000)]
"""More than are kept unread."""


@pytest.mark.parametrize(
    "told",
    [
        b"",
        event("response.reasoning_text.done", output_index=0, content_index=0, text="".join(MANY)),
        event("response.reasoning_text.done", text="".join(MANY)),
        item_done(0, {**OPEN, "content": [{**SAID, "text": "".join(MANY)}]}),
    ],
    ids=["by deltas alone", "by an event", "by an event without a place", "by its item"],
)
def test_a_thought_of_very_many_deltas_is_recorded_once_and_whole(told: bytes) -> None:
    deltas = b"".join(delta_of(0, text, content_index=0) for text in MANY)
    result = stream(RESPONSE_CREATED, deltas, told, COMPLETED)
    assert thoughts(result) == [("".join(MANY), "reasoning_text")]


@pytest.mark.parametrize(
    ("last", "end"),
    [
        (b"", "framed"),
        (b"", "cut"),
        (b"", "left"),
        (event("error", message="it broke", code="server_error"), "framed"),
        (event("response.failed", response=response(status="failed", error={})), "framed"),
        (event("response.cancelled", response=response(status="cancelled")), "framed"),
    ],
)
def test_half_a_thought_of_an_answer_that_broke_off_says_so(last: bytes, end: str) -> None:
    told = event("response.reasoning_text.done", output_index=0, text="Water is wet.")
    whole = item_done(1, {**OPEN, "id": "rs_2", "content": [{**SAID, "text": "It flows."}]})
    half = delta_of(2, "And so ")
    result = stream(RESPONSE_CREATED, told, whole, half, last, end=end)
    assert {t.content: t.metadata.get("truncated") for t in result.thoughts} == {
        "Water is wet.": None,
        "It flows.": None,
        "And so ": True,
    }


def test_a_thought_that_only_deltas_tell_is_whole_where_the_answer_is() -> None:
    result = stream(RESPONSE_CREATED, delta_of(0, "Water is wet."), COMPLETED)
    assert [t.metadata for t in result.thoughts] == [{"source": "reasoning_text"}]


def test_thoughts_are_not_told_again_by_deltas_without_a_place() -> None:
    item = {**OPEN, "content": [SAID]}
    last = event("response.completed", response=response(output=[CALL_ITEM, item]))
    result = stream(RESPONSE_CREATED, delta("Water is wet."), last)
    assert thoughts(result) == [("Water is wet.", "reasoning_text")]


def test_parts_of_a_summary_are_told_apart() -> None:
    parts = [
        delta("One", "reasoning_summary_text", summary_index=0),
        delta("Two", "reasoning_summary_text", summary_index=1),
        delta("!", "reasoning_summary_text", summary_index=1),
    ]
    result = stream(RESPONSE_CREATED, *parts, COMPLETED)
    assert thoughts(result) == [("One", "reasoning_summary"), ("Two!", "reasoning_summary")]


# -- prompts


AGENTS = (
    "# AGENTS.md instructions for /home/ada/tides\n\n<INSTRUCTIONS>\nBe brief.\n</INSTRUCTIONS>"
)
ENVIRONMENT = "<environment_context>\n  <cwd>/home/ada/tides</cwd>\n</environment_context>"


def message(role: str, *texts: str) -> dict[str, Any]:
    parts = [{"type": "input_text", "text": text} for text in texts]
    return {"type": "message", "role": role, "content": parts}


TYPED = message("user", "When is high tide?")


@pytest.mark.parametrize(
    ("given", "prompt"),
    [
        ([TYPED], "When is high tide?"),
        ([TYPED, message("developer", "Be kind.")], "When is high tide?"),
        ([TYPED, message("system", "Be kind."), message("developer", "x")], "When is high tide?"),
        ([message("user", AGENTS, ENVIRONMENT), TYPED], "When is high tide?"),
        ([TYPED, message("user", AGENTS, ENVIRONMENT)], "When is high tide?"),
        ([message("user", ENVIRONMENT, "When is high tide?")], "When is high tide?"),
        ([TYPED, message("user", "<skill>\n<name>tides</name>\n</skill>")], "When is high tide?"),
        ([TYPED, {"type": "additional_tools", "role": "user", "tools": []}], "When is high tide?"),
        ([{"role": "user", "content": [{"type": "text", "text": "Ahoy"}]}], "Ahoy"),
        ([message("user", AGENTS, ENVIRONMENT)], None),
        (ENVIRONMENT, None),
        ([message("developer", "Be kind.")], None),
        # What comes behind the model's own items was asked before.
        ([TYPED, {"type": "reasoning", "summary": []}], None),
        ([TYPED, {"type": "item_reference", "id": "msg_1"}], None),
        ([TYPED, {"type": "compaction_trigger"}], None),
        (
            [TYPED, {"type": "custom_tool_call_output", "call_id": "c"}, message("system", "x")],
            None,
        ),
    ],
)
@pytest.mark.parametrize("api", ["responses", "compaction"])
def test_the_prompt_is_what_somebody_typed(api: str, given: Any, prompt: str | None) -> None:
    result = exchange(api, {**RESPONSES_REQUEST, "input": given}, RESPONSES_STREAM)
    assert [each.prompt for each in result.prompts] == ([] if prompt is None else [prompt])


@pytest.mark.parametrize("behind", ["developer", "system"])
def test_a_result_in_front_of_instructions_correlates(behind: str) -> None:
    result = {"type": "custom_tool_call_output", "call_id": "call_7", "output": "ok"}
    given = [TYPED, result, message(behind, "x"), message("user", ENVIRONMENT)]
    interception = open_one("responses", {"input": given})
    assert interception.correlating_tool_call_id == "call_7"


CODEX = [("User-Agent", "codex_exec/0.171.0 (Debian 12.0.0; x86_64)")]
CHECKPOINT = "You are performing a CONTEXT CHECKPOINT COMPACTION. Create a handoff summary"
HANDOFF = "Another language model started to solve this problem and produced a summary of it."


@pytest.mark.parametrize(
    ("headers", "prompt", "kind"),
    [
        ([], "When is high tide?", "user"),
        ([("X-Codex-Turn-Metadata", '{"request_kind":"turn"}')], "Hi", "user"),
        ([("X-Openai-Subagent", "collab_spawn")], "Look at the tides", "agent"),
        ([("X-Openai-Subagent", "review")], "Review the changes", "agent"),
        ([("X-Codex-Parent-Thread-Id", "t")], "Look", "agent"),
        ([("X-Openai-Subagent", "compact")], "Shorten", "compaction"),
        ([("X-Openai-Subagent", "memory_consolidation")], "Remember", "summary"),
        (
            [
                ("X-Openai-Subagent", "collab_spawn"),
                ("X-Codex-Turn-Metadata", '{"a":1,"request_kind":"compaction"}'),
            ],
            "Shorten",
            "compaction",
        ),
        ([], CHECKPOINT, "compaction"),
        ([], HANDOFF, "summary"),
    ],
)
def test_codex_says_who_spoke(headers: list[tuple[str, str]], prompt: str, kind: str) -> None:
    request = {**RESPONSES_REQUEST, "input": [message("user", AGENTS), message("user", prompt)]}
    interception = begin(open_one("responses", request, headers=[*CODEX, *headers]))
    client = interception.receive_data(RESPONSES_STREAM, 1.0)
    (told,) = finish(interception, client).prompts
    assert told.prompt == prompt
    assert told.metadata == {"prompt_kind": kind}


def agent_message(author: str, recipient: str, kind: str, *more: dict[str, str]) -> dict[str, Any]:
    """What one of Codex's agents says to another; a task is encrypted by the provider."""
    head = f"Message Type: {kind}\nTask name: {recipient}\nSender: {author}\nPayload:\n"
    return {
        "type": "agent_message",
        "id": "amsg_1",
        "author": author,
        "recipient": recipient,
        "content": [{"type": "input_text", "text": head}, *more],
    }


SPAWN_OUTPUT = {"type": "function_call_output", "call_id": "call_8", "output": "aborted"}
TASK = agent_message(
    "/root", "/root/helper", "NEW_TASK", {"type": "encrypted_content", "encrypted_content": "gAAA"}
)
NEWS = agent_message(
    "/root/helper", "/root", "FINAL_ANSWER", {"type": "input_text", "text": "It is at noon."}
)


def test_the_task_of_an_agent_is_its_prompt() -> None:
    given = [TYPED, SPAWN_OUTPUT, message("developer", "You are now a child."), TASK]
    result = exchange("responses", {**RESPONSES_REQUEST, "input": given}, RESPONSES_STREAM)
    (told,) = result.prompts
    assert told.prompt.startswith("Message Type: NEW_TASK\nTask name: /root/helper")
    assert told.metadata == {"prompt_kind": "agent"}


@pytest.mark.parametrize(
    ("given", "prompt", "call"),
    [
        ([TYPED, NEWS], "When is high tide?", None),
        ([NEWS, TYPED], "When is high tide?", None),
        ([TYPED, SPAWN_OUTPUT, NEWS], None, "call_8"),
        ([TYPED, {"type": "reasoning", "summary": []}, NEWS], None, None),
    ],
)
def test_what_agents_tell_each_other_is_no_prompt_and_no_result(
    given: Any, prompt: str | None, call: str | None
) -> None:
    request = {**RESPONSES_REQUEST, "input": given}
    result = exchange("responses", request, RESPONSES_STREAM)
    assert [each.prompt for each in result.prompts] == ([] if prompt is None else [prompt])
    assert open_one("responses", request).correlating_tool_call_id == call


# -- compaction


COMPACTED = {
    "id": "resp_imag7",
    "object": "response.compaction",
    "created_at": 1,
    "output": [
        TYPED,
        {**CALL_ITEM},
        {**REASONING_ITEM},
        {"type": "compaction", "id": "cmp_1", "encrypted_content": "abc"},
    ],
    "usage": {
        "input_tokens": 200_000,
        "input_tokens_details": {"cached_tokens": 150_000},
        "output_tokens": 900,
        "output_tokens_details": {"reasoning_tokens": 100},
        "total_tokens": 200_900,
    },
}


def test_a_compaction_is_a_call_of_a_model() -> None:
    body = json.dumps(COMPACTED).encode()
    request = {"model": "gpt-imaginary", "input": [TYPED], "instructions": "Keep names."}
    result = exchange("compaction", request, body, content_type=JSON)
    assert result.client == body
    assert result.interception.upstream_body() == b""
    assert [(p.prompt, p.metadata) for p in result.prompts] == [
        ("When is high tide?", {"prompt_kind": "compaction"})
    ]
    (tokens,) = result.tokens
    assert (tokens.msg_id, tokens.input_tokens, tokens.output_tokens) == ("resp_imag7", 50_000, 900)
    assert tokens.cache_read_input_tokens == 150_000
    assert tokens.metadata == {"iteration": "compaction"}
    # What it repeats was called and thought before.
    assert (result.tools, result.thoughts) == ([], [])
    assert result.outcome.error_type is None


def test_a_compaction_leaves_as_it_came() -> None:
    body = b'{ "model":"gpt-imaginary",\n "input": "Ahoy", "background": true }'
    interception = open_one("compaction", body)
    assert interception.upstream_body() == body
    assert interception.refusal is None
    assert not interception.streaming


def test_a_compaction_that_is_refused_is_told_in_the_apis_shape() -> None:
    body = b'{"error":{"message":"too long","type":"invalid_request_error"}}'
    result = exchange("compaction", {"input": []}, body, content_type=JSON, status=400)
    assert result.client == body
    assert (result.outcome.error_type, result.outcome.error_message) == ("bad_request", "too long")
    assert result.records == []


def test_a_compaction_that_a_conversation_ends_with_is_told_apart() -> None:
    item = {"type": "compaction", "id": "cmp_1", "encrypted_content": "abc"}
    given = [TYPED, {"type": "reasoning", "summary": []}, {"type": "compaction_trigger"}]
    result = ask(True, {"input": given}, output=[item])
    assert result.prompts == []
    assert [each.metadata["iteration"] for each in result.tokens] == ["compaction"]
    assert "iteration" not in ask(True, {"input": given[:1]}).tokens[0].metadata
