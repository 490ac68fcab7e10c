"""What a request to the imitation provider asks for, the same for its four APIs."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from attrs import frozen

__all__ = [
    "CACHED",
    "BadQuestion",
    "ReadRequest",
    "OfferedTool",
    "count_tokens",
    "read_chat",
    "read_gemini",
    "read_messages",
    "read_object",
    "read_responses",
    "words",
]

Json: TypeAlias = Any

CACHED = 5000
"""How many tokens everything has that was put into Gemini's cache."""

_WORD = re.compile(r"\s*\S+")


class BadQuestion(Exception):
    """The request is not one that the API would accept; ``param`` names the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@frozen(kw_only=True)
class OfferedTool:
    """A tool on offer; ``custom`` ones take free text instead of JSON arguments."""

    name: str
    schema: Mapping[str, Json]
    custom: bool = False


@frozen(kw_only=True)
class ReadRequest:
    """One request, read.  Tokens are words."""

    api: str
    model: str
    prompt: str
    """The user's last words."""
    tool_result: str | None
    """What a tool said, when that is what the request ends with."""
    stream: bool
    tools: tuple[OfferedTool, ...]
    tool_choice: str | None
    """Name of the tool that must be called; empty: any of them; None: as the prompt says."""
    parallel_tools: bool
    thinks: bool
    """Whether the model is to think before it answers, and to show it."""
    limit: int | None
    """Most output tokens."""
    input_tokens: int
    """All of them, including the two below."""
    cached_tokens: int
    cache_written_tokens: int = 0
    include_usage: bool = False
    choices: int = 1
    may_search: bool = False
    """Whether the provider's own search of the web is on offer."""


def words(text: str) -> list[str]:
    """The words of a text, each with the space before it."""
    return _WORD.findall(text)


def count_tokens(value: Json) -> int:
    """How many words there are in all the texts of a JSON value."""
    return sum(len(words(text)) for text in _texts(value))


def _texts(value: Json) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from _texts(item)


def read_object(body: bytes) -> Mapping[str, Json]:
    """Read a body that must be an object.  Raises :class:`BadQuestion`."""
    try:
        value = json.loads(body)
    except ValueError as ex:
        raise BadQuestion(f"the request body is not valid JSON: {ex}") from ex
    if not isinstance(value, dict):
        raise BadQuestion("the request body must be a JSON object")
    return value


