"""The rounds by themselves: bytes in, bytes and records out, in reads of any size."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from round_answers import (
    Call,
    completion,
    completion_chunks,
    message,
    message_stream,
    response,
    response_events,
)

from aigateway.actors.interception import open_interception
from aigateway.actors.interception.injected import InjectedInterception
from aigateway.actors.interception.injection import Encodings, inject
from aigateway.actors.interception.opening import with_tools
from aigateway.actors.interception.tool_rules import rules_for
from aigateway.actors.values.records import ToolUsage, UsageRecord
from aigateway.actors.values.tools import Tool, ToolResult, ToolSet

SCHEMA = b'{"type":"object","properties":{"a":{"type":"integer"}}}'
TOOLS = ToolSet(
    tuple(
        Tool(f"bmcp_s_{name}", name, "s", "http://mcp/", f"Tool {name}.", SCHEMA)
        for name in ("sub", "add")
    )
)
ADD: Call = ("call_1", "bmcp_s_add", {"a": 1, "text": 'quote " and \\ and é'})
SUB: Call = ("call_2", "bmcp_s_sub", {})
OWN: Call = ("call_3", "mine", {"x": 1})
NOW = 1_700_000_000.25


@frozen
class Api:
    name: str
    request: dict[str, Any]
    streamed: Callable[..., list[bytes]]
    blocking: Callable[..., dict[str, Any]]


ASKED = [{"role": "user", "content": "hi"}]
APIS = [
    Api("messages", {"model": "m", "messages": ASKED}, message_stream, message),
    Api("chat-completions", {"model": "m", "messages": ASKED}, completion_chunks, completion),
    Api("responses", {"model": "m", "input": ASKED}, response_events, response),
]
each_api = pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)
both = pytest.mark.parametrize("streaming", [True, False], ids=["stream", "blocking"])


@frozen
class Run:
    sent: list[bytes]
    client: bytes
    records: list[UsageRecord]
    loop: InjectedInterception

    @property
    def tools(self) -> list[ToolUsage]:
        return [each for each in self.records if isinstance(each, ToolUsage)]


def opened(api: Api, streaming: bool, max_rounds: int = 9, coding: str = "") -> Any:
    body = json.dumps({**api.request, "stream": streaming}).encode()
    if coding:
        body = gzip.compress(body)
    plain = open_interception(api.name, id="int-1", body=body, content_encoding=coding)
    return with_tools(plain, TOOLS, Encodings(), content_encoding=coding, max_rounds=max_rounds)


def run(
    api: Api,
    streaming: bool,
    rounds: Sequence[dict[str, Any]],
    cut: Callable[[bytes], list[bytes]] = lambda data: [data],
    max_rounds: int = 9,
    answer_coding: str = "",
    line_end: bytes = b"\n",
) -> Run:
    loop = opened(api, streaming, max_rounds)
    sent, client = [], b""
    records: list[UsageRecord] = []
    for number, one in enumerate(rounds, 1):
        sent.append(loop.upstream_body())
        if streaming:
            data = b"".join(api.streamed(**one, number=number)).replace(b"\n", line_end)
            kind = "text/event-stream"
        else:
            data, kind = json.dumps(api.blocking(**one, number=number)).encode(), "application/json"
        headers = [("Content-Type", kind)]
        if answer_coding:
            data = gzip.compress(data)
            headers.append(("Content-Encoding", answer_coding))
        loop.begin_answer(200, headers)
        for part in cut(data):
            client += loop.receive_data(part, NOW)
        client += loop.receive_end(NOW)
        records += loop.take_records()
        if loop.calls:
            results = [
                ToolResult(
                    tool=call.tool.removeprefix("bmcp_s_"),
                    server_url="http://mcp/",
                    content=b'[{"type":"text","text":"5"}]',
                )
                for call in loop.calls
            ]
            client += loop.answer(results, NOW)
            records += loop.take_records()
        assert loop.faults == 0
    assert not loop.goes_on
    assert not loop.calls
    return Run(sent, client if streaming else bytes(loop.answer_body), records, loop)


TALKS: dict[str, list[dict[str, Any]]] = {
    "one call": [{"text": "Let me", "calls": [ADD]}, {"text": "Five."}],
    "calls only": [{"calls": [ADD, SUB]}, {"calls": [ADD]}, {"text": "Done."}],
    "no call": [{"text": "Hello there."}],
    "own call": [{"text": "Own", "calls": [OWN]}],
    "mixed": [{"text": "Both", "calls": [ADD, OWN, SUB]}],
}


@each_api
@both
@pytest.mark.parametrize("talk", TALKS.values(), ids=list(TALKS))
def test_reads_of_one_byte_give_the_same(
    api: Api, streaming: bool, talk: list[dict[str, Any]]
) -> None:
    whole = run(api, streaming, talk)
    single = run(api, streaming, talk, cut=lambda data: [data[n : n + 1] for n in range(len(data))])
    assert (single.sent, single.client, single.records) == (
        whole.sent,
        whole.client,
        whole.records,
    )
    assert b"bmcp_" not in whole.client
    assert whole.loop.complete or len(talk) == 1
    assert not whole.loop.cut


@each_api
@settings(max_examples=25)
@given(sizes=st.lists(st.integers(1, 400), max_size=40), talk=st.sampled_from(list(TALKS)))
def test_reads_of_any_size_give_the_same(api: Api, sizes: list[int], talk: str) -> None:
    def cut(data: bytes) -> list[bytes]:
        parts = []
        for size in sizes:
            parts.append(data[:size])
            data = data[size:]
        return [*parts, data]

    whole, split = run(api, True, TALKS[talk]), run(api, True, TALKS[talk], cut=cut)
    assert (split.sent, split.client, split.records) == (whole.sent, whole.client, whole.records)


@each_api
def test_an_answer_without_calls_leaves_as_it_came(api: Api) -> None:
    for talk in ("no call", "own call"):
        for streaming in (True, False):
            made = run(api, streaming, TALKS[talk])
            (one,) = TALKS[talk]
            if streaming:
                came = b"".join(api.streamed(**one))
                if api.name == "chat-completions":
                    came = came.replace(api.streamed(**one)[-2], b"")  # nobody asked for usage
            else:
                came = json.dumps(api.blocking(**one)).encode()
            assert made.client == came


@each_api
@both
def test_answers_that_come_encoded_are_decoded(api: Api, streaming: bool) -> None:
    talk = TALKS["one call"]
    plain, encoded = run(api, streaming, talk), run(api, streaming, talk, answer_coding="gzip")
    assert encoded.client == plain.client
    kept = plain.loop.answer_headers([("Content-Encoding", "gzip"), ("Via", "x")])
    assert kept == [("Via", "x")]


@each_api
def test_other_line_ends_are_understood(api: Api) -> None:
    made = run(api, True, TALKS["one call"], line_end=b"\r\n")
    assert b"bmcp_" not in made.client
    assert len(made.tools) == 1


@each_api
@both
def test_earlier_bytes_of_the_request_stay(api: Api, streaming: bool) -> None:
    first, second, third = run(api, streaming, TALKS["calls only"]).sent
    at = first.rindex(b'{"role": "user", "content": "hi"}') + 33
    assert first[:at] == second[:at] == third[:at]
    longer = second[: second.rindex(b"]")]
    assert third.startswith(longer)


@each_api
def test_an_encoded_request_stays_encoded(api: Api) -> None:
    loop = opened(api, True, coding="gzip")
    assert b"bmcp_s_add" in gzip.decompress(loop.upstream_body())


@each_api
@both
def test_calls_that_were_cut_short_are_not_run(api: Api, streaming: bool) -> None:
    stop = {"messages": "max_tokens", "responses": "max_output_tokens"}.get(api.name, "length")
    made = run(api, streaming, [{"text": "I", "calls": [ADD], "stop": stop}])
    (tool,) = made.tools
    assert tool.injected
    assert tool.invocation_error is not None
    assert stop.encode() in made.client


@each_api
@both
def test_each_call_is_recorded_with_its_own_error(api: Api, streaming: bool) -> None:
    loop = opened(api, streaming)
    loop.upstream_body()
    kind = "text/event-stream" if streaming else "application/json"
    loop.begin_answer(200, [("Content-Type", kind)])
    one = {"calls": [ADD, SUB]}
    data = b"".join(api.streamed(**one)) if streaming else json.dumps(api.blocking(**one)).encode()
    loop.receive_data(data, NOW)
    loop.receive_end(NOW)
    assert [call.id for call in loop.calls] == ["call_1", "call_2"]
    assert json.loads(loop.calls[0].arguments) == ADD[2]
    loop.take_records()
    failed = ToolResult(tool="bmcp_s_add", is_error=True, transport_error="is away")
    wrong = ToolResult(
        tool="sub",
        server_url="http://mcp/",
        is_error=True,
        content=b'[{"type":"text","text":"bad"}]',
    )
    loop.answer([failed, wrong], NOW)
    assert loop.goes_on
    tools = [each for each in loop.take_records() if isinstance(each, ToolUsage)]
    assert [each.tool for each in tools] == ["add", "sub"]
    assert [each.invocation_error for each in tools] == ["is away", "bad"]
    assert {each.server_url for each in tools} == {"http://mcp/"}
    told = loop.upstream_body()
    assert b"is away" in told
    assert b"bad" in told


@each_api
def test_a_client_that_left_is_said_so(api: Api) -> None:
    loop = opened(api, True)
    loop.begin_answer(200, [("Content-Type", "text/event-stream")])
    for part in api.streamed("Let me see", [ADD])[:4]:
        loop.receive_data(part, NOW)
    loop.keepalives = True
    assert loop.keepalive()
    loop.receive_lost_client(NOW)
    assert "left" in (loop.outcome().error_message or "")
    assert loop.keepalive() == b""


@each_api
def test_a_cut_in_a_later_round_is_an_error_event(api: Api) -> None:
    loop = opened(api, True)
    loop.begin_answer(200, [("Content-Type", "text/event-stream")])
    loop.receive_data(b"".join(api.streamed("Let me", [ADD])), NOW)
    loop.receive_end(NOW)
    loop.answer([ToolResult(tool="add", server_url="http://mcp/")], NOW)
    words = loop.receive_cut("the provider refused", NOW, error_type="overloaded")
    assert b"the provider refused" in words
    assert words.endswith(b"\n\n")
    assert loop.cut
    assert loop.outcome().error_type == "overloaded"


@each_api
def test_what_nobody_can_read_passes_as_it_came(api: Api) -> None:
    odd = b': a comment\n\ndata: no json\n\nevent: new\ndata: [1]\n\ndata: {"choices":7}\n\n'
    loop = opened(api, True)
    loop.begin_answer(200, [("Content-Type", "text/event-stream")])
    begun = b"".join(api.streamed("Let me", [ADD])[:2])
    assert loop.receive_data(begun + odd, NOW) == begun + odd


# -- injection


def _tools(api: str, **request: Any) -> Any:
    body = json.dumps({"model": "m", **request}).encode()
    made = inject(api, body, TOOLS, Encodings())
    return None if made is None else json.loads(made.body)


def test_the_same_set_gives_the_same_bytes() -> None:
    encodings = Encodings()
    for api in APIS:
        body = json.dumps(api.request).encode()
        made = {inject(api.name, body, TOOLS, encodings).body for _ in range(10)}  # type: ignore[union-attr]
        made.add(inject(api.name, body, TOOLS, Encodings()).body)  # type: ignore[union-attr]
        assert len(made) == 1
        rules = rules_for(api.name, "m")
        assert encodings.of(api.name, rules, TOOLS).all is encodings.of(api.name, rules, TOOLS).all


def test_tools_stand_where_they_disturb_no_cache() -> None:
    own = {"name": "mine", "cache_control": {"type": "ephemeral"}}
    names = [tool["name"] for tool in _tools("messages", tools=[own])["tools"]]
    assert names == ["bmcp_s_add", "bmcp_s_sub", "mine"]
    tools = _tools("chat-completions", tools=[{"type": "function", "function": own}])["tools"]
    assert [tool["function"]["name"] for tool in tools] == ["mine", "bmcp_s_add", "bmcp_s_sub"]
    names = [tool["name"] for tool in _tools("responses", tools=[own])["tools"]]
    assert names == ["mine", "bmcp_s_add", "bmcp_s_sub"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, {"type": "auto", "disable_parallel_tool_use": True}),
        ({}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"type": ""}, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"type": "any", "disable_parallel_tool_use": False},
            {"type": "any", "disable_parallel_tool_use": True},
        ),
        (
            {"type": "tool", "name": "x"},
            {"type": "tool", "name": "x", "disable_parallel_tool_use": True},
        ),
        ({"type": "none"}, {"type": "none"}),
        ({"type": "new"}, {"type": "new"}),
        ({"type": 1}, {"type": 1}),
        ("auto", "auto"),
    ],
)
def test_claude_is_asked_for_one_call_at_a_time(given: Any, wanted: Any) -> None:
    assert _tools("messages", tool_choice=given)["tool_choice"] == wanted


@pytest.mark.parametrize("api", ["chat-completions", "responses"])
def test_gpt_is_asked_for_one_call_at_a_time(api: str) -> None:
    for asked_for in (None, True, False):
        asked = _tools(api, parallel_tool_calls=asked_for)
        assert asked["parallel_tool_calls"] is False
    assert _tools(api, model="gpt-4o-mini")["parallel_tool_calls"] is False
    # The o series takes no such setting.
    for model in ("o1", "o3-mini", "openai/o4-mini", "ft:o4-mini-2025-04-16:mine"):
        asked = _tools(api, model=model)
        assert asked["tools"]
        assert "parallel_tool_calls" not in asked


def test_requests_without_a_place_for_tools_stay_as_they_are() -> None:
    assert _tools("messages", tools="wrong") is None
    assert _tools("messages", model="claude-haiku-4-5") is None
    assert _tools("chat-completions", n=2) is None
    assert _tools("chat-completions", functions=[{"name": "old"}]) is None
    assert _tools("chat-completions", functions=None) is not None
    assert _tools("responses", model="claude-haiku-4-5") is not None
    assert _tools("messages", tools=[]) is not None
    assert _tools("messages", tools=None) is not None
    assert inject("messages", b"[1]", TOOLS, Encodings()) is None
    assert inject("messages", b"{}", ToolSet(), Encodings()) is None


def test_a_name_of_the_clients_is_the_clients() -> None:
    taken = _tools("messages", tools=[{"name": "bmcp_s_add"}])["tools"]
    assert [tool["name"] for tool in taken] == ["bmcp_s_sub", "bmcp_s_add"]
    assert _tools("messages", tools=[{"name": "bmcp_s_add"}, {"name": "bmcp_s_sub"}]) is None


@each_api
@both
def test_calls_beyond_the_limit_are_nothing_that_the_client_sees(api: Api, streaming: bool) -> None:
    """The model was asked for words, and calls a tool all the same."""
    stubborn = run(api, streaming, [{"calls": [ADD]}, {"text": "No", "calls": [ADD]}], max_rounds=1)
    assert b"bmcp_s_add" not in stubborn.client
    assert b"call_1" not in stubborn.client
    assert b"tool_use" not in stubborn.client
    assert b'"tool_calls"' not in stubborn.client
    assert [(each.tool, each.invocation_error is None) for each in stubborn.tools] == [
        ("add", True),
        ("add", False),
    ]
