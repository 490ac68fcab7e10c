"""What an answer of the Gemini API has cost, by its ``usageMetadata``.

As Google documents it, ``totalTokenCount`` is the sum of ``promptTokenCount`` (which contains
``cachedContentTokenCount``), ``toolUsePromptTokenCount`` (what the provider's own tools brought,
which is input too), ``candidatesTokenCount`` and ``thoughtsTokenCount``.  What else speaks the API
may count thoughts among the candidates, or tools' results in the prompt: then the total, which is
smaller than that sum, shows it.
"""

from __future__ import annotations

from aigateway.actors.codec.reading import as_count
from aigateway.actors.interception.usage import RunningUsage

__all__ = ["tokens_of"]

_DETAILS = {
    "promptTokensDetails": "prompt",
    "cacheTokensDetails": "cache_read",
    "candidatesTokensDetails": "completion",
}
"""Lists of counts by modality, and how the names begin under which they are recorded."""
_MODALITIES = frozenset({"AUDIO", "DOCUMENT", "IMAGE", "VIDEO"})
"""Those that may have a price of their own; what is left is text."""


def tokens_of(usage: RunningUsage) -> tuple[dict[str, int], dict[str, int], dict[str, object]]:
    """What is recorded: the four counts, those of other kinds, and metadata."""
    prompt = usage.count("promptTokenCount")
    cached = usage.count("cachedContentTokenCount")
    tools = usage.count("toolUsePromptTokenCount")
    candidates = usage.count("candidatesTokenCount")
    thoughts = usage.count("thoughtsTokenCount")
    beside = usage.count("totalTokenCount") - prompt - candidates
    ways = ((tools, thoughts), (tools, 0), (0, thoughts), (0, 0))
    more_input, more_output = next((way for way in ways if sum(way) == beside), ways[0])
    if beside > tools + thoughts:
        # Thinking of which only the total tells.
        more_output = thoughts = beside - tools
    counts = {
        "input_tokens": max(prompt + more_input - cached, 0),
        "output_tokens": candidates + more_output,
        "cache_read_input_tokens": cached,
        "cache_write_input_tokens": 0,
    }
    extra = {
        name: n for name, n in (("output_thinking", thoughts), ("tool_use_prompt", tools)) if n
    }
    for name, prefix in _DETAILS.items():
        for modality, n in _by_modality(usage.fields.get(name)).items():
            extra[f"{prefix}_{modality}"] = n
    tier = usage.fields.get("serviceTier")
    return counts, extra, {"service_tier": tier} if tier and isinstance(tier, str) else {}


def _by_modality(details: object) -> dict[str, int]:
    """Tokens of what is not text."""
    told = details if isinstance(details, list) else []
    return {
        modality.lower(): n
        for each in told
        if isinstance(each, dict)
        and (modality := str(each.get("modality"))) in _MODALITIES
        and (n := as_count(each.get("tokenCount")))
    }
