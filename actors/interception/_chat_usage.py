"""The usage of a completion: where vendors put it, and what their fields mean.

OpenAI's ``usage`` counts cached tokens among those of the prompt, and the tokens of reasoning
among those of the completion.  Others write the same under other names, in other places, or
count something beside instead of within; then only ``total_tokens`` shows it.
"""

from __future__ import annotations

from typing import Any

from attrs import define, field

from aigateway.actors.codec.reading import Object, count, members, number
from aigateway.actors.interception._chat_chunk import Chunk
from aigateway.actors.interception.usage import RunningUsage

__all__ = ["ChatUsage", "Tokens"]

# OpenAI, OpenRouter, xAI, Mistral; DeepSeek; Kimi; LiteLLM and others who pass Anthropic's on.
_READ = (
    ("prompt_tokens_details", "cached_tokens"),
    ("prompt_cache_hit_tokens",),
    ("cached_tokens",),
    ("cache_read_input_tokens",),
)
# OpenRouter and OpenAI; Alibaba; LiteLLM.
_WRITTEN = (
    ("prompt_tokens_details", "cache_write_tokens"),
    ("prompt_tokens_details", "cache_creation_input_tokens"),
    ("prompt_tokens_details", "cache_creation_tokens"),
    ("cache_creation_input_tokens",),
)
# OpenAI; SGLang and Perplexity.
_REASONING = (("completion_tokens_details", "reasoning_tokens"), ("reasoning_tokens",))
# OpenRouter; Perplexity.
_SEARCHES = (
    ("server_tool_use", "web_search_requests"),
    ("server_tool_use_details", "web_search_requests"),
    ("num_search_queries",),
)
_ALWAYS = {
    "prompt_audio": ("prompt_tokens_details", "audio_tokens"),
    "completion_accepted_prediction": ("completion_tokens_details", "accepted_prediction_tokens"),
    "completion_rejected_prediction": ("completion_tokens_details", "rejected_prediction_tokens"),
    "completion_audio": ("completion_tokens_details", "audio_tokens"),
}
_WHERE_THERE = {
    "prompt_image": ("prompt_tokens_details", "image_tokens"),
    "completion_image": ("completion_tokens_details", "image_tokens"),
    # xAI: sources of a live search.
    "sources_used": ("num_sources_used",),
}
# What a vendor says that it charges: OpenRouter in credits, xAI in its own unit.
_COSTS = ("cost", "cost_in_usd_ticks")
# xAI: how often each tool was run on its side.
_SERVER_TOOLS = ("server_side_tool_usage", "server_side_tool_usage_details")


@define
class Tokens:
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
        self._metrics: Object = {}

    def take(self, chunk: Chunk) -> bool:
        """Take note of what a chunk tells, and say whether it tells anything."""
        found = False
        for choice in chunk.choices or ():
            if choice.usage:  # Kimi
                found = True
                self._running(choice.index).take(choice.usage)
        if chunk.x_groq and (usage := members(chunk.x_groq.get("usage"))):
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

    def tokens(self) -> Tokens:
        """What has been used so far."""
        if self._whole:
            return _tokens(self._whole)
        if self._of_choice:
            return _joined([_tokens(each) for each in self._of_choice.values()])
        return _of_metrics(self._metrics)


def _tokens(usage: RunningUsage) -> Tokens:
    prompt = usage.count("prompt_tokens") or usage.count("input_tokens")
    completion = usage.count("completion_tokens") or usage.count("output_tokens")
    read, written = _most(usage, _READ), _most(usage, _WRITTEN)
    cached = (read, written, read + written)
    reasoning = _most(usage, _REASONING)
    # Reasoning that comes on top: xAI tells how much; Gemini's compatible API only the total.
    beside = usage.count("total_tokens") - prompt - completion
    if 0 < reasoning <= beside:
        completion += reasoning
        beside -= reasoning
    elif prompt and beside > 0 and not _told(usage, _REASONING) and beside not in cached:
        completion += beside
        reasoning = beside
    fresh = prompt - read - written
    if beside > 0 and beside in cached:
        # Here the prompt's tokens do not hold those of the cache.
        fresh += beside
    extra = {name: usage.count(*path) for name, path in _ALWAYS.items()}
    extra["completion_reasoning"] = reasoning
    extra |= {name: n for name, path in _WHERE_THERE.items() if (n := usage.count(*path))}
    if searches := _most(usage, _SEARCHES):
        extra["web_search_requests"] = searches
    metadata: dict[str, Any] = {}
    for name in _COSTS:
        cost = number(usage.fields.get(name))
        if cost is not None:
            metadata[name] = cost
    for name in _SERVER_TOOLS:
        runs = {tool: n for tool, raw in usage.group(name).items() if (n := count(raw))}
        if runs:
            metadata["server_side_tool_usage"] = runs
    counts = {
        "input_tokens": max(fresh, 0),
        "output_tokens": completion,
        "cache_read_input_tokens": read,
        "cache_write_input_tokens": written,
    }
    return Tokens(counts, extra, metadata)


def _most(usage: RunningUsage, paths: tuple[tuple[str, ...], ...]) -> int:
    """What the same thing is called by several names: vendors write zeros under the others."""
    return max(usage.count(*path) for path in paths)


def _told(usage: RunningUsage, paths: tuple[tuple[str, ...], ...]) -> bool:
    return any(
        path[-1] in (usage.fields if len(path) == 1 else usage.group(path[0])) for path in paths
    )


def _joined(each: list[Tokens]) -> Tokens:
    """Of several choices: one prompt, and all that came of it."""
    first, *others = each
    for other in others:
        first.counts["output_tokens"] += other.counts["output_tokens"]
        for name, n in other.extra.items():
            if not name.startswith("prompt"):
                first.extra[name] = first.extra.get(name, 0) + n
    return first


def _of_metrics(metrics: Object) -> Tokens:
    """Where Bedrock's metrics are all there is; cached tokens are not among the input there."""
    return Tokens(
        {
            "input_tokens": count(metrics.get("inputTokenCount")),
            "output_tokens": count(metrics.get("outputTokenCount")),
            "cache_read_input_tokens": count(metrics.get("cacheReadInputTokenCount")),
            "cache_write_input_tokens": count(metrics.get("cacheWriteInputTokenCount")),
        },
        {**dict.fromkeys(_ALWAYS, 0), "completion_reasoning": 0},
    )
