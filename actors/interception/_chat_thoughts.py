"""What a model thinks aloud in a completion, under the names that vendors have for it.

Text within ``<think>`` in the content is content: the client shows it, and so did the model.
"""

from __future__ import annotations

from msgspec import Raw

from aigateway.actors.codec.reading import boolean, items, members, text
from aigateway.actors.interception._chat_chunk import Said

__all__ = ["thought_in"]


def thought_in(said: Said) -> tuple[str, str]:
    """The text of a thought and the field that it stands in; both empty when there is none.

    Some write the same under two names for old and new clients: it counts once.
    """
    # DeepSeek, Kimi, vLLM, xAI, LiteLLM.
    if said.reasoning_content:
        return said.reasoning_content, "reasoning_content"
    # OpenRouter, vLLM, Groq, Ollama.
    if said.reasoning:
        return said.reasoning, "reasoning"
    if said.reasoning_details and (found := _texts(said.reasoning_details)):
        return found, "reasoning_details"
    if said.thinking_blocks and (found := _texts(said.thinking_blocks)):
        return found, "thinking_blocks"
    # Mistral: parts of the content.
    if bytes(memoryview(said.content)[:1]) == b"[" and (found := _texts(items(said.content))):
        return found, "thinking"
    # Gemini's compatible API marks content as a thought.
    if said.extra_content:
        google = members(said.extra_content.get("google"))
        if boolean(google.get("thought")) and (found := text(said.content) or ""):
            return found, "thought"
    return "", ""


def _texts(parts: list[Raw]) -> str:
    """The text of parts that think or reason; other parts, and encrypted ones, have none."""
    return "".join(_text_of(part) for part in parts)


def _text_of(part: Raw) -> str:
    fields = members(part)
    kind = text(fields.get("type")) or ""
    if kind == "thinking":
        thinking = fields.get("thinking")
        whole = text(thinking)
        if whole is not None:
            return whole
        return "".join(text(members(each).get("text")) or "" for each in items(thinking))
    if kind.startswith("reasoning."):
        return text(fields.get("text")) or text(fields.get("summary")) or ""
    return ""