def _required(request: Mapping[str, Json], name: str, kind: type | tuple[type, ...]) -> Json:
    value = request.get(name)
    if value is None or value == "":
        raise BadQuestion(f"{name}: this field is required", name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BadQuestion(f"{name}: this field has the wrong type", name)
    return value


def _objects(value: Json) -> list[Mapping[str, Json]]:
    """The objects of a list, or none when it is not a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _dict(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}


def _limit(*values: Json) -> int | None:
    numbers = [value for value in values if isinstance(value, int) and value > 0]
    return min(numbers, default=None)


def _last_text(content: Json, kind: str) -> str:
    """A message's text, or the last of its text blocks."""
    if isinstance(content, str):
        return content
    blocks = [block.get("text") for block in _objects(content) if block.get("type") == kind]
    return next((text for text in reversed(blocks) if isinstance(text, str)), "")


def _last_prompt(messages: Sequence[Mapping[str, Json]], kind: str) -> str:
    prompts = (_last_text(m.get("content"), kind) for m in messages if m.get("role") == "user")
    return next(filter(None, reversed(list(prompts))), "")


def _before_last_answer(turns: Sequence[Mapping[str, Json]]) -> Sequence[Mapping[str, Json]]:
    """The turns that were sent once before: those up to the model's last answer."""
    answers = [place for place, turn in enumerate(turns) if _is_answer(turn)]
    while len(answers) > 1 and answers[-1] == answers[-2] + 1:
        # The Responses API has an item for each part of an answer.
        answers.pop()
    return turns[: answers[-1]] if answers else []


def _is_answer(turn: Mapping[str, Json]) -> bool:
    kind = turn.get("type")
    call = isinstance(kind, str) and kind.endswith("_call")
    return turn.get("role") == "assistant" or call or kind == "reasoning"


def _last_turn(turns: Sequence[Mapping[str, Json]]) -> Mapping[str, Json]:
    """The last one before what clients of today add: instructions behind all else."""
    instructs = ("system", "developer")
    return next((turn for turn in reversed(turns) if turn.get("role") not in instructs), {})


def _written(total: int, cached: int) -> int:
    """All that is new goes into the cache, but for the last token."""
    return total - cached - 1 if total > cached else 0


def read_messages(body: bytes, *, needs_limit: bool = True) -> ReadRequest:
    """Read a request of Anthropic's Messages API.  Raises :class:`BadQuestion`.

    ``max_tokens`` must be there unless ``needs_limit`` is false: only counting goes without.
    """
    request = read_object(body)
    model = _required(request, "model", str)
    messages = _objects(_required(request, "messages", list))
    limit = _required(request, "max_tokens", int) if needs_limit else None
    fixed = count_tokens(request.get("system")) + count_tokens(request.get("tools"))
    total = fixed + count_tokens([message.get("content") for message in messages])
    cached = written = 0
    if _has_breakpoint(request):
        before = _before_last_answer(messages)
        seen = count_tokens([message.get("content") for message in before])
        cached = fixed + seen if before else 0
        written = _written(total, cached)
    choice = _dict(request.get("tool_choice"))
    return ReadRequest(
        api="messages",
        model=model,
        prompt=_last_prompt(messages, "text"),
        tool_result=_tool_result(messages),
        stream=request.get("stream") is True,
        tools=() if choice.get("type") == "none" else tuple(_messages_tools(request)),
        tool_choice="" if choice.get("type") == "any" else choice.get("name"),
        parallel_tools=choice.get("disable_parallel_tool_use") is not True,
        thinks=_dict(request.get("thinking")).get("type") in ("enabled", "adaptive"),
        limit=_limit(limit),
        input_tokens=max(total, 1),
        cached_tokens=cached,
        cache_written_tokens=written,
        may_search=any(
            _kind(tool).startswith("web_search") for tool in _objects(request.get("tools"))
        ),
    )


def _kind(tool: Mapping[str, Json]) -> str:
    kind = tool.get("type")
    return kind if isinstance(kind, str) else ""


def _has_breakpoint(value: Json) -> bool:
    """Whether anything in the request is marked with ``cache_control``."""
    if isinstance(value, dict):
        return "cache_control" in value or any(map(_has_breakpoint, value.values()))
    return isinstance(value, list) and any(map(_has_breakpoint, value))


def _messages_tools(request: Mapping[str, Json]) -> Iterator[OfferedTool]:
    for tool in _objects(request.get("tools")):
        # Anthropic's own tools have a type and no schema, and run on its side.
        if isinstance(tool.get("name"), str) and "input_schema" in tool:
            yield OfferedTool(name=tool["name"], schema=_dict(tool["input_schema"]))


def _tool_result(messages: Sequence[Mapping[str, Json]]) -> str | None:
    blocks = _objects(_last_turn(messages).get("content"))
    if not blocks or blocks[-1].get("type") != "tool_result":
        return None
    return _said(blocks[-1].get("content"))


def _said(content: Json) -> str:
    """The text of a tool's result, which may be in blocks."""
    if isinstance(content, str):
        return content
    return " ".join(_texts([block.get("text") for block in _objects(content)]))


def read_chat(body: bytes) -> ReadRequest:
    """Read a request of OpenAI's Chat Completions API.  Raises :class:`BadQuestion`."""
    request = read_object(body)
    model = _required(request, "model", str)
    messages = _objects(_required(request, "messages", list))
    choice = request.get("tool_choice")
    tools = [
        OfferedTool(name=function["name"], schema=_dict(function.get("parameters")))
        for tool in _objects(request.get("tools"))
        if isinstance((function := _dict(tool.get("function"))).get("name"), str)
    ]
    chosen = _dict(_dict(choice).get("function"))
    last = _last_turn(messages)
    said = [[message.get("content"), message.get("tool_calls")] for message in messages]
    count = request.get("n")
    total = max(count_tokens(said) + count_tokens(request.get("tools")), 1)
    cached = count_tokens(said[: len(_before_last_answer(messages))])
    return ReadRequest(
        api="chat",
        model=model,
        prompt=_last_prompt(messages, "text"),
        tool_result=_said(last.get("content")) if last.get("role") == "tool" else None,
        stream=request.get("stream") is True,
        tools=() if choice == "none" else tuple(tools),
        tool_choice="" if choice == "required" else chosen.get("name"),
        parallel_tools=request.get("parallel_tool_calls") is not False,
        thinks=request.get("reasoning_effort") not in (None, "none"),
        limit=_limit(request.get("max_tokens"), request.get("max_completion_tokens")),
        input_tokens=total,
        cached_tokens=cached,
        cache_written_tokens=_written(total, cached) if request.get("prompt_cache_key") else 0,
        include_usage=_dict(request.get("stream_options")).get("include_usage") is True,
        choices=count if isinstance(count, int) and 1 <= count <= 128 else 1,
    )


def read_responses(body: bytes) -> ReadRequest:
    """Read a request of OpenAI's Responses API.  Raises :class:`BadQuestion`."""
    request = read_object(body)
    model = _required(request, "model", str)
    given = _required(request, "input", (str, list))
    items = [{"role": "user", "content": given}] if isinstance(given, str) else _objects(given)
    choice = request.get("tool_choice")
    tools = [
        OfferedTool(
            name=tool["name"],
            schema=_dict(tool.get("parameters")),
            custom=tool.get("type") == "custom",
        )
        for tool in _objects(request.get("tools"))
        if tool.get("type") in ("function", "custom") and isinstance(tool.get("name"), str)
    ]
    last = _last_turn(items)
    is_result = last.get("type") in ("function_call_output", "custom_tool_call_output")
    reasoning = _dict(request.get("reasoning"))
    fixed = count_tokens(request.get("instructions")) + count_tokens(request.get("tools"))
    before = _before_last_answer(items)
    total = max(fixed + count_tokens([_content(item) for item in items]), 1)
    cached = (fixed if before else 0) + count_tokens(list(map(_content, before)))
    return ReadRequest(
        api="responses",
        model=model,
        prompt=_last_prompt(items, "input_text") or _last_prompt(items, "text"),
        tool_result=_said(last.get("output")) if is_result else None,
        stream=request.get("stream") is True,
        tools=() if choice == "none" else tuple(tools),
        tool_choice="" if choice == "required" else _dict(choice).get("name"),
        parallel_tools=request.get("parallel_tool_calls") is not False,
        thinks=any(reasoning.get(name) not in (None, "none") for name in ("effort", "summary")),
        limit=_limit(request.get("max_output_tokens")),
        input_tokens=total,
        cached_tokens=cached,
        cache_written_tokens=_written(total, cached) if request.get("prompt_cache_key") else 0,
        may_search=any(
            _kind(tool).startswith("web_search") for tool in _objects(request.get("tools"))
        ),
    )


def _content(item: Mapping[str, Json]) -> Json:
    fields = ("content", "output", "arguments", "input", "summary")
    return list(itertools.chain(item.get(name) for name in fields))


def read_gemini(body: bytes, model: str, *, stream: bool) -> ReadRequest:
    """Read a request of Google's Gemini API, whose path says the rest.

    Raises :class:`BadQuestion`.
    """
    request = read_object(body)
    turns = [
        {**turn, "role": "assistant" if turn.get("role") == "model" else "user"}
        for turn in _objects(_required(request, "contents", list))
    ]
    offered = _objects(request.get("tools"))
    tools = [
        OfferedTool(name=each["name"], schema=_schema_of(each))
        for tool in offered
        for each in _objects(tool.get("functionDeclarations"))
        if isinstance(each.get("name"), str)
    ]
    wanted = _dict(_dict(request.get("toolConfig")).get("functionCallingConfig")).get("mode")
    settings = _dict(request.get("generationConfig"))
    thinking = _dict(settings.get("thinkingConfig"))
    fixed = count_tokens(request.get("systemInstruction")) + count_tokens(request.get("tools"))
    said = [turn.get("parts") for turn in turns]
    before = _before_last_answer(turns)
    cached = fixed + count_tokens(said[: len(before)]) if before else 0
    kept = CACHED if request.get("cachedContent") else 0
    return ReadRequest(
        api="gemini",
        model=model,
        prompt=_last_prompt([{**turn, "content": _texts_of(turn)} for turn in turns], "text"),
        tool_result=_function_result(turns),
        stream=stream,
        tools=() if wanted == "NONE" else tuple(tools),
        tool_choice="" if wanted == "ANY" else None,
        parallel_tools=True,
        # Google's servers take both spellings of any name, and its own SDKs mix them.
        thinks=True in (thinking.get("includeThoughts"), thinking.get("include_thoughts")),
        limit=_limit(settings.get("maxOutputTokens")),
        input_tokens=max(fixed + count_tokens(said), 1) + kept,
        cached_tokens=cached + kept,
        may_search=any("googleSearch" in tool for tool in offered),
    )


def _schema_of(function: Mapping[str, Json]) -> Mapping[str, Json]:
    names = ("parameters", "parametersJsonSchema", "parameters_json_schema")
    return next((_dict(function[name]) for name in names if name in function), {})


def _texts_of(turn: Mapping[str, Json]) -> list[Mapping[str, Json]]:
    return [{"type": "text", **part} for part in _objects(turn.get("parts")) if "text" in part]


def _function_result(turns: Sequence[Mapping[str, Json]]) -> str | None:
    parts = _objects(_last_turn(turns).get("parts"))
    if not parts or "functionResponse" not in parts[-1]:
        return None
    return " ".join(_texts(_dict(parts[-1]["functionResponse"]).get("response")))
