"""The SDKs take the imitation provider for the real ones."""

from __future__ import annotations

import anthropic
import openai
import pytest

from aigateway.http.demo.imitation import MODELS
from aigateway.http.demo.server import ImitationServer

MODEL = "claude-imitation-large"
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "unit": {"enum": ["c", "f"]},
    },
    "required": ["city", "days"],
}
CLAUDE_TOOL = {"name": "get_weather", "description": "Weather", "input_schema": WEATHER}
CLAUDE_SEARCH = {"type": "web_search_20250305", "name": "web_search"}
CHAT_FUNCTION = {"name": "get_weather", "parameters": WEATHER}
RESPONSES_TOOL = {"type": "function", "strict": False, **CHAT_FUNCTION}
ASK = 'Use get_weather for "Turku", 3 days'


@pytest.fixture(scope="module")
def provider():
    with ImitationServer(keys={"known"}) as server:
        yield server


@pytest.fixture(scope="module")
def claude(provider):
    with anthropic.Anthropic(base_url=provider.url, api_key="known", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def gpt(provider):
    url = provider.url + "/v1"
    with openai.OpenAI(base_url=url, api_key="known", max_retries=0) as client:
        yield client


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# -- Anthropic Messages


@pytest.mark.parametrize(
    ("request_fields", "kinds", "stop"),
    [
        ({"messages": user("hello there")}, ["text"], "end_turn"),
        ({"messages": user(ASK), "tools": [CLAUDE_TOOL]}, ["text", "tool_use"], "tool_use"),
        (
            {"messages": user("why"), "thinking": {"type": "enabled", "budget_tokens": 1024}},
            ["thinking", "text"],
            "end_turn",
        ),
        (
            {
                "messages": user("Call a tool twice"),
                "tools": [CLAUDE_TOOL],
                "thinking": {"type": "adaptive"},
            },
            ["thinking", "text", "tool_use", "tool_use"],
            "tool_use",
        ),
        (
            {"messages": user("Search for tides"), "tools": [CLAUDE_SEARCH]},
            ["server_tool_use", "web_search_tool_result", "text"],
            "end_turn",
        ),
    ],
)
def test_a_message_is_the_same_whole_and_streamed(claude, request_fields, kinds, stop):
    whole = claude.messages.create(model=MODEL, max_tokens=2000, **request_fields)
    with claude.messages.stream(model=MODEL, max_tokens=2000, **request_fields) as stream:
        streamed = stream.get_final_message()
    assert [block.type for block in whole.content] == kinds
    assert whole.stop_reason == stop
    blocks = [block.to_dict() for block in whole.content]
    assert [
        {key: value for key, value in block.to_dict().items() if key in expected}
        for block, expected in zip(streamed.content, blocks, strict=True)
    ] == blocks
    assert (streamed.id, streamed.stop_reason) == (whole.id, whole.stop_reason)
    for name in ("input_tokens", "output_tokens", "cache_read_input_tokens"):
        assert getattr(streamed.usage, name) == getattr(whole.usage, name)


def test_a_message_answers_the_prompt(claude):
    message = claude.messages.create(model=MODEL, max_tokens=99, messages=user("good morning"))
    assert "good morning" in message.content[0].text
    assert message.model == MODEL
    assert message.usage.input_tokens == 2
    assert message.usage.output_tokens == len(message.content[0].text.split())


def test_a_tool_call_fits_the_tools_schema_and_its_result_is_read(claude):
    tools = [CLAUDE_TOOL]
    message = claude.messages.create(model=MODEL, max_tokens=99, tools=tools, messages=user(ASK))
    call = message.content[-1]
    assert call.input == {"city": "Turku", "days": 3}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "snow all week"}
    conversation = [
        *user(ASK),
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    after = claude.messages.create(model=MODEL, max_tokens=99, tools=tools, messages=conversation)
    assert [block.type for block in after.content] == ["text"]
    assert "snow all week" in after.content[0].text


@pytest.mark.parametrize(
    ("choice", "calls"),
    [
        ({"type": "any"}, 1),
        ({"type": "tool", "name": "get_weather"}, 1),
        ({"type": "none"}, 0),
        ({"type": "auto"}, 0),
    ],
)
def test_tool_choice_decides_when_the_prompt_does_not(claude, choice, calls):
    message = claude.messages.create(
        model=MODEL, max_tokens=99, tools=[CLAUDE_TOOL], tool_choice=choice, messages=user("hi")
    )
    assert len([block for block in message.content if block.type == "tool_use"]) == calls


def test_tokens_are_counted_as_they_are_billed(claude):
    fields = {"model": MODEL, "messages": user("one two three"), "system": "be brief"}
    counted = claude.messages.count_tokens(**fields).input_tokens
    assert counted == claude.messages.create(max_tokens=9, **fields).usage.input_tokens == 5


def test_a_message_stops_at_its_limit(claude):
    message = claude.messages.create(model=MODEL, max_tokens=3, messages=user("hello"))
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == len(message.content[0].text.split()) == 3


def test_a_marked_prefix_is_written_to_the_cache_and_read_in_the_next_turn(claude):
    marked = {"type": "text", "text": "a long story", "cache_control": {"type": "ephemeral"}}
    conversation = [{"role": "user", "content": [marked]}]
    first = claude.messages.create(model=MODEL, max_tokens=99, messages=conversation)
    assert first.usage.cache_creation_input_tokens > 0
    assert first.usage.cache_read_input_tokens == 0
    conversation += [{"role": "assistant", "content": first.content}, *user("and then")]
    second = claude.messages.create(model=MODEL, max_tokens=99, messages=conversation)
    assert second.usage.cache_read_input_tokens > 0


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, anthropic.BadRequestError),
        (429, anthropic.RateLimitError),
        (529, anthropic.InternalServerError),
    ],
)
def test_a_prompt_can_ask_for_an_error_of_anthropic(claude, status, error):
    with pytest.raises(error, match="as asked") as caught:
        claude.messages.create(
            model=MODEL, max_tokens=9, messages=user(f"please fail with {status}")
        )
    assert caught.value.status_code == status
    assert caught.value.body["type"] == "error"
    assert ("retry-after" in caught.value.response.headers) == (status != 400)


