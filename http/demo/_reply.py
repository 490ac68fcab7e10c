"""What the imitation provider answers: the same to the same question, always."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import evolve, frozen

from aigateway.http.demo._question import OfferedTool, ReadRequest, words

__all__ = ["CREATED", "AskedCall", "Script", "identifier", "reply_to"]

CREATED = 1_750_000_000
"""Unix time at which every answer says it was made: the same question has the same answer."""

MOST_WORDS = 20_000
"""How long an answer may be made by a prompt that asks for so many words."""

_DEPTH = 5  # how deep arguments may nest

_STORY = (
    "a small harbour town wakes before the sun and counts its boats twice because one of "
    "them always comes home late with a lantern still burning and nobody can say whose it is"
)

_QUOTED = re.compile(r"[\"“`]([^\"”`]+)[\"”`]")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_LENGTH = re.compile(r"\b(\d{1,6}) words\b")


@frozen
class AskedCall:
    """A tool call that the model asks for."""

    id: str
    """Random-looking, without the API's prefix."""
    name: str
    arguments: str
    """Compact JSON, or free text for a custom tool."""
    custom: bool = False

    @property
    def tokens(self) -> int:
        return 4 + len(words(self.arguments))


@frozen(kw_only=True)
class Script:
    """One answer, before it takes the shape of an API."""

    id: str
    text: str
    thought: str
    calls: tuple[AskedCall, ...]
    truncated: bool
    search: str = ""
    """What the provider has looked for on the web, if it has."""

    @property
    def thought_tokens(self) -> int:
        return len(words(self.thought))

    @property
    def output_tokens(self) -> int:
        """Thought included."""
        calls = sum(call.tokens for call in self.calls)
        search = 4 + len(words(self.search)) if self.search else 0
        return max(self.thought_tokens + len(words(self.text)) + calls + search, 1)


