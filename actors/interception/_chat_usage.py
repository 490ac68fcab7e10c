"""The usage of a completion: where vendors put it, and what their fields mean.

OpenAI's ``usage`` counts cached tokens among those of the prompt, and the tokens of reasoning
among those of the completion.  Others write the same under other names, in other places, or
count something beside instead of within; then only ``total_tokens`` shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, field

from aigateway.actors.codec.reading import as_count, as_number, values
from aigateway.actors.interception._chat_chunk import Chunk
from aigateway.actors.interception.usage import RunningUsage

__all__ = ["ChatUsage", "ChatTokens"]

# PERF: what is told is looked up here, and not each of these names in what is told: a usage has
# a few fields of them.  Where several say the same the largest counts, since vendors write zeros
# under the others' names.
_MEANT: Mapping[str, str] = {
    "prompt_cache_hit_tokens": "read",  # DeepSeek
    "cached_tokens": "read",  # Kimi
    "cache_read_input_tokens": "read",  # LiteLLM and others who pass Anthropic's on
    "cache_creation_input_tokens": "written",
    "reasoning_tokens": "reasoning",  # SGLang, Perplexity
    "num_search_queries": "searches",  # Perplexity
    "num_sources_used": "sources_used",  # xAI: sources of a live search
}
_MEANT_INSIDE: Mapping[str, Mapping[str, str]] = {
    "prompt_tokens_details": {
        "cached_tokens": "read",  # OpenAI, OpenRouter, xAI, Mistral
        "cache_write_tokens": "written",  # OpenAI, OpenRouter
        "cache_creation_input_tokens": "written",  # Alibaba
        "cache_creation_tokens": "written",  # LiteLLM
        "audio_tokens": "prompt_audio",
        "image_tokens": "prompt_image",
    },
    "completion_tokens_details": {
        "reasoning_tokens": "reasoning",
        "accepted_prediction_tokens": "completion_accepted_prediction",
        "rejected_prediction_tokens": "completion_rejected_prediction",
        "audio_tokens": "completion_audio",
        "image_tokens": "completion_image",
    },
    "server_tool_use": {"web_search_requests": "searches"},  # OpenRouter
    "server_tool_use_details": {"web_search_requests": "searches"},
}
_ALWAYS = (
    "prompt_audio",
    "completion_accepted_prediction",
    "completion_rejected_prediction",
    "completion_audio",
)
_WHERE_THERE = ("prompt_image", "completion_image", "sources_used")
# What a vendor says that it charges: OpenRouter in credits, xAI in its own unit.
_COSTS = ("cost", "cost_in_usd_ticks")
# xAI: how often each tool was run on its side.
_SERVER_TOOLS = ("server_side_tool_usage", "server_side_tool_usage_details")


@define
class ChatTokens:
    """What is recorded of a completion's usage."""

    counts: dict[str, int]
    extra: dict[str, int]
    metadata: dict[str, Any] = field(factory=dict)

    def __bool__(self) -> bool:
        """Whether anything but zeros was told."""
        return any(self.counts.values()) or any(self.extra.values())


class ChatUsage:
    """The usage of one answer, of one choice or several."""

    def __init__(self, choices: int = 1) -> None:
        """``choices`` were ordered: some vendors count each of several for itself."""
        self._choices = choices
        self._whole = RunningUsage()
        self._of_choice: dict[int, RunningUsage] = {}
        self._metrics: Mapping[str, Any] = {}

    def take(self, chunk: Chunk) -> bool:
        """Take note of what a chunk tells, and say whether it tells anything."""
        found = False
        for choice in chunk.choices or ():
            if choice.usage:  # Kimi
                found = True
                self._running(choice.index).take(choice.usage)
        if chunk.x_groq and (usage := values(chunk.x_groq.get("usage"))):
            found = True
            self._whole.take(usage)
        if chunk.usage:
            found = True
            self._whole.take(chunk.usage)
        if chunk.metrics:
            # Bedrock's own count of the same tokens.
            self._metrics = chunk.metrics
        return found

    def _running(self, choice: int) -> RunningUsage:
        if self._choices == 1:
            return self._whole
        return self._of_choice.setdefault(choice, RunningUsage())

    def tokens(self) -> ChatTokens:
        """What has been used so far."""
        if self._whole:
            return _tokens(self._whole)
        if self._of_choice:
            return _joined([_tokens(each) for each in self._of_choice.values()])
        return _of_metrics(self._metrics)