def test_a_stream_of_anthropic_can_fail_midway(claude):
    fields = {"model": MODEL, "max_tokens": 99, "messages": user("please fail midway")}
    with (
        claude.messages.stream(**fields) as stream,
        pytest.raises(anthropic.APIStatusError, match="midway"),
    ):
        stream.until_done()
    with pytest.raises(anthropic.InternalServerError):
        claude.messages.create(**fields)


# -- OpenAI Chat Completions


@pytest.mark.parametrize(
    ("request_fields", "reason"),
    [
        ({"messages": user("hello there")}, "stop"),
        (
            {
                "messages": user(ASK),
                "tools": [{"type": "function", "function": CHAT_FUNCTION}],
            },
            "tool_calls",
        ),
        (
            {
                "messages": user("use the tool twice"),
                "tools": [{"type": "function", "function": CHAT_FUNCTION}],
            },
            "tool_calls",
        ),
        ({"messages": user("hi"), "n": 3}, "stop"),
        ({"messages": user("hi"), "max_completion_tokens": 2}, "length"),
    ],
)
def test_a_completion_is_the_same_whole_and_streamed(gpt, request_fields, reason):
    whole = gpt.chat.completions.create(model="gpt-5", **request_fields)
    with gpt.chat.completions.create(
        model="gpt-5", stream=True, stream_options={"include_usage": True}, **request_fields
    ) as chunks:
        stream = openai.lib.streaming.chat.ChatCompletionStreamState()
        for chunk in chunks:
            stream.handle_chunk(chunk)
    streamed = stream.current_completion_snapshot
    assert whole.id == streamed.id
    assert whole.usage == streamed.usage
    for one, other in zip(whole.choices, streamed.choices, strict=True):
        assert one.finish_reason == other.finish_reason == reason
        assert one.message.content == other.message.content
        assert [(call.id, call.function.name, call.function.arguments) for call in calls(one)] == [
            (call.id, call.function.name, call.function.arguments) for call in calls(other)
        ]


def calls(choice):
    return choice.message.tool_calls or []


def test_the_streaming_helper_of_openai_takes_the_chunks(gpt):
    with gpt.chat.completions.stream(model="gpt-5", messages=user("hello")) as stream:
        completion = stream.get_final_completion()
    assert "hello" in completion.choices[0].message.content


def test_usage_is_streamed_to_those_who_ask_only(gpt):
    fields = {"model": "gpt-5", "messages": user("hello"), "stream": True}
    with gpt.chat.completions.create(**fields) as chunks:
        assert not any(chunk.usage or not chunk.choices for chunk in chunks)
    fields["stream_options"] = {"include_usage": True}
    with gpt.chat.completions.create(**fields) as chunks:
        *_, last = chunks
    assert last.choices == []
    assert last.usage.prompt_tokens == 1


