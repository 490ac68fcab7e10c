"""The requests of the smoke test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve, field, frozen

__all__ = ["CASES", "Case"]

_SESSION = "6f1c7a52-7f0e-4b0c-9a53-2d7d3f6f4f10"
_CLAUDE_CODE = {
    "anthropic-version": "2023-06-01",
    "User-Agent": "claude-cli/0 (demonstration)",
    "X-Claude-Code-Session-Id": _SESSION,
}
_CODEX = {"User-Agent": "codex_exec/0 (demonstration)", "session-id": _SESSION}
_OTHER = {"User-Agent": "demonstration/0"}

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
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(factory=lambda: _OTHER)
    client: str = "Unknown"
    session_id: str | None = None
    status: int = 200
    error_type: str = ""

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


def _messages(title: str, prompt: str, **fields: Any) -> Case:
    return Case(
        title=f"Messages, {title}",
        path="/anthropic/v1/messages",
        headers=_CLAUDE_CODE,
        client="Claude Code",
        session_id=_SESSION,
        body={
            "model": "claude-imitation-large",
            "max_tokens": 2000,
            "messages": [{"role": "user", "content": prompt}],
            **fields,
        },
    )


_OVERLOADED = evolve(
    _messages("overloaded", "please fail with 529"), status=529, error_type="overloaded"
)


def _chat(title: str, prompt: str, **fields: Any) -> Case:
    messages = [{"role": "user", "content": prompt}]
    return Case(
        title=f"Chat, {title}",
        path="/openai/v1/chat/completions",
        body={"model": "gpt-imitation-large", "messages": messages, **fields},
    )


def _responses(title: str, prompt: str, **fields: Any) -> Case:
    return Case(
        title=f"Responses, {title}",
        path="/openai/v1/responses",
        headers=_CODEX,
        client="Codex",
        session_id=_SESSION,
        body={"model": "gpt-imitation-large", "input": prompt, **fields},
    )


_CLAUDE_TOOL = {"name": "get_weather", "description": "The weather", "input_schema": _SCHEMA}
_FUNCTION = {"name": "get_weather", "description": "The weather", "parameters": _SCHEMA}
_CHAT_TOOL = {"type": "function", "function": _FUNCTION}
_RESPONSES_TOOL = {"type": "function", **_FUNCTION}
_THINKING = {"type": "enabled", "budget_tokens": 1024}
_CACHED = [
    {
        "type": "text",
        "text": "Answer like a sailor.",
        "cache_control": {"type": "ephemeral"},
    }
]

CASES = (
    _messages("blocking", "What is the tide doing?", system=_CACHED),
    _messages("streaming", "What is the wind doing?", system=_CACHED, stream=True),
    _messages("streaming, tool", _CALL, tools=[_CLAUDE_TOOL], stream=True),
    _messages("blocking, thinking", "Why is the sea salt?", thinking=_THINKING),
    _messages(
        "streaming, thinking, tools",
        f"{_CALL}, twice",
        thinking=_THINKING,
        tools=[_CLAUDE_TOOL],
        stream=True,
    ),
    _OVERLOADED,
    _chat("blocking", "What is the moon doing?"),
    _chat("streaming", "And the stars? ☆", stream=True),
    _chat("streaming, usage", "And the sun?", stream=True, stream_options={"include_usage": True}),
    _chat("blocking, tools", f"{_CALL}, twice", tools=[_CHAT_TOOL]),
    _chat("streaming, tools", f"{_CALL}, twice", tools=[_CHAT_TOOL], stream=True),
    _responses("blocking", "Tell me a story in 60 words"),
    _responses("streaming", "Tell me a story in 600 words", stream=True),
    _responses(
        "streaming, thinking, tool",
        _CALL,
        tools=[_RESPONSES_TOOL],
        reasoning={"effort": "low", "summary": "auto"},
        stream=True,
    ),
)