def identifier(*parts: object) -> str:
    """24 letters and digits that depend on ``parts`` only."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def reply_to(question: ReadRequest, choice: int = 0) -> Script:
    """The answer to a question; ``choice`` counts the answers when several are asked for."""
    name = identifier(question.api, question.model, question.prompt, question.tool_result, choice)
    calls = tuple(_calls(question, name))
    search = _search(question)
    # Claude says what it is about to do; OpenAI's models call without a word.
    text = _text(question, calls, choice, search)
    if calls and question.api != "messages":
        text = ""
    thought = _thought(question, calls) if question.thinks else ""
    reply = Script(id=name, text=text, thought=thought, calls=calls, truncated=False, search=search)
    if question.limit is None or reply.output_tokens <= question.limit:
        return reply
    return _truncated(reply, question.limit)


def _truncated(reply: Script, limit: int) -> Script:
    thought = words(reply.thought)[:limit]
    text = words(reply.text)[: limit - len(thought)]
    return evolve(
        reply, thought="".join(thought), text="".join(text), calls=(), truncated=True, search=""
    )


def _search(question: ReadRequest) -> str:
    """What to look for on the web: what stands in quotes, or the whole prompt."""
    if not question.may_search or question.tool_result is not None:
        return ""
    if not re.search(r"\bsearch\b", question.prompt, re.IGNORECASE):
        return ""
    quoted = _QUOTED.search(question.prompt)
    return quoted[1] if quoted else _shortened(question.prompt)


def _text(question: ReadRequest, calls: tuple[AskedCall, ...], choice: int, search: str) -> str:
    if search and not calls:
        return f"I searched for “{search}”, but an imitation finds nothing."
    if calls:
        return f"I will use {' and '.join(call.name for call in calls)}."
    if question.tool_result is not None:
        return f"The tool says: {_shortened(question.tool_result)}"
    if length := _LENGTH.search(question.prompt):
        count = min(int(length[1]), MOST_WORDS)
        return " ".join(itertools.islice(itertools.cycle(_STORY.split()), count))
    again = f" This is answer number {choice + 1}." if choice else ""
    return (
        f"You said: “{_shortened(question.prompt)}”. I am an imitation of {question.model} and "
        f"know nothing, but I answer in the right shape.{again}"
    )


def _thought(question: ReadRequest, calls: tuple[AskedCall, ...]) -> str:
    wish = f"a call of {calls[0].name}" if calls else "an answer"
    return f"The user wrote {len(words(question.prompt))} words and wants {wish}. I can do that."


def _shortened(text: str, most: int = 40) -> str:
    found = words(text.strip())
    return "".join(found[:most]) + (" …" if len(found) > most else "")


def _calls(question: ReadRequest, name: str) -> Iterator[AskedCall]:
    """The tool calls that the question asks for, by ``tool_choice`` or in its prompt."""
    tools = _wanted(question)
    if len(tools) == 1 and "twice" in question.prompt.lower():
        tools *= 2
    for place, tool in enumerate(tools if question.parallel_tools else tools[:1]):
        arguments = _Arguments(question.prompt, place)
        yield AskedCall(
            id=identifier(name, place),
            name=tool.name,
            arguments=arguments.free_text() if tool.custom else arguments.compact(tool.schema),
            custom=tool.custom,
        )


def _wanted(question: ReadRequest) -> list[OfferedTool]:
    if question.tool_result is not None or not question.tools:
        return []
    if question.tool_choice is not None:
        named = [tool for tool in question.tools if tool.name == question.tool_choice]
        return named or [question.tools[0]]
    prompt = question.prompt.lower()
    said = set(re.findall(r"[\w.-]*\w", prompt))
    named = [tool for tool in question.tools if tool.name.lower() in said]
    if {"tool", "tools", "use", "call"} & said:
        return named or [question.tools[0]]
    # A name such as "Read" is also an ordinary word.
    return [tool for tool in named if "_" in tool.name or "-" in tool.name]


class _Arguments:
    """Makes arguments that fit a tool's schema out of the numbers and quotes of a prompt."""

    def __init__(self, prompt: str, place: int) -> None:
        self._prompt = prompt
        self._numbers = iter(_NUMBER.findall(_QUOTED.sub("", prompt)))
        self._quotes = iter(_QUOTED.findall(prompt))
        self._place = place

    def free_text(self) -> str:
        return next(self._quotes, None) or self._prompt

    def compact(self, schema: Mapping[str, Any]) -> str:
        value = self._object(schema, 0)
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)

    def _value(self, schema: object, depth: int) -> Any:
        if not isinstance(schema, Mapping) or depth > _DEPTH:
            return None
        for name in ("const", "default"):
            if name in schema:
                return schema[name]
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return schema["enum"][self._place % len(schema["enum"])]
        for name in ("anyOf", "oneOf", "allOf"):
            if isinstance(schema.get(name), list) and schema[name]:
                return self._value(schema[name][0], depth + 1)
        kind = schema.get("type")
        kind = kind[0] if isinstance(kind, list) and kind else kind
        return self._of_kind(kind, schema, depth)

    def _of_kind(self, kind: object, schema: Mapping[str, Any], depth: int) -> Any:
        match kind:
            case "string":
                return next(self._quotes, "example")
            case "integer":
                return int(self._number(schema))
            case "number":
                number = self._number(schema)
                return int(number) if number.is_integer() else number
            case "boolean":
                return True
            case "array":
                return [self._value(schema.get("items", {"type": "string"}), depth + 1)]
            case "object" | None:
                return self._object(schema, depth)
            case _:
                return None

    def _number(self, schema: Mapping[str, Any]) -> float:
        least = schema.get("minimum")
        if not isinstance(least, int | float) or not math.isfinite(least):
            least = 1
        return float(next(self._numbers, least))

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        if not isinstance(properties, Mapping):
            return {}
        required = schema.get("required")
        listed = required if isinstance(required, list) else []
        # Without a list of its own, the first property stands for all.
        names = [name for name in listed if isinstance(name, str)] or list(properties)[:1]
        return {name: self._value(properties.get(name), depth + 1) for name in names}