def _tokens(usage: RunningUsage) -> ChatTokens:
    told = _told(usage)
    prompt = usage.count("prompt_tokens") or usage.count("input_tokens")
    completion = usage.count("completion_tokens") or usage.count("output_tokens")
    read, written = told.get("read", 0), told.get("written", 0)
    reasoning = told.get("reasoning", 0)
    # Reasoning that comes on top: xAI tells how much; Gemini's compatible API only the total.
    beside = usage.count("total_tokens") - prompt - completion
    fresh = prompt - read - written
    if beside > 0:
        cached = (read, written, read + written)
        if 0 < reasoning <= beside:
            completion += reasoning
            beside -= reasoning
        elif prompt and "reasoning" not in told and beside not in cached:
            completion += beside
            reasoning = beside
        if beside > 0 and beside in cached:
            # Here the prompt's tokens do not hold those of the cache.
            fresh += beside
    extra = {name: told.get(name, 0) for name in _ALWAYS}
    extra["completion_reasoning"] = reasoning
    for name in _WHERE_THERE:
        if n := told.get(name, 0):
            extra[name] = n
    if searches := told.get("searches", 0):
        extra["web_search_requests"] = searches
    counts = {
        "input_tokens": max(fresh, 0),
        "output_tokens": completion,
        "cache_read_input_tokens": read,
        "cache_write_input_tokens": written,
    }
    return ChatTokens(counts, extra, _metadata(usage))


def _told(usage: RunningUsage) -> dict[str, int]:
    """The numbers that are told, by what they mean."""
    found: dict[str, int] = {}
    _add(found, usage.fields, _MEANT)
    for name, group in usage.groups.items():
        if (meant := _MEANT_INSIDE.get(name)) is not None:
            _add(found, group, meant)
    return found


def _add(found: dict[str, int], fields: Mapping[str, Any], meant: Mapping[str, str]) -> None:
    for name, value in fields.items():
        if (meaning := meant.get(name)) is not None:
            n = as_count(value)
            if n > found.get(meaning, -1):
                found[meaning] = n


def _metadata(usage: RunningUsage) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for name in _COSTS:
        if name in usage.fields and (cost := as_number(usage.fields[name])) is not None:
            metadata[name] = cost
    for name in _SERVER_TOOLS:
        runs = {tool: n for tool, told in usage.group(name).items() if (n := as_count(told))}
        if runs:
            metadata["server_side_tool_usage"] = runs
    return metadata


def _joined(each: list[ChatTokens]) -> ChatTokens:
    """Of several choices: one prompt, and all that came of it."""
    first, *others = each
    for other in others:
        first.counts["output_tokens"] += other.counts["output_tokens"]
        for name, n in other.extra.items():
            if not name.startswith("prompt"):
                first.extra[name] = first.extra.get(name, 0) + n
    return first


def _of_metrics(metrics: Mapping[str, Any]) -> ChatTokens:
    """Where Bedrock's metrics are all there is; cached tokens are not among the input there."""
    return ChatTokens(
        {
            "input_tokens": as_count(metrics.get("inputTokenCount")),
            "output_tokens": as_count(metrics.get("outputTokenCount")),
            "cache_read_input_tokens": as_count(metrics.get("cacheReadInputTokenCount")),
            "cache_write_input_tokens": as_count(metrics.get("cacheWriteInputTokenCount")),
        },
        {**dict.fromkeys(_ALWAYS, 0), "completion_reasoning": 0},
    )
