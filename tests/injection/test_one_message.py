"""What the SDKs make of a stream is the message that a blocking client gets."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest
from gateway_process import GatewayProcess
from imitation_provider import ScriptedProvider, answer, stream
from openai.lib.streaming.chat import ChatCompletionStreamState
from round_answers import (
    Call,
    completion,
    completion_parts,
    message,
    message_parts,
    response,
    response_parts,
)

ADD: Call = ("call_1", "bmcp_sdk_add", {"a": 2, "b": 3})
AGAIN: Call = ("call_2", "bmcp_sdk_add", {"a": 4, "b": 5})
OWN: Call = ("call_3", "mine", {"x": 1})
ASKED: Any = [{"role": "user", "content": "2+3?"}]

Round = tuple[str, list[Call]]
ROUNDS: dict[str, list[Round]] = {
    "an answer": [("It is 5.", [])],
    "a tool": [("", [ADD]), ("It is 5.", [])],
    "tools": [("", [ADD, AGAIN]), ("", [ADD]), ("It is 5.", [])],
    "the client's tool": [("", [ADD]), ("Your turn.", [OWN])],
    "both at once": [("", [ADD]), ("Both.", [AGAIN, OWN])],
}
each_talk = pytest.mark.parametrize("rounds", ROUNDS.values(), ids=list(ROUNDS))


@pytest.fixture(scope="module")
def claude(tooled_gateway: GatewayProcess) -> Iterator[anthropic.Anthropic]:
    url, key = f"{tooled_gateway.url}/anthropic", tooled_gateway.key()
    with anthropic.Anthropic(base_url=url, api_key=key, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def gpt(tooled_gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    url, key = f"{tooled_gateway.url}/openai/v1", tooled_gateway.key()
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
        yield client


def both_ways(
    provider: ScriptedProvider,
    rounds: list[Round],
    parts: Callable[..., list[list[bytes]]],
    whole: Callable[..., dict[str, Any]],
    streamed: Callable[[], Any],
    blocking: Callable[[], Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What two clients get from the same rounds."""
    for number, (text, calls) in enumerate(rounds, 1):
        events = parts([*([text] if text else []), *calls], number=number)
        provider.play(stream(itertools.chain.from_iterable(events)))
    one = streamed().model_dump(mode="json")
    for number, (text, calls) in enumerate(rounds, 1):
        provider.play(answer(whole(text, calls, number=number)))
    return one, blocking().model_dump(mode="json")


@each_talk
def test_a_message(
    claude: anthropic.Anthropic, rounds_provider: ScriptedProvider, rounds: list[Round]
) -> None:
    own: Any = [{"name": "mine", "input_schema": {"type": "object"}}]

    def streamed() -> Any:
        with claude.messages.stream(
            model="claude-x", max_tokens=9, messages=ASKED, tools=own
        ) as running:
            return running.get_final_message()

    one, other = both_ways(
        rounds_provider,
        rounds,
        message_parts,
        message,
        streamed,
        lambda: claude.messages.create(model="claude-x", max_tokens=9, messages=ASKED, tools=own),
    )
    # A stream goes on in the message in which it began.
    assert (one.pop("id"), other.pop("id")) == ("msg_1", f"msg_{len(rounds)}")
    for block in one["content"]:
        # The SDK's stream adds what it parsed.
        block.pop("parsed_output", None)
    assert one == other


@each_talk
def test_a_completion(
    gpt: openai.OpenAI, rounds_provider: ScriptedProvider, rounds: list[Round]
) -> None:
    own: Any = [{"type": "function", "function": {"name": "mine", "parameters": {}}}]

    def streamed() -> Any:
        state: Any = ChatCompletionStreamState()
        for chunk in gpt.chat.completions.create(
            model="gpt-x",
            messages=ASKED,
            tools=own,
            stream=True,
            stream_options={"include_usage": True},
        ):
            state.handle_chunk(chunk)
        return state.get_final_completion()

    one, other = both_ways(
        rounds_provider,
        rounds,
        completion_parts,
        completion,
        streamed,
        lambda: gpt.chat.completions.create(model="gpt-x", messages=ASKED, tools=own),
    )
    assert (one.pop("id"), other.pop("id")) == ("chatcmpl-1", f"chatcmpl-{len(rounds)}")
    assert (one.pop("created"), other.pop("created")) == (1001, 1000 + len(rounds))
    for choice in one["choices"]:
        # The SDK's stream adds what it parsed, and keeps the numbers of calls.
        choice["message"].pop("parsed")
        for number, call in enumerate(choice["message"]["tool_calls"] or []):
            assert call.pop("index") == number
            call["function"].pop("parsed_arguments")
    assert one == other


@each_talk
def test_a_response(
    gpt: openai.OpenAI, rounds_provider: ScriptedProvider, rounds: list[Round]
) -> None:
    own: Any = [{"type": "function", "name": "mine", "parameters": {}, "strict": False}]

    def streamed() -> Any:
        with gpt.responses.stream(model="gpt-x", input="2+3?", tools=own) as running:
            return running.get_final_response()

    one, other = both_ways(
        rounds_provider,
        rounds,
        response_parts,
        response,
        streamed,
        lambda: gpt.responses.create(model="gpt-x", input="2+3?", tools=own),
    )
    assert (one.pop("id"), other.pop("id")) == ("resp_1", f"resp_{len(rounds)}")
    for item in one["output"]:
        item.pop("parsed_arguments", None)
        for part in item.get("content") or []:
            part.pop("parsed")
    assert one == other