def test_a_function_call_fits_its_schema_and_its_result_is_read(gpt):
    tools = [{"type": "function", "function": CHAT_FUNCTION}]
    asked = gpt.chat.completions.create(model="gpt-5", messages=user(ASK), tools=tools)
    (call,) = asked.choices[0].message.tool_calls
    assert call.function.arguments == '{"city":"Turku","days":3}'
    conversation = [
        *user(ASK),
        asked.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    after = gpt.chat.completions.create(model="gpt-5", messages=conversation, tools=tools)
    assert after.choices[0].finish_reason == "stop"
    assert "sunny" in after.choices[0].message.content
    assert after.usage.prompt_tokens_details.cached_tokens > 0


def test_a_stream_of_chat_can_fail_midway_or_break_off(gpt):
    fields = {"model": "gpt-5", "stream": True}
    chunks = gpt.chat.completions.create(messages=user("fail midway please"), **fields)
    with chunks, pytest.raises(openai.APIError, match="midway"):
        list(chunks)
    chunks = gpt.chat.completions.create(messages=user("please break off"), **fields)
    with chunks, pytest.raises(openai.APIConnectionError):
        list(chunks)


# -- OpenAI Responses


@pytest.mark.parametrize(
    ("request_fields", "kinds", "status"),
    [
        ({"input": "hello there"}, ["message"], "completed"),
        ({"input": user("hello there")}, ["message"], "completed"),
        ({"input": ASK, "tools": [RESPONSES_TOOL]}, ["function_call"], "completed"),
        (
            {"input": "Use run_code", "tools": [{"type": "custom", "name": "run_code"}]},
            ["custom_tool_call"],
            "completed",
        ),
        (
            {"input": ASK, "tools": [RESPONSES_TOOL], "reasoning": {"summary": "auto"}},
            ["reasoning", "function_call"],
            "completed",
        ),
        ({"input": "hi", "max_output_tokens": 2}, ["message"], "incomplete"),
        (
            {"input": "Search for tides", "tools": [{"type": "web_search"}]},
            ["web_search_call", "message"],
            "completed",
        ),
    ],
)
def test_a_response_is_the_same_whole_and_streamed(gpt, request_fields, kinds, status):
    whole = gpt.responses.create(model="gpt-5", **request_fields)
    assert [item.type for item in whole.output] == kinds
    assert whole.status == status
    with gpt.responses.create(model="gpt-5", stream=True, **request_fields) as events:
        seen = list(events)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-1].type == f"response.{status}"
    assert seen[-1].response.to_dict() == whole.to_dict()


def test_the_streaming_helper_of_responses_takes_the_events(gpt):
    with gpt.responses.stream(
        model="gpt-5", input=ASK, tools=[RESPONSES_TOOL], reasoning={"effort": "high"}
    ) as stream:
        kinds = {event.type for event in stream}
        response = stream.get_final_response()
    assert response.output[-1].arguments == '{"city":"Turku","days":3}'
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    assert "response.reasoning_summary_text.delta" in kinds
    with gpt.responses.stream(model="gpt-5", input="hello") as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == text


def test_the_result_of_a_function_is_read(gpt):
    asked = gpt.responses.create(model="gpt-5", input=ASK, tools=[RESPONSES_TOOL])
    (call,) = asked.output
    conversation = [
        *user(ASK),
        call,
        {"type": "function_call_output", "call_id": call.call_id, "output": "fog"},
    ]
    after = gpt.responses.create(model="gpt-5", input=conversation, tools=[RESPONSES_TOOL])
    assert "fog" in after.output_text


def test_a_stream_of_responses_can_fail_midway(gpt):
    with gpt.responses.create(model="gpt-5", input="fail midway", stream=True) as events:
        *_, last = events
    assert last.type == "error"
    assert "midway" in last.message


# -- all of them


def test_an_unknown_key_is_refused(provider):
    with (
        anthropic.Anthropic(base_url=provider.url, api_key="other", max_retries=0) as claude,
        pytest.raises(anthropic.AuthenticationError),
    ):
        claude.messages.create(model=MODEL, max_tokens=9, messages=user("hi"))
    with openai.OpenAI(base_url=provider.url + "/v1", api_key="other", max_retries=0) as gpt:
        with pytest.raises(openai.AuthenticationError) as caught:
            gpt.responses.create(model="gpt-5", input="hi")
        assert caught.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            gpt.models.list()


def test_a_request_without_a_model_is_refused(claude, gpt):
    with pytest.raises(anthropic.BadRequestError, match="model"):
        claude.messages.create(model="", max_tokens=9, messages=user("hi"))
    with pytest.raises(openai.BadRequestError) as caught:
        gpt.chat.completions.create(model="", messages=user("hi"))
    assert caught.value.param == "model"
    with pytest.raises(openai.BadRequestError):
        gpt.responses.create(model="gpt-5")


def test_models_are_listed_to_each_client_in_its_own_shape(claude, gpt):
    assert tuple(model.id for model in claude.models.list()) == MODELS["anthropic"]
    assert tuple(model.id for model in gpt.models.list()) == MODELS["openai"]
    assert gpt.models.retrieve("gpt-imitation-small").owned_by == "imitation"
    assert claude.models.retrieve("claude-imitation-small").type == "model"
    with pytest.raises(openai.NotFoundError):
        gpt.models.retrieve("none")
    with pytest.raises(openai.NotFoundError):
        gpt.embeddings.create(model="e", input="x")


def test_what_is_new_is_written_to_openais_cache_for_those_with_a_key(gpt):
    turns = [*user("one two"), {"role": "assistant", "content": "three"}, *user("four five")]
    keyed = gpt.responses.create(model="gpt-5", input=turns, prompt_cache_key="k").usage
    assert keyed.input_tokens_details.cached_tokens == 2
    assert keyed.input_tokens_details.cache_write_tokens == keyed.input_tokens - 2 - 1
    told = gpt.chat.completions.create(model="gpt-5", messages=turns, prompt_cache_key="k").usage
    details = told.prompt_tokens_details.to_dict()
    assert (details["cached_tokens"], details["cache_write_tokens"]) == (2, 2)
