"""The requests of the smoke test, as the clients of today write them.

Claude Code and others end a conversation with a system message, Codex puts the folder's
instructions and what it knows of the machine in front of the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve, field, frozen

__all__ = ["CASES", "OPENING", "Case"]

_SESSION = "6f1c7a52-7f0e-4b0c-9a53-2d7d3f6f4f10"
_CLAUDE_CODE = {
    "anthropic-version": "2023-06-01",
    "User-Agent": "claude-cli/2.1.200 (demonstration)",
    "X-Claude-Code-Session-Id": _SESSION,
}
_CODEX = {"User-Agent": "codex_exec/0.171.0 (demonstration)", "session-id": _SESSION}
_OTHER = {"User-Agent": "demonstration/0"}
_REMINDER = "Answer in one sentence, and use the tools that you have."

_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
_CALL = 'Please use get_weather for "Turku" and 3 days'


@frozen(kw_only=True)
class Case:
    """One request, and what is to be recorded besides what follows from its answer."""

    title: str
    path: str
    """Below the gateway's address, with the provider's name."""
    query: str = ""
    """With its question mark."""
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(factory=lambda: _OTHER)
    client: str = "Unknown"
    session_id: str | None = None
    status: int = 200
    error_type: str = ""
    answers: str | None = None
    """The call whose result it ends with."""

    @property
    def provider(self) -> str:
        return self.path.split("/")[1]

    @property
    def upstream_path(self) -> str:
        return self.path.removeprefix(f"/{self.provider}")

    @property
    def usage_is_forced(self) -> bool:
        """Whether the gateway must ask for the usage that the client did not ask for."""
        chat = self.upstream_path == "/v1/chat/completions"
        return chat and bool(self.body.get("stream")) and "stream_options" not in self.body

    @property
    def direct_body(self) -> Mapping[str, Any]:
        """What the imitation must get to give the same answer directly."""
        forced = {"stream_options": {"include_usage": True}} if self.usage_is_forced else {}
        return {**self.body, **forced}

    def expected_bytes(self, direct: bytes) -> bytes:
        """What the client must see when ``direct`` is what the imitation answered.

        A chunk of usage that the client did not ask for is withheld.
        """
        if not self.usage_is_forced:
            return direct
        *events, usage, done, nothing = direct.split(b"\n\n")
        assert b'"choices":[],' in usage, usage
        return b"\n\n".join((*events, done, nothing))


def _claude(title: str, turns: str | Sequence[Any], **fields: Any) -> Case:
    asked = [{"role": "user", "content": turns}] if isinstance(turns, str) else turns
    return Case(
        title=f"Messages, {title}",
        path="/anthropic/v1/messages",
        headers=_CLAUDE_CODE,
        client="Claude Code",
        session_id=_SESSION,
        body={
            "model": "claude-imitation-large",
            "max_tokens": 2000,
            "messages": [*asked, {"role": "system", "content": _REMINDER}],
            **fields,
        },
    )


_OVERLOADED = evolve(
    _claude("overloaded", "please fail with 529"), status=529, error_type="overloaded"
)


def _chat(title: str, turns: str | Sequence[Any], **fields: Any) -> Case:
    asked = [{"role": "user", "content": turns}] if isinstance(turns, str) else turns
    return Case(
        title=f"Chat, {title}",
        path="/openai/v1/chat/completions",
        body={
            "model": "gpt-imitation-large",
            "messages": [*asked, {"role": "system", "content": _REMINDER}],
            **fields,
        },
    )


def _codex(title: str, turns: str | Sequence[Any], **fields: Any) -> Case:
    asked = [_input("user", turns)] if isinstance(turns, str) else turns
    return Case(
        title=f"Responses, {title}",
        path="/openai/v1/responses",
        headers=_CODEX,
        client="Codex",
        session_id=_SESSION,
        body={
            "model": "gpt-imitation-large",
            "input": [_input("user", _FOLDER, _MACHINE), *asked, _input("developer", _REMINDER)],
            **fields,
        },
    )


def _input(role: str, *texts: str) -> Mapping[str, Any]:
    parts = [{"type": "input_text", "text": text} for text in texts]
    return {"type": "message", "role": role, "content": parts}


_FOLDER = "# AGENTS.md instructions for /demo\n\n<INSTRUCTIONS>\nBe brief.\n</INSTRUCTIONS>"
_MACHINE = "<environment_context>\n  <cwd>/demo</cwd>\n</environment_context>"


def _gemini(title: str, turns: str | Sequence[Any], method: str, **fields: Any) -> Case:
    """``method`` may have a query behind it."""
    asked = [_turn("user", {"text": turns})] if isinstance(turns, str) else turns
    name, mark, query = method.partition("?")
    return Case(
        title=f"Gemini, {title}",
        path=f"/gemini/v1beta/models/gemini-imitation-large:{name}",
        query=mark + query,
        headers=_GEMINI_CLI,
        client="Gemini CLI",
        body={
            "systemInstruction": {"parts": [{"text": _REMINDER}]},
            **fields,
            "contents": [_turn("user", {"text": _SESSION_CONTEXT}), *asked],
        },
    )


def _turn(role: str, *parts: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"role": role, "parts": list(parts)}


_GEMINI_CLI = {"User-Agent": "GeminiCLI/0.61.0/gemini-imitation-large (demonstration)"}
_SESSION_CONTEXT = "<session_context>\nToday is a demonstration.\n</session_context>"

_CLAUDE_TOOL = {"name": "get_weather", "description": "The weather", "input_schema": _SCHEMA}
_CLAUDE_SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
_FUNCTION = {"name": "get_weather", "description": "The weather", "parameters": _SCHEMA}
_CHAT_TOOL = {"type": "function", "function": _FUNCTION}
_RESPONSES_TOOL = {"type": "function", **_FUNCTION}
_PATCH = {"type": "custom", "name": "apply_patch", "description": "Changes files"}
_SEARCH = {"type": "web_search"}
_THINKING = {"type": "enabled", "budget_tokens": 1024}
_SUMMARY = {"effort": "low", "summary": "auto"}
_CACHED = [
    {
        "type": "text",
        "text": "Answer like a sailor.",
        "cache_control": {"type": "ephemeral"},
    }
]

# The second turn of each API: the results of two calls of the first.
_CALLED = {"city": "Turku", "days": 3}
_CLAUDE_RESULTS = [
    {"role": "user", "content": _CALL},
    {
        "role": "assistant",
        "content": [
            {"type": "tool_use", "id": f"toolu_{n}", "name": "get_weather", "input": _CALLED}
            for n in (1, 2)
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": f"toolu_{n}", "content": "Snow, then sun"}
            for n in (1, 2)
        ],
    },
]
_CHAT_RESULTS = [
    {"role": "user", "content": _CALL},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": f"call_{n}",
                "type": "function",
                "function": {"name": "get_weather", "arguments": json.dumps(_CALLED)},
            }
            for n in (1, 2)
        ],
    },
    *({"role": "tool", "tool_call_id": f"call_{n}", "content": "Snow, then sun"} for n in (1, 2)),
]
_CODEX_RESULTS = [
    _input("user", _CALL),
    {
        "type": "function_call",
        "call_id": "call_1",
        "name": "get_weather",
        "arguments": json.dumps(_CALLED),
    },
    {"type": "custom_tool_call", "call_id": "call_2", "name": "apply_patch", "input": "+ sun"},
    {"type": "function_call_output", "call_id": "call_1", "output": "Snow, then sun"},
    {"type": "custom_tool_call_output", "call_id": "call_2", "output": "Done"},
]

_GEMINI_RESULTS = [
    _turn("user", {"text": _CALL}),
    _turn(
        "model",
        *(
            {"functionCall": {"id": f"call_{n}", "name": "get_weather", "args": _CALLED}}
            for n in (1, 2)
        ),
    ),
    _turn(
        "user",
        *(
            {
                "functionResponse": {
                    "id": f"call_{n}",
                    "name": "get_weather",
                    "response": {"output": "Snow, then sun"},
                }
            }
            for n in (1, 2)
        ),
    ),
]

_AGENT = _claude(
    "streaming, thinking, tools",
    f"{_CALL}, twice",
    system=_CACHED,
    thinking=_THINKING,
    tools=[_CLAUDE_TOOL],
    stream=True,
)
_AGENT_RESULTS = evolve(
    _claude(
        "streaming, results, cache",
        _CLAUDE_RESULTS,
        system=_CACHED,
        tools=[_CLAUDE_TOOL],
        stream=True,
    ),
    answers="toolu_2",
)
_AGENT_SEARCH = _claude(
    "streaming, server tool",
    'Search the web for "tides of Turku"',
    system=_CACHED,
    tools=[_CLAUDE_SEARCH],
    stream=True,
)
_ASSISTANT = _chat(
    "streaming, tools, cache",
    f"{_CALL}, twice",
    tools=[_CHAT_TOOL],
    prompt_cache_key="demo",
    stream=True,
)
_CODER = _codex(
    "streaming, thinking, tools",
    'Please use get_weather and apply_patch for "Turku" and 3 days',
    tools=[_RESPONSES_TOOL, _PATCH],
    reasoning=_SUMMARY,
    prompt_cache_key="demo",
    stream=True,
)
_CODER_RESULTS = evolve(
    _codex(
        "streaming, results, cache",
        _CODEX_RESULTS,
        tools=[_RESPONSES_TOOL, _PATCH],
        prompt_cache_key="demo",
        stream=True,
    ),
    answers="call_2",
)
_CODER_SEARCH = _codex(
    "streaming, server tool", 'Search the web for "ice on the sea"', tools=[_SEARCH], stream=True
)
_TERMINAL = _gemini(
    "streaming, thinking, tools",
    f"{_CALL}, twice",
    "streamGenerateContent?alt=sse",
    tools=[{"functionDeclarations": [_FUNCTION]}],
    generationConfig={"thinkingConfig": {"includeThoughts": True}},
)

CASES = (
    _claude("blocking", "What is the tide doing?", system=_CACHED),
    _claude("streaming", "What is the wind doing?", system=_CACHED, stream=True),
    _claude("blocking, thinking", "Why is the sea salt?", thinking=_THINKING),
    _AGENT,
    _AGENT_RESULTS,
    _claude("blocking, server tool", 'Search for "tides"', tools=[_CLAUDE_SEARCH]),
    _AGENT_SEARCH,
    _OVERLOADED,
    _chat("blocking", "What is the moon doing?"),
    _chat("streaming", "And the stars? ☆", stream=True),
    _chat("streaming, usage", "And the sun?", stream=True, stream_options={"include_usage": True}),
    _chat("blocking, tools", f"{_CALL}, twice", tools=[_CHAT_TOOL]),
    _ASSISTANT,
    evolve(
        _chat("blocking, results, cache", _CHAT_RESULTS, prompt_cache_key="demo"),
        answers="call_2",
    ),
    _codex("blocking", "Tell me a story in 60 words"),
    _codex("streaming", "Tell me a story in 600 words", stream=True),
    _CODER,
    _CODER_RESULTS,
    _CODER_SEARCH,
    _gemini("blocking", "What is the ebb doing?", "generateContent"),
    _TERMINAL,
    evolve(
        _gemini(
            "one array, results, cache",
            _GEMINI_RESULTS,
            "streamGenerateContent",
            tools=[{"functionDeclarations": [_FUNCTION]}],
        ),
        answers="call_2",
    ),
    _gemini(
        "streaming, server tool",
        'Search for "flotsam"',
        "streamGenerateContent?alt=sse",
        tools=[{"googleSearch": {}}],
    ),
)

OPENING = (
    _AGENT,
    _CODER,
    _AGENT_RESULTS,
    _ASSISTANT,
    _CODER_SEARCH,
    _OVERLOADED,
    _TERMINAL,
    _AGENT_SEARCH,
)
"""What the demonstration shows at its start: some of them, all but one streams."""
